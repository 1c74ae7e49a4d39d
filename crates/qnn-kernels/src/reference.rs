//! The oracle: every kernel as plain loops, in the order that the fast kernels must keep.
//!
//! Slow, sequential and short on purpose. For finite operands the fast kernels return the same bits on every instruction set and for every
//! number of threads, with one exception: where all terms of an input gradient vanish below the least number, or none exists beside padding, the
//! sign of the zero is not fixed. With infinite operands, padding that only one of them multiplies can make a NaN.
//!
//! All functions panic where a slice is shorter than its shape says.

use alloc::vec;

use crate::exact::wide;
use crate::packed::{ConvGeometry, Output, Tile};
use crate::winograd::{self, plain};
use crate::{Algorithm, ChannelAffine, Conv2dShape, Convolution, MatmulShape, Real};

/// `y[n, oy, ox, o]`: one accumulator from `+0`, taps in the order `kh, kw, cin`, then the affine map.
///
/// ```text
/// acc ← fma(x[n, oy·s₀ + kh − top, ox·s₁ + kw − left, g·cin/groups + c], w[kh, kw, c, o], acc)
/// ```
///
/// Positions outside the image hold `pad_value` and take part like any other.
pub fn conv2d<T: Real>(
    shape: &Conv2dShape,
    x: &[T],
    w: &[T],
    pad_value: T,
    out: ChannelAffine<'_, T>,
    y: &mut [T],
) {
    for_each_output(shape, |[n, oy, ox, o], at| {
        let mut acc = T::zero();
        for_each_tap(shape, o, |kh, kw, channel, weight| {
            acc = input(shape, x, pad_value, [n, oy, ox], [kh, kw], channel).fused(w[weight], acc);
        });
        y[at] = affine(acc, o, out);
    });
}

/// A convolution by the algorithm that it asks for.
///
/// The exact one sums codes in `f64`, where no order counts.
///
/// By Winograd's, where [`by_tiles`] says that the shape allows it, each of a tile's sixteen products is one accumulator from `+0` over the input
/// channels in order; the affine map comes last.
pub fn convolve<T: Real>(shape: &Conv2dShape, convolution: &Convolution<'_, T>, y: &mut [T]) {
    let Convolution { x, w, pad_value, out, algorithm } = *convolution;
    match algorithm {
        Algorithm::Winograd if by_tiles(shape) => plain::convolution(shape, convolution, y),
        Algorithm::Winograd | Algorithm::Direct => conv2d(shape, x, w, pad_value, out, y),
        Algorithm::Exact => for_each_output(shape, |[n, oy, ox, o], at| {
            let mut sum = 0.0;
            for_each_tap(shape, o, |kh, kw, channel, weight| {
                let x = input(shape, x, pad_value, [n, oy, ox], [kh, kw], channel);
                sum += wide(x) * wide(w[weight]);
            });
            y[at] = affine(T::from(sum).expect("a float for each float"), o, out);
        }),
    }
}

/// `dx[n, iy, ix, c]`: one accumulator from `+0` over the outputs that saw this input, in the order `kh, kw, o`.
///
/// Where [`by_tiles`] says so, it is made of sixteen such accumulators for each tile, over `o`.
pub fn conv2d_input_gradient<T: Real>(shape: &Conv2dShape, dy: &[T], w: &[T], dx: &mut [T]) {
    if by_tiles(shape) {
        return plain::input_gradient(shape, dy, w, dx);
    }
    let group_channels = shape.group_channels();
    let group_outputs = shape.out_channels / shape.groups;
    for at in 0..dx.len() {
        let (pixel, channel) = (at / shape.channels, at % shape.channels);
        let (n, iy, ix) =
            (pixel / (shape.height * shape.width), pixel / shape.width % shape.height, pixel % shape.width);
        let first = channel / group_channels * group_outputs;
        let mut acc = T::zero();
        for kh in 0..shape.kernel[0] {
            for kw in 0..shape.kernel[1] {
                let oy = seen_by(iy + shape.padding.top, kh, shape.stride[0], shape.out_height());
                let ox = seen_by(ix + shape.padding.left, kw, shape.stride[1], shape.out_width());
                let (Some(oy), Some(ox)) = (oy, ox) else { continue };
                let pixel = (n * shape.out_height() + oy) * shape.out_width() + ox;
                for o in first..first + group_outputs {
                    let weight = ((kh * shape.kernel[1] + kw) * group_channels + channel % group_channels)
                        * shape.out_channels
                        + o;
                    acc = dy[pixel * shape.out_channels + o].fused(w[weight], acc);
                }
            }
        }
        dx[at] = acc;
    }
}

