//! The gradient of the weights: products of transformed windows and transformed output gradients, summed over tiles.

use alloc::vec::Vec;
use core::ops::Range;

use super::PRODUCTS;
use super::tile::Window;
use super::tiling::{Images, Tiling};
use crate::arch::Tiles;
use crate::line::{LANES, Line};
use crate::reference::chunk_images;
use crate::scratch::with_lines;
use crate::threads::current_num_threads;
use crate::threads::prelude::*;
use crate::tile::{Sweep, cuts};
use crate::{Conv2dShape, Kernels, Real, vectorized};

/// Lines of one side's transformed windows that stay in a core's second cache.
const RESIDENT_LINES: usize = 1 << 12;
/// Tiles for which it is worth to fetch the sums.
const FEWEST_TILES: usize = 64;
/// Lines of weights whose chunks are added together.
const ADDED_LINES: usize = 1 << 8;

/// The sums of products of a block of input channels are lines `[product, channel, block of outputs]`; transformed windows of a block are
/// `[product, tile]`.
pub(crate) struct KernelGradient<'a, T> {
    tiles: &'a Tiles<T>,
    shape: &'a Conv2dShape,
    pad_value: T,
    tiling: Tiling,
}

impl<'a, T: Real> KernelGradient<'a, T> {
    pub(crate) fn new(kernels: &'a Kernels, shape: &'a Conv2dShape, pad_value: T) -> Self {
        let tiling = Tiling::new(shape.out_height(), shape.out_width());
        Self { tiles: T::tiles(kernels), shape, pad_value, tiling }
    }

    /// Computes the gradient over all images.
    pub(crate) fn run(&self, x: &[T], dy: &[T], dw: &mut [T]) {
        let shape = self.shape;
        let images = chunk_images(shape);
        with_lines(shape.batch.div_ceil(images) * self.sum_lines(), |sums| {
            if images == shape.batch {
                self.by_channels(x, dy, sums);
            } else {
                let x = x.par_chunks(images * shape.input_len() / shape.batch);
                let dy = dy.par_chunks(images * shape.output_len() / shape.batch);
                let chunks = sums.par_chunks_exact_mut(self.sum_lines()).zip(x).zip(dy);
                chunks.with_max_len(1).for_each(|((sums, x), dy)| {
                    self.with_products(sums, |products| self.add_images(x, dy, products));
                });
            }
            self.add_chunks(sums, dw);
        });
    }

    /// Lines of a chunk's gradient, which lie as the weights do.
    pub(crate) fn sum_lines(&self) -> usize {
        9 * self.shape.channels * self.output_blocks()
    }

    /// Lends lines for the sums of products of a chunk, and makes them the chunk's gradient.
    pub(crate) fn with_products(&self, sums: &mut [Line<T>], visit: impl FnOnce(&mut [Line<T>])) {
        with_lines(PRODUCTS * self.shape.channels * self.output_blocks(), |products| {
            let (zero, each) = (Line([T::zero(); LANES]), PRODUCTS * LANES * self.output_blocks());
            vectorized(
                #[inline(always)]
                || products.fill(zero),
            );
            visit(products);
            let mut blocks = self.taps_by_blocks(sums);
            blocks
                .iter_mut()
                .zip(products.chunks_exact(each))
                .for_each(|(taps, products)| self.tiles.taps(products, taps));
        });
    }

    /// Adds some images to the sums of their chunk.
    pub(crate) fn add_images(&self, x: &[T], dy: &[T], products: &mut [Line<T>]) {
        self.with_images(x, dy, |x, dy, tiles| {
            let (inputs, outputs) = (0..self.input_blocks(), 0..self.output_blocks());
            for tiles in cuts(tiles, self.together()) {
                with_lines(outputs.len() * block_lines(&tiles), |gradients| {
                    self.output_windows(&dy, &tiles, &outputs, gradients);
                    self.multiply(&x, &tiles, &inputs, gradients, products);
                });
            }
        });
    }

    /// All images as one chunk; threads share the input channels.
    fn by_channels(&self, x: &[T], dy: &[T], sums: &mut [Line<T>]) {
        let share = |blocks: usize| blocks.div_ceil(2 * current_num_threads());
        let (inputs, outputs) = (share(self.input_blocks()), share(self.output_blocks()));
        let each = PRODUCTS * LANES * self.output_blocks();
        with_lines(self.input_blocks() * each, |products: &mut [Line<T>]| {
            products.par_chunks_mut(each).for_each(|products| products.fill(Line([T::zero(); LANES])));
            self.with_images(x, dy, |x, dy, tiles| {
                for tiles in cuts(tiles, 4 * self.together()) {
                    let block_lines = block_lines(&tiles);
                    with_lines(self.output_blocks() * block_lines, |gradients: &mut [Line<T>]| {
                        let parts = gradients.par_chunks_mut(outputs * block_lines).enumerate();
                        parts.for_each(|(part, gradients)| {
                            let blocks = part * outputs..part * outputs + gradients.len() / block_lines;
                            self.output_windows(&dy, &tiles, &blocks, gradients);
                        });
                        let gradients = &*gradients;
                        let parts = products.par_chunks_mut(inputs * each).enumerate();
                        parts.for_each(|(part, products)| {
                            let blocks = part * inputs..part * inputs + products.len() / each;
                            self.multiply(&x, &tiles, &blocks, gradients, products);
                        });
                    });
                }
            });
            let products = &*products;
            let blocks = self.taps_by_blocks(sums);
            blocks.into_par_iter().enumerate().for_each(|(block, mut taps)| {
                self.tiles.taps(&products[block * each..][..each], &mut taps);
            });
        });
    }

