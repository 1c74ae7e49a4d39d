use std::sync::Arc;

use ndarray::{ArrayViewD, ArrayViewMutD};

use crate::elementwise::{Form, quantize_into};
use crate::rounding::round_half_even;
use crate::{Alphabet, ClippedUnit, Estimator, Grid, Quantizer, Result};

/// DoReFa-Net's activations of 1 to 8 bits: clipped to [0, 1], rounded to `2^k` levels.
///
/// ```text
/// q(x) = round( (2^k − 1) · clip(x, 0, 1) ) / (2^k − 1)             halves to even
/// ```
///
/// The product is taken in f64, where it is exact: an input just beside a tie is not rounded onto it.
///
/// Published with [`ClippedUnit`], `dx = dy · 1[0 ≤ x ≤ 1]`.
///
#[doc = include_str!("../../plots/dorefa-activations.svg")]
///
/// Codes: 0 to `2^k − 1`, k bits, values `code / (2^k − 1)`.
///
/// ```
/// # use qnn_quant::{DorefaActivations, quantize};
/// # use ndarray::array;
/// let third = 1.0 / 3.0;
/// assert_eq!(quantize(&DorefaActivations::new(2)?, &[-1.0, 0.3, 0.5, 7.0])?, array![0.0, third, 2.0 * third, 1.0]);
/// # Ok::<(), qnn_quant::Error>(())
/// ```
///
/// Source: Zhou et al. 2016, *DoReFa-Net*, arXiv:1606.06160, section 2.4, formula (6).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct DorefaActivations {
    bits: u32,
}

impl DorefaActivations {
    /// `bits` from 1 to 8.
    ///
    /// # Errors
    ///
    /// [`Error::Bits`](crate::Error::Bits).
    pub fn new(bits: u32) -> Result<Self> {
        Ok(DorefaActivations { bits: super::checked_bits("dorefa-activations", bits)? })
    }

    /// k.
    pub fn bits(&self) -> u32 {
        self.bits
    }
}

impl Quantizer for DorefaActivations {
    fn name(&self) -> &'static str {
        "dorefa-activations"
    }

    fn fit(&self, _: ArrayViewD<'_, f32>) -> Result<Grid> {
        Grid::unit(Alphabet::unsigned(self.bits))?.divided_by((1 << self.bits) - 1)
    }

    fn codes_into(&self, x: ArrayViewD<'_, f32>, grid: &Grid, codes: ArrayViewMutD<'_, f32>) -> Result<()> {
        super::own_grid(self.name(), grid, Alphabet::unsigned(self.bits))?;
        unit_codes_into(x, (1 << self.bits) - 1, grid, Form::Codes, codes)
    }

    fn values_into(&self, x: ArrayViewD<'_, f32>, grid: &Grid, values: ArrayViewMutD<'_, f32>) -> Result<()> {
        super::own_grid(self.name(), grid, Alphabet::unsigned(self.bits))?;
        unit_codes_into(x, (1 << self.bits) - 1, grid, Form::Values, values)
    }

    fn is_fixed(&self) -> bool {
        true
    }

    fn published(&self) -> Arc<dyn Estimator> {
        Arc::new(ClippedUnit)
    }
}

/// `round(n · clip(x, 0, 1))`.
pub(crate) fn unit_codes_into(
    x: ArrayViewD<'_, f32>,
    n: u32,
    grid: &Grid,
    form: Form,
    out: ArrayViewMutD<'_, f32>,
) -> Result<()> {
    let n = f64::from(n);
    quantize_into(
        x,
        grid,
        &[()],
        form,
        out,
        #[inline(always)]
        move |x, ()| round_half_even(n * f64::from(x.clamp(0.0, 1.0))) as f32,
    )
}
