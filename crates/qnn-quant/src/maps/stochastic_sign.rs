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
/// multiple of 2⁻²⁴, uniform in [0, 1), is less than p. So the same seed gives the same signs on any number of threads.
/// [`codes_into`](Quantizer::codes_into) takes draw 0; a layer counts draws, and evaluates
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
            move |x, word, ()| chosen(x, word),
        )
    }
}

#[inline(always)]
fn chosen(x: f32, word: u32) -> f32 {
    // Both sides of `u < p`, times 2²⁴: the left one is a whole number that f32 holds exactly.
    let probability = (x + 1.0) * (1 << 23) as f32;
    let sign = if ((word >> 8) as i32 as f32) < probability { 1.0 } else { -1.0 };
    if x.is_nan() { x } else { sign }
}
