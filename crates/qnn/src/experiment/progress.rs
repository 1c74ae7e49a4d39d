use std::path::{Path, PathBuf};
use std::time::Duration;

use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};
use qnn_train::{EpochMetrics, Event};

/// What a person sees while a network trains: a bar on a terminal, one line per epoch in a pipe.
#[derive(Debug)]
pub(super) struct Progress {
    bar: ProgressBar,
    quiet: bool,
    epochs: usize,
    out: PathBuf,
    is_finished: bool,
}

impl Progress {
    /// Of a training of so many epochs in the folder `out`, which perhaps holds it whole already.
    pub(super) fn new(quiet: bool, epochs: usize, out: &Path, is_finished: bool) -> Self {
        let target = if quiet { ProgressDrawTarget::hidden() } else { ProgressDrawTarget::stderr() };
        let bar = ProgressBar::with_draw_target(None, target);
        bar.set_style(style());
        Self { bar, quiet, epochs, out: out.to_owned(), is_finished }
    }

    /// Shows what the trainer reports.
    pub(super) fn show(&mut self, event: &Event) {
        match event {
            Event::Started { first_epoch, batch, of, resumed, .. } => {
                self.start(*first_epoch, *batch, *of, *resumed)
            }
            Event::Batch { epoch, batch, of, loss, images_per_second } => {
                self.bar.set_position((epoch * of + batch + 1) as u64);
                self.bar.set_message(format!(
                    "epoch {}/{}  loss {loss:.3}  {images_per_second:.0} images/s",
                    epoch + 1,
                    self.epochs
                ));
            }
            Event::Epoch(metrics) => self.line(&epoch_line(metrics, self.epochs)),
            Event::Stopped { .. } => self.line(&format!(
                "stopped; the checkpoint is in {}, and --resume goes on from it",
                self.out.display()
            )),
            _ => {}
        }
    }

    /// One line above the bar, or plainly on standard error where there is no terminal.
    pub(super) fn line(&self, text: &str) {
        if self.quiet {
            return;
        }
        if self.bar.is_hidden() {
            eprintln!("{text}");
        } else {
            self.bar.println(text);
        }
    }

    pub(super) fn finish(&self) {
        self.bar.finish_and_clear();
    }

    fn start(&mut self, first_epoch: usize, batch: usize, of: usize, resumed: bool) {
        self.bar.set_length(self.epochs.saturating_mul(of) as u64);
        self.bar.set_position((first_epoch * of + batch) as u64);
        self.bar.reset_eta();
        if resumed {
            self.line(&match self.is_finished {
                true => format!(
                    "the run is already finished; to train again, choose another --out or delete {}",
                    self.out.display()
                ),
                false => format!("resuming in epoch {}, batch {}", first_epoch + 1, batch + 1),
            });
        }
    }
}

fn style() -> ProgressStyle {
    ProgressStyle::with_template("{bar:30.cyan/white.dim} {percent:>3} %  {msg}  eta {eta}")
        .expect("the template is well-formed")
        .progress_chars("━╸─")
}

fn epoch_line(metrics: &EpochMetrics, epochs: usize) -> String {
    // The epoch's own pace: earlier ones may have shared the machine or been resumed in their middle.
    let left = epochs.saturating_sub(metrics.epoch + 1);
    let remaining = Duration::try_from_secs_f64(metrics.seconds.max(0.0))
        .unwrap_or(Duration::MAX)
        .saturating_mul(u32::try_from(left).unwrap_or(u32::MAX));
    let flips = metrics.flip_ratio.map_or(String::new(), |ratio| format!("  flips {:.3} %", 100.0 * ratio));
    format!(
        "epoch {:>3}/{epochs}  loss {:.4}  train {:.2} %  test {:.2} %  rate {:.5}{flips}  {:.0} images/s  eta {}",
        metrics.epoch + 1,
        metrics.train_loss,
        100.0 * metrics.train_accuracy,
        100.0 * metrics.test_accuracy,
        metrics.learning_rate,
        metrics.images_per_second,
        indicatif::HumanDuration(remaining),
    )
}

/// A bar that counts bytes.
pub(super) fn download_bar(quiet: bool) -> ProgressBar {
    let target = if quiet { ProgressDrawTarget::hidden() } else { ProgressDrawTarget::stderr() };
    let style = ProgressStyle::with_template(
        "downloading {bar:30} {bytes}/{total_bytes}  {bytes_per_sec}  eta {eta}",
    );
    ProgressBar::with_draw_target(None, target).with_style(style.expect("the template is well-formed"))
}
