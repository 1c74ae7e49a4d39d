use crate::integer::check_plain;
use crate::{
    BatchNorm, BatchNormConfig, Conv2d, Conv2dConfig, Ctx, Error, Init, IntegerUnit, Layer, Signal,
    UnitOutput, module,
};

const LAYER: &str = "folded conv2d";

/// A convolution whose batch norm is folded into its kernel before the kernel is quantized.
///
/// ```text
/// training     mean, variance: those of conv(x, w) over the batch       (a convolution of its own)
/// evaluation   mean, variance: the running ones
/// s = gamma / √(variance + epsilon)
/// y = conv(x, q(w · s)) + (beta + (b − mean) · s)
/// ```
///
/// What is deployed is one convolution with a bias, and training quantizes exactly its kernel. Gradients
/// flow through the batch's statistics. With a quantizer that is the identity the layer is
/// [`Conv2d`] and [`BatchNorm`] in one. It is an [`IntegerUnit`] that has its parts to itself: codes of an observed range are
/// multiplied in integers in evaluation. Source: Jacob et al. 2018, arXiv:1712.05877, section 3.2, figures C.7 and C.8.
#[derive(Debug)]
pub struct FoldedConv2d {
    conv: Conv2d,
    norm: BatchNorm,
}

module!(FoldedConv2d { conv, norm });

impl FoldedConv2d {
    /// A layer with first values from `init`.
    ///
    /// # Errors
    ///
    /// Those of [`Conv2d::new`]; [`Error::Setting`] if the convolution scales its input or quantizes its gradient, and for an
    /// epsilon that is not positive or a momentum outside of [0, 1].
    pub fn new(config: &Conv2dConfig, norm: &BatchNormConfig, init: &mut Init) -> Result<Self, Error> {
        check_plain(LAYER, config.input_scaling, config.gradient_bits)?;
        let norm = BatchNormConfig { channels: config.out_channels, ..*norm };
        Ok(Self { conv: Conv2d::new(config, init)?, norm: BatchNorm::new(&norm)? })
    }

    /// The convolution, with the kernel before folding.
    pub fn conv(&self) -> &Conv2d {
        &self.conv
    }

    /// The batch norm.
    pub fn norm(&self) -> &BatchNorm {
        &self.norm
    }
}

impl Layer for FoldedConv2d {
    fn forward<'t>(&self, cx: &mut Ctx<'t>, x: Signal<'t>) -> Result<Signal<'t>, Error> {
        let unit = IntegerUnit { norm: Some(&self.norm), ..IntegerUnit::new(&self.conv, UnitOutput::Values) };
        unit.forward(cx, x)
    }
}
