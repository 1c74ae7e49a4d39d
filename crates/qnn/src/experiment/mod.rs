//! Experiments as data: an example declares its variants and published figures, and gets a command
//! line, a trainer with checkpoints, a progress bar, metrics, curves and a result line.
//!
//! ```no_run
//! use qnn::prelude::*;
//!
//! fn main() -> std::process::ExitCode {
//!     let published = ResNetConfig::from_depth(20).expect("20 = 6 * 3 + 2");
//!     let binary = ResNetConfig { scheme: Scheme::preset("bc").expect("a known preset"), ..published.clone() };
//!     Experiment::new("mine", "ResNet-20 on CIFAR-10")
//!         .dataset(DatasetName::Cifar10)
//!         .recipe(Recipe { epochs: 200, ..Recipe::default() })
//!         .variant(Variant::new("fp", "full precision", published).published(91.66))
//!         .variant(Variant::new("bc", "BinaryConnect", binary).published(82.68))
//!         .main()
//! }
//! ```
//!
//! For networks and images of one's own see [`Design`].

mod design;
mod error;
mod images;
mod instruction_set;
mod list;
mod nearest;
mod options;
mod plan;
mod progress;
mod provenance;
mod report;
mod run;
mod say;
mod variant;

use std::io::Write;
use std::process::ExitCode;
use std::sync::Arc;

use clap::{CommandFactory, FromArgMatches};
use qnn_data::{Dataset, DatasetName};
use qnn_train::{Recipe, Stop};

pub use design::Design;
pub use error::Error;
pub use instruction_set::check_instruction_set;
pub use options::Options;
pub use provenance::Provenance;
pub use report::{RunResult, Summary};
pub use run::MAX_THREADS;
pub use say::say;
pub use variant::Variant;

use images::Set;

/// A published table to reproduce: data, recipe and variants.
#[derive(Debug)]
pub struct Experiment {
    name: &'static str,
    about: &'static str,
    datasets: Vec<Set>,
    recipe: Recipe,
    variants: Vec<Variant>,
}

impl Experiment {
    /// An experiment called `name`, after its example.
    pub fn new(name: &'static str, about: &'static str) -> Self {
        Self { name, about, datasets: Vec::new(), recipe: Recipe::default(), variants: Vec::new() }
    }

    /// Adds a data set that the experiment may run on. The first one is the published one.
    #[must_use]
    pub fn dataset(mut self, name: DatasetName) -> Self {
        self.datasets.push(Set::Known(name));
        self
    }

    /// Adds a data set of one's own, which `--dataset` calls by its name. It is scaled to the size that a network takes
    /// and normalised like any other; augmentation is CIFAR-10's, if the recipe wants it.
    #[must_use]
    pub fn images(mut self, dataset: Dataset) -> Self {
        self.datasets.push(Set::Own(Arc::new(dataset)));
        self
    }

    /// The published hyperparameters.
    #[must_use]
    pub fn recipe(mut self, recipe: Recipe) -> Self {
        self.recipe = recipe;
        self
    }

    /// Adds a row of the table. The first one runs if the command line names none.
    #[must_use]
    pub fn variant(mut self, variant: Variant) -> Self {
        self.variants.push(variant);
        self
    }

    /// Reads the command line, runs, and says how it went: 0 for success, 1 for an error or a
    /// missed `--require`, 2 for a wrong command line, 130 after Ctrl-C (everything is saved).
    ///
    /// # Panics
    ///
    /// If the experiment has no data set or no variant.
    pub fn main(self) -> ExitCode {
        let options = self.parse();
        let stop = Stop::default();
        install_interrupt_handler(&stop);
        match self.run_with(&options, &stop) {
            Ok(Some(summary)) if summary.stopped => ExitCode::from(130),
            Ok(_) => ExitCode::SUCCESS,
            Err(error) => {
                eprintln!("error: {}", chain(&error));
                ExitCode::from(if error.is_usage() { 2 } else { 1 })
            }
        }
    }

    /// Runs what the options ask for and returns the results, writing files, each result as a line of
    /// JSON to the standard output, and the progress that `options.quiet` turns off. `None` after
    /// `--list`, which is printed.
    ///
    /// # Errors
    ///
    /// [`Error`] for options that do not fit the experiment, and for whatever data, training or
    /// files report.
    ///
    /// # Panics
    ///
    /// If the experiment has no data set or no variant.
    pub fn run(&self, options: &Options) -> Result<Option<Summary>, Error> {
        self.run_with(options, &Stop::default())
    }

    fn run_with(&self, options: &Options, stop: &Stop) -> Result<Option<Summary>, Error> {
        assert!(!self.datasets.is_empty(), "the experiment {:?} needs a data set", self.name);
        assert!(!self.variants.is_empty(), "the experiment {:?} needs a variant", self.name);
        if options.list {
            // Whoever reads the other end of a pipe may have seen enough.
            let _ = write!(std::io::stdout(), "{}{}", list::list(self), list::presets());
            return Ok(None);
        }
        run::run(self, options, stop).map(Some)
    }

    fn parse(&self) -> Options {
        let command = Options::command().name(self.name).about(self.about).long_about(None);
        let command = command.after_help(list::list(self) + &list::presets() + &list::quantizers());
        let matches = command.get_matches();
        Options::from_arg_matches(&matches).unwrap_or_else(|error| error.exit())
    }
}

/// The first Ctrl-C asks the trainer to save and stop; the second one ends the process at once.
fn install_interrupt_handler(stop: &Stop) {
    let stop = stop.clone();
    let handler = move || {
        if stop.is_requested() {
            std::process::exit(130);
        }
        stop.request();
        eprintln!("\nsaving after this batch; press Ctrl-C again to stop at once");
    };
    // Without a handler Ctrl-C just ends the run, and the last checkpoint remains.
    let _ = ctrlc::set_handler(handler);
}

/// An error with its causes on one line.
fn chain(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut cause = error.source();
    while let Some(error) = cause {
        let next = error.to_string();
        if !text.contains(&next) {
            text = format!("{text}: {next}");
        }
        cause = error.source();
    }
    text
}
