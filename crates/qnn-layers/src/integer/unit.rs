use qnn_tensor::ops::{Conv2dOptions, Factors, conv2d_factored, matmul_factored};
use qnn_tensor::{Algorithm, Var};

use super::IntegerOp;
use super::fold::Folded;
use super::product::IntegerProduct;
use super::target::{Target, operand};
use crate::operands::{Kernel, Weights};
use crate::{
    BatchNorm, Conv2d, Ctx, Dense, Error, Layer, MaxPool2d, Normalization, Op, Product, QuantizeRange, Signal,
};

/// A convolution or dense layer with all that follows it, as integer-only networks run it: batch norm folded into the
/// kernel, a max pool, an activation, a range.
///
/// ```text
/// training     y = q_y( relu( pool( x * q_w(w · s) + beta + (b − mean) · s ) ) )     s = gamma / √(variance + epsilon)
/// evaluation   y = pool( clamp( (Σ x w + bias) · multiplier ) )                      in integers: see IntegerProduct
/// ```
///
/// Training quantizes what will be deployed: the folded kernel, the activation in its observed range. Evaluation computes in
/// integers, and gives the codes that a deployed network gives, once all ranges are known and the input is
/// [codes](Signal::alphabet); before that, and while it is calibrated, what training computes. In channels whose gamma is negative the pool takes
/// the smallest element: a network with its pool before the batch norm stays the function it is.
///
/// The parts are those of a network, which keeps their names: a network in full precision and its integer form have the
/// same state but for the ranges. Source: Jacob et al. 2018, arXiv:1712.05877, sections 2.4 and 3.2.
///
/// ```
/// use qnn_layers::{Ctx, Dense, DenseConfig, Init, IntegerUnit, Mode, QuantizeRange, QuantizeRangeConfig, UnitOutput};
/// use qnn_layers::{Layer, apply_updates};
/// use qnn_quant::{Affine, Granularity, Pair};
/// use qnn_tensor::{Tape, Tensor};
///
/// let per_channel = Affine::symmetric(8).unwrap().with_granularity(Granularity::LastAxis);
/// let config = DenseConfig { kernel_quantizer: Some(Pair::published(per_channel)), ..DenseConfig::new(3, 2) };
/// let dense = Dense::new(&config, &mut Init::new(1))?;
/// let mut range = QuantizeRange::new(QuantizeRangeConfig::new())?;
/// let tape = Tape::new();
/// let mut run = |range: &QuantizeRange, mode| {
///     let mut cx = Ctx::new(&tape, mode, 0, 0);
///     let x = tape.constant(Tensor::from_fn(&[1, 3], |i| i as f32 - 1.0));
///     let x = range.forward(&mut cx, x.into())?;
///     let y = IntegerUnit::new(&dense, UnitOutput::Values).forward(&mut cx, x)?.value().value();
///     Ok::<_, qnn_layers::Error>((y, cx.finish().into_updates()))
/// };
/// let (trained, updates) = run(&range, Mode::Train)?;
/// apply_updates(&mut range, updates);
/// let (evaluated, _) = run(&range, Mode::Eval)?;
/// for (a, b) in trained.as_slice().iter().zip(evaluated.as_slice()) {
///     assert!((a - b).abs() < 1e-5);
/// }
/// # Ok::<(), qnn_layers::Error>(())
/// ```
#[derive(Clone, Copy, Debug)]
pub struct IntegerUnit<'a> {
    /// What is multiplied.
    pub product: Multiplicand<'a>,
    /// What is folded into the kernel.
    pub norm: Option<&'a BatchNorm>,
    /// What stands between the sums and the activation.
    pub pool: Option<&'a MaxPool2d>,
    /// What comes out.
    pub output: UnitOutput<'a>,
}

/// The layer that multiplies.
#[derive(Clone, Copy, Debug)]
pub enum Multiplicand<'a> {
    /// A convolution.
    Conv2d(&'a Conv2d),
    /// A dense layer.
    Dense(&'a Dense),
}

/// What a unit gives.
#[derive(Clone, Copy, Debug)]
pub enum UnitOutput<'a> {
    /// Codes of a range.
    Codes {
        /// The range.
        range: &'a QuantizeRange,
        /// Whether a ReLU comes first.
        relu: bool,
    },
    /// The sums as numbers: logits.
    Values,
}

/// A layer over an input of a known shape.
pub(super) struct Placed {
    pub(super) options: Option<Conv2dOptions>,
    output: Vec<usize>,
}

impl<'a> From<&'a Conv2d> for Multiplicand<'a> {
    fn from(conv: &'a Conv2d) -> Self {
        Self::Conv2d(conv)
    }
}

