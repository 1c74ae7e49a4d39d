//! Sums of codes beyond those that `f32` holds, exactly: in `f64`, and rounded once.

use crate::functions::with_scratch;
use crate::threads::prelude::*;
use crate::{Algorithm, ChannelAffine, Conv2dShape, Convolution, Kernels, MatmulShape, Real, vectorized};

/// Numbers that a thread converts at a time.
const TOGETHER: usize = 1 << 12;

/// Computes a convolution by [`Algorithm::Exact`].
pub(crate) fn convolve<T: Real>(
    kernels: &Kernels,
    shape: &Conv2dShape,
    convolution: &Convolution<'_, T>,
    y: &mut [T],
) {
    let Convolution { x, w, pad_value, out, .. } = *convolution;
    let pad_value = wide(pad_value);
    in_wide([x, w], shape.out_channels, out, y, |x, w, sums| {
        let (out, algorithm) = (ChannelAffine::IDENTITY, Algorithm::Direct);
        kernels.convolve(shape, &Convolution { x, w, pad_value, out, algorithm }, sums);
    });
}

/// Computes a matrix product in the same way.
pub(crate) fn matmul<T: Real>(
    kernels: &Kernels,
    dims: MatmulShape,
    [a, b]: [&[T]; 2],
    out: ChannelAffine<'_, T>,
    y: &mut [T],
) {
    in_wide([a, b], dims.columns, out, y, |a, b, sums| {
        kernels.matmul(dims, a, b, ChannelAffine::IDENTITY, sums);
    });
}

/// What `sum` makes of the factors in `f64`, rounded.
fn in_wide<T: Real>(
    [a, b]: [&[T]; 2],
    channels: usize,
    out: ChannelAffine<'_, T>,
    y: &mut [T],
    sum: impl FnOnce(&[f64], &[f64], &mut [f64]),
) {
    with_wide(b, |b| rounded(a, channels, out, y, |a, sums| sum(a, b, sums)));
}

/// What `sum` makes of `x` in `f64`, rounded.
pub(crate) fn rounded<T: Real>(
    x: &[T],
    channels: usize,
    out: ChannelAffine<'_, T>,
    y: &mut [T],
    sum: impl FnOnce(&[f64], &mut [f64]),
) {
    with_wide(x, |x| {
        with_scratch(y.len(), |sums| {
            sum(x, sums);
            finish(sums, channels, out, y);
        });
    });
}

/// Rounds the sums, and takes them through the affine map.
fn finish<T: Real>(sums: &[f64], channels: usize, out: ChannelAffine<'_, T>, y: &mut [T]) {
    let together = channels * TOGETHER.div_ceil(channels);
    let parts = y.par_chunks_mut(together).zip(sums.par_chunks(together));
    parts.for_each(|(y, sums)| {
        for (y, sums) in y.chunks_exact_mut(channels).zip(sums.chunks_exact(channels)) {
            for (channel, (y, &sum)) in y.iter_mut().zip(sums).enumerate() {
                *y = out.value(T::from(sum).expect("a float for each float"), channel);
            }
        }
    });
}

/// Lends the numbers in `f64`.
fn with_wide<T: Real, R>(numbers: &[T], visit: impl FnOnce(&[f64]) -> R) -> R {
    with_scratch(numbers.len(), |widened: &mut [f64]| {
        let parts = widened.par_chunks_mut(TOGETHER).zip(numbers.par_chunks(TOGETHER));
        parts.for_each(|(widened, numbers)| {
            vectorized(|| widened.iter_mut().zip(numbers).for_each(|(to, &from)| *to = wide(from)));
        });
        visit(widened)
    })
}

#[inline(always)]
pub(crate) fn wide<T: Real>(number: T) -> f64 {
    number.to_f64().expect("a float for each float")
}

#[cfg(test)]
mod tests {
    use alloc::vec;
    use alloc::vec::Vec;

    use super::*;
    use crate::{FloatConv, Isa, Padding, Visitor, reference};

    fn shape(batch: usize, channels: usize) -> Conv2dShape {
        Conv2dShape {
            batch,
            height: 4,
            width: 5,
            channels,
            out_channels: 7,
            kernel: [3, 3],
            stride: [1, 1],
            padding: Padding { top: 1, bottom: 1, left: 1, right: 1 },
            groups: 1,
        }
    }

    /// Odd codes, so that sums have bits at both ends.
    fn codes(len: usize, step: usize) -> Vec<f32> {
        (0..len).map(|i| (i * step % 128) as f32 * 2.0 - 1.0).collect()
    }

