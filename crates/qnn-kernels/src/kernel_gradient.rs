//! The gradient of a convolution's kernel: outer products of input and output gradient, summed over pixels.

use core::ops::Range;

use crate::arch::{Tiles, as_lines};
use crate::frame::Frame;
use crate::line::{LANES, Line};
use crate::operand::Operand;
use crate::plan::{channel_blocks, gathered, gathers_rows, input_frame, is_depthwise};
use crate::reference::chunk_images;
use crate::scratch::with_lines;
use crate::threads::current_num_threads;
use crate::threads::prelude::*;
use crate::tile::{Sweep, cuts};
use crate::{Conv2dShape, Kernels, Padding, Real, vectorized};

/// Lines of output gradient that stay in a core's cache while blocks of input channels pass.
const RESIDENT_LINES: usize = 1 << 13;

/// Lines of sums that stay there too while images pass.
const RESIDENT_SUMS: usize = 1 << 14;

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
    let plan = KernelGradient::new(T::tiles(kernels), shape, x, pad_value, as_lines(dy).is_some());
    if chunk_images(shape) < shape.batch {
        plan.run_by_chunks(x, dy, dw);
    } else {
        plan.run_by_blocks(x, dy, dw);
    }
}

/// Lines that stay in a core's first cache.
const FIRST_CACHE_LINES: usize = 1 << 9;

/// The sums of one kernel position and one block of input channels are `[LANES, blocks of outputs]` lines.
pub(crate) struct KernelGradient<'a, T> {
    tiles: &'a Tiles<T>,
    /// Where channels are few, a kernel row of them stands for the channels of a kernel one column wide.
    shape: Conv2dShape,
    depthwise: bool,
    input: Operand<T>,
    output: Operand<T>,
    /// Blocks of input channels in a group.
    blocks: usize,
}

/// The shape and input frame of a kernel one column wide with the same weights and sums, if a line holds a kernel row.
fn as_columns<T: Real>(shape: &Conv2dShape, frame: Frame<T>) -> (Conv2dShape, Frame<T>) {
    if !gathers_rows(shape) {
        return (*shape, frame);
    }
    let channels = shape.kernel[1] * shape.channels;
    let columns = Conv2dShape {
        width: shape.out_width(),
        channels,
        kernel: [shape.kernel[0], 1],
        stride: [shape.stride[0], 1],
        padding: Padding { left: 0, right: 0, ..shape.padding },
        ..*shape
    };
    (columns, gathered(frame, shape, channels))
}

/// A position of the kernel and a block of input channels.
#[derive(Clone, Copy)]
struct Site {
    kh: usize,
    kw: usize,
    block: usize,
}

impl<'a, T: Real> KernelGradient<'a, T> {
    /// `aligned`: whether the output's gradient will begin and end with a line.
    pub(crate) fn new(
        tiles: &'a Tiles<T>,
        shape: &'a Conv2dShape,
        x: &[T],
        pad_value: T,
        aligned: bool,
    ) -> Self {
        // Rows one after the other in a single one: all pixels of a block are neighbours, and no row of them falls into the same sets of the
        // first cache as the row before.
        let pixels = shape.out_height() * shape.out_width();
        let output = Frame {
            flat: false,
            gathered: None,
            height: 1,
            width: pixels,
            channels: shape.out_channels,
            top: 0,
            left: 0,
            columns: pixels,
            phases: 1,
            rows: (1, 1),
            phases_read: 1,
            blocks: channel_blocks(shape, shape.out_channels),
            pad_value: T::zero(),
        };
        let framed_rows = (shape.out_height() - 1) * shape.stride[0] + shape.kernel[0];
        // Zeros around the image add nothing, so that they need not be there.
        let bare = pad_value == T::zero() && as_lines(x).is_some() && !gathers_rows(shape);
        let (shape, frame) = as_columns(shape, input_frame(shape, pad_value));
        let input = Operand::new(frame, framed_rows, bare);
        let output = Operand::new(output, 1, aligned);
        let depthwise = is_depthwise(&shape);
        let blocks = if depthwise { 1 } else { input.frame.blocks.len() / shape.groups };
        Self { tiles, shape, depthwise, input, output, blocks }
    }

