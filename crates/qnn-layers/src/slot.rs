use std::sync::Arc;

use ndarray::{aview_mut1, aview1};
use qnn_quant::{Dependence, Estimator, Grid, Groups, Moment, Pair, Quantizer, Trained};
use qnn_tensor::parallel::{CHUNK, vectorized, with_scratch};
use qnn_tensor::{Tensor, Var};
use rand::Rng;

use crate::frozen::Frozen;
use crate::quantize::{Quantized, is_identity, try_build};
use crate::{Buffer, Ctx, FakeQuantize, Leaf, LeafMut, Module, Param, Path, Role};

const CHECKED: &str = "the forward pass has checked shapes and grid";

/// A quantizer in its place: the pair of the configuration, and what it has there and nowhere else.
///
/// ```text
/// NAME      a trained parameter under the name that the map gives it, such as `s` of LSQ
/// codes     those of the last training step, of maps with memory
/// frozen    which weights INQ has frozen, and at which levels
/// is_set    0 before the first training step, then 1
/// ```
///
/// The first training step starts trained parameters from the values it meets, which for kernels are
/// the first or the loaded ones, and for inputs the first batch's. An evaluation before that does so, too,
/// and changes nothing; for inputs a traced one refuses, since what it would report depends on its images.
#[derive(Debug)]
pub(crate) struct Slot {
    pair: Pair,
    parameters: Vec<Param>,
    codes: Option<Buffer>,
    frozen: Option<Frozen>,
    is_set: Option<Buffer>,
}

impl Slot {
    /// A place for kernels of a shape. Trained parameters have the learning rate factor `rate`.
    pub(crate) fn for_kernel(pair: &Pair, shape: &[usize], rate: f32) -> Self {
        let remembers = pair.map.dependence() == Dependence::Memory;
        let codes = remembers.then(|| Buffer::new(Tensor::zeros(shape)).optional());
        let slot = Self { codes, frozen: Frozen::of(pair, shape), ..Self::for_input(pair, rate) };
        let is_set = (remembers || !slot.parameters.is_empty()).then(not_set);
        Self { is_set, ..slot }
    }

    /// A place for inputs, whose elements are others in each pass.
    pub(crate) fn for_input(pair: &Pair, rate: f32) -> Self {
        let parameters = pair.map.trained().map(Trained::parameters).unwrap_or_default();
        let param = |value| Param::new(Role::Quantizer, Tensor::scalar(value));
        let parameters: Vec<Param> = parameters.into_iter().map(param).collect();
        let is_set = (!parameters.is_empty()).then(not_set);
        let parameters = parameters.into_iter().map(|p| p.with_learning_rate_factor(rate)).collect();
        Self { pair: pair.clone(), parameters, codes: None, frozen: None, is_set }
    }

    /// No place at all: trained parameters are constants, and nothing is remembered.
    pub(crate) fn nowhere(pair: &Pair) -> Self {
        Self { pair: pair.clone(), parameters: Vec::new(), codes: None, frozen: None, is_set: None }
    }

    pub(crate) fn pair(&self) -> &Pair {
        &self.pair
    }

    /// Whether the quantizer would need a state that this place has not.
    pub(crate) fn lacks_memory(&self) -> bool {
        self.pair.map.dependence() == Dependence::Memory && self.codes.is_none()
    }

