//! Words in the registers of AArch64.

use core::arch::aarch64::*;
use core::ops::Range;

use super::bits::{Bits, bit_row, bits};
use crate::line::{LANES, Line};
use crate::packed::depthwise;
use crate::packed::frame::Frame;
use crate::packed::lanes::BitLanes;
use crate::packed::tile as packed;

// Thirty-two registers: sixteen counts, weights and words.
pub(super) const NEON_BITS: Bits =
    bits!(#[target_feature(enable = "neon")] Neon, vectors: 4, pixels: [1 2 3 4]);

/// Two words in one register.
#[derive(Clone, Copy)]
struct Neon(uint64x2_t);

impl BitLanes for Neon {
    const LANES: usize = 2;
    // A byte of a count grows by at most 8: 31 · 8 ≤ 255.
    const STEPS: usize = 31;
    type Count = uint8x16_t;

    #[inline(always)]
    fn splat(word: u64) -> Self {
        // SAFETY: every AArch64 target of this crate has these instructions.
        unsafe { Self(vdupq_n_u64(word)) }
    }

    #[inline(always)]
    fn load(words: &[u64]) -> Self {
        let words: &[u64; 2] = words.first_chunk().expect("two words");
        // SAFETY: the instruction set as in `splat`; the array is 16 readable bytes.
        unsafe { Self(vld1q_u64(words.as_ptr())) }
    }

    #[inline(always)]
    fn xor(self, other: Self) -> Self {
        // SAFETY: the instruction set as in `splat`.
        unsafe { Self(veorq_u64(self.0, other.0)) }
    }

    #[inline(always)]
    fn masked(self, sign: Self, x: Self) -> Self {
        // SAFETY: the instruction set as in `splat`.
        unsafe { Self(vandq_u64(self.0, veorq_u64(sign.0, x.0))) }
    }

    #[inline(always)]
    fn open(_: Self) -> uint8x16_t {
        // SAFETY: the instruction set as in `splat`.
        unsafe { vdupq_n_u8(0) }
    }

    #[inline(always)]
    fn count(self, counts: uint8x16_t) -> uint8x16_t {
        // SAFETY: the instruction set as in `splat`.
        unsafe { vaddq_u8(counts, vcntq_u8(vreinterpretq_u8_u64(self.0))) }
    }

    #[inline(always)]
    fn close(counts: uint8x16_t, sums: Self) -> Self {
        // SAFETY: the instruction set as in `splat`.
        unsafe { Self(vpadalq_u32(sums.0, vpaddlq_u16(vpaddlq_u8(counts)))) }
    }

    #[inline(always)]
    fn plus(self, other: Self) -> Self {
        // SAFETY: the instruction set as in `splat`.
        unsafe { Self(vaddq_u64(self.0, other.0)) }
    }

    #[inline(always)]
    fn store<const V: usize>(sums: [Self; V], shift: u32, offsets: &[i32], acc: &mut [i32]) {
        let pairs = offsets.as_chunks::<2>().0.iter().zip(acc.as_chunks_mut::<2>().0);
        for (sums, (offsets, acc)) in sums.iter().zip(pairs) {
            // SAFETY: the instruction set as in `splat`; the arrays are 8 bytes each, one readable, one writable.
            unsafe {
                let sums = vreinterpret_s32_u32(vmovn_u64(sums.0));
                let sums = vshl_s32(sums, vdup_n_s32(shift as i32));
                vst1_s32(acc.as_mut_ptr(), vadd_s32(sums, vld1_s32(offsets.as_ptr())));
            }
        }
    }
}
