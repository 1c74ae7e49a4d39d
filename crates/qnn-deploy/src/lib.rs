//! Packed inference that is exactly the trained network.
//!
//! ```text
//!   model ──freeze──▶ Program ──Session──▶ logits
//!     │                  │ └──save, load── file
//!     └──────verify──────┘
//! ```
//!
//! [`freeze`] listens to one evaluation of a model, joins what can be one pass over memory, and turns
//! batch norm, activation and quantizer into integer thresholds wherever the operands are codes. The
//! thresholds are found by asking the very functions that the tape computes with.
//!
//! ```
//! use qnn_data::Normalize;
//! use qnn_deploy::{Program, Session, freeze};
//! use qnn_layers::Init;
//! use qnn_models::{LeNet5, LeNet5Config, Scheme};
//!
//! // Where the network is trained, which this one is not:
//! let config = LeNet5Config { scheme: Scheme::preset("bnn")?, ..LeNet5Config::default() };
//! let model = LeNet5::new(&config, &mut Init::new(0))?;
//! let folder = tempfile::tempdir()?;
//! let file = folder.path().join("lenet5.qnn");
//! freeze(&model, [28, 28, 1])?.with_normalization(&Normalize::unit())?.save(&file)?;
//!
//! // Where images are classified, without the model:
//! let program = Program::load(&file)?;
//! let mut session = Session::new(&program)?;
//! let logits = session.run(&[128_u8; 28 * 28][..])?;
//! assert_eq!(logits.len(), 10);
//! # Ok::<(), Box<dyn std::error::Error>>(())
//! ```
//!
//! # Invariants
//!
//! - A session's logits are the model's in evaluation, bit for bit, for any batch and number of threads.
//! - Every number is computed by the function that the tape calls; none is written a second time.
//! - A program is closed data: it can be printed, compared, saved and loaded without the model.
//! - What a program could not reproduce exactly is an error that names the layer, never an approximation.

mod bits;
mod chain;
mod check;
mod codes;
mod cuts;
mod display;
mod error;
mod file;
mod freeze;
mod geometry;
mod graph;
mod integer;
mod lower;
mod memory;
mod plan;
mod program;
mod run;
mod serial;
mod session;
mod staircase;
mod tensors;
mod verify;

pub use error::{Error, Result};
pub use freeze::freeze;
pub use integer::{IntegerFinish, IntegerProduct, IntegerStage};
pub use program::{
    Action, Arithmetic, Chain, Data, Elements, Factor, Finish, LayerName, Link, Normalization, Product,
    Program, Remark, Stage, Value, Weights,
};
pub use session::{Images, Session};
pub use verify::{Difference, Report, verify};
