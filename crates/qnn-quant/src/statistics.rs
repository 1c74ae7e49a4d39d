//! Means and maxima, per tensor or per index of an axis: exact enough for tensors of any size, and reproducible.
//!
//! The elements of a group are taken in row-major order, in chunks of constant size that are added in f64, and the
//! chunks' results are combined in order. So the bits depend neither on the number of threads nor on the layout in
//! memory, and a channel has the statistic that the same elements have as a tensor of their own.
//!
//! NaN makes the group's statistic NaN; an infinite element is an error. A group without elements has the statistic 0.

mod reduction;

use std::sync::{Mutex, PoisonError};

use ndarray::{ArrayViewD, ArrayViewMutD};
use qnn_kernels::vectorized;

use self::reduction::{CHUNK, fold, fold_bands, fold_blocks, in_parallel, sum_of};
use crate::elementwise::{fill_pieces, map_row, map_slice, row_major, same_shape, write_row_major, zip_into};
use crate::groups::Partition;
use crate::{Error, Groups, Result};

/// The mean of |x| per group.
///
/// ```
/// # use qnn_quant::{Groups, statistics};
/// # use ndarray::array;
/// let x = array![[1.0, -2.0], [-3.0, 0.0]].into_dyn();
/// assert_eq!(statistics::mean_abs(x.view(), Groups::Tensor)?, [1.5]);
/// assert_eq!(statistics::mean_abs(x.view(), Groups::Axis { axis: 1, len: 2 })?, [2.0, 1.0]);
/// # Ok::<(), qnn_quant::Error>(())
/// ```
///
/// # Errors
///
/// [`Error::Infinite`], [`Error::GroupsDoNotFit`].
pub fn mean_abs(x: ArrayViewD<'_, f32>, groups: Groups) -> Result<Vec<f64>> {
    let sums = fold(
        &x,
        groups,
        #[inline(always)]
        |_, chunk| {
            sum_of(
                chunk,
                #[inline(always)]
                |x| f64::from(x.abs()),
            )
        },
        |a, b| a + b,
    )?;
    finite("the mean of |x|", &x, &sums)?;
    let len = (x.len() / groups.count().max(1)).max(1) as f64;
    Ok(sums.into_iter().map(|sum| sum / len).collect())
}

/// The greatest |x| per group.
///
/// # Errors
///
/// [`Error::Infinite`], [`Error::GroupsDoNotFit`].
pub fn max_abs(x: ArrayViewD<'_, f32>, groups: Groups) -> Result<Vec<f64>> {
    let maxima = max_abs_or_infinity(x.view(), groups)?;
    finite("the maximum of |x|", &x, &maxima)?;
    Ok(maxima)
}

/// [`max_abs`], among whose elements infinities may be.
///
/// # Errors
///
/// [`Error::GroupsDoNotFit`].
pub(crate) fn max_abs_or_infinity(x: ArrayViewD<'_, f32>, groups: Groups) -> Result<Vec<f64>> {
    // As integers, the bits of non-negative floats are ordered like the floats, with NaN at the top.
    let greatest = |chunk: &[f32]| chunk.iter().fold(0, |max: i32, x| max.max(x.abs().to_bits() as i32));
    let bits = fold(&x, groups, |_, chunk| greatest(chunk), i32::max)?;
    Ok(bits.into_iter().map(|bits| f32::from_bits(bits as u32).into()).collect())
}

/// The least and the greatest element per group, in one pass; NaN and NaN where a NaN is among them.
///
/// # Errors
///
/// [`Error::Infinite`], [`Error::GroupsDoNotFit`].
pub fn min_max(x: ArrayViewD<'_, f32>, groups: Groups) -> Result<Vec<(f32, f32)>> {
    let ends = |chunk: &[f32]| {
        let start = Ends { least: i32::MAX, greatest: i32::MIN, any: !chunk.is_empty() };
        chunk.iter().fold(start, |ends, &x| ends.with(ordered(x)))
    };
    let results = fold(&x, groups, |_, chunk| ends(chunk), Ends::merge)?;
    let pairs: Vec<(f32, f32)> = results.into_iter().map(Ends::floats).collect();
    let sums: Vec<f64> =
        pairs.iter().map(|&(least, greatest)| f64::from(least) + f64::from(greatest)).collect();
    finite("the range", &x, &sums)?;
    Ok(pairs)
}

