//! The codes of eight bits that a layer puts out.

use thiserror::Error;

/// Why accumulators cannot be requantized so.
#[derive(Clone, Debug, PartialEq, Error)]
pub enum RequantizeError {
    /// A factor is not a positive finite number, or too large.
    #[error("the {what} of channel {channel} is {value}, it must be {expected}")]
    Factor {
        /// Scale or bias.
        what: &'static str,
        /// Its output channel.
        channel: usize,
        /// What was given.
        value: f64,
        /// What was expected.
        expected: &'static str,
    },
    /// Scales and biases for different numbers of channels.
    #[error("{scales} scales and {biases} biases, there must be one of each for every channel")]
    Channels {
        /// Number of scales.
        scales: usize,
        /// Number of biases.
        biases: usize,
    },
    /// A range of codes that no byte holds, or whose zero point lies outside.
    #[error("codes {low}..={high} with zero point {zero_point} lie neither in -128..=127 nor in 0..=255")]
    Range {
        /// The smallest code.
        low: i32,
        /// The largest code.
        high: i32,
        /// The code of zero.
        zero_point: i32,
    },
}

/// The codes that a layer puts out: which byte values, and which of them stands for zero.
///
/// A ReLU is the range that starts at the zero point.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct CodeRange {
    pub(super) low: i32,
    pub(super) high: i32,
    pub(super) zero_point: i32,
}

impl CodeRange {
    /// Symmetric signed bytes, −127 to 127: the range of weights, and of activations that have no preferred sign.
    pub const SYMMETRIC: Self = Self { low: -127, high: 127, zero_point: 0 };

    /// The codes `low ..= high`, all of them signed or all of them unsigned bytes.
    ///
    /// # Errors
    ///
    /// [`RequantizeError::Range`] if they are neither, or if the zero point is none of those bytes.
    pub fn new(low: i32, high: i32, zero_point: i32) -> Result<Self, RequantizeError> {
        let fits = |range: core::ops::RangeInclusive<i32>| {
            [low, high, zero_point].iter().all(|code| range.contains(code))
        };
        let range = Self { low, high, zero_point };
        let is_valid = low <= high && (fits(-128..=127) || fits(0..=255));
        if is_valid { Ok(range) } else { Err(RequantizeError::Range { low, high, zero_point }) }
    }

    /// The smallest code.
    #[must_use]
    pub const fn low(self) -> i32 {
        self.low
    }

    /// The largest code.
    #[must_use]
    pub const fn high(self) -> i32 {
        self.high
    }

    /// The code that stands for zero.
    #[must_use]
    pub const fn zero_point(self) -> i32 {
        self.zero_point
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_bytes_are_codes() {
        for (low, high, zero_point) in [(-1, 128, 0), (3, 2, 2), (0, 255, -1), (-128, 127, 128), (0, 256, 0)]
        {
            let error = CodeRange::new(low, high, zero_point).unwrap_err();
            assert_eq!(error, RequantizeError::Range { low, high, zero_point });
        }
        let range = CodeRange::new(0, 255, 17).unwrap();
        assert_eq!([range.low(), range.high(), range.zero_point()], [0, 255, 17]);
    }
}
