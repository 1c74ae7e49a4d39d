//! Quick bounds of the derivative of tanh, for [`bounded`](crate::bounded).

use qnn_math::exp2_roughly;

use crate::rounding::{clip, round_half_even};

/// The relative error of a quick result whose exponent is exact: that of [`exp2_roughly`], and a quarter more for the roundings after it
/// and those of the exact way.
const ERROR: f64 = 1e-12;

/// Beyond this exponent, either way, every slope of a safe height is 0 in f32.
const END: f64 = 400.0;

/// How much y grows by with z.
const PER_Z: f64 = 2.0 * std::f64::consts::LOG2_E;

/// `height · (1 − tanh²z)` within two bounds.
///
/// ```text
/// 1 − tanh²z = 4e / (1 + e)²,   e = 2^y,   y = 2 log₂e · z, of either sign
/// ```
#[derive(Clone, Copy, Debug)]
pub(crate) struct Bell {
    /// How much y grows by with what it is computed of.
    rate: f64,
    heights: [f64; 2],
}

impl Bell {
    /// `reach` is the greatest number, in units of y, of which y is computed: the bounds make room for roundings of it. They are NaN where
    /// height and rate are not far from the ends of f64.
    fn new(height: f64, rate: f64, reach: f64) -> Self {
        let error = ERROR + 1e-15 * reach;
        let is_safe = (1e-30..1e30).contains(&height) && (1e-30..1e30).contains(&rate.abs()) && error < 1e-9;
        let height = if is_safe { 4.0 * height } else { f64::NAN };
        Bell { rate, heights: [height * (1.0 - error), height * (1.0 + error)] }
    }

    /// Of y from −1000 to 1000.
    #[inline(always)]
    fn bounds(&self, y: f64) -> [f32; 2] {
        let e = exp2_roughly(y);
        let sum = 1.0 + e;
        let quotient = e / (sum * sum);
        [(self.heights[0] * quotient) as f32, (self.heights[1] * quotient) as f32]
    }
}

/// A single bell, `height · (1 − tanh²(steepness · (x − center)))`.
#[derive(Clone, Copy, Debug)]
pub(crate) struct OneBell {
    bell: Bell,
    offset: f64,
}

impl OneBell {
    pub(crate) fn new(height: f64, steepness: f64, center: f64) -> Self {
        let rate = PER_Z * steepness;
        let offset = -center * rate;
        OneBell { bell: Bell::new(height, rate, END + 2.0 * offset.abs()), offset }
    }

    #[inline(always)]
    pub(crate) fn bounds(&self, x: f32) -> [f32; 2] {
        let y = f64::from(x).mul_add(self.bell.rate, self.offset);
        self.bell.bounds(clip(y, -1000.0, 1000.0))
    }
}

/// Bells side by side, one at each threshold between evenly spaced levels, and 0 outside of these.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Bells {
    /// Of the distance to a threshold, in widths.
    bell: Bell,
    per_width: f64,
    offset: f64,
    window: [f32; 2],
}

impl Bells {
    /// `window` holds the lowest and the highest level.
    pub(crate) fn new(height: f64, steepness: f64, width: f64, window: [f32; 2]) -> Self {
        let per_width = width.recip();
        let [lowest, highest] = window.map(|level| f64::from(level) * per_width);
        let rate = PER_Z * steepness * width;
        // A distance is at most half a width.
        let is_safe = per_width.is_normal() && rate.abs() < 2000.0;
        let reach = if is_safe { 2.0 * rate.abs() * (lowest.abs() + highest.abs() + 1.0) } else { f64::NAN };
        Bells { bell: Bell::new(height, rate, reach), per_width, offset: -lowest - 0.5, window }
    }

    #[inline(always)]
    pub(crate) fn bounds(&self, x: f32) -> [f32; 2] {
        let position = f64::from(x).mul_add(self.per_width, self.offset);
        let distance = position - round_half_even(position);
        let [low, high] = self.bell.bounds(distance * self.bell.rate);
        let is_outside = (x < self.window[0]) | (x > self.window[1]);
        if is_outside { [0.0; 2] } else { [low, high] }
    }
}

#[cfg(test)]
mod tests {
    use qnn_math::sech2;

    use super::*;

    /// Every exponent and all ends.
    fn inputs() -> impl Iterator<Item = f32> {
        let exponents = (0..=255_u32).flat_map(|exponent| {
            (0..257_u32).map(move |i| f32::from_bits(exponent << 23 | i.wrapping_mul(0x9E37_79B1) >> 9))
        });
        let dense = (-100_000..100_000).map(|i| i as f32 * 1.7e-4);
        exponents.flat_map(|x| [x, -x]).chain(dense)
    }

    /// How many elements are in doubt, where the others have the exact slope.
    fn doubts(bounds: impl Fn(f32) -> [f32; 2], exact: impl Fn(f32) -> f32) -> usize {
        inputs()
            .filter(|&x| {
                let ([low, high], exact) = (bounds(x), exact(x));
                let is_certain = low == high;
                assert!(!is_certain || low.to_bits() == exact.to_bits(), "{x:e}: {low:e}, not {exact:e}");
                !is_certain && !x.is_nan()
            })
            .count()
    }

    #[test]
    fn equal_bounds_of_one_bell_are_the_slope() {
        let parameters = [
            (4.0, 4.0, 0.0),
            (5.0, 7.5, -0.3),
            (1.0, 0.1, 0.0),
            (10.0, 10.0, 12.0),
            (1e29, 1.0, 0.0),
            (1e-29, -3e4, 1e-3),
            (3.0, 1e-20, 1e21),
        ];
        for (height, steepness, center) in parameters {
            let bell = OneBell::new(height, steepness, center);
            let slope = |x: f32| (height * sech2(steepness * (f64::from(x) - center))) as f32;
            let doubts = doubts(|x| bell.bounds(x), slope);
            assert!(doubts < 100, "{doubts} doubts of {height} {steepness} {center}");
        }
    }

    #[test]
    fn what_is_not_safe_is_in_doubt_everywhere() {
        for extreme in [0.0, -1.0, 1e31, f64::INFINITY, f64::NAN] {
            assert!(OneBell::new(extreme, 1.0, 0.0).bounds(0.5)[0].is_nan());
            assert!(Bells::new(extreme, 1.0, 1.0, [-1.0, 1.0]).bounds(0.5)[0].is_nan());
        }
        for extreme in [0.0, 1e31, f64::INFINITY, f64::NAN] {
            assert!(OneBell::new(1.0, extreme, 0.0).bounds(0.5)[0].is_nan());
            assert!(Bells::new(1.0, extreme, 1.0, [-1.0, 1.0]).bounds(0.5)[0].is_nan());
            assert!(Bells::new(1.0, 1.0, extreme, [-1.0, 1.0]).bounds(0.5)[0].is_nan());
        }
        assert!(OneBell::new(1.0, 1.0, 1e10).bounds(0.5)[0].is_nan());
    }
}
