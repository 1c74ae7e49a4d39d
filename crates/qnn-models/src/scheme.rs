use qnn_layers::{
    BatchNorm, BatchNormConfig, Constraint, Diagnostic, HardTanh, Layer, LeakyRelu, Normalization, Quantize,
    QuantizeRange, QuantizeRangeConfig, Relu, ReluInRange, Sequential, ShiftBatchNorm, ShiftBatchNormConfig,
    diagnose_kernel,
};
use qnn_quant::Pair;

use crate::Result;

/// How a network is quantized: data that any model of this crate takes.
///
/// Which weight layers are quantized is decided layer by layer: all are, except for the first and
/// the last one (each by its own switch), projections (by theirs) and the layers named in
/// [`full_precision`](Scheme::full_precision). A layer in full precision has neither kernel nor
/// input quantizer nor constraint.
///
/// ```
/// use qnn_layers::{Count, Init, parameter_count};
/// use qnn_models::{ResNet, ResNetConfig, Scheme};
///
/// let scheme = Scheme { projections_full_precision: true, ..Scheme::preset("bc")? };
/// let model = ResNet::new(&ResNetConfig { scheme, ..ResNetConfig::from_depth(20)? }, &mut Init::new(0))?;
/// assert_eq!(parameter_count(&model, Count::ConvAndDense), 271_690);
/// # Ok::<(), qnn_models::Error>(())
/// ```
///
/// A quantizer with one scale per output channel groups by the last axis, whatever the rank of the
/// kernel: `ScaledSign::per_filter()` serves convolutions and dense layers alike.
#[derive(Clone, Debug, Default)]
pub struct Scheme {
    /// What stands between latent kernels and products.
    pub kernel: Option<Pair>,
    /// What the inputs of quantized layers go through, beside the activation function. Never
    /// applied to the network's own input.
    pub input: Option<Pair>,
    /// Whether the products of layers with an input quantizer are scaled by the mean magnitude of
    /// their inputs, as in XNOR-Net.
    pub input_scaling: bool,
    /// The learning rate factor of what quantizers learn, 1 if there is none.
    pub quantizer_rate: Option<f32>,
    /// Bits of the gradients that come back to the outputs of quantized layers, if these are quantized.
    pub gradient_bits: Option<u32>,
    /// The activation function.
    pub activation: Activation,
    /// How sums are normalised.
    pub norm: Norm,
    /// Whether the network computes in integers alone from the image to the logits, as [`IntegerUnit`](qnn_layers::IntegerUnit)
    /// states it: batch norm folded into kernels, biases of 32 bits, all activations in observed ranges. It needs kernels for which
    /// [`is_int8_per_channel`](qnn_quant::Quantizer::is_int8_per_channel) is true, [`Activation::ReluInRange`], [`Norm::Batch`], and no layer
    /// in full precision.
    pub integer_only: bool,
    /// What must hold of quantized kernels after each update.
    pub constraint: Option<Constraint>,
    /// Whether the first layer stays in full precision; `None` leaves it to the model.
    pub first_full_precision: Option<bool>,
    /// Whether the last layer stays in full precision; `None` leaves it to the model.
    pub last_full_precision: Option<bool>,
    /// Whether the 1×1 convolutions of shortcuts stay in full precision.
    pub projections_full_precision: bool,
    /// Paths of further layers in full precision; a path includes all that lies below it, so that
    /// `blocks.0` names a whole block. The model refuses a path without layers.
    pub full_precision: Vec<String>,
}

/// An activation function: one slot of a network, which holds a quantizer in nets with quantized
/// activations.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub enum Activation {
    /// None: the input quantizers of the layers behind are the only nonlinearity.
    Identity,
    /// `scale · max(x, 0)`.
    Relu {
        /// The factor of the output.
        scale: f32,
    },
    /// `x` if `x > 0`, else `slope · x`.
    LeakyRelu {
        /// The factor of negative inputs.
        slope: f32,
    },
    /// `clip(x, −1, 1)`.
    HardTanh,
    /// `max(x, 0)`, quantized to the range that training or calibration observes.
    ReluInRange {
        /// Bits of the codes.
        bits: u32,
    },
    /// A quantizer in place of a function: a sign after a ReLU would be +1 everywhere.
    Quantized(Pair),
}

/// The kind of batch normalisation in all places of a network that have one.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub enum Norm {
    /// [`BatchNorm`].
    #[default]
    Batch,
    /// [`ShiftBatchNorm`].
    ShiftBatch {
        /// Whether the factor of the variance is rounded to a power of two.
        round_variance: bool,
    },
}

/// Where in a network a weight layer stands, which decides whether a [`Scheme`] quantizes it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Place {
    /// It takes the network's own input.
    First,
    /// Anywhere else.
    Inner,
    /// The 1×1 convolution of a shortcut.
    Projection,
    /// Its sums are the logits.
    Last,
}

impl Scheme {
    /// Doubtful settings, for the user to see.
    pub fn diagnostics(&self) -> Vec<Diagnostic> {
        let kernel = self.kernel.as_ref();
        kernel.and_then(|pair| diagnose_kernel(pair, self.constraint)).into_iter().collect()
    }

