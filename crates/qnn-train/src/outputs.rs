//! The files of a training.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use qnn_layers::{Layer, Module, load_state_dict, state_dict};

use crate::checkpoint::{Checkpoint, Progress};
use crate::curves::write_curves;
use crate::files;
use crate::metrics::{ends_with_its_best, write_history};
use crate::{EpochMetrics, Error, FitOptions, Optimizer, Recipe, TrainingData, save_model};

/// Writes into the folder of a training, if it has one.
pub(crate) struct Outputs<'a> {
    options: &'a FitOptions,
    /// What run this is.
    run: BTreeMap<String, String>,
    batches: usize,
    /// Images of a batch, and of the whole epoch.
    images: [usize; 2],
    last_checkpoint: Instant,
}

impl<'a> Outputs<'a> {
    pub(crate) fn new(recipe: &Recipe, data: &TrainingData, options: &'a FitOptions) -> Result<Self, Error> {
        if let Some(folder) = &options.out_dir {
            fs::create_dir_all(folder).map_err(Error::file(folder))?;
        }
        let run = run_settings(recipe, data, options);
        let batches = data.train.batches_per_epoch();
        let images = [data.train.config().batch, data.train.images().len()];
        Ok(Self { options, run, batches, images, last_checkpoint: Instant::now() })
    }

    /// Puts a checkpoint's state into model and optimizer, if there is one to go on from.
    pub(crate) fn resume(
        &self,
        model: &mut dyn Layer,
        optimizer: &mut dyn Optimizer,
    ) -> Result<Option<Progress>, Error> {
        if !self.options.resume {
            return Ok(None);
        }
        let path = self.path(files::CHECKPOINT).ok_or(Error::NoFolder)?;
        if !path.exists() {
            return Ok(None);
        }
        let checkpoint = Checkpoint::load(&path)?;
        self.check_run(&path, &checkpoint)?;
        self.check_counts(&checkpoint).map_err(|reason| Error::format(&path, reason))?;
        load_state_dict(model, &checkpoint.model)
            .map_err(|source| Error::Weights { path: path.clone(), source })?;
        optimizer.load_state(model, checkpoint.optimizer)?;
        Ok(Some(checkpoint.progress))
    }

    fn check_run(&self, path: &Path, checkpoint: &Checkpoint) -> Result<(), Error> {
        let differences = checkpoint.differences(&self.run);
        if !differences.is_empty() {
            return Err(Error::OtherRun { path: path.to_owned(), differences });
        }
        let Progress { epoch, batch, step, .. } = checkpoint.progress;
        let expected = epoch.checked_mul(self.batches).and_then(|steps| steps.checked_add(batch));
        if batch > self.batches || expected.map(|steps| steps as u64) != Some(step) {
            let reason = format!("it is at step {step}, which is not batch {batch} of epoch {epoch}");
            return Err(Error::format(path, reason));
        }
        Ok(())
    }

    /// Refuses counts that this run cannot have reached where it stands.
    fn check_counts(&self, checkpoint: &Checkpoint) -> Result<(), String> {
        let Progress { batch, step, sums, .. } = checkpoint.progress;
        let steps = checkpoint.optimizer.steps;
        if steps != step {
            return Err(format!("its optimizer has made {steps} steps, the training {step}"));
        }
        let [each, all] = self.images;
        let expected = batch.saturating_mul(each).min(all) as u64;
        if sums.images != expected {
            return Err(format!("its sums are over {} images, {batch} batches have {expected}", sums.images));
        }
        Ok(())
    }

    pub(crate) fn is_checkpoint_due(&self) -> bool {
        let every: Duration = self.options.checkpoint_every;
        self.options.out_dir.is_some() && self.last_checkpoint.elapsed() >= every
    }

    /// Returns where the checkpoint lies.
    pub(crate) fn checkpoint(
        &mut self,
        model: &dyn Layer,
        optimizer: &dyn Optimizer,
        progress: &Progress,
    ) -> Result<Option<PathBuf>, Error> {
        let Some(path) = self.path(files::CHECKPOINT) else { return Ok(None) };
        self.check_finite(model, progress.epoch, progress.step)?;
        let (run, progress) = (self.run.clone(), progress.clone());
        let (model, optimizer) = (state_dict(model), optimizer.state());
        Checkpoint { run, model, optimizer, progress }.save(&path)?;
        self.last_checkpoint = Instant::now();
        Ok(Some(path))
    }

    /// After each epoch: the best model, metrics, curves.
    pub(crate) fn epoch(&self, model: &dyn Module, history: &[EpochMetrics]) -> Result<(), Error> {
        let Some(last) = history.last() else { return Ok(()) };
        if ends_with_its_best(history) {
            self.model(files::BEST_MODEL, model, last)?;
        }
        self.metrics(history)
    }

    /// After the last epoch: the last model; metrics and curves again, in case one was removed or the
    /// process killed between two of them. The best model is not at hand any more.
    pub(crate) fn finish(&self, model: &dyn Module, history: &[EpochMetrics]) -> Result<(), Error> {
        let Some(last) = history.last() else { return Ok(()) };
        self.model(files::MODEL, model, last)?;
        self.metrics(history)
    }

    /// Refuses weights that no later step could repair, so that they replace no good file.
    pub(crate) fn check_finite(&self, model: &dyn Module, epoch: usize, step: u64) -> Result<(), Error> {
        let state = state_dict(model);
        let bad = |tensor: &qnn_tensor::Tensor| tensor.as_slice().iter().any(|x| !x.is_finite());
        match state.into_iter().find(|(_, tensor)| bad(tensor)) {
            Some((tensor, _)) => Err(Error::NotFinite { tensor, epoch: epoch + 1, step }),
            None => Ok(()),
        }
    }

    fn metrics(&self, history: &[EpochMetrics]) -> Result<(), Error> {
        let Some(folder) = &self.options.out_dir else { return Ok(()) };
        write_history(folder, history)?;
        let FitOptions { title, published, .. } = self.options;
        write_curves(&folder.join(files::CURVES), history, title, *published)
    }

    fn model(&self, name: &str, model: &dyn Module, epoch: &EpochMetrics) -> Result<(), Error> {
        let Some(path) = self.path(name) else { return Ok(()) };
        let mut metadata = self.options.metadata.clone();
        metadata.insert("epoch".to_owned(), (epoch.epoch + 1).to_string());
        metadata.insert("test_accuracy".to_owned(), epoch.test_accuracy.to_string());
        save_model(path, model, &metadata)
    }

    fn path(&self, name: &str) -> Option<PathBuf> {
        Some(self.options.out_dir.as_ref()?.join(name))
    }
}

/// What a run is, by name: the recipe, the data, and [`FitOptions::experiment`]. Runs with the same settings have the
/// same results, and checkpoints hold them.
pub fn run_settings(recipe: &Recipe, data: &TrainingData, options: &FitOptions) -> BTreeMap<String, String> {
    let mut run = recipe.settings();
    run.extend(data.settings());
    run.insert("experiment".to_owned(), options.experiment.clone());
    run
}