    /// The name of the first parameter, if no training has set it yet and its value would be taken from `x`.
    pub(crate) fn unset_parameter(
        &self,
        cx: &Ctx<'_>,
        x: &Tensor,
    ) -> qnn_quant::Result<Option<&'static str>> {
        let Some(trained) = self.pair.map.trained().filter(|_| !self.parameters.is_empty()) else {
            return Ok(None);
        };
        // PACT starts with the height it was made with, whatever x is.
        let is_open = !self.is_set(cx) && trained.initial(x.view())? != trained.parameters();
        Ok(trained.parameter_names().first().copied().filter(|_| is_open))
    }

    fn is_set(&self, cx: &Ctx<'_>) -> bool {
        self.is_set.as_ref().is_some_and(|flag| cx.buffer(flag).item() != 0.0)
    }

    /// The map with its present parameters, and these on the tape.
    fn map<'t>(&self, cx: &mut Ctx<'t>, x: &Tensor) -> qnn_quant::Result<(Arc<dyn Quantizer>, Vec<Var<'t>>)> {
        let training = cx.is_training();
        let in_this_mode = |map: Arc<dyn Quantizer>| match map.evaluated() {
            Some(evaluated) if !training => evaluated,
            _ => map,
        };
        let Some(trained) = self.pair.map.trained().filter(|_| !self.parameters.is_empty()) else {
            return Ok((in_this_mode(Arc::clone(&self.pair.map)), Vec::new()));
        };
        if self.is_set(cx) {
            let parameters: Vec<_> = self.parameters.iter().map(|param| cx.param(param)).collect();
            let values: Vec<f32> = parameters.iter().map(|parameter| parameter.value().item()).collect();
            return Ok((in_this_mode(trained.with_parameters(&values)?), parameters));
        }
        let first = trained.initial(x.view())?;
        let start = |(param, &value): (&Param, &f32)| {
            let value = Tensor::scalar(value);
            if !cx.is_training() {
                return cx.tape().constant(value);
            }
            cx.start(param, value);
            cx.param(param)
        };
        let parameters = self.parameters.iter().zip(&first).map(start).collect();
        Ok((in_this_mode(trained.with_parameters(&first)?), parameters))
    }

    /// Codes at this moment of training, in evaluation without chance, and the grid that reads them.
    fn codes(&self, cx: &mut Ctx<'_>, map: &dyn Quantizer, x: &Tensor) -> qnn_quant::Result<(Tensor, Grid)> {
        let previous = self.codes.as_ref().filter(|_| self.is_set(cx)).map(|codes| cx.buffer(codes));
        let draw = match map.dependence() {
            Dependence::Chance if cx.is_training() => Some(cx.draw().random()),
            _ => None,
        };
        let mut grid = None;
        let codes = try_build(x.shape(), |mut codes| {
            let found = if previous.is_none() && draw.is_none() {
                map.fit_codes_into(x.view(), codes.view_mut())?
            } else {
                let moment =
                    Moment { draw: draw.unwrap_or(0), previous: previous.as_ref().map(Tensor::view) };
                let found = map.fit(x.view())?;
                map.codes_at_into(x.view(), &found, &moment, codes.view_mut())?;
                found
            };
            grid = Some(found);
            Ok(())
        })?;
        Ok((codes, grid.expect("it was fitted before the codes were written")))
    }

    /// Queues what the next step must know of this one.
    fn remember(&self, cx: &mut Ctx<'_>, codes: &Tensor) {
        if !cx.is_training() {
            return;
        }
        if let Some(buffer) = &self.codes {
            cx.update(buffer, codes.clone());
        }
        if let Some(flag) = &self.is_set {
            cx.update(flag, Tensor::scalar(1.0));
        }
    }

    /// The pseudo-gradient at this time of training.
    fn gradient(&self, cx: &Ctx<'_>) -> Arc<dyn Estimator> {
        let gradient = &self.pair.gradient;
        gradient.scheduled(cx.progress()).unwrap_or_else(|| Arc::clone(gradient))
    }

    /// The codes as a node with the gradients of the input and of the parameters.
    fn record<'t>(
        &self,
        x: Var<'t>,
        parameters: &[Var<'t>],
        codes: Tensor,
        gradient: Arc<dyn Estimator>,
        (map, grid): (Arc<dyn Quantizer>, Arc<Grid>),
    ) -> Var<'t> {
        if parameters.is_empty() {
            if let Some(clip) = gradient.clip() {
                return x.tape().record_elementwise("quantize", x, codes, move |x, d| clipped(clip, x, d));
            }
            if gradient.is_elementwise() && grid.groups() == Groups::Tensor {
                let pullback = move |x: &[f32], d: &mut [f32]| pull_back(&*gradient, &grid, x, d);
                return x.tape().record_elementwise("quantize", x, codes, pullback);
            }
        }
        let value = x.value();
        let inputs: Vec<Var<'t>> = [x].into_iter().chain(parameters.iter().copied()).collect();
        x.tape().record_many("quantize", &inputs, codes, move |dy, wanted| {
            let (x, dy) = (value.view(), dy.view());
            let dx = wanted[0].then(|| {
                let dx =
                    try_build(value.shape(), |dx| gradient.pullback_into(x.view(), &grid, dy.view(), dx));
                dx.expect(CHECKED)
            });
            let mut gradients = vec![dx];
            if let Some(trained) = map.trained().filter(|_| wanted.len() > 1) {
                let parameters = trained.parameter_gradients(x, dy).expect(CHECKED);
                gradients.extend(parameters.into_iter().map(|sum| Some(Tensor::scalar(sum as f32))));
            }
            gradients
        })
    }
}

