use std::sync::Arc;

use ndarray::{ArrayViewD, ArrayViewMutD};

use super::sign::signs_into;
use crate::elementwise::Form;
use crate::{
    Alphabet, Estimator, Granularity, Grid, Quantizer, Result, StraightThrough, XnorNetGradient, statistics,
};

/// The sign times the mean magnitude: per output filter as in XNOR-Net, or per layer as in DoReFa-Net with one bit.
///
/// ```text
/// α_g  = mean of |w| over group g
/// q(w) = α_g · sign(w)                    sign(±0) = +1
/// ```
///
/// `α_g` is the scale that brings `α sign(w)` closest to `w` in the least-squares sense. A zero tensor has `α = 0`.
///
/// Published per filter with [`XnorNetGradient`], `dx = dy · (1/n + α 1[|w| ≤ 1])`, and per layer with
/// [`StraightThrough`], `dx = dy`. The third choice is the exact chain rule through α, [`ScaledSignGradient`](crate::ScaledSignGradient).
///
#[doc = include_str!("../../plots/scaled-sign.svg")]
///
/// Codes: {−1, +1}, 1 bit, scales α_g.
///
/// ```
/// # use qnn_quant::{ScaledSign, quantize};
/// # use ndarray::array;
/// let w = array![[1.0, -2.0], [-3.0, 0.0]];
/// assert_eq!(quantize(&ScaledSign::per_tensor(), &w)?, array![[1.5, -1.5], [-1.5, 1.5]]);
/// assert_eq!(quantize(&ScaledSign::per_axis(1), &w)?, array![[2.0, -1.0], [-2.0, 1.0]]);
/// # Ok::<(), qnn_quant::Error>(())
/// ```
///
/// Sources: Rastegari et al. 2016, *XNOR-Net*, arXiv:1603.05279, formula (6); Zhou et al. 2016, *DoReFa-Net*,
/// arXiv:1606.06160, formula (4). The Warsaw thesis on XNOR-Net prints "average of elements"; the mean of
/// *absolute* values is meant.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct ScaledSign {
    /// Over which elements `α` is the mean.
    pub granularity: Granularity,
}

impl ScaledSign {
    /// One `α` for the whole tensor.
    pub fn per_tensor() -> Self {
        ScaledSign { granularity: Granularity::Tensor }
    }

    /// One `α` per index of an axis.
    pub fn per_axis(axis: usize) -> Self {
        ScaledSign { granularity: Granularity::Axis(axis) }
    }

    /// One `α` per output channel of `[kh, kw, cin, cout]` kernels and `[in, out]` matrices: per index of the last axis.
    pub fn per_filter() -> Self {
        ScaledSign { granularity: Granularity::LastAxis }
    }
}

impl Quantizer for ScaledSign {
    fn name(&self) -> &'static str {
        "scaled-sign"
    }

    fn fit(&self, x: ArrayViewD<'_, f32>) -> Result<Grid> {
        let groups = self.granularity.groups(x.shape())?;
        let scales = statistics::mean_abs(x, groups)?.into_iter().map(|mean| mean as f32).collect();
        Grid::new(Alphabet::BINARY, groups, scales)
    }

    fn codes_into(&self, x: ArrayViewD<'_, f32>, grid: &Grid, codes: ArrayViewMutD<'_, f32>) -> Result<()> {
        super::own_codes(self.name(), grid, Alphabet::BINARY)?;
        signs_into(x, grid, Form::Codes, codes)
    }

    fn values_into(&self, x: ArrayViewD<'_, f32>, grid: &Grid, values: ArrayViewMutD<'_, f32>) -> Result<()> {
        super::own_codes(self.name(), grid, Alphabet::BINARY)?;
        signs_into(x, grid, Form::Values, values)
    }

    fn published(&self) -> Arc<dyn Estimator> {
        match self.granularity {
            Granularity::Tensor => Arc::new(StraightThrough),
            Granularity::Axis(_) | Granularity::LastAxis => Arc::new(XnorNetGradient),
        }
    }
}
