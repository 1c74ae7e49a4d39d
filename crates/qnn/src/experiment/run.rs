use std::fs::{File, TryLockError};
use std::io::Write;
use std::path::{Path, PathBuf};

use qnn_layers::{Count, Init, Layer, load_pretrained, parameter_count};
use qnn_train::{
    Checkpoint, Ending, FitOptions, Outcome, Recipe, Stop, TrainingData, files, fit, run_settings,
};

use super::plan::Plan;
use super::progress::Progress;
use super::{Error, Experiment, Options, Provenance, RunResult, Summary, check_instruction_set};

/// The most threads that programs start. Far more than there are cores only take turns, and a machine that is busy
/// with that hardly answers any more.
pub const MAX_THREADS: usize = 1024;

/// The most trainings of one command: a larger number was meant for `--seed`.
const MAX_SEEDS: u64 = 1000;

/// Runs every seed that the options ask for.
pub(super) fn run(experiment: &Experiment, options: &Options, stop: &Stop) -> Result<Summary, Error> {
    match options.threads {
        Some(0) => return Err(Error::flag("--threads", "at least one thread is needed")),
        Some(threads) if threads > MAX_THREADS => {
            return Err(Error::flag("--threads", format!("at most {MAX_THREADS} threads are allowed")));
        }
        _ => {}
    }
    let seeds = options.seeds.unwrap_or(1);
    if !(1..=MAX_SEEDS).contains(&seeds) {
        let reason =
            format!("from 1 to {MAX_SEEDS} trainings are possible; a seed's own number goes to --seed");
        return Err(Error::flag("--seeds", reason));
    }
    if options.limit == Some(0) {
        return Err(Error::flag("--limit", "at least one image is needed"));
    }
    if options.require.is_some_and(|percent| !(0.0..=100.0).contains(&percent)) {
        return Err(Error::flag("--require", "a percentage from 0 to 100 is needed"));
    }
    check_instruction_set()?;
    let plan = Plan::new(experiment, options)?;
    let pool = rayon::ThreadPoolBuilder::new().num_threads(options.threads.unwrap_or(0)).build()?;
    if seeds > 1 && plan.out.join(files::CHECKPOINT).exists() {
        let what = "a run of one seed".to_owned();
        return Err(Error::Occupied { folder: plan.out, what });
    }
    let _held = hold(&plan.out)?;
    let runs = (0..seeds).map(|offset| {
        let recipe = Recipe { seed: plan.recipe.seed.wrapping_add(offset), ..plan.recipe.clone() };
        let out = if seeds == 1 { plan.out.clone() } else { plan.out.join(format!("seed-{}", recipe.seed)) };
        Run { experiment, plan: &plan, options, recipe, out }
    });
    let runs: Vec<_> = runs.collect();
    // All of them first: the last seed's folder must not fail after hours of training in the others.
    runs.iter().try_for_each(Run::check_folder)?;
    let _each_held = if seeds > 1 {
        check_summary(&plan, &runs)?;
        runs.iter().map(|run| hold(&run.out)).collect::<Result<Vec<_>, _>>()?
    } else {
        Vec::new()
    };
    let mut results = Vec::new();
    for run in runs {
        let (result, stopped) = pool.install(|| run.run(stop))?;
        results.push(result);
        if stopped {
            return Ok(Summary::new(results, true));
        }
    }
    let summary = Summary::new(results, false);
    if seeds > 1 {
        write_json(&plan.out.join(RESULT), &summary)?;
    }
    if !options.quiet {
        eprintln!("{}", summary.text(&plan.out));
    }
    summary.require(options.require)?;
    Ok(summary)
}

/// What a run reached; it is written last, so that a folder without it holds an unfinished run.
const RESULT: &str = "result.json";