/// `dw[kh, kw, c, o]`: one accumulator from `+0` for each chunk of [`chunk_images`] images, over `n, oy, ox`; chunks are then added to `+0` in order.
///
/// Where [`by_tiles`] says so, a chunk's part is made of sixteen such accumulators for each pair of channels, over tiles.
pub fn conv2d_kernel_gradient<T: Real>(shape: &Conv2dShape, x: &[T], pad_value: T, dy: &[T], dw: &mut [T]) {
    dw.fill(T::zero());
    for first in (0..shape.batch).step_by(chunk_images(shape)) {
        let mut partial = vec![T::zero(); dw.len()];
        let images = first..(first + chunk_images(shape)).min(shape.batch);
        if by_tiles(shape) {
            plain::kernel_gradient(shape, images, x, pad_value, dy, &mut partial);
        } else {
            for_each_output(shape, |[n, oy, ox, o], at| {
                if images.contains(&n) {
                    for_each_tap(shape, o, |kh, kw, channel, weight| {
                        let value = input(shape, x, pad_value, [n, oy, ox], [kh, kw], channel);
                        partial[weight] = value.fused(dy[at], partial[weight]);
                    });
                }
            });
        }
        for (dw, partial) in dw.iter_mut().zip(partial) {
            *dw = *dw + partial;
        }
    }
}

/// Whether a convolution's gradients, and its outputs by [`Algorithm::Winograd`], are made in tiles of 2×2 pixels with fewer multiplications, by
/// Winograd's minimal filtering F(2×2, 3×3) (Lavin and Gray 2016, arXiv:1509.09308).
///
/// That is where the kernel is 3×3, the stride 1, there is one group, both channel counts are multiples of sixteen and at least 32, and images
/// and outputs have at least two rows and columns. Sums and differences of neighbours are rounded then, which direct sums do not have: where
/// neighbours differ much in size, the error is as if all were as large as the largest.
#[must_use]
pub fn by_tiles(shape: &Conv2dShape) -> bool {
    winograd::takes(shape)
}

/// How many images one accumulator of the kernel gradient runs over: a function of the shape alone, so that threads never change a sum.
///
/// Batches of eight and more with at most 2¹⁸ weights are cut into at most sixteen chunks; otherwise the whole batch is one chunk.
#[must_use]
pub fn chunk_images(shape: &Conv2dShape) -> usize {
    if shape.batch >= 8 && shape.weight_len() <= 1 << 18 {
        shape.batch.div_ceil(16)
    } else {
        shape.batch.max(1)
    }
}

/// `y = a · b`: one accumulator from `+0` for each element, over `k` in order, then the affine map.
pub fn matmul<T: Real>(dims: MatmulShape, a: &[T], b: &[T], out: ChannelAffine<'_, T>, y: &mut [T]) {
    for row in 0..dims.rows {
        for column in 0..dims.columns {
            let acc = (0..dims.inner)
                .fold(T::zero(), |acc, k| a[row * dims.inner + k].fused(b[k * dims.columns + column], acc));
            y[row * dims.columns + column] = affine(acc, column, out);
        }
    }
}

/// `da = dy · bᵀ`, one accumulator over the columns in order.
pub fn matmul_left_gradient<T: Real>(dims: MatmulShape, dy: &[T], b: &[T], da: &mut [T]) {
    for row in 0..dims.rows {
        for k in 0..dims.inner {
            let terms = 0..dims.columns;
            da[row * dims.inner + k] = terms.fold(T::zero(), |acc, column| {
                dy[row * dims.columns + column].fused(b[k * dims.columns + column], acc)
            });
        }
    }
}

/// `db = aᵀ · dy`, one accumulator over the rows in order, and a zero of positive sign.
pub fn matmul_right_gradient<T: Real>(dims: MatmulShape, a: &[T], dy: &[T], db: &mut [T]) {
    for k in 0..dims.inner {
        for column in 0..dims.columns {
            let sum = (0..dims.rows).fold(T::zero(), |acc, row| {
                a[row * dims.inner + k].fused(dy[row * dims.columns + column], acc)
            });
            db[k * dims.columns + column] = T::zero() + sum;
        }
    }
}

