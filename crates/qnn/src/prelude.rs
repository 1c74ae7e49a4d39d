//! What an example needs: `use qnn::prelude::*`.

pub use crate::data::{DatasetName, Source};
pub use crate::experiment::{Experiment, Variant};
pub use crate::layers::{Init, Layer, Mode, Module};
pub use crate::models::{
    Activation, LeNet5, LeNet5Config, Mlp, MlpConfig, ResNet, ResNetConfig, Scheme, Shortcut, Vgg7,
    Vgg7Config,
};
pub use crate::quant::{Estimator, Pair, Quantizer};
pub use crate::tensor::{Tape, Tensor, Var};
pub use crate::train::{FitOptions, Loss, OptimizerConfig, Recipe, Schedule, TrainingData, evaluate, fit};
