//! Integer dot products for AArch64: widening multiply-adds of halves, which its baseline has.

use core::arch::aarch64::{
    int16x4_t, int32x4_t, vdup_n_u32, vdupq_n_s32, vget_high_s16, vget_low_s16, vld1q_s16, vld1q_s32,
    vmlal_s16, vpaddq_s32, vreinterpret_s16_u32, vst1q_s32, vzip1q_s32, vzip2q_s32,
};

use super::dots::{DotTiles, dot_rows, dot_tiles};
use crate::line::{LANES, Line};
use crate::packed::dot_tile::{self, DotLanes, DotRow, Packing};
use crate::packed::plane_weights::Spread;
use crate::packed::requantize::{Affine, FixedPoint, Rounded};
use crate::packed::sum::Sum;
use crate::packed::unit_frame::UnitForm;
use crate::tile;

// Thirty-two registers: three pixels of eight registers, and the halves of a unit's lanes.
pub(super) static MLAL: DotTiles = dot_tiles!("smlal, 128 bits",
    target_feature(enable = "neon"), Mlal, Packing::Pairs, peak: [3, 3], rows: [1: [1 2 3]]);

/// Thirty-two sums in eight registers: those of the even and of the odd channels of each lane, neighbours that come together at the end.
#[derive(Clone, Copy)]
struct Mlal([int32x4_t; 8]);

impl DotLanes for Mlal {
    type Units = [int16x4_t; 8];

    #[inline(always)]
    fn start(sums: &Line<i32>) -> Self {
        // SAFETY: every AArch64 target of this crate has these instructions; a line is sixteen readable numbers.
        unsafe {
            let zero = vdupq_n_s32(0);
            let mut parts = [zero; 8];
            for quarter in 0..4 {
                let sums = vld1q_s32(sums.0.as_ptr().add(4 * quarter));
                parts[2 * quarter] = vzip1q_s32(sums, zero);
                parts[2 * quarter + 1] = vzip2q_s32(sums, zero);
            }
            Self(parts)
        }
    }

    #[inline(always)]
    fn splat(unit: u32) -> [int16x4_t; 8] {
        // SAFETY: the instructions as in `start`.
        unsafe { [vreinterpret_s16_u32(vdup_n_u32(unit)); 8] }
    }

    #[inline(always)]
    fn load(units: &Line<u32>) -> [int16x4_t; 8] {
        let halves: *const i16 = units.0.as_ptr().cast();
        // SAFETY: the instructions as in `start`; a line is 32 readable halves.
        unsafe {
            let quarters = [0, 1, 2, 3].map(|quarter| vld1q_s16(halves.add(8 * quarter)));
            core::array::from_fn(|part| {
                let quarter = quarters[part / 2];
                if part % 2 == 0 { vget_low_s16(quarter) } else { vget_high_s16(quarter) }
            })
        }
    }

    #[inline(always)]
    fn dot(mut self, x: [int16x4_t; 8], w: [int16x4_t; 8]) -> Self {
        for part in 0..8 {
            // SAFETY: the instructions as in `start`.
            self.0[part] = unsafe { vmlal_s16(self.0[part], x[part], w[part]) };
        }
        self
    }

    #[inline(always)]
    fn to_line(self) -> Line<i32> {
        let mut line = Line([0; LANES]);
        for (quarter, lanes) in line.0.chunks_exact_mut(4).enumerate() {
            // SAFETY: the instructions as in `start`; the chunk is four writable numbers.
            unsafe { vst1q_s32(lanes.as_mut_ptr(), vpaddq_s32(self.0[2 * quarter], self.0[2 * quarter + 1])) }
        }
        line
    }
}
