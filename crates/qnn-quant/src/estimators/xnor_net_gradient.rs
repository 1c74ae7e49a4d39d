use crate::{Levels, Slope};

/// XNOR-Net's gradient of scaled binary weights, as its paper prints it.
///
/// ```text
/// dx = dy · (1/n + α · 1[|w| ≤ 1])
/// ```
///
#[doc = include_str!("../../plots/estimator-xnor-net.svg")]
///
/// `n` is the number of elements that share the scale `α`; of a map other than [`ScaledSign`](crate::ScaledSign), `α` is
/// the greatest level, or 1 where there is [none](Levels::scale). Against the exact chain rule ([`ScaledSignGradient`](crate::ScaledSignGradient)) the term `1/n`
/// takes only the element's own share of `α` into account, and loses the product of the signs. It is one of the published
/// gradients that contain the scale, and so gives far smaller gradients than the straight-through estimator.
///
/// ```
/// # use qnn_quant::{Pair, ScaledSign};
/// # use ndarray::array;
/// let pair = Pair::published(ScaledSign::per_axis(1));
/// let w = array![[0.5], [-1.5]].into_dyn(); // α = 1, n = 2
/// let grid = pair.map.fit(w.view())?;
/// let dw = pair.pullback(w.view(), &grid, array![[1.0], [1.0]].into_dyn().view())?;
/// assert_eq!(dw, array![[1.5], [0.5]].into_dyn());
/// # Ok::<(), qnn_quant::Error>(())
/// ```
///
/// Source: Rastegari et al. 2016, *XNOR-Net*, arXiv:1603.05279, "Training Binary-Weights-Networks", without a
/// number between (6) and algorithm 1.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct XnorNetGradient;

impl Slope for XnorNetGradient {
    fn label(&self) -> &'static str {
        "xnor-net"
    }

    #[inline(always)]
    fn slope(&self, x: f32, levels: &Levels) -> f32 {
        let through_sign = if x.abs() <= 1.0 { levels.scale() } else { 0.0 };
        1.0 / levels.len as f32 + through_sign
    }
}
