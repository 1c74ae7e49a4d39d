//! After the first run with a number of images, a session takes no memory from the system.

mod common;

use allocation_counter::measure;
use common::{Net, images, randomize, train};
use qnn_data::Normalize;
use qnn_deploy::{Images, Session, freeze};
use qnn_kernels::Algorithm;
use qnn_layers::{
    BatchNorm, BatchNormConfig, Conv2d, Conv2dConfig, Dense, DenseConfig, Flatten, Init, Layer, MaxPool2d,
    PaddingRule, Quantize, Relu, Sequential,
};
use qnn_models::{Scheme, Shortcut};
use qnn_quant::{DorefaActivations, Pair, Sign};

/// What a run of three images, of numbers or of bytes, allocates once others have run.
fn assert_allocates_nothing(what: &str, model: &dyn Layer, shape: [usize; 3]) {
    let pool = rayon::ThreadPoolBuilder::new().num_threads(1).build().unwrap();
    let program = freeze(model, shape).unwrap().with_normalization(&Normalize::symmetric()).unwrap();
    let mut session = Session::new(&program).unwrap();
    let (x, mut logits) = (images(3, shape, 3), vec![0.0; 3 * session.outputs()]);
    let bytes: Vec<u8> = (0..x.len()).map(|i| (i * 31) as u8).collect();
    for images in [Images::Numbers(x.as_slice()), Images::Bytes(&bytes)] {
        let counted = pool.install(|| {
            (0..3).for_each(|_| session.run_into(images, &mut logits).unwrap());
            measure(|| session.run_into(images, &mut logits).unwrap())
        });
        assert_eq!(counted.count_total, 0, "{what}: {counted:?}\n{program}");
    }
}

/// Nothing but products of codes, with all that may follow them.
fn integers(activation: &Pair) -> Sequential {
    let init = &mut Init::new(1);
    let kernel_quantizer = Some(Pair::published(Sign));
    let conv = |inputs, outputs| Conv2dConfig {
        kernel_quantizer: kernel_quantizer.clone(),
        padding: PaddingRule::Same,
        ..Conv2dConfig::new(inputs, outputs, 3)
    };
    let norm = |channels| BatchNorm::new(&BatchNormConfig::new(channels)).unwrap();
    let dense =
        DenseConfig { kernel_quantizer: kernel_quantizer.clone(), ..DenseConfig::new(4 * 4 * 24, 10) };
    Sequential::new()
        .then(Quantize::new(activation.clone()))
        .then(Conv2d::new(&conv(3, 20), init).unwrap())
        .then(MaxPool2d::new(2))
        .then(norm(20))
        .then(Quantize::new(activation.clone()))
        .then(Conv2d::new(&conv(20, 24), init).unwrap())
        .then(norm(24))
        .then(Quantize::new(activation.clone()))
        .then(Flatten)
        .then(Dense::new(&dense, init).unwrap())
}

#[test]
fn programs_of_codes_allocate_nothing() {
    for activation in [Pair::published(Sign), Pair::published(DorefaActivations::new(2).unwrap())] {
        let mut model = integers(&activation);
        randomize(&mut model, 2);
        assert_allocates_nothing(&format!("{activation:?}"), &model, [8, 8, 3]);
    }
}

#[test]
fn programs_with_numbers_allocate_nothing() {
    for net in [Net::LeNet5, Net::Vgg7, Net::ResNet8(Shortcut::Projection), Net::ResNet8(Shortcut::PadZero)] {
        for preset in ["bnn", "bnn-w-dorefa-a", "dorefa", "twn", "bwn", "xnor-full", "bc-1.2", "fp"] {
            let mut model = net.build(&Scheme::preset(preset).unwrap(), 1);
            randomize(model.as_mut(), 2);
            assert_allocates_nothing(&format!("{net:?} {preset}"), model.as_ref(), net.shape());
        }
    }
}

#[test]
fn programs_of_exact_sums_allocate_nothing() {
    let config = Conv2dConfig { algorithm: Algorithm::Exact, ..Conv2dConfig::new(3, 5, 3) };
    let init = &mut Init::new(1);
    let mut conv = || Conv2d::new(&config, init).unwrap();
    let numbers = Sequential::new().then(conv()).then(Relu::default());
    let codes = Sequential::new().then(conv()).then(Quantize::new(Pair::published(Sign)));
    for model in [numbers, codes] {
        assert_allocates_nothing("exact", &model, [8, 8, 3]);
    }
}

/// Bytes beside bytes, bits or powers of two.
#[test]
fn programs_of_bytes_allocate_nothing() {
    for preset in ["int8", "w1a8", "lsq", "pact", "fixed8", "inq"] {
        for net in [Net::LeNet5, Net::ResNet8(Shortcut::Projection)] {
            let mut model = net.build(&Scheme::preset(preset).unwrap(), 1);
            train(model.as_mut(), net.shape());
            assert_allocates_nothing(&format!("{net:?} {preset}"), model.as_ref(), net.shape());
        }
    }
}
