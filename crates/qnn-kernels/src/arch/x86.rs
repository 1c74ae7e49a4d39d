//! Kernels for x86-64: AVX2 with FMA, AVX-512, and `popcnt` alone.

use core::arch::x86_64::{
    __m256, __m512, _mm256_add_ps, _mm256_fmadd_ps, _mm256_load_ps, _mm256_mul_ps, _mm256_set1_ps,
    _mm256_storeu_ps, _mm256_sub_ps, _mm512_add_ps, _mm512_fmadd_ps, _mm512_load_ps, _mm512_mul_ps,
    _mm512_set1_ps, _mm512_storeu_ps, _mm512_sub_ps,
};

use super::{
    Kernels, MOST_VECTORS, Tiles, Width, matrix_tiles, other_tiles, product_row, scalar, tiles, width,
    x86_bits,
};
use crate::column::{Column, column_tile};
use crate::lanes::{Lanes, Portable};
use crate::line::{LANES, Line};
use crate::matrix::{Job, matrix_tile};
use crate::tile::{self, Row, Sweep};
use crate::{Isa, Vectorize};

pub(super) static POPCNT: Kernels =
    Kernels { isa: Isa::Popcnt, f32: scalar::F32, f64: scalar::F64, bits: x86_bits::POPCNT };
pub(super) static AVX2: Kernels =
    Kernels { isa: Isa::Avx2, f32: AVX2_F32, f64: AVX2_F64, bits: x86_bits::AVX2 };
pub(super) static AVX512: Kernels =
    Kernels { isa: Isa::Avx512, f32: AVX512_F32, f64: AVX2_F64, bits: x86_bits::AVX512 };
/// For the first processors with AVX-512, which count the bits of general registers only.
pub(super) static AVX512_WITHOUT_COUNT: Kernels =
    Kernels { isa: Isa::Avx512, f32: AVX512_F32, f64: AVX2_F64, bits: x86_bits::AVX2 };

/// Whether the machine has VPOPCNTDQ, which not every machine with AVX-512 has.
pub(super) fn counts_bits_of_vectors() -> bool {
    crate::isa::has!("avx512vpopcntdq")
}

