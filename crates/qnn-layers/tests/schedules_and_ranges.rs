//! Quantizers that go by the training's progress, by chance, by observed ranges; gradients that are
//! quantized; batch norm that is folded.

use qnn_layers::{
    BatchNorm, BatchNormConfig, Calibration, Conv2d, Conv2dConfig, Ctx, Dense, DenseConfig, Error,
    FoldedConv2d, Init, Layer, LeafMut, Mode, Module, PaddingRule, Path, Quantize, QuantizeGradient,
    QuantizeRange, QuantizeRangeConfig, Sequential, apply_updates, load_pretrained, load_state_dict,
    state_dict,
};
use qnn_quant::{
    Affine, Custom, ErrorDecay, Granularity, Identity, Pair, RangeMethod, ScaledSign, Sign, StochasticSign,
    quantize,
};
use qnn_tensor::{Tape, Tensor};

fn numbers(shape: &[usize], seed: usize) -> Tensor {
    Tensor::from_fn(shape, |i| (((i + 1) * (seed * 2 + 7)) as f32 * 0.618).sin() * 1.2)
}

/// Output and gradient of the input at a step and a progress of training.
fn pass(
    layer: &mut dyn Layer,
    mode: Mode,
    (step, progress): (u64, f64),
    x: &Tensor,
) -> (Tensor, Option<Tensor>) {
    let tape = Tape::new();
    let mut cx = Ctx::new(&tape, mode, 1, step).with_progress(progress);
    let leaf = tape.leaf(x.clone());
    let y = layer.forward(&mut cx, leaf.into()).unwrap().value();
    let (value, bindings) = (y.value(), cx.finish());
    let dx = tape.backward_from(y, numbers(value.shape(), 5)).take(leaf);
    apply_updates(layer, bindings.into_updates());
    (value, dx)
}

fn close(a: &Tensor, b: &Tensor, what: &str) {
    assert_eq!(a.shape(), b.shape(), "{what}");
    for (a, b) in a.as_slice().iter().zip(b.as_slice()) {
        assert!((a - b).abs() < 2e-5 * b.abs().max(1.0), "{what}: {a} for {b}");
    }
}

#[test]
fn stochastic_signs_change_with_the_step_and_tests_take_the_sign() {
    let mut layer = Quantize::new(Pair::published(StochasticSign::new(0)));
    let x = numbers(&[40, 10], 1);
    let at = |layer: &mut Quantize, step| pass(layer, Mode::Train, (step, 0.0), &x).0;
    let (first, again, next) = (at(&mut layer, 0), at(&mut layer, 0), at(&mut layer, 1));
    assert_eq!(first, again);
    assert_ne!(first, next);
    let tested = pass(&mut layer, Mode::Eval, (0, 0.0), &x).0;
    assert_eq!(tested, x.map(|x| if x >= 0.0 { 1.0 } else { -1.0 }));
}

#[test]
fn error_decay_sharpens_with_the_progress_of_training() {
    let mut layer = Quantize::new(Pair::new(Sign, ErrorDecay::at(0.0)));
    let x = numbers(&[30], 2);
    for progress in [0.0, 0.5, 1.0] {
        let (y, dx) = pass(&mut layer, Mode::Train, (0, progress), &x);
        let pair = Pair::new(Sign, ErrorDecay::at(progress));
        let grid = pair.map.fit(x.view()).unwrap();
        let expected = pair.pullback(x.view(), &grid, numbers(y.shape(), 5).view()).unwrap();
        assert_eq!(dx.unwrap(), Tensor::from_array(&expected), "{progress}");
    }
}

