//! Networks of integers alone: the program's integers are the training graph's.

mod common;

use common::{Net, assert_exact, bits, calibrated, graph_logits, images};
use qnn_deploy::{Action, Elements, Error, Program, Session, freeze, verify};
use qnn_files::Container;
use qnn_layers::{
    BatchNormConfig, Calibration, Conv2dConfig, Ctx, FoldedConv2d, Init, Layer, LeafMut, MaxPool2d, Module,
    Path, QuantizeRange, QuantizeRangeConfig, Relu, Sequential, apply_updates,
};
use qnn_models::{Scheme, Shortcut};
use qnn_quant::{Affine, Granularity, Pair, RangeMethod};
use qnn_tensor::Tape;

const NETS: [Net; 8] = [
    Net::LeNet5,
    Net::Vgg7,
    Net::Mlp,
    Net::MlpOutputNorm,
    Net::ResNet8(Shortcut::Projection),
    Net::ResNet8(Shortcut::ProjectionNorm),
    Net::ResNet8(Shortcut::PadZero),
    Net::ResNet8(Shortcut::None),
];

const ORDINARY: [f32; 6] = [1.0, 0.5, 2.0, -1.0, -0.25, 0.0];
const EXTREME: [f32; 10] = [-1e-12, 0.0, -0.0, 1e-30, 1e-40, -1e-38, 1.0, -1.5, 300.0, 1e-6];

fn resnet(seed: u64) -> Box<dyn Layer> {
    calibrated(Net::ResNet8(Shortcut::Projection), seed, &ORDINARY)
}

#[test]
fn every_network_is_its_program_bit_for_bit() {
    for (i, net) in NETS.into_iter().enumerate() {
        for gammas in [&ORDINARY[..], &EXTREME] {
            let model = calibrated(net, 7 + i as u64, gammas);
            assert_exact(&format!("{net:?}"), model.as_ref(), net.shape());
            let program = freeze(model.as_ref(), net.shape()).unwrap();
            let batch = || [images(5, net.shape(), 31).as_slice().to_vec()];
            let report = verify(model.as_ref(), &program, batch()).unwrap();
            assert!(
                report.is_exact() && report.sums > 500 && report.values > report.sums / 8,
                "{net:?}: {report}"
            );
            assert_eq!(report.stages, program.stages().len(), "every stage is compared");
        }
    }
}

#[test]
fn between_image_and_logits_there_are_only_integers() {
    for net in NETS {
        let program = freeze(calibrated(net, 3, &ORDINARY).as_ref(), net.shape()).unwrap();
        let floats = program.values().iter().filter(|value| value.elements == Elements::Float).count();
        assert_eq!(floats, 2, "{net:?}\n{program}");
        let integer = |action: &Action| matches!(action, Action::Integer(_) | Action::MaxPool { .. });
        assert!(program.stages().iter().all(|stage| integer(&stage.action)), "{net:?}\n{program}");
        assert!(program.to_string().contains("int8 × int8, integer sums, requantized"), "{program}");
        // A byte per weight, and some words per channel.
        let weights: usize = qnn_layers::parameter_count(
            net.build(&Scheme::preset("int8").unwrap(), 0).as_ref(),
            qnn_layers::Count::ConvAndDense,
        );
        assert!(program.tensor_bytes() < weights + 16 * 1024, "{} for {weights}", program.tensor_bytes());
    }
}

#[test]
fn the_integers_are_close_to_the_numbers_they_stand_for() {
    for net in NETS {
        let model = calibrated(net, 5, &ORDINARY);
        let x = images(6, net.shape(), 5);
        let found = graph_logits(model.as_ref(), &x);
        let tape = Tape::new();
        let mut cx = Ctx::calibrating(&tape, Calibration::new(RangeMethod::MinMax).unwrap());
        let expected = model.forward(&mut cx, tape.constant(x).into()).unwrap().value().value();
        let range = expected.as_slice().iter().fold(0.0_f32, |range, y| range.max(y.abs()));
        for (found, expected) in found.iter().zip(expected.as_slice()) {
            assert!((found - expected).abs() < 0.06 * range, "{net:?}: {found} for {expected} of {range}");
        }
    }
}

#[test]
fn batches_and_threads_change_no_bit() {
    let net = Net::ResNet8(Shortcut::Projection);
    let mut session = Session::new(&freeze(resnet(1).as_ref(), net.shape()).unwrap()).unwrap();
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

#[test]
fn ranges_that_nobody_has_observed_are_an_error() {
    for net in NETS {
        let model = net.build(&Scheme::preset("int8").unwrap(), 1);
        let error = freeze(model.as_ref(), net.shape()).unwrap_err();
        assert!(matches!(error, Error::Forward { .. }), "{net:?}: {error}");
        assert!(error.to_string().contains("train or calibrate the network"), "{net:?}: {error}");
    }
}

#[test]
fn parameters_that_are_not_finite_are_an_error() {
    let mut model = resnet(2);
    model.visit_mut(&mut Path::default(), &mut |at, leaf| match leaf {
        LeafMut::Param(param) if at.as_str() == "blocks.1.conv2.kernel" => {
            param.value_mut().as_mut_slice()[3] = f32::NAN;
        }
        _ => {}
    });
    let error = freeze(model.as_ref(), [12, 12, 3]).unwrap_err();
    assert!(error.to_string().contains("blocks.1.conv2"), "{error}");
}

#[test]
fn files_hold_integers_and_say_so() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("int8.qnn");
    for net in [Net::LeNet5, Net::ResNet8(Shortcut::PadZero)] {
        let program = freeze(calibrated(net, 11, &ORDINARY).as_ref(), net.shape()).unwrap();
        program.save(&path).unwrap();
        let container = Container::read(&path).unwrap();
        assert!(container.note().starts_with("qnn-packed-model 3 "));
        assert!(container.note().contains("halves away from zero"));
        let loaded = Program::load(&path).unwrap();
        assert_eq!(loaded, program);
        let x = images(2, net.shape(), 9);
        let run = |program| Session::new(program).unwrap().run(x.as_slice()).unwrap();
        assert_eq!(bits(&run(&loaded)), bits(&run(&program)));
    }
}

