use std::sync::Arc;

use ndarray::{ArrayViewD, ArrayViewMutD};

use crate::elementwise::{Form, quantize_into};
use crate::rounding::{clip, round_half_even};
use crate::{Alphabet, ClippedIdentity, Estimator, Grid, Groups, Quantizer, Result};

/// Fixed-point weights of q bits in [−1, 1): a sign and q − 1 places after the point.
///
/// ```text
/// q(w) = clip( round(2^(q−1) w) / 2^(q−1), −1, 1 − 2^−(q−1) )       halves to even
/// ```
///
/// Published with [`ClippedIdentity`], `dx = dy · 1[|w| ≤ 1]`, the derivative of the hard tanh. (The report prints the hard
/// tanh itself in its place.)
///
#[doc = include_str!("../../plots/fixed-point.svg")]
///
/// Codes: `−2^(q−1)` to `2^(q−1) − 1`, q bits, scale `2^−(q−1)`.
///
/// ```
/// # use qnn_quant::{FixedPoint, quantize};
/// # use ndarray::array;
/// assert_eq!(quantize(&FixedPoint::new(2)?, &[-3.0, -0.3, 0.6, 1.0])?, array![-1.0, -0.5, 0.5, 0.5]);
/// # Ok::<(), qnn_quant::Error>(())
/// ```
///
/// Source: Moons, Goetschalckx, Van Berckelaer, Verhelst 2017, *Minimum Energy Quantized Neural Networks*, arXiv:1711.00215.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct FixedPoint {
    bits: u32,
}

impl FixedPoint {
    /// q from 1 to 8 bits.
    ///
    /// # Errors
    ///
    /// [`Error::Bits`](crate::Error::Bits).
    pub fn new(bits: u32) -> Result<Self> {
        Ok(FixedPoint { bits: super::checked_bits("fixed-point", bits)? })
    }

    /// q.
    pub fn bits(&self) -> u32 {
        self.bits
    }

    fn write(
        &self,
        x: ArrayViewD<'_, f32>,
        grid: &Grid,
        form: Form,
        out: ArrayViewMutD<'_, f32>,
    ) -> Result<()> {
        super::own_grid(self.name(), grid, Alphabet::signed(self.bits))?;
        places_into(x, 1 << (self.bits - 1), Alphabet::signed(self.bits), grid, form, out)
    }
}

impl Quantizer for FixedPoint {
    fn name(&self) -> &'static str {
        "fixed-point"
    }

    fn fit(&self, _: ArrayViewD<'_, f32>) -> Result<Grid> {
        places(1 << (self.bits - 1), Alphabet::signed(self.bits))
    }

    one_pass!(write);

    fn is_fixed(&self) -> bool {
        true
    }

    fn published(&self) -> Arc<dyn Estimator> {
        Arc::new(ClippedIdentity::default())
    }
}

/// Levels that are multiples of `1 / unit`.
pub(crate) fn places(unit: u32, alphabet: Alphabet) -> Result<Grid> {
    Grid::new(alphabet, Groups::Tensor, vec![1.0 / unit as f32])
}

/// `clip(round(unit · x))` into the alphabet.
pub(crate) fn places_into(
    x: ArrayViewD<'_, f32>,
    unit: u32,
    alphabet: Alphabet,
    grid: &Grid,
    form: Form,
    out: ArrayViewMutD<'_, f32>,
) -> Result<()> {
    let (unit, low, high) = (unit as f32, alphabet.first.into(), alphabet.last().into());
    // A product with a power of two is exact in f32, unless it overflows, and then it is clipped.
    quantize_into(
        x,
        grid,
        &[()],
        form,
        out,
        #[inline(always)]
        move |x, ()| round_half_even(clip((unit * x).into(), low, high)) as f32,
    )
}
