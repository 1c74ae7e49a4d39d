//! Packed images laid out for the tiles: padded, plane by plane, in words.

use alloc::vec::Vec;
use core::ops::Range;

use super::{ConvGeometry, Encoding, Layout};

/// How rows of a packed image become words of one plane each.
///
/// ```text
/// word(row, group, plane, word, cell) = (((row · groups + group) · planes + plane) · words + word) · cells + cell
/// ```
///
/// Cells that one kernel position visits for neighbouring output pixels are neighbours. They are the padded columns, dealt into as many phases as
/// the horizontal stride has steps, or, where that takes fewer words, the output columns, each with its kernel row gathered into consecutive bits.
/// Rows and columns outside the image hold the padding code, so that no tile knows of borders. Bits past the last channel are clear.
#[derive(Clone, Debug)]
pub(crate) struct Frame {
    layout: Layout,
    geometry: ConvGeometry,
    /// The words of a padded pixel, `[plane, word]`.
    pads: Vec<u64>,
    gathered: bool,
    pub(crate) planes: usize,
    /// Words of one cell in one plane and group.
    pub(crate) words: usize,
    cells: usize,
}

impl Frame {
    /// `pad_bits` are the stored bits of the padding code; kernel rows are gathered only if `dense`.
    pub(crate) fn new(layout: Layout, geometry: ConvGeometry, pad_bits: u8, dense: bool) -> Self {
        let (channels, taps) = (geometry.group_channels(), geometry.kernel[1]);
        let gathered = dense && (taps * channels).div_ceil(64) < taps * channels.div_ceil(64);
        let words = if gathered { (taps * channels).div_ceil(64) } else { channels.div_ceil(64) };
        let planes = layout.encoding().planes();
        let mut frame = Self { layout, geometry, pads: Vec::new(), gathered, planes, words, cells: 0 };
        frame.cells = if gathered { geometry.out_width() } else { frame.columns_dealt(geometry.stride[1]) };
        frame.pads = frame.pad_words(pad_bits);
        frame
    }

    /// Words of one row.
    pub(crate) fn row_words(&self) -> usize {
        self.geometry.groups * self.group_words()
    }

    /// From a word of a pixel to its next.
    pub(crate) fn word_step(&self) -> usize {
        self.cells
    }

    /// Words of one group in one row.
    pub(crate) fn group_words(&self) -> usize {
        self.planes * self.words * self.cells
    }

    /// For every word that one kernel row takes from a plane: where it lies in the row, seen from the first output pixel.
    pub(crate) fn offsets(&self, plane: usize) -> Vec<usize> {
        let word = |word: usize, cell: usize| (plane * self.words + word) * self.cells + cell;
        if self.gathered {
            return (0..self.words).map(|index| word(index, 0)).collect();
        }
        let stride = self.geometry.stride[1];
        let taps = (0..self.geometry.kernel[1]).map(|tap| tap * self.geometry.dilation[1]);
        taps.flat_map(|column| {
            let cell = column % stride * (self.cells / stride) + column / stride;
            (0..self.words).map(move |index| word(index, cell))
        })
        .collect()
    }

    /// Which of those words, and which bit of it, holds a channel under a kernel column.
    pub(crate) fn bit(&self, column: usize, channel: usize) -> (usize, u32) {
        let bit = if self.gathered {
            column * self.geometry.group_channels() + channel
        } else {
            column * self.words * 64 + channel
        };
        (bit / 64, (bit % 64) as u32)
    }

