//! What holds of every training: it learns, it is reproducible, it survives interruptions, and what
//! it cannot do it says.

use std::fs;
use std::path::Path;
use std::sync::OnceLock;
use std::time::Duration;

use qnn_data::{Augment, Dataset, Images, Normalize, embedded_digits};
use qnn_layers::{
    BatchNorm, BatchNormConfig, Constraint, Dense, DenseConfig, Dropout, Flatten, HardTanh, Init, Sequential,
    StateDict, has_weights_to_freeze, state_dict,
};
use qnn_quant::{Inq, Pair, Sign};
use qnn_train::{
    Checkpoint, Ending, EpochMetrics, Error, Event, FitOptions, Loss, OptimizerConfig, Outcome, Recipe,
    Schedule, TrainingData, evaluate, fit, load_metadata, load_model,
};

/// Two layers, the first with binary weights; dropout, so that chance is part of the law.
fn model(hidden: usize) -> Sequential {
    let mut init = Init::new(7);
    let binary = DenseConfig {
        bias: false,
        kernel_quantizer: Some(Pair::published(Sign)),
        constraint: Some(Constraint::Clip { limit: 1.0 }),
        ..DenseConfig::new(64, hidden)
    };
    Sequential::new()
        .then(Flatten)
        .with("hidden", Dense::new(&binary, &mut init).unwrap())
        .with("norm", BatchNorm::new(&BatchNormConfig::new(hidden)).unwrap())
        .then(HardTanh)
        .then(Dropout::new(0.1).unwrap())
        .with("output", Dense::new(&DenseConfig::new(hidden, 10), &mut init).unwrap())
}

fn recipe() -> Recipe {
    Recipe {
        epochs: 3,
        batch: 128,
        optimizer: OptimizerConfig::ADAM,
        learning_rate: 0.02,
        schedule: Schedule::Cosine { warmup_epochs: 0.5 },
        weight_decay: 1e-4,
        augment: true,
        seed: 3,
        ..Recipe::default()
    }
}

fn data(recipe: &Recipe) -> TrainingData {
    static DIGITS: OnceLock<Dataset> = OnceLock::new();
    let digits = DIGITS.get_or_init(|| embedded_digits().unwrap()).clone();
    let normalize = Normalize::fit(&digits.train);
    TrainingData::new(digits, recipe, normalize, Augment::PadCropFlip { pad: 1, flip: false }).unwrap()
}

fn options(folder: &Path) -> FitOptions {
    FitOptions {
        out_dir: Some(folder.to_owned()),
        resume: true,
        experiment: "digits".to_owned(),
        title: "digits, binary weights".to_owned(),
        published: Some(97.5),
        ..FitOptions::default()
    }
}

/// Weights and outcome of a run.
fn run(options: &FitOptions, mut on_event: impl FnMut(Event)) -> Result<(StateDict, Outcome), Error> {
    let (mut model, recipe) = (model(24), recipe());
    let outcome = fit(&mut model, &data(&recipe), &recipe, options, &mut on_event)?;
    Ok((state_dict(&model), outcome))
}

fn bits(state: &StateDict) -> Vec<(String, Vec<u32>)> {
    let bits = |(name, value): (&String, &qnn_tensor::Tensor)| {
        (name.clone(), value.as_slice().iter().map(|x| x.to_bits()).collect())
    };
    state.iter().map(bits).collect()
}

/// Everything reproducible about an epoch.
fn numbers(history: &[EpochMetrics]) -> Vec<[u64; 6]> {
    let row = |epoch: &EpochMetrics| {
        let rates = [f64::from(epoch.learning_rate), epoch.flip_ratio.unwrap_or(-1.0)];
        let [a, b] = rates.map(f64::to_bits);
        let losses = [epoch.train_loss, epoch.train_accuracy, epoch.test_loss, epoch.test_accuracy];
        let [c, d, e, f] = losses.map(f64::to_bits);
        [a, b, c, d, e, f]
    };
    history.iter().map(row).collect()
}

fn assert_same(a: &(StateDict, Outcome), b: &(StateDict, Outcome)) {
    assert_eq!(bits(&a.0), bits(&b.0));
    assert_eq!(numbers(&a.1.history), numbers(&b.1.history));
    assert_eq!((a.1.ending, a.1.steps), (b.1.ending, b.1.steps));
}

