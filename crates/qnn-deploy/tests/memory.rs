//! After the first run with a number of images, a session takes no memory from the system.

mod common;

use allocation_counter::{AllocationInfo, measure};
use common::{Net, images, randomize};
use qnn_deploy::{Session, freeze};
use qnn_layers::{
    BatchNorm, BatchNormConfig, Conv2d, Conv2dConfig, Dense, DenseConfig, Flatten, Init, Layer, MaxPool2d,
    PaddingRule, Quantize, Sequential,
};
use qnn_models::{Scheme, Shortcut};
use qnn_quant::{DorefaActivations, Pair, Sign};

/// What a run of three images allocates once three others have run.
fn allocations(model: &dyn Layer, shape: [usize; 3]) -> (AllocationInfo, String) {
    let pool = rayon::ThreadPoolBuilder::new().num_threads(1).build().unwrap();
    let program = freeze(model, shape).unwrap();
    let mut session = Session::new(&program).unwrap();
    let (x, mut logits) = (images(3, shape, 3), vec![0.0; 3 * session.outputs()]);
    let counted = pool.install(|| {
        (0..3).for_each(|_| session.run_into(x.as_slice(), &mut logits).unwrap());
        measure(|| session.run_into(x.as_slice(), &mut logits).unwrap())
    });
    (counted, program.to_string())
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
fn programs_of_integers_allocate_nothing() {
    for activation in [Pair::published(Sign), Pair::published(DorefaActivations::new(2).unwrap())] {
        let mut model = integers(&activation);
        randomize(&mut model, 2);
        let (counted, text) = allocations(&model, [8, 8, 3]);
        assert_eq!(counted.count_total, 0, "{activation:?}: {counted:?}\n{text}");
    }
}

#[test]
fn programs_with_numbers_allocate_nothing() {
    for net in [Net::LeNet5, Net::Vgg7, Net::ResNet8(Shortcut::Projection), Net::ResNet8(Shortcut::PadZero)] {
        for preset in ["bnn", "bnn-w-dorefa-a", "dorefa", "twn", "bwn", "xnor-full", "bc-1.2", "fp"] {
            let mut model = net.build(&Scheme::preset(preset).unwrap(), 1);
            randomize(model.as_mut(), 2);
            let (counted, text) = allocations(model.as_ref(), net.shape());
            assert_eq!(counted.count_total, 0, "{net:?} {preset}: {counted:?}\n{text}");
        }
    }
}
