//! Sums whose bits depend on the values alone: chunks of constant size, added in order, in f64.

use qnn_kernels::vectorized;
use rayon::prelude::*;

use crate::Scalar;
use crate::parallel::{CHUNK, for_each_chunk_of};

/// Partial sums kept side by side, so that the additions do not wait for one another.
const LANES: usize = 32;

/// Rows per chunk, at least: keeps the partial sums of long rows small beside the rows.
const ROWS: usize = 64;

/// The sum of all elements, in f64.
pub fn sum<T: Scalar>(x: &[T]) -> f64 {
    sum_map(x, |x| x)
}

/// The sum of `f` of each element, in f64.
pub fn sum_map<T: Scalar>(x: &[T], f: impl Fn(f64) -> f64 + Sync) -> f64 {
    let part = |x: &[T]| {
        vectorized(
            #[inline(always)]
            || sum_chunk(x, &f),
        )
    };
    if x.len() <= CHUNK {
        return part(x);
    }
    let parts: Vec<f64> = x.par_chunks(CHUNK).map(part).collect();
    parts.into_iter().sum()
}

/// Partial sums side by side, then theirs.
#[inline(always)]
fn sum_chunk<T: Scalar>(x: &[T], f: &impl Fn(f64) -> f64) -> f64 {
    let mut lanes = [0.0; LANES];
    let mut blocks = x.chunks_exact(LANES);
    for block in &mut blocks {
        lanes.iter_mut().zip(block).for_each(|(sum, x)| *sum += f(x.as_f64()));
    }
    lanes.iter_mut().zip(blocks.remainder()).for_each(|(sum, x)| *sum += f(x.as_f64()));
    lanes.iter().sum()
}

/// The sum of `f` of each pair of elements, in f64.
///
/// # Panics
///
/// If the lengths differ.
pub fn sum_zip_map<T: Scalar>(a: &[T], b: &[T], f: impl Fn(f64, f64) -> f64 + Sync) -> f64 {
    assert_eq!(a.len(), b.len(), "sum_zip_map needs equal lengths");
    let part = |(a, b): (&[T], &[T])| a.iter().zip(b).map(|(a, b)| f(a.as_f64(), b.as_f64())).sum::<f64>();
    if a.len() <= CHUNK {
        return part((a, b));
    }
    let parts: Vec<f64> = a.par_chunks(CHUNK).zip(b.par_chunks(CHUNK)).map(part).collect();
    parts.into_iter().sum()
}

/// The sums of the columns of a matrix with rows of `row` elements, in f64.
///
/// # Panics
///
/// If `row` is zero or does not divide the length.
pub fn sum_rows<T: Scalar>(x: &[T], row: usize) -> Vec<f64> {
    check_rows(x.len(), row);
    if row == 1 {
        return vec![sum(x)];
    }
    if row >= CHUNK {
        return sum_long_rows(x, row);
    }
    // Several short rows are added as one, for full vectors.
    let wide = row * (LANES / row).max(1);
    fold_chunks(
        x,
        rows_per_chunk(row) * row,
        #[inline(always)]
        |x| {
            let mut sums = vec![0.0; wide];
            let mut blocks = x.chunks_exact(wide);
            for block in &mut blocks {
                sums.iter_mut().zip(block).for_each(|(sum, x)| *sum += x.as_f64());
            }
            sums.iter_mut().zip(blocks.remainder()).for_each(|(sum, x)| *sum += x.as_f64());
            let (first, others) = sums.split_at_mut(row);
            for other in others.chunks_exact(row) {
                first.iter_mut().zip(other).for_each(|(sum, x)| *sum += x);
            }
            sums.truncate(row);
            sums
        },
    )
}

/// Long rows are split by columns: partial sums of all columns would be as large as the rows.
fn sum_long_rows<T: Scalar>(x: &[T], row: usize) -> Vec<f64> {
    let mut sums = vec![0.0; row];
    for_each_chunk_of(
        CHUNK / 8,
        &mut sums,
        #[inline(always)]
        |at, sums| {
            for x in x.chunks_exact(row) {
                sums.iter_mut().zip(&x[at..]).for_each(|(sum, x)| *sum += x.as_f64());
            }
        },
    );
    sums
}

