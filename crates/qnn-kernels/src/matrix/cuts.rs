//! How a product is cut into blocks, and where the sums of a block lie.

use alloc::vec::Vec;
use core::ops::Range;

use super::panel::{Panel, vectors};
use super::tile::Job;
use crate::arch::Tiles;
use crate::line::{LANES, Line};
use crate::threads::current_num_threads;
use crate::threads::prelude::*;
use crate::{ChannelAffine, Real, Vectorize, vectorized};

/// Terms that pass through a tile before the next one takes its turn: a panel of them stays in the first cache.
const DEPTH: usize = 160;
/// Panels that a thread works on together: a block of `DEPTH` terms stays in the second cache.
const PANELS: usize = 8;
/// Tiles of rows that a thread works on together.
const GROUP: usize = 8;

/// The cuts of a product `[rows, terms] · [terms, columns]`.
///
/// Sums of some rows and panels lie tile by tile, in each tile panel by panel, in each panel row by row.
pub(super) struct Cuts<'a, T> {
    tiles: &'a Tiles<T>,
    pub(super) rows: usize,
    /// Rows of a tile; the last tile may have fewer.
    pub(super) tile: usize,
    /// The terms, block by block; all blocks but the last are of one size.
    pub(super) depths: Vec<Range<usize>>,
    pub(super) panels: Vec<Panel>,
    /// Vectors of a panel; the last panel may have fewer.
    pub(super) width: usize,
    /// Panels that one thread works on together: enough strips that no thread idles.
    pub(super) strip: usize,
    /// Rows that one thread works on together, in whole tiles.
    pub(super) group: usize,
}

/// One of `count` shares of some work.
#[derive(Clone, Copy)]
pub(super) struct Share {
    index: usize,
    count: usize,
}

impl Share {
    /// Its part of a range.
    pub(super) fn of(self, range: &Range<usize>) -> Range<usize> {
        let at = |index| range.start + range.len() * index / self.count;
        at(self.index)..at(self.index + 1)
    }
}

impl<'a, T: Real> Cuts<'a, T> {
    pub(super) fn new(tiles: &'a Tiles<T>, rows: usize, terms: usize, columns: usize) -> Self {
        let width = tiles.vectors();
        let tile = rows.div_ceil(rows.div_ceil(tiles.matrix_rows(width)).max(1));
        let depths = (0..terms).step_by(DEPTH).map(|start| start..(start + DEPTH).min(terms)).collect();
        let panels = Panel::all(columns, width);
        let shares = 4 * current_num_threads();
        let strip = panels.len().div_ceil(shares).clamp(1, PANELS);
        let group = tile * rows.div_ceil(tile).div_ceil(shares).clamp(1, GROUP);
        Self { tiles, rows, tile, depths, panels, width, strip, group }
    }

    /// Lines of one row of the left factor.
    pub(super) fn term_lines(&self) -> usize {
        self.depths.iter().map(|terms| terms.len().div_ceil(LANES)).sum()
    }

    /// The blocks of terms, and what of the left factor's `rows` belongs to each.
    pub(super) fn depths<'l>(
        &self,
        rows: usize,
        lefts: &'l [Line<T>],
    ) -> impl Iterator<Item = (&Range<usize>, &'l [Line<T>])> {
        self.depths.iter().zip(lefts.chunks(rows * DEPTH / LANES))
    }

    /// The block of terms that follows, empty behind the last.
    pub(super) fn following(&self, terms: &Range<usize>) -> Range<usize> {
        let last = self.depths.last().map_or(0, |terms| terms.end);
        terms.end..(terms.end + DEPTH).min(last)
    }

    /// The same side by side, for writing.
    pub(super) fn par_depths<'l>(
        &self,
        rows: usize,
        lefts: &'l mut [Line<T>],
    ) -> impl IndexedParallelIterator<Item = (&Range<usize>, &'l mut [Line<T>])> {
        self.depths.par_iter().zip(lefts.par_chunks_mut(rows * DEPTH / LANES))
    }

    /// The tiles of `rows`, and the lines of each for the terms of one block.
    pub(super) fn tiles_of<'l>(
        &self,
        rows: usize,
        terms: &Range<usize>,
        lefts: &'l mut [Line<T>],
    ) -> impl Iterator<Item = (Range<usize>, &'l mut [Line<T>])> + use<'l, T> {
        let (tile, lines) = (self.tile, terms.len().div_ceil(LANES));
        let tiles = (0..rows).step_by(tile).map(move |start| start..(start + tile).min(rows));
        tiles.zip(lefts[..rows * lines].chunks_mut(tile * lines))
    }

    /// Adds one block of terms to the sums of as many rows as these are of. `ahead` is asked for each share of what is read next, so that
    /// memory is busy while the multipliers are.
    pub(super) fn multiply(
        &self,
        terms: &Range<usize>,
        lefts: &[Line<T>],
        rights: &[Line<T>],
        panels: &[Panel],
        sums: &mut [Line<T>],
        ahead: impl Fn(Share),
    ) {
        let (lines, total) = (terms.len().div_ceil(LANES), vectors(panels));
        let (mut before, mut share) =
            (0, Share { index: 0, count: panels.len() * sums.len().div_ceil(self.tile * total) });
        for panel in panels {
            let width = panel.vectors();
            let right = &rights[before * terms.len()..][..width * terms.len()];
            for sums in sums.chunks_mut(self.tile * total).zip(lefts.chunks(self.tile * lines)) {
                let (sums, left) = sums;
                let rows = sums.len() / total;
                let job = Job { rows, left: &left[..rows * lines], right, goes_on: terms.start > 0 };
                self.tiles.matrix(width, &job, &mut sums[rows * before..][..rows * width]);
                ahead(share);
                share.index += 1;
            }
            before += width;
        }
    }

    /// Writes the sums of some panels into rows of `columns`.
    pub(super) fn write_rows(&self, panels: &[Panel], sums: &[Line<T>], rows: &mut [T], columns: usize) {
        vectorized(Write { tile: self.tile, panels, sums, rows, columns });
    }

    /// Brings the strips' sums side by side.
    pub(super) fn gather(&self, sums: &[Line<T>], out: ChannelAffine<'_, T>, y: &mut [T]) {
        let columns = y.len() / self.rows;
        let parts = y.par_chunks_exact_mut(columns).with_min_len(1 + (1 << 14) / columns).enumerate();
        parts.for_each(|(row, y)| vectorized(Gather { cuts: self, row, sums, out, y }));
    }

    /// The same for sums of the transposed product.
    pub(super) fn gather_transposed(&self, sums: &[Line<T>], y: &mut [T]) {
        let vectors: Vec<_> =
            self.panels.iter().flat_map(|panel| (0..panel.vectors()).map(move |v| (panel, v))).collect();
        let parts = y.par_chunks_mut(LANES * self.rows).zip(&vectors);
        parts.for_each(|(y, &(panel, vector))| vectorized(Transpose { cuts: self, panel, vector, sums, y }));
    }
}

