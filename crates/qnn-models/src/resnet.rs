use qnn_layers::{
    Conv2d, Conv2dConfig, Ctx, DenseConfig, GlobalAveragePool, Init, Initializer, IntegerUnit, Layer,
    Normalization, NormalizedConv2d, PaddingRule, QuantizeRange, Signal, UnitOutput, Within,
    average_in_range, module, sum_and_activate,
};

use crate::build::Builder;
use crate::scheme::Place;
use crate::units::{Classifier, forward_all};
use crate::{Error, PadZero, Result, Scheme};

/// The most blocks per stage: 6,002 layers, five times as deep as anything published.
pub(crate) const MAX_BLOCKS: usize = 1000;

/// What a shortcut does where image size and channels change. Elsewhere it is the identity.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Shortcut {
    /// A 1×1 convolution with bias and *without* batch norm, as in Keras' CIFAR ResNet.
    #[default]
    Projection,
    /// A 1×1 convolution with batch norm: option B of He et al. 2016.
    ProjectionNorm,
    /// Every second pixel, and channels of zeros: option A of He et al. 2016; see [`PadZero`].
    PadZero,
    /// There is no shortcut.
    None,
}

/// What a [`ResNet`] is made from.
#[derive(Clone, Debug)]
pub struct ResNetConfig {
    /// Blocks per stage, n: the network has 6n + 2 layers.
    pub blocks_per_stage: usize,
    /// What shortcuts do where sizes change.
    pub shortcut: Shortcut,
    /// How many classes there are.
    pub classes: usize,
    /// Channels of the images.
    pub in_channels: usize,
    /// Channels of the first stage; the second has twice, the third four times as many.
    pub width: usize,
    /// Whether convolutions have biases.
    pub conv_bias: bool,
    /// How kernels are drawn.
    pub initializer: Initializer,
    /// How the network is quantized; first and last layer are not, unless it says otherwise.
    pub scheme: Scheme,
}

/// The residual network of He et al. 2016 for CIFAR (arXiv:1512.03385, section 4.2).
///
/// ```text
/// 16C3 – n × block(16) – n × block(32, first stride 2) – n × block(64, first stride 2)
///      – global average pool – classes
///
/// block:  act( norm2(conv2( act(norm1(conv1(x))) )) + shortcut(x) )
/// ```
///
/// The shortcut carries what the activation gave, and the sum goes through the activation again.
/// Images `[n, h, w, c]` become logits `[n, classes]`.
///
/// ```
/// use qnn_layers::{Ctx, Init, Layer, Mode};
/// use qnn_models::{ResNet, ResNetConfig, Scheme};
/// use qnn_tensor::{Tape, Tensor};
///
/// let config = ResNetConfig { scheme: Scheme::preset("bc-1.2")?, width: 4, ..ResNetConfig::from_depth(8)? };
/// let model = ResNet::new(&config, &mut Init::new(0))?;
/// let tape = Tape::new();
/// let mut cx = Ctx::new(&tape, Mode::Eval, 0, 0);
/// let images = tape.constant(Tensor::zeros(&[2, 16, 16, 3]));
/// assert_eq!(model.forward(&mut cx, images.into())?.shape(), [2, 10]);
/// # Ok::<(), qnn_models::Error>(())
/// ```
#[derive(Debug)]
pub struct ResNet {
    input: Option<QuantizeRange>,
    stem: Stem,
    blocks: Vec<Block>,
    pooled: Option<QuantizeRange>,
    classifier: Classifier,
}

/// The first convolution, with batch norm and activation.
#[derive(Debug)]
struct Stem {
    conv: Conv2d,
    norm: Box<dyn Normalization>,
    activation: Box<dyn Layer>,
    integer_only: bool,
}

/// Two convolutions and the way around them.
#[derive(Debug)]
struct Block {
    conv1: Conv2d,
    norm1: Box<dyn Normalization>,
    activation1: Box<dyn Layer>,
    conv2: Conv2d,
    norm2: Box<dyn Normalization>,
    shortcut: Option<Conv2d>,
    shortcut_norm: Option<Box<dyn Normalization>>,
    pad_zero: Option<PadZero>,
    /// False if there is no way around.
    adds_shortcut: bool,
    activation2: Box<dyn Layer>,
    /// In networks of integers alone.
    ranges: Option<Ranges>,
}

/// The ranges of the terms of a block's sum.
#[derive(Debug)]
struct Ranges {
    body: Option<QuantizeRange>,
    shortcut: Option<QuantizeRange>,
}

/// The sizes of one block.
#[derive(Clone, Copy)]
struct BlockPlan {
    in_channels: usize,
    out_channels: usize,
    stride: usize,
}

impl ResNetConfig {
    /// n blocks per stage: projections, 10 classes, RGB, width 16, biases, He-normal, full
    /// precision.
    pub fn new(blocks_per_stage: usize) -> Self {
        Self {
            blocks_per_stage,
            shortcut: Shortcut::Projection,
            classes: 10,
            in_channels: 3,
            width: 16,
            conv_bias: true,
            initializer: Initializer::HeNormal,
            scheme: Scheme::default(),
        }
    }

