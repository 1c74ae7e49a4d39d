use std::fmt::Debug;
use std::sync::Arc;

use ndarray::{ArrayViewMutD, IxDyn};
use qnn_quant::{Estimator, Grid, Groups, Identity, Pair, Quantizer, StraightThrough};
use qnn_tensor::{Tensor, Var};

use crate::{Ctx, Error, Layer, Leaf, LeafMut, Module, Op, Path, Signal};

/// Quantization as layers see it: a value on the tape becomes codes on the tape.
///
/// A [`Pair`] of forward map and gradient estimator is one; so is a quantizer with trained
/// parameters.
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
    /// From codes to values: `value = scale of the group · code`.
    pub grid: Arc<Grid>,
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
#[derive(Clone, Debug)]
pub struct Quantize {
    pair: Pair,
}

impl Quantize {
    /// A layer that applies `pair`, whose map must give the whole tensor one scale.
    pub fn new(pair: Pair) -> Self {
        Self { pair }
    }

    /// The map and its gradient.
    pub fn pair(&self) -> &Pair {
        &self.pair
    }
}

crate::module!(Quantize {});

impl Layer for Quantize {
    fn forward<'t>(&self, cx: &mut Ctx<'t>, x: Signal<'t>) -> Result<Signal<'t>, Error> {
        quantize_signal("quantize", &self.pair, cx, x)
    }
}

/// A signal in factored form, which needs one scale for the whole tensor.
pub(crate) fn quantize_signal<'t>(
    layer: &'static str,
    pair: &Pair,
    cx: &mut Ctx<'t>,
    x: Signal<'t>,
) -> Result<Signal<'t>, Error> {
    if is_identity(pair) {
        return Ok(x);
    }
    let value = cx.value(x);
    let Quantized { codes, grid } = quantize_value(layer, "input", pair, cx, value)?;
    match grid.groups() {
        Groups::Tensor => {
            let op = || Op::Quantize { map: Arc::clone(&pair.map), grid: Arc::clone(&grid) };
            cx.report("quantize", None, &[value], codes, op);
            Ok(Signal::factored(codes, grid.scale(0)))
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
    pair: &Pair,
    cx: &mut Ctx<'t>,
    x: Var<'t>,
) -> Result<Quantized<'t>, Error> {
    pair.apply(cx, x).map_err(|source| Error::Quantizer { layer, operand, source })
}

/// No parameters.
impl Module for Pair {
    fn visit<'a>(&'a self, _: &mut Path, _: &mut dyn FnMut(&Path, Leaf<'a>)) {}

    fn visit_mut(&mut self, _: &mut Path, _: &mut dyn FnMut(&Path, LeafMut<'_>)) {}
}

impl FakeQuantize for Pair {
    fn apply<'t>(&self, _: &mut Ctx<'t>, x: Var<'t>) -> qnn_quant::Result<Quantized<'t>> {
        if is_identity(self) {
            return Ok(Quantized { codes: x, grid: Arc::new(Grid::unquantized()) });
        }
        let value = x.value();
        let grid = Arc::new(self.map.fit(value.view())?);
        let codes = try_build(value.shape(), |out| self.map.codes_into(value.view(), &grid, out))?;
        let (gradient, levels) = (Arc::clone(&self.gradient), Arc::clone(&grid));
        let codes = x.tape().record("quantize", [x], codes, move |dy, _| {
            let pullback =
                |dx: ArrayViewMutD<'_, f32>| gradient.pullback_into(value.view(), &levels, dy.view(), dx);
            [Some(try_build(dy.shape(), pullback).expect("the forward pass has checked shapes and grid"))]
        });
        Ok(Quantized { codes, grid })
    }
}

/// Whether neither values nor gradients change, so that there is nothing to record. Both names
/// count: an identity map with a clipped gradient is a choice somebody made.
fn is_identity(pair: &Pair) -> bool {
    pair.map.name() == Identity.name() && pair.gradient.name() == Estimator::name(&StraightThrough)
}

/// A tensor in a recycled buffer that a fallible function writes.
fn try_build(
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
