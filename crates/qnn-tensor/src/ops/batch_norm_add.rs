use rayon::prelude::*;

use super::batch_norm::{Map, gamma_gradient, normalized, tiled};
use super::channels::{chunk_sums, rounded, total};
use super::gate::{Gate, GateFn, Open, Rectifier, Signum};
use super::moments::Moments;
use crate::gradient::Gradient;
use crate::parallel::{for_each_chunk_of, whole_rows};
use crate::{Scalar, Tensor, Var};

/// `gate(batch_norm_train(x) + shortcut)`: the end of a residual block in one pass over memory forward
/// and two backward, with the bits of three operations.
///
/// The shapes of `x` and `shortcut` are equal; otherwise as
/// [`batch_norm_gated_train`](super::batch_norm_gated_train).
///
/// # Panics
///
/// As [`batch_norm_train`](super::batch_norm_train), and if the shapes of `x` and `shortcut` differ.
#[track_caller]
pub fn batch_norm_add_gated_train<'t, T: Scalar>(
    x: Var<'t, T>,
    shortcut: Var<'t, T>,
    gamma: Var<'t, T>,
    beta: Var<'t, T>,
    epsilon: f64,
    gate: Gate<T>,
) -> (Var<'t, T>, Moments<T>) {
    match gate {
        Gate::Identity => train([x, shortcut], gamma, beta, epsilon, Open),
        Gate::Relu => train([x, shortcut], gamma, beta, epsilon, Rectifier),
        Gate::Sign { clip } => train([x, shortcut], gamma, beta, epsilon, Signum { clip }),
    }
}

#[track_caller]
fn train<'t, T: Scalar, G: GateFn<T>>(
    [x, shortcut]: [Var<'t, T>; 2],
    gamma: Var<'t, T>,
    beta: Var<'t, T>,
    epsilon: f64,
    gate: G,
) -> (Var<'t, T>, Moments<T>) {
    let (input, addend) = (x.value(), shortcut.value());
    assert_eq!(input.shape(), addend.shape(), "batch_norm_add: a sum needs equal shapes");
    let (map, inverse, moments) = Map::of_batch(x, gamma, beta, epsilon);
    let y = map.apply_to_sum(&input, &addend, gate);
    let inputs = [x, shortcut, gamma, beta];
    let y = x.tape().record_gradients("batch_norm_add", inputs, y, move |dy, received| {
        let [dx, dshortcut, dgamma, dbeta] = received.wanted;
        let (dy, sums) = map.gradient_of_sum(&input, &addend, dy.into_tensor(), gate);
        let dgamma = dgamma.then(|| Gradient::Value(gamma_gradient(&sums[1], &inverse)));
        let dbeta = dbeta.then(|| Gradient::Value(rounded(&sums[0])));
        let dx = dx.then(|| map.input_gradient(input, dy.clone(), Open, &inverse, &sums));
        [dx.map(Gradient::Deferred), dshortcut.then_some(Gradient::Value(dy)), dgamma, dbeta]
    });
    (y, moments)
}

impl<T: Scalar> Map<T> {
    /// The values behind a gate that sees their sums with `addend`.
    fn apply_to_sum(&self, x: &Tensor<T>, addend: &Tensor<T>, gate: impl GateFn<T>) -> Tensor<T> {
        let [mean, s, beta] = self.parameters().map(tiled);
        let (x_all, addends, width) = (x.as_slice(), addend.as_slice(), mean.len());
        Tensor::build(x.shape(), |y| {
            for_each_chunk_of(
                whole_rows(width),
                y,
                #[inline(always)]
                |at, y| {
                    let inputs = x_all[at..].chunks(width).zip(addends[at..].chunks(width));
                    for (y, (x, addend)) in y.chunks_mut(width).zip(inputs) {
                        let parameters = mean.iter().zip(&s).zip(&beta);
                        let elements = y.iter_mut().zip(x.iter().zip(addend)).zip(parameters);
                        for ((y, (&x, &addend)), ((&mean, &s), &beta)) in elements {
                            *y = gate.value(normalized(x, mean, s, beta) + addend);
                        }
                    }
                },
            );
        })
    }

