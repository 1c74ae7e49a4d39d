//! Sizes, names and behaviour of the models.

use qnn_layers::{
    Count, Ctx, Init, Initializer, Layer, Mode, apply_updates, for_each_param, load_state_dict,
    parameter_count, state_dict,
};
use qnn_models::{
    BnnCnn, BnnCnnConfig, Error, LeNet5, LeNet5Config, Mlp, MlpConfig, Norm, ResNet, ResNetConfig, Scheme,
    Shortcut, Vgg7, Vgg7Config,
};
use qnn_quant::{DorefaActivations, Pair, Sign};
use qnn_tensor::{Tape, Tensor};

fn init() -> Init {
    Init::new(1)
}

fn images(shape: &[usize]) -> Tensor {
    Tensor::from_fn(shape, |i| ((i + 1) as f32 * 0.618).sin())
}

fn count(model: &dyn Layer) -> usize {
    parameter_count(model, Count::ConvAndDense)
}

/// Kernels and biases of a residual network with projections, written out.
fn resnet_count(n: usize) -> usize {
    let conv = |k: usize, i: usize, o: usize| k * k * i * o + o;
    let stage = |i: usize, o: usize| conv(3, i, o) + (2 * n - 1) * conv(3, o, o);
    let projections = conv(1, 16, 32) + conv(1, 32, 64);
    conv(3, 3, 16) + stage(16, 16) + stage(16, 32) + stage(32, 64) + projections + 64 * 10 + 10
}

#[test]
fn parameter_counts_are_the_published_ones() {
    assert_eq!(count(&LeNet5::new(&LeNet5Config::default(), &mut init()).unwrap()), 582_026);
    assert_eq!(count(&Vgg7::new(&Vgg7Config::default(), &mut init()).unwrap()), 12_976_266);
    let tiny = Mlp::new(&MlpConfig::tiny(), &mut init()).unwrap();
    assert_eq!(count(&tiny), 6_316_042);
    assert_eq!(parameter_count(&tiny, Count::All), 6_324_234);
    let bnn_cnn = BnnCnn::new(&BnnCnnConfig::default(), &mut init()).unwrap();
    assert_eq!(count(&bnn_cnn), 12_976_266 + 1024 * 1025);
    let svhn = BnnCnn::new(&BnnCnnConfig { width: 64, ..BnnCnnConfig::default() }, &mut init()).unwrap();
    let (conv, dense) = (|i: usize, o: usize| 9 * i * o + o, |i: usize, o: usize| i * o + o);
    let convs = conv(3, 64) + conv(64, 64) + conv(64, 128) + conv(128, 128) + conv(128, 256) + conv(256, 256);
    assert_eq!(count(&svhn), convs + dense(4096, 1024) + dense(1024, 1024) + dense(1024, 10));
    let h = 100;
    let mlp3 = Mlp::new(&MlpConfig::mlp3(h), &mut init()).unwrap();
    assert_eq!(count(&mlp3), 785 * h + 2 * (h + 1) * h + (h + 1) * 10);
    let normalized = MlpConfig { output_norm: true, ..MlpConfig::mlp3(h) };
    let normalized = Mlp::new(&normalized, &mut init()).unwrap();
    assert_eq!(parameter_count(&normalized, Count::All), parameter_count(&mlp3, Count::All) + 2 * 10);
    assert_eq!(resnet_count(3), 271_690);
    for n in [2, 3, 5, 18] {
        let model = ResNet::new(&ResNetConfig::from_depth(6 * n + 2).unwrap(), &mut init()).unwrap();
        assert_eq!(count(&model), resnet_count(n), "n = {n}");
    }
}

#[test]
fn shortcuts_have_the_parameters_they_should() {
    let count_of = |shortcut, which| {
        let config = ResNetConfig { shortcut, ..ResNetConfig::new(3) };
        parameter_count(&ResNet::new(&config, &mut init()).unwrap(), which)
    };
    let (projection, none) =
        (count_of(Shortcut::Projection, Count::All), count_of(Shortcut::None, Count::All));
    assert_eq!(projection - none, 16 * 32 + 32 + 32 * 64 + 64);
    assert_eq!(count_of(Shortcut::ProjectionNorm, Count::All), projection + 2 * (32 + 64));
    assert_eq!(count_of(Shortcut::PadZero, Count::All), none);
    let config = ResNetConfig { conv_bias: false, ..ResNetConfig::new(3) };
    let without = ResNet::new(&config, &mut init()).unwrap();
    assert_eq!(count(&without), 271_690 - (16 * 7 + 32 * 7 + 64 * 7));
}

