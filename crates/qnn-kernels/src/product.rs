//! Sums over taps for every output pixel: the forward pass and the input gradient, dense and depthwise.

use alloc::vec;
use alloc::vec::Vec;
use core::ops::Range;

use crate::ahead::Ahead;
use crate::arch::{Tiles, numbers_mut};
use crate::column::{Column, Pitch, Rolling};
use crate::frame::Frame;
use crate::line::{Block, LANES, Line};
use crate::scratch::with_lines;
use crate::threads;
use crate::threads::prelude::*;
use crate::tile::{Row, Tap};
use crate::visitor::{Visitor, visit_all};
use crate::{ChannelAffine, Real};

/// Weights beyond which they no longer stay in a core's cache while images pass by.
const RESIDENT_WEIGHTS: usize = 1 << 18;
/// Lines that the frames of a whole batch may take.
const SHARED_LINES: usize = 1 << 20;
/// Images that a thread takes at a time: few, so that none waits long for another at the end.
const IMAGES_TOGETHER: usize = 4;
/// Lines of a frame that a core's cache holds beside the weights.
const RESIDENT_LINES: usize = 1 << 13;

/// Numbers of one run of rows that a function visits.
pub(crate) const VISITED: usize = 1 << 12;

/// Takes the index of a run's first pixel, its numbers, and its bytes to fill.
pub(crate) type Visit<'a, T> = dyn Fn(usize, &mut [T], &mut [u8]) + Sync + 'a;

/// Along one axis: output `first + i·step` starts at frame position `origin + i·stride`.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Axis {
    pub(crate) first: usize,
    pub(crate) step: usize,
    pub(crate) count: usize,
    pub(crate) origin: usize,
    pub(crate) stride: usize,
}

/// Output pixels that take their sums over the same taps.
#[derive(Clone, Debug)]
pub(crate) struct Lattice {
    pub(crate) rows: Axis,
    pub(crate) columns: Axis,
    /// Frame rows below the origin that the taps reach.
    pub(crate) reach: usize,
    pub(crate) taps: Vec<Tap>,
    /// The taps once more, where rows can be taken together.
    rolling: Option<Rolling>,
}

/// Writes a panel's weights, one line after the other: for each weight index as many lines as the panel has vectors.
pub(crate) type Pack<'a, T> = dyn Fn(Block, usize, &mut [Line<T>]) + Sync + 'a;

/// What a job computes, whatever the weights and the images: made once for a shape.
#[derive(Clone, Debug)]
pub(crate) struct Tables<T> {
    pub(crate) frame: Frame<T>,
    pub(crate) lattices: Vec<Lattice>,
    /// Extents of one output image; a [flat](Frame::flat) one has as many rows as come.
    pub(crate) rows: usize,
    pub(crate) columns: usize,
    pub(crate) channels: usize,
    /// Output channels, as wide as a tile takes them.
    pub(crate) panels: Vec<Block>,
    /// Weights of one output channel.
    pub(crate) depth: usize,
    /// Lines between the blocks of neighbouring groups.
    pub(crate) group_lines: usize,
    pub(crate) elementwise: bool,
    /// Whether taps in rows outside the image, all zeros, are left out: of gradients, whose sums run over the outputs that there are.
    pub(crate) inside: bool,
}

/// The weights of a job.
pub(crate) enum Weights<'a, T> {
    /// Written when the job runs, with an affine map.
    Pack(&'a Pack<'a, T>, ChannelAffine<'a, T>),
    /// Written once, as by [`Tables::pack`].
    Packed(&'a [Line<T>]),
}

/// A job for the product tiles.
pub(crate) struct Product<'a, T> {
    pub(crate) tiles: &'a Tiles<T>,
    pub(crate) tables: &'a Tables<T>,
    pub(crate) weights: Weights<'a, T>,
}

/// A part of a frame, and the output rows it suffices for.
struct Framed<'a, T> {
    rows: Range<usize>,
    first: usize,
    lines: &'a [Line<T>],
}

/// Where the pixels of a panel go.
struct Target {
    /// Elements between neighbouring pixels.
    pitch: usize,
    first_channel: usize,
}

impl Lattice {
    /// `row_lines` are those of a frame row.
    pub(crate) fn new(rows: Axis, columns: Axis, reach: usize, taps: Vec<Tap>, row_lines: usize) -> Self {
        let neighbours = rows.step == 1 && rows.stride == 1;
        let rolling = if neighbours { Rolling::of(&taps, row_lines) } else { None };
        Self { rows, columns, reach, taps, rolling }
    }
}