    /// The gradient of the sum, which is `dy` as the gate hands it on, and the sums that
    /// [`gradient_sums`](Self::gradient_sums) would make of it: in one pass, in the buffer of `dy`.
    fn gradient_of_sum(
        &self,
        x: &Tensor<T>,
        addend: &Tensor<T>,
        mut dy: Tensor<T>,
        gate: impl GateFn<T>,
    ) -> (Tensor<T>, [Vec<f64>; 2]) {
        let channels = self.mean.len();
        let [mean, s, beta] = self.parameters().map(tiled);
        let (size, width) = (whole_rows(channels), mean.len());
        let inputs = x.as_slice().par_chunks(size).zip(addend.as_slice().par_chunks(size));
        let chunks = dy.as_mut_slice().par_chunks_mut(size).zip(inputs);
        let part = |(dy, (x, addend)): (&mut [T], (&[T], &[T]))| {
            for_each_chunk_of(
                size,
                dy,
                #[inline(always)]
                |_, dy| {
                    let inputs = x.chunks(width).zip(addend.chunks(width));
                    for (dy, (x, addend)) in dy.chunks_mut(width).zip(inputs) {
                        let parameters = mean.iter().zip(&s).zip(&beta);
                        let elements = dy.iter_mut().zip(x.iter().zip(addend)).zip(parameters);
                        for ((dy, (&x, &addend)), ((&mean, &s), &beta)) in elements {
                            *dy *= gate.slope(normalized(x, mean, s, beta) + addend);
                        }
                    }
                },
            );
            let terms = |[x, dy]: [T; 2], [mean]: [T; 1]| [dy, dy * (x - mean)];
            chunk_sums(channels, [x, &*dy], [self.mean.as_slice()], terms)
        };
        let parts: Vec<_> = chunks.map(part).collect();
        (dy, total(channels, parts))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ops::gate::tests::gated;
    use crate::ops::tests::with_threads;
    use crate::ops::{batch_norm_gated_train, batch_norm_train};
    use crate::{Tape, gradcheck};

    fn numbers(shape: &[usize], frequency: f64) -> Tensor<f64> {
        Tensor::from_fn(shape, |i| (i as f64 * frequency + 0.3).sin() + 0.2)
    }

    #[test]
    fn gradients_agree_with_differences() {
        for shape in [&[7, 1][..], &[5, 3], &[2, 3, 2, 9]] {
            let channels = &shape[shape.len() - 1..];
            let inputs =
                [numbers(shape, 0.7), numbers(shape, 0.43), numbers(channels, 0.9), numbers(channels, 1.3)];
            for gate in [Gate::Identity, Gate::Relu] {
                gradcheck(inputs.clone(), |[x, shortcut, gamma, beta]| {
                    batch_norm_add_gated_train(x, shortcut, gamma, beta, 1e-3, gate).0
                })
                .unwrap();
            }
        }
    }

    #[test]
    fn one_operation_is_three_bit_for_bit() {
        for shape in [&[7, 1][..], &[2, 3, 2, 9], &[3000, 16], &[700, 83]] {
            let channels = &shape[shape.len() - 1..];
            let run = |gate, fused: bool| {
                let tape = Tape::<f32>::new();
                let leaf = |shape: &[usize], f| tape.leaf(numbers(shape, f).cast::<f32>());
                let (x, shortcut) = (leaf(shape, 0.7), leaf(shape, 0.43));
                let (gamma, beta) = (leaf(channels, 0.9), leaf(channels, 1.3));
                let y = if fused {
                    batch_norm_add_gated_train(x, shortcut, gamma, beta, 1e-3, gate).0
                } else {
                    gated(batch_norm_train(x, gamma, beta, 1e-3).0 + shortcut, gate)
                };
                let value = y.value();
                let gradients = tape.backward_from(y, numbers(shape, 1.1).cast());
                let of = |leaf| gradients.of(leaf).unwrap().clone();
                [value, of(x), of(shortcut), of(gamma), of(beta)]
            };
            for gate in [Gate::Identity, Gate::Relu, Gate::Sign { clip: 0.75 }] {
                let expected = run(gate, false);
                assert_eq!(run(gate, true), expected, "{shape:?} {gate:?}");
                assert_eq!(with_threads(3, || run(gate, true)), expected);
            }
        }
    }

    #[test]
    fn a_shortcut_from_the_same_value_receives_both_gradients() {
        let inputs = [numbers(&[6, 2], 0.7), numbers(&[2], 0.9), numbers(&[2], 1.3)];
        gradcheck(inputs, |[x, gamma, beta]| {
            let y = batch_norm_gated_train(x, gamma, beta, 1e-3, Gate::Relu).0;
            batch_norm_add_gated_train(y, y, gamma, beta, 1e-3, Gate::Identity).0
        })
        .unwrap();
    }

    #[test]
    #[should_panic(expected = "a sum needs equal shapes")]
    fn other_shapes_panic() {
        let tape = Tape::<f32>::new();
        let [x, shortcut] = [2, 4].map(|rows| tape.leaf(Tensor::zeros(&[rows, 3])));
        let one = tape.leaf(Tensor::zeros(&[3]));
        batch_norm_add_gated_train(x, shortcut, one, one, 1e-3, Gate::Relu);
    }
}
