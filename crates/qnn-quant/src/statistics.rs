//! Means and maxima, per tensor or per index of an axis: exact enough for tensors of any size, and reproducible.
//!
//! The elements of a group are taken in row-major order, in chunks of constant size that are added in f64, and the
//! chunks' results are combined in order. So the bits depend neither on the number of threads nor on the layout in
//! memory, and a channel has the statistic that the same elements have as a tensor of their own.
//!
//! NaN makes the group's statistic NaN; an infinite element is an error. A group without elements has the statistic 0.

use std::ops::Range;
use std::sync::{Mutex, PoisonError};

use ndarray::{ArrayViewD, ArrayViewMutD};
use qnn_kernels::vectorized;
use rayon::prelude::*;

use crate::elementwise::{fill_pieces, row_major, same_shape, zip_into};
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
    // As integers, the bits of non-negative floats are ordered like the floats, with NaN at the top.
    let greatest = |chunk: &[f32]| chunk.iter().fold(0, |max: i32, x| max.max(x.abs().to_bits() as i32));
    let bits = fold(&x, groups, |_, chunk| greatest(chunk), i32::max)?;
    let maxima: Vec<f64> = bits.into_iter().map(|bits| f32::from_bits(bits as u32).into()).collect();
    finite("the maximum of |x|", &x, &maxima)?;
    Ok(maxima)
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
/// found by sorting the magnitudes. What is returned is the greatest magnitude that becomes 0, or 0; NaN where a NaN is among them.
/// Of equally good thresholds it is the greatest.
///
/// # Errors
///
/// [`Error::Infinite`], [`Error::GroupsDoNotFit`].
pub fn ternary_threshold(x: ArrayViewD<'_, f32>, groups: Groups) -> Result<Vec<f32>> {
    finite("the best threshold", &x, &mean_abs(x.view(), groups)?)?;
    let Partition { count, inner } = groups.partition(x.shape())?;
    let (rows, len) = (row_major(&x), x.len());
    Ok(in_parallel(count, len, |group| {
        let blocks = rows.chunks_exact(inner.max(1)).skip(group).step_by(count);
        let mut magnitudes: Vec<f32> = blocks.flatten().map(|x| x.abs()).collect();
        magnitudes.sort_unstable_by(|a, b| b.total_cmp(a));
        best_threshold(&magnitudes)
    }))
}

/// Of magnitudes in decreasing order.
fn best_threshold(magnitudes: &[f32]) -> f32 {
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
    threshold
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
    let means: Vec<f64> = sums.into_iter().map(|(sum, count)| sum / count.max(1) as f64).collect();
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
    let (sum, count) = parts.into_iter().reduce(|a, b| (a.0 + b.0, a.1 + b.1)).unwrap_or_default();
    let mean = sum / count.max(1) as f64;
    finite("the mean of |x| above the threshold", &x, &[mean])?;
    Ok(mean)
}

/// Sum and number of the magnitudes above a threshold.
#[inline(always)]
fn above(chunk: &[f32], threshold: f32) -> (f64, u64) {
    let sum = sum_of(chunk, |x| if x.abs() > threshold { f64::from(x.abs()) } else { 0.0 });
    let count = chunk.iter().map(|x| u32::from(x.abs() > threshold)).sum::<u32>();
    (sum, u64::from(count))
}

/// The sum of `x · y` per group. Here infinite elements are no error: they give what IEEE arithmetic gives.
///
/// # Errors
///
/// [`Error::Shape`] if `y` has another shape, [`Error::GroupsDoNotFit`].
pub fn dot(x: ArrayViewD<'_, f32>, y: ArrayViewD<'_, f32>, groups: Groups) -> Result<Vec<f64>> {
    let mut products = ndarray::ArrayD::zeros(x.raw_dim());
    zip_into(
        x,
        y,
        Groups::Tensor,
        &[()],
        products.view_mut(),
        #[inline(always)]
        |x, y, ()| x * y,
    )?;
    sum(products.view(), groups)
}

