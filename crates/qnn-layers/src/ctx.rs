use std::collections::BTreeMap;

use qnn_tensor::{Gradients, LeafGradient, Tape, Tensor, Var};
use rand::SeedableRng;
use rand_chacha::ChaCha8Rng;

use crate::{Buffer, BufferId, Calibration, LeafMut, Module, Op, Param, ParamId, Path, Signal, Step, Trace};

/// What a forward pass is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Mode {
    /// Batch statistics, dropout, gradients.
    Train,
    /// Running statistics, no chance, no gradients.
    Eval,
    /// As [`Eval`](Mode::Eval), without quantizing activations whose ranges are being looked for; see
    /// [`Calibration`].
    Calibrate,
}

/// Randomness as a function of counters, with no state to save: the same seed, step and stream
/// give the same numbers in any process and on any number of threads.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Draw {
    seed: u64,
    step: u64,
}

/// What a forward pass needs beside the input: the tape, the mode, randomness; and what it leaves:
/// which parameters it used and which buffers are to change.
///
/// A forward pass never writes to the model. Parameters become leaves of the tape, new buffer
/// values queue up, and the training step applies both afterwards.
///
/// ```
/// use qnn_layers::{Ctx, Mode, Param, Role};
/// use qnn_tensor::{Tape, Tensor};
///
/// let kernel = Param::new(Role::Kernel, Tensor::scalar(3.0));
/// let tape = Tape::new();
/// let mut cx = Ctx::new(&tape, Mode::Train, 0, 0);
/// let (a, b) = (cx.param(&kernel), cx.param(&kernel));
/// let bindings = cx.finish();
/// let mut gradients = tape.backward(a * b);
/// let gradients = bindings.gradients(&mut gradients);
/// assert_eq!(gradients.of(kernel.id()).unwrap().item(), 6.0);
/// ```
#[derive(Debug)]
pub struct Ctx<'t> {
    tape: &'t Tape,
    mode: Mode,
    draw: Draw,
    draws: u64,
    progress: f64,
    params: BTreeMap<ParamId, Var<'t>>,
    updates: Updates,
    trace: Option<Trace<'t>>,
    calibration: Option<Calibration>,
}

/// What a finished forward pass leaves: the parameters it used, as leaves of the tape, and the
/// buffer values it queued.
#[derive(Debug)]
pub struct Bindings<'t> {
    params: BTreeMap<ParamId, Var<'t>>,
    updates: Updates,
}

/// The gradients of a model's parameters.
///
/// After [`Tape::backward_deferred`] those of large kernels are computed when they are asked for.
#[derive(Debug, Default)]
pub struct ParamGradients(BTreeMap<ParamId, LeafGradient>);

/// Values of buffers, and first values of parameters, that wait for [`apply_updates`].
#[derive(Debug, Default)]
pub struct Updates {
    buffers: BTreeMap<BufferId, Tensor>,
    starts: BTreeMap<ParamId, Tensor>,
}

/// Writes queued values into the buffers of the model that queued them.
///
/// # Panics
///
/// If a value belongs to none of the model's buffers (a field that the model's
/// [`module!`](crate::module) does not list).
#[track_caller]
pub fn apply_updates(module: &mut dyn Module, mut updates: Updates) {
    module.visit_mut(&mut Path::default(), &mut |_, leaf| match leaf {
        LeafMut::Buffer(buffer) => {
            updates.buffers.remove(&buffer.id()).into_iter().for_each(|value| buffer.set(value));
        }
        LeafMut::Param(param) => {
            updates.starts.remove(&param.id()).into_iter().for_each(|value| *param.value_mut() = value);
        }
    });
    let left = updates.len();
    assert_eq!(left, 0, "{left} updates belong to no buffer that the model's visitor passes");
}

impl Draw {
    /// The randomness of one step of a run.
    pub fn new(seed: u64, step: u64) -> Self {
        Self { seed, step }
    }

