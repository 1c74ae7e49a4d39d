//! Both gradients of a convolution, of an output gradient that is written piece by piece and never stands in memory as a whole.

use alloc::vec::Vec;
use core::ops::Range;

use crate::ahead::Ahead;
use crate::arch::numbers_mut;
use crate::kernel_gradient::KernelGradient;
use crate::line::{LANES, Line};
use crate::product::Product;
use crate::reference::chunk_images;
use crate::scratch::with_lines;
use crate::threads::prelude::*;
use crate::{ChannelAffine, Conv2dShape, Kernels, Real, plan, vectorized, winograd};

/// Elements of an output gradient that stay in a core's cache while both products read them.
const PIECE: usize = 1 << 17;

/// Writes the gradient of the outputs of some images.
pub type OutputGradient<'a, T> = dyn Fn(Range<usize>, &mut [T]) + Sync + 'a;

/// What [`conv2d_gradients`](crate::conv2d_gradients) reads and writes beside the output's gradient.
#[derive(Debug)]
pub struct Conv2dGradients<'a, T> {
    /// The input.
    pub x: &'a [T],
    /// What surrounds the input.
    pub pad_value: T,
    /// The weights that the input's gradient is made of.
    pub w: &'a [T],
    /// The input's gradient, where it is wanted.
    pub dx: Option<&'a mut [T]>,
    /// Whether `dx` holds another gradient, which is added to.
    pub add: bool,
    /// The weights' gradient, where it is wanted.
    pub dw: Option<&'a mut [T]>,
}

/// Whether a shape's gradients can take the output's gradient in pieces: if [`chunk_images`] makes several chunks of the batch.
#[must_use]
pub fn takes_pieces(shape: &Conv2dShape) -> bool {
    chunk_images(shape) < shape.batch && shape.input_len() > 0 && shape.output_len() > 0
}

/// One chunk of images, with its parts of all slices.
struct Chunk<'a, T> {
    first: usize,
    x: &'a [T],
    dx: Option<&'a mut [T]>,
    sums: Option<&'a mut [Line<T>]>,
}

struct Plan<'a, T> {
    shape: &'a Conv2dShape,
    kernel: KernelSums<'a, T>,
    input: Option<Input<'a, T>>,
    dy: &'a OutputGradient<'a, T>,
}

/// What makes the weights' gradient.
#[derive(Clone, Copy)]
enum KernelSums<'a, T> {
    Taps(&'a KernelGradient<'a, T>),
    Tiles(&'a winograd::KernelGradient<'a, T>),
}

/// What makes the input's gradient, with its packed weights, and whether it is added.
#[derive(Clone, Copy)]
struct Input<'a, T> {
    product: InputProduct<'a, T>,
    weights: &'a [Line<T>],
    add: bool,
}

#[derive(Clone, Copy)]
enum InputProduct<'a, T> {
    Taps(&'a Product<'a, T>),
    Tiles(&'a winograd::Filter<'a, T>),
}

pub(crate) fn gradients<T: Real>(
    kernels: &Kernels,
    shape: &Conv2dShape,
    job: Conv2dGradients<'_, T>,
    dy: &OutputGradient<'_, T>,
) {
    let Conv2dGradients { x, pad_value, w, dx, add, dw } = job;
    let by_tiles = winograd::takes(shape);
    let (by_taps, tiled);
    let kernel = if by_tiles {
        tiled = winograd::KernelGradient::new(kernels, shape, pad_value);
        KernelSums::Tiles(&tiled)
    } else {
        by_taps = KernelGradient::new(T::tiles(kernels), shape, x, pad_value, true);
        KernelSums::Taps(&by_taps)
    };
    let chunks = shape.batch.div_ceil(chunk_images(shape));
    let sum_lines = if dw.is_some() { kernel.sum_lines() } else { 0 };
    with_lines(chunks * sum_lines, |sums: &mut [Line<T>]| {
        match dx {
            None => Plan { shape, kernel, input: None, dy }.run(x, None, sums),
            Some(dx) if by_tiles => {
                let product = winograd::Filter::input_gradient(kernels, shape);
                product.with_weights(w, ChannelAffine::IDENTITY, |weights| {
                    let input = Some(Input { product: InputProduct::Tiles(&product), weights, add });
                    Plan { shape, kernel, input, dy }.run(x, Some(dx), sums);
                });
            }
            Some(dx) => plan::with_input_gradient(kernels, shape, w, |product| {
                product.with_weights(|weights| {
                    let input = Some(Input { product: InputProduct::Taps(product), weights, add });
                    Plan { shape, kernel, input, dy }.run(x, Some(dx), sums);
                });
            }),
        }
        if let Some(dw) = dw {
            kernel.add_chunks(sums, dw);
        }
    });
}