/// Integers in the order of the floats, `-0.0` below `0.0`, negative NaN at the bottom and positive NaN at the top. Their
/// maxima vectorise, which those of floats do not.
#[inline(always)]
fn ordered(x: f32) -> i32 {
    let bits = x.to_bits() as i32;
    bits ^ (((bits >> 31) as u32) >> 1) as i32
}

/// A range of [`ordered`] floats.
#[derive(Clone, Copy, Default)]
struct Ends {
    least: i32,
    greatest: i32,
    any: bool,
}

impl Ends {
    #[inline(always)]
    fn with(self, x: i32) -> Self {
        Ends { least: self.least.min(x), greatest: self.greatest.max(x), any: self.any }
    }

    fn merge(self, other: Self) -> Self {
        Ends { least: self.least.min(other.least), greatest: self.greatest.max(other.greatest), any: true }
    }

    fn floats(self) -> (f32, f32) {
        if !self.any {
            return (0.0, 0.0);
        }
        let float = |bits: i32| f32::from_bits((bits ^ (((bits >> 31) as u32) >> 1) as i32) as u32);
        let (least, greatest) = (float(self.least), float(self.greatest));
        if least.is_nan() || greatest.is_nan() { (f32::NAN, f32::NAN) } else { (least, greatest) }
    }
}

/// The ternary threshold per group that leaves the least squared error: of all `D`, the one with the greatest
///
/// ```text
/// ( Σ over |x| > D of |x| )² / ( how many |x| > D )
/// ```
///
/// found by sorting a copy of the magnitudes. What is returned is the greatest magnitude that becomes 0, or 0; NaN where a NaN is among them.
/// Of equally good thresholds it is the greatest.
///
/// # Errors
///
/// [`Error::Infinite`], [`Error::GroupsDoNotFit`].
pub fn ternary_threshold(x: ArrayViewD<'_, f32>, groups: Groups) -> Result<Vec<f32>> {
    let Partition { count, inner } = groups.partition(x.shape())?;
    let (rows, len) = (row_major(&x), x.len());
    let found = in_parallel(count, len, |group| {
        let blocks = rows.chunks_exact(inner.max(1)).skip(group).step_by(count);
        let mut magnitudes: Vec<f32> = blocks.flatten().map(|x| x.abs()).collect();
        magnitudes.sort_unstable_by(|a, b| b.total_cmp(a));
        best_threshold(&magnitudes)
    });
    let (thresholds, sums): (Vec<f32>, Vec<f64>) = found.into_iter().unzip();
    finite("the best threshold", &x, &sums)?;
    Ok(thresholds)
}

/// Of magnitudes in decreasing order, and their sum.
fn best_threshold(magnitudes: &[f32]) -> (f32, f64) {
    let (mut sum, mut best, mut threshold) = (0.0, 0.0, magnitudes.first().copied().unwrap_or(0.0));
    for (index, &magnitude) in magnitudes.iter().enumerate() {
        sum += f64::from(magnitude);
        let next = magnitudes.get(index + 1).copied().unwrap_or(0.0);
        let gain = sum * sum / (index + 1) as f64;
        // Equal magnitudes become 0 together or not at all.
        if next < magnitude && gain > best {
            (best, threshold) = (gain, next);
        }
    }
    (threshold, sum)
}

/// The mean of |x| over the elements with `|x| > threshold`, per group; 0 where there are none.
///
/// # Errors
///
/// [`Error::Infinite`], [`Error::GroupsDoNotFit`].
///
/// # Panics
///
/// If there is not one threshold per group.
pub fn mean_abs_above(x: ArrayViewD<'_, f32>, groups: Groups, thresholds: &[f32]) -> Result<Vec<f64>> {
    assert_eq!(thresholds.len(), groups.count(), "there must be one threshold per group");
    let sums =
        fold(&x, groups, |group, chunk| above(chunk, thresholds[group]), |a, b| (a.0 + b.0, a.1 + b.1))?;
    let means: Vec<f64> = sums.into_iter().zip(thresholds).map(|(sums, &t)| mean_above(sums, t)).collect();
    finite("the mean of |x| above the threshold", &x, &means)?;
    Ok(means)
}

