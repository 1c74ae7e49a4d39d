use std::collections::BTreeMap;

use qnn_kernels::packed::Encoding;
use qnn_quant::Alphabet;
use qnn_tensor::Padding;
use qnn_tensor::ops::PoolOptions;
use serde::{Deserialize, Serialize};

use crate::codes::encoding;
use crate::integer::IntegerStage;
use crate::serial::{AlphabetText, PaddingText, PoolText};

/// A frozen network: stages in order of execution over values in memory. It holds no tape, no layer
/// and no quantizer, and can be printed, saved, loaded and run by a [`Session`](crate::Session).
#[derive(Clone, Debug, PartialEq)]
pub struct Program {
    /// Everything that flows. Value 0 is the image, in f32.
    pub(crate) values: Vec<Value>,
    /// What is done, in order.
    pub(crate) stages: Vec<Stage>,
    /// Which value holds the logits.
    pub(crate) output: usize,
    /// How bytes become the image's numbers, if that is known.
    pub(crate) normalization: Option<Normalization>,
    /// What the outputs stand for, if that is known.
    pub(crate) classes: Vec<String>,
    /// The numbers that stages refer to by name.
    pub(crate) tensors: BTreeMap<String, Data>,
}

/// What flows between stages: per image a block `[height, width, channels]`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Value {
    /// Height, width, channels.
    pub shape: [usize; 3],
    /// How the elements lie in memory.
    pub elements: Elements,
}

/// How the elements of a value lie in memory.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Elements {
    /// Numbers of 32 bits: values, or codes that nobody takes packed.
    Float,
    /// Codes at their true bits, pixel by pixel.
    Packed(#[serde(with = "AlphabetText")] Alphabet),
    /// Codes of integer arithmetic, a byte each in two's complement: the least code is −128.
    Bytes(#[serde(with = "AlphabetText")] Alphabet),
}

/// Mean and standard deviation per channel, or one for all, of pixels scaled to 0..1: as
/// [`qnn_data::Normalize`] states it.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Normalization {
    /// The means.
    pub mean: Vec<f32>,
    /// The deviations.
    pub std: Vec<f32>,
}

/// One step of a program.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Stage {
    /// The layers it computes, first to last.
    pub layers: Vec<LayerName>,
    /// The value it reads.
    pub input: usize,
    /// The value it adds, if one of its links is a sum.
    pub operand: Option<usize>,
    /// The value it writes.
    pub output: usize,
    /// What it does.
    pub action: Action,
    /// Why it is not faster, and what would make it so.
    pub remarks: Vec<Remark>,
}

/// A layer as the training graph knows it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct LayerName {
    /// Its number in the trace of a forward pass.
    pub step: usize,
    /// Its path in the model, or what it follows.
    pub name: String,
}

/// Why a stage does not run on packed integers, or not in one pass.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Remark {
    /// The reason.
    pub reason: String,
    /// What to do about it.
    pub remedy: String,
}

/// What a stage does. The set is closed: it is stored, printed and interpreted.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case", deny_unknown_fields)]
pub enum Action {
    /// A convolution or a dense layer, with all that follows it on the spot.
    Product(Product),
    /// Functions of single elements.
    Chain(Chain),
    /// The largest element of each window; over packed codes, the smallest one in some channels.
    MaxPool {
        /// The windows.
        #[serde(with = "PoolText")]
        options: PoolOptions,
        /// One byte per channel: 1 where the smallest code counts, because the thresholds that made the
        /// codes fall as the sums rise.
        falling: Option<String>,
    },
    /// The mean of each window, in f32.
    AveragePool(#[serde(with = "PoolText")] PoolOptions),
    /// The mean of each channel, added in f64.
    GlobalAveragePool,
    /// The mean of the magnitudes of each pixel, or of the whole image, added in f64.
    MeanMagnitude,
    /// Every `stride`-th pixel, and channels of zeros.
    PadZero {
        /// The distance of the pixels.
        stride: usize,
    },
    /// What networks of integers alone do.
    Integer(IntegerStage),
}

/// A sum of products. A dense layer is a convolution whose kernel is as large as its input.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Product {
    /// Height and width of the kernel.
    pub kernel: [usize; 2],
    /// The step in rows and columns.
    pub stride: [usize; 2],
    /// Rows and columns around the input.
    #[serde(with = "PaddingText")]
    pub padding: Padding,
    /// What the padding holds, as a code of the input.
    pub pad_code: i8,
    /// The number of groups.
    pub groups: usize,
    /// The weights.
    pub weights: Weights,
    /// How it is summed.
    pub arithmetic: Arithmetic,
    /// What becomes of the sums.
    pub finish: Finish,
}