    /// The generator of one stream; streams are independent of each other.
    pub fn rng(&self, stream: u64) -> ChaCha8Rng {
        let mut key = [0; 32];
        key[..8].copy_from_slice(&self.seed.to_le_bytes());
        key[8..16].copy_from_slice(&self.step.to_le_bytes());
        key[16..24].copy_from_slice(b"forward ");
        let mut rng = ChaCha8Rng::from_seed(key);
        rng.set_stream(stream);
        rng
    }
}

impl<'t> Ctx<'t> {
    /// A context for one forward pass. `seed` is the run's, `step` counts its training steps.
    pub fn new(tape: &'t Tape, mode: Mode, seed: u64, step: u64) -> Self {
        let (params, updates) = (BTreeMap::new(), Updates::default());
        let draw = Draw::new(seed, step);
        Self { tape, mode, draw, draws: 0, progress: 0.0, params, updates, trace: None, calibration: None }
    }

    /// A context for an evaluation that is listened to: every layer reports what it does, and
    /// [`into_trace`](Ctx::into_trace) returns the reports.
    pub fn tracing(tape: &'t Tape) -> Self {
        Self { trace: Some(Trace::default()), ..Self::new(tape, Mode::Eval, 0, 0) }
    }

    /// A context for an evaluation that shows the network's activations to a calibration.
    pub fn calibrating(tape: &'t Tape, calibration: Calibration) -> Self {
        Self { calibration: Some(calibration), ..Self::new(tape, Mode::Calibrate, 0, 0) }
    }

    /// Ends the pass with what the calibration has seen so far.
    ///
    /// # Panics
    ///
    /// If the pass was not [for one](Ctx::calibrating).
    #[track_caller]
    pub fn into_calibration(self) -> Calibration {
        self.calibration.expect("the context was made for a calibration")
    }

    pub(crate) fn calibrate(&mut self, buffer: &Buffer, x: Var<'t>) -> qnn_quant::Result<()> {
        self.calibration.as_mut().map_or(Ok(()), |calibration| calibration.observe(buffer, &x.value()))
    }

    /// The same context at a later time: `progress` of the training is done, from 0 to 1. What is
    /// scheduled inside of a model (portions that freeze, slopes that sharpen) goes by it.
    #[must_use]
    pub fn with_progress(self, progress: f64) -> Self {
        Self { progress, ..self }
    }

    /// How much of the training is done, from 0 to 1.
    pub fn progress(&self) -> f64 {
        self.progress
    }

