use super::channels::{rounded, sums};
use super::gate::{Gate, GateFn, Open, Rectifier, Signum};
use super::moments::Moments;
use crate::gradient::{Deferred, Gradient};
use crate::parallel::{for_each_chunk_of, whole_rows};
use crate::{Scalar, Tensor, Var};

/// Batch normalisation by the statistics of the batch, over all axes but the last.
///
/// ```text
/// y = (x − mean) · s + beta        s = gamma / √(variance + epsilon)
/// ```
///
/// Mean and biased variance are those of `x`, and gradients flow through both. Shapes:
/// `[.., channels]`, with gamma and beta of `[channels]`. Returns the value and the statistics, for
/// running averages. Source: Ioffe & Szegedy 2015, arXiv:1502.03167, algorithm 1.
///
/// ```
/// use qnn_tensor::{Tape, Tensor, ops::batch_norm_train};
///
/// let tape = Tape::<f32>::new();
/// let x = tape.leaf(Tensor::from_vec(&[2, 1], vec![1.0, 5.0])?);
/// let (gamma, beta) = (tape.leaf(Tensor::full(&[1], 3.0)), tape.leaf(Tensor::zeros(&[1])));
/// let (y, moments) = batch_norm_train(x, gamma, beta, 0.0);
/// assert_eq!(y.value().as_slice(), [-3.0, 3.0]);
/// assert_eq!((moments.mean.item(), moments.variance.item(), moments.count), (3.0, 4.0, 2));
/// # Ok::<(), qnn_tensor::ShapeError>(())
/// ```
///
/// # Panics
///
/// If the shapes do not fit or `x` has no elements.
#[track_caller]
pub fn batch_norm_train<'t, T: Scalar>(
    x: Var<'t, T>,
    gamma: Var<'t, T>,
    beta: Var<'t, T>,
    epsilon: f64,
) -> (Var<'t, T>, Moments<T>) {
    train(x, gamma, beta, epsilon, Open)
}

/// [`batch_norm_train`] and a function of each element, in the passes over memory that batch
/// normalisation makes anyway: the same bits as of two operations, forward and backward.
///
/// # Panics
///
/// As [`batch_norm_train`].
#[track_caller]
pub fn batch_norm_gated_train<'t, T: Scalar>(
    x: Var<'t, T>,
    gamma: Var<'t, T>,
    beta: Var<'t, T>,
    epsilon: f64,
    gate: Gate<T>,
) -> (Var<'t, T>, Moments<T>) {
    match gate {
        Gate::Identity => train(x, gamma, beta, epsilon, Open),
        Gate::Relu => train(x, gamma, beta, epsilon, Rectifier),
        Gate::Sign { clip } => train(x, gamma, beta, epsilon, Signum { clip }),
    }
}

#[track_caller]
fn train<'t, T: Scalar, G: GateFn<T>>(
    x: Var<'t, T>,
    gamma: Var<'t, T>,
    beta: Var<'t, T>,
    epsilon: f64,
    gate: G,
) -> (Var<'t, T>, Moments<T>) {
    let input = x.value();
    let (map, inverse, moments) = Map::of_batch(x, gamma, beta, epsilon);
    let y = map.apply(&input, gate);
    let y = x.tape().record_gradients("batch_norm", [x, gamma, beta], y, move |dy, received| {
        let [dx, dgamma, dbeta] = received.wanted;
        let dy = dy.into_tensor();
        let sums = map.gradient_sums(&input, &dy, gate);
        let parameters =
            [dgamma.then(|| gamma_gradient(&sums[1], &inverse)), dbeta.then(|| rounded(&sums[0]))];
        let dx = dx.then(|| map.input_gradient(input, dy, gate, &inverse, &sums));
        let [dgamma, dbeta] = parameters.map(|part| part.map(Gradient::Value));
        [dx.map(Gradient::Deferred), dgamma, dbeta]
    });
    (y, moments)
}

