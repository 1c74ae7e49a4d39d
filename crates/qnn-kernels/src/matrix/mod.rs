//! Matrix products in blocks that stay in the caches: dense layers, forward and backward.
//!
//! All three are one product of a left factor, whose numbers are spread over vectors, with the vectors of a right factor:
//!
//! ```text
//! y = x · w        the weights are the right factor, in the layout in which they lie
//! dxᵀ = w · dyᵀ    the weights are the left factor, again row by row
//! dw = xᵀ · dy     the weights' gradient is the product, written row by row
//! ```
//!
//! so that weights, which fit no cache, stream by once and are never transposed. Between blocks of terms the sums are kept as they are: each
//! output is one accumulator over all terms in order.

mod cuts;
mod pack;
mod panel;
mod tile;

use self::cuts::Cuts;
use self::pack::Matrix;
use self::panel::{columns, vectors};
pub(crate) use self::tile::{Job, matrix_tile};
use crate::line::{LANES, Line};
use crate::scratch::with_lines;
use crate::threads::prelude::*;
use crate::{ChannelAffine, Kernels, MatmulShape, Real};

/// Elements of the right factor from which on blocks are worth their packing.
const LARGE: usize = 1 << 16;

/// Tiles of rows whose gradient stays in a core's second cache beside the weights and what an optimizer remembers of them.
const FEW_TILES: usize = 2;

/// Whether a product's weights are so many that they are better cut into blocks.
pub(crate) fn is_large(dims: MatmulShape) -> bool {
    dims.right_len() >= LARGE && dims.rows > 0
}

/// `y = (a · b) · scale + bias`.
pub(crate) fn product<T: Real>(
    kernels: &Kernels,
    dims: MatmulShape,
    a: &[T],
    b: &[T],
    out: ChannelAffine<'_, T>,
    y: &mut [T],
) {
    let cuts = Cuts::new(T::tiles(kernels), dims.rows, dims.inner, dims.columns);
    let (a, b) = (Matrix::new(a, dims.inner), Matrix::new(b, dims.columns));
    let strip = cuts.strip;
    with_lines(cuts.rows * cuts.term_lines(), |lefts: &mut [Line<T>]| {
        cuts.par_depths(cuts.rows, lefts).for_each(|(terms, lefts)| {
            cuts.tiles_of(cuts.rows, terms, lefts).for_each(|(rows, lines)| a.pack_left(rows, terms, lines));
        });
        let lefts = &*lefts;
        with_lines(cuts.rows * vectors(&cuts.panels), |sums: &mut [Line<T>]| {
            let strips = sums.par_chunks_mut(cuts.rows * strip * cuts.width);
            strips.zip(cuts.panels.par_chunks(strip)).for_each(|(sums, panels)| {
                with_lines(vectors(panels) * cuts.depths[0].len(), |rights| {
                    for (terms, lefts) in cuts.depths(cuts.rows, lefts) {
                        b.pack_right(terms, panels, rights);
                        let next = cuts.following(terms);
                        cuts.multiply(terms, lefts, rights, panels, sums, |share| {
                            b.expect(share.of(&next), &columns(panels))
                        });
                    }
                });
            });
            cuts.gather(sums, out, y);
        });
    });
}

/// `da = dy · bᵀ`.
pub(crate) fn left_gradient<T: Real>(kernels: &Kernels, dims: MatmulShape, dy: &[T], b: &[T], da: &mut [T]) {
    let cuts = Cuts::new(T::tiles(kernels), dims.inner, dims.columns, dims.rows);
    let (b, dy) = (Matrix::new(b, dims.columns), Matrix::new(dy, dims.columns));
    let (group, width) = (cuts.group, vectors(&cuts.panels));
    with_lines(width * dims.columns, |rights: &mut [Line<T>]| {
        let parts = rights.par_chunks_mut(width * cuts.depths[0].len()).zip(&cuts.depths);
        parts.for_each(|(lines, terms)| {
            let panels = lines.chunks_mut(cuts.width * terms.len()).zip(&cuts.panels);
            panels.for_each(|(lines, panel)| dy.pack_right_transposed(terms, panel, lines));
        });
        let rights = &*rights;
        with_lines(cuts.rows * width, |sums: &mut [Line<T>]| {
            sums.par_chunks_mut(group * width).enumerate().for_each(|(index, sums)| {
                let (first, rows) = (index * group, sums.len() / width);
                with_lines(rows * cuts.depths[0].len().div_ceil(LANES), |lefts| {
                    for (terms, rights) in cuts.depths.iter().zip(rights.chunks(width * cuts.depths[0].len()))
                    {
                        for (tile, lines) in cuts.tiles_of(rows, terms, lefts) {
                            b.pack_left(first + tile.start..first + tile.end, terms, lines);
                        }
                        let next = cuts.following(terms);
                        cuts.multiply(terms, lefts, rights, &cuts.panels, sums, |share| {
                            b.expect(share.of(&(first..first + rows)), &next);
                        });
                    }
                });
            });
            cuts.gather_transposed(sums, da);
        });
    });
}

