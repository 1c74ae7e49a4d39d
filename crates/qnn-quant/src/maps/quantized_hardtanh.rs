use std::sync::Arc;

use ndarray::{ArrayViewD, ArrayViewMutD};

use crate::{Alphabet, ClippedIdentity, Estimator, FixedPoint, Grid, Quantizer, Result};

/// The map of [`FixedPoint`] as an activation: a hard tanh of q bits.
///
/// ```text
/// q(x) = clip( round(2^(q−1) x) / 2^(q−1), −1, 1 − 2^−(q−1) )       halves to even
/// ```
///
/// Published with [`ClippedIdentity`], `dx = dy · 1[|x| ≤ 1]`, the derivative of the hard tanh, which the report prints itself in its
/// place, as for [`FixedPoint`].
///
#[doc = include_str!("../../plots/quantized-hardtanh.svg")]
///
/// Codes: `−2^(q−1)` to `2^(q−1) − 1`, q bits, scale `2^−(q−1)`.
///
/// ```
/// # use qnn_quant::{QuantizedHardTanh, quantize};
/// # use ndarray::array;
/// assert_eq!(quantize(&QuantizedHardTanh::new(3)?, &[-3.0, 0.3, 2.0])?, array![-1.0, 0.25, 0.75]);
/// # Ok::<(), qnn_quant::Error>(())
/// ```
///
/// Source: Moons, Goetschalckx, Van Berckelaer, Verhelst 2017, *Minimum Energy Quantized Neural Networks*, arXiv:1711.00215.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct QuantizedHardTanh {
    map: FixedPoint,
}

impl QuantizedHardTanh {
    /// q from 1 to 8 bits.
    ///
    /// # Errors
    ///
    /// [`Error::Bits`](crate::Error::Bits).
    pub fn new(bits: u32) -> Result<Self> {
        super::checked_bits("quantized-hardtanh", bits)?;
        Ok(QuantizedHardTanh { map: FixedPoint::new(bits)? })
    }

    /// q.
    pub fn bits(&self) -> u32 {
        self.map.bits()
    }
}

impl Quantizer for QuantizedHardTanh {
    fn name(&self) -> &'static str {
        "quantized-hardtanh"
    }

    fn fit(&self, x: ArrayViewD<'_, f32>) -> Result<Grid> {
        self.map.fit(x)
    }

    fn codes_into(&self, x: ArrayViewD<'_, f32>, grid: &Grid, codes: ArrayViewMutD<'_, f32>) -> Result<()> {
        super::own_grid(self.name(), grid, Alphabet::signed(self.bits()))?;
        self.map.codes_into(x, grid, codes)
    }

    fn values_into(&self, x: ArrayViewD<'_, f32>, grid: &Grid, values: ArrayViewMutD<'_, f32>) -> Result<()> {
        super::own_grid(self.name(), grid, Alphabet::signed(self.bits()))?;
        self.map.values_into(x, grid, values)
    }

    fn is_fixed(&self) -> bool {
        true
    }

    fn published(&self) -> Arc<dyn Estimator> {
        Arc::new(ClippedIdentity::default())
    }
}
