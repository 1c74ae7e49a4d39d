use qnn_tensor::ops::{ConvEnd, Gate};

use crate::residual::check_same_shape;
use crate::{
    BatchNorm, Conv2d, Ctx, Error, Layer, Mode, Normalization, Signal, Within, normalize_and_activate,
    normalize_sum_and_activate,
};

/// A convolution with its normalisation and its activation, wherever a network keeps them.
///
/// ```text
/// y = activation(norm(conv(x)))          y = activation(norm(conv(x)) + shortcut)
/// ```
///
/// In training the statistics of a batch norm are made of each image of the convolution's output while it is in the cache,
/// and a ReLU or a sign joins the passes of the batch norm over memory. In an evaluation to which nobody
/// [listens](Ctx::tracing) all of it happens to each image in the cache. The bits are those of the layers one after the other.
#[derive(Clone, Copy, Debug)]
pub struct NormalizedConv2d<'a> {
    /// The convolution.
    pub conv: &'a Conv2d,
    /// What normalises its output.
    pub norm: &'a dyn Normalization,
    /// What follows the normalisation, or the sum.
    pub activation: &'a dyn Layer,
    /// The names of the three in errors.
    pub names: [&'a str; 3],
}

impl<'a> NormalizedConv2d<'a> {
    /// The layers one after the other.
    ///
    /// # Errors
    ///
    /// Those of the layers.
    pub fn forward<'t>(&self, cx: &mut Ctx<'t>, x: Signal<'t>) -> Result<Signal<'t>, Error> {
        let [conv, norm, activation] = self.names;
        if let Some(end) = self.end(cx, x) {
            return self.in_one(cx, x, None, end).within(conv);
        }
        let y = self.conv.forward_measured(cx, x).within(conv)?;
        normalize_and_activate(cx, y, self.norm, self.activation, [norm, activation])
    }

    /// The end of a residual block, whose shortcut is added in front of the activation.
    ///
    /// # Errors
    ///
    /// Those of the layers and of the shortcut, and [`Error::Shape`] if it has another shape than the convolution's output.
    pub fn forward_with_shortcut<'t>(
        &self,
        cx: &mut Ctx<'t>,
        x: Signal<'t>,
        shortcut: impl FnOnce(&mut Ctx<'t>) -> Result<Signal<'t>, Error>,
    ) -> Result<Signal<'t>, Error> {
        let [conv, norm, activation] = self.names;
        let Some(end) = self.end(cx, x) else {
            let y = self.conv.forward_measured(cx, x).within(conv)?;
            return normalize_sum_and_activate(
                cx,
                y,
                self.norm,
                shortcut,
                self.activation,
                [norm, activation],
            );
        };
        let shortcut = shortcut(cx)?;
        if !shortcut.codes().needs_gradient() {
            return self.in_one(cx, x, Some(shortcut), end).within(conv);
        }
        let y = self.conv.forward_measured(cx, x).within(conv)?;
        normalize_sum_and_activate(cx, y, self.norm, |_| Ok(shortcut), self.activation, [norm, activation])
    }

    fn in_one<'t>(
        &self,
        cx: &mut Ctx<'t>,
        x: Signal<'t>,
        shortcut: Option<Signal<'t>>,
        (norm, gate): (&BatchNorm, Gate),
    ) -> Result<Signal<'t>, Error> {
        if let Some(shortcut) = shortcut {
            check_same_shape(self.conv.output_shape(&x.shape())?, shortcut.shape())?;
        }
        let shortcut = shortcut.map(|shortcut| cx.value(shortcut));
        let [mean, s, beta] = &norm.fixed(cx);
        self.conv.forward_normalized(cx, x, &ConvEnd { mean, s, beta, shortcut, gate })
    }

    /// What the convolution can do to its output in the cache, if it is all that follows.
    fn end(&self, cx: &Ctx<'_>, x: Signal<'_>) -> Option<(&'a BatchNorm, Gate)> {
        let alone = cx.mode() == Mode::Eval && !cx.is_traced() && !x.codes().needs_gradient();
        let channels = self.conv.config().out_channels;
        let fits = |norm: &&BatchNorm| alone && norm.config().channels == channels;
        let norm = self.norm.as_batch_norm().filter(fits).filter(|_| self.conv.can_be_normalized())?;
        Some((norm, self.activation.gate()?))
    }
}

#[cfg(test)]
mod tests {
    use qnn_quant::{Pair, Sign};
    use qnn_tensor::{Tape, Tensor};

    use super::*;
    use crate::{
        BatchNormConfig, Conv2dConfig, HardTanh, Init, PaddingRule, Quantize, Relu, apply_updates,
        sum_and_activate,
    };

    /// A batch norm whose statistics are not those of a new one.
    fn norm(channels: usize) -> BatchNorm {
        let mut norm = BatchNorm::new(&BatchNormConfig::new(channels)).unwrap();
        let tape = Tape::new();
        let mut cx = Ctx::new(&tape, Mode::Train, 0, 0);
        let x = tape.constant(Tensor::from_fn(&[50, channels], |i| (i as f32 * 0.37).sin() * 3.0 + 0.5));
        norm.forward(&mut cx, x.into()).unwrap();
        apply_updates(&mut norm, cx.finish().into_updates());
        norm
    }

    fn conv(config: &Conv2dConfig) -> Conv2d {
        Conv2d::new(config, &mut Init::new(3)).unwrap()
    }

    fn config() -> Conv2dConfig {
        Conv2dConfig { padding: PaddingRule::Same, ..Conv2dConfig::new(4, 6, 3) }
    }

