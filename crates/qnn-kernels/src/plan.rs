//! Convolutions as sums over taps: which frame, which lattices, which packing.

use alloc::vec;
use alloc::vec::Vec;
use core::ops::Range;

use crate::arch::Tiles;
use crate::frame::Frame;
use crate::line::{Block, LANES, Line, blocks};
use crate::product::{Axis, Lattice, Product, Tables, Weights};
use crate::tile::{Tap, cuts};
use crate::{ChannelAffine, Conv2dShape, Kernels, Real};

/// Pixels in a row of a flattened convolution: three full tiles of the widest panels, two of narrower ones.
const FLAT_WIDTH: usize = 24;

/// Whether every channel has one filter of its own.
pub(crate) fn is_depthwise(shape: &Conv2dShape) -> bool {
    shape.groups > 1 && shape.groups == shape.channels && shape.groups == shape.out_channels
}

/// Whether a convolution never looks sideways.
fn is_pointwise(shape: &Conv2dShape) -> bool {
    shape.kernel == [1, 1] && shape.stride == [1, 1] && shape.padding == crate::Padding::NONE
}

/// A convolution that never looks sideways is a product of `pixels` rows, whatever the images: the same sums in full tiles.
pub(crate) fn flattened(shape: &Conv2dShape) -> Conv2dShape {
    if is_pointwise(shape) { pixel_rows(shape, shape.batch * shape.height * shape.width) } else { *shape }
}

/// `pixels` as the rows of one image; the last row may be cut short.
pub(crate) fn pixel_rows(shape: &Conv2dShape, pixels: usize) -> Conv2dShape {
    Conv2dShape { batch: 1, height: pixels.div_ceil(FLAT_WIDTH).max(1), width: FLAT_WIDTH, ..*shape }
}

pub(crate) fn forward<T: Real>(
    kernels: &Kernels,
    shape: &Conv2dShape,
    x: &[T],
    w: &[T],
    pad_value: T,
    out: ChannelAffine<'_, T>,
    y: &mut [T],
) {
    with_forward(kernels, shape, w, pad_value, out, |product| product.run(x, y));
}

/// Lends the product that makes the output.
pub(crate) fn with_forward<T: Real, R>(
    kernels: &Kernels,
    shape: &Conv2dShape,
    w: &[T],
    pad_value: T,
    out: ChannelAffine<'_, T>,
    visit: impl FnOnce(&Product<'_, T>) -> R,
) -> R {
    let tiles = T::tiles(kernels);
    let tables = &forward_tables(tiles, &Window::plain(shape), pad_value);
    let pack = |panel: Block, vectors: usize, lines: &mut [Line<T>]| {
        pack_plain(shape, w, panel, vectors, lines);
    };
    visit(&Product { tiles, tables, weights: Weights::Pack(&pack, out) })
}

/// A convolution whose kernel may have gaps: the shape's kernel is the extent that it covers.
pub(crate) struct Window<'a> {
    pub(crate) shape: &'a Conv2dShape,
    pub(crate) kernel: [usize; 2],
    pub(crate) dilation: [usize; 2],
}

impl<'a> Window<'a> {
    pub(crate) fn plain(shape: &'a Conv2dShape) -> Self {
        Self { shape, kernel: shape.kernel, dilation: [1, 1] }
    }
}

/// Writes the weights `w` of one panel.
pub(crate) fn pack_plain<T: Real>(
    shape: &Conv2dShape,
    w: &[T],
    panel: Block,
    vectors: usize,
    lines: &mut [Line<T>],
) {
    let rows = w.chunks_exact(shape.out_channels).map(|row| &row[panel.first..][..panel.count]);
    lines.chunks_exact_mut(vectors).zip(rows).for_each(|(lines, row)| pack_row(row, lines));
}

/// The tables of a forward pass, whatever the shape's batch; of one that never looks sideways, whatever the images.
pub(crate) fn forward_tables<T: Real>(tiles: &Tiles<T>, window: &Window<'_>, pad_value: T) -> Tables<T> {
    let flat = is_pointwise(window.shape);
    let shape = &if flat { pixel_rows(window.shape, 1) } else { *window.shape };
    let [down, right] = window.dilation;
    let depthwise = is_depthwise(shape);
    let mut frame = input_frame(shape, pad_value);
    let mut taken = Conv2dShape { kernel: window.kernel, ..*shape };
    let mut each = shape.group_channels();
    if right == 1 && gathers_rows(&taken) {
        // A tap is a whole kernel row, in the same order.
        each *= taken.kernel[1];
        (frame, taken.kernel[1]) = (gathered(frame, shape, each), 1);
    }
    let taps =
        taps(&taken, each, |[kh, kw], block| kh * down * frame.row_lines() + frame.line(block, kw * right));
    let axis = |count, stride| Axis { first: 0, step: 1, count, origin: 0, stride };
    let mut rows = axis(shape.out_height(), shape.stride[0]);
    if flat {
        (frame.flat, frame.height, rows.count) = (true, usize::MAX, usize::MAX);
    }
    let columns = axis(shape.out_width(), 1);
    let group_channels = shape.group_channels();
    Tables {
        rows: shape.out_height(),
        columns: shape.out_width(),
        channels: shape.out_channels,
        panels: panels(depthwise, shape, shape.out_channels / shape.groups, tiles.vectors()),
        depth: window.kernel[0] * window.kernel[1] * group_channels,
        group_lines: group_lines(&frame, depthwise, shape.groups),
        lattices: vec![Lattice::new(rows, columns, shape.kernel[0] - 1, taps, frame.row_lines())],
        elementwise: depthwise,
        inside: false,
        frame,
    }
}

