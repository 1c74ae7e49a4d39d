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
