//! The gradient of a convolution's kernel: outer products of input and output gradient, summed over pixels.

use std::ops::Range;

use rayon::prelude::*;

use crate::arch::Tiles;
use crate::frame::Frame;
use crate::line::{LANES, Line};
use crate::plan::{channel_blocks, input_frame, is_depthwise};
use crate::reference::chunk_images;
use crate::scratch::with_lines;
use crate::tile::{Sweep, cuts};
use crate::{Conv2dShape, Kernels, Real};

/// Lines of output gradient that stay in a core's cache while blocks of input channels pass.
const RESIDENT_LINES: usize = 1 << 13;

pub(crate) fn kernel_gradient<T: Real>(
    kernels: &Kernels,
    shape: &Conv2dShape,
    x: &[T],
    pad_value: T,
    dy: &[T],
    dw: &mut [T],
) {
    if shape.batch == 0 {
        return dw.fill(T::zero());
    }
    let plan = KernelGradient::new(T::tiles(kernels), shape, pad_value);
    if chunk_images(shape) < shape.batch {
        plan.run_by_chunks(x, dy, dw);
    } else {
        plan.run_by_blocks(x, dy, dw);
    }
}

/// Lines that stay in a core's first cache.
const FIRST_CACHE_LINES: usize = 1 << 9;

/// The sums of one kernel position and one block of input channels are `[LANES, blocks of outputs]` lines.
struct KernelGradient<'a, T> {
    tiles: &'a Tiles<T>,
    shape: &'a Conv2dShape,
    depthwise: bool,
    input: Frame<T>,
    output: Frame<T>,
    /// Blocks of input channels in a group.
    blocks: usize,
}

/// A position of the kernel and a block of input channels.
#[derive(Clone, Copy)]
struct Site {
    kh: usize,
    kw: usize,
    block: usize,
}

impl<'a, T: Real> KernelGradient<'a, T> {
    fn new(tiles: &'a Tiles<T>, shape: &'a Conv2dShape, pad_value: T) -> Self {
        let input = input_frame(shape, pad_value);
        let output = Frame {
            height: shape.out_height(),
            width: shape.out_width(),
            channels: shape.out_channels,
            top: 0,
            left: 0,
            columns: shape.out_width(),
            phases: 1,
            rows: (1, 1),
            phases_read: 1,
            blocks: channel_blocks(shape, shape.out_channels),
            pad_value: T::zero(),
        };
        let depthwise = is_depthwise(shape);
        let blocks = if depthwise { 1 } else { input.blocks.len() / shape.groups };
        Self { tiles, shape, depthwise, input, output, blocks }
    }

    /// Chunks of images side by side, each with sums of its own; then the chunks are added in order.
    fn run_by_chunks(&self, x: &[T], dy: &[T], dw: &mut [T]) {
        let images = chunk_images(self.shape);
        let sum_lines = self.sites().len() * self.site_lines();
        with_lines(self.shape.batch.div_ceil(images) * sum_lines, |sums: &mut [Line<T>]| {
            let x = x.par_chunks(images * self.input.image_len());
            let chunks = sums
                .par_chunks_exact_mut(sum_lines)
                .zip(x)
                .zip(dy.par_chunks(images * self.output.image_len()));
            chunks.for_each(|((sums, x), dy)| self.chunk(x, dy, sums));
            let sums = &*sums;
            let rows = dw.par_chunks_exact_mut(self.shape.out_channels).with_min_len(64).enumerate();
            rows.for_each(|(row, dw)| {
                for (chunk, sums) in sums.chunks_exact(sum_lines).enumerate() {
                    self.add_row(chunk > 0, self.row_of(row, sums), dw);
                }
            });
        });
    }

    fn chunk(&self, x: &[T], dy: &[T], sums: &mut [Line<T>]) {
        sums.fill(Line([T::zero(); LANES]));
        with_lines(self.input_lines() + self.output_lines(), |lines| {
            let (input, output) = lines.split_at_mut(self.input_lines());
            for (x, dy) in
                x.chunks_exact(self.input.image_len()).zip(dy.chunks_exact(self.output.image_len()))
            {
                self.input.fill(self.input_rows(), x, input);
                self.output.fill(0..self.shape.out_height(), dy, output);
                for rows in cuts(self.shape.out_height(), self.band_rows()) {
                    for (site, sums) in self.sites().zip(sums.chunks_exact_mut(self.site_lines())) {
                        self.accumulate(site, rows.clone(), input, output, sums);
                    }
                }
            }
        });
    }

    /// Rows that all sites visit before the next ones: few enough to stay in the first cache, enough pixels to be worth fetching the sums.
    fn band_rows(&self) -> usize {
        let lines = self.shape.stride[0] * self.input.row_lines() + self.output.row_lines();
        (FIRST_CACHE_LINES / lines).max(128_usize.div_ceil(self.shape.out_width()))
    }

    /// Blocks of the kernel side by side, each over all images: for many weights or few images.
    fn run_by_blocks(&self, x: &[T], dy: &[T], dw: &mut [T]) {
        let batch = self.shape.batch;
        with_lines(batch * self.input_lines(), |inputs: &mut [Line<T>]| {
            let pairs = inputs
                .par_chunks_exact_mut(self.input_lines())
                .zip(x.par_chunks_exact(self.input.image_len()));
            pairs.for_each(|(lines, x)| self.input.fill(self.input_rows(), x, lines));
            let inputs = &*inputs;
            with_lines(batch * self.output_lines(), |outputs: &mut [Line<T>]| {
                let pairs = outputs
                    .par_chunks_exact_mut(self.output_lines())
                    .zip(dy.par_chunks_exact(self.output.image_len()));
                pairs.for_each(|(lines, dy)| self.output.fill(0..self.shape.out_height(), dy, lines));
                self.blocks(inputs, outputs, dw);
            });
        });
    }

