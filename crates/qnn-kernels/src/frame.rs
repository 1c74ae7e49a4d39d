//! Images laid out for the tiles: padded, in lines of one block of channels.

use alloc::vec::Vec;
use core::ops::Range;

use crate::arch::numbers_mut;
use crate::line::{Block, LANES, Line};
use crate::{Real, Vectorize, vectorized};

/// How an image `[height, width, channels]` becomes lines.
///
/// ```text
/// line(row, block, column) = (row · blocks + block) · plane + (column mod phases) · plane/phases + column / phases
/// ```
///
/// Rows and columns outside the image hold the padding value, so that no tile knows of borders; columns are dealt into as many phases as the
/// horizontal stride has steps, so that the pixels that one kernel position visits are neighbours.
#[derive(Clone, Debug)]
pub(crate) struct Frame<T> {
    /// Whether an image is a run of pixels of any length, cut into rows: no row is padded, and nobody reads past its pixels.
    pub(crate) flat: bool,
    /// The distance of neighbouring windows where a line holds a whole kernel row of an output column instead of one column: for few channels.
    pub(crate) gathered: Option<usize>,
    pub(crate) height: usize,
    pub(crate) width: usize,
    pub(crate) channels: usize,
    pub(crate) top: usize,
    pub(crate) left: usize,
    pub(crate) columns: usize,
    pub(crate) phases: usize,
    /// Of every `rows.0` frame rows only the first `rows.1` are read, and so filled; of the phases only the first `phases_read`.
    pub(crate) rows: (usize, usize),
    pub(crate) phases_read: usize,
    pub(crate) blocks: Vec<Block>,
    pub(crate) pad_value: T,
}

impl<T: Real> Frame<T> {
    /// Lines of one block in one row.
    pub(crate) fn plane(&self) -> usize {
        self.columns.div_ceil(self.phases) * self.phases
    }

    /// Lines of one row.
    pub(crate) fn row_lines(&self) -> usize {
        self.blocks.len() * self.plane()
    }

    /// Where a column of a block lies in its row.
    pub(crate) fn line(&self, block: usize, column: usize) -> usize {
        block * self.plane() + column % self.phases * (self.plane() / self.phases) + column / self.phases
    }

    /// Elements of one image.
    pub(crate) fn image_len(&self) -> usize {
        self.height * self.width * self.channels
    }

    /// Writes the frame's rows `rows`. An image that ends inside its last row leaves the rest of that row padded.
    pub(crate) fn fill(&self, rows: Range<usize>, image: &[T], lines: &mut [Line<T>]) {
        let read = rows
            .zip(lines.chunks_exact_mut(self.row_lines()))
            .filter(|(row, _)| row % self.rows.0 < self.rows.1);
        for (row, lines) in read {
            let source = row.checked_sub(self.top).filter(|&row| row < self.height).unwrap_or(self.height);
            let start = (source * self.width * self.channels).min(image.len());
            let end = ((source + 1) * self.width * self.channels).min(image.len());
            // A row outside the image is an empty one: all of it is padding.
            let pixels = if source < self.height { &image[start..end] } else { &[] };
            if let Some(stride) = self.gathered {
                vectorized(Gather { frame: self, stride, pixels, lines });
                continue;
            }
            for (block, lines) in self.blocks.iter().zip(lines.chunks_exact_mut(self.plane())) {
                self.fill_block(*block, pixels, lines);
            }
        }
    }

