use crate::{Levels, Slope};

/// The straight-through estimator between the lowest and the highest level, nothing outside: that of fake quantization.
///
/// ```text
/// dx = dy · 1[lowest level ≤ x ≤ highest level]
/// ```
///
#[doc = include_str!("../../plots/estimator-within-levels.svg")]
///
/// It is the derivative of the clip that any map with a range contains. Without quantization everything passes.
///
/// ```
/// # use qnn_quant::{Affine, Pair, Range, WithinLevels};
/// # use ndarray::array;
/// let map = Affine::asymmetric(8)?.with_ranges(vec![Range::new(0.0, 2.0)?])?;
/// let pair = Pair::new(map, WithinLevels);
/// let x = array![-0.1, 0.0, 2.0, 2.1].into_dyn();
/// let grid = pair.map.fit(x.view())?;
/// assert_eq!(pair.pullback(x.view(), &grid, x.mapv(|_| 1.0).view())?, array![0.0, 1.0, 1.0, 0.0].into_dyn());
/// # Ok::<(), qnn_quant::Error>(())
/// ```
///
/// Source: Jacob et al. 2018, arXiv:1712.05877, section 3, formula (12); the ends belong to the range, as in
/// TensorFlow's fake quantization.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct WithinLevels;

impl Slope for WithinLevels {
    fn label(&self) -> &'static str {
        "within-levels"
    }

    #[inline(always)]
    fn slope(&self, x: f32, levels: &Levels) -> f32 {
        if x >= levels.lowest && x <= levels.highest { 1.0 } else { 0.0 }
    }

    fn is_elementwise(&self) -> bool {
        true
    }
}
