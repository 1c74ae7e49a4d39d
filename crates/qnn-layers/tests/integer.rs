//! Layers in integers: what is trained, and what is evaluated.

use proptest::prelude::*;
use qnn_layers::{
    BatchNorm, BatchNormConfig, Conv2d, Conv2dConfig, Ctx, Dense, DenseConfig, Error, HardTanh, Init,
    IntegerFinish, IntegerOp, IntegerUnit, Layer, LeafMut, MaxPool2d, Mode, Module, Op, PaddingRule, Path,
    QuantizeRange, QuantizeRangeConfig, ReluInRange, Sequential, ShiftBatchNorm, ShiftBatchNormConfig,
    Signal, UnitOutput, apply_updates, average_in_range, module, sum_and_activate,
};
use qnn_quant::{Affine, Granularity, Pair, Range, Sign};
use qnn_tensor::{Tape, Tensor};

fn numbers(shape: &[usize], seed: usize) -> Tensor {
    Tensor::from_fn(shape, |i| (((i + 1) * (seed * 2 + 7)) as f32 * 0.618).sin() * 1.2)
}

fn per_channel() -> Option<Pair> {
    Some(Pair::published(Affine::symmetric(8).unwrap().with_granularity(Granularity::LastAxis)))
}

fn range() -> QuantizeRange {
    QuantizeRange::new(QuantizeRangeConfig::new()).unwrap()
}

/// One convolution of integers with its surroundings.
struct Net {
    input: QuantizeRange,
    conv: Conv2d,
    norm: BatchNorm,
    pool: Option<MaxPool2d>,
    activation: ReluInRange,
}
module!(Net { input, conv, norm, activation });

impl Net {
    fn new(quantizer: Option<Pair>, gamma: &[f32], pool: bool) -> Self {
        let channels = gamma.len();
        let config = Conv2dConfig {
            kernel_quantizer: quantizer,
            padding: PaddingRule::Same,
            ..Conv2dConfig::new(2, channels, 3)
        };
        let mut net = Self {
            input: range(),
            conv: Conv2d::new(&config, &mut Init::new(5)).unwrap(),
            norm: BatchNorm::new(&BatchNormConfig::new(channels)).unwrap(),
            pool: pool.then(|| MaxPool2d::new(2)),
            activation: ReluInRange::new(QuantizeRangeConfig::new()).unwrap(),
        };
        set(&mut net, "norm.gamma", &Tensor::from_vec(&[channels], gamma.to_vec()).unwrap());
        set(&mut net, "norm.beta", &numbers(&[channels], 1));
        set(&mut net, "conv.bias", &numbers(&[channels], 2));
        net
    }

    fn unit(&self) -> IntegerUnit<'_> {
        let unit = IntegerUnit::activated(&self.conv, &self.activation).unwrap();
        unit.folding(Some(&self.norm)).unwrap().pooling(self.pool.as_ref())
    }

    fn forward<'t>(&self, cx: &mut Ctx<'t>, x: &Tensor) -> Result<Signal<'t>, Error> {
        let x = cx.tape().leaf(x.clone());
        let x = self.input.forward(cx, x.into())?;
        self.unit().forward(cx, x)
    }

    fn pass(&mut self, mode: Mode, x: &Tensor) -> Tensor {
        let tape = Tape::new();
        let mut cx = Ctx::new(&tape, mode, 0, 0);
        let y = self.forward(&mut cx, x).unwrap().value().value();
        apply_updates(self, cx.finish().into_updates());
        y
    }
}

fn set(module: &mut dyn Module, wanted: &str, values: &Tensor) {
    module.visit_mut(&mut Path::default(), &mut |at, leaf| {
        if at.as_str() == wanted {
            match leaf {
                LeafMut::Param(param) => *param.value_mut() = values.clone(),
                LeafMut::Buffer(buffer) => buffer.set(values.clone()),
            }
        }
    });
}

fn known(range: &mut dyn Module, at: &str, low: f32, high: f32) {
    set(range, at, &Tensor::from_vec(&[3], vec![1.0, low, high]).unwrap());
}

#[test]
fn training_and_evaluation_agree_within_a_code() {
    for (gamma, pool) in [([1.0, -0.5, 2.0], false), ([-1.0, 0.5, 0.0], true), ([1e-20, -1e-20, 1.0], true)] {
        let mut net = Net::new(per_channel(), &gamma, pool);
        let x = numbers(&[32, 6, 6, 2], 3);
        // Until the running statistics are the batch's.
        let trained = (0..120).map(|_| net.pass(Mode::Train, &x)).last().unwrap();
        let tape = Tape::new();
        let mut cx = Ctx::new(&tape, Mode::Eval, 0, 0);
        let y = net.forward(&mut cx, &x).unwrap();
        assert!(y.alphabet().is_some(), "codes came out");
        let step = y.scale();
        let evaluated = y.value().value();
        let far = trained
            .as_slice()
            .iter()
            .zip(evaluated.as_slice())
            .filter(|(a, b)| (*a - *b).abs() > 1.01 * step);
        // The unbiased variance of the running statistics is a little larger than the batch's.
        assert!(far.count() <= trained.len() / 20, "{gamma:?}");
        let largest = trained
            .as_slice()
            .iter()
            .zip(evaluated.as_slice())
            .map(|(a, b)| (a - b).abs())
            .fold(0.0, f32::max);
        assert!(largest <= 3.01 * step, "{gamma:?}: {largest} in steps of {step}");
    }
}

