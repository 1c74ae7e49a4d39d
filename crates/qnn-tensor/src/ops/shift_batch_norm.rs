use super::batch_norm::{Map, affine, channels_of, check_parameters, gamma_gradient, tiled};
use super::channels::{rounded, sums};
use super::gate::Open;
use super::moments::Moments;
use crate::math::ap2;
use crate::parallel::{for_each_chunk_of, whole_rows};
use crate::{Scalar, Tensor, Var};

/// How shift-based batch normalisation scales a channel.
///
/// ```text
/// s = AP2(gamma) · AP2(1 / √(variance + epsilon))
/// ```
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct ShiftScale {
    /// What is added to the variance under the root.
    pub epsilon: f64,
    /// Whether the factor of the variance is rounded to a power of two; gamma always is.
    pub round_variance: bool,
}

/// Batch normalisation by shifts: products with powers of two in place of multiplications.
///
/// ```text
/// C        = x − mean
/// variance = mean of C · AP2(C)
/// y        = C · s + beta          s = AP2(gamma) · AP2(1 / √(variance + epsilon))
/// ```
///
/// [`AP2`](crate::math::ap2) rounds to a power of two, and its derivative is taken for 1, so that the
/// gradient of x through the variance is that of `mean of C · (C + constant)`. With `round_variance`
/// false the factor of the variance is exact. Shapes and results as in
/// [`batch_norm_train`](super::batch_norm_train); the variance is the one of this formula. Source:
/// Courbariaux et al. 2016, arXiv:1602.02830, algorithm 3.
///
/// # Panics
///
/// If the shapes do not fit or `x` has no elements.
#[track_caller]
pub fn shift_batch_norm_train<'t, T: Scalar>(
    x: Var<'t, T>,
    gamma: Var<'t, T>,
    beta: Var<'t, T>,
    scale: ShiftScale,
) -> (Var<'t, T>, Moments<T>) {
    let (input, weights) = (x.value(), gamma.value());
    let channels = channels_of(&input);
    check_parameters(channels, [&weights, &beta.value()]);
    let moments = x.moments().unwrap_or_else(|| Moments::of(&input));
    let [squares] = sums(channels, [input.as_slice()], [moments.mean.as_slice()], |[x], [mean]| {
        let c = x - mean;
        [c * power_of_two(c)]
    });
    let variance: Vec<f64> = squares.iter().map(|sum| sum / moments.count as f64).collect();
    let moments = Moments { variance: rounded(&variance), ..moments };
    let s = scale.of(&weights, &moments.variance);
    let map = Map { mean: moments.mean.clone(), s, beta: beta.value() };
    let y = map.apply(&input, Open);
    let inverse = scale.inverse(&moments.variance);
    let variance = moments.variance.clone();
    let y = x.tape().record("shift_batch_norm", [x, gamma, beta], y, move |dy, [dx, dgamma, dbeta]| {
        let sums = gradient_sums(&map, &input, dy);
        let dx = dx.then(|| input_gradient(&map, &input, dy, &scale.descent(&weights, &variance), &sums));
        let [dy_sum, centered, _] = sums;
        [dx, dgamma.then(|| gamma_gradient(&centered, &inverse)), dbeta.then(|| rounded(&dy_sum))]
    });
    (y, moments)
}

/// [`shift_batch_norm_train`]'s formula with mean and variance constant.
///
/// # Panics
///
/// If the shapes do not fit.
#[track_caller]
pub fn shift_batch_norm_eval<'t, T: Scalar>(
    x: Var<'t, T>,
    gamma: Var<'t, T>,
    beta: Var<'t, T>,
    [mean, variance]: [&Tensor<T>; 2],
    scale: ShiftScale,
) -> Var<'t, T> {
    let (input, weights) = (x.value(), gamma.value());
    check_parameters(channels_of(&input), [&weights, &beta.value(), mean, variance]);
    let map = Map { mean: mean.clone(), s: scale.of(&weights, variance), beta: beta.value() };
    let y = map.apply(&input, Open);
    let inverse = scale.inverse(variance);
    x.tape().record("shift_batch_norm", [x, gamma, beta], y, move |dy, [dx, dgamma, dbeta]| {
        let zeros = Tensor::zeros(map.s.shape());
        let dx = dx.then(|| affine(dy, &zeros, &map.s, &zeros));
        let [dy_sum, centered] = map.gradient_sums(&input, dy, Open);
        [dx, dgamma.then(|| gamma_gradient(&centered, &inverse)), dbeta.then(|| rounded(&dy_sum))]
    })
}

