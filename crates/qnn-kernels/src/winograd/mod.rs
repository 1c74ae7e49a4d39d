//! Gradients of 3×3 convolutions with fewer multiplications: Winograd's minimal filtering F(2×2, 3×3).
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
//! formula itself: `Gᵀ [ Σ (Bᵀ d B) ⊙ (A dy Aᵀ) ] G`, summed over tiles. The forward pass does not come here: its outputs are one sum in one
//! order, which a packed program has to meet.
//!
//! Source: Lavin and Gray 2016, *Fast Algorithms for Convolutional Neural Networks*, arXiv:1509.09308, section 4.1.

mod input_gradient;
mod kernel_gradient;
pub(crate) mod plain;
mod tile;
mod tiling;
mod transform;

pub(crate) use self::input_gradient::InputGradient;
pub(crate) use self::kernel_gradient::KernelGradient;
pub(crate) use self::tile::{Products, Window, gradient_windows, image_windows, pixels, taps};
use crate::Conv2dShape;
use crate::line::LANES;

/// Products for each pair of channels in a tile.
const PRODUCTS: usize = 16;

/// Fewer channels than these take longer to transform than they save.
const FEWEST_CHANNELS: usize = 2 * LANES;

/// Whether a convolution's gradients are made in this way: with a kernel of 3×3, stride 1, one group, enough channels in whole lines on both
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
    use crate::{Isa, Kernels, Padding, Real, reference};

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

    /// The gradients by their definition, tap by tap, in f64.
    fn direct(shape: &Conv2dShape, pad_value: f64) -> [Vec<f64>; 2] {
        let [x, w, dy] = [(shape.input_len(), 0.37), (shape.weight_len(), 0.71), (shape.output_len(), 0.53)]
            .map(|(len, frequency)| numbers::<f64>(len, frequency));
        let (mut dx, mut dw) = (vec![0.0; x.len()], vec![0.0; w.len()]);
        let Conv2dShape { height, width, channels, out_channels, padding, .. } = *shape;
        for n in 0..shape.batch {
            for (oy, ox) in
                (0..shape.out_height()).flat_map(|oy| (0..shape.out_width()).map(move |ox| (oy, ox)))
            {
                let dy = &dy[((n * shape.out_height() + oy) * shape.out_width() + ox) * out_channels..];
                for (kh, kw) in (0..3).flat_map(|kh| (0..3).map(move |kw| (kh, kw))) {
                    let (iy, ix) =
                        ((oy + kh).wrapping_sub(padding.top), (ox + kw).wrapping_sub(padding.left));
                    let inside = iy < height && ix < width;
                    let pixel = inside.then(|| ((n * height + iy) * width + ix) * channels);
                    for c in 0..channels {
                        for o in 0..out_channels {
                            let weight = ((kh * 3 + kw) * channels + c) * out_channels + o;
                            dw[weight] += pixel.map_or(pad_value, |pixel| x[pixel + c]) * dy[o];
                            if let Some(pixel) = pixel {
                                dx[pixel + c] += w[weight] * dy[o];
                            }
                        }
                    }
                }
            }
        }
        [dx, dw]
    }

    #[test]
    fn the_gradients_are_those_of_the_definition() {
        for shape in shapes() {
            let expected = direct(&shape, -1.0);
            let doubles = of::<f64>(Kernels::current(), &shape, -1.0, 0);
            let singles = of::<f32>(Kernels::current(), &shape, -1.0, 0);
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
