//! Exact zeros around images whose encoding has no zero.

use alloc::vec;
use alloc::vec::Vec;
use core::ops::Range;

use super::ConvGeometry;
use crate::line::{Block, Line};

/// Classes of output pixels by the taps that fall outside the image, and what an accumulator of each class starts at.
#[derive(Clone, Debug)]
pub(crate) struct Border {
    /// Of every output row.
    rows: Vec<u32>,
    /// Of every output column.
    pub(crate) columns: Vec<u32>,
    row_classes: usize,
    column_classes: usize,
    /// `[panel, row class, column class]`
    offsets: Vec<Line<i32>>,
}

impl Border {
    /// One class for all: padding is a code like any other.
    pub(crate) fn none(columns: usize, base: Vec<Line<i32>>) -> Self {
        Self { rows: Vec::new(), columns: vec![0; columns], row_classes: 1, column_classes: 1, offsets: base }
    }

    /// Takes back what padded taps add: `outside · Σ_c w[kh, kw, c, o]`, where the frame holds the code `outside` instead of zero.
    ///
    /// `sums` are the weights summed over the input channels, `[kh, kw, out_channels]`.
    pub(crate) fn new(
        geometry: &ConvGeometry,
        panels: &[Block],
        base: &[Line<i32>],
        outside: i32,
        sums: &[i32],
    ) -> Self {
        let (rows, row_taps) = classes(geometry, 0, geometry.out_height());
        let (columns, column_taps) = classes(geometry, 1, geometry.out_width());
        let (sums, [_, width], channels) =
            (corner_sums(geometry, sums), geometry.kernel, geometry.out_channels);
        let mut offsets = Vec::with_capacity(panels.len() * row_taps.len() * column_taps.len());
        for (panel, base) in panels.iter().zip(base) {
            // The sum over the taps of the kernel above and left of a corner.
            let corner = |row: usize, column: usize| {
                &sums[(row * (width + 1) + column) * channels + panel.first..][..panel.count]
            };
            let all = corner(geometry.kernel[0], width);
            for inside in &row_taps {
                for beside in &column_taps {
                    let [[both, left], [above, neither]] = [inside.end, inside.start]
                        .map(|row| [beside.end, beside.start].map(|column| corner(row, column)));
                    let mut line = *base;
                    for lane in 0..panel.count {
                        let seen = both[lane]
                            .wrapping_sub(above[lane])
                            .wrapping_sub(left[lane])
                            .wrapping_add(neither[lane]);
                        let taken_back = outside.wrapping_mul(all[lane].wrapping_sub(seen));
                        line.0[lane] = line.0[lane].wrapping_sub(taken_back);
                    }
                    offsets.push(line);
                }
            }
        }
        Self { rows, columns, row_classes: row_taps.len(), column_classes: column_taps.len(), offsets }
    }

    /// The offsets of a panel in an output row, by class of column.
    pub(crate) fn offsets(&self, panel: usize, row: usize) -> &[Line<i32>] {
        let class = self.rows.get(row).map_or(0, |&class| class as usize);
        &self.offsets[(panel * self.row_classes + class) * self.column_classes..][..self.column_classes]
    }
}

/// The sums over all taps above and left of each corner of the kernel's grid, `[kh + 1, kw + 1, out_channels]`: four of them give the sum over
/// any rectangle. Only differences count, which are right even if a sum wraps around.
fn corner_sums(geometry: &ConvGeometry, sums: &[i32]) -> Vec<i32> {
    let ([height, width], channels) = (geometry.kernel, geometry.out_channels);
    let mut corners = vec![0_i32; (height + 1) * (width + 1) * channels];
    for (row, sums) in sums.chunks_exact(width * channels).enumerate() {
        let (above, below) = corners.split_at_mut((row + 1) * (width + 1) * channels);
        let above = &above[row * (width + 1) * channels..];
        for at in channels..(width + 1) * channels {
            // What lies left in this row and the tap itself; above it all rows before.
            let left = below[at - channels].wrapping_sub(above[at - channels]);
            below[at] = left.wrapping_add(sums[at - channels]).wrapping_add(above[at]);
        }
    }
    corners
}

/// For one axis the class of every output, and for every class which taps lie inside the image.
fn classes(geometry: &ConvGeometry, axis: usize, outputs: usize) -> (Vec<u32>, Vec<Range<usize>>) {
    let mut found: Vec<Range<usize>> = Vec::new();
    let of = (0..outputs).map(|output| {
        let taps = geometry.taps_inside(axis, output);
        // The inner ones, by far the most, come in one run: look at the last class first.
        let class = found.iter().rposition(|known| *known == taps).unwrap_or_else(|| {
            found.push(taps);
            found.len() - 1
        });
        class as u32
    });
    (of.collect(), found)
}