/// Batch normalisation by given statistics, as after training: [`batch_norm_train`]'s formula, with
/// mean and variance constant.
///
/// # Panics
///
/// If the shapes do not fit.
#[track_caller]
pub fn batch_norm_eval<'t, T: Scalar>(
    x: Var<'t, T>,
    gamma: Var<'t, T>,
    beta: Var<'t, T>,
    mean: &Tensor<T>,
    variance: &Tensor<T>,
    epsilon: f64,
) -> Var<'t, T> {
    let (input, weights) = (x.value(), gamma.value());
    check_parameters(channels_of(&input), [&weights, &beta.value(), mean, variance]);
    let inverse = inverse_deviation(variance, epsilon);
    let map = Map { mean: mean.clone(), s: scale(&weights, &inverse), beta: beta.value() };
    let y = map.apply(&input, Open);
    x.tape().record("batch_norm", [x, gamma, beta], y, move |dy, [dx, dgamma, dbeta]| {
        let zeros = Tensor::zeros(map.s.shape());
        let dx = dx.then(|| affine(dy, &zeros, &map.s, &zeros));
        if !(dgamma || dbeta) {
            return [dx, None, None];
        }
        let [dy_sum, centered] = map.gradient_sums(&input, dy, Open);
        [dx, dgamma.then(|| gamma_gradient(&centered, &inverse)), dbeta.then(|| rounded(&dy_sum))]
    })
}

/// What batch normalisation does to each element, in training and after it.
///
/// ```text
/// y = (x − mean) · s + beta
/// ```
///
/// The three operations are rounded separately, so that any other code that does the same obtains
/// the same bits. Shapes: `[.., channels]`, with parameters of `[channels]`.
///
/// # Panics
///
/// If the shapes do not fit.
#[track_caller]
pub fn affine<T: Scalar>(x: &Tensor<T>, mean: &Tensor<T>, s: &Tensor<T>, beta: &Tensor<T>) -> Tensor<T> {
    check_parameters(channels_of(x), [mean, s, beta]);
    let [mean, s, beta] = [mean, s, beta].map(Tensor::clone);
    Map { mean, s, beta }.apply(x, Open)
}

/// The factor of each channel, `gamma / √(variance + epsilon)`, computed in f64 and rounded once.
///
/// # Panics
///
/// If the shapes differ.
#[track_caller]
pub fn batch_norm_scale<T: Scalar>(gamma: &Tensor<T>, variance: &Tensor<T>, epsilon: f64) -> Tensor<T> {
    check_parameters(gamma.len(), [gamma, variance]);
    scale(gamma, &inverse_deviation(variance, epsilon))
}

/// The map of each element with its parameters, one per channel.
pub(super) struct Map<T: Scalar> {
    pub(super) mean: Tensor<T>,
    pub(super) s: Tensor<T>,
    pub(super) beta: Tensor<T>,
}

impl<T: Scalar> Map<T> {
    /// The map by the statistics of a batch, with `1 / √(variance + epsilon)`.
    #[track_caller]
    pub(super) fn of_batch(
        x: Var<'_, T>,
        gamma: Var<'_, T>,
        beta: Var<'_, T>,
        epsilon: f64,
    ) -> (Self, Vec<f64>, Moments<T>) {
        let (input, weights) = (x.value(), gamma.value());
        check_parameters(channels_of(&input), [&weights, &beta.value()]);
        let moments = x.moments().unwrap_or_else(|| Moments::of(&input));
        let inverse = inverse_deviation(&moments.variance, epsilon);
        let map = Self { mean: moments.mean.clone(), s: scale(&weights, &inverse), beta: beta.value() };
        (map, inverse, moments)
    }

    /// The values behind a gate.
    pub(super) fn apply(&self, x: &Tensor<T>, gate: impl GateFn<T>) -> Tensor<T> {
        let [mean, s, beta] = self.parameters().map(tiled);
        let (x_all, width) = (x.as_slice(), mean.len());
        Tensor::build(x.shape(), |y| {
            for_each_chunk_of(
                whole_rows(width),
                y,
                #[inline(always)]
                |at, y| {
                    for (y, x) in y.chunks_mut(width).zip(x_all[at..].chunks(width)) {
                        let parameters = mean.iter().zip(&s).zip(&beta);
                        for ((y, &x), ((&mean, &s), &beta)) in y.iter_mut().zip(x).zip(parameters) {
                            *y = gate.value(normalized(x, mean, s, beta));
                        }
                    }
                },
            );
        })
    }