// Sixteen registers: six pixels of two registers, two of weights, one broadcast.
const AVX2_F32: Tiles<f32> = tiles!((#[target_feature(enable = "avx2,fma")]) f32, Avx2, widths: {1: [1 2 3 4 5 6] outer [| 4]}, peak: 6);
// Double precision serves gradient checks: the compiler's own vectors do.
const AVX2_F64: Tiles<f64> = tiles!((#[target_feature(enable = "avx2,fma")]) f64, Portable<f64>, widths: {1: [1 2] outer [| 2]}, peak: 2);
// Thirty-two registers: at most 28 accumulators, three of weights, one broadcast. Three vectors by eight pixels ask for the fewest
// instructions: 1.5 for each multiply-add, where two vectors need 1.7. Outer tiles of one vector are also of the four channels at most and
// the nine that kernel rows of one and three channels have.
const AVX512_F32: Tiles<f32> = Tiles {
    column: Some(avx512_column),
    ..tiles!((#[target_feature(enable = "avx2,fma,avx512f,avx512bw,avx512dq,avx512vl")]) f32, Avx512, widths: {
        1: [1 2 3 4 5 6 7 8 9 10 11 12 13 14 15 16] outer [4 10 | 16],
        2: [1 2 3 4 5 6 7 8 9 10 11 12 13 14] outer [| 8],
        3: [1 2 3 4 5 6 7 8] outer [| 8]
    }, peak: 12)
};

// Three rows of eight pixels are 24 accumulators, beside three of weights and one broadcast.
#[target_feature(enable = "avx2,fma,avx512f,avx512bw,avx512dq,avx512vl")]
fn avx512_column(column: &Column<'_, f32>, y: &mut [f32]) {
    for cut in tile::cuts(column.pixels(), 8) {
        match cut.len() {
            1 => column_tile::<f32, Avx512, 1>(column, cut.start, y),
            2 => column_tile::<f32, Avx512, 2>(column, cut.start, y),
            3 => column_tile::<f32, Avx512, 3>(column, cut.start, y),
            4 => column_tile::<f32, Avx512, 4>(column, cut.start, y),
            5 => column_tile::<f32, Avx512, 5>(column, cut.start, y),
            6 => column_tile::<f32, Avx512, 6>(column, cut.start, y),
            7 => column_tile::<f32, Avx512, 7>(column, cut.start, y),
            _ => column_tile::<f32, Avx512, 8>(column, cut.start, y),
        }
    }
}

#[target_feature(enable = "avx2,fma")]
pub(super) fn with_avx2<W: Vectorize>(work: W) -> W::Output {
    work.run()
}

#[target_feature(enable = "avx2,fma,avx512f,avx512bw,avx512dq,avx512vl")]
pub(super) fn with_avx512<W: Vectorize>(work: W) -> W::Output {
    work.run()
}

/// Sixteen `f32` in two AVX registers. Used only in functions that enable AVX2 and FMA.
#[derive(Clone, Copy)]
struct Avx2([__m256; 2]);

impl Lanes<f32> for Avx2 {
    #[inline(always)]
    fn splat(value: f32) -> Self {
        // SAFETY: inlined only into functions of the AVX2 table, whose instruction set the machine has.
        unsafe { Self([_mm256_set1_ps(value); 2]) }
    }

    #[inline(always)]
    fn load(line: &Line<f32>) -> Self {
        let numbers = line.0.as_ptr();
        // SAFETY: the instruction set as in `splat`; a line is 64 readable bytes, aligned to 64.
        unsafe { Self([_mm256_load_ps(numbers), _mm256_load_ps(numbers.add(8))]) }
    }

    #[inline(always)]
    fn to_line(self) -> Line<f32> {
        let mut line = Line([0.0; LANES]);
        let numbers = line.0.as_mut_ptr();
        // SAFETY: the instruction set as in `splat`; a line is 64 writable bytes.
        unsafe {
            _mm256_storeu_ps(numbers, self.0[0]);
            _mm256_storeu_ps(numbers.add(8), self.0[1]);
        }
        line
    }

    #[inline(always)]
    fn fused(self, a: Self, b: Self) -> Self {
        // SAFETY: the instruction set as in `splat`.
        unsafe {
            Self([_mm256_fmadd_ps(a.0[0], b.0[0], self.0[0]), _mm256_fmadd_ps(a.0[1], b.0[1], self.0[1])])
        }
    }

    #[inline(always)]
    fn times(self, factor: Self) -> Self {
        // SAFETY: the instruction set as in `splat`.
        unsafe { Self([_mm256_mul_ps(self.0[0], factor.0[0]), _mm256_mul_ps(self.0[1], factor.0[1])]) }
    }

    #[inline(always)]
    fn plus(self, addend: Self) -> Self {
        // SAFETY: the instruction set as in `splat`.
        unsafe { Self([_mm256_add_ps(self.0[0], addend.0[0]), _mm256_add_ps(self.0[1], addend.0[1])]) }
    }

    #[inline(always)]
    fn minus(self, subtrahend: Self) -> Self {
        let [low, high] = subtrahend.0;
        // SAFETY: the instruction set as in `splat`.
        unsafe { Self([_mm256_sub_ps(self.0[0], low), _mm256_sub_ps(self.0[1], high)]) }
    }
}

/// Sixteen `f32` in one AVX-512 register. Used only in functions that enable AVX-512.
#[derive(Clone, Copy)]
struct Avx512(__m512);

impl Lanes<f32> for Avx512 {
    #[inline(always)]
    fn splat(value: f32) -> Self {
        // SAFETY: inlined only into functions of the AVX-512 table, whose instruction set the machine has.
        unsafe { Self(_mm512_set1_ps(value)) }
    }

    #[inline(always)]
    fn load(line: &Line<f32>) -> Self {
        // SAFETY: the instruction set as in `splat`; a line is 64 readable bytes, aligned to 64.
        unsafe { Self(_mm512_load_ps(line.0.as_ptr())) }
    }

    #[inline(always)]
    fn to_line(self) -> Line<f32> {
        let mut line = Line([0.0; LANES]);
        // SAFETY: the instruction set as in `splat`; a line is 64 writable bytes.
        unsafe { _mm512_storeu_ps(line.0.as_mut_ptr(), self.0) }
        line
    }

    #[inline(always)]
    fn fused(self, a: Self, b: Self) -> Self {
        // SAFETY: the instruction set as in `splat`.
        unsafe { Self(_mm512_fmadd_ps(a.0, b.0, self.0)) }
    }

    #[inline(always)]
    fn times(self, factor: Self) -> Self {
        // SAFETY: the instruction set as in `splat`.
        unsafe { Self(_mm512_mul_ps(self.0, factor.0)) }
    }

    #[inline(always)]
    fn plus(self, addend: Self) -> Self {
        // SAFETY: the instruction set as in `splat`.
        unsafe { Self(_mm512_add_ps(self.0, addend.0)) }
    }

    #[inline(always)]
    fn minus(self, subtrahend: Self) -> Self {
        // SAFETY: the instruction set as in `splat`.
        unsafe { Self(_mm512_sub_ps(self.0, subtrahend.0)) }
    }
}
