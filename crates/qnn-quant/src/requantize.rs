use crate::{Error, Result};

/// A positive real factor as integers: what takes an int32 sum of products to the next layer's codes without a float.
///
/// ```text
/// scale   = multiplier · 2^(−31 − shift),   2³⁰ ≤ multiplier < 2³¹
/// high    = ⌊(acc · multiplier + 2³⁰) / 2³¹⌋                        doubling high multiply, halves upwards
/// result  = round(high / 2^shift)                                   rounding shift, halves away from zero
/// ```
///
/// With a negative shift (a scale of 1 or more) the accumulator is shifted left before, and saturates. The factor of a layer is
/// `S_input · S_weight / S_output`. The two roundings are those of the authors' published code: the multiply is ARM's
/// `SQRDMULH`, the shift is made symmetric. It is the one place that does not round half to even. All intermediate results fit in 64 bits, and
/// the computation below is that expression and nothing else: a reference for faster ones.
///
/// ```
/// # use qnn_quant::Multiplier;
/// let quarter = Multiplier::new(0.25)?;
/// // 5/4 is rounded twice: the multiply makes 5/2 a 3, the shift makes 3/2 a 2.
/// assert_eq!([4, 5, 6, -4, -5, -6].map(|acc| quarter.apply(acc)), [1, 2, 2, -1, -1, -2]);
/// assert_eq!(quarter.requantize(-6, 10, 0..=255), 8);
/// # Ok::<(), qnn_quant::Error>(())
/// ```
///
/// Source: Jacob et al. 2018, arXiv:1712.05877, section 2.2, formulas (4) to (6), and appendix B.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Multiplier {
    multiplier: i32,
    shift: i32,
}

impl Multiplier {
    /// The nearest multiplier of 31 bits. A scale that this makes less than 2⁻³² takes every accumulator to 0.
    ///
    /// # Errors
    ///
    /// [`Error::Parameter`] unless the scale is positive and less than 2³⁰, after rounding to 31 bits.
    pub fn new(scale: f64) -> Result<Self> {
        if !(scale > 0.0 && scale < 2_f64.powi(30) - 0.25) {
            let (value, expected) = (scale.to_string(), "positive and less than 2^30");
            return Err(Error::Parameter { owner: "requantization", parameter: "scale", value, expected });
        }
        if scale < 2_f64.powi(-62) {
            return Ok(Multiplier { multiplier: 0, shift: 0 });
        }
        // scale = fraction · 2^exponent with a fraction in [1/2, 1).
        let exponent = (scale.to_bits() >> 52) as i32 - 1022;
        let multiplier = (scale * 2_f64.powi(31 - exponent)).round_ties_even() as i64;
        Ok(match multiplier {
            // Rounded up to 1: half of it, with twice the power.
            0x8000_0000 => Multiplier { multiplier: 1 << 30, shift: -exponent - 1 },
            _ => Multiplier { multiplier: multiplier as i32, shift: -exponent },
        })
    }

    /// The factor with a multiplier and a shift that [`new`](Multiplier::new) has found.
    ///
    /// # Errors
    ///
    /// [`Error::Parameter`] for numbers that it never finds.
    pub fn from_parts(multiplier: i32, shift: i32) -> Result<Self> {
        let found = Multiplier { multiplier, shift };
        let is_whole = multiplier >= 1 << 30 && (-30..=61).contains(&shift);
        if is_whole || found == (Multiplier { multiplier: 0, shift: 0 }) {
            return Ok(found);
        }
        let (value, expected) = (format!("{multiplier}, {shift}"), "31 bits and a shift from -30 to 61");
        Err(Error::Parameter { owner: "requantization", parameter: "multiplier, shift", value, expected })
    }

    /// The factor times 2^(31 + shift): 2³⁰ to 2³¹ − 1, or 0.
    pub fn multiplier(&self) -> i32 {
        self.multiplier
    }

    /// How far to the right; to the left if negative.
    pub fn shift(&self) -> i32 {
        self.shift
    }

    /// The factor that is applied: the scale, rounded to 31 bits.
    pub fn scale(&self) -> f64 {
        f64::from(self.multiplier) * 2_f64.powi(-31 - self.shift)
    }

    /// The accumulator times the scale, rounded.
    pub fn apply(&self, acc: i32) -> i32 {
        let lifted = i64::from(acc) << (-self.shift).clamp(0, 31);
        let lifted = lifted.clamp(i32::MIN.into(), i32::MAX.into());
        let high = (lifted * i64::from(self.multiplier) + (1 << 30)) >> 31;
        let shift = self.shift.clamp(0, 62);
        let half = (1_i64 << shift) >> 1;
        // Rounding the magnitude makes the shift symmetric.
        (high.signum() * ((high.abs() + half) >> shift)) as i32
    }

