use std::path::Path;

use serde::Serialize;

use super::Error;

/// What one run reached: the contents of `result.json`.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct RunResult {
    /// The experiment.
    pub experiment: String,
    /// The row of its table.
    pub variant: String,
    /// The network in full: the variant, the data, and every flag that changed it.
    pub network: String,
    /// The data set: `digits` if the published one was not at hand.
    pub dataset: String,
    /// The published test accuracy of this row in percent, where it is comparable.
    pub published: Option<f64>,
    /// How often the training set was seen.
    pub epochs: usize,
    /// The published number of epochs.
    pub published_epochs: usize,
    /// The seed.
    pub seed: u64,
    /// The number of threads.
    pub threads: usize,
    /// Test accuracy after the last epoch, in percent.
    pub test_accuracy: f64,
    /// The highest test accuracy of any epoch, in percent.
    pub best_test_accuracy: f64,
    /// The mean loss of the last epoch's training images.
    pub train_loss: f64,
    /// Training images per second.
    pub images_per_second: f64,
    /// Seconds of training and evaluation, resumed parts included.
    pub seconds: f64,
    /// The number of trained parameters.
    pub parameters: usize,
    /// The size of the trained parameters at their true bit widths, in bytes.
    pub model_bytes: u64,
}

/// What all runs of one command reached.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Summary {
    /// One result per seed.
    pub runs: Vec<RunResult>,
    /// The mean of the runs' final test accuracies in percent.
    pub mean_test_accuracy: f64,
    /// Their standard deviation (with n − 1), absent for a single run.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub standard_deviation: Option<f64>,
    /// Whether Ctrl-C ended the last run early.
    pub stopped: bool,
}

impl Summary {
    pub(super) fn new(runs: Vec<RunResult>, stopped: bool) -> Self {
        let accuracies: Vec<f64> = runs.iter().map(|run| run.test_accuracy).collect();
        let n = accuracies.len() as f64;
        let mean = accuracies.iter().sum::<f64>() / n;
        let squares: f64 = accuracies.iter().map(|accuracy| (accuracy - mean).powi(2)).sum();
        let standard_deviation = (accuracies.len() > 1).then(|| (squares / (n - 1.0)).sqrt());
        Self { runs, mean_test_accuracy: mean, standard_deviation, stopped }
    }

    /// Fails if the best accuracy of any run stays below `required`, in percent.
    pub(super) fn require(&self, required: Option<f64>) -> Result<(), Error> {
        let lowest = self.runs.iter().map(|run| run.best_test_accuracy).fold(f64::INFINITY, f64::min);
        match required {
            Some(required) if lowest < required => Err(Error::Accuracy { reached: lowest, required }),
            _ => Ok(()),
        }
    }

    /// The last words: ours beside the published figure, and how the budgets differ.
    pub(super) fn text(&self, out: &Path) -> String {
        let Some(last) = self.runs.last() else { return String::new() };
        let deviation = self.standard_deviation.map_or(String::new(), |sigma| {
            format!(" ± {sigma:.2} (mean and standard deviation of {} seeds)", self.runs.len())
        });
        let mut text = format!(
            "{} {} on {}: test accuracy {:.2} %{deviation}",
            last.experiment, last.variant, last.dataset, self.mean_test_accuracy,
        );
        if let Some(published) = last.published {
            text += &format!(
                "; published {published:.2} % after {} epochs, this run had {}",
                last.published_epochs, last.epochs
            );
        }
        let out = out.display();
        text + &match self.runs.len() {
            1 => format!("\nmodel, metrics and curves are in {out}"),
            _ => format!("\nthe summary is in {out}, models, metrics and curves in its folders seed-N"),
        }
    }
}

impl RunResult {
    /// Rounds accuracies and times for people; the metrics files keep every digit.
    pub(super) fn rounded(mut self) -> Self {
        let round = |x: &mut f64, digits: i32| *x = (*x * 10_f64.powi(digits)).round() / 10_f64.powi(digits);
        round(&mut self.test_accuracy, 4);
        round(&mut self.best_test_accuracy, 4);
        round(&mut self.train_loss, 6);
        round(&mut self.images_per_second, 1);
        round(&mut self.seconds, 2);
        self
    }
}
