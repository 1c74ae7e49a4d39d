//! Stages of integers alone: codes in bytes, sums in 32 bits, factors as multipliers and shifts.

use qnn_kernels::packed::{ConvGeometry, Encoding, Layout};
use qnn_quant::Alphabet;
use qnn_tensor::Padding;
use serde::{Deserialize, Serialize};

use crate::geometry::{convolution, convolved};
use crate::program::{Elements, Value};
use crate::serial::PaddingText;

/// So many codes of bytes, none beyond ±255, have a sum of 32 bits.
const LARGEST_MEAN: usize = 1 << 23;

/// What a stage does to codes that lie in bytes. Each rule is that of the training graph's evaluation.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case", deny_unknown_fields)]
pub enum IntegerStage {
    /// From numbers to codes: `clamp(round(x / scale))`, halves to even.
    Quantize {
        /// The value of the code 1.
        scale: f32,
    },
    /// A convolution or a dense layer.
    Product(IntegerProduct),
    /// The sum with the operand, by [`CodeSum`](qnn_quant::CodeSum), clamped.
    Sum {
        /// The factors of input and operand.
        multipliers: [i32; 2],
        /// The shift of the sum.
        shift: u32,
    },
    /// The sum of each channel's codes, times a [`Multiplier`](qnn_quant::Multiplier), clamped.
    Mean {
        /// The factor's 31 bits.
        multiplier: i32,
        /// Its shift.
        shift: i32,
    },
    /// Every `stride`-th pixel, and channels of zeros.
    PadZero {
        /// The distance of the pixels.
        stride: usize,
    },
}

/// A sum of products of codes, padded by the code 0. A dense layer is a convolution whose kernel is as large as its input.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct IntegerProduct {
    /// Height and width of the kernel.
    pub kernel: [usize; 2],
    /// The step in rows and columns.
    pub stride: [usize; 2],
    /// Rows and columns around the input.
    #[serde(with = "PaddingText")]
    pub padding: Padding,
    /// The number of groups.
    pub groups: usize,
    /// The tensor of weights `[kh, kw, channels / groups, out channels]`, bytes in two's complement.
    pub weights: String,
    /// The tensor of biases, one integer for each output channel.
    pub bias: String,
    /// What becomes of the sums.
    pub finish: IntegerFinish,
}

/// What becomes of sums of codes.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case", deny_unknown_fields)]
pub enum IntegerFinish {
    /// Codes: the sum times a [`Multiplier`](qnn_quant::Multiplier) for each channel, clamped.
    Codes {
        /// The tensor of the factors' 31 bits.
        multipliers: String,
        /// The tensor of their shifts.
        shifts: String,
    },
    /// Numbers: the sum as f32 times a factor for each channel.
    Values {
        /// The tensor of factors.
        scales: String,
    },
}

/// How codes lie in bytes: the least code is the byte −128.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct ByteCodes(pub(crate) Alphabet);

impl ByteCodes {
    /// What a byte holds for the code 0.
    pub(crate) fn zero_point(self) -> i32 {
        -128 - self.0.first
    }

    pub(crate) fn code(self, byte: u8) -> i32 {
        i32::from(byte.cast_signed()) - self.zero_point()
    }

    /// The byte of a code, clamped to the codes there are.
    pub(crate) fn byte(self, code: i32) -> u8 {
        (code.clamp(self.0.first, self.0.last()) + self.zero_point()) as u8
    }

    /// Whether bytes hold these codes, 0 among them.
    pub(crate) fn are_sound(self) -> bool {
        let Alphabet { first, step, count } = self.0;
        step == 1 && (1..=256).contains(&count) && (-255..=0).contains(&first) && self.0.last() >= 0
    }

    pub(crate) fn layout(channels: usize) -> Layout {
        Layout::new(Encoding::Int8, channels).expect("the program was checked")
    }
}

impl Value {
    /// The codes, if they lie in bytes of integer arithmetic.
    pub(crate) fn byte_codes(&self) -> Option<ByteCodes> {
        match self.elements {
            Elements::Bytes(codes) => Some(ByteCodes(codes)),
            _ => None,
        }
    }
}

impl IntegerStage {
    pub(crate) fn output_shape(
        &self,
        [h, w, c]: [usize; 3],
        output: [usize; 3],
    ) -> Result<[usize; 3], String> {
        match self {
            Self::Quantize { .. } | Self::Sum { .. } => Ok([h, w, c]),
            Self::Mean { .. } if h * w > LARGEST_MEAN => {
                Err(format!("its sums of {h} × {w} codes exceed 32 bits, which hold {LARGEST_MEAN}"))
            }
            Self::Mean { .. } => Ok([1, 1, c]),
            Self::PadZero { stride: 0 } => Err("its stride is 0".to_owned()),
            Self::PadZero { stride } => Ok([h.div_ceil(*stride), w.div_ceil(*stride), output[2].max(c)]),
            Self::Product(product) => convolved(&product.geometry([h, w, c], output[2])),
        }
    }

    pub(crate) fn fits(&self, input: Elements, output: Elements) -> bool {
        let bytes = |elements| matches!(elements, Elements::Bytes(_));
        match self {
            Self::Quantize { .. } => input == Elements::Float && bytes(output),
            Self::Product(product) => match product.finish {
                IntegerFinish::Codes { .. } => bytes(input) && bytes(output),
                IntegerFinish::Values { .. } => bytes(input) && output == Elements::Float,
            },
            Self::Sum { .. } | Self::Mean { .. } => bytes(input) && bytes(output),
            Self::PadZero { .. } => bytes(input) && input == output,
        }
    }

    /// How many operands it adds to its input.
    pub(crate) fn sums(&self) -> usize {
        usize::from(matches!(self, Self::Sum { .. }))
    }

    pub(crate) fn tensors(&self) -> Vec<&str> {
        let Self::Product(product) = self else { return Vec::new() };
        let mut names: Vec<&str> = vec![&product.weights, &product.bias];
        match &product.finish {
            IntegerFinish::Codes { multipliers, shifts } => names.extend([multipliers.as_str(), shifts]),
            IntegerFinish::Values { scales } => names.push(scales),
        }
        names
    }

    pub(crate) fn text(&self) -> &'static str {
        match self {
            Self::Quantize { .. } => "numbers to int8",
            Self::Product(IntegerProduct { finish: IntegerFinish::Codes { .. }, .. }) => {
                "int8 × int8, integer sums, requantized"
            }
            Self::Product(_) => "int8 × int8, integer sums, scaled",
            Self::Sum { .. } => "int8 + int8",
            Self::Mean { .. } => "mean of int8",
            Self::PadZero { .. } => "copy",
        }
    }
}

impl IntegerProduct {
    /// What it convolves.
    pub(crate) fn geometry(&self, input: [usize; 3], out_channels: usize) -> ConvGeometry {
        convolution(input, [self.kernel, self.stride], self.padding, self.groups, out_channels)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bytes_and_codes_are_each_others_inverse() {
        for first in [-255, -128, -3, 0] {
            let codes = ByteCodes(Alphabet { first, step: 1, count: 256 });
            assert!(codes.are_sound());
            assert!((first..first + 256).all(|code| codes.code(codes.byte(code)) == code));
            assert_eq!((codes.byte(-999), codes.byte(999)), (0x80, 0x7f));
        }
        for (first, count) in [(-256, 257), (1, 20), (-20, 20), (0, 0)] {
            assert!(!ByteCodes(Alphabet { first, step: 1, count }).are_sound(), "{first}, {count}");
        }
    }
}
