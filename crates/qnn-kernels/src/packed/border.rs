//! Exact zeros around images whose encoding has no zero.

use alloc::vec;
use alloc::vec::Vec;

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
        let mut offsets = Vec::with_capacity(panels.len() * row_taps.len() * column_taps.len());
        for (panel, base) in panels.iter().zip(base) {
            for rows_inside in &row_taps {
                for columns_inside in &column_taps {
                    let mut line = *base;
                    for (tap, sums) in sums.chunks_exact(geometry.out_channels).enumerate() {
                        if !(rows_inside[tap / geometry.kernel[1]]
                            && columns_inside[tap % geometry.kernel[1]])
                        {
                            for lane in 0..panel.count {
                                line.0[lane] -= outside * sums[panel.first + lane];
                            }
                        }
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

/// For one axis the class of every output, and for every class which taps lie inside the image.
fn classes(geometry: &ConvGeometry, axis: usize, outputs: usize) -> (Vec<u32>, Vec<Vec<bool>>) {
    let mut found: Vec<Vec<bool>> = Vec::new();
    let of = (0..outputs).map(|output| {
        let inside = |tap| geometry.source(axis, output, tap).is_some();
        let taps: Vec<bool> = (0..geometry.kernel[axis]).map(inside).collect();
        // The inner ones, by far the most, come in one run: look at the last class first.
        let class = found.iter().rposition(|known| *known == taps).unwrap_or_else(|| {
            found.push(taps);
            found.len() - 1
        });
        class as u32
    });
    (of.collect(), found)
}
