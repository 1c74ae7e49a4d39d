use std::sync::Arc;

use ndarray::{ArrayViewD, ArrayViewMutD};

use super::fixed_point::{places, places_into};
use crate::elementwise::Form;
use crate::{Alphabet, ClippedUnit, Estimator, Grid, Quantizer, Result};

/// A ReLU of q bits: fixed point in [0, 1).
///
/// ```text
/// q(x) = clip( round(2^q x) / 2^q, 0, 1 − 2^−q )                    halves to even
/// ```
///
/// The authors' published code spends the sign bit all the same and steps by `2^−(q−1)`: [`with_sign_bit`](QuantizedRelu::with_sign_bit).
///
/// Published with [`ClippedUnit`], `dx = dy · 1[0 ≤ x ≤ 1]`, the derivative of the clipped ReLU.
///
#[doc = include_str!("../../plots/quantized-relu.svg")]
///
/// Codes: 0 to `2^q − 1`, q bits, scale `2^−q`; with the sign bit spent, 0 to `2^(q−1) − 1`, q − 1 bits, scale `2^−(q−1)`.
///
/// ```
/// # use qnn_quant::{QuantizedRelu, quantize};
/// # use ndarray::array;
/// assert_eq!(quantize(&QuantizedRelu::new(2)?, &[-3.0, 0.3, 0.45, 2.0])?, array![0.0, 0.25, 0.5, 0.75]);
/// assert_eq!(quantize(&QuantizedRelu::with_sign_bit(2)?, &[-3.0, 0.3, 0.45, 2.0])?, array![0.0, 0.5, 0.5, 0.5]);
/// # Ok::<(), qnn_quant::Error>(())
/// ```
///
/// Source: Moons, Goetschalckx, Van Berckelaer, Verhelst 2017, *Minimum Energy Quantized Neural Networks*, arXiv:1711.00215.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct QuantizedRelu {
    /// After the point.
    places: u32,
}

impl QuantizedRelu {
    /// q from 1 to 8 bits.
    ///
    /// # Errors
    ///
    /// [`Error::Bits`](crate::Error::Bits).
    pub fn new(bits: u32) -> Result<Self> {
        Ok(QuantizedRelu { places: super::checked_bits("quantized-relu", bits)? })
    }

    /// q from 2 to 8 bits, one of which is a sign that is never set.
    ///
    /// # Errors
    ///
    /// [`Error::Bits`](crate::Error::Bits).
    pub fn with_sign_bit(bits: u32) -> Result<Self> {
        Ok(QuantizedRelu { places: super::bits_in("quantized-relu", bits, 2, 8)? - 1 })
    }

    fn write(
        &self,
        x: ArrayViewD<'_, f32>,
        grid: &Grid,
        form: Form,
        out: ArrayViewMutD<'_, f32>,
    ) -> Result<()> {
        super::own_grid(self.name(), grid, Alphabet::unsigned(self.places))?;
        places_into(x, 1 << self.places, Alphabet::unsigned(self.places), grid, form, out)
    }
}

impl Quantizer for QuantizedRelu {
    fn name(&self) -> &'static str {
        "quantized-relu"
    }

    fn fit(&self, _: ArrayViewD<'_, f32>) -> Result<Grid> {
        places(1 << self.places, Alphabet::unsigned(self.places))
    }

    one_pass!(write);

    fn is_fixed(&self) -> bool {
        true
    }

    fn published(&self) -> Arc<dyn Estimator> {
        Arc::new(ClippedUnit)
    }
}
