use qnn_tensor::ops::{Conv2dOptions, Factors, Moments, Pointwise, conv2d_factored};
use qnn_tensor::{Tensor, Var};

use crate::batch_norm::{check_settings, queue_statistics};
use crate::operands::Kernel;
use crate::{
    BatchNormConfig, Buffer, Conv2d, Conv2dConfig, Ctx, Error, Init, Layer, Op, Param, Product, Role, Signal,
    module,
};

const LAYER: &str = "folded conv2d";

/// A convolution whose batch norm is folded into its kernel before the kernel is quantized.
///
/// ```text
/// training     mean, variance: those of conv(x, w) over the batch       (a convolution of its own)
/// evaluation   mean, variance: the running ones
/// s = gamma / √(variance + epsilon)
/// y = conv(x, q(w · s)) + (beta − mean · s)
/// ```
///
/// What is deployed is one convolution with a bias, and training quantizes exactly its kernel. Gradients
/// flow through the batch's statistics. With a quantizer that is the identity the layer is
/// [`Conv2d`] and [`BatchNorm`](crate::BatchNorm) in one. Source: Jacob et al. 2018, arXiv:1712.05877,
/// section 3.2, figures C.7 and C.8.
#[derive(Debug)]
pub struct FoldedConv2d {
    conv: Conv2d,
    norm: BatchNormConfig,
    gamma: Param,
    beta: Param,
    running_mean: Buffer,
    running_var: Buffer,
}

module!(FoldedConv2d { conv, gamma, beta, running_mean, running_var });

/// `1 / √(x + epsilon)`.
struct InverseRoot {
    epsilon: f64,
}

impl Pointwise<f32> for InverseRoot {
    const NAME: &'static str = "inverse_root";

    fn f(&self, x: f32) -> f32 {
        (1.0 / (f64::from(x) + self.epsilon).sqrt()) as f32
    }

    fn df(&self, _: f32, y: f32) -> f32 {
        -0.5 * y * y * y
    }
}

impl FoldedConv2d {
    /// A layer with first values from `init`. The convolution has no bias of its own: the batch norm
    /// would take it out again.
    ///
    /// # Errors
    ///
    /// Those of [`Conv2d::new`]; [`Error::Setting`] if the convolution has a bias or input scaling, and for
    /// a negative epsilon or a momentum outside of [0, 1].
    pub fn new(config: &Conv2dConfig, norm: &BatchNormConfig, init: &mut Init) -> Result<Self, Error> {
        let channels = config.out_channels;
        check_settings(LAYER, channels, norm.epsilon, norm.momentum)?;
        for (setting, given) in [("bias", config.bias), ("input_scaling", config.input_scaling)] {
            if given {
                let (value, expected) = ("true".to_owned(), "false".to_owned());
                return Err(Error::Setting { layer: LAYER, setting, value, expected });
            }
        }
        let (zeros, ones) = (|| Tensor::zeros(&[channels]), || Tensor::full(&[channels], 1.0));
        Ok(Self {
            conv: Conv2d::new(config, init)?,
            norm: BatchNormConfig { channels, ..*norm },
            gamma: Param::new(Role::Gamma, ones()),
            beta: Param::new(Role::Beta, zeros()),
            running_mean: Buffer::new(zeros()),
            running_var: Buffer::new(ones()),
        })
    }

    /// The convolution, with the kernel before folding.
    pub fn conv(&self) -> &Conv2d {
        &self.conv
    }

    /// Mean and variance of each channel: the batch's, through which gradients flow, or the running ones.
    fn statistics<'t>(&self, cx: &mut Ctx<'t>, x: Signal<'t>, options: &Conv2dOptions) -> [Var<'t>; 2] {
        if !cx.is_training() {
            return [&self.running_mean, &self.running_var].map(|b| cx.tape().constant(b.value().clone()));
        }
        let (x, kernel) = (cx.value(x), cx.param(self.conv.kernel()));
        let y = x.conv2d(kernel, None, options);
        let channels = self.norm.channels;
        let count = y.value().len() / channels;
        let rows = y.reshape(&[count, channels]);
        let mean = rows.mean_axis(0);
        let centered = rows - mean;
        let variance = (centered * centered).mean_axis(0);
        let moments = Moments { mean: mean.value(), variance: variance.value(), count };
        queue_statistics(cx, [&self.running_mean, &self.running_var], self.norm.momentum, &moments);
        [mean, variance]
    }
}

impl Layer for FoldedConv2d {
    fn forward<'t>(&self, cx: &mut Ctx<'t>, x: Signal<'t>) -> Result<Signal<'t>, Error> {
        let (options, weights) = (self.conv.options(&x.shape())?, self.conv.weights());
        let x = weights.input(cx, x)?;
        let [mean, variance] = self.statistics(cx, x, &options);
        let (gamma, beta) = (cx.param(&self.gamma), cx.param(&self.beta));
        let s = gamma * variance.pointwise(InverseRoot { epsilon: self.norm.epsilon });
        let folded = cx.param(self.conv.kernel()) * s;
        let Kernel { codes, factors, alphabet } = weights.quantized(cx, folded)?;
        let bias = beta - mean * s;
        let factors = Factors { x: x.scale(), w: factors };
        let y = conv2d_factored(x.codes(), codes, Some(bias), &factors, &options);
        let product = || Product { kernel: codes.value(), alphabet, factors, bias: Some(bias.value()) };
        let op = || Op::Conv2d { product: product(), options };
        cx.report(LAYER, Some(self.conv.kernel()), &[x.codes()], y, op);
        Ok(y.into())
    }
}
