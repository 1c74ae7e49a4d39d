//! Quantized neural networks: trained at 1 to 8 and 32 bits on your own machine, deployed as small, exact integer programs.
//!
//! This crate is the facade. It re-exports the layers of the project, each a crate of its own:
//!
//! ```text
//! experiment   declare variants and published figures, get a command line, a trainer and reports
//!    │
//! train        optimizers, schedules, exact checkpoints, curves ── deploy: packed programs of trained models
//!    │
//! models       ResNet, VGG-7, LeNet-5, multilayer perceptrons ── data: CIFAR-10, SVHN, MNIST, Fashion-MNIST, embedded digits
//!    │
//! layers       convolution, dense, batch norm ... with optional quantizers
//!    │
//! quant        quantizers and pseudo-gradients        tensor: tensors and autograd
//!                                                        │
//!                                                     kernels: convolution, bit packing
//! ```
//!
//! Train a small binarized network on the embedded digits:
//!
//! ```
//! use qnn::data::{Augment, Normalize, embedded_digits};
//! use qnn::prelude::*;
//!
//! let scheme = Scheme::preset("bc")?; // BinaryConnect: weights ±1
//! let mut model = Mlp::new(&MlpConfig { scheme, ..MlpConfig::new(64, &[64], 10) }, &mut Init::new(1))?;
//! let digits = embedded_digits()?;
//! let recipe = Recipe { epochs: 3, batch: 50, ..Recipe::default() };
//! let normalize = Normalize::fit(&digits.train);
//! let data = TrainingData::new(digits, &recipe, normalize, Augment::None)?;
//! let outcome = fit(&mut model, &data, &recipe, &FitOptions::default(), &mut |_| {})?;
//! assert!(outcome.best().unwrap().test_accuracy > 0.8);
//! # Ok::<(), Box<dyn std::error::Error>>(())
//! ```
//!
//! The repository's `docs/guide.md` shows how to embed a packed model, and how to write a quantizer, a data set, a layer or an
//! experiment of one's own.

pub use qnn_data as data;
pub use qnn_deploy as deploy;
pub use qnn_kernels as kernels;
pub use qnn_layers as layers;
pub use qnn_models as models;
pub use qnn_quant as quant;
pub use qnn_tensor as tensor;
pub use qnn_train as train;

pub mod experiment;
pub mod prelude;

/// The code in the README, compiled and run.
#[cfg(doctest)]
#[doc = include_str!("../../../README.md")]
struct Readme;

/// The code in the guide, likewise.
#[cfg(doctest)]
#[doc = include_str!("../../../docs/guide.md")]
struct Guide;