    /// Per channel the sums of `dy` and of `dy · (x − mean)`, as the gate hands `dy` on.
    pub(super) fn gradient_sums(&self, x: &Tensor<T>, dy: &Tensor<T>, gate: impl GateFn<T>) -> [Vec<f64>; 2] {
        let inputs = [x.as_slice(), dy.as_slice()];
        sums(self.mean.len(), inputs, self.parameters(), |[x, dy], [mean, s, beta]| {
            let dy = dy * gate.slope(normalized(x, mean, s, beta));
            [dy, dy * (x - mean)]
        })
    }

    /// The gradient of the input through the batch's statistics, with x̂ recomputed from x.
    ///
    /// ```text
    /// dx = s · (dy − mean(dy) − x̂ · mean(dy · x̂))
    ///    = s · dy − (offset + (x − mean) · slope)
    /// ```
    pub(super) fn input_gradient(
        &self,
        x: Tensor<T>,
        dy: Tensor<T>,
        gate: impl GateFn<T>,
        inverse: &[f64],
        [dy_sum, centered]: &[Vec<f64>; 2],
    ) -> Deferred<T> {
        let channels = self.mean.len();
        let count = (x.len() / channels) as f64;
        let per_row = |channel: usize| self.s.as_slice()[channel].as_f64() / count;
        let offset: Vec<T> = (0..channels).map(|c| T::of(per_row(c) * dy_sum[c])).collect();
        let slope: Vec<T> =
            (0..channels).map(|c| T::of(per_row(c) * centered[c] * inverse[c] * inverse[c])).collect();
        let own = self.parameters();
        let [mean, s, beta, offset, slope] = [own[0], own[1], own[2], &offset, &slope].map(tiled);
        let width = mean.len();
        let shape = x.shape().to_vec();
        Deferred::new(
            &shape,
            #[inline(always)]
            move |at, dx| {
                let (x, dy) = (&x.as_slice()[at..][..dx.len()], &dy.as_slice()[at..][..dx.len()]);
                for (dx, (x, dy)) in dx.chunks_mut(width).zip(x.chunks(width).zip(dy.chunks(width))) {
                    let parameters = mean.iter().zip(&s).zip(&beta).zip(offset.iter().zip(&slope));
                    let elements = dx.iter_mut().zip(x.iter().zip(dy)).zip(parameters);
                    for ((dx, (&x, &dy)), (((&mean, &s), &beta), (&offset, &slope))) in elements {
                        let dy = dy * gate.slope(normalized(x, mean, s, beta));
                        *dx = s * dy - (offset + (x - mean) * slope);
                    }
                }
            },
        )
    }

    pub(super) fn parameters(&self) -> [&[T]; 3] {
        [&self.mean, &self.s, &self.beta].map(Tensor::as_slice)
    }
}

/// The map of each element in batch normalisation, `(x − mean) · s + beta` with three roundings: what
/// [`affine`] and [`batch_norm_eval`] do with the parameters of the element's channel.
#[inline(always)]
pub fn normalized<T: Scalar>(x: T, mean: T, s: T, beta: T) -> T {
    (x - mean) * s + beta
}

/// `Σ dy · x̂`, of `Σ dy · (x − mean)`.
pub(super) fn gamma_gradient<T: Scalar>(centered: &[f64], inverse: &[f64]) -> Tensor<T> {
    Tensor::from_fn(&[inverse.len()], |channel| T::of(centered[channel] * inverse[channel]))
}

/// The parameters of a row repeated to some 128 elements, so that few channels make long loops too.
pub(super) fn tiled<T: Scalar>(parameters: &[T]) -> Vec<T> {
    const LENGTH: usize = 128;
    parameters.repeat(LENGTH.div_ceil(parameters.len().max(1)))
}

fn inverse_deviation<T: Scalar>(variance: &Tensor<T>, epsilon: f64) -> Vec<f64> {
    variance.as_slice().iter().map(|v| 1.0 / (v.as_f64() + epsilon).sqrt()).collect()
}

fn scale<T: Scalar>(gamma: &Tensor<T>, inverse: &[f64]) -> Tensor<T> {
    Tensor::from_fn(gamma.shape(), |c| T::of(gamma.as_slice()[c].as_f64() * inverse[c]))
}

