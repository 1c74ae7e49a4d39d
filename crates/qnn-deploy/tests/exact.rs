//! The logits of a session are those of the training graph, bit for bit.

mod common;

use common::{Net, assert_exact, images, randomize};
use qnn_deploy::{Action, Arithmetic, Session, freeze};
use qnn_kernels::{Algorithm, Padding};
use qnn_layers::{
    Conv2d, Conv2dConfig, GlobalAveragePool, HardTanh, Init, PaddingRule, Quantize, Sequential,
    ShiftBatchNorm, ShiftBatchNormConfig,
};
use qnn_models::{Activation, Scheme};
use qnn_quant::{DorefaActivations, DorefaWeights, Pair, Sign};

const PRESETS: [&str; 14] = [
    "bnn",
    "bnn-w-dorefa-a",
    "dorefa",
    "dorefa-w-bnn-a",
    "dorefa-w",
    "twn",
    "bc",
    "bc-1.2",
    "bwn",
    "xnor",
    "xnor-full",
    "binary",
    "fp",
    "bnn-a",
];

/// DoReFa-Net with bits of its own for weights and activations.
fn dorefa(weights: u32, activations: u32) -> Scheme {
    Scheme {
        kernel: Some(Pair::published(DorefaWeights::new(weights).unwrap())),
        activation: Activation::Quantized(Pair::published(DorefaActivations::new(activations).unwrap())),
        ..Scheme::default()
    }
}

fn schemes() -> impl Iterator<Item = (String, Scheme)> {
    let presets = PRESETS.map(|name| (name.to_owned(), Scheme::preset(name).unwrap()));
    let bits = [(1, 2), (2, 2), (3, 4)];
    presets.into_iter().chain(bits.map(|(w, a)| (format!("dorefa ({w}, {a})"), dorefa(w, a))))
}

fn check(net: Net) {
    for (i, (name, scheme)) in schemes().enumerate() {
        let mut model = net.build(&scheme, 5 + i as u64);
        randomize(model.as_mut(), 100 + i as u64);
        assert_exact(&format!("{net:?} {name}"), model.as_ref(), net.shape());
    }
}

/// Numbers by numbers go through tiles where the graph's do, and are summed directly where that is asked for; codes always are.
#[test]
fn programs_take_the_algorithm_of_the_graph() {
    let conv = |algorithm, quantizer: Option<Sign>, activation: Option<Sign>| Conv2dConfig {
        padding: PaddingRule::Same,
        pad_value: if activation.is_some() { -1.0 } else { 0.0 },
        algorithm,
        kernel_quantizer: quantizer.map(Pair::published),
        input_quantizer: activation.map(Pair::published),
        ..Conv2dConfig::new(32, 48, 3)
    };
    let cases = [
        (conv(Algorithm::Winograd, None, None), Arithmetic::Winograd),
        (conv(Algorithm::Winograd, None, Some(Sign)), Arithmetic::Winograd),
        (conv(Algorithm::Direct, None, None), Arithmetic::Float),
        (conv(Algorithm::Exact, None, None), Arithmetic::Exact),
        (conv(Algorithm::Winograd, Some(Sign), None), Arithmetic::WeightOnly),
        (conv(Algorithm::Winograd, Some(Sign), Some(Sign)), Arithmetic::Integer),
        (Conv2dConfig { stride: 2, ..conv(Algorithm::Winograd, None, None) }, Arithmetic::Float),
    ];
    for (at, (config, expected)) in cases.into_iter().enumerate() {
        let model = Sequential::new().with("conv", Conv2d::new(&config, &mut Init::new(at as u64)).unwrap());
        let shape = [7, 6, 32];
        let program = freeze(&model, shape).unwrap();
        let Some(Action::Product(product)) = program.stages().last().map(|stage| &stage.action) else {
            panic!("{program}")
        };
        assert_eq!(product.arithmetic, expected, "{program}");
        assert_exact(&format!("case {at}"), &model, shape);
        // Numbers become codes, and signs, in pieces.
        for codes in [Pair::published(DorefaActivations::new(2).unwrap()), Pair::published(Sign)] {
            let model = Sequential::new()
                .with("conv", Conv2d::new(&config, &mut Init::new(at as u64)).unwrap())
                .with("codes", Quantize::new(codes))
                .with(
                    "next",
                    Conv2d::new(
                        &Conv2dConfig {
                            kernel_quantizer: Some(Pair::published(Sign)),
                            ..Conv2dConfig::new(48, 3, 3)
                        },
                        &mut Init::new(1),
                    )
                    .unwrap(),
                );
            assert_exact(&format!("case {at} with codes"), &model, shape);
        }
    }
}

/// Its map K is a mean in f32, whatever its product.
#[test]
fn scales_of_pixels_beside_exact_sums() {
    let config = Conv2dConfig {
        padding: PaddingRule::Same,
        kernel_quantizer: Some(Pair::published(Sign)),
        input_quantizer: Some(Pair::published(Sign)),
        input_scaling: true,
        algorithm: Algorithm::Exact,
        ..Conv2dConfig::new(32, 48, 3)
    };
    let model = Sequential::new().with("conv", Conv2d::new(&config, &mut Init::new(3)).unwrap());
    assert_exact("exact", &model, [7, 6, 32]);
}

#[test]
fn lenet5() {
    check(Net::LeNet5);
}

#[test]
fn vgg7() {
    check(Net::Vgg7);
}

#[test]
fn resnets_with_every_shortcut() {
    check(Net::ResNet8(qnn_models::Shortcut::Projection));
    check(Net::ResNet8(qnn_models::Shortcut::ProjectionNorm));
    check(Net::ResNet8(qnn_models::Shortcut::PadZero));
    check(Net::ResNet8(qnn_models::Shortcut::None));
}