/// Makes the folder and keeps other processes from training into it, until what is returned is dropped. Where folders
/// cannot be locked, as on Windows and some network file systems, nothing is held.
fn hold(folder: &Path) -> Result<Option<File>, Error> {
    let write = |source| Error::Write { path: folder.to_owned(), source };
    std::fs::create_dir_all(folder).map_err(write)?;
    let Ok(file) = File::open(folder) else { return Ok(None) };
    match file.try_lock() {
        Ok(()) => Ok(Some(file)),
        Err(TryLockError::WouldBlock) => Err(Error::Busy { folder: folder.to_owned() }),
        Err(TryLockError::Error(_)) => Ok(None),
    }
}

/// Refuses to replace the summary of other trainings than these.
fn check_summary(plan: &Plan, runs: &[Run<'_>]) -> Result<(), Error> {
    let path = plan.out.join(RESULT);
    if !path.exists() {
        return Ok(());
    }
    let text = std::fs::read_to_string(&path).unwrap_or_default();
    let summary: serde_json::Value = serde_json::from_str(&text).unwrap_or_default();
    let is_one_of_these = |there: &serde_json::Value| {
        let seed = there["seed"].as_u64();
        there["network"] == plan.label.as_str() && runs.iter().any(|run| Some(run.recipe.seed) == seed)
    };
    let there = summary["runs"].as_array();
    if there.is_some_and(|there| !there.is_empty() && there.iter().all(is_one_of_these)) {
        return Ok(());
    }
    let what = "the summary of other runs".to_owned();
    Err(Error::Occupied { folder: plan.out.clone(), what })
}

/// One training with one seed.
struct Run<'e> {
    experiment: &'e Experiment,
    plan: &'e Plan,
    options: &'e Options,
    recipe: Recipe,
    out: PathBuf,
}

