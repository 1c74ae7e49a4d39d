use alloc::vec::Vec;
use core::ops::Range;

use crate::line::LANES;

/// Columns of the right factor that pass through a tile together.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Panel {
    pub(super) columns: Range<usize>,
}

impl Panel {
    /// `columns` cut into panels of `vectors`.
    pub(super) fn all(columns: usize, vectors: usize) -> Vec<Self> {
        let width = vectors * LANES;
        (0..columns)
            .step_by(width)
            .map(|start| Self { columns: start..(start + width).min(columns) })
            .collect()
    }

    pub(super) fn vectors(&self) -> usize {
        self.columns.len().div_ceil(LANES)
    }
}

/// Vectors of panels side by side.
pub(super) fn vectors(panels: &[Panel]) -> usize {
    panels.iter().map(Panel::vectors).sum()
}

/// Columns of panels side by side.
pub(super) fn columns(panels: &[Panel]) -> Range<usize> {
    panels[0].columns.start..panels[panels.len() - 1].columns.end
}