#[test]
fn paths_of_resnet20_and_lenet5() {
    let lenet = LeNet5::new(&LeNet5Config::default(), &mut init()).unwrap();
    let resnet = ResNet::new(&ResNetConfig::new(3), &mut init()).unwrap();
    for (model, expected) in [
        (&lenet as &dyn Layer, include_str!("paths/lenet5.txt")),
        (&resnet, include_str!("paths/resnet20.txt")),
    ] {
        let paths: Vec<String> = state_dict(model).into_keys().collect();
        assert_eq!(paths, expected.lines().collect::<Vec<_>>());
    }
}

/// Every model in a small edition.
fn small_models(scheme: &Scheme) -> Vec<(Box<dyn Layer>, Tensor)> {
    let scheme = || scheme.clone();
    let mut models: Vec<(Box<dyn Layer>, Tensor)> = Vec::new();
    let lenet = LeNet5Config { input: [16, 16, 1], scheme: scheme(), ..LeNet5Config::default() };
    models.push((Box::new(LeNet5::new(&lenet, &mut init()).unwrap()), images(&[3, 16, 16, 1])));
    let vgg =
        Vgg7Config { input: [8, 8, 3], width: 8, hidden: 16, scheme: scheme(), ..Vgg7Config::default() };
    models.push((Box::new(Vgg7::new(&vgg, &mut init()).unwrap()), images(&[3, 8, 8, 3])));
    let cnn =
        BnnCnnConfig { input: [8, 8, 3], width: 8, hidden: 16, scheme: scheme(), ..BnnCnnConfig::default() };
    models.push((Box::new(BnnCnn::new(&cnn, &mut init()).unwrap()), images(&[3, 8, 8, 3])));
    let dropout = vec![0.2, 0.0, 0.5];
    let mlp = MlpConfig { dropout, scheme: scheme(), ..MlpConfig::new(64, &[24, 16], 10) };
    models.push((Box::new(Mlp::new(&mlp, &mut init()).unwrap()), images(&[3, 8, 8, 1])));
    let normalized = MlpConfig { output_norm: true, ..mlp };
    models.push((Box::new(Mlp::new(&normalized, &mut init()).unwrap()), images(&[3, 8, 8, 1])));
    for shortcut in [Shortcut::Projection, Shortcut::ProjectionNorm, Shortcut::PadZero, Shortcut::None] {
        let config = ResNetConfig { shortcut, width: 4, scheme: scheme(), ..ResNetConfig::new(2) };
        models.push((Box::new(ResNet::new(&config, &mut init()).unwrap()), images(&[3, 9, 9, 3])));
    }
    models
}

fn logits(model: &dyn Layer, images: &Tensor) -> Tensor {
    let tape = Tape::new();
    let mut cx = Ctx::new(&tape, Mode::Eval, 0, 0);
    let y = model.forward(&mut cx, tape.constant(images.clone()).into()).unwrap().value();
    assert!(cx.finish().into_updates().is_empty() && !y.needs_gradient());
    y.value()
}

/// One training pass; the gradient of every parameter must exist and be finite.
fn train_once(model: &mut dyn Layer, images: &Tensor, what: &str) {
    let tape = Tape::new();
    let mut cx = Ctx::new(&tape, Mode::Train, 0, 0);
    let y = model.forward(&mut cx, tape.constant(images.clone()).into()).unwrap().value();
    let loss = y.cross_entropy(&[1, 7, 3], 0.0);
    let bindings = cx.finish();
    let gradients = bindings.gradients(&mut tape.backward(loss));
    let mut parameters = 0;
    for_each_param(model, &mut |path, param| {
        parameters += 1;
        let gradient = gradients.of(param.id()).unwrap_or_else(|| panic!("{what}: {path} has no gradient"));
        assert_eq!(gradient.shape(), param.value().shape(), "{what}: {path}");
        assert!(gradient.as_slice().iter().all(|g| g.is_finite()), "{what}: {path}");
    });
    assert_eq!(parameters, bindings.params().count(), "{what}: a parameter that no visit passes");
    apply_updates(model, bindings.into_updates());
}