#[test]
fn no_name_makes_a_quantizer_or_a_gradient_another_one() {
    let x = numbers(&[30], 2);
    let dy = numbers(&[30], 5);
    let mut steady = ErrorDecay::new(2.0).unwrap();
    steady.k = 5.0;
    let own = Custom { name: "error-decay", f: |_: f32| 0.5 };
    let slopes = |pair: Pair| pass(&mut Quantize::new(pair), Mode::Train, (0, 0.9), &x).1.unwrap();
    assert_eq!(slopes(Pair::new(Sign, own)), dy.map(|dy| 0.5 * dy));
    let pair = Pair::new(Sign, steady);
    let grid = pair.map.fit(x.view()).unwrap();
    let expected = pair.pullback(x.view(), &grid, dy.view()).unwrap();
    assert_eq!(slopes(pair), Tensor::from_array(&expected));
    // A map of the name of the sign, a gradient of the name of the identity.
    let straight = Custom { name: "identity", f: |_: f32| 0.0 };
    assert_eq!(slopes(Pair::new(Identity, straight)), dy.map(|dy| 0.0 * dy));
}

#[test]
fn ranges_start_with_the_first_batch_and_follow_the_others() {
    let mut layer = QuantizeRange::new(QuantizeRangeConfig { bits: 8, rate: 0.25 }).unwrap();
    let batch = |low: f32, high: f32| Tensor::from_vec(&[3], vec![low, 0.3, high]).unwrap();
    assert_eq!(pass(&mut layer, Mode::Eval, (0, 0.0), &batch(-9.0, 9.0)).0, batch(-9.0, 9.0));
    pass(&mut layer, Mode::Train, (0, 0.0), &batch(-1.0, 2.0));
    let range = |layer: &QuantizeRange| layer.range().map(|range| (range.low(), range.high()));
    assert_eq!(range(&layer), Some((-1.0, 2.0)));
    pass(&mut layer, Mode::Train, (1, 0.0), &batch(0.0, 4.0));
    assert_eq!(range(&layer), Some((-0.75, 2.5)));
    let x = numbers(&[50], 3);
    let (y, dx) = pass(&mut layer, Mode::Eval, (0, 0.0), &x);
    assert_eq!(range(&layer), Some((-0.75, 2.5)));
    let map = Affine::asymmetric(8).unwrap().with_ranges(vec![layer.range().unwrap()]).unwrap();
    let expected = quantize(&map, &x.to_array()).unwrap();
    close(&y, &Tensor::from_array(&expected), "values");
    let dx = dx.unwrap();
    let inside = |x: f32| (-0.76..=2.51).contains(&x);
    let pairs = x.as_slice().iter().zip(dx.as_slice()).zip(numbers(&[50], 5).as_slice().to_vec());
    pairs.for_each(|((&x, &dx), dy)| assert_eq!(dx, if inside(x) { dy } else { 0.0 }, "{x}"));
    // Through a checkpoint.
    let mut again = QuantizeRange::new(*layer.config()).unwrap();
    load_state_dict(&mut again, &state_dict(&layer)).unwrap();
    assert_eq!(pass(&mut again, Mode::Eval, (0, 0.0), &x).0, y);
    // A batch with a NaN leaves the range alone, and shows; one with an infinity has no range at all.
    let (bad, _) = pass(&mut again, Mode::Train, (2, 0.0), &batch(f32::NAN, 4.0));
    assert!(bad.as_slice()[0].is_nan());
    assert_eq!(range(&again), Some((-0.75, 2.5)));
    let tape = Tape::new();
    let mut cx = Ctx::new(&tape, Mode::Train, 1, 2);
    let error = again.forward(&mut cx, tape.leaf(batch(f32::INFINITY, 4.0)).into()).unwrap_err();
    let infinite = |source: &qnn_quant::Error| matches!(source, qnn_quant::Error::Infinite { index: 0, .. });
    assert!(matches!(&error, Error::Quantizer { source, .. } if infinite(source)), "{error}");
    assert_eq!(range(&again), Some((-0.75, 2.5)));
}

