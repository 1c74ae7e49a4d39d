//! The table's part for packed bits.

use core::ops::Range;

use crate::line::Line;
use crate::packed::depthwise;
use crate::packed::frame::Frame;
use crate::packed::tile::{Row, Scaling};

/// The kernels for packed bits.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Bits {
    pub(super) xor: RowKernel,
    pub(super) masked: RowKernel,
    pub(super) depthwise: unsafe fn(&depthwise::Row<'_>, usize, &mut [Line<i32>]),
    pub(super) fill: FillKernel,
    pub(super) reached: unsafe fn(&[Line<i32>], &Line<i32>, &mut [u16]),
    pub(super) scaled: unsafe fn(&[Line<i32>], &Scaling, &mut [f32]),
    pub(super) pack_signs: unsafe fn(&[f32], &mut [u8]) -> bool,
    pub(super) limit: unsafe fn(usize) -> u64,
}

type FillKernel = unsafe fn(&Frame, Range<usize>, &[u8], [&mut [u64]; 2]);
type RowKernel = unsafe fn(&Row<'_>, &mut [Line<i32>]);

impl Bits {
    /// A row of accumulators, one for each line.
    pub(crate) fn row(&self, masked: bool, row: &Row<'_>, acc: &mut [Line<i32>]) {
        let kernel = if masked { self.masked } else { self.xor };
        // SAFETY: `table` hands out a table only on a machine that has its instruction set, and the function asks for nothing else.
        unsafe { kernel(row, acc) }
    }

    /// See [`depthwise::row`].
    pub(crate) fn depthwise(&self, row: &depthwise::Row<'_>, first: usize, acc: &mut [Line<i32>]) {
        // SAFETY: as for `row`.
        unsafe { (self.depthwise)(row, first, acc) }
    }

    /// See [`Frame::fill`].
    pub(crate) fn fill(&self, frame: &Frame, rows: Range<usize>, image: &[u8], words: [&mut [u64]; 2]) {
        // SAFETY: as for `row`.
        unsafe { (self.fill)(frame, rows, image, words) }
    }

    pub(crate) fn reached(&self, acc: &[Line<i32>], cuts: &Line<i32>, masks: &mut [u16]) {
        // SAFETY: as for `row`.
        unsafe { (self.reached)(acc, cuts, masks) }
    }

    pub(crate) fn scaled(&self, acc: &[Line<i32>], scaling: &Scaling, y: &mut [f32]) {
        // SAFETY: as for `row`.
        unsafe { (self.scaled)(acc, scaling, y) }
    }

    pub(crate) fn pack_signs(&self, values: &[f32], packed: &mut [u8]) -> bool {
        // SAFETY: as for `row`.
        unsafe { (self.pack_signs)(values, packed) }
    }

    pub(crate) fn limit(&self, steps: usize) -> u64 {
        // SAFETY: as for `row`.
        unsafe { (self.limit)(steps) }
    }
}

/// Instantiates the kernels for lanes of one kind, under the target features of their instruction set: tiles of `vectors` registers by the
/// listed pixels, `1..=n` in order.
macro_rules! bits {
    ($(#[$feature:meta])* $lanes:ty, vectors: $vectors:literal, pixels: [$($pixels:literal)*]) => {{
        $(#[$feature])*
        fn xor(row: &packed::Row<'_>, acc: &mut [Line<i32>]) {
            bit_row!($lanes, false, $vectors, [$($pixels)*], row, acc);
        }
        $(#[$feature])*
        fn masked(row: &packed::Row<'_>, acc: &mut [Line<i32>]) {
            bit_row!($lanes, true, $vectors, [$($pixels)*], row, acc);
        }
        $(#[$feature])*
        fn depthwise(row: &depthwise::Row<'_>, first: usize, acc: &mut [Line<i32>]) {
            depthwise::row(row, first, acc);
        }
        $(#[$feature])*
        fn fill(frame: &Frame, rows: Range<usize>, image: &[u8], words: [&mut [u64]; 2]) {
            frame.fill(rows, image, words);
        }
        $(#[$feature])*
        fn reached(acc: &[Line<i32>], cuts: &Line<i32>, masks: &mut [u16]) {
            packed::reached::<$lanes>(acc, cuts, masks);
        }
        $(#[$feature])*
        fn scaled(acc: &[Line<i32>], scaling: &packed::Scaling, y: &mut [f32]) {
            packed::scaled(acc, scaling, y);
        }
        $(#[$feature])*
        fn pack_signs(values: &[f32], bytes: &mut [u8]) -> bool {
            packed::pack_signs::<$lanes>(values, bytes)
        }
        $(#[$feature])*
        fn limit(steps: usize) -> u64 {
            packed::limit::<$lanes, { [$($pixels),*].len() }, $vectors>(steps)
        }
        Bits { xor, masked, depthwise, fill, reached, scaled, pack_signs, limit }
    }};
}
pub(crate) use bits;

macro_rules! bit_row {
    ($lanes:ty, $masked:literal, $vectors:literal, [$($pixels:literal)*], $row:ident, $acc:ident) => {
        const MOST: usize = [$($pixels),*].len();
        const CHANNELS: usize = $vectors * <$lanes as BitLanes>::LANES;
        for channel in (0..LANES).step_by(CHANNELS) {
            for cut in crate::tile::cuts($acc.len(), MOST) {
                let acc = &mut $acc[cut.clone()];
                match cut.len() {
                    $($pixels => packed::tile::<$lanes, $masked, $pixels, $vectors>($row, channel, cut.start, acc),)*
                    pixels => unreachable!("a tile of {pixels} pixels where at most {MOST} are cut"),
                }
            }
        }
    };
}
pub(crate) use bit_row;
