use qnn_layers::{Module, Param, ParamGradients};
use qnn_tensor::math::ap2;

use super::walk::{Factors, Part, Rule, Walk};
use super::{Optimizer, OptimizerState, Regularization, StepReport, check_share};
use crate::Error;

/// The constants of [`ShiftAdaMax`].
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct ShiftAdaMaxConfig {
    /// β₁, the decay of the mean of gradients, in 0..1.
    pub beta1: f32,
    /// β₂, the decay of the greatest gradient, in 0..1.
    pub beta2: f32,
    /// Weight decay and clipping.
    pub regularization: Regularization,
}

/// AdaMax whose factors are powers of two, so that hardware shifts where it would multiply.
///
/// ```text
/// m ← β₁ · m + (1 − β₁) · g
/// v ← max(β₂ · v, |g|)
/// w ← w − AP2(rate / (1 − β₁ᵗ)) · m · AP2(1 / v),    t = 1, 2, …
/// ```
///
/// [`AP2`](qnn_tensor::math::ap2) is the nearest power of two. A weight that has never seen a
/// gradient (v = 0) stays where it is. The paper's constants are powers of two as well: rate 2⁻¹⁰,
/// 1 − β₁ = 2⁻³, 1 − β₂ = 2⁻¹⁰. Source: Courbariaux et al. 2016, arXiv:1602.02830, algorithm 4, after
/// AdaMax of Kingma & Ba 2015, arXiv:1412.6980, algorithm 2.
#[derive(Debug)]
pub struct ShiftAdaMax(Walk<ShiftAdaMaxRule, 2>);

#[derive(Debug)]
struct ShiftAdaMaxRule {
    beta1: f32,
    beta2: f32,
    /// 1 / (1 − β₁ᵗ)
    mean_correction: f64,
}

impl Default for ShiftAdaMaxConfig {
    fn default() -> Self {
        let regularization = Regularization::default();
        Self { beta1: 0.875, beta2: 0.999_023_44, regularization }
    }
}

impl ShiftAdaMax {
    /// An optimizer that remembers nothing yet.
    ///
    /// # Errors
    ///
    /// [`Error::Setting`] for a constant out of its range.
    pub fn new(config: ShiftAdaMaxConfig) -> Result<Self, Error> {
        Self::of(|_| true, config)
    }

    pub(super) fn of(concerns: fn(&Param) -> bool, config: ShiftAdaMaxConfig) -> Result<Self, Error> {
        let ShiftAdaMaxConfig { beta1, beta2, regularization } = config;
        check_share("beta1", beta1)?;
        check_share("beta2", beta2)?;
        let rule = ShiftAdaMaxRule { beta1, beta2, mean_correction: 1.0 };
        Ok(Self(Walk::new(rule, concerns, regularization)?))
    }
}

impl Rule<2> for ShiftAdaMaxRule {
    const SLOTS: [&'static str; 2] = ["mean", "greatest"];

    fn begin(&mut self, step: u64) {
        let step = i32::try_from(step).unwrap_or(i32::MAX);
        self.mean_correction = 1.0 / (1.0 - f64::from(self.beta1).powi(step));
    }

    #[inline(always)]
    fn update(&self, part: Part<'_, 2>, factors: Factors) {
        let Self { beta1, beta2, mean_correction } = *self;
        let shift = ap2(f64::from(factors.rate) * mean_correction);
        let [means, greatest] = part.slots;
        let rows = part.weights.iter_mut().zip(part.gradients).zip(means.iter_mut().zip(greatest));
        for ((w, &g), (m, v)) in rows {
            let g = factors.gradient(g, *w);
            *m = beta1 * *m + (1.0 - beta1) * g;
            *v = (beta2 * *v).max(g.abs());
            // In f64 the reciprocal of the least f32 is finite, and 0 · ap2(1 / 0) need not be met.
            let inverse = if *v > 0.0 { ap2(1.0 / f64::from(*v)) } else { 0.0 };
            *w -= (shift * f64::from(*m) * inverse) as f32;
        }
    }
}

impl Optimizer for ShiftAdaMax {
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
