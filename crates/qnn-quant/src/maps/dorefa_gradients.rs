use std::sync::Arc;

use ndarray::{ArrayViewD, ArrayViewMutD};

use crate::chance::{self, Words};
use crate::grid::scaled;
use crate::rounding::{clip, round_half_even};
use crate::{
    Alphabet, Dependence, Estimator, Granularity, Grid, Moment, Quantizer, Result, StraightThrough,
    statistics,
};

/// DoReFa-Net's gradients of 1 to 8 bits: scaled to each example's greatest, rounded with noise.
///
/// ```text
/// M     = max |dr| over all axes but the first, the batch
/// N     = u / (2^k − 1),   u uniform in (−1/2, 1/2)
/// f(dr) = 2 M [ quantize_k( clip(dr / 2M + 1/2 + N, 0, 1) ) − 1/2 ]
/// ```
///
/// It is applied to a gradient on its way back. The noise makes the rounding unbiased: away from the clipped ends the expectation of
/// `f(dr)` is `dr`. An example whose gradient is zero stays zero. The random number of an element depends on the
/// seed, the [draw](Moment::draw) and its position alone, so any number of threads gives the same result.
///
/// Published for the backward pass alone, so it has no gradient of its own; [`StraightThrough`] stands in.
///
#[doc = include_str!("../../plots/dorefa-gradients.svg")]
///
/// Codes: the odd integers from `−(2^k − 1)` to `2^k − 1`, k bits, values `code · M / (2^k − 1)`.
///
/// ```
/// # use qnn_quant::{DorefaGradients, quantize};
/// # use ndarray::array;
/// let dr = array![[0.5, -1.0, 0.25], [0.0, 0.0, 0.0]];
/// let rounded = quantize(&DorefaGradients::new(8, 1)?, &dr)?;
/// assert!((&rounded - &dr).iter().all(|error| error.abs() <= 2.0 / 255.0));
/// assert_eq!(rounded.row(1), array![0.0, 0.0, 0.0]);
/// # Ok::<(), qnn_quant::Error>(())
/// ```
///
/// Source: Zhou et al. 2016, *DoReFa-Net*, arXiv:1606.06160, "Low Bitwidth Quantization of Gradients".
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct DorefaGradients {
    bits: u32,
    seed: u64,
}

impl DorefaGradients {
    /// `bits` from 1 to 8. The same seed gives the same noise.
    ///
    /// # Errors
    ///
    /// [`Error::Bits`](crate::Error::Bits).
    pub fn new(bits: u32, seed: u64) -> Result<Self> {
        Ok(DorefaGradients { bits: super::checked_bits("dorefa-gradients", bits)?, seed })
    }

    /// k.
    pub fn bits(&self) -> u32 {
        self.bits
    }

    /// What `finish` makes of each code and the largest magnitude of its example.
    fn write(
        &self,
        x: ArrayViewD<'_, f32>,
        grid: &Grid,
        moment: &Moment<'_>,
        out: ArrayViewMutD<'_, f32>,
        finish: impl Fn(f32, f32) -> f32 + Sync,
    ) -> Result<()> {
        let n = f64::from((1_u32 << self.bits) - 1);
        let words = Words { seed: self.seed, draw: moment.draw };
        let half = |max: f32| if max == 0.0 { 0.0 } else { 0.5 / f64::from(max) };
        let parameters: Vec<(f64, f32)> = grid.numerators().iter().map(|&max| (half(max), max)).collect();
        let unit_of_word = 2_f64.powi(-32) / n;
        chance::map_into(
            x,
            grid.groups(),
            &parameters,
            words,
            out,
            #[inline(always)]
            move |x, word, &(half, max)| {
                // N: ((word + 1/2) / 2³² − 1/2) / n, without converting an unsigned integer.
                let noise = (f64::from(word as i32 ^ i32::MIN) + 0.5) * unit_of_word;
                let unit = clip(f64::from(x) * half + 0.5 + noise, 0.0, 1.0);
                finish((2.0 * round_half_even(n * unit) - n) as f32, max)
            },
        )
    }
}

impl Quantizer for DorefaGradients {
    fn name(&self) -> &'static str {
        "dorefa-gradients"
    }

    fn fit(&self, x: ArrayViewD<'_, f32>) -> Result<Grid> {
        let groups = Granularity::Axis(0).groups(x.shape())?;
        let maxima = statistics::max_abs(x, groups)?.into_iter().map(|max| max as f32).collect();
        Grid::new(Alphabet::odd(self.bits), groups, maxima)?.divided_by((1 << self.bits) - 1)
    }

    fn codes_into(&self, x: ArrayViewD<'_, f32>, grid: &Grid, codes: ArrayViewMutD<'_, f32>) -> Result<()> {
        self.codes_at_into(x, grid, &Moment::default(), codes)
    }

    fn values_into(&self, x: ArrayViewD<'_, f32>, grid: &Grid, values: ArrayViewMutD<'_, f32>) -> Result<()> {
        let inverse = f64::from(grid.scale_denominator()).recip();
        self.write(
            x,
            grid,
            &Moment::default(),
            values,
            #[inline(always)]
            move |code, max| scaled(code, max, inverse),
        )
    }

    fn published(&self) -> Arc<dyn Estimator> {
        Arc::new(StraightThrough)
    }

    fn dependence(&self) -> Dependence {
        Dependence::Chance
    }

    fn codes_at_into(
        &self,
        x: ArrayViewD<'_, f32>,
        grid: &Grid,
        moment: &Moment<'_>,
        codes: ArrayViewMutD<'_, f32>,
    ) -> Result<()> {
        self.write(
            x,
            grid,
            moment,
            codes,
            #[inline(always)]
            |code, _| code,
        )
    }
}
