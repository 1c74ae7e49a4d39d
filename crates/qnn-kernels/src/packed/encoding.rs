//! How small integers lie in bits.

use core::fmt;
use core::ops::RangeInclusive;

use super::PackError;

/// A set of integers ("codes") and how each of them is stored.
///
/// The bit convention, here and nowhere else: in a plane of signs **a set bit is −1, a clear bit is +1**; in a plane of
/// zeros and ones a set bit is 1. Plane `i` carries the weight `2^i`.
///
/// ```
/// use qnn_kernels::packed::Encoding;
/// let codes = |encoding: Encoding| (0..encoding.levels()).map(|level| encoding.code(level)).collect::<Vec<_>>();
/// assert_eq!(codes(Encoding::Sign), [-1, 1]);
/// assert_eq!(codes(Encoding::Unsigned { bits: 2 }), [0, 1, 2, 3]);
/// assert_eq!(codes(Encoding::Odd { bits: 2 }), [-3, -1, 1, 3]);
/// assert_eq!(codes(Encoding::Ternary), [-1, 0, 1]);
/// ```
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Encoding {
    /// −1 and 1: one plane of signs.
    Sign,
    /// `0 ..= 2^bits − 1`: as many planes of zeros and ones, the lowest first.
    Unsigned {
        /// 1 to 8.
        bits: u32,
    },
    /// The odd integers `−(2^bits − 1) ..= 2^bits − 1`, that is `Σ 2^i·s_i` with `s_i = ±1`: planes of signs, the lowest first.
    Odd {
        /// 1 to 8.
        bits: u32,
    },
    /// −1, 0 and 1: a plane that is set where the code is not zero, then one that is set where it is negative.
    Ternary,
    /// −128 to 127: one byte each, in two's complement.
    Int8,
}

impl Encoding {
    /// The encoding itself, if its bits are 1 to 8.
    ///
    /// # Errors
    ///
    /// [`PackError::Bits`] otherwise.
    pub fn checked(self) -> Result<Self, PackError> {
        match self {
            Self::Unsigned { bits } | Self::Odd { bits } if !(1..=8).contains(&bits) => {
                Err(PackError::Bits { bits })
            }
            _ => Ok(self),
        }
    }

    /// Planes of one bit for each channel; none for [`Encoding::Int8`], which lies in bytes.
    #[must_use]
    pub const fn planes(self) -> usize {
        match self {
            Self::Sign => 1,
            Self::Unsigned { bits } | Self::Odd { bits } => bits as usize,
            Self::Ternary => 2,
            Self::Int8 => 0,
        }
    }

    /// How many codes there are.
    #[must_use]
    pub const fn levels(self) -> usize {
        match self {
            Self::Sign => 2,
            Self::Unsigned { bits } | Self::Odd { bits } => 1 << bits,
            Self::Ternary => 3,
            Self::Int8 => 256,
        }
    }

    /// The smallest and the largest code.
    #[must_use]
    pub const fn range(self) -> RangeInclusive<i32> {
        match self {
            Self::Sign | Self::Ternary => -1..=1,
            Self::Unsigned { bits } => 0..=(1 << bits) - 1,
            Self::Odd { bits } => 1 - (1 << bits)..=(1 << bits) - 1,
            Self::Int8 => -128..=127,
        }
    }

    /// The distance of neighbouring codes.
    const fn step(self) -> i32 {
        match self {
            Self::Sign | Self::Odd { .. } => 2,
            _ => 1,
        }
    }

    /// The codes in ascending order: level 0 is the smallest.
    #[must_use]
    pub const fn code(self, level: usize) -> i32 {
        *self.range().start() + self.step() * level as i32
    }

    /// The level of a code, or nothing for a number that is no code.
    #[must_use]
    pub fn level(self, code: i32) -> Option<usize> {
        let above = code.checked_sub(*self.range().start())?;
        (self.range().contains(&code) && above % self.step() == 0).then_some((above / self.step()) as usize)
    }

    /// The largest magnitude of a code.
    #[must_use]
    pub fn magnitude(self) -> i32 {
        self.range().start().abs().max(*self.range().end())
    }

