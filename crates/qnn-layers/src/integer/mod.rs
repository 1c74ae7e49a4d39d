//! Networks of integers alone: trained with fake quantization, evaluated with the integers that are deployed.
//!
//! ```text
//! training      x ─ conv by q(w·s) ─ + beta − mean·s ─ pool ─ relu ─ q in the observed range          in f32
//! evaluation    codes ─ Σ codes · codes ─ + bias ─ · multiplier, shift, clamp ─ pool ─ codes          in integers
//! ```
//!
//! A code is what is left of a stored integer when its zero point is subtracted, `q − Z`: padding is 0, and no
//! expression below has a zero point in it.

mod fold;
mod mean;
mod product;
mod sum;
mod target;
mod unit;

use qnn_quant::{Alphabet, CodeSum, Multiplier};
use qnn_tensor::ops::{Conv2dOptions, PoolOptions};

pub use mean::average_in_range;
pub use product::{IntegerFinish, IntegerProduct};
pub(crate) use sum::integer_sum;
pub(crate) use unit::check_plain;
pub use unit::{IntegerUnit, Multiplicand, UnitOutput};

/// What an integer-only network does to codes in evaluation.
#[derive(Clone, Debug)]
pub enum IntegerOp {
    /// A convolution.
    Conv2d {
        /// The operands, and what becomes of the sums.
        product: IntegerProduct,
        /// How the kernel moves.
        options: Conv2dOptions,
    },
    /// A matrix product over the last axis.
    Dense {
        /// The operands, and what becomes of the sums.
        product: IntegerProduct,
    },
    /// The largest code of each window; in some channels the smallest.
    MaxPool {
        /// The windows.
        options: PoolOptions,
        /// The channels of negative batch norm scales: the largest sum before the batch norm is the smallest one
        /// behind it.
        falling: Vec<bool>,
    },
    /// The sum of two tensors of codes, each with a scale of its own, clamped.
    Sum {
        /// The rule.
        sum: CodeSum,
        /// The codes that come out.
        codes: Alphabet,
    },
    /// The sum of each channel's codes, times a factor, clamped.
    Mean {
        /// `S_x / (S_y · pixels)`.
        multiplier: Multiplier,
        /// The codes that come out.
        codes: Alphabet,
    },
}
