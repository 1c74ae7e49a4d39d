use qnn_layers::{
    Ctx, DenseConfig, Flatten, Init, Initializer, Layer, QuantizeRange, Signal, Within, module,
};

use crate::build::Builder;
use crate::scheme::Place;
use crate::units::{Classifier, ConvUnit, DenseUnit, forward_all};
use crate::vgg7::{features, flat};
use crate::{Result, Scheme};

/// What a [`BnnCnn`] is made from.
#[derive(Clone, Debug)]
pub struct BnnCnnConfig {
    /// Height, width and channels of the images, at least 8 × 8.
    pub input: [usize; 3],
    /// How many classes there are.
    pub classes: usize,
    /// Filters of the first two convolutions; the next two have twice, the last two four times as
    /// many.
    pub width: usize,
    /// Outputs of each of the two hidden dense layers.
    pub hidden: usize,
    /// Whether batch norm follows the last layer, too: see [`MlpConfig::output_norm`](crate::MlpConfig::output_norm).
    pub output_norm: bool,
    /// How kernels are drawn.
    pub initializer: Initializer,
    /// How the network is quantized; first and last layer are, unless it says otherwise.
    pub scheme: Scheme,
}

/// The convolutional network of the BNN paper (Courbariaux et al. 2016, arXiv:1602.02830, section 2.2).
///
/// ```text
/// 2 × 128C3 – MP2 – 2 × 256C3 – MP2 – 2 × 512C3 – MP2 – 1024 – 1024 – classes
/// ```
///
/// [`Vgg7`](crate::Vgg7) with a second hidden dense layer: `same` padding, batch norm and activation
/// after each convolution (behind the pool, where there is one) and each hidden layer. Images
/// `[n, h, w, c]` become logits `[n, classes]`.
#[derive(Debug)]
pub struct BnnCnn {
    input: Option<QuantizeRange>,
    features: Vec<ConvUnit>,
    hidden: Vec<DenseUnit>,
    classifier: Classifier,
}

impl Default for BnnCnnConfig {
    /// 32 × 32 × 3 images of 10 classes, widths 128 and 1024, Glorot-uniform, full precision.
    fn default() -> Self {
        Self {
            input: [32, 32, 3],
            classes: 10,
            width: 128,
            hidden: 1024,
            output_norm: false,
            initializer: Initializer::GlorotUniform,
            scheme: Scheme::default(),
        }
    }
}

impl BnnCnn {
    /// A network with first values from `init`.
    ///
    /// # Errors
    ///
    /// [`Error::Setting`](crate::Error::Setting) for images below 8 × 8, [`Error::Layer`](crate::Error::Layer)
    /// for zero channels, widths or classes, [`Error::UnknownPath`](crate::Error::UnknownPath) for layers
    /// that do not exist.
    pub fn new(config: &BnnCnnConfig, init: &mut Init) -> Result<Self> {
        let mut builder = Builder::new(&config.scheme, config.initializer, false, init);
        let flat = flat("bnn_cnn", config.input, config.width)?;
        let features = features(config.input[2], config.width, &mut builder)?;
        let mut hidden = |i: usize, inputs| {
            let dense = DenseConfig::new(inputs, config.hidden);
            DenseUnit::new(&mut builder, &format!("hidden.{i}"), Place::Inner, dense, true)
        };
        let hidden = vec![hidden(0, flat)?, hidden(1, config.hidden)?];
        let classifier = DenseConfig::new(config.hidden, config.classes);
        let classifier = Classifier::normalized(&mut builder, Place::Last, classifier, config.output_norm)?;
        let input = builder.range()?;
        builder.finish(Self { input, features, hidden, classifier })
    }
}

module!(BnnCnn { input, features, hidden, classifier });

impl Layer for BnnCnn {
    fn forward<'t>(&self, cx: &mut Ctx<'t>, x: Signal<'t>) -> Result<Signal<'t>, qnn_layers::Error> {
        let x = self.input.forward(cx, x).within("input")?;
        let x = forward_all(&self.features, "features", cx, x)?;
        let x = Flatten.forward(cx, x)?;
        let x = forward_all(&self.hidden, "hidden", cx, x)?;
        self.classifier.forward(cx, x).within("classifier")
    }
}
