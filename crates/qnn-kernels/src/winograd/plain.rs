//! The same convolutions and gradients as plain loops, with the matrices written out: the oracle, in the order that the fast ones must keep.

use alloc::vec;
use alloc::vec::Vec;
use core::ops::Range;

use crate::{Conv2dShape, Convolution, Real};

const B: [[f64; 4]; 4] =
    [[1.0, 0.0, 0.0, 0.0], [0.0, 1.0, -1.0, 1.0], [-1.0, 1.0, 1.0, 0.0], [0.0, 0.0, 0.0, -1.0]];
const G: [[f64; 3]; 4] = [[1.0, 0.0, 0.0], [0.5, 0.5, 0.5], [0.5, -0.5, 0.5], [0.0, 0.0, 1.0]];
const A: [[f64; 2]; 4] = [[1.0, 0.0], [1.0, 1.0], [1.0, -1.0], [0.0, -1.0]];

/// Numbers of one channel, row by row.
type Square<T, const N: usize> = [[T; N]; N];

/// The first pixels of all tiles of an image.
fn tiles(height: usize, width: usize) -> impl Iterator<Item = [usize; 2]> {
    (0..height).step_by(2).flat_map(move |row| (0..width).step_by(2).map(move |column| [row, column]))
}

/// `map · numbers · mapᵀ`, the columns first; terms are added in order, those without a factor left out.
fn mapped<T: Real, const O: usize, const I: usize>(
    map: &[[f64; I]; O],
    numbers: &Square<T, I>,
) -> Square<T, O> {
    let sum = |factors: &[f64; I], number: &dyn Fn(usize) -> T| {
        let terms = factors.iter().enumerate().filter(|&(_, &factor)| factor != 0.0);
        let terms = terms.map(|(index, &factor)| T::from(factor).expect("a small number") * number(index));
        terms.reduce(|sum, term| sum + term).expect("a row with a factor")
    };
    core::array::from_fn(|i| {
        core::array::from_fn(|j| sum(&map[j], &|column| sum(&map[i], &|row| numbers[row][column])))
    })
}

fn transposed<const R: usize, const C: usize>(matrix: &[[f64; C]; R]) -> [[f64; R]; C] {
    core::array::from_fn(|column| core::array::from_fn(|row| matrix[row][column]))
}

/// A window of one channel, whose first pixel may lie before the image.
fn window<T: Real, const N: usize>(
    image: &[T],
    [height, width, channels]: [usize; 3],
    [row, column]: [isize; 2],
    channel: usize,
    pad_value: T,
) -> Square<T, N> {
    let at = |first: isize, step: usize, extent: usize| {
        usize::try_from(first + step as isize).ok().filter(|&at| at < extent)
    };
    core::array::from_fn(|i| {
        core::array::from_fn(|j| {
            let inside = at(row, i, height).zip(at(column, j, width));
            inside.map_or(pad_value, |(row, column)| image[(row * width + column) * channels + channel])
        })
    })
}

/// `acc ← fma(a, b, acc)`, each by itself.
fn add_products<T: Real>(a: &Square<T, 4>, b: &Square<T, 4>, acc: &mut Square<T, 4>) {
    let factors = a.as_flattened().iter().zip(b.as_flattened());
    for (acc, (&a, &b)) in acc.as_flattened_mut().iter_mut().zip(factors) {
        *acc = a.fused(b, *acc);
    }
}

/// Images, what they become, and where windows begin.
struct Images {
    /// Height, width and channels of the images read, and of those made.
    extents: [[usize; 3]; 2],
    /// Rows and columns of a window before its tile.
    before: [isize; 2],
}

/// `y`: each of a tile's sixteen products is one accumulator from `+0` over the input channels in order; the affine map comes last.
pub(crate) fn convolution<T: Real>(shape: &Conv2dShape, convolution: &Convolution<'_, T>, y: &mut [T]) {
    let Convolution { x, w, pad_value, out, .. } = *convolution;
    let Conv2dShape { height, width, channels, out_channels, padding, .. } = *shape;
    let made = [shape.out_height(), shape.out_width(), out_channels];
    let before = [padding.top, padding.left].map(|pad| pad as isize);
    let images = Images { extents: [[height, width, channels], made], before };
    let kernel = |c: usize, o: usize| -> Square<T, 3> {
        core::array::from_fn(|i| core::array::from_fn(|j| w[((i * 3 + j) * channels + c) * out_channels + o]))
    };
    filter(&images, x, kernel, pad_value, |number, channel| out.value(number, channel), y);
}

