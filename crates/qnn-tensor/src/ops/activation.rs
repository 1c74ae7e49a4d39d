use super::Pointwise;
use crate::{Scalar, Var, math};

impl<'t, T: Scalar> Var<'t, T> {
    /// The rectifier.
    ///
    /// ```text
    /// y = max(x, 0)       dx = dy if x > 0, else 0
    /// ```
    ///
    /// NaN stays NaN, and hands its gradient on; −0 becomes +0.
    ///
    /// ```
    /// use qnn_tensor::{Tape, Tensor};
    /// let tape = Tape::<f32>::new();
    /// let x = tape.constant(Tensor::from_vec(&[3], vec![-1.0, 0.0, 2.0])?);
    /// assert_eq!(x.relu().value().as_slice(), [0.0, 0.0, 2.0]);
    /// # Ok::<(), qnn_tensor::ShapeError>(())
    /// ```
    #[track_caller]
    pub fn relu(self) -> Self {
        self.pointwise(Relu)
    }

    /// The rectifier with a slope for negative numbers.
    ///
    /// ```text
    /// y = x if x > 0, else slope · x       dx = dy if x > 0, else slope · dy
    /// ```
    #[track_caller]
    pub fn leaky_relu(self, slope: T) -> Self {
        self.pointwise(LeakyRelu { slope })
    }

    /// The hard hyperbolic tangent.
    ///
    /// ```text
    /// y = min(max(x, −1), 1)       dx = dy if −1 < x < 1, else 0
    /// ```
    ///
    /// NaN stays NaN, and hands its gradient on.
    #[track_caller]
    pub fn hardtanh(self) -> Self {
        self.pointwise(HardTanh)
    }

    /// The hard sigmoid of binarized networks (Courbariaux et al. 2016, arXiv:1602.02830, eq. 3).
    ///
    /// ```text
    /// y = min(max((x + 1) / 2, 0), 1)       dx = dy / 2 if −1 < x < 1, else 0
    /// ```
    ///
    /// NaN stays NaN, and hands its gradient on.
    #[track_caller]
    pub fn hard_sigmoid(self) -> Self {
        self.pointwise(HardSigmoid)
    }

    /// The logistic function.
    ///
    /// ```text
    /// y = 1 / (1 + e⁻ˣ)       dx = y (1 − y) dy
    /// ```
    #[track_caller]
    pub fn sigmoid(self) -> Self {
        self.pointwise(Sigmoid)
    }

    /// The hyperbolic tangent.
    ///
    /// ```text
    /// y = tanh x       dx = (1 − y²) dy
    /// ```
    #[track_caller]
    pub fn tanh(self) -> Self {
        self.pointwise(Tanh)
    }
}

/// The function of [`Var::relu`].
#[derive(Clone, Copy, Debug)]
pub struct Relu;

impl<T: Scalar> Pointwise<T> for Relu {
    const NAME: &'static str = "relu";

    #[inline(always)]
    fn f(&self, x: T) -> T {
        relu(x)
    }

    #[inline(always)]
    fn df(&self, _x: T, y: T) -> T {
        relu_slope(y)
    }
}

/// The comparison is false for NaN, which therefore shows; `max` would hide it.
#[inline(always)]
pub(super) fn relu<T: Scalar>(x: T) -> T {
    if x <= T::zero() { T::zero() } else { x }
}

/// The slope at x, or at relu(x): they have the same.
#[inline(always)]
pub(super) fn relu_slope<T: Scalar>(x: T) -> T {
    if x <= T::zero() { T::zero() } else { T::one() }
}

/// The function of [`Var::leaky_relu`].
#[derive(Clone, Copy, Debug)]
pub struct LeakyRelu<T> {
    /// The factor of negative numbers.
    pub slope: T,
}

impl<T: Scalar> Pointwise<T> for LeakyRelu<T> {
    const NAME: &'static str = "leaky_relu";

    #[inline(always)]
    fn f(&self, x: T) -> T {
        if x > T::zero() { x } else { self.slope * x }
    }

    #[inline(always)]
    fn df(&self, x: T, _y: T) -> T {
        if x > T::zero() { T::one() } else { self.slope }
    }
}

/// The function of [`Var::hardtanh`].
#[derive(Clone, Copy, Debug)]
pub struct HardTanh;

impl<T: Scalar> Pointwise<T> for HardTanh {
    const NAME: &'static str = "hardtanh";

    #[inline(always)]
    fn f(&self, x: T) -> T {
        clip(x, -T::one(), T::one())
    }

    #[inline(always)]
    fn df(&self, x: T, _y: T) -> T {
        inside(x, T::one())
    }
}

/// The function of [`Var::hard_sigmoid`].
#[derive(Clone, Copy, Debug)]
pub struct HardSigmoid;

impl<T: Scalar> Pointwise<T> for HardSigmoid {
    const NAME: &'static str = "hard_sigmoid";

    #[inline(always)]
    fn f(&self, x: T) -> T {
        clip((x + T::one()) * T::of(0.5), T::zero(), T::one())
    }

    #[inline(always)]
    fn df(&self, x: T, _y: T) -> T {
        inside(x, T::of(0.5))
    }
}

/// The function of [`Var::sigmoid`].
#[derive(Clone, Copy, Debug)]
pub struct Sigmoid;

impl<T: Scalar> Pointwise<T> for Sigmoid {
    const NAME: &'static str = "sigmoid";

    #[inline(always)]
    fn f(&self, x: T) -> T {
        T::of(math::sigmoid(x.as_f64()))
    }

    #[inline(always)]
    fn df(&self, _x: T, y: T) -> T {
        y * (T::one() - y)
    }
}