    /// A network of 6n + 2 layers.
    ///
    /// # Errors
    ///
    /// [`Error::Depth`] if the depth is not of this form.
    pub fn from_depth(depth: usize) -> Result<Self> {
        let blocks = depth.saturating_sub(2) / 6;
        if depth < 8 || !(depth - 2).is_multiple_of(6) || blocks > MAX_BLOCKS {
            return Err(Error::Depth { depth });
        }
        Ok(Self::new(blocks))
    }

    fn check(&self) -> Result<()> {
        let setting = |setting, value: usize, expected: String| {
            Err(Error::Setting { model: "resnet", setting, value: value.to_string(), expected })
        };
        if !(1..=MAX_BLOCKS).contains(&self.blocks_per_stage) {
            return setting("blocks_per_stage", self.blocks_per_stage, format!("from 1 to {MAX_BLOCKS}"));
        }
        if self.width.checked_mul(4).is_none() {
            return setting("width", self.width, "smaller".to_owned());
        }
        Ok(())
    }

    fn plan(&self) -> impl Iterator<Item = BlockPlan> {
        let (n, width) = (self.blocks_per_stage, self.width);
        (0..3 * n).map(move |i| {
            let out_channels = width << (i / n);
            let grows = i > 0 && i % n == 0;
            let in_channels = if grows { out_channels / 2 } else { out_channels };
            BlockPlan { in_channels, out_channels, stride: if grows { 2 } else { 1 } }
        })
    }

    fn conv(&self, in_channels: usize, out_channels: usize, kernel: usize, stride: usize) -> Conv2dConfig {
        let (padding, bias) = (PaddingRule::Same, self.conv_bias);
        Conv2dConfig { stride, padding, bias, ..Conv2dConfig::new(in_channels, out_channels, kernel) }
    }
}

impl ResNet {
    /// A network with first values from `init`.
    ///
    /// # Errors
    ///
    /// [`Error::Setting`] for no blocks or too many, [`Error::Layer`] for zero channels, width or
    /// classes, [`Error::UnknownPath`] for layers that do not exist.
    pub fn new(config: &ResNetConfig, init: &mut Init) -> Result<Self> {
        config.check()?;
        let mut builder = Builder::new(&config.scheme, config.initializer, true, init);
        let stem = Stem::new(config, &mut builder)?;
        let blocks = config.plan().enumerate().map(|(i, plan)| Block::new(config, &mut builder, i, plan));
        let blocks = blocks.collect::<Result<_>>()?;
        let classifier = DenseConfig::new(4 * config.width, config.classes);
        let classifier = Classifier::new(&mut builder, Place::Last, classifier)?;
        let (input, pooled) = (builder.range()?, builder.range()?);
        builder.finish(Self { input, stem, blocks, pooled, classifier })
    }
}

impl Stem {
    fn new(config: &ResNetConfig, builder: &mut Builder<'_>) -> Result<Self> {
        let conv = config.conv(config.in_channels, config.width, 3, 1);
        Ok(Self {
            conv: builder.conv("stem.conv", Place::First, conv)?,
            norm: builder.norm(config.width)?,
            activation: builder.activation()?,
            integer_only: builder.integer_only(),
        })
    }
}

impl Block {
    fn new(config: &ResNetConfig, builder: &mut Builder<'_>, number: usize, plan: BlockPlan) -> Result<Self> {
        let BlockPlan { in_channels, out_channels, stride } = plan;
        let path = |name| format!("blocks.{number}.{name}");
        let shape = |shortcut| stride > 1 && config.shortcut == shortcut;
        let projects = shape(Shortcut::Projection) || shape(Shortcut::ProjectionNorm);
        let conv1 = config.conv(in_channels, out_channels, 3, stride);
        let conv2 = config.conv(out_channels, out_channels, 3, 1);
        let projection = config.conv(in_channels, out_channels, 1, stride);
        let mut conv = |name, place, config| builder.conv(&path(name), place, config);
        Ok(Self {
            conv1: conv("conv1", Place::Inner, conv1)?,
            conv2: conv("conv2", Place::Inner, conv2)?,
            shortcut: projects.then(|| conv("shortcut", Place::Projection, projection)).transpose()?,
            norm1: builder.norm(out_channels)?,
            activation1: builder.activation()?,
            norm2: builder.norm(out_channels)?,
            shortcut_norm: shape(Shortcut::ProjectionNorm).then(|| builder.norm(out_channels)).transpose()?,
            pad_zero: shape(Shortcut::PadZero).then_some(PadZero { stride, channels: out_channels }),
            adds_shortcut: !shape(Shortcut::None),
            activation2: builder.activation()?,
            ranges: builder
                .integer_only()
                .then(|| Ranges::new(builder, [!shape(Shortcut::None), projects]))
                .transpose()?,
        })
    }

