//! Images as the kernel gradient reads them.

use crate::Real;
use crate::arch::as_lines;
use crate::frame::Frame;
use crate::line::{LANES, Line};
use crate::threads::prelude::*;

/// Blocks of channels beyond which an image is not taken from where it lies: one block of neighbouring pixels would fall into few sets of the
/// first cache.
const DIRECT_BLOCKS: usize = 4;

/// One side of the products: images in frames, or where they are.
pub(crate) struct Operand<T> {
    pub(crate) frame: Frame<T>,
    /// Rows of a frame.
    framed_rows: usize,
    /// Whether the pixels are whole lines in their own place.
    pub(crate) direct: bool,
}

impl<T: Real> Operand<T> {
    /// `bare`: whether images will do without what surrounds them, and begin and end with a line.
    pub(crate) fn new(frame: Frame<T>, framed_rows: usize, bare: bool) -> Self {
        let whole = frame.blocks.iter().all(|block| block.count == LANES);
        let near = frame.blocks.len() <= DIRECT_BLOCKS;
        let direct = bare && whole && near;
        Self { frame, framed_rows, direct }
    }

    pub(crate) fn blocks(&self) -> usize {
        self.frame.blocks.len()
    }

    /// Elements of an image.
    pub(crate) fn image_len(&self) -> usize {
        self.frame.image_len()
    }

    pub(crate) fn image_lines(&self) -> usize {
        if self.direct { self.image_len() / LANES } else { self.scratch_lines() }
    }

    /// Lines that an image's frame takes.
    pub(crate) fn scratch_lines(&self) -> usize {
        if self.direct { 0 } else { self.framed_rows * self.frame.row_lines() }
    }

    /// The lines of one image.
    pub(crate) fn lines<'l>(&self, image: &'l [T], scratch: &'l mut [Line<T>]) -> &'l [Line<T>] {
        if self.direct {
            return as_lines(image).expect("an image of whole lines");
        }
        self.frame.fill(0..self.framed_rows, image, scratch);
        scratch
    }

    /// The lines of several images.
    pub(crate) fn batch_lines<'l>(&self, images: &'l [T], scratch: &'l mut [Line<T>]) -> &'l [Line<T>] {
        if self.direct {
            return as_lines(images).expect("images of whole lines");
        }
        let pairs = scratch.par_chunks_exact_mut(self.scratch_lines());
        let pairs = pairs.zip(images.par_chunks_exact(self.image_len()));
        pairs.for_each(|(lines, image)| self.frame.fill(0..self.framed_rows, image, lines));
        scratch
    }

    /// Where a pixel's block lies; rows and columns count what surrounds the image.
    pub(crate) fn line(&self, [row, column]: [usize; 2], block: usize) -> usize {
        if !self.direct {
            return row * self.frame.row_lines() + self.frame.line(block, column);
        }
        ((row - self.frame.top) * self.frame.width + column - self.frame.left) * self.blocks() + block
    }

    pub(crate) fn row_lines(&self) -> usize {
        if self.direct { self.frame.width * self.blocks() } else { self.frame.row_lines() }
    }

    /// Lines between pixels that are `stride` columns apart.
    pub(crate) fn pixel_lines(&self, stride: usize) -> usize {
        if self.direct { stride * self.blocks() } else { 1 }
    }

    pub(crate) fn block_lines(&self) -> usize {
        if self.direct { 1 } else { self.frame.plane() }
    }
}
