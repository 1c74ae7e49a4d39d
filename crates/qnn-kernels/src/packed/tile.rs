//! The register tile: the only loop that touches every word, written once for all instruction sets; and the passes over its results.

use core::hint::black_box;
use core::ops::Range;

use super::lanes::BitLanes;
use crate::line::{LANES as CHANNELS, Line};

/// One word of the input under one kernel position, against one word of every output channel.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Tap {
    /// Words from the output pixel's first word to this one.
    pub(crate) offset: usize,
    /// Which weight of the panel.
    pub(crate) weights: usize,
}

/// A row of output pixels for one panel of sixteen output channels.
///
/// ```text
/// acc[pixel, o] = offsets[class(pixel), o] + 2^shift · Σ_levels 2^level · Σ_taps count(x[pixel + tap], w[tap, o])
/// ```
#[derive(Clone, Copy, Debug)]
pub(crate) struct Row<'a> {
    /// The input, from the first pixel on; neighbouring pixels are neighbouring words.
    pub(crate) words: &'a [u64],
    pub(crate) taps: &'a [Tap],
    /// Runs of taps, the sum doubled before each but the first.
    pub(crate) levels: &'a [Range<usize>],
    pub(crate) shift: u32,
    /// Weights: a line for each, or two (mask and sign) where they are masked.
    pub(crate) panel: &'a [Line<u64>],
    /// What is added at the end, by class of pixels.
    pub(crate) offsets: &'a [Line<i32>],
    /// The class of every pixel.
    pub(crate) classes: &'a [u32],
}

/// The row's accumulators for the `P` pixels from `first` on and `V` registers of channels from `channel` on.
#[inline(always)]
pub(crate) fn tile<L: BitLanes, const MASKED: bool, const P: usize, const V: usize>(
    row: &Row<'_>,
    channel: usize,
    first: usize,
    acc: &mut [Line<i32>],
) {
    let words = &row.words[first..];
    let mut sums = [[L::splat(0); V]; P];
    for (rank, level) in row.levels.iter().enumerate() {
        if rank > 0 {
            for p in 0..P {
                for v in 0..V {
                    sums[p][v] = sums[p][v].plus(sums[p][v]);
                }
            }
        }
        for taps in row.taps[level.clone()].chunks(L::STEPS) {
            let mut counts = open(&sums);
            for tap in taps {
                let x: &[u64; P] = words[tap.offset..].first_chunk().expect("a window inside the frame");
                let [masks, signs] = weights::<L, MASKED, V>(row, tap, channel);
                for p in 0..P {
                    let x = L::splat(x[p]);
                    for v in 0..V {
                        let bits = if MASKED { masks[v].masked(signs[v], x) } else { signs[v].xor(x) };
                        counts[p][v] = bits.count(counts[p][v]);
                    }
                }
            }
            for p in 0..P {
                for v in 0..V {
                    sums[p][v] = L::close(counts[p][v], sums[p][v]);
                }
            }
        }
    }
    for p in 0..P {
        let offsets = &row.offsets[row.classes[first + p] as usize];
        let lanes = channel..channel + V * L::LANES;
        L::store(sums[p], row.shift, &offsets.0[lanes.clone()], &mut acc[p].0[lanes]);
    }
}

/// In loops, for the closures of `map` do not always stay in registers.
#[inline(always)]
fn open<L: BitLanes, const P: usize, const V: usize>(sums: &[[L; V]; P]) -> [[L::Count; V]; P] {
    let mut counts = [[L::open(L::splat(0)); V]; P];
    for p in 0..P {
        for v in 0..V {
            counts[p][v] = L::open(sums[p][v]);
        }
    }
    counts
}

