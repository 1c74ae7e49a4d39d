use std::sync::Arc;

use qnn_quant::{Alphabet, Grid, Quantizer, Scale};
use qnn_tensor::ops::{Conv2dOptions, Factors, PoolOptions};
use qnn_tensor::{Tensor, Var};

use crate::{IntegerOp, ParamId};

/// What the layers of a model did in one evaluation, in order: see [`Ctx::tracing`](crate::Ctx::tracing).
///
/// A model writes one forward pass; whoever needs its structure (to deploy it, to draw it) listens
/// to that pass instead of asking for a second one. A value that no step has for its output came
/// from elsewhere: the network's input, or tape operations that nobody reported.
///
/// ```
/// use qnn_layers::{Ctx, Dense, DenseConfig, Init, Layer, Op, Relu, Sequential};
/// use qnn_tensor::{Tape, Tensor};
///
/// let model = Sequential::new()
///     .then(Dense::new(&DenseConfig::new(4, 3), &mut Init::new(0))?)
///     .then(Relu::default());
/// let tape = Tape::new();
/// let mut cx = Ctx::tracing(&tape);
/// model.forward(&mut cx, tape.constant(Tensor::zeros(&[1, 4])).into())?;
/// let trace = cx.into_trace();
/// assert!(matches!(trace.steps[..], [ref dense, ref relu]
///     if dense.layer == "dense" && matches!(relu.op, Op::Relu)));
/// # Ok::<(), qnn_layers::Error>(())
/// ```
#[derive(Debug, Default)]
pub struct Trace<'t> {
    /// One step for each operation.
    pub steps: Vec<Step<'t>>,
}

/// One operation of a traced pass.
#[derive(Debug)]
pub struct Step<'t> {
    /// The kind of layer that did it.
    pub layer: &'static str,
    /// A parameter of the layer, which tells its path in the model.
    pub param: Option<ParamId>,
    /// What went in.
    pub inputs: Vec<Var<'t>>,
    /// What came out.
    pub output: Var<'t>,
    /// How the one became the other.
    pub op: Op,
}

/// All that a layer can do to values in evaluation. The list is closed: whoever reads traces decides
/// for each of them what becomes of it.
#[derive(Clone, Debug)]
pub enum Op {
    /// A convolution of codes, scaled.
    Conv2d {
        /// The operands.
        product: Product,
        /// How the kernel moves.
        options: Conv2dOptions,
    },
    /// A matrix product of codes over the last axis, scaled.
    Dense {
        /// The operands.
        product: Product,
        /// Whether each sum is that of integers, rounded once.
        exact: bool,
    },
    /// `(x − mean) · s + beta` with parameters for each index of the last axis.
    BatchNorm {
        /// The mean.
        mean: Tensor,
        /// The factor.
        s: Tensor,
        /// The offset.
        beta: Tensor,
    },
    /// `x · scale + bias` with one scale for each pixel, the second input, and one bias for each channel.
    PixelScale {
        /// What is added for each output channel.
        bias: Option<Tensor>,
    },
    /// [`mean_magnitudes`](crate::mean_magnitudes) of the last axis, which keeps one channel.
    MeanMagnitude,
    /// From values to codes.
    Quantize {
        /// The map.
        map: Arc<dyn Quantizer>,
        /// The grid of this input; that of every input, if the map [is fixed](Quantizer::is_fixed).
        grid: Arc<Grid>,
    },
    /// From codes to values.
    Value {
        /// The factor between them.
        scale: Scale,
    },
    /// `max(x, 0)`.
    Relu,
    /// `factor · x`.
    Scale {
        /// The factor.
        factor: f32,
    },
    /// `x` if `x > 0`, else `slope · x`.
    LeakyRelu {
        /// The factor of negative inputs.
        slope: f32,
    },
    /// `clip(x, −1, 1)`.
    HardTanh,
    /// `clip((x + 1) / 2, 0, 1)`.
    HardSigmoid,
    /// `1 / (1 + e^−x)`.
    Sigmoid,
    /// `tanh x`.
    Tanh,
    /// The largest element of each window.
    MaxPool(PoolOptions),
    /// The mean of each window.
    AveragePool(PoolOptions),
    /// The mean of each image.
    GlobalAveragePool,
    /// `[n, ..]` to `[n, product of the rest]`.
    Flatten,
    /// The sum of two values of one shape.
    Add {
        /// Whether the sum is rectified in the same pass.
        relu: bool,
    },
    /// Every `stride`-th pixel, with channels of zeros appended.
    PadZero {
        /// The distance of the pixels.
        stride: usize,
        /// Channels of the output.
        channels: usize,
    },
    /// What an integer-only network does to codes.
    Integer(IntegerOp),
}

/// What a convolution or a dense layer multiplies its input by.
#[derive(Clone, Debug)]
pub struct Product {
    /// The kernel's codes; its values, if it is not quantized.
    pub kernel: Tensor,
    /// Which codes there are; `None` for values.
    pub alphabet: Option<Alphabet>,
    /// From codes to values.
    pub factors: Factors,
    /// What is added for each output channel.
    pub bias: Option<Tensor>,
}
