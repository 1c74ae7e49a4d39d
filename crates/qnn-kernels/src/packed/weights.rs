//! Weights packed for the tiles, and the constants that turn counts into accumulators.

use alloc::vec;
use alloc::vec::Vec;

use super::frame::Frame;
use super::{ConvGeometry, Encoding};
use crate::line::{Block, LANES, Line};

/// Packed weights: for every panel of sixteen output channels a line for each plane and word, or two (mask and sign) where they are masked.
///
/// A plane of signs is compared as a whole; of zeros and ones, or of a ternary code, only where a mask is set:
///
/// ```text
/// x signs   Σ x·w = 2·pop(m ∧ (¬n ⊕ x)) − pop(m)        (m all set for signs)
/// x {0,1}   Σ x·w =   pop(m ∧ ( n ⊕ x)) − pop(n)
/// ```
///
/// so what is stored for inputs of signs is `m ∧ ¬n`, and every sum is a count of bits, doubled or not, and a constant.
#[derive(Clone, Debug)]
pub(crate) struct Weights {
    lines: Vec<Line<u64>>,
    panel_lines: usize,
    pub(crate) masked: bool,
    /// Weights in one plane of a panel.
    pub(crate) words: usize,
    pub(crate) planes: usize,
}

/// The planes that weights are split into.
pub(crate) fn planes(encoding: Encoding) -> usize {
    if encoding == Encoding::Ternary { 1 } else { encoding.planes() }
}

/// One plane of one weight.
pub(crate) struct Bit {
    pub(crate) mask: bool,
    /// As it is stored for the encoding of the inputs.
    pub(crate) sign: bool,
    /// The constant that it takes from its sum.
    pub(crate) constant: i32,
}

impl Bit {
    /// Plane `plane` of a level of `w`, against inputs encoded as `x`.
    pub(crate) fn new(w: Encoding, level: u8, plane: usize, x: Encoding) -> Self {
        let bits = w.bits(level.into());
        let set = |plane: usize| bits >> plane & 1 == 1;
        let (mask, sign) = match w {
            Encoding::Ternary => (set(0), set(1)),
            Encoding::Unsigned { .. } => (set(plane), false),
            _ => (true, set(plane)),
        };
        let (sign, counted) = match x {
            Encoding::Unsigned { .. } => (sign, sign),
            _ => (mask && !sign, mask),
        };
        // Planes weigh 2^i, and so all of them together as much as the largest code; the two halves of a ternary input weigh one.
        Self { mask, sign, constant: (i32::from(counted) << plane) * *x.range().end() }
    }
}

impl Weights {
    /// Packs `levels`, the codes' levels `[kh, kw, channels/groups, out_channels]`; also gives what the accumulators of each panel start at.
    pub(crate) fn new(
        geometry: &ConvGeometry,
        frame: &Frame,
        panels: &[Block],
        [x, w]: [Encoding; 2],
        levels: &[u8],
    ) -> (Self, Vec<Line<i32>>) {
        let masked = matches!(w, Encoding::Ternary | Encoding::Unsigned { .. });
        let row_words = frame.offsets(0).len();
        let (words, planes) = (geometry.kernel[0] * row_words, planes(w));
        let panel_lines = words * planes * (1 + usize::from(masked));
        let lines = vec![Line([0; LANES]); panels.len() * panel_lines];
        let mut packed = Self { lines, panel_lines, masked, words, planes };
        let mut base = vec![Line([0; LANES]); panels.len()];
        for (row, levels) in levels.chunks_exact(geometry.out_channels).enumerate() {
            let (tap, channel) = (row / geometry.group_channels(), row % geometry.group_channels());
            let (word, bit) = frame.bit(tap % geometry.kernel[1], channel);
            let word = tap / geometry.kernel[1] * row_words + word;
            for (index, panel) in panels.iter().enumerate() {
                for (lane, &level) in levels[panel.first..][..panel.count].iter().enumerate() {
                    for plane in 0..planes {
                        let part = Bit::new(w, level, plane, x);
                        base[index].0[lane] -= part.constant;
                        packed.set(index * panel_lines, plane * words + word, (lane, bit), &part);
                    }
                }
            }
        }
        (packed, base)
    }

    /// One plane of signs without masks: the words of one panel after the other.
    pub(crate) fn of_words(lines: Vec<Line<u64>>, words: usize) -> Self {
        Self { lines, panel_lines: words, masked: false, words, planes: 1 }
    }

    pub(crate) fn into_lines(self) -> Vec<Line<u64>> {
        self.lines
    }

    fn set(&mut self, panel: usize, weight: usize, (lane, bit): (usize, u32), part: &Bit) {
        if self.masked {
            self.lines[panel + 2 * weight].0[lane] |= u64::from(part.mask) << bit;
            self.lines[panel + 2 * weight + 1].0[lane] |= u64::from(part.sign) << bit;
        } else {
            self.lines[panel + weight].0[lane] |= u64::from(part.sign) << bit;
        }
    }

    /// The lines of one panel.
    pub(crate) fn panel(&self, index: usize) -> &[Line<u64>] {
        &self.lines[index * self.panel_lines..][..self.panel_lines]
    }
}