    /// The two convolutions with what follows them.
    fn convolutions(&self) -> [NormalizedConv2d<'_>; 2] {
        let (norm, activation) = (&self.norm1, &*self.activation1);
        let first = NormalizedConv2d {
            conv: &self.conv1,
            norm,
            activation,
            names: ["conv1", "norm1", "activation1"],
        };
        let (norm, activation) = (&self.norm2, &*self.activation2);
        let second = NormalizedConv2d {
            conv: &self.conv2,
            norm,
            activation,
            names: ["conv2", "norm2", "activation2"],
        };
        [first, second]
    }

    /// The block of a network of integers alone.
    fn in_ranges<'t>(
        &self,
        ranges: &Ranges,
        cx: &mut Ctx<'t>,
        x: Signal<'t>,
    ) -> Result<Signal<'t>, qnn_layers::Error> {
        let conv1 = IntegerUnit::activated(&self.conv1, &self.activation1)?.folding(Some(&self.norm1))?;
        let y = conv1.forward(cx, x).within("conv1")?;
        let Some(body) = &ranges.body else {
            let conv2 = IntegerUnit::activated(&self.conv2, &self.activation2)?.folding(Some(&self.norm2))?;
            return conv2.forward(cx, y).within("conv2");
        };
        let y = term(&self.conv2, Some(&self.norm2), body)?.forward(cx, y).within("conv2")?;
        let around = match (&self.shortcut, &ranges.shortcut) {
            (Some(conv), Some(range)) => {
                let norm = self.shortcut_norm.as_ref().map(|norm| norm as &dyn Normalization);
                term(conv, norm, range)?.forward(cx, x).within("shortcut")?
            }
            _ => self.pad_zero.forward(cx, x).within("pad_zero")?,
        };
        sum_and_activate(cx, y, around, &*self.activation2).within("activation2")
    }

    fn around<'t>(&self, cx: &mut Ctx<'t>, x: Signal<'t>) -> Result<Signal<'t>, qnn_layers::Error> {
        let x = self.shortcut.forward(cx, x).within("shortcut")?;
        let x = self.shortcut_norm.forward(cx, x).within("shortcut_norm")?;
        self.pad_zero.forward(cx, x).within("pad_zero")
    }
}

impl Ranges {
    /// For a body that is a term, and a shortcut that is a convolution.
    fn new(builder: &Builder<'_>, [body, shortcut]: [bool; 2]) -> Result<Self> {
        let range = |exists: bool| if exists { builder.range() } else { Ok(None) };
        Ok(Self { body: range(body)?, shortcut: range(shortcut)? })
    }
}

/// A convolution and its batch norm as a term of a sum, or in front of an activation.
fn term<'a>(
    conv: &'a Conv2d,
    norm: Option<&'a dyn Normalization>,
    range: &'a QuantizeRange,
) -> Result<IntegerUnit<'a>, qnn_layers::Error> {
    IntegerUnit::new(conv, UnitOutput::Codes { range, relu: false }).folding(norm)
}

module!(ResNet { input, stem, blocks, pooled, classifier });
module!(Stem { conv, norm, activation });
module!(Block {
    conv1,
    norm1,
    activation1,
    conv2,
    norm2,
    shortcut,
    shortcut_norm,
    pad_zero,
    activation2,
    ranges,
});
module!(Ranges { body, shortcut });

impl Layer for ResNet {
    fn forward<'t>(&self, cx: &mut Ctx<'t>, x: Signal<'t>) -> Result<Signal<'t>, qnn_layers::Error> {
        let x = self.input.forward(cx, x).within("input")?;
        let x = self.stem.forward(cx, x).within("stem")?;
        let x = forward_all(&self.blocks, "blocks", cx, x)?;
        let x = match &self.pooled {
            Some(range) => average_in_range(cx, x, range).within("pooled")?,
            None => GlobalAveragePool.forward(cx, x)?,
        };
        self.classifier.forward(cx, x).within("classifier")
    }
}

impl Layer for Stem {
    fn forward<'t>(&self, cx: &mut Ctx<'t>, x: Signal<'t>) -> Result<Signal<'t>, qnn_layers::Error> {
        if self.integer_only {
            let unit = IntegerUnit::activated(&self.conv, &self.activation)?.folding(Some(&self.norm))?;
            return unit.forward(cx, x).within("conv");
        }
        let Self { conv, norm, activation, .. } = self;
        let names = ["conv", "norm", "activation"];
        NormalizedConv2d { conv, norm, activation: &**activation, names }.forward(cx, x)
    }
}

impl Layer for Block {
    fn forward<'t>(&self, cx: &mut Ctx<'t>, x: Signal<'t>) -> Result<Signal<'t>, qnn_layers::Error> {
        if let Some(ranges) = &self.ranges {
            return self.in_ranges(ranges, cx, x);
        }
        let [first, second] = self.convolutions();
        let y = first.forward(cx, x)?;
        if self.adds_shortcut {
            return second.forward_with_shortcut(cx, y, |cx| self.around(cx, x));
        }
        second.forward(cx, y)
    }
}
