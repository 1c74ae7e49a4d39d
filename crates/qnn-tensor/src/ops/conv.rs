use qnn_kernels::{Algorithm, ChannelAffine, Conv2dShape, Padding, Visitor};

use super::conv_gradients::Backward;
use super::factors::{Factors, bias_values};
use super::moments::PiecewiseMoments;
use crate::gradients::Received;
use crate::{Scalar, Tensor, Var};

/// How a convolution moves over its input.
///
/// ```
/// use qnn_tensor::{Padding, ops::Conv2dOptions};
///
/// let halving = Conv2dOptions {
///     stride: [2, 2],
///     padding: Padding::same([32, 32], [3, 3], [2, 2]),
///     ..Conv2dOptions::default()
/// };
/// assert_eq!(halving.groups, 1);
/// ```
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Conv2dOptions {
    /// The step in rows and columns.
    pub stride: [usize; 2],
    /// Rows and columns put around the input.
    pub padding: Padding,
    /// What they hold, in the units of the input's codes: 0, or ±1 in binary networks.
    pub pad_value: f64,
    /// The number of groups that input and output channels are divided into; as many as input
    /// channels for a depthwise convolution.
    pub groups: usize,
    /// How the outputs are made. The gradients are those of the convolution whichever it is.
    pub algorithm: Algorithm,
}

impl Default for Conv2dOptions {
    /// Stride 1, no padding, one group, direct.
    fn default() -> Self {
        let algorithm = Algorithm::Direct;
        Self { stride: [1, 1], padding: Padding::NONE, pad_value: 0.0, groups: 1, algorithm }
    }
}

impl<'t, T: Scalar> Var<'t, T> {
    /// The convolution (a cross-correlation, as everywhere in the field) of images with a kernel.
    ///
    /// ```text
    /// y[n, i, j, o] = bias[o] + Σ x[n, i·s₀ + a − top, j·s₁ + b − left, c] · w[a, b, c, o]
    /// ```
    ///
    /// The sum runs over the kernel's rows a, columns b and the input channels c of o's group;
    /// outside the image x is `pad_value`. Shapes: `[n, height, width, channels]` with
    /// `[kernel height, kernel width, channels / groups, out channels]` and a bias of
    /// `[out channels]` give `[n, out height, out width, out channels]`.
    ///
    /// ```
    /// use qnn_tensor::{Tape, Tensor, ops::Conv2dOptions};
    ///
    /// let tape = Tape::<f32>::new();
    /// let x = tape.constant(Tensor::from_fn(&[1, 3, 3, 1], |i| i as f32));
    /// let w = tape.leaf(Tensor::full(&[2, 2, 1, 1], 0.25));
    /// let y = x.conv2d(w, None, &Conv2dOptions::default());
    /// assert_eq!(y.value().as_slice(), [2.0, 3.0, 5.0, 6.0]);
    /// ```
    ///
    /// # Panics
    ///
    /// If the shapes or options do not fit.
    #[track_caller]
    pub fn conv2d(self, w: Self, bias: Option<Self>, options: &Conv2dOptions) -> Self {
        conv2d_factored(self, w, bias, &Factors::unit(), options)
    }
}

/// The [convolution](Var::conv2d) of codes, scaled to that of their values.
///
/// ```text
/// y[.., o] = (x_factor · w_factor_o) · conv(x_codes, w_codes)[.., o] + bias[o]
/// ```
///
/// The product of the two factors is rounded once per channel. By convention the gradients handed
/// on to `x` and `w` are those with respect to their *values*.
///
/// # Panics
///
/// If the shapes, factors or options do not fit.
#[track_caller]
pub fn conv2d_factored<'t, T: Scalar>(
    x: Var<'t, T>,
    w: Var<'t, T>,
    bias: Option<Var<'t, T>>,
    factors: &Factors<T>,
    options: &Conv2dOptions,
) -> Var<'t, T> {
    convolution([x, w], bias, factors, options, false)
}

/// [`conv2d_factored`] for a batch normalisation to follow: the statistics of its value are made while
/// it is in the cache, and the normalisation finds them on the tape. The same bits.
///
/// # Panics
///
/// As [`conv2d_factored`].
#[track_caller]
pub fn conv2d_measured<'t, T: Scalar>(
    x: Var<'t, T>,
    w: Var<'t, T>,
    bias: Option<Var<'t, T>>,
    factors: &Factors<T>,
    options: &Conv2dOptions,
) -> Var<'t, T> {
    convolution([x, w], bias, factors, options, true)
}