pub(crate) fn input_gradient<T: Real>(
    kernels: &Kernels,
    shape: &Conv2dShape,
    dy: &[T],
    w: &[T],
    dx: &mut [T],
) {
    with_input_gradient(kernels, shape, w, |product| product.run(dy, dx));
}

/// Lends the product that makes an input's gradient of an output's.
pub(crate) fn with_input_gradient<T: Real, R>(
    kernels: &Kernels,
    shape: &Conv2dShape,
    w: &[T],
    visit: impl FnOnce(&Product<'_, T>) -> R,
) -> R {
    let depthwise = is_depthwise(shape);
    let tiles = T::tiles(kernels);
    let frame = gradient_frame(shape);
    let (group_channels, group_outputs) = (shape.group_channels(), shape.out_channels / shape.groups);
    let pack = |panel: Block, vectors: usize, lines: &mut [Line<T>]| {
        if depthwise {
            let rows = w.chunks_exact(shape.out_channels).map(|row| &row[panel.first..][..panel.count]);
            lines.iter_mut().zip(rows).for_each(|(line, row)| pack_row(row, core::slice::from_mut(line)));
        } else {
            pack_transposed(shape, w, panel, vectors, lines);
        }
    };
    let tables = &Tables {
        rows: shape.height,
        columns: shape.width,
        channels: shape.channels,
        panels: panels(depthwise, shape, group_channels, tiles.vectors()),
        depth: shape.kernel[0] * shape.kernel[1] * group_outputs,
        group_lines: group_lines(&frame, depthwise, shape.groups),
        lattices: gradient_lattices(shape, &frame),
        elementwise: depthwise,
        inside: true,
        frame,
    };
    visit(&Product { tiles, tables, weights: Weights::Pack(&pack, ChannelAffine::IDENTITY) })
}

/// The padded input of a convolution.
pub(crate) fn input_frame<T: Real>(shape: &Conv2dShape, pad_value: T) -> Frame<T> {
    Frame {
        flat: false,
        gathered: None,
        height: shape.height,
        width: shape.width,
        channels: shape.channels,
        top: shape.padding.top,
        left: shape.padding.left,
        columns: shape.padding.left + shape.width + shape.padding.right,
        phases: shape.stride[1],
        rows: (shape.stride[0], shape.kernel[0]),
        phases_read: shape.kernel[1],
        blocks: channel_blocks(shape, shape.channels),
        pad_value,
    }
}

/// Whether channels are so few that a whole row of the kernel fits one line.
pub(crate) fn gathers_rows(shape: &Conv2dShape) -> bool {
    shape.groups == 1 && shape.kernel[1] > 1 && shape.kernel[1] * shape.channels <= LANES
}

/// A frame whose lines are the kernel rows of output columns, `count` numbers each.
pub(crate) fn gathered<T>(frame: Frame<T>, shape: &Conv2dShape, count: usize) -> Frame<T> {
    let blocks = vec![Block { group: 0, first: 0, count }];
    let (columns, gathered) = (shape.out_width(), Some(shape.stride[1]));
    Frame { columns, gathered, phases: 1, phases_read: 1, blocks, ..frame }
}

/// The blocks of a channel axis: by group, except where groups are single channels and pass side by side.
pub(crate) fn channel_blocks(shape: &Conv2dShape, channels: usize) -> Vec<Block> {
    if is_depthwise(shape) {
        blocks(1, channels, LANES)
    } else {
        blocks(shape.groups, channels / shape.groups, LANES)
    }
}

/// The output's gradient with as many zero rows and columns before it as taps reach back.
fn gradient_frame<T: Real>(shape: &Conv2dShape) -> Frame<T> {
    let [top, left] = [0, 1].map(|axis| (shape.kernel[axis] - 1) / shape.stride[axis]);
    Frame {
        flat: false,
        gathered: None,
        height: shape.out_height(),
        width: shape.out_width(),
        channels: shape.out_channels,
        top,
        left,
        columns: (shape.width - 1 + shape.padding.left) / shape.stride[1] + left + 1,
        phases: 1,
        rows: (1, 1),
        phases_read: 1,
        blocks: channel_blocks(shape, shape.out_channels),
        pad_value: T::zero(),
    }
}

/// One lattice for each residue of the input position modulo the stride: those inputs are reached by the same kernel positions.
///
/// ```text
/// u = i + padding;   k = u mod s + s·j;   o = ⌊u / s⌋ − j
/// ```
fn gradient_lattices<T: Real>(shape: &Conv2dShape, frame: &Frame<T>) -> Vec<Lattice> {
    let rows = residues(shape.height, shape.padding.top, shape.stride[0]);
    let columns = residues(shape.width, shape.padding.left, shape.stride[1]);
    let pairs = rows.iter().flat_map(|row| columns.iter().map(move |column| (row, column)));
    pairs
        .map(|(&(row, rows), &(column, columns))| {
            let group_outputs = if is_depthwise(shape) { 1 } else { shape.out_channels / shape.groups };
            let mut taps = taps(shape, group_outputs, |[kh, kw], block| {
                let back = [kh / shape.stride[0], kw / shape.stride[1]];
                // Only kernel positions of this residue are kept below; for others the offset has no meaning.
                (frame.top - back[0]) * frame.row_lines() + frame.line(block, frame.left - back[1])
            });
            let depth = group_outputs;
            taps.retain(|tap| {
                let position = tap.weights / depth;
                position / shape.kernel[1] % shape.stride[0] == row
                    && position % shape.kernel[1] % shape.stride[1] == column
            });
            Lattice::new(rows, columns, frame.top, taps, frame.row_lines())
        })
        .collect()
}

fn residues(extent: usize, padding: usize, stride: usize) -> Vec<(usize, Axis)> {
    let axis = |residue: usize| {
        let first = (residue + stride - padding % stride) % stride;
        let count = extent.saturating_sub(first).div_ceil(stride);
        (residue, Axis { first, step: stride, count, origin: (first + padding) / stride, stride: 1 })
    };
    (0..stride).map(axis).filter(|(_, axis)| axis.count > 0).collect()
}

/// Every kernel position and block of `each` summed channels, in the order of the law.
fn taps(shape: &Conv2dShape, each: usize, line: impl Fn([usize; 2], usize) -> usize) -> Vec<Tap> {
    let [height, width] = shape.kernel;
    let positions = (0..height).flat_map(|kh| (0..width).map(move |kw| [kh, kw]));
    let tap = |position: [usize; 2], block: usize| Tap {
        line: line(position, block),
        weights: (position[0] * width + position[1]) * each + block * LANES,
        channels: (each - block * LANES).min(LANES),
    };
    positions
        .flat_map(|position| (0..each.div_ceil(LANES)).map(move |block| (position, block)))
        .map(|(position, block)| tap(position, block))
        .collect()
}

/// Panels of output channels, of at most `widest` vectors each; side by side groups become one panel for each block, which then stands for
/// its group.
fn panels(depthwise: bool, shape: &Conv2dShape, each: usize, widest: usize) -> Vec<Block> {
    if depthwise {
        let side_by_side = blocks(1, shape.channels, LANES).into_iter().enumerate();
        return side_by_side.map(|(index, block)| Block { group: index, ..block }).collect();
    }
    // Nearly equal ones, for one vector alone does not keep the multipliers busy.
    let panel = |group: usize, vectors: Range<usize>| {
        let (first, end) = (vectors.start * LANES, each.min(vectors.end * LANES));
        Block { group, first: group * each + first, count: end - first }
    };
    let group = |group| cuts(each.div_ceil(LANES), widest).map(move |vectors| panel(group, vectors));
    (0..shape.groups).flat_map(group).collect()
}

fn group_lines<T: Real>(frame: &Frame<T>, depthwise: bool, groups: usize) -> usize {
    let blocks = if depthwise { 1 } else { frame.blocks.len() / groups };
    blocks * frame.plane()
}

fn pack_row<T: Real>(row: &[T], lines: &mut [Line<T>]) {
    for (line, row) in lines.iter_mut().zip(row.chunks(LANES)) {
        match row.first_chunk::<LANES>() {
            Some(whole) => line.0 = *whole,
            None => {
                line.0 = [T::zero(); LANES];
                line.0[..row.len()].copy_from_slice(row);
            }
        }
    }
}

/// For the input gradient the weights' two channel axes change places: lanes are input channels, the sum runs over outputs.
fn pack_transposed<T: Real>(
    shape: &Conv2dShape,
    w: &[T],
    panel: Block,
    vectors: usize,
    lines: &mut [Line<T>],
) {
    let (group_channels, group_outputs) = (shape.group_channels(), shape.out_channels / shape.groups);
    let channel = panel.first - panel.group * group_channels;
    let positions = w.chunks_exact(group_channels * shape.out_channels);
    for (lines, position) in lines.chunks_exact_mut(group_outputs * vectors).zip(positions) {
        for lane in 0..vectors * LANES {
            let row = (lane < panel.count).then(|| {
                &position[(channel + lane) * shape.out_channels + panel.group * group_outputs..]
                    [..group_outputs]
            });
            let lines = lines.iter_mut().skip(lane / LANES).step_by(vectors);
            match row {
                Some(row) => lines.zip(row).for_each(|(line, weight)| line.0[lane % LANES] = *weight),
                None => lines.for_each(|line| line.0[lane % LANES] = T::zero()),
            }
        }
    }
}