impl ShiftScale {
    /// The factor of each channel. The product with gamma's power of two is exact.
    ///
    /// # Panics
    ///
    /// If the shapes differ.
    #[track_caller]
    pub fn of<T: Scalar>(self, gamma: &Tensor<T>, variance: &Tensor<T>) -> Tensor<T> {
        check_parameters(gamma.len(), [gamma, variance]);
        let inverse = self.inverse(variance);
        Tensor::from_fn(gamma.shape(), |channel| {
            T::of(inverse[channel]) * power_of_two(gamma.as_slice()[channel])
        })
    }

    /// `AP2(1 / √(variance + epsilon))`, or without rounding.
    fn inverse<T: Scalar>(self, variance: &Tensor<T>) -> Vec<f64> {
        let exact = variance.as_slice().iter().map(|v| 1.0 / (v.as_f64() + self.epsilon).sqrt());
        if self.round_variance { exact.map(ap2).collect() } else { exact.collect() }
    }

    /// `AP2(gamma) · d(1/√(v + epsilon))/dv = −AP2(gamma) / (2 (v + epsilon)^1.5)`.
    fn descent<T: Scalar>(self, gamma: &Tensor<T>, variance: &Tensor<T>) -> Vec<f64> {
        let slope = |v: &T| {
            let v = v.as_f64() + self.epsilon;
            -0.5 / (v * v.sqrt())
        };
        let pairs = gamma.as_slice().iter().zip(variance.as_slice());
        pairs.map(|(gamma, v)| ap2(gamma.as_f64()) * slope(v)).collect()
    }
}

#[inline(always)]
fn power_of_two<T: Scalar>(x: T) -> T {
    T::of(ap2(x.as_f64()))
}

/// Per channel the sums of `dy`, of `dy · C` and of `AP2(C) + C`, the slope of the variance's terms.
fn gradient_sums<T: Scalar>(map: &Map<T>, x: &Tensor<T>, dy: &Tensor<T>) -> [Vec<f64>; 3] {
    let inputs = [x.as_slice(), dy.as_slice()];
    sums(map.mean.len(), inputs, [map.mean.as_slice()], |[x, dy], [mean]| {
        let c = x - mean;
        [dy, dy * c, power_of_two(c) + c]
    })
}

