//! The tables of kernels, one for each instruction set: all of the crate's unsafe code.
//!
//! A table is reached only through [`table`], which asks the machine first; that is what makes the calls below sound.

#![allow(unsafe_code)]

pub(crate) mod bits;
mod dots;
mod dots_scalar;
mod scalar;

#[cfg(all(target_arch = "aarch64", target_feature = "neon"))]
mod aarch64;
#[cfg(all(target_arch = "aarch64", target_feature = "neon"))]
mod aarch64_bits;
#[cfg(all(target_arch = "aarch64", target_feature = "neon"))]
mod dots_aarch64;
#[cfg(target_arch = "x86_64")]
mod dots_x86;
#[cfg(target_arch = "x86_64")]
mod x86;
#[cfg(target_arch = "x86_64")]
mod x86_bits;

#[cfg(test)]
pub(crate) use dots::dot_tables;
pub(crate) use dots::{DotTiles, as_bytes};

use crate::column::Column;
use crate::line::{LANES, Line};
use crate::matrix::Job;
use crate::tile::{Row, Sweep};
use crate::winograd::{Corner, Products, Window};
use crate::{Isa, Real, Vectorize};

/// The kernels of one instruction set.
#[derive(Debug)]
pub struct Kernels {
    pub(crate) isa: Isa,
    pub(crate) f32: Tiles<f32>,
    pub(crate) f64: Tiles<f64>,
    pub(crate) bits: bits::Bits,
}

/// Vectors of output channels that a tile of any instruction set can take.
pub(crate) const MOST_VECTORS: usize = 3;