/// `acc[n, oy, ox, o]` of integer codes, images and weights unpacked; positions outside the image hold `pad_code`.
pub fn conv2d_codes(geometry: &ConvGeometry, x: &[i32], w: &[i32], pad_code: i32, acc: &mut [i32]) {
    let (outputs, group_channels) = (geometry.out_channels, geometry.group_channels());
    let (rows, columns) = (geometry.out_height(), geometry.out_width());
    for (at, acc) in acc.iter_mut().enumerate() {
        let (o, pixel) = (at % outputs, at / outputs);
        let (n, oy, ox) = (pixel / (rows * columns), pixel / columns % rows, pixel % columns);
        let first = o / geometry.group_outputs() * group_channels;
        *acc = 0;
        for kh in 0..geometry.kernel[0] {
            for kw in 0..geometry.kernel[1] {
                for c in 0..group_channels {
                    let source = geometry.source(0, oy, kh).zip(geometry.source(1, ox, kw));
                    let code = source.map_or(pad_code, |(row, column)| {
                        x[((n * geometry.height + row) * geometry.width + column) * geometry.channels
                            + first
                            + c]
                    });
                    *acc += code * w[((kh * geometry.kernel[1] + kw) * group_channels + c) * outputs + o];
                }
            }
        }
    }
}

/// Brings accumulators `[pixel, channels]` where they are wanted, one by one.
pub fn packed_output(channels: usize, acc: &[i32], out: Output<'_>) {
    match out {
        Output::Accumulators(y) => y.copy_from_slice(acc),
        Output::Scaled { affine: out, y } => {
            for (at, y) in y.iter_mut().enumerate() {
                *y = affine(acc[at] as f32, at % channels, out);
            }
        }
        Output::Codes { thresholds, layout, y } => {
            y.fill(0);
            for (at, &acc) in acc.iter().enumerate() {
                let (pixel, channel) = (at / channels, at % channels);
                let packed = &mut y[layout.bytes_for(pixel)..][..layout.pixel_bytes()];
                layout.set(channel, thresholds.level(channel, acc), packed);
            }
        }
        Output::Selected { thresholds, by, layout, y } => {
            y.fill(0);
            for (at, &acc) in acc.iter().enumerate() {
                let (pixel, channel) = (at / channels, at % channels);
                let code = by
                    .layout
                    .code(channel, &by.codes[by.layout.bytes_for(pixel)..][..by.layout.pixel_bytes()]);
                let thresholds =
                    &thresholds[by.layout.encoding().level(code).expect("a code that was packed")];
                let packed = &mut y[layout.bytes_for(pixel)..][..layout.pixel_bytes()];
                layout.set(channel, thresholds.level(channel, acc), packed);
            }
        }
        Output::Tiles(tiles) => {
            let pixels = 0..acc.len() / channels;
            (tiles.visit)(Tile { pixels, accumulators: acc, numbers: tiles.numbers, bytes: tiles.bytes });
        }
    }
}

fn affine<T: Real>(acc: T, channel: usize, out: ChannelAffine<'_, T>) -> T {
    out.value(acc, channel)
}

fn for_each_output(shape: &Conv2dShape, mut visit: impl FnMut([usize; 4], usize)) {
    let mut at = 0;
    for n in 0..shape.batch {
        for oy in 0..shape.out_height() {
            for ox in 0..shape.out_width() {
                for o in 0..shape.out_channels {
                    visit([n, oy, ox, o], at);
                    at += 1;
                }
            }
        }
    }
}

fn for_each_tap(shape: &Conv2dShape, o: usize, mut visit: impl FnMut(usize, usize, usize, usize)) {
    let group_channels = shape.group_channels();
    let first = o / (shape.out_channels / shape.groups) * group_channels;
    for kh in 0..shape.kernel[0] {
        for kw in 0..shape.kernel[1] {
            for c in 0..group_channels {
                let weight = ((kh * shape.kernel[1] + kw) * group_channels + c) * shape.out_channels + o;
                visit(kh, kw, first + c, weight);
            }
        }
    }
}

fn input<T: Real>(
    shape: &Conv2dShape,
    x: &[T],
    pad_value: T,
    [n, oy, ox]: [usize; 3],
    [kh, kw]: [usize; 2],
    channel: usize,
) -> T {
    let row = (oy * shape.stride[0] + kh).checked_sub(shape.padding.top).filter(|&row| row < shape.height);
    let column =
        (ox * shape.stride[1] + kw).checked_sub(shape.padding.left).filter(|&column| column < shape.width);
    match (row, column) {
        (Some(row), Some(column)) => {
            x[((n * shape.height + row) * shape.width + column) * shape.channels + channel]
        }
        _ => pad_value,
    }
}

fn seen_by(padded: usize, tap: usize, stride: usize, outputs: usize) -> Option<usize> {
    let offset = padded.checked_sub(tap)?;
    (offset % stride == 0 && offset / stride < outputs).then_some(offset / stride)
}
