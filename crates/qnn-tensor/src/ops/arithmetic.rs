use std::ops::{Add, Mul, Neg, Sub};

use super::activation::{relu, relu_slope};
use crate::broadcast::broadcast_map;
use crate::{Scalar, Var};

impl<'t, T: Scalar> Add for Var<'t, T> {
    type Output = Self;

    /// `a + b` under broadcasting.
    #[track_caller]
    fn add(self, b: Self) -> Self {
        let y = broadcast_map("add", &self.value(), &b.value(), |a, b| a + b);
        self.tape()
            .record("add", [self, b], y, |dy, [da, db]| [da.then(|| dy.clone()), db.then(|| dy.clone())])
    }
}

impl<'t, T: Scalar> Sub for Var<'t, T> {
    type Output = Self;

    /// `a − b` under broadcasting.
    #[track_caller]
    fn sub(self, b: Self) -> Self {
        let y = broadcast_map("sub", &self.value(), &b.value(), |a, b| a - b);
        self.tape()
            .record("sub", [self, b], y, |dy, [da, db]| [da.then(|| dy.clone()), db.then(|| dy.map(|d| -d))])
    }
}

impl<'t, T: Scalar> Mul for Var<'t, T> {
    type Output = Self;

    /// The elementwise product under broadcasting.
    #[track_caller]
    fn mul(self, b: Self) -> Self {
        let (x, w) = (self.value(), b.value());
        let y = broadcast_map("mul", &x, &w, |a, b| a * b);
        self.tape().record("mul", [self, b], y, move |dy, [dx, dw]| {
            let times = |other| broadcast_map("mul", dy, other, |d, o| d * o);
            [dx.then(|| times(&w)), dw.then(|| times(&x))]
        })
    }
}

impl<'t, T: Scalar> Neg for Var<'t, T> {
    type Output = Self;

    #[track_caller]
    fn neg(self) -> Self {
        self.scale(-T::one())
    }
}

impl<'t, T: Scalar> Var<'t, T> {
    /// `relu(a + b)` in one pass, for equal shapes: the end of a residual block. The same bits as
    /// [`relu`](Var::relu) of the sum.
    ///
    /// # Panics
    ///
    /// If the shapes differ.
    #[track_caller]
    pub fn add_relu(self, b: Self) -> Self {
        let y = self.value().zip_map(&b.value(), |a, b| relu(a + b));
        let saved = y.clone();
        self.tape().record("add_relu", [self, b], y, move |dy, [da, db]| {
            let d = saved.zip_map(dy, |y, dy| dy * relu_slope(y));
            [da.then(|| d.clone()), db.then_some(d)]
        })
    }

    /// `factor · x` for a constant factor.
    #[track_caller]
    pub fn scale(self, factor: T) -> Self {
        let y = self.value().map(|x| x * factor);
        self.tape().record("scale", [self], y, move |dy, _| [Some(dy.map(|d| d * factor))])
    }
}

#[cfg(test)]
mod tests {
    use crate::{Tape, Tensor, gradcheck};

    fn numbers(shape: &[usize]) -> Tensor<f64> {
        Tensor::from_fn(shape, |i| (i as f64 * 0.7).sin() + 0.1)
    }

    #[test]
    fn gradients_agree_with_differences_under_broadcasting() {
        for (a, b) in [(&[2, 3][..], &[2, 3][..]), (&[2, 3], &[3]), (&[1], &[2, 2]), (&[2, 1, 3], &[4, 1])] {
            gradcheck([numbers(a), numbers(b)], |[a, b]| a + b).unwrap();
            gradcheck([numbers(a), numbers(b)], |[a, b]| a - b).unwrap();
            gradcheck([numbers(a), numbers(b)], |[a, b]| a * b).unwrap();
        }
    }

    #[test]
    fn a_repeated_input_and_a_scaled_one() {
        gradcheck([numbers(&[5])], |[x]| x * x).unwrap();
        gradcheck([numbers(&[5])], |[x]| -(x.scale(3.0))).unwrap();
    }

    #[test]
    fn a_rectified_sum_is_a_sum_and_a_relu() {
        let run = |fused: bool| {
            let tape = Tape::<f64>::new();
            let (a, b) = (tape.leaf(numbers(&[40])), tape.leaf(numbers(&[40]).map(|x| 0.3 - x * x)));
            let y = if fused { a.add_relu(b) } else { (a + b).relu() };
            let value = y.value();
            let gradients = tape.backward_from(y, numbers(&[40]));
            [value, gradients.of(a).unwrap().clone(), gradients.of(b).unwrap().clone()]
        };
        assert_eq!(run(true), run(false));
    }

    #[test]
    #[should_panic(expected = "do not broadcast")]
    fn shapes_that_do_not_broadcast_panic() {
        let tape = Tape::<f32>::new();
        let _ = tape.constant(Tensor::zeros(&[2])) + tape.constant(Tensor::zeros(&[3]));
    }
}
