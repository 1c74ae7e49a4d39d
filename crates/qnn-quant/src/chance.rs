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
pub(crate) fn map_into<P: Sync>(
    x: ArrayViewD<'_, f32>,
    groups: Groups,
    parameters: &[P],
    words: Words,
    out: ArrayViewMutD<'_, f32>,
    f: impl Fn(f32, u32, &P) -> f32 + Sync,
) -> Result<()> {
    same_shape("the output", x.shape(), out.shape())?;
    let Partition { count, inner } = groups.partition(x.shape())?;
    let x = row_major(&x);
    let random = ChaCha8::new(ChaCha8Rng::seed_from_u64(words.seed).get_seed(), words.draw);
    fill_pieces(out, |start, piece| {
        let starts = (start..).step_by(BATCH);
        for ((batch, inputs), start) in piece.chunks_mut(BATCH).zip(x[start..].chunks(BATCH)).zip(starts) {
            let group = start / inner;
            let parameter = &parameters[group % count];
            let is_one_group = (start + batch.len() - 1) / inner == group;
            vectorized(
                #[inline(always)]
                || {
                    let mut words = [0; BATCH];
                    random.fill(start as u64, &mut words);
                    let elements = batch.iter_mut().zip(inputs).zip(&words);
                    if is_one_group {
                        elements.for_each(|((out, &x), &word)| *out = f(x, word, parameter));
                    } else {
                        elements.enumerate().for_each(|(i, ((out, &x), &word))| {
                            *out = f(x, word, &parameters[(start + i) / inner % count]);
                        });
                    }
                },
            );
        }
    });
    Ok(())
}