    fn numbers(shape: &[usize], f: f32) -> Tensor {
        Tensor::from_fn(shape, |i| 2.0 * (i as f32 * f).sin())
    }

    /// The value and the number of nodes.
    fn run(unit: &NormalizedConv2d<'_>, adds: bool, plain: bool, traced: bool) -> (Tensor, usize) {
        let tape = Tape::new();
        let mut cx = if traced { Ctx::tracing(&tape) } else { Ctx::new(&tape, Mode::Eval, 0, 0) };
        let x = tape.constant(numbers(&[3, 7, 5, 4], 0.7)).into();
        let shortcut = tape.constant(numbers(&[3, 7, 5, 6], 0.4)).into();
        let NormalizedConv2d { conv, norm, activation, .. } = unit;
        let y = match (plain, adds) {
            (false, false) => unit.forward(&mut cx, x).unwrap(),
            (false, true) => unit.forward_with_shortcut(&mut cx, x, |_| Ok(shortcut)).unwrap(),
            (true, adds) => {
                let y = conv.forward(&mut cx, x).unwrap();
                let y = norm.forward(&mut cx, y).unwrap();
                if adds {
                    sum_and_activate(&mut cx, y, shortcut, *activation).unwrap()
                } else {
                    activation.forward(&mut cx, y).unwrap()
                }
            }
        };
        assert_eq!(cx.into_trace().steps.is_empty(), !traced);
        (y.value().value(), tape.len())
    }

    #[test]
    fn an_evaluation_in_the_cache_has_the_bits_of_the_layers() {
        let sign = Quantize::new(Pair::published(Sign));
        let layers: [(&dyn Layer, bool); 3] = [(&Relu::default(), true), (&sign, true), (&HardTanh, false)];
        let quantized = Conv2dConfig {
            kernel_quantizer: Some(Pair::published(Sign)),
            input_quantizer: Some(Pair::published(Sign)),
            ..config()
        };
        let norm = norm(6);
        let convs = [conv(&config()), conv(&quantized)];
        let cases = convs.iter().flat_map(|conv| layers.map(|layer| (conv, layer)));
        for (conv, (activation, is_gate)) in cases {
            let names = ["conv", "norm", "activation"];
            let unit = NormalizedConv2d { conv, norm: &norm, activation, names };
            for adds in [false, true] {
                let (expected, nodes) = run(&unit, adds, true, false);
                let (fused, fewer) = run(&unit, adds, false, false);
                assert_eq!(fused, expected, "{activation:?} {adds}");
                assert_eq!(fewer < nodes, is_gate, "{fewer} nodes of {nodes}");
                // Who listens finds every value on the tape.
                assert_eq!(run(&unit, adds, false, true), (expected, nodes), "{activation:?} {adds}");
            }
        }
    }

    /// Or else the next layer would sum in another way where somebody listens.
    #[test]
    fn signs_are_known_as_such_in_the_cache_too() {
        let (conv, norm, names) = (conv(&config()), norm(6), ["conv", "norm", "activation"]);
        let sign = Quantize::new(Pair::published(Sign));
        let relu = Relu::default();
        for (activation, largest) in [(&sign as &dyn Layer, Some(1)), (&relu, None)] {
            let unit = NormalizedConv2d { conv: &conv, norm: &norm, activation, names };
            for traced in [false, true] {
                let tape = Tape::new();
                let mut cx = if traced { Ctx::tracing(&tape) } else { Ctx::new(&tape, Mode::Eval, 0, 0) };
                let x = tape.constant(numbers(&[3, 7, 5, 4], 0.7));
                assert_eq!(unit.forward(&mut cx, x.into()).unwrap().largest_code(), largest);
            }
        }
    }

    #[test]
    fn gradients_of_an_evaluation_stay() {
        let (conv, norm) = (conv(&config()), norm(6));
        let (relu, names) = (Relu::default(), ["conv", "norm", "activation"]);
        let unit = NormalizedConv2d { conv: &conv, norm: &norm, activation: &relu, names };
        let tape = Tape::new();
        let mut cx = Ctx::new(&tape, Mode::Eval, 0, 0);
        let [x, constant] =
            [tape.leaf(numbers(&[1, 7, 5, 4], 0.7)), tape.constant(numbers(&[1, 7, 5, 4], 0.7))];
        let shortcut = tape.leaf(numbers(&[1, 7, 5, 6], 0.4));
        let y = unit.forward(&mut cx, x.into()).unwrap().value();
        let z = unit.forward_with_shortcut(&mut cx, constant.into(), |_| Ok(shortcut.into())).unwrap();
        let gradients = tape.backward(y.sum() + z.value().sum());
        assert!(gradients.of(x).is_some() && gradients.of(shortcut).is_some());
    }

    #[test]
    fn shapes_that_do_not_fit_are_errors() {
        let (conv, relu, names) = (conv(&config()), Relu::default(), ["conv", "norm", "activation"]);
        let [norm, other] = [6, 5].map(norm);
        let tape = Tape::new();
        let mut cx = Ctx::new(&tape, Mode::Eval, 0, 0);
        let x = Signal::from(tape.constant(Tensor::zeros(&[1, 7, 5, 4])));
        let unit = NormalizedConv2d { conv: &conv, norm: &norm, activation: &relu, names };
        let error = unit.forward_with_shortcut(&mut cx, x, |_| Ok(x)).unwrap_err();
        assert!(error.to_string().contains("[1, 7, 5, 6]"), "{error}");
        let error = NormalizedConv2d { norm: &other, ..unit }.forward(&mut cx, x).unwrap_err();
        assert!(error.to_string().starts_with("in norm"), "{error}");
    }
}
