//! What the generic algorithms need of a vector register, and its portable form.

use crate::Real;
use crate::line::{LANES, Line};

/// Sixteen numbers in registers. Every operation is lane by lane and rounds once, so all implementations agree in every bit.
pub(crate) trait Lanes<T>: Copy {
    fn splat(value: T) -> Self;
    fn load(line: &Line<T>) -> Self;
    fn to_line(self) -> Line<T>;
    /// `self + a·b` in one rounding.
    fn fused(self, a: Self, b: Self) -> Self;
    fn times(self, factor: Self) -> Self;
    fn plus(self, addend: Self) -> Self;
    fn minus(self, subtrahend: Self) -> Self;
}

/// Plain code, for every machine; the compiler vectorises it where the instruction set has a fused multiply-add.
#[derive(Clone, Copy)]
pub(crate) struct Portable<T>([T; LANES]);

impl<T: Real> Lanes<T> for Portable<T> {
    #[inline(always)]
    fn splat(value: T) -> Self {
        Self([value; LANES])
    }

    #[inline(always)]
    fn load(line: &Line<T>) -> Self {
        Self(line.0)
    }

    #[inline(always)]
    fn to_line(self) -> Line<T> {
        Line(self.0)
    }

    #[inline(always)]
    fn fused(mut self, a: Self, b: Self) -> Self {
        for lane in 0..LANES {
            self.0[lane] = a.0[lane].fused(b.0[lane], self.0[lane]);
        }
        self
    }

    #[inline(always)]
    fn times(mut self, factor: Self) -> Self {
        for lane in 0..LANES {
            self.0[lane] = self.0[lane] * factor.0[lane];
        }
        self
    }

    #[inline(always)]
    fn plus(mut self, addend: Self) -> Self {
        for lane in 0..LANES {
            self.0[lane] = self.0[lane] + addend.0[lane];
        }
        self
    }

    #[inline(always)]
    fn minus(mut self, subtrahend: Self) -> Self {
        for lane in 0..LANES {
            self.0[lane] = self.0[lane] - subtrahend.0[lane];
        }
        self
    }
}
