//! 3×3 convolutions with fewer multiplications: Winograd's minimal filtering F(2×2, 3×3).
//!
//! Outputs are made in tiles of 2×2 from windows of 4×4 pixels, with 16 products for each pair of channels where 36 would be needed:
//!
//! ```text
//! y = Aᵀ [ (G g Gᵀ) ⊙ (Bᵀ d B) ] A        summed over input channels between ⊙ and Aᵀ
//!
//!      ⎡ 1  0 −1  0 ⎤        ⎡  1   0   0  ⎤
//! Bᵀ = ⎢ 0  1  1  0 ⎥    G = ⎢  ½   ½   ½  ⎥    Aᵀ = ⎡ 1  1  1  0 ⎤
//!      ⎢ 0 −1  1  0 ⎥        ⎢  ½  −½   ½  ⎥         ⎣ 0  1 −1 −1 ⎦
//!      ⎣ 0  1  0 −1 ⎦        ⎣  0   0   1  ⎦
//! ```
//!
//! The input's gradient is such a convolution of the output's gradient with flipped weights. The weights' gradient is the derivative of the
//! formula itself: `Gᵀ [ Σ (Bᵀ d B) ⊙ (A dy Aᵀ) ] G`, summed over tiles. A forward pass comes here where it asks for it
//! ([`Algorithm::Winograd`](crate::Algorithm::Winograd)): sums of codes are exact as they are, and would not be exact here.
//!
//! Source: Lavin and Gray 2016, *Fast Algorithms for Convolutional Neural Networks*, arXiv:1509.09308, section 4.1.

mod filter;
mod kernel_gradient;
pub(crate) mod plain;
mod tile;
mod tiling;
mod transform;
mod weights;

pub(crate) use self::filter::Filter;
pub(crate) use self::kernel_gradient::KernelGradient;
pub(crate) use self::tile::{Corner, Products, Window, gradient_windows, image_windows, pixels, taps};
use crate::Conv2dShape;
use crate::line::LANES;

/// Products for each pair of channels in a tile.
const PRODUCTS: usize = 16;

/// Fewer channels than these take longer to transform than they save.
const FEWEST_CHANNELS: usize = 2 * LANES;

/// Tiles for which it is worth to fetch the weights.
const FEWEST_TILES: usize = 64;

