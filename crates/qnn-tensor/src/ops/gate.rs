use super::activation::{relu, relu_slope};
use crate::Scalar;

/// A function of single elements that the operation before it computes in its own passes over memory,
/// with the bits of the function as an operation of its own.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Gate<T = f32> {
    /// `y = v`
    Identity,
    /// `y = max(v, 0)`: [`Var::relu`](crate::Var::relu).
    Relu,
    /// ```text
    /// y = +1 if v ≥ 0, else −1 (NaN for NaN)       dv = dy if |v| ≤ clip, else 0
    /// ```
    Sign {
        /// How far from zero gradients pass.
        clip: T,
    },
}

/// [`Gate`] for loops: recomputed for the backward pass from what entered it, so that nothing is saved.
pub(super) trait GateFn<T>: Copy + Send + Sync + 'static {
    fn value(self, x: T) -> T;

    /// What the gradient is multiplied by, at the gate's input.
    fn slope(self, x: T) -> T;
}

/// [`Gate::Identity`]
#[derive(Clone, Copy)]
pub(super) struct Open;

/// [`Gate::Relu`]
#[derive(Clone, Copy)]
pub(super) struct Rectifier;

/// [`Gate::Sign`]
#[derive(Clone, Copy)]
pub(super) struct Signum<T> {
    pub(super) clip: T,
}

impl<T: Scalar> GateFn<T> for Open {
    #[inline(always)]
    fn value(self, x: T) -> T {
        x
    }

    #[inline(always)]
    fn slope(self, _: T) -> T {
        T::one()
    }
}

impl<T: Scalar> GateFn<T> for Rectifier {
    #[inline(always)]
    fn value(self, x: T) -> T {
        relu(x)
    }

    #[inline(always)]
    fn slope(self, x: T) -> T {
        relu_slope(x)
    }
}

impl<T: Scalar> GateFn<T> for Signum<T> {
    #[inline(always)]
    fn value(self, x: T) -> T {
        let sign = if x < T::zero() { -T::one() } else { T::one() };
        if x.is_nan() { x } else { sign }
    }

    #[inline(always)]
    fn slope(self, x: T) -> T {
        if x.abs() <= self.clip { T::one() } else { T::zero() }
    }
}

#[cfg(test)]
pub(super) mod tests {
    use super::*;
    use crate::Var;
    use crate::ops::Pointwise;

    impl Pointwise<f32> for Signum<f32> {
        const NAME: &'static str = "sign";

        fn f(&self, x: f32) -> f32 {
            if x.is_nan() || x == 0.0 { x + 1.0 } else { x.signum() }
        }

        fn df(&self, x: f32, _: f32) -> f32 {
            if (-self.clip..=self.clip).contains(&x) { 1.0 } else { 0.0 }
        }
    }

    /// A gate as an operation of its own.
    pub(in crate::ops) fn gated(x: Var<'_, f32>, gate: Gate<f32>) -> Var<'_, f32> {
        match gate {
            Gate::Identity => x,
            Gate::Relu => x.relu(),
            Gate::Sign { clip } => x.pointwise(Signum { clip }),
        }
    }

    #[test]
    fn signs_and_their_slopes_keep_to_the_borders() {
        let gate = Signum { clip: 0.5_f32 };
        let points = [-f32::INFINITY, -0.5, -0.0, 0.0, 1e-30, 0.5, 0.500001];
        assert_eq!(points.map(|x| gate.value(x)), [-1.0, -1.0, 1.0, 1.0, 1.0, 1.0, 1.0]);
        assert_eq!(points.map(|x| gate.slope(x)), [0.0, 1.0, 1.0, 1.0, 1.0, 1.0, 0.0]);
        assert!(gate.value(f32::NAN).is_nan() && gate.slope(f32::NAN) == 0.0);
    }
}
