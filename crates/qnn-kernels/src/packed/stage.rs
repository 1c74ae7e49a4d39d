//! The output stages: what becomes of a run of accumulators, panel by panel.

use std::ops::Range;

use super::scratch::grown;
use super::tile::Scaling;
use super::{Encoding, Layout, Output, Thresholds, Tile, Tiles};
use crate::ChannelAffine;
use crate::arch::bits::Bits;
use crate::line::{Block, LANES, Line};

/// Accumulators of one run that a function visits: they should stay in the second cache.
const VISITED: usize = 1 << 15;

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
                y.fill(0);
                Run::Codes { thresholds, layout: *layout, y }
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
    Codes {
        thresholds: &'a Thresholds,
        layout: Layout,
        y: &'a mut [u8],
    },
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
            Self::Codes { thresholds, layout, y } => codes(bits, thresholds, *layout, panel, acc, y, masks),
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
fn line_of<T: Copy>(values: Option<&[T]>, panel: Block, rest: T) -> Line<T> {
    let mut line = Line([rest; LANES]);
    if let Some(values) = values {
        line.0[..panel.count].copy_from_slice(&values[panel.first..][..panel.count]);
    }
    line
}

/// Thresholds to packed codes, in words of sixteen channels.
///
/// With `r_t` the channels that reach cut `t`, the level is the number of set `r_t`; cuts ascend, so the sets are nested, and bit `i` of the level is the
/// exclusive or of all `r_t` with `t` a multiple of `2^i`. A flipped level `n − level` is, for `n = 2^k − 1`, the complement of every bit.
fn codes(
    bits: &Bits,
    thresholds: &Thresholds,
    layout: Layout,
    panel: Block,
    acc: &[Line<i32>],
    y: &mut [u8],
    masks: &mut Vec<u16>,
) {
    let (planes, cuts) = (layout.encoding().planes(), thresholds.levels() - 1);
    let (reached, levels) = grown(masks, (planes + 1) * acc.len(), 0).split_at_mut(acc.len());
    let cut_line = |cut: usize| line_of(Some(thresholds.cuts(cut - 1)), panel, i32::MAX);
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
    let flips = thresholds.flips()[panel.first..][..panel.count].iter().enumerate();
    let flips = flips.fold(0, |mask, (lane, &flip)| mask | u16::from(flip) << lane);
    let live = u16::MAX >> (LANES - panel.count);
    let flips = match layout.encoding() {
        Encoding::Ternary => {
            ternary(levels, flips);
            0
        }
        Encoding::Sign | Encoding::Odd { .. } => !flips,
        _ => flips,
    };
    for (plane, levels) in levels.chunks_exact(acc.len()).enumerate() {
        let plane = plane * layout.plane_bytes();
        let target = Target { live, flips, first: panel.first, plane: plane..plane + layout.plane_bytes() };
        target.write(levels, layout.pixel_bytes(), y);
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

/// Where the bits of a panel lie in a pixel.
struct Target {
    /// The panel's channels.
    live: u16,
    /// Those whose bits are to be complemented.
    flips: u16,
    first: usize,
    /// Bytes of the plane.
    plane: Range<usize>,
}

impl Target {
    /// Sets bits that are clear.
    fn write(&self, masks: &[u16], pixel_bytes: usize, y: &mut [u8]) {
        let (byte, shift) = (self.plane.start + self.first / 8, self.first % 8);
        if shift == 0 && self.live == u16::MAX {
            for (mask, pixel) in masks.iter().zip(y.chunks_exact_mut(pixel_bytes)) {
                pixel[byte..byte + 2].copy_from_slice(&(mask ^ self.flips).to_le_bytes());
            }
            return;
        }
        for (mask, pixel) in masks.iter().zip(y.chunks_exact_mut(pixel_bytes)) {
            let bits = u32::from((mask ^ self.flips) & self.live) << shift;
            for (target, bits) in pixel[byte..self.plane.end].iter_mut().zip(bits.to_le_bytes()) {
                *target |= bits;
            }
        }
    }
}
