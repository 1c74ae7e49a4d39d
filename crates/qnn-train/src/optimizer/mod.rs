//! Rules by which gradients change parameters.
//!
//! A rule is a formula for one weight; the walk over a model's parameters, weight decay, clipping,
//! constraints and the count of sign flips are the same for all.

mod adam;
mod sgd;
mod walk;

use std::fmt::Debug;

use qnn_layers::{Module, ParamGradients, StateDict};
use serde::{Deserialize, Serialize};

pub use self::adam::{Adam, AdamConfig};
pub use self::sgd::{Sgd, SgdConfig};
use crate::Error;

/// Changes a model's parameters by their gradients.
///
/// ```text
/// g ← g · min(1, clip / ‖g‖)     where the gradient's norm is limited
/// g ← g + decay · w              where the parameter decays
/// w ← w − rate · factor · u(g)   u by the rule, factor the parameter's own
/// w ← constraint(w)
/// ```
///
/// What it remembers is keyed by the parameters' paths, so that it can go on in another process.
pub trait Optimizer: Debug + Send {
    /// One step. Takes the gradients it uses.
    ///
    /// # Errors
    ///
    /// [`Error::NoGradient`] if a parameter got no gradient and its learning rate factor is not 0,
    /// [`Error::GradientShape`] or [`Error::Slot`] if shapes differ. The model is then unchanged.
    fn step(
        &mut self,
        model: &mut dyn Module,
        gradients: &mut ParamGradients,
        rate: f32,
    ) -> Result<StepReport, Error>;

    /// What the optimizer remembers; shares the buffers.
    fn state(&self) -> OptimizerState;

    /// Goes on from a state.
    ///
    /// # Errors
    ///
    /// [`Error::Slot`] if the state is another rule's or another model's; nothing is then changed.
    fn load_state(&mut self, model: &dyn Module, state: OptimizerState) -> Result<(), Error>;
}

/// What one step of an [`Optimizer`] did to latent weights.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct StepReport {
    /// How many latent weights changed their sign, where −0 counts as positive.
    pub flips: u64,
    /// How many latent weights there are.
    pub binary_weights: u64,
}

/// The memory of an [`Optimizer`].
#[derive(Clone, Debug, Default, PartialEq)]
pub struct OptimizerState {
    /// Steps so far.
    pub steps: u64,
    /// Tensors by `PATH.SLOT`, as `blocks.0.conv1.kernel.momentum`.
    pub slots: StateDict,
}

/// A rule and its constants, as a recipe names them.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
#[non_exhaustive]
pub enum OptimizerConfig {
    /// [`Sgd`].
    Sgd {
        /// The share of the last update that is kept, in 0..1.
        momentum: f32,
        /// Whether the gradient is looked up ahead.
        nesterov: bool,
    },
    /// [`Adam`].
    Adam {
        /// Decay of the mean of gradients, in 0..1.
        beta1: f32,
        /// Decay of the mean of squared gradients, in 0..1.
        beta2: f32,
        /// What keeps the quotient finite.
        epsilon: f32,
    },
}

/// What all rules share.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Regularization {
    /// `decay` of full-precision kernels: the factor of w in the gradient (L2, not decoupled).
    pub weight_decay: f32,
    /// The largest norm of the gradient of all parameters together.
    pub clip_norm: Option<f32>,
}

impl OptimizerConfig {
    /// Momentum 0.9.
    pub const SGD: Self = Self::Sgd { momentum: 0.9, nesterov: false };

    /// Nesterov's momentum 0.9.
    pub const NESTEROV: Self = Self::Sgd { momentum: 0.9, nesterov: true };

    /// Adam with the constants of its paper.
    pub const ADAM: Self = Self::Adam { beta1: 0.9, beta2: 0.999, epsilon: 1e-8 };

    /// An optimizer that remembers nothing yet.
    ///
    /// # Errors
    ///
    /// [`Error::Setting`] for a constant out of its range.
    pub fn build(&self, regularization: Regularization) -> Result<Box<dyn Optimizer>, Error> {
        Ok(match *self {
            Self::Sgd { momentum, nesterov } => {
                Box::new(Sgd::new(SgdConfig { momentum, nesterov, regularization })?)
            }
            Self::Adam { beta1, beta2, epsilon } => {
                Box::new(Adam::new(AdamConfig { beta1, beta2, epsilon, regularization })?)
            }
        })
    }
}

impl Default for OptimizerConfig {
    fn default() -> Self {
        Self::SGD
    }
}

impl Regularization {
    fn check(&self) -> Result<(), Error> {
        let Self { weight_decay, clip_norm } = *self;
        if !(weight_decay >= 0.0 && weight_decay.is_finite()) {
            return Err(Error::setting("the weight decay", weight_decay, "a number from 0 on"));
        }
        match clip_norm {
            Some(norm) if norm.is_nan() || norm <= 0.0 => {
                Err(Error::setting("the largest norm of the gradient", norm, "positive"))
            }
            _ => Ok(()),
        }
    }
}

/// Refuses a decay outside 0..1.
fn check_share(setting: &'static str, value: f32) -> Result<(), Error> {
    let good = (0.0..1.0).contains(&value);
    if good { Ok(()) } else { Err(Error::setting(setting, value, "at least 0 and less than 1")) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn constants_out_of_range_are_refused() {
        let none = Regularization::default();
        for config in [
            OptimizerConfig::Sgd { momentum: 1.0, nesterov: false },
            OptimizerConfig::Sgd { momentum: f32::NAN, nesterov: false },
            OptimizerConfig::Adam { beta1: -0.1, beta2: 0.9, epsilon: 1e-8 },
            OptimizerConfig::Adam { beta1: 0.9, beta2: 1.0, epsilon: 1e-8 },
            OptimizerConfig::Adam { beta1: 0.9, beta2: 0.9, epsilon: 0.0 },
        ] {
            assert!(matches!(config.build(none), Err(Error::Setting { .. })), "{config:?}");
        }
        for bad in [
            Regularization { weight_decay: -1.0, ..none },
            Regularization { weight_decay: f32::INFINITY, ..none },
            Regularization { clip_norm: Some(0.0), ..none },
        ] {
            assert!(OptimizerConfig::SGD.build(bad).is_err(), "{bad:?}");
        }
    }
}
