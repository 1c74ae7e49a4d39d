use crate::{Levels, Slope};

/// The straight-through estimator inside of [0, 1], nothing outside: the derivative of `clip(x, 0, 1)`.
///
/// ```text
/// dx = dy · 1[0 ≤ x ≤ 1]
/// ```
///
#[doc = include_str!("../../plots/estimator-clipped-unit.svg")]
///
/// ```
/// # use qnn_quant::{BinaryUnit, Pair};
/// # use ndarray::array;
/// let pair = Pair::published(BinaryUnit);
/// let x = array![-0.5, 0.0, 1.0, 1.5].into_dyn();
/// let grid = pair.map.fit(x.view())?;
/// let dy = array![2.0, 2.0, 2.0, 2.0].into_dyn();
/// assert_eq!(pair.pullback(x.view(), &grid, dy.view())?, array![0.0, 2.0, 2.0, 0.0].into_dyn());
/// # Ok::<(), qnn_quant::Error>(())
/// ```
///
/// Source: Zhou et al. 2016, *DoReFa-Net*, arXiv:1606.06160, section 2.4: formula (6) passes gradients on, the
/// bounded activation before it is the clip.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct ClippedUnit;

impl Slope for ClippedUnit {
    fn label(&self) -> &'static str {
        "clipped-unit"
    }

    #[inline(always)]
    fn slope(&self, x: f32, _: &Levels) -> f32 {
        if (0.0..=1.0).contains(&x) { 1.0 } else { 0.0 }
    }

    fn is_elementwise(&self) -> bool {
        true
    }
}
