use std::sync::{Arc, LazyLock};

use ndarray::{ArrayViewD, ArrayViewMutD};

use crate::elementwise::{self, Form};
use crate::{Alphabet, Error, Estimator, Grid, Groups, Quantizer, Result, StraightThrough};

/// The approximate power of two: every number becomes the power of two whose logarithm is nearest.
///
/// ```text
/// AP2(x) = sign(x) · 2^round(log2 |x|),   AP2(0) = 0
/// ```
///
/// A multiplication with it is a shift, which is what shift-based batch normalization and optimizers are made of; there one
/// calls the function [`ap2`]. The logarithm is never half-way between two integers, since √2 is irrational, and the rounding is
/// decided on the bits of x: it is exact, for subnormal numbers too. Above √2 · 2^127 the power is not an f32; it stays 2^127.
///
/// Published with [`StraightThrough`], `dx = dy`.
///
#[doc = include_str!("../../plots/ap2.svg")]
///
/// Codes: 0 for 0, else `±(exponent + 150)`, the exponent from −149 to 127; 10 bits. There is no common scale: the grid is
/// [not factored](Grid::is_factored). For few exponents, with a scale, there is [`LogAp2`](crate::LogAp2). All its grids are
/// one, and yet the map is not called [fixed](Quantizer::is_fixed), for the reason given there.
///
/// ```
/// # use qnn_quant::{Ap2, quantize};
/// # use ndarray::array;
/// assert_eq!(quantize(&Ap2, &[0.0, 0.3, 1.4, 1.5, -5.0])?, array![0.0, 0.25, 1.0, 2.0, -4.0]);
/// # Ok::<(), qnn_quant::Error>(())
/// ```
///
/// Source: Courbariaux et al. 2016, *Binarized Neural Networks*, arXiv:1602.02830, section 1.4, after Lin et al. 2015,
/// arXiv:1510.03009.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Ap2;

impl Ap2 {
    fn write(
        &self,
        x: ArrayViewD<'_, f32>,
        grid: &Grid,
        form: Form,
        out: ArrayViewMutD<'_, f32>,
    ) -> Result<()> {
        if grid.stored() != Some(ALPHABET) || grid.is_factored() || grid.groups() != Groups::Tensor {
            return Err(Error::ForeignGrid { map: self.name() });
        }
        match form {
            Form::Values => elementwise::map_into(
                x,
                grid.groups(),
                &[()],
                out,
                #[inline(always)]
                move |x, ()| ap2(x),
            ),
            Form::Codes => elementwise::map_into(
                x,
                grid.groups(),
                &[()],
                out,
                #[inline(always)]
                move |x, ()| {
                    let power = ap2(x);
                    let position = if power == 0.0 { 0.0 } else { (exponent(power) + OFFSET) as f32 };
                    let code = if power < 0.0 { -position } else { position };
                    if x.is_nan() { x } else { code }
                },
            ),
        }
    }
}

/// The nearest power of two, by the logarithm, with the sign of `x`; 0 of ±0, NaN of NaN, ±2^127 of ±∞.
///
/// ```
/// # use qnn_quant::ap2;
/// assert_eq!([3.0, -0.7, 0.0, 1e-45].map(ap2), [4.0, -0.5, 0.0, 1e-45]);
/// ```
#[inline(always)]
pub fn ap2(x: f32) -> f32 {
    /// What carries a mantissa above √2 into the exponent.
    const CARRY: u32 = 0x0080_0000 - 0x0035_04F4;
    const EXPONENT: u32 = 0x7F80_0000;
    let magnitude = x.abs();
    let subnormal = magnitude < f32::MIN_POSITIVE;
    let normal = if subnormal { magnitude * 2_f32.powi(24) } else { magnitude };
    // Infinity must not carry: it would become a negative zero.
    let bounded = normal.min(f32::MAX).to_bits();
    let power = f32::from_bits((bounded + CARRY) & EXPONENT).min(2_f32.powi(127));
    let power = if subnormal { power * 2_f32.powi(-24) } else { power };
    let power = if x < 0.0 { -power } else { power };
    if x.is_nan() { x } else { power }
}

/// The exponent of a power of two.
#[inline(always)]
pub(crate) fn exponent(power: f32) -> i32 {
    // In f64 no f32 is subnormal.
    (f64::from(power.abs()).to_bits() >> 52) as i32 - 1023
}

/// The code of 2^−149, the least f32, is 1.
const OFFSET: i32 = 150;
const GREATEST: i32 = 127 + OFFSET;
const ALPHABET: Alphabet = Alphabet::symmetric(GREATEST as u32);

/// All grids of this map are the same.
static GRID: LazyLock<Result<Grid>> = LazyLock::new(|| {
    let value = |code: i32| if code == 0 { 0.0 } else { power(code.abs() - OFFSET) * code.signum() as f32 };
    let values: Vec<f32> = ALPHABET.codes().map(value).collect();
    // The code changes at √2 · 2^e; of 0 and the least number, at 0.
    let ends = (-149..127).map(|e| (std::f64::consts::SQRT_2 * f64::from(power(e))) as f32);
    let thresholds = mirrored([0.0].into_iter().chain(ends).collect());
    Grid::unit(ALPHABET)?.with_table(values)?.with_thresholds(thresholds)
});

/// `2^exponent`, subnormal ones included.
pub(crate) fn power(exponent: i32) -> f32 {
    f64::from_bits(((exponent + 1023) as u64) << 52) as f32
}

/// The numbers from 0 up, after their negatives.
pub(crate) fn mirrored(positive: Vec<f32>) -> Vec<f32> {
    positive.iter().rev().map(|end| -end).chain(positive.iter().copied()).collect()
}

impl Quantizer for Ap2 {
    fn name(&self) -> &'static str {
        "ap2"
    }

    fn fit(&self, _: ArrayViewD<'_, f32>) -> Result<Grid> {
        GRID.clone()
    }

    one_pass!(write);

    fn published(&self) -> Arc<dyn Estimator> {
        Arc::new(StraightThrough)
    }
}
