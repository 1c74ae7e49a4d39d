//! From `i32` accumulators to codes of eight bits, and the other ways out of an integer layer.

use alloc::vec;
use alloc::vec::Vec;

use super::{CodeRange, RequantizeError};
#[cfg(not(any(feature = "std", test)))]
#[allow(unused_imports)] // Whether core lacks these functions depends on what else is compiled.
use num_traits::Float as _;

use crate::line::LANES;

/// How accumulators become codes of eight bits.
#[derive(Clone, Debug, PartialEq)]
pub enum Requantize {
    /// By integers alone.
    Fixed(FixedPoint),
    /// By the layer's own expression in `f32`.
    Rounded(Rounded),
}

impl Requantize {
    /// Output channels.
    #[must_use]
    pub fn channels(&self) -> usize {
        match self {
            Self::Fixed(fixed) => fixed.multipliers.len(),
            Self::Rounded(rounded) => rounded.scales.len(),
        }
    }

    /// The codes that come out.
    #[must_use]
    pub fn range(&self) -> CodeRange {
        match self {
            Self::Fixed(fixed) => fixed.range,
            Self::Rounded(rounded) => rounded.range,
        }
    }

    /// The code of one accumulator of output channel `channel`.
    ///
    /// # Panics
    ///
    /// If there is no such channel.
    #[must_use]
    #[track_caller]
    pub fn code(&self, acc: i32, channel: usize) -> i32 {
        match self {
            Self::Fixed(fixed) => fixed.code(acc, channel),
            Self::Rounded(rounded) => rounded.code(acc, channel),
        }
    }
}

/// Requantization by integers: a multiplier of 31 bits and a rounding shift for each output channel.
///
/// ```text
/// scale = multiplier · 2^(−31 − shift),   2³⁰ ≤ multiplier < 2³¹
/// high  = ⌊(acc · multiplier + 2³⁰) / 2³¹⌋                    doubling high multiply, halves upwards
/// q     = clamp(zero_point + round(high / 2^shift))           rounding shift, halves away from zero
/// ```
///
/// Where the scale is 1 or more, `acc` is first shifted left, saturating. The two roundings are those that Jacob et al., "Quantization and
/// training of neural networks for efficient integer-arithmetic-only inference" (2018), section 2.2 and appendix B, publish with their code: the
/// multiply is ARM's `SQRDMULH`, the shift is made symmetric.
///
/// ```
/// use qnn_kernels::packed::{CodeRange, FixedPoint};
/// let quarters = FixedPoint::new(&[0.25], CodeRange::SYMMETRIC)?;
/// assert_eq!([4, 6, -4, -6, 9999].map(|acc| quarters.code(acc, 0)), [1, 2, -1, -2, 127]);
/// assert_eq!(quarters.code(5, 0), 2, "rounded twice: 2.5 to 3, and 1.5 to 2");
/// # Ok::<(), qnn_kernels::packed::RequantizeError>(())
/// ```
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct FixedPoint {
    multipliers: Vec<i32>,
    /// To the right.
    shifts: Vec<u32>,
    /// To the left, before.
    lifts: Vec<u32>,
    lifted: bool,
    range: CodeRange,
}

impl FixedPoint {
    /// The nearest multiplier and shift for the scale of each output channel. A scale that rounds to less than 2⁻³² makes every accumulator zero.
    ///
    /// # Errors
    ///
    /// [`RequantizeError::Factor`] for a scale that is not positive and below 2³⁰.
    pub fn new(scales: &[f64], range: CodeRange) -> Result<Self, RequantizeError> {
        let mut fixed = Self { multipliers: vec![], shifts: vec![], lifts: vec![], lifted: false, range };
        for (channel, &value) in scales.iter().enumerate() {
            let (multiplier, exponent) = multiplier(value).ok_or(RequantizeError::Factor {
                what: "scale",
                channel,
                value,
                expected: "positive and less than 2^30",
            })?;
            fixed.multipliers.push(multiplier);
            fixed.shifts.push((-exponent).max(0) as u32);
            fixed.lifts.push(exponent.max(0) as u32);
            fixed.lifted |= exponent > 0;
        }
        Ok(fixed)
    }

    /// The multiplier of each output channel.
    #[must_use]
    pub fn multipliers(&self) -> &[i32] {
        &self.multipliers
    }

