//! Sums over taps for every output pixel: the forward pass and the input gradient, dense and depthwise.

use std::ops::Range;

use rayon::prelude::*;

use crate::arch::{Tiles, numbers_mut};
use crate::frame::Frame;
use crate::line::{Block, LANES, Line};
use crate::scratch::with_lines;
use crate::tile::{Row, Tap};
use crate::{ChannelAffine, Real};

/// Weights beyond which they no longer stay in a core's cache while images pass by.
const RESIDENT_WEIGHTS: usize = 1 << 18;
/// Lines that the frames of a whole batch may take.
const SHARED_LINES: usize = 1 << 20;
/// Images that a thread takes at a time: few, so that none waits long for another at the end.
const IMAGES_TOGETHER: usize = 4;
/// Lines of a frame that a core's cache holds beside the weights.
const RESIDENT_LINES: usize = 1 << 13;

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
#[derive(Debug)]
pub(crate) struct Lattice {
    pub(crate) rows: Axis,
    pub(crate) columns: Axis,
    /// Frame rows below the origin that the taps reach.
    pub(crate) reach: usize,
    pub(crate) taps: Vec<Tap>,
}

/// Writes a panel's weights, one line after the other: for each weight index as many lines as the panel has vectors.
pub(crate) type Pack<'a, T> = dyn Fn(Block, usize, &mut [Line<T>]) + Sync + 'a;

/// Sees some images of the output as soon as they are written: the number of the first, and their elements.
pub type Visit<'a, T> = dyn Fn(usize, &[T]) + Sync + 'a;

/// A job for the product tiles.
pub(crate) struct Product<'a, T> {
    pub(crate) tiles: &'a Tiles<T>,
    pub(crate) frame: Frame<T>,
    pub(crate) lattices: Vec<Lattice>,
    /// Extents of one output image.
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
    pub(crate) pack: &'a Pack<'a, T>,
    pub(crate) out: ChannelAffine<'a, T>,
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