    /// The stored integer: `clamp(zero_point + acc · scale)`.
    ///
    /// # Panics
    ///
    /// If the least integer to store is above the greatest.
    #[track_caller]
    pub fn requantize(&self, acc: i32, zero_point: i32, stored: std::ops::RangeInclusive<i32>) -> i32 {
        self.apply(acc).saturating_add(zero_point).clamp(*stored.start(), *stored.end())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_multiplier_is_the_nearest() {
        for scale in [1e-9, 0.000_123, 0.1, 0.25, 0.5, 1.0 - 1e-12, 1.0, 1.7, 300.0, 1e9] {
            let found = Multiplier::new(scale).unwrap();
            assert!((1 << 30..=i32::MAX).contains(&found.multiplier()), "{scale}: {found:?}");
            assert!((found.scale() / scale - 1.0).abs() <= 2_f64.powi(-31), "{scale}: {found:?}");
            assert_eq!(Multiplier::from_parts(found.multiplier(), found.shift()).unwrap(), found);
        }
        for (multiplier, shift) in [(1, 0), (-1, 3), (1 << 30, 62), (1 << 30, -31), (0, 1)] {
            assert!(Multiplier::from_parts(multiplier, shift).is_err(), "{multiplier}, {shift}");
        }
        for scale in [0.0, -1.0, f64::NAN, f64::INFINITY, 2_f64.powi(30), 2_f64.powi(30) - 0.25] {
            assert!(matches!(Multiplier::new(scale), Err(Error::Parameter { .. })), "{scale}");
        }
    }

    #[test]
    fn results_are_the_product_rounded_twice_at_most() {
        for scale in [1e-12, 3.3e-5, 0.0078, 0.5, 0.99, 1.0, 2.5, 1e6] {
            let multiplier = Multiplier::new(scale).unwrap();
            for acc in [0, 1, -1, 2, 3, 1000, -1001, 65_537, i32::MAX, i32::MIN, 123_456_789] {
                // A left shift saturates.
                let lift = f64::from((-multiplier.shift()).max(0)).exp2();
                let lifted = (f64::from(acc) * lift).clamp(i32::MIN.into(), i32::MAX.into());
                let exact = lifted / lift * scale;
                let found = f64::from(multiplier.apply(acc));
                let slack = 0.5 + 0.5_f64.max(exact.abs() * 2_f64.powi(-30));
                assert!((found - exact).abs() <= slack, "{acc} * {scale}: {found}, exactly {exact}");
            }
        }
    }

    /// The formula with divisions, in integers that hold everything.
    fn plain(acc: i32, multiplier: i32, shift: i32) -> i32 {
        let lifted = i128::from(acc) * (1_i128 << (-shift).max(0));
        let lifted = lifted.clamp(i32::MIN.into(), i32::MAX.into());
        let high = (lifted * i128::from(multiplier) + (1 << 30)).div_euclid(1 << 31);
        let power = 1_i128 << shift.max(0);
        let magnitude = (2 * high.abs() + power) / (2 * power);
        i32::try_from(if high < 0 { -magnitude } else { magnitude }).unwrap()
    }

    #[test]
    fn results_are_those_of_the_plain_formula_to_the_bit() {
        let mixed = (0..200_u32).map(|i| i.wrapping_mul(0x9E37_79B1));
        let multipliers = [1 << 30, (1 << 30) + 1, 3 << 29, i32::MAX - 1, i32::MAX];
        let multipliers: Vec<i32> = multipliers
            .into_iter()
            .chain(mixed.clone().step_by(20).map(|i| (1 << 30 | i >> 2) as i32))
            .collect();
        let ends = [i32::MIN, i32::MIN + 1, -1 << 30, i32::MAX, i32::MAX - 1, 1 << 30];
        let accumulators: Vec<i32> = (-20..=20).chain(ends).chain(mixed.map(|i| i as i32)).collect();
        for shift in -30..=61 {
            for &multiplier in &multipliers {
                let found = Multiplier::from_parts(multiplier, shift).unwrap();
                for &acc in &accumulators {
                    let expected = plain(acc, multiplier, shift);
                    assert_eq!(found.apply(acc), expected, "{acc} * {multiplier}, {shift}");
                    // With the least multiplier, odd multiples of the divisor are ties of the shift.
                    let tie = acc.wrapping_mul(2).wrapping_add(1).wrapping_shl(shift.clamp(0, 30) as u32);
                    let expected = plain(tie, multiplier, shift);
                    assert_eq!(found.apply(tie), expected, "{tie} * {multiplier}, {shift}");
                }
            }
        }
    }

    #[test]
    fn the_least_scale_that_does_anything_moves_the_ends_alone() {
        let least = Multiplier::new(2_f64.powi(-32)).unwrap();
        assert_eq!(
            [i32::MIN, i32::MIN + 1, i32::MAX - 1, i32::MAX].map(|acc| least.apply(acc)),
            [-1, 0, 0, 1]
        );
        let below = Multiplier::new(2_f64.powi(-32) * (1.0 - 2_f64.powi(-31))).unwrap();
        assert_eq!([i32::MIN, i32::MAX].map(|acc| below.apply(acc)), [0, 0]);
    }

    #[test]
    fn halves_go_where_the_formula_says() {
        // A scale of 1/2 needs no shift: the multiply alone rounds, halves upwards.
        let half = Multiplier::new(0.5).unwrap();
        assert_eq!([1, -1, 3, -3].map(|acc| half.apply(acc)), [1, 0, 2, -1]);
        // One of 1/4 shifts by one: -6/4 is -3 after the multiply, and away from zero in the shift.
        let quarter = Multiplier::new(0.25).unwrap();
        assert_eq!([6, -6, 2, -2].map(|acc| quarter.apply(acc)), [2, -2, 1, -1]);
        assert_eq!(Multiplier::new(2_f64.powi(-80)).unwrap().apply(i32::MIN), 0);
    }
}
