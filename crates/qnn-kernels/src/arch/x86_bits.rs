//! Words in the registers of x86-64.

use core::arch::x86_64::*;
use core::ops::Range;

use super::bits::{Bits, bit_row, bits};
use crate::line::{LANES, Line};
use crate::packed::depthwise;
use crate::packed::frame::Frame;
use crate::packed::lanes::{BitLanes, Word};
use crate::packed::tile as packed;

// Sixteen general registers: eight counts, the rest for words and addresses.
pub(super) const POPCNT: Bits = bits!(#[target_feature(enable = "popcnt")] Word, vectors: 8, pixels: [1]);
// Sixteen registers: eight counts, table and mask, words.
pub(super) const AVX2: Bits =
    bits!(#[target_feature(enable = "avx2,popcnt")] Avx2, vectors: 2, pixels: [1 2 3 4]);
// Thirty-two registers: sixteen counts leave enough; a wider row of pixels would only lengthen the code.
pub(super) const AVX512: Bits = bits!(#[target_feature(enable = "avx2,popcnt,avx512f,avx512bw,avx512dq,avx512vl,avx512vpopcntdq")]
    Avx512, vectors: 2, pixels: [1 2 3 4 5 6 7 8]);

/// Four words in an AVX register. Used only in functions that enable AVX2.
#[derive(Clone, Copy)]
struct Avx2(__m256i);

impl BitLanes for Avx2 {
    const LANES: usize = 4;
    // A byte of a count grows by at most 8: 31 · 8 ≤ 255.
    const STEPS: usize = 31;
    type Count = __m256i;

    #[inline(always)]
    fn splat(word: u64) -> Self {
        // SAFETY: inlined only into functions of the AVX2 table, whose instruction set the machine has.
        unsafe { Self(_mm256_set1_epi64x(word as i64)) }
    }

    #[inline(always)]
    fn load(words: &[u64]) -> Self {
        let words: &[u64; 4] = words.first_chunk().expect("four words");
        // SAFETY: the instruction set as in `splat`; the array is 32 readable bytes.
        unsafe { Self(_mm256_loadu_si256(words.as_ptr().cast())) }
    }

    #[inline(always)]
    fn xor(self, other: Self) -> Self {
        // SAFETY: the instruction set as in `splat`.
        unsafe { Self(_mm256_xor_si256(self.0, other.0)) }
    }

    #[inline(always)]
    fn masked(self, sign: Self, x: Self) -> Self {
        // SAFETY: the instruction set as in `splat`.
        unsafe { Self(_mm256_and_si256(self.0, _mm256_xor_si256(sign.0, x.0))) }
    }

    #[inline(always)]
    fn open(_: Self) -> __m256i {
        // SAFETY: the instruction set as in `splat`.
        unsafe { _mm256_setzero_si256() }
    }

    /// The bits of a byte are those of its halves, each looked up in a register.
    #[inline(always)]
    fn count(self, counts: __m256i) -> __m256i {
        // SAFETY: the instruction set as in `splat`.
        unsafe {
            let table =
                _mm256_broadcastsi128_si256(_mm_setr_epi8(0, 1, 1, 2, 1, 2, 2, 3, 1, 2, 2, 3, 2, 3, 3, 4));
            let half = _mm256_set1_epi8(15);
            let low = _mm256_shuffle_epi8(table, _mm256_and_si256(self.0, half));
            let high = _mm256_shuffle_epi8(table, _mm256_and_si256(_mm256_srli_epi16::<4>(self.0), half));
            _mm256_add_epi8(_mm256_add_epi8(counts, low), high)
        }
    }

    #[inline(always)]
    fn close(counts: __m256i, sums: Self) -> Self {
        // SAFETY: the instruction set as in `splat`.
        unsafe { Self(_mm256_add_epi64(sums.0, _mm256_sad_epu8(counts, _mm256_setzero_si256()))) }
    }

    #[inline(always)]
    fn plus(self, other: Self) -> Self {
        // SAFETY: the instruction set as in `splat`.
        unsafe { Self(_mm256_add_epi64(self.0, other.0)) }
    }

    #[inline(always)]
    fn store<const V: usize>(sums: [Self; V], shift: u32, offsets: &[i32], acc: &mut [i32]) {
        let fours = offsets.as_chunks::<4>().0.iter().zip(acc.as_chunks_mut::<4>().0);
        for (sums, (offsets, acc)) in sums.iter().zip(fours) {
            // SAFETY: the instruction set as in `splat`; the arrays are 16 bytes each, one readable, one writable.
            unsafe {
                let low = _mm256_permutevar8x32_epi32(sums.0, _mm256_setr_epi32(0, 2, 4, 6, 0, 2, 4, 6));
                let low = _mm_sll_epi32(_mm256_castsi256_si128(low), _mm_cvtsi32_si128(shift as i32));
                let sums = _mm_add_epi32(low, _mm_loadu_si128(offsets.as_ptr().cast()));
                _mm_storeu_si128(acc.as_mut_ptr().cast(), sums);
            }
        }
    }

    #[inline(always)]
    fn reached(acc: &Line<i32>, cuts: &Line<i32>) -> u16 {
        // SAFETY: the instruction set as in `splat`; a line is 64 readable bytes, aligned to 64.
        unsafe {
            let below = |half: usize| {
                let acc = _mm256_load_si256(acc.0.as_ptr().add(8 * half).cast());
                let cuts = _mm256_load_si256(cuts.0.as_ptr().add(8 * half).cast());
                _mm256_movemask_ps(_mm256_castsi256_ps(_mm256_cmpgt_epi32(cuts, acc)))
            };
            !(below(0) | below(1) << 8) as u16
        }
    }

    #[inline(always)]
    fn signs(values: &[f32; LANES]) -> [u16; 2] {
        // SAFETY: the instruction set as in `splat`; the array is 64 readable bytes.
        unsafe {
            let halves = [_mm256_loadu_ps(values.as_ptr()), _mm256_loadu_ps(values.as_ptr().add(8))];
            let negative =
                halves.map(|x| _mm256_movemask_ps(_mm256_cmp_ps::<_CMP_LT_OQ>(x, _mm256_setzero_ps())));
            let nan = halves.map(|x| _mm256_movemask_ps(_mm256_cmp_ps::<_CMP_UNORD_Q>(x, x)));
            [negative, nan].map(|[low, high]| (low | high << 8) as u16)
        }
    }
}

/// Eight words in an AVX-512 register. Used only in functions that enable AVX-512 with VPOPCNTDQ.
#[derive(Clone, Copy)]
struct Avx512(__m512i);

impl BitLanes for Avx512 {
    const LANES: usize = 8;
    const STEPS: usize = usize::MAX;
    type Count = Self;

    #[inline(always)]
    fn splat(word: u64) -> Self {
        // SAFETY: inlined only into functions of the AVX-512 table, whose instruction set the machine has.
        unsafe { Self(_mm512_set1_epi64(word as i64)) }
    }

    #[inline(always)]
    fn load(words: &[u64]) -> Self {
        let words: &[u64; 8] = words.first_chunk().expect("eight words");
        // SAFETY: the instruction set as in `splat`; the array is 64 readable bytes.
        unsafe { Self(_mm512_loadu_si512(words.as_ptr().cast())) }
    }

    #[inline(always)]
    fn xor(self, other: Self) -> Self {
        // SAFETY: the instruction set as in `splat`.
        unsafe { Self(_mm512_xor_si512(self.0, other.0)) }
    }

    #[inline(always)]
    fn masked(self, sign: Self, x: Self) -> Self {
        // Bit 4a + 2b + c of the constant is a ∧ (b ⊕ c).
        // SAFETY: the instruction set as in `splat`.
        unsafe { Self(_mm512_ternarylogic_epi64::<0b0110_0000>(self.0, sign.0, x.0)) }
    }

    #[inline(always)]
    fn open(sums: Self) -> Self {
        sums
    }

    #[inline(always)]
    fn count(self, counts: Self) -> Self {
        // SAFETY: the instruction set as in `splat`.
        unsafe { counts.plus(Self(_mm512_popcnt_epi64(self.0))) }
    }

    #[inline(always)]
    fn close(counts: Self, _: Self) -> Self {
        counts
    }

    #[inline(always)]
    fn plus(self, other: Self) -> Self {
        // SAFETY: the instruction set as in `splat`.
        unsafe { Self(_mm512_add_epi64(self.0, other.0)) }
    }

    #[inline(always)]
    fn store<const V: usize>(sums: [Self; V], shift: u32, offsets: &[i32], acc: &mut [i32]) {
        const { assert!(V == 2) };
        let offsets: &[i32; LANES] = offsets.first_chunk().expect("a line of offsets");
        let acc: &mut [i32; LANES] = acc.first_chunk_mut().expect("a line of accumulators");
        // SAFETY: the instruction set as in `splat`; the arrays are 64 bytes each, one readable, one writable.
        unsafe {
            let even = _mm512_setr_epi32(0, 2, 4, 6, 8, 10, 12, 14, 16, 18, 20, 22, 24, 26, 28, 30);
            let sums = _mm512_permutex2var_epi32(sums[0].0, even, sums[1].0);
            let sums = _mm512_sllv_epi32(sums, _mm512_set1_epi32(shift as i32));
            let sums = _mm512_add_epi32(sums, _mm512_loadu_si512(offsets.as_ptr().cast()));
            _mm512_storeu_si512(acc.as_mut_ptr().cast(), sums);
        }
    }

    #[inline(always)]
    fn reached(acc: &Line<i32>, cuts: &Line<i32>) -> u16 {
        // SAFETY: the instruction set as in `splat`; a line is 64 readable bytes, aligned to 64.
        unsafe {
            _mm512_cmpge_epi32_mask(
                _mm512_load_si512(acc.0.as_ptr().cast()),
                _mm512_load_si512(cuts.0.as_ptr().cast()),
            )
        }
    }

    #[inline(always)]
    fn signs(values: &[f32; LANES]) -> [u16; 2] {
        // SAFETY: the instruction set as in `splat`; the array is 64 readable bytes.
        unsafe {
            let x = _mm512_loadu_ps(values.as_ptr());
            let negative = _mm512_cmp_ps_mask::<_CMP_LT_OQ>(x, _mm512_setzero_ps());
            [negative, _mm512_cmp_ps_mask::<_CMP_UNORD_Q>(x, x)]
        }
    }
}
