use std::str::FromStr;

use qnn_layers::Param;
use serde::{Deserialize, Serialize};

use super::{
    Adam, AdamConfig, Bop, BopConfig, Optimizer, Regularization, Sgd, SgdConfig, ShiftAdaMax,
    ShiftAdaMaxConfig,
};
use crate::Error;

/// A rule and its constants, as a recipe names them.
///
/// Parses from `sgd` and `nesterov` (momentum 0.9), `adam`, `shift-adamax`, and `bop` with Adam for
/// what is not binary.
///
/// ```
/// use qnn_train::OptimizerConfig;
/// assert_eq!("adam".parse::<OptimizerConfig>()?, OptimizerConfig::ADAM);
/// let bop = OptimizerConfig::bop(OptimizerConfig::ADAM);
/// assert_eq!("bop".parse::<OptimizerConfig>()?, bop);
/// # Ok::<(), qnn_train::Error>(())
/// ```
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
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
    /// [`ShiftAdaMax`].
    ShiftAdaMax {
        /// Decay of the mean of gradients, in 0..1.
        beta1: f32,
        /// Decay of the greatest gradient, in 0..1.
        beta2: f32,
    },
    /// [`Bop`].
    Bop {
        /// The weight of a new gradient in the mean, above 0 and at most 1.
        gamma: f32,
        /// What the mean must exceed for a flip.
        threshold: f32,
        /// What changes the parameters that are not binary.
        rest: Box<OptimizerConfig>,
    },
}

impl OptimizerConfig {
    /// Momentum 0.9.
    pub const SGD: Self = Self::Sgd { momentum: 0.9, nesterov: false };

    /// Nesterov's momentum 0.9.
    pub const NESTEROV: Self = Self::Sgd { momentum: 0.9, nesterov: true };

    /// Adam with the constants of its paper.
    pub const ADAM: Self = Self::Adam { beta1: 0.9, beta2: 0.999, epsilon: 1e-8 };

    /// Shift-based AdaMax with the constants of its paper: 1 − β₁ = 2⁻³, 1 − β₂ = 2⁻¹⁰. The paper's
    /// learning rate is 2⁻¹⁰.
    pub const SHIFT_ADAMAX: Self = Self::ShiftAdaMax { beta1: 0.875, beta2: 0.999_023_44 };

    /// The names that [`FromStr`] reads.
    pub const NAMES: [&str; 5] = ["sgd", "nesterov", "adam", "shift-adamax", "bop"];

    /// Bop with the constants of its paper, γ = 10⁻⁴ and τ = 10⁻⁸, and `rest` for what is not binary.
    pub fn bop(rest: Self) -> Self {
        Self::Bop { gamma: 1e-4, threshold: 1e-8, rest: Box::new(rest) }
    }

    /// An optimizer that remembers nothing yet.
    ///
    /// # Errors
    ///
    /// [`Error::Setting`] for a constant out of its range.
    pub fn build(&self, regularization: Regularization) -> Result<Box<dyn Optimizer>, Error> {
        self.build_for(|_| true, regularization)
    }

    /// An optimizer that sees nothing but the parameters that `concerns` picks.
    pub(super) fn build_for(
        &self,
        concerns: fn(&Param) -> bool,
        regularization: Regularization,
    ) -> Result<Box<dyn Optimizer>, Error> {
        Ok(match *self {
            Self::Sgd { momentum, nesterov } => {
                Box::new(Sgd::of(concerns, SgdConfig { momentum, nesterov, regularization })?)
            }
            Self::Adam { beta1, beta2, epsilon } => {
                Box::new(Adam::of(concerns, AdamConfig { beta1, beta2, epsilon, regularization })?)
            }
            Self::ShiftAdaMax { beta1, beta2 } => {
                Box::new(ShiftAdaMax::of(concerns, ShiftAdaMaxConfig { beta1, beta2, regularization })?)
            }
            Self::Bop { gamma, threshold, ref rest } => {
                let rest = OptimizerConfig::clone(rest);
                Box::new(Bop::new(BopConfig { gamma, threshold, rest, regularization })?)
            }
        })
    }
}

impl Default for OptimizerConfig {
    fn default() -> Self {
        Self::SGD
    }
}

impl FromStr for OptimizerConfig {
    type Err = Error;

    fn from_str(name: &str) -> Result<Self, Error> {
        match name {
            "sgd" => Ok(Self::SGD),
            "nesterov" => Ok(Self::NESTEROV),
            "adam" => Ok(Self::ADAM),
            "shift-adamax" => Ok(Self::SHIFT_ADAMAX),
            "bop" => Ok(Self::bop(Self::ADAM)),
            _ => Err(Error::setting(
                "the optimizer",
                format!("{name:?}"),
                &format!("one of {}", Self::NAMES.join(", ")),
            )),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn constants_out_of_range_are_refused() {
        let none = Regularization::default();
        let bop = |gamma, threshold, rest| OptimizerConfig::Bop { gamma, threshold, rest: Box::new(rest) };
        for config in [
            OptimizerConfig::Sgd { momentum: 1.0, nesterov: false },
            OptimizerConfig::Sgd { momentum: f32::NAN, nesterov: false },
            OptimizerConfig::Adam { beta1: -0.1, beta2: 0.9, epsilon: 1e-8 },
            OptimizerConfig::Adam { beta1: 0.9, beta2: 1.0, epsilon: 1e-8 },
            OptimizerConfig::Adam { beta1: 0.9, beta2: 0.9, epsilon: 0.0 },
            OptimizerConfig::ShiftAdaMax { beta1: 1.0, beta2: 0.9 },
            OptimizerConfig::ShiftAdaMax { beta1: 0.9, beta2: f32::NAN },
            bop(0.0, 0.0, OptimizerConfig::SGD),
            bop(1.5, 0.0, OptimizerConfig::SGD),
            bop(0.1, -1.0, OptimizerConfig::SGD),
            bop(0.1, f32::NAN, OptimizerConfig::SGD),
            bop(0.1, 0.0, bop(0.1, 0.0, OptimizerConfig::SGD)),
            bop(0.1, 0.0, OptimizerConfig::Sgd { momentum: 1.0, nesterov: false }),
        ] {
            assert!(matches!(config.build(none), Err(Error::Setting { .. })), "{config:?}");
        }
        for bad in [
            Regularization { weight_decay: -1.0, ..none },
            Regularization { weight_decay: f32::INFINITY, ..none },
            Regularization { quantizer_decay: -1.0, ..none },
            Regularization { quantizer_decay: f32::NAN, ..none },
            Regularization { clip_norm: Some(0.0), ..none },
        ] {
            assert!(OptimizerConfig::SGD.build(bad).is_err(), "{bad:?}");
            assert!(OptimizerConfig::bop(OptimizerConfig::SGD).build(bad).is_err(), "{bad:?}");
        }
    }

    #[test]
    fn every_name_is_read_and_others_are_answered_with_them() {
        for name in OptimizerConfig::NAMES {
            assert!(name.parse::<OptimizerConfig>().unwrap().build(Regularization::default()).is_ok());
        }
        let error = "adm".parse::<OptimizerConfig>().unwrap_err().to_string();
        assert!(error.contains("\"adm\"") && error.contains("sgd, nesterov, adam"), "{error}");
    }
}
