use std::ops::Range;
use std::sync::OnceLock;

use qnn_kernels::{Conv2dGradients, Conv2dShape, takes_pieces};

use super::channels::{bias_gradient, chunk_sums, rounded, total};
use super::factors::Factors;
use crate::gradient::{Fill, Gradient};
use crate::gradients::Received;
use crate::parallel::whole_rows;
use crate::{Scalar, Tensor};

/// What the backward pass of a convolution needs of the forward pass.
pub(super) struct Backward<T: Scalar> {
    pub(super) shape: Conv2dShape,
    pub(super) x: Tensor<T>,
    pub(super) w: Tensor<T>,
    pub(super) pad: T,
    pub(super) factors: Factors<T>,
}

/// The gradients of input, kernel and bias, or whether they are wanted.
type Parts<T> = [Option<Tensor<T>>; 3];

impl<T: Scalar> Backward<T> {
    pub(super) fn of_product(
        self,
        dy: Gradient<T>,
        received: &mut Received<'_, T, 2>,
    ) -> [Option<Gradient<T>>; 2] {
        let [x, w] = received.wanted;
        let [dx, dw, _] = self.gradients(dy, [x, w, false], || received.take(0));
        [dx, dw].map(|part| part.map(Gradient::Value))
    }

    pub(super) fn of_product_and_bias(
        self,
        dy: Gradient<T>,
        received: &mut Received<'_, T, 3>,
    ) -> [Option<Gradient<T>>; 3] {
        let parts = self.gradients(dy, received.wanted, || received.take(0));
        parts.map(|part| part.map(Gradient::Value))
    }

    /// `sum` takes what the input has received before.
    fn gradients(
        &self,
        dy: Gradient<T>,
        wanted: [bool; 3],
        sum: impl FnOnce() -> Option<Tensor<T>>,
    ) -> Parts<T> {
        match dy {
            Gradient::Deferred(dy) if self.takes_pieces() => {
                dy.with_fill(|_, dy| self.in_pieces(dy, wanted, sum))
            }
            dy => self.whole(&dy.into_tensor(), wanted),
        }
    }

    /// Whether pieces of the output's gradient are as long as those that the bias is summed in.
    fn takes_pieces(&self) -> bool {
        let chunk = qnn_kernels::reference::chunk_images(&self.shape) * self.image_len();
        takes_pieces(&self.shape) && chunk >= whole_rows(self.shape.out_channels)
    }

    fn whole(&self, dy: &Tensor<T>, [wants_x, wants_w, wants_bias]: [bool; 3]) -> Parts<T> {
        let Self { shape, x, pad, .. } = self;
        let dx = wants_x.then(|| {
            let values = self.factors.kernel_values(&self.w);
            Tensor::build(x.shape(), |dx| {
                qnn_kernels::conv2d_input_gradient(shape, dy.as_slice(), values.as_slice(), dx);
            })
        });
        let dw = wants_w.then(|| {
            let dw = Tensor::build(self.w.shape(), |dw| {
                qnn_kernels::conv2d_kernel_gradient(shape, x.as_slice(), *pad, dy.as_slice(), dw);
            });
            self.factors.scale_by_input(dw)
        });
        [dx, dw, wants_bias.then(|| bias_gradient(dy))]
    }

