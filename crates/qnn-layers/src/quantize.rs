use std::fmt::Debug;
use std::sync::Arc;

use ndarray::{ArrayViewMutD, IxDyn};
use qnn_quant::{Estimator, Grid, Groups, Pair, Quantizer};
use qnn_tensor::ops::Gate;
use qnn_tensor::{Tensor, Var};

use crate::slot::Slot;
use crate::{Ctx, Error, Layer, Leaf, LeafMut, Module, Op, Path, Signal};

/// Quantization as layers see it: a value on the tape becomes codes on the tape.
///
/// A [`Pair`] of forward map and gradient estimator is one, with the parameters of its map as
/// constants. Layers that are made with a pair whose map has trained parameters or memory hold these
/// beside it, for the visitor to pass.
pub trait FakeQuantize: Module + Debug + Send + Sync {
    /// The codes of `x` and the grid that reads them.
    ///
    /// # Errors
    ///
    /// Those of [`Quantizer::fit`](qnn_quant::Quantizer::fit), for instance an infinite element
    /// where a mean is taken.
    fn apply<'t>(&self, cx: &mut Ctx<'t>, x: Var<'t>) -> qnn_quant::Result<Quantized<'t>>;
}

/// A quantized value in training form.
#[derive(Clone, Debug)]
pub struct Quantized<'t> {
    /// Small integers. The gradient that reaches them is by convention that of the value.
    pub codes: Var<'t>,
    /// From codes to values: `value = scale of the group · code`. Codes that have no common scale are
    /// the values themselves, on an unquantized grid.
    pub grid: Arc<Grid>,
    /// The map with the parameters that it had in this pass.
    pub map: Arc<dyn Quantizer>,
}

/// A quantizer in place of an activation function. The output is factored: codes and one scale.
///
/// ```
/// use qnn_layers::{Ctx, Layer, Mode, Quantize};
/// use qnn_quant::{Pair, Sign};
/// use qnn_tensor::{Tape, Tensor};
///
/// let tape = Tape::new();
/// let mut cx = Ctx::new(&tape, Mode::Train, 0, 0);
/// let x = tape.leaf(Tensor::from_vec(&[1, 3], vec![-0.5, 0.25, 3.0])?);
/// let y = Quantize::new(Pair::published(Sign)).forward(&mut cx, x.into())?.value();
/// assert_eq!(y.value().as_slice(), [-1.0, 1.0, 1.0]);
/// // Sign was published with a gradient that passes for |x| ≤ 1.
/// assert_eq!(tape.backward(y.sum()).of(x).unwrap().as_slice(), [1.0, 1.0, 0.0]);
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
///
/// A map with trained parameters, such as [`Pact`](qnn_quant::Pact), has them here, as parameters under
/// the map's names.
#[derive(Debug)]
pub struct Quantize {
    quantizer: Slot,
}

impl Quantize {
    /// A layer that applies `pair`, whose map must give the whole tensor one scale.
    pub fn new(pair: Pair) -> Self {
        Self::with_learning_rate_factor(pair, 1.0)
    }

    /// The same with a learning rate factor for the map's trained parameters.
    pub fn with_learning_rate_factor(pair: Pair, factor: f32) -> Self {
        Self { quantizer: Slot::for_input(&pair, factor) }
    }

    /// The map and its gradient.
    pub fn pair(&self) -> &Pair {
        self.quantizer.pair()
    }
}

/// The parameters are named as if they stood directly in the layer.
impl Module for Quantize {
    fn visit<'a>(&'a self, at: &mut Path, f: &mut dyn FnMut(&Path, Leaf<'a>)) {
        self.quantizer.visit(at, f);
    }

    fn visit_mut(&mut self, at: &mut Path, f: &mut dyn FnMut(&Path, LeafMut<'_>)) {
        self.quantizer.visit_mut(at, f);
    }
}

impl Layer for Quantize {
    fn forward<'t>(&self, cx: &mut Ctx<'t>, x: Signal<'t>) -> Result<Signal<'t>, Error> {
        quantize_signal("quantize", &self.quantizer, cx, x)
    }