/// `db = aᵀ · dy`.
pub(crate) fn right_gradient<T: Real>(kernels: &Kernels, dims: MatmulShape, a: &[T], dy: &[T], db: &mut [T]) {
    with_right_gradient(kernels, dims, a, dy, |gradient| {
        let group = gradient.cuts.group;
        let groups = db.par_chunks_mut(group * dims.columns).enumerate();
        groups.for_each(|(index, db)| gradient.rows(index * group, db));
    });
}

/// The gradient of a right factor, ready to be computed some rows at a time.
pub(crate) struct RightGradient<'a, T> {
    cuts: Cuts<'a, T>,
    a: Matrix<'a, T>,
    /// Strips of `dy`.
    rights: &'a [Line<T>],
    terms: usize,
    columns: usize,
}

/// Lends the right factor's gradient.
pub(crate) fn with_right_gradient<T: Real, R>(
    kernels: &Kernels,
    dims: MatmulShape,
    a: &[T],
    dy: &[T],
    visit: impl FnOnce(&RightGradient<'_, T>) -> R,
) -> R {
    let cuts = Cuts::new(T::tiles(kernels), dims.inner, dims.rows, dims.columns);
    let (a, dy) = (Matrix::new(a, dims.inner), Matrix::new(dy, dims.columns));
    let strip_lines = cuts.strip * cuts.width * dims.rows;
    with_lines(vectors(&cuts.panels) * dims.rows, |rights: &mut [Line<T>]| {
        let strips = rights.par_chunks_mut(strip_lines).zip(cuts.panels.par_chunks(cuts.strip));
        strips.for_each(|(mut rights, panels)| {
            for terms in &cuts.depths {
                let (lines, rest) = rights.split_at_mut(terms.len() * vectors(panels));
                dy.pack_right(terms, panels, lines);
                rights = rest;
            }
        });
        visit(&RightGradient { cuts, a, rights, terms: dims.rows, columns: dims.columns })
    })
}

impl<T: Real> RightGradient<'_, T> {
    /// Few rows that fill whole tiles.
    pub(crate) fn few_rows(&self) -> usize {
        self.cuts.tile * FEW_TILES
    }

    /// Writes the rows from `first` on, on the calling thread.
    pub(crate) fn rows(&self, first: usize, db: &mut [T]) {
        let (cuts, rows) = (&self.cuts, db.len() / self.columns);
        if rows == 0 {
            return;
        }
        let strip_lines = cuts.strip * cuts.width * self.terms;
        with_lines(rows * (cuts.term_lines() + cuts.strip * cuts.width), |lines| {
            let (lefts, sums) = lines.split_at_mut(rows * cuts.term_lines());
            let mut rest = &mut *lefts;
            for terms in &cuts.depths {
                let (lines, after) = rest.split_at_mut(rows * terms.len().div_ceil(LANES));
                for (tile, lines) in cuts.tiles_of(rows, terms, lines) {
                    self.a.pack_left_transposed(first + tile.start..first + tile.end, terms, lines);
                }
                rest = after;
            }
            for (mut rights, panels) in self.rights.chunks(strip_lines).zip(cuts.panels.chunks(cuts.strip)) {
                let sums = &mut sums[..rows * vectors(panels)];
                for (terms, lefts) in cuts.depths(rows, lefts) {
                    let (lines, after) = rights.split_at(terms.len() * vectors(panels));
                    cuts.multiply(terms, lefts, lines, panels, sums, |_| {});
                    rights = after;
                }
                cuts.write_rows(panels, sums, db, self.columns);
            }
        });
    }
}
