//! Gradients that are computed piece by piece where the optimizer uses them: the training is the same, bit for bit.

use qnn_layers::{
    BatchNorm, BatchNormConfig, Constraint, Ctx, Dense, DenseConfig, HardTanh, Init, Layer, Mode, Sequential,
    StateDict, apply_updates, for_each_param, state_dict,
};
use qnn_quant::{EvenLevels, ModifiedTanh, Pair, Sign};
use qnn_tensor::{Tape, Tensor, Var};
use qnn_train::{Loss, Optimizer, OptimizerConfig, Regularization, StepReport, StepSettings, step};

const STEPS: u64 = 3;

/// Kernels large enough that their gradients wait: latent ones, whose gradients go through a clip and through another function, and one of
/// floats under an input of codes.
fn model() -> Sequential {
    let mut init = Init::new(7);
    let constraint = Some(Constraint::Clip { limit: 1.0 });
    let quantizer = Some(Pair::published(Sign));
    let binary = DenseConfig {
        kernel_quantizer: quantizer.clone(),
        constraint,
        bias: false,
        ..DenseConfig::new(259, 270)
    };
    let levels = Pair::new(EvenLevels::of_bits(2, 1.0).unwrap(), ModifiedTanh::new(4.0));
    let even = DenseConfig { kernel_quantizer: Some(levels), constraint, ..DenseConfig::new(270, 270) };
    let codes = DenseConfig { input_quantizer: quantizer, ..DenseConfig::new(270, 261) };
    Sequential::new()
        .with("binary", Dense::new(&binary, &mut init).unwrap())
        .with("norm", BatchNorm::new(&BatchNormConfig::new(270)).unwrap())
        .with("even", Dense::new(&even, &mut init).unwrap())
        .with("codes", Dense::new(&codes, &mut init).unwrap())
        .then(HardTanh)
        .with("output", Dense::new(&DenseConfig::new(261, 10), &mut init).unwrap())
}

fn batch() -> (Tensor, Vec<usize>) {
    let images = Tensor::from_fn(&[33, 259], |i| (1.3 * i as f32).sin());
    (images, (0..33).map(|i| i * 7 % 10).collect())
}

fn settings(step: u64) -> StepSettings {
    StepSettings { loss: Loss::default(), seed: 3, step, rate: 0.05, progress: 0.0 }
}

/// The step of a loop that computes every gradient before the first update.
fn eager_step(model: &mut Sequential, optimizer: &mut dyn Optimizer, settings: &StepSettings) -> StepReport {
    let (images, labels) = batch();
    let tape = Tape::new();
    let mut cx = Ctx::new(&tape, Mode::Train, settings.seed, settings.step);
    let outputs = model.forward(&mut cx, tape.constant(images).into()).unwrap().value();
    let loss = settings.loss.of(outputs, &labels).unwrap();
    let bindings = cx.finish();
    let mut gradients = bindings.gradients(&mut tape.backward(loss));
    let updates = bindings.into_updates();
    drop(tape);
    let report = optimizer.step(model, &mut gradients, settings.rate).unwrap();
    apply_updates(model, updates);
    report
}

fn run(
    config: &OptimizerConfig,
    regularization: Regularization,
    eager: bool,
) -> (StateDict, Vec<StepReport>) {
    let mut model = model();
    let mut optimizer = config.build(regularization).unwrap();
    let reports = (0..STEPS).map(|number| {
        let settings = settings(number);
        if eager {
            return eager_step(&mut model, &mut *optimizer, &settings);
        }
        let (images, labels) = batch();
        step(&mut model, &mut *optimizer, images, &labels, &settings).unwrap().report
    });
    let reports = reports.collect();
    let mut state = state_dict(&model);
    state.extend(optimizer.state().slots);
    (state, reports)
}

#[test]
fn every_optimizer_makes_the_same_steps() {
    let configs = [
        OptimizerConfig::SGD,
        OptimizerConfig::NESTEROV,
        OptimizerConfig::ADAM,
        OptimizerConfig::SHIFT_ADAMAX,
    ]
    .into_iter()
    .chain([OptimizerConfig::bop(OptimizerConfig::ADAM)]);
    for config in configs {
        for clip_norm in [None, Some(0.01)] {
            let regularization =
                Regularization { weight_decay: 0.01, clip_norm, ..Regularization::default() };
            let expected = run(&config, regularization, true);
            for threads in [1, 3] {
                let pool = rayon::ThreadPoolBuilder::new().num_threads(threads).build().unwrap();
                let found = pool.install(|| run(&config, regularization, false));
                assert!(found == expected, "{config:?}, {clip_norm:?}, {threads} threads");
            }
        }
    }
}

#[test]
fn large_parameters_are_updated_where_they_are() {
    let addresses = |model: &Sequential| {
        let mut addresses = Vec::new();
        for_each_param(model, &mut |path, param| {
            assert!(!param.value().is_shared(), "{path}");
            addresses.push(param.value().as_slice().as_ptr());
        });
        addresses
    };
    let mut model = model();
    let mut optimizer = OptimizerConfig::SGD.build(Regularization::default()).unwrap();
    let before = addresses(&model);
    for number in 0..STEPS {
        let (images, labels) = batch();
        step(&mut model, &mut *optimizer, images, &labels, &settings(number)).unwrap();
        assert_eq!(addresses(&model), before);
    }
}

/// The product of a large kernel, used twice if asked for.
fn product<'t>(tape: &'t Tape, twice: bool) -> (Var<'t>, Var<'t>) {
    let w = tape.leaf(Tensor::from_fn(&[256, 257], |i| (0.37 * i as f32).cos()));
    let x = tape.constant(Tensor::from_fn(&[5, 256], |i| (1.1 * i as f32).sin()));
    let y = x.matmul(w, None).sum();
    (w, if twice { y + x.scale(0.5).matmul(w, None).sum() } else { y })
}

#[test]
fn a_gradient_that_waits_can_be_looked_at_changed_and_taken() {
    for twice in [false, true] {
        let tape = Tape::new();
        let (w, loss) = product(&tape, twice);
        let expected = tape.backward(loss).take(w).unwrap();
        let deferred = || {
            let tape = Tape::new();
            let (w, loss) = product(&tape, twice);
            tape.backward_deferred(loss).take_leaf(w).unwrap()
        };
        assert_eq!(deferred().shape(), [256, 257]);
        assert_eq!(deferred().value(), &expected);
        assert_eq!(deferred().into_value(), expected);
        assert_eq!(deferred().into_pieces().is_ok(), !twice);
        let mut changed = deferred();
        changed.value_mut().as_mut_slice()[0] = 7.0;
        assert_eq!(changed.shape(), [256, 257]);
        assert_eq!(changed.into_pieces().unwrap_err().as_slice()[0], 7.0);
    }
}
