//! Random numbers that belong to positions: the same for any number of threads.

use ndarray::{ArrayViewD, ArrayViewMutD};
use qnn_kernels::vectorized;
use qnn_math::chacha::{BATCH, ChaCha8};
use rand_chacha::ChaCha8Rng;
use rand_chacha::rand_core::SeedableRng;

use crate::elementwise::{fill_pieces, row_major, same_shape};
use crate::groups::Partition;
use crate::{Groups, Result};

/// Where the random word of each element comes from: element `i`, in row-major order, has word `i` of ChaCha8's stream
/// `draw` under the key of `seed`.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Words {
    pub(crate) seed: u64,
    pub(crate) draw: u64,
}

/// `out = f(x, random word of the position, parameters[group of x])`.
pub(crate) fn map_into<P: Copy + Sync>(
    x: ArrayViewD<'_, f32>,
    groups: Groups,
    parameters: &[P],
    words: Words,
    out: ArrayViewMutD<'_, f32>,
    f: impl Fn(f32, u32, &P) -> f32 + Sync,
) -> Result<()> {
    each_batch(
        x,
        groups,
        parameters,
        words,
        out,
        #[inline(always)]
        |batch: Batch<'_>, parameter: &P| batch.map(parameter, &f),
        &f,
    )
}

/// [`map_into`] with `exact`, by way of `quick`, whose second result is a doubt: batches in which it is below 1 everywhere are finished.
pub(crate) fn map_checked_into<P: Copy + Sync>(
    x: ArrayViewD<'_, f32>,
    groups: Groups,
    parameters: &[P],
    words: Words,
    out: ArrayViewMutD<'_, f32>,
    quick: impl Fn(f32, u32, &P) -> (f32, f32) + Sync,
    exact: impl Fn(f32, u32, &P) -> f32 + Sync,
) -> Result<()> {
    each_batch(
        x,
        groups,
        parameters,
        words,
        out,
        #[inline(always)]
        |mut batch: Batch<'_>, parameter: &P| {
            let is_certain = batch.quick(parameter, &quick) < 1.0;
            if !is_certain {
                batch.map(parameter, &exact);
            }
        },
        &exact,
    )
}

/// Elements of one group with their words.
struct Batch<'a> {
    out: &'a mut [f32],
    x: &'a [f32],
    words: &'a [u32; BATCH],
}

impl Batch<'_> {
    #[inline(always)]
    fn map<P: Copy>(self, parameter: &P, f: &impl Fn(f32, u32, &P) -> f32) {
        let parameter = *parameter;
        for ((out, &x), &word) in self.out.iter_mut().zip(self.x).zip(self.words) {
            *out = f(x, word, &parameter);
        }
    }

    /// The greatest doubt.
    #[inline(always)]
    fn quick<P: Copy>(&mut self, parameter: &P, f: &impl Fn(f32, u32, &P) -> (f32, f32)) -> f32 {
        let parameter = *parameter;
        let mut greatest = 0;
        for ((out, &x), &word) in self.out.iter_mut().zip(self.x).zip(self.words) {
            let (value, doubt) = f(x, word, &parameter);
            *out = value;
            // As integers, the bits of non-negative floats are ordered like the floats, with NaN at the top; this maximum vectorises.
            greatest = greatest.max(doubt.abs().to_bits() as i32);
        }
        f32::from_bits(greatest as u32)
    }
}

/// Hands every batch whose elements have one parameter to `batch`, and the elements of others to `element`, one by one.
fn each_batch<P: Sync>(
    x: ArrayViewD<'_, f32>,
    groups: Groups,
    parameters: &[P],
    words: Words,
    out: ArrayViewMutD<'_, f32>,
    batch: impl Fn(Batch<'_>, &P) + Sync,
    element: impl Fn(f32, u32, &P) -> f32 + Sync,
) -> Result<()> {
    same_shape("the output", x.shape(), out.shape())?;
    let Partition { count, inner } = groups.partition(x.shape())?;
    let x = row_major(&x);
    let random = ChaCha8::new(ChaCha8Rng::seed_from_u64(words.seed).get_seed(), words.draw);
    fill_pieces(out, |start, piece| {
        let starts = (start..).step_by(BATCH);
        for ((out, x), start) in piece.chunks_mut(BATCH).zip(x[start..].chunks(BATCH)).zip(starts) {
            let group = start / inner;
            let is_one_group = (start + out.len() - 1) / inner == group;
            vectorized(
                #[inline(always)]
                || {
                    let mut words = [0; BATCH];
                    random.fill(start as u64, &mut words);
                    if is_one_group {
                        batch(Batch { out: &mut *out, x, words: &words }, &parameters[group % count]);
                    } else {
                        for (i, ((out, &x), &word)) in out.iter_mut().zip(x).zip(&words).enumerate() {
                            *out = element(x, word, &parameters[(start + i) / inner % count]);
                        }
                    }
                },
            );
        }
    });
    Ok(())
}
