//! The walk of an elementwise rule over the parameters of a model.

use std::collections::BTreeMap;
use std::fmt::Debug;

use qnn_layers::{
    Constraint, Module, Param, ParamGradients, Role, StateDict, for_each_param, for_each_param_mut,
    glorot_coefficient,
};
use qnn_tensor::parallel::{self, Vectorize, vectorized};
use qnn_tensor::{LeafGradient, Pieces, Tensor, reduce};
use rayon::prelude::*;

use super::{OptimizerState, Regularization, StepReport};
use crate::Error;

/// A formula for one weight that remembers `N` numbers per weight.
pub(super) trait Rule<const N: usize>: Debug + Send + Sync {
    /// The names of what is remembered.
    const SLOTS: [&'static str; N];

    /// The power of a quantized kernel's Glorot coefficient that its rate is divided by, where
    /// rates are scaled at all.
    const GLOROT_POWER: i32 = 1;

    /// Prepares for a step, counted from 1.
    fn begin(&mut self, _step: u64) {}

    /// Updates weights and slots, element by element. Implementations are `#[inline(always)]`, so that the loop is compiled for the widest
    /// vectors of the machine.
    fn update(&self, part: Part<'_, N>, factors: Factors);
}

/// The same range of a parameter, its gradient and its slots.
pub(super) struct Part<'a, const N: usize> {
    pub(super) weights: &'a mut [f32],
    pub(super) gradients: &'a [f32],
    pub(super) slots: [&'a mut [f32]; N],
}

/// What is constant over a parameter.
#[derive(Clone, Copy)]
pub(super) struct Factors {
    pub(super) rate: f32,
    decay: f32,
    clip: f32,
}

/// A rule on its way through training.
#[derive(Debug)]
pub(super) struct Walk<R, const N: usize> {
    rule: R,
    concerns: fn(&Param) -> bool,
    regularization: Regularization,
    memory: Memory<N>,
}

/// What a walk remembers between steps.
#[derive(Debug)]
pub(super) struct Memory<const N: usize> {
    steps: u64,
    slots: BTreeMap<String, [Tensor; N]>,
}

impl Factors {
    /// The gradient that the rule sees, from the loss's gradient and the weight.
    #[inline(always)]
    pub(super) fn gradient(self, g: f32, w: f32) -> f32 {
        g * self.clip + self.decay * w
    }
}

impl<R: Rule<N>, const N: usize> Walk<R, N> {
    /// A walk over the parameters that `concerns` picks; the others, and their gradients, are left.
    pub(super) fn new(
        rule: R,
        concerns: fn(&Param) -> bool,
        regularization: Regularization,
    ) -> Result<Self, Error> {
        regularization.check()?;
        Ok(Self { rule, concerns, regularization, memory: Memory { steps: 0, slots: BTreeMap::new() } })
    }

    pub(super) fn step(
        &mut self,
        model: &mut dyn Module,
        gradients: &mut ParamGradients,
        rate: f32,
    ) -> Result<StepReport, Error> {
        self.check(model, gradients)?;
        let clip = self.clip_factor(gradients);
        self.memory.steps += 1;
        self.rule.begin(self.memory.steps);
        let mut report = StepReport::default();
        for_each_param_mut(model, &mut |path, param| {
            if !(self.concerns)(param) {
                return;
            }
            if let Some(gradient) = gradients.take_leaf(param.id()).filter(|_| !is_frozen(param)) {
                let decay = self.decay(param);
                let rate = rate * param.learning_rate_factor() * self.glorot_factor(param);
                report.flips += self.update(path, param, gradient, Factors { rate, decay, clip });
            }
            report.binary_weights += if param.is_latent() { param.value().len() as u64 } else { 0 };
        });
        Ok(report)
    }

    /// Everything that can fail, before anything changes.
    pub(super) fn check(&self, model: &dyn Module, gradients: &ParamGradients) -> Result<(), Error> {
        let mut result = Ok(());
        for_each_param(model, &mut |path, param| {
            if result.is_ok() && (self.concerns)(param) && !is_frozen(param) {
                result = self.check_param(path, param, gradients.shape_of(param.id()));
            }
        });
        result
    }

    fn check_param(&self, path: &str, param: &Param, dw: Option<&[usize]>) -> Result<(), Error> {
        let expected = param.value().shape();
        let parameter = || path.to_owned();
        let got = dw.ok_or_else(|| Error::NoGradient { parameter: parameter() })?;
        if got != expected {
            let (expected, got) = (expected.to_vec(), got.to_vec());
            return Err(Error::GradientShape { parameter: parameter(), expected, got });
        }
        match self.memory.slots.get(path).into_iter().flatten().find(|slot| slot.shape() != expected) {
            Some(slot) => Err(wrong_shape(path, expected, slot.shape())),
            None => Ok(()),
        }
    }

    fn decay(&self, param: &Param) -> f32 {
        match param.role() {
            Role::Quantizer => self.regularization.quantizer_decay,
            _ if param.decays() => self.regularization.weight_decay,
            _ => 0.0,
        }
    }

    fn glorot_factor(&self, param: &Param) -> f32 {
        if self.regularization.glorot_rates && param.is_latent() && param.role() == Role::Kernel {
            glorot_coefficient(param.value().shape()).powi(-R::GLOROT_POWER) as f32
        } else {
            1.0
        }
    }

    /// What brings the norm of all gradients down to the largest allowed one. A norm that is
    /// infinite or NaN is left alone: such gradients must show, not become zeros.
    fn clip_factor(&self, gradients: &ParamGradients) -> f32 {
        let Some(limit) = self.regularization.clip_norm else { return 1.0 };
        let squares = gradients.iter().map(|(_, dw)| reduce::sum_map(dw.as_slice(), |d| d * d));
        let norm = squares.sum::<f64>().sqrt();
        let clips = norm.is_finite() && norm > f64::from(limit);
        if clips { (f64::from(limit) / norm) as f32 } else { 1.0 }
    }

    /// Changes a parameter, in one pass over its memory with its constraint. Returns how many signs of a latent parameter changed.
    fn update(&mut self, path: &str, param: &mut Param, dw: LeafGradient, factors: Factors) -> u64 {
        if !self.memory.slots.contains_key(path) {
            let zeros = || Tensor::zeros(dw.shape());
            self.memory.slots.insert(path.to_owned(), std::array::from_fn(|_| zeros()));
        }
        let (latent, constraint) = (param.is_latent(), param.constraint());
        let slots = self.memory.slots.get_mut(path).expect("the slots were just made");
        let dw = dw.into_pieces();
        let weights = param.value_mut().as_mut_slice();
        let whole = Part {
            weights,
            gradients: dw.as_ref().map_or_else(Tensor::as_slice, |_| &[]),
            slots: slots.each_mut().map(|slot| slot.as_mut_slice()),
        };
        let rule = &self.rule;
        let update = |part: Part<'_, N>| vectorized(Update { rule, factors, latent, constraint, part });
        match &dw {
            Ok(pieces) => whole.update_in_pieces(pieces, update),
            Err(_) if whole.weights.len() <= parallel::CHUNK => update(whole),
            Err(_) => whole.split(parallel::CHUNK).collect::<Vec<_>>().into_par_iter().map(update).sum(),
        }
    }

    pub(super) fn state(&self) -> OptimizerState {
        let slots = self.memory.slots.iter().flat_map(|(path, slots)| {
            let named = R::SLOTS.iter().zip(slots);
            named.map(move |(name, slot)| (format!("{path}.{name}"), slot.clone()))
        });
        OptimizerState { steps: self.memory.steps, slots: slots.collect() }
    }

    pub(super) fn load_state(&mut self, model: &dyn Module, state: OptimizerState) -> Result<(), Error> {
        self.read(model, state).map(|memory| self.resume(memory))
    }

    /// A state as this walk would remember it.
    pub(super) fn read(&self, model: &dyn Module, state: OptimizerState) -> Result<Memory<N>, Error> {
        let OptimizerState { steps, slots: mut given } = state;
        let mut slots = BTreeMap::new();
        let mut result = Ok(());
        for_each_param(model, &mut |path, param| {
            if result.is_ok() && (self.concerns)(param) {
                result = take_slots(&mut given, path, R::SLOTS, param.value().shape())
                    .map(|found| slots.extend(found.map(|found| (path.to_owned(), found))));
            }
        });
        result?;
        if let Some(path) = given.into_keys().next() {
            let reason = "no parameter of this model remembers that under this rule".to_owned();
            return Err(Error::Slot { path, reason });
        }
        Ok(Memory { steps, slots })
    }

    pub(super) fn resume(&mut self, memory: Memory<N>) {
        self.memory = memory;
    }
}

impl<'a, const N: usize> Part<'a, N> {
    /// Parts of `size` elements. Where there are no gradients yet, the parts have none either.
    #[inline(always)]
    fn split(self, size: usize) -> impl Iterator<Item = Part<'a, N>> {
        let mut slots = self.slots.map(|slot| slot.chunks_mut(size));
        let mut gradients = self.gradients.chunks(size);
        self.weights.chunks_mut(size).map(move |weights| {
            let slots = slots.each_mut().map(|slot| slot.next().unwrap_or_default());
            Part { weights, gradients: gradients.next().unwrap_or_default(), slots }
        })
    }

    /// Computes each piece of the gradient where `update` takes it from the cache. Gives the sum of what `update` gives.
    fn update_in_pieces(self, pieces: &Pieces, update: impl Fn(Part<'_, N>) -> u64 + Sync) -> u64 {
        pieces.with_fill(|size, fill| {
            let parts: Vec<_> = self.split(size).enumerate().collect();
            let updates = parts.into_par_iter().with_max_len(1).map(|(index, part)| {
                parallel::with_scratch(part.weights.len(), |gradients| {
                    fill(index * size, part.weights, gradients);
                    update(Part { gradients, ..part })
                })
            });
            updates.sum()
        })
    }
}

/// The update of a part; gives the number of flips.
struct Update<'a, R, const N: usize> {
    rule: &'a R,
    factors: Factors,
    latent: bool,
    constraint: Option<Constraint>,
    part: Part<'a, N>,
}

impl<R: Rule<N>, const N: usize> Vectorize for Update<'_, R, N> {
    type Output = u64;