/// `dx`: each of a tile's sixteen products is one accumulator from `+0` over the output channels in order.
pub(crate) fn input_gradient<T: Real>(shape: &Conv2dShape, dy: &[T], w: &[T], dx: &mut [T]) {
    let Conv2dShape { height, width, channels, out_channels, padding, .. } = *shape;
    let read = [shape.out_height(), shape.out_width(), out_channels];
    let before = [padding.top, padding.left].map(|pad| 2 - pad as isize);
    let images = Images { extents: [read, [height, width, channels]], before };
    let flipped = |o: usize, c: usize| -> Square<T, 3> {
        core::array::from_fn(|i| {
            core::array::from_fn(|j| w[(((2 - i) * 3 + 2 - j) * channels + c) * out_channels + o])
        })
    };
    filter(&images, dy, flipped, T::zero(), |number, _| number, dx);
}

/// `kernel(r, m)` is what channel `r` of the images read is filtered with for channel `m` of those made.
fn filter<T: Real>(
    images: &Images,
    x: &[T],
    kernel: impl Fn(usize, usize) -> Square<T, 3>,
    pad_value: T,
    finish: impl Fn(T, usize) -> T,
    y: &mut [T],
) {
    let Images { extents: [read, made], before } = *images;
    let [height, width, channels] = made;
    let kernels = (0..channels).flat_map(|m| (0..read[2]).map(move |r| (r, m)));
    let kernels: Vec<Square<T, 4>> = kernels.map(|(r, m)| mapped(&G, &kernel(r, m))).collect();
    let images = y.chunks_exact_mut(made.iter().product());
    for (y, x) in images.zip(x.chunks_exact(read.iter().product())) {
        for [row, column] in tiles(height, width) {
            let first = [row as isize - before[0], column as isize - before[1]];
            let windows = (0..read[2]).map(|r| window(x, read, first, r, pad_value));
            let windows: Vec<Square<T, 4>> = windows.map(|window| mapped(&transposed(&B), &window)).collect();
            for channel in 0..channels {
                let mut products = [[T::zero(); 4]; 4];
                for (window, kernel) in windows.iter().zip(&kernels[channel * read[2]..]) {
                    add_products(window, kernel, &mut products);
                }
                let pixels = mapped(&transposed(&A), &products);
                for (i, pixels) in pixels.iter().enumerate().take(height - row) {
                    for (j, pixel) in pixels.iter().enumerate().take(width - column) {
                        y[((row + i) * width + column + j) * channels + channel] = finish(*pixel, channel);
                    }
                }
            }
        }
    }
}

/// `dw` of one chunk of images: each of sixteen products is one accumulator from `+0` over tiles in order.
pub(crate) fn kernel_gradient<T: Real>(
    shape: &Conv2dShape,
    images: Range<usize>,
    x: &[T],
    pad_value: T,
    dy: &[T],
    dw: &mut [T],
) {
    let pairs = shape.channels * shape.out_channels;
    let mut sums = vec![[[T::zero(); 4]; 4]; pairs];
    images.for_each(|image| add_image(shape, image, x, pad_value, dy, &mut sums));
    for (pair, sums) in sums.iter().enumerate() {
        let gradient: Square<T, 3> = mapped(&transposed(&G), sums);
        for (tap, number) in gradient.as_flattened().iter().enumerate() {
            dw[tap * pairs + pair] = *number;
        }
    }
}

fn add_image<T: Real>(
    shape: &Conv2dShape,
    image: usize,
    x: &[T],
    pad_value: T,
    dy: &[T],
    sums: &mut [Square<T, 4>],
) {
    let Conv2dShape { height, width, channels, out_channels, padding, .. } = *shape;
    let (input, output) = ([height, width, channels], [shape.out_height(), shape.out_width(), out_channels]);
    let x = &x[image * input.iter().product::<usize>()..];
    let dy = &dy[image * output.iter().product::<usize>()..];
    for [row, column] in tiles(output[0], output[1]) {
        let at = [row, column].map(|at| at as isize);
        let first = [at[0] - padding.top as isize, at[1] - padding.left as isize];
        let windows = (0..out_channels).map(|o| window(dy, output, at, o, T::zero()));
        let gradients: Vec<Square<T, 4>> = windows.map(|window| mapped(&A, &window)).collect();
        for channel in 0..channels {
            let window = mapped(&transposed(&B), &window(x, input, first, channel, pad_value));
            for (sum, gradient) in sums[channel * out_channels..].iter_mut().zip(&gradients) {
                add_products(&window, gradient, sum);
            }
        }
    }
}
