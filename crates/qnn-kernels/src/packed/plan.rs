//! What a packed convolution computes once: frame, taps, weights, constants.

use alloc::vec;
use alloc::vec::Vec;
use core::ops::Range;

use super::border::Border;
use super::depthwise::Filters;
use super::frame::Frame;
use super::tile::Tap;
use super::weights::Weights;
use super::{ConvGeometry, Encoding, Layout};
use crate::Padding;
use crate::line::{Block, LANES, Line, blocks};

/// Pixels in a row of a flattened convolution: several tiles of the widest kernels.
const FLAT_WIDTH: usize = 32;

/// A convolution as sums over taps.
#[derive(Clone, Debug)]
pub(crate) struct Plan {
    /// The geometry computed: that of the convolution, or rows of [`FLAT_WIDTH`] pixels, as many as come.
    pub(crate) geometry: ConvGeometry,
    pub(crate) flat: bool,
    pub(crate) layout: Layout,
    pub(crate) frame: Frame,
    pub(crate) taps: Vec<Tap>,
    pub(crate) levels: Vec<Range<usize>>,
    /// The sums are doubled as often in the end: once for inputs of signs.
    pub(crate) shift: u32,
    /// Output channels, sixteen to a panel.
    pub(crate) panels: Vec<Block>,
    pub(crate) weights: Packed,
    pub(crate) border: Border,
}

/// Packed weights, by what they are summed over.
#[derive(Clone, Debug)]
pub(crate) enum Packed {
    Dense(Weights),
    Depthwise(Filters),
}

impl Plan {
    /// Everything was checked: the geometry, the encodings, the number of `levels` (those of the weights' codes).
    pub(crate) fn new(
        geometry: &ConvGeometry,
        layout: Layout,
        pad_code: i32,
        w: Encoding,
        levels: &[u8],
    ) -> Self {
        let x = layout.encoding();
        let (computed, flat) = flattened(geometry);
        let depthwise = geometry.is_depthwise();
        let side_by_side = ConvGeometry { groups: if depthwise { 1 } else { geometry.groups }, ..computed };
        let pad_level = x.level(pad_code);
        let pad_bits = pad_level.map_or(0, |level| x.bits(level));
        let frame = Frame::new(layout, side_by_side, pad_bits, !depthwise);
        let panels = blocks(side_by_side.groups, side_by_side.group_outputs(), LANES);
        let (weights, base) = if depthwise {
            let (filters, base) = Filters::new(geometry, x, w, levels);
            (Packed::Depthwise(filters), base)
        } else {
            let (weights, base) = Weights::new(geometry, &frame, &panels, [x, w], levels);
            (Packed::Dense(weights), base)
        };
        let border = if pad_level.is_some() || geometry.padding == Padding::NONE {
            Border::none(computed.out_width(), base)
        } else {
            // Clear bits are ones in every plane of signs: the largest code.
            let sums = tap_sums(geometry, w, levels);
            Border::new(geometry, &panels, &base, *x.range().end(), &sums)
        };
        let (taps, levels) = taps(&computed, &frame, x, &weights);
        let shift = u32::from(matches!(x, Encoding::Sign | Encoding::Odd { .. }));
        Self { geometry: computed, flat, layout, frame, taps, levels, shift, panels, weights, border }
    }

    /// A convolution of signs by signs in one group, with weights of whole words and whole panels.
    pub(crate) fn of_signs(geometry: &ConvGeometry, pad_code: i32, weights: Weights) -> Self {
        let x = Encoding::Sign;
        let layout = Layout::new(x, geometry.channels).expect("a channel count that is not 0");
        let (computed, flat) = flattened(geometry);
        let pad_level = x.level(pad_code);
        let frame = Frame::new(layout, computed, pad_level.map_or(0, |level| x.bits(level)), true);
        let panels = blocks(1, geometry.out_channels, LANES);
        let base = vec![Line([-(geometry.terms() as i32); LANES]); panels.len()];
        let border = if pad_level.is_some() || geometry.padding == Padding::NONE {
            Border::none(computed.out_width(), base)
        } else {
            Border::new(geometry, &panels, &base, 1, &sums_of_signs(geometry, &weights))
        };
        let weights = Packed::Dense(weights);
        let (taps, levels) = taps(&computed, &frame, x, &weights);
        Self { geometry: computed, flat, layout, frame, taps, levels, shift: 1, panels, weights, border }
    }

