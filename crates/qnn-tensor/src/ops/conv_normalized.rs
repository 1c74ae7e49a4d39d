use qnn_kernels::{Conv2dShape, Visitor, vectorized};

use super::batch_norm::{Map, check_parameters, normalized, tiled};
use super::conv::{Conv2dOptions, Convolution};
use super::factors::Factors;
use super::gate::{Gate, GateFn, Open, Rectifier, Signum};
use crate::{Scalar, Tensor, Var};

/// What [`conv2d_normalized`] does to each output of its convolution.
///
/// ```text
/// y = gate((conv − mean) · s + beta + shortcut)
/// ```
#[derive(Clone, Copy, Debug)]
pub struct ConvEnd<'a, 't, T: Scalar = f32> {
    /// What is subtracted from each channel.
    pub mean: &'a Tensor<T>,
    /// The factor of each channel.
    pub s: &'a Tensor<T>,
    /// The offset of each channel.
    pub beta: &'a Tensor<T>,
    /// A summand of the output's shape.
    pub shortcut: Option<Var<'t, T>>,
    /// The function of the sum.
    pub gate: Gate<T>,
}

/// A convolution, batch norm by given statistics, sum and gate in one operation, for evaluation: the
/// output is normalised while it is in the cache. The bits of
/// [`conv2d_factored`](super::conv2d_factored), [`affine`](super::affine), sum and gate one after the
/// other. The value is a constant of the tape.
///
/// # Panics
///
/// As [`conv2d_factored`](super::conv2d_factored); if parameters or shortcut do not have the output's shape; if an input
/// depends on a leaf, because no gradient would reach it.
#[track_caller]
pub fn conv2d_normalized<'t, T: Scalar>(
    x: Var<'t, T>,
    w: Var<'t, T>,
    bias: Option<Var<'t, T>>,
    factors: &Factors<T>,
    options: &Conv2dOptions,
    end: &ConvEnd<'_, 't, T>,
) -> Var<'t, T> {
    for input in [Some(x), Some(w), bias, end.shortcut].into_iter().flatten() {
        assert!(!input.needs_gradient(), "conv2d_normalized: an input needs a gradient");
    }
    let convolution = Convolution::new([x, w], bias, factors, options);
    let y = match end.gate {
        Gate::Identity => normalized_product(&convolution, end, Open),
        Gate::Relu => normalized_product(&convolution, end, Rectifier),
        Gate::Sign { clip } => normalized_product(&convolution, end, Signum { clip }),
    };
    x.tape().constant(y)
}

#[track_caller]
fn normalized_product<T: Scalar>(
    convolution: &Convolution<T>,
    end: &ConvEnd<'_, '_, T>,
    gate: impl GateFn<T>,
) -> Tensor<T> {
    let Conv2dShape { out_channels, .. } = convolution.shape;
    let shape = convolution.output_shape();
    let image_len: usize = shape[1..].iter().product();
    check_parameters(out_channels, [end.mean, end.s, end.beta]);
    let [mean, s, beta] = [end.mean, end.s, end.beta].map(Tensor::clone);
    let map = Map { mean, s, beta };
    let parameters = map.parameters().map(tiled);
    let parameters = parameters.each_ref().map(Vec::as_slice);
    let shortcut = end.shortcut.map(Var::value);
    if let Some(shortcut) = &shortcut {
        assert_eq!(shortcut.shape(), shape, "conv2d_normalized: a sum needs equal shapes");
    }
    let visit = |first: usize, y: &mut [T]| match &shortcut {
        None => vectorized(
            #[inline(always)]
            || normalize(y, parameters, gate),
        ),
        Some(shortcut) => {
            let addends = &shortcut.as_slice()[first * image_len..][..y.len()];
            vectorized(
                #[inline(always)]
                || normalize_and_add(y, addends, parameters, gate),
            );
        }
    };
    let beside = shortcut.as_ref().map_or(&[][..], Tensor::as_slice);
    convolution.product(Some(Visitor { together: 1, visit: &visit, beside }))
}

/// Replaces rows of values by what the gate gives for them. Parameters are [tiled].
#[inline(always)]
fn normalize<T: Scalar>(y: &mut [T], [mean, s, beta]: [&[T]; 3], gate: impl GateFn<T>) {
    for y in y.chunks_mut(mean.len()) {
        for (y, ((&mean, &s), &beta)) in y.iter_mut().zip(mean.iter().zip(s).zip(beta)) {
            *y = gate.value(normalized(*y, mean, s, beta));
        }
    }
}

