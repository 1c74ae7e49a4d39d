use std::ops::Range;
use std::sync::OnceLock;

use qnn_kernels::{Conv2dGradients, Conv2dShape, takes_pieces};

use super::channels::{bias_gradient, chunk_sums, rounded, total};
use super::factors::Factors;
use crate::gradient::{Deferred, Gradient};
use crate::parallel::whole_rows;
use crate::tape::Received;
use crate::{Scalar, Tensor};

/// What the backward pass of a convolution needs of the forward pass.
pub(super) struct Backward<T: Scalar> {
    pub(super) shape: Conv2dShape,
    pub(super) x: Tensor<T>,
    pub(super) w: Tensor<T>,
    pub(super) pad: T,
    pub(super) factors: Factors<T>,
}

/// Which gradients are wanted, and what the input has received before.
struct Wanted<T: Scalar> {
    x: bool,
    w: bool,
    bias: bool,
    sum: Option<Tensor<T>>,
}

type Parts<T> = [Option<Tensor<T>>; 3];

impl<T: Scalar> Backward<T> {
    pub(super) fn of_product(
        self,
        dy: Gradient<T>,
        received: &mut Received<'_, T, 2>,
    ) -> [Option<Gradient<T>>; 2] {
        let [x, w] = received.wanted;
        let [dx, dw, _] = self.gradients(dy, Wanted { x, w, bias: false, sum: received.take(0) });
        [dx, dw].map(|part| part.map(Gradient::Value))
    }

    pub(super) fn of_product_and_bias(
        self,
        dy: Gradient<T>,
        received: &mut Received<'_, T, 3>,
    ) -> [Option<Gradient<T>>; 3] {
        let [x, w, bias] = received.wanted;
        let parts = self.gradients(dy, Wanted { x, w, bias, sum: received.take(0) });
        parts.map(|part| part.map(Gradient::Value))
    }

    fn gradients(&self, dy: Gradient<T>, wanted: Wanted<T>) -> Parts<T> {
        match dy {
            Gradient::Deferred(dy) if self.takes_pieces() => self.in_pieces(&dy, wanted),
            dy => self.whole(&dy.into_tensor(), wanted),
        }
    }

    /// Whether pieces of the output's gradient are as long as those that the bias is summed in.
    fn takes_pieces(&self) -> bool {
        let chunk = qnn_kernels::reference::chunk_images(&self.shape) * self.image_len();
        takes_pieces(&self.shape) && chunk >= whole_rows(self.shape.out_channels)
    }

    fn whole(&self, dy: &Tensor<T>, wanted: Wanted<T>) -> Parts<T> {
        let Self { shape, x, pad, .. } = self;
        let dx = wanted.x.then(|| {
            let values = self.factors.kernel_values(&self.w);
            let dx = Tensor::build(x.shape(), |dx| {
                qnn_kernels::conv2d_input_gradient(shape, dy.as_slice(), values.as_slice(), dx);
            });
            wanted.sum.map_or(dx.clone(), |sum| sum.zip_map(&dx, |sum, dx| sum + dx))
        });
        let dw = wanted.w.then(|| {
            let dw = Tensor::build(self.w.shape(), |dw| {
                qnn_kernels::conv2d_kernel_gradient(shape, x.as_slice(), *pad, dy.as_slice(), dw);
            });
            self.factors.scale_by_input(dw)
        });
        [dx, dw, wanted.bias.then(|| bias_gradient(dy))]
    }

    /// Each piece of `dy` is computed when it is needed, and read by all gradients while it is in the
    /// cache.
    fn in_pieces(&self, dy: &Deferred<T>, wanted: Wanted<T>) -> Parts<T> {
        let values = self.factors.kernel_values(&self.w);
        let add = wanted.sum.is_some();
        let unwritten = |of: &Tensor<T>| Tensor::build(of.shape(), |_| {});
        let mut dx = wanted.x.then(|| wanted.sum.unwrap_or_else(|| unwritten(&self.x)));
        let mut dw = wanted.w.then(|| unwritten(&self.w));
        let bias = wanted.bias.then(|| PiecewiseBias::new(&self.shape));
        let piece = |images: Range<usize>, out: &mut [T]| {
            let at = images.start * self.image_len();
            dy.fill(at, out);
            if let Some(bias) = &bias {
                bias.add(dy, at, out);
            }
        };
        let job = Conv2dGradients {
            x: self.x.as_slice(),
            pad_value: self.pad,
            w: values.as_slice(),
            dx: dx.as_mut().map(Tensor::as_mut_slice),
            add,
            dw: dw.as_mut().map(Tensor::as_mut_slice),
        };
        qnn_kernels::conv2d_gradients(&self.shape, job, &piece);
        [dx, dw.map(|dw| self.factors.scale_by_input(dw)), bias.map(PiecewiseBias::finish)]
    }

    /// Elements of one output image.
    fn image_len(&self) -> usize {
        self.shape.output_len() / self.shape.batch
    }
}

/// The gradient of a bias in the chunks that [`bias_gradient`] makes, from pieces with other ends.
struct PiecewiseBias {
    channels: usize,
    /// Elements of the output.
    len: usize,
    chunks: Vec<OnceLock<Vec<f64>>>,
}

impl PiecewiseBias {
    fn new(shape: &Conv2dShape) -> Self {
        let (channels, len) = (shape.out_channels, shape.output_len());
        let chunks = (0..len.div_ceil(whole_rows(channels))).map(|_| OnceLock::new()).collect();
        Self { channels, len, chunks }
    }

    /// Sums the chunks that begin in a piece. What the last one lacks is computed once more.
    fn add<T: Scalar>(&self, dy: &Deferred<T>, at: usize, piece: &[T]) {
        let size = whole_rows(self.channels);
        let end = at + piece.len();
        for (index, start) in (at.div_ceil(size)..).map(|index| (index, index * size)) {
            if start >= end {
                return;
            }
            let len = size.min(self.len - start);
            let inside = &piece[start - at..][..len.min(end - start)];
            if inside.len() == len {
                self.set(index, inside);
            } else {
                let whole = Tensor::build(&[len], |whole| {
                    let (copied, rest) = whole.split_at_mut(inside.len());
                    copied.copy_from_slice(inside);
                    dy.fill(end, rest);
                });
                self.set(index, whole.as_slice());
            }
        }
    }

    fn set<T: Scalar>(&self, index: usize, dy: &[T]) {
        let [sums] = chunk_sums(self.channels, [dy], [], |[dy], []| [dy]);
        self.chunks[index].set(sums).expect("a chunk begins in one piece only");
    }

    fn finish<T: Scalar>(self) -> Tensor<T> {
        let chunks = self.chunks.into_iter().map(OnceLock::into_inner);
        let [sums] =
            total(self.channels, chunks.map(|sums| [sums.expect("every chunk begins in some piece")]));
        rounded(&sums)
    }
}