#[test]
fn every_model_trains_and_reloads_under_every_preset() {
    for preset in Scheme::presets() {
        let scheme = Scheme::preset(preset.name).unwrap();
        let all =
            Scheme { first_full_precision: Some(false), last_full_precision: Some(false), ..scheme.clone() };
        let (models, fresh) = (small_models(&all), small_models(&scheme));
        for (i, ((mut model, images), (other, _))) in models.into_iter().zip(fresh).enumerate() {
            let what = format!("{} of model {i}", preset.name);
            train_once(&mut *model, &images, &what);
            let mut again = small_models(&all).swap_remove(i).0;
            load_state_dict(&mut *again, &state_dict(&*model)).unwrap();
            let bits = |y: Tensor| y.as_slice().iter().map(|y| y.to_bits()).collect::<Vec<_>>();
            assert_eq!(bits(logits(&*model, &images)), bits(logits(&*again, &images)), "{what}");
            assert_eq!(count(&*model), count(&*other), "{what}");
        }
    }
}

#[test]
fn every_model_trains_with_shift_based_batch_norm() {
    for round_variance in [true, false] {
        let scheme = Scheme { norm: Norm::ShiftBatch { round_variance }, ..Scheme::preset("bnn").unwrap() };
        for (i, (mut model, images)) in small_models(&scheme).into_iter().enumerate() {
            train_once(&mut *model, &images, &format!("model {i}"));
            let plain = small_models(&Scheme::default()).swap_remove(i).0;
            assert_eq!(state_dict(&*model).keys().count(), state_dict(&*plain).keys().count());
        }
    }
}

/// Paths of the kernels that a quantizer stands behind.
fn latent(model: &dyn Layer) -> Vec<String> {
    let mut paths = Vec::new();
    for_each_param(model, &mut |path, param| {
        assert_eq!(param.is_latent(), param.constraint().is_some(), "{path}");
        if param.is_latent() {
            paths.push(path.to_owned());
        }
    });
    paths
}

#[test]
fn switches_choose_the_layers_that_are_quantized() {
    let latent_in = |scheme: Scheme| {
        latent(&ResNet::new(&ResNetConfig { scheme, ..ResNetConfig::new(3) }, &mut init()).unwrap())
    };
    let bc = Scheme::preset("bc").unwrap();
    let usual = latent_in(bc.clone());
    assert_eq!(usual.len(), 20);
    assert!(!usual.iter().any(|path| path.starts_with("stem") || path.starts_with("classifier")));
    assert_eq!(latent_in(Scheme { projections_full_precision: true, ..bc.clone() }).len(), 18);
    assert_eq!(latent_in(Scheme { last_full_precision: Some(false), ..bc.clone() }).len(), 21);
    assert_eq!(latent_in(Scheme { first_full_precision: Some(false), ..bc.clone() }).len(), 21);
    assert_eq!(latent_in(Scheme::preset("fp").unwrap()).len(), 0);
    let partly =
        latent_in(Scheme { full_precision: vec!["blocks.3".into(), "blocks.0.conv1".into()], ..bc.clone() });
    assert_eq!(partly.len(), 20 - 3 - 1);
    let single = |last_full_precision| {
        let scheme = Scheme { last_full_precision, ..bc.clone() };
        latent(&Mlp::new(&MlpConfig { scheme, ..MlpConfig::new(64, &[], 10) }, &mut init()).unwrap()).len()
    };
    assert_eq!(
        [None, Some(false), Some(true)].map(single),
        [1, 1, 0],
        "the first layer is the last one, too"
    );
    let lenet = |scheme| {
        latent(&LeNet5::new(&LeNet5Config { scheme, ..LeNet5Config::default() }, &mut init()).unwrap())
    };
    assert_eq!(lenet(bc.clone()).len(), 4);
    assert_eq!(lenet(Scheme { first_full_precision: Some(true), ..bc }).len(), 3);
}

