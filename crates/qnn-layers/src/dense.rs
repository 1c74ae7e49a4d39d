use qnn_quant::Pair;
use qnn_tensor::ops::matmul_factored;

use crate::operands::{Weights, check_positive, new_bias, new_kernel};
use crate::{Constraint, Ctx, Error, Init, Initializer, Layer, Op, Param, Signal, module};

const LAYER: &str = "dense";

/// What a [`Dense`] is made from.
#[derive(Clone, Debug)]
pub struct DenseConfig {
    /// Values per input.
    pub in_features: usize,
    /// Values per output.
    pub out_features: usize,
    /// Whether a bias per output is added.
    pub bias: bool,
    /// How the kernel's first value is drawn; a bias starts with zeros.
    pub initializer: Initializer,
    /// What stands between the latent kernel and the product.
    pub kernel_quantizer: Option<Pair>,
    /// What the input goes through before the product.
    pub input_quantizer: Option<Pair>,
    /// What must hold of the kernel after each update.
    pub constraint: Option<Constraint>,
}

/// A matrix product over the last axis, with quantizers or without.
///
/// ```text
/// y[.., o] = s_x · s_o · Σ x[.., k] · w[k, o] + b[o]
/// ```
///
/// x and w are codes where there are quantizers, with the scales s; otherwise values, with s = 1.
/// Shapes: input `[.., in]`, kernel `[in, out]`, output `[.., out]`.
#[derive(Debug)]
pub struct Dense {
    config: DenseConfig,
    kernel: Param,
    bias: Option<Param>,
}

impl DenseConfig {
    /// With bias, He-normal, nothing quantized.
    pub fn new(in_features: usize, out_features: usize) -> Self {
        Self {
            in_features,
            out_features,
            bias: true,
            initializer: Initializer::HeNormal,
            kernel_quantizer: None,
            input_quantizer: None,
            constraint: None,
        }
    }
}

impl Dense {
    /// A dense layer with first values from `init`.
    ///
    /// # Errors
    ///
    /// [`Error::Setting`] if a size is zero, [`Error::Size`] if the kernel is too large.
    pub fn new(config: &DenseConfig, init: &mut Init) -> Result<Self, Error> {
        let shape = [config.in_features, config.out_features];
        check_positive(LAYER, &[("in_features", shape[0]), ("out_features", shape[1])])?;
        let quantizer = config.kernel_quantizer.as_ref();
        let kernel = new_kernel(LAYER, &shape, config.initializer, quantizer, config.constraint, init)?;
        let bias = config.bias.then(|| new_bias(config.out_features));
        Ok(Self { config: config.clone(), kernel, bias })
    }

    /// What the layer was made from.
    pub fn config(&self) -> &DenseConfig {
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

    fn weights(&self) -> Weights<'_> {
        Weights {
            layer: LAYER,
            kernel: &self.kernel,
            bias: self.bias.as_ref(),
            kernel_quantizer: self.config.kernel_quantizer.as_ref(),
            input_quantizer: self.config.input_quantizer.as_ref(),
        }
    }
}

module!(Dense { kernel, bias });

impl Layer for Dense {
    fn forward<'t>(&self, cx: &mut Ctx<'t>, x: Signal<'t>) -> Result<Signal<'t>, Error> {
        let got = x.shape();
        if got.last() != Some(&self.config.in_features) {
            let expected = format!("[.., {}]", self.config.in_features);
            return Err(Error::Shape { layer: LAYER, expected, got });
        }
        let operands = self.weights().operands(cx, x)?;
        let y = matmul_factored(operands.x, operands.kernel, operands.bias, &operands.factors);
        let op = || Op::Dense { product: operands.product() };
        cx.report(LAYER, Some(&self.kernel), &[operands.x], y, op);
        Ok(y.into())
    }
}
