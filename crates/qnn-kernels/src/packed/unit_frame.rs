//! Images of bytes laid out for the dot-product tiles: padded, in lines of sixteen units.

use alloc::vec::Vec;
use core::ops::Range;

use super::dot_tile::Packing;
use crate::line::{Block, LANES, Line};

/// How an image of bytes `[height, width, channels]` becomes lines of units.
///
/// ```text
/// line(row, block, column) = (row · blocks + block) · plane + (column mod phases) · plane/phases + column / phases
/// ```
///
/// As for the frames of `f32` images: rows and columns outside hold padding, and columns are dealt into as many phases as the horizontal stride has steps.
#[derive(Debug)]
pub(crate) struct UnitFrame {
    pub(crate) height: usize,
    pub(crate) width: usize,
    pub(crate) channels: usize,
    pub(crate) top: usize,
    pub(crate) left: usize,
    pub(crate) columns: usize,
    pub(crate) phases: usize,
    /// Of every `rows.0` frame rows only the first `rows.1` are read, and so filled.
    pub(crate) rows: (usize, usize),
    pub(crate) blocks: Vec<Block>,
    pub(crate) units: UnitForm,
    /// The byte of padding.
    pub(crate) pad: u8,
}

/// How bytes become units.
#[derive(Clone, Copy, Debug)]
pub(crate) struct UnitForm {
    pub(crate) packing: Packing,
    /// Whether each channel has a unit to itself (depthwise).
    pub(crate) single: bool,
    /// Whether the bytes are signed.
    pub(crate) signed: bool,
}

impl UnitForm {
    /// Channels in a unit.
    pub(crate) const fn channels(self) -> usize {
        if self.single { 1 } else { self.packing.channels() }
    }

    /// What the units' numbers exceed the bytes' by: quads hold unsigned numbers.
    pub(crate) const fn offset(self) -> i32 {
        if self.signed && matches!(self.packing, Packing::Quads) { 128 } else { 0 }
    }

    /// What turns four signed bytes into unsigned ones, 128 larger.
    const fn flip(self) -> u32 {
        if self.signed { 0x8080_8080 } else { 0 }
    }

    /// The channels of one pixel, at most a line of them. Channels that a unit lacks are zeros or anything: their weights are zero.
    #[inline(always)]
    fn fill(self, bytes: &[u8], line: &mut Line<u32>) {
        match (self.packing, self.single) {
            (Packing::Quads, false) => fill_quads(bytes, self.flip(), line),
            (Packing::Quads, true) => {
                let flip = self.flip() as u8;
                line.0.iter_mut().zip(bytes).for_each(|(unit, &byte)| *unit = u32::from(byte ^ flip));
            }
            (Packing::Pairs, false) => {
                for (unit, bytes) in line.0.iter_mut().zip(bytes.chunks(2)) {
                    let high = bytes.get(1).map_or(0, |&byte| self.half(byte));
                    *unit = self.half(bytes[0]) | high << 16;
                }
            }
            (Packing::Pairs, true) => {
                line.0.iter_mut().zip(bytes).for_each(|(unit, &byte)| *unit = self.half(byte));
            }
        }
    }

    #[inline(always)]
    fn half(self, byte: u8) -> u32 {
        u32::from(if self.signed { i16::from(byte.cast_signed()).cast_unsigned() } else { byte.into() })
    }

    /// A line in which every channel is this byte.
    fn splat(self, byte: u8) -> Line<u32> {
        let mut line = Line([0; LANES]);
        self.fill(&[byte; 4 * LANES][..self.channels() * LANES], &mut line);
        line
    }
}

#[inline(always)]
fn fill_quads(bytes: &[u8], flip: u32, line: &mut Line<u32>) {
    let (quads, rest) = bytes.as_chunks::<4>();
    for (unit, quad) in line.0.iter_mut().zip(quads) {
        *unit = u32::from_le_bytes(*quad) ^ flip;
    }
    let last = match *rest {
        [a] => [a, 0, 0, 0],
        [a, b] => [a, b, 0, 0],
        [a, b, c] => [a, b, c, 0],
        _ => return,
    };
    line.0[quads.len()] = u32::from_le_bytes(last) ^ flip;
}

impl UnitFrame {
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

    /// Bytes of one image.
    pub(crate) fn image_len(&self) -> usize {
        self.height * self.width * self.channels
    }

    /// Writes the frame's rows `rows`. An image that ends inside its last row leaves the rest of that row padded.
    pub(crate) fn fill(&self, rows: Range<usize>, image: &[u8], lines: &mut [Line<u32>]) {
        let pad = self.units.splat(self.pad);
        let read = rows
            .zip(lines.chunks_exact_mut(self.row_lines()))
            .filter(|(row, _)| row % self.rows.0 < self.rows.1);
        for (row, lines) in read {
            let source = row.checked_sub(self.top).filter(|&row| row < self.height);
            // A row outside the image is an empty one: all of it is padding.
            let pixels = source.map_or(&[][..], |source| {
                let row_len = self.width * self.channels;
                let start = (source * row_len).min(image.len());
                &image[start..(start + row_len).min(image.len())]
            });
            for (block, lines) in self.blocks.iter().zip(lines.chunks_exact_mut(self.plane())) {
                self.fill_block(*block, pixels, pad, lines);
            }
        }
    }