    /// The code of one accumulator of output channel `channel`.
    ///
    /// # Panics
    ///
    /// If there is no such channel.
    #[must_use]
    #[track_caller]
    pub fn code(&self, acc: i32, channel: usize) -> i32 {
        let lifted = lift(acc, self.lifts[channel]);
        shifted_code(high_product(lifted, self.multipliers[channel]), self.shifts[channel], self.range)
    }

    /// The codes of whole pixels, as bytes.
    #[inline(always)]
    pub(crate) fn apply(&self, acc: &[i32], y: &mut [u8]) {
        // The test inside the loop would keep the compiler from using vectors.
        if self.lifted { self.apply_lifted::<true>(acc, y) } else { self.apply_lifted::<false>(acc, y) }
    }

    #[inline(always)]
    fn apply_lifted<const LIFTED: bool>(&self, acc: &[i32], y: &mut [u8]) {
        let of = |first| {
            let multipliers = from_lane(&self.multipliers, first);
            let (shifts, lifts) = (from_lane(&self.shifts, first), from_lane(&self.lifts, first));
            move |acc: &[i32; LANES]| {
                let mut codes = [0; LANES];
                for lane in 0..LANES {
                    let acc = if LIFTED { lift(acc[lane], lifts[lane]) } else { acc[lane] };
                    let high = high_product(acc, multipliers[lane]);
                    codes[lane] = shifted_code(high, shifts[lane], self.range) as u8;
                }
                codes
            }
        };
        by_lanes(self.multipliers.len(), acc, y, of);
    }
}

/// `scale = multiplier · 2^(exponent − 31)` with 31 bits of multiplier.
fn multiplier(scale: f64) -> Option<(i32, i32)> {
    if !(scale > 0.0 && scale < f64::from(1 << 30)) {
        return None;
    }
    // Positive and finite: the exponent's bits give scale = fraction · 2^exponent with 0.5 ≤ fraction < 1, but for subnormal numbers.
    let exponent = (scale.to_bits() >> 52) as i32 - 1022;
    let fraction = f64::from_bits(scale.to_bits() & !(0x7ff << 52) | 1022 << 52);
    let rounded = (fraction * f64::from(1_u32 << 31)).round() as i64;
    // A fraction that rounds to 1 is one half of the next power.
    let (multiplier, exponent) =
        if rounded == 1 << 31 { (1 << 30, exponent + 1) } else { (rounded as i32, exponent) };
    Some(if exponent < -31 { (0, 0) } else { (multiplier, exponent) })
}

#[inline(always)]
fn lift(acc: i32, by: u32) -> i32 {
    (i64::from(acc) << by).clamp(i32::MIN.into(), i32::MAX.into()) as i32
}

/// Rounded to the nearest, halves upwards.
#[inline(always)]
fn high_product(acc: i32, multiplier: i32) -> i32 {
    ((i64::from(acc) * i64::from(multiplier) + (1 << 30)) >> 31) as i32
}

#[inline(always)]
fn shifted_code(high: i32, shift: u32, range: CodeRange) -> i32 {
    // At most 31, which the compiler shall know.
    let shift = shift & 31;
    let below = (1_u32 << shift).wrapping_sub(1).cast_signed();
    let half = (below >> 1) + i32::from(high < 0);
    let rounded = (high >> shift) + i32::from(high & below > half);
    // Clamped first, the sum cannot overflow.
    rounded.clamp(range.low - range.zero_point, range.high - range.zero_point) + range.zero_point
}

/// Requantization by the layer's expression in `f32`, each operation rounded once.
///
/// ```text
/// q = clamp(zero_point + round(acc · scale[o] + bias[o]))          halves to even
/// ```
///
/// `acc` becomes `f32` first, which rounds it where it has more than 24 bits.
///
/// ```
/// use qnn_kernels::packed::{CodeRange, Rounded};
/// let halves = Rounded::new(&[0.5], &[0.0], CodeRange::new(0, 255, 10)?)?;
/// assert_eq!([1, 3, -1, -99, 9999].map(|acc| halves.code(acc, 0)), [10, 12, 10, 0, 255]);
/// # Ok::<(), qnn_kernels::packed::RequantizeError>(())
/// ```
#[derive(Clone, Debug, PartialEq)]
pub struct Rounded {
    scales: Vec<f32>,
    biases: Vec<f32>,
    range: CodeRange,
}