    /// The memory of the weights, to be used again.
    pub(crate) fn into_lines(self) -> Vec<Line<u64>> {
        match self.weights {
            Packed::Dense(weights) => weights.into_lines(),
            Packed::Depthwise(_) => Vec::new(),
        }
    }
}

/// A convolution that never looks sideways has its pixels in rows of one width, whatever the images; and whether it is one.
fn flattened(geometry: &ConvGeometry) -> (ConvGeometry, bool) {
    let flat = geometry.is_pointwise();
    if flat {
        (ConvGeometry { height: usize::MAX, width: FLAT_WIDTH, ..*geometry }, true)
    } else {
        (*geometry, false)
    }
}

impl Packed {
    /// Planes, and weights of one plane.
    fn planes(&self) -> [usize; 2] {
        match self {
            Self::Dense(weights) => [weights.planes, weights.words],
            Self::Depthwise(filters) => [filters.planes, filters.each / filters.planes],
        }
    }
}

/// Weights summed over the input channels, `[kh, kw, out_channels]`.
fn tap_sums(geometry: &ConvGeometry, w: Encoding, levels: &[u8]) -> Vec<i32> {
    let mut sums = vec![0; geometry.kernel[0] * geometry.kernel[1] * geometry.out_channels];
    for (row, levels) in levels.chunks_exact(geometry.out_channels).enumerate() {
        let tap = row / geometry.group_channels();
        let sums = &mut sums[tap * geometry.out_channels..][..geometry.out_channels];
        for (sum, &level) in sums.iter_mut().zip(levels) {
            *sum += w.code(level.into());
        }
    }
    sums
}

/// The same of signs, where a set bit is +1.
fn sums_of_signs(geometry: &ConvGeometry, weights: &Weights) -> Vec<i32> {
    let words = geometry.channels / 64;
    let mut sums = vec![0; geometry.kernel[0] * geometry.kernel[1] * geometry.out_channels];
    for (tap, sums) in sums.chunks_exact_mut(geometry.out_channels).enumerate() {
        for (panel, sums) in sums.chunks_exact_mut(LANES).enumerate() {
            for line in &weights.panel(panel)[tap * words..][..words] {
                sums.iter_mut().zip(line.0).for_each(|(sum, word)| *sum += 2 * word.count_ones() as i32 - 64);
            }
        }
    }
    sums
}

/// Every pair of planes, the heaviest first: runs of equal weight `2^(i + j)`, which the tile doubles between.
fn taps(
    geometry: &ConvGeometry,
    frame: &Frame,
    x: Encoding,
    packed: &Packed,
) -> (Vec<Tap>, Vec<Range<usize>>) {
    let [planes, words] = packed.planes();
    let exponent = |plane: usize| if x == Encoding::Ternary { 0 } else { plane };
    // A depthwise tap names the first word of a pixel, and stands for the others.
    let every = if matches!(packed, Packed::Depthwise(_)) { frame.words } else { 1 };
    let (mut taps, mut levels) = (Vec::new(), Vec::new());
    for level in (0..exponent(frame.planes - 1) + planes).rev() {
        let first = taps.len();
        for plane in 0..frame.planes {
            let Some(weight_plane) = level.checked_sub(exponent(plane)).filter(|&j| j < planes) else {
                continue;
            };
            let row: Vec<usize> = frame.offsets(plane).into_iter().step_by(every).collect();
            let offsets = (0..geometry.kernel[0]).flat_map(|kh| {
                let start = kh * geometry.dilation[0] * frame.row_words();
                row.iter().map(move |offset| start + offset)
            });
            let tap = |(word, offset)| Tap { offset, weights: weight_plane * words + word };
            taps.extend(offsets.enumerate().map(tap));
        }
        levels.push(first..taps.len());
    }
    (taps, levels)
}