impl<T: Real> Tables<T> {
    fn vectors(&self, panel: Block) -> usize {
        panel.count.div_ceil(LANES)
    }

    /// Lines of a packed panel: weights, factors and summands.
    fn panel_lines(&self) -> usize {
        (self.depth + 2) * self.panels.iter().map(|&panel| self.vectors(panel)).max().unwrap_or(1)
    }

    /// All panels, one after the other.
    pub(crate) fn pack(&self, pack: &Pack<'_, T>, out: ChannelAffine<'_, T>) -> Vec<Line<T>> {
        let mut lines = vec![Line([T::zero(); LANES]); self.panel_lines() * self.panels.len()];
        let panels = lines.chunks_exact_mut(self.panel_lines()).zip(&self.panels);
        panels.for_each(|(lines, panel)| self.pack_panel(*panel, pack, out, lines));
        lines
    }

    fn pack_panel(&self, panel: Block, pack: &Pack<'_, T>, out: ChannelAffine<'_, T>, lines: &mut [Line<T>]) {
        let vectors = self.vectors(panel);
        let (weights, affine) = lines[..(self.depth + 2) * vectors].split_at_mut(self.depth * vectors);
        pack(panel, vectors, weights);
        out.write(panel.first..panel.first + panel.count, affine);
    }

    /// The frame's rows that the output's rows depend on.
    fn framed(&self, rows: &Range<usize>) -> Range<usize> {
        let ranges = self.lattices.iter().filter_map(|lattice| {
            let steps = lattice.rows.steps_in(rows);
            let start = lattice.rows.origin + steps.start * lattice.rows.stride;
            (!steps.is_empty())
                .then(|| start..start + (steps.len() - 1) * lattice.rows.stride + lattice.reach + 1)
        });
        ranges.reduce(|a, b| a.start.min(b.start)..a.end.max(b.end)).unwrap_or(0..0)
    }

    /// How rows of a lattice are taken together where the instruction set does so.
    fn columns_of<'l>(&self, lattice: &'l Lattice) -> Option<&'l Rolling> {
        lattice.rolling.as_ref().filter(|_| self.channels <= LANES && !self.elementwise)
    }

    /// The taps of the outputs whose frame begins with `row`.
    ///
    /// Columns take every row of the frame, so that where they may be used, no instruction set leaves rows out: weights beyond all numbers,
    /// and zeros that underflowed, would tell.
    fn taps<'l>(&self, lattice: &'l Lattice, row: usize) -> &'l [Tap] {
        if !self.inside || self.columns_of(lattice).is_some() {
            return &lattice.taps;
        }
        let (lines, image) = (self.frame.row_lines(), self.frame.top..self.frame.top + self.frame.height);
        // Later kernel rows reach earlier outputs.
        let before = |end: usize| lattice.taps.partition_point(|tap| row + tap.line / lines >= end);
        &lattice.taps[before(image.end)..before(image.start)]
    }

    /// Elements of an input image; of a flat one there is but one.
    fn image_len(&self, images: &[T]) -> usize {
        if self.frame.flat { images.len() } else { self.frame.image_len() }
    }
}