/// The sum per group, infinities and all.
pub(crate) fn sum(x: ArrayViewD<'_, f32>, groups: Groups) -> Result<Vec<f64>> {
    fold(&x, groups, |_, chunk| sum_of(chunk, f64::from), |a, b| a + b)
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

/// Elements that are reduced together. A constant of the format of results: with another one the last bits change. Pieces of
/// work are whole multiples of it.
const CHUNK: usize = 1024;
/// Independent accumulators within a chunk, so that additions need not wait for each other.
const LANES: usize = 8;
/// Interleaved groups that are gathered together: one cache line of f32.
const BUNDLE: usize = 16;
/// Below this many elements the work is not worth a second thread.
const PARALLEL: usize = 1 << 15;

#[inline(always)]
fn sum_of(chunk: &[f32], term: impl Fn(f32) -> f64) -> f64 {
    let mut lanes = [0.0; LANES];
    let mut blocks = chunk.chunks_exact(LANES);
    for block in &mut blocks {
        for (lane, &x) in lanes.iter_mut().zip(block) {
            *lane += term(x);
        }
    }
    for (lane, &x) in lanes.iter_mut().zip(blocks.remainder()) {
        *lane += term(x);
    }
    lanes.iter().sum()
}

/// Reduces each group to one number: `chunk(group, elements)` for each chunk, then `merge` in order.
fn fold<A: Copy + Default + Send>(
    x: &ArrayViewD<'_, f32>,
    groups: Groups,
    chunk: impl Fn(usize, &[f32]) -> A + Sync,
    merge: impl Fn(A, A) -> A + Sync,
) -> Result<Vec<A>> {
    let Partition { count, inner } = groups.partition(x.shape())?;
    if x.is_empty() {
        return Ok(vec![A::default(); count]);
    }
    let chunk = |group: usize, elements: &[f32]| {
        vectorized(
            #[inline(always)]
            || chunk(group, elements),
        )
    };
    let x = row_major(x);
    Ok(match (count, inner) {
        (1, _) => vec![fold_one(&x, |elements| chunk(0, elements), merge)],
        (_, 1) => fold_interleaved(&x, count, chunk, merge),
        _ => in_parallel(count, x.len(), |group| {
            let mut reduction = Reduction::new(|elements: &[f32]| chunk(group, elements), &merge);
            x.chunks_exact(inner).skip(group).step_by(count).for_each(|block| reduction.extend(block));
            reduction.finish()
        }),
    })
}

fn fold_one<A: Copy + Default + Send>(
    x: &[f32],
    chunk: impl Fn(&[f32]) -> A + Sync,
    merge: impl Fn(A, A) -> A,
) -> A {
    if x.len() <= PARALLEL {
        return x.chunks(CHUNK).map(chunk).reduce(merge).unwrap_or_default();
    }
    let parts: Vec<A> = x.par_chunks(CHUNK).with_min_len(PARALLEL / CHUNK).map(&chunk).collect();
    parts.into_iter().reduce(merge).unwrap_or_default()
}

/// Groups along the last axis: whole cache lines are read, and each group's elements are brought together.
fn fold_interleaved<A: Copy + Default + Send>(
    x: &[f32],
    count: usize,
    chunk: impl Fn(usize, &[f32]) -> A + Sync,
    merge: impl Fn(A, A) -> A + Sync,
) -> Vec<A> {
    let bundles = count.div_ceil(BUNDLE);
    // One task for a chunk of rows and a bundle of groups: neighbouring tasks share the pages that they read.
    let tasks = (x.len() / count).div_ceil(CHUNK) * bundles;
    let part = |columns: &mut Vec<f32>, task: usize| {
        let rows = &x[task / bundles * CHUNK * count..];
        let rows = &rows[..rows.len().min(CHUNK * count)];
        let first = task % bundles * BUNDLE;
        bundle_parts(rows, count, first..count.min(first + BUNDLE), columns, &chunk)
    };
    let parts: Vec<[A; BUNDLE]> = if x.len() <= PARALLEL {
        let mut columns = Vec::new();
        (0..tasks).map(|task| part(&mut columns, task)).collect()
    } else {
        (0..tasks).into_par_iter().map_init(Vec::new, part).collect()
    };
    let mut results: Vec<Option<A>> = vec![None; count];
    for (task, parts) in parts.into_iter().enumerate() {
        for (result, part) in results[task % bundles * BUNDLE..].iter_mut().zip(parts) {
            *result = Some(result.map_or(part, |sum| merge(sum, part)));
        }
    }
    results.into_iter().map(Option::unwrap_or_default).collect()
}

/// What `chunk` makes of each of a few neighbouring groups, in a chunk of rows. The last bundle may have fewer groups than parts.
fn bundle_parts<A: Copy + Default>(
    rows: &[f32],
    count: usize,
    members: Range<usize>,
    columns: &mut Vec<f32>,
    chunk: impl Fn(usize, &[f32]) -> A,
) -> [A; BUNDLE] {
    let height = rows.len() / count;
    // Columns a power of two apart would compete for the same lines of the cache.
    let pitch = height + BUNDLE;
    columns.resize(members.len() * pitch, 0.0);
    for (r, row) in rows.chunks_exact(count).enumerate() {
        for (column, &x) in columns.chunks_exact_mut(pitch).zip(&row[members.clone()]) {
            column[r] = x;
        }
    }
    let mut parts = [A::default(); BUNDLE];
    for ((part, column), group) in parts.iter_mut().zip(columns.chunks_exact(pitch)).zip(members) {
        *part = chunk(group, &column[..height]);
    }
    parts
}

/// Cuts a sequence that arrives in blocks of any length into chunks of constant length.
struct Reduction<A, C, M> {
    buffer: Vec<f32>,
    result: Option<A>,
    chunk: C,
    merge: M,
}

impl<A: Copy + Default, C: Fn(&[f32]) -> A, M: Fn(A, A) -> A> Reduction<A, C, M> {
    fn new(chunk: C, merge: M) -> Self {
        Reduction { buffer: Vec::with_capacity(CHUNK), result: None, chunk, merge }
    }

    fn extend(&mut self, mut block: &[f32]) {
        while !block.is_empty() {
            let (head, tail) = block.split_at(block.len().min(CHUNK - self.buffer.len()));
            self.buffer.extend_from_slice(head);
            block = tail;
            if self.buffer.len() == CHUNK {
                self.flush();
            }
        }
    }

    fn flush(&mut self) {
        let part = (self.chunk)(&self.buffer);
        self.result = Some(self.result.map_or(part, |sum| (self.merge)(sum, part)));
        self.buffer.clear();
    }

    fn finish(mut self) -> A {
        if !self.buffer.is_empty() {
            self.flush();
        }
        self.result.unwrap_or_default()
    }
}

fn in_parallel<T: Send>(count: usize, work: usize, task: impl Fn(usize) -> T + Sync) -> Vec<T> {
    if work <= PARALLEL {
        return (0..count).map(task).collect();
    }
    (0..count).into_par_iter().map(&task).collect()
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