impl Rounded {
    /// With a scale and a bias for each output channel.
    ///
    /// # Errors
    ///
    /// [`RequantizeError::Channels`] if there are more of the one than of the other, [`RequantizeError::Factor`] if one is not finite.
    pub fn new(scales: &[f32], biases: &[f32], range: CodeRange) -> Result<Self, RequantizeError> {
        if scales.len() != biases.len() {
            return Err(RequantizeError::Channels { scales: scales.len(), biases: biases.len() });
        }
        for (what, values) in [("scale", scales), ("bias", biases)] {
            if let Some(channel) = values.iter().position(|value| !value.is_finite()) {
                let value = values[channel].into();
                return Err(RequantizeError::Factor { what, channel, value, expected: "finite" });
            }
        }
        Ok(Self { scales: scales.to_vec(), biases: biases.to_vec(), range })
    }

    /// The code of one accumulator of output channel `channel`.
    ///
    /// # Panics
    ///
    /// If there is no such channel.
    #[must_use]
    #[track_caller]
    pub fn code(&self, acc: i32, channel: usize) -> i32 {
        rounded_code(acc as f32 * self.scales[channel] + self.biases[channel], self.range)
    }

    /// The codes of whole pixels, as bytes.
    #[inline(always)]
    pub(crate) fn apply(&self, acc: &[i32], y: &mut [u8]) {
        let of = |first| {
            let (scales, biases) = (from_lane(&self.scales, first), from_lane(&self.biases, first));
            move |acc: &[i32; LANES]| {
                let mut codes = [0; LANES];
                for lane in 0..LANES {
                    let value = acc[lane] as f32 * scales[lane] + biases[lane];
                    codes[lane] = rounded_code(value, self.range) as u8;
                }
                codes
            }
        };
        by_lanes(self.scales.len(), acc, y, of);
    }
}

/// The nearest code, halves to even.
#[inline(always)]
pub(super) fn rounded_code(value: f32, range: CodeRange) -> i32 {
    // Between 2²³ and 2²⁴ the numbers of f32 are the integers: the sum is rounded to one, halves to even, and its last bits are that integer.
    const INTEGERS: f32 = 12_582_912.0;
    let [low, high] = [range.low, range.high].map(|code| (code - range.zero_point) as f32);
    // Rounding is monotone and the bounds are integers: it may come after them.
    let above = if value > low { value } else { low };
    let shifted = if above < high { above } else { high } + INTEGERS;
    shifted.to_bits().wrapping_sub(INTEGERS.to_bits()).cast_signed() + range.zero_point
}

/// `y = acc · scale[o] + bias[o]` in `f32`, each operation rounded once: what [`ChannelAffine`](crate::ChannelAffine) says, for accumulators that
/// are integers.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Affine<'a> {
    pub(crate) channels: usize,
    pub(crate) out: crate::ChannelAffine<'a, f32>,
}

impl Affine<'_> {
    /// The values of whole pixels.
    #[inline(always)]
    pub(crate) fn apply(&self, acc: &[i32], y: &mut [f32]) {
        let of = |first| {
            // Both neutral elements are exact: a·1 = a, and a + (−0) = a even where a is −0.
            let scale = self.out.scale.map_or([1.0; LANES], |scale| from_lane(scale, first));
            let bias = self.out.bias.map_or([-0.0; LANES], |bias| from_lane(bias, first));
            move |acc: &[i32; LANES]| {
                let mut values = [0.0; LANES];
                for lane in 0..LANES {
                    values[lane] = acc[lane] as f32 * scale[lane] + bias[lane];
                }
                values
            }
        };
        by_lanes(self.channels, acc, y, of);
    }
}