/// What evaluation reports, computed with loops in 64 bits.
fn oracle(codes: &Tensor, kernel: &Tensor, bias: &[i32], image: [usize; 3]) -> Vec<i64> {
    let ([height, width, inputs], outputs) = (image, bias.len());
    let (x, w) = (codes.as_slice(), kernel.as_slice());
    let images = x.len() / (height * width * inputs);
    let mut sums = Vec::new();
    for n in 0..images {
        for (i, j) in (0..height).flat_map(|i| (0..width).map(move |j| (i, j))) {
            for o in 0..outputs {
                let mut sum = i64::from(bias[o]);
                for (p, q) in (0..3).flat_map(|p| (0..3).map(move |q| (p, q))) {
                    let (row, column) = ((i + p).wrapping_sub(1), (j + q).wrapping_sub(1));
                    if row >= height || column >= width {
                        continue;
                    }
                    for c in 0..inputs {
                        let at = ((n * height + row) * width + column) * inputs + c;
                        sum += x[at] as i64 * w[((p * 3 + q) * inputs + c) * outputs + o] as i64;
                    }
                }
                sums.push(sum);
            }
        }
    }
    sums
}

#[test]
fn evaluation_is_the_expression_of_integers() {
    let mut net = Net::new(per_channel(), &[1.0, -0.7, 0.0, 1e-12], false);
    let x = numbers(&[3, 5, 4, 2], 3);
    net.pass(Mode::Train, &x);
    let tape = Tape::new();
    let mut cx = Ctx::tracing(&tape);
    net.forward(&mut cx, &x).unwrap();
    let trace = cx.into_trace();
    let [quantize, conv] = &trace.steps[..] else { panic!("{:?}", trace.steps) };
    assert!(matches!(quantize.op, Op::Quantize { .. }));
    let Op::Integer(IntegerOp::Conv2d { product, options }) = &conv.op else { panic!("{:?}", conv.op) };
    let codes = conv.inputs[0].value();
    let sums = oracle(&codes, &product.kernel, &product.bias, [5, 4, 2]);
    let found = product.accumulators(&codes, Some(options));
    assert!(found.iter().map(|&sum| i64::from(sum)).eq(sums.iter().copied()));
    let IntegerFinish::Codes { multipliers, codes } = &product.finish else { panic!() };
    let y = conv.output.value();
    for (i, (&y, &sum)) in y.as_slice().iter().zip(&sums).enumerate() {
        let by = multipliers[i % 4];
        let expected = by.requantize(sum as i32, 0, codes.first..=codes.last());
        assert_eq!(y, expected as f32, "element {i}");
        assert!(!(y == 0.0 && y.is_sign_negative()));
    }
    assert!(product.kernel.as_slice().iter().all(|w| w.abs() <= 127.0 && w.fract() == 0.0));
    // But for the rounding of the channel's scale.
    assert!(product.bias.iter().all(|b| b.abs() <= (1 << 30) + 128), "{:?}", product.bias);
}

#[test]
fn sums_beyond_what_f32_counts_are_exact() {
    let (inputs, outputs) = (3000, 2);
    let config =
        DenseConfig { kernel_quantizer: per_channel(), bias: false, ..DenseConfig::new(inputs, outputs) };
    let mut dense = Dense::new(&config, &mut Init::new(1)).unwrap();
    let kernel =
        Tensor::from_fn(
            &[inputs, outputs],
            |i| if i % 2 == 0 { 127.0 } else { -126.0 - (i == 1) as u8 as f32 },
        );
    set(&mut dense, "kernel", &kernel);
    let mut input = range();
    known(&mut input, "range", 0.0, 255.0);
    let tape = Tape::new();
    let mut cx = Ctx::new(&tape, Mode::Eval, 0, 0);
    let x = tape.constant(Tensor::from_fn(&[1, inputs], |i| if i < 2 { 254.0 } else { 255.0 }));
    let x = input.forward(&mut cx, x.into()).unwrap();
    let y = IntegerUnit::new(&dense, UnitOutput::Values).forward(&mut cx, x).unwrap().value().value();
    let sums = [127 * (255 * 2998 + 508), -126 * (255 * 2998 + 508) - 254];
    assert!(sums[0] > 1 << 26 && sums[0] % 8 != 0);
    assert_eq!(y.as_slice(), [sums[0] as f32, sums[1] as f32]);
}

