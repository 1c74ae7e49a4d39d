use crate::{Error, Result};

/// The integer codes of a quantized tensor: `first, first + step, ..` (`count` of them).
///
/// ```
/// # use qnn_quant::Alphabet;
/// assert_eq!(Alphabet::odd(2).codes().collect::<Vec<_>>(), [-3, -1, 1, 3]);
/// assert_eq!(Alphabet::TERNARY.bits(), 2);
/// ```
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Alphabet {
    /// The least code.
    pub first: i32,
    /// Distance of neighbouring codes, at least 1.
    pub step: i32,
    /// How many codes there are, at least 1.
    pub count: u32,
}

impl Alphabet {
    /// `{−1, +1}`.
    pub const BINARY: Alphabet = Alphabet { first: -1, step: 2, count: 2 };
    /// `{−1, 0, +1}`.
    pub const TERNARY: Alphabet = Alphabet { first: -1, step: 1, count: 3 };
    /// `{0, 1}`.
    pub const UNIT: Alphabet = Alphabet { first: 0, step: 1, count: 2 };

    /// Codes are held in f32 during training, which counts exactly up to here.
    const LIMIT: i64 = 1 << 24;

    /// The integers from `−limit` to `limit`.
    ///
    /// # Panics
    ///
    /// If `limit` is 0 or above 2^23.
    #[track_caller]
    pub const fn symmetric(limit: u32) -> Alphabet {
        assert!(1 <= limit && limit <= 1 << 23, "a symmetric alphabet ends at 1 to 2^23");
        Alphabet { first: -(limit as i32), step: 1, count: 2 * limit + 1 }
    }

    /// The largest magnitude of a code.
    pub const fn magnitude(self) -> u32 {
        let (first, last) = (self.first.unsigned_abs(), self.last().unsigned_abs());
        if first > last { first } else { last }
    }

    /// `{−2^(bits−1), .., 2^(bits−1) − 1}`: two's complement.
    ///
    /// # Panics
    ///
    /// If `bits` is 0 or above 24.
    #[track_caller]
    pub const fn signed(bits: u32) -> Alphabet {
        assert!(1 <= bits && bits <= 24, "an alphabet has 1 to 24 bits");
        Alphabet { first: -(1 << (bits - 1)), step: 1, count: 1 << bits }
    }

    /// `{0, 1, .., 2^bits − 1}`.
    ///
    /// # Panics
    ///
    /// If `bits` is 0 or above 24.
    #[track_caller]
    pub const fn unsigned(bits: u32) -> Alphabet {
        assert!(1 <= bits && bits <= 24, "an alphabet has 1 to 24 bits");
        Alphabet { first: 0, step: 1, count: 1 << bits }
    }

    /// The odd integers `{−(2^bits − 1), .., −1, +1, .., 2^bits − 1}`: evenly spaced and symmetric, without a zero.
    ///
    /// # Panics
    ///
    /// If `bits` is 0 or above 24.
    #[track_caller]
    pub const fn odd(bits: u32) -> Alphabet {
        assert!(1 <= bits && bits <= 24, "an alphabet has 1 to 24 bits");
        Alphabet { first: 1 - (1 << bits), step: 2, count: 1 << bits }
    }

    /// The greatest code.
    pub const fn last(&self) -> i32 {
        self.first + self.step * (self.count as i32 - 1)
    }

    /// Bits that tell the codes apart: `⌈log2 count⌉`, at least 1.
    pub const fn bits(&self) -> u32 {
        let bits = self.count.next_power_of_two().trailing_zeros();
        if bits == 0 { 1 } else { bits }
    }

    /// All codes in increasing order.
    pub fn codes(self) -> impl Iterator<Item = i32> + Clone {
        (0..self.count as i32).map(move |index| self.first + self.step * index)
    }

    /// Whether `code` is one of the codes.
    pub const fn contains(&self, code: i32) -> bool {
        let distance = code as i64 - self.first as i64;
        distance >= 0 && distance % self.step as i64 == 0 && distance / (self.step as i64) < self.count as i64
    }

    /// Where in the alphabet a code stands, counted from 0.
    pub(crate) const fn position(&self, code: i32) -> usize {
        ((code - self.first) / self.step) as usize
    }

    /// Fields are public, so whoever stores an alphabet checks it once.
    pub(crate) fn checked(self) -> Result<Self> {
        let last = i64::from(self.first) + i64::from(self.step) * (i64::from(self.count) - 1);
        let in_range = |code: i64| code.abs() <= Self::LIMIT;
        if self.step >= 1 && self.count >= 1 && in_range(self.first.into()) && in_range(last) {
            return Ok(self);
        }
        Err(Error::Grid {
            what: "the alphabet",
            value: format!("{self:?}"),
            expected: "step and count of at least 1 and codes within ±2^24".to_owned(),
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn codes_last_and_contains_agree() {
        for alphabet in
            [Alphabet::BINARY, Alphabet::TERNARY, Alphabet::UNIT, Alphabet::odd(8), Alphabet::unsigned(8)]
        {
            let codes: Vec<i32> = alphabet.codes().collect();
            assert_eq!(codes.len(), alphabet.count as usize);
            assert_eq!(codes.last(), Some(&alphabet.last()));
            let found: Vec<i32> = (-600..600).filter(|&code| alphabet.contains(code)).collect();
            assert_eq!(found, codes);
        }
        assert_eq!(Alphabet::odd(1), Alphabet::BINARY);
        assert_eq!(Alphabet::unsigned(1), Alphabet::UNIT);
        assert!(!Alphabet::BINARY.contains(i32::MAX) && !Alphabet::BINARY.contains(i32::MIN));
    }

    #[test]
    fn bits_are_those_that_tell_the_codes_apart() {
        for (count, bits) in [(1, 1), (2, 1), (3, 2), (4, 2), (5, 3), (256, 8), (257, 9)] {
            assert_eq!(Alphabet { first: 0, step: 1, count }.bits(), bits, "{count} codes");
        }
    }

    #[test]
    fn nonsense_is_refused() {
        for (first, step, count) in
            [(0, 0, 2), (0, -1, 2), (0, 1, 0), (0, 2, 1 << 24), (i32::MIN, 1, 2), (0, 1, u32::MAX)]
        {
            assert!(Alphabet { first, step, count }.checked().is_err());
        }
    }
}
