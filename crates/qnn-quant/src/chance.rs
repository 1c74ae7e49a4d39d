//! Random numbers that belong to positions: the same for any number of threads.

use ndarray::{ArrayViewD, ArrayViewMutD};
use rand_chacha::ChaCha8Rng;
use rand_chacha::rand_core::{RngCore, SeedableRng};

use crate::elementwise::{fill_pieces, row_major, same_shape, vectorised};
use crate::groups::Partition;
use crate::{Groups, Result};

/// Where the random word of each element comes from: element `i`, in row-major order, has word `i` of ChaCha8's stream
/// `draw` under the key of `seed`.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Words {
    pub(crate) seed: u64,
    pub(crate) draw: u64,
}

/// Words that are made at once, on the stack.
const BATCH: usize = 512;

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
    let mut key = ChaCha8Rng::seed_from_u64(words.seed);
    key.set_stream(words.draw);
    fill_pieces(out, |start, piece| {
        let mut random = key.clone();
        random.set_word_pos(start as u128);
        let mut start = start;
        for batch in piece.chunks_mut(BATCH) {
            let mut bytes = [[0_u8; 4]; BATCH];
            random.fill_bytes(bytes[..batch.len()].as_flattened_mut());
            let inputs = x[start..start + batch.len()].iter().zip(&bytes);
            let group = (start / inner) % count;
            if (start + batch.len() - 1) / inner == start / inner {
                let parameter = &parameters[group];
                vectorised(
                    #[inline(always)]
                    || {
                        let outputs = batch.iter_mut().zip(inputs.clone());
                        outputs.for_each(|(out, (&x, bytes))| {
                            *out = f(x, u32::from_le_bytes(*bytes), parameter)
                        });
                    },
                );
            } else {
                batch.iter_mut().zip(inputs).enumerate().for_each(|(i, (out, (&x, bytes)))| {
                    *out = f(x, u32::from_le_bytes(*bytes), &parameters[(start + i) / inner % count]);
                });
            }
            start += batch.len();
        }
    });
    Ok(())
}
