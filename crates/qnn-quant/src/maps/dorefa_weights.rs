use std::sync::Arc;

use ndarray::{ArrayViewD, ArrayViewMutD};
use qnn_math::tanh;

use super::sign::signs_into;
use crate::elementwise::{Form, quantize_into};
use crate::rounding::{clip, round_half_even};
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
/// Source: Zhou et al. 2016, *DoReFa-Net*, arXiv:1606.06160, eq. (5), (7), (9).
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
        if self.bits == 1 {
            return signs_into(x, grid, form, out);
        }
        let maxima = super::own_statistics(self.name(), grid)?;
        let halves: Vec<f64> = maxima.iter().map(|max| 0.5 / max).collect();
        let n = f64::from(self.denominator());
        quantize_into(
            x,
            grid,
            &halves,
            form,
            out,
            #[inline(always)]
            move |x, &half| {
                let unit = clip(tanh(x.into()) * half + 0.5, 0.0, 1.0);
                (2.0 * round_half_even(n * unit) - n) as f32
            },
        )
    }
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
        let maxima = greatest_tanh(x, groups)?;
        let grid = Grid::new(Alphabet::odd(self.bits), groups, vec![1.0; groups.count()])?;
        grid.divided_by(self.denominator())?.with_statistics(maxima)
    }

    one_pass!(write);

    fn published(&self) -> Arc<dyn Estimator> {
        if self.bits == 1 { Arc::new(StraightThrough) } else { Arc::new(DorefaTanh) }
    }
}

/// `max |tanh x|` per group, with 1 in place of 0. As tanh is increasing, it is the tanh of the greatest magnitude.
pub(crate) fn greatest_tanh(x: ArrayViewD<'_, f32>, groups: crate::Groups) -> Result<Vec<f64>> {
    let maxima = statistics::max_abs(x, groups)?;
    Ok(maxima.into_iter().map(|max| if max == 0.0 { 1.0 } else { tanh(max) }).collect())
}
