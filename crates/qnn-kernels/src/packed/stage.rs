//! The output stages: what becomes of a run of accumulators, panel by panel.

use alloc::vec::Vec;
use core::ops::Range;

use super::codes::Codes;
use super::scratch::grown;
use super::tile::Scaling;
use super::{Output, Tile, Tiles};
use crate::ChannelAffine;
use crate::arch::bits::Bits;
use crate::line::{Block, LANES, Line};

/// Accumulators of one run that a function visits: they should stay in the first cache, with the numbers that it makes of them.
const VISITED: usize = 1 << 12;

/// An output for a range of pixels.
#[derive(Debug)]
pub(crate) struct Part<'a> {
    pub(crate) out: Output<'a>,
    pub(crate) pixels: usize,
    pub(crate) channels: usize,
}

impl<'a> Part<'a> {
    /// The first `pixels` pixels and the others.
    pub(crate) fn split_at(self, pixels: usize) -> (Self, Self) {
        let channels = self.channels;
        let elements = pixels * channels;
        let (left, right) = match self.out {
            Output::Accumulators(y) => {
                let (left, right) = y.split_at_mut(elements);
                (Output::Accumulators(left), Output::Accumulators(right))
            }
            Output::Scaled { affine, y } => {
                let (left, right) = y.split_at_mut(elements);
                (Output::Scaled { affine, y: left }, Output::Scaled { affine, y: right })
            }
            Output::Codes { thresholds, layout, y } => {
                let (left, right) = y.split_at_mut(layout.bytes_for(pixels));
                let codes = |y| Output::Codes { thresholds, layout, y };
                (codes(left), codes(right))
            }
            Output::Selected { thresholds, by, layout, y } => {
                let (left, right) = y.split_at_mut(layout.bytes_for(pixels));
                let codes = |by, y| Output::Selected { thresholds, by, layout, y };
                let [before, after] = [0..pixels, pixels..self.pixels].map(|pixels| by.part(pixels));
                (codes(before, left), codes(after, right))
            }
            Output::Tiles(Tiles { numbers, bytes, visit }) => {
                let (numbers, more_numbers) = split_evenly(numbers, self.pixels, pixels);
                let (bytes, more_bytes) = split_evenly(bytes, self.pixels, pixels);
                let more = Tiles { numbers: more_numbers, bytes: more_bytes, visit };
                (Output::Tiles(Tiles { numbers, bytes, visit }), Output::Tiles(more))
            }
        };
        let part = |out, pixels| Self { out, pixels, channels };
        (part(left, pixels), part(right, self.pixels - pixels))
    }

    /// Pixels of a run, at most `most`.
    pub(crate) fn run_pixels(&self, most: usize) -> usize {
        match self.out {
            Output::Tiles(_) => most.min(VISITED / self.channels),
            _ => most,
        }
    }

    /// Begins a run of pixels of this part, whose first is the pixel `origin` of the batch.
    pub(crate) fn open<'b>(
        &'b mut self,
        pixels: Range<usize>,
        origin: usize,
        rows: &'b mut Vec<i32>,
    ) -> Run<'b> {
        let channels = self.channels;
        let elements = pixels.start * channels..pixels.end * channels;
        match &mut self.out {
            Output::Accumulators(y) => Run::Accumulators { y: &mut y[elements], channels },
            Output::Scaled { affine, y } => Run::Scaled { affine: *affine, y: &mut y[elements], channels },
            Output::Codes { thresholds, layout, y } => {
                let y = &mut y[layout.bytes_for(pixels.start)..layout.bytes_for(pixels.end)];
                Run::Codes(Codes::new(core::slice::from_ref(*thresholds), None, *layout, y))
            }
            Output::Selected { thresholds, by, layout, y } => {
                let y = &mut y[layout.bytes_for(pixels.start)..layout.bytes_for(pixels.end)];
                Run::Codes(Codes::new(thresholds, Some(by.part(pixels)), *layout, y))
            }
            Output::Tiles(tiles) => Run::Tiles {
                channels,
                accumulators: grown(rows, elements.len(), 0),
                numbers: evenly(tiles.numbers, self.pixels, pixels.clone()),
                bytes: evenly(tiles.bytes, self.pixels, pixels.clone()),
                pixels: origin + pixels.start..origin + pixels.end,
                visit: tiles.visit,
            },
        }
    }
}

fn evenly<T>(values: &mut [T], parts: usize, range: Range<usize>) -> &mut [T] {
    let each = values.len() / parts;
    &mut values[range.start * each..range.end * each]
}

fn split_evenly<T>(values: &mut [T], parts: usize, at: usize) -> (&mut [T], &mut [T]) {
    let each = values.len() / parts;
    values.split_at_mut(at * each)
}

/// The output of one run of pixels.
pub(crate) enum Run<'a> {
    Accumulators {
        y: &'a mut [i32],
        channels: usize,
    },
    Scaled {
        affine: ChannelAffine<'a, f32>,
        y: &'a mut [f32],
        channels: usize,
    },
    Codes(Codes<'a>),
    Tiles {
        channels: usize,
        accumulators: &'a mut [i32],
        pixels: Range<usize>,
        numbers: &'a mut [f32],
        bytes: &'a mut [u8],
        visit: &'a (dyn Fn(Tile<'_>) + Sync),
    },
}

impl Run<'_> {
    /// Takes the accumulators of one panel.
    pub(crate) fn panel(&mut self, bits: &Bits, panel: Block, acc: &[Line<i32>], masks: &mut Vec<u16>) {
        match self {
            Self::Accumulators { y, channels } | Self::Tiles { accumulators: y, channels, .. } => {
                for (acc, y) in acc.iter().zip(y.chunks_exact_mut(*channels)) {
                    let y = &mut y[panel.first..][..panel.count];
                    match y.first_chunk_mut::<LANES>() {
                        Some(whole) => *whole = acc.0,
                        None => y.copy_from_slice(&acc.0[..panel.count]),
                    }
                }
            }
            Self::Scaled { affine, y, channels } => {
                // Both neutral elements are exact: a·1 = a, and a + (−0) = a for every integer.
                let scaling = Scaling {
                    scale: line_of(affine.scale, panel, 1.0),
                    bias: line_of(affine.bias, panel, -0.0),
                    pitch: *channels,
                    live: panel.count,
                };
                bits.scaled(acc, &scaling, &mut y[panel.first..]);
            }
            Self::Codes(codes) => codes.panel(bits, panel, acc, masks),
        }
    }

    /// All panels have been taken.
    pub(crate) fn close(self) {
        if let Self::Tiles { accumulators, pixels, numbers, bytes, visit, .. } = self {
            visit(Tile { pixels, accumulators, numbers, bytes });
        }
    }
}

/// A panel's part of one value for each channel.
pub(crate) fn line_of<T: Copy>(values: Option<&[T]>, panel: Block, rest: T) -> Line<T> {
    let mut line = Line([rest; LANES]);
    if let Some(values) = values {
        line.0[..panel.count].copy_from_slice(&values[panel.first..][..panel.count]);
    }
    line
}