/// [`mean_abs_above`] of a whole tensor, to the bit, while `out = f(x)` is written in the same pass.
pub(crate) fn mean_abs_above_while(
    x: ArrayViewD<'_, f32>,
    threshold: f32,
    out: ArrayViewMutD<'_, f32>,
    f: impl Fn(f32) -> f32 + Sync,
) -> Result<f64> {
    same_shape("the output", x.shape(), out.shape())?;
    let rows = row_major(&x);
    let parts = Mutex::new(vec![(0.0, 0); rows.len().div_ceil(CHUNK)]);
    fill_pieces(out, |start, piece| {
        let inputs = &rows[start..start + piece.len()];
        let sums: Vec<(f64, u64)> = inputs
            .chunks(CHUNK)
            .zip(piece.chunks_mut(CHUNK))
            .map(|(chunk, out)| {
                vectorized(
                    #[inline(always)]
                    || {
                        out.iter_mut().zip(chunk).for_each(|(out, &x)| *out = f(x));
                        above(chunk, threshold)
                    },
                )
            })
            .collect();
        let mut parts = parts.lock().unwrap_or_else(PoisonError::into_inner);
        parts[start / CHUNK..][..sums.len()].copy_from_slice(&sums);
    });
    let parts = parts.into_inner().unwrap_or_else(PoisonError::into_inner);
    let sums = parts.into_iter().reduce(|a, b| (a.0 + b.0, a.1 + b.1)).unwrap_or_default();
    let mean = mean_above(sums, threshold);
    finite("the mean of |x| above the threshold", &x, &[mean])?;
    Ok(mean)
}

/// [`mean_abs_above`] of groups along an axis, to the bit, while `out = f(x, threshold)` is written in the same pass.
pub(crate) fn channel_means_above_while(
    x: ArrayViewD<'_, f32>,
    groups: Groups,
    thresholds: &[f32],
    out: ArrayViewMutD<'_, f32>,
    f: impl Fn(f32, &f32) -> f32 + Sync,
) -> Result<Vec<f64>> {
    same_shape("the output", x.shape(), out.shape())?;
    let Partition { count, inner } = groups.partition(x.shape())?;
    assert_eq!(thresholds.len(), count, "there must be one threshold per group");
    let rows = row_major(&x);
    let mut sums = Vec::new();
    write_row_major(out, &mut |out| {
        if inner > 1 {
            sums = fold_blocks(
                &rows,
                [count, inner],
                out,
                |group, chunk| above(chunk, thresholds[group]),
                |a, b| (a.0 + b.0, a.1 + b.1),
                |group, out, block| {
                    vectorized(
                        #[inline(always)]
                        || map_slice(out, block, &thresholds[group], &f),
                    );
                },
            );
            return;
        }
        sums = fold_bands(
            &rows,
            count,
            out,
            |group, chunk| {
                vectorized(
                    #[inline(always)]
                    || above(chunk, thresholds[group]),
                )
            },
            |a, b| (a.0 + b.0, a.1 + b.1),
            |out, rows| {
                vectorized(
                    #[inline(always)]
                    || {
                        for (out, row) in out.chunks_exact_mut(count).zip(rows.chunks_exact(count)) {
                            map_row(out, row, thresholds, &f);
                        }
                    },
                );
            },
        );
    });
    let means: Vec<f64> = sums.into_iter().zip(thresholds).map(|(sums, &t)| mean_above(sums, t)).collect();
    finite("the mean of |x| above the threshold", &x, &means)?;
    Ok(means)
}

/// The mean from sum and number; 0 of nothing, and NaN if nobody knows what lies above.
fn mean_above((sum, count): (f64, u64), threshold: f32) -> f64 {
    if threshold.is_nan() { f64::NAN } else { sum / count.max(1) as f64 }
}

/// Sum and number of the magnitudes above a threshold.
#[inline(always)]
fn above(chunk: &[f32], threshold: f32) -> (f64, u64) {
    // What is not known to lie below counts, so that NaN reaches the sum.
    let sum = sum_of(chunk, |x| if x.abs() <= threshold { 0.0 } else { f64::from(x.abs()) });
    let count = chunk.iter().map(|x| if x.abs() <= threshold { 0 } else { 1 }).sum::<u32>();
    (sum, u64::from(count))
}

