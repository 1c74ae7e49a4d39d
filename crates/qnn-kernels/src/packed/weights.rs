//! Weights packed for the tiles, and the constants that turn counts into accumulators.

use super::frame::Frame;
use super::{ConvGeometry, Encoding};
use crate::line::{Block, LANES, Line, blocks};

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
    pub(crate) panels: Vec<Block>,
    pub(crate) lines: Vec<Line<u64>>,
    pub(crate) masked: bool,
    /// Weights in one plane of a panel.
    pub(crate) words: usize,
    pub(crate) planes: usize,
    /// For each panel what an accumulator starts at.
    pub(crate) base: Vec<Line<i32>>,
}

/// The planes that weights are split into.
fn planes(encoding: Encoding) -> usize {
    if encoding == Encoding::Ternary { 1 } else { encoding.planes() }
}

/// Mask and sign of stored bits in a plane.
fn mask_and_sign(encoding: Encoding, bits: u8, plane: usize) -> (bool, bool) {
    let set = |plane: usize| bits >> plane & 1 == 1;
    match encoding {
        Encoding::Ternary => (set(0), set(1)),
        Encoding::Unsigned { .. } => (set(plane), false),
        _ => (true, set(plane)),
    }
}

impl Weights {
    /// Packs `levels`, the codes' levels `[kh, kw, channels/groups, out_channels]`, for inputs encoded as `x`.
    pub(crate) fn new(
        geometry: &ConvGeometry,
        frame: &Frame,
        x: Encoding,
        w: Encoding,
        levels: &[u8],
    ) -> Self {
        let panels = blocks(geometry.groups, geometry.group_outputs(), LANES);
        let masked = matches!(w, Encoding::Ternary | Encoding::Unsigned { .. });
        let row_words = frame.offsets(0).len();
        let (words, planes) = (geometry.kernel[0] * row_words, planes(w));
        let panel_lines = words * planes * (1 + usize::from(masked));
        let mut packed = Self {
            lines: vec![Line([0; LANES]); panels.len() * panel_lines],
            base: vec![Line([0; LANES]); panels.len()],
            panels,
            masked,
            words,
            planes,
        };
        let signs = !matches!(x, Encoding::Unsigned { .. });
        let most = if x == Encoding::Ternary { 1 } else { *x.range().end() };
        let rows = levels.chunks_exact(geometry.out_channels);
        for (row, levels) in rows.enumerate() {
            let (tap, channel) = (row / geometry.group_channels(), row % geometry.group_channels());
            let (word, bit) = frame.bit(tap % geometry.kernel[1], channel);
            let word = tap / geometry.kernel[1] * row_words + word;
            for (index, panel) in packed.panels.iter().enumerate() {
                let lines = &mut packed.lines[index * panel_lines..][..panel_lines];
                for (lane, &level) in levels[panel.first..][..panel.count].iter().enumerate() {
                    let bits = w.bits(level.into());
                    for plane in 0..planes {
                        let (mask, sign) = mask_and_sign(w, bits, plane);
                        let sign = if signs { mask && !sign } else { sign };
                        let at = (plane * words + word) * (1 + usize::from(masked));
                        lines[at].0[lane] |= u64::from(if masked { mask } else { sign }) << bit;
                        lines[at + usize::from(masked)].0[lane] |= u64::from(sign) << bit;
                        let counted = if signs { mask } else { sign };
                        packed.base[index].0[lane] -= (i32::from(counted) << plane) * most;
                    }
                }
            }
        }
        packed
    }

    /// The lines of one panel.
    pub(crate) fn panel(&self, index: usize) -> &[Line<u64>] {
        let lines = self.lines.len() / self.panels.len();
        &self.lines[index * lines..][..lines]
    }
}
