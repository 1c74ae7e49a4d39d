//! What quantizers do inside of weight layers: exact sums of codes, gradients by the estimator, and
//! nothing at all if they are identities.

use proptest::prelude::*;
use qnn_layers::{
    Constraint, Conv2d, Conv2dConfig, Ctx, Dense, DenseConfig, Error, Init, Layer, LeafMut, Mode, Module,
    PaddingRule, Path, Quantize, Relu, Sequential, for_each_param, state_dict,
};
use qnn_quant::{
    ConstantScaledSign, DorefaActivations, DorefaWeights, Identity, Pair, ScaledSign, Sign, Ternary,
};
use qnn_tensor::ops::Conv2dOptions;
use qnn_tensor::{Padding, Tape, Tensor};

/// Numbers without a pattern, of both signs and below 1.2 in absolute value.
fn numbers(shape: &[usize], seed: usize) -> Tensor {
    Tensor::from_fn(shape, |i| (((i + 1) * (seed * 2 + 7)) as f32 * 0.618).sin() * 1.2)
}

fn bits(tensor: &Tensor) -> Vec<u32> {
    tensor.as_slice().iter().map(|x| x.to_bits()).collect()
}

fn assert_close(a: &[f32], b: &[f32], what: &str) {
    assert_eq!(a.len(), b.len(), "{what}");
    let largest = b.iter().fold(1e-3_f32, |m, x| m.max(x.abs()));
    for (i, (a, b)) in a.iter().zip(b).enumerate() {
        assert!((a - b).abs() <= 2e-6 * largest, "{what}: {a} for {b} at {i}");
    }
}

/// Output, gradients by path, and the number of nodes of one training pass.
fn train(model: &dyn Layer, x: &Tensor) -> (Tensor, Vec<(String, Tensor)>, usize) {
    let tape = Tape::new();
    let mut cx = Ctx::new(&tape, Mode::Train, 1, 2);
    let y = model.forward(&mut cx, tape.leaf(x.clone()).into()).unwrap().value();
    let value = y.value();
    let loss = (y * tape.constant(numbers(value.shape(), 5))).sum();
    let (bindings, nodes) = (cx.finish(), tape.len());
    let gradients = bindings.gradients(&mut tape.backward(loss));
    let mut named = Vec::new();
    for_each_param(model, &mut |path, param| {
        named.push((path.to_owned(), gradients.of(param.id()).expect(path).clone()));
    });
    (value, named, nodes)
}

fn network(quantizer: Option<Pair>) -> Sequential {
    let init = &mut Init::new(3);
    let conv = Conv2dConfig {
        kernel_quantizer: quantizer.clone(),
        input_quantizer: quantizer.clone(),
        padding: PaddingRule::Same,
        ..Conv2dConfig::new(3, 8, 3)
    };
    let dense = DenseConfig {
        kernel_quantizer: quantizer.clone(),
        input_quantizer: quantizer,
        ..DenseConfig::new(8, 4)
    };
    Sequential::new()
        .then(Conv2d::new(&conv, init).unwrap())
        .then(Relu::default())
        .then(Dense::new(&dense, init).unwrap())
}

#[test]
fn identity_quantizers_change_no_bit_and_record_no_node() {
    let x = numbers(&[2, 6, 5, 3], 1);
    let (plain, plain_gradients, plain_nodes) = train(&network(None), &x);
    let (same, same_gradients, same_nodes) = train(&network(Some(Pair::published(Identity))), &x);
    assert_eq!(bits(&plain), bits(&same));
    assert_eq!(plain_nodes, same_nodes);
    for ((path, a), (_, b)) in plain_gradients.iter().zip(&same_gradients) {
        assert_eq!(bits(a), bits(b), "{path}");
    }
}

