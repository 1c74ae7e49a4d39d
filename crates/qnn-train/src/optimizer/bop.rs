use std::collections::BTreeSet;

use qnn_layers::{Module, Param, ParamGradients, for_each_param};

use super::walk::{Factors, Part, Rule, Walk};
use super::{Optimizer, OptimizerConfig, OptimizerState, Regularization, StepReport};
use crate::Error;

/// The constants of [`Bop`].
#[derive(Clone, Debug, PartialEq)]
pub struct BopConfig {
    /// γ, the weight of a new gradient in the mean, above 0 and at most 1.
    pub gamma: f32,
    /// τ, what the mean must exceed for a flip, not negative.
    pub threshold: f32,
    /// What changes the parameters that are not binary. Not Bop.
    pub rest: OptimizerConfig,
    /// Weight decay and clipping of `rest`. A binary weight has no size to decay to, and only the
    /// sign and the order of its gradients count.
    pub regularization: Regularization,
}

/// The binary optimizer: no latent weights, but signs that flip when gradients insist.
///
/// ```text
/// m ← (1 − γ) · m + γ · g
/// w ← −w    if |m| > τ and sign(m) = sign(w)
/// ```
///
/// A parameter is binary if it is a kernel of one bit; all others go to the optimizer
/// [`rest`](BopConfig::rest), and the learning rate is theirs alone. Of a binary weight only the
/// sign matters to a layer with the quantizer [`Sign`](qnn_quant::Sign); its absolute value stays
/// what it was, within whatever the estimator lets gradients pass. A zero has the sign + and
/// becomes −1 when it flips. Source: Helwegen et al. 2019, arXiv:1906.02107, algorithm 1.
#[derive(Debug)]
pub struct Bop {
    binary: Walk<BopRule, 1>,
    rest: Box<dyn Optimizer>,
}

#[derive(Debug)]
struct BopRule {
    gamma: f32,
    threshold: f32,
}

const SLOT: &str = "flip";

impl Default for BopConfig {
    fn default() -> Self {
        let (rest, regularization) = (OptimizerConfig::ADAM, Regularization::default());
        Self { gamma: 1e-4, threshold: 1e-8, rest, regularization }
    }
}

impl Bop {
    /// An optimizer that remembers nothing yet.
    ///
    /// # Errors
    ///
    /// [`Error::Setting`] for a constant out of its range, and if `rest` is Bop.
    pub fn new(config: BopConfig) -> Result<Self, Error> {
        let BopConfig { gamma, threshold, rest, regularization } = config;
        if !(gamma > 0.0 && gamma <= 1.0) {
            return Err(Error::setting("gamma", gamma, "above 0 and at most 1"));
        }
        if !(threshold >= 0.0 && threshold.is_finite()) {
            return Err(Error::setting("the threshold", threshold, "a number from 0 on"));
        }
        if let OptimizerConfig::Bop { .. } = rest {
            return Err(Error::setting("the optimizer of what is not binary", "bop", "another one"));
        }
        let rest = rest.build_for(|param| !param.is_binary_kernel(), regularization)?;
        let rule = BopRule { gamma, threshold };
        Ok(Self { binary: Walk::new(rule, Param::is_binary_kernel, Regularization::default())?, rest })
    }
}

impl Rule<1> for BopRule {
    const SLOTS: [&'static str; 1] = [SLOT];

    #[inline(always)]
    fn update(&self, part: Part<'_, 1>, factors: Factors) {
        let Self { gamma, threshold } = *self;
        let [means] = part.slots;
        for ((w, &g), m) in part.weights.iter_mut().zip(part.gradients).zip(means) {
            *m = (1.0 - gamma) * *m + gamma * factors.gradient(g, *w);
            let flips = m.abs() > threshold && (*m >= 0.0) == (*w >= 0.0);
            let flipped = if *w == 0.0 { -1.0 } else { -*w };
            *w = if flips { flipped } else { *w };
        }
    }
}

impl Optimizer for Bop {
    fn step(
        &mut self,
        model: &mut dyn Module,
        gradients: &mut ParamGradients,
        rate: f32,
    ) -> Result<StepReport, Error> {
        self.binary.check(model, gradients)?;
        // First the rest: whether its gradients are clipped is a matter of all gradients.
        let rest = self.rest.step(model, gradients, rate)?;
        let binary = self.binary.step(model, gradients, rate)?;
        Ok(StepReport {
            flips: rest.flips + binary.flips,
            binary_weights: rest.binary_weights + binary.binary_weights,
        })
    }

    fn state(&self) -> OptimizerState {
        let mut state = self.rest.state();
        state.slots.extend(self.binary.state().slots);
        state
    }

    fn load_state(&mut self, model: &dyn Module, state: OptimizerState) -> Result<(), Error> {
        let mut binary = BTreeSet::new();
        for_each_param(model, &mut |path, param| {
            if param.is_binary_kernel() {
                binary.insert(format!("{path}.{SLOT}"));
            }
        });
        let OptimizerState { steps, slots } = state;
        let (flips, rest) = slots.into_iter().partition(|(path, _)| binary.contains(path));
        let flips = self.binary.read(model, OptimizerState { steps, slots: flips })?;
        self.rest.load_state(model, OptimizerState { steps, slots: rest })?;
        self.binary.resume(flips);
        Ok(())
    }
}