    fn blocks(&self, inputs: &[Line<T>], outputs: &[Line<T>], dw: &mut [T]) {
        let positions =
            dw.par_chunks_exact_mut(self.shape.group_channels() * self.shape.out_channels).enumerate();
        positions.for_each(|(position, dw)| {
            let (kh, kw) = (position / self.shape.kernel[1], position % self.shape.kernel[1]);
            let blocks = dw.par_chunks_mut(LANES * self.shape.out_channels).enumerate();
            blocks.for_each(|(block, dw)| self.block(Site { kh, kw, block }, inputs, outputs, dw));
        });
    }

    fn block(&self, site: Site, inputs: &[Line<T>], outputs: &[Line<T>], dw: &mut [T]) {
        let together = (RESIDENT_LINES / self.output_lines()).max(1);
        with_lines(self.site_lines(), |sums| {
            sums.fill(Line([T::zero(); LANES]));
            let chunks = inputs
                .chunks(together * self.input_lines())
                .zip(outputs.chunks(together * self.output_lines()));
            for (inputs, outputs) in chunks {
                let images =
                    inputs.chunks_exact(self.input_lines()).zip(outputs.chunks_exact(self.output_lines()));
                images.for_each(|(input, output)| {
                    self.accumulate(site, 0..self.shape.out_height(), input, output, sums)
                });
            }
            for (row, dw) in dw.chunks_exact_mut(self.shape.out_channels).enumerate() {
                self.add_row(false, &sums[row * self.output.blocks.len()..], dw);
            }
        });
    }

    /// Adds some rows of one image to the sums of one site.
    fn accumulate(
        &self,
        site: Site,
        rows: Range<usize>,
        input: &[Line<T>],
        output: &[Line<T>],
        sums: &mut [Line<T>],
    ) {
        let group_blocks = self.output.blocks.len() / if self.depthwise { 1 } else { self.shape.groups };
        let input = &input[(rows.start * self.shape.stride[0] + site.kh) * self.input.row_lines()..];
        let output = &output[rows.start * self.output.row_lines()..];
        let mut first = 0;
        while first < self.output.blocks.len() {
            let group = first / group_blocks;
            let vectors = self.tiles.vectors().min((group + 1) * group_blocks - first);
            // Depthwise, the blocks of input and output are the same.
            let block = if self.depthwise { first } else { group * self.blocks + site.block };
            let x = &input[self.input.line(block, site.kw)..];
            let sweep = self.sweep(
                rows.len(),
                x,
                &output[first * self.output.plane()..],
                self.input.blocks[block].count,
            );
            if self.depthwise {
                self.tiles.elementwise_outer(&sweep, &mut sums[first..]);
                first += 1;
            } else {
                self.tiles.outer(vectors, &sweep, &mut sums[first..]);
                first += vectors;
            }
        }
    }

    fn sweep<'l>(&self, rows: usize, x: &'l [Line<T>], dy: &'l [Line<T>], channels: usize) -> Sweep<'l, T> {
        Sweep {
            x,
            dy,
            rows,
            columns: self.shape.out_width(),
            x_row: self.shape.stride[0] * self.input.row_lines(),
            dy_row: self.output.row_lines(),
            dy_block: self.output.plane(),
            channels,
            sum_step: self.output.blocks.len(),
        }
    }

    fn sites(&self) -> impl ExactSizeIterator<Item = Site> + use<T> {
        let ([_, width], blocks) = (self.shape.kernel, self.blocks);
        let site = move |index: usize| Site {
            kh: index / blocks / width,
            kw: index / blocks % width,
            block: index % blocks,
        };
        (0..self.shape.kernel[0] * width * blocks).map(site)
    }

    /// The sums of row `row` of the weights `[kh·kw·channels/groups, out_channels]`.
    fn row_of<'l>(&self, row: usize, sums: &'l [Line<T>]) -> &'l [Line<T>] {
        let (position, channel) = (row / self.shape.group_channels(), row % self.shape.group_channels());
        let site = position * self.blocks + channel / LANES;
        &sums[site * self.site_lines() + channel % LANES * self.output.blocks.len()..]
    }

    fn add_row(&self, add: bool, sums: &[Line<T>], dw: &mut [T]) {
        for (block, line) in self.output.blocks.iter().zip(sums) {
            for (dw, sum) in dw[block.first..][..block.count].iter_mut().zip(line.0) {
                *dw = if add { *dw + sum } else { sum };
            }
        }
    }

    fn site_lines(&self) -> usize {
        self.output.blocks.len() * if self.depthwise { 1 } else { LANES }
    }

    fn input_rows(&self) -> Range<usize> {
        0..(self.shape.out_height() - 1) * self.shape.stride[0] + self.shape.kernel[0]
    }

    fn input_lines(&self) -> usize {
        self.input_rows().len() * self.input.row_lines()
    }

    fn output_lines(&self) -> usize {
        self.shape.out_height() * self.output.row_lines()
    }
}
