//! Sums over the rows of a `[rows, channels]` matrix, channel by channel.
//!
//! The hot loop adds in the element type, [`WIDE`] elements side by side, so that it vectorises
//! without conversions; after [`BLOCK`] rows its sums move on to f64. A long sum keeps its digits,
//! and its bits depend on the values alone.

use std::array;

use qnn_kernels::{Vectorize, vectorized};
use rayon::prelude::*;

use crate::parallel::whole_rows;
use crate::{Scalar, Tensor};

/// Rows that are added in the element type: their rounding errors stay near one unit of the last
/// place.
const BLOCK: usize = 32;

/// Elements that are summed side by side: a block of channels, or several rows of few channels.
const WIDE: usize = 64;

/// The same for what is left of the channels.
const NARROW: usize = 16;

/// The sums over all rows of the `K` terms that `f` makes of the `N` inputs and the `P`
/// per-channel parameters; in parallel over chunks of rows.
pub(super) fn sums<T: Scalar, const N: usize, const P: usize, const K: usize>(
    channels: usize,
    inputs: [&[T]; N],
    parameters: [&[T]; P],
    f: impl Fn([T; N], [T; P]) -> [T; K] + Sync,
) -> [Vec<f64>; K] {
    total(channels, map_chunks(channels, inputs, |inputs| chunk_sums(channels, inputs, parameters, &f)))
}

/// Adds the sums of chunks in order.
pub(super) fn total<const K: usize>(
    channels: usize,
    parts: impl IntoIterator<Item = [Vec<f64>; K]>,
) -> [Vec<f64>; K] {
    let mut total = array::from_fn(|_| vec![0.0; channels]);
    for part in parts {
        for (total, part) in total.iter_mut().zip(part) {
            total.iter_mut().zip(part).for_each(|(total, part)| *total += part);
        }
    }
    total
}

/// The gradient of a per-channel bias: the sums of `dy` over all axes but the last.
pub(super) fn bias_gradient<T: Scalar>(dy: &Tensor<T>) -> Tensor<T> {
    let channels = dy.shape().last().copied().unwrap_or(1);
    let [sums] = sums(channels, [dy.as_slice()], [], |[dy], []| [dy]);
    rounded(&sums)
}

/// A vector of per-channel sums as a tensor.
pub(super) fn rounded<T: Scalar>(values: &[f64]) -> Tensor<T> {
    Tensor::from_fn(&[values.len()], |channel| T::of(values[channel]))
}

/// `f` of consecutive chunks of whole rows, in order, computed in parallel.
pub(super) fn map_chunks<T: Scalar, R: Send, const N: usize>(
    channels: usize,
    inputs: [&[T]; N],
    f: impl Fn([&[T]; N]) -> R + Sync,
) -> Vec<R> {
    let (len, size) = (inputs[0].len(), whole_rows(channels));
    if len <= size {
        return vec![f(inputs)];
    }
    let chunk = |i: usize| f(inputs.map(|x| &x[i * size..len.min((i + 1) * size)]));
    (0..len.div_ceil(size)).into_par_iter().map(chunk).collect()
}

/// [`sums`] on the calling thread.
pub(super) fn chunk_sums<T: Scalar, const N: usize, const P: usize, const K: usize>(
    channels: usize,
    inputs: [&[T]; N],
    parameters: [&[T]; P],
    f: impl Fn([T; N], [T; P]) -> [T; K],
) -> [Vec<f64>; K] {
    let mut total = array::from_fn(|_| vec![0.0; channels]);
    chunk_sums_with(channels, inputs, parameters, f, |k, first, sums| {
        total[k][first..first + sums.len()].copy_from_slice(sums);
    });
    total
}

/// [`chunk_sums`] without vectors: `emit(k, first, sums)` receives the sums of term `k` in the
/// channels from `first` on.
pub(super) fn chunk_sums_with<T: Scalar, const N: usize, const P: usize, const K: usize>(
    channels: usize,
    inputs: [&[T]; N],
    parameters: [&[T]; P],
    f: impl Fn([T; N], [T; P]) -> [T; K],
    emit: impl FnMut(usize, usize, &[f64]),
) {
    vectorized(ChunkSums { channels, inputs, parameters, f, emit });
}