    fn fill_block(&self, block: Block, pixels: &[u8], pad: Line<u32>, lines: &mut [Line<u32>]) {
        let step = self.channels * self.phases;
        for (phase, lines) in lines.chunks_exact_mut(self.plane() / self.phases).enumerate() {
            // The first line of this phase whose column is not left of the image.
            let inside = self.left.saturating_sub(phase).div_ceil(self.phases).min(lines.len());
            let (before, lines) = lines.split_at_mut(inside);
            before.fill(pad);
            let first = (phase + inside * self.phases).saturating_sub(self.left) * self.channels;
            let pixels = pixels.get(first..).unwrap_or(&[]);
            let (copied, after) = lines.split_at_mut(pixels.len().div_ceil(step).min(lines.len()));
            self.copy_pixels(block, pixels.chunks(step), copied);
            after.fill(pad);
        }
    }

    fn copy_pixels<'a>(&self, block: Block, pixels: impl Iterator<Item = &'a [u8]>, lines: &mut [Line<u32>]) {
        let quads = !self.units.single && self.units.packing == Packing::Quads;
        match block.count {
            64 if quads => self.copy_quads::<16>(block.first, pixels, lines),
            32 if quads => self.copy_quads::<8>(block.first, pixels, lines),
            16 if quads => self.copy_quads::<4>(block.first, pixels, lines),
            3 if quads => {
                let flip = self.units.flip();
                for (line, pixel) in lines.iter_mut().zip(pixels) {
                    let [a, b, c] = *pixel[block.first..].first_chunk().expect("three channels");
                    line.0[0] = u32::from_le_bytes([a, b, c, 0]) ^ flip;
                }
            }
            _ => {
                for (line, pixel) in lines.iter_mut().zip(pixels) {
                    self.units.fill(&pixel[block.first..][..block.count], line);
                }
            }
        }
    }

    /// Blocks of `N` quads, as most layers have them, without a loop of unknown length.
    fn copy_quads<'a, const N: usize>(
        &self,
        first: usize,
        pixels: impl Iterator<Item = &'a [u8]>,
        lines: &mut [Line<u32>],
    ) {
        let flip = self.units.flip();
        for (line, pixel) in lines.iter_mut().zip(pixels) {
            let (quads, _) = pixel[first..][..4 * N].as_chunks::<4>();
            let quads: &[[u8; 4]; N] = quads.first_chunk().expect("as many quads");
            let units: &mut [u32; N] = line.0.first_chunk_mut().expect("at most a line");
            *units = quads.map(|quad| u32::from_le_bytes(quad) ^ flip);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::line::blocks;

    /// The number of a channel in its unit.
    fn number(form: UnitForm, line: &Line<u32>, channel: usize) -> i32 {
        let unit = line.0[channel / form.channels()];
        let at = channel % form.channels();
        match form.packing {
            Packing::Quads => i32::from(unit.to_le_bytes()[at]),
            Packing::Pairs => i32::from((unit >> (16 * at)) as i16),
        }
    }

    #[test]
    fn every_channel_is_where_line_says() {
        let (height, width, channels) = (3, 5, 67);
        let image: Vec<u8> = (0..height * width * channels).map(|index| (index * 37 % 256) as u8).collect();
        for (phases, left) in [(1, 0), (1, 2), (2, 1), (3, 4), (2, 0)] {
            for form in forms() {
                let each = form.channels() * LANES;
                let frame = UnitFrame {
                    height,
                    width,
                    channels,
                    top: 1,
                    left,
                    columns: left + width + 1,
                    phases,
                    rows: (1, 1),
                    blocks: blocks(1, channels, each),
                    units: form,
                    pad: 200,
                };
                let mut lines = vec![Line([77; LANES]); 5 * frame.row_lines()];
                frame.fill(0..5, &image, &mut lines);
                for (row, column, channel) in (0..5)
                    .flat_map(|r| (0..frame.columns).flat_map(move |c| (0..channels).map(move |k| (r, c, k))))
                {
                    let inside = (1..=height).contains(&row) && (left..left + width).contains(&column);
                    let byte = if inside {
                        image[((row - 1) * width + column - left) * channels + channel]
                    } else {
                        200
                    };
                    let expected = if form.signed { i32::from(byte.cast_signed()) } else { byte.into() };
                    let line = lines[row * frame.row_lines() + frame.line(channel / each, column)];
                    assert_eq!(
                        number(form, &line, channel % each) - form.offset(),
                        expected,
                        "{form:?}, row {row} column {column} channel {channel}, {phases} phases"
                    );
                }
            }
        }
    }

    fn forms() -> impl Iterator<Item = UnitForm> {
        [Packing::Quads, Packing::Pairs].into_iter().flat_map(|packing| {
            [false, true]
                .into_iter()
                .flat_map(move |single| [false, true].map(move |signed| UnitForm { packing, single, signed }))
        })
    }
}
