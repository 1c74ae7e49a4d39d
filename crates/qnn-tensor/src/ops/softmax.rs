use crate::parallel::for_each_row;
use crate::{Scalar, Tensor, Var, math};

impl<'t, T: Scalar> Var<'t, T> {
    /// Probabilities along the last axis.
    ///
    /// ```text
    /// yᵢ = exp(xᵢ − m) / Σⱼ exp(xⱼ − m),   m = maxⱼ xⱼ       dxᵢ = yᵢ (dyᵢ − Σⱼ dyⱼ yⱼ)
    /// ```
    ///
    /// Subtracting the maximum keeps large logits from overflowing. A row that holds NaN or +∞, or
    /// nothing but −∞, becomes NaN. Sums are made in f64.
    ///
    /// ```
    /// use qnn_tensor::{Tape, Tensor};
    /// let tape = Tape::<f32>::new();
    /// let x = tape.constant(Tensor::from_vec(&[1, 2], vec![1e4, 1e4])?);
    /// assert_eq!(x.softmax().value().as_slice(), [0.5, 0.5]);
    /// # Ok::<(), qnn_tensor::ShapeError>(())
    /// ```
    ///
    /// # Panics
    ///
    /// If the rank is 0.
    #[track_caller]
    pub fn softmax(self) -> Self {
        let x = self.value();
        let row = last_axis("softmax", &x);
        let values = x.as_slice();
        let y = Tensor::build(x.shape(), |y| {
            for_each_row(row, y, |i, y| softmax_row(&values[i * row..][..row], y));
        });
        let saved = y.clone();
        self.tape().record("softmax", [self], y, move |dy, _| {
            let (y, d) = (saved.as_slice(), dy.as_slice());
            [Some(Tensor::build(dy.shape(), |dx| {
                for_each_row(row, dx, |i, dx| {
                    let (y, d) = (&y[i * row..][..row], &d[i * row..][..row]);
                    let inner: f64 = y.iter().zip(d).map(|(y, d)| y.as_f64() * d.as_f64()).sum();
                    let pairs = y.iter().zip(d);
                    dx.iter_mut().zip(pairs).for_each(|(dx, (y, d))| {
                        *dx = T::of(y.as_f64() * (d.as_f64() - inner));
                    });
                });
            }))]
        })
    }

    /// The logarithms of the probabilities along the last axis.
    ///
    /// ```text
    /// yᵢ = (xᵢ − m) − ln Σⱼ exp(xⱼ − m),   m = maxⱼ xⱼ       dxᵢ = dyᵢ − exp(yᵢ) Σⱼ dyⱼ
    /// ```
    ///
    /// Finite where [`softmax`](Var::softmax) underflows to zero; otherwise as there.
    ///
    /// # Panics
    ///
    /// If the rank is 0.
    #[track_caller]
    pub fn log_softmax(self) -> Self {
        let x = self.value();
        let row = last_axis("log_softmax", &x);
        let values = x.as_slice();
        let y = Tensor::build(x.shape(), |y| {
            for_each_row(row, y, |i, y| log_softmax_row(&values[i * row..][..row], y));
        });
        let saved = y.clone();
        self.tape().record("log_softmax", [self], y, move |dy, _| {
            let (y, d) = (saved.as_slice(), dy.as_slice());
            [Some(Tensor::build(dy.shape(), |dx| {
                for_each_row(row, dx, |i, dx| {
                    let (y, d) = (&y[i * row..][..row], &d[i * row..][..row]);
                    let total: f64 = d.iter().map(|d| d.as_f64()).sum();
                    let pairs = y.iter().zip(d);
                    dx.iter_mut().zip(pairs).for_each(|(dx, (y, d))| {
                        *dx = T::of(d.as_f64() - math::exp(y.as_f64()) * total);
                    });
                });
            }))]
        })
    }
}

/// The largest element, in f64; NaN is passed over, and shows in the sum of exponentials.
pub(super) fn maximum<T: Scalar>(x: &[T]) -> f64 {
    let low = T::neg_infinity();
    x.iter().fold(low, |m, &x| if x > m { x } else { m }).as_f64()
}

#[track_caller]
fn last_axis<T: Scalar>(op: &str, x: &Tensor<T>) -> usize {
    *x.shape().last().unwrap_or_else(|| panic!("{op} needs an axis, the value has rank 0"))
}