impl Run<'_> {
    /// Trains, writes the files, prints the result line; also whether Ctrl-C ended it early.
    fn run(&self, stop: &Stop) -> Result<(RunResult, bool), Error> {
        let mut model = self.model()?;
        let data = self.data()?;
        let result_file = self.out.join(RESULT);
        let is_finished = self.is_finished();
        let mut progress = Progress::new(self.options.quiet, self.recipe.epochs, &self.out, is_finished);
        progress.line(&self.heading(model.as_ref()));
        if self.options.resume && !self.out.join(files::CHECKPOINT).exists() {
            let out = self.out.display();
            progress.line(&format!("no checkpoint in {out}: starting from the beginning"));
        }
        for warning in &self.plan.warnings {
            progress.line(&format!("warning: {warning}"));
        }
        let fit_options = self.fit_options(stop);
        let outcome =
            fit(model.as_mut(), &data, &self.recipe, &fit_options, &mut |event| progress.show(&event));
        progress.finish();
        let outcome = outcome?;
        let result = self.result(model.as_ref(), &outcome).rounded();
        let stopped = outcome.ending == Ending::Interrupted;
        if !stopped {
            // That of a finished run also says how it was made.
            if !is_finished {
                write_json(&result_file, &result)?;
            }
            let line = serde_json::to_string(&result).expect("a result is plain data");
            // Whoever reads the other end of a pipe may have seen enough.
            let _ = writeln!(std::io::stdout(), "{line}");
        }
        Ok((result, stopped))
    }

    /// Whether the folder holds a result, which is written last.
    fn is_finished(&self) -> bool {
        self.out.join(RESULT).exists()
    }

    fn fit_options(&self, stop: &Stop) -> FitOptions {
        let (experiment, variant) = (self.experiment.name, self.plan.name.as_str());
        let title = format!("{experiment} {variant} on {}", self.plan.dataset.name);
        FitOptions {
            out_dir: Some(self.out.clone()),
            // There is no other way to go on from a finished run: what it holds is not trained anew.
            resume: self.options.resume || self.is_finished(),
            stop: stop.clone(),
            experiment: self.plan.label.clone(),
            title,
            published: self.plan.published,
            metadata: self.provenance().metadata(),
            ..FitOptions::default()
        }
    }

    fn provenance(&self) -> Provenance {
        let Plan { name, preset, dataset, normalize, label, .. } = self.plan;
        Provenance {
            experiment: Some(self.experiment.name.to_owned()),
            variant: Some(name.clone()),
            network: Some(label.clone()),
            preset: preset.map(str::to_owned),
            dataset: Some(dataset.name.clone()),
            normalize: Some(normalize.clone()),
            classes: dataset.train.class_names().to_vec(),
            test_images: Some(dataset.test.len()),
            test_accuracy: None,
        }
    }

    fn model(&self) -> Result<Box<dyn Layer>, Error> {
        let mut model = self.plan.design.build(&mut Init::new(self.recipe.seed))?;
        if let Some(weights) = &self.plan.init {
            load_pretrained(model.as_mut(), weights)?;
        }
        Ok(model)
    }

    fn data(&self) -> Result<TrainingData, Error> {
        let Plan { dataset, normalize, augment, .. } = self.plan;
        Ok(TrainingData::new(dataset.clone(), &self.recipe, normalize.clone(), *augment)?)
    }

    /// Refuses a folder whose files this run must not replace. Its own, finished, may be there.
    fn check_folder(&self) -> Result<(), Error> {
        let folder = self.out.clone();
        let has = |name: &str| folder.join(name).exists();
        if has(files::CHECKPOINT) {
            let settings = run_settings(&self.recipe, &self.data()?, &self.fit_options(&Stop::new()));
            let checkpoint = Checkpoint::load(folder.join(files::CHECKPOINT))
                .map_err(|source| Error::Damaged { folder: folder.clone(), source: source.into() })?;
            let differences = checkpoint.differences(&settings);
            if !differences.is_empty() {
                let what = format!("a run with other settings ({differences})");
                return Err(Error::Occupied { folder, what });
            }
            return if self.is_finished() || self.options.resume {
                Ok(())
            } else {
                Err(Error::Unfinished { folder })
            };
        }
        // A run that was killed early leaves neither, or a checkpoint.
        let what = if self.is_finished() {
            "a result without the checkpoint that would tell its settings (--seeds leaves such)"
        } else if has(files::MODEL) || has(files::BEST_MODEL) {
            "a model without the checkpoint that would tell its settings"
        } else {
            return Ok(());
        };
        Err(Error::Occupied { folder, what: what.to_owned() })
    }

    fn heading(&self, model: &dyn Layer) -> String {
        let dataset = &self.plan.dataset;
        let notice = self.plan.notice.as_ref().map_or(String::new(), |notice| format!("{notice}\n"));
        format!(
            "{notice}{} {}: {} parameters, {} training and {} test images of {}, {} threads",
            self.experiment.name,
            self.plan.name,
            parameter_count(model, Count::All),
            dataset.train.len(),
            dataset.test.len(),
            dataset.name,
            rayon::current_num_threads(),
        )
    }

    fn result(&self, model: &dyn Layer, outcome: &Outcome) -> RunResult {
        let last = outcome.last();
        let seconds: f64 = outcome.history.iter().map(|epoch| epoch.seconds).sum();
        RunResult {
            experiment: self.experiment.name.to_owned(),
            variant: self.plan.name.clone(),
            network: self.plan.label.clone(),
            dataset: self.plan.dataset.name.clone(),
            published: self.plan.published,
            epochs: outcome.history.len(),
            published_epochs: self.experiment.recipe.epochs,
            seed: self.recipe.seed,
            threads: rayon::current_num_threads(),
            test_accuracy: last.map_or(0.0, |epoch| 100.0 * epoch.test_accuracy),
            best_test_accuracy: outcome.best().map_or(0.0, |epoch| 100.0 * epoch.test_accuracy),
            train_loss: last.map_or(f64::NAN, |epoch| epoch.train_loss),
            images_per_second: last.map_or(0.0, |epoch| epoch.images_per_second),
            seconds,
            parameters: parameter_count(model, Count::All),
            model_bytes: qnn_layers::model_bits(model).div_ceil(8),
        }
    }
}

fn write_json(path: &Path, value: &impl serde::Serialize) -> Result<(), Error> {
    let text = serde_json::to_string_pretty(value).expect("a result is plain data");
    qnn_train::write_atomically(path, (text + "\n").as_bytes()).map_err(|error| Error::Train(error.into()))
}