impl<T: Real> Product<'_, T> {
    /// Computes `y` from `images`. Any tiling and any schedule give the same bits: each output is one sum in the order of its taps.
    pub(crate) fn run(&self, images: &[T], y: &mut [T]) {
        if y.is_empty() {
        } else if self.is_by_panels(y) {
            self.run_by_panels(images, y);
        } else {
            self.run_by_bands(images, y);
        }
    }

    /// [`run`](Self::run), with a visitor for every `together` images of the output, which sees them in the cache where it can.
    pub(crate) fn run_visited(&self, images: &[T], y: &mut [T], together: usize, visit: &Visit<'_, T>) {
        let (image_len, input_len) = (self.image_len(), self.frame.image_len());
        let visits = y.len() / (image_len * together);
        if self.is_by_panels(y) || visits < 4 * rayon::current_num_threads() {
            self.run(images, y);
            let parts = y.par_chunks(image_len * together).enumerate();
            return parts.for_each(|(index, y)| visit(index * together, y));
        }
        self.with_weights(|weights| {
            let parts = y.par_chunks_mut(image_len * together).zip(images.par_chunks(input_len * together));
            let parts = parts.enumerate().with_max_len(IMAGES_TOGETHER.div_ceil(together));
            parts.for_each(|(index, (y, images))| {
                let pairs = y.chunks_mut(image_len).zip(images.chunks(input_len));
                pairs.for_each(|(y, image)| self.image(image, weights, y));
                visit(index * together, y);
            });
        });
    }

    fn is_by_panels(&self, y: &[T]) -> bool {
        let weights = self.depth * self.panels.iter().map(|panel| panel.count).sum::<usize>();
        let frame_lines = y.len().div_ceil(self.rows * self.columns * self.channels)
            * self.framed(&(0..self.rows)).len()
            * self.frame.row_lines();
        weights > RESIDENT_WEIGHTS && frame_lines <= SHARED_LINES
    }

    fn vectors(&self, panel: Block) -> usize {
        panel.count.div_ceil(LANES)
    }

    /// Lines of a packed panel: weights, factors and summands.
    fn panel_lines(&self) -> usize {
        (self.depth + 2) * self.panels.iter().map(|&panel| self.vectors(panel)).max().unwrap_or(1)
    }

    fn pack_panel(&self, panel: Block, lines: &mut [Line<T>]) {
        let vectors = self.vectors(panel);
        let (weights, affine) = lines[..(self.depth + 2) * vectors].split_at_mut(self.depth * vectors);
        (self.pack)(panel, vectors, weights);
        // Both neutral elements are exact: a·1 = a, and a + (−0) = a even where a is −0.
        affine[..vectors].fill(Line([T::one(); LANES]));
        affine[vectors..].fill(Line([T::neg_zero(); LANES]));
        for (values, lines) in
            [self.out.scale, self.out.bias].into_iter().zip(affine.chunks_exact_mut(vectors))
        {
            let values = values.map_or(&[][..], |values| &values[panel.first..][..panel.count]);
            for (line, values) in lines.iter_mut().zip(values.chunks(LANES)) {
                line.0[..values.len()].copy_from_slice(values);
            }
        }
    }

    /// Every image by itself, or a band of its rows: weights stay, images pass.
    fn run_by_bands(&self, images: &[T], y: &mut [T]) {
        let image_len = self.image_len();
        let band = self.band_rows(y.len().div_ceil(image_len));
        self.with_weights(|weights| {
            let pairs = y.par_chunks_mut(image_len).zip(images.par_chunks(self.frame.image_len()));
            pairs.with_max_len(IMAGES_TOGETHER).for_each(|(y, image)| {
                let bands = y.par_chunks_mut(band * self.columns * self.channels).enumerate();
                bands.for_each(|(index, y)| self.band(index * band, image, weights, y));
            });
        });
    }

    /// Lends the packed weights of all panels.
    pub(crate) fn with_weights<R>(&self, visit: impl FnOnce(&[Line<T>]) -> R) -> R {
        let panel_lines = self.panel_lines();
        with_lines(panel_lines * self.panels.len(), |weights: &mut [Line<T>]| {
            let packing = weights
                .par_chunks_exact_mut(panel_lines)
                .zip(&self.panels)
                .with_min_len(1 + RESIDENT_LINES / panel_lines);
            packing.for_each(|(lines, panel)| self.pack_panel(*panel, lines));
            visit(weights)
        })
    }

    /// Elements of one output image.
    pub(crate) fn image_len(&self) -> usize {
        self.rows * self.columns * self.channels
    }

    /// One whole image on the calling thread, with the weights of [`with_weights`](Self::with_weights).
    pub(crate) fn image(&self, image: &[T], weights: &[Line<T>], y: &mut [T]) {
        let band = self.band_rows(usize::MAX);
        for (index, y) in y.chunks_mut(band * self.columns * self.channels).enumerate() {
            self.band(index * band, image, weights, y);
        }
    }

    /// Rows in a band: all of the image, unless it is too large for the cache or threads would idle.
    fn band_rows(&self, images: usize) -> usize {
        let parts = (4 * rayon::current_num_threads()).div_ceil(images);
        let wanted = if parts > 4 { self.rows.div_ceil(parts) } else { self.rows };
        let lattice = &self.lattices[0];
        let lines = self.frame.row_lines() * lattice.rows.stride.div_ceil(lattice.rows.step);
        wanted.min((RESIDENT_LINES / lines).max(2 * lattice.reach)).max(1)
    }

    fn band(&self, first_row: usize, image: &[T], weights: &[Line<T>], y: &mut [T]) {
        let rows = first_row..first_row + y.len().div_ceil(self.columns * self.channels);
        let framed = self.framed(&rows);
        with_lines(framed.len() * self.frame.row_lines(), |frame| {
            self.frame.fill(framed.clone(), image, frame);
            let framed = Framed { rows, first: framed.start, lines: frame };
            for (panel, weights) in self.panels.iter().zip(weights.chunks_exact(self.panel_lines())) {
                let target = Target { pitch: self.channels, first_channel: panel.first };
                self.sweep(*panel, weights, &framed, &target, y);
            }
        });
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

    /// Every panel by itself over all images: for many weights and few pixels.
    fn run_by_panels(&self, images: &[T], y: &mut [T]) {
        let (rows, pixels) = (0..self.rows, y.len() / self.channels);
        let framed = self.framed(&rows);
        let frame_lines = framed.len() * self.frame.row_lines();
        let image_count = pixels.div_ceil(self.rows * self.columns);
        let width = self.panels.iter().map(|&panel| self.vectors(panel)).max().unwrap_or(1);
        with_lines(image_count * frame_lines, |frames: &mut [Line<T>]| {
            let pairs =
                frames.par_chunks_exact_mut(frame_lines).zip(images.par_chunks(self.frame.image_len()));
            pairs.for_each(|(frame, image)| self.frame.fill(framed.clone(), image, frame));
            let frames = &*frames;
            with_lines(self.panels.len() * pixels * width, |products: &mut [Line<T>]| {
                let jobs = products.par_chunks_exact_mut(pixels * width).zip(&self.panels);
                jobs.for_each(|(products, panel)| self.panel(*panel, &framed, frames, numbers_mut(products)));
                self.gather(products, pixels, y);
            });
        });
    }

    fn panel(&self, panel: Block, framed: &Range<usize>, frames: &[Line<T>], products: &mut [T]) {
        let width = self.vectors(panel) * LANES;
        let image_len = self.rows * self.columns * width;
        with_lines(self.panel_lines(), |weights| {
            self.pack_panel(panel, weights);
            let frames = frames.chunks_exact(framed.len() * self.frame.row_lines());
            for (frame, products) in frames.zip(products.chunks_mut(image_len)) {
                let target = Target { pitch: width, first_channel: 0 };
                let framed = Framed { rows: 0..self.rows, first: framed.start, lines: frame };
                self.sweep(panel, weights, &framed, &target, products);
            }
        });
    }

    /// Brings the panels' products side by side.
    fn gather(&self, products: &[Line<T>], pixels: usize, y: &mut [T]) {
        let lines = products.len() / self.panels.len();
        let rows = y
            .par_chunks_exact_mut(self.channels)
            .with_min_len(1 + RESIDENT_LINES / self.channels)
            .enumerate();
        rows.for_each(|(pixel, y)| {
            debug_assert!(pixel < pixels);
            for (panel, products) in self.panels.iter().zip(products.chunks_exact(lines)) {
                let vectors = self.vectors(*panel);
                let y = &mut y[panel.first..][..panel.count];
                for (y, line) in y.chunks_mut(LANES).zip(&products[pixel * vectors..]) {
                    y.copy_from_slice(&line.0[..y.len()]);
                }
            }
        });
    }

    /// One panel of output channels over the rows of one frame.
    fn sweep(&self, panel: Block, weights: &[Line<T>], framed: &Framed<'_, T>, target: &Target, y: &mut [T]) {
        let vectors = self.vectors(panel);
        let (packed, affine) = weights[..(self.depth + 2) * vectors].split_at(self.depth * vectors);
        for lattice in &self.lattices {
            for step in lattice.rows.steps_in(&framed.rows) {
                let frame_row = lattice.rows.origin + step * lattice.rows.stride - framed.first;
                let image = &framed.lines[frame_row * self.frame.row_lines()
                    + panel.group * self.group_lines
                    + lattice.columns.origin..];
                let row = lattice.rows.first + step * lattice.rows.step - framed.rows.start;
                let start =
                    (row * self.columns + lattice.columns.first) * target.pitch + target.first_channel;
                let Some(y) = y.get_mut(start..) else { continue };
                let pixel_step = lattice.columns.step * target.pitch;
                // The last row of a cut product may be short.
                let pixels = lattice.columns.count.min((y.len() + pixel_step - panel.count) / pixel_step);
                let row = Row {
                    image,
                    taps: &lattice.taps,
                    panel: packed,
                    affine,
                    pixels,
                    pixel_step,
                    live: panel.count,
                };
                if self.elementwise {
                    self.tiles.elementwise(&row, y);
                } else {
                    self.tiles.product(vectors, &row, y);
                }
            }
        }
    }
}

impl Axis {
    /// The steps whose outputs lie in a range.
    fn steps_in(&self, outputs: &Range<usize>) -> Range<usize> {
        let end = outputs.end.saturating_sub(self.first).div_ceil(self.step).min(self.count);
        outputs.start.saturating_sub(self.first).div_ceil(self.step).min(end)..end
    }
}
