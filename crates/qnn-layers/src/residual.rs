use qnn_tensor::ops::Gate;

use crate::integer::integer_sum;
use crate::{BatchNorm, Ctx, Error, Layer, Normalization, Op, Sequential, Signal, Within, module};

/// `activation(body(x) + shortcut(x))`; an absent shortcut or activation is the identity.
#[derive(Debug)]
pub struct Residual {
    /// The layers that the shortcut passes by.
    pub body: Box<dyn Layer>,
    /// What the input goes through on its way to the sum.
    pub shortcut: Option<Box<dyn Layer>>,
    /// What the sum goes through.
    pub activation: Option<Box<dyn Layer>>,
}

module!(Residual { body, shortcut, activation });

impl Layer for Residual {
    fn forward<'t>(&self, cx: &mut Ctx<'t>, x: Signal<'t>) -> Result<Signal<'t>, Error> {
        let body = self.body.forward(cx, x).within("body")?;
        let shortcut = self.shortcut.forward(cx, x).within("shortcut")?;
        match &self.activation {
            Some(activation) => sum_and_activate(cx, body, shortcut, activation).within("activation"),
            None => sum_and_activate(cx, body, shortcut, &Sequential::new()),
        }
    }
}

/// `activation(body + shortcut)`: the end of a residual block. A ReLU is computed together with the
/// sum, with the same bits. In evaluation, codes of observed ranges become codes of the activation's range by the
/// integers of [`CodeSum`](qnn_quant::CodeSum).
///
/// # Errors
///
/// [`Error::Shape`] if the shapes differ, and those of the activation.
pub fn sum_and_activate<'t>(
    cx: &mut Ctx<'t>,
    body: Signal<'t>,
    shortcut: Signal<'t>,
    activation: &dyn Layer,
) -> Result<Signal<'t>, Error> {
    check_sum(body, shortcut)?;
    if let Some(sum) = integer_sum(cx, [body, shortcut], activation)? {
        return Ok(sum);
    }
    let (body, shortcut) = (cx.value(body), cx.value(shortcut));
    let relu = activation.gate() == Some(Gate::Relu);
    let sum = if relu { body.add_relu(shortcut) } else { body + shortcut };
    cx.report("residual sum", None, &[body, shortcut], sum, || Op::Add { relu });
    if relu { Ok(sum.into()) } else { activation.forward(cx, sum.into()) }
}

/// `activation(norm(x))`. In training a ReLU or a sign joins the passes of a batch norm over memory, with the same
/// bits. `path` names both layers in errors.
///
/// # Errors
///
/// Those of the layers.
pub fn normalize_and_activate<'t>(
    cx: &mut Ctx<'t>,
    x: Signal<'t>,
    norm: &dyn Normalization,
    activation: &dyn Layer,
    path: [&str; 2],
) -> Result<Signal<'t>, Error> {
    if let Some((norm, gate)) = fused(cx, norm, activation) {
        return norm.forward_gated(cx, x, None, gate).within(path[0]);
    }
    let x = norm.forward(cx, x).within(path[0])?;
    activation.forward(cx, x).within(path[1])
}

/// `activation(norm(x) + shortcut)`: the end of a residual block with its batch norm. In training a sum followed by a
/// ReLU or a sign joins the passes of a batch norm over memory, with the same bits. `path` names norm and
/// activation in errors.
///
/// # Errors
///
/// Those of [`sum_and_activate`], and of norm and shortcut.
pub fn normalize_sum_and_activate<'t>(
    cx: &mut Ctx<'t>,
    x: Signal<'t>,
    norm: &dyn Normalization,
    shortcut: impl FnOnce(&mut Ctx<'t>) -> Result<Signal<'t>, Error>,
    activation: &dyn Layer,
    path: [&str; 2],
) -> Result<Signal<'t>, Error> {
    if let Some((norm, gate)) = fused(cx, norm, activation) {
        let shortcut = shortcut(cx)?;
        return norm.forward_gated(cx, x, Some(shortcut), gate).within(path[0]);
    }
    let x = norm.forward(cx, x).within(path[0])?;
    let shortcut = shortcut(cx)?;
    sum_and_activate(cx, x, shortcut, activation).within(path[1])
}

/// The batch norm and the function that it computes in its own passes, if there are both.
fn fused<'a>(
    cx: &Ctx<'_>,
    norm: &'a dyn Normalization,
    activation: &dyn Layer,
) -> Option<(&'a BatchNorm, Gate)> {
    let norm = norm.as_batch_norm().filter(|_| cx.is_training())?;
    Some((norm, activation.gate()?))
}

/// Refuses a sum of different shapes.
pub(crate) fn check_sum(body: Signal<'_>, shortcut: Signal<'_>) -> Result<(), Error> {
    check_same_shape(body.shape(), shortcut.shape())
}

