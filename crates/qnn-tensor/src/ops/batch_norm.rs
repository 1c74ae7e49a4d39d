use super::activation::{relu, relu_slope};
use super::channels::{chunk_sums, map_chunks, rounded, sums};
use crate::parallel::{for_each_chunk_of, whole_rows};
use crate::{Scalar, Tensor, Var};

/// The statistics of a batch, channel by channel.
#[derive(Clone, Debug, PartialEq)]
pub struct Moments<T: Scalar = f32> {
    /// The mean.
    pub mean: Tensor<T>,
    /// The biased variance: the mean squared distance from the mean.
    pub variance: Tensor<T>,
    /// How many values of a channel were averaged.
    pub count: usize,
}

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
    train::<T, false>(x, gamma, beta, epsilon)
}

/// `relu(batch_norm_train(x))` in the passes over memory that batch normalisation makes anyway: the
/// same bits, forward and backward.
///
/// # Panics
///
/// As [`batch_norm_train`].
#[track_caller]
pub fn batch_norm_relu_train<'t, T: Scalar>(
    x: Var<'t, T>,
    gamma: Var<'t, T>,
    beta: Var<'t, T>,
    epsilon: f64,
) -> (Var<'t, T>, Moments<T>) {
    train::<T, true>(x, gamma, beta, epsilon)
}

