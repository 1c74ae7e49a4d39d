//! What can be wrong with numbers and shapes that are to be packed.

use thiserror::Error;

use super::Encoding;
use crate::ShapeError;

/// Why something cannot be packed.
#[derive(Clone, Debug, PartialEq, Error)]
pub enum PackError {
    /// A NaN is no code and has no sign.
    #[error("element {index} of {len} is NaN: clean the values before packing")]
    NotANumber {
        /// Position of the first NaN.
        index: usize,
        /// How many elements there are.
        len: usize,
    },
    /// A number that the encoding does not have.
    #[error("element {index} is {value}, which is no code of {encoding}; codes lie in {:?}", encoding.range())]
    NotACode {
        /// Position of the first such number.
        index: usize,
        /// The number.
        value: f32,
        /// The encoding.
        encoding: Encoding,
    },
    /// An encoding of a width that does not exist.
    #[error("an encoding of {bits} bits: 1 to 8 are possible")]
    Bits {
        /// The width asked for.
        bits: u32,
    },
    /// A buffer of another length than the shape asks for.
    #[error("{what}: {found} elements, the shape needs {expected}")]
    Length {
        /// Which buffer.
        what: &'static str,
        /// Its length.
        found: usize,
        /// The length needed.
        expected: usize,
    },
    /// Padding by a number that is neither a code nor zero.
    #[error("padding by {code}, which is neither a code of {encoding} nor 0")]
    Padding {
        /// The number.
        code: i32,
        /// The encoding of the input.
        encoding: Encoding,
    },
    /// Sums that no 32-bit integer holds.
    #[error("{terms} products of at most {product} each overflow a 32-bit accumulator")]
    Accumulator {
        /// Terms of one sum.
        terms: usize,
        /// The largest magnitude of one product.
        product: i64,
    },
    /// An encoding that these kernels do not take.
    #[error("{what} as {encoding}: {remedy}")]
    Unsupported {
        /// Which operand.
        what: &'static str,
        /// Its encoding.
        encoding: Encoding,
        /// What to do instead.
        remedy: &'static str,
    },
    /// Thresholds that do not fit together.
    #[error("{thresholds} thresholds for {channels} channels with {levels} levels: {expected} are needed")]
    Thresholds {
        /// How many there are.
        thresholds: usize,
        /// Output channels.
        channels: usize,
        /// Levels of the code.
        levels: usize,
        /// How many there should be.
        expected: usize,
    },
    /// A function of the accumulator that goes up and down.
    #[error(
        "channel {channel}: the code as a function of the accumulator is not monotone near {at}, so no threshold gives it"
    )]
    NotMonotone {
        /// The output channel.
        channel: usize,
        /// An accumulator where the function contradicts its ends.
        at: i32,
    },
    /// A shape that cannot be computed.
    #[error(transparent)]
    Shape(#[from] ShapeError),
}
