//! Data sets for quantized neural networks.
//!
//! ```text
//! files on disk ──┐
//! a server ───────┼──▶ Images (bytes, NHWC) ──▶ Loader (order, crop, flip, normalise) ──▶ Batch (f32, NHWC)
//! the program ────┘
//! ```
//!
//! [`load`] finds CIFAR-10, SVHN, MNIST and Fashion-MNIST on disk and has real handwritten digits inside the
//! program for everything else; `download` fetches the official files. A [`Loader`] turns [`Images`] into
//! batches on another thread.
//!
//! ```
//! use std::sync::Arc;
//! use qnn_data::{load, Augment, DatasetName, Loader, LoaderConfig, Normalize, Source};
//!
//! let digits = load(DatasetName::Digits, &Source::Auto)?.dataset;
//! let normalize = Normalize::fit(&digits.train);
//! let config = LoaderConfig {
//!     batch: 50,
//!     shuffle: true,
//!     augment: Augment::PadCropFlip { pad: 1, flip: false },
//!     normalize,
//!     ..LoaderConfig::default()
//! };
//! let loader = Loader::new(Arc::new(digits.train), config)?;
//! for batch in loader.epoch(0) {
//!     assert_eq!(batch.images.len(), batch.len() * 8 * 8);
//! }
//! # Ok::<(), qnn_data::Error>(())
//! ```
//!
//! # Invariants
//! - The same images, configuration and epoch give the same bits, whole or from the middle, with or without
//!   the other thread.
//! - No header decides how much memory is taken: files are bounded by their kind before they are read,
//!   archives while they expand.
//! - Damaged files give an [`Error`] with file, byte and expectation, never a panic.
//!
//! # Features
//!
//! `download`, on by default, brings `download` and `download_from`, and with them an HTTP client and TLS.

mod augment;
mod batches;
#[cfg(feature = "download")]
mod catalog;
mod cifar;
mod dataset;
mod digits;
#[cfg(feature = "download")]
mod download;
mod error;
mod idx;
mod images;
mod loader;
mod locate;
mod normalize;
mod random;
mod read;
mod source;
mod split;
mod svhn;
mod transform;

pub use augment::Augment;
pub use batches::Batches;
pub use cifar::read_cifar10;
pub use dataset::{Dataset, DatasetName};
pub use digits::embedded_digits;
#[cfg(feature = "download")]
pub use download::{download, download_from};
pub use error::{Error, Result};
pub use idx::{read_idx, read_mnist};
pub use images::Images;
pub use loader::{Batch, Loader, LoaderConfig};
pub use normalize::Normalize;
pub use source::{Loaded, Source, load};
pub use split::train_validation_split;
pub use svhn::read_svhn;
