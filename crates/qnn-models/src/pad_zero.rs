use qnn_layers::{Ctx, Error, Layer, Op, Signal, module};
use qnn_tensor::parallel::{for_each_chunk_of, whole_rows};
use qnn_tensor::{Scalar, Tensor, Var};

/// The shortcut without parameters: takes every `stride`-th pixel and appends channels of zeros.
///
/// ```text
/// y[n, i, j, c] = x[n, i·stride, j·stride, c]   for c < channels of x, else 0
/// ```
///
/// Option A of He et al. 2016, arXiv:1512.03385, section 4.2. A factored signal stays factored.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct PadZero {
    /// The distance of the pixels that are kept, at least 1.
    pub stride: usize,
    /// Channels of the output, at least as many as the input has.
    pub channels: usize,
}

module!(PadZero {});

impl Layer for PadZero {
    fn forward<'t>(&self, cx: &mut Ctx<'t>, x: Signal<'t>) -> Result<Signal<'t>, Error> {
        let got = x.shape();
        match got[..] {
            [_, _, _, channels] if channels <= self.channels && self.stride > 0 => {
                let y = x.map_codes(|codes| pad_zero(codes, *self));
                let Self { stride, channels } = *self;
                let op = || Op::PadZero { stride, channels };
                cx.report("zero-padded shortcut", None, &[x.codes()], y.codes(), op);
                Ok(y)
            }
            _ => {
                let expected = format!("[n, h, w, c ≤ {}] and a stride of at least 1", self.channels);
                Err(Error::Shape { layer: "zero-padded shortcut", expected, got })
            }
        }
    }
}

fn pad_zero<T: Scalar>(x: Var<'_, T>, pad: PadZero) -> Var<'_, T> {
    let input = x.value();
    let plan = Plan::new(input.shape(), pad);
    let y = plan.gather(&input);
    x.tape().record("pad_zero", [x], y, move |dy, _| [Some(plan.scatter(dy))])
}

/// Shapes `[n, height, width, channels]` of input and output.
struct Plan {
    stride: usize,
    x: [usize; 4],
    y: [usize; 4],
}

impl Plan {
    fn new(shape: &[usize], PadZero { stride, channels }: PadZero) -> Self {
        let x = [shape[0], shape[1], shape[2], shape[3]];
        let y = [x[0], x[1].div_ceil(stride), x[2].div_ceil(stride), channels];
        Self { stride, x, y }
    }

    fn gather<T: Scalar>(&self, x: &Tensor<T>) -> Tensor<T> {
        let ([_, x_height, x_width, x_channels], [_, height, width, channels]) = (self.x, self.y);
        let (x, x_row) = (x.as_slice(), x_width * x_channels);
        rows(&self.y, |row, y| {
            if x_channels == 0 {
                return y.fill(T::zero());
            }
            let (image, i) = (row / height, row % height);
            let from = (image * x_height + i * self.stride) * x_row;
            let pixels = x[from..from + x_row].chunks_exact(x_channels).step_by(self.stride);
            for (y, x) in y.chunks_exact_mut(channels).zip(pixels).take(width) {
                y[..x_channels].copy_from_slice(x);
                y[x_channels..].fill(T::zero());
            }
        })
    }

    fn scatter<T: Scalar>(&self, dy: &Tensor<T>) -> Tensor<T> {
        let ([_, x_height, _, x_channels], [_, height, width, channels]) = (self.x, self.y);
        let (dy, dy_row) = (dy.as_slice(), width * channels);
        rows(&self.x, |row, dx| {
            let (image, i) = (row / x_height, row % x_height);
            dx.fill(T::zero());
            if i % self.stride == 0 {
                let from = (image * height + i / self.stride) * dy_row;
                let pixels = dx.chunks_exact_mut(x_channels).step_by(self.stride);
                for (dx, dy) in pixels.zip(dy[from..from + dy_row].chunks_exact(channels)) {
                    dx.copy_from_slice(&dy[..x_channels]);
                }
            }
        })
    }
}

/// A tensor of images that `fill(row, values)` writes row of pixels by row of pixels.
fn rows<T: Scalar>(shape: &[usize; 4], fill: impl Fn(usize, &mut [T]) + Sync) -> Tensor<T> {
    let row = shape[2] * shape[3];
    Tensor::build(shape, |out| {
        for_each_chunk_of(whole_rows(row), out, |at, out| {
            out.chunks_exact_mut(row).enumerate().for_each(|(i, out)| fill(at / row + i, out));
        });
    })
}

#[cfg(test)]
mod tests {
    use qnn_tensor::{Tape, gradcheck};

    use super::*;

    #[test]
    fn pixels_are_kept_and_channels_appended() {
        let tape = Tape::new();
        let x = tape.leaf(Tensor::<f32>::from_fn(&[1, 3, 3, 1], |i| i as f32 + 1.0));
        let y = pad_zero(x, PadZero { stride: 2, channels: 2 }).value();
        assert_eq!(y.shape(), [1, 2, 2, 2]);
        assert_eq!(y.as_slice(), [1.0, 0.0, 3.0, 0.0, 7.0, 0.0, 9.0, 0.0]);
    }

    #[test]
    fn gradients_agree_with_differences() {
        for (shape, stride, channels) in [([2, 4, 5, 3], 2, 6), ([1, 3, 3, 2], 3, 2), ([1, 2, 2, 1], 1, 4)] {
            let x = Tensor::from_fn(&shape, |i| (i as f64 * 0.37).sin());
            gradcheck([x], |[x]| pad_zero(x, PadZero { stride, channels })).unwrap();
        }
    }

    #[test]
    fn unfit_inputs_are_errors_and_empty_ones_are_not() {
        let tape = Tape::new();
        let mut cx = Ctx::new(&tape, qnn_layers::Mode::Train, 0, 0);
        let mut run = |shape: &[usize], stride| {
            let x = tape.leaf(Tensor::zeros(shape)).into();
            PadZero { stride, channels: 4 }.forward(&mut cx, x)
        };
        assert!(run(&[1, 4, 4, 5], 2).is_err());
        assert!(run(&[1, 4, 4, 3], 0).is_err());
        assert!(run(&[4, 4], 1).is_err());
        assert_eq!(run(&[0, 4, 4, 3], 2).unwrap().shape(), [0, 2, 2, 4]);
        assert_eq!(run(&[1, 0, 0, 3], 2).unwrap().shape(), [1, 0, 0, 4]);
        let zeros = run(&[1, 4, 4, 0], 2).unwrap();
        assert_eq!(zeros.shape(), [1, 2, 2, 4]);
        assert!(zeros.codes().value().as_slice().iter().all(|&x| x == 0.0));
    }
}
