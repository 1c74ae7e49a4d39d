use qnn_quant::Pair;
use qnn_tensor::ops::{matmul_exact, matmul_factored};
use qnn_tensor::{Algorithm, Var};

use crate::input_scale::{check_input_scaling, row_scales, scaled};
use crate::operands::{Operands, Weights, check_positive, new_bias, new_kernel};
use crate::slot::Slot;
use crate::{
    Constraint, Ctx, Error, Init, Initializer, Layer, Op, Param, Product, QuantizeGradient, Signal, module,
};

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
    /// The learning rate factor of the quantizers' trained parameters.
    pub quantizer_rate: f32,
    /// Whether outputs are multiplied by the mean magnitude of the inputs that they were made of, as
    /// in XNOR-Net; see [`Dense`]. It needs an input quantizer.
    pub input_scaling: bool,
    /// Bits of the gradient that comes back to the output; see [`QuantizeGradient`](crate::QuantizeGradient).
    pub gradient_bits: Option<u32>,
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
/// With `input_scaling` the scale s_x is one for each row, the mean of its |x|, held constant by the
/// gradient: the map K of Rastegari et al. 2016, arXiv:1603.05279, section 3.2, for a single pixel.
///
/// Shapes: input `[.., in]`, kernel `[in, out]`, output `[.., out]`.
#[derive(Debug)]
pub struct Dense {
    config: DenseConfig,
    kernel: Param,
    bias: Option<Param>,
    kernel_quantizer: Option<Slot>,
    input_quantizer: Option<Slot>,
    gradient_quantizer: Option<QuantizeGradient>,
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
            quantizer_rate: 1.0,
            input_scaling: false,
            gradient_bits: None,
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
        check_input_scaling(LAYER, config.input_scaling, config.input_quantizer.as_ref())?;
        let quantizer = config.kernel_quantizer.as_ref();
        let kernel = new_kernel(LAYER, &shape, config.initializer, quantizer, config.constraint, init)?;
        let bias = config.bias.then(|| new_bias(config.out_features));
        let rate = config.quantizer_rate;
        let kernel_quantizer = quantizer.map(|pair| Slot::for_kernel(pair, &shape, rate));
        let input_quantizer = config.input_quantizer.as_ref().map(|pair| Slot::for_input(pair, rate));
        let gradient_quantizer = config.gradient_bits.map(QuantizeGradient::new).transpose()?;
        let config = config.clone();
        Ok(Self { config, kernel, bias, kernel_quantizer, input_quantizer, gradient_quantizer })
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

    pub(crate) fn output_shape(&self, shape: &[usize]) -> Result<Vec<usize>, Error> {
        match shape.split_last() {
            Some((&last, rows)) if last == self.config.in_features => {
                Ok([rows, &[self.config.out_features]].concat())
            }
            _ => {
                let expected = format!("[.., {}]", self.config.in_features);
                Err(Error::Shape { layer: LAYER, expected, got: shape.to_vec() })
            }
        }
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

module!(Dense { kernel, bias, kernel_quantizer, input_quantizer });

impl<'t> Operands<'t> {
    /// The product, and whether it was made exactly.
    fn multiplied(&self, bias: Option<Var<'t>>) -> (bool, Var<'t>) {
        let exact = self.algorithm(Algorithm::Direct) == Algorithm::Exact;
        let product = if exact { matmul_exact } else { matmul_factored };
        (exact, product(self.x, self.kernel, bias, &self.factors))
    }
}

impl Layer for Dense {
    fn forward<'t>(&self, cx: &mut Ctx<'t>, x: Signal<'t>) -> Result<Signal<'t>, Error> {
        self.output_shape(&x.shape())?;
        if self.config.input_scaling {
            let scales = row_scales(cx, x)?;
            let product = self.weights().operands(cx, x)?;
            let (exact, y) = product.multiplied(None);
            let op = || Op::Dense { product: Product { bias: None, ..product.product() }, exact };
            cx.report(LAYER, Some(&self.kernel), &[product.x], y, op);
            let y = scaled(cx, y, scales, product.bias);
            return self.gradient_quantizer.forward(cx, y);
        }
        let operands = self.weights().operands(cx, x)?;
        let (exact, y) = operands.multiplied(operands.bias);
        let op = || Op::Dense { product: operands.product(), exact };
        cx.report(LAYER, Some(&self.kernel), &[operands.x], y, op);
        self.gradient_quantizer.forward(cx, y.into())
    }
}
