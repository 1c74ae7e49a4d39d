use qnn_kernels::Kernels;
use qnn_kernels::packed::{ByteInput, CodeRange, FixedPoint, Int8Conv, Int8Output, Output, Requantize};
use qnn_quant::{Affine, CodeSum, Multiplier};
use qnn_tensor::parallel::{for_each_chunk, for_each_chunk_of};

use super::{Target, ZeroChannels, unpackable};
use crate::Result;
use crate::integer::{ByteCodes, IntegerFinish, IntegerProduct, IntegerStage};
use crate::memory::Source;
use crate::program::Value;
use crate::tensors::Tensors;

/// A stage of integers with its parameters at hand.
#[derive(Debug)]
pub(crate) enum IntegerRun {
    Quantize { scale: f32, to: ByteCodes },
    Product { conv: Box<Int8Conv>, end: End },
    Sum { sum: CodeSum, from: [ByteCodes; 2], to: ByteCodes },
    Mean { multiplier: Multiplier, pixels: usize, channels: usize, from: ByteCodes, to: ByteCodes },
    PadZero { channels: ZeroChannels, zero: u8 },
}

#[derive(Debug)]
pub(crate) enum End {
    Codes(Requantize),
    Values(Vec<f32>),
}

impl IntegerRun {
    pub(crate) fn new(
        stage: &IntegerStage,
        input: &Value,
        operand: Option<&Value>,
        output: &Value,
        tensors: &Tensors<'_>,
    ) -> Result<Self> {
        let codes = |value: &Value| {
            value.byte_codes().ok_or_else(|| tensors.error("it needs integers in bytes".to_owned()))
        };
        let wrong = |error: qnn_quant::Error| tensors.error(error.to_string());
        Ok(match stage {
            IntegerStage::Quantize { scale } if scale.is_normal() && *scale > 0.0 => {
                Self::Quantize { scale: *scale, to: codes(output)? }
            }
            IntegerStage::Quantize { scale } => return Err(tensors.error(format!("its scale is {scale}"))),
            IntegerStage::Product(product) => {
                let geometry = product.geometry(input.shape, output.shape[2]);
                let conv = convolution(product, &geometry, codes(input)?, tensors)?;
                Self::Product { conv: Box::new(conv), end: End::new(&product.finish, output, tensors)? }
            }
            IntegerStage::Sum { multipliers, shift } => {
                let operand = operand.ok_or_else(|| tensors.error("it has nothing to add".to_owned()))?;
                let sum = CodeSum::from_parts(*multipliers, *shift).map_err(wrong)?;
                Self::Sum { sum, from: [codes(input)?, codes(operand)?], to: codes(output)? }
            }
            IntegerStage::Mean { multiplier, shift } => {
                let [height, width, channels] = input.shape;
                let multiplier = Multiplier::from_parts(*multiplier, *shift).map_err(wrong)?;
                let (from, to) = (codes(input)?, codes(output)?);
                Self::Mean { multiplier, pixels: height * width, channels, from, to }
            }
            IntegerStage::PadZero { stride } => {
                let channels = ZeroChannels { stride: *stride, from: input.shape, to: output.shape };
                Self::PadZero { channels, zero: codes(input)?.byte(0) }
            }
        })
    }

    pub(crate) fn run(&self, x: Source<'_>, operand: Option<Source<'_>>, y: Target<'_>) {
        match (self, x, operand, y) {
            (Self::Quantize { scale, to }, Source::Floats(x), None, Target::Codes(_, y)) => {
                let (ends, zero) = ([to.0.first, to.0.last()], to.zero_point());
                for_each_chunk(y, |at, y| {
                    let pairs = y.iter_mut().zip(&x[at..]);
                    pairs.for_each(|(y, &x)| *y = (Affine::code(x, *scale, ends) as i32 + zero) as u8);
                });
            }
            (Self::Product { conv, end: End::Codes(by) }, Source::Codes(_, x), None, Target::Codes(_, y)) => {
                conv.run(Kernels::current(), x, Int8Output::Requantized { by, y });
            }
            (
                Self::Product { conv, end: End::Values(scales) },
                Source::Codes(_, x),
                None,
                Target::Floats(y),
            ) => {
                let affine = qnn_kernels::ChannelAffine { scale: Some(scales), bias: None };
                conv.run(Kernels::current(), x, Output::Scaled { affine, y }.into());
            }
            (
                Self::Sum { sum, from, to },
                Source::Codes(_, a),
                Some(Source::Codes(_, b)),
                Target::Codes(_, y),
            ) => {
                for_each_chunk(y, |at, y| {
                    let pairs = a[at..].iter().zip(&b[at..]);
                    let code = |(&a, &b): (&u8, &u8)| sum.apply(from[0].code(a), from[1].code(b));
                    y.iter_mut().zip(pairs).for_each(|(y, pair)| *y = to.byte(code(pair)));
                });
            }
            (Self::Mean { .. }, Source::Codes(_, x), None, Target::Codes(_, y)) => self.means(x, y),
            (Self::PadZero { channels, zero }, Source::Codes(_, x), None, Target::Codes(_, y)) => {
                channels.append(*zero, x, y);
            }
            _ => unreachable!("the program was checked"),
        }
    }

