use std::sync::Arc;

use ndarray::{ArrayViewD, ArrayViewMutD};

use crate::chance::{self, Words};
use crate::{
    Alphabet, ClippedIdentity, Dependence, Estimator, Grid, Groups, Moment, Quantizer, Result, Sign,
};

/// A random sign whose expectation is the clipped input: BinaryConnect's stochastic weights.
///
/// ```text
/// q(x) = +1 with probability p = clip((x + 1)/2, 0, 1), else −1      E q(x) = clip(x, −1, 1)
/// ```
///
/// The random number of an element depends on the seed, the [draw](Moment::draw) and its position alone: +1 where a
/// multiple of 2⁻²⁴, uniform in [0, 1), is less than p, which is not rounded. So the same seed gives the same signs on
/// any number of threads. [`codes_into`](Quantizer::codes_into) takes draw 0; a layer counts draws, and evaluates
/// with [`Sign`].
///
/// Published with [`ClippedIdentity`], `dx = dy · 1[|x| ≤ 1]`.
///
#[doc = include_str!("../../plots/stochastic-sign.svg")]
///
/// Codes: {−1, +1}, 1 bit, scale 1.
///
/// ```
/// # use qnn_quant::{StochasticSign, quantize};
/// let y = quantize(&StochasticSign::new(7), &[0.5; 1000])?;
/// assert!(y.iter().all(|y| y.abs() == 1.0) && (y.mean().unwrap() - 0.5).abs() < 0.1);
/// assert_eq!(y, quantize(&StochasticSign::new(7), &[0.5; 1000])?);
/// # Ok::<(), qnn_quant::Error>(())
/// ```
///
/// Sources: Courbariaux, Bengio, David 2015, *BinaryConnect*, arXiv:1511.00363; Courbariaux et al. 2016,
/// *Binarized Neural Networks*, arXiv:1602.02830, section 1.1, formula (2).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct StochasticSign {
    seed: u64,
}

impl StochasticSign {
    /// The same seed gives the same signs.
    pub fn new(seed: u64) -> Self {
        StochasticSign { seed }
    }
}

impl Quantizer for StochasticSign {
    fn name(&self) -> &'static str {
        "stochastic-sign"
    }

    fn fit(&self, _: ArrayViewD<'_, f32>) -> Result<Grid> {
        Grid::unit(Alphabet::BINARY)
    }

    fn codes_into(&self, x: ArrayViewD<'_, f32>, grid: &Grid, codes: ArrayViewMutD<'_, f32>) -> Result<()> {
        self.codes_at_into(x, grid, &Moment::default(), codes)
    }

    /// Tests of stochastically binarized networks are deterministic: section 1.1 of the second source.
    fn evaluated(&self) -> Option<Arc<dyn Quantizer>> {
        Some(Arc::new(Sign))
    }

    fn published(&self) -> Arc<dyn Estimator> {
        Arc::new(ClippedIdentity::default())
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
        super::own_grid(self.name(), grid, Alphabet::BINARY)?;
        let words = Words { seed: self.seed, draw: moment.draw };
        chance::map_into(
            x,
            Groups::Tensor,
            &[()],
            words,
            codes,
            #[inline(always)]
            |x, word, ()| likely(x, word),
            #[inline(always)]
            |x, word, ()| chosen(x, word),
        )
    }
}

/// u < p, of the word's u and the input's p, by way of 2u − 1 < x: no side of it is rounded.
#[inline(always)]
fn chosen(x: f32, word: u32) -> f32 {
    let sign = if threshold(word) < x { 1.0 } else { -1.0 };
    if x.is_nan() { x } else { sign }
}

/// What is chosen whatever the word's lower half, and a doubt of 1 where that matters.
#[inline(always)]
fn likely(x: f32, word: u32) -> (f32, f32) {
    let is_open = (threshold(word) < x) & (threshold(word | 0xFFFF) >= x);
    (chosen(x, word), if is_open { 1.0 } else { 0.0 })
}

/// 2u − 1, of which f32 holds every digit.
#[inline(always)]
fn threshold(word: u32) -> f32 {
    const UNIT: f32 = 1.0 / (1 << 23) as f32;
    ((word >> 8) as i32 - (1 << 23)) as f32 * UNIT
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn words_decide_at_exactly_their_number() {
        let numbers = [0, 1, 2, 1 << 22, (1 << 23) - 1, 1 << 23, (1 << 23) + 1, 12_345_678, (1 << 24) - 1];
        for number in numbers {
            let threshold = (f64::from(number) * 2_f64.powi(-23) - 1.0) as f32;
            for word in [number << 8, number << 8 | 0xFF] {
                let at = [threshold.next_down(), threshold, threshold.next_up()];
                assert_eq!(at.map(|x| chosen(x, word)), [-1.0, -1.0, 1.0], "{number}");
            }
        }
    }

    #[test]
    fn a_lower_half_matters_exactly_where_it_is_said_to() {
        for upper in [0, 1, 2, 0x7FFF, 0x8000, 0x8001, 0xC123, 0xFFFF] {
            let [lowest, highest] = [upper << 16, upper << 16 | 0xFFFF];
            let [first, last] = [lowest, highest].map(threshold);
            for x in
                [first.next_down(), first, first.next_up(), last.next_down(), last, last.next_up(), 0.0, -0.0]
            {
                let (sign, doubt) = likely(x, lowest);
                let is_open = chosen(x, lowest) != chosen(x, highest);
                assert_eq!((sign, doubt >= 1.0), (chosen(x, lowest), is_open), "{x:e} with {upper:x}");
            }
            assert!(likely(f32::NAN, lowest).0.is_nan());
        }
    }

    #[test]
    fn the_ends_leave_nothing_to_chance() {
        for word in [0, 1 << 31, u32::MAX] {
            assert_eq!([-1.0, -1.5, f32::NEG_INFINITY].map(|x| chosen(x, word)), [-1.0; 3]);
            assert_eq!([1.0, 1.5, f32::INFINITY].map(|x| chosen(x, word)), [1.0; 3]);
            assert!(chosen(f32::NAN, word).is_nan());
        }
        // u is less than 1/2 for half of all words.
        let last = ((1 << 23) - 1) << 8;
        assert_eq!([0.0, -0.0].map(|x| [last, 1 << 31].map(|word| chosen(x, word))), [[1.0, -1.0]; 2]);
    }
}