/// The sums of some rows and panels.
struct Write<'a, T> {
    tile: usize,
    panels: &'a [Panel],
    sums: &'a [Line<T>],
    rows: &'a mut [T],
    columns: usize,
}

impl<T: Real> Vectorize for Write<'_, T> {
    type Output = ();

    #[inline(always)]
    fn run(self) {
        let total = vectors(self.panels);
        let tiles = self.sums.chunks(self.tile * total).zip(self.rows.chunks_mut(self.tile * self.columns));
        for (mut sums, rows) in tiles {
            let count = sums.len() / total;
            for panel in self.panels {
                let (lines, after) = sums.split_at(count * panel.vectors());
                for (lines, row) in lines.chunks_exact(panel.vectors()).zip(rows.chunks_mut(self.columns)) {
                    for (numbers, line) in row[panel.columns.clone()].chunks_mut(LANES).zip(lines) {
                        // Products that vanish may sum to −0; the law adds sums to +0.
                        let sums = line.0.map(|sum| sum + T::zero());
                        match numbers.first_chunk_mut::<LANES>() {
                            Some(whole) => *whole = sums,
                            None => numbers.copy_from_slice(&sums[..numbers.len()]),
                        }
                    }
                }
                sums = after;
            }
        }
    }
}

/// One row of the product, from all strips.
struct Gather<'a, T> {
    cuts: &'a Cuts<'a, T>,
    row: usize,
    sums: &'a [Line<T>],
    out: ChannelAffine<'a, T>,
    y: &'a mut [T],
}

impl<T: Real> Vectorize for Gather<'_, T> {
    type Output = ();

    #[inline(always)]
    fn run(self) {
        let Self { cuts, row, sums, out, y } = self;
        let strip = cuts.strip;
        let start = row / cuts.tile * cuts.tile;
        let tile = cuts.tile.min(cuts.rows - start);
        let strips = sums.chunks(cuts.rows * strip * cuts.width).zip(cuts.panels.chunks(strip));
        for (sums, panels) in strips {
            let mut at = start * vectors(panels);
            for panel in panels {
                let width = panel.vectors();
                let lines = &sums[at + (row - start) * width..][..width];
                let y = &mut y[panel.columns.clone()];
                for (y, line) in y.chunks_mut(LANES).zip(lines) {
                    match y.first_chunk_mut::<LANES>() {
                        Some(whole) => *whole = line.0,
                        None => y.copy_from_slice(&line.0[..y.len()]),
                    }
                }
                at += tile * width;
            }
        }
        if let Some(scale) = out.scale {
            for (y, &scale) in y.iter_mut().zip(scale) {
                *y = *y * scale;
            }
        }
        if let Some(bias) = out.bias {
            for (y, &bias) in y.iter_mut().zip(bias) {
                *y = *y + bias;
            }
        }
    }
}

/// One vector of columns of the transposed product: as many rows of `y`.
struct Transpose<'a, T> {
    cuts: &'a Cuts<'a, T>,
    panel: &'a Panel,
    vector: usize,
    sums: &'a [Line<T>],
    y: &'a mut [T],
}

impl<T: Real> Vectorize for Transpose<'_, T> {
    type Output = ();

    #[inline(always)]
    fn run(self) {
        let Self { cuts, panel, vector, sums, y } = self;
        let (total, group) = (vectors(&cuts.panels), cuts.group);
        let before = panel.columns.start / LANES;
        let mut block = [[T::zero(); LANES]; LANES];
        let mut row = 0;
        for sums in sums.chunks(group * total).flat_map(|sums| sums.chunks(cuts.tile * total)) {
            let rows = sums.len() / total;
            let width = panel.vectors();
            for line in sums[rows * before + vector..].iter().step_by(width).take(rows) {
                for lane in 0..LANES {
                    block[lane][row % LANES] = line.0[lane];
                }
                row += 1;
                if row % LANES == 0 || row == cuts.rows {
                    let first = (row - 1) / LANES * LANES;
                    for (y, numbers) in y.chunks_exact_mut(cuts.rows).zip(&block) {
                        match y[first..].first_chunk_mut::<LANES>() {
                            Some(whole) => *whole = *numbers,
                            None => y[first..row].copy_from_slice(&numbers[..row - first]),
                        }
                    }
                }
            }
        }
    }
}