/// [`normalize`] with a summand in front of the gate.
#[inline(always)]
fn normalize_and_add<T: Scalar>(
    y: &mut [T],
    addends: &[T],
    [mean, s, beta]: [&[T]; 3],
    gate: impl GateFn<T>,
) {
    for (y, addends) in y.chunks_mut(mean.len()).zip(addends.chunks(mean.len())) {
        let parameters = mean.iter().zip(s).zip(beta);
        for ((y, &addend), ((&mean, &s), &beta)) in y.iter_mut().zip(addends).zip(parameters) {
            *y = gate.value(normalized(*y, mean, s, beta) + addend);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::Tape;
    use crate::ops::gate::tests::gated;
    use crate::ops::tests::with_threads;
    use crate::ops::{batch_norm_eval, batch_norm_scale, conv2d_factored};
    use qnn_kernels::{Algorithm, Padding};

    fn numbers(shape: &[usize], frequency: f32) -> Tensor {
        Tensor::from_fn(shape, |i| (i as f32 * frequency + 0.3).sin())
    }

    struct Case {
        x: [usize; 4],
        w: [usize; 4],
        stride: usize,
        /// Whether all operands are ±1, so that the product counts bits.
        signs: bool,
        algorithm: Algorithm,
    }

    fn cases() -> [Case; 7] {
        let case = |x, w, stride| Case { x, w, stride, signs: false, algorithm: Algorithm::Direct };
        [
            case([9, 32, 32, 16], [3, 3, 16, 16], 1),
            case([20, 9, 7, 5], [3, 3, 5, 7], 2),
            case([3, 8, 8, 64], [3, 3, 64, 64], 1),
            case([4, 6, 6, 20], [1, 1, 20, 130], 1),
            case([0, 4, 4, 3], [3, 3, 3, 16], 1),
            Case { algorithm: Algorithm::Winograd, ..case([9, 7, 8, 32], [3, 3, 32, 48], 1) },
            Case { signs: true, ..case([8, 16, 16, 64], [3, 3, 64, 64], 1) },
        ]
    }

    fn run(case: &Case, gate: Gate, adds: bool, fused: bool) -> Tensor {
        let Case { x, w, stride, signs, algorithm } = case;
        let (tape, channels) = (Tape::new(), &w[3..]);
        let operand = |shape, f| {
            let values = numbers(shape, f);
            tape.constant(if *signs { values.map(f32::signum) } else { values })
        };
        let padding = Padding::same([x[1], x[2]], [w[0], w[1]], [*stride; 2]);
        let pad_value = if *signs { 1.0 } else { 0.0 };
        let (stride, algorithm) = ([*stride; 2], *algorithm);
        let options = Conv2dOptions { stride, padding, pad_value, algorithm, groups: 1 };
        let [x, w] = [(&x[..], 0.37), (&w[..], 0.71)].map(|(shape, f)| operand(shape, f));
        let bias = Some(tape.constant(numbers(channels, 0.9)));
        let factors = Factors { x: 0.5, w: vec![0.3] };
        let [mean, beta, gamma] = [0.4, 1.3, 0.6].map(|f| numbers(channels, f));
        let variance = numbers(channels, 0.2).map(|v| v * v + 0.1);
        let plain = conv2d_factored(x, w, bias, &factors, &options);
        let shortcut = adds.then(|| tape.constant(numbers(&plain.shape(), 0.19)));
        if fused {
            let s = batch_norm_scale(&gamma, &variance, 1e-3);
            let end = ConvEnd { mean: &mean, s: &s, beta: &beta, shortcut, gate };
            return conv2d_normalized(x, w, bias, &factors, &options, &end).value();
        }
        let [gamma, beta] = [gamma, beta].map(|value| tape.constant(value));
        let y = batch_norm_eval(plain, gamma, beta, &mean, &variance, 1e-3);
        gated(shortcut.map_or(y, |shortcut| y + shortcut), gate).value()
    }

    #[test]
    fn one_operation_is_four_bit_for_bit_on_any_number_of_threads() {
        for case in cases() {
            for gate in [Gate::Identity, Gate::Relu, Gate::Sign { clip: 0.75 }] {
                for adds in [false, true] {
                    let expected = run(&case, gate, adds, false);
                    assert_eq!(run(&case, gate, adds, true), expected, "{:?} {gate:?} {adds}", case.x);
                    for threads in [1, 3] {
                        assert_eq!(with_threads(threads, || run(&case, gate, adds, true)), expected);
                    }
                }
            }
        }
    }

    #[test]
    #[should_panic(expected = "an input needs a gradient")]
    fn an_input_with_a_gradient_panics() {
        let tape = Tape::<f32>::new();
        let (x, w) = (tape.leaf(Tensor::zeros(&[1, 4, 4, 3])), tape.constant(Tensor::zeros(&[3, 3, 3, 2])));
        let one = Tensor::full(&[2], 1.0);
        let end = ConvEnd { mean: &one, s: &one, beta: &one, shortcut: None, gate: Gate::Relu };
        conv2d_normalized(x, w, None, &Factors::unit(), &Conv2dOptions::default(), &end);
    }
}
