use qnn_quant::Pair;
use qnn_tensor::ops::{
    Conv2dOptions, ConvEnd, Factors, Gate, conv2d_factored, conv2d_measured, conv2d_normalized,
};
use qnn_tensor::{Algorithm, Var};

use crate::input_scale::{check_input_scaling, pixel_scales, scaled};
use crate::operands::{Operands, Weights, check_positive, new_bias, new_kernel};
use crate::slot::Slot;
use crate::{
    Constraint, Ctx, Error, Init, Initializer, Layer, Op, PaddingRule, Param, Product, QuantizeGradient,
    Signal, module,
};

const LAYER: &str = "conv2d";

/// What a [`Conv2d`] is made from.
#[derive(Clone, Debug)]
pub struct Conv2dConfig {
    /// Channels of the input.
    pub in_channels: usize,
    /// Channels of the output, the number of filters.
    pub out_channels: usize,
    /// Height and width of a filter.
    pub kernel: [usize; 2],
    /// The step in rows and columns.
    pub stride: usize,
    /// What surrounds the input.
    pub padding: PaddingRule,
    /// What the padding holds, in the units of the input's codes: 0, 1 or −1.
    pub pad_value: f32,
    /// The number of groups that input and output channels are divided into.
    pub groups: usize,
    /// How outputs are made with a kernel that has no codes; layers that fold a norm into their convolution do without. Codes are summed
    /// directly, and in an evaluation exactly, up to sums of 2³¹.
    pub algorithm: Algorithm,
    /// Whether a bias per output channel is added.
    pub bias: bool,
    /// How the kernel's first value is drawn; a bias starts with zeros.
    pub initializer: Initializer,
    /// What stands between the latent kernel and the product.
    pub kernel_quantizer: Option<Pair>,
    /// What the input goes through before the product.
    pub input_quantizer: Option<Pair>,
    /// The learning rate factor of the quantizers' trained parameters.
    pub quantizer_rate: f32,
    /// Whether outputs are multiplied by the mean magnitude of the inputs that they were made of, as
    /// in XNOR-Net; see [`Conv2d`]. It needs an input quantizer.
    pub input_scaling: bool,
    /// Bits of the gradient that comes back to the output; see [`QuantizeGradient`](crate::QuantizeGradient).
    pub gradient_bits: Option<u32>,
    /// What must hold of the kernel after each update.
    pub constraint: Option<Constraint>,
}

/// A two-dimensional convolution, with quantizers or without.
///
/// ```text
/// y[n, i, j, o] = s_x · s_o · Σ x[n, i·stride + p − top, j·stride + q − left, c] · w[p, q, c, o] + b[o]
/// ```
///
/// x and w are codes where there are quantizers, with the scales s; otherwise values, with s = 1.
/// With `input_scaling` the scale s_x is one for each pixel of the output, held constant by the gradient:
/// the mean of |x| over the channels, averaged over the pixels that the kernel covers. That is the
/// map K of Rastegari et al. 2016, arXiv:1603.05279, section 3.2, eq. (11).
///
/// Shapes: input `[n, h, w, in]`, kernel `[kh, kw, in / groups, out]`, output `[n, h', w', out]`.
///
/// ```
/// use qnn_layers::{Conv2d, Conv2dConfig, Constraint, Init, PaddingRule};
/// use qnn_quant::{Pair, Sign};
///
/// let conv = Conv2d::new(
///     &Conv2dConfig {
///         stride: 2,
///         padding: PaddingRule::Same,
///         kernel_quantizer: Some(Pair::published(Sign)),
///         constraint: Some(Constraint::Clip { limit: 1.0 }),
///         ..Conv2dConfig::new(16, 32, 3)
///     },
///     &mut Init::new(0),
/// )?;
/// assert_eq!(conv.kernel().value().shape(), [3, 3, 16, 32]);
/// assert!(conv.kernel().is_latent());
/// # Ok::<(), qnn_layers::Error>(())
/// ```
#[derive(Debug)]
pub struct Conv2d {
    config: Conv2dConfig,
    kernel: Param,
    bias: Option<Param>,
    kernel_quantizer: Option<Slot>,
    input_quantizer: Option<Slot>,
    gradient_quantizer: Option<QuantizeGradient>,
}

