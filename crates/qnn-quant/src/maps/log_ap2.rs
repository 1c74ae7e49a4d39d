use std::sync::Arc;

use ndarray::{ArrayViewD, ArrayViewMutD};

use super::ap2::{ap2, exponent, mirrored, power};
use crate::elementwise::{Form, quantize_into};
use crate::{Alphabet, Error, Estimator, Grid, Groups, Quantizer, Result, StraightThrough};

/// Powers of two with a bounded exponent: logarithmic quantization.
///
/// ```text
/// LogAP2(x) = round(log2 |x|)
/// q(x)      = sign(x) · 2^clip(LogAP2(x), lowest, highest),   q(0) = 0
/// ```
///
/// It is [`Ap2`](crate::Ap2) with the exponents of a few bits: the report names `LogAP2` the logarithm of AP2 and clips it to the range of
/// scales. A number other than 0 never becomes 0: below the lowest exponent it takes that exponent.
///
/// Published with [`StraightThrough`], `dx = dy`.
///
#[doc = include_str!("../../plots/log-ap2.svg")]
///
/// Codes: 0 and `±2^0` to `±2^(highest − lowest)`, ⌈log2(2(highest − lowest) + 3)⌉ bits, scale `2^lowest`. As of
/// [`Ap2`](crate::Ap2), all grids are one, and the map is not called [fixed](Quantizer::is_fixed) all the same.
///
/// ```
/// # use qnn_quant::{LogAp2, quantize};
/// # use ndarray::array;
/// assert_eq!(quantize(&LogAp2::new(-2, 0)?, &[0.0, 0.01, -0.3, 0.8, 9.0])?, array![0.0, 0.25, -0.25, 1.0, 1.0]);
/// # Ok::<(), qnn_quant::Error>(())
/// ```
///
/// Sources: Hubara et al. 2016, *Quantized Neural Networks*, arXiv:1609.07061, after Miyashita et al. 2016, arXiv:1603.01025.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct LogAp2 {
    lowest: i32,
    highest: i32,
}

impl LogAp2 {
    /// Exponents from `lowest` to `highest`, within −126 to 127 and at most 22 apart.
    ///
    /// # Errors
    ///
    /// [`Error::Parameter`] for other exponents.
    pub fn new(lowest: i32, highest: i32) -> Result<Self> {
        if -126 <= lowest && lowest <= highest && highest <= 127 && highest - lowest <= 22 {
            return Ok(LogAp2 { lowest, highest });
        }
        Err(Error::Parameter {
            owner: "log-ap2",
            parameter: "lowest, highest",
            value: format!("{lowest}, {highest}"),
            expected: "increasing, within -126 to 127, at most 22 apart",
        })
    }

    fn alphabet(&self) -> Alphabet {
        Alphabet::symmetric(1 << (self.highest - self.lowest))
    }

    fn write(
        &self,
        x: ArrayViewD<'_, f32>,
        grid: &Grid,
        form: Form,
        out: ArrayViewMutD<'_, f32>,
    ) -> Result<()> {
        super::own_grid(self.name(), grid, self.alphabet())?;
        let (low, high) = (power(self.lowest), power(self.highest));
        // The reciprocal of a power of two is one, at worst a subnormal one.
        let inverse = low.recip();
        quantize_into(
            x,
            grid,
            &[()],
            form,
            out,
            #[inline(always)]
            move |x, ()| {
                let nearest = ap2(x);
                let magnitude = if nearest.abs() < low { low } else { nearest.abs() };
                let magnitude = if magnitude > high { high } else { magnitude } * inverse;
                let code = if nearest < 0.0 { -magnitude } else { magnitude };
                // Zero and NaN are their own codes.
                if nearest.abs() > 0.0 { code } else { nearest }
            },
        )
    }
}

/// `round(log2 |x|)`: the exponent of [`ap2`]; `None` of 0 and NaN.
///
/// ```
/// # use qnn_quant::log_ap2;
/// assert_eq!([log_ap2(-5.0), log_ap2(0.3), log_ap2(0.0)], [Some(2), Some(-2), None]);
/// ```
pub fn log_ap2(x: f32) -> Option<i32> {
    let power = ap2(x);
    (power.abs() > 0.0).then(|| exponent(power))
}

impl Quantizer for LogAp2 {
    fn name(&self) -> &'static str {
        "log-ap2"
    }

    fn fit(&self, _: ArrayViewD<'_, f32>) -> Result<Grid> {
        let codes: Vec<i32> = (0..=self.highest - self.lowest).map(|exponent| 1 << exponent).collect();
        let members = codes.iter().rev().map(|code| -code).chain([0]).chain(codes.iter().copied()).collect();
        let grid =
            Grid::new(self.alphabet(), Groups::Tensor, vec![power(self.lowest)])?.with_members(members)?;
        let ends = (self.lowest..self.highest).map(|e| std::f32::consts::SQRT_2 * power(e));
        grid.with_thresholds(mirrored([0.0].into_iter().chain(ends).collect()))
    }

    one_pass!(write);

    fn published(&self) -> Arc<dyn Estimator> {
        Arc::new(StraightThrough)
    }
}
