use qnn_tensor::Var;
use qnn_tensor::ops::Gate;

use crate::{Ctx, Error, Layer, Op, Signal, module};

/// `scale · max(x, 0)`.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Relu {
    /// The factor of the output, 1 by default. A factor below 1 tames the sums of ±1 weights.
    pub scale: f32,
}

/// `x` if `x > 0`, else `slope · x`.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct LeakyRelu {
    /// The factor of negative inputs.
    pub slope: f32,
}

/// `clip(x, −1, 1)`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct HardTanh;

/// `clip((x + 1) / 2, 0, 1)`: Courbariaux et al. 2015, arXiv:1511.00363, eq. (3).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct HardSigmoid;

/// `1 / (1 + e^−x)`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Sigmoid;

/// `tanh x`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Tanh;

impl Default for Relu {
    fn default() -> Self {
        Self { scale: 1.0 }
    }
}

module!(Relu {});

impl Layer for Relu {
    fn forward<'t>(&self, cx: &mut Ctx<'t>, x: Signal<'t>) -> Result<Signal<'t>, Error> {
        let x = cx.value(x);
        let y = relu_of(cx, x);
        if self.scale == 1.0 {
            return Ok(y.into());
        }
        let scaled = y.scale(self.scale);
        cx.report("relu", None, &[y], scaled, || Op::Scale { factor: self.scale });
        Ok(scaled.into())
    }

    fn gate(&self) -> Option<Gate> {
        (self.scale == 1.0).then_some(Gate::Relu)
    }
}

/// `max(x, 0)`, reported.
pub(crate) fn relu_of<'t>(cx: &mut Ctx<'t>, x: Var<'t>) -> Var<'t> {
    let y = x.relu();
    cx.report("relu", None, &[x], y, || Op::Relu);
    y
}

/// A layer without parameters that is one function of the value.
macro_rules! activation {
    ($type:ty, $name:literal, $f:expr, $op:expr) => {
        module!($type {});

        impl Layer for $type {
            fn forward<'t>(&self, cx: &mut Ctx<'t>, x: Signal<'t>) -> Result<Signal<'t>, Error> {
                let (f, op): (fn(&Self, Var<'t>) -> Var<'t>, fn(&Self) -> Op) = ($f, $op);
                let x = cx.value(x);
                let y = f(self, x);
                cx.report($name, None, &[x], y, || op(self));
                Ok(y.into())
            }
        }
    };
}

activation!(LeakyRelu, "leaky relu", |layer, x| x.leaky_relu(layer.slope), |layer| {
    Op::LeakyRelu { slope: layer.slope }
});
activation!(HardTanh, "hard tanh", |_, x| x.hardtanh(), |_| Op::HardTanh);
activation!(HardSigmoid, "hard sigmoid", |_, x| x.hard_sigmoid(), |_| Op::HardSigmoid);
activation!(Sigmoid, "sigmoid", |_, x| x.sigmoid(), |_| Op::Sigmoid);
activation!(Tanh, "tanh", |_, x| x.tanh(), |_| Op::Tanh);

#[cfg(test)]
mod tests {
    use qnn_tensor::{Tape, Tensor};

    use super::*;
    use crate::Mode;

    fn values(layer: &dyn Layer) -> Vec<f32> {
        let tape = Tape::new();
        let x = tape.leaf(Tensor::from_vec(&[4], vec![-2.0, -0.5, 0.25, 4.0]).unwrap());
        let mut cx = Ctx::new(&tape, Mode::Train, 0, 0);
        layer.forward(&mut cx, x.into()).unwrap().value().value().as_slice().to_vec()
    }

    #[test]
    fn each_layer_is_its_function() {
        assert_eq!(values(&Relu::default()), [0.0, 0.0, 0.25, 4.0]);
        assert_eq!(values(&Relu { scale: 0.125 }), [0.0, 0.0, 0.03125, 0.5]);
        assert_eq!(values(&LeakyRelu { slope: 0.5 }), [-1.0, -0.25, 0.25, 4.0]);
        assert_eq!(values(&HardTanh), [-1.0, -0.5, 0.25, 1.0]);
        assert_eq!(values(&HardSigmoid), [0.0, 0.25, 0.625, 1.0]);
        let near = |a: Vec<f32>, f: fn(f64) -> f64| {
            let expected = [-2.0, -0.5, 0.25, 4.0].map(f);
            a.iter().zip(expected).all(|(&a, e)| (f64::from(a) - e).abs() < 1e-6)
        };
        assert!(near(values(&Sigmoid), |x| 1.0 / (1.0 + (-x).exp())));
        assert!(near(values(&Tanh), f64::tanh));
    }
}