#[test]
fn a_small_binary_network_learns_and_leaves_its_files() {
    let folder = tempfile::tempdir().unwrap();
    let (mut events, recipe) = (Vec::new(), Recipe { epochs: 8, augment: false, ..recipe() });
    let (mut model, data) = (model(64), data(&recipe));
    let outcome = fit(&mut model, &data, &recipe, &options(folder.path()), &mut |e| events.push(e)).unwrap();
    let (first, last) = (&outcome.history[0], outcome.last().unwrap());
    assert!(last.train_loss < 0.5 * first.train_loss && last.train_loss < 0.4, "{last:?}");
    assert!(outcome.best().unwrap().test_accuracy > 0.9, "{:?}", outcome.best());
    assert!(first.flip_ratio.unwrap() > last.flip_ratio.unwrap() && last.images_per_second > 0.0);
    assert_eq!(outcome.ending, Ending::Finished);
    assert_eq!(outcome.steps, 8 * 12);

    let count = |f: fn(&Event) -> bool| events.iter().filter(|event| f(event)).count();
    assert!(matches!(
        events[0],
        Event::Started { first_epoch: 0, batch: 0, of: 12, epochs: 8, resumed: false }
    ));
    assert_eq!(count(|event| matches!(event, Event::Batch { .. })), 96);
    assert_eq!(count(|event| matches!(event, Event::Epoch(_))), 8);
    assert_eq!(count(|event| matches!(event, Event::Checkpoint(_))), 8);

    let read = |name| fs::read_to_string(folder.path().join(name)).unwrap();
    assert_eq!((read("metrics.csv").lines().count(), read("metrics.jsonl").lines().count()), (9, 8));
    let svg = read("curves.svg");
    assert!(svg.contains("digits, binary weights") && svg.contains("published, 97.5 %"));
    let file = |name: &str| folder.path().join(name);
    assert_eq!(bits(&load_model(file("model.safetensors")).unwrap()), bits(&state_dict(&model)));
    let best = load_metadata(file("best.safetensors")).unwrap();
    assert_eq!(best["test_accuracy"], outcome.best().unwrap().test_accuracy.to_string());
    let evaluation = evaluate(&model, &data.test, &Loss::default()).unwrap();
    assert_eq!((evaluation.accuracy, evaluation.loss), (last.test_accuracy, last.test_loss));
    assert_eq!(evaluation.count, data.test.images().len());
}

#[test]
fn stopped_anywhere_and_resumed_equals_never_stopped() {
    let folder = tempfile::tempdir().unwrap();
    let whole = run(&options(folder.path()), |_| {}).unwrap();
    // In the middle of an epoch, and at the last batch, so that the evaluation is interrupted.
    for (stop_epoch, stop_batch) in [(0, 0), (1, 6), (2, 11)] {
        let other = tempfile::tempdir().unwrap();
        let options = FitOptions { ..options(other.path()) };
        let stop = options.stop.clone();
        let mut stopped_at = None;
        let outcome = run(&options, |event| match event {
            Event::Batch { epoch, batch, .. } if (epoch, batch) == (stop_epoch, stop_batch) => {
                stop.request();
            }
            Event::Stopped { epoch, batch } => stopped_at = Some((epoch, batch)),
            _ => {}
        });
        assert_eq!(outcome.unwrap().1.ending, Ending::Interrupted);
        assert_eq!(stopped_at, Some((stop_epoch, stop_batch + 1)));
        assert!(!other.path().join("model.safetensors").exists());
        let mut start = None;
        let resumed = run(&self::options(other.path()), |event| {
            if let Event::Started { first_epoch, batch, resumed: true, .. } = event {
                start = Some((first_epoch, batch));
            }
        });
        assert_eq!(start, stopped_at);
        assert_same(&resumed.unwrap(), &whole);
        for name in ["model.safetensors", "best.safetensors"] {
            let bytes = |folder: &Path| fs::read(folder.join(name)).unwrap();
            assert_eq!(bytes(folder.path()), bytes(other.path()), "{name}");
        }
    }
}

#[test]
fn killed_anywhere_and_resumed_equals_never_killed() {
    let (folder, copies) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    let every_batch = FitOptions { checkpoint_every: Duration::ZERO, ..options(folder.path()) };
    let mut saved = 0;
    let whole = run(&every_batch, |event| {
        if let Event::Checkpoint(path) = event {
            fs::copy(path, copies.path().join(saved.to_string())).unwrap();
            saved += 1;
        }
    });
    let whole = whole.unwrap();
    assert_eq!(saved, 3 * 13);
    // In the first epoch, after its last batch, after its evaluation, in the last epoch.
    for killed_after in [4, 11, 12, 30] {
        let other = tempfile::tempdir().unwrap();
        fs::copy(copies.path().join(killed_after.to_string()), other.path().join("checkpoint.safetensors"))
            .unwrap();
        assert_same(&run(&options(other.path()), |_| {}).unwrap(), &whole);
    }
}