/// Weights `[kh, kw, channels / groups, out channels]`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case", deny_unknown_fields)]
pub enum Weights {
    /// Numbers of 32 bits.
    Float {
        /// The tensor.
        tensor: String,
    },
    /// Codes in planes of bits over the whole kernel.
    Packed {
        /// Which codes there are.
        #[serde(with = "AlphabetText")]
        alphabet: Alphabet,
        /// The tensor.
        tensor: String,
    },
}

/// How products are summed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Arithmetic {
    /// Codes by codes, in 32-bit integers.
    Integer,
    /// Numbers by codes: one f32 accumulator per output, weights packed.
    WeightOnly,
    /// Numbers by numbers: one f32 accumulator per output.
    Float,
    /// Numbers by numbers, in tiles of 2×2 outputs by Winograd's minimal filtering
    /// ([`Algorithm::Winograd`](qnn_kernels::Algorithm::Winograd)): sixteen f32 accumulators per tile and channel.
    Winograd,
    /// Codes that lie as numbers by codes: sums of integers, each rounded once to f32.
    Exact,
}

/// What becomes of sums.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case", deny_unknown_fields)]
pub enum Finish {
    /// The functions that follow, one after the other.
    Chain(Chain),
    /// The code is the number of cuts that the sum reaches; the mirrored code in flipped channels.
    Thresholds {
        /// `[channel, levels − 1]` integers.
        cuts: String,
        /// One byte per channel: 1 if flipped.
        flips: String,
    },
    /// Thresholds for each code that the operand may have at an element: a sum with it and what follows,
    /// without the sum.
    Selected {
        /// `[code of the operand, channel, levels − 1]` integers.
        cuts: String,
        /// One byte per code of the operand and channel: 1 if flipped.
        flips: String,
    },
}

/// Functions of single elements, one after the other, in exactly the operations and roundings of the
/// training graph.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Chain {
    /// The functions.
    pub links: Vec<Link>,
}

/// A function of one element, perhaps with parameters for each index of the last axis.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case", deny_unknown_fields)]
pub enum Link {
    /// `x · factors[channel]`.
    Scale {
        /// The tensor.
        factors: String,
    },
    /// `x + bias[channel]`.
    Bias {
        /// The tensor.
        bias: String,
    },
    /// `(x − mean) · s + beta`.
    Norm {
        /// The tensor of means.
        mean: String,
        /// The tensor of factors.
        s: String,
        /// The tensor of offsets.
        beta: String,
    },
    /// `x · factor`.
    Factor {
        /// The factor.
        factor: f32,
    },
    /// `x · operand[pixel]`: the operand has one channel.
    PixelScale,
    /// `max(x, 0)`.
    Relu,
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
    /// `code · numerator / denominator`, rounded once.
    Value(Factor),
    /// `x + operand`, whose codes become values first.
    Add {
        /// From the operand's codes to values, if it holds codes.
        operand: Option<Factor>,
    },
    /// `first + step · (number of cuts that x reaches)`.
    Quantize {
        /// The codes.
        #[serde(with = "AlphabetText")]
        alphabet: Alphabet,
        /// The tensor of cuts, ascending; NaN for those that nothing reaches.
        cuts: String,
    },
}

/// How codes become values: [`qnn_quant::Scale`].
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Factor {
    /// The group's statistic or constant.
    pub numerator: f32,
    /// A whole number from 1 to 2²⁴.
    pub denominator: u32,
}