/// Folds rows into accumulators: each chunk of rows starts from zeros, and the chunks' results are
/// added in order. The general form of [`sum_rows`].
///
/// # Panics
///
/// If `row` is zero or does not divide the length.
pub fn fold_rows<T: Scalar>(
    x: &[T],
    row: usize,
    accumulators: usize,
    f: impl Fn(&mut [f64], &[T]) + Sync,
) -> Vec<f64> {
    check_rows(x.len(), row);
    fold_chunks(x, rows_per_chunk(row) * row, |x| {
        let mut sums = vec![0.0; accumulators];
        x.chunks_exact(row).for_each(|x| f(&mut sums, x));
        sums
    })
}

fn check_rows(len: usize, row: usize) {
    assert!(row > 0 && len.is_multiple_of(row), "{len} elements are no rows of {row}");
}

fn rows_per_chunk(row: usize) -> usize {
    (CHUNK / row).max(ROWS)
}

/// The sums of `part` of each chunk, added in order.
fn fold_chunks<T: Scalar>(x: &[T], size: usize, part: impl Fn(&[T]) -> Vec<f64> + Sync) -> Vec<f64> {
    let part = |x: &[T]| {
        vectorized(
            #[inline(always)]
            || part(x),
        )
    };
    if x.len() <= size {
        return part(x);
    }
    let parts: Vec<Vec<f64>> = x.par_chunks(size).map(part).collect();
    let mut parts = parts.into_iter();
    let mut total = parts.next().unwrap_or_default();
    for part in parts {
        total.iter_mut().zip(part).for_each(|(total, part)| *total += part);
    }
    total
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sums_do_not_depend_on_the_number_of_threads() {
        let x: Vec<f32> = (0..240_000).map(|i| (i as f32 * 0.37).sin()).collect();
        let with = |threads| {
            let pool = rayon::ThreadPoolBuilder::new().num_threads(threads).build().unwrap();
            pool.install(|| {
                (sum(&x), sum_zip_map(&x, &x, |a, b| a * b), sum_rows(&x, 16), sum_rows(&x, 40_000))
            })
        };
        assert_eq!(with(1), with(3));
    }

    #[test]
    fn a_long_sum_keeps_its_digits() {
        let x = vec![0.1_f32; 3_000_000];
        let expected = 3e6 * f64::from(0.1_f32);
        assert!((sum(&x) / expected - 1.0).abs() < 1e-9);
    }

    #[test]
    fn sums_of_whole_numbers_are_exact_at_every_length() {
        for len in [0, 1, 31, 32, 33, 64, 100, CHUNK - 1, CHUNK, CHUNK + 1, 3 * CHUNK + 5] {
            let x: Vec<f32> = (0..len).map(|i| (i % 7) as f32).collect();
            let expected: u64 = (0..len).map(|i| (i % 7) as u64).sum();
            assert_eq!(sum(&x), expected as f64, "{len}");
            assert_eq!(sum_zip_map(&x, &x, |a, _| a), expected as f64, "{len}");
        }
    }

    #[test]
    fn column_sums_agree_with_plain_ones_at_every_row_length() {
        for (rows, row) in [
            (0, 3),
            (1, 1),
            (5, 1),
            (67, 3),
            (9, 16),
            (33, 33),
            (200, 100),
            (3, CHUNK),
            (2, CHUNK + 9),
            (5000, 10),
        ] {
            let x: Vec<f32> = (0..rows * row).map(|i| (i % 11) as f32 - 4.0).collect();
            let mut expected = vec![0.0; row];
            for (i, &x) in x.iter().enumerate() {
                expected[i % row] += f64::from(x);
            }
            assert_eq!(sum_rows(&x, row), expected, "{rows} rows of {row}");
            let folded = fold_rows(&x, row, row, |sums, x| {
                sums.iter_mut().zip(x).for_each(|(sum, &x)| *sum += f64::from(x));
            });
            assert_eq!(folded, expected, "{rows} rows of {row}");
        }
    }

    #[test]
    #[should_panic(expected = "7 elements are no rows of 2")]
    fn cut_rows_are_refused() {
        sum_rows(&[0.0_f32; 7], 2);
    }
}
