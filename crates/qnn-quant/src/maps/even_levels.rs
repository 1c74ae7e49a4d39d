use std::sync::Arc;

use ndarray::{ArrayViewD, ArrayViewMutD};

use super::sign::signs_into;
use crate::checked::quantize_checked_into;
use crate::elementwise::Form;
use crate::rounding::{Divisor, clip, clip_f32, likely_nearest, quick_factor};
use crate::trained::positive;
use crate::{Alphabet, ClippedIdentity, Error, Estimator, Grid, Groups, Quantizer, Result};

/// n evenly spaced levels from −a to a: the alphabets of quantized neural networks. On the command line, `alphabet`.
///
/// ```text
/// q(x) = round( (clip(x, −a, a) + a) (n − 1) / 2a ) · 2a / (n − 1) − a        halves to even
/// ```
///
/// With two levels it is `a · sign(x)`: rounding half to even would send 0 to −a. With `a = 1` and 2 bits the levels are −1,
/// −1/3, 1/3, 1. (Formula (11) of the UCSD report prints `2a − 2` for `2a` and drops the `− a`; this is the meant form.)
///
/// Published with [`ClippedIdentity`], `dx = dy · 1[|x| ≤ a]`, the derivative of the hard tanh, and with
/// [`ModifiedTanh`](crate::ModifiedTanh) as its rival.
///
#[doc = include_str!("../../plots/alphabet.svg")]
///
/// Codes: `−(n−1), −(n−3), .., n−1`, ⌈log2 n⌉ bits, values `code · a / (n − 1)`.
///
/// ```
/// # use qnn_quant::{EvenLevels, quantize};
/// # use ndarray::array;
/// let third = 1.0 / 3.0;
/// assert_eq!(quantize(&EvenLevels::of_bits(2, 1.0)?, &[-5.0, -0.1, 0.1, 0.9])?, array![-1.0, -third, third, 1.0]);
/// assert_eq!(quantize(&EvenLevels::new(3, 0.5)?, &[-0.5, 0.1, 0.3])?, array![-0.5, 0.0, 0.5]);
/// # Ok::<(), qnn_quant::Error>(())
/// ```
///
/// Sources: the UCSD report on quantized networks, formula (11); Hubara et al. 2016, *Quantized Neural Networks*, arXiv:1609.07061.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct EvenLevels {
    count: u32,
    end: f32,
}

impl EvenLevels {
    /// `count` levels, 2 to 65536, from `−end` to `end`.
    ///
    /// # Errors
    ///
    /// [`Error::Parameter`] for other counts, and unless the end is positive and finite.
    pub fn new(count: u32, end: f32) -> Result<Self> {
        if !(2..=1 << 16).contains(&count) {
            let (value, expected) = (count.to_string(), "from 2 to 65536");
            return Err(Error::Parameter { owner: "alphabet", parameter: "levels", value, expected });
        }
        Ok(EvenLevels { count, end: positive("alphabet", "clip", end)? })
    }

    /// `2^bits` levels, 1 to 8 bits.
    ///
    /// # Errors
    ///
    /// [`Error::Bits`], and [`Error::Parameter`] unless the end is positive and finite.
    pub fn of_bits(bits: u32, end: f32) -> Result<Self> {
        EvenLevels::new(1 << super::checked_bits("alphabet", bits)?, end)
    }

    /// n.
    pub fn count(&self) -> u32 {
        self.count
    }

    /// a.
    pub fn end(&self) -> f32 {
        self.end
    }

    fn alphabet(&self) -> Alphabet {
        Alphabet { first: 1 - self.count as i32, step: 2, count: self.count }
    }

    fn write(
        &self,
        x: ArrayViewD<'_, f32>,
        grid: &Grid,
        form: Form,
        out: ArrayViewMutD<'_, f32>,
    ) -> Result<()> {
        super::own_grid(self.name(), grid, self.alphabet())?;
        if self.count == 2 {
            return signs_into(x, grid, form, out);
        }
        let (end, steps) = (f64::from(self.end), f64::from(self.count - 1));
        let width = Divisor::new(2.0 * end);
        let (limit, last, per_width) = (self.end, steps as f32, quick_factor(steps / (2.0 * end)));
        quantize_checked_into(
            x,
            grid,
            &[()],
            form,
            out,
            #[inline(always)]
            move |x, ()| {
                let position = (clip_f32(x, -limit, limit) + limit) * per_width;
                let (index, doubt) = likely_nearest(position, 5e-7 * last);
                (2.0 * index - last, doubt)
            },
            #[inline(always)]
            move |x, ()| {
                let index = width.round((clip(x.into(), -end, end) + end) * steps);
                (2.0 * index - steps) as f32
            },
        )
    }
}

impl Quantizer for EvenLevels {
    fn name(&self) -> &'static str {
        "alphabet"
    }

    fn fit(&self, _: ArrayViewD<'_, f32>) -> Result<Grid> {
        Grid::new(self.alphabet(), Groups::Tensor, vec![self.end])?.divided_by(self.count - 1)
    }

    one_pass!(write);

    fn is_fixed(&self) -> bool {
        true
    }

    fn published(&self) -> Arc<dyn Estimator> {
        Arc::new(ClippedIdentity { c: self.end })
    }
}
