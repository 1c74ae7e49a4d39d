use qnn_layers::{
    Conv2dConfig, Ctx, DenseConfig, Flatten, Init, Initializer, Layer, PaddingRule, QuantizeRange, Signal,
    Within, module,
};

use crate::build::Builder;
use crate::scheme::Place;
use crate::units::{Classifier, ConvUnit, DenseUnit, forward_all};
use crate::{Error, Result, Scheme};

/// What a [`Vgg7`] is made from.
#[derive(Clone, Debug)]
pub struct Vgg7Config {
    /// Height, width and channels of the images, at least 8 × 8.
    pub input: [usize; 3],
    /// How many classes there are.
    pub classes: usize,
    /// Filters of the first two convolutions; the next two have twice, the last two four times as
    /// many.
    pub width: usize,
    /// Outputs of the first dense layer.
    pub hidden: usize,
    /// How kernels are drawn.
    pub initializer: Initializer,
    /// How the network is quantized; first and last layer are, unless it says otherwise.
    pub scheme: Scheme,
}

/// The VGG-7 of the ternary weight networks (Li et al. 2016, arXiv:1605.04711, section 3).
///
/// ```text
/// 2 × 128C3 – MP2 – 2 × 256C3 – MP2 – 2 × 512C3 – MP2 – 1024 – classes
/// ```
///
/// Convolutions have `same` padding; batch norm and activation follow each convolution (behind the
/// pool, where there is one) and the first dense layer. Images `[n, h, w, c]` become logits
/// `[n, classes]`.
#[derive(Debug)]
pub struct Vgg7 {
    input: Option<QuantizeRange>,
    features: Vec<ConvUnit>,
    hidden: DenseUnit,
    classifier: Classifier,
}

impl Default for Vgg7Config {
    /// 32 × 32 × 3 images of 10 classes, widths 128 and 1024, He-normal, full precision.
    fn default() -> Self {
        Self {
            input: [32, 32, 3],
            classes: 10,
            width: 128,
            hidden: 1024,
            initializer: Initializer::HeNormal,
            scheme: Scheme::default(),
        }
    }
}

impl Vgg7 {
    /// A network with first values from `init`.
    ///
    /// # Errors
    ///
    /// [`Error::Setting`] for images below 8 × 8, [`Error::Layer`] for zero channels, widths or
    /// classes, [`Error::UnknownPath`] for layers that do not exist.
    pub fn new(config: &Vgg7Config, init: &mut Init) -> Result<Self> {
        let mut builder = Builder::new(&config.scheme, config.initializer, false, init);
        let flat = flat("vgg7", config.input, config.width)?;
        let features = features(config.input[2], config.width, &mut builder)?;
        let hidden = DenseConfig::new(flat, config.hidden);
        let hidden = DenseUnit::new(&mut builder, "hidden", Place::Inner, hidden, true)?;
        let classifier = DenseConfig::new(config.hidden, config.classes);
        let classifier = Classifier::new(&mut builder, Place::Last, classifier)?;
        let input = builder.range()?;
        builder.finish(Self { input, features, hidden, classifier })
    }
}

/// The values per image after the last pool of [`features`].
pub(crate) fn flat(model: &'static str, input: [usize; 3], width: usize) -> Result<usize> {
    let setting = |setting, value: String, expected: &str| {
        Err(Error::Setting { model, setting, value, expected: expected.to_owned() })
    };
    let [height, image_width, _] = input;
    if height < 8 || image_width < 8 {
        return setting("input", format!("{input:?}"), "at least 8 × 8 pixels");
    }
    let flat =
        (height / 8).checked_mul(image_width / 8).and_then(|area| area.checked_mul(4)?.checked_mul(width));
    flat.map_or_else(|| setting("width", width.to_string(), "smaller"), Ok)
}

/// Pairs of convolutions with `width`, twice and four times as many filters, a pool after each pair.
pub(crate) fn features(channels: usize, width: usize, builder: &mut Builder<'_>) -> Result<Vec<ConvUnit>> {
    let mut in_channels = channels;
    let units = (0..6).map(|i| {
        let out_channels = width << (i / 2);
        let conv =
            Conv2dConfig { padding: PaddingRule::Same, ..Conv2dConfig::new(in_channels, out_channels, 3) };
        in_channels = out_channels;
        let place = if i == 0 { Place::First } else { Place::Inner };
        ConvUnit::new(builder, &format!("features.{i}"), place, conv, i % 2 == 1)
    });
    units.collect()
}

module!(Vgg7 { input, features, hidden, classifier });

impl Layer for Vgg7 {
    fn forward<'t>(&self, cx: &mut Ctx<'t>, x: Signal<'t>) -> Result<Signal<'t>, qnn_layers::Error> {
        let x = self.input.forward(cx, x).within("input")?;
        let x = forward_all(&self.features, "features", cx, x)?;
        let x = Flatten.forward(cx, x)?;
        let x = self.hidden.forward(cx, x).within("hidden")?;
        self.classifier.forward(cx, x).within("classifier")
    }
}
