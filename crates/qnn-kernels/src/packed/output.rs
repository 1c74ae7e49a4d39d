//! Where accumulators go.

use core::fmt;
use core::ops::Range;

use super::{Encoding, Layout, Thresholds};
use crate::ChannelAffine;

/// What a packed kernel makes of its accumulators `[image, row, column, out_channels]`, and where it writes that.
#[derive(Debug)]
pub enum Output<'a> {
    /// The accumulators themselves.
    Accumulators(&'a mut [i32]),
    /// `y = (acc as f32) · scale[o] + bias[o]`, each step that is present rounded once.
    Scaled {
        /// Scale and bias of the output channels.
        affine: ChannelAffine<'a, f32>,
        /// One number for each accumulator.
        y: &'a mut [f32],
    },
    /// Packed codes, by thresholds.
    Codes {
        /// For every output channel as many levels as the layout's encoding has.
        thresholds: &'a Thresholds,
        /// Of the output pixels.
        layout: Layout,
        /// Packed output pixels.
        y: &'a mut [u8],
    },
    /// Packed codes, by thresholds that another code at the same place selects: a sum with that code, and what follows it, without the sum.
    Selected {
        /// For every level of the selector thresholds as in [`Output::Codes`].
        thresholds: &'a [Thresholds],
        /// What selects them.
        by: Selector<'a>,
        /// Of the output pixels.
        layout: Layout,
        /// Packed output pixels.
        y: &'a mut [u8],
    },
    /// Whatever a function makes of runs of pixels, while their accumulators lie in the cache.
    Tiles(Tiles<'a>),
}

/// Packed codes of as many pixels and channels as the output has.
#[derive(Clone, Copy, Debug)]
pub struct Selector<'a> {
    /// Of its pixels; codes in planes of bits.
    pub layout: Layout,
    /// The packed pixels.
    pub codes: &'a [u8],
}

/// A function over runs of output pixels, and the buffers that it fills. Runs are visited by several threads, in no order.
///
/// Both buffers are cut into equal parts for the output pixels; either may be empty.
pub struct Tiles<'a> {
    /// As many for each pixel as the function wants.
    pub numbers: &'a mut [f32],
    /// As many for each pixel as the function wants.
    pub bytes: &'a mut [u8],
    /// Called once for every run.
    pub visit: &'a (dyn Fn(Tile<'_>) + Sync),
}

/// A run of output pixels.
#[derive(Debug)]
pub struct Tile<'a> {
    /// Their indices, counted over the whole batch.
    pub pixels: Range<usize>,
    /// Their accumulators, `[pixel, out_channels]`.
    pub accumulators: &'a [i32],
    /// Their part of [`Tiles::numbers`].
    pub numbers: &'a mut [f32],
    /// Their part of [`Tiles::bytes`].
    pub bytes: &'a mut [u8],
}

impl fmt::Debug for Tiles<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Tiles {{ {} numbers, {} bytes }}", self.numbers.len(), self.bytes.len())
    }
}

impl Output<'_> {
    /// Panics unless this takes `pixels` pixels of `channels` channels.
    #[track_caller]
    pub(crate) fn assert_fits(&self, pixels: usize, channels: usize) {
        let elements = pixels * channels;
        match self {
            Self::Accumulators(y) => assert_len("accumulators", y.len(), elements),
            Self::Scaled { affine, y } => {
                affine.assert_channels(channels);
                assert_len("scaled output", y.len(), elements);
            }
            Self::Codes { thresholds, layout, y } => {
                assert_codes(thresholds, *layout, channels);
                assert_len("packed output", y.len(), layout.bytes_for(pixels));
            }
            Self::Selected { thresholds, by, layout, y } => {
                assert!(by.layout.encoding() != Encoding::Int8, "int8 codes select no thresholds");
                assert_len("selected thresholds", thresholds.len(), by.layout.encoding().levels());
                thresholds.iter().for_each(|thresholds| assert_codes(thresholds, *layout, channels));
                assert_len("the selector's channels", by.layout.channels(), channels);
                assert_len("the selector's bytes", by.codes.len(), by.layout.bytes_for(pixels));
                assert_len("packed output", y.len(), layout.bytes_for(pixels));
            }
            Self::Tiles(tiles) => {
                for (what, len) in [("numbers", tiles.numbers.len()), ("bytes", tiles.bytes.len())] {
                    let whole = if pixels == 0 { len == 0 } else { len.is_multiple_of(pixels) };
                    assert!(whole, "{len} {what} are no equal parts for {pixels} output pixels");
                }
            }
        }
    }
}

impl Selector<'_> {
    /// Its part for some of the pixels.
    pub(crate) fn part(&self, pixels: Range<usize>) -> Self {
        let bytes = self.layout.bytes_for(pixels.start)..self.layout.bytes_for(pixels.end);
        Self { layout: self.layout, codes: &self.codes[bytes] }
    }
}

#[track_caller]
fn assert_codes(thresholds: &Thresholds, layout: Layout, channels: usize) {
    assert_len("thresholds", thresholds.channels(), channels);
    assert_len("the output layout's channels", layout.channels(), channels);
    assert_len("levels of the thresholds", thresholds.levels(), layout.encoding().levels());
    assert!(layout.encoding() != Encoding::Int8, "thresholds give no int8 codes");
}

#[track_caller]
fn assert_len(what: &str, found: usize, expected: usize) {
    assert!(found == expected, "{what}: {found}, the convolution has {expected}");
}
