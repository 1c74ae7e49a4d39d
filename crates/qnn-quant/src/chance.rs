//! Random numbers that belong to positions: the same for any number of threads.

use ndarray::{ArrayViewD, ArrayViewMutD};
use qnn_kernels::vectorized;
use qnn_math::chacha::{BATCH, ChaCha8};
use rand_chacha::ChaCha8Rng;
use rand_chacha::rand_core::SeedableRng;

use crate::elementwise::{fill_pieces, row_major, same_shape};
use crate::groups::Partition;
use crate::{Groups, Result};

/// Elements that share a batch of words: each takes half a word.
const ELEMENTS: usize = 2 * BATCH;

/// Where the random word of each element, of 32 bits, comes from: its upper half from ChaCha8's stream `draw` under the key of `seed`,
/// its lower half in the same way from the stream `!draw`.
///
/// Of 256 words of a stream, the upper halves belong to as many elements, in row-major order, and the lower halves to as many after them.
/// Nearly all elements are decided by their upper half, whatever the lower one, which is not made then. Words cost more than all else: that
/// halves their number.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Words {
    pub(crate) seed: u64,
    pub(crate) draw: u64,
}

/// `out = exact(x, random word of the position, parameters[group of x])`, by way of `quick`.
///
/// `quick` gets a word whose lower half is zero, for all words with the same upper half. Its second result is a doubt: where it is
/// below 1, the first is exact for each of them. Where it is not, elements are computed again.
pub(crate) fn map_into<P: Copy + Sync>(
    x: ArrayViewD<'_, f32>,
    groups: Groups,
    parameters: &[P],
    words: Words,
    out: ArrayViewMutD<'_, f32>,
    quick: impl Fn(f32, u32, &P) -> (f32, f32) + Sync,
    exact: impl Fn(f32, u32, &P) -> f32 + Sync,
) -> Result<()> {
    same_shape("the output", x.shape(), out.shape())?;
    let Partition { count, inner } = groups.partition(x.shape())?;
    let x = row_major(&x);
    let key = ChaCha8Rng::seed_from_u64(words.seed).get_seed();
    let [upper, lower] = [words.draw, !words.draw].map(|stream| ChaCha8::new(key, stream));
    fill_pieces(out, |start, piece| {
        let [mut uppers, mut lowers] = [[0; BATCH]; 2];
        let starts = (start..).step_by(ELEMENTS);
        for ((out, x), start) in piece.chunks_mut(ELEMENTS).zip(x[start..].chunks(ELEMENTS)).zip(starts) {
            let position = (start / 2) as u64;
            fill(&upper, position, &mut uppers);
            let mut has_lowers = false;
            let halves = out.chunks_mut(BATCH).zip(x.chunks(BATCH)).zip([Half::Upper, Half::Lower]);
            for (((out, x), half), start) in halves.zip((start..).step_by(BATCH)) {
                let group = start / inner;
                let is_one_group = (start + out.len() - 1) / inner == group;
                let parameter = &parameters[group % count];
                if is_one_group && quick_batch(out, x, &uppers, half, parameter, &quick) < 1.0 {
                    continue;
                }
                if !std::mem::replace(&mut has_lowers, true) {
                    fill(&lower, position, &mut lowers);
                }
                let words = half.join(&uppers, &lowers);
                if is_one_group {
                    exact_batch(out, x, &words, parameter, &exact);
                } else {
                    let parameter = |i: usize| &parameters[(start + i) / inner % count];
                    exact_elements(out, x, &words, parameter, &exact);
                }
            }
        }
    });
    Ok(())
}

/// Which half of its words a batch takes.
#[derive(Clone, Copy)]
enum Half {
    Upper,
    Lower,
}

impl Half {
    /// The half of a word, above sixteen zeros.
    #[inline(always)]
    fn of(self, word: u32) -> u32 {
        match self {
            Half::Upper => word & 0xFFFF_0000,
            Half::Lower => word << 16,
        }
    }

    /// Words of two halves.
    fn join(self, uppers: &[u32; BATCH], lowers: &[u32; BATCH]) -> [u32; BATCH] {
        std::array::from_fn(|i| self.of(uppers[i]) | self.of(lowers[i]) >> 16)
    }
}

fn fill(random: &ChaCha8, position: u64, words: &mut [u32; BATCH]) {
    vectorized(
        #[inline(always)]
        || random.fill(position, words),
    );
}

/// The greatest doubt.
fn quick_batch<P: Copy>(
    out: &mut [f32],
    x: &[f32],
    words: &[u32; BATCH],
    half: Half,
    parameter: &P,
    quick: &impl Fn(f32, u32, &P) -> (f32, f32),
) -> f32 {
    vectorized(
        #[inline(always)]
        || match half {
            Half::Upper => quick_slice(
                out,
                x,
                words,
                parameter,
                #[inline(always)]
                |x, word, p| quick(x, Half::Upper.of(word), p),
            ),
            Half::Lower => quick_slice(
                out,
                x,
                words,
                parameter,
                #[inline(always)]
                |x, word, p| quick(x, Half::Lower.of(word), p),
            ),
        },
    )
}

#[inline(always)]
fn quick_slice<P: Copy>(
    out: &mut [f32],
    x: &[f32],
    words: &[u32; BATCH],
    parameter: &P,
    quick: impl Fn(f32, u32, &P) -> (f32, f32),
) -> f32 {
    // A copy, which may stay in registers.
    let parameter = *parameter;
    let mut greatest = 0;
    for ((out, &x), &word) in out.iter_mut().zip(x).zip(words) {
        let (value, doubt) = quick(x, word, &parameter);
        *out = value;
        // As integers, the bits of non-negative floats are ordered like the floats, with NaN at the top; this maximum vectorises.
        greatest = greatest.max(doubt.abs().to_bits() as i32);
    }
    f32::from_bits(greatest as u32)
}

fn exact_batch<P: Copy>(
    out: &mut [f32],
    x: &[f32],
    words: &[u32; BATCH],
    parameter: &P,
    exact: &impl Fn(f32, u32, &P) -> f32,
) {
    vectorized(
        #[inline(always)]
        || exact_slice(out, x, words, parameter, exact),
    );
}

#[inline(always)]
fn exact_slice<P: Copy>(
    out: &mut [f32],
    x: &[f32],
    words: &[u32; BATCH],
    parameter: &P,
    exact: &impl Fn(f32, u32, &P) -> f32,
) {
    let parameter = *parameter;
    for ((out, &x), &word) in out.iter_mut().zip(x).zip(words) {
        *out = exact(x, word, &parameter);
    }
}

/// Of several groups.
fn exact_elements<'a, P: 'a>(
    out: &mut [f32],
    x: &[f32],
    words: &[u32; BATCH],
    parameter: impl Fn(usize) -> &'a P,
    exact: &impl Fn(f32, u32, &P) -> f32,
) {
    vectorized(
        #[inline(always)]
        || {
            for (i, ((out, &x), &word)) in out.iter_mut().zip(x).zip(words).enumerate() {
                *out = exact(x, word, parameter(i));
            }
        },
    );
}