impl<T: Real> Product<'_, T> {
    /// Computes `y` from `images`. Any tiling and any schedule give the same bits: each output is one sum in the order of its taps.
    pub(crate) fn run(&self, images: &[T], y: &mut [T]) {
        if y.is_empty() {
            return;
        }
        let pixels = y.len() / self.tables.channels;
        let rows = self.rows(pixels);
        if self.has_many_weights(rows, pixels) {
            self.run_by_panels(rows, images, y);
        } else {
            self.run_by_bands(rows, images, y);
        }
    }

    /// Rows of an image, where there are so many pixels in all.
    fn rows(&self, pixels: usize) -> usize {
        if self.tables.frame.flat { pixels.div_ceil(self.tables.columns) } else { self.tables.rows }
    }

    /// Whether the weights leave the cache before the next image comes, while the frames of all images do not.
    fn has_many_weights(&self, rows: usize, pixels: usize) -> bool {
        let tables = self.tables;
        let weights = tables.depth * tables.panels.iter().map(|panel| panel.count).sum::<usize>();
        let images = pixels.div_ceil(rows * tables.columns);
        let frame_lines = images * tables.framed(&(0..rows)).len() * tables.frame.row_lines();
        weights > RESIDENT_WEIGHTS && frame_lines <= SHARED_LINES
    }

    /// Every image by itself, or a band of its rows: weights stay, images pass.
    fn run_by_bands(&self, rows: usize, images: &[T], y: &mut [T]) {
        let tables = self.tables;
        let image_len = rows * tables.columns * tables.channels;
        let band = self.band_rows(rows, y.len().div_ceil(image_len));
        let input_len = tables.image_len(images);
        self.with_weights(|weights| {
            let pairs = y.par_chunks_mut(image_len).zip(images.par_chunks(input_len)).enumerate();
            pairs.with_max_len(IMAGES_TOGETHER).for_each(|(number, (y, image))| {
                let ahead = Ahead::of([rows_of(images, input_len, number + 1), &[]]);
                let bands = y.par_chunks_mut(band * tables.columns * tables.channels);
                let count = bands.len();
                bands.enumerate().for_each(|(index, y)| {
                    self.band(index * band, image, weights, y, ahead.part(index, count));
                });
            });
        });
    }

    /// [`run`](Self::run), with a visitor for every `together` images of the output, which sees them in the cache where it can. Images
    /// have so many elements before and after.
    pub(crate) fn run_visited(
        &self,
        images: &[T],
        y: &mut [T],
        [input_len, output_len]: [usize; 2],
        visitor: Visitor<'_, T>,
    ) {
        let Visitor { together, visit, beside } = visitor;
        let pixels = y.len() / self.tables.channels;
        let visits = y.len() / (output_len * together);
        if self.has_many_weights(self.rows(pixels), pixels) || visits < 4 * threads::current_num_threads() {
            self.run(images, y);
            return visit_all(y, output_len, visitor);
        }
        self.with_weights(|weights| {
            let parts = y.par_chunks_mut(output_len * together).enumerate();
            parts.with_max_len(IMAGES_TOGETHER.div_ceil(together)).for_each(|(index, y)| {
                for (number, y) in (index * together..).zip(y.chunks_mut(output_len)) {
                    let next = rows_of(images, input_len, number + 1);
                    let ahead = Ahead::of([next, rows_of(beside, output_len, number)]);
                    self.image(rows_of(images, input_len, number), weights, y, ahead);
                }
                visit(index * together, y);
            });
        });
    }

    /// One whole image on the calling thread, with the weights of [`with_weights`](Self::with_weights).
    pub(crate) fn image(&self, image: &[T], weights: &[Line<T>], y: &mut [T], ahead: Ahead<'_, T>) {
        let row = self.tables.columns * self.tables.channels;
        let band = self.band_rows(y.len().div_ceil(row), usize::MAX);
        let bands = y.chunks_mut(band * row);
        let count = bands.len();
        for (index, y) in bands.enumerate() {
            self.band(index * band, image, weights, y, ahead.part(index, count));
        }
    }

    /// Computes runs of rows into a buffer that stays in the cache, and shows each to `visit` with the index of its first pixel and its part of
    /// `bytes`, which are as many for each of `pixels`.
    pub(crate) fn run_tiles(&self, images: &[T], pixels: usize, bytes: &mut [u8], visit: &Visit<'_, T>) {
        if pixels == 0 {
            return;
        }
        let (tables, rows) = (self.tables, self.rows(pixels));
        if self.has_many_weights(rows, pixels) {
            return run_whole(pixels, tables.channels, bytes, visit, |y| self.run(images, y));
        }
        let (each, image_pixels) = (bytes.len() / pixels, rows * tables.columns);
        let band = (VISITED / (tables.columns * tables.channels)).clamp(1, rows);
        self.with_weights(|weights| {
            let chunks =
                bytes.par_chunks_mut(image_pixels * each).zip(images.par_chunks(tables.image_len(images)));
            chunks.enumerate().for_each(|(index, (bytes, image))| {
                let bands = bytes.par_chunks_mut(band * tables.columns * each).enumerate();
                bands.for_each(|(part, bytes)| {
                    let (first, count) = (part * band * tables.columns, bytes.len() / each);
                    with_lines((count * tables.channels).div_ceil(LANES), |lines| {
                        let numbers = &mut numbers_mut(lines)[..count * tables.channels];
                        self.band(part * band, image, weights, numbers, Ahead::NOTHING);
                        visit(index * image_pixels + first, numbers, bytes);
                    });
                });
            });
        });
    }

    /// Lends the packed weights of all panels.
    pub(crate) fn with_weights(&self, visit: impl FnOnce(&[Line<T>])) {
        let (tables, panel_lines) = (self.tables, self.tables.panel_lines());
        match self.weights {
            Weights::Packed(lines) => visit(lines),
            Weights::Pack(pack, out) => {
                with_lines(panel_lines * tables.panels.len(), |lines: &mut [Line<T>]| {
                    let packing = lines
                        .par_chunks_exact_mut(panel_lines)
                        .zip(&tables.panels)
                        .with_min_len(1 + RESIDENT_LINES / panel_lines);
                    packing.for_each(|(lines, panel)| tables.pack_panel(*panel, pack, out, lines));
                    visit(lines);
                })
            }
        }
    }

    /// Rows in a band: all of the image, unless it is too large for the cache or threads would idle.
    fn band_rows(&self, rows: usize, images: usize) -> usize {
        let parts = (4 * threads::current_num_threads()).div_ceil(images);
        let wanted = if parts > 4 { rows.div_ceil(parts) } else { rows };
        let lattice = &self.tables.lattices[0];
        let lines = self.tables.frame.row_lines() * lattice.rows.stride.div_ceil(lattice.rows.step);
        wanted.min((RESIDENT_LINES / lines).max(2 * lattice.reach)).max(1)
    }

    fn band(&self, first_row: usize, image: &[T], weights: &[Line<T>], y: &mut [T], ahead: Ahead<'_, T>) {
        let rows = first_row..first_row + y.len().div_ceil(self.tables.columns * self.tables.channels);
        let framed = self.tables.framed(&rows);
        with_lines(framed.len() * self.tables.frame.row_lines(), |frame| {
            self.tables.frame.fill(framed.clone(), image, frame);
            let framed = Framed { rows, first: framed.start, lines: frame };
            let panels = &self.tables.panels;
            let weights = weights.chunks_exact(self.tables.panel_lines());
            for (index, (panel, weights)) in panels.iter().zip(weights).enumerate() {
                let target = Target { pitch: self.tables.channels, first_channel: panel.first };
                self.sweep(*panel, weights, &framed, &target, y, ahead.part(index, panels.len()));
            }
        });
    }

    /// Every panel by itself over all images: for many weights and few pixels.
    fn run_by_panels(&self, rows: usize, images: &[T], y: &mut [T]) {
        let (tables, pixels) = (self.tables, y.len() / self.tables.channels);
        let framed = tables.framed(&(0..rows));
        let frame_lines = framed.len() * tables.frame.row_lines();
        let image_count = pixels.div_ceil(rows * tables.columns);
        let width = self.tables.panels.iter().map(|&panel| self.tables.vectors(panel)).max().unwrap_or(1);
        with_lines(image_count * frame_lines, |frames: &mut [Line<T>]| {
            let pairs =
                frames.par_chunks_exact_mut(frame_lines).zip(images.par_chunks(tables.image_len(images)));
            pairs.for_each(|(frame, image)| self.tables.frame.fill(framed.clone(), image, frame));
            let frames = &*frames;
            with_lines(self.tables.panels.len() * pixels * width, |products: &mut [Line<T>]| {
                let jobs = products.par_chunks_exact_mut(pixels * width).enumerate();
                jobs.for_each(|(panel, products)| {
                    self.panel(panel, rows, &framed, frames, numbers_mut(products));
                });
                self.gather(products, pixels, y);
            });
        });
    }

    fn panel(
        &self,
        index: usize,
        rows: usize,
        framed: &Range<usize>,
        frames: &[Line<T>],
        products: &mut [T],
    ) {
        let (tables, panel) = (self.tables, self.tables.panels[index]);
        let width = tables.vectors(panel) * LANES;
        let mut sweep = |weights: &[Line<T>]| {
            let frames = frames.chunks_exact(framed.len() * tables.frame.row_lines());
            for (frame, products) in frames.zip(products.chunks_mut(rows * tables.columns * width)) {
                let target = Target { pitch: width, first_channel: 0 };
                let framed = Framed { rows: 0..rows, first: framed.start, lines: frame };
                self.sweep(panel, weights, &framed, &target, products, Ahead::NOTHING);
            }
        };
        match self.weights {
            Weights::Packed(lines) => sweep(&lines[index * tables.panel_lines()..]),
            Weights::Pack(pack, out) => with_lines(tables.panel_lines(), |weights| {
                tables.pack_panel(panel, pack, out, weights);
                sweep(weights);
            }),
        }
    }

    /// Brings the panels' products side by side.
    fn gather(&self, products: &[Line<T>], pixels: usize, y: &mut [T]) {
        let lines = products.len() / self.tables.panels.len();
        let rows = y
            .par_chunks_exact_mut(self.tables.channels)
            .with_min_len(1 + RESIDENT_LINES / self.tables.channels)
            .enumerate();
        rows.for_each(|(pixel, y)| {
            debug_assert!(pixel < pixels);
            for (panel, products) in self.tables.panels.iter().zip(products.chunks_exact(lines)) {
                let vectors = self.tables.vectors(*panel);
                let y = &mut y[panel.first..][..panel.count];
                for (y, line) in y.chunks_mut(LANES).zip(&products[pixel * vectors..]) {
                    y.copy_from_slice(&line.0[..y.len()]);
                }
            }
        });
    }

    /// How so many rows of a lattice can be taken together, if that is faster than one after the other.
    fn rolling<'l>(&self, lattice: &'l Lattice, rows: usize) -> Option<&'l Rolling> {
        let fits = rows >= Column::<T>::LEAST_ROWS && self.tiles.takes_columns();
        self.tables.columns_of(lattice).filter(|_| fits)
    }

    /// One panel of output channels over the rows of one frame.
    fn sweep(
        &self,
        panel: Block,
        weights: &[Line<T>],
        framed: &Framed<'_, T>,
        target: &Target,
        y: &mut [T],
        ahead: Ahead<'_, T>,
    ) {
        let vectors = self.tables.vectors(panel);
        let (packed, affine) =
            weights[..(self.tables.depth + 2) * vectors].split_at(self.tables.depth * vectors);
        let lattices = &self.tables.lattices;
        for (index, lattice) in lattices.iter().enumerate() {
            let ahead = ahead.part(index, lattices.len());
            let steps = lattice.rows.steps_in(&framed.rows);
            let together = steps.len();
            let rolling = self.rolling(lattice, together);
            // A column is all rows, seen from the first.
            let seen = if rolling.is_some() { 1 } else { together };
            for (index, step) in steps.take(seen).enumerate() {
                let frame_row = lattice.rows.origin + step * lattice.rows.stride;
                let image = &framed.lines[(frame_row - framed.first) * self.tables.frame.row_lines()
                    + panel.group * self.tables.group_lines
                    + lattice.columns.origin..];
                let row = lattice.rows.first + step * lattice.rows.step - framed.rows.start;
                let start =
                    (row * self.tables.columns + lattice.columns.first) * target.pitch + target.first_channel;
                let Some(y) = y.get_mut(start..) else { continue };
                let pixel_step = lattice.columns.step * target.pitch;
                // The last row of a cut product may be short.
                let pixels = lattice.columns.count.min((y.len() + pixel_step - panel.count) / pixel_step);
                let row = Row {
                    image,
                    taps: self.tables.taps(lattice, frame_row),
                    panel: packed,
                    affine,
                    pixels,
                    pixel_step,
                    live: panel.count,
                };
                if let Some(rolling) = rolling {
                    let row_lines = self.tables.frame.row_lines();
                    let row_step = self.tables.columns * target.pitch;
                    let column = rolling.column(row, Pitch { rows: together, row_lines, row_step, ahead });
                    self.tiles.column(&column, y);
                    continue;
                }
                ahead.part(index, together).ask();
                if self.tables.elementwise {
                    self.tiles.elementwise(&row, y);
                } else {
                    self.tiles.product(vectors, &row, y);
                }
            }
        }
    }
}