    /// Whether the layer at `path` is quantized. `ends` is the model's own choice for first and
    /// last layers in full precision.
    ///
    /// ```
    /// use qnn_models::{Place, Scheme};
    /// let scheme = Scheme { full_precision: vec!["blocks.0".to_owned()], ..Scheme::preset("bc")? };
    /// assert!(scheme.quantizes("stem", Place::First, false));
    /// assert!(!scheme.quantizes("stem", Place::First, true));
    /// assert!(!scheme.quantizes("blocks.0.conv1", Place::Inner, false));
    /// # Ok::<(), qnn_models::Error>(())
    /// ```
    pub fn quantizes(&self, path: &str, place: Place, ends: bool) -> bool {
        let full_precision = match place {
            Place::First => self.first_full_precision.unwrap_or(ends),
            Place::Last => self.last_full_precision.unwrap_or(ends),
            Place::Projection => self.projections_full_precision,
            Place::Inner => false,
        };
        !full_precision && !self.full_precision.iter().any(|above| lies_below(path, above))
    }
}

/// Whether `path` is `above` or lies below it.
pub(crate) fn lies_below(path: &str, above: &str) -> bool {
    path.strip_prefix(above).is_some_and(|rest| rest.is_empty() || rest.starts_with('.'))
}

impl Activation {
    /// The function as a layer. What its quantizer learns, if it has one that does, learns at `quantizer_rate` times the
    /// base rate; see [`Scheme::quantizer_rate`].
    ///
    /// # Errors
    ///
    /// [`Error::Layer`](crate::Error::Layer) for bits that no range has.
    pub fn layer(&self, quantizer_rate: f32) -> Result<Box<dyn Layer>> {
        Ok(match self {
            Self::Identity => Box::new(Sequential::new()),
            Self::ReluInRange { bits } => Box::new(ReluInRange::new(range_of(*bits))?),
            Self::Relu { scale } => Box::new(Relu { scale: *scale }),
            Self::LeakyRelu { slope } => Box::new(LeakyRelu { slope: *slope }),
            Self::HardTanh => Box::new(HardTanh),
            Self::Quantized(pair) => {
                Box::new(Quantize::with_learning_rate_factor(pair.clone(), quantizer_rate))
            }
        })
    }
}

fn range_of(bits: u32) -> QuantizeRangeConfig {
    QuantizeRangeConfig { bits, ..QuantizeRangeConfig::new() }
}

impl Scheme {
    /// A place for a range, as an integer-only network has them beside its activations.
    pub(crate) fn range(&self) -> Result<QuantizeRange> {
        let bits = if let Activation::ReluInRange { bits } = self.activation { bits } else { 8 };
        Ok(QuantizeRange::new(range_of(bits))?)
    }

    /// What keeps an integer-only network from being one: a setting, what it is, what it must be.
    pub(crate) fn obstacle(&self) -> Option<(&'static str, String, &'static str)> {
        let kernel = self.kernel.as_ref().map(|pair| &pair.map);
        let given = |given: bool| if given { "given" } else { "none" }.to_owned();
        let settings = [
            (
                kernel.is_some_and(|map| map.is_int8_per_channel()),
                "kernel",
                kernel.map_or("none", |map| map.name()).to_owned(),
                "affine: symmetric, of 8 bits, along the last axis",
            ),
            (
                self.input.is_none(),
                "input",
                given(self.input.is_some()),
                "none: activations are codes already",
            ),
            (self.gradient_bits.is_none(), "gradient_bits", given(self.gradient_bits.is_some()), "none"),
            (
                matches!(self.activation, Activation::ReluInRange { .. }),
                "activation",
                format!("{:?}", self.activation),
                "ReluInRange",
            ),
            (
                self.norm == Norm::Batch,
                "norm",
                format!("{:?}", self.norm),
                "Batch, which kernels can take in",
            ),
        ];
        let wrong = settings.into_iter().filter(|_| self.integer_only).find(|(fits, ..)| !fits);
        wrong.map(|(_, setting, value, expected)| (setting, value, expected))
    }
}

impl Norm {
    /// The normalisation of so many channels as a layer.
    ///
    /// # Errors
    ///
    /// [`Error::Layer`](crate::Error::Layer) for zero channels.
    pub fn layer(self, channels: usize) -> Result<Box<dyn Normalization>> {
        Ok(match self {
            Self::Batch => Box::new(BatchNorm::new(&BatchNormConfig::new(channels))?),
            Self::ShiftBatch { round_variance } => {
                let config = ShiftBatchNormConfig { round_variance, ..ShiftBatchNormConfig::new(channels) };
                Box::new(ShiftBatchNorm::new(&config)?)
            }
        })
    }
}

impl Default for Activation {
    fn default() -> Self {
        Self::Relu { scale: 1.0 }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_path_includes_what_lies_below_it_and_nothing_else() {
        assert!(lies_below("blocks.1.conv1", "blocks.1"));
        assert!(lies_below("blocks.1", "blocks.1"));
        assert!(!lies_below("blocks.10.conv1", "blocks.1"));
        assert!(!lies_below("blocks", "blocks.1"));
    }

    #[test]
    fn switches_and_paths_keep_layers_in_full_precision() {
        let scheme = Scheme::default();
        assert!(scheme.quantizes("conv", Place::First, false));
        assert!(!scheme.quantizes("conv", Place::First, true));
        assert!(scheme.quantizes("conv", Place::Projection, true));
        let scheme = Scheme {
            first_full_precision: Some(false),
            projections_full_precision: true,
            full_precision: vec!["blocks.1".to_owned()],
            ..scheme
        };
        assert!(scheme.quantizes("conv", Place::First, true));
        assert!(!scheme.quantizes("conv", Place::Last, true));
        assert!(!scheme.quantizes("conv", Place::Projection, true));
        assert!(!scheme.quantizes("blocks.1.conv2", Place::Inner, true));
        assert!(scheme.quantizes("blocks.2.conv2", Place::Inner, true));
    }
}