    /// Lends input and output gradient of some images, and says how many tiles they have.
    fn with_images<R>(
        &self,
        x: &[T],
        dy: &[T],
        visit: impl FnOnce(Images<'_, T>, Images<'_, T>, usize) -> R,
    ) -> R {
        let Conv2dShape { height, width, channels, out_channels, .. } = *self.shape;
        let output = [self.shape.out_height(), self.shape.out_width(), out_channels];
        let images = x.len() / (height * width * channels);
        Images::lend(x, [height, width, channels], 0, self.pad_value, |x| {
            Images::lend(dy, output, 0, T::zero(), |dy| visit(x, dy, images * self.tiling.len()))
        })
    }

    /// Tiles that are transformed together.
    fn together(&self) -> usize {
        let blocks = self.input_blocks().max(self.output_blocks());
        (RESIDENT_LINES / (PRODUCTS * blocks)).max(FEWEST_TILES)
    }

    /// Transforms the gradients of some blocks of outputs.
    fn output_windows(
        &self,
        dy: &Images<'_, T>,
        tiles: &Range<usize>,
        blocks: &Range<usize>,
        lines: &mut [Line<T>],
    ) {
        for (at, (image, first)) in self.tiling.places(tiles).enumerate() {
            let pixels = &dy.window(image, first, blocks);
            let window = Window { pixels, product_step: plane(tiles), block_step: block_lines(tiles) };
            self.tiles.gradient_windows(&window, &mut lines[at..]);
        }
    }

    /// Transforms the windows of some blocks of inputs.
    fn input_windows(
        &self,
        x: &Images<'_, T>,
        tiles: &Range<usize>,
        blocks: &Range<usize>,
        lines: &mut [Line<T>],
    ) {
        let padding = self.shape.padding;
        for (at, (image, [row, column])) in self.tiling.places(tiles).enumerate() {
            let first = [row.wrapping_sub(padding.top), column.wrapping_sub(padding.left)];
            let pixels = &x.window(image, first, blocks);
            let window = Window { pixels, product_step: plane(tiles), block_step: block_lines(tiles) };
            self.tiles.image_windows(&window, &mut lines[at..]);
        }
    }

    /// Adds the products of some tiles to the sums of some blocks of inputs.
    fn multiply(
        &self,
        x: &Images<'_, T>,
        tiles: &Range<usize>,
        blocks: &Range<usize>,
        gradients: &[Line<T>],
        products: &mut [Line<T>],
    ) {
        let (outputs, block_lines) = (self.output_blocks(), block_lines(tiles));
        with_lines(blocks.len() * block_lines, |windows| {
            self.input_windows(x, tiles, blocks, windows);
            for product in 0..PRODUCTS {
                let plane = product * plane(tiles);
                for outputs_together in cuts(outputs, self.tiles.vectors()) {
                    let first = outputs_together.start;
                    for block in 0..blocks.len() {
                        let sweep = Sweep {
                            x: &windows[block * block_lines + plane..],
                            dy: &gradients[first * block_lines + plane..],
                            rows: 1,
                            columns: tiles.len(),
                            x_row: 0,
                            dy_row: 0,
                            x_pixel: 1,
                            dy_pixel: 1,
                            dy_block: block_lines,
                            channels: LANES,
                            sum_step: outputs,
                        };
                        let sums = &mut products[(block * PRODUCTS + product) * LANES * outputs + first..];
                        self.tiles.outer(outputs_together.len(), &sweep, sums);
                    }
                }
            }
        });
    }

    /// The lines of each of nine taps, for each block of input channels.
    fn taps_by_blocks<'l>(&self, sums: &'l mut [Line<T>]) -> Vec<[&'l mut [Line<T>]; 9]> {
        let block = LANES * self.output_blocks();
        let mut taps = sums.chunks_exact_mut(sums.len() / 9).map(|tap| tap.chunks_exact_mut(block));
        let mut taps: [_; 9] = core::array::from_fn(|_| taps.next().expect("nine taps"));
        let next = |tap: &mut core::slice::ChunksExactMut<'l, Line<T>>| tap.next().expect("equal taps");
        (0..self.input_blocks()).map(|_| taps.each_mut().map(next)).collect()
    }

    /// Adds the chunks' gradients in order.
    pub(crate) fn add_chunks(&self, sums: &[Line<T>], dw: &mut [T]) {
        dw.par_chunks_mut(LANES * ADDED_LINES).enumerate().for_each(|(part, dw)| {
            vectorized(
                #[inline(always)]
                || {
                    dw.fill(T::zero());
                    for sums in sums.chunks_exact(self.sum_lines()) {
                        let sums = &sums[part * ADDED_LINES..];
                        for (dw, sums) in dw.as_chunks_mut::<LANES>().0.iter_mut().zip(sums) {
                            for lane in 0..LANES {
                                dw[lane] = dw[lane] + sums.0[lane];
                            }
                        }
                    }
                },
            );
        });
    }

    fn input_blocks(&self) -> usize {
        self.shape.channels / LANES
    }

    fn output_blocks(&self) -> usize {
        self.shape.out_channels / LANES
    }
}

/// The distance of two products' lines: an odd one, for those of one tile are written together and would else fall into few sets of the first
/// cache.
fn plane(tiles: &Range<usize>) -> usize {
    tiles.len() | 1
}

/// Lines of one block of channels.
fn block_lines(tiles: &Range<usize>) -> usize {
    PRODUCTS * plane(tiles)
}
