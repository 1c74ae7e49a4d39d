use qnn_quant::{Alphabet, Groups, Pair};
use qnn_tensor::ops::Factors;
use qnn_tensor::{Algorithm, Tensor, Var};

use crate::quantize::{Quantized, quantize_signal, quantize_value};
use crate::reach::{EXACT, reach};
use crate::slot::Slot;
use crate::{Constraint, Ctx, Error, Init, Initializer, Mode, Param, Product, Role, Signal};

/// What a layer that multiplies by a kernel holds, whatever its product.
#[derive(Clone, Copy)]
pub(crate) struct Weights<'a> {
    pub(crate) layer: &'static str,
    pub(crate) kernel: &'a Param,
    pub(crate) bias: Option<&'a Param>,
    pub(crate) kernel_quantizer: Option<&'a Slot>,
    pub(crate) input_quantizer: Option<&'a Slot>,
}

/// The operands of the product: codes, where there are quantizers, and the factors to their values.
pub(crate) struct Operands<'t> {
    pub(crate) x: Var<'t>,
    pub(crate) kernel: Var<'t>,
    pub(crate) bias: Option<Var<'t>>,
    pub(crate) factors: Factors,
    pub(crate) alphabet: Option<Alphabet>,
    /// The largest magnitude of the input's codes, in an evaluation.
    largest: Option<u32>,
}

/// The kernel in training form.
pub(crate) struct Kernel<'t> {
    pub(crate) codes: Var<'t>,
    /// One factor, or one per output channel.
    pub(crate) factors: Vec<f32>,
    pub(crate) alphabet: Option<Alphabet>,
}

impl Weights<'_> {
    pub(crate) fn operands<'t>(&self, cx: &mut Ctx<'t>, x: Signal<'t>) -> Result<Operands<'t>, Error> {
        let x = self.input(cx, x)?;
        let Kernel { codes: kernel, factors: w, alphabet } = self.kernel(cx)?;
        let bias = self.bias.map(|bias| cx.param(bias));
        let largest = x.largest_code().filter(|_| cx.mode() == Mode::Eval);
        Ok(Operands { x: x.codes(), kernel, bias, factors: Factors { x: x.scale(), w }, alphabet, largest })
    }

    pub(crate) fn input<'t>(&self, cx: &mut Ctx<'t>, x: Signal<'t>) -> Result<Signal<'t>, Error> {
        match self.input_quantizer {
            None => Ok(x),
            Some(slot) => quantize_signal(self.layer, slot, cx, x),
        }
    }

    fn kernel<'t>(&self, cx: &mut Ctx<'t>) -> Result<Kernel<'t>, Error> {
        let kernel = cx.param(self.kernel);
        self.quantized(cx, kernel)
    }

    /// A kernel of this shape, quantized as this one is.
    pub(crate) fn quantized<'t>(&self, cx: &mut Ctx<'t>, kernel: Var<'t>) -> Result<Kernel<'t>, Error> {
        let Some(slot) = self.kernel_quantizer else {
            return Ok(Kernel { codes: kernel, factors: vec![1.0], alphabet: None });
        };
        let Quantized { codes, grid, map } = quantize_value(self.layer, "kernel", slot, cx, kernel)?;
        let shape = self.kernel.value().shape();
        match grid.groups() {
            Groups::Axis { axis, .. } if axis + 1 != shape.len() => Err(Error::Scales {
                layer: self.layer,
                operand: "kernel",
                quantizer: format!("{} along axis {axis}", map.name()),
                shape: shape.to_vec(),
                scales: grid.scales().len(),
                expected: "a kernel needs one scale, or one per output channel (the last axis)",
            }),
            _ => Ok(Kernel { codes, factors: grid.scales().to_vec(), alphabet: grid.alphabet() }),
        }
    }
}

impl Operands<'_> {
    /// The operands beside the input, for a trace.
    pub(crate) fn product(&self) -> Product {
        let (kernel, bias) = (self.kernel.value(), self.bias.map(Var::value));
        Product { kernel, alphabet: self.alphabet, factors: self.factors.clone(), bias }
    }

    /// How the product is made: as wanted of numbers. Codes are summed directly, and in an evaluation exactly, as integers of 32 bits do,
    /// where their sums may be larger than those that f32 holds.
    pub(crate) fn algorithm(&self, wanted: Algorithm) -> Algorithm {
        match self.alphabet {
            None => wanted,
            Some(_) if self.exceeds_f32() => Algorithm::Exact,
            Some(_) => Algorithm::Direct,
        }
    }

    fn exceeds_f32(&self) -> bool {
        let (Some(largest), Some(alphabet)) = (self.largest, self.alphabet) else { return false };
        let kernel = self.kernel.value();
        let channels = kernel.shape().last().copied().unwrap_or(0);
        // What surrounds an image is 1 at most.
        let largest = f64::from(largest.max(1));
        if kernel.len() as f64 * f64::from(alphabet.magnitude()) * largest <= EXACT * channels as f64 {
            return false;
        }
        let reach = reach(&kernel, largest);
        reach > EXACT && reach < f64::from(i32::MAX)
    }
}

/// The kernel of a layer, latent if it is quantized.
pub(crate) fn new_kernel(
    layer: &'static str,
    shape: &[usize],
    initializer: Initializer,
    quantizer: Option<&Pair>,
    constraint: Option<Constraint>,
    init: &mut Init,
) -> Result<Param, Error> {
    check_size(layer, shape)?;
    let value = init.draw(initializer, shape);
    let kernel = Param::new(Role::Kernel, value).with_constraint(constraint);
    let Some(pair) = quantizer else { return Ok(kernel) };
    let grid = pair.map.fit(kernel.value().view());
    let bits = grid.map_err(|source| Error::Quantizer { layer, operand: "kernel", source })?.bits();
    Ok(kernel.with_bits(bits))
}

/// A bias of zeros.
pub(crate) fn new_bias(channels: usize) -> Param {
    Param::new(Role::Bias, Tensor::zeros(&[channels]))
}

/// Settings that must not be zero.
pub(crate) fn check_positive(layer: &'static str, settings: &[(&'static str, usize)]) -> Result<(), Error> {
    match settings.iter().find(|(_, value)| *value == 0) {
        None => Ok(()),
        Some(&(setting, value)) => Err(Error::Setting {
            layer,
            setting,
            value: value.to_string(),
            expected: "at least 1".to_owned(),
        }),
    }
}

/// More than any published layer has; beyond, a number in a file or flag must be wrong.
const MAX_ELEMENTS: usize = 1 << 30;

pub(crate) fn check_size(layer: &'static str, shape: &[usize]) -> Result<(), Error> {
    let elements = shape.iter().try_fold(1_usize, |elements, &axis| elements.checked_mul(axis));
    match elements {
        Some(elements) if elements <= MAX_ELEMENTS => Ok(()),
        _ => Err(Error::Size { layer, shape: shape.to_vec(), limit: MAX_ELEMENTS }),
    }
}
