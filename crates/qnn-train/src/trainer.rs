use std::collections::BTreeMap;
use std::path::PathBuf;
use std::time::{Duration, Instant};

use qnn_data::Batch;
use qnn_layers::{Layer, has_weights_to_freeze};

use crate::checkpoint::{EpochSums, Progress};
use crate::data::into_tensor;
use crate::evaluate::evaluate_unless;
use crate::outputs::Outputs;
use crate::{
    EpochMetrics, Error, Evaluation, Event, Optimizer, Recipe, Span, StepResult, StepSettings, Stop,
    TrainingData, best_epoch, step,
};

/// Where a training leaves its files, and how it is interrupted.
#[derive(Clone, Debug)]
pub struct FitOptions {
    /// The folder for all files; with `None` nothing is written.
    pub out_dir: Option<PathBuf>,
    /// Whether to go on from the folder's checkpoint. Without one, training starts from the
    /// beginning: a run that is killed before its first checkpoint resumes like any other.
    pub resume: bool,
    /// A wish to stop.
    pub stop: Stop,
    /// The longest time between checkpoints; at the end of an epoch there is always one.
    pub checkpoint_every: Duration,
    /// What is trained (experiment, variant, size), for checkpoints: a run of another name does not
    /// go on from them.
    pub experiment: String,
    /// The title of the curves.
    pub title: String,
    /// The published test accuracy in percent, for the curves.
    pub published: Option<f64>,
    /// What the model files say about themselves.
    pub metadata: BTreeMap<String, String>,
}

impl Default for FitOptions {
    fn default() -> Self {
        Self {
            out_dir: None,
            resume: false,
            stop: Stop::new(),
            checkpoint_every: Duration::from_secs(300),
            experiment: String::new(),
            title: String::new(),
            published: None,
            metadata: BTreeMap::new(),
        }
    }
}

/// How a training ended, and what it showed.
#[derive(Clone, Debug, PartialEq)]
pub struct Outcome {
    /// Why it ended.
    pub ending: Ending,
    /// All whole epochs, those before a resumption included.
    pub history: Vec<EpochMetrics>,
    /// Training steps in all.
    pub steps: u64,
}

/// Why a training ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Ending {
    /// All epochs are done.
    Finished,
    /// The test accuracy has not risen for as many epochs as the recipe allows.
    EarlyStopped,
    /// Someone asked to stop.
    Interrupted,
}

impl Outcome {
    /// The epoch with the highest test accuracy.
    pub fn best(&self) -> Option<&EpochMetrics> {
        best_epoch(&self.history)
    }

    /// The last whole epoch.
    pub fn last(&self) -> Option<&EpochMetrics> {
        self.history.last()
    }
}

/// Trains a model.
///
/// ```text
/// checkpoint.safetensors  after each epoch, after some time, and when stopped: all state
/// best.safetensors        the model after the epoch with the best test accuracy
/// model.safetensors       the model at the end: its last weights, not its best
/// metrics.csv, .jsonl     one line per epoch
/// curves.svg              loss and accuracy
/// ```
///
/// The result is a function of the model's weights, the data and the recipe: killed at any moment
/// and resumed, or on another number of threads, it is the same bit for bit, times excepted. A
/// resumed model's weights are those of the checkpoint.
///
/// For anything that this loop does not do, write one from [`step`](crate::step()) and
/// [`evaluate`](crate::evaluate()).
///
/// # Errors
///
/// [`Error::Setting`] for a recipe that cannot be followed; [`Error::OtherRun`], [`Error::Format`],
/// [`Error::Version`] or [`Error::Weights`] if the checkpoint cannot be resumed from;
/// [`Error::Diverged`] or [`Error::NotFinite`] if training diverges, with the last good checkpoint
/// in place; [`Error::File`] if a file cannot be written; and those of [`step`](crate::step()).
pub fn fit(
    model: &mut dyn Layer,
    data: &TrainingData,
    recipe: &Recipe,
    options: &FitOptions,
    on_event: &mut dyn FnMut(Event),
) -> Result<Outcome, Error> {
    recipe.check()?;
    data.check(recipe)?;
    let outputs = Outputs::new(recipe, data, options)?;
    let mut optimizer = recipe.optimizer.build(recipe.regularization())?;
    let resumed = outputs.resume(model, &mut *optimizer)?;
    let mut run = Run {
        data,
        recipe,
        stop: &options.stop,
        outputs,
        on_event,
        resumed: resumed.is_some(),
        progress: resumed.unwrap_or_default(),
        model,
        optimizer,
    };
    run.train()
}

/// A training on its way.
struct Run<'a> {
    model: &'a mut dyn Layer,
    optimizer: Box<dyn Optimizer>,
    data: &'a TrainingData,
    recipe: &'a Recipe,
    stop: &'a Stop,
    outputs: Outputs<'a>,
    on_event: &'a mut dyn FnMut(Event),
    resumed: bool,
    progress: Progress,
}

/// Whether to go on.
enum Flow {
    Done,
    Interrupted,
}