impl Conv2dConfig {
    /// Square filters at stride 1 without padding, with bias, He-normal, nothing quantized, by Winograd's algorithm where it can be.
    pub fn new(in_channels: usize, out_channels: usize, kernel: usize) -> Self {
        Self {
            in_channels,
            out_channels,
            kernel: [kernel, kernel],
            stride: 1,
            padding: PaddingRule::Valid,
            pad_value: 0.0,
            groups: 1,
            algorithm: Algorithm::Winograd,
            bias: true,
            initializer: Initializer::HeNormal,
            kernel_quantizer: None,
            input_quantizer: None,
            quantizer_rate: 1.0,
            input_scaling: false,
            gradient_bits: None,
            constraint: None,
        }
    }

    fn check(&self) -> Result<(), Error> {
        let Self { in_channels, out_channels, kernel: [height, width], stride, groups, .. } = *self;
        check_positive(
            LAYER,
            &[
                ("in_channels", in_channels),
                ("out_channels", out_channels),
                ("kernel height", height),
                ("kernel width", width),
                ("stride", stride),
                ("groups", groups),
            ],
        )?;
        let setting =
            |setting, value: String, expected| Err(Error::Setting { layer: LAYER, setting, value, expected });
        if !in_channels.is_multiple_of(groups) || !out_channels.is_multiple_of(groups) {
            let expected = format!("a divisor of {in_channels} input and {out_channels} output channels");
            return setting("groups", groups.to_string(), expected);
        }
        check_input_scaling(LAYER, self.input_scaling, self.input_quantizer.as_ref())?;
        if ![0.0, 1.0, -1.0].contains(&self.pad_value) {
            return setting("pad_value", self.pad_value.to_string(), "0, 1 or −1".to_owned());
        }
        Ok(())
    }
}

impl Conv2d {
    /// A convolution with first values from `init`.
    ///
    /// # Errors
    ///
    /// [`Error::Setting`] if a size is zero, the groups do not divide the channels or the pad value
    /// is none of 0 and ±1; [`Error::Size`] if the kernel is too large.
    pub fn new(config: &Conv2dConfig, init: &mut Init) -> Result<Self, Error> {
        config.check()?;
        let [height, width] = config.kernel;
        let shape = [height, width, config.in_channels / config.groups, config.out_channels];
        let quantizer = config.kernel_quantizer.as_ref();
        let kernel = new_kernel(LAYER, &shape, config.initializer, quantizer, config.constraint, init)?;
        let bias = config.bias.then(|| new_bias(config.out_channels));
        let rate = config.quantizer_rate;
        let kernel_quantizer = quantizer.map(|pair| Slot::for_kernel(pair, &shape, rate));
        let input_quantizer = config.input_quantizer.as_ref().map(|pair| Slot::for_input(pair, rate));
        let gradient_quantizer = config.gradient_bits.map(QuantizeGradient::new).transpose()?;
        let config = config.clone();
        Ok(Self { config, kernel, bias, kernel_quantizer, input_quantizer, gradient_quantizer })
    }

    /// What the layer was made from.
    pub fn config(&self) -> &Conv2dConfig {
        &self.config
    }

    /// The kernel, latent if it is quantized.
    pub fn kernel(&self) -> &Param {
        &self.kernel
    }

    /// The bias.
    pub fn bias(&self) -> Option<&Param> {
        self.bias.as_ref()
    }

    pub(crate) fn options(&self, shape: &[usize]) -> Result<Conv2dOptions, Error> {
        let Conv2dConfig { in_channels, kernel, stride, padding, .. } = self.config;
        let stride = [stride; 2];
        match *shape {
            [_, height, width, channels]
                if channels == in_channels && padding.output([height, width], kernel, stride).is_some() =>
            {
                let padding = padding.resolve([height, width], kernel, stride);
                let Conv2dConfig { pad_value, groups, algorithm, .. } = self.config;
                Ok(Conv2dOptions { stride, padding, pad_value: pad_value.into(), groups, algorithm })
            }
            _ => {
                let [h, w] = kernel;
                let expected = format!("[n, h, w, {in_channels}] with h ≥ {h} and w ≥ {w} after padding");
                Err(Error::Shape { layer: LAYER, expected, got: shape.to_vec() })
            }
        }
    }