#[cfg(test)]
mod tests {
    use qnn_data::{DatasetName, embedded_digits};
    use qnn_models::MlpConfig;

    use super::*;
    use crate::experiment::Variant;

    fn experiment() -> Experiment {
        let net = MlpConfig::new(64, &[2], 10);
        Experiment::new("t", "a test").variant(Variant::new("fp", "full precision", net))
    }

    /// A short training in a folder.
    fn options(out: impl Into<PathBuf>) -> Options {
        Options { out: Some(out.into()), quiet: true, epochs: Some(1), limit: Some(20), ..Options::default() }
    }

    #[test]
    fn a_finished_run_stays_as_it_is() {
        let folder = tempfile::tempdir().unwrap();
        let (experiment, options) = (experiment().dataset(DatasetName::Digits), options(folder.path()));
        let first = experiment.run(&options).unwrap().unwrap();
        let model = std::fs::read(folder.path().join(files::MODEL)).unwrap();
        std::fs::write(folder.path().join(RESULT), "of another time").unwrap();
        for resume in [false, true] {
            let again = experiment.run(&Options { resume, ..options.clone() }).unwrap().unwrap();
            assert_eq!(again.runs[0].train_loss, first.runs[0].train_loss);
            assert_eq!(std::fs::read(folder.path().join(files::MODEL)).unwrap(), model);
            assert_eq!(std::fs::read(folder.path().join(RESULT)).unwrap(), b"of another time");
        }
    }

    #[test]
    fn other_settings_and_damage_are_found_before_any_training() {
        let folder = tempfile::tempdir().unwrap();
        let (experiment, out) = (experiment().dataset(DatasetName::Digits), folder.path().to_owned());
        let of_seed = |seed, out: PathBuf| Options { seed: Some(seed), ..options(out) };
        experiment.run(&of_seed(3, out.join("seed-3"))).unwrap();
        for resume in [false, true] {
            let longer = Options { seeds: Some(2), resume, epochs: Some(2), ..of_seed(2, out.clone()) };
            let error = experiment.run(&longer).unwrap_err();
            assert!(matches!(&error, Error::Occupied { what, .. } if what.contains("epochs")), "{error}");
            assert!(error.is_usage() && !out.join("seed-2").exists());
        }
        std::fs::write(out.join("seed-3").join(files::CHECKPOINT), "no checkpoint").unwrap();
        let error = experiment.run(&of_seed(3, out.join("seed-3"))).unwrap_err();
        assert!(matches!(&error, Error::Damaged { .. }), "{error}");
    }

    #[test]
    fn a_summary_is_replaced_by_one_that_contains_it_alone() {
        let folder = tempfile::tempdir().unwrap();
        let experiment = experiment().dataset(DatasetName::Digits);
        let seeds = |seed, seeds| Options { seed: Some(seed), seeds: Some(seeds), ..options(folder.path()) };
        assert!(experiment.run(&seeds(1, 1001)).unwrap_err().to_string().contains("--seed"));
        experiment.run(&seeds(1, 2)).unwrap();
        let result = || std::fs::read(folder.path().join(RESULT)).unwrap();
        let before = result();
        for other in [seeds(7, 2), Options { preset: Some("bnn".to_owned()), ..seeds(1, 2) }] {
            let error = experiment.run(&other).unwrap_err();
            assert!(matches!(&error, Error::Occupied { .. }), "{error}");
            assert_eq!(result(), before);
        }
        experiment.run(&seeds(1, 2)).unwrap();
        assert_eq!(experiment.run(&seeds(1, 3)).unwrap().unwrap().runs.len(), 3);
        assert_ne!(result(), before);
    }