#[test]
fn a_factored_convolution_is_the_convolution_of_the_values() {
    let kernel = Pair::published(ScaledSign::per_filter());
    let input = Pair::published(DorefaActivations::new(2).unwrap());
    let config = Conv2dConfig {
        kernel_quantizer: Some(kernel.clone()),
        input_quantizer: Some(input.clone()),
        padding: PaddingRule::Same,
        stride: 2,
        ..Conv2dConfig::new(3, 5, 3)
    };
    let layer = Conv2d::new(&config, &mut Init::new(9)).unwrap();
    let x = numbers(&[2, 7, 8, 3], 2);

    let tape = Tape::new();
    let mut cx = Ctx::new(&tape, Mode::Train, 0, 0);
    let input_leaf = tape.leaf(x.clone());
    let y = layer.forward(&mut cx, input_leaf.into()).unwrap().value();
    let value = y.value();
    let cotangent = numbers(value.shape(), 4);
    let bindings = cx.finish();
    let mut gradients = tape.backward_from(y, cotangent.clone());
    let dx = gradients.take(input_leaf).unwrap();
    let dw = bindings.gradients(&mut gradients).take(layer.kernel().id()).unwrap();

    let latent = layer.kernel().value();
    let (w_values, w_grid) = kernel.value(latent.view()).unwrap();
    let (x_values, x_grid) = input.value(x.view()).unwrap();
    let plain = Tape::new();
    let (px, pw) = (plain.leaf(Tensor::from_array(&x_values)), plain.leaf(Tensor::from_array(&w_values)));
    let padding = Padding::same([7, 8], [3, 3], [2, 2]);
    let options = Conv2dOptions { stride: [2, 2], padding, ..Conv2dOptions::default() };
    let py = px.conv2d(pw, None, &options);
    assert_close(value.as_slice(), py.value().as_slice(), "y");
    let plain_gradients = plain.backward_from(py, cotangent);
    let through =
        |pair: &Pair, x: &Tensor, grid, dy: &Tensor| pair.pullback(x.view(), grid, dy.view()).unwrap();
    let expected_dw = through(&kernel, latent, &w_grid, plain_gradients.of(pw).unwrap());
    let expected_dx = through(&input, &x, &x_grid, plain_gradients.of(px).unwrap());
    assert_close(dw.as_slice(), expected_dw.as_slice().unwrap(), "dw");
    assert_close(dx.as_slice(), expected_dx.as_slice().unwrap(), "dx");
}

/// The sums of a dense layer over integer codes, in i64, scaled as documented.
fn exact_dense(layer: &Dense, x: &Tensor, kernel: &Pair, input: &Pair) -> Vec<f32> {
    let [inputs, outputs] = layer.kernel().value().shape() else { panic!("a matrix") };
    let w = layer.kernel().value();
    let (w_grid, x_grid) = (kernel.map.fit(w.view()).unwrap(), input.map.fit(x.view()).unwrap());
    let w_codes = kernel.map.codes(w.view(), &w_grid).unwrap().into_raw_vec_and_offset().0;
    let x_codes = input.map.codes(x.view(), &x_grid).unwrap().into_raw_vec_and_offset().0;
    let scales = w_grid.scales();
    let mut y = Vec::new();
    for row in x_codes.chunks(*inputs) {
        for o in 0..*outputs {
            let sum: i64 =
                (0..*inputs).map(|k| i64::from(row[k]) * i64::from(w_codes[k * outputs + o])).sum();
            let scale = x_grid.scales()[0] * scales[o % scales.len()];
            y.push(sum as f32 * scale);
        }
    }
    y
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(48))]

    #[test]
    fn sums_of_codes_are_exact_integers(inputs in 1_usize..200, outputs in 1_usize..9, rows in 1_usize..4, seed in 0_usize..50, map in 0..4) {
        let kernel = match map {
            0 => Pair::published(Sign),
            1 => Pair::published(ScaledSign::per_filter()),
            2 => Pair::published(Ternary::per_tensor()),
            _ => Pair::published(ConstantScaledSign::new(0.125).unwrap()),
        };
        let input = Pair::published(DorefaActivations::new(4).unwrap());
        let config = DenseConfig {
            bias: false,
            kernel_quantizer: Some(kernel.clone()),
            input_quantizer: Some(input.clone()),
            ..DenseConfig::new(inputs, outputs)
        };
        let layer = Dense::new(&config, &mut Init::new(seed as u64)).unwrap();
        let x = numbers(&[rows, inputs], seed);
        let tape = Tape::new();
        let mut cx = Ctx::new(&tape, Mode::Eval, 0, 0);
        let y = layer.forward(&mut cx, tape.constant(x.clone()).into()).unwrap().value().value();
        prop_assert_eq!(y.as_slice(), exact_dense(&layer, &x, &kernel, &input));
    }
}