    /// The shape of the output for an input.
    pub(crate) fn output_shape(&self, shape: &[usize]) -> Result<Vec<usize>, Error> {
        let Conv2dConfig { kernel, stride, padding, out_channels, .. } = self.config;
        self.options(shape)?;
        let size = padding.output([shape[1], shape[2]], kernel, [stride; 2]);
        let [height, width] = size.expect("the options were found for this shape");
        Ok(vec![shape[0], height, width, out_channels])
    }

    pub(crate) fn weights(&self) -> Weights<'_> {
        Weights {
            layer: LAYER,
            kernel: &self.kernel,
            bias: self.bias.as_ref(),
            kernel_quantizer: self.kernel_quantizer.as_ref(),
            input_quantizer: self.input_quantizer.as_ref(),
        }
    }
}

module!(Conv2d { kernel, bias, kernel_quantizer, input_quantizer });

impl Layer for Conv2d {
    fn forward<'t>(&self, cx: &mut Ctx<'t>, x: Signal<'t>) -> Result<Signal<'t>, Error> {
        self.convolve(cx, x, conv2d_factored)
    }
}

type Convolution = for<'t> fn(Var<'t>, Var<'t>, Option<Var<'t>>, &Factors, &Conv2dOptions) -> Var<'t>;

impl Operands<'_> {
    fn summed(&self, options: Conv2dOptions) -> Conv2dOptions {
        Conv2dOptions { algorithm: self.algorithm(options.algorithm), ..options }
    }
}

impl Conv2d {
    /// [`forward`](Layer::forward) for a batch norm to follow: in training, the statistics that it will need are made
    /// while the output is in the cache. The same bits.
    ///
    /// # Errors
    ///
    /// As [`forward`](Layer::forward).
    pub fn forward_measured<'t>(&self, cx: &mut Ctx<'t>, x: Signal<'t>) -> Result<Signal<'t>, Error> {
        let convolution = if cx.is_training() { conv2d_measured } else { conv2d_factored };
        self.convolve(cx, x, convolution)
    }

    /// `gate(norm(forward(x)) + shortcut)` in an evaluation to which nobody listens, in one operation with the bits of separate ones.
    pub(crate) fn forward_normalized<'t>(
        &self,
        cx: &mut Ctx<'t>,
        x: Signal<'t>,
        end: &ConvEnd<'_, 't>,
    ) -> Result<Signal<'t>, Error> {
        let options = self.options(&x.shape())?;
        let operands = self.weights().operands(cx, x)?;
        let options = operands.summed(options);
        let Operands { x, kernel, bias, factors, .. } = operands;
        let y = Signal::from(conv2d_normalized(x, kernel, bias, &factors, &options, end));
        Ok(if matches!(end.gate, Gate::Sign { .. }) { y.with_largest_code(1) } else { y })
    }

    /// Whether [`forward_normalized`](Self::forward_normalized) can replace the layers: whether there is nothing between the product and its norm.
    pub(crate) fn can_be_normalized(&self) -> bool {
        !self.config.input_scaling
    }

    fn convolve<'t>(
        &self,
        cx: &mut Ctx<'t>,
        x: Signal<'t>,
        convolution: Convolution,
    ) -> Result<Signal<'t>, Error> {
        let options = self.options(&x.shape())?;
        if self.config.input_scaling {
            let scales = pixel_scales(cx, x, self.config.kernel, &options)?;
            let product = self.weights().operands(cx, x)?;
            let options = product.summed(options);
            let y = conv2d_factored(product.x, product.kernel, None, &product.factors, &options);
            let op = || Op::Conv2d { product: Product { bias: None, ..product.product() }, options };
            cx.report(LAYER, Some(&self.kernel), &[product.x], y, op);
            let y = scaled(cx, y, scales, product.bias);
            return self.gradient_quantizer.forward(cx, y);
        }
        let operands = self.weights().operands(cx, x)?;
        let options = operands.summed(options);
        let y = convolution(operands.x, operands.kernel, operands.bias, &operands.factors, &options);
        let op = || Op::Conv2d { product: operands.product(), options };
        cx.report(LAYER, Some(&self.kernel), &[operands.x], y, op);
        self.gradient_quantizer.forward(cx, y.into())
    }
}
