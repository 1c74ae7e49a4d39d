use std::sync::Arc;

use ndarray::{ArrayViewD, ArrayViewMutD};

use super::sign::signs_into;
use crate::elementwise::Form;
use crate::{Alphabet, Estimator, Grid, MagnitudeAwareGradient, Quantizer, Result, ScaledSign};

/// The sign times the mean magnitude of the output channel, with a gradient that knows the magnitude: Bi-Real Net's weights.
///
/// ```text
/// m_o  = mean of |w| over all axes but the last
/// q(w) = m_o · sign(w)                    sign(±0) = +1
/// ```
///
/// The map is [`ScaledSign::per_filter`]; what differs is the gradient. Larq's map of this name has the same values, and the
/// gradient `dy · m · 1[|w| ≤ 1]`.
///
/// Published with [`MagnitudeAwareGradient`], `dx = dy · m (2 − 2|w|) · 1[|w| ≤ 1]`, the magnitude held constant.
///
#[doc = include_str!("../../plots/magnitude-aware-sign.svg")]
///
/// Codes: {−1, +1}, 1 bit, scales m_o.
///
/// ```
/// # use qnn_quant::{MagnitudeAwareSign, quantize};
/// # use ndarray::array;
/// let w = array![[1.0, -2.0], [-3.0, 0.0]];
/// assert_eq!(quantize(&MagnitudeAwareSign, &w)?, array![[2.0, -1.0], [-2.0, 1.0]]);
/// # Ok::<(), qnn_quant::Error>(())
/// ```
///
/// Source: Liu et al. 2018, *Bi-Real Net*, arXiv:1808.00278, its part on magnitude-aware gradients.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct MagnitudeAwareSign;

impl MagnitudeAwareSign {
    fn write(
        &self,
        x: ArrayViewD<'_, f32>,
        grid: &Grid,
        form: Form,
        out: ArrayViewMutD<'_, f32>,
    ) -> Result<()> {
        super::own_codes(self.name(), grid, Alphabet::BINARY)?;
        signs_into(x, grid, form, out)
    }
}

impl Quantizer for MagnitudeAwareSign {
    fn name(&self) -> &'static str {
        "magnitude-aware-sign"
    }

    fn fit(&self, x: ArrayViewD<'_, f32>) -> Result<Grid> {
        ScaledSign::per_filter().fit(x)
    }

    one_pass!(write);

    fn published(&self) -> Arc<dyn Estimator> {
        Arc::new(MagnitudeAwareGradient)
    }
}
