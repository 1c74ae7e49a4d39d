//! The tables of integer dot products: several to an instruction set, as some of their instructions come on their own.

#[cfg(all(target_arch = "aarch64", target_feature = "neon"))]
use super::dots_aarch64;
use super::dots_scalar;
#[cfg(target_arch = "x86_64")]
use super::dots_x86;
use crate::line::Line;
use crate::packed::dot_tile::{DotRow, Packing};
use crate::packed::plane_weights::Spread;
use crate::packed::requantize::{Affine, FixedPoint, Rounded};
use crate::packed::sum::Sum;
use crate::packed::unit_frame::UnitForm;
use crate::{Isa, Kernels};

/// Kernels around one dot-product instruction.
#[derive(Debug)]
pub(crate) struct DotTiles {
    /// The instruction that does the work.
    pub(crate) name: &'static str,
    pub(crate) packing: Packing,
    /// For 1, 2, … blocks of output channels at a time, as many as the registers allow.
    pub(super) rows: &'static [RowTile],
    pub(super) elementwise: RowTile,
    pub(super) peak: unsafe fn(usize) -> (u64, i32),
    pub(super) fixed: unsafe fn(&FixedPoint, &[i32], &mut [u8]),
    pub(super) rounded: unsafe fn(&Rounded, &[i32], &mut [u8]),
    pub(super) scaled: unsafe fn(&Affine<'_>, &[i32], &mut [f32]),
    pub(super) add: unsafe fn(&Sum, &[u8], &[u8], &mut [u8]),
    pub(super) floats: unsafe fn(Spread<'_>, usize, &mut [Line<f32>]),
    pub(super) units: unsafe fn(Spread<'_>, usize, UnitForm, &mut [Line<u32>]),
}

pub(super) type RowTile = unsafe fn(&DotRow<'_>, &mut [i32]);

impl DotTiles {
    /// Blocks of output channels that the widest tile takes.
    pub(crate) fn blocks(&self) -> usize {
        self.rows.len()
    }

    /// A row for so many blocks of output channels.
    pub(crate) fn row(&self, blocks: usize, row: &DotRow<'_>, y: &mut [i32]) {
        // SAFETY: a table is handed out only on a machine that has its instructions, and the function asks for nothing else.
        unsafe { (self.rows[blocks - 1])(row, y) }
    }

    pub(crate) fn elementwise(&self, row: &DotRow<'_>, y: &mut [i32]) {
        // SAFETY: as for `row`.
        unsafe { (self.elementwise)(row, y) }
    }

    pub(crate) fn peak(&self, rounds: usize) -> (u64, i32) {
        // SAFETY: as for `row`.
        unsafe { (self.peak)(rounds) }
    }

    pub(crate) fn fixed(&self, by: &FixedPoint, acc: &[i32], y: &mut [u8]) {
        // SAFETY: as for `row`.
        unsafe { (self.fixed)(by, acc, y) }
    }

    pub(crate) fn rounded(&self, by: &Rounded, acc: &[i32], y: &mut [u8]) {
        // SAFETY: as for `row`.
        unsafe { (self.rounded)(by, acc, y) }
    }

    pub(crate) fn scaled(&self, by: &Affine<'_>, acc: &[i32], y: &mut [f32]) {
        // SAFETY: as for `row`.
        unsafe { (self.scaled)(by, acc, y) }
    }

    pub(crate) fn add(&self, by: &Sum, a: &[u8], b: &[u8], y: &mut [u8]) {
        // SAFETY: as for `row`.
        unsafe { (self.add)(by, a, b, y) }
    }
}

impl DotTiles {
    /// [`Spread::write_floats`].
    pub(crate) fn write_floats(&self, weights: Spread<'_>, step: usize, lines: &mut [Line<f32>]) {
        // SAFETY: as for `row`.
        unsafe { (self.floats)(weights, step, lines) }
    }

    /// [`Spread::write_units`].
    pub(crate) fn write_units(
        &self,
        weights: Spread<'_>,
        taps: usize,
        form: UnitForm,
        lines: &mut [Line<u32>],
    ) {
        // SAFETY: as for `row`.
        unsafe { (self.units)(weights, taps, form, lines) }
    }
}

/// The tables that stand for an instruction set and that this machine can run, the best first.
pub(crate) fn dot_tables(isa: Isa) -> impl Iterator<Item = &'static DotTiles> {
    let tables = match isa {
        _ if !isa.is_available() => [None, None, None],
        #[cfg(target_arch = "x86_64")]
        Isa::Avx512 => dots_x86::avx512(),
        #[cfg(target_arch = "x86_64")]
        Isa::Avx2 => dots_x86::avx2(),
        #[cfg(all(target_arch = "aarch64", target_feature = "neon"))]
        Isa::Neon => [Some(&dots_aarch64::MLAL), None, None],
        _ => [Some(&dots_scalar::PORTABLE), None, None],
    };
    tables.into_iter().flatten()
}

impl Kernels {
    /// The kernels of integer dot products.
    pub(crate) fn dots(&self) -> &'static DotTiles {
        dot_tables(self.isa).next().expect("every instruction set has dot products")
    }
}

/// The memory of signed bytes.
pub(crate) fn as_bytes(codes: &[i8]) -> &[u8] {
    // SAFETY: both types are one byte, any value of it is one of the other, and the slice covers the same memory for as long.
    unsafe { core::slice::from_raw_parts(codes.as_ptr().cast(), codes.len()) }
}

/// Instantiates the kernels under the target features of their instruction.
///
/// `rows` lists, for 1 and 2 blocks of output channels, the pixels that a tile of as many blocks can take, `1..=n` in order.
macro_rules! dot_tiles {
    ($name:literal, $attribute:meta, $lanes:ty, $packing:expr, peak: [$sums:literal, $loads:literal], rows: [$($blocks:literal: [$($pixels:tt)*]),*]) => {{
        #[$attribute]
        fn elementwise(row: &DotRow<'_>, y: &mut [i32]) {
            dot_tile::dot_elementwise::<$lanes>(row, y);
        }
        #[$attribute]
        fn peak(rounds: usize) -> (u64, i32) {
            dot_tile::dot_peak::<$lanes, $sums, $loads>(rounds, $packing.channels())
        }
        #[$attribute]
        fn fixed(by: &FixedPoint, acc: &[i32], y: &mut [u8]) {
            by.apply(acc, y);
        }
        #[$attribute]
        fn rounded(by: &Rounded, acc: &[i32], y: &mut [u8]) {
            by.apply(acc, y);
        }
        #[$attribute]
        fn scaled(by: &Affine<'_>, acc: &[i32], y: &mut [f32]) {
            by.apply(acc, y);
        }
        #[$attribute]
        fn add(by: &Sum, a: &[u8], b: &[u8], y: &mut [u8]) {
            by.apply(a, b, y);
        }
        #[$attribute]
        fn floats(weights: Spread<'_>, step: usize, lines: &mut [Line<f32>]) {
            weights.write_floats(step, lines);
        }
        #[$attribute]
        fn units(weights: Spread<'_>, taps: usize, form: UnitForm, lines: &mut [Line<u32>]) {
            weights.write_units(taps, form, lines);
        }
        DotTiles {
            name: $name,
            packing: $packing,
            rows: &[$({
                #[$attribute]
                fn rows(row: &DotRow<'_>, y: &mut [i32]) {
                    dot_rows!($lanes, $blocks, [$($pixels)*], row, y);
                }
                rows
            }),*],
            elementwise,
            peak,
            fixed,
            rounded,
            scaled,
            add,
            floats,
            units,
        }
    }};
}
pub(super) use dot_tiles;

/// A row in tiles of the listed widths.
macro_rules! dot_rows {
    ($lanes:ty, $blocks:literal, [$($pixels:literal)*], $row:ident, $y:ident) => {
        const MOST: usize = [$($pixels),*].len();
        for cut in tile::cuts($row.pixels, MOST) {
            let (lines, y) = (&$row.image[cut.start..], &mut $y[cut.start * $row.pixel_step..]);
            match cut.len() {
                $($pixels => dot_tile::dot_tile::<$lanes, $pixels, $blocks>($row, lines, y),)*
                pixels => unreachable!("a tile of {pixels} pixels where at most {MOST} are cut"),
            }
        }
    };
}
pub(super) use dot_rows;