    fn gate(&self) -> Option<Gate> {
        let pair = self.pair();
        // A gradient that changes in the course of training is asked in each step, not once.
        let is_constant = pair.gradient.scheduled(0.0).is_none();
        let clip = pair.gradient.clip().filter(|_| pair.map.is_sign() && is_constant)?;
        Some(Gate::Sign { clip })
    }
}

/// A signal in factored form, which needs one scale for the whole tensor.
pub(crate) fn quantize_signal<'t>(
    layer: &'static str,
    slot: &Slot,
    cx: &mut Ctx<'t>,
    x: Signal<'t>,
) -> Result<Signal<'t>, Error> {
    let pair = slot.pair();
    if is_identity(pair) {
        return Ok(x);
    }
    if slot.lacks_memory() {
        let (setting, value) = ("input quantizer", pair.map.name().to_owned());
        let expected = "a map without memory: the elements of an input are others in each pass".to_owned();
        return Err(Error::Setting { layer, setting, value, expected });
    }
    let value = cx.value(x);
    if cx.is_traced() {
        let unset = slot.unset_parameter(cx, &value.value());
        let unset = unset.map_err(|source| Error::Quantizer { layer, operand: "input", source })?;
        if let Some(parameter) = unset {
            return Err(Error::Untrained { layer, quantizer: pair.map.name(), parameter });
        }
    }
    let Quantized { codes, grid, map } = quantize_value(layer, "input", slot, cx, value)?;
    match grid.groups() {
        Groups::Tensor => {
            let op = || Op::Quantize { map: Arc::clone(&map), grid: Arc::clone(&grid) };
            cx.report("quantize", None, &[value], codes, op);
            let signal = Signal::factored(codes, grid.scale(0));
            Ok(grid.alphabet().map_or(signal, |codes| signal.with_largest_code(codes.magnitude())))
        }
        Groups::Axis { len: scales, .. } => Err(Error::Scales {
            layer,
            operand: "input",
            quantizer: pair.map.name().to_owned(),
            shape: x.shape(),
            scales,
            expected: "an input needs one scale for the whole tensor",
        }),
    }
}

/// [`FakeQuantize::apply`] with the layer's name on the error.
pub(crate) fn quantize_value<'t>(
    layer: &'static str,
    operand: &'static str,
    quantizer: &dyn FakeQuantize,
    cx: &mut Ctx<'t>,
    x: Var<'t>,
) -> Result<Quantized<'t>, Error> {
    quantizer.apply(cx, x).map_err(|source| Error::Quantizer { layer, operand, source })
}

/// No parameters.
impl Module for Pair {
    fn visit<'a>(&'a self, _: &mut Path, _: &mut dyn FnMut(&Path, Leaf<'a>)) {}

    fn visit_mut(&mut self, _: &mut Path, _: &mut dyn FnMut(&Path, LeafMut<'_>)) {}
}

impl FakeQuantize for Pair {
    fn apply<'t>(&self, cx: &mut Ctx<'t>, x: Var<'t>) -> qnn_quant::Result<Quantized<'t>> {
        if is_identity(self) {
            let (grid, map) = (Arc::new(Grid::unquantized()), Arc::clone(&self.map));
            return Ok(Quantized { codes: x, grid, map });
        }
        Slot::nowhere(self).apply(cx, x)
    }
}

/// Whether neither values nor gradients change, so that there is nothing to record. Both count: an
/// identity map with a clipped gradient is a choice somebody made.
pub(crate) fn is_identity(pair: &Pair) -> bool {
    pair.map.is_identity() && pair.gradient.is_identity()
}

/// A tensor in a recycled buffer that a fallible function writes.
pub(crate) fn try_build(
    shape: &[usize],
    fill: impl FnOnce(ArrayViewMutD<'_, f32>) -> qnn_quant::Result<()>,
) -> qnn_quant::Result<Tensor> {
    let mut result = Ok(());
    let tensor = Tensor::build(shape, |out| {
        let view = ArrayViewMutD::from_shape(IxDyn(shape), out);
        result = fill(view.expect("the buffer holds as many elements as the shape names"));
    });
    result.map(|()| tensor)
}