#[track_caller]
fn train<'t, T: Scalar, const RELU: bool>(
    x: Var<'t, T>,
    gamma: Var<'t, T>,
    beta: Var<'t, T>,
    epsilon: f64,
) -> (Var<'t, T>, Moments<T>) {
    let (input, weights) = (x.value(), gamma.value());
    let channels = channels_of(&input);
    check_parameters(channels, [&weights, &beta.value()]);
    assert!(!input.is_empty(), "batch_norm: a batch of shape {:?} has no mean", input.shape());
    let moments = Moments::of(&input, channels);
    let inverse = inverse_deviation(&moments.variance, epsilon);
    let map = Map { mean: moments.mean.clone(), s: scale(&weights, &inverse), beta: beta.value() };
    let y = map.apply::<RELU>(&input);
    let op = if RELU { "batch_norm_relu" } else { "batch_norm" };
    let y = x.tape().record(op, [x, gamma, beta], y, move |dy, [dx, dgamma, dbeta]| {
        let sums = map.gradient_sums::<RELU>(&input, dy);
        let dx = dx.then(|| map.input_gradient::<RELU>(&input, dy, &inverse, &sums));
        let [dy_sum, centered] = sums;
        [dx, dgamma.then(|| gamma_gradient(&centered, &inverse)), dbeta.then(|| rounded(&dy_sum))]
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
    let y = map.apply::<false>(&input);
    x.tape().record("batch_norm", [x, gamma, beta], y, move |dy, [dx, dgamma, dbeta]| {
        let zeros = Tensor::zeros(map.s.shape());
        let dx = dx.then(|| affine(dy, &zeros, &map.s, &zeros));
        if !(dgamma || dbeta) {
            return [dx, None, None];
        }
        let [dy_sum, centered] = map.gradient_sums::<false>(&input, dy);
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
    Map { mean, s, beta }.apply::<false>(x)
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

impl<T: Scalar> Moments<T> {
    /// Two passes over each chunk of rows while it is in the cache (its mean, then the squares of
    /// the distances from that mean), and Chan's formula to join the chunks: no digits are lost
    /// however far the mean lies from zero.
    pub(super) fn of(x: &Tensor<T>, channels: usize) -> Self {
        let parts = map_chunks(channels, [x.as_slice()], |[x]| Part::of(x, channels));
        let whole = parts.into_iter().reduce(Part::join).expect("map_chunks makes a chunk at least");
        let variance: Vec<f64> = whole.squares.iter().map(|sum| sum / whole.count).collect();
        let count = x.len() / channels;
        Self { mean: rounded(&whole.mean), variance: rounded(&variance), count }
    }
}

/// The statistics of some rows: per channel the mean and the sum of squared distances from it.
struct Part {
    count: f64,
    mean: Vec<f64>,
    squares: Vec<f64>,
}

impl Part {
    fn of<T: Scalar>(x: &[T], channels: usize) -> Self {
        let count = (x.len() / channels) as f64;
        let [sum] = chunk_sums(channels, [x], [], |[x], []| [x]);
        let shift: Vec<T> = sum.iter().map(|sum| T::of(sum / count)).collect();
        let [rest, squares] = chunk_sums(channels, [x], [&shift], |[x], [shift]| {
            let d = x - shift;
            [d, d * d]
        });
        // `shift` is the mean up to rounding: what is left of it is taken from both results.
        let mean = shift.iter().zip(&rest).map(|(shift, rest)| shift.as_f64() + rest / count);
        let corrected = squares.iter().zip(&rest).map(|(sum, rest)| sum - rest * rest / count);
        // f64::max would turn the NaN of a diverged channel into a variance of zero.
        let squares = corrected.map(|sum| if sum < 0.0 { 0.0 } else { sum }).collect();
        Self { count, mean: mean.collect(), squares }
    }

    fn join(mut self, other: Self) -> Self {
        let count = self.count + other.count;
        for channel in 0..self.mean.len() {
            let delta = other.mean[channel] - self.mean[channel];
            self.mean[channel] += delta * other.count / count;
            self.squares[channel] +=
                other.squares[channel] + delta * delta * self.count * other.count / count;
        }
        Self { count, ..self }
    }
}

/// The map of each element with its parameters, one per channel.
pub(super) struct Map<T: Scalar> {
    pub(super) mean: Tensor<T>,
    pub(super) s: Tensor<T>,
    pub(super) beta: Tensor<T>,
}

impl<T: Scalar> Map<T> {
    /// The values, rectified if `RELU`.
    pub(super) fn apply<const RELU: bool>(&self, x: &Tensor<T>) -> Tensor<T> {
        let [mean, s, beta] = [&self.mean, &self.s, &self.beta].map(|values| tiled(values.as_slice()));
        let (x_all, width) = (x.as_slice(), mean.len());
        Tensor::build(x.shape(), |y| {
            for_each_chunk_of(whole_rows(width), y, |at, y| {
                for (y, x) in y.chunks_mut(width).zip(x_all[at..].chunks(width)) {
                    let parameters = mean.iter().zip(&s).zip(&beta);
                    for ((y, &x), ((&mean, &s), &beta)) in y.iter_mut().zip(x).zip(parameters) {
                        let value = normalized(x, mean, s, beta);
                        *y = if RELU { relu(value) } else { value };
                    }
                }
            });
        })
    }

    /// Per channel the sums of `dy` and of `dy · (x − mean)`, where the ReLU lets `dy` through.
    pub(super) fn gradient_sums<const RELU: bool>(&self, x: &Tensor<T>, dy: &Tensor<T>) -> [Vec<f64>; 2] {
        let inputs = [x.as_slice(), dy.as_slice()];
        let parameters = [&self.mean, &self.s, &self.beta].map(Tensor::as_slice);
        sums(self.mean.len(), inputs, parameters, |[x, dy], [mean, s, beta]| {
            let dy = if RELU { dy * relu_slope(normalized(x, mean, s, beta)) } else { dy };
            [dy, dy * (x - mean)]
        })
    }

    /// The gradient of the input through the batch's statistics, with x̂ recomputed from x.
    ///
    /// ```text
    /// dx = s · (dy − mean(dy) − x̂ · mean(dy · x̂))
    ///    = s · dy − (offset + (x − mean) · slope)
    /// ```
    fn input_gradient<const RELU: bool>(
        &self,
        x: &Tensor<T>,
        dy: &Tensor<T>,
        inverse: &[f64],
        [dy_sum, centered]: &[Vec<f64>; 2],
    ) -> Tensor<T> {
        let channels = self.mean.len();
        let count = (x.len() / channels) as f64;
        let per_row = |channel: usize| self.s.as_slice()[channel].as_f64() / count;
        let offset: Vec<T> = (0..channels).map(|c| T::of(per_row(c) * dy_sum[c])).collect();
        let slope: Vec<T> =
            (0..channels).map(|c| T::of(per_row(c) * centered[c] * inverse[c] * inverse[c])).collect();
        let own = [&self.mean, &self.s, &self.beta].map(Tensor::as_slice);
        let [mean, s, beta, offset, slope] = [own[0], own[1], own[2], &offset, &slope].map(tiled);
        let (x_all, dy_all, width) = (x.as_slice(), dy.as_slice(), mean.len());
        Tensor::build(x.shape(), |dx| {
            for_each_chunk_of(whole_rows(width), dx, |at, dx| {
                let inputs = x_all[at..].chunks(width).zip(dy_all[at..].chunks(width));
                for (dx, (x, dy)) in dx.chunks_mut(width).zip(inputs) {
                    let parameters = mean.iter().zip(&s).zip(&beta).zip(offset.iter().zip(&slope));
                    let elements = dx.iter_mut().zip(x.iter().zip(dy)).zip(parameters);
                    for ((dx, (&x, &dy)), (((&mean, &s), &beta), (&offset, &slope))) in elements {
                        let dy = if RELU { dy * relu_slope(normalized(x, mean, s, beta)) } else { dy };
                        *dx = s * dy - (offset + (x - mean) * slope);
                    }
                }
            });
        })
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
    fn a_rectified_batch_norm_is_batch_norm_and_relu_bit_for_bit() {
        for shape in [&[7, 1][..], &[2, 3, 2, 9], &[3000, 16]] {
            let channels = &shape[shape.len() - 1..];
            let run = |fused: bool| {
                let tape = Tape::<f32>::new();
                let leaf = |shape: &[usize], f| tape.leaf(numbers(shape, f).cast::<f32>());
                let (x, gamma, beta) = (leaf(shape, 0.7), leaf(channels, 0.9), leaf(channels, 1.3));
                let y = if fused {
                    batch_norm_relu_train(x, gamma, beta, 1e-3).0
                } else {
                    batch_norm_train(x, gamma, beta, 1e-3).0.relu()
                };
                let value = y.value();
                let gradients = tape.backward_from(y, numbers(shape, 1.1).cast());
                let of = |leaf| gradients.of(leaf).unwrap().clone();
                [value, of(x), of(gamma), of(beta)]
            };
            assert_eq!(run(true), run(false), "{shape:?}");
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
                let moments = Moments::of(&x, channels);
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
        let moments = Moments::of(&x, 1);
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
