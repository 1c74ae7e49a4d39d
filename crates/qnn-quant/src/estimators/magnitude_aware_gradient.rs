use crate::{Levels, Slope};

/// Bi-Real Net's gradient of scaled binary weights: [`ApproxSign`](crate::ApproxSign)'s slope times the magnitude.
///
/// ```text
/// dx = dy · m (2 − 2|w|) · 1[|w| ≤ 1]                               m: the greatest level, held constant; 1 without levels
/// ```
///
#[doc = include_str!("../../plots/estimator-magnitude-aware-sign.svg")]
///
/// It is one of the published gradients that contain the scale. A slope beyond f32 is the greatest f32.
///
/// ```
/// # use qnn_quant::{MagnitudeAwareSign, Pair};
/// # use ndarray::array;
/// let pair = Pair::published(MagnitudeAwareSign);
/// let w = array![[0.5], [-1.5]].into_dyn();                         // m = 1
/// let grid = pair.map.fit(w.view())?;
/// assert_eq!(pair.pullback(w.view(), &grid, w.mapv(|_| 3.0).view())?, array![[3.0], [0.0]].into_dyn());
/// # Ok::<(), qnn_quant::Error>(())
/// ```
///
/// Source: Liu et al. 2018, *Bi-Real Net*, arXiv:1808.00278, its part on magnitude-aware gradients.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct MagnitudeAwareGradient;

impl Slope for MagnitudeAwareGradient {
    fn label(&self) -> &'static str {
        "magnitude-aware-sign"
    }

    #[inline(always)]
    fn slope(&self, x: f32, levels: &Levels) -> f32 {
        let slope = if x.abs() <= 1.0 { levels.scale() * (2.0 - 2.0 * x.abs()) } else { 0.0 };
        // Not `min`, which would hide a NaN.
        if slope > f32::MAX { f32::MAX } else { slope }
    }

    fn is_elementwise(&self) -> bool {
        true
    }
}