#[track_caller]
fn convolution<'t, T: Scalar>(
    [x, w]: [Var<'t, T>; 2],
    bias: Option<Var<'t, T>>,
    factors: &Factors<T>,
    options: &Conv2dOptions,
    measure: bool,
) -> Var<'t, T> {
    let convolution = Convolution::new([x, w], bias, factors, options);
    let shape = convolution.shape;
    let image_len = convolution.output_shape()[1..].iter().product();
    let moments =
        if measure { PiecewiseMoments::new(shape.batch, image_len, shape.out_channels) } else { None };
    let y = match &moments {
        None => convolution.product(None),
        Some(moments) => {
            let see = |first: usize, images: &mut [T]| moments.see(first, images);
            convolution.product(Some(Visitor { together: moments.together, visit: &see, beside: &[] }))
        }
    };
    let Convolution { x: codes, w: kernel, pad, .. } = convolution;
    let backward = Backward { shape, x: codes, w: kernel, pad, factors: factors.clone() };
    let y = match bias {
        None => {
            let pullback = move |dy, received: &mut Received<'_, T, 2>| backward.of_product(dy, received);
            x.tape().record_gradients("conv2d", [x, w], y, pullback)
        }
        Some(bias) => {
            let pullback =
                move |dy, received: &mut Received<'_, T, 3>| backward.of_product_and_bias(dy, received);
            x.tape().record_gradients("conv2d", [x, w, bias], y, pullback)
        }
    };
    moments.map_or(y, |moments| y.with_moments(moments.finish()))
}

/// The operands of a convolution, and what each output goes through at its end.
pub(super) struct Convolution<T: Scalar> {
    pub(super) shape: Conv2dShape,
    x: Tensor<T>,
    w: Tensor<T>,
    pad: T,
    algorithm: Algorithm,
    scale: Option<Vec<T>>,
    offset: Option<Tensor<T>>,
}