/// ```text
/// dC = s · dy + k · (AP2(C) + C)       k = descent · Σ(dy · C) / n
/// dx = dC − mean(dC)
/// ```
fn input_gradient<T: Scalar>(
    map: &Map<T>,
    x: &Tensor<T>,
    dy: &Tensor<T>,
    descent: &[f64],
    [dy_sum, centered, slopes]: &[Vec<f64>; 3],
) -> Tensor<T> {
    let channels = map.mean.len();
    let count = (x.len() / channels) as f64;
    let k: Vec<f64> = descent.iter().zip(centered).map(|(descent, sum)| descent * sum / count).collect();
    let mean_of = |c: usize| (map.s.as_slice()[c].as_f64() * dy_sum[c] + k[c] * slopes[c]) / count;
    let offset: Vec<T> = (0..channels).map(|channel| T::of(mean_of(channel))).collect();
    let k: Vec<T> = k.into_iter().map(T::of).collect();
    let [mean, s, k, offset] = [map.mean.as_slice(), map.s.as_slice(), &k, &offset].map(tiled);
    let (x_all, dy_all, width) = (x.as_slice(), dy.as_slice(), mean.len());
    Tensor::build(x.shape(), |dx| {
        for_each_chunk_of(
            whole_rows(width),
            dx,
            #[inline(always)]
            |at, dx| {
                let inputs = x_all[at..].chunks(width).zip(dy_all[at..].chunks(width));
                for (dx, (x, dy)) in dx.chunks_mut(width).zip(inputs) {
                    let parameters = mean.iter().zip(&s).zip(k.iter().zip(&offset));
                    let elements = dx.iter_mut().zip(x.iter().zip(dy)).zip(parameters);
                    for ((dx, (&x, &dy)), ((&mean, &s), (&k, &offset))) in elements {
                        let c = x - mean;
                        *dx = s * dy + k * (power_of_two(c) + c) - offset;
                    }
                }
            },
        );
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::Tape;
    use crate::ops::tests::with_threads;

    const ROUNDED: ShiftScale = ShiftScale { epsilon: 1e-3, round_variance: true };
    const EXACT: ShiftScale = ShiftScale { round_variance: false, ..ROUNDED };

    fn numbers(shape: &[usize], frequency: f64) -> Tensor<f64> {
        Tensor::from_fn(shape, |i| (i as f64 * frequency + 0.3).sin() + 0.2)
    }

    /// One channel of algorithm 3 with the roundings given as functions.
    fn plain(
        x: &[f64],
        [gamma, beta]: [f64; 2],
        epsilon: f64,
        round: [&dyn Fn(usize, f64) -> f64; 3],
    ) -> Vec<f64> {
        let n = x.len() as f64;
        let mean = x.iter().sum::<f64>() / n;
        let c: Vec<f64> = x.iter().map(|x| x - mean).collect();
        let variance = c.iter().enumerate().map(|(i, &c)| c * round[0](i, c)).sum::<f64>() / n;
        let s = round[1](0, 1.0 / (variance + epsilon).sqrt());
        c.iter().map(|c| round[2](0, gamma) * (c * s) + beta).collect()
    }

    fn channel(x: &Tensor<f64>, channels: usize, c: usize) -> Vec<f64> {
        x.as_slice().iter().skip(c).step_by(channels).copied().collect()
    }

    #[test]
    fn values_are_those_of_the_algorithm() {
        for (shape, scale) in [(&[9, 1][..], ROUNDED), (&[3, 2, 5], ROUNDED), (&[600, 4], EXACT)] {
            let channels = shape[shape.len() - 1];
            let (x, gamma, beta) =
                (numbers(shape, 0.7), numbers(&[channels], 0.9), numbers(&[channels], 1.3));
            let tape = Tape::new();
            let [vx, vg, vb] = [&x, &gamma, &beta].map(|value| tape.leaf(value.clone()));
            let (y, moments) = shift_batch_norm_train(vx, vg, vb, scale);
            let eval = shift_batch_norm_eval(vx, vg, vb, [&moments.mean, &moments.variance], scale);
            assert_eq!(y.value(), eval.value());
            let identity = |_: usize, z: f64| z;
            let power = |_: usize, z: f64| ap2(z);
            let middle: &dyn Fn(usize, f64) -> f64 = if scale.round_variance { &power } else { &identity };
            for c in 0..channels {
                let parameters = [gamma.as_slice()[c], beta.as_slice()[c]];
                let expected = plain(&channel(&x, channels, c), parameters, 1e-3, [&power, middle, &power]);
                for (y, e) in channel(&y.value(), channels, c).iter().zip(expected) {
                    assert!((y - e).abs() < 1e-12, "{y} for {e}");
                }
            }
        }
    }

    /// AP2 is replaced by a straight line of slope 1 through its value at the point.
    #[test]
    fn gradients_are_those_of_the_surrogate() {
        for scale in [ROUNDED, EXACT] {
            let (x, gamma, beta) = (numbers(&[7, 1], 0.7), 1.3, -0.4);
            let tape = Tape::new();
            let leaves =
                [x.clone(), Tensor::full(&[1], gamma), Tensor::full(&[1], beta)].map(|t| tape.leaf(t));
            let (y, moments) = shift_batch_norm_train(leaves[0], leaves[1], leaves[2], scale);
            let cotangent = numbers(&[7, 1], 1.9);
            let gradients = tape.backward_from(y, cotangent.clone());
            let s0 = 1.0 / (moments.variance.item() + scale.epsilon).sqrt();
            let gap: Vec<f64> =
                x.as_slice().iter().map(|x| x - moments.mean.item()).map(|c| ap2(c) - c).collect();
            let objective = |x: &[f64], gamma: f64, beta: f64| {
                let shift = if scale.round_variance { ap2(s0) - s0 } else { 0.0 };
                let (a, b, g) =
                    (|i: usize, c| c + gap[i], |_: usize, s| s + shift, |_: usize, z| z + ap2(1.3) - 1.3);
                let y = plain(x, [gamma, beta], scale.epsilon, [&a, &b, &g]);
                y.iter().zip(cotangent.as_slice()).map(|(y, c)| y * c).sum::<f64>()
            };
            let (h, values) = (1e-6, x.as_slice());
            let check = |what: &str, found: f64, up: f64, down: f64| {
                let expected = (up - down) / (2.0 * h);
                assert!(
                    (found - expected).abs() < 1e-7 * expected.abs().max(1.0),
                    "{what}: {found}, {expected}"
                );
            };
            for i in 0..values.len() {
                let at = |step: f64| {
                    let mut moved = values.to_vec();
                    moved[i] += step;
                    objective(&moved, gamma, beta)
                };
                check("dx", gradients.of(leaves[0]).unwrap().as_slice()[i], at(h), at(-h));
            }
            let [dgamma, dbeta] = [1, 2].map(|i| gradients.of(leaves[i]).unwrap().item());
            check("dgamma", dgamma, objective(values, gamma + h, beta), objective(values, gamma - h, beta));
            check("dbeta", dbeta, objective(values, gamma, beta + h), objective(values, gamma, beta - h));
        }
    }

    #[test]
    fn factors_are_powers_of_two() {
        let (gamma, variance) = (numbers(&[50], 0.9), numbers(&[50], 0.3).map(|v| v * v));
        for s in ROUNDED.of(&gamma.cast::<f32>(), &variance.cast()).as_slice() {
            assert_eq!(s.to_bits() & 0x7F_FFFF, 0, "{s}");
        }
    }

    #[test]
    fn constant_channels_become_beta_and_nan_stays_in_its_channel() {
        let x = Tensor::<f32>::from_fn(&[40, 2], |i| if i == 7 { f32::NAN } else { 0.1 });
        let tape = Tape::new();
        let [gamma, beta] = [2.0, 0.7].map(|value| tape.leaf(Tensor::full(&[2], value)));
        let (y, _) = shift_batch_norm_train(tape.leaf(x), gamma, beta, ROUNDED);
        for (i, y) in y.value().as_slice().iter().enumerate() {
            assert!(if i % 2 == 0 { *y == 0.7 } else { y.is_nan() }, "{i}: {y}");
        }
    }

    #[test]
    fn the_bits_do_not_depend_on_the_number_of_threads() {
        let run = || {
            let tape = Tape::<f32>::new();
            let x = tape.leaf(numbers(&[3001, 20], 0.37).cast());
            let gamma = tape.leaf(numbers(&[20], 0.9).cast());
            let beta = tape.leaf(numbers(&[20], 1.3).cast());
            let (y, moments) = shift_batch_norm_train(x, gamma, beta, ROUNDED);
            let value = y.value();
            let mut gradients = tape.backward((y * y * y).sum());
            (value, moments, [x, gamma, beta].map(|leaf| gradients.take(leaf).unwrap()))
        };
        assert_eq!(with_threads(1, run), with_threads(3, run));
    }
}