/// The elements of a tensor.
#[derive(Clone, Debug, PartialEq)]
pub enum Data {
    /// 32-bit floating-point numbers.
    Floats(Vec<f32>),
    /// 32-bit integers.
    Integers(Vec<i32>),
    /// Bytes: packed codes, flags.
    Bytes(Vec<u8>),
}

impl Program {
    /// Height, width and channels of the images.
    pub fn input_shape(&self) -> [usize; 3] {
        self.values[0].shape
    }

    /// How many outputs an image has.
    pub fn outputs(&self) -> usize {
        self.values[self.output].len()
    }

    /// The stages in order of execution.
    pub fn stages(&self) -> &[Stage] {
        &self.stages
    }

    /// The values by their numbers.
    pub fn values(&self) -> &[Value] {
        &self.values
    }

    /// A tensor that a stage refers to.
    pub fn tensor(&self, name: &str) -> Option<&Data> {
        self.tensors.get(name)
    }

    /// What the outputs stand for; empty if that is not known.
    pub fn classes(&self) -> &[String] {
        &self.classes
    }

    /// How bytes become the image's numbers, if that is known.
    pub fn normalization(&self) -> Option<&Normalization> {
        self.normalization.as_ref()
    }

    /// The least version of the file format that can say it.
    pub(crate) fn version(&self) -> u64 {
        self.stages.iter().map(|stage| self.version_of(stage)).max().unwrap_or(1)
    }

    /// The first version knew neither stages of integers, nor thresholds that another value selects, nor means of packed
    /// codes, nor sums in f32 that become codes, nor scales of pixels; the second held kernels of ranks in bytes, and did not say so; the third
    /// knew neither tiles nor exact sums of numbers.
    fn version_of(&self, stage: &Stage) -> u64 {
        let on_codes = self.values[stage.input].elements != Elements::Float;
        let to_codes = self.values[stage.output].elements != Elements::Float;
        let scales = stage.action.chain().is_some_and(|chain| chain.links.contains(&Link::PixelScale));
        match &stage.action {
            Action::Product(product)
                if matches!(product.arithmetic, Arithmetic::Winograd | Arithmetic::Exact) =>
            {
                4
            }
            Action::Product(product) if product.weights.are_bytes() => 3,
            Action::Integer(IntegerStage::Product(_)) => 3,
            Action::Product(product) => {
                let newer = product.arithmetic != Arithmetic::Integer && to_codes
                    || matches!(product.finish, Finish::Selected { .. });
                if newer || scales { 2 } else { 1 }
            }
            Action::MeanMagnitude | Action::Integer(_) => 2,
            Action::GlobalAveragePool if on_codes => 2,
            _ if scales => 2,
            _ => 1,
        }
    }

    /// Bytes of all tensors: the size of the model file without its header.
    pub fn tensor_bytes(&self) -> usize {
        self.tensors.values().map(Data::bytes).sum()
    }
}

impl Weights {
    /// Whether their codes lie as bytes in memory; in files they lie in planes, perhaps as ranks.
    fn are_bytes(&self) -> bool {
        match self {
            Self::Float { .. } => false,
            Self::Packed { alphabet, .. } => encoding(*alphabet) == Some(Encoding::Int8),
        }
    }
}

impl Value {
    /// Elements per image.
    #[allow(clippy::len_without_is_empty)] // No value is empty.
    pub fn len(&self) -> usize {
        self.shape.iter().product()
    }
}

impl Data {
    /// Its size.
    pub fn bytes(&self) -> usize {
        match self {
            Self::Floats(values) => 4 * values.len(),
            Self::Integers(values) => 4 * values.len(),
            Self::Bytes(values) => values.len(),
        }
    }
}

impl From<qnn_quant::Scale> for Factor {
    fn from(scale: qnn_quant::Scale) -> Self {
        Self { numerator: scale.numerator, denominator: scale.denominator }
    }
}

impl From<Factor> for qnn_quant::Scale {
    fn from(factor: Factor) -> Self {
        Self { numerator: factor.numerator, denominator: factor.denominator }
    }
}
