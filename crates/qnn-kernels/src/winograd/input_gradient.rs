//! The gradient of the input: a convolution of the output's gradient with flipped weights.

use alloc::vec::Vec;
use core::ops::Range;

use super::tile::{Products, Window};
use super::tiling::{Images, Tiling};
use super::{PRODUCTS, transform};
use crate::arch::{MOST_VECTORS, Tiles};
use crate::lanes::{Lanes, Portable};
use crate::line::{LANES, Line};
use crate::matrix::Job;
use crate::scratch::with_lines;
use crate::threads::current_num_threads;
use crate::threads::prelude::*;
use crate::tile::cuts;
use crate::{Conv2dShape, Kernels, Real, vectorized};

/// Lines of windows and products that stay in a core's second cache.
const RESIDENT_LINES: usize = 1 << 13;
/// Tiles for which it is worth to fetch the weights.
const FEWEST_TILES: usize = 64;
/// Blocks of terms that pass through a register tile before the next one takes its turn: their weights stay in the first cache.
const DEPTH: usize = 8;

/// Computes input gradients of images with weights that are transformed once.
///
/// The weights of a panel of channels are lines `[product, output channel, vector of the panel]`.
pub(crate) struct InputGradient<'a, T> {
    tiles: &'a Tiles<T>,
    shape: &'a Conv2dShape,
    tiling: Tiling,
    /// Vectors of input channels that pass through a register tile together.
    panels: Vec<Range<usize>>,
    /// Rows of a register tile.
    most: usize,
}

/// Tiles whose windows are transformed together.
struct Group {
    tiles: Range<usize>,
    /// Rows of a register tile; the last one may have fewer.
    rows: usize,
    /// Blocks of output channels.
    blocks: usize,
}

impl<'a, T: Real> InputGradient<'a, T> {
    pub(crate) fn new(kernels: &'a Kernels, shape: &'a Conv2dShape) -> Self {
        let tiles = T::tiles(kernels);
        let panels: Vec<_> = cuts(shape.channels / LANES, tiles.vectors()).collect();
        let most = tiles.matrix_rows(panels[0].len());
        Self { tiles, shape, tiling: Tiling::new(shape.height, shape.width), panels, most }
    }

    /// Computes the gradient of all images.
    pub(crate) fn run(&self, dy: &[T], w: &[T], dx: &mut [T]) {
        let shape = self.shape;
        let (input_len, output_len) = (shape.input_len() / shape.batch, shape.output_len() / shape.batch);
        let images = self.images_together().min(shape.batch.div_ceil(current_num_threads()));
        self.with_weights(w, |weights| {
            let parts = dx.par_chunks_mut(images * input_len).zip(dy.par_chunks(images * output_len));
            parts.with_max_len(1).for_each(|(dx, dy)| self.images(dy, weights, dx, false));
        });
    }

    /// Images whose tiles are enough to fetch the weights for.
    pub(crate) fn images_together(&self) -> usize {
        FEWEST_TILES.div_ceil(self.tiling.len())
    }

    /// Lends the transformed weights.
    pub(crate) fn with_weights<R>(&self, w: &[T], visit: impl FnOnce(&[Line<T>]) -> R) -> R {
        let shape = self.shape;
        let vector_lines = PRODUCTS * shape.out_channels;
        with_lines(vector_lines * shape.channels / LANES, |lines| {
            let mut rest = &mut *lines;
            let mut parts = Vec::with_capacity(self.panels.len());
            for panel in &self.panels {
                let (lines, after) = rest.split_at_mut(vector_lines * panel.len());
                parts.push((panel, lines));
                rest = after;
            }
            parts.into_par_iter().for_each(|(panel, lines)| {
                vectorized(
                    #[inline(always)]
                    || pack_panel(shape, w, panel, lines),
                );
            });
            visit(lines)
        })
    }

    /// Writes the gradient of some images, or adds it.
    pub(crate) fn images(&self, dy: &[T], weights: &[Line<T>], dx: &mut [T], add: bool) {
        let shape = self.shape;
        let extents = [shape.out_height(), shape.out_width(), shape.out_channels];
        let blocks = shape.out_channels / LANES;
        let width = self.panels[0].len();
        let images = dx.len() / (shape.height * shape.width * shape.channels);
        let most = (RESIDENT_LINES / (PRODUCTS * (blocks + width))).max(FEWEST_TILES);
        Images::lend(dy, extents, T::zero(), |dy| {
            for tiles in cuts(images * self.tiling.len(), most) {
                let rows = tiles.len().div_ceil(tiles.len().div_ceil(self.most));
                let group = Group { tiles, rows, blocks };
                let lines = PRODUCTS * (group.plane(blocks) + group.plane(width));
                with_lines(lines, |lines| {
                    let (windows, products) = lines.split_at_mut(PRODUCTS * group.plane(blocks));
                    self.windows(&dy, &group, windows);
                    for panel in &self.panels {
                        self.multiply(panel, &group, windows, weights, products);
                        self.pixels(panel, &group, products, dx, add);
                    }
                });
            }
        });
    }