    /// The tape that records this pass.
    pub fn tape(&self) -> &'t Tape {
        self.tape
    }

    /// What this pass is for.
    pub fn mode(&self) -> Mode {
        self.mode
    }

    /// Whether this pass is for training.
    pub fn is_training(&self) -> bool {
        self.mode == Mode::Train
    }

    /// A parameter on the tape: a leaf in [`Mode::Train`], a constant in [`Mode::Eval`]; one node
    /// however often it is used.
    pub fn param(&mut self, param: &Param) -> Var<'t> {
        let (tape, training) = (self.tape, self.is_training());
        let start = self.updates.starts.get(&param.id());
        *self.params.entry(param.id()).or_insert_with(|| {
            let value = start.unwrap_or(param.value()).clone();
            if training { tape.leaf(value) } else { tape.constant(value) }
        })
    }

    /// A buffer's value: the one queued in this pass, if there is one.
    pub fn buffer(&self, buffer: &Buffer) -> Tensor {
        self.updates.buffers.get(&buffer.id()).unwrap_or(buffer.value()).clone()
    }

    /// Queues a new value for a buffer.
    ///
    /// # Panics
    ///
    /// In [`Mode::Eval`], in which a pass leaves the model as it is, and if the shapes differ.
    #[track_caller]
    pub fn update(&mut self, buffer: &Buffer, value: Tensor) {
        assert!(self.is_training(), "an evaluation must not change buffers");
        assert_eq!(value.shape(), buffer.value().shape(), "a buffer keeps its shape");
        self.updates.buffers.insert(buffer.id(), value);
    }

    /// Starts a parameter from a value that only this pass knows, such as a step size from the first
    /// batch. The pass computes with it; the optimizer's update of this step is lost.
    ///
    /// # Panics
    ///
    /// In [`Mode::Eval`], if the shapes differ, and if this pass has used the parameter already.
    #[track_caller]
    pub fn start(&mut self, param: &Param, value: Tensor) {
        assert!(self.is_training(), "an evaluation must not change parameters");
        assert_eq!(value.shape(), param.value().shape(), "a parameter keeps its shape");
        assert!(!self.params.contains_key(&param.id()), "the parameter is already on the tape");
        self.updates.starts.insert(param.id(), value);
    }

    /// A generator for the next use of randomness in this pass.
    pub fn draw(&mut self) -> ChaCha8Rng {
        self.draws += 1;
        self.draw.rng(self.draws - 1)
    }

    /// The value of a signal. Layers take it through the context rather than from the signal, so
    /// that a trace knows where codes became values.
    pub fn value(&mut self, x: Signal<'t>) -> Var<'t> {
        let value = x.value();
        if value.index() != x.codes().index() {
            self.report("value", None, &[x.codes()], value, || Op::Value { scale: x.factor() });
        }
        value
    }

    /// Reports to whoever listens that `output` is `op` of `inputs`; without a listener nothing
    /// happens, and `op` is not called. `param` is a parameter of the layer, if it has one: its
    /// path will name the layer.
    ///
    /// Layers made of this workspace's layers need not report anything themselves.
    pub fn report(
        &mut self,
        layer: &'static str,
        param: Option<&Param>,
        inputs: &[Var<'t>],
        output: Var<'t>,
        op: impl FnOnce() -> Op,
    ) {
        if let Some(trace) = &mut self.trace {
            let param = param.map(Param::id);
            trace.steps.push(Step { layer, param, inputs: inputs.to_vec(), output, op: op() });
        }
    }

    /// Whether somebody [listens](Ctx::tracing).
    pub fn is_traced(&self) -> bool {
        self.trace.is_some()
    }

    /// Ends the pass with what the layers reported; nothing unless the pass was
    /// [listened to](Ctx::tracing).
    pub fn into_trace(self) -> Trace<'t> {
        self.trace.unwrap_or_default()
    }

    /// Ends the pass.
    pub fn finish(self) -> Bindings<'t> {
        Bindings { params: self.params, updates: self.updates }
    }
}

impl Bindings<'_> {
    /// The parameters that the pass used.
    pub fn params(&self) -> impl Iterator<Item = ParamId> + '_ {
        self.params.keys().copied()
    }

    /// Takes the gradients of the parameters out of a tape's gradients. Parameters that the loss
    /// does not depend on have none.
    pub fn gradients(&self, gradients: &mut Gradients) -> ParamGradients {
        let of = |(&id, &var)| Some((id, gradients.take_leaf(var)?));
        ParamGradients(self.params.iter().filter_map(of).collect())
    }

    /// The queued buffer values.
    pub fn into_updates(self) -> Updates {
        self.updates
    }
}

impl ParamGradients {
    /// The gradient of a parameter, or `None` if the loss does not depend on it.
    pub fn of(&self, id: ParamId) -> Option<&Tensor> {
        self.0.get(&id).map(LeafGradient::value)
    }

    /// The shape of a parameter's gradient, which need not be computed for that.
    pub fn shape_of(&self, id: ParamId) -> Option<&[usize]> {
        self.0.get(&id).map(LeafGradient::shape)
    }

    /// Like [`of`](ParamGradients::of), and gives the tensor away.
    pub fn take(&mut self, id: ParamId) -> Option<Tensor> {
        self.take_leaf(id).map(LeafGradient::into_value)
    }

    /// Like [`take`](ParamGradients::take), but what was not computed yet is left so.
    pub fn take_leaf(&mut self, id: ParamId) -> Option<LeafGradient> {
        self.0.remove(&id)
    }

    /// All gradients, in the order of the parameters' creation.
    pub fn iter(&self) -> impl Iterator<Item = (ParamId, &Tensor)> {
        self.0.iter().map(|(&id, gradient)| (id, gradient.value()))
    }

    /// All gradients for writing, for instance to scale or to quantize them.
    pub fn iter_mut(&mut self) -> impl Iterator<Item = (ParamId, &mut Tensor)> {
        self.0.iter_mut().map(|(&id, gradient)| (id, gradient.value_mut()))
    }