    /// Each piece of `dy` is computed when it is needed, and read by all gradients while it is in the
    /// cache.
    fn in_pieces(
        &self,
        dy: &Fill<'_, T>,
        [wants_x, wants_w, wants_bias]: [bool; 3],
        sum: impl FnOnce() -> Option<Tensor<T>>,
    ) -> Parts<T> {
        let values = self.factors.kernel_values(&self.w);
        let sum = if wants_x { sum() } else { None };
        let add = sum.is_some();
        let unwritten = |of: &Tensor<T>| Tensor::build(of.shape(), |_| {});
        let mut dx = wants_x.then(|| sum.unwrap_or_else(|| unwritten(&self.x)));
        let mut dw = wants_w.then(|| unwritten(&self.w));
        let bias = wants_bias.then(|| PiecewiseBias::new(&self.shape));
        let piece = |images: Range<usize>, out: &mut [T]| {
            let at = images.start * self.image_len();
            dy(at, out);
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
    fn add<T: Scalar>(&self, dy: &Fill<'_, T>, at: usize, piece: &[T]) {
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
                // From the allocator: how many threads need one at a time is chance, which the pool is not to see.
                let mut whole = vec![T::zero(); len];
                let (copied, rest) = whole.split_at_mut(inside.len());
                copied.copy_from_slice(inside);
                dy(end, rest);
                self.set(index, &whole);
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

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ops::tests::with_threads;
    use crate::ops::{Conv2dOptions, Gate, batch_norm_gated_train, conv2d_measured};
    use crate::{Padding, Tape, Var, gradcheck};

    fn numbers<T: Scalar>(shape: &[usize], frequency: f64) -> Tensor<T> {
        Tensor::from_fn(shape, |i| T::of((i as f64 * frequency + 0.3).sin()))
    }

    /// An identity that neither defers gradients nor notes statistics.
    fn barrier<T: Scalar>(x: Var<'_, T>) -> Var<'_, T> {
        x.tape().record("barrier", [x], x.value(), |dy, _| [Some(dy.clone())])
    }

    struct Case {
        x: [usize; 4],
        w: [usize; 4],
        stride: usize,
        factors: Factors<f32>,
        bias: bool,
    }

    /// Pieces that end inside of the chunks of statistics and biases, with them, and far beyond.
    fn cases() -> Vec<Case> {
        let case = |x, w, stride, bias| Case { x, w, stride, factors: Factors::unit(), bias };
        let scaled = Factors { x: 0.5, w: (0..16).map(|o| 0.3 + 0.1 * o as f32).collect() };
        vec![
            case([19, 32, 16, 16], [3, 3, 16, 16], 1, true),
            Case { factors: scaled, ..case([19, 32, 16, 16], [3, 3, 16, 16], 1, true) },
            case([99, 8, 8, 64], [3, 3, 64, 64], 1, true),
            case([33, 32, 32, 3], [3, 3, 3, 16], 1, false),
            case([40, 32, 32, 8], [1, 1, 8, 32], 2, true),
            case([9, 32, 32, 3], [3, 3, 3, 48], 1, true),
            case([6, 9, 9, 5], [3, 3, 5, 7], 1, true),
        ]
    }

    /// Value and gradients of a convolution with batch norm, whose input has another reader.
    fn run(case: &Case, fused: bool) -> Vec<Tensor> {
        let Case { x, w, stride, factors, bias } = case;
        let tape = Tape::<f32>::new();
        let channels = &w[3..];
        let leaves = [x, w].map(|shape| tape.leaf(numbers(shape, 0.37)));
        let parameters = [0.5, 0.9, 1.3].map(|frequency| tape.leaf(numbers(channels, frequency)));
        let ([x, w], [b, gamma, beta]) = (leaves, parameters);
        let input = x.relu();
        let padding = Padding::same([case.x[1], case.x[2]], [case.w[0], case.w[1]], [*stride; 2]);
        let options = Conv2dOptions { stride: [*stride; 2], padding, ..Conv2dOptions::default() };
        let y = conv2d_measured(input, w, bias.then_some(b), factors, &options);
        let y = if fused { y } else { barrier(y) };
        let y = batch_norm_gated_train(y, gamma, beta, 1e-3, Gate::Relu).0;
        let loss = (y * y).sum() + (input * input).sum();
        let value = y.value();
        let gradients = tape.backward(loss);
        let leaves = leaves.into_iter().chain(parameters).filter_map(|leaf| gradients.of(leaf).cloned());
        [value].into_iter().chain(leaves).collect()
    }

    #[test]
    fn pieces_give_the_bits_of_the_whole_on_any_number_of_threads() {
        for case in cases() {
            let expected = run(&case, false);
            assert!(expected[1..].iter().all(|gradient| gradient.as_slice().iter().any(|&d| d != 0.0)));
            assert_eq!(run(&case, true), expected, "{:?}", case.x);
            assert_eq!(with_threads(3, || run(&case, true)), expected, "{:?}", case.x);
            assert_eq!(with_threads(1, || run(&case, true)), expected, "{:?}", case.x);
        }
    }

    #[test]
    fn a_convolution_in_pieces_agrees_with_differences() {
        let inputs = [numbers(&[3, 3, 1, 2], 0.9), numbers(&[2], 0.5), numbers(&[2], 1.3)];
        let x: Tensor<f64> = numbers(&[8, 131, 67, 1], 0.7);
        gradcheck(inputs, |[w, bias, gamma]| {
            let tape = w.tape();
            let (x, beta) = (tape.constant(x.clone()), tape.constant(Tensor::zeros(&[2])));
            let y = conv2d_measured(x, w, Some(bias), &Factors::unit(), &Conv2dOptions::default());
            batch_norm_gated_train(y, gamma, beta, 1e-3, Gate::Identity).0
        })
        .unwrap();
    }
}
