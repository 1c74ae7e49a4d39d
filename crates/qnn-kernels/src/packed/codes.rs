//! Thresholds to packed codes, in words of sixteen channels.

use alloc::vec::Vec;

use super::frame::bits_from;
use super::scratch::grown;
use super::stage::line_of;
use super::{Encoding, Layout, Selector, Thresholds};
use crate::arch::bits::Bits;
use crate::line::{Block, LANES, Line};

/// Packed pixels in the making, and what makes codes of their accumulators.
pub(crate) struct Codes<'a> {
    /// One for each level of the selector; without one the only one.
    thresholds: &'a [Thresholds],
    by: Option<Selector<'a>>,
    layout: Layout,
    y: &'a mut [u8],
}

/// The accumulators of one panel.
struct Panel<'a> {
    block: Block,
    acc: &'a [Line<i32>],
}

impl<'a> Codes<'a> {
    /// Begins with all bits clear.
    pub(crate) fn new(
        thresholds: &'a [Thresholds],
        by: Option<Selector<'a>>,
        layout: Layout,
        y: &'a mut [u8],
    ) -> Self {
        y.fill(0);
        Self { thresholds, by, layout, y }
    }

    /// Takes the accumulators of one panel.
    pub(crate) fn panel(&mut self, bits: &Bits, block: Block, acc: &[Line<i32>], masks: &mut Vec<u16>) {
        let (encoding, pixels, panel) = (self.layout.encoding(), acc.len(), Panel { block, acc });
        let planes = encoding.planes();
        let selecting = self.by.map_or(0, |by| by.layout.encoding().planes());
        let masks = grown(masks, (2 + 2 * planes + selecting) * pixels, 0);
        let (reached, masks) = masks.split_at_mut(pixels);
        let (levels, masks) = masks.split_at_mut(planes * pixels);
        match self.by {
            None => panel.levels(bits, &self.thresholds[0], encoding, reached, levels),
            Some(by) => {
                let (found, masks) = masks.split_at_mut(planes * pixels);
                let (selected, selecting) = masks.split_at_mut(pixels);
                by.read(block, selecting);
                levels.fill(0);
                for (level, thresholds) in self.thresholds.iter().enumerate() {
                    panel.levels(bits, thresholds, encoding, reached, found);
                    by.select(level, selecting, selected);
                    for (levels, found) in levels.chunks_exact_mut(pixels).zip(found.chunks_exact(pixels)) {
                        let masks = levels.iter_mut().zip(found).zip(&*selected);
                        masks.for_each(|((level, found), selected)| *level |= found & selected);
                    }
                }
            }
        }
        for (plane, levels) in levels.chunks_exact(pixels).enumerate() {
            write(self.layout, plane, block, levels, self.y);
        }
    }
}

impl Panel<'_> {
    /// The planes of the codes' bits.
    ///
    /// With `r_t` the channels that reach cut `t`, the level is the number of set `r_t`; cuts ascend, so the sets are nested, and bit `i` of the
    /// level is the exclusive or of all `r_t` with `t` a multiple of `2^i`. A flipped level `n − level` is, for `n = 2^k − 1`, the complement of
    /// every bit.
    fn levels(
        &self,
        bits: &Bits,
        thresholds: &Thresholds,
        encoding: Encoding,
        reached: &mut [u16],
        levels: &mut [u16],
    ) {
        let (acc, cuts) = (self.acc, thresholds.levels() - 1);
        let cut_line = |cut: usize| line_of(Some(thresholds.cuts(cut - 1)), self.block, i32::MAX);
        if cuts == 1 {
            bits.reached(acc, &cut_line(1), levels);
        } else {
            levels.fill(0);
            for cut in 1..=cuts {
                bits.reached(acc, &cut_line(cut), reached);
                for (plane, level) in levels.chunks_exact_mut(acc.len()).enumerate() {
                    if cut.is_multiple_of(1 << plane) {
                        level.iter_mut().zip(&*reached).for_each(|(level, reached)| *level ^= reached);
                    }
                }
            }
        }
        let flips = thresholds.flips()[self.block.first..][..self.block.count].iter().enumerate();
        let flips = flips.fold(0, |mask, (lane, &flip)| mask | u16::from(flip) << lane);
        match encoding {
            Encoding::Ternary => ternary(levels, flips),
            Encoding::Sign | Encoding::Odd { .. } => levels.iter_mut().for_each(|level| *level ^= !flips),
            _ => levels.iter_mut().for_each(|level| *level ^= flips),
        }
    }
}

/// Turns the bits of the levels 0, 1, 2 into the planes "not zero" and "negative".
fn ternary(levels: &mut [u16], flips: u16) {
    let (low, high) = levels.split_at_mut(levels.len() / 2);
    for (low, high) in low.iter_mut().zip(high) {
        let lowest = !(*low | *high);
        (*low, *high) = (!*low, lowest & !flips | *high & flips);
    }
}

impl Selector<'_> {
    /// Every plane's bits of the panel's channels.
    fn read(&self, panel: Block, masks: &mut [u16]) {
        let (layout, first) = (self.layout, panel.first / 8);
        let pixels = self.codes.len() / layout.pixel_bytes();
        for (plane, masks) in masks.chunks_exact_mut(pixels).enumerate() {
            let bytes = plane * layout.plane_bytes()..(plane + 1) * layout.plane_bytes();
            let pixels = masks.iter_mut().zip(self.codes.chunks_exact(layout.pixel_bytes()));
            if panel.first.is_multiple_of(8) && first + 2 <= bytes.len() {
                pixels.for_each(|(mask, pixel)| {
                    let pair = pixel[bytes.start + first..].first_chunk().expect("two bytes of the plane");
                    *mask = u16::from_le_bytes(*pair);
                });
            } else {
                pixels.for_each(|(mask, pixel)| *mask = bits_from(&pixel[bytes.clone()], panel.first) as u16);
            }
        }
    }

    /// The channels whose code has this level.
    fn select(&self, level: usize, planes: &[u16], selected: &mut [u16]) {
        let bits = self.layout.encoding().bits(level);
        selected.fill(u16::MAX);
        for (plane, masks) in planes.chunks_exact(selected.len()).enumerate() {
            let flip = if bits >> plane & 1 == 1 { 0 } else { u16::MAX };
            selected.iter_mut().zip(masks).for_each(|(selected, mask)| *selected &= mask ^ flip);
        }
    }
}

/// Sets bits of one plane, which are clear.
fn write(layout: Layout, plane: usize, panel: Block, masks: &[u16], y: &mut [u8]) {
    let live = u16::MAX >> (LANES - panel.count);
    let (pixel_bytes, start, shift) = (layout.pixel_bytes(), plane * layout.plane_bytes(), panel.first % 8);
    let byte = start + panel.first / 8;
    if shift == 0 && live == u16::MAX {
        if pixel_bytes == 2 {
            let pixels = y.as_chunks_mut::<2>().0.iter_mut().zip(masks);
            return pixels.for_each(|(pixel, mask)| *pixel = mask.to_le_bytes());
        }
        for (mask, pixel) in masks.iter().zip(y.chunks_exact_mut(pixel_bytes)) {
            pixel[byte..byte + 2].copy_from_slice(&mask.to_le_bytes());
        }
        return;
    }
    for (mask, pixel) in masks.iter().zip(y.chunks_exact_mut(pixel_bytes)) {
        let bits = u32::from(mask & live) << shift;
        for (target, bits) in pixel[byte..start + layout.plane_bytes()].iter_mut().zip(bits.to_le_bytes()) {
            *target |= bits;
        }
    }
}