/// Sums that a training pass rounds term by term an evaluation makes as integers do.
#[test]
fn an_evaluation_sums_codes_exactly_beyond_f32() {
    let kernel = Pair::published(DorefaWeights::new(8).unwrap());
    let input = Pair::published(DorefaActivations::new(8).unwrap());
    let config = DenseConfig {
        bias: false,
        kernel_quantizer: Some(kernel.clone()),
        input_quantizer: Some(input.clone()),
        ..DenseConfig::new(3000, 4)
    };
    let mut layer = Dense::new(&config, &mut Init::new(1)).unwrap();
    layer.visit_mut(&mut Path::default(), &mut |_, leaf| {
        if let LeafMut::Param(param) = leaf {
            param.value_mut().as_mut_slice().iter_mut().for_each(|w| *w = w.abs());
        }
    });
    let x = numbers(&[5, 3000], 3).map(f32::abs);
    let run = |mode| {
        let tape = Tape::new();
        let mut cx = Ctx::new(&tape, mode, 0, 0);
        layer.forward(&mut cx, tape.constant(x.clone()).into()).unwrap().value().value()
    };
    let expected = exact_dense(&layer, &x, &kernel, &input);
    assert_eq!(run(Mode::Eval).as_slice(), expected);
    let trained = run(Mode::Train);
    assert_ne!(trained.as_slice(), expected, "sums that f32 holds show nothing");
    for (trained, expected) in trained.as_slice().iter().zip(&expected) {
        assert!((trained - expected).abs() <= 1e-5 * expected, "{trained} {expected}");
    }
}

#[test]
fn a_quantized_activation_stays_factored_up_to_the_next_layer() {
    let tape = Tape::new();
    let mut cx = Ctx::new(&tape, Mode::Train, 0, 0);
    let x = tape.leaf(numbers(&[2, 6], 1));
    let pair = Pair::published(DorefaActivations::new(3).unwrap());
    let signal = Quantize::new(pair).forward(&mut cx, x.into()).unwrap();
    assert_eq!(signal.scale(), 1.0 / 7.0);
    assert!(signal.codes().value().as_slice().iter().all(|c| c.fract() == 0.0 && (0.0..=7.0).contains(c)));
}

#[test]
fn scales_that_no_layer_can_factor_out_are_errors() {
    let kernel_quantizer = Some(Pair::published(ScaledSign::per_axis(0)));
    let config = DenseConfig { kernel_quantizer, ..DenseConfig::new(4, 3) };
    let dense = Dense::new(&config, &mut Init::new(0)).unwrap();
    let activation = Quantize::new(Pair::published(ScaledSign::per_filter()));
    let tape = Tape::new();
    let mut cx = Ctx::new(&tape, Mode::Train, 0, 0);
    for layer in [&dense as &dyn Layer, &activation] {
        let x = tape.leaf(numbers(&[2, 4], 1)).into();
        assert!(matches!(layer.forward(&mut cx, x), Err(Error::Scales { .. })), "{layer:?}");
    }
}

#[test]
fn what_a_quantizer_rejects_is_an_error_and_nan_shows() {
    let tape = Tape::new();
    let mut cx = Ctx::new(&tape, Mode::Train, 0, 0);
    let layer = Quantize::new(Pair::published(ScaledSign::per_tensor()));
    let x = |value| tape.leaf(Tensor::from_vec(&[2], vec![1.0, value]).unwrap()).into();
    let infinite = layer.forward(&mut cx, x(f32::INFINITY));
    assert!(matches!(infinite, Err(Error::Quantizer { layer: "quantize", operand: "input", .. })));
    let diverged = layer.forward(&mut cx, x(f32::NAN)).unwrap();
    assert!(diverged.value().value().as_slice()[1].is_nan());
}

