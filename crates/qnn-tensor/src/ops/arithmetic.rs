use std::ops::{Add, Mul, Neg, Sub};

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
    #[should_panic(expected = "do not broadcast")]
    fn shapes_that_do_not_broadcast_panic() {
        let tape = Tape::<f32>::new();
        let _ = tape.constant(Tensor::zeros(&[2])) + tape.constant(Tensor::zeros(&[3]));
    }
}
