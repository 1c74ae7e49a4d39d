use qnn_layers::{
    Conv2dConfig, Ctx, DenseConfig, Flatten, Init, Initializer, Layer, QuantizeRange, Signal, Within, module,
};

use crate::build::Builder;
use crate::scheme::Place;
use crate::units::{Classifier, ConvUnit, DenseUnit, forward_all};
use crate::{Error, Result, Scheme};

/// What a [`LeNet5`] is made from.
#[derive(Clone, Debug)]
pub struct LeNet5Config {
    /// Height, width and channels of the images, at least 16 × 16.
    pub input: [usize; 3],
    /// How many classes there are.
    pub classes: usize,
    /// How kernels are drawn.
    pub initializer: Initializer,
    /// How the network is quantized; first and last layer are, unless it says otherwise.
    pub scheme: Scheme,
}

/// The LeNet-5 of the ternary weight networks (Li et al. 2016, arXiv:1605.04711, section 3).
///
/// ```text
/// 32C5 – MP2 – 64C5 – MP2 – 512 – classes
/// ```
///
/// Convolutions are not padded; batch norm and activation follow each pool and the first dense
/// layer. Images `[n, h, w, c]` become logits `[n, classes]`.
#[derive(Debug)]
pub struct LeNet5 {
    input: Option<QuantizeRange>,
    features: Vec<ConvUnit>,
    hidden: DenseUnit,
    classifier: Classifier,
}

impl Default for LeNet5Config {
    /// 28 × 28 × 1 images of 10 classes, He-normal, full precision.
    fn default() -> Self {
        let (initializer, scheme) = (Initializer::HeNormal, Scheme::default());
        Self { input: [28, 28, 1], classes: 10, initializer, scheme }
    }
}

impl LeNet5Config {
    /// The values per image after the second pool.
    fn flat(&self) -> Result<usize> {
        let side = |side: usize| side.checked_sub(4).map(|side| side / 2);
        let [height, width, _] = self.input;
        let size = |input| side(input).and_then(side).filter(|&side| side > 0);
        match (size(height), size(width)) {
            (Some(height), Some(width)) => height.checked_mul(width).and_then(|area| area.checked_mul(64)),
            _ => None,
        }
        .ok_or_else(|| Error::Setting {
            model: "lenet5",
            setting: "input",
            value: format!("{:?}", self.input),
            expected: "at least 16 × 16 pixels".to_owned(),
        })
    }
}

impl LeNet5 {
    /// A network with first values from `init`.
    ///
    /// # Errors
    ///
    /// [`Error::Setting`] for images below 16 × 16, [`Error::Layer`] for zero channels or classes,
    /// [`Error::UnknownPath`] for layers that do not exist.
    pub fn new(config: &LeNet5Config, init: &mut Init) -> Result<Self> {
        let mut builder = Builder::new(&config.scheme, config.initializer, false, init);
        let (b, flat) = (&mut builder, config.flat()?);
        let first = Conv2dConfig::new(config.input[2], 32, 5);
        let features = vec![
            ConvUnit::new(b, "features.0", Place::First, first, true)?,
            ConvUnit::new(b, "features.1", Place::Inner, Conv2dConfig::new(32, 64, 5), true)?,
        ];
        let hidden = DenseUnit::new(b, "hidden", Place::Inner, DenseConfig::new(flat, 512), true)?;
        let classifier = Classifier::new(b, Place::Last, DenseConfig::new(512, config.classes))?;
        let input = builder.range()?;
        builder.finish(Self { input, features, hidden, classifier })
    }
}

module!(LeNet5 { input, features, hidden, classifier });

impl Layer for LeNet5 {
    fn forward<'t>(&self, cx: &mut Ctx<'t>, x: Signal<'t>) -> Result<Signal<'t>, qnn_layers::Error> {
        let x = self.input.forward(cx, x).within("input")?;
        let x = forward_all(&self.features, "features", cx, x)?;
        let x = Flatten.forward(cx, x)?;
        let x = self.hidden.forward(cx, x).within("hidden")?;
        self.classifier.forward(cx, x).within("classifier")
    }
}