/// Whether a convolution's gradients, and outputs if wanted, are made in this way: with a kernel of 3×3, stride 1, one group, enough channels in whole lines on both
/// sides, and images that hold a tile.
pub(crate) fn takes(shape: &Conv2dShape) -> bool {
    let filled = |count: usize| count.is_multiple_of(LANES) && count >= FEWEST_CHANNELS;
    let extents = [shape.height, shape.width, shape.out_height(), shape.out_width()];
    shape.kernel == [3, 3]
        && shape.stride == [1, 1]
        && shape.groups == 1
        && filled(shape.channels)
        && filled(shape.out_channels)
        && extents.iter().all(|&extent| extent >= 2)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{
        Algorithm, ChannelAffine, Convolution, FloatConv, Isa, Kernels, Padding, Real, Visitor, reference,
    };

    fn shape(extent: [usize; 2], channels: [usize; 2], batch: usize, pad: [usize; 4]) -> Conv2dShape {
        let [height, width] = extent;
        let [channels, out_channels] = channels;
        let [top, bottom, left, right] = pad;
        let padding = Padding { top, bottom, left, right };
        Conv2dShape {
            batch,
            height,
            width,
            channels,
            out_channels,
            kernel: [3, 3],
            stride: [1, 1],
            padding,
            groups: 1,
        }
    }

    fn shapes() -> [Conv2dShape; 8] {
        [
            shape([8, 8], [64, 64], 3, [1, 1, 1, 1]),
            shape([7, 9], [32, 48], 9, [1, 1, 1, 1]),
            shape([5, 4], [48, 32], 2, [0, 0, 0, 0]),
            shape([2, 2], [32, 32], 1, [2, 0, 0, 3]),
            shape([6, 11], [80, 32], 17, [3, 4, 0, 1]),
            shape([4, 4], [32, 160], 40, [1, 1, 1, 1]),
            shape([32, 32], [32, 32], 2, [1, 1, 1, 1]),
            // So many weights that the batch is one chunk.
            shape([4, 3], [160, 192], 9, [1, 1, 1, 1]),
        ]
    }

    fn numbers<T: Real>(len: usize, frequency: f64) -> Vec<T> {
        (0..len).map(|i| T::from((i as f64 * frequency + 0.3).sin()).unwrap()).collect()
    }

    /// Input and weight gradients.
    fn of<T: Real>(kernels: &Kernels, shape: &Conv2dShape, pad_value: T, shift: usize) -> [Vec<T>; 2] {
        let [x, w, dy] = [(shape.input_len(), 0.37), (shape.weight_len(), 0.71), (shape.output_len(), 0.53)]
            .map(|(len, frequency)| numbers::<T>(len + shift, frequency));
        let (mut dx, mut dw) = (vec![T::nan(); x.len() - shift], vec![T::nan(); w.len() - shift]);
        kernels.conv2d_input_gradient(shape, &dy[shift..], &w[shift..], &mut dx);
        kernels.conv2d_kernel_gradient(shape, &x[shift..], pad_value, &dy[shift..], &mut dw);
        [dx, dw]
    }

    #[test]
    fn on_every_instruction_set_the_bits_are_those_of_plain_loops() {
        for shape in shapes() {
            assert!(takes(&shape));
            for (shift, pad_value) in [(0, 0.0_f32), (3, -1.0)] {
                let [x, w, dy] =
                    [(shape.input_len(), 0.37), (shape.weight_len(), 0.71), (shape.output_len(), 0.53)]
                        .map(|(len, frequency)| numbers::<f32>(len + shift, frequency).split_off(shift));
                let (mut dx, mut dw) = (vec![f32::NAN; x.len()], vec![f32::NAN; w.len()]);
                reference::conv2d_input_gradient(&shape, &dy, &w, &mut dx);
                reference::conv2d_kernel_gradient(&shape, &x, pad_value, &dy, &mut dw);
                for kernels in Isa::available().filter_map(Kernels::of) {
                    let [found_dx, found_dw] = of::<f32>(kernels, &shape, pad_value, shift);
                    assert!(found_dx == dx, "input gradient of {shape:?} on {}", kernels.isa());
                    assert!(found_dw == dw, "kernel gradient of {shape:?} on {}", kernels.isa());
                }
            }
        }
    }

    /// What every output goes through in these tests: factors and summands.
    fn ends<T: Real>(shape: &Conv2dShape) -> [Vec<T>; 2] {
        [0.9, 0.2].map(|frequency| numbers(shape.out_channels, frequency))
    }

    /// The output, by Winograd's algorithm.
    fn made<T: Real>(kernels: &Kernels, shape: &Conv2dShape, pad_value: T, shift: usize) -> Vec<T> {
        let [x, w] = [(shape.input_len(), 0.37), (shape.weight_len(), 0.71)]
            .map(|(len, frequency)| numbers::<T>(len + shift, frequency));
        let [scale, bias] = &ends(shape);
        let out = ChannelAffine { scale: Some(scale), bias: Some(bias) };
        let (x, w, algorithm) = (&x[shift..], &w[shift..], Algorithm::Winograd);
        let mut y = vec![T::nan(); shape.output_len()];
        kernels.convolve(shape, &Convolution { x, w, pad_value, out, algorithm }, &mut y);
        y
    }

    #[test]
    fn outputs_have_the_bits_of_plain_loops_however_they_are_made() {
        for shape in shapes() {
            for (shift, pad_value) in [(0, 0.0_f32), (3, -1.0)] {
                let [x, w] = [(shape.input_len(), 0.37), (shape.weight_len(), 0.71)]
                    .map(|(len, frequency)| numbers::<f32>(len + shift, frequency).split_off(shift));
                let [scale, bias] = &ends(&shape);
                let out = ChannelAffine { scale: Some(scale), bias: Some(bias) };
                let algorithm = Algorithm::Winograd;
                let convolution = Convolution { x: &x, w: &w, pad_value, out, algorithm };
                let mut expected = vec![f32::NAN; shape.output_len()];
                reference::convolve(&shape, &convolution, &mut expected);
                for kernels in Isa::available().filter_map(Kernels::of) {
                    let isa = kernels.isa();
                    assert!(made(kernels, &shape, pad_value, shift) == expected, "{shape:?} on {isa}");
                    let laid = FloatConv::new(kernels, &shape, &w, pad_value, out, algorithm).unwrap();
                    for threads in [1, 3, 20] {
                        let mut y = vec![f32::NAN; expected.len()];
                        with_threads(threads, || laid.run(&x, &mut y));
                        assert!(y == expected, "{shape:?} on {isa}, {threads} threads");
                        let bytes = &mut vec![0; 4 * y.len()];
                        with_threads(threads, || {
                            laid.run_tiles(&x, bytes, &|tile| {
                                let first = tile.pixels.start * shape.out_channels;
                                assert_eq!(tile.numbers, &expected[first..first + tile.numbers.len()]);
                                tile.bytes.fill(1);
                            });
                        });
                        assert!(bytes.iter().all(|&seen| seen == 1), "{shape:?} on {isa}");
                    }
                }
            }
        }
    }

    fn with_threads<R: Send>(threads: usize, run: impl FnOnce() -> R + Send) -> R {
        rayon::ThreadPoolBuilder::new().num_threads(threads).build().unwrap().install(run)
    }

    #[test]
    fn visitors_see_every_output_once() {
        for shape in shapes() {
            let [x, w] = [(shape.input_len(), 0.37), (shape.weight_len(), 0.71)]
                .map(|(len, frequency)| numbers::<f32>(len + 3, frequency).split_off(3));
            let [scale, bias] = &ends(&shape);
            let out = ChannelAffine { scale: Some(scale), bias: Some(bias) };
            let algorithm = Algorithm::Winograd;
            let convolution = Convolution { pad_value: 1.0, out, algorithm, ..Convolution::new(&x, &w) };
            let mut expected = vec![f32::NAN; shape.output_len()];
            reference::convolve(&shape, &convolution, &mut expected);
            let image = expected.len() / shape.batch;
            for (together, threads) in [(1, 1), (1, 20), (3, 2), (100, 3)] {
                let visit = |first: usize, images: &mut [f32]| {
                    assert_eq!(first % together, 0);
                    assert!(images.len() == together * image || first + together > shape.batch);
                    assert_eq!(images, &expected[first * image..][..images.len()]);
                    images.iter_mut().for_each(|y| *y = -*y);
                };
                let mut y = vec![f32::NAN; expected.len()];
                let visitor = Visitor { together, visit: &visit, beside: &expected };
                with_threads(threads, || crate::convolve_visited(&shape, &convolution, &mut y, visitor));
                assert!(y.iter().zip(&expected).all(|(y, expected)| *y == -expected), "{shape:?} {together}");
            }
        }
    }

    /// Few images are cut into rows.
    #[test]
    fn threads_change_no_bit_of_a_gradient() {
        for shape in shapes() {
            for shift in [0, 3] {
                let run = |threads| with_threads(threads, || of(Kernels::current(), &shape, -1.0_f32, shift));
                assert_eq!(run(1), run(20), "{shape:?}");
                assert_eq!(run(1), run(3), "{shape:?}");
            }
        }
    }

    /// Output, input and weight gradient by their definition, tap by tap, in f64.
    fn direct(shape: &Conv2dShape, pad_value: f64) -> [Vec<f64>; 3] {
        let [x, w, dy] = [(shape.input_len(), 0.37), (shape.weight_len(), 0.71), (shape.output_len(), 0.53)]
            .map(|(len, frequency)| numbers::<f64>(len, frequency));
        let (mut y, mut dx, mut dw) = (vec![0.0; dy.len()], vec![0.0; x.len()], vec![0.0; w.len()]);
        let Conv2dShape { height, width, channels, out_channels, padding, .. } = *shape;
        for n in 0..shape.batch {
            for (oy, ox) in
                (0..shape.out_height()).flat_map(|oy| (0..shape.out_width()).map(move |ox| (oy, ox)))
            {
                let output = ((n * shape.out_height() + oy) * shape.out_width() + ox) * out_channels;
                let dy = &dy[output..];
                for (kh, kw) in (0..3).flat_map(|kh| (0..3).map(move |kw| (kh, kw))) {
                    let (iy, ix) =
                        ((oy + kh).wrapping_sub(padding.top), (ox + kw).wrapping_sub(padding.left));
                    let inside = iy < height && ix < width;
                    let pixel = inside.then(|| ((n * height + iy) * width + ix) * channels);
                    for c in 0..channels {
                        for o in 0..out_channels {
                            let weight = ((kh * 3 + kw) * channels + c) * out_channels + o;
                            let x = pixel.map_or(pad_value, |pixel| x[pixel + c]);
                            y[output + o] += x * w[weight];
                            dw[weight] += x * dy[o];
                            if let Some(pixel) = pixel {
                                dx[pixel + c] += w[weight] * dy[o];
                            }
                        }
                    }
                }
            }
        }
        let [scale, bias] = ends::<f64>(shape);
        for pixel in y.chunks_exact_mut(out_channels) {
            pixel.iter_mut().zip(&scale).zip(&bias).for_each(|((y, scale), bias)| *y = *y * scale + bias);
        }
        [y, dx, dw]
    }

    /// Output, input and weight gradient as the kernels make them.
    fn all<T: Real>(shape: &Conv2dShape, pad_value: T) -> [Vec<T>; 3] {
        let [dx, dw] = of(Kernels::current(), shape, pad_value, 0);
        [made(Kernels::current(), shape, pad_value, 0), dx, dw]
    }

    #[test]
    fn outputs_and_gradients_are_those_of_the_definition() {
        for shape in shapes() {
            let expected = direct(&shape, -1.0);
            let (doubles, singles) = (all::<f64>(&shape, -1.0), all::<f32>(&shape, -1.0));
            for ((expected, doubles), singles) in expected.iter().zip(&doubles).zip(&singles) {
                let largest = expected.iter().fold(0.0_f64, |most, number| most.max(number.abs()));
                for ((&expected, &double), &single) in expected.iter().zip(doubles).zip(singles) {
                    assert!((double - expected).abs() <= 1e-13 * largest, "{double} {expected} of {largest}");
                    assert!(
                        (f64::from(single) - expected).abs() <= 2e-5 * largest,
                        "{single} {expected} of {largest}"
                    );
                }
            }
        }
    }

    #[test]
    fn only_enough_channels_in_whole_lines_are_taken() {
        let taken = shape([8, 8], [32, 64], 1, [1, 1, 1, 1]);
        for other in [
            Conv2dShape { channels: 16, ..taken },
            Conv2dShape { out_channels: 40, ..taken },
            Conv2dShape { stride: [2, 2], ..taken },
            Conv2dShape { kernel: [5, 5], ..taken },
            Conv2dShape { kernel: [3, 1], ..taken },
            Conv2dShape { groups: 2, ..taken },
            Conv2dShape { height: 1, ..taken },
            shape([3, 3], [32, 64], 1, [0, 0, 0, 0]),
        ] {
            assert!(takes(&taken) && !takes(&other), "{other:?}");
        }
    }
}
