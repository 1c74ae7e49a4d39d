use std::sync::Arc;

use ndarray::{ArrayViewD, ArrayViewMutD};

use crate::elementwise::{Form, quantize_into};
use crate::rounding::{clip, round_half_even};
use crate::trained::positive;
use crate::{Alphabet, ClippedIdentity, Estimator, Grid, Groups, Quantizer, Result};

/// Evenly spaced levels with a fixed range and a zero among them.
///
/// ```text
/// symmetric:   c = round( s · clip(x, −α, α) ),            s = (2^(k−1) − 1) / α
/// asymmetric:  c = clip( round(s x), −2^(k−1), 2^(k−1) − 1 ),   s = 2^(k−1) / α
/// q(x) = c / s                                                         halves to even
/// ```
///
/// The asymmetric form uses all of two's complement: it has −α and lacks α. (The TU Chemnitz report prints the lower end of the
/// symmetric codes as `−2^(k−1) − 1`; the symmetric range is meant.)
///
/// Published with [`ClippedIdentity`], `dx = dy · 1[|x| ≤ α]`.
///
#[doc = include_str!("../../plots/uniform.svg")]
///
/// Codes: ±(2^(k−1) − 1), or two's complement; k bits, values `code / s`.
///
/// ```
/// # use qnn_quant::{Uniform, quantize};
/// # use ndarray::array;
/// let x = [-2.0, -0.4, 0.3, 1.0];
/// assert_eq!(quantize(&Uniform::symmetric(2, 1.0)?, &x)?, array![-1.0, 0.0, 0.0, 1.0]);
/// assert_eq!(quantize(&Uniform::asymmetric(2, 1.0)?, &x)?, array![-1.0, -0.5, 0.5, 0.5]);
/// # Ok::<(), qnn_quant::Error>(())
/// ```
///
/// Source: the TU Chemnitz report on quantized networks.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Uniform {
    bits: u32,
    alpha: f32,
    symmetric: bool,
}

impl Uniform {
    /// Codes from `−(2^(k−1) − 1)` to `2^(k−1) − 1`, of 2 to 8 bits.
    ///
    /// # Errors
    ///
    /// [`Error::Bits`](crate::Error::Bits), and [`Error::Parameter`](crate::Error::Parameter) unless `alpha` is
    /// positive and finite.
    pub fn symmetric(bits: u32, alpha: f32) -> Result<Self> {
        let bits = super::bits_in("uniform", bits, 2, 8)?;
        Ok(Uniform { bits, alpha: positive("uniform", "clip", alpha)?, symmetric: true })
    }

    /// Codes from `−2^(k−1)` to `2^(k−1) − 1`, of 1 to 8 bits.
    ///
    /// # Errors
    ///
    /// [`Error::Bits`](crate::Error::Bits), and [`Error::Parameter`](crate::Error::Parameter) unless `alpha` is
    /// positive and finite.
    pub fn asymmetric(bits: u32, alpha: f32) -> Result<Self> {
        let bits = super::checked_bits("uniform", bits)?;
        Ok(Uniform { bits, alpha: positive("uniform", "clip", alpha)?, symmetric: false })
    }

    /// k.
    pub fn bits(&self) -> u32 {
        self.bits
    }

    /// The code of α.
    fn denominator(&self) -> u32 {
        (1 << (self.bits - 1)) - u32::from(self.symmetric)
    }

    fn alphabet(&self) -> Alphabet {
        if self.symmetric { Alphabet::symmetric(self.denominator()) } else { Alphabet::signed(self.bits) }
    }

    fn write(
        &self,
        x: ArrayViewD<'_, f32>,
        grid: &Grid,
        form: Form,
        out: ArrayViewMutD<'_, f32>,
    ) -> Result<()> {
        super::own_grid(self.name(), grid, self.alphabet())?;
        let scale = f64::from(self.denominator()) / f64::from(self.alpha);
        let (low, high) = (f64::from(self.alphabet().first), f64::from(self.alphabet().last()));
        // The ends of the clip are whole numbers, so clipping before rounding is clipping after it.
        quantize_into(
            x,
            grid,
            &[()],
            form,
            out,
            #[inline(always)]
            move |x, ()| round_half_even(clip(scale * f64::from(x), low, high)) as f32,
        )
    }
}

impl Quantizer for Uniform {
    fn name(&self) -> &'static str {
        "uniform"
    }

    fn fit(&self, _: ArrayViewD<'_, f32>) -> Result<Grid> {
        Grid::new(self.alphabet(), Groups::Tensor, vec![self.alpha])?.divided_by(self.denominator())
    }

    one_pass!(write);

    fn is_fixed(&self) -> bool {
        true
    }

    fn published(&self) -> Arc<dyn Estimator> {
        Arc::new(ClippedIdentity { c: self.alpha })
    }
}
