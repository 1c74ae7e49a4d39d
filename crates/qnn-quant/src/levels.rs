/// One group's levels, as a [`Slope`](crate::Slope) sees them.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Levels {
    /// The value of the least code; −∞ without quantization.
    pub lowest: f32,
    /// The value of the greatest code; +∞ without quantization.
    pub highest: f32,
    /// How many levels there are; 0 without quantization.
    pub count: u32,
    /// How many elements the group has.
    pub len: usize,
}

impl Levels {
    /// The greatest level, where a gradient contains it as a factor. Without quantization there is none, and the factor is 1: an
    /// infinite one would make NaN of a gradient of 0.
    #[inline(always)]
    pub fn scale(&self) -> f32 {
        if self.count == 0 { 1.0 } else { self.highest }
    }
}

/// How codes become values in one group, without the grid around it.
///
/// ```text
/// value = f32(code · numerator / denominator)      computed in f64, rounded once
/// ```
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Scale {
    /// The group's statistic or constant.
    pub numerator: f32,
    /// A whole number from 1 to 2²⁴.
    pub denominator: u32,
}

impl Scale {
    /// Codes are the values.
    pub const ONE: Self = Self { numerator: 1.0, denominator: 1 };

    /// The quotient rounded to f32: what multiplies a sum of codes.
    pub fn factor(self) -> f32 {
        (f64::from(self.numerator) / f64::from(self.denominator)) as f32
    }

    /// The value of a code that is stored in f32.
    #[inline(always)]
    pub fn value(self, code: f32) -> f32 {
        if self.denominator == 1 {
            // The exact product has at most 48 digits: in f64 and back, it would round to the same.
            return code * self.numerator;
        }
        level(code.into(), self.numerator, self.denominator)
    }
}

impl From<f32> for Scale {
    fn from(numerator: f32) -> Self {
        Self { numerator, denominator: 1 }
    }
}

#[inline(always)]
pub(crate) fn level(code: f64, numerator: f32, denominator: u32) -> f32 {
    (code * f64::from(numerator) / f64::from(denominator)) as f32
}