    #[test]
    #[cfg(unix)]
    fn two_runs_do_not_share_a_folder() {
        let folder = tempfile::tempdir().unwrap();
        let out = folder.path().join("run");
        let (experiment, options) = (experiment().dataset(DatasetName::Digits), options(&out));
        let held = hold(&out).unwrap();
        assert!(held.is_some(), "folders can be locked here");
        let error = experiment.run(&options).unwrap_err();
        assert!(matches!(&error, Error::Busy { folder } if *folder == out) && error.is_usage(), "{error}");
        assert_eq!(std::fs::read_dir(&out).unwrap().count(), 0);
        drop(held);
        experiment.run(&options).unwrap();
        // A folder inside, as --seeds makes them, is another one, which they hold as well.
        let held = hold(&out.join("seed-1")).unwrap();
        let other = folder.path().join("seeds");
        let _held = hold(&other.join("seed-1")).unwrap();
        let seeds = Options { out: Some(other), seeds: Some(2), ..options };
        assert!(matches!(experiment.run(&seeds).unwrap_err(), Error::Busy { .. }));
        drop(held);
    }

    #[test]
    fn models_of_unknown_settings_are_kept() {
        let folder = tempfile::tempdir().unwrap();
        let (experiment, options) = (experiment().dataset(DatasetName::Digits), options(folder.path()));
        for name in [files::MODEL, files::BEST_MODEL] {
            std::fs::write(folder.path().join(name), "someone's").unwrap();
            for resume in [false, true] {
                let error = experiment.run(&Options { resume, ..options.clone() }).unwrap_err();
                assert!(matches!(&error, Error::Occupied { .. }), "{error}");
                assert_eq!(std::fs::read(folder.path().join(name)).unwrap(), b"someone's");
            }
            std::fs::remove_file(folder.path().join(name)).unwrap();
        }
        std::fs::write(folder.path().join("notes.txt"), "").unwrap();
        experiment.run(&options).unwrap();
    }

    #[test]
    fn weights_to_start_from_belong_to_the_settings() {
        let folder = tempfile::tempdir().unwrap();
        let experiment = experiment().dataset(DatasetName::Digits);
        let options = |out: &str, seed| Options { seed: Some(seed), ..options(folder.path().join(out)) };
        let from = folder.path().join("from.safetensors");
        let copy = |name: &str| std::fs::copy(folder.path().join(name), &from).unwrap();
        experiment.run(&options("a", 1)).unwrap();
        experiment.run(&options("b", 2)).unwrap();
        let tuned = Options { init_from: Some(from.clone()), ..options("c", 3) };
        copy("a/model.safetensors");
        let first = experiment.run(&tuned).unwrap().unwrap();
        experiment.run(&tuned).unwrap();
        copy("b/model.safetensors");
        let error = experiment.run(&tuned).unwrap_err();
        assert!(matches!(&error, Error::Occupied { .. }), "{error}");
        // A checkpoint holds the same weights as the model of its last epoch.
        copy("a/checkpoint.safetensors");
        let again = experiment.run(&tuned).unwrap().unwrap();
        assert_eq!(again.runs[0].train_loss, first.runs[0].train_loss);
    }

    #[test]
    fn images_of_ones_own_are_trained_on_under_their_name() {
        let folder = tempfile::tempdir().unwrap();
        let digits = embedded_digits().unwrap().take(20);
        let own = |name: &str| qnn_data::Dataset { name: name.to_owned(), ..digits.clone() };
        let experiment = experiment().images(own("first")).images(own("second"));
        let options = Options {
            out: Some(folder.path().join("run")),
            quiet: true,
            dataset: Some("second".to_owned()),
            epochs: Some(1),
            ..Options::default()
        };
        let summary = experiment.run(&options).unwrap().unwrap();
        assert_eq!((summary.runs[0].dataset.as_str(), summary.runs[0].epochs), ("second", 1));
        let found = Provenance::load(folder.path().join("run").join(files::MODEL)).unwrap();
        assert_eq!(found.dataset.as_deref(), Some("second"));
        assert_eq!(found.classes, digits.train.class_names());
        for (wrong, flag) in [
            (Options { data: Some(qnn_data::Source::Auto), ..options.clone() }, "--data"),
            (Options { download: true, ..options.clone() }, "--download"),
            (Options { dataset: Some("third".to_owned()), ..options }, "--dataset"),
        ] {
            assert!(experiment.run(&wrong).unwrap_err().to_string().starts_with(flag));
        }
    }
}