/// The same layers one after the other, in full precision.
fn apart(conv: &Conv2dConfig, pool: bool) -> Sequential {
    let norm = BatchNorm::new(&BatchNormConfig::new(conv.out_channels)).unwrap();
    let layers = Sequential::new().with("conv", Conv2d::new(conv, &mut Init::new(5)).unwrap());
    let layers = if pool { layers.with("pool", MaxPool2d::new(2)) } else { layers };
    layers.with("norm", norm)
}

#[test]
fn gradients_of_a_folded_unit_are_those_of_its_parts() {
    for (gamma, pool) in [([1.0, 0.5, 2.0], false), ([-1.0, 0.5, -0.25], false), ([-1.0, 0.5, 1.5], true)] {
        let net = Net::new(None, &gamma, pool);
        let mut parts = apart(net.conv.config(), pool);
        set(&mut parts, "norm.gamma", &Tensor::from_vec(&[3], gamma.to_vec()).unwrap());
        set(&mut parts, "norm.beta", &numbers(&[3], 1));
        set(&mut parts, "conv.bias", &numbers(&[3], 2));
        let x = numbers(&[3, 6, 4, 2], 6);
        let unit = IntegerUnit { output: UnitOutput::Values, ..net.unit() };
        let gradients = |forward: &dyn for<'t> Fn(&mut Ctx<'t>, Signal<'t>) -> Signal<'t>,
                         module: &dyn Module| {
            let tape = Tape::new();
            let mut cx = Ctx::new(&tape, Mode::Train, 0, 0);
            let leaf = tape.leaf(x.clone());
            let y = forward(&mut cx, leaf.into()).value();
            let bindings = cx.finish();
            let value = y.value();
            let mut all = tape.backward_from(y, numbers(value.shape(), 4));
            let mut found = vec![("y".to_owned(), value), ("x".to_owned(), all.take(leaf).unwrap())];
            let parameters = bindings.gradients(&mut all);
            qnn_layers::for_each_param(module, &mut |path, param| {
                found.push((path.to_owned(), parameters.of(param.id()).unwrap().clone()));
            });
            found
        };
        let folded = gradients(&|cx, x| unit.forward(cx, x).unwrap(), &net);
        let expected = gradients(&|cx, x| parts.forward(cx, x).unwrap(), &parts);
        assert_eq!(folded.len(), expected.len());
        for ((name, found), (_, expected)) in folded.iter().zip(&expected) {
            for (found, expected) in found.as_slice().iter().zip(expected.as_slice()) {
                // A bias in front of a batch norm has a gradient of nothing but roundings.
                let slack = if name == "conv.bias" { 2e-4 } else { 5e-5 };
                assert!(
                    (found - expected).abs() < slack * expected.abs().max(1.0),
                    "{name}: {found} for {expected}"
                );
            }
        }
    }
}

#[test]
fn units_refuse_scales_of_inputs_and_quantized_gradients() {
    let sign = || Some(Pair::published(Sign));
    let base = DenseConfig { kernel_quantizer: per_channel(), ..DenseConfig::new(3, 2) };
    for (setting, config) in [
        ("input_scaling", DenseConfig { input_scaling: true, input_quantizer: sign(), ..base.clone() }),
        ("gradient_bits", DenseConfig { gradient_bits: Some(4), ..base }),
    ] {
        let dense = Dense::new(&config, &mut Init::new(0)).unwrap();
        let tape = Tape::new();
        let mut cx = Ctx::new(&tape, Mode::Train, 0, 0);
        let x = tape.constant(numbers(&[1, 3], 1)).into();
        let error = IntegerUnit::new(&dense, UnitOutput::Values).forward(&mut cx, x).unwrap_err();
        assert!(matches!(&error, Error::Setting { setting: found, .. } if *found == setting), "{error}");
    }
}

