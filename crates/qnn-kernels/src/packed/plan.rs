//! What a packed convolution computes once: frame, taps, weights, constants.

use std::ops::Range;

use super::border::Border;
use super::frame::Frame;
use super::tile::Tap;
use super::weights::Weights;
use super::{ConvGeometry, Encoding, Layout};
use crate::Padding;

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
    pub(crate) weights: Weights,
    pub(crate) border: Border,
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
        let flat =
            geometry.kernel == [1, 1] && geometry.stride == [1, 1] && geometry.padding == Padding::NONE;
        let computed = if flat {
            ConvGeometry { height: usize::MAX, width: FLAT_WIDTH, ..*geometry }
        } else {
            *geometry
        };
        let pad_level = x.level(pad_code);
        let frame = Frame::new(layout, computed, pad_level.map_or(0, |level| x.bits(level)));
        let weights = Weights::new(&computed, &frame, x, w, levels);
        let border = if pad_level.is_some() || geometry.padding == Padding::NONE {
            Border::none(computed.out_width(), weights.base.clone())
        } else {
            // Clear bits are ones in every plane of signs: the largest code.
            let sums = tap_sums(geometry, w, levels);
            Border::new(geometry, &weights.panels, &weights.base, *x.range().end(), &sums)
        };
        let (taps, levels) = taps(&computed, &frame, x, &weights);
        Self { geometry: computed, flat, layout, frame, taps, levels, weights, border }
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

/// Every pair of planes, the heaviest first: runs of equal weight `2^(i + j)`, which the tile doubles between. Inputs of signs are doubled once more,
/// by an empty run.
fn taps(
    geometry: &ConvGeometry,
    frame: &Frame,
    x: Encoding,
    weights: &Weights,
) -> (Vec<Tap>, Vec<Range<usize>>) {
    let exponent = |plane: usize| if x == Encoding::Ternary { 0 } else { plane };
    let heaviest = exponent(frame.planes - 1) + weights.planes - 1;
    let (mut taps, mut levels) = (Vec::new(), Vec::new());
    for level in (0..=heaviest).rev() {
        let first = taps.len();
        for plane in 0..frame.planes {
            let Some(weight_plane) = level.checked_sub(exponent(plane)).filter(|&j| j < weights.planes)
            else {
                continue;
            };
            let row = frame.offsets(plane);
            let offsets = (0..geometry.kernel[0]).flat_map(|kh| {
                let start = kh * geometry.dilation[0] * frame.row_words();
                row.iter().map(move |offset| start + offset)
            });
            taps.extend(
                offsets
                    .enumerate()
                    .map(|(word, offset)| Tap { offset, weights: weight_plane * weights.words + word }),
            );
        }
        levels.push(first..taps.len());
    }
    if matches!(x, Encoding::Sign | Encoding::Odd { .. }) {
        levels.push(taps.len()..taps.len());
    }
    (taps, levels)
}