    /// Chunks of images side by side, each with sums of its own; then the chunks are added in order.
    fn run_by_chunks(&self, x: &[T], dy: &[T], dw: &mut [T]) {
        let images = chunk_images(&self.shape);
        with_lines(self.shape.batch.div_ceil(images) * self.sum_lines(), |sums: &mut [Line<T>]| {
            let x = x.par_chunks(images * self.input.image_len());
            let chunks = sums
                .par_chunks_exact_mut(self.sum_lines())
                .zip(x)
                .zip(dy.par_chunks(images * self.output.image_len()));
            chunks.with_max_len(1).for_each(|((sums, x), dy)| {
                sums.fill(Line([T::zero(); LANES]));
                self.add_images(x, dy, sums);
            });
            self.add_chunks(sums, dw);
        });
    }

    /// Lines of a chunk's sums.
    pub(crate) fn sum_lines(&self) -> usize {
        self.sites().len() * self.site_lines()
    }

    /// Adds the chunks' sums in order.
    pub(crate) fn add_chunks(&self, sums: &[Line<T>], dw: &mut [T]) {
        let rows = dw.par_chunks_exact_mut(self.shape.out_channels).with_min_len(64).enumerate();
        rows.for_each(|(row, dw)| {
            vectorized(
                #[inline(always)]
                || {
                    for (chunk, sums) in sums.chunks_exact(self.sum_lines()).enumerate() {
                        self.add_row(chunk > 0, self.row_of(row, sums), &mut *dw);
                    }
                },
            );
        });
    }