/// `dx = dy · 1[|x| ≤ clip]`, in place.
fn clipped(clip: f32, x: &[f32], d: &mut [f32]) {
    vectorized(
        #[inline(always)]
        || d.iter_mut().zip(x).for_each(|(d, x)| *d *= if x.abs() <= clip { 1.0 } else { 0.0 }),
    );
}

/// Any elementwise gradient, in place and on the calling thread.
fn pull_back(gradient: &dyn Estimator, grid: &Grid, x: &[f32], d: &mut [f32]) {
    for (x, d) in x.chunks(CHUNK).zip(d.chunks_mut(CHUNK)) {
        with_scratch(d.len(), |dy| {
            dy.copy_from_slice(d);
            let [x, dy] = [x, dy].map(|values| aview1(values).into_dyn());
            gradient.pullback_into(x, grid, dy, aview_mut1(d).into_dyn()).expect(CHECKED);
        });
    }
}

impl FakeQuantize for Slot {
    fn apply<'t>(&self, cx: &mut Ctx<'t>, x: Var<'t>) -> qnn_quant::Result<Quantized<'t>> {
        if is_identity(&self.pair) {
            return self.pair.apply(cx, x);
        }
        if let Some(frozen) = &self.frozen {
            return frozen.apply(cx, self.gradient(cx), x);
        }
        let value = x.value();
        let (map, parameters) = self.map(cx, &value)?;
        let (mut codes, grid) = self.codes(cx, &*map, &value)?;
        let grid = Arc::new(grid);
        self.remember(cx, &codes);
        if !grid.is_factored() {
            // No common scale reads the codes: their values take their place.
            grid.dequantize_mut(codes.view_mut())?;
            let codes = self.record(x, &parameters, codes, self.gradient(cx), (Arc::clone(&map), grid));
            return Ok(Quantized { codes, grid: Arc::new(Grid::unquantized()), map });
        }
        let codes =
            self.record(x, &parameters, codes, self.gradient(cx), (Arc::clone(&map), Arc::clone(&grid)));
        Ok(Quantized { codes, grid, map })
    }
}

impl Module for Slot {
    fn visit<'a>(&'a self, at: &mut Path, f: &mut dyn FnMut(&Path, Leaf<'a>)) {
        let names = self.pair.map.trained().map_or(&[][..], Trained::parameter_names);
        for (name, param) in names.iter().zip(&self.parameters) {
            at.within(name, |at| param.visit(at, &mut *f));
        }
        at.within("codes", |at| self.codes.visit(at, &mut *f));
        at.within("frozen", |at| self.frozen.visit(at, &mut *f));
        at.within("is_set", |at| self.is_set.visit(at, &mut *f));
    }

    fn visit_mut(&mut self, at: &mut Path, f: &mut dyn FnMut(&Path, LeafMut<'_>)) {
        let names = self.pair.map.trained().map_or(&[][..], Trained::parameter_names);
        for (name, param) in names.iter().zip(&mut self.parameters) {
            at.within(name, |at| param.visit_mut(at, &mut *f));
        }
        at.within("codes", |at| self.codes.visit_mut(at, &mut *f));
        at.within("frozen", |at| self.frozen.visit_mut(at, &mut *f));
        at.within("is_set", |at| self.is_set.visit_mut(at, &mut *f));
    }
}

fn not_set() -> Buffer {
    Buffer::new(Tensor::scalar(0.0)).optional()
}
