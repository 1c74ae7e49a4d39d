//! Rules by which gradients change parameters.
//!
//! A rule is a formula for one weight; the walk over a model's parameters, weight decay, clipping,
//! constraints and the count of sign flips are the same for all.

mod adam;
mod bop;
mod config;
mod sgd;
mod shift_adamax;
mod walk;

use std::fmt::Debug;

use qnn_layers::{Module, ParamGradients, StateDict};

pub use self::adam::{Adam, AdamConfig};
pub use self::bop::{Bop, BopConfig};
pub use self::config::OptimizerConfig;
pub use self::sgd::{Sgd, SgdConfig};
pub use self::shift_adamax::{ShiftAdaMax, ShiftAdaMaxConfig};
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
/// [`Bop`] is the exception: it flips signs by a rule of its own.
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

/// What all rules share.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Regularization {
    /// `decay` of full-precision kernels: the factor of w in the gradient (L2, not decoupled).
    pub weight_decay: f32,
    /// `decay` of what quantizers learn, [`Role::Quantizer`](qnn_layers::Role::Quantizer), in their gradient: for the L2 penalty on
    /// [`Pact`](qnn_quant::Pact)'s heights (Choi et al. 2018, arXiv:1805.06085), which keeps them from growing
    /// beyond what the resolution of few bits allows. 0 by default.
    pub quantizer_decay: f32,
    /// The largest norm of the gradient of all parameters together.
    pub clip_norm: Option<f32>,
    /// Whether kernels behind a quantizer learn at the rate of BinaryConnect's published code: the
    /// rate divided by the kernel's [`glorot_coefficient`](qnn_layers::glorot_coefficient), and by
    /// its square under [`Sgd`], whose update is not normalised by the size of the gradients.
    pub glorot_rates: bool,
}

impl Regularization {
    fn check(&self) -> Result<(), Error> {
        let Self { weight_decay, quantizer_decay, clip_norm, .. } = *self;
        for (setting, decay) in
            [("the weight decay", weight_decay), ("the decay of what quantizers learn", quantizer_decay)]
        {
            if !(decay >= 0.0 && decay.is_finite()) {
                return Err(Error::setting(setting, decay, "a number from 0 on"));
            }
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