#[test]
fn a_finished_run_resumes_to_its_end() {
    let folder = tempfile::tempdir().unwrap();
    let whole = run(&options(folder.path()), |_| {}).unwrap();
    fs::remove_file(folder.path().join("model.safetensors")).unwrap();
    fs::remove_file(folder.path().join("metrics.csv")).unwrap();
    assert_same(&run(&options(folder.path()), |_| {}).unwrap(), &whole);
    assert!(folder.path().join("model.safetensors").exists());
    assert!(folder.path().join("metrics.csv").exists());
}

#[test]
fn one_and_two_threads_give_the_same_bits() {
    let with = |threads| {
        let pool = rayon::ThreadPoolBuilder::new().num_threads(threads).build().unwrap();
        pool.install(|| run(&FitOptions::default(), |_| {}).unwrap())
    };
    assert_same(&with(1), &with(2));
}

#[test]
fn checkpoints_of_other_runs_are_refused_with_the_difference() {
    let folder = tempfile::tempdir().unwrap();
    run(&options(folder.path()), |_| {}).unwrap();
    let resume = |model: &mut Sequential, recipe: &Recipe, options: &FitOptions| {
        fit(model, &data(recipe), recipe, options, &mut |_| {}).unwrap_err()
    };
    let other = Recipe { learning_rate: 0.5, epochs: 4, ..recipe() };
    let error = resume(&mut model(24), &other, &options(folder.path())).to_string();
    assert!(error.contains("learning_rate is 0.02 there and 0.5 here"), "{error}");
    assert!(error.contains("epochs is 3 there and 4 here"), "{error}");
    let named = FitOptions { experiment: "letters".to_owned(), ..options(folder.path()) };
    let error = resume(&mut model(24), &recipe(), &named);
    assert!(error.to_string().contains("experiment is digits there and letters here"), "{error}");
    let error = resume(&mut model(25), &recipe(), &options(folder.path()));
    assert!(matches!(error, Error::Weights { .. }), "{error}");
    // As many images of the same shape, normalised alike, and yet others.
    let mut swapped = embedded_digits().unwrap();
    let normalize = Normalize::fit(&swapped.train);
    let (pixels, mut labels) = (swapped.train.as_bytes().to_vec(), swapped.train.labels().to_vec());
    labels.swap(0, 1);
    let names = swapped.train.class_names().to_vec();
    swapped.train = Images::new("digits", swapped.train.shape(), pixels, labels, names).unwrap();
    let augment = Augment::PadCropFlip { pad: 1, flip: false };
    let swapped = TrainingData::new(swapped, &recipe(), normalize, augment).unwrap();
    let error = fit(&mut model(24), &swapped, &recipe(), &options(folder.path()), &mut |_| {}).unwrap_err();
    assert!(error.to_string().contains("training data"), "{error}");
    let nowhere = FitOptions { resume: true, ..FitOptions::default() };
    assert!(matches!(resume(&mut model(24), &recipe(), &nowhere), Error::NoFolder));
    fs::write(folder.path().join("checkpoint.safetensors"), b"garbage of more than eight bytes").unwrap();
    let error = resume(&mut model(24), &recipe(), &options(folder.path()));
    assert!(matches!(error, Error::Format { .. }), "{error}");
}

/// Counters that are added to, or that decide where the training goes on.
#[test]
fn checkpoints_that_count_what_the_run_cannot_have_done_are_refused() {
    let folder = tempfile::tempdir().unwrap();
    run(&options(folder.path()), |_| {}).unwrap();
    let path = folder.path().join("checkpoint.safetensors");
    let sound = Checkpoint::load(&path).unwrap();
    type Change = fn(&mut Checkpoint);
    let changes: [(&str, Change); 3] = [
        ("its optimizer has made 18446744073709551615 steps", |forged| forged.optimizer.steps = u64::MAX),
        ("its sums are over 5 images, 0 batches have 0", |forged| forged.progress.sums.images = 5),
        ("which is not batch 1 of epoch 3", |forged| forged.progress.batch += 1),
    ];
    for (expected, change) in changes {
        let mut forged = sound.clone();
        change(&mut forged);
        forged.save(&path).unwrap();
        let error = run(&options(folder.path()), |_| {}).unwrap_err();
        assert!(matches!(error, Error::Format { .. }) && error.to_string().contains(expected), "{error}");
    }
}

