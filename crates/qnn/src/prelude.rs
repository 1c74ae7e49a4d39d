//! What an example needs: `use qnn::prelude::*`.

pub use crate::data::{DatasetName, Source};
pub use crate::experiment::{Experiment, Variant};
pub use crate::layers::{Constraint, Init, Initializer, Layer, Mode, Module};
pub use crate::models::{
    Activation, BnnCnn, BnnCnnConfig, LeNet5, LeNet5Config, Mlp, MlpConfig, Norm, ResNet, ResNetConfig,
    Scheme, Shortcut, Vgg7, Vgg7Config,
};
pub use crate::quant::{Estimator, Pair, Quantizer};
pub use crate::tensor::{Tape, Tensor, Var};
pub use crate::train::{FitOptions, Loss, OptimizerConfig, Recipe, Schedule, TrainingData, evaluate, fit};
