//! Files that are whole or not there.
//!
//! ```text
//!   write_atomically      beside the target, then renamed
//!   Container             a safetensors file: tensors by name and one note in its header
//!   Digest                a number that changes with any bit
//!   Signature             the first line of a note: kind, version, digest
//! ```
//!
//! ```
//! use qnn_files::Container;
//! use safetensors::tensor::{Dtype, TensorView};
//!
//! let folder = tempfile::tempdir()?;
//! let path = folder.path().join("x.safetensors");
//! let two = TensorView::new(Dtype::U8, vec![2], &[1, 2])?;
//! Container::write(&path, [("two", two)], "a note".to_owned())?;
//! let read = Container::read(&path)?;
//! assert_eq!(read.note(), "a note");
//! assert_eq!(read.tensors()?.tensor("two")?.data(), [1, 2]);
//! # Ok::<(), Box<dyn std::error::Error>>(())
//! ```
//!
//! # Invariants
//!
//! - A reader never sees half a file, whenever the process or the machine dies.
//! - No allocation is sized by a number read from a file without comparing it with the file's size.
//! - Equal tensors and notes make equal files.

mod atomic;
mod container;
mod digest;
mod error;
mod signature;

pub use atomic::write as write_atomically;
pub use container::Container;
pub use digest::Digest;
pub use error::Error;
pub use signature::Signature;