    /// Transforms the windows: for each product and each register tile, lines `[block, row]`.
    fn windows(&self, dy: &Images<'_, T>, group: &Group, windows: &mut [Line<T>]) {
        let padding = self.shape.padding;
        for (at, (image, [row, column])) in self.tiling.places(&group.tiles).enumerate() {
            let row = row.wrapping_add(padding.top).wrapping_sub(2);
            let column = column.wrapping_add(padding.left).wrapping_sub(2);
            let (start, rows) = group.register_tile(at);
            let pixels = &dy.window(image, [row, column], &(0..group.blocks));
            let window = Window { pixels, product_step: group.plane(group.blocks), block_step: rows };
            self.tiles.image_windows(&window, &mut windows[start * group.blocks + at - start..]);
        }
    }

    /// The products of one panel: for each of sixteen, lines `[tile, vector]`.
    fn multiply(
        &self,
        panel: &Range<usize>,
        group: &Group,
        windows: &[Line<T>],
        weights: &[Line<T>],
        products: &mut [Line<T>],
    ) {
        let (outputs, width) = (self.shape.out_channels, panel.len());
        let weights = &weights[PRODUCTS * outputs * panel.start..][..PRODUCTS * outputs * width];
        let planes = windows.chunks(group.plane(group.blocks)).zip(products.chunks_mut(group.plane(width)));
        for (right, (windows, products)) in weights.chunks_exact(outputs * width).zip(planes) {
            for first in (0..group.blocks).step_by(DEPTH) {
                let end = (first + DEPTH).min(group.blocks);
                let right = &right[first * LANES * width..end * LANES * width];
                for at in (0..group.tiles.len()).step_by(group.rows) {
                    let (start, rows) = group.register_tile(at);
                    let left = &windows[start * group.blocks..][first * rows..end * rows];
                    let job = Job { rows, left, right, goes_on: first > 0 };
                    self.tiles.matrix(width, &job, &mut products[start * width..][..rows * width]);
                }
            }
        }
    }

    /// Makes pixels of the products of one panel.
    fn pixels(&self, panel: &Range<usize>, group: &Group, products: &[Line<T>], dx: &mut [T], add: bool) {
        let Conv2dShape { height, width, channels, .. } = *self.shape;
        let (first, vectors) = (panel.start * LANES, panel.len());
        let mut pixels = [[[Line([T::zero(); LANES]); 2]; 2]; MOST_VECTORS];
        for (at, (image, [row, column])) in self.tiling.places(&group.tiles).enumerate() {
            let products = Products { lines: &products[at * vectors..], product_step: group.plane(vectors) };
            self.tiles.pixels(&products, &mut pixels[..vectors]);
            for i in 0..2.min(height - row) {
                for j in 0..2.min(width - column) {
                    let pixel = (image * height + row + i) * width + column + j;
                    let dx = &mut dx[pixel * channels + first..][..vectors * LANES];
                    for (dx, pixels) in dx.as_chunks_mut().0.iter_mut().zip(&pixels) {
                        let gradient = &pixels[i][j].0;
                        if add {
                            dx.iter_mut().zip(gradient).for_each(|(dx, gradient)| *dx = *dx + *gradient);
                        } else {
                            *dx = *gradient;
                        }
                    }
                }
            }
        }
    }
}

impl Group {
    /// The distance of two products' lines, of so many for each tile: an odd one, for those of one tile are written together and would else fall
    /// into few sets of the first cache.
    fn plane(&self, each: usize) -> usize {
        (self.tiles.len() * each) | 1
    }

    /// The first tile of the register tile of a tile, and its rows.
    #[inline(always)]
    fn register_tile(&self, at: usize) -> (usize, usize) {
        let start = at / self.rows * self.rows;
        (start, self.rows.min(self.tiles.len() - start))
    }
}

/// Flips and transforms the weights of one panel.
#[inline(always)]
fn pack_panel<T: Real>(shape: &Conv2dShape, w: &[T], panel: &Range<usize>, lines: &mut [Line<T>]) {
    let Conv2dShape { channels, out_channels, .. } = *shape;
    let (width, plane) = (panel.len(), out_channels * panel.len());
    for vector in 0..width {
        let channel = (panel.start + vector) * LANES;
        for output in (0..out_channels).step_by(LANES) {
            // The block of each tap, with the output channel as its row.
            let mut taps = [[Line([T::zero(); LANES]); LANES]; 9];
            for (tap, block) in taps.iter_mut().enumerate() {
                for lane in 0..LANES {
                    let row = &w[(tap * channels + channel + lane) * out_channels + output..];
                    let row = row.first_chunk::<LANES>().expect("channels in whole lines");
                    for o in 0..LANES {
                        block[o].0[lane] = row[o];
                    }
                }
            }
            for o in 0..LANES {
                let flipped = |i: usize, j: usize| Portable::load(&taps[8 - (3 * i + j)][o]);
                let kernel = core::array::from_fn(|i| core::array::from_fn(|j| flipped(i, j)));
                let transformed = transform::of_kernel::<T, Portable<T>>(kernel);
                let lines = &mut lines[(output + o) * width + vector..];
                for (product, numbers) in transformed.as_flattened().iter().enumerate() {
                    lines[product * plane] = numbers.to_line();
                }
            }
        }
    }
}