impl<'a> From<&'a Dense> for Multiplicand<'a> {
    fn from(dense: &'a Dense) -> Self {
        Self::Dense(dense)
    }
}

impl<'a> IntegerUnit<'a> {
    /// Nothing but the product.
    pub fn new(product: impl Into<Multiplicand<'a>>, output: UnitOutput<'a>) -> Self {
        Self { product: product.into(), norm: None, pool: None, output }
    }

    /// The product with an activation behind it.
    ///
    /// # Errors
    ///
    /// [`Error::Setting`] if the activation is not [`ReluInRange`](crate::ReluInRange).
    pub fn activated(product: impl Into<Multiplicand<'a>>, activation: &'a dyn Layer) -> Result<Self, Error> {
        let product = product.into();
        match activation.relu_range() {
            Some(range) => Ok(Self::new(product, UnitOutput::Codes { range, relu: true })),
            None => Err(product.setting("activation", "another", "a ReLU in an observed range")),
        }
    }

    /// The same with a normalisation between product and activation.
    ///
    /// # Errors
    ///
    /// [`Error::Setting`] if it is not [`BatchNorm`].
    pub fn folding(self, norm: Option<&'a dyn Normalization>) -> Result<Self, Error> {
        let Some(norm) = norm else { return Ok(self) };
        match norm.as_batch_norm() {
            Some(norm) => Ok(Self { norm: Some(norm), ..self }),
            None => Err(self.product.setting("norm", "another", "a batch norm, which kernels can take in")),
        }
    }

    /// The same with a max pool behind the product.
    #[must_use]
    pub fn pooling(self, pool: Option<&'a MaxPool2d>) -> Self {
        Self { pool, ..self }
    }

    /// The output for an input.
    ///
    /// # Errors
    ///
    /// [`Error::Shape`] for an input that does not fit, [`Error::Quantizer`] for parameters that are not finite or have no
    /// common scale; [`Error::Setting`] if the layer scales its inputs or quantizes its gradients, of which the unit knows nothing, and where
    /// somebody [listens](Ctx::tracing) if a range is not known yet.
    pub fn forward<'t>(&self, cx: &mut Ctx<'t>, x: Signal<'t>) -> Result<Signal<'t>, Error> {
        let weights = self.product.weights();
        let (input_scaling, gradient_bits) = self.product.scaling_and_gradient_bits();
        check_plain(weights.layer, input_scaling, gradient_bits)?;
        let x = weights.input(cx, x)?;
        let placed = self.product.place(&x.shape())?;
        let folded = self.folded(cx, x, &placed)?;
        match self.integer(cx, x, &folded, &placed)? {
            Some(y) => Ok(y),
            None => self.fake(cx, x, &folded, &placed),
        }
    }

    /// The integer expression, in an evaluation in which all ranges are known.
    fn integer<'t>(
        &self,
        cx: &mut Ctx<'t>,
        x: Signal<'t>,
        folded: &Folded<'t>,
        placed: &Placed,
    ) -> Result<Option<Signal<'t>>, Error> {
        let Some(codes) = operand(cx, x) else { return Ok(None) };
        let target = match self.output {
            UnitOutput::Values => None,
            UnitOutput::Codes { range, relu } => match Target::of(range, relu)? {
                None => return Ok(None),
                known => known,
            },
        };
        let kernel = folded.kernel.value();
        let bias =
            folded.bias.map_or_else(|| vec![0.0; placed.channels()], |bias| bias.value().as_slice().to_vec());
        let weights = self.product.checked_weights()?;
        let product = IntegerProduct::new(&kernel, &bias, x.scale(), target.as_ref())
            .map_err(|source| Error::Quantizer { layer: weights.layer, operand: "folded kernel", source })?;
        let sums = product.accumulators(&codes, placed.options.as_ref());
        let y = cx.tape().constant(product.finished(&placed.output, &sums));
        cx.report(weights.layer, Some(weights.kernel), &[x.codes()], y, || {
            Op::Integer(match placed.options {
                Some(options) => IntegerOp::Conv2d { product, options },
                None => IntegerOp::Dense { product },
            })
        });
        let y = target.map_or(y.into(), |target| target.signal(y));
        self.pooled_codes(cx, y, &folded.falling).map(Some)
    }

    /// Clamping never falls, so that codes can be pooled as well as sums.
    fn pooled_codes<'t>(
        &self,
        cx: &mut Ctx<'t>,
        x: Signal<'t>,
        falling: &[bool],
    ) -> Result<Signal<'t>, Error> {
        let Some(pool) = self.pool else { return Ok(x) };
        let options = pool.window.options("max pool", &x.shape())?;
        let pooled = self.pooled(x.codes(), falling)?;
        let falling = falling.to_vec();
        cx.report("max pool", None, &[x.codes()], pooled, || {
            Op::Integer(IntegerOp::MaxPool { options, falling })
        });
        Ok(x.map_codes(|_| pooled))
    }

    /// What training computes: values that are rounded to what integers can represent.
    fn fake<'t>(
        &self,
        cx: &mut Ctx<'t>,
        x: Signal<'t>,
        folded: &Folded<'t>,
        placed: &Placed,
    ) -> Result<Signal<'t>, Error> {
        let weights = self.product.weights();
        if let (true, UnitOutput::Codes { .. }) = (cx.is_traced(), self.output) {
            return Err(self.product.setting(
                "range",
                "not known",
                "observed: train or calibrate the network",
            ));
        }
        let Kernel { codes, factors, alphabet } = weights.quantized(cx, folded.kernel)?;
        let factors = Factors { x: x.scale(), w: factors };
        let y = placed.multiply(x.codes(), codes, folded.bias, &factors);
        cx.report(weights.layer, Some(weights.kernel), &[x.codes()], y, || {
            let (kernel, bias) = (codes.value(), folded.bias.map(Var::value));
            let product = Product { kernel, alphabet, factors, bias };
            match placed.options {
                Some(options) => Op::Conv2d { product, options },
                None => Op::Dense { product, exact: false },
            }
        });
        let y = self.pooled(y, &folded.falling)?;
        match self.output {
            UnitOutput::Values => Ok(y.into()),
            UnitOutput::Codes { range, relu } => range.forward(cx, if relu { y.relu() } else { y }.into()),
        }
    }
}