/// The function of [`Var::tanh`].
#[derive(Clone, Copy, Debug)]
pub struct Tanh;

impl<T: Scalar> Pointwise<T> for Tanh {
    const NAME: &'static str = "tanh";

    #[inline(always)]
    fn f(&self, x: T) -> T {
        T::of(math::tanh(x.as_f64()))
    }

    #[inline(always)]
    fn df(&self, _x: T, y: T) -> T {
        (T::one() - y) * (T::one() + y)
    }
}

/// Like `clamp`, which promises nothing about NaN in generic code: NaN stays.
#[inline(always)]
fn clip<T: Scalar>(x: T, low: T, high: T) -> T {
    let x = if x < low { low } else { x };
    if x > high { high } else { x }
}

/// `slope` where −1 < x < 1, and for NaN; zero elsewhere.
#[inline(always)]
fn inside<T: Scalar>(x: T, slope: T) -> T {
    if x.abs() >= T::one() { T::zero() } else { slope }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::{Tape, Tensor, gradcheck};

    type Activation = for<'t> fn(Var<'t, f64>) -> Var<'t, f64>;

    /// An activation, its definition, and the kinks of its slope.
    type Case = (Activation, fn(f64) -> f64, &'static [f64]);

    const ALL: [Case; 6] = [
        (|x| x.relu(), |x| if x > 0.0 { x } else { 0.0 }, &[0.0]),
        (|x| x.leaky_relu(0.1), |x| if x > 0.0 { x } else { 0.1 * x }, &[0.0]),
        (|x| x.hardtanh(), |x| x.clamp(-1.0, 1.0), &[-1.0, 1.0]),
        (|x| x.hard_sigmoid(), |x| ((x + 1.0) / 2.0).clamp(0.0, 1.0), &[-1.0, 1.0]),
        (|x| x.sigmoid(), |x| 1.0 / (1.0 + (-x).exp()), &[]),
        (|x| x.tanh(), f64::tanh, &[]),
    ];

    fn at(f: Activation, x: f64) -> (f64, f64) {
        let tape = Tape::new();
        let x = tape.leaf(Tensor::scalar(x));
        let y = f(x);
        let value = y.value().item();
        (value, tape.backward(y).of(x).unwrap().item())
    }

    #[test]
    fn values_agree_with_the_definitions() {
        for (f, definition, _) in ALL {
            for i in -300..=300 {
                let x = f64::from(i) * 0.01;
                assert!((at(f, x).0 - definition(x)).abs() < 1e-14, "{x}");
            }
        }
    }

    #[test]
    fn gradients_agree_with_differences_on_both_sides_of_every_kink() {
        for (f, _, kinks) in ALL {
            let sides = kinks.iter().flat_map(|kink| [kink - 1e-3, kink + 1e-3]);
            let x: Vec<f64> = [-2.7, -0.6, 0.3, 0.8, 3.1].into_iter().chain(sides).collect();
            let x = Tensor::from_vec(&[x.len()], x).unwrap();
            gradcheck([x], |[x]| f(x)).unwrap();
        }
    }

    #[test]
    fn slopes_at_the_kinks_are_those_of_the_documentation() {
        for zero in [0.0, -0.0] {
            assert_eq!(at(ALL[0].0, zero), (0.0, 0.0));
            assert!(at(ALL[0].0, zero).0.is_sign_positive());
            assert_eq!(at(ALL[1].0, zero), (0.0, 0.1));
        }
        for end in [-1.0, 1.0] {
            assert_eq!(at(ALL[2].0, end), (end, 0.0));
            assert_eq!(at(ALL[3].0, end), (0.5 + end / 2.0, 0.0));
        }
    }

    #[test]
    fn nan_shows_in_value_and_gradient() {
        for (f, ..) in ALL {
            assert!(at(f, f64::NAN).0.is_nan());
            assert!(at(f, f64::NAN).1 != 0.0);
        }
    }

    #[test]
    fn infinities_saturate() {
        let ends = [
            (0.0, f64::INFINITY),
            (f64::NEG_INFINITY, f64::INFINITY),
            (-1.0, 1.0),
            (0.0, 1.0),
            (0.0, 1.0),
            (-1.0, 1.0),
        ];
        for ((f, ..), (low, high)) in ALL.into_iter().zip(ends) {
            assert_eq!((at(f, f64::NEG_INFINITY).0, at(f, f64::INFINITY).0), (low, high));
            assert!(at(f, f64::INFINITY).1.is_finite() && at(f, f64::NEG_INFINITY).1.is_finite());
        }
    }

    #[test]
    fn empty_tensors_pass() {
        for (f, ..) in ALL {
            let tape = Tape::new();
            let x = tape.leaf(Tensor::zeros(&[0, 3]));
            let loss = f(x).sum();
            assert_eq!(tape.backward(loss).of(x).unwrap().shape(), [0, 3]);
        }
    }

    proptest! {
        #[test]
        fn long_tensors_agree_with_single_elements(
            seed in proptest::collection::vec(-4.0_f64..4.0, 1..70),
            long in prop::bool::ANY,
        ) {
            let len = if long { 40_000 } else { seed.len() };
            let x = Tensor::from_fn(&[len], |i| seed[i % seed.len()]);
            for (f, ..) in ALL {
                let tape = Tape::new();
                let x = tape.leaf(x.clone());
                let y = f(x);
                let (value, loss) = (y.value(), y.sum());
                let gradients = tape.backward(loss);
                for i in [0, len / 2, len - 1] {
                    let found = (value.as_slice()[i], gradients.of(x).unwrap().as_slice()[i]);
                    prop_assert_eq!(found, at(f, seed[i % seed.len()]));
                }
            }
        }
    }
}