    /// Writes the frame's rows `rows` of an image, which may end inside its last row. `dealt` is a buffer of
    /// [`Self::dealt_words`].
    #[inline(always)]
    pub(crate) fn fill(&self, rows: Range<usize>, image: &[u8], [words, dealt]: [&mut [u64]; 2]) {
        let geometry = &self.geometry;
        let row_bytes = self.layout.bytes_for(geometry.width);
        for (row, words) in rows.zip(words.chunks_exact_mut(self.row_words())) {
            let source = row.checked_sub(geometry.padding.top).filter(|&row| row < geometry.height);
            let start = source.map_or(image.len(), |row| (row * row_bytes).min(image.len()));
            let pixels = &image[start..image.len().min(start.saturating_add(row_bytes))];
            for (group, words) in words.chunks_exact_mut(self.group_words()).enumerate() {
                for (plane, words) in words.chunks_exact_mut(self.words * self.cells).enumerate() {
                    if self.gathered {
                        self.gather(pixels, group, plane, words, dealt);
                    } else {
                        for (word, cells) in words.chunks_exact_mut(self.cells).enumerate() {
                            self.deal(pixels, [group, plane, word], geometry.stride[1], cells);
                        }
                    }
                }
            }
        }
    }

    /// Words of the buffer that [`Self::fill`] needs.
    pub(crate) fn dealt_words(&self) -> usize {
        if self.gathered { self.columns_dealt(1) } else { 0 }
    }

    /// Padded columns, rounded up to equal phases.
    fn columns_dealt(&self, phases: usize) -> usize {
        let padding = self.geometry.padding;
        (padding.left + self.geometry.width + padding.right).next_multiple_of(phases)
    }

    /// One word of every padded column.
    #[inline(always)]
    fn deal(&self, pixels: &[u8], part: [usize; 3], phases: usize, cells: &mut [u64]) {
        let (left, pixel_bytes) = (self.geometry.padding.left, self.layout.pixel_bytes());
        let pad = self.pads[part[1] * self.geometry.group_channels().div_ceil(64) + part[2]];
        let each = cells.len() / phases;
        for (phase, cells) in cells.chunks_exact_mut(each).enumerate() {
            // The first cell of this phase whose column is not left of the image.
            let inside = left.saturating_sub(phase).div_ceil(phases).min(each);
            let (before, cells) = cells.split_at_mut(inside);
            before.fill(pad);
            let first = (phase + inside * phases).saturating_sub(left) * pixel_bytes;
            let pixels = pixels.get(first..).unwrap_or(&[]);
            let count = pixels.len().div_ceil(pixel_bytes * phases).min(cells.len());
            let (copied, after) = cells.split_at_mut(count);
            self.copy(pixels, phases, part, copied);
            after.fill(pad);
        }
    }

    /// The words of every `step`-th pixel.
    #[inline(always)]
    fn copy(&self, pixels: &[u8], step: usize, part: [usize; 3], cells: &mut [u64]) {
        let whole = self.geometry.groups == 1 && self.layout.encoding() != Encoding::Ternary;
        match (self.layout.pixel_bytes(), step, self.layout.plane_bytes()) {
            (1, _, 1) if whole => copy_chunks::<1>(pixels, step, cells),
            (2, _, 2) if whole => copy_chunks::<2>(pixels, step, cells),
            (4, _, 4) if whole => copy_chunks::<4>(pixels, step, cells),
            (8, _, 8) if whole => copy_chunks::<8>(pixels, step, cells),
            (bytes, _, width) if whole && width >= 8 => {
                let at = part[1] * width + part[2] * 8;
                for (cell, pixel) in cells.iter_mut().zip(pixels.chunks(bytes * step)) {
                    *cell = u64::from_le_bytes(*pixel[at..].first_chunk().expect("a word inside the plane"));
                }
            }
            (bytes, _, _) => {
                for (cell, pixel) in cells.iter_mut().zip(pixels.chunks(bytes * step)) {
                    *cell = self.word(&pixel[..bytes], part);
                }
            }
        }
    }

