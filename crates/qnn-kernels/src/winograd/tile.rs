//! The transformations of one tile, for all channels: what, with the register tiles of [`matrix`](crate::matrix) and
//! [`outer`](crate::tile::outer), takes the time.

use super::PRODUCTS;
use super::transform;
use crate::Real;
use crate::lanes::Lanes;
use crate::line::{LANES, Line};

/// A square of pixels with the lines of all blocks of channels, and where those of its sixteen products go.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Window<'a, T, const N: usize> {
    pub(crate) pixels: &'a [[&'a [Line<T>]; N]; N],
    /// The distance of neighbouring products.
    pub(crate) product_step: usize,
    /// The distance of neighbouring blocks.
    pub(crate) block_step: usize,
}

/// The sums of the sixteen products of a tile, for some vectors of channels.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Products<'a, T> {
    pub(crate) lines: &'a [Line<T>],
    /// The distance of neighbouring products.
    pub(crate) product_step: usize,
    /// What pixels are multiplied by, and what is added then: as many lines each as there are vectors.
    pub(crate) affine: [&'a [Line<T>]; 2],
}

/// Transforms windows of an image: `Bᵀ d B`.
#[inline(always)]
pub(crate) fn image_windows<T: Real, L: Lanes<T>>(window: &Window<'_, T, 4>, lines: &mut [Line<T>]) {
    windows(window, lines, transform::of_image::<T, L>);
}

/// Transforms windows of a gradient of outputs: `A dy Aᵀ`.
#[inline(always)]
pub(crate) fn gradient_windows<T: Real, L: Lanes<T>>(window: &Window<'_, T, 2>, lines: &mut [Line<T>]) {
    windows(window, lines, transform::of_output_gradient::<T, L>);
}

#[inline(always)]
fn windows<T: Real, L: Lanes<T>, const N: usize>(
    window: &Window<'_, T, N>,
    lines: &mut [Line<T>],
    map: impl Fn([[L; N]; N]) -> [[L; 4]; 4],
) {
    let Window { pixels, product_step, block_step } = *window;
    let blocks = pixels[0][0].len();
    for block in 0..blocks {
        let mut numbers = [[L::splat(T::zero()); N]; N];
        for i in 0..N {
            for j in 0..N {
                numbers[i][j] = L::load(&pixels[i][j][block]);
            }
        }
        let products = map(numbers);
        let lines = &mut lines[block * block_step..][..(PRODUCTS - 1) * product_step + 1];
        for i in 0..4 {
            for j in 0..4 {
                lines[(4 * i + j) * product_step] = products[i][j].to_line();
            }
        }
    }
}

/// Where the four pixels of a tile go.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Corner {
    /// Elements between rows, and between pixels of a row.
    pub(crate) steps: [usize; 2],
    /// Rows and columns of the tile inside the image: one or two.
    pub(crate) inside: [usize; 2],
    /// Whether the pixels are added to what is there.
    pub(crate) add: bool,
}

/// Four pixels of sixteen products: `Aᵀ m A` and the affine map, one vector of channels after the other. `y` begins with the first pixel.
#[inline(always)]
pub(crate) fn pixels<T: Real, L: Lanes<T>>(products: &Products<'_, T>, corner: &Corner, y: &mut [T]) {
    let Products { lines, product_step, affine: [scales, biases] } = *products;
    for (vector, (scale, bias)) in scales.iter().zip(biases).enumerate() {
        let lines = &lines[vector..][..(PRODUCTS - 1) * product_step + 1];
        let (scale, bias) = (L::load(scale), L::load(bias));
        let mut numbers = [[L::splat(T::zero()); 4]; 4];
        for i in 0..4 {
            for j in 0..4 {
                numbers[i][j] = L::load(&lines[(4 * i + j) * product_step]);
            }
        }
        let outputs = transform::of_products(numbers);
        for i in 0..2 {
            for j in 0..2 {
                if i < corner.inside[0] && j < corner.inside[1] {
                    let output = outputs[i][j].times(scale).plus(bias);
                    let first = i * corner.steps[0] + j * corner.steps[1] + vector * LANES;
                    let y = y[first..].first_chunk_mut::<LANES>().expect("channels in whole lines");
                    let output = if corner.add { L::load(&Line(*y)).plus(output) } else { output };
                    *y = output.to_line().0;
                }
            }
        }
    }
}

/// Nine weights of the sums of sixteen products, of equally many lines each: `Gᵀ u G`.
#[inline(always)]
pub(crate) fn taps<T: Real, L: Lanes<T>>(products: &[Line<T>], taps: &mut [&mut [Line<T>]; 9]) {
    let each = products.len() / PRODUCTS;
    for line in 0..each {
        let mut numbers = [[L::splat(T::zero()); 4]; 4];
        for i in 0..4 {
            for j in 0..4 {
                numbers[i][j] = L::load(&products[(4 * i + j) * each + line]);
            }
        }
        let weights = transform::of_kernel_gradient(numbers);
        for i in 0..3 {
            for j in 0..3 {
                taps[3 * i + j][line] = weights[i][j].to_line();
            }
        }
    }
}