    /// The sums themselves, of a product.
    pub(crate) fn accumulators(&self, x: Source<'_>, images: usize) -> Option<Vec<i32>> {
        let (Self::Product { conv, .. }, Source::Codes(_, x)) = (self, x) else { return None };
        let geometry = conv.geometry();
        let mut sums = vec![0; images * geometry.out_pixels() * geometry.out_channels];
        conv.run(Kernels::current(), x, Output::Accumulators(&mut sums).into());
        Some(sums)
    }

    fn means(&self, x: &[u8], y: &mut [u8]) {
        let Self::Mean { multiplier, pixels, channels, from, to } = self else { return };
        for_each_chunk_of(*channels, y, |at, y| {
            let image = &x[at * pixels..][..pixels * channels];
            for (channel, y) in y.iter_mut().enumerate() {
                let codes = image[channel..].iter().step_by(*channels);
                *y = to.byte(multiplier.apply(codes.map(|&byte| from.code(byte)).sum()));
            }
        });
    }
}

fn convolution(
    product: &IntegerProduct,
    geometry: &qnn_kernels::packed::ConvGeometry,
    input: ByteCodes,
    tensors: &Tensors<'_>,
) -> Result<Int8Conv> {
    let weights = tensors.bytes(&product.weights, geometry.weight_len())?;
    let weights: Vec<i8> = weights.iter().map(|&byte| byte.cast_signed()).collect();
    let bias = tensors.integers(&product.bias, geometry.out_channels)?;
    let input = ByteInput::signed(input.zero_point() as i8);
    Int8Conv::with_bias(geometry, input, &weights, bias).map_err(unpackable(tensors.stage))
}

impl End {
    fn new(finish: &IntegerFinish, output: &Value, tensors: &Tensors<'_>) -> Result<Self> {
        let channels = output.shape[2];
        match (finish, output.byte_codes()) {
            (IntegerFinish::Codes { multipliers, shifts }, Some(codes)) => {
                let [multipliers, shifts] =
                    [multipliers, shifts].map(|name| tensors.integers(name, channels));
                let pairs = multipliers?.iter().zip(shifts?);
                let scales = pairs
                    .map(|(&multiplier, &shift)| Ok(applied(Multiplier::from_parts(multiplier, shift)?)));
                let scales: qnn_quant::Result<Vec<f64>> = scales.collect();
                let scales = scales.map_err(|error| tensors.error(error.to_string()))?;
                let zero_point = codes.zero_point();
                let range = CodeRange::new(-128, codes.0.last() + zero_point, zero_point);
                let fixed = range.and_then(|range| FixedPoint::new(&scales, range));
                let fixed = fixed.map_err(|error| tensors.error(error.to_string()))?;
                Ok(Self::Codes(Requantize::Fixed(fixed)))
            }
            (IntegerFinish::Values { scales }, _) => {
                Ok(Self::Values(tensors.floats(scales, channels)?.to_vec()))
            }
            _ => Err(tensors.error("codes need bytes to lie in".to_owned())),
        }
    }
}

/// The factor that a multiplier applies, which kernels take; one that is zero, as the least that they round to zero.
fn applied(multiplier: Multiplier) -> f64 {
    multiplier.scale().max(f64::MIN_POSITIVE)
}
