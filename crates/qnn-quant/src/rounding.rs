const SHIFT: f64 = 1.5 * (1_u64 << 52) as f64;

/// Rounds to the nearest integer, halves to the even one, for |x| ≤ 2^51. NaN stays NaN.
///
/// Adding `1.5 · 2^52` leaves no room for a fraction, so the addition itself rounds; unlike a call of
/// `round_ties_even` this is vectorised for every instruction set.
#[inline(always)]
pub(crate) fn round_half_even(x: f64) -> f64 {
    (x + SHIFT) - SHIFT
}

/// Divides and rounds to the nearest integer, halves to the even one: to the bit `round_half_even(x / divisor)`, without a division.
///
/// For divisors of at most 25 binary digits and quotients up to 2^20. The product with the reciprocal is at most an ulp off, which
/// matters beside a half alone, and there the remainder decides. It is exact, as `(m + 1/2) · divisor` is, and a number on one side
/// of that product has a quotient that f64 rounds to the same side of `m + 1/2`.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Divisor {
    divisor: f64,
    inverse: f64,
}

impl Divisor {
    pub(crate) fn new(divisor: f64) -> Self {
        Divisor { divisor, inverse: divisor.recip() }
    }

    #[inline(always)]
    pub(crate) fn round(self, x: f64) -> f64 {
        let shifted = x * self.inverse + SHIFT;
        let nearest = shifted - SHIFT;
        let rest = x - nearest * self.divisor;
        let half = 0.5 * self.divisor;
        let is_odd = shifted.to_bits() & 1 == 1;
        let beyond = (rest.abs() > half) | (is_odd & (rest.abs() == half));
        nearest + if beyond { 1_f64.copysign(rest) } else { 0.0 }
    }
}

/// The nearest multiple of a step, within bounds.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Steps {
    step: Divisor,
    /// The bounds times the step: clipping before the division is clipping after it.
    ends: [f64; 2],
    inverse: f32,
    bounds: [f32; 2],
    error: f32,
}

impl Steps {
    pub(crate) fn new(step: f32, low: i32, high: i32) -> Self {
        let bounds = [low, high].map(|bound| bound as f32);
        Steps {
            step: Divisor::new(step.into()),
            ends: bounds.map(|bound| f64::from(bound) * f64::from(step)),
            inverse: quick_factor(f64::from(step).recip()),
            bounds,
            // Two roundings, and as much again.
            error: 2.5e-7 * low.abs().max(high.abs()) as f32,
        }
    }

    #[inline(always)]
    pub(crate) fn nearest(&self, x: f32) -> f32 {
        self.step.round(clip(x.into(), self.ends[0], self.ends[1])) as f32
    }

    /// [`nearest`](Steps::nearest) in f32 alone, with a doubt.
    #[inline(always)]
    pub(crate) fn likely(&self, x: f32) -> (f32, f32) {
        likely_nearest(clip_f32(x * self.inverse, self.bounds[0], self.bounds[1]), self.error)
    }
}

/// A factor of a quick way in f32: NaN, with which everything is in doubt, where products with it might leave the range of f32.
pub(crate) fn quick_factor(factor: f64) -> f32 {
    if (1e-30..1e30).contains(&factor) { factor as f32 } else { f32::NAN }
}

/// The nearest integer of a position that is known to within an error, and a doubt of 1 and more where it may be a neighbour.
#[inline(always)]
pub(crate) fn likely_nearest(position: f32, error: f32) -> (f32, f32) {
    const SHIFT: f32 = 1.5 * (1 << 23) as f32;
    let nearest = (position + SHIFT) - SHIFT;
    (nearest, (position - nearest).abs() + (0.5 + error))
}

/// [`clip`] in f32.
#[inline(always)]
pub(crate) fn clip_f32(x: f32, low: f32, high: f32) -> f32 {
    let x = if x < low { low } else { x };
    if x > high { high } else { x }
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
    fn a_remainder_rounds_like_the_quotient() {
        let divisors = [1.0, 3.0, 0.1, 1e-38, 3e38, 1.0 / 3.0, 0.7, 6.1e-5, 1.000_000_1, 2.0 - 1e-7];
        for divisor in divisors.map(|divisor: f32| f64::from(divisor)) {
            let by = Divisor::new(divisor);
            for half in (-2000..=2000).map(|i| 0.5 * f64::from(i)).chain([65534.5, 65535.5, 1e6 + 0.5]) {
                let x = half * divisor;
                let nearby = [x, x.next_down(), x.next_up(), x * (1.0 - 1e-12), x * (1.0 + 1e-9), 0.9 * x];
                for x in nearby.into_iter().chain([f64::from(x as f32)]) {
                    assert_eq!(by.round(x), round_half_even(x / divisor), "{x:e} / {divisor:e}");
                }
            }
            assert!(by.round(f64::NAN).is_nan());
        }
        assert!(Divisor::new(f64::NAN).round(1.0).is_nan());
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