/// [`check_sum`] of two shapes.
pub(crate) fn check_same_shape(expected: Vec<usize>, got: Vec<usize>) -> Result<(), Error> {
    if expected == got {
        return Ok(());
    }
    let expected = format!("a shortcut of the body's shape {expected:?}");
    Err(Error::Shape { layer: "residual sum", expected, got })
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use qnn_quant::ndarray::{ArrayViewD, ArrayViewMutD};
    use qnn_quant::{ClippedIdentity, Estimator, Grid, Pair, Sign};
    use qnn_tensor::{Tape, Tensor};

    use super::*;
    use crate::{BatchNormConfig, Dense, DenseConfig, HardTanh, Init, Mode, Quantize, Relu};

    fn run(layer: &dyn Layer, x: Tensor) -> Result<Tensor, Error> {
        let tape = Tape::new();
        let mut cx = Ctx::new(&tape, Mode::Eval, 0, 0);
        let x = tape.constant(x).into();
        layer.forward(&mut cx, x).map(|y| y.value().value())
    }

    #[test]
    fn a_residual_adds_its_input_before_the_activation() {
        let negated = Relu { scale: -1.0 };
        let activation: Option<Box<dyn Layer>> = Some(Box::new(Relu { scale: 2.0 }));
        let block = Residual { body: Box::new(negated), shortcut: None, activation };
        let y = run(&block, Tensor::from_vec(&[2], vec![-3.0, 5.0]).unwrap()).unwrap();
        assert_eq!(y.as_slice(), [0.0, 0.0]);
        let plain = Residual { activation: None, ..block };
        let y = run(&plain, Tensor::from_vec(&[2], vec![-3.0, 5.0]).unwrap()).unwrap();
        assert_eq!(y.as_slice(), [-3.0, 0.0]);
    }

    #[test]
    fn branches_of_different_shapes_are_an_error() {
        let dense = Dense::new(&DenseConfig::new(4, 3), &mut Init::new(0)).unwrap();
        let block = Residual { body: Box::new(dense), shortcut: None, activation: None };
        assert!(matches!(run(&block, Tensor::zeros(&[1, 4])), Err(Error::Shape { .. })));
    }

    /// A batch norm that nobody knows for one.
    #[derive(Debug)]
    struct Unknown {
        norm: BatchNorm,
    }

    module!(Unknown { norm });

    impl Layer for Unknown {
        fn forward<'t>(&self, cx: &mut Ctx<'t>, x: Signal<'t>) -> Result<Signal<'t>, Error> {
            self.norm.forward(cx, x)
        }
    }

    impl Normalization for Unknown {}

    /// A gradient that ends at 2 at first and at 1 at last.
    #[derive(Debug)]
    struct Narrowing;

    impl Estimator for Narrowing {
        fn name(&self) -> &'static str {
            "narrowing"
        }

        fn clip(&self) -> Option<f32> {
            Some(2.0)
        }

        fn scheduled(&self, progress: f64) -> Option<Arc<dyn Estimator>> {
            Some(Arc::new(ClippedIdentity { c: 2.0 - progress as f32 }))
        }

        fn pullback_into(
            &self,
            x: ArrayViewD<'_, f32>,
            grid: &Grid,
            dy: ArrayViewD<'_, f32>,
            dx: ArrayViewMutD<'_, f32>,
        ) -> qnn_quant::Result<()> {
            ClippedIdentity { c: 2.0 }.pullback_into(x, grid, dy, dx)
        }
    }

    /// Value, gradients and new statistics of a block's end.
    fn end(norm: &dyn Normalization, activation: &dyn Layer, adds: bool) -> (Vec<Tensor>, usize) {
        let numbers = |f: f32| Tensor::from_fn(&[5, 7, 3], |i| 2.0 * (i as f32 * f).sin());
        let tape = Tape::new();
        let mut cx = Ctx::new(&tape, Mode::Train, 0, 0).with_progress(1.0);
        let (x, shortcut) = (tape.leaf(numbers(0.7)), tape.leaf(numbers(0.4)));
        let path = ["norm", "activation"];
        let y = if adds {
            let shortcut = |_: &mut Ctx<'_>| Ok(shortcut.into());
            normalize_sum_and_activate(&mut cx, x.into(), norm, shortcut, activation, path)
        } else {
            normalize_and_activate(&mut cx, x.into(), norm, activation, path)
        };
        let (y, nodes) = (y.unwrap().value(), tape.len());
        let bindings = cx.finish();
        let value = y.value();
        let mut gradients = tape.backward_from(y, numbers(1.1));
        let inputs = [x, shortcut].into_iter().filter_map(|leaf| gradients.take(leaf));
        let results: Vec<Tensor> = [value].into_iter().chain(inputs).collect();
        let parameters = bindings.gradients(&mut gradients);
        let results = results.into_iter().chain(parameters.iter().map(|(_, gradient)| gradient.clone()));
        (results.collect(), nodes)
    }

    #[test]
    fn a_batch_norm_does_the_work_of_its_successors_with_the_same_bits() {
        let norm = || BatchNorm::new(&BatchNormConfig::new(3)).unwrap();
        let sign = Quantize::new(Pair::published(Sign));
        let narrowing = Quantize::new(Pair::new(Sign, Narrowing));
        let layers: [&dyn Layer; 4] = [&Relu::default(), &sign, &HardTanh, &narrowing];
        for (activation, is_gate) in layers.into_iter().zip([true, true, false, false]) {
            for adds in [false, true] {
                let (fused, nodes) = end(&norm(), activation, adds);
                let (plain, more) = end(&Unknown { norm: norm() }, activation, adds);
                assert_eq!(fused, plain, "{activation:?}");
                assert_eq!(nodes < more, is_gate, "{nodes} nodes of {more}");
            }
        }
    }
}