#[test]
fn input_quantizers_spare_the_images() {
    let input = Some(Pair::published(DorefaActivations::new(2).unwrap()));
    let scheme = Scheme { input, kernel: Some(Pair::published(Sign)), ..Scheme::default() };
    let model = |hidden: &[usize]| {
        let config = MlpConfig { scheme: scheme.clone(), ..MlpConfig::new(4, hidden, 10) };
        Mlp::new(&config, &mut init()).unwrap()
    };
    let images = images(&[1, 4]);
    let thirds =
        |logits: Tensor| logits.as_slice().iter().all(|y| (3.0 * y - (3.0 * y).round()).abs() < 1e-5);
    assert!(thirds(logits(&model(&[8]), &images)));
    assert!(!thirds(logits(&model(&[]), &images)));
}

#[test]
fn the_same_seed_makes_the_same_model_whatever_the_scheme() {
    let state = |name: &str| {
        let config = ResNetConfig { scheme: Scheme::preset(name).unwrap(), ..ResNetConfig::new(1) };
        state_dict(&ResNet::new(&config, &mut init()).unwrap())
    };
    assert_eq!(state("fp"), state("twn"));
    let glorot = ResNetConfig { initializer: Initializer::GlorotUniform, ..ResNetConfig::new(1) };
    assert_ne!(state_dict(&ResNet::new(&glorot, &mut init()).unwrap()), state("fp"));
}

#[test]
fn senseless_settings_are_errors() {
    for depth in [0, 2, 7, 21, 6 * 1001 + 2, usize::MAX] {
        assert!(matches!(ResNetConfig::from_depth(depth), Err(Error::Depth { .. })), "{depth}");
    }
    let resnet = ResNetConfig::new(1);
    for bad in [
        ResNetConfig { blocks_per_stage: 0, ..resnet.clone() },
        ResNetConfig { blocks_per_stage: usize::MAX, ..resnet.clone() },
        ResNetConfig { width: 0, ..resnet.clone() },
        ResNetConfig { width: usize::MAX / 2, ..resnet.clone() },
        ResNetConfig { classes: 0, ..resnet.clone() },
    ] {
        assert!(ResNet::new(&bad, &mut init()).is_err(), "{bad:?}");
    }
    for input in [[15, 28, 1], [28, 3, 1], [usize::MAX, usize::MAX, 1], [100_000, 100_000, 1], [28, 28, 0]] {
        assert!(LeNet5::new(&LeNet5Config { input, ..LeNet5Config::default() }, &mut init()).is_err());
    }
    for bad in [
        Vgg7Config { input: [7, 32, 3], ..Vgg7Config::default() },
        Vgg7Config { width: usize::MAX, ..Vgg7Config::default() },
        Vgg7Config { width: usize::MAX / 64, ..Vgg7Config::default() },
    ] {
        assert!(Vgg7::new(&bad, &mut init()).is_err(), "{bad:?}");
    }
    let mlp = MlpConfig { dropout: vec![0.5], ..MlpConfig::new(4, &[8], 10) };
    assert!(matches!(Mlp::new(&mlp, &mut init()), Err(Error::Setting { setting: "dropout", .. })));
}

#[test]
fn a_path_without_layers_is_an_error_and_wrong_images_name_the_layer() {
    let scheme = Scheme { full_precision: vec!["blocks.9".into()], ..Scheme::default() };
    let config = ResNetConfig { scheme, ..ResNetConfig::new(3) };
    let error = ResNet::new(&config, &mut init()).unwrap_err();
    assert!(
        error.to_string().starts_with("no weight layer lies at or below `blocks.9`; there are stem.conv, ")
    );

    let model = ResNet::new(&ResNetConfig::new(1), &mut init()).unwrap();
    let tape = Tape::new();
    let mut cx = Ctx::new(&tape, Mode::Eval, 0, 0);
    let error = model.forward(&mut cx, tape.constant(images(&[1, 8, 8, 1])).into()).unwrap_err();
    assert!(error.to_string().starts_with("in stem.conv: conv2d takes [n, h, w, 3]"), "{error}");
}
