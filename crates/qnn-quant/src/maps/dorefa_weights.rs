use std::sync::Arc;

use ndarray::{ArrayViewD, ArrayViewMutD};
use qnn_math::{tanh, tanh_roughly};

use super::sign::signs_into;
use crate::checked::quantize_checked_into;
use crate::elementwise::Form;
use crate::rounding::{clip, clip_f32, likely_nearest, quick_factor, round_half_even};
use crate::{
    Alphabet, DorefaTanh, Estimator, Granularity, Grid, Quantizer, Result, ScaledSign, StraightThrough,
    statistics,
};

/// DoReFa-Net's weights of 1 to 8 bits: squashed by tanh, stretched to [−1, 1], rounded to `2^k` levels.
///
/// ```text
/// k = 1:  q(w) = E(|w|) · sign(w)
/// k ≥ 2:  q(w) = 2 · quantize_k( tanh(w) / (2 max |tanh w|) + 1/2 ) − 1
///         quantize_k(u) = round((2^k − 1) u) / (2^k − 1)            halves to even
/// ```
///
/// The maximum is taken over the whole tensor (the paper), or per group if a granularity is named. In a zero tensor,
/// where the maximum is 0, it is taken for 1: every element has the level of 0, which is the one that `round` picks for
/// the middle between −1/(2^k−1) and +1/(2^k−1), since an even number of symmetric levels has no zero.
///
/// The grid's thresholds lie between the levels, and so are those of `tanh(w) / max |tanh w|`, not of w itself: a gradient that goes by
/// thresholds, such as [`ModifiedTanh`](crate::ModifiedTanh), expects that number for its input.
///
/// Published with [`DorefaTanh`], `dx = dy · (1 − tanh²w) / max |tanh w|`, for k ≥ 2, and with [`StraightThrough`] for k = 1.
///
#[doc = include_str!("../../plots/dorefa-weights.svg")]
///
/// Codes: the odd integers from `−(2^k − 1)` to `2^k − 1`, k bits, values `code / (2^k − 1)`; for k = 1 those of
/// [`ScaledSign`].
///
/// ```
/// # use qnn_quant::{DorefaWeights, quantize};
/// # use ndarray::array;
/// let third = 1.0 / 3.0;
/// assert_eq!(quantize(&DorefaWeights::new(2)?, &[-1.0, -0.1, 0.1, 1.0])?, array![-1.0, -third, third, 1.0]);
/// # Ok::<(), qnn_quant::Error>(())
/// ```
///
/// Source: Zhou et al. 2016, *DoReFa-Net*, arXiv:1606.06160, section 2.3, formulas (4) for one bit and (5).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct DorefaWeights {
    bits: u32,
    granularity: Granularity,
}

impl DorefaWeights {
    /// `bits` from 1 to 8, one maximum for the whole tensor.
    ///
    /// # Errors
    ///
    /// [`Error::Bits`](crate::Error::Bits).
    pub fn new(bits: u32) -> Result<Self> {
        let bits = super::checked_bits("dorefa-weights", bits)?;
        Ok(DorefaWeights { bits, granularity: Granularity::Tensor })
    }

    /// Over which elements the maximum (for 1 bit: the mean) is taken.
    pub fn with_granularity(self, granularity: Granularity) -> Self {
        DorefaWeights { granularity, ..self }
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
        form: Form,
        out: ArrayViewMutD<'_, f32>,
    ) -> Result<()> {
        super::own_codes(self.name(), grid, Alphabet::odd(self.bits))?;
        if self.bits == 1 {
            return signs_into(x, grid, form, out);
        }
        let maxima = super::own_statistics(self.name(), grid)?;
        let n = self.denominator() as f32;
        // In f32 for the quick codes: a single f64 in their loop would halve the elements in a vector.
        let halves: Vec<(f64, f32)> = maxima.iter().map(|max| (0.5 / max, quick_factor(0.5 / max))).collect();
        quantize_checked_into(
            x,
            grid,
            &halves,
            form,
            out,
            #[inline(always)]
            move |x, &(_, half)| likely_code(x, half, n),
            #[inline(always)]
            move |x, &(half, _)| code(x, half, n),
        )
    }
}

#[inline(always)]
fn code(x: f32, half: f64, n: f32) -> f32 {
    let unit = clip(tanh(x.into()) * half + 0.5, 0.0, 1.0);
    (2.0 * round_half_even(f64::from(n) * unit) - f64::from(n)) as f32
}

/// The code by f32 alone, and a doubt of 1 and more where its errors, which are less than 4e-7 n, could matter.
#[inline(always)]
fn likely_code(x: f32, half: f32, n: f32) -> (f32, f32) {
    let position = clip_f32(tanh_roughly(x) * (half * n) + 0.5 * n, 0.0, n);
    let (nearest, doubt) = likely_nearest(position, 1e-6 * n);
    (2.0 * nearest - n, doubt)
}

impl Quantizer for DorefaWeights {
    fn name(&self) -> &'static str {
        "dorefa-weights"
    }

    fn fit(&self, x: ArrayViewD<'_, f32>) -> Result<Grid> {
        if self.bits == 1 {
            return ScaledSign { granularity: self.granularity }.fit(x);
        }
        let groups = self.granularity.groups(x.shape())?;
        let maxima = greatest_tanh(statistics::max_abs(x, groups)?);
        let grid = Grid::new(Alphabet::odd(self.bits), groups, vec![1.0; groups.count()])?;
        grid.divided_by(self.denominator())?.with_statistics(maxima)
    }

    one_pass!(write);

    fn published(&self) -> Arc<dyn Estimator> {
        if self.bits == 1 { Arc::new(StraightThrough) } else { Arc::new(DorefaTanh) }
    }
}

/// `max |tanh x|` of each `max |x|`, with 1 in place of 0, since tanh is increasing.
pub(crate) fn greatest_tanh(maxima: Vec<f64>) -> Vec<f64> {
    maxima.into_iter().map(|max| if max == 0.0 { 1.0 } else { tanh(max) }).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn likely_codes_without_a_doubt_are_right() {
        let mut doubts = 0;
        let inputs =
            (-300_000..=300_000).map(|i| i as f32 * 3.1e-5).chain([1e-30, -1e-38, f32::MIN, f32::INFINITY]);
        for (i, x) in inputs.enumerate() {
            for (bits, half) in [(2, 0.5), (4, 0.5 / 0.7616), (8, 0.5), (8, 7.3), (8, 0.5e7)] {
                let n = ((1 << bits) - 1) as f32;
                let (likely, doubt) = likely_code(x, half as f32, n);
                let is_doubtful = doubt >= 1.0;
                assert!(is_doubtful || likely == code(x, half, n), "{x:e} of {bits} bits with {half:e}, {i}");
                doubts += u32::from(is_doubtful && bits == 8 && half == 0.5);
            }
        }
        assert!(doubts < 1000, "{doubts} doubts");
    }
}