    /// In blocks that stay in the first cache while their signs are compared and the constraint is applied.
    #[inline(always)]
    fn run(self) -> u64 {
        const BLOCK: usize = 1024;
        let Self { rule, factors, latent, constraint, part } = self;
        let mut before = [0.0; BLOCK];
        let mut flips = 0;
        for Part { weights, gradients, slots } in part.split(BLOCK) {
            let before = &mut before[..if latent { weights.len() } else { 0 }];
            before.copy_from_slice(&weights[..before.len()]);
            rule.update(Part { weights: &mut *weights, gradients, slots }, factors);
            let mut changed = 0_u32;
            for (&before, &after) in before.iter().zip(&*weights) {
                changed += u32::from((before >= 0.0) != (after >= 0.0));
            }
            flips += u64::from(changed);
            if let Some(constraint) = constraint {
                constraint.apply(weights);
            }
        }
        flips
    }
}

/// A parameter that keeps its value may lack a gradient.
fn is_frozen(param: &Param) -> bool {
    param.learning_rate_factor() == 0.0
}

/// All slots of one parameter, or none of them.
fn take_slots<const N: usize>(
    given: &mut StateDict,
    path: &str,
    names: [&str; N],
    shape: &[usize],
) -> Result<Option<[Tensor; N]>, Error> {
    let found = names.map(|name| given.remove(&format!("{path}.{name}")));
    if found.iter().all(Option::is_none) {
        return Ok(None);
    }
    for (name, slot) in names.iter().zip(&found) {
        let path = format!("{path}.{name}");
        match slot {
            None => return Err(Error::Slot { path, reason: "is missing".to_owned() }),
            Some(slot) if slot.shape() != shape => {
                return Err(wrong_shape(&path, shape, slot.shape()));
            }
            Some(_) => {}
        }
    }
    Ok(Some(found.map(|slot| slot.expect("missing slots were refused"))))
}

fn wrong_shape(path: &str, expected: &[usize], got: &[usize]) -> Error {
    let reason = format!("has the shape {got:?}, its parameter {expected:?}");
    Error::Slot { path: path.to_owned(), reason }
}