struct ChunkSums<'a, T, F, E, const N: usize, const P: usize> {
    channels: usize,
    inputs: [&'a [T]; N],
    parameters: [&'a [T]; P],
    f: F,
    emit: E,
}

impl<T, F, E, const N: usize, const P: usize, const K: usize> Vectorize for ChunkSums<'_, T, F, E, N, P>
where
    T: Scalar,
    F: Fn([T; N], [T; P]) -> [T; K],
    E: FnMut(usize, usize, &[f64]),
{
    type Output = ();

    #[inline(always)]
    fn run(self) {
        let Self { channels, inputs, parameters, f, mut emit } = self;
        if channels > 0 && WIDE.is_multiple_of(channels) {
            let sums = sums_of_short_rows::<T, N, P, K>(channels, inputs, parameters, &f);
            return (0..K).for_each(|k| emit(k, 0, &sums[k][..channels]));
        }
        let mut first = 0;
        while channels - first >= WIDE {
            let sums = column_sums::<T, WIDE, N, P, K>(channels, first, inputs, parameters, &f);
            (0..K).for_each(|k| emit(k, first, &sums[k]));
            first += WIDE;
        }
        while channels - first >= NARROW {
            let sums = column_sums::<T, NARROW, N, P, K>(channels, first, inputs, parameters, &f);
            (0..K).for_each(|k| emit(k, first, &sums[k]));
            first += NARROW;
        }
        for first in first..channels {
            let sums = column_sums::<T, 1, N, P, K>(channels, first, inputs, parameters, &f);
            (0..K).for_each(|k| emit(k, first, &sums[k]));
        }
    }
}

/// Adds rows of few channels as if several were one of [`WIDE`]; the sums are the first `channels`.
#[inline(always)]
fn sums_of_short_rows<T: Scalar, const N: usize, const P: usize, const K: usize>(
    channels: usize,
    inputs: [&[T]; N],
    parameters: [&[T]; P],
    f: &impl Fn([T; N], [T; P]) -> [T; K],
) -> [[f64; WIDE]; K] {
    let whole = inputs[0].len() - inputs[0].len() % WIDE;
    let tiled = parameters.map(|values| array::from_fn::<T, WIDE, _>(|i| values[i % channels]));
    let wide = array::from_fn(|p| &tiled[p][..]);
    let mut total = column_sums::<T, WIDE, N, P, K>(WIDE, 0, inputs.map(|x| &x[..whole]), wide, f);
    for total in &mut total {
        let (first, others) = total.split_at_mut(channels);
        for other in others.chunks_exact(channels) {
            first.iter_mut().zip(other).for_each(|(total, sum)| *total += sum);
        }
    }
    let rest = inputs.map(|x| &x[whole..]);
    for channel in 0..channels {
        let sums = column_sums::<T, 1, N, P, K>(channels, channel, rest, parameters, f);
        (0..K).for_each(|k| total[k][channel] += sums[k][0]);
    }
    total
}

/// The sums of the terms of the `W` channels from `first` on.
#[inline(always)]
fn column_sums<T: Scalar, const W: usize, const N: usize, const P: usize, const K: usize>(
    channels: usize,
    first: usize,
    inputs: [&[T]; N],
    parameters: [&[T]; P],
    f: &impl Fn([T; N], [T; P]) -> [T; K],
) -> [[f64; W]; K] {
    let mut total = [[0.0; W]; K];
    let rows = inputs[0].len() / channels;
    let parameters = parameters.map(|values| part::<T, W>(values, first));
    for start in (0..rows).step_by(BLOCK) {
        let mut sums = [[T::zero(); W]; K];
        for row in start..rows.min(start + BLOCK) {
            let inputs = inputs.map(|values| part::<T, W>(values, row * channels + first));
            for i in 0..W {
                let terms = f(array::from_fn(|n| inputs[n][i]), array::from_fn(|p| parameters[p][i]));
                for k in 0..K {
                    sums[k][i] += terms[k];
                }
            }
        }
        for (total, sums) in total.iter_mut().zip(sums) {
            total.iter_mut().zip(sums).for_each(|(total, sum)| *total += sum.as_f64());
        }
    }
    total
}

#[inline(always)]
fn part<T, const W: usize>(values: &[T], at: usize) -> &[T; W] {
    values[at..].first_chunk().expect("the rows have W channels from here on")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sums_agree_with_plain_ones_for_any_number_of_channels() {
        for channels in [1, 3, 8, 13, 16, 48, 64, 83, 130] {
            for rows in [1, 31, 32, 33, 5000] {
                let x: Vec<f32> = (0..rows * channels).map(|i| (i as f32 * 0.37).sin()).collect();
                let shift: Vec<f32> = (0..channels).map(|i| i as f32 * 0.1).collect();
                let [sum, square] = sums(channels, [&x[..]], [&shift[..]], |[x], [s]| [x, (x - s) * (x - s)]);
                for channel in 0..channels {
                    let values = || x.iter().skip(channel).step_by(channels).map(|&x| f64::from(x));
                    let (plain, s) = (values().sum::<f64>(), f64::from(shift[channel]));
                    let squares = values().map(|x| (x - s) * (x - s)).sum::<f64>();
                    assert!((sum[channel] - plain).abs() < 1e-6 * rows as f64);
                    assert!((square[channel] - squares).abs() < 1e-6 * (squares + rows as f64));
                }
            }
        }
    }

    #[test]
    fn nothing_sums_to_zero() {
        assert_eq!(sums::<f32, 1, 0, 1>(3, [&[]], [], |x, []| x), [vec![0.0; 3]]);
        assert_eq!(sums::<f32, 1, 0, 1>(0, [&[]], [], |x, []| x), [vec![]]);
    }
}
