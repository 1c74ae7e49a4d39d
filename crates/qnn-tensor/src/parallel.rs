//! Splitting work over threads without changing a bit of its result.
//!
//! Chunks have a constant size, so that which elements are computed together never depends on the
//! number of threads. Short slices stay on the calling thread. Each chunk runs in code compiled for
//! the widest vectors of the machine.

pub use qnn_kernels::{Vectorize, vectorized, with_scratch};
use rayon::prelude::*;

/// Elements per chunk: 64 KiB of `f32`, a few microseconds of work.
pub const CHUNK: usize = 16 * 1024;

/// Calls `f(offset, chunk)` for consecutive chunks of `out`, in parallel when there are several.
///
/// A long closure is compiled for the widest vectors only if it says `#[inline(always)]`.
pub fn for_each_chunk<T: Send>(out: &mut [T], f: impl Fn(usize, &mut [T]) + Sync) {
    for_each_chunk_of(CHUNK, out, f);
}

/// [`for_each_chunk`] with chunks of `size` elements: for rows that must not be cut.
///
/// # Panics
///
/// If `size` is zero and `out` is not empty.
pub fn for_each_chunk_of<T: Send>(size: usize, out: &mut [T], f: impl Fn(usize, &mut [T]) + Sync) {
    if out.len() <= size {
        if !out.is_empty() {
            on_widest(0, out, &f);
        }
        return;
    }
    let chunks = out.par_chunks_mut(size).enumerate();
    chunks.for_each(|(i, chunk)| on_widest(i * size, chunk, &f));
}

/// `f(at, out)` in code for the widest vectors of the machine.
pub(crate) fn on_widest<T>(at: usize, out: &mut [T], f: &impl Fn(usize, &mut [T])) {
    vectorized(
        #[inline(always)]
        || f(at, out),
    );
}

/// Calls `f(i, row)` for each row of `row` elements; many rows are split over the threads.
///
/// # Panics
///
/// If `row` is zero or does not divide the length of `out`, unless `out` is empty.
pub fn for_each_row<T: Send>(row: usize, out: &mut [T], f: impl Fn(usize, &mut [T]) + Sync) {
    if out.is_empty() {
        return;
    }
    assert!(row > 0 && out.len().is_multiple_of(row), "{} elements are no rows of {row}", out.len());
    for_each_chunk_of(
        whole_rows(row),
        out,
        #[inline(always)]
        |at, rows| rows.chunks_exact_mut(row).enumerate().for_each(|(i, row_out)| f(at / row + i, row_out)),
    );
}

/// [`for_each_row`] with a second output, one value per row: `f(i, row, value)`.
///
/// # Panics
///
/// If `out` is not one row of `row` elements for each of `values`, or `row` is zero and there are
/// values.
pub fn for_each_row_and_value<T: Send, V: Send>(
    row: usize,
    out: &mut [T],
    values: &mut [V],
    f: impl Fn(usize, &mut [T], &mut V) + Sync,
) {
    if values.is_empty() && out.is_empty() {
        return;
    }
    let fits = row > 0 && out.len().is_multiple_of(row) && out.len() / row == values.len();
    assert!(fits, "{} elements are not {} rows of {row}", out.len(), values.len());
    let per_chunk = whole_rows(row) / row;
    let serve = |first: usize, out: &mut [T], values: &mut [V]| {
        vectorized(
            #[inline(always)]
            || {
                let rows = out.chunks_exact_mut(row).zip(values.iter_mut());
                rows.enumerate().for_each(|(i, (out, value))| f(first + i, out, value));
            },
        );
    };
    if values.len() <= per_chunk {
        return serve(0, out, values);
    }
    out.par_chunks_mut(per_chunk * row)
        .zip(values.par_chunks_mut(per_chunk))
        .enumerate()
        .for_each(|(i, (out, values))| serve(i * per_chunk, out, values));
}

/// A multiple of `row` elements near [`CHUNK`]: chunks of whole rows.
pub fn whole_rows(row: usize) -> usize {
    row.max(1) * (CHUNK / row.max(1)).max(1)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_element_is_visited_once_with_its_offset() {
        for len in [0, 1, CHUNK, CHUNK + 1, 2 * CHUNK + 3] {
            let mut out = vec![0; len];
            for_each_chunk(&mut out, |at, out| {
                out.iter_mut().enumerate().for_each(|(i, y)| *y += at + i + 1);
            });
            assert!(out.iter().enumerate().all(|(i, &y)| y == i + 1), "{len}");
        }
    }

    #[test]
    fn rows_are_never_cut_and_keep_their_numbers() {
        for (rows, row) in [(0, 5), (3, 0), (1, 1), (7, 10), (5000, 10), (3, CHUNK + 1)] {
            let (mut out, mut values) = (vec![0; rows * row], vec![0; rows]);
            for_each_row(row, &mut out, |i, row| row.fill(i + 1));
            assert!(out.iter().enumerate().all(|(i, &y)| y == i / row + 1), "{rows} rows of {row}");
            if row > 0 {
                for_each_row_and_value(row, &mut out, &mut values, |i, row, value| *value = row[0] + i);
                assert!(values.iter().enumerate().all(|(i, &v)| v == 2 * i + 1));
            }
        }
    }
}