/// All pixels at once, which are then shown one run after the other.
pub(crate) fn run_whole<T: Real>(
    pixels: usize,
    channels: usize,
    bytes: &mut [u8],
    visit: &Visit<'_, T>,
    run: impl FnOnce(&mut [T]),
) {
    if pixels == 0 {
        return;
    }
    let (each, together) = (bytes.len() / pixels, (VISITED / channels).max(1));
    with_lines((pixels * channels).div_ceil(LANES), |lines| {
        let numbers = &mut numbers_mut(lines)[..pixels * channels];
        run(numbers);
        let runs = numbers.par_chunks_mut(together * channels).zip(bytes.par_chunks_mut(together * each));
        runs.enumerate().for_each(|(index, (numbers, bytes))| visit(index * together, numbers, bytes));
    });
}

/// The numbers of one image of many, nothing past the last.
fn rows_of<T>(images: &[T], len: usize, number: usize) -> &[T] {
    images.get(number * len..).map_or(&[], |images| &images[..len.min(images.len())])
}

impl Axis {
    /// The steps whose outputs lie in a range.
    fn steps_in(&self, outputs: &Range<usize>) -> Range<usize> {
        let end = outputs.end.saturating_sub(self.first).div_ceil(self.step).min(self.count);
        outputs.start.saturating_sub(self.first).div_ceil(self.step).min(end)..end
    }
}
