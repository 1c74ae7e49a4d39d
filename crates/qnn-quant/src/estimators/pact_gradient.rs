use crate::{Levels, Slope};

/// PACT's gradient of the input: that of the clipped ReLU whose height is the greatest level.
///
/// ```text
/// dx = dy · 1[0 ≤ x < a]                                            a: the greatest level
/// ```
///
#[doc = include_str!("../../plots/estimator-pact.svg")]
///
/// The half-open interval is the paper's: at `x = a` the gradient goes to `a` alone.
///
/// ```
/// # use qnn_quant::{Pact, Pair};
/// # use ndarray::array;
/// let pair = Pair::published(Pact::new(4, 2.0)?);
/// let x = array![-0.5, 0.0, 1.0, 2.0].into_dyn();
/// let grid = pair.map.fit(x.view())?;
/// assert_eq!(pair.pullback(x.view(), &grid, x.mapv(|_| 1.0).view())?, array![0.0, 1.0, 1.0, 0.0].into_dyn());
/// # Ok::<(), qnn_quant::Error>(())
/// ```
///
/// Source: Choi et al. 2018, *PACT*, arXiv:1805.06085, section 4, the derivative of formula (1).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct PactGradient;

impl Slope for PactGradient {
    fn label(&self) -> &'static str {
        "pact"
    }

    #[inline(always)]
    fn slope(&self, x: f32, levels: &Levels) -> f32 {
        if x >= 0.0 && x < levels.highest { 1.0 } else { 0.0 }
    }

    fn is_elementwise(&self) -> bool {
        true
    }
}