#[test]
fn senseless_ranges_and_bits_are_errors() {
    for config in [
        QuantizeRangeConfig { bits: 0, rate: 0.1 },
        QuantizeRangeConfig { bits: 9, rate: 0.1 },
        QuantizeRangeConfig { bits: 8, rate: 0.0 },
        QuantizeRangeConfig { bits: 8, rate: f64::NAN },
    ] {
        assert!(matches!(QuantizeRange::new(config), Err(Error::Quantizer { .. })), "{config:?}");
    }
    assert!(matches!(QuantizeGradient::new(0), Err(Error::Quantizer { .. })));
    assert!(Calibration::new(RangeMethod::Percentile { percent: 10.0 }).is_err());
}

#[test]
fn a_calibration_sees_what_full_precision_sees() {
    let dense = |init: &mut Init| Dense::new(&DenseConfig::new(6, 5), init).unwrap();
    let range = || QuantizeRange::new(QuantizeRangeConfig::new()).unwrap();
    let mut init = Init::new(2);
    let plain = Sequential::new().with("a", dense(&mut init)).with("c", dense_of(5, &mut init));
    let mut init = Init::new(3);
    let mut model = Sequential::new()
        .with("a", dense(&mut init))
        .with("b", range())
        .with("c", dense_of(5, &mut init))
        .with("d", range());
    load_pretrained(&mut model, &state_dict(&plain)).unwrap();
    let x = numbers(&[20, 6], 4);
    let tape = Tape::new();
    let mut cx = Ctx::calibrating(&tape, Calibration::new(RangeMethod::MinMax).unwrap());
    let y = model.forward(&mut cx, tape.constant(x.clone()).into()).unwrap().value().value();
    let calibration = cx.into_calibration();
    assert_eq!(calibration.len(), 2);
    let mut cx = Ctx::new(&tape, Mode::Eval, 0, 0);
    assert_eq!(y, plain.forward(&mut cx, tape.constant(x).into()).unwrap().value().value());
    apply_updates(&mut model, calibration.into_updates());
    let state = state_dict(&model);
    let (low, high) = y.as_slice().iter().fold((0.0_f32, 0.0_f32), |(l, h), &y| (l.min(y), h.max(y)));
    assert_eq!(state["d.range"].as_slice(), [1.0, low, high]);
    assert_eq!(state["b.range"].as_slice()[0], 1.0);
}

fn dense_of(inputs: usize, init: &mut Init) -> Dense {
    Dense::new(&DenseConfig::new(inputs, 3), init).unwrap()
}