#[test]
fn divergence_is_an_error_that_leaves_the_last_good_checkpoint() {
    let folder = tempfile::tempdir().unwrap();
    let huge = Recipe {
        learning_rate: 1e37,
        optimizer: OptimizerConfig::SGD,
        schedule: Schedule::Constant,
        ..recipe()
    };
    // Harmless in the first epoch, huge from the second on.
    let late = Schedule::Step { milestones: vec![1], factor: 1e39 };
    let late = Recipe { learning_rate: 0.01, schedule: late, ..huge.clone() };
    let train = |recipe: &Recipe| {
        fit(&mut model(24), &data(recipe), recipe, &options(folder.path()), &mut |_| {}).unwrap_err()
    };
    let error = train(&huge).to_string();
    assert!(error.contains("epoch 1, batch ") && error.contains("lower the learning rate"), "{error}");
    assert!(!folder.path().join("checkpoint.safetensors").exists());
    let error = train(&late);
    assert!(error.to_string().contains("epoch 2, batch "), "{error}");
    let checkpoint = Checkpoint::load(folder.path().join("checkpoint.safetensors")).unwrap();
    assert_eq!((checkpoint.progress.epoch, checkpoint.progress.batch), (1, 0));
    assert!(checkpoint.model.values().all(|t| t.as_slice().iter().all(|x| x.is_finite())));
}

#[test]
fn training_ends_early_when_the_accuracy_does_not_rise() {
    let still = Recipe { learning_rate: 1e-20, epochs: 50, early_stopping: Some(2), ..recipe() };
    let still = Recipe { optimizer: OptimizerConfig::SGD, ..still };
    // Without normalisation, whose statistics move at any rate.
    let mut init = Init::new(0);
    let dense = Dense::new(&DenseConfig::new(64, 10), &mut init).unwrap();
    let mut model = Sequential::new().then(Flatten).then(dense);
    let outcome = fit(&mut model, &data(&still), &still, &FitOptions::default(), &mut |_| {}).unwrap();
    assert_eq!((outcome.ending, outcome.history.len()), (Ending::EarlyStopped, 3));
    assert_eq!(outcome.best().unwrap().epoch, 0);
    assert_eq!(outcome.best().unwrap().flip_ratio, None);
}

#[test]
fn training_does_not_end_before_all_weights_are_frozen() {
    let still = Recipe { learning_rate: 1e-20, epochs: 8, early_stopping: Some(1), ..recipe() };
    let still = Recipe { optimizer: OptimizerConfig::SGD, ..still };
    let kernel_quantizer = Some(Pair::published(Inq::new(5).unwrap()));
    let config = DenseConfig { kernel_quantizer, ..DenseConfig::new(64, 10) };
    let mut model = Sequential::new().then(Flatten).then(Dense::new(&config, &mut Init::new(0)).unwrap());
    let outcome = fit(&mut model, &data(&still), &still, &FitOptions::default(), &mut |_| {}).unwrap();
    // The last portion is due after six of eight epochs.
    assert!(!has_weights_to_freeze(&model) && outcome.history.len() >= 7, "{} epochs", outcome.history.len());
}

#[test]
fn recipes_and_models_that_do_not_fit_are_errors() {
    let good = recipe();
    let fail = |model: &mut Sequential, recipe: &Recipe| {
        fit(model, &data(&good), recipe, &FitOptions::default(), &mut |_| {}).unwrap_err()
    };
    assert!(matches!(fail(&mut model(8), &Recipe { batch: 64, ..recipe() }), Error::Setting { .. }));
    assert!(matches!(fail(&mut model(8), &Recipe { epochs: 0, ..recipe() }), Error::Setting { .. }));
    let few = Dense::new(&DenseConfig::new(64, 9), &mut Init::new(0)).unwrap();
    let error = fail(&mut Sequential::new().then(Flatten).then(few), &recipe());
    assert!(matches!(error, Error::Label { label: 9, classes: 9 }), "{error}");
    let wide = Dense::new(&DenseConfig::new(65, 10), &mut Init::new(0)).unwrap();
    let error = fail(&mut Sequential::new().then(Flatten).then(wide), &recipe());
    assert!(matches!(error, Error::Layer(_)), "{error}");
}
