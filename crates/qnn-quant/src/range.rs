use crate::{Error, Result};

/// What affine quantization represents: the numbers from `low` to `high`.
///
/// ```
/// # use qnn_quant::Range;
/// let range = Range::new(-0.5, 2.0)?;
/// assert_eq!((range.low(), range.high()), (-0.5, 2.0));
/// assert!(Range::new(1.0, f32::NAN).is_err());
/// # Ok::<(), qnn_quant::Error>(())
/// ```
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Range {
    low: f32,
    high: f32,
}

impl Range {
    /// # Errors
    ///
    /// [`Error::Parameter`] unless both ends are finite and in order.
    pub fn new(low: f32, high: f32) -> Result<Self> {
        if low.is_finite() && high.is_finite() && low <= high {
            return Ok(Range { low, high });
        }
        Err(Error::Parameter {
            owner: "range",
            parameter: "low, high",
            value: format!("{low}, {high}"),
            expected: "finite and in order",
        })
    }

    /// The lower end.
    pub fn low(&self) -> f32 {
        self.low
    }

    /// The upper end.
    pub fn high(&self) -> f32 {
        self.high
    }

    /// The least range that contains both.
    pub fn union(self, other: Self) -> Self {
        Range { low: self.low.min(other.low), high: self.high.max(other.high) }
    }

    /// The range on the way from this one to another: itself at a rate of 0, the other at 1.
    pub(crate) fn towards(self, other: Self, rate: f64) -> Self {
        // Not `from + rate (to − from)`, in which a great number swallows a small one.
        let between = |from: f32, to: f32| ((1.0 - rate) * f64::from(from) + rate * f64::from(to)) as f32;
        Range { low: between(self.low, other.low), high: between(self.high, other.high) }
    }
}
