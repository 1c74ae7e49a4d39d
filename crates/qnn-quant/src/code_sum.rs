use crate::{Error, Result};

/// The sum of two codes, each with a scale of its own, as a code of a third: the end of a residual block without a float.
///
/// ```text
/// S_y y = S_a a + S_b b
/// m_a   = round(2^shift · S_a / S_y),   m_b likewise,   0 ≤ m ≤ 2²¹,   shift ≤ 30 as large as that allows
/// y     = round((a · m_a + b · m_b) / 2^shift)                                         halves away from zero
/// ```
///
/// Both terms are brought to one scale before they are added, so that there is one rounding. For codes of up to nine bits, ±511, the
/// sum fits 32 bits. Zero points are no part of it: a code is what is left when they are subtracted. Source: after Jacob et al. 2018, arXiv:1712.05877,
/// who rescale one of the inputs; the factors here have 21 bits where theirs have 31.
///
/// ```
/// # use qnn_quant::CodeSum;
/// let sum = CodeSum::new([0.5, 2.0])?;
/// assert_eq!([(3, 1), (-3, -1), (1, 0), (4, 0)].map(|(a, b)| sum.apply(a, b)), [4, -4, 1, 2]);
/// # Ok::<(), qnn_quant::Error>(())
/// ```
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct CodeSum {
    multipliers: [i32; 2],
    shift: u32,
}

/// The largest multiplier: 2 · 511 · 2²¹ is less than 2³¹, and with half of 2³⁰ less than 2³².
const LARGEST: i32 = 1 << 21;
const LARGEST_SHIFT: u32 = 30;

impl CodeSum {
    /// The nearest multipliers for the ratios `S_a / S_y` and `S_b / S_y`.
    ///
    /// # Errors
    ///
    /// [`Error::Parameter`] unless both are at least 0 and at most 2²¹.
    pub fn new(ratios: [f64; 2]) -> Result<Self> {
        let largest = ratios[0].max(ratios[1]);
        if !ratios.iter().all(|ratio| (0.0..=f64::from(LARGEST)).contains(ratio)) {
            let (value, expected) = (format!("{ratios:?}"), "from 0 to 2^21");
            return Err(Error::Parameter { owner: "sum of codes", parameter: "ratios", value, expected });
        }
        let multiplier =
            |ratio: f64, shift: u32| (ratio * f64::from(1_u32 << shift)).round_ties_even() as i64;
        let fits = |shift: &u32| multiplier(largest, *shift) <= LARGEST.into();
        let shift = (0..=LARGEST_SHIFT).rev().find(fits).unwrap_or(0);
        Ok(Self { multipliers: ratios.map(|ratio| multiplier(ratio, shift) as i32), shift })
    }

    /// The sum with multipliers and a shift that [`new`](CodeSum::new) has found.
    ///
    /// # Errors
    ///
    /// [`Error::Parameter`] for numbers that it never finds.
    pub fn from_parts(multipliers: [i32; 2], shift: u32) -> Result<Self> {
        if multipliers.iter().all(|m| (0..=LARGEST).contains(m)) && shift <= LARGEST_SHIFT {
            return Ok(Self { multipliers, shift });
        }
        let value = format!("{multipliers:?}, {shift}");
        let expected = "multipliers from 0 to 2^21 and a shift up to 30";
        Err(Error::Parameter { owner: "sum of codes", parameter: "multipliers, shift", value, expected })
    }

    /// The factors of both terms.
    pub fn multipliers(&self) -> [i32; 2] {
        self.multipliers
    }

    /// How far the sum is shifted to the right.
    pub fn shift(&self) -> u32 {
        self.shift
    }

    /// The sum's code, before it is clamped. Codes beyond ±511 may wrap around.
    #[inline]
    pub fn apply(&self, a: i32, b: i32) -> i32 {
        let [m_a, m_b] = self.multipliers;
        let sum = a.wrapping_mul(m_a).wrapping_add(b.wrapping_mul(m_b));
        let half = (1_u32 << self.shift) >> 1;
        // Rounding the magnitude makes it symmetric.
        let magnitude = (sum.unsigned_abs().wrapping_add(half) >> self.shift) as i32;
        if sum < 0 { magnitude.wrapping_neg() } else { magnitude }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn the_sum_is_the_formula_in_64_bits(
            a in -511_i32..=511, b in -511_i32..=511,
            exponents in [-40_i32..21, -40_i32..21], fractions in [0.5_f64..1.0, 0.5_f64..1.0],
        ) {
            let ratios = [0, 1].map(|i| fractions[i] * 2_f64.powi(exponents[i]));
            let sum = CodeSum::new(ratios).unwrap();
            let ([m_a, m_b], divisor) = (sum.multipliers().map(i64::from), 1_i64 << sum.shift());
            let exact = i64::from(a) * m_a + i64::from(b) * m_b;
            let rounded = (2 * exact.abs() + divisor) / (2 * divisor) * exact.signum();
            prop_assert_eq!(i64::from(sum.apply(a, b)), rounded);
            let real = f64::from(a) * ratios[0] + f64::from(b) * ratios[1];
            // Each multiplier is off by half a unit of 2^-shift.
            let slack = 0.5 + 1022.0 * 0.5 / divisor as f64 + 1e-9;
            prop_assert!((rounded as f64 - real).abs() <= slack, "{} for {}", rounded, real);
            prop_assert_eq!(CodeSum::from_parts(sum.multipliers(), sum.shift()).unwrap(), sum);
        }
    }

    #[test]
    fn extremes_stay_within_32_bits_and_senseless_ratios_are_errors() {
        let largest = CodeSum::new([f64::from(LARGEST); 2]).unwrap();
        assert_eq!((largest.shift(), largest.apply(511, 511)), (0, 1022 * LARGEST));
        let least = CodeSum::new([0.0, 1e-30]).unwrap();
        assert_eq!((least.shift(), least.apply(-511, -511)), (30, 0));
        let half = CodeSum::new([2_f64.powi(-9); 2]).unwrap();
        assert_eq!((half.shift(), half.apply(511, 511), half.apply(-511, -511)), (30, 2, -2));
        assert_eq!(CodeSum::new([0.001, 0.0]).unwrap().apply(500, 3), 1, "half away from zero");
        for ratios in [[-1.0, 0.0], [f64::NAN, 1.0], [1.0, 3e6], [f64::INFINITY, 0.0]] {
            assert!(matches!(CodeSum::new(ratios), Err(Error::Parameter { .. })), "{ratios:?}");
        }
        assert!(CodeSum::from_parts([-1, 0], 3).is_err() && CodeSum::from_parts([1, 1], 31).is_err());
    }
}