/// Writes `exp(x − m)`, and returns the sum of what it wrote.
pub(super) fn exponentials<T: Scalar>(x: &[T], m: f64, y: &mut [T]) -> f64 {
    // Two loops: the first vectorises, the second must add in order.
    y.iter_mut().zip(x).for_each(|(y, x)| *y = T::of(math::exp(x.as_f64() - m)));
    y.iter().map(|y| y.as_f64()).sum()
}

fn softmax_row<T: Scalar>(x: &[T], y: &mut [T]) {
    let total = exponentials(x, maximum(x), y);
    y.iter_mut().for_each(|y| *y = T::of(y.as_f64() / total));
}

fn log_softmax_row<T: Scalar>(x: &[T], y: &mut [T]) {
    let m = maximum(x);
    let log = math::ln(exponentials(x, m, y));
    y.iter_mut().zip(x).for_each(|(y, x)| *y = T::of((x.as_f64() - m) - log));
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::{Tape, gradcheck};

    fn logits(shape: &[usize]) -> Tensor<f64> {
        Tensor::from_fn(shape, |i| 3.0 * (i as f64 * 1.3).sin())
    }

    fn both(x: Tensor<f32>) -> (Tensor<f32>, Tensor<f32>) {
        let tape = Tape::new();
        let x = tape.constant(x);
        (x.softmax().value(), x.log_softmax().value())
    }

    #[test]
    fn gradients_agree_with_differences() {
        for shape in [&[5][..], &[3, 4], &[2, 3, 1], &[2, 2, 7]] {
            gradcheck([logits(shape)], |[x]| x.softmax()).unwrap();
            gradcheck([logits(shape)], |[x]| x.log_softmax()).unwrap();
        }
    }

    #[test]
    fn large_logits_neither_overflow_nor_vanish() {
        let x = Tensor::from_vec(&[2, 3], vec![1e30_f32, 0.0, -1e30, -3e38, -3e38, -3e38]).unwrap();
        let (y, log) = both(x);
        assert_eq!(y.as_slice()[..3], [1.0, 0.0, 0.0]);
        assert_eq!(log.as_slice()[..3], [0.0, -1e30, -2e30]);
        y.as_slice()[3..].iter().for_each(|&y| assert_eq!(y, 1.0 / 3.0));
    }

    #[test]
    fn minus_infinity_has_no_probability_and_nan_spoils_its_row_only() {
        let (low, nan) = (f32::NEG_INFINITY, f32::NAN);
        let x = vec![low, 1.0, 1.0, nan, 1.0, 1.0, low, low, low, f32::INFINITY, 0.0, 0.0];
        let (y, log) = both(Tensor::from_vec(&[4, 3], x).unwrap());
        assert_eq!(y.as_slice()[..3], [0.0, 0.5, 0.5]);
        assert_eq!(log.as_slice()[0], low);
        for values in [&y, &log] {
            assert!(values.as_slice()[3..].iter().all(|y| y.is_nan()), "{values:?}");
        }
    }

    #[test]
    fn empty_batches_and_empty_rows_pass() {
        for shape in [&[0, 5][..], &[5, 0]] {
            assert_eq!(both(Tensor::zeros(shape)).0.shape(), shape);
            gradcheck([Tensor::zeros(shape)], |[x]| x.softmax()).unwrap();
            gradcheck([Tensor::zeros(shape)], |[x]| x.log_softmax()).unwrap();
        }
    }

    #[test]
    #[should_panic(expected = "softmax needs an axis")]
    fn a_scalar_has_no_axis() {
        both(Tensor::scalar(1.0));
    }

    proptest! {
        #[test]
        fn rows_agree_with_the_plain_formula(
            row in 1_usize..70,
            seed in proptest::collection::vec(-30.0_f32..30.0, 70),
        ) {
            let x = Tensor::from_fn(&[3, row], |i| seed[(i * 7) % 70]);
            let (y, log) = both(x.clone());
            for (i, x) in x.as_slice().chunks_exact(row).enumerate() {
                let total: f64 = x.iter().map(|&x| f64::from(x).exp()).sum();
                for (j, &x) in x.iter().enumerate() {
                    let expected = f64::from(x).exp() / total;
                    let (y, log) = (f64::from(y.as_slice()[i * row + j]), f64::from(log.as_slice()[i * row + j]));
                    prop_assert!((y - expected).abs() <= 2e-7 * expected);
                    prop_assert!((log - expected.ln()).abs() <= 1e-6 * (1.0 + expected.ln().abs()));
                }
            }
        }
    }
}
