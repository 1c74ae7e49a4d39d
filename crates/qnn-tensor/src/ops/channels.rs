//! Sums over the rows of a `[rows, channels]` matrix, channel by channel.
//!
//! The hot loop adds in the element type, eight channels at a time, so that it vectorises without
//! conversions; after [`BLOCK`] rows its sums move on to f64. A long sum keeps its digits, and its
//! bits depend on the values alone.

use std::array;

use rayon::prelude::*;

use crate::parallel::whole_rows;
use crate::{Scalar, Tensor};

/// Rows that are added in the element type: their rounding errors stay near one unit of the last
/// place.
const BLOCK: usize = 32;

/// Channels that are summed side by side in registers.
const LANES: usize = 8;

/// The sums over all rows of the `K` terms that `f` makes of the `N` inputs and the `P`
/// per-channel parameters; in parallel over chunks of rows.
pub(super) fn sums<T: Scalar, const N: usize, const P: usize, const K: usize>(
    channels: usize,
    inputs: [&[T]; N],
    parameters: [&[T]; P],
    f: impl Fn([T; N], [T; P]) -> [T; K] + Sync,
) -> [Vec<f64>; K] {
    let mut total = array::from_fn(|_| vec![0.0; channels]);
    let parts = map_chunks(channels, inputs, |inputs| chunk_sums(channels, inputs, parameters, &f));
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
    mut emit: impl FnMut(usize, usize, &[f64]),
) {
    let whole = channels - channels % LANES;
    for first in (0..whole).step_by(LANES) {
        let sums = lane_sums::<T, LANES, N, P, K>(channels, first, inputs, parameters, &f);
        (0..K).for_each(|k| emit(k, first, &sums[k]));
    }
    for first in whole..channels {
        let sums = lane_sums::<T, 1, N, P, K>(channels, first, inputs, parameters, &f);
        (0..K).for_each(|k| emit(k, first, &sums[k]));
    }
}

/// The sums of the terms of the `L` channels from `first` on.
fn lane_sums<T: Scalar, const L: usize, const N: usize, const P: usize, const K: usize>(
    channels: usize,
    first: usize,
    inputs: [&[T]; N],
    parameters: [&[T]; P],
    f: &impl Fn([T; N], [T; P]) -> [T; K],
) -> [[f64; L]; K] {
    let mut total = [[0.0; L]; K];
    let rows = inputs[0].len() / channels;
    let parameters = parameters.map(|values| load::<T, L>(values, first));
    for start in (0..rows).step_by(BLOCK) {
        let mut sums = [[T::zero(); L]; K];
        for row in start..rows.min(start + BLOCK) {
            let inputs = inputs.map(|values| load::<T, L>(values, row * channels + first));
            for lane in 0..L {
                let terms = f(inputs.map(|x| x[lane]), parameters.map(|p| p[lane]));
                (0..K).for_each(|k| sums[k][lane] += terms[k]);
            }
        }
        for (total, sums) in total.iter_mut().zip(sums) {
            total.iter_mut().zip(sums).for_each(|(total, sum)| *total += sum.as_f64());
        }
    }
    total
}

#[inline(always)]
fn load<T: Scalar, const L: usize>(values: &[T], at: usize) -> [T; L] {
    let lanes: &[T; L] = values[at..at + L].try_into().expect("the range has L elements");
    *lanes
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sums_agree_with_plain_ones_for_any_number_of_channels() {
        for channels in [1, 3, 8, 13, 16, 64] {
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
