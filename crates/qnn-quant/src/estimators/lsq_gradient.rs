use crate::{Levels, Slope};

/// LSQ's gradient of the input: 1 strictly between the lowest and the highest level, nothing from there on.
///
/// ```text
/// dx = dy · 1[−Qn < x/s < Qp]                                       −Qn s, Qp s: the outer levels
/// ```
///
#[doc = include_str!("../../plots/estimator-lsq.svg")]
///
/// ```
/// # use qnn_quant::{Lsq, Pair};
/// # use ndarray::array;
/// let pair = Pair::published(Lsq::for_weights(2, 0.5)?);            // levels −1, −0.5, 0, 0.5
/// let x = array![-1.0, -0.9, 0.4, 0.5].into_dyn();
/// let grid = pair.map.fit(x.view())?;
/// assert_eq!(pair.pullback(x.view(), &grid, x.mapv(|_| 1.0).view())?, array![0.0, 1.0, 1.0, 0.0].into_dyn());
/// # Ok::<(), qnn_quant::Error>(())
/// ```
///
/// Source: Esser et al. 2020, *Learned Step Size Quantization*, arXiv:1902.08153, section 2.1.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct LsqGradient;

impl Slope for LsqGradient {
    fn label(&self) -> &'static str {
        "lsq"
    }

    #[inline(always)]
    fn slope(&self, x: f32, levels: &Levels) -> f32 {
        if x > levels.lowest && x < levels.highest { 1.0 } else { 0.0 }
    }

    fn is_elementwise(&self) -> bool {
        true
    }
}