#[test]
fn gradients_of_a_layer_are_quantized_without_bias_and_values_are_not() {
    let config = DenseConfig { gradient_bits: Some(2), bias: false, ..DenseConfig::new(3, 4) };
    let plain = DenseConfig { gradient_bits: None, ..config.clone() };
    let mut quantized = Dense::new(&config, &mut Init::new(1)).unwrap();
    let mut plain = Dense::new(&plain, &mut Init::new(1)).unwrap();
    let x = numbers(&[5, 3], 1);
    let exact = pass(&mut plain, Mode::Train, (0, 0.0), &x);
    let mut mean = [0.0; 15];
    const DRAWS: u64 = 3000;
    for step in 0..DRAWS {
        let (y, dx) = pass(&mut quantized, Mode::Train, (step, 0.0), &x);
        assert_eq!(y, exact.0);
        mean.iter_mut().zip(dx.unwrap().as_slice()).for_each(|(m, dx)| *m += f64::from(*dx) / DRAWS as f64);
    }
    for (mean, exact) in mean.iter().zip(exact.1.unwrap().as_slice()) {
        assert!((mean - f64::from(*exact)).abs() < 0.08, "{mean} for {exact}");
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

#[test]
fn a_folded_convolution_without_quantizer_is_a_convolution_and_a_batch_norm() {
    let conv = Conv2dConfig { padding: PaddingRule::Same, ..Conv2dConfig::new(3, 4, 3) };
    let norm = BatchNormConfig { epsilon: 1e-3, ..BatchNormConfig::new(4) };
    let mut folded = FoldedConv2d::new(&conv, &norm, &mut Init::new(4)).unwrap();
    let mut apart = Sequential::new()
        .with("conv", Conv2d::new(&conv, &mut Init::new(4)).unwrap())
        .with("norm", BatchNorm::new(&norm).unwrap());
    let (gamma, beta) = (numbers(&[4], 1), numbers(&[4], 2));
    for model in [&mut folded as &mut dyn Module, &mut apart] {
        set(model, "norm.gamma", &gamma);
        set(model, "norm.beta", &beta);
    }
    let x = numbers(&[3, 6, 5, 3], 6);
    for mode in [Mode::Train, Mode::Eval] {
        let (y, dx) = pass(&mut folded, mode, (0, 0.0), &x);
        let (expected_y, expected_dx) = pass(&mut apart, mode, (0, 0.0), &x);
        close(&y, &expected_y, "y");
        close(&dx.unwrap(), &expected_dx.unwrap(), "dx");
    }
    let (a, b) = (state_dict(&folded), state_dict(&apart));
    for name in ["norm.running_mean", "norm.running_var"] {
        close(&a[name], &b[name], name);
    }
}

#[test]
fn the_folded_kernel_is_what_is_quantized() {
    let per_channel = Affine::symmetric(8).unwrap().with_granularity(Granularity::LastAxis);
    let conv = Conv2dConfig {
        bias: false,
        kernel_quantizer: Some(Pair::published(per_channel.clone())),
        ..Conv2dConfig::new(2, 3, 3)
    };
    // Too small to change a square root in f32.
    let norm = BatchNormConfig { epsilon: 1e-12, ..BatchNormConfig::new(3) };
    let mut layer = FoldedConv2d::new(&conv, &norm, &mut Init::new(4)).unwrap();
    set(&mut layer, "norm.gamma", &Tensor::from_vec(&[3], vec![0.5, -2.0, 1.0]).unwrap());
    set(&mut layer, "norm.running_var", &Tensor::from_vec(&[3], vec![4.0, 1.0, 0.25]).unwrap());
    set(&mut layer, "norm.running_mean", &Tensor::from_vec(&[3], vec![1.0, 2.0, 3.0]).unwrap());
    let s = [0.25, -2.0, 2.0];
    let mut kernel = layer.conv().kernel().value().clone();
    kernel.as_mut_slice().iter_mut().enumerate().for_each(|(i, w)| *w *= s[i % 3]);
    let kernel = quantize(&per_channel, &kernel.to_array()).unwrap();
    let mut plain = Conv2d::new(&Conv2dConfig::new(2, 3, 3), &mut Init::new(0)).unwrap();
    set(&mut plain, "kernel", &Tensor::from_array(&kernel));
    set(&mut plain, "bias", &Tensor::from_vec(&[3], vec![-0.25, 4.0, -6.0]).unwrap());
    let x = numbers(&[2, 5, 4, 2], 3);
    close(
        &pass(&mut layer, Mode::Eval, (0, 0.0), &x).0,
        &pass(&mut plain, Mode::Eval, (0, 0.0), &x).0,
        "evaluation",
    );
    pass(&mut layer, Mode::Train, (0, 0.0), &x);
}

#[test]
fn a_folded_convolution_scales_no_inputs_and_quantizes_no_gradients() {
    let norm = BatchNormConfig::new(3);
    let quantizer = Some(Pair::published(Sign));
    let base = Conv2dConfig::new(2, 3, 3);
    for conv in [
        Conv2dConfig { gradient_bits: Some(4), ..base.clone() },
        Conv2dConfig { input_scaling: true, input_quantizer: quantizer, ..base.clone() },
    ] {
        assert!(matches!(FoldedConv2d::new(&conv, &norm, &mut Init::new(0)), Err(Error::Setting { .. })));
    }
    let scaled = Conv2dConfig { kernel_quantizer: Some(Pair::published(ScaledSign::per_filter())), ..base };
    assert!(FoldedConv2d::new(&scaled, &norm, &mut Init::new(0)).is_ok());
}
