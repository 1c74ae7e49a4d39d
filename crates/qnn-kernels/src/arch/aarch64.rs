//! Kernels for AArch64, whose baseline has 128-bit vectors with a fused multiply-add.

use core::arch::aarch64::{
    float32x4_t, vaddq_f32, vdupq_n_f32, vfmaq_f32, vld1q_f32, vmulq_f32, vst1q_f32, vsubq_f32,
};

use super::aarch64_bits::NEON_BITS;
use super::{Kernels, MOST_VECTORS, Tiles, Width, matrix_tiles, other_tiles, product_row, tiles, width};
use crate::Isa;
use crate::lanes::{Lanes, Portable};
use crate::line::{LANES, Line};
use crate::matrix::{Job, matrix_tile};
use crate::tile::{self, Row, Sweep};

pub(super) static NEON: Kernels = Kernels { isa: Isa::Neon, f32: NEON_F32, f64: NEON_F64, bits: NEON_BITS };

// Thirty-two registers: five pixels or channels of four registers, four of weights, one broadcast.
const NEON_F32: Tiles<f32> =
    tiles!((#[target_feature(enable = "neon")]) f32, Neon, widths: {1: [1 2 3 4 5] outer [| 4]}, peak: 6);
const NEON_F64: Tiles<f64> =
    tiles!((#[target_feature(enable = "neon")]) f64, Portable<f64>, widths: {1: [1 2] outer [| 2]}, peak: 2);

/// Sixteen `f32` in four registers.
#[derive(Clone, Copy)]
struct Neon([float32x4_t; 4]);

impl Lanes<f32> for Neon {
    #[inline(always)]
    fn splat(value: f32) -> Self {
        // SAFETY: this module exists only where the target has these instructions.
        unsafe { Self([vdupq_n_f32(value); 4]) }
    }

    #[inline(always)]
    fn load(line: &Line<f32>) -> Self {
        let numbers = line.0.as_ptr();
        // SAFETY: a line is sixteen readable numbers.
        unsafe {
            Self([
                vld1q_f32(numbers),
                vld1q_f32(numbers.add(4)),
                vld1q_f32(numbers.add(8)),
                vld1q_f32(numbers.add(12)),
            ])
        }
    }

    #[inline(always)]
    fn to_line(self) -> Line<f32> {
        let mut line = Line([0.0; LANES]);
        for (part, numbers) in self.0.iter().zip(line.0.chunks_exact_mut(4)) {
            // SAFETY: the chunk is four writable numbers.
            unsafe { vst1q_f32(numbers.as_mut_ptr(), *part) }
        }
        line
    }

    #[inline(always)]
    fn fused(mut self, a: Self, b: Self) -> Self {
        for part in 0..4 {
            // SAFETY: the instruction set as in `splat`.
            self.0[part] = unsafe { vfmaq_f32(self.0[part], a.0[part], b.0[part]) };
        }
        self
    }

    #[inline(always)]
    fn times(mut self, factor: Self) -> Self {
        for part in 0..4 {
            // SAFETY: the instruction set as in `splat`.
            self.0[part] = unsafe { vmulq_f32(self.0[part], factor.0[part]) };
        }
        self
    }

    #[inline(always)]
    fn plus(mut self, addend: Self) -> Self {
        for part in 0..4 {
            // SAFETY: the instruction set as in `splat`.
            self.0[part] = unsafe { vaddq_f32(self.0[part], addend.0[part]) };
        }
        self
    }
    #[inline(always)]
    fn minus(mut self, subtrahend: Self) -> Self {
        for part in 0..4 {
            // SAFETY: the instruction set as in `splat`.
            self.0[part] = unsafe { vsubq_f32(self.0[part], subtrahend.0[part]) };
        }
        self
    }
}
