//! Where the windows of tiles lie in an image.

use core::ops::Range;

use crate::Real;
use crate::arch::as_lines;
use crate::line::{LANES, Line};
use crate::scratch::with_lines;

/// The tiles of 2×2 pixels of images of one extent.
#[derive(Clone, Copy, Debug)]
pub(super) struct Tiling {
    rows: usize,
    columns: usize,
}

/// Images of whole lines, and what surrounds them.
#[derive(Clone, Copy, Debug)]
pub(super) struct Images<'a, T> {
    lines: &'a [Line<T>],
    /// As many as a pixel has.
    outside: &'a [Line<T>],
    height: usize,
    width: usize,
    /// Rows of the first image that are not among the lines, for nobody reads them.
    skipped: usize,
}

impl Tiling {
    pub(super) fn new(height: usize, width: usize) -> Self {
        Self { rows: height.div_ceil(2), columns: width.div_ceil(2) }
    }

    /// Rows of tiles of one image.
    pub(super) fn rows(self) -> usize {
        self.rows
    }

    /// Tiles of one row.
    pub(super) fn columns(self) -> usize {
        self.columns
    }

    /// Tiles of one image.
    pub(super) fn len(self) -> usize {
        self.rows * self.columns
    }

    /// The image of each of some tiles, and the tile's first row and column there.
    pub(super) fn places(self, tiles: &Range<usize>) -> impl Iterator<Item = (usize, [usize; 2])> {
        let (mut image, first) = (tiles.start / self.len(), tiles.start % self.len());
        let [mut row, mut column] = [first / self.columns, first % self.columns];
        tiles.clone().map(move |_| {
            let place = (image, [2 * row, 2 * column]);
            column += 1;
            if column == self.columns {
                (row, column) = (row + 1, 0);
            }
            if row == self.rows {
                (image, row) = (image + 1, 0);
            }
            place
        })
    }
}

impl<'a, T: Real> Images<'a, T> {
    /// Lends images of `height` × `width` pixels, which go on outside as `pad_value` says. The numbers begin with row `skipped` of the first image,
    /// and end with the last row that is read.
    pub(super) fn lend<R>(
        numbers: &[T],
        [height, width, channels]: [usize; 3],
        skipped: usize,
        pad_value: T,
        visit: impl FnOnce(Images<'_, T>) -> R,
    ) -> R {
        with_lines(channels / LANES, |outside| {
            outside.fill(Line([pad_value; LANES]));
            if let Some(lines) = as_lines(numbers) {
                return visit(Images { lines, outside, height, width, skipped });
            }
            with_lines(numbers.len() / LANES, |lines| {
                for (line, numbers) in lines.iter_mut().zip(numbers.as_chunks().0) {
                    line.0 = *numbers;
                }
                visit(Images { lines, outside, height, width, skipped })
            })
        })
    }

    /// The blocks of each pixel of a window; rows and columns before the image wrap around.
    #[inline(always)]
    pub(super) fn window<const N: usize>(
        &self,
        image: usize,
        [row, column]: [usize; 2],
        blocks: &Range<usize>,
    ) -> [[&'a [Line<T>]; N]; N] {
        let (each, row_lines) = (self.outside.len(), self.width * self.outside.len());
        let mut window = [[&self.outside[blocks.clone()]; N]; N];
        for (i, window) in window.iter_mut().enumerate() {
            let row = row.wrapping_add(i);
            if row >= self.height {
                continue;
            }
            let lines = &self.lines[(image * self.height + row - self.skipped) * row_lines..][..row_lines];
            for (j, window) in window.iter_mut().enumerate() {
                let column = column.wrapping_add(j);
                if column < self.width {
                    *window = &lines[column * each + blocks.start..column * each + blocks.end];
                }
            }
        }
        window
    }
}