impl<T: Scalar> Convolution<T> {
    #[track_caller]
    pub(super) fn new(
        [x, w]: [Var<'_, T>; 2],
        bias: Option<Var<'_, T>>,
        factors: &Factors<T>,
        options: &Conv2dOptions,
    ) -> Self {
        let [x, w] = [x, w].map(Var::value);
        let shape = conv2d_shape(x.shape(), w.shape(), options);
        let scale = factors.output_scale("conv2d", shape.out_channels);
        let offset = bias_values("conv2d", bias, shape.out_channels);
        let Conv2dOptions { pad_value, algorithm, .. } = *options;
        Self { shape, x, w, pad: T::of(pad_value), algorithm, scale, offset }
    }

    pub(super) fn output_shape(&self) -> [usize; 4] {
        let shape = &self.shape;
        [shape.batch, shape.out_height(), shape.out_width(), shape.out_channels]
    }

    /// The output, shown to a visitor while it is in the cache.
    pub(super) fn product(&self, visit: Option<Visitor<'_, T>>) -> Tensor<T> {
        let Self { shape, pad: pad_value, algorithm, .. } = *self;
        let out =
            ChannelAffine { scale: self.scale.as_deref(), bias: self.offset.as_ref().map(Tensor::as_slice) };
        let (x, w) = (self.x.as_slice(), self.w.as_slice());
        let convolution = qnn_kernels::Convolution { x, w, pad_value, out, algorithm };
        Tensor::build(&self.output_shape(), |y| match visit {
            None => qnn_kernels::convolve(&shape, &convolution, y),
            Some(visitor) => qnn_kernels::convolve_visited(&shape, &convolution, y, visitor),
        })
    }
}

#[track_caller]
fn conv2d_shape(x: &[usize], w: &[usize], options: &Conv2dOptions) -> Conv2dShape {
    let &[batch, height, width, channels] = x else {
        panic!("conv2d: expected images [n, height, width, channels], got {x:?}");
    };
    let &[kernel_height, kernel_width, group_channels, out_channels] = w else {
        panic!("conv2d: expected a kernel [height, width, channels, out channels], got {w:?}");
    };
    let groups = options.groups;
    assert!(
        group_channels.checked_mul(groups) == Some(channels),
        "conv2d: expected a kernel of {channels} / {groups} input channels for {groups} groups of \
         images {x:?}, got {w:?}"
    );
    let shape = Conv2dShape {
        batch,
        height,
        width,
        channels,
        out_channels,
        kernel: [kernel_height, kernel_width],
        stride: options.stride,
        padding: options.padding,
        groups,
    };
    if let Err(error) = shape.check() {
        panic!("conv2d: {error}");
    }
    shape
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{Tape, gradcheck};

    fn numbers(shape: &[usize], frequency: f64) -> Tensor<f64> {
        Tensor::from_fn(shape, |i| (i as f64 * frequency + 0.3).sin())
    }

    struct Case {
        x: [usize; 4],
        w: [usize; 4],
        options: Conv2dOptions,
    }

    fn cases() -> Vec<Case> {
        let plain = Conv2dOptions::default();
        let uneven = Padding { top: 1, bottom: 0, left: 2, right: 1 };
        let even = Padding { top: 1, bottom: 1, left: 1, right: 1 };
        vec![
            Case { x: [2, 4, 5, 3], w: [3, 3, 3, 2], options: plain },
            Case { x: [1, 3, 3, 2], w: [1, 1, 2, 3], options: plain },
            Case {
                x: [2, 5, 4, 2],
                w: [3, 2, 2, 3],
                options: Conv2dOptions { stride: [2, 2], padding: uneven, ..plain },
            },
            Case {
                x: [1, 4, 4, 2],
                w: [3, 3, 2, 2],
                options: Conv2dOptions { padding: even, pad_value: -1.0, ..plain },
            },
            Case {
                x: [1, 5, 5, 2],
                w: [3, 3, 2, 2],
                options: Conv2dOptions { stride: [2, 1], padding: uneven, pad_value: 1.0, ..plain },
            },
            Case {
                x: [1, 4, 4, 4],
                w: [3, 3, 2, 6],
                options: Conv2dOptions { padding: even, groups: 2, ..plain },
            },
            // By tiles, the last row of which is half outside: the gradients, then the output, too.
            Case { x: [1, 3, 4, 32], w: [3, 3, 32, 32], options: Conv2dOptions { padding: even, ..plain } },
            Case {
                x: [1, 3, 4, 32],
                w: [3, 3, 32, 32],
                options: Conv2dOptions { padding: even, algorithm: Algorithm::Winograd, ..plain },
            },
            Case {
                x: [2, 4, 4, 3],
                w: [3, 3, 1, 3],
                options: Conv2dOptions { stride: [2, 2], padding: even, groups: 3, ..plain },
            },
        ]
    }

    /// The formula once more, element by element.
    fn plain(x: &Tensor<f64>, w: &Tensor<f64>, bias: &Tensor<f64>, o: &Conv2dOptions) -> Vec<f64> {
        let (xs, ws) = (x.shape(), w.shape());
        let (x, w) = (x.view(), w.view());
        let size = |axis: usize, before: usize, after: usize| {
            (xs[axis] + before + after - ws[axis - 1]) / o.stride[axis - 1] + 1
        };
        let height = size(1, o.padding.top, o.padding.bottom);
        let width = size(2, o.padding.left, o.padding.right);
        let mut y = Vec::new();
        for (n, i, j, out) in ndarray::indices((xs[0], height, width, ws[3])) {
            let mut sum = bias.as_slice()[out];
            for (a, b, c) in ndarray::indices((ws[0], ws[1], ws[2])) {
                let row = (i * o.stride[0] + a).wrapping_sub(o.padding.top);
                let column = (j * o.stride[1] + b).wrapping_sub(o.padding.left);
                let channel = out / (ws[3] / o.groups) * ws[2] + c;
                let inside = row < xs[1] && column < xs[2];
                sum += w[[a, b, c, out]] * if inside { x[[n, row, column, channel]] } else { o.pad_value };
            }
            y.push(sum);
        }
        y
    }

    #[test]
    fn values_agree_with_the_formula() {
        for Case { x, w, options } in cases() {
            let (x, b, w) = (numbers(&x, 0.7), numbers(&w[3..], 1.1), numbers(&w, 0.9));
            let tape = Tape::new();
            let [vx, vw, vb] = [&x, &w, &b].map(|value| tape.constant(value.clone()));
            let y = vx.conv2d(vw, Some(vb), &options).value();
            for (y, expected) in y.as_slice().iter().zip(plain(&x, &w, &b, &options)) {
                assert!((y - expected).abs() < 1e-12, "{y} {expected} {options:?}");
            }
        }
    }

    #[test]
    fn gradients_agree_with_differences() {
        for Case { x, w, options } in cases() {
            let (x, b, w) = (numbers(&x, 0.7), numbers(&w[3..], 1.1), numbers(&w, 0.9));
            let inputs = [x.clone(), w.clone(), b];
            gradcheck(inputs, |[x, w, b]| x.conv2d(w, Some(b), &options)).unwrap();
            gradcheck([x, w], |[x, w]| x.conv2d(w, None, &options)).unwrap();
        }
    }

    /// Codes of a value; their gradient is by convention the value's.
    fn codes<'t>(value: Var<'t, f64>, factors: Vec<f64>) -> Var<'t, f64> {
        let mut codes = value.value();
        let rows = codes.as_mut_slice().chunks_mut(factors.len());
        rows.for_each(|row| row.iter_mut().zip(&factors).for_each(|(x, factor)| *x /= factor));
        value.tape().record("codes", [value], codes, |dy, _| [Some(dy.clone())])
    }

    #[test]
    fn factored_gradients_are_those_of_the_values() {
        for Case { x, w, options } in cases() {
            let kernel = (0..w[3]).map(|o| 0.4 + 0.3 * o as f64).collect();
            for kernel in [vec![0.7], kernel] {
                let factors = Factors { x: 0.3, w: kernel };
                let inputs = [numbers(&x, 0.7), numbers(&w, 0.9), numbers(&w[3..], 1.1)];
                gradcheck(inputs, |[x, w, b]| {
                    let (x, w) = (codes(x, vec![factors.x]), codes(w, factors.w.clone()));
                    conv2d_factored(x, w, Some(b), &factors, &options)
                })
                .unwrap();
            }
        }
    }

    #[test]
    fn a_factored_product_of_integers_is_scaled_once() {
        let tape = Tape::<f32>::new();
        let x = tape.constant(Tensor::from_fn(&[1, 2, 2, 3], |i| i as f32 - 5.0));
        let w = tape.constant(Tensor::from_fn(&[2, 2, 3, 2], |i| if i % 3 == 0 { 1.0 } else { -1.0 }));
        let bias = tape.constant(Tensor::from_fn(&[2], |i| 0.1 + i as f32));
        let factors = Factors { x: 0.1, w: vec![0.3, 0.7] };
        let options = Conv2dOptions::default();
        let sums = x.conv2d(w, None, &options).value();
        let y = conv2d_factored(x, w, Some(bias), &factors, &options).value();
        for o in 0..2 {
            let scale = factors.x * factors.w[o];
            assert_eq!(y.as_slice()[o], sums.as_slice()[o] * scale + (0.1 + o as f32));
        }
    }

    #[test]
    fn the_bits_do_not_depend_on_the_number_of_threads() {
        let run = || {
            let tape = Tape::<f32>::new();
            let x = tape.leaf(numbers(&[5, 12, 12, 16], 0.37).cast());
            let w = tape.leaf(numbers(&[3, 3, 16, 24], 0.91).cast());
            let b = tape.leaf(numbers(&[24], 0.5).cast());
            let padding = Padding::same([12, 12], [3, 3], [1, 1]);
            let y = x.conv2d(w, Some(b), &Conv2dOptions { padding, ..Conv2dOptions::default() });
            let mut gradients = tape.backward((y * y).sum());
            [x, w, b].map(|leaf| gradients.take(leaf).unwrap())
        };
        assert_eq!(crate::ops::tests::with_threads(1, run), crate::ops::tests::with_threads(3, run));
    }

    #[test]
    fn an_empty_batch_is_legal() {
        let tape = Tape::<f32>::new();
        let x = tape.leaf(Tensor::zeros(&[0, 4, 4, 3]));
        let w = tape.leaf(Tensor::full(&[3, 3, 3, 2], 1.0));
        let y = x.conv2d(w, None, &Conv2dOptions::default());
        assert_eq!(y.shape(), [0, 2, 2, 2]);
        let gradients = tape.backward(y.sum());
        assert_eq!(gradients.of(x), Some(&Tensor::zeros(&[0, 4, 4, 3])));
        assert_eq!(gradients.of(w), Some(&Tensor::zeros(&[3, 3, 3, 2])));
    }

    #[test]
    #[should_panic(expected = "conv2d: expected a kernel of 3 / 1 input channels")]
    fn a_kernel_of_other_channels_panics() {
        let tape = Tape::<f32>::new();
        let x = tape.constant(Tensor::zeros(&[1, 4, 4, 3]));
        let _ = x.conv2d(tape.constant(Tensor::zeros(&[3, 3, 2, 4])), None, &Conv2dOptions::default());
    }

    #[test]
    #[should_panic(expected = "conv2d: expected a bias of shape [4]")]
    fn a_bias_of_other_channels_panics() {
        let tape = Tape::<f32>::new();
        let x = tape.constant(Tensor::zeros(&[1, 4, 4, 3]));
        let w = tape.constant(Tensor::zeros(&[3, 3, 3, 4]));
        let _ = x.conv2d(w, Some(tape.constant(Tensor::zeros(&[3]))), &Conv2dOptions::default());
    }
}