#[test]
fn forged_integers_are_errors_or_found() {
    use serde_json::{Value, json};
    type Change = fn(&mut Value);
    let changes: [(&str, Change); 8] = [
        ("codes that no byte holds", |program| {
            program["values"][1]["elements"]["bytes"]["first"] = json!(-300);
        }),
        ("codes without zero", |program| program["values"][1]["elements"]["bytes"]["first"] = json!(3)),
        ("no codes at all", |program| program["values"][1]["elements"]["bytes"]["count"] = json!(0)),
        ("a scale of nothing", |program| {
            program["stages"][0]["action"]["integer"]["quantize"]["scale"] = json!(0.0);
        }),
        ("an operand that is missing", |program| {
            let stages = program["stages"].as_array_mut().unwrap();
            let sum = stages.iter_mut().find(|stage| stage["action"]["integer"]["sum"].is_object()).unwrap();
            sum["operand"] = Value::Null;
        }),
        ("an operand of numbers", |program| {
            let stages = program["stages"].as_array_mut().unwrap();
            let sum = stages.iter_mut().find(|stage| stage["action"]["integer"]["sum"].is_object()).unwrap();
            sum["operand"] = json!(0);
        }),
        ("a shift of the sum beyond its bits", |program| {
            let stages = program["stages"].as_array_mut().unwrap();
            let sum = stages.iter_mut().find(|stage| stage["action"]["integer"]["sum"].is_object()).unwrap();
            sum["action"]["integer"]["sum"]["shift"] = json!(40);
        }),
        ("a multiplier of few bits", |program| {
            let stages = program["stages"].as_array_mut().unwrap();
            let mean =
                stages.iter_mut().find(|stage| stage["action"]["integer"]["mean"].is_object()).unwrap();
            mean["action"]["integer"]["mean"]["multiplier"] = json!(7);
        }),
    ];
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("int8.qnn");
    let program = freeze(resnet(4).as_ref(), [12, 12, 3]).unwrap();
    for (what, change) in changes {
        program.save(&path).unwrap();
        common::forge(&path, |description, _| change(&mut description["program"]));
        let found = Program::load(&path);
        assert!(matches!(found, Err(Error::Format { .. } | Error::Program { .. })), "{what}: {found:?}");
    }
    program.save(&path).unwrap();
    common::forge(&path, |_, tensors| {
        let kernel = tensors.iter_mut().find(|(name, ..)| name.contains("blocks.1.conv2.kernel"));
        kernel.unwrap().2[0] ^= 1;
    });
    let batch = [images(3, [12, 12, 3], 5).as_slice().to_vec()];
    let report = verify(resnet(4).as_ref(), &Program::load(&path).unwrap(), batch).unwrap();
    let difference = report.difference.as_ref().unwrap();
    assert_eq!((difference.layer.as_str(), difference.what), ("blocks.1.conv2", "sums"), "{report}");
}

/// A quantized image, something, and a folded convolution, whose sums are the logits.
fn composed(between: impl Layer + 'static, behind: Option<Relu>) -> Sequential {
    let per_channel = Affine::symmetric(8).unwrap().with_granularity(Granularity::LastAxis);
    let config =
        Conv2dConfig { kernel_quantizer: Some(Pair::published(per_channel)), ..Conv2dConfig::new(3, 5, 3) };
    let conv = FoldedConv2d::new(&config, &BatchNormConfig::new(5), &mut Init::new(3)).unwrap();
    let mut model = Sequential::new()
        .with("input", QuantizeRange::new(QuantizeRangeConfig::new()).unwrap())
        .with("between", between)
        .with("conv", conv);
    if let Some(relu) = behind {
        model = model.with("relu", relu);
    }
    let tape = Tape::new();
    let mut cx = Ctx::calibrating(&tape, Calibration::new(RangeMethod::MinMax).unwrap());
    model.forward(&mut cx, tape.constant(images(2, [8, 8, 3], 1)).into()).unwrap();
    let updates = cx.into_calibration().into_updates();
    apply_updates(&mut model, updates);
    model
}

#[test]
fn composed_networks_are_lowered_or_refused_by_name() {
    assert_exact("a pool of codes", &composed(MaxPool2d::new(2), None), [8, 8, 3]);
    let mixed = composed(MaxPool2d::new(2), Some(Relu::default()));
    match freeze(&mixed, [8, 8, 3]) {
        Err(Error::Unsupported { layer, .. }) => assert!(layer.starts_with("relu after conv"), "{layer}"),
        other => panic!("{other:?}"),
    }
}
