use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use crate::optimizer::{OptimizerConfig, Regularization};
use crate::{Error, Loss, Schedule};

/// How a model is trained: plain data, so that an experiment states it and a flag overrides it.
///
/// ```
/// use qnn_train::{OptimizerConfig, Recipe, Schedule};
///
/// let recipe = Recipe {
///     epochs: 30,
///     batch: 128,
///     optimizer: OptimizerConfig::ADAM,
///     learning_rate: 0.001,
///     schedule: Schedule::Exponential { final_factor: 0.1 },
///     ..Recipe::default()
/// };
/// assert_eq!(recipe.weight_decay, 0.0);
/// ```
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Recipe {
    /// How often the training set is seen.
    pub epochs: usize,
    /// Images per step.
    pub batch: usize,
    /// The rule that changes the weights.
    pub optimizer: OptimizerConfig,
    /// The base learning rate, which the schedule varies.
    pub learning_rate: f32,
    /// How the learning rate changes.
    pub schedule: Schedule,
    /// L2 on full-precision kernels.
    pub weight_decay: f32,
    /// L2 on what quantizers learn, such as the heights of PACT; see [`Regularization::quantizer_decay`].
    #[serde(default, skip_serializing_if = "is_zero")]
    pub quantizer_decay: f32,
    /// The largest norm of the gradient of all parameters together.
    pub clip_norm: Option<f32>,
    /// Whether quantized kernels learn at rates scaled by their Glorot coefficient; see
    /// [`Regularization::glorot_rates`].
    #[serde(default, skip_serializing_if = "is_false")]
    pub glorot_rates: bool,
    /// What is made small.
    pub loss: Loss,
    /// Decides the order of the images, their augmentation and all chance in the model.
    pub seed: u64,
    /// Whether training images are augmented.
    pub augment: bool,
    /// After how many epochs without a better test accuracy training ends, once the model has no weights left to freeze (incremental
    /// network quantization freezes the last ones after three quarters of the epochs).
    pub early_stopping: Option<usize>,
}

impl Default for Recipe {
    /// Ten epochs of SGD with momentum 0.9 at a constant rate of 0.1, in batches of 100.
    fn default() -> Self {
        Self {
            epochs: 10,
            batch: 100,
            optimizer: OptimizerConfig::default(),
            learning_rate: 0.1,
            schedule: Schedule::default(),
            weight_decay: 0.0,
            quantizer_decay: 0.0,
            clip_norm: None,
            glorot_rates: false,
            loss: Loss::default(),
            seed: 0,
            augment: false,
            early_stopping: None,
        }
    }
}

impl Recipe {
    /// How the METU thesis on binary residual networks trains on CIFAR-10: 200 epochs of SGD with momentum 0.9 in
    /// batches of 100, a rate of 0.1 that is divided by ten at epochs 80, 120 and 160, weight decay 10⁻⁴ on kernels in
    /// full precision, images padded, cropped and mirrored.
    ///
    /// The decay is the factor of w in its gradient. Networks of Keras, which the thesis follows, write L2 as a penalty λ · Σ w²,
    /// whose gradient is 2λ · w: for theirs it would be 2 · 10⁻⁴ here.
    pub fn metu_cifar10() -> Self {
        Self {
            epochs: 200,
            batch: 100,
            optimizer: OptimizerConfig::SGD,
            learning_rate: 0.1,
            schedule: Schedule::Step { milestones: vec![80, 120, 160], factor: 0.1 },
            weight_decay: 1e-4,
            augment: true,
            ..Self::default()
        }
    }

    /// Refuses settings with which no training can begin.
    ///
    /// # Errors
    ///
    /// [`Error::Setting`], naming the first such setting.
    pub fn check(&self) -> Result<(), Error> {
        let at_least_one = |setting, value: usize| {
            if value > 0 { Ok(()) } else { Err(Error::setting(setting, value, "at least 1")) }
        };
        at_least_one("the number of epochs", self.epochs)?;
        at_least_one("the batch size", self.batch)?;
        at_least_one("the patience of early stopping", self.early_stopping.unwrap_or(1))?;
        if !(self.learning_rate > 0.0 && self.learning_rate.is_finite()) {
            return Err(Error::setting("the learning rate", self.learning_rate, "a positive number"));
        }
        self.loss.check()?;
        self.schedule.check()?;
        self.optimizer.build(self.regularization()).map(drop)
    }

    pub(crate) fn regularization(&self) -> Regularization {
        let Self { weight_decay, quantizer_decay, clip_norm, glorot_rates, .. } = *self;
        Regularization { weight_decay, quantizer_decay, clip_norm, glorot_rates }
    }

    /// Every setting by name, as text.
    pub(crate) fn settings(&self) -> BTreeMap<String, String> {
        // Through text: a rate of 0.1 shall read 0.1, not the f64 next to the f32.
        let fields: BTreeMap<String, serde_json::Value> = serde_json::to_string(self)
            .and_then(|text| serde_json::from_str(&text))
            .expect("a struct of numbers and names is an object of JSON");
        fields.into_iter().map(|(name, value)| (name, value.to_string())).collect()
    }
}

/// Settings at their default that came later are left out, so that older checkpoints stay good.
fn is_false(setting: &bool) -> bool {
    !setting
}

fn is_zero(setting: &f32) -> bool {
    *setting == 0.0
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn senseless_settings_are_named() {
        let good = Recipe::default();
        assert!(good.check().is_ok());
        for (bad, name) in [
            (Recipe { epochs: 0, ..good.clone() }, "epochs"),
            (Recipe { batch: 0, ..good.clone() }, "batch"),
            (Recipe { learning_rate: f32::NAN, ..good.clone() }, "learning rate"),
            (Recipe { weight_decay: -1.0, ..good.clone() }, "weight decay"),
            (Recipe { quantizer_decay: f32::NAN, ..good.clone() }, "quantizers"),
            (Recipe { clip_norm: Some(f32::NAN), ..good.clone() }, "norm"),
            (Recipe { early_stopping: Some(0), ..good.clone() }, "patience"),
            (Recipe { loss: Loss::CrossEntropy { smoothing: 1.0 }, ..good.clone() }, "smoothing"),
            (
                Recipe { schedule: Schedule::Exponential { final_factor: 0.0 }, ..good.clone() },
                "final factor",
            ),
            (
                Recipe { optimizer: OptimizerConfig::Sgd { momentum: 2.0, nesterov: false }, ..good },
                "momentum",
            ),
        ] {
            let error = bad.check().unwrap_err().to_string();
            assert!(error.contains(name), "{error}");
        }
    }

    #[test]
    fn every_field_is_a_setting() {
        let settings = Recipe { clip_norm: Some(0.1), ..Recipe::default() }.settings();
        assert_eq!(settings.len(), 11);
        assert_eq!((settings["epochs"].as_str(), settings["learning_rate"].as_str()), ("10", "0.1"));
        assert_eq!(Recipe { glorot_rates: true, ..Recipe::default() }.settings()["glorot_rates"], "true");
    }
}