impl Run<'_> {
    fn train(&mut self) -> Result<Outcome, Error> {
        self.report_start();
        while self.progress.epoch < self.recipe.epochs && !self.has_stalled() {
            if let Flow::Interrupted = self.epoch()? {
                self.save()?;
                let Progress { epoch, batch, .. } = self.progress;
                (self.on_event)(Event::Stopped { epoch, batch });
                return Ok(self.outcome(Ending::Interrupted));
            }
        }
        self.outputs.finish(self.model, &self.progress.history)?;
        let all = self.progress.epoch == self.recipe.epochs;
        Ok(self.outcome(if all { Ending::Finished } else { Ending::EarlyStopped }))
    }

    fn report_start(&mut self) {
        (self.on_event)(Event::Started {
            first_epoch: self.progress.epoch,
            batch: self.progress.batch,
            of: self.data.train.batches_per_epoch(),
            epochs: self.recipe.epochs,
            resumed: self.resumed,
        });
    }

    /// Whether the last improvement is too long ago. A model with weights left to freeze has its end still before it.
    fn has_stalled(&self) -> bool {
        let best = best_epoch(&self.progress.history).map_or(0, |best| best.epoch + 1);
        let is_over = |patience| self.progress.epoch >= best.saturating_add(patience);
        self.recipe.early_stopping.is_some_and(is_over) && !has_weights_to_freeze(self.model)
    }

    fn outcome(&self, ending: Ending) -> Outcome {
        Outcome { ending, history: self.progress.history.clone(), steps: self.progress.step }
    }

    /// The rest of the running epoch, and its evaluation.
    fn epoch(&mut self) -> Result<Flow, Error> {
        let (first, before) = (self.progress.batch, self.progress.sums.seconds);
        let clock = Instant::now();
        for batch in self.data.train.epoch_from(self.progress.epoch as u64, first) {
            if self.stop.is_requested() {
                return Ok(Flow::Interrupted);
            }
            let result = self.batch(batch)?;
            self.progress.sums.seconds = before + clock.elapsed().as_secs_f64();
            self.report_batch(result.loss);
            if self.outputs.is_checkpoint_due() {
                self.save()?;
            }
        }
        let clock = Instant::now();
        let Recipe { loss, .. } = self.recipe;
        match evaluate_unless(self.stop, self.model, &self.data.test, loss)? {
            None => Ok(Flow::Interrupted),
            Some(evaluation) => self.close(evaluation, clock.elapsed()),
        }
    }

    fn batch(&mut self, batch: Batch) -> Result<StepResult, Error> {
        let (images, labels) = into_tensor(batch)?;
        let settings = StepSettings {
            loss: self.recipe.loss,
            seed: self.recipe.seed,
            step: self.progress.step,
            rate: self.rate(self.progress.step),
            progress: self.progress.step as f64 / self.span().steps as f64,
        };
        let result = step(self.model, &mut *self.optimizer, images, &labels, &settings);
        let result = result.map_err(|error| self.locate(error))?;
        self.progress.sums.add(&result, labels.len());
        self.progress.step += 1;
        self.progress.batch += 1;
        Ok(result)
    }

    fn rate(&self, step: u64) -> f32 {
        self.recipe.schedule.rate(self.recipe.learning_rate, step, self.span())
    }

    fn span(&self) -> Span {
        let steps_per_epoch = self.data.train.batches_per_epoch() as u64;
        Span { steps: steps_per_epoch.saturating_mul(self.recipe.epochs as u64), steps_per_epoch }
    }

    /// Names epoch and batch where [`step`] could only name the step.
    fn locate(&self, error: Error) -> Error {
        let Progress { epoch, batch, .. } = self.progress;
        match error {
            Error::Diverged { loss, rate, .. } => {
                let at = format!("epoch {}, batch {}", epoch + 1, batch + 1);
                Error::Diverged { loss, at, rate }
            }
            error => error,
        }
    }

    fn report_batch(&mut self, loss: f32) {
        let Progress { epoch, batch, ref sums, .. } = self.progress;
        let (of, images_per_second) = (self.data.train.batches_per_epoch(), sums.images_per_second());
        (self.on_event)(Event::Batch { epoch, batch: batch - 1, of, loss, images_per_second });
    }

    /// Ends the epoch: metrics, files, events.
    fn close(&mut self, evaluation: Evaluation, time: Duration) -> Result<Flow, Error> {
        let Progress { epoch, step, sums, .. } = self.progress;
        self.outputs.check_finite(self.model, epoch, step)?;
        let rate = self.rate(step.saturating_sub(1));
        let metrics = sums.metrics(epoch, evaluation, rate, time);
        self.progress.history.push(metrics.clone());
        (self.progress.epoch, self.progress.batch) = (epoch + 1, 0);
        self.progress.sums = EpochSums::default();
        self.outputs.epoch(self.model, &self.progress.history)?;
        (self.on_event)(Event::Epoch(metrics));
        self.save()?;
        Ok(Flow::Done)
    }

    fn save(&mut self) -> Result<(), Error> {
        if let Some(path) = self.outputs.checkpoint(self.model, &*self.optimizer, &self.progress)? {
            (self.on_event)(Event::Checkpoint(path));
        }
        Ok(())
    }
}

impl EpochSums {
    fn add(&mut self, result: &StepResult, images: usize) {
        self.loss += f64::from(result.loss) * images as f64;
        self.correct += result.correct as u64;
        self.images += images as u64;
        self.flips += result.report.flips;
        self.binary_weights += result.report.binary_weights;
    }

    fn images_per_second(&self) -> f64 {
        if self.seconds > 0.0 { self.images as f64 / self.seconds } else { 0.0 }
    }

    fn metrics(&self, epoch: usize, test: Evaluation, rate: f32, time: Duration) -> EpochMetrics {
        let (images, weights) = (self.images as f64, self.binary_weights as f64);
        EpochMetrics {
            epoch,
            train_loss: self.loss / images,
            train_accuracy: self.correct as f64 / images,
            test_loss: test.loss,
            test_accuracy: test.accuracy,
            learning_rate: rate,
            flip_ratio: (self.binary_weights > 0).then(|| self.flips as f64 / weights),
            seconds: self.seconds + time.as_secs_f64(),
            images_per_second: self.images_per_second(),
        }
    }
}
