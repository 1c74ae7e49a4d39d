//! Signs packed 64 to a word, and dot products of ±1 vectors by XNOR and popcount.
//!
//! The convention, here and nowhere else: **a set bit is −1, a clear bit is +1**. Bit `i` of the vector is bit `i mod 64` of word `i / 64`,
//! the least significant first. Bits past the length are clear in every packed vector, so that they cancel in `a xor b` and need no mask.
//!
//! ```text
//! a · b = K − 2 · popcount(a xor b)          K = length
//! ```

use thiserror::Error;

use crate::Kernels;

/// Why values cannot be packed.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
pub enum PackError {
    /// A NaN has no sign to pack.
    #[error("element {index} of {len} is NaN, which has no sign: clean the values before packing")]
    NotANumber {
        /// Position of the first NaN.
        index: usize,
        /// Length of the vector.
        len: usize,
    },
}

/// A vector of ±1, one bit each.
///
/// ```
/// use qnn_kernels::bits::{PackedBits, xnor_popcount_dot};
/// let a = PackedBits::pack_signs(&[0.5, -2.0, 0.0])?;
/// let b = PackedBits::pack_signs(&[1.0, 1.0, -0.1])?;
/// assert_eq!(a.unpack(), [1.0, -1.0, 1.0]);
/// assert_eq!(xnor_popcount_dot(&a, &b), 1 - 1 - 1);
/// # Ok::<(), qnn_kernels::bits::PackError>(())
/// ```
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct PackedBits {
    words: Vec<u64>,
    len: usize,
}

impl PackedBits {
    /// Packs the signs: `x < 0` becomes −1 (bit set), all else +1, both zeros included.
    ///
    /// # Errors
    ///
    /// [`PackError::NotANumber`] with the position of the first NaN.
    pub fn pack_signs(values: &[f32]) -> Result<Self, PackError> {
        if let Some(index) = values.iter().position(|value| value.is_nan()) {
            return Err(PackError::NotANumber { index, len: values.len() });
        }
        let words = values.chunks(64).map(pack_word).collect();
        Ok(Self { words, len: values.len() })
    }

    /// The number of signs.
    #[must_use]
    pub fn len(&self) -> usize {
        self.len
    }

    /// Whether there are none.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.len == 0
    }

    /// The words, `⌈len / 64⌉` of them, with clear bits past the length.
    #[must_use]
    pub fn words(&self) -> &[u64] {
        &self.words
    }

    /// The signs as `+1.0` and `-1.0`.
    #[must_use]
    pub fn unpack(&self) -> Vec<f32> {
        let sign = |index: usize| if self.words[index / 64] >> (index % 64) & 1 == 1 { -1.0 } else { 1.0 };
        (0..self.len).map(sign).collect()
    }
}

fn pack_word(values: &[f32]) -> u64 {
    values.iter().enumerate().fold(0, |word, (bit, &value)| word | u64::from(value < 0.0) << bit)
}

/// The dot product of two ±1 vectors, by words: `K − 2·popcount(a xor b)`.
///
/// # Panics
///
/// If the lengths differ, or exceed `i32::MAX`.
#[must_use]
#[track_caller]
pub fn xnor_popcount_dot(a: &PackedBits, b: &PackedBits) -> i32 {
    Kernels::current().xnor_popcount_dot(a, b)
}

impl Kernels {
    /// [`xnor_popcount_dot`] with these kernels.
    ///
    /// # Panics
    ///
    /// As there.
    #[must_use]
    #[track_caller]
    pub fn xnor_popcount_dot(&self, a: &PackedBits, b: &PackedBits) -> i32 {
        assert!(a.len == b.len, "a dot product of {} and {} signs", a.len, b.len);
        let len = i32::try_from(a.len).expect("a dot product of at most i32::MAX signs");
        let differing =
            u32::try_from(self.xor_popcount(&a.words, &b.words)).expect("no more differing bits than signs");
        // At most `len` bits differ, so the result lies in −len ..= len, however the steps between wrap.
        len.wrapping_sub_unsigned(differing).wrapping_sub_unsigned(differing)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::Isa;
    use proptest::prelude::*;

    /// The same sum from the unpacked signs, one product at a time.
    fn plain_dot(a: &[f32], b: &[f32]) -> i32 {
        let sign = |x: f32| if x < 0.0 { -1 } else { 1 };
        let mut sum = 0;
        for index in 0..a.len() {
            sum += sign(a[index]) * sign(b[index]);
        }
        sum
    }

    fn value() -> impl Strategy<Value = f32> {
        prop_oneof![
            -2.0_f32..2.0,
            proptest::sample::select(vec![
                0.0,
                -0.0,
                f32::INFINITY,
                f32::NEG_INFINITY,
                f32::MIN_POSITIVE,
                -1e-45,
                1.0,
                -1.0
            ]),
        ]
    }

    fn pair() -> impl Strategy<Value = (Vec<f32>, Vec<f32>)> {
        let lengths = prop_oneof![
            proptest::sample::select(vec![0_usize, 1, 63, 64, 65, 127, 128, 129, 512]),
            0_usize..300
        ];
        lengths.prop_flat_map(|len| {
            (proptest::collection::vec(value(), len), proptest::collection::vec(value(), len))
        })
    }

    proptest! {
        #[test]
        fn dot_of_packed_is_dot_of_signs((a, b) in pair()) {
            let (packed_a, packed_b) = (PackedBits::pack_signs(&a).unwrap(), PackedBits::pack_signs(&b).unwrap());
            for kernels in Isa::available().filter_map(Kernels::of) {
                prop_assert_eq!(kernels.xnor_popcount_dot(&packed_a, &packed_b), plain_dot(&a, &b), "{}", kernels.isa());
            }
        }

        #[test]
        fn unpack_gives_the_signs_and_the_tail_is_clear((a, _) in pair()) {
            let packed = PackedBits::pack_signs(&a).unwrap();
            let signs: Vec<f32> = a.iter().map(|&x| if x < 0.0 { -1.0 } else { 1.0 }).collect();
            prop_assert_eq!(packed.unpack(), signs);
            prop_assert_eq!(packed.words().len(), a.len().div_ceil(64));
            let negative = a.iter().filter(|&&x| x < 0.0).count();
            let set: u32 = packed.words().iter().map(|word| word.count_ones()).sum();
            prop_assert_eq!(set as usize, negative);
        }

        #[test]
        fn a_nan_is_found((mut a, _) in pair(), at in any::<proptest::sample::Index>()) {
            prop_assume!(!a.is_empty());
            let index = at.index(a.len());
            a[index] = f32::NAN;
            let expected = PackError::NotANumber { index, len: a.len() };
            prop_assert_eq!(PackedBits::pack_signs(&a), Err(expected));
        }
    }

    #[test]
    fn extremes_of_the_dot_product() {
        let ones = PackedBits::pack_signs(&[1.0; 512]).unwrap();
        let minus = PackedBits::pack_signs(&[-1.0; 512]).unwrap();
        assert_eq!(xnor_popcount_dot(&ones, &ones), 512);
        assert_eq!(xnor_popcount_dot(&minus, &minus), 512);
        assert_eq!(xnor_popcount_dot(&ones, &minus), -512);
    }

    #[test]
    #[should_panic(expected = "a dot product of 1 and 2 signs")]
    fn lengths_must_agree() {
        let one = PackedBits::pack_signs(&[1.0]).unwrap();
        let two = PackedBits::pack_signs(&[1.0; 2]).unwrap();
        let _ = xnor_popcount_dot(&one, &two);
    }
}
