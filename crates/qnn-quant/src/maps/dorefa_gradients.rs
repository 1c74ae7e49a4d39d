use std::sync::Arc;

use ndarray::{ArrayViewD, ArrayViewMutD};

use crate::chance::{self, Words};
use crate::elementwise::Form;
use crate::grid::scaled;
use crate::rounding::{clip, clip_f32, likely_nearest, quick_factor, round_half_even};
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
/// Source: Zhou et al. 2016, *DoReFa-Net*, arXiv:1606.06160, its part on the quantization of gradients.
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

    fn denominator(&self) -> u32 {
        (1 << self.bits) - 1
    }

    fn write(
        &self,
        x: ArrayViewD<'_, f32>,
        grid: &Grid,
        moment: &Moment<'_>,
        form: Form,
        out: ArrayViewMutD<'_, f32>,
    ) -> Result<()> {
        super::own_codes(self.name(), grid, Alphabet::odd(self.bits))?;
        let n = f64::from(self.denominator());
        let words = Words { seed: self.seed, draw: moment.draw };
        let factors = match form {
            Form::Codes => Some(vec![[1.0, 0.0]; grid.groups().count()]),
            Form::Values => grid.factors(),
        };
        let examples = grid.numerators().iter().map(|&max| Example::new(max, n));
        match factors {
            Some(factors) => {
                let examples: Vec<(Example, [f32; 2])> = examples.zip(factors).collect();
                self.write_as(
                    x,
                    grid,
                    &examples,
                    words,
                    out,
                    #[inline(always)]
                    |code, [high, low]| code * high + code * low,
                )
            }
            None => {
                let examples: Vec<(Example, f32)> = examples.zip(grid.numerators().iter().copied()).collect();
                self.write_as(
                    x,
                    grid,
                    &examples,
                    words,
                    out,
                    #[inline(always)]
                    move |code, max| scaled(code, max, n.recip()),
                )
            }
        }
    }

    /// Each code as its example has it.
    fn write_as<F: Copy + Sync>(
        &self,
        x: ArrayViewD<'_, f32>,
        grid: &Grid,
        examples: &[(Example, F)],
        words: Words,
        out: ArrayViewMutD<'_, f32>,
        value: impl Fn(f32, F) -> f32 + Copy + Sync,
    ) -> Result<()> {
        let n = self.denominator();
        let (n_f32, n) = (n as f32, f64::from(n));
        chance::map_into(
            x,
            grid.groups(),
            examples,
            words,
            out,
            #[inline(always)]
            move |x, word, &(example, factors)| {
                let (code, doubt) = example.likely_code(x, word, n_f32);
                (value(code, factors), doubt)
            },
            #[inline(always)]
            move |x, word, &(example, factors)| value(example.code(x, word, n), factors),
        )
    }
}

/// What the elements of one example share.
#[derive(Clone, Copy)]
struct Example {
    /// 1 / 2M, and 0 in an example of zeros.
    half: f64,
    /// `half · n` for the quick way.
    steps: f32,
}

impl Example {
    fn new(max: f32, n: f64) -> Self {
        let half = if max == 0.0 { 0.0 } else { 0.5 / f64::from(max) };
        Example { half, steps: if max == 0.0 { 0.0 } else { quick_factor(half * n) } }
    }

    #[inline(always)]
    fn code(&self, x: f32, word: u32, n: f64) -> f32 {
        // N: ((word + 1/2) / 2³² − 1/2) / n, without converting an unsigned integer.
        let noise = (f64::from(word as i32 ^ i32::MIN) + 0.5) * (2_f64.powi(-32) / n);
        let unit = clip(f64::from(x) * self.half + 0.5 + noise, 0.0, 1.0);
        (2.0 * round_half_even(n * unit) - n) as f32
    }

    /// The code by f32 alone, whatever the word's lower half, and a doubt of 1 and more where that or a rounding could matter.
    #[inline(always)]
    fn likely_code(&self, x: f32, word: u32, n: f32) -> (f32, f32) {
        // The middle of the words with this upper half. N n is at most 2⁻¹⁷ from it, and roundings add less than 2e-7 (n + 1): of the product,
        // at most n/2, two of 6e-8 each; of n/2 + noise one; of the sum, at most n + 1/2, one; of the noise and the doubt, below 1, the rest.
        let noise = (word ^ 0x8000_8000) as i32 as f32 * 2_f32.powi(-32);
        let position = clip_f32(x * self.steps + (0.5 * n + noise), 0.0, n);
        let (nearest, doubt) = likely_nearest(position, 2_f32.powi(-17) + 2e-7 * (n + 1.0));
        (2.0 * nearest - n, doubt)
    }
}

impl Quantizer for DorefaGradients {
    fn name(&self) -> &'static str {
        "dorefa-gradients"
    }

    fn fit(&self, x: ArrayViewD<'_, f32>) -> Result<Grid> {
        let groups = Granularity::Axis(0).groups(x.shape())?;
        let maxima = statistics::max_abs(x, groups)?.into_iter().map(|max| max as f32).collect();
        Grid::new(Alphabet::odd(self.bits), groups, maxima)?.divided_by(self.denominator())
    }

    fn codes_into(&self, x: ArrayViewD<'_, f32>, grid: &Grid, codes: ArrayViewMutD<'_, f32>) -> Result<()> {
        self.codes_at_into(x, grid, &Moment::default(), codes)
    }

    fn values_into(&self, x: ArrayViewD<'_, f32>, grid: &Grid, values: ArrayViewMutD<'_, f32>) -> Result<()> {
        self.write(x, grid, &Moment::default(), Form::Values, values)
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
        self.write(x, grid, moment, Form::Codes, codes)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn likely_codes_without_a_doubt_are_right_for_every_lower_half() {
        let mut doubts = 0;
        for bits in [1_u32, 2, 4, 8] {
            let n = f64::from((1_u32 << bits) - 1);
            for max in [1.0, 0.7, 3e-6, 1e20, 1e-26, 1e-40, 0.0, f32::NAN] {
                let example = Example::new(max, n);
                for i in 0..100_000_u32 {
                    let word = i.wrapping_mul(0x9E37_79B1);
                    let (lowest, highest) = (word & 0xFFFF_0000, word | 0xFFFF);
                    let x = max * (f64::from(i) * 0.37).sin() as f32;
                    let (likely, doubt) = example.likely_code(x, lowest, n as f32);
                    let is_certain = doubt < 1.0;
                    for word in [lowest, word, highest] {
                        let code = example.code(x, word, n);
                        assert!(
                            !is_certain || likely == code,
                            "{x:e} of {max:e}, {bits} bits, word {word:x}"
                        );
                    }
                    doubts += u32::from(!is_certain && max > 1e-30);
                }
            }
        }
        assert!(doubts < 1000, "{doubts} doubts");
    }
}
