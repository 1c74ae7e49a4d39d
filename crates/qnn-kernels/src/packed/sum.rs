//! Sums of two tensors of codes.

use super::requantize::rounded_code;
use super::{CodeRange, RequantizeError};

/// How two tensors of codes are added: each with a scale and a zero point of its own.
///
/// ```text
/// q = clamp(zero_point + round((a − a.zero_point) · a.scale + (b − b.zero_point) · b.scale))      halves to even
/// ```
///
/// Scales are relative to the sum's: `a.scale = S_a / S_y`. In `f32`, both products and their sum rounded once each.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Sum {
    scales: [f32; 2],
    zero_points: [i32; 2],
    signed: bool,
    range: CodeRange,
}

impl Sum {
    /// The sum of two tensors with these scales, relative to the sum's, and zero points.
    ///
    /// `signed` says whether the operands' bytes are; the sum's follow from its range.
    ///
    /// # Errors
    ///
    /// [`RequantizeError::Factor`] if a scale is not finite, [`RequantizeError::Range`] if a zero point is no code.
    pub fn new(
        scales: [f32; 2],
        zero_points: [i32; 2],
        signed: bool,
        range: CodeRange,
    ) -> Result<Self, RequantizeError> {
        if let Some(channel) = scales.iter().position(|scale| !scale.is_finite()) {
            let value = scales[channel].into();
            return Err(RequantizeError::Factor { what: "scale", channel, value, expected: "finite" });
        }
        let [low, high] = if signed { [-128, 127] } else { [0, 255] };
        for zero_point in zero_points {
            CodeRange::new(low, high, zero_point)?;
        }
        Ok(Self { scales, zero_points, signed, range })
    }

    /// The code of the sum of two codes.
    #[must_use]
    #[inline(always)]
    pub fn code(&self, a: i32, b: i32) -> i32 {
        let [a, b] =
            [(a, 0), (b, 1)].map(|(code, of)| (code - self.zero_points[of]) as f32 * self.scales[of]);
        rounded_code(a + b, self.range)
    }

    #[inline(always)]
    pub(crate) fn apply(&self, a: &[u8], b: &[u8], y: &mut [u8]) {
        for ((y, &a), &b) in y.iter_mut().zip(a).zip(b) {
            let [a, b] =
                [a, b].map(|byte| if self.signed { byte.cast_signed().into() } else { i32::from(byte) });
            *y = self.code(a, b) as u8;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_term_has_its_own_scale() {
        let sum = Sum::new([1.0, 0.5], [10, 0], false, CodeRange::new(0, 255, 100).unwrap()).unwrap();
        assert_eq!(sum.code(12, 3), 104, "2 + 1.5, halves to even");
        assert_eq!([sum.code(0, 0), sum.code(255, 255)], [90, 255]);
    }

    #[test]
    fn faults_are_errors() {
        assert!(Sum::new([1.0, f32::INFINITY], [0, 0], true, CodeRange::SYMMETRIC).is_err());
        assert!(Sum::new([1.0, 1.0], [0, 200], true, CodeRange::SYMMETRIC).is_err());
    }
}
