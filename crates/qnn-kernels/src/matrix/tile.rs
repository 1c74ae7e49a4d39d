//! The register tile of matrix products, written once for all instruction sets.

use crate::Real;
use crate::lanes::Lanes;
use crate::line::{LANES, Line};
use crate::tile::{add_products, in_pairs};

/// Some rows of the left factor, as many as a tile can take, by one panel of the right one, over a range of terms.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Job<'a, T> {
    /// Rows of the left factor.
    pub(crate) rows: usize,
    /// Their terms: for every sixteen terms one line for each row.
    pub(crate) left: &'a [Line<T>],
    /// For each term as many lines as the panel has vectors.
    pub(crate) right: &'a [Line<T>],
    /// Whether the sums go on, or begin at +0.
    pub(crate) goes_on: bool,
}

/// `sums[row, o] += Σ left[row, k] · right[k, o]`, term by term, with `P` rows by `V` vectors in registers.
#[inline(always)]
pub(crate) fn matrix_tile<T: Real, L: Lanes<T>, const P: usize, const V: usize>(
    job: &Job<'_, T>,
    sums: &mut [Line<T>],
) {
    let (left, _) = job.left.as_chunks::<P>();
    let (right, _) = job.right.as_chunks::<V>();
    // All sums of the tile at once: where some might be left out, the compiler keeps those of large tiles in memory through all terms.
    let sums: &mut [[Line<T>; V]; P] = sums.as_chunks_mut().0.first_chunk_mut().expect("sums of all rows");
    let mut acc = [[L::splat(T::zero()); V]; P];
    if job.goes_on {
        for p in 0..P {
            for v in 0..V {
                acc[p][v] = L::load(&sums[p][v]);
            }
        }
    }
    for (left, right) in left.iter().zip(right.chunks(LANES)) {
        let right = &right[..right.len().min(LANES)];
        in_pairs(
            right,
            #[inline(always)]
            |term: usize, right: &[Line<T>; V]| add_products(left, term, right, &mut acc),
        );
    }
    for p in 0..P {
        for v in 0..V {
            sums[p][v] = acc[p][v].to_line();
        }
    }
}