/// Every activation of ±1 selects among two sets of thresholds, one of {0..3} among four.
#[test]
fn residual_sums_with_codes_are_selected_thresholds() {
    // Two of nine shortcuts are projections; the last codes of several bits become values before their mean.
    let schemes =
        [(Scheme::preset("bnn").unwrap(), 7), (Scheme::preset("dorefa").unwrap(), 7), (dorefa(1, 2), 6)];
    for (i, (scheme, sums)) in schemes.iter().enumerate() {
        let (net, seed) = (Net::ResNet20, i as u64);
        let mut model = net.build(scheme, seed);
        randomize(model.as_mut(), seed + 40);
        let text = freeze(model.as_ref(), net.shape()).unwrap().to_string();
        assert_eq!(text.matches("integer sums, selected thresholds").count(), *sums, "{text}");
        assert_exact(&format!("scheme {i}"), model.as_ref(), net.shape());
    }
}

#[test]
fn multilayer_perceptrons() {
    check(Net::Mlp);
    check(Net::MlpOutputNorm);
}

#[test]
fn batches_and_threads_change_no_bit() {
    let net = Net::ResNet8(qnn_models::Shortcut::Projection);
    let mut model = net.build(&Scheme::preset("bnn").unwrap(), 1);
    randomize(model.as_mut(), 2);
    let mut session = Session::new(&freeze(model.as_ref(), net.shape()).unwrap()).unwrap();
    let x = images(9, net.shape(), 3);
    let whole = session.run(x.as_slice()).unwrap();
    for threads in [1, 2, 3] {
        let pool = rayon::ThreadPoolBuilder::new().num_threads(threads).build().unwrap();
        assert_eq!(pool.install(|| session.run(x.as_slice())).unwrap(), whole, "{threads} threads");
    }
    let image: usize = net.shape().iter().product();
    let single = x.as_slice().chunks(image).flat_map(|x| session.run(x).unwrap());
    assert_eq!(single.collect::<Vec<_>>(), whole);
}

/// Groups down to single channels, images that go on as +1 or −1, and batch norms of powers of two.
#[test]
fn layers_that_no_model_here_has() {
    let two_bits = || Pair::published(DorefaActivations::new(2).unwrap());
    let sign = || Pair::published(Sign);
    let activations: [(&str, Option<Pair>); 3] =
        [("f32", None), ("sign", Some(sign())), ("2 bits", Some(two_bits()))];
    for (kind, activation) in activations {
        for (seed, groups) in [1, 2, 4, 8].into_iter().enumerate() {
            for pad_value in if kind == "2 bits" { vec![0.0] } else { vec![0.0, 1.0, -1.0] } {
                let mut model = grouped(activation.as_ref(), groups, pad_value);
                randomize(&mut model, seed as u64);
                let what = format!("{kind}, {groups} groups, padded with {pad_value}");
                assert_exact(&what, &model, [9, 7, 3]);
                let text = freeze(&model, [9, 7, 3]).unwrap().to_string();
                let integers = if activation.is_some() { 2 } else { 0 };
                assert_eq!(text.matches("integer sums").count(), integers, "{what}: {text}");
            }
        }
    }
}

/// The one window of an image begins in its padding, though it is as large as the image.
#[test]
fn padding_before_a_kernel_of_the_images_size_counts() {
    let sign = || Some(Pair::published(Sign));
    let around = |before, after| Padding { top: before, left: before, bottom: after, right: after };
    for (extent, stride, padding) in
        [(3, 3, around(1, 1)), (3, 2, around(1, 0)), (1, 3, around(1, 1)), (3, 2, around(0, 1))]
    {
        let shape = Conv2dConfig::new(2, 5, extent);
        let shape = Conv2dConfig { stride, padding: PaddingRule::Explicit(padding), ..shape };
        for (what, config) in [
            ("f32", shape.clone()),
            ("signs in the kernel", Conv2dConfig { kernel_quantizer: sign(), ..shape.clone() }),
            (
                "signs with scales",
                Conv2dConfig {
                    kernel_quantizer: sign(),
                    input_quantizer: sign(),
                    input_scaling: true,
                    ..shape.clone()
                },
            ),
        ] {
            let mut model = Sequential::new().then(Conv2d::new(&config, &mut Init::new(7)).unwrap());
            randomize(&mut model, 8);
            assert_exact(&format!("{what}, {padding:?}, stride {stride}"), &model, [extent, extent, 2]);
        }
    }
}

/// Eight channels from the image, eight in groups, then sixteen, with shift-based batch norms between.
fn grouped(activation: Option<&Pair>, groups: usize, pad_value: f32) -> Sequential {
    let init = &mut Init::new(groups as u64);
    let mut conv = |inputs, outputs, groups| {
        let kernel_quantizer = Some(Pair::published(Sign));
        let padding = PaddingRule::Same;
        let shape = Conv2dConfig::new(inputs, outputs, 3);
        let config = Conv2dConfig { groups, padding, pad_value, kernel_quantizer, ..shape };
        Conv2d::new(&config, init).unwrap()
    };
    let norm = |channels, round_variance| {
        let config = ShiftBatchNormConfig { round_variance, ..ShiftBatchNormConfig::new(channels) };
        ShiftBatchNorm::new(&config).unwrap()
    };
    let activate = |model: Sequential| match activation {
        Some(pair) => model.then(Quantize::new(pair.clone())),
        None => model.then(HardTanh),
    };
    let model = Sequential::new().then(conv(3, 8, 1)).then(norm(8, true));
    let model = activate(model).then(conv(8, 8, groups)).then(norm(8, false));
    let model = activate(model).then(conv(8, 16, groups)).then(norm(16, true));
    activate(model).then(GlobalAveragePool)
}
