use qnn_layers::{
    Conv2d, Conv2dConfig, Ctx, Dense, DenseConfig, GlobalAveragePool, Init, Initializer, Layer,
    Normalization, PaddingRule, Signal, Within, module, normalize_and_activate, normalize_sum_and_activate,
};

use crate::build::Builder;
use crate::scheme::Place;
use crate::units::forward_all;
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
    stem: Stem,
    blocks: Vec<Block>,
    classifier: Dense,
}

/// The first convolution, with batch norm and activation.
#[derive(Debug)]
struct Stem {
    conv: Conv2d,
    norm: Box<dyn Normalization>,
    activation: Box<dyn Layer>,
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
        let classifier = builder.dense("classifier", Place::Last, classifier)?;
        builder.finish(Self { stem, blocks, classifier })
    }
}

impl Stem {
    fn new(config: &ResNetConfig, builder: &mut Builder<'_>) -> Result<Self> {
        let conv = config.conv(config.in_channels, config.width, 3, 1);
        Ok(Self {
            conv: builder.conv("stem.conv", Place::First, conv)?,
            norm: builder.norm(config.width)?,
            activation: builder.activation()?,
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
        })
    }

    /// The body up to its last batch norm.
    fn convolutions<'t>(&self, cx: &mut Ctx<'t>, x: Signal<'t>) -> Result<Signal<'t>, qnn_layers::Error> {
        let x = self.conv1.forward_measured(cx, x).within("conv1")?;
        let x = normalize_and_activate(cx, x, &self.norm1, &*self.activation1, ["norm1", "activation1"])?;
        self.conv2.forward_measured(cx, x).within("conv2")
    }

    fn around<'t>(&self, cx: &mut Ctx<'t>, x: Signal<'t>) -> Result<Signal<'t>, qnn_layers::Error> {
        let x = self.shortcut.forward(cx, x).within("shortcut")?;
        let x = self.shortcut_norm.forward(cx, x).within("shortcut_norm")?;
        self.pad_zero.forward(cx, x).within("pad_zero")
    }
}

module!(ResNet { stem, blocks, classifier });
module!(Stem { conv, norm, activation });
module!(Block { conv1, norm1, activation1, conv2, norm2, shortcut, shortcut_norm, pad_zero, activation2 });

impl Layer for ResNet {
    fn forward<'t>(&self, cx: &mut Ctx<'t>, x: Signal<'t>) -> Result<Signal<'t>, qnn_layers::Error> {
        let x = self.stem.forward(cx, x).within("stem")?;
        let x = forward_all(&self.blocks, "blocks", cx, x)?;
        let x = GlobalAveragePool.forward(cx, x)?;
        self.classifier.forward(cx, x).within("classifier")
    }
}

impl Layer for Stem {
    fn forward<'t>(&self, cx: &mut Ctx<'t>, x: Signal<'t>) -> Result<Signal<'t>, qnn_layers::Error> {
        let x = self.conv.forward_measured(cx, x).within("conv")?;
        normalize_and_activate(cx, x, &self.norm, &*self.activation, ["norm", "activation"])
    }
}

impl Layer for Block {
    fn forward<'t>(&self, cx: &mut Ctx<'t>, x: Signal<'t>) -> Result<Signal<'t>, qnn_layers::Error> {
        let y = self.convolutions(cx, x)?;
        let (norm, activation, path) = (&self.norm2, &*self.activation2, ["norm2", "activation2"]);
        if self.adds_shortcut {
            return normalize_sum_and_activate(cx, y, norm, |cx| self.around(cx, x), activation, path);
        }
        normalize_and_activate(cx, y, norm, activation, path)
    }
}