/// Masks and signs of one tap; without masks both are the signs.
#[inline(always)]
fn weights<L: BitLanes, const MASKED: bool, const V: usize>(
    row: &Row<'_>,
    tap: &Tap,
    channel: usize,
) -> [[L; V]; 2] {
    let load = |line: &Line<u64>| {
        let mut lanes = [L::splat(0); V];
        for v in 0..V {
            lanes[v] = L::load(&line.0[channel + v * L::LANES..][..L::LANES]);
        }
        lanes
    };
    if MASKED {
        let [masks, signs] = row.panel[2 * tap.weights..].first_chunk().expect("a mask and a sign");
        [load(masks), load(signs)]
    } else {
        [load(&row.panel[tap.weights]); 2]
    }
}

/// The tile's work on operands that stay in the first cache, without anything around it: what [`tile`] can reach at most.
///
/// Returns the multiply-accumulates done, one for each bit.
#[inline(always)]
pub(crate) fn limit<L: BitLanes, const P: usize, const V: usize>(steps: usize) -> u64 {
    let (words, line) = ([0x5555_5555_5555_5555; P], Line([u64::MAX; CHANNELS]));
    let mut sums = [[L::splat(0); V]; P];
    for first in (0..steps).step_by(L::STEPS.min(steps)) {
        let mut counts = open(&sums);
        for _ in first..(first + L::STEPS.min(steps)).min(steps) {
            let (words, line) = (black_box(&words), black_box(&line));
            for v in 0..V {
                let weights = L::load(&line.0[v * L::LANES % CHANNELS..][..L::LANES]);
                for p in 0..P {
                    counts[p][v] = weights.xor(L::splat(words[p])).count(counts[p][v]);
                }
            }
        }
        for p in 0..P {
            for v in 0..V {
                sums[p][v] = L::close(counts[p][v], sums[p][v]);
            }
        }
    }
    black_box(sums);
    (steps * 64 * L::LANES * P * V) as u64
}

/// The channels that reach their cuts, for every pixel.
#[inline(always)]
pub(crate) fn reached<L: BitLanes>(acc: &[Line<i32>], cuts: &Line<i32>, masks: &mut [u16]) {
    for (acc, mask) in acc.iter().zip(masks) {
        *mask = L::reached(acc, cuts);
    }
}

/// Where scaled accumulators go.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Scaling {
    pub(crate) scale: Line<f32>,
    pub(crate) bias: Line<f32>,
    /// Numbers between neighbouring pixels.
    pub(crate) pitch: usize,
    /// Channels to write.
    pub(crate) live: usize,
}

/// `y = acc · scale + bias`, rounded after each step.
#[inline(always)]
pub(crate) fn scaled(acc: &[Line<i32>], scaling: &Scaling, y: &mut [f32]) {
    for (acc, y) in acc.iter().zip(y.chunks_mut(scaling.pitch)) {
        let mut line = [0.0; CHANNELS];
        for lane in 0..CHANNELS {
            line[lane] = acc.0[lane] as f32 * scaling.scale.0[lane] + scaling.bias.0[lane];
        }
        match y.first_chunk_mut::<CHANNELS>() {
            Some(whole) if scaling.live == CHANNELS => *whole = line,
            _ => y[..scaling.live].copy_from_slice(&line[..scaling.live]),
        }
    }
}

/// Packs signs, eight to a byte, and says whether any number was none.
#[inline(always)]
pub(crate) fn pack_signs<L: BitLanes>(values: &[f32], packed: &mut [u8]) -> bool {
    let mut nans = 0;
    let (lines, rest) = values.as_chunks::<CHANNELS>();
    let (pairs, last) = packed.split_at_mut(2 * lines.len());
    for (line, pair) in lines.iter().zip(pairs.as_chunks_mut::<2>().0) {
        let [negative, nan] = L::signs(line);
        *pair = negative.to_le_bytes();
        nans |= nan;
    }
    let mut line = [0.0; CHANNELS];
    line[..rest.len()].copy_from_slice(rest);
    let [negative, nan] = L::signs(&line);
    let bytes = rest.len().div_ceil(8);
    last[..bytes].copy_from_slice(&negative.to_le_bytes()[..bytes]);
    nans | nan != 0
}
