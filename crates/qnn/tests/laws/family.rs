//! Every way to quantize a network learns, and goes on after an interruption as if there had been none.

use std::sync::OnceLock;

use qnn::data::{Augment, Dataset, Normalize, embedded_digits};
use qnn::layers::{StateDict, state_dict};
use qnn::prelude::*;
use qnn::quant::{RangeMethod, StochasticSign};
use qnn::train::{Event, Outcome, calibrate, quantize_trained};
use rayon::prelude::*;

fn digits() -> Dataset {
    static DIGITS: OnceLock<Dataset> = OnceLock::new();
    DIGITS.get_or_init(|| embedded_digits().unwrap()).clone()
}

fn recipe(optimizer: OptimizerConfig) -> Recipe {
    let learning_rate = if optimizer == OptimizerConfig::SHIFT_ADAMAX { 2_f32.powi(-7) } else { 0.01 };
    Recipe { epochs: 4, batch: 64, optimizer, learning_rate, ..Recipe::default() }
}

fn train(
    scheme: &Scheme,
    recipe: &Recipe,
    options: &FitOptions,
    on_event: &mut dyn FnMut(Event),
) -> (StateDict, Outcome) {
    let config = MlpConfig { scheme: scheme.clone(), ..MlpConfig::new(64, &[48, 32], 10) };
    let mut model = Mlp::new(&config, &mut Init::new(5)).unwrap();
    let digits = digits();
    let normalize = Normalize::fit(&digits.train);
    let data = TrainingData::new(digits, recipe, normalize, Augment::None).unwrap();
    let outcome = fit(&mut model, &data, recipe, options, on_event).unwrap();
    (state_dict(&model), outcome)
}

#[test]
fn every_preset_learns() {
    let presets: Vec<_> = Scheme::presets().map(|preset| preset.name).collect();
    presets.par_iter().for_each(|name| {
        let scheme = Scheme::preset(name).unwrap();
        let (state, outcome) =
            train(&scheme, &recipe(OptimizerConfig::ADAM), &FitOptions::default(), &mut |_| {});
        let losses: Vec<f64> = outcome.history.iter().map(|epoch| epoch.train_loss).collect();
        assert!(losses[3] < 0.8 * losses[0], "{name}: {losses:?}");
        assert!(outcome.last().unwrap().test_accuracy > 0.4, "{name}: {:?}", outcome.last());
        let finite = |x: &f32| x.is_finite();
        assert!(state.values().all(|tensor| tensor.as_slice().iter().all(finite)), "{name}");
    });
}

#[test]
fn every_optimizer_learns_binary_weights() {
    OptimizerConfig::NAMES.par_iter().for_each(|name| {
        let optimizer: OptimizerConfig = name.parse().unwrap();
        let scheme = Scheme::preset("bnn").unwrap();
        for glorot_rates in [false, true] {
            let recipe = Recipe { glorot_rates, ..recipe(optimizer.clone()) };
            let (_, outcome) = train(&scheme, &recipe, &FitOptions::default(), &mut |_| {});
            let losses: Vec<f64> = outcome.history.iter().map(|epoch| epoch.train_loss).collect();
            assert!(losses[3] < 0.9 * losses[0], "{name}, {glorot_rates}: {losses:?}");
        }
    });
}

#[test]
fn whatever_a_quantizer_or_an_optimizer_remembers_survives_an_interruption() {
    let bop = OptimizerConfig::Bop { gamma: 1e-2, threshold: 1e-6, rest: Box::new(OptimizerConfig::ADAM) };
    let preset = |name| Scheme::preset(name).unwrap();
    let shifts = Scheme { norm: Norm::ShiftBatch { round_variance: true }, ..preset("bnn") };
    let chance = || Pair::published(StochasticSign::new(3));
    let chances =
        Scheme { kernel: Some(chance()), activation: Activation::Quantized(chance()), ..preset("bnn") };
    let cases = [
        ("bnn", preset("bnn"), bop),
        ("bnn with shifts", shifts, OptimizerConfig::SHIFT_ADAMAX),
        ("stochastic signs", chances, OptimizerConfig::ADAM),
        ("w1a8", preset("w1a8"), OptimizerConfig::SGD),
        ("lsq", preset("lsq"), OptimizerConfig::ADAM),
        ("pact", preset("pact"), OptimizerConfig::ADAM),
        ("ttq", preset("ttq"), OptimizerConfig::ADAM),
        ("inq", preset("inq"), OptimizerConfig::SGD),
        ("int8", preset("int8"), OptimizerConfig::SGD),
        ("dorefa-124", preset("dorefa-124"), OptimizerConfig::ADAM),
        ("error-decay", preset("error-decay"), OptimizerConfig::ADAM),
    ];
    cases.par_iter().for_each(|(name, scheme, optimizer)| {
        let recipe = Recipe { epochs: 3, ..recipe(optimizer.clone()) };
        let whole = train(scheme, &recipe, &FitOptions::default(), &mut |_| {});
        let folder = tempfile::tempdir().unwrap();
        let options =
            || FitOptions { out_dir: Some(folder.path().to_owned()), resume: true, ..FitOptions::default() };
        let first = options();
        let stop = first.stop.clone();
        train(scheme, &recipe, &first, &mut |event| {
            if let Event::Batch { epoch: 1, batch: 7, .. } = event {
                stop.request();
            }
        });
        let resumed = train(scheme, &recipe, &options(), &mut |_| {});
        let bits = |state: &StateDict| -> Vec<(String, Vec<u32>)> {
            let bits = |tensor: &Tensor| tensor.as_slice().iter().map(|x| x.to_bits()).collect();
            state.iter().map(|(path, tensor)| (path.clone(), bits(tensor))).collect()
        };
        assert!(bits(&resumed.0) == bits(&whole.0), "{name} with {optimizer:?}");
        let losses = |outcome: &Outcome| -> Vec<u64> {
            outcome.history.iter().map(|epoch| epoch.train_loss.to_bits()).collect()
        };
        assert_eq!(losses(&resumed.1), losses(&whole.1), "{name} with {optimizer:?}");
    });
}

#[test]
fn a_trained_network_is_quantized_to_8_bits_afterwards() {
    let recipe = recipe(OptimizerConfig::ADAM);
    let (state, outcome) = train(&Scheme::default(), &recipe, &FitOptions::default(), &mut |_| {});
    let before = outcome.last().unwrap().test_accuracy;
    let digits = digits();
    let normalize = Normalize::fit(&digits.train);
    let data = TrainingData::new(digits, &recipe, normalize, Augment::None).unwrap();
    for method in [
        RangeMethod::MinMax,
        RangeMethod::Percentile { percent: 99.9 },
        RangeMethod::SquaredError { bits: 8 },
        RangeMethod::Divergence { bits: 8 },
    ] {
        let scheme = Scheme::preset("int8").unwrap();
        let config = MlpConfig { scheme, ..MlpConfig::new(64, &[48, 32], 10) };
        let mut model = Mlp::new(&config, &mut Init::new(9)).unwrap();
        let before_it = state_dict(&model);
        assert!(quantize_trained(&mut model, &state, &data.train, 0, method).is_err());
        assert!(state_dict(&model) == before_it, "an error leaves the model as it was");
        // The image and two hidden layers.
        assert_eq!(quantize_trained(&mut model, &state, &data.train, 10, method).unwrap(), 3);
        let after = evaluate(&model, &data.test, &Loss::default()).unwrap().accuracy;
        assert!(after > before - 0.01, "{method:?}: {after} after {before}");
        assert!(calibrate(&mut model, &data.train, 0, method).is_err());
    }
}