    /// The stored bits of a number, and whether it is a code at all.
    pub(crate) fn stored(self, value: f32) -> (u8, bool) {
        let (first, step) = (*self.range().start(), self.step());
        // A NaN becomes 0, whose code it does not equal; what is out of range becomes the nearest level.
        let level = ((value - first as f32) / step as f32) as usize;
        let level = level.min(self.levels() - 1);
        (self.bits(level), self.code(level) as f32 == value)
    }

    /// The level of the number at `index` of `len`.
    pub(crate) fn level_of(self, value: f32, index: usize, len: usize) -> Result<usize, PackError> {
        if value.is_nan() {
            return Err(PackError::NotANumber { index, len });
        }
        let code = value as i32;
        let level = (code as f32 == value).then(|| self.level(code)).flatten();
        level.ok_or(PackError::NotACode { index, value, encoding: self })
    }

    /// The bits of a level, plane `i` in bit `i`.
    pub(crate) fn bits(self, level: usize) -> u8 {
        match self {
            Self::Sign | Self::Odd { .. } => !level as u8 & (self.levels() - 1) as u8,
            Self::Unsigned { .. } => level as u8,
            Self::Ternary => [0b11, 0b00, 0b01][level],
            Self::Int8 => self.code(level) as u8,
        }
    }

    /// The code of stored bits, the inverse of [`Self::bits`]. Bits that no code has mean what their planes say.
    pub(crate) fn code_of(self, bits: u8) -> i32 {
        let bits = i32::from(bits);
        match self {
            Self::Sign | Self::Odd { .. } => *self.range().end() - 2 * bits,
            Self::Unsigned { .. } => bits,
            Self::Ternary => (bits & 1) * (1 - (bits & 2)),
            Self::Int8 => bits - ((bits & 128) << 1),
        }
    }
}

impl fmt::Display for Encoding {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Sign => f.write_str("sign (-1, 1)"),
            Self::Unsigned { bits } => write!(f, "unsigned ({bits} bit)"),
            Self::Odd { bits } => write!(f, "odd ({bits} bit)"),
            Self::Ternary => f.write_str("ternary (-1, 0, 1)"),
            Self::Int8 => f.write_str("int8"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn all() -> impl Iterator<Item = Encoding> {
        let wide = (1..=8).flat_map(|bits| [Encoding::Unsigned { bits }, Encoding::Odd { bits }]);
        [Encoding::Sign, Encoding::Ternary, Encoding::Int8].into_iter().chain(wide)
    }

    #[test]
    fn codes_levels_and_bits_agree() {
        for encoding in all() {
            let codes: Vec<i32> = (0..encoding.levels()).map(|level| encoding.code(level)).collect();
            assert!(codes.is_sorted() && codes.last() == Some(encoding.range().end()), "{encoding}");
            for (level, &code) in codes.iter().enumerate() {
                assert_eq!(encoding.level(code), Some(level), "{encoding}");
                assert_eq!(encoding.code_of(encoding.bits(level)), code, "{encoding}");
            }
            let found: Vec<i32> = (-600..600).filter(|&code| encoding.level(code).is_some()).collect();
            assert_eq!(found, codes, "{encoding}");
            assert!(encoding.level(i32::MIN).is_none() && encoding.level(i32::MAX).is_none());
        }
    }

    #[test]
    fn odd_codes_are_weighted_signs() {
        let encoding = Encoding::Odd { bits: 3 };
        for level in 0..8 {
            let bits = encoding.bits(level);
            let sum: i32 = (0..3).map(|i| (1 << i) * if bits >> i & 1 == 1 { -1 } else { 1 }).sum();
            assert_eq!(sum, encoding.code(level));
        }
        assert_eq!(Encoding::Sign.bits(0), 1);
    }

    #[test]
    fn bits_outside_one_to_eight_are_refused() {
        assert_eq!(Encoding::Odd { bits: 0 }.checked(), Err(PackError::Bits { bits: 0 }));
        assert_eq!(Encoding::Unsigned { bits: 9 }.checked(), Err(PackError::Bits { bits: 9 }));
        assert!(all().all(|encoding| encoding.checked() == Ok(encoding)));
    }
}