/// The sum per group of what `product` makes of each pair, in f32: infinities and all.
///
/// # Errors
///
/// [`Error::Shape`] if `y` has another shape, [`Error::GroupsDoNotFit`].
pub(crate) fn sum_of_products(
    x: ArrayViewD<'_, f32>,
    y: ArrayViewD<'_, f32>,
    groups: Groups,
    product: impl Fn(f32, f32) -> f32 + Sync,
) -> Result<Vec<f64>> {
    if groups == Groups::Tensor {
        same_shape("the second input", x.shape(), y.shape())?;
        let (x, y) = (row_major(&x), row_major(&y));
        let part = |index: usize| {
            let range = index * CHUNK..x.len().min((index + 1) * CHUNK);
            let mut products = [0.0; CHUNK];
            let products = &mut products[..range.len()];
            vectorized(
                #[inline(always)]
                || {
                    let pairs = x[range.clone()].iter().zip(&y[range.clone()]);
                    products.iter_mut().zip(pairs).for_each(|(out, (&x, &y))| *out = product(x, y));
                    sum_of(products, f64::from)
                },
            )
        };
        let parts = in_parallel(x.len().div_ceil(CHUNK), x.len(), part);
        return Ok(vec![parts.into_iter().reduce(|a, b| a + b).unwrap_or_default()]);
    }
    let mut products = ndarray::ArrayD::zeros(x.raw_dim());
    zip_into(
        x,
        y,
        Groups::Tensor,
        &[()],
        products.view_mut(),
        #[inline(always)]
        |x, y, ()| product(x, y),
    )?;
    fold(&products.view(), groups, |_, chunk| sum_of(chunk, f64::from), |a, b| a + b)
}

/// Sums of `N` terms of each pair of elements, in f64.
///
/// # Errors
///
/// [`Error::Shape`] if `y` has another shape.
pub(crate) fn sum_of_pairs<const N: usize>(
    x: ArrayViewD<'_, f32>,
    y: ArrayViewD<'_, f32>,
    terms: impl Fn(f32, f32) -> [f64; N] + Sync,
) -> Result<[f64; N]> {
    same_shape("the second input", x.shape(), y.shape())?;
    let (x, y) = (row_major(&x), row_major(&y));
    let add = |a: [f64; N], b: [f64; N]| std::array::from_fn(|i| a[i] + b[i]);
    let part = |index: usize| {
        let range = index * CHUNK..x.len().min((index + 1) * CHUNK);
        vectorized(
            #[inline(always)]
            || {
                x[range.clone()]
                    .iter()
                    .zip(&y[range.clone()])
                    .fold([0.0; N], |sums, (&x, &y)| add(sums, terms(x, y)))
            },
        )
    };
    let parts = in_parallel(x.len().div_ceil(CHUNK), x.len(), part);
    Ok(parts.into_iter().fold([0.0; N], add))
}

/// Sums of f32 do not overflow in f64, so a result that is not finite comes from an element that is not.
fn finite(statistic: &'static str, x: &ArrayViewD<'_, f32>, results: &[f64]) -> Result<()> {
    if results.iter().all(|result| result.is_finite()) {
        return Ok(());
    }
    match x.iter().enumerate().find(|(_, value)| value.is_infinite()) {
        Some((index, &value)) => Err(Error::Infinite { statistic, index, value }),
        None => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use ndarray::{ArrayD, Axis, IxDyn};

    use super::*;

    fn wave(shape: &[usize], factor: f32) -> ArrayD<f32> {
        let mut index = 0.0;
        ArrayD::from_shape_simple_fn(IxDyn(shape), || {
            index += 1.0;
            30.0 * (index * factor).sin()
        })
    }

    #[test]
    fn sums_of_products_are_those_of_each_channel_alone() {
        let product = |x: f32, y: f32| x * y;
        for shape in [[2500, 17], [1030, 64], [1024, 16], [7, 33], [3, 2], [1, 20], [4, 3000]] {
            let (x, y) = (wave(&shape, 0.7), wave(&shape, 1.1));
            for axis in 0..2 {
                let groups = Groups::Axis { axis, len: shape[axis] };
                let sums = sum_of_products(x.view(), y.view(), groups, product).unwrap();
                for ((x, y), sum) in x.axis_iter(Axis(axis)).zip(y.axis_iter(Axis(axis))).zip(sums) {
                    let alone = sum_of_products(x.view(), y.view(), Groups::Tensor, product).unwrap()[0];
                    assert_eq!(sum.to_bits(), alone.to_bits(), "{shape:?} along {axis}");
                    let plain: f64 = x.iter().zip(&y).map(|(x, y)| f64::from(x * y)).sum();
                    assert!((sum - plain).abs() <= 1e-9 * x.len() as f64, "{sum}, not {plain}");
                }
            }
        }
    }

    #[test]
    fn products_of_other_shapes_are_refused() {
        let (x, y) = (wave(&[2, 3], 1.0), wave(&[3, 2], 1.0));
        let of = |groups| sum_of_products(x.view(), y.view(), groups, |x, y| x * y);
        assert!(matches!(of(Groups::Tensor), Err(Error::Shape { .. })));
        assert!(matches!(of(Groups::Axis { axis: 1, len: 3 }), Err(Error::Shape { .. })));
    }
}