/// Refuses what the product of a unit has no place for.
pub(crate) fn check_plain(
    layer: &'static str,
    input_scaling: bool,
    gradient_bits: Option<u32>,
) -> Result<(), Error> {
    let given = [("input_scaling", input_scaling), ("gradient_bits", gradient_bits.is_some())];
    match given.into_iter().find(|(_, given)| *given) {
        None => Ok(()),
        Some((setting, _)) => {
            let (value, expected) = ("given".to_owned(), "left out".to_owned());
            Err(Error::Setting { layer, setting, value, expected })
        }
    }
}

impl<'a> Multiplicand<'a> {
    fn scaling_and_gradient_bits(self) -> (bool, Option<u32>) {
        match self {
            Self::Conv2d(conv) => (conv.config().input_scaling, conv.config().gradient_bits),
            Self::Dense(dense) => (dense.config().input_scaling, dense.config().gradient_bits),
        }
    }

    pub(super) fn weights(self) -> Weights<'a> {
        match self {
            Self::Conv2d(conv) => conv.weights(),
            Self::Dense(dense) => dense.weights(),
        }
    }

    /// The weights, if they were trained at the codes that integers take.
    fn checked_weights(self) -> Result<Weights<'a>, Error> {
        let weights = self.weights();
        let pair = weights.kernel_quantizer.map(|slot| slot.pair());
        match pair {
            Some(pair) if pair.map.is_int8_per_channel() => Ok(weights),
            _ => {
                let value = pair.map_or("none", |pair| pair.map.name());
                Err(self.setting(
                    "kernel quantizer",
                    value,
                    "affine: symmetric, of 8 bits, along the last axis",
                ))
            }
        }
    }

    fn place(self, shape: &[usize]) -> Result<Placed, Error> {
        match self {
            Self::Conv2d(conv) => {
                let options = Conv2dOptions { algorithm: Algorithm::Direct, ..conv.options(shape)? };
                let config = conv.config();
                let sides = config.padding.output([shape[1], shape[2]], config.kernel, options.stride);
                let [height, width] = sides.unwrap_or([0, 0]);
                let output = vec![shape[0], height, width, config.out_channels];
                Ok(Placed { options: Some(options), output })
            }
            Self::Dense(dense) => {
                let output = dense.output_shape(shape)?;
                Ok(Placed { options: None, output })
            }
        }
    }

    fn setting(self, setting: &'static str, value: &str, expected: &str) -> Error {
        let (layer, value) = (self.weights().layer, value.to_owned());
        Error::Setting { layer, setting, value, expected: expected.to_owned() }
    }
}

impl Placed {
    pub(super) fn multiply<'t>(
        &self,
        x: Var<'t>,
        kernel: Var<'t>,
        bias: Option<Var<'t>>,
        factors: &Factors,
    ) -> Var<'t> {
        match &self.options {
            Some(options) => conv2d_factored(x, kernel, bias, factors, options),
            None => matmul_factored(x, kernel, bias, factors),
        }
    }

    fn channels(&self) -> usize {
        self.output.last().copied().unwrap_or(0)
    }
}