impl<T: Real> Plan<'_, T> {
    fn run(&self, x: &[T], dx: Option<&mut [T]>, sums: &mut [Line<T>]) {
        let images = chunk_images(self.shape);
        let chunk_len = images * self.input_len();
        let mut dx = dx.map(|dx| dx.chunks_mut(chunk_len));
        let mut sums = sums.chunks_exact_mut(self.kernel.sum_lines());
        let chunk = |(index, x)| Chunk {
            first: index * images,
            x,
            dx: dx.as_mut().and_then(Iterator::next),
            sums: sums.next(),
        };
        let chunks: Vec<_> = x.chunks(chunk_len).enumerate().map(chunk).collect();
        chunks.into_par_iter().with_max_len(1).for_each(|chunk| self.chunk(chunk));
    }

    fn chunk(&self, mut chunk: Chunk<'_, T>) {
        match chunk.sums.take() {
            None => self.pieces(chunk, None),
            Some(sums) => self.kernel.with_sums(sums, |sums| self.pieces(chunk, Some(sums))),
        }
    }

    fn pieces(&self, chunk: Chunk<'_, T>, mut sums: Option<&mut [Line<T>]>) {
        let (input_len, output_len) = (self.input_len(), self.shape.output_len() / self.shape.batch);
        let together = (PIECE / output_len).max(1);
        let mut dx = chunk.dx.map(|dx| dx.chunks_mut(together * input_len));
        for (index, x) in chunk.x.chunks(together * input_len).enumerate() {
            let first = chunk.first + index * together;
            let images = first..first + x.len() / input_len;
            let dy_len = images.len() * output_len;
            with_lines(dy_len.div_ceil(LANES), |lines| {
                let dy = &mut numbers_mut(lines)[..dy_len];
                (self.dy)(images, dy);
                if let Some(sums) = &mut sums {
                    self.kernel.add_images(x, dy, sums);
                }
                if let (Some(input), Some(dx)) = (self.input, dx.as_mut().and_then(Iterator::next)) {
                    let images = input.images_together();
                    let parts = dx.par_chunks_mut(images * input_len).zip(dy.par_chunks(images * output_len));
                    parts.with_max_len(1).for_each(|(dx, dy)| input.gradient(dy, dx));
                }
            });
        }
    }

    fn input_len(&self) -> usize {
        self.shape.input_len() / self.shape.batch
    }
}

impl<T: Real> KernelSums<'_, T> {
    fn sum_lines(self) -> usize {
        match self {
            Self::Taps(kernel) => kernel.sum_lines(),
            Self::Tiles(kernel) => kernel.sum_lines(),
        }
    }

    /// Lends what images are added to, from which the sums of their chunk are made.
    fn with_sums(self, sums: &mut [Line<T>], visit: impl FnOnce(&mut [Line<T>])) {
        match self {
            Self::Taps(_) => {
                sums.fill(Line([T::zero(); LANES]));
                visit(sums);
            }
            Self::Tiles(kernel) => kernel.with_products(sums, visit),
        }
    }

    fn add_images(self, x: &[T], dy: &[T], sums: &mut [Line<T>]) {
        match self {
            Self::Taps(kernel) => kernel.add_images(x, dy, sums),
            Self::Tiles(kernel) => kernel.add_images(x, dy, sums),
        }
    }

    fn add_chunks(self, sums: &[Line<T>], dw: &mut [T]) {
        match self {
            Self::Taps(kernel) => kernel.add_chunks(sums, dw),
            Self::Tiles(kernel) => kernel.add_chunks(sums, dw),
        }
    }
}

