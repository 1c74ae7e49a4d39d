use qnn_layers::{Module, Param, ParamGradients};

use super::walk::{Factors, Part, Rule, Walk};
use super::{Optimizer, OptimizerState, Regularization, StepReport, check_share};
use crate::Error;

/// The constants of [`Sgd`].
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct SgdConfig {
    /// μ, the share of the last update that is kept, in 0..1.
    pub momentum: f32,
    /// Whether the gradient is looked up ahead.
    pub nesterov: bool,
    /// Weight decay and clipping.
    pub regularization: Regularization,
}

/// Stochastic gradient descent with momentum.
///
/// ```text
/// v ← μ · v + g
/// w ← w − rate · v               without Nesterov
/// w ← w − rate · (g + μ · v)     with
/// ```
///
/// Momentum: Polyak 1964. Nesterov's form as rewritten by Sutskever et al. 2013, "On the importance
/// of initialization and momentum in deep learning", with the rate outside the momentum, as PyTorch
/// has it: a change of the rate acts at once on what is remembered.
#[derive(Debug)]
pub struct Sgd(Walk<SgdRule, 1>);

#[derive(Debug)]
struct SgdRule {
    momentum: f32,
    nesterov: bool,
}

impl Default for SgdConfig {
    fn default() -> Self {
        Self { momentum: 0.9, nesterov: false, regularization: Regularization::default() }
    }
}

impl Sgd {
    /// An optimizer that remembers nothing yet.
    ///
    /// # Errors
    ///
    /// [`Error::Setting`] for a constant out of its range.
    pub fn new(config: SgdConfig) -> Result<Self, Error> {
        Self::of(|_| true, config)
    }

    pub(super) fn of(concerns: fn(&Param) -> bool, config: SgdConfig) -> Result<Self, Error> {
        let SgdConfig { momentum, nesterov, regularization } = config;
        check_share("the momentum", momentum)?;
        let rule = SgdRule { momentum, nesterov };
        Ok(Self(Walk::new(rule, concerns, regularization)?))
    }
}

impl Rule<1> for SgdRule {
    const SLOTS: [&'static str; 1] = ["momentum"];
    const GLOROT_POWER: i32 = 2;

    #[inline(always)]
    fn update(&self, part: Part<'_, 1>, factors: Factors) {
        let (mu, rate) = (self.momentum, factors.rate);
        let [velocities] = part.slots;
        let rows = part.weights.iter_mut().zip(part.gradients).zip(velocities);
        if self.nesterov {
            for ((w, &g), v) in rows {
                let g = factors.gradient(g, *w);
                *v = mu * *v + g;
                *w -= rate * (g + mu * *v);
            }
        } else {
            for ((w, &g), v) in rows {
                *v = mu * *v + factors.gradient(g, *w);
                *w -= rate * *v;
            }
        }
    }
}

impl Optimizer for Sgd {
    fn step(
        &mut self,
        model: &mut dyn Module,
        gradients: &mut ParamGradients,
        rate: f32,
    ) -> Result<StepReport, Error> {
        self.0.step(model, gradients, rate)
    }

    fn state(&self) -> OptimizerState {
        self.0.state()
    }

    fn load_state(&mut self, model: &dyn Module, state: OptimizerState) -> Result<(), Error> {
        self.0.load_state(model, state)
    }
}