    /// Adds some images, one after the other, to the sums of their chunk.
    pub(crate) fn add_images(&self, x: &[T], dy: &[T], sums: &mut [Line<T>]) {
        with_lines(self.input.scratch_lines() + self.output.scratch_lines(), |scratch| {
            let (input, output) = scratch.split_at_mut(self.input.scratch_lines());
            for (x, dy) in
                x.chunks_exact(self.input.image_len()).zip(dy.chunks_exact(self.output.image_len()))
            {
                let (input, output) = (self.input.lines(x, input), self.output.lines(dy, output));
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
        let output_lines = self.shape.out_width() * self.output.blocks();
        let lines = self.shape.stride[0] * self.input.row_lines() + output_lines;
        (FIRST_CACHE_LINES / lines).max(128_usize.div_ceil(self.shape.out_width()))
    }

    /// Blocks of the kernel side by side, each over all images: for many weights or few images.
    fn run_by_blocks(&self, x: &[T], dy: &[T], dw: &mut [T]) {
        let batch = self.shape.batch;
        with_lines(batch * self.input.scratch_lines(), |inputs: &mut [Line<T>]| {
            let inputs = self.input.batch_lines(x, inputs);
            with_lines(batch * self.output.scratch_lines(), |outputs: &mut [Line<T>]| {
                let outputs = self.output.batch_lines(dy, outputs);
                self.blocks(inputs, outputs, dw);
            });
        });
    }

    fn blocks(&self, inputs: &[Line<T>], outputs: &[Line<T>], dw: &mut [T]) {
        let block_len = LANES * self.shape.out_channels;
        let position_len = self.shape.group_channels() * self.shape.out_channels;
        // Every part fetches all images: few parts, which may go over several positions if these end with a block.
        let whole = position_len.is_multiple_of(block_len);
        let (stretch, sites) =
            if whole { (dw.len(), self.sites().len()) } else { (position_len, self.blocks) };
        let together = self.sites_together(sites);
        dw.par_chunks_exact_mut(stretch).enumerate().for_each(|(position, dw)| {
            let parts = dw.par_chunks_mut(together * block_len).enumerate();
            parts.with_max_len(1).for_each(|(part, dw)| {
                let first = position * self.blocks + part * together;
                let count = dw.len().div_ceil(block_len);
                let sites = self.sites().skip(first).take(count);
                self.sites_of_all_images(sites, inputs, outputs, dw);
            });
        });
    }

    /// How many of `sites` a thread visits together: their sums stay in the cache, and threads get equally many.
    fn sites_together(&self, sites: usize) -> usize {
        let most = (RESIDENT_SUMS / self.site_lines()).max(1);
        let threads = current_num_threads();
        sites.div_ceil(threads * sites.div_ceil(most * threads))
    }

    /// Some sites over all images. Few images at a time pass by all sites, for a site alone would fetch every image from memory.
    fn sites_of_all_images(
        &self,
        sites: impl ExactSizeIterator<Item = Site> + Clone,
        inputs: &[Line<T>],
        outputs: &[Line<T>],
        dw: &mut [T],
    ) {
        let (input_lines, output_lines) = (self.input.image_lines(), self.output.image_lines());
        let together = (RESIDENT_LINES / output_lines).max(1);
        with_lines(sites.len() * self.site_lines(), |sums| {
            sums.fill(Line([T::zero(); LANES]));
            let chunks = inputs.chunks(together * input_lines).zip(outputs.chunks(together * output_lines));
            for (inputs, outputs) in chunks {
                for (site, sums) in sites.clone().zip(sums.chunks_exact_mut(self.site_lines())) {
                    let images = inputs.chunks_exact(input_lines).zip(outputs.chunks_exact(output_lines));
                    images.for_each(|(input, output)| {
                        self.accumulate(site, 0..self.shape.out_height(), input, output, sums);
                    });
                }
            }
            for (row, dw) in dw.chunks_exact_mut(self.shape.out_channels).enumerate() {
                let site = &sums[row / LANES * self.site_lines()..];
                self.add_row(false, &site[row % LANES * self.output.blocks()..], dw);
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
        let reached = self.reached(site);
        let rows = rows.start.max(reached[0].start)..rows.end.min(reached[0].end);
        let columns = reached[1].clone();
        if rows.is_empty() || columns.is_empty() {
            return;
        }
        let [row, column] = self.shape.stride;
        let at = [rows.start * row + site.kh, columns.start * column + site.kw];
        let sweep = |block: usize, first: usize| Sweep {
            x: &input[self.input.line(at, block)..],
            dy: &output[self.output.line([0, rows.start * self.shape.out_width() + columns.start], first)..],
            rows: rows.len(),
            columns: columns.len(),
            x_row: row * self.input.row_lines(),
            dy_row: self.shape.out_width() * self.output.pixel_lines(1),
            x_pixel: self.input.pixel_lines(column),
            dy_pixel: self.output.pixel_lines(1),
            dy_block: self.output.block_lines(),
            channels: self.input.frame.blocks[block].count,
            sum_step: self.output.blocks(),
        };
        if self.depthwise {
            // The blocks of input and output are the same.
            for block in 0..self.output.blocks() {
                self.tiles.elementwise_outer(&sweep(block, block), &mut sums[block..]);
            }
            return;
        }
        let group_blocks = self.output.blocks() / self.shape.groups;
        for group in 0..self.shape.groups {
            for blocks in cuts(group_blocks, self.tiles.vectors()) {
                let first = group * group_blocks + blocks.start;
                let sweep = sweep(group * self.blocks + site.block, first);
                self.tiles.outer(blocks.len(), &sweep, &mut sums[first..]);
            }
        }
    }

    /// The output rows and columns for which a site finds lines of the input.
    fn reached(&self, site: Site) -> [Range<usize>; 2] {
        let shape = self.shape;
        let [height, width] = [shape.out_height(), shape.out_width()];
        if !self.input.direct {
            return [0..height, 0..width];
        }
        let inside = |before: usize, at: usize, extent: usize, stride: usize, outputs: usize| {
            let first = before.saturating_sub(at).div_ceil(stride).min(outputs);
            first..(extent + before).saturating_sub(at).div_ceil(stride).clamp(first, outputs)
        };
        let [row, column] = shape.stride;
        [
            inside(shape.padding.top, site.kh, shape.height, row, height),
            inside(shape.padding.left, site.kw, shape.width, column, width),
        ]
    }

    fn sites(&self) -> impl ExactSizeIterator<Item = Site> + Clone + use<T> {
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
        &sums[site * self.site_lines() + channel % LANES * self.output.blocks()..]
    }

    #[inline(always)]
    fn add_row(&self, add: bool, sums: &[Line<T>], dw: &mut [T]) {
        for (block, line) in self.output.frame.blocks.iter().zip(sums) {
            for (dw, &sum) in dw[block.first..][..block.count].iter_mut().zip(&line.0) {
                // A sum of zero terms alone may be −0: added to +0 it is the same whether padding was among them or not.
                *dw = sum + if add { *dw } else { T::zero() };
            }
        }
    }

    fn site_lines(&self) -> usize {
        self.output.blocks() * if self.depthwise { 1 } else { LANES }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::arch::numbers_mut;
    use crate::{Isa, reference};

    /// Numbers at the beginning of a line, or one element behind it.
    fn placed(lines: &mut Vec<Line<f32>>, shift: usize, values: &[f32]) {
        *lines = vec![Line([0.0; LANES]); values.len() / LANES + 2];
        numbers_mut(lines)[shift..][..values.len()].copy_from_slice(values);
    }

    #[test]
    fn images_in_place_and_in_frames_give_the_same_bits() {
        let number = |index: usize, frequency: f32| (index as f32 * frequency).sin();
        for (channels, out_channels, groups) in [(16, 32, 1), (48, 16, 1), (32, 64, 2), (32, 32, 32)] {
            for (extent, kernel, stride) in [(7, 3, 1), (8, 3, 2), (5, 5, 3), (6, 1, 2), (3, 4, 1)] {
                let (extents, kernel, stride) = ([extent, extent], [kernel, kernel], [stride, stride]);
                let padding = Padding::same(extents, kernel, stride);
                let [height, width] = extents;
                let batch = 9;
                let shape = Conv2dShape {
                    batch,
                    height,
                    width,
                    channels,
                    out_channels,
                    kernel,
                    stride,
                    padding,
                    groups,
                };
                let x: Vec<f32> = (0..shape.input_len()).map(|i| number(i, 0.37)).collect();
                let dy: Vec<f32> = (0..shape.output_len()).map(|i| number(i, 0.73)).collect();
                let (mut x_lines, mut dy_lines) = (Vec::new(), Vec::new());
                for kernels in Isa::available().filter_map(Kernels::of) {
                    let mut run = |shift: usize| {
                        placed(&mut x_lines, shift, &x);
                        placed(&mut dy_lines, shift, &dy);
                        let x = &numbers_mut(&mut x_lines)[shift..][..x.len()];
                        let dy = &numbers_mut(&mut dy_lines)[shift..][..dy.len()];
                        let aligned = as_lines(dy).is_some();
                        let plan = KernelGradient::new(&kernels.f32, &shape, x, 0.0, aligned);
                        assert_eq!([plan.input.direct, plan.output.direct], [shift == 0; 2]);
                        let mut dw = vec![f32::NAN; shape.weight_len()];
                        kernels.conv2d_kernel_gradient(&shape, x, 0.0, dy, &mut dw);
                        dw.into_iter().map(f32::to_bits).collect::<Vec<_>>()
                    };
                    assert_eq!(run(0), run(1), "{shape:?} on {}", kernels.isa());
                }
            }
        }
    }

    #[test]
    fn kernel_rows_of_few_channels_give_the_bits_of_the_reference() {
        let cases = [
            (1, 5, 1, 32),
            (1, 3, 2, 16),
            (3, 3, 1, 16),
            (3, 3, 2, 48),
            (4, 4, 1, 64),
            (2, 7, 3, 5),
            (1, 16, 1, 33),
        ];
        for (channels, kernel, stride, out_channels) in cases {
            let (extents, kernel, stride) = ([17, 18], [kernel.min(5), kernel], [stride, stride]);
            for padding in [Padding::NONE, Padding::same(extents, kernel, stride)] {
                let [height, width] = extents;
                let batch = 9;
                let shape = Conv2dShape {
                    batch,
                    height,
                    width,
                    channels,
                    out_channels,
                    kernel,
                    stride,
                    padding,
                    groups: 1,
                };
                assert!(gathers_rows(&shape));
                let x: Vec<f32> = (0..shape.input_len()).map(|i| (i as f32 * 0.37).sin()).collect();
                let dy: Vec<f32> = (0..shape.output_len()).map(|i| (i as f32 * 0.73).sin()).collect();
                for pad_value in [0.0, -1.0] {
                    let mut expected = vec![f32::NAN; shape.weight_len()];
                    reference::conv2d_kernel_gradient(&shape, &x, pad_value, &dy, &mut expected);
                    for kernels in Isa::available().filter_map(Kernels::of) {
                        let mut dw = vec![f32::NAN; shape.weight_len()];
                        kernels.conv2d_kernel_gradient(&shape, &x, pad_value, &dy, &mut dw);
                        assert_eq!(dw, expected, "{shape:?} on {}", kernels.isa());
                    }
                }
            }
        }
    }
}
