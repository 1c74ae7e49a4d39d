//! Integer dot products for x86-64: `vpdpbusd` with AVX-512 and with AVX, and `vpmaddwd`, which AVX2 has.
//!
//! Not `vpmaddubsw`: it saturates at 16 bits, and 2·255·127 does not fit.

use core::arch::x86_64::{
    __m256i, __m512i, _MM_HINT_T1, _mm_prefetch, _mm256_add_epi32, _mm256_dpbusd_avx_epi32,
    _mm256_load_si256, _mm256_madd_epi16, _mm256_set1_epi32, _mm256_storeu_si256, _mm512_dpbusd_epi32,
    _mm512_load_si512, _mm512_set1_epi32, _mm512_storeu_si512,
};

use super::dots::{DotTiles, dot_rows, dot_tiles};
use crate::isa::has;
use crate::line::{LANES, Line};
use crate::packed::dot_tile::{self, DotLanes, DotRow, Packing};
use crate::packed::plane_weights::Spread;
use crate::packed::requantize::{Affine, FixedPoint, Rounded};
use crate::packed::sum::Sum;
use crate::packed::unit_frame::UnitForm;
use crate::tile;

// Thirty-two registers: at most 28 sums, two of weights, one broadcast.
static VNNI_512: DotTiles = dot_tiles!("vpdpbusd, 512 bits",
target_feature(enable = "avx2,fma,avx512f,avx512bw,avx512dq,avx512vl,avx512vnni"), Vnni512, Packing::Quads, peak: [12, 1],
rows: [
    1: [1 2 3 4 5 6 7 8 9 10 11 12 13 14 15 16],
    2: [1 2 3 4 5 6 7 8 9 10 11 12 13 14],
        3: [1 2 3 4 5 6 7 8 9]
]);
// Sixteen registers: six pixels of two registers, two of weights, one broadcast.
static VNNI_256: DotTiles = dot_tiles!("vpdpbusd, 256 bits",
    target_feature(enable = "avx2,fma,avxvnni"), Vnni256, Packing::Quads, peak: [6, 1], rows: [1: [1 2 3 4 5 6]]);
static MADD_256: DotTiles = dot_tiles!("vpmaddwd, 256 bits",
    target_feature(enable = "avx2,fma"), Madd256, Packing::Pairs, peak: [6, 6], rows: [1: [1 2 3 4 5]]);

/// The tables of AVX2 that this machine can run, the best first.
pub(super) fn avx2() -> [Option<&'static DotTiles>; 3] {
    [None, has!("avxvnni").then_some(&VNNI_256), Some(&MADD_256)]
}

/// The tables of AVX-512 that this machine can run, the best first.
pub(super) fn avx512() -> [Option<&'static DotTiles>; 3] {
    let [_, wide, plain] = avx2();
    [has!("avx512vnni").then_some(&VNNI_512), wide, plain]
}

/// Sixteen sums in one AVX-512 register. Used only in functions that enable AVX-512 with VNNI.
#[derive(Clone, Copy)]
struct Vnni512(__m512i);

impl DotLanes for Vnni512 {
    type Units = __m512i;

    #[inline(always)]
    fn start(sums: &Line<i32>) -> Self {
        // SAFETY: inlined only into functions of `VNNI_512`, whose instructions the machine has; a line is 64 readable bytes, aligned to 64.
        unsafe { Self(_mm512_load_si512(sums.0.as_ptr().cast())) }
    }

    #[inline(always)]
    fn splat(unit: u32) -> __m512i {
        // SAFETY: the instructions as in `start`.
        unsafe { _mm512_set1_epi32(unit.cast_signed()) }
    }

    #[inline(always)]
    fn load(units: &Line<u32>) -> __m512i {
        // SAFETY: as in `start`.
        unsafe { _mm512_load_si512(units.0.as_ptr().cast()) }
    }

    #[inline(always)]
    fn prefetch(line: &Line<u32>) {
        // SAFETY: a prefetch never faults, and the line exists.
        unsafe { _mm_prefetch::<_MM_HINT_T1>(core::ptr::from_ref(line).cast()) }
    }

    #[inline(always)]
    fn dot(self, x: __m512i, w: __m512i) -> Self {
        // SAFETY: the instructions as in `start`.
        unsafe { Self(_mm512_dpbusd_epi32(self.0, x, w)) }
    }

    #[inline(always)]
    fn to_line(self) -> Line<i32> {
        let mut line = Line([0; LANES]);
        // SAFETY: the instructions as in `start`; a line is 64 writable bytes.
        unsafe { _mm512_storeu_si512(line.0.as_mut_ptr().cast(), self.0) }
        line
    }
}

/// What sums in two AVX registers share, whatever multiplies.
macro_rules! two_registers {
    () => {
        type Units = [__m256i; 2];

        #[inline(always)]
        fn start(sums: &Line<i32>) -> Self {
            let sums: *const __m256i = sums.0.as_ptr().cast();
            // SAFETY: inlined only into functions of a table with AVX2, which the machine has; a line is 64 readable bytes, aligned to 64.
            unsafe { Self([_mm256_load_si256(sums), _mm256_load_si256(sums.add(1))]) }
        }

        #[inline(always)]
        fn splat(unit: u32) -> [__m256i; 2] {
            // SAFETY: the instructions as in `start`.
            unsafe { [_mm256_set1_epi32(unit.cast_signed()); 2] }
        }

        #[inline(always)]
        fn load(units: &Line<u32>) -> [__m256i; 2] {
            let units: *const __m256i = units.0.as_ptr().cast();
            // SAFETY: as in `start`.
            unsafe { [_mm256_load_si256(units), _mm256_load_si256(units.add(1))] }
        }

        #[inline(always)]
        fn to_line(self) -> Line<i32> {
            let mut line = Line([0; LANES]);
            let lanes: *mut __m256i = line.0.as_mut_ptr().cast();
            // SAFETY: the instructions as in `start`; a line is 64 writable bytes.
            unsafe {
                _mm256_storeu_si256(lanes, self.0[0]);
                _mm256_storeu_si256(lanes.add(1), self.0[1]);
            }
            line
        }
    };
}

/// Sixteen sums in two AVX registers. Used only in functions that enable AVX-VNNI.
#[derive(Clone, Copy)]
struct Vnni256([__m256i; 2]);

impl DotLanes for Vnni256 {
    two_registers!();

    #[inline(always)]
    fn dot(mut self, x: [__m256i; 2], w: [__m256i; 2]) -> Self {
        for half in 0..2 {
            // SAFETY: inlined only into functions of `VNNI_256`, whose instructions the machine has.
            self.0[half] = unsafe { _mm256_dpbusd_avx_epi32(self.0[half], x[half], w[half]) };
        }
        self
    }
}

/// Sixteen sums in two AVX registers. Used only in functions that enable AVX2.
#[derive(Clone, Copy)]
struct Madd256([__m256i; 2]);

impl DotLanes for Madd256 {
    two_registers!();

    #[inline(always)]
    fn dot(mut self, x: [__m256i; 2], w: [__m256i; 2]) -> Self {
        for half in 0..2 {
            // SAFETY: inlined only into functions of `MADD_256`, whose instructions the machine has.
            self.0[half] = unsafe { _mm256_add_epi32(self.0[half], _mm256_madd_epi16(x[half], w[half])) };
        }
        self
    }
}
