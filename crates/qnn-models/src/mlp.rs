use qnn_layers::{
    Ctx, DenseConfig, Dropout, Flatten, Init, Initializer, Layer, Leaf, LeafMut, Module, Path, QuantizeRange,
    Signal, Within, module,
};

use crate::build::Builder;
use crate::scheme::Place;
use crate::units::{Classifier, DenseUnit, forward_all};
use crate::{Error, Result, Scheme};

/// What an [`Mlp`] is made from.
#[derive(Clone, Debug)]
pub struct MlpConfig {
    /// Values per image.
    pub in_features: usize,
    /// Outputs of the hidden layers.
    pub hidden: Vec<usize>,
    /// How many classes there are.
    pub classes: usize,
    /// The dropout rate in front of each dense layer, the last one included.
    pub dropout: Vec<f32>,
    /// Whether batch norm follows the hidden layers.
    pub batch_norm: bool,
    /// Whether it follows the last layer, too, as in the published code of the BNN paper's authors. Where that layer is
    /// quantized, its sums are large integers, on which a hinge or a softmax is all or nothing; batch norm brings them to
    /// a scale that a loss can be taken of.
    pub output_norm: bool,
    /// How kernels are drawn.
    pub initializer: Initializer,
    /// How the network is quantized; first and last layer are, unless it says otherwise.
    pub scheme: Scheme,
}

/// A multilayer perceptron.
///
/// ```text
/// (dropout – dense – batch norm – activation) × hidden layers – dropout – dense (– batch norm)
/// ```
///
/// Images `[n, ..]` are flattened and become logits `[n, classes]`.
#[derive(Debug)]
pub struct Mlp {
    input: Option<QuantizeRange>,
    hidden: Vec<Hidden>,
    dropout: Dropout,
    classifier: Classifier,
}

#[derive(Debug)]
struct Hidden {
    dropout: Dropout,
    unit: DenseUnit,
}

impl MlpConfig {
    /// Hidden layers of these widths without dropout, with batch norm, He-normal, full precision.
    pub fn new(in_features: usize, hidden: &[usize], classes: usize) -> Self {
        Self {
            in_features,
            hidden: hidden.to_vec(),
            classes,
            dropout: vec![0.0; hidden.len() + 1],
            batch_norm: true,
            output_norm: false,
            initializer: Initializer::HeNormal,
            scheme: Scheme::default(),
        }
    }

    /// The "TinyModel" of the UCSD report: 1024 – 2048 – 2048 – dropout 0.5 – 10, for images of
    /// 32 × 32.
    pub fn tiny() -> Self {
        Self { dropout: vec![0.0, 0.0, 0.5], ..Self::new(1024, &[2048, 2048], 10) }
    }

    /// The network of Courbariaux et al. 2016 (arXiv:1602.02830, section 2.1) for MNIST: three
    /// hidden layers of a width (4096 in the paper) with dropout, at the rates of the authors'
    /// published code: 0.2 on the image, 0.5 on hidden layers.
    pub fn mlp3(width: usize) -> Self {
        Self { dropout: vec![0.2, 0.5, 0.5, 0.5], ..Self::new(784, &[width; 3], 10) }
    }
}

impl MlpConfig {
    /// The rate in front of the last layer and those in front of the others.
    fn dropout_rates(&self) -> Result<(f32, &[f32])> {
        match self.dropout.split_last() {
            Some((&last, rates)) if rates.len() == self.hidden.len() => Ok((last, rates)),
            _ => Err(Error::Setting {
                model: "mlp",
                setting: "dropout",
                value: format!("{:?}", self.dropout),
                expected: format!("{} rates, one per dense layer", self.hidden.len() + 1),
            }),
        }
    }
}

impl Mlp {
    /// A network with first values from `init`.
    ///
    /// # Errors
    ///
    /// [`Error::Setting`] unless there is one dropout rate per dense layer, [`Error::Layer`] for a
    /// rate outside of [0, 1) or a zero size, [`Error::UnknownPath`] for layers that do not exist.
    pub fn new(config: &MlpConfig, init: &mut Init) -> Result<Self> {
        let (last, rates) = config.dropout_rates()?;
        let mut builder = Builder::new(&config.scheme, config.initializer, false, init);
        let hidden = hidden(config, rates, &mut builder)?;
        let features = config.hidden.last().unwrap_or(&config.in_features);
        let classifier = DenseConfig::new(*features, config.classes);
        // A layer that is both is the first one, unless it is to be spared as the last.
        let spared = config.scheme.last_full_precision == Some(true);
        let place = if hidden.is_empty() && !spared { Place::First } else { Place::Last };
        let classifier = Classifier::normalized(&mut builder, place, classifier, config.output_norm)?;
        let input = builder.range()?;
        builder.finish(Self { input, hidden, dropout: Dropout::new(last)?, classifier })
    }
}

fn hidden(config: &MlpConfig, rates: &[f32], builder: &mut Builder<'_>) -> Result<Vec<Hidden>> {
    let inputs = std::iter::once(&config.in_features).chain(&config.hidden);
    let sizes = inputs.zip(&config.hidden).zip(rates).enumerate();
    sizes
        .map(|(i, ((&inputs, &outputs), &rate))| {
            let (path, dense) = (format!("hidden.{i}"), DenseConfig::new(inputs, outputs));
            let place = if i == 0 { Place::First } else { Place::Inner };
            let unit = DenseUnit::new(builder, &path, place, dense, config.batch_norm)?;
            Ok(Hidden { dropout: Dropout::new(rate)?, unit })
        })
        .collect()
}

module!(Mlp { input, hidden, dropout, classifier });

impl Layer for Mlp {
    fn forward<'t>(&self, cx: &mut Ctx<'t>, x: Signal<'t>) -> Result<Signal<'t>, qnn_layers::Error> {
        let x = self.input.forward(cx, x).within("input")?;
        let x = Flatten.forward(cx, x)?;
        let x = forward_all(&self.hidden, "hidden", cx, x)?;
        let x = self.dropout.forward(cx, x)?;
        self.classifier.forward(cx, x).within("classifier")
    }
}

/// The unit's layers are named as if they stood directly in the list.
impl Module for Hidden {
    fn visit<'a>(&'a self, at: &mut Path, f: &mut dyn FnMut(&Path, Leaf<'a>)) {
        self.unit.visit(at, f);
    }

    fn visit_mut(&mut self, at: &mut Path, f: &mut dyn FnMut(&Path, LeafMut<'_>)) {
        self.unit.visit_mut(at, f);
    }
}

impl Layer for Hidden {
    fn forward<'t>(&self, cx: &mut Ctx<'t>, x: Signal<'t>) -> Result<Signal<'t>, qnn_layers::Error> {
        let x = self.dropout.forward(cx, x)?;
        self.unit.forward(cx, x)
    }
}