#[track_caller]
pub(super) fn channels_of<T: Scalar>(x: &Tensor<T>) -> usize {
    match x.shape().last() {
        Some(&channels) if channels > 0 => channels,
        _ => panic!("batch_norm: expected values [.., channels], got {:?}", x.shape()),
    }
}

#[track_caller]
pub(super) fn check_parameters<T: Scalar, const N: usize>(channels: usize, parameters: [&Tensor<T>; N]) {
    for parameter in parameters {
        let shape = parameter.shape();
        assert_eq!(shape, [channels], "batch_norm: expected parameters of shape [{channels}]");
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ops::gate::tests::gated;
    use crate::ops::tests::with_threads;
    use crate::{Tape, gradcheck};

    fn numbers(shape: &[usize], frequency: f64) -> Tensor<f64> {
        Tensor::from_fn(shape, |i| (i as f64 * frequency + 0.3).sin() + 0.2)
    }

    #[test]
    fn gradients_through_the_statistics_agree_with_differences() {
        for shape in [&[7, 1][..], &[5, 3], &[2, 3, 2, 9], &[40, 2]] {
            let channels = &shape[shape.len() - 1..];
            let inputs = [numbers(shape, 0.7), numbers(channels, 0.9), numbers(channels, 1.3)];
            gradcheck(inputs, |[x, gamma, beta]| batch_norm_train(x, gamma, beta, 1e-3).0).unwrap();
        }
    }

    #[test]
    fn a_gated_batch_norm_is_batch_norm_and_its_gate_bit_for_bit() {
        for shape in [&[7, 1][..], &[2, 3, 2, 9], &[3000, 16]] {
            let channels = &shape[shape.len() - 1..];
            let run = |gate, fused: bool| {
                let tape = Tape::<f32>::new();
                let leaf = |shape: &[usize], f| tape.leaf(numbers(shape, f).cast::<f32>());
                let (x, gamma, beta) = (leaf(shape, 0.7), leaf(channels, 0.9), leaf(channels, 1.3));
                let y = if fused {
                    batch_norm_gated_train(x, gamma, beta, 1e-3, gate).0
                } else {
                    gated(batch_norm_train(x, gamma, beta, 1e-3).0, gate)
                };
                let value = y.value();
                let gradients = tape.backward_from(y, numbers(shape, 1.1).cast());
                let of = |leaf| gradients.of(leaf).unwrap().clone();
                [value, of(x), of(gamma), of(beta)]
            };
            for gate in [Gate::Identity, Gate::Relu, Gate::Sign { clip: 0.75 }] {
                assert_eq!(run(gate, true), run(gate, false), "{shape:?} {gate:?}");
            }
        }
    }

    #[test]
    fn gradients_with_given_statistics_agree_with_differences() {
        let (mean, variance) = (numbers(&[3], 0.4), numbers(&[3], 0.1));
        let inputs = [numbers(&[5, 3], 0.7), numbers(&[3], 0.9), numbers(&[3], 1.3)];
        gradcheck(inputs, |[x, gamma, beta]| batch_norm_eval(x, gamma, beta, &mean, &variance, 1e-3))
            .unwrap();
    }

    /// Mean and biased variance in the plainest f64.
    fn plain_moments(x: &Tensor<f32>, channels: usize, channel: usize) -> (f64, f64) {
        let values = x.as_slice().iter().skip(channel).step_by(channels);
        let values: Vec<f64> = values.map(|&x| f64::from(x)).collect();
        let count = values.len() as f64;
        let mean = values.iter().sum::<f64>() / count;
        (mean, values.iter().map(|x| (x - mean) * (x - mean)).sum::<f64>() / count)
    }

    #[test]
    fn moments_keep_their_digits_far_from_zero() {
        for (rows, channels) in [(1, 4), (33, 3), (9000, 16), (3000, 20)] {
            for offset in [0.0, 1000.0] {
                let x = numbers(&[rows, channels], 0.37).map(|x| x + offset).cast::<f32>();
                let moments = Moments::of(&x);
                assert_eq!(moments.count, rows);
                for channel in 0..channels {
                    let (mean, variance) = plain_moments(&x, channels, channel);
                    let (m, v) = (moments.mean.as_slice(), moments.variance.as_slice());
                    assert!((f64::from(m[channel]) - mean).abs() < 1e-7 * mean.abs().max(1.0));
                    assert!((f64::from(v[channel]) - variance).abs() < 2e-6 * variance + 1e-12);
                }
            }
        }
    }

    #[test]
    fn a_step_between_chunks_does_not_disturb_the_variance() {
        let x = Tensor::<f32>::from_fn(&[40_000, 1], |i| if i < 20_000 { 1e4 } else { 1e4 + 1.0 });
        let moments = Moments::of(&x);
        assert_eq!((moments.mean.item(), moments.variance.item()), (1e4 + 0.5, 0.25));
    }

    #[test]
    fn a_nan_stays_in_its_channel() {
        let mut x = numbers(&[6, 3], 0.7);
        x.as_mut_slice()[4] = f64::NAN;
        let tape = Tape::new();
        let [gamma, beta] = [1.0, 0.0].map(|value| tape.leaf(Tensor::full(&[3], value)));
        let (y, moments) = batch_norm_train(tape.leaf(x), gamma, beta, 1e-5);
        let is_nan: Vec<bool> = moments.variance.as_slice().iter().map(|v| v.is_nan()).collect();
        assert_eq!(is_nan, [false, true, false]);
        for (i, y) in y.value().as_slice().iter().enumerate() {
            assert_eq!(y.is_nan(), i % 3 == 1);
        }
    }

    #[test]
    fn training_and_evaluation_agree_to_the_bit_on_the_same_statistics() {
        let tape = Tape::<f32>::new();
        let x = tape.constant(numbers(&[50, 5], 0.7).cast());
        let gamma = tape.constant(numbers(&[5], 0.9).cast());
        let beta = tape.constant(numbers(&[5], 1.3).cast());
        let (train, moments) = batch_norm_train(x, gamma, beta, 1e-5);
        let eval = batch_norm_eval(x, gamma, beta, &moments.mean, &moments.variance, 1e-5);
        assert_eq!(train.value(), eval.value());
        let s = batch_norm_scale(&gamma.value(), &moments.variance, 1e-5);
        for (i, (&y, &x)) in eval.value().as_slice().iter().zip(x.value().as_slice()).enumerate() {
            let at = |tensor: &Tensor| tensor.as_slice()[i % 5];
            assert_eq!(y, (x - at(&moments.mean)) * at(&s) + at(&beta.value()));
        }
    }

    #[test]
    fn the_bits_do_not_depend_on_the_number_of_threads() {
        let run = || {
            let tape = Tape::<f32>::new();
            let x = tape.leaf(numbers(&[3001, 20], 0.37).cast());
            let gamma = tape.leaf(numbers(&[20], 0.9).cast());
            let beta = tape.leaf(numbers(&[20], 1.3).cast());
            let (y, moments) = batch_norm_train(x, gamma, beta, 1e-5);
            let value = y.value();
            let mut gradients = tape.backward((y * y * y).sum());
            (value, moments, [x, gamma, beta].map(|leaf| gradients.take(leaf).unwrap()))
        };
        assert_eq!(with_threads(1, run), with_threads(3, run));
    }

    #[test]
    fn a_constant_channel_becomes_beta() {
        let tape = Tape::<f32>::new();
        let x = tape.leaf(Tensor::full(&[100, 2], 0.1));
        let (gamma, beta) = (tape.leaf(Tensor::full(&[2], 2.0)), tape.leaf(Tensor::full(&[2], 0.7)));
        let (y, moments) = batch_norm_train(x, gamma, beta, 1e-5);
        assert_eq!(moments.variance, Tensor::zeros(&[2]));
        assert_eq!(y.value(), Tensor::full(&[100, 2], 0.7));
    }

    #[test]
    #[should_panic(expected = "batch_norm: expected parameters of shape [3]")]
    fn parameters_of_other_channels_panic() {
        let x = Tensor::<f32>::zeros(&[2, 3]);
        let three = Tensor::zeros(&[3]);
        affine(&x, &three, &Tensor::zeros(&[2]), &three);
    }

    #[test]
    #[should_panic(expected = "has no mean")]
    fn an_empty_batch_panics() {
        let tape = Tape::<f32>::new();
        let x = tape.leaf(Tensor::zeros(&[0, 3]));
        let one = tape.leaf(Tensor::full(&[3], 1.0));
        batch_norm_train(x, one, one, 1e-5);
    }
}
