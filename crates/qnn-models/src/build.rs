use qnn_layers::{
    Constraint, Conv2d, Conv2dConfig, Dense, DenseConfig, Init, Initializer, Layer, Normalization,
    QuantizeRange, Within,
};
use qnn_quant::Pair;

use crate::scheme::{Place, lies_below};
use crate::{Error, Result, Scheme};

/// Builds the layers of one model under one scheme: each weight layer gets the quantizers that the scheme has for its path
/// and place, and paths of the scheme that name no layer are errors. The models of this crate are built with it; so can be
/// any other.
///
/// ```
/// use qnn_layers::{DenseConfig, Flatten, Init, Initializer, Layer, Sequential};
/// use qnn_models::{Builder, Place, Result, Scheme};
///
/// fn two_layers(scheme: &Scheme, init: &mut Init) -> Result<Sequential> {
///     let mut builder = Builder::new(scheme, Initializer::HeNormal, false, init);
///     let model = Sequential::new()
///         .with("flatten", Flatten)
///         .with("hidden", builder.dense("hidden", Place::First, DenseConfig::new(64, 32))?)
///         .with("norm", builder.norm(32)?)
///         .with("activation", builder.activation()?)
///         .with("classifier", builder.dense("classifier", Place::Last, DenseConfig::new(32, 10))?);
///     builder.finish(model)
/// }
///
/// assert!(two_layers(&Scheme::preset("bnn")?, &mut Init::new(0)).is_ok());
/// let typo = Scheme { full_precision: vec!["hiden".to_owned()], ..Scheme::preset("bnn")? };
/// let error = two_layers(&typo, &mut Init::new(0)).unwrap_err().to_string();
/// assert!(error.contains("there are hidden, classifier"));
/// # Ok::<(), qnn_models::Error>(())
/// ```
#[derive(Debug)]
pub struct Builder<'a> {
    scheme: &'a Scheme,
    initializer: Initializer,
    /// Whether the model keeps first and last layer in full precision of its own accord.
    ends_full_precision: bool,
    init: &'a mut Init,
    paths: Vec<String>,
    /// The layers that stay in full precision.
    spared: Vec<String>,
}

/// What a scheme makes of one layer; nothing, in full precision.
#[derive(Default)]
struct Choice {
    kernel_quantizer: Option<Pair>,
    input_quantizer: Option<Pair>,
    input_scaling: bool,
    gradient_bits: Option<u32>,
    constraint: Option<Constraint>,
}

impl<'a> Builder<'a> {
    /// For a model whose kernels are drawn by `initializer`. With `ends` the model keeps its first and last layer in full
    /// precision, unless the scheme says otherwise.
    pub fn new(scheme: &'a Scheme, initializer: Initializer, ends: bool, init: &'a mut Init) -> Self {
        let (paths, spared) = (Vec::new(), Vec::new());
        Self { scheme, initializer, ends_full_precision: ends, init, paths, spared }
    }

    /// A convolution, with the scheme's choices for this path and place.
    ///
    /// # Errors
    ///
    /// [`Error::Layer`] for a configuration that makes no layer.
    pub fn conv(&mut self, path: &str, place: Place, config: Conv2dConfig) -> Result<Conv2d> {
        let choice = self.choose(path, place);
        let config = Conv2dConfig {
            initializer: self.initializer,
            kernel_quantizer: choice.kernel_quantizer,
            input_quantizer: choice.input_quantizer,
            input_scaling: choice.input_scaling,
            gradient_bits: choice.gradient_bits,
            quantizer_rate: self.quantizer_rate(),
            constraint: choice.constraint,
            ..config
        };
        Ok(Conv2d::new(&config, self.init).within(path)?)
    }

    /// A dense layer, with the scheme's choices for this path and place.
    ///
    /// # Errors
    ///
    /// [`Error::Layer`] for a configuration that makes no layer.
    pub fn dense(&mut self, path: &str, place: Place, config: DenseConfig) -> Result<Dense> {
        let choice = self.choose(path, place);
        let config = DenseConfig {
            initializer: self.initializer,
            kernel_quantizer: choice.kernel_quantizer,
            input_quantizer: choice.input_quantizer,
            input_scaling: choice.input_scaling,
            gradient_bits: choice.gradient_bits,
            quantizer_rate: self.quantizer_rate(),
            constraint: choice.constraint,
            ..config
        };
        Ok(Dense::new(&config, self.init).within(path)?)
    }

    fn quantizer_rate(&self) -> f32 {
        self.scheme.quantizer_rate.unwrap_or(1.0)
    }

    /// The scheme's normalisation.
    ///
    /// # Errors
    ///
    /// [`Error::Layer`] for zero channels.
    pub fn norm(&self, channels: usize) -> Result<Box<dyn Normalization>> {
        self.scheme.norm.layer(channels)
    }

    /// The scheme's activation function.
    ///
    /// # Errors
    ///
    /// [`Error::Layer`] for bits that no range has.
    pub fn activation(&self) -> Result<Box<dyn Layer>> {
        self.scheme.activation.layer(self.quantizer_rate())
    }

    /// Whether the network computes in integers alone: then its units have to be [`IntegerUnit`](qnn_layers::IntegerUnit)s,
    /// and there is a [`range`](Self::range) in front of the first one.
    pub fn integer_only(&self) -> bool {
        self.scheme.integer_only
    }

    /// A place for a range, in networks of integers.
    ///
    /// # Errors
    ///
    /// [`Error::Layer`] for bits that no range has.
    pub fn range(&self) -> Result<Option<QuantizeRange>> {
        self.integer_only().then(|| self.scheme.range()).transpose()
    }

    /// Ends the building: every path that was to stay in full precision must have been met, or a
    /// typing error would quantize what it was to spare. A network of integers spares nothing.
    ///
    /// # Errors
    ///
    /// [`Error::UnknownPath`] for such a path, [`Error::Setting`] for a scheme that is integer-only and has what integers
    /// cannot do.
    pub fn finish<M>(self, model: M) -> Result<M> {
        let refuse = |setting, value, expected: &str| {
            let expected = format!("{expected}, in a scheme that is integer_only");
            Err(Error::Setting { model: "scheme", setting, value, expected })
        };
        if let Some((setting, value, expected)) = self.scheme.obstacle() {
            return refuse(setting, value, expected);
        }
        if let (true, Some(path)) = (self.integer_only(), self.spared.first()) {
            return refuse("full precision", path.clone(), "for no layer");
        }
        let met = |above: &str| self.paths.iter().any(|path| lies_below(path, above));
        match self.scheme.full_precision.iter().find(|above| !met(above)) {
            None => Ok(model),
            Some(path) => Err(Error::UnknownPath { path: path.clone(), known: self.paths }),
        }
    }

    /// Notes the layer, and what the scheme makes of it.
    fn choose(&mut self, path: &str, place: Place) -> Choice {
        self.paths.push(path.to_owned());
        let scheme = self.scheme;
        if !scheme.quantizes(path, place, self.ends_full_precision) {
            self.spared.push(path.to_owned());
            return Choice::default();
        }
        Choice {
            kernel_quantizer: scheme.kernel.clone(),
            input_quantizer: scheme.input.clone().filter(|_| place != Place::First),
            input_scaling: scheme.input_scaling && scheme.input.is_some() && place != Place::First,
            gradient_bits: scheme.gradient_bits,
            constraint: scheme.constraint.filter(|_| scheme.kernel.is_some()),
        }
    }
}
