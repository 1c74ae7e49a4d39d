/// Rounds to the nearest integer, halves to the even one, for |x| ≤ 2^51. NaN stays NaN.
///
/// Adding `1.5 · 2^52` leaves no room for a fraction, so the addition itself rounds; unlike a call of
/// `round_ties_even` this is vectorised for every instruction set.
#[inline(always)]
pub(crate) fn round_half_even(x: f64) -> f64 {
    const SHIFT: f64 = 1.5 * (1_u64 << 52) as f64;
    (x + SHIFT) - SHIFT
}

/// Into [low, high]; NaN stays NaN. Unlike `clamp` it asks nothing of the ends, which keeps a panic out of inner loops.
#[inline(always)]
pub(crate) fn clip(x: f64, low: f64, high: f64) -> f64 {
    let x = if x < low { low } else { x };
    if x > high { high } else { x }
}

/// The greatest f32 that is not above `x`: for every f32 `w`, `w > x` in f64 exactly if `w > floor_to_f32(x)` in f32.
pub(crate) fn floor_to_f32(x: f64) -> f32 {
    let nearest = x as f32;
    if f64::from(nearest) > x { nearest.next_down() } else { nearest }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rounding_is_half_to_even() {
        let exact = 2_f64.powi(51);
        for x in [
            0.0,
            0.5,
            1.5,
            2.5,
            0.49999999999999994,
            254.5,
            1e15 + 0.5,
            exact,
            f64::MIN_POSITIVE,
            1.0 - 1e-16,
        ] {
            assert_eq!(round_half_even(x), x.round_ties_even(), "{x}");
            assert_eq!(round_half_even(-x), (-x).round_ties_even(), "-{x}");
        }
        assert!(round_half_even(f64::NAN).is_nan());
    }

    #[test]
    fn thresholds_in_f32_decide_as_in_f64() {
        for x in [0.0, 1e-50, 0.7 * 0.3, 0.7, 1.0, 1.0 + 1e-12, 1e-45, 3e38] {
            let threshold = floor_to_f32(x);
            for w in [threshold.next_down(), threshold, threshold.next_up()] {
                assert_eq!(w > threshold, f64::from(w) > x, "{w} against {x}");
            }
        }
        assert!(floor_to_f32(f64::NAN).is_nan());
    }
}