/// Maps the accumulators of whole pixels, sixteen channels at a time: by `of(first channel)`, whose constants then stay in registers.
#[inline(always)]
fn by_lanes<Y: Copy, F: Fn(&[i32; LANES]) -> [Y; LANES]>(
    channels: usize,
    acc: &[i32],
    y: &mut [Y],
    of: impl Fn(usize) -> F,
) {
    for first in (0..channels).step_by(LANES) {
        let of = of(first);
        let live = (channels - first).min(LANES);
        for (acc, y) in acc.chunks_exact(channels).zip(y.chunks_exact_mut(channels)) {
            match (acc[first..].first_chunk(), y[first..].first_chunk_mut()) {
                (Some(acc), Some(y)) => *y = of(acc),
                _ => y[first..].copy_from_slice(&of(&from_lane(acc, first))[..live]),
            }
        }
    }
}

/// Sixteen elements from one on; past the end there are zeros.
#[inline(always)]
fn from_lane<T: Copy + Default>(values: &[T], first: usize) -> [T; LANES] {
    let mut lanes = [T::default(); LANES];
    lanes.iter_mut().zip(&values[first..]).for_each(|(lane, value)| *lane = *value);
    lanes
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    /// The published steps one by one, in 64 bits, with divisions.
    fn plain_fixed(acc: i32, scale: f64, range: CodeRange) -> i32 {
        let (mut fraction, mut exponent) = (scale, 0_i32);
        while fraction < 0.5 {
            fraction *= 2.0;
            exponent -= 1;
        }
        while fraction >= 1.0 {
            fraction /= 2.0;
            exponent += 1;
        }
        let mut multiplier = (fraction * 2_f64.powi(31)).round() as i64;
        if multiplier == 1 << 31 {
            (multiplier, exponent) = (1 << 30, exponent + 1);
        }
        if exponent < -31 {
            return range.zero_point.clamp(range.low, range.high);
        }
        let lifted = (i64::from(acc) * (1 << exponent.max(0))).clamp(i32::MIN.into(), i32::MAX.into());
        let product = lifted * multiplier;
        let nudge = if product >= 0 { 1 << 30 } else { 1 - (1 << 30) };
        let high = (product + nudge) / (1 << 31);
        let divisor = 1_i64 << (-exponent).max(0);
        let rounded = (2 * high.abs() + divisor) / (2 * divisor) * high.signum();
        (rounded + i64::from(range.zero_point)).clamp(range.low.into(), range.high.into()) as i32
    }

    fn any_acc() -> impl Strategy<Value = i32> {
        let extremes = vec![i32::MIN, i32::MIN + 1, i32::MAX, i32::MAX - 1, 0, 1, -1, 2, -2, 3, -3];
        prop_oneof![any::<i32>(), -5000_i32..5000, proptest::sample::select(extremes)]
    }

    fn any_scale() -> impl Strategy<Value = f64> {
        let exponent = -40_i32..30;
        prop_oneof![
            (exponent.clone(), 0.5_f64..1.0).prop_map(|(exponent, fraction)| fraction * 2_f64.powi(exponent)),
            // Dyadic ones, where products are halves of integers.
            (exponent.clone(), 1_u32..8)
                .prop_map(|(exponent, odd)| f64::from(odd) / 8.0 * 2_f64.powi(exponent)),
            // Fractions that round up to 1.
            exponent.prop_map(|exponent| (1.0 - f64::EPSILON) * 2_f64.powi(exponent)),
        ]
    }

    fn any_range() -> impl Strategy<Value = CodeRange> {
        let ranges =
            [(-128, 127, 0), (-127, 127, 0), (0, 255, 0), (0, 255, 255), (-128, 127, -128), (7, 7, 200)];
        let ranges = ranges.map(|(low, high, zero_point)| CodeRange::new(low, high, zero_point).unwrap());
        proptest::sample::select(ranges.to_vec())
    }

    proptest! {
        #[test]
        fn fixed_point_is_the_published_computation(acc in any_acc(), scale in any_scale(), range in any_range()) {
            let fixed = FixedPoint::new(&[scale], range).unwrap();
            prop_assert_eq!(fixed.code(acc, 0), plain_fixed(acc, scale, range));
        }

        #[test]
        fn the_least_scales_round_before_they_vanish(acc in any_acc(), range in any_range()) {
            for scale in [1.0 - f64::EPSILON, 1.0, 0.5, 1.5].map(|fraction| fraction * 2_f64.powi(-32)) {
                let fixed = FixedPoint::new(&[scale], range).unwrap();
                prop_assert_eq!(fixed.code(acc, 0), plain_fixed(acc, scale, range), "{}", scale);
            }
        }

        #[test]
        fn every_table_requantizes_alike(
            pixels in proptest::collection::vec([any_acc(), any_acc(), any_acc()], 0..40),
            scales in [any_scale(), any_scale(), any_scale()], range in any_range(), biases in proptest::array::uniform3(-9.0_f32..9.0),
        ) {
            let acc = pixels.concat();
            let fixed = FixedPoint::new(&scales, range).unwrap();
            let rounded = Rounded::new(&scales.map(|scale| scale as f32), &biases, range).unwrap();
            let expected = |code: &dyn Fn(i32, usize) -> i32| -> Vec<u8> {
                acc.iter().enumerate().map(|(at, &acc)| code(acc, at % 3) as u8).collect()
            };
            for tiles in crate::Isa::available().flat_map(crate::arch::dot_tables) {
                let mut y = vec![0; acc.len()];
                tiles.fixed(&fixed, &acc, &mut y);
                prop_assert_eq!(&y, &expected(&|acc, o| fixed.code(acc, o)), "{}", tiles.name);
                tiles.rounded(&rounded, &acc, &mut y);
                prop_assert_eq!(&y, &expected(&|acc, o| rounded.code(acc, o)), "{}", tiles.name);
            }
        }

        #[test]
        fn rounded_is_the_expression(acc in any_acc(), scale in any_scale(), bias in -300.0_f32..300.0, range in any_range()) {
            let scale = scale as f32;
            let rounded = Rounded::new(&[scale], &[bias], range).unwrap();
            let value = (acc as f32 * scale + bias).round_ties_even();
            // Far beyond every code an f32 is as good as any other.
            let code = value.clamp(-1e6, 1e6) as i32 + range.zero_point;
            prop_assert_eq!(rounded.code(acc, 0), code.clamp(range.low, range.high));
        }
    }

    #[test]
    fn halves_go_where_the_texts_say() {
        let all = CodeRange::new(-128, 127, 0).unwrap();
        // By the multiply alone: upwards.
        let by_half = FixedPoint::new(&[0.5], all).unwrap();
        assert_eq!((by_half.multipliers(), by_half.shifts[0]), (&[1 << 30][..], 0));
        assert_eq!([1, 3, -1, -3].map(|acc| by_half.code(acc, 0)), [1, 2, 0, -1]);
        // By the shift: away from zero.
        let by_quarter = FixedPoint::new(&[0.25], all).unwrap();
        assert_eq!([2, 6, -2, -6].map(|acc| by_quarter.code(acc, 0)), [1, 2, -1, -2]);
        let even = Rounded::new(&[0.5], &[0.0], all).unwrap();
        assert_eq!([1, 3, 5, -1, -3].map(|acc| even.code(acc, 0)), [0, 2, 2, 0, -2]);
    }

    #[test]
    fn extremes_saturate() {
        let range = CodeRange::new(0, 255, 255).unwrap();
        let large = FixedPoint::new(&[1e9], range).unwrap();
        assert_eq!([i32::MAX, 1, 0, -1, i32::MIN].map(|acc| large.code(acc, 0)), [255, 255, 255, 0, 0]);
        let huge = Rounded::new(&[f32::MAX], &[-f32::MAX], range).unwrap();
        assert_eq!([i32::MAX, 2, 1, 0, -1, i32::MIN].map(|acc| huge.code(acc, 0)), [255, 255, 255, 0, 0, 0]);
    }

    #[test]
    fn faults_are_errors() {
        for scale in [0.0, -1.0, f64::NAN, f64::INFINITY, 2_f64.powi(30)] {
            let error = FixedPoint::new(&[0.1, scale], CodeRange::SYMMETRIC).unwrap_err();
            assert!(matches!(error, RequantizeError::Factor { channel: 1, .. }), "{error}");
        }
        assert!(FixedPoint::new(&[f64::MIN_POSITIVE / 8.0], CodeRange::SYMMETRIC).is_ok());
        assert!(Rounded::new(&[1.0], &[f32::NAN], CodeRange::SYMMETRIC).is_err());
        let error = Rounded::new(&[1.0], &[], CodeRange::SYMMETRIC).unwrap_err();
        assert_eq!(error, RequantizeError::Channels { scales: 1, biases: 0 });
    }
}