    /// Each sum in integers, then the affine map.
    fn by_integers(shape: &Conv2dShape, convolution: &Convolution<'_, f32>) -> Vec<f32> {
        let integers = |numbers: &[f32]| numbers.iter().map(|&x| i64::from(x as i32)).collect::<Vec<_>>();
        let (x, w) = (integers(convolution.x), integers(convolution.w));
        let Conv2dShape { height, width, channels, out_channels, .. } = *shape;
        let mut y = Vec::new();
        for (n, row, column) in (0..shape.batch)
            .flat_map(|n| (0..height).flat_map(move |row| (0..width).map(move |column| (n, row, column))))
        {
            for o in 0..out_channels {
                let mut sum = 0_i64;
                for (tap, c) in (0..9).flat_map(|tap| (0..channels).map(move |c| (tap, c))) {
                    let (row, column) = ((row + tap / 3).wrapping_sub(1), (column + tap % 3).wrapping_sub(1));
                    let inside = row < height && column < width;
                    let pixel = inside.then(|| x[((n * height + row) * width + column) * channels + c]);
                    let weight = w[(tap * channels + c) * out_channels + o];
                    sum += pixel.unwrap_or(convolution.pad_value as i64) * weight;
                }
                y.push(convolution.out.value(sum as f32, o));
            }
        }
        y
    }

    #[test]
    fn sums_beyond_f32_are_those_of_integers() {
        let mut rounded = false;
        for shape in [shape(3, 150), shape(1, 1)] {
            let (x, w) = (codes(shape.input_len(), 37), codes(shape.weight_len(), 101));
            let (scale, bias) = (codes(7, 5), codes(7, 3));
            let out = ChannelAffine { scale: Some(&scale), bias: Some(&bias) };
            let algorithm = Algorithm::Exact;
            let convolution = Convolution { x: &x, w: &w, pad_value: -1.0, out, algorithm };
            let expected = by_integers(&shape, &convolution);
            let mut y = vec![f32::NAN; expected.len()];
            reference::convolve(&shape, &convolution, &mut y);
            assert_eq!(y, expected);
            let direct = Convolution { algorithm: Algorithm::Direct, ..convolution };
            crate::convolve(&shape, &direct, &mut y);
            rounded |= y != expected;
            for kernels in Isa::available().filter_map(Kernels::of) {
                kernels.convolve(&shape, &convolution, &mut y);
                assert_eq!(y, expected, "{}", kernels.isa());
                let laid = FloatConv::new(kernels, &shape, &w, -1.0, out, algorithm).unwrap();
                y.fill(f32::NAN);
                laid.run(&x, &mut y);
                assert_eq!(y, expected, "{}", kernels.isa());
                let seen = &mut vec![0; y.len()];
                laid.run_tiles(&x, seen, &|tile| {
                    assert_eq!(tile.numbers, &expected[7 * tile.pixels.start..7 * tile.pixels.end]);
                    tile.bytes.fill(1);
                });
                assert!(seen.iter().all(|&seen| seen == 1));
            }
            let visit = |first: usize, images: &mut [f32]| {
                assert_eq!(images, &expected[first * 140..][..images.len()]);
                images.fill(0.0);
            };
            crate::convolve_visited(
                &shape,
                &convolution,
                &mut y,
                Visitor { together: 2, visit: &visit, beside: &[] },
            );
            assert!(y.iter().all(|&y| y == 0.0));
        }
        assert!(rounded, "sums that f32 holds show nothing");
    }

    #[test]
    fn products_beyond_f32_are_those_of_integers() {
        let dims = MatmulShape { rows: 3, inner: 2000, columns: 5 };
        let (a, b, scale) = (codes(dims.left_len(), 37), codes(dims.right_len(), 101), codes(5, 9));
        let out = ChannelAffine { scale: Some(&scale), bias: None };
        let mut y = vec![f32::NAN; dims.output_len()];
        crate::matmul_exact(dims, &a, &b, out, &mut y);
        for (at, y) in y.iter().enumerate() {
            let terms = (0..dims.inner).map(|k| (a[at / 5 * dims.inner + k], b[k * 5 + at % 5]));
            let sum: i64 = terms.map(|(a, b)| a as i64 * b as i64).sum();
            assert_eq!(*y, sum as f32 * scale[at % 5]);
        }
        crate::matmul_exact(MatmulShape { rows: 0, ..dims }, &[], &b, out, &mut []);
    }
}