impl<T: Real> Input<'_, T> {
    /// Images whose gradients are better made together.
    fn images_together(&self) -> usize {
        match self.product {
            InputProduct::Taps(_) => 1,
            InputProduct::Tiles(product) => product.images_together(),
        }
    }

    /// The gradient of so many images.
    fn gradient(&self, dy: &[T], dx: &mut [T]) {
        let Self { product, weights, add } = *self;
        let product = match product {
            InputProduct::Taps(product) => product,
            InputProduct::Tiles(product) => return product.images(dy, weights, dx, add, Ahead::NOTHING),
        };
        if !add {
            return product.image(dy, weights, dx, Ahead::NOTHING);
        }
        with_lines(dx.len().div_ceil(LANES), |lines| {
            let part = &mut numbers_mut(lines)[..dx.len()];
            product.image(dy, weights, part, Ahead::of([&[], &*dx]));
            vectorized(|| dx.iter_mut().zip(&*part).for_each(|(dx, part)| *dx = *dx + *part));
        });
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{Convolution, Isa, Padding, Visitor};

    fn numbers(len: usize, frequency: f32) -> Vec<f32> {
        (0..len).map(|i| (i as f32 * frequency).sin()).collect()
    }

    fn shapes() -> impl Iterator<Item = Conv2dShape> {
        let cases = [
            (16, 16, 1, 3, 1, 1),
            (16, 32, 1, 3, 2, 1),
            (3, 16, 1, 3, 1, 1),
            (20, 12, 2, 3, 1, 1),
            (16, 16, 16, 3, 1, 1),
            (32, 16, 1, 1, 2, 0),
            (16, 48, 1, 1, 1, 0),
            (32, 48, 1, 3, 1, 1),
        ];
        cases.into_iter().map(|(channels, out_channels, groups, kernel, stride, pad)| Conv2dShape {
            batch: 19,
            height: 6,
            width: 7,
            channels,
            out_channels,
            kernel: [kernel; 2],
            stride: [stride; 2],
            padding: Padding { top: pad, bottom: pad, left: pad, right: pad },
            groups,
        })
    }

    #[test]
    fn pieces_give_the_bits_of_the_whole() {
        for shape in shapes() {
            assert!(takes_pieces(&shape));
            let (x, w) = (numbers(shape.input_len(), 0.37), numbers(shape.weight_len(), 0.71));
            let dy = numbers(shape.output_len(), 0.53);
            let image = shape.output_len() / shape.batch;
            let piece = |images: Range<usize>, out: &mut [f32]| {
                out.copy_from_slice(&dy[images.start * image..images.end * image]);
            };
            for (kernels, pad_value) in
                Isa::available().filter_map(Kernels::of).zip([0.0, 1.0].into_iter().cycle())
            {
                let before = numbers(shape.input_len(), 0.19);
                let (mut dx, mut dw) = (vec![f32::NAN; x.len()], vec![f32::NAN; w.len()]);
                kernels.conv2d_input_gradient(&shape, &dy, &w, &mut dx);
                kernels.conv2d_kernel_gradient(&shape, &x, pad_value, &dy, &mut dw);
                let added: Vec<f32> = before.iter().zip(&dx).map(|(a, b)| a + b).collect();
                for add in [false, true] {
                    let run = |dx: Option<&mut [f32]>, dw: Option<&mut [f32]>| {
                        let job = Conv2dGradients { x: &x, pad_value, w: &w, dx, add, dw };
                        kernels.conv2d_gradients(&shape, job, &piece);
                    };
                    let expected = (if add { &added } else { &dx }, &dw);
                    let (mut px, mut pw) = (before.clone(), vec![f32::NAN; w.len()]);
                    run(Some(&mut px), Some(&mut pw));
                    assert_eq!((&px, &pw), expected, "{shape:?}");
                    let (mut px, mut pw) = (before.clone(), vec![f32::NAN; w.len()]);
                    run(Some(&mut px), None);
                    run(None, Some(&mut pw));
                    assert_eq!((&px, &pw), expected, "{shape:?}");
                }
            }
        }
    }

    #[test]
    fn a_visited_convolution_is_the_same_and_every_image_is_seen_once() {
        for shape in shapes() {
            let (x, w) = (numbers(shape.input_len(), 0.37), numbers(shape.weight_len(), 0.71));
            let bias = numbers(shape.out_channels, 0.3);
            let out = ChannelAffine::bias(&bias);
            let mut expected = vec![0.0; shape.output_len()];
            crate::conv2d(&shape, &x, &w, 1.0, out, &mut expected);
            for together in [1, 2, 7, 30] {
                let seen = std::sync::Mutex::new(vec![f32::NAN; expected.len()]);
                let image = expected.len() / shape.batch;
                let visit = |first: usize, images: &mut [f32]| {
                    seen.lock().unwrap()[first * image..][..images.len()].copy_from_slice(images);
                    images.iter_mut().for_each(|y| *y = -*y);
                };
                let mut y = vec![f32::NAN; expected.len()];
                let convolution = Convolution { pad_value: 1.0, out, ..Convolution::new(&x, &w) };
                let visitor = Visitor { together, visit: &visit, beside: &expected };
                crate::convolve_visited(&shape, &convolution, &mut y, visitor);
                let changed: Vec<f32> = expected.iter().map(|y| -y).collect();
                assert_eq!((&y, &seen.into_inner().unwrap()), (&changed, &expected), "{shape:?}");
            }
        }
    }
}
