use crate::{Levels, Slope};

/// The derivative of a piecewise quadratic that follows the sign more closely than `hardtanh` does.
///
/// ```text
/// dx = dy · (2 − 2|x|) · 1[|x| ≤ 1]
/// ```
///
#[doc = include_str!("../../plots/estimator-approx-sign.svg")]
///
/// It is the derivative of `2x + x²` on [−1, 0] and `2x − x²` on [0, 1], which is constant ∓1 outside.
///
/// ```
/// # use qnn_quant::{ApproxSign, Pair, Sign};
/// # use ndarray::array;
/// let pair = Pair::new(Sign, ApproxSign);
/// let x = array![-0.75, 0.0, 2.0].into_dyn();
/// let grid = pair.map.fit(x.view())?;
/// let dy = array![1.0, 1.0, 1.0].into_dyn();
/// assert_eq!(pair.pullback(x.view(), &grid, dy.view())?, array![0.5, 2.0, 0.0].into_dyn());
/// # Ok::<(), qnn_quant::Error>(())
/// ```
///
/// Source: Liu et al. 2018, *Bi-Real Net*, arXiv:1808.00278, its part on the derivative with respect to activations.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct ApproxSign;

impl Slope for ApproxSign {
    fn label(&self) -> &'static str {
        "approx-sign"
    }

    #[inline(always)]
    fn slope(&self, x: f32, _: &Levels) -> f32 {
        if x.abs() <= 1.0 { 2.0 - 2.0 * x.abs() } else { 0.0 }
    }

    fn is_elementwise(&self) -> bool {
        true
    }
}