#[test]
fn latent_kernels_do_not_decay_and_obey_their_constraint() {
    let config = DenseConfig {
        kernel_quantizer: Some(Pair::published(Sign)),
        constraint: Some(Constraint::Clip { limit: 0.25 }),
        ..DenseConfig::new(16, 4)
    };
    let dense = Dense::new(&config, &mut Init::new(0)).unwrap();
    assert!(!dense.kernel().decays());
    assert!(dense.kernel().value().as_slice().iter().all(|w| w.abs() <= 0.25));
    assert!(Dense::new(&DenseConfig::new(16, 4), &mut Init::new(0)).unwrap().kernel().decays());
    let config = DenseConfig { kernel_quantizer: Some(Pair::published(Identity)), ..DenseConfig::new(16, 4) };
    assert!(Dense::new(&config, &mut Init::new(0)).unwrap().kernel().decays());
}

#[test]
fn paths_of_the_weight_layers() {
    let keys = |m: &dyn Module| state_dict(m).into_keys().collect::<Vec<_>>();
    let conv = Conv2d::new(&Conv2dConfig::new(2, 4, 3), &mut Init::new(0)).unwrap();
    assert_eq!(keys(&conv), ["bias", "kernel"]);
    let config = DenseConfig { bias: false, ..DenseConfig::new(2, 4) };
    assert_eq!(keys(&Dense::new(&config, &mut Init::new(0)).unwrap()), ["kernel"]);
}

#[test]
fn grouped_convolutions_have_their_input_channels_divided() {
    let config = Conv2dConfig { groups: 4, ..Conv2dConfig::new(4, 8, 3) };
    let conv = Conv2d::new(&config, &mut Init::new(0)).unwrap();
    assert_eq!(conv.kernel().value().shape(), [3, 3, 1, 8]);
    let (y, _, _) = train(&conv, &numbers(&[1, 5, 5, 4], 1));
    assert_eq!(y.shape(), [1, 3, 3, 8]);
}

#[test]
fn senseless_settings_are_errors() {
    let good = Conv2dConfig::new(4, 8, 3);
    let bad = [
        Conv2dConfig { in_channels: 0, ..good.clone() },
        Conv2dConfig { out_channels: 0, ..good.clone() },
        Conv2dConfig { kernel: [3, 0], ..good.clone() },
        Conv2dConfig { stride: 0, ..good.clone() },
        Conv2dConfig { groups: 3, ..good.clone() },
        Conv2dConfig { groups: 0, ..good.clone() },
        Conv2dConfig { pad_value: 0.5, ..good.clone() },
        Conv2dConfig { pad_value: f32::NAN, ..good.clone() },
    ];
    for config in bad {
        let error = Conv2d::new(&config, &mut Init::new(0)).unwrap_err();
        assert!(matches!(error, Error::Setting { .. }), "{config:?}: {error}");
    }
    for huge in [usize::MAX, usize::MAX / 9 / 16, 1 << 25] {
        let config = Conv2dConfig { out_channels: huge, ..good.clone() };
        assert!(matches!(Conv2d::new(&config, &mut Init::new(0)), Err(Error::Size { .. })));
    }
    assert!(matches!(Dense::new(&DenseConfig::new(0, 3), &mut Init::new(0)), Err(Error::Setting { .. })));
}

#[test]
fn inputs_that_do_not_fit_are_errors() {
    let conv = Conv2d::new(&Conv2dConfig::new(4, 8, 3), &mut Init::new(0)).unwrap();
    let dense = Dense::new(&DenseConfig::new(4, 8), &mut Init::new(0)).unwrap();
    let tape = Tape::new();
    let mut cx = Ctx::new(&tape, Mode::Train, 0, 0);
    let mut error = |layer: &dyn Layer, shape: &[usize]| {
        layer.forward(&mut cx, tape.leaf(Tensor::zeros(shape)).into()).unwrap_err().to_string()
    };
    assert_eq!(
        error(&conv, &[1, 5, 5, 3]),
        "conv2d takes [n, h, w, 4] with h ≥ 3 and w ≥ 3 after padding, got [1, 5, 5, 3]"
    );
    assert!(error(&conv, &[1, 2, 5, 4]).ends_with("got [1, 2, 5, 4]"));
    assert!(error(&conv, &[5, 4]).ends_with("got [5, 4]"));
    assert_eq!(error(&dense, &[2, 5]), "dense takes [.., 4], got [2, 5]");
}