#[test]
fn units_refuse_what_cannot_be_folded_or_is_not_known() {
    let net = Net::new(per_channel(), &[1.0], false);
    assert!(matches!(
        IntegerUnit::activated(&net.conv, &HardTanh),
        Err(Error::Setting { setting: "activation", .. })
    ));
    let shift = ShiftBatchNorm::new(&ShiftBatchNormConfig::new(1)).unwrap();
    assert!(matches!(net.unit().folding(Some(&shift)), Err(Error::Setting { setting: "norm", .. })));
    let (x, tape) = (numbers(&[1, 4, 4, 2], 1), Tape::new());
    let untrained = net.forward(&mut Ctx::new(&tape, Mode::Eval, 0, 0), &x).unwrap();
    assert!(untrained.alphabet().is_none(), "without ranges there are numbers");
    let error = net.forward(&mut Ctx::tracing(&tape), &x).unwrap_err();
    assert!(matches!(error, Error::Setting { setting: "range", .. }), "{error}");
    // Trained at other codes than integers have: what is evaluated would not be what was trained.
    let along_last = |map: Affine| Pair::published(map.with_granularity(Granularity::LastAxis));
    for kernel in [
        Pair::published(Sign),
        Pair::published(Affine::symmetric(8).unwrap()),
        along_last(Affine::symmetric(7).unwrap()),
        along_last(Affine::asymmetric(8).unwrap()),
        along_last(Affine::symmetric(8).unwrap().with_ranges(vec![Range::new(-1.0, 1.0).unwrap()]).unwrap()),
    ] {
        let mut other = Net::new(Some(kernel), &[1.0], false);
        other.pass(Mode::Train, &x);
        let error = other.forward(&mut Ctx::new(&tape, Mode::Eval, 0, 0), &x).unwrap_err();
        assert!(matches!(error, Error::Setting { setting: "kernel quantizer", .. }), "{error}");
    }
}

fn codes<'t>(cx: &mut Ctx<'t>, values: &[f32], shape: &[usize], [low, high]: [f32; 2]) -> Signal<'t> {
    let mut range = range();
    known(&mut range, "range", low, high);
    let x = cx.tape().constant(Tensor::from_vec(shape, values.to_vec()).unwrap());
    range.forward(cx, x.into()).unwrap()
}

proptest! {
    #[test]
    fn sums_of_codes_are_within_a_step_of_the_values(
        a in proptest::collection::vec(-2.0_f32..2.0, 8), b in proptest::collection::vec(-9.0_f32..9.0, 8),
        high in 0.5_f32..20.0,
    ) {
        let mut activation = ReluInRange::new(QuantizeRangeConfig::new()).unwrap();
        known(&mut activation, "quantize.range", 0.0, high);
        let tape = Tape::new();
        let mut cx = Ctx::new(&tape, Mode::Eval, 0, 0);
        let a = codes(&mut cx, &a, &[2, 4], [-2.0, 2.0]);
        let b = codes(&mut cx, &b, &[2, 4], [-9.0, 9.0]);
        let y = sum_and_activate(&mut cx, a, b, &activation).unwrap();
        prop_assert!(y.alphabet().is_some());
        let (a, b) = (a.value().value(), b.value().value());
        for ((y, a), b) in y.value().value().as_slice().iter().zip(a.as_slice()).zip(b.as_slice()) {
            let expected = (a + b).clamp(0.0, high);
            prop_assert!((y - expected).abs() <= 0.51 * high / 255.0 + 1e-3, "{} for {}", y, expected);
        }
    }

    #[test]
    fn means_of_codes_are_within_a_step_of_the_values(
        x in proptest::collection::vec(-1.0_f32..3.0, 2 * 3 * 5 * 2), high in 0.1_f32..3.0,
    ) {
        let mut into = range();
        known(&mut into, "range", -1.0, high);
        let tape = Tape::new();
        let mut cx = Ctx::new(&tape, Mode::Eval, 0, 0);
        let x = codes(&mut cx, &x, &[2, 3, 5, 2], [-1.0, 3.0]);
        let y = average_in_range(&mut cx, x, &into).unwrap();
        prop_assert!(y.alphabet().is_some());
        let exact = x.value().global_average_pool().value();
        let step = (high + 1.0) / 255.0;
        for (y, exact) in y.value().value().as_slice().iter().zip(exact.as_slice()) {
            let expected = exact.clamp(-1.0, high);
            // The represented range is nudged by less than a step, and there are two roundings.
            prop_assert!((y - expected).abs() <= 1.6 * step, "{} for {}", y, expected);
        }
    }
}

#[test]
fn means_of_nothing_are_errors_in_integers_too() {
    let mut into = range();
    known(&mut into, "range", -1.0, 1.0);
    let tape = Tape::new();
    let mut cx = Ctx::new(&tape, Mode::Eval, 0, 0);
    for shape in [[1, 0, 2, 3], [1, 2, 0, 3]] {
        let x = codes(&mut cx, &[], &shape, [-1.0, 3.0]);
        assert!(matches!(average_in_range(&mut cx, x, &into), Err(Error::Shape { .. })), "{shape:?}");
    }
    let x = codes(&mut cx, &[], &[1, 2, 2, 0], [-1.0, 3.0]);
    assert_eq!(average_in_range(&mut cx, x, &into).unwrap().shape(), [1, 0]);
    let scalar = tape.constant(Tensor::scalar(1.0)).into();
    assert!(matches!(average_in_range(&mut cx, scalar, &into), Err(Error::Shape { .. })));
}
