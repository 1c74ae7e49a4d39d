//! What an example needs: `use qnn::prelude::*`.

pub use crate::data::{Dataset, DatasetName, Images, Source};
pub use crate::experiment::{Design, Experiment, Variant};
pub use crate::layers::{Constraint, Init, Initializer, Layer, Mode, Module};
pub use crate::models::{
    Activation, BnnCnn, BnnCnnConfig, Builder, LeNet5, LeNet5Config, Mlp, MlpConfig, Norm, Place, ResNet,
    ResNetConfig, Scheme, Shortcut, Vgg7, Vgg7Config,
};
pub use crate::quant::{Estimator, Pair, Quantizer};
pub use crate::tensor::{Tape, Tensor, Var};
pub use crate::train::{FitOptions, Loss, OptimizerConfig, Recipe, Schedule, TrainingData, evaluate, fit};