type RowTile<T> = unsafe fn(&Row<'_, T>, &mut [T]);
type ColumnTile<T> = unsafe fn(&Column<'_, T>, &mut [T]);
type MatrixTile<T> = unsafe fn(&Job<'_, T>, &mut [Line<T>]);
type SweepTile<T> = unsafe fn(&Sweep<'_, T>, &mut [Line<T>]);
type WindowTile<T, const N: usize> = unsafe fn(&Window<'_, T, N>, &mut [Line<T>]);
type TapTile<T> = unsafe fn(&[Line<T>], &mut [&mut [Line<T>]; 9]);
type PixelTile<T> = unsafe fn(&Products<'_, T>, &Corner, &mut [T]);

/// The register tiles for one type of numbers.
#[derive(Clone, Copy, Debug)]
pub struct Tiles<T> {
    /// Those of one vector of output channels, of two, and so on.
    widths: [Option<Width<T>>; MOST_VECTORS],
    /// Where a tile of one vector has more registers than a row of it makes use of.
    column: Option<ColumnTile<T>>,
    elementwise: RowTile<T>,
    elementwise_outer: SweepTile<T>,
    image_windows: WindowTile<T, 4>,
    gradient_windows: WindowTile<T, 2>,
    pixels: PixelTile<T>,
    taps: TapTile<T>,
    peak: unsafe fn(usize) -> (u64, T),
}

/// The register tiles for as many vectors of output channels.
#[derive(Clone, Copy, Debug)]
struct Width<T> {
    product: RowTile<T>,
    outer: SweepTile<T>,
    matrix: MatrixTile<T>,
    /// Pixels of a product tile, or rows of a matrix tile, at most.
    most: usize,
}

impl<T: Copy> Width<T> {
    /// The first widths.
    const fn listed<const N: usize>(first: [Self; N]) -> [Option<Self>; MOST_VECTORS] {
        let mut widths = [None; MOST_VECTORS];
        let mut index = 0;
        while index < N {
            widths[index] = Some(first[index]);
            index += 1;
        }
        widths
    }
}

/// The table of an instruction set, if this machine can run it.
pub(crate) fn table(isa: Isa) -> Option<&'static Kernels> {
    if !isa.is_available() {
        return None;
    }
    match isa {
        Isa::Scalar => Some(&scalar::KERNELS),
        #[cfg(target_arch = "x86_64")]
        Isa::Popcnt => Some(&x86::POPCNT),
        #[cfg(target_arch = "x86_64")]
        Isa::Avx2 => Some(&x86::AVX2),
        #[cfg(target_arch = "x86_64")]
        Isa::Avx512 if x86::counts_bits_of_vectors() => Some(&x86::AVX512),
        #[cfg(target_arch = "x86_64")]
        Isa::Avx512 => Some(&x86::AVX512_WITHOUT_COUNT),
        #[cfg(all(target_arch = "aarch64", target_feature = "neon"))]
        Isa::Neon => Some(&aarch64::NEON),
        #[allow(unreachable_patterns)]
        _ => None,
    }
}

/// Does work in a function compiled for the vectors of an instruction set.
pub(crate) fn vectorized<W: Vectorize>(isa: Isa, work: W) -> W::Output {
    match isa {
        #[cfg(target_arch = "x86_64")]
        // SAFETY: the instruction set is that of a table, and `table` has asked the machine for it.
        Isa::Avx512 => unsafe { x86::with_avx512(work) },
        #[cfg(target_arch = "x86_64")]
        // SAFETY: as above.
        Isa::Avx2 => unsafe { x86::with_avx2(work) },
        _ => work.run(),
    }
}

impl<T> Tiles<T> {
    /// Vectors of output channels that a tile can take.
    pub(crate) fn vectors(&self) -> usize {
        self.widths.iter().flatten().count()
    }

    fn width(&self, vectors: usize) -> &Width<T> {
        self.widths[vectors - 1].as_ref().expect("a width that the tiles have")
    }

    pub(crate) fn product(&self, vectors: usize, row: &Row<'_, T>, y: &mut [T]) {
        // SAFETY: `table` hands out a table only on a machine that has its instruction set, and the function asks for nothing else.
        unsafe { (self.width(vectors).product)(row, y) }
    }

    pub(crate) fn takes_columns(&self) -> bool {
        self.column.is_some()
    }

    pub(crate) fn column(&self, column: &Column<'_, T>, y: &mut [T]) {
        let tile = self.column.expect("asked for only where there is one");
        // SAFETY: as for `product`.
        unsafe { tile(column, y) }
    }

    /// Rows of the left factor that a matrix tile of panels of so many vectors takes at most.
    pub(crate) fn matrix_rows(&self, vectors: usize) -> usize {
        self.width(vectors).most
    }

    pub(crate) fn matrix(&self, vectors: usize, job: &Job<'_, T>, sums: &mut [Line<T>]) {
        // SAFETY: as for `product`.
        unsafe { (self.width(vectors).matrix)(job, sums) }
    }

    /// Multiply-adds of so many rounds on registers alone, and a number that depends on all.
    pub(crate) fn peak(&self, rounds: usize) -> (u64, T) {
        // SAFETY: as for `product`.
        unsafe { (self.peak)(rounds) }
    }

    pub(crate) fn elementwise(&self, row: &Row<'_, T>, y: &mut [T]) {
        // SAFETY: as for `product`.
        unsafe { (self.elementwise)(row, y) }
    }

    pub(crate) fn outer(&self, vectors: usize, sweep: &Sweep<'_, T>, sums: &mut [Line<T>]) {
        // SAFETY: as for `product`.
        unsafe { (self.width(vectors).outer)(sweep, sums) }
    }

    pub(crate) fn elementwise_outer(&self, sweep: &Sweep<'_, T>, sums: &mut [Line<T>]) {
        // SAFETY: as for `product`.
        unsafe { (self.elementwise_outer)(sweep, sums) }
    }

    pub(crate) fn image_windows(&self, window: &Window<'_, T, 4>, lines: &mut [Line<T>]) {
        // SAFETY: as for `product`.
        unsafe { (self.image_windows)(window, lines) }
    }

    pub(crate) fn gradient_windows(&self, window: &Window<'_, T, 2>, lines: &mut [Line<T>]) {
        // SAFETY: as for `product`.
        unsafe { (self.gradient_windows)(window, lines) }
    }

    pub(crate) fn pixels(&self, products: &Products<'_, T>, corner: &Corner, y: &mut [T]) {
        // SAFETY: as for `product`.
        unsafe { (self.pixels)(products, corner, y) }
    }

    pub(crate) fn taps(&self, products: &[Line<T>], taps: &mut [&mut [Line<T>]; 9]) {
        // SAFETY: as for `product`.
        unsafe { (self.taps)(products, taps) }
    }
}

/// The numbers of the lines, one after the other.
pub(crate) fn numbers_mut<T: Real>(lines: &mut [Line<T>]) -> &mut [T] {
    const { assert!(size_of::<Line<T>>() == LANES * size_of::<T>()) };
    // SAFETY: a line is `LANES` numbers with nothing between or after them, as the assertion checks, so the slice covers the same memory;
    // it borrows the lines exclusively for as long as it lives.
    unsafe { core::slice::from_raw_parts_mut(lines.as_mut_ptr().cast(), lines.len() * LANES) }
}

/// Asks for the cache lines of numbers that are read soon, where the machine has an instruction for it.
#[inline(always)]
pub(crate) fn prefetch<T: Real>(numbers: &[T]) {
    #[cfg(target_arch = "x86_64")]
    for line in numbers.chunks(64 / size_of::<T>()) {
        use core::arch::x86_64::{_MM_HINT_T1, _mm_prefetch};
        // SAFETY: every x86-64 has the instruction; it has no effect but on the caches, and the address is that of a number.
        unsafe { _mm_prefetch::<_MM_HINT_T1>(line.as_ptr().cast()) }
    }
    #[cfg(not(target_arch = "x86_64"))]
    let _ = numbers;
}

/// Numbers as lines, if they begin and end with one.
pub(crate) fn as_lines<T: Real>(numbers: &[T]) -> Option<&[Line<T>]> {
    const { assert!(size_of::<Line<T>>() == LANES * size_of::<T>()) };
    // SAFETY: a line is `LANES` numbers with nothing between or after them, as the assertion checks, and any numbers are a line.
    let (before, lines, after) = unsafe { numbers.align_to() };
    (before.is_empty() && after.is_empty()).then_some(lines)
}

/// Instantiates the tiles for lanes of one kind, under the target features of their instruction set.
///
/// Each width lists the pixels that a product tile of as many vectors can take, and the input channels that an outer tile of them can.
macro_rules! tiles {
    ($features:tt $number:ty, $lanes:ty, widths: {$($vectors:literal: $pixels:tt outer $channels:tt),*}, peak: $sums:literal) => {
        Tiles {
            widths: Width::listed([$(width!($features $number, $lanes, $vectors, $pixels, $channels)),*]),
            ..other_tiles!($features $number, $lanes, $sums)
        }
    };
}
pub(crate) use tiles;

/// The tiles for as many vectors.
macro_rules! width {
    (($(#[$feature:meta])*) $number:ty, $lanes:ty, $vectors:literal, [$($pixels:literal)*], [$($few:literal)* | $channels:literal]) => {{
        $(#[$feature])*
        fn product(row: &Row<'_, $number>, y: &mut [$number]) {
            product_row!($number, $lanes, $vectors, [$($pixels)*], row, y);
        }
        $(#[$feature])*
        fn outer(sweep: &Sweep<'_, $number>, sums: &mut [Line<$number>]) {
            $(if sweep.channels <= $few {
                return tile::outer::<$number, $lanes, $few, $vectors>(sweep, sums);
            })*
            tile::outer::<$number, $lanes, $channels, $vectors>(sweep, sums);
        }
        $(#[$feature])*
        fn matrix(job: &Job<'_, $number>, sums: &mut [Line<$number>]) {
            matrix_tiles!($number, $lanes, $vectors, [$($pixels)*], job, sums);
        }
        Width { product, outer, matrix, most: [$($pixels),*].len() }
    }};
}
pub(crate) use width;

/// The tiles that take one vector.
macro_rules! other_tiles {
    (($(#[$feature:meta])*) $number:ty, $lanes:ty, $sums:literal) => {{
        $(#[$feature])*
        fn elementwise(row: &Row<'_, $number>, y: &mut [$number]) {
            tile::elementwise::<$number, $lanes>(row, y);
        }
        $(#[$feature])*
        fn elementwise_outer(sweep: &Sweep<'_, $number>, sums: &mut [Line<$number>]) {
            tile::elementwise_outer::<$number, $lanes>(sweep, sums);
        }
        $(#[$feature])*
        fn image_windows(window: &crate::winograd::Window<'_, $number, 4>, lines: &mut [Line<$number>]) {
            crate::winograd::image_windows::<$number, $lanes>(window, lines);
        }
        $(#[$feature])*
        fn gradient_windows(window: &crate::winograd::Window<'_, $number, 2>, lines: &mut [Line<$number>]) {
            crate::winograd::gradient_windows::<$number, $lanes>(window, lines);
        }
        $(#[$feature])*
        fn pixels(
            products: &crate::winograd::Products<'_, $number>,
            corner: &crate::winograd::Corner,
            y: &mut [$number],
        ) {
            crate::winograd::pixels::<$number, $lanes>(products, corner, y);
        }
        $(#[$feature])*
        fn taps(products: &[Line<$number>], taps: &mut [&mut [Line<$number>]; 9]) {
            crate::winograd::taps::<$number, $lanes>(products, taps);
        }
        $(#[$feature])*
        fn peak(rounds: usize) -> (u64, $number) {
            tile::fused_peak::<$number, $lanes, $sums>(rounds)
        }
        Tiles {
            widths: [None; MOST_VECTORS],
            column: None,
            elementwise,
            elementwise_outer,
            image_windows,
            gradient_windows,
            pixels,
            taps,
            peak,
        }
    }};
}
pub(crate) use other_tiles;

/// A row in tiles of the listed widths, `1..=n` in order.
macro_rules! product_row {
    ($number:ty, $lanes:ty, $vectors:literal, [$($pixels:literal)*], $row:ident, $y:ident) => {
        const MOST: usize = [$($pixels),*].len();
        for cut in tile::cuts($row.pixels, MOST) {
            let (lines, y) = (&$row.image[cut.start..], &mut $y[cut.start * $row.pixel_step..]);
            match cut.len() {
                $($pixels => tile::product_tile::<$number, $lanes, $pixels, $vectors>($row, lines, y),)*
                pixels => unreachable!("a tile of {pixels} pixels where at most {MOST} are cut"),
            }
        }
    };
}
pub(crate) use product_row;

/// The matrix tile of as many rows as the job has, one of those listed.
macro_rules! matrix_tiles {
    ($number:ty, $lanes:ty, $vectors:literal, [$($rows:literal)*], $job:ident, $sums:ident) => {
        match $job.rows {
            $($rows => matrix_tile::<$number, $lanes, $rows, $vectors>($job, $sums),)*
            rows => unreachable!("a matrix tile of {rows} rows"),
        }
    };
}
pub(crate) use matrix_tiles;
