//! How groups of any layout are reduced: in chunks of constant size, whose results are combined in order.

use std::ops::Range;

use ndarray::ArrayViewD;
use qnn_kernels::vectorized;
use rayon::prelude::*;

use crate::elementwise::row_major;
use crate::groups::Partition;
use crate::{Groups, Result};

/// Elements that are reduced together. A constant of the format of results: with another one the last bits change. Pieces of
/// work are whole multiples of it.
pub(super) const CHUNK: usize = 1024;
/// Independent accumulators within a chunk, so that additions need not wait for each other.
const LANES: usize = 8;
/// Interleaved groups that are gathered together: one cache line of f32.
const BUNDLE: usize = 16;
/// Below this many elements the work is not worth a second thread.
const PARALLEL: usize = 1 << 15;

#[inline(always)]
pub(super) fn sum_of(chunk: &[f32], term: impl Fn(f32) -> f64) -> f64 {
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
pub(super) fn fold<A: Copy + Default + Send>(
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

/// [`fold`] of `count` groups along the last axis, while `write` is handed each band of rows with its part of `out`: the band was just read,
/// and is still in a cache.
pub(super) fn fold_bands<A: Copy + Default + Send>(
    x: &[f32],
    count: usize,
    out: &mut [f32],
    chunk: impl Fn(usize, &[f32]) -> A + Sync,
    merge: impl Fn(A, A) -> A,
    write: impl Fn(&mut [f32], &[f32]) + Sync,
) -> Vec<A> {
    if x.is_empty() {
        return vec![A::default(); count];
    }
    let band = |columns: &mut Vec<f32>, (rows, out): (&[f32], &mut [f32])| {
        let mut parts = Vec::with_capacity(count);
        for first in (0..count).step_by(BUNDLE) {
            let members = first..count.min(first + BUNDLE);
            let bundle = bundle_parts(rows, count, members.clone(), columns, &chunk);
            parts.extend_from_slice(&bundle[..members.len()]);
        }
        write(out, rows);
        parts
    };
    let bands = x.par_chunks(CHUNK * count).zip(out.par_chunks_mut(CHUNK * count));
    let bands: Vec<Vec<A>> = bands.map_init(Vec::new, band).collect();
    let merge = |a: Vec<A>, b: Vec<A>| a.into_iter().zip(b).map(|(a, b)| merge(a, b)).collect();
    bands.into_iter().reduce(merge).unwrap_or_default()
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

/// Reduces groups whose elements lie in blocks of `inner`, as [`fold`] does, and hands each block of the output with its elements to `write`
/// while they are in the cache.
pub(super) fn fold_blocks<A: Copy + Default + Send>(
    x: &[f32],
    [count, inner]: [usize; 2],
    out: &mut [f32],
    chunk: impl Fn(usize, &[f32]) -> A + Sync,
    merge: impl Fn(A, A) -> A + Sync,
    write: impl Fn(usize, &mut [f32], &[f32]) + Sync,
) -> Vec<A> {
    let mut groups: Vec<Vec<&mut [f32]>> = (0..count).map(|_| Vec::new()).collect();
    for (index, block) in out.chunks_exact_mut(inner).enumerate() {
        groups[index % count].push(block);
    }
    let reduce = |(group, outs): (usize, Vec<&mut [f32]>)| {
        let chunk = |elements: &[f32]| {
            vectorized(
                #[inline(always)]
                || chunk(group, elements),
            )
        };
        let mut reduction = Reduction::new(chunk, &merge);
        for (block, out) in x.chunks_exact(inner).skip(group).step_by(count).zip(outs) {
            for (block, out) in block.chunks(CHUNK).zip(out.chunks_mut(CHUNK)) {
                write(group, out, block);
                reduction.extend(block);
            }
        }
        reduction.finish()
    };
    if x.len() <= PARALLEL {
        return groups.into_iter().enumerate().map(reduce).collect();
    }
    groups.into_par_iter().enumerate().map(reduce).collect()
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

pub(super) fn in_parallel<T: Send>(count: usize, work: usize, task: impl Fn(usize) -> T + Sync) -> Vec<T> {
    if work <= PARALLEL {
        return (0..count).map(task).collect();
    }
    (0..count).into_par_iter().map(&task).collect()
}
