use std::sync::Arc;

use ndarray::{ArrayViewD, ArrayViewMutD};

use super::sign::signs_into;
use crate::elementwise::Form;
use crate::{Alphabet, ClippedIdentity, Error, Estimator, Grid, Groups, Quantizer, Result};

/// The sign times a constant, which keeps deep residual networks with binary weights from collapsing.
///
/// ```text
/// q(w) = s · sign(w)                      sign(±0) = +1
/// ```
///
/// `s = 0.1` is the thesis's BC-1.1, `s = 0.125` its BC-1.2: a power of two is a shift in hardware.
///
/// Published with [`ClippedIdentity`], `dx = dy · 1[|w| ≤ 1]`: the slope does not contain `s`.
///
#[doc = include_str!("../../plots/constant-scaled-sign.svg")]
///
/// Codes: {−1, +1}, 1 bit, scale `s`.
///
/// ```
/// # use qnn_quant::{ConstantScaledSign, quantize};
/// # use ndarray::array;
/// assert_eq!(quantize(&ConstantScaledSign::new(0.125)?, &[0.3, -4.0])?, array![0.125, -0.125]);
/// # Ok::<(), qnn_quant::Error>(())
/// ```
///
/// Source: the METU thesis on binary residual networks, variants BC-1.1 and BC-1.2.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct ConstantScaledSign {
    scale: f32,
}

impl ConstantScaledSign {
    /// # Errors
    ///
    /// [`Error::Parameter`] unless `scale` is positive and finite.
    pub fn new(scale: f32) -> Result<Self> {
        if scale > 0.0 && scale.is_finite() {
            return Ok(ConstantScaledSign { scale });
        }
        Err(Error::Parameter {
            owner: "constant-scaled-sign",
            parameter: "scale",
            value: scale.to_string(),
            expected: "positive and finite",
        })
    }

    /// The constant `s`.
    pub fn scale(&self) -> f32 {
        self.scale
    }
}

impl Quantizer for ConstantScaledSign {
    fn name(&self) -> &'static str {
        "constant-scaled-sign"
    }

    fn fit(&self, _: ArrayViewD<'_, f32>) -> Result<Grid> {
        Grid::new(Alphabet::BINARY, Groups::Tensor, vec![self.scale])
    }

    fn codes_into(&self, x: ArrayViewD<'_, f32>, grid: &Grid, codes: ArrayViewMutD<'_, f32>) -> Result<()> {
        super::own_grid(self.name(), grid, Alphabet::BINARY)?;
        signs_into(x, grid, Form::Codes, codes)
    }

    fn values_into(&self, x: ArrayViewD<'_, f32>, grid: &Grid, values: ArrayViewMutD<'_, f32>) -> Result<()> {
        super::own_grid(self.name(), grid, Alphabet::BINARY)?;
        signs_into(x, grid, Form::Values, values)
    }

    fn is_fixed(&self) -> bool {
        true
    }

    fn published(&self) -> Arc<dyn Estimator> {
        Arc::new(ClippedIdentity::default())
    }
}
