use qnn_layers::{Module, Param, ParamGradients};

use super::walk::{Factors, Part, Rule, Walk};
use super::{Optimizer, OptimizerState, Regularization, StepReport, check_share};
use crate::Error;

/// The constants of [`Adam`].
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct AdamConfig {
    /// β₁, the decay of the mean of gradients, in 0..1.
    pub beta1: f32,
    /// β₂, the decay of the mean of squared gradients, in 0..1.
    pub beta2: f32,
    /// ε, what keeps the quotient finite.
    pub epsilon: f32,
    /// Weight decay and clipping.
    pub regularization: Regularization,
}

/// Adam (Kingma & Ba 2015, arXiv:1412.6980, algorithm 1).
///
/// ```text
/// m ← β₁ · m + (1 − β₁) · g
/// v ← β₂ · v + (1 − β₂) · g²
/// w ← w − rate · m̂ / (√v̂ + ε),    m̂ = m / (1 − β₁ᵗ),   v̂ = v / (1 − β₂ᵗ),   t = 1, 2, …
/// ```
///
/// Weight decay is part of g (L2), not decoupled.
#[derive(Debug)]
pub struct Adam(Walk<AdamRule, 2>);

#[derive(Debug)]
struct AdamRule {
    beta1: f32,
    beta2: f32,
    epsilon: f32,
    /// 1 / (1 − β₁ᵗ)
    mean_correction: f64,
    /// 1 / √(1 − β₂ᵗ)
    root_correction: f32,
}

impl Default for AdamConfig {
    fn default() -> Self {
        let regularization = Regularization::default();
        Self { beta1: 0.9, beta2: 0.999, epsilon: 1e-8, regularization }
    }
}

impl Adam {
    /// An optimizer that remembers nothing yet.
    ///
    /// # Errors
    ///
    /// [`Error::Setting`] for a constant out of its range.
    pub fn new(config: AdamConfig) -> Result<Self, Error> {
        Self::of(|_| true, config)
    }

    pub(super) fn of(concerns: fn(&Param) -> bool, config: AdamConfig) -> Result<Self, Error> {
        let AdamConfig { beta1, beta2, epsilon, regularization } = config;
        check_share("beta1", beta1)?;
        check_share("beta2", beta2)?;
        if !(epsilon > 0.0 && epsilon.is_finite()) {
            return Err(Error::setting("epsilon", epsilon, "a positive number"));
        }
        let rule = AdamRule { beta1, beta2, epsilon, mean_correction: 1.0, root_correction: 1.0 };
        Ok(Self(Walk::new(rule, concerns, regularization)?))
    }
}

impl Rule<2> for AdamRule {
    const SLOTS: [&'static str; 2] = ["mean", "square"];

    fn begin(&mut self, step: u64) {
        let step = i32::try_from(step).unwrap_or(i32::MAX);
        let rest = |beta: f32| 1.0 - f64::from(beta).powi(step);
        self.mean_correction = 1.0 / rest(self.beta1);
        self.root_correction = (1.0 / rest(self.beta2).sqrt()) as f32;
    }

    #[inline(always)]
    fn update(&self, part: Part<'_, 2>, factors: Factors) {
        let Self { beta1, beta2, epsilon, root_correction, .. } = *self;
        let rate = (f64::from(factors.rate) * self.mean_correction) as f32;
        let [means, squares] = part.slots;
        let rows = part.weights.iter_mut().zip(part.gradients).zip(means.iter_mut().zip(squares));
        for ((w, &g), (m, v)) in rows {
            let g = factors.gradient(g, *w);
            *m = beta1 * *m + (1.0 - beta1) * g;
            *v = beta2 * *v + (1.0 - beta2) * g * g;
            *w -= rate * *m / (v.sqrt() * root_correction + epsilon);
        }
    }
}

impl Optimizer for Adam {
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