    /// The number of gradients.
    pub fn len(&self) -> usize {
        self.0.len()
    }

    /// Whether there are no gradients.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }
}

impl Updates {
    pub(crate) fn of_buffers(buffers: BTreeMap<BufferId, Tensor>) -> Self {
        Self { buffers, starts: BTreeMap::new() }
    }

    /// The number of buffers and parameters that are to change.
    pub fn len(&self) -> usize {
        self.buffers.len() + self.starts.len()
    }

    /// Whether nothing is to change.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }
}

#[cfg(test)]
mod tests {
    use rand::Rng;

    use super::*;
    use crate::{Role, module};

    struct Model {
        kernel: Param,
        mean: Buffer,
    }
    module!(Model { kernel, mean });

    fn model() -> Model {
        let kernel = Param::new(Role::Kernel, Tensor::scalar(2.0));
        Model { kernel, mean: Buffer::new(Tensor::scalar(0.0)) }
    }

    #[test]
    fn a_parameter_used_twice_is_one_leaf() {
        let (model, tape) = (model(), Tape::new());
        let mut cx = Ctx::new(&tape, Mode::Train, 0, 0);
        let product = cx.param(&model.kernel) * cx.param(&model.kernel);
        assert_eq!(tape.len(), 2);
        let bindings = cx.finish();
        let mut gradients = bindings.gradients(&mut tape.backward(product));
        assert_eq!(gradients.take(model.kernel.id()).unwrap().item(), 4.0);
        assert!(gradients.is_empty());
    }

    #[test]
    fn evaluation_records_no_gradient_and_queues_nothing() {
        let (model, tape) = (model(), Tape::new());
        let mut cx = Ctx::new(&tape, Mode::Eval, 0, 0);
        let square = cx.param(&model.kernel) * cx.param(&model.kernel);
        assert!(!square.needs_gradient());
        let bindings = cx.finish();
        assert!(bindings.gradients(&mut tape.backward(square)).is_empty());
        assert!(bindings.into_updates().is_empty());
    }

    #[test]
    #[should_panic(expected = "must not change buffers")]
    fn an_update_in_evaluation_panics() {
        let (model, tape) = (model(), Tape::new());
        Ctx::new(&tape, Mode::Eval, 0, 0).update(&model.mean, Tensor::scalar(1.0));
    }

    #[test]
    fn updates_build_on_each_other_and_are_applied_afterwards() {
        let (mut model, tape) = (model(), Tape::new());
        let mut cx = Ctx::new(&tape, Mode::Train, 0, 0);
        for _ in 0..2 {
            let next = cx.buffer(&model.mean).map(|x| x + 1.0);
            cx.update(&model.mean, next);
        }
        assert_eq!(model.mean.value().item(), 0.0);
        apply_updates(&mut model, cx.finish().into_updates());
        assert_eq!(model.mean.value().item(), 2.0);
    }

    #[test]
    #[should_panic(expected = "1 updates belong to no buffer")]
    fn an_update_of_an_unlisted_buffer_panics() {
        let (mut model, tape, stranger) = (model(), Tape::new(), Buffer::new(Tensor::scalar(0.0)));
        let mut cx = Ctx::new(&tape, Mode::Train, 0, 0);
        cx.update(&stranger, Tensor::scalar(1.0));
        apply_updates(&mut model, cx.finish().into_updates());
    }

    #[test]
    fn draws_depend_on_seed_step_and_stream_alone() {
        let first = |seed, step, stream| Draw::new(seed, step).rng(stream).random::<u64>();
        assert_eq!(first(1, 2, 3), first(1, 2, 3));
        let others = [first(0, 2, 3), first(1, 0, 3), first(1, 2, 0)];
        assert!(!others.contains(&first(1, 2, 3)), "{others:?}");
        let tape = Tape::new();
        let mut cx = Ctx::new(&tape, Mode::Train, 1, 2);
        assert_ne!(cx.draw().random::<u64>(), cx.draw().random::<u64>());
    }
}