    /// Gathers the kernel row of every output column, from the words of its columns.
    #[inline(always)]
    fn gather(&self, pixels: &[u8], group: usize, plane: usize, words: &mut [u64], dealt: &mut [u64]) {
        let channels = self.geometry.group_channels();
        words.fill(0);
        for word in 0..channels.div_ceil(64) {
            self.deal(pixels, [group, plane, word], 1, dealt);
            for tap in 0..self.geometry.kernel[1] {
                let bit = tap * channels + word * 64;
                let source = &dealt[tap * self.geometry.dilation[1]..];
                let (low, high) = words[bit / 64 * self.cells..].split_at_mut(self.cells);
                append(source, self.geometry.stride[1], bit % 64, low);
                if bit % 64 + (channels - word * 64).min(64) > 64 {
                    append_rest(source, self.geometry.stride[1], bit % 64, &mut high[..self.cells]);
                }
            }
        }
    }

    /// A word of one pixel: up to 64 channels of a group in one plane.
    #[inline(always)]
    fn word(&self, pixel: &[u8], [group, plane, word]: [usize; 3]) -> u64 {
        let channels = self.geometry.group_channels();
        let valid = u64::MAX >> (64 - (channels - word * 64).min(64));
        let stored = |plane: usize| {
            let bytes = self.layout.plane_bytes();
            bits_from(&pixel[plane * bytes..][..bytes], group * channels + word * 64) & valid
        };
        // A ternary code is half the sum of two signs: −1 = (−1 − 1)/2, 0 = (1 − 1)/2, 1 = (1 + 1)/2.
        match (self.layout.encoding(), plane) {
            (Encoding::Ternary, 0) => stored(1),
            (Encoding::Ternary, _) => stored(1) | !stored(0) & valid,
            (_, plane) => stored(plane),
        }
    }

    fn pad_words(&self, pad_bits: u8) -> Vec<u64> {
        // The bits past the last channel, which a stored pixel would not have, are cleared with those of other groups.
        let bytes = (0..self.planes).map(|plane| if pad_bits >> plane & 1 == 1 { u8::MAX } else { 0 });
        let pixel: Vec<u8> =
            bytes.flat_map(|byte| core::iter::repeat_n(byte, self.layout.plane_bytes())).collect();
        let words = 0..self.geometry.group_channels().div_ceil(64);
        let parts = (0..self.planes).flat_map(|plane| words.clone().map(move |word| [0, plane, word]));
        parts.map(|part| self.word(&pixel, part)).collect()
    }
}

#[inline(always)]
fn copy_chunks<const BYTES: usize>(pixels: &[u8], step: usize, cells: &mut [u64]) {
    let word = |pixel: &[u8; BYTES]| {
        let mut word = [0; 8];
        word[..BYTES].copy_from_slice(pixel);
        u64::from_le_bytes(word)
    };
    let pixels = pixels.as_chunks::<BYTES>().0.iter();
    if step == 1 {
        cells.iter_mut().zip(pixels).for_each(|(cell, pixel)| *cell = word(pixel));
    } else {
        cells.iter_mut().zip(pixels.step_by(step)).for_each(|(cell, pixel)| *cell = word(pixel));
    }
}

/// Up to 64 bits of a plane from `bit` on; clear past its end.
#[inline(always)]
pub(crate) fn bits_from(plane: &[u8], bit: usize) -> u64 {
    let byte = |index: usize| plane.get(bit / 8 + index).copied().unwrap_or(0);
    let low = u64::from_le_bytes(core::array::from_fn(byte));
    let shift = bit % 8;
    low >> shift | (u64::from(byte(8)) << 1) << (63 - shift)
}

#[inline(always)]
fn append(source: &[u64], stride: usize, shift: usize, cells: &mut [u64]) {
    if stride == 1 {
        cells.iter_mut().zip(source).for_each(|(cell, word)| *cell |= word << shift);
    } else {
        cells.iter_mut().zip(source.iter().step_by(stride)).for_each(|(cell, word)| *cell |= word << shift);
    }
}

/// What [`append`] shifts out of its word.
#[inline(always)]
fn append_rest(source: &[u64], stride: usize, shift: usize, cells: &mut [u64]) {
    cells
        .iter_mut()
        .zip(source.iter().step_by(stride))
        .for_each(|(cell, word)| *cell |= word >> (64 - shift));
}
