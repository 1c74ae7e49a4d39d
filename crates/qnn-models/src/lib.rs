//! Quantized neural networks ready to train: ResNet for CIFAR, VGG-7, the BNN paper's convolutional
//! network, LeNet-5, multilayer perceptrons.
//!
//! ```text
//!   Scheme          how a network is quantized: data, from a preset or put together
//!      │
//!   ResNetConfig    sizes and a scheme ── ResNet::new(&config, &mut init) ── ResNet: a Layer
//! ```
//!
//! A model is a struct of named layers; the names are the paths of its state dict, for instance
//! `blocks.0.conv1.kernel`.
//!
//! ```
//! use qnn_layers::{Ctx, Init, Layer, Mode};
//! use qnn_models::{LeNet5, LeNet5Config, Scheme};
//! use qnn_tensor::{Tape, Tensor};
//!
//! let config = LeNet5Config { scheme: Scheme::preset("twn")?, ..LeNet5Config::default() };
//! let model = LeNet5::new(&config, &mut Init::new(0))?;
//!
//! let tape = Tape::new();
//! let mut cx = Ctx::new(&tape, Mode::Eval, 0, 0);
//! let images = tape.constant(Tensor::zeros(&[2, 28, 28, 1]));
//! let logits = model.forward(&mut cx, images.into())?.value();
//! assert_eq!(logits.shape(), [2, 10]);
//! # Ok::<(), Box<dyn std::error::Error>>(())
//! ```
//!
//! # Invariants
//!
//! - The same config and the same seed make the same model; a scheme changes which values stand
//!   behind a quantizer, not how they are drawn (clipping apart).
//! - Models are built of `qnn-layers` alone and own no training code.

mod bnn_cnn;
mod build;
mod error;
mod lenet5;
mod mlp;
mod pad_zero;
mod preset;
mod resnet;
mod scheme;
mod units;
mod vgg7;

pub use bnn_cnn::{BnnCnn, BnnCnnConfig};
pub use build::Builder;
pub use error::{Error, Result};
pub use lenet5::{LeNet5, LeNet5Config};
pub use mlp::{Mlp, MlpConfig};
pub use pad_zero::PadZero;
pub use preset::Preset;
pub use resnet::{ResNet, ResNetConfig, Shortcut};
pub use scheme::{Activation, Norm, Place, Scheme};
pub use vgg7::{Vgg7, Vgg7Config};