    fn fill_block(&self, block: Block, pixels: &[T], lines: &mut [Line<T>]) {
        for (phase, lines) in
            lines.chunks_exact_mut(self.plane() / self.phases).take(self.phases_read).enumerate()
        {
            // The first line of this phase whose column is not left of the image.
            let inside = self.left.saturating_sub(phase).div_ceil(self.phases).min(lines.len());
            let (before, lines) = lines.split_at_mut(inside);
            before.fill(Line([self.pad_value; LANES]));
            let first = (phase + inside * self.phases).saturating_sub(self.left) * self.channels;
            let pixels = pixels.get(first..).unwrap_or(&[]);
            let (copied, after) =
                lines.split_at_mut(pixels.len().div_ceil(self.channels * self.phases).min(lines.len()));
            let step = self.channels * self.phases;
            if step == LANES && block.count == LANES {
                let numbers = numbers_mut(copied);
                numbers.copy_from_slice(&pixels[..numbers.len()]);
            } else {
                vectorized(Copy { block, step, pixels, lines: copied });
            }
            if !self.flat {
                after.fill(Line([self.pad_value; LANES]));
            }
        }
    }
}

/// Copies one block of every pixel, `step` elements apart, into a line of its own.
struct Copy<'a, T> {
    block: Block,
    step: usize,
    pixels: &'a [T],
    lines: &'a mut [Line<T>],
}

impl<T: Real> Vectorize for Copy<'_, T> {
    type Output = ();

    #[inline(always)]
    fn run(self) {
        let Self { block, step, pixels, lines } = self;
        let pairs = lines.iter_mut().zip(pixels.chunks(step));
        if block.count == LANES {
            pairs.for_each(|(line, pixel)| {
                line.0 = *pixel[block.first..].first_chunk().expect("a block inside the pixel");
            });
        } else {
            pairs.for_each(|(line, pixel)| {
                line.0 = [T::zero(); LANES];
                line.0[..block.count].copy_from_slice(&pixel[block.first..][..block.count]);
            });
        }
    }
}

/// Copies the kernel row of every output column; lanes past its numbers are left to whatever comes.
struct Gather<'a, T> {
    frame: &'a Frame<T>,
    stride: usize,
    pixels: &'a [T],
    lines: &'a mut [Line<T>],
}

impl<T: Real> Vectorize for Gather<'_, T> {
    type Output = ();

    #[inline(always)]
    fn run(self) {
        let Self { frame, stride, pixels, lines } = self;
        let (count, step, left) =
            (frame.blocks[0].count, stride * frame.channels, frame.left * frame.channels);
        for (column, line) in lines.iter_mut().enumerate() {
            let start = column * step;
            let run = start.checked_sub(left).and_then(|at| pixels.get(at..)?.first_chunk::<LANES>());
            if let Some(run) = run {
                line.0 = *run;
                continue;
            }
            for (at, x) in line.0[..count].iter_mut().enumerate() {
                let inside = (start + at).checked_sub(left).and_then(|at| pixels.get(at).copied());
                *x = inside.unwrap_or(frame.pad_value);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::line::blocks;

    #[test]
    fn every_column_is_where_line_says() {
        let (height, width, channels) = (3, 5, 19);
        let image: Vec<f64> = (0..height * width * channels).map(|index| index as f64).collect();
        for (phases, left) in [(1, 0), (1, 2), (2, 1), (3, 4), (2, 0)] {
            let blocks = blocks(1, channels, LANES);
            let frame = Frame {
                flat: false,
                gathered: None,
                height,
                width,
                channels,
                top: 1,
                left,
                columns: left + width + 1,
                phases,
                rows: (1, 1),
                phases_read: phases,
                blocks,
                pad_value: -1.0,
            };
            let mut lines = vec![Line([f64::NAN; LANES]); 5 * frame.row_lines()];
            frame.fill(0..5, &image, &mut lines);
            for (row, column, channel) in (0..5)
                .flat_map(|r| (0..frame.columns).flat_map(move |c| (0..channels).map(move |k| (r, c, k))))
            {
                let inside = (1..=height).contains(&row) && (left..left + width).contains(&column);
                let expected = if inside {
                    (((row - 1) * width + column - left) * channels + channel) as f64
                } else {
                    -1.0
                };
                let line = lines[row * frame.row_lines() + frame.line(channel / LANES, column)];
                assert_eq!(
                    line.0[channel % LANES],
                    expected,
                    "row {row} column {column} channel {channel} phases {phases}"
                );
            }
        }
    }
}
