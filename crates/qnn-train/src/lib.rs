//! Training of quantized neural networks: optimizers, schedules, exact checkpoints, metrics, curves.
//!
//! ```text
//!   Recipe ───────┐
//!   TrainingData ─┼──▶ fit ──▶ Event, Event, …        (whoever shows progress)
//!   model ────────┘     │
//!                       ├── step      forward, backward, Optimizer, Schedule, Loss
//!                       ├── evaluate
//!                       └── files     checkpoint, best and last model, metrics, curves
//! ```
//!
//! ```
//! use qnn_data::{Augment, Normalize, embedded_digits};
//! use qnn_layers::{Dense, DenseConfig, Flatten, Init, Sequential};
//! use qnn_train::{Event, FitOptions, Recipe, TrainingData, fit};
//!
//! let digits = embedded_digits()?;
//! let normalize = Normalize::fit(&digits.train);
//! let recipe = Recipe { epochs: 2, learning_rate: 0.05, ..Recipe::default() };
//! let data = TrainingData::new(digits, &recipe, normalize, Augment::None)?;
//!
//! let dense = Dense::new(&DenseConfig::new(8 * 8, 10), &mut Init::new(recipe.seed))?;
//! let mut model = Sequential::new().then(Flatten).then(dense);
//! let outcome = fit(&mut model, &data, &recipe, &FitOptions::default(), &mut |event| {
//!     if let Event::Epoch(metrics) = event {
//!         assert!(metrics.test_accuracy > 0.8);
//!     }
//! })?;
//! assert_eq!(outcome.history.len(), 2);
//! # Ok::<(), Box<dyn std::error::Error>>(())
//! ```
//!
//! # Invariants
//!
//! - The same model, data and recipe give the same bits: on any number of threads, and however
//!   often the training is killed and resumed.
//! - All chance is a function of the seed and the step; a checkpoint holds no generator.
//! - Every file is the old one or the new one, never a part; damaged files are errors.
//! - The loop prints nothing: it reports [`Event`]s.

mod archive;
mod calibrate;
mod checkpoint;
mod curves;
mod data;
mod error;
mod evaluate;
mod event;
pub mod files;
mod interrupt;
mod loss;
mod metrics;
pub mod optimizer;
mod outputs;
mod recipe;
mod schedule;
mod step;
mod trainer;
mod weights;

pub use calibrate::{calibrate, quantize_trained};
pub use checkpoint::{Checkpoint, EpochSums, Progress};
pub use curves::{curves_svg, write_curves};
pub use data::{TrainingData, into_tensor, pooled};
pub use error::Error;
pub use evaluate::{Evaluation, evaluate};
pub use event::Event;
pub use interrupt::Stop;
pub use loss::{Loss, count_correct};
pub use metrics::{EpochMetrics, best_epoch, write_history};
pub use optimizer::{Adam, Optimizer, OptimizerConfig, Regularization, Sgd, SgdConfig, StepReport};
pub use optimizer::{AdamConfig, Bop, BopConfig, OptimizerState, ShiftAdaMax, ShiftAdaMaxConfig};
pub use outputs::run_settings;
pub use qnn_files::write_atomically;
pub use recipe::Recipe;
pub use schedule::{Schedule, Span};
pub use step::{StepResult, StepSettings, step};
pub use trainer::{Ending, FitOptions, Outcome, fit};
pub use weights::{load_metadata, load_model, load_weights, save_model, weights_digest};
