//! Convolutions with one filter for each channel: nothing to sum within a word, so words are summed bit by bit.
//!
//! ```text
//! digits += 2^level · (mask ∧ (sign ⊕ x))        64 channels at once; digit d of all their sums is one word
//! acc[c] = offsets[c] + 2^shift · Σ_d 2^d · bit c of digits[d]
//! ```

use alloc::vec;
use alloc::vec::Vec;
use core::ops::Range;

use super::tile::Tap;
use super::weights::{self, Bit};
use super::{ConvGeometry, Encoding};
use crate::line::{LANES, Line};

/// Pixels that are summed side by side.
const PIXELS: usize = 8;
/// Lines of sixteen channels in a word.
pub(crate) const LINES: usize = 64 / LANES;

/// The weights of a depthwise convolution: masks and signs, `[word, plane, kh, kw]`, a bit for each channel.
#[derive(Clone, Debug)]
pub(crate) struct Filters {
    pub(crate) weights: Vec<[u64; 2]>,
    /// Weights of one word of channels.
    pub(crate) each: usize,
    pub(crate) planes: usize,
    /// Binary digits of the largest sum.
    pub(crate) digits: usize,
}

impl Filters {
    /// Packs `levels`, the codes' levels `[kh, kw, 1, channels]`, as [`Weights`](super::weights::Weights) says; also gives what the
    /// accumulators of each line of sixteen channels start at.
    pub(crate) fn new(
        geometry: &ConvGeometry,
        x: Encoding,
        w: Encoding,
        levels: &[u8],
    ) -> (Self, Vec<Line<i32>>) {
        let (taps, channels) = (geometry.kernel[0] * geometry.kernel[1], geometry.channels);
        let planes = weights::planes(w);
        let each = planes * taps;
        // Both halves of a ternary input weigh one.
        let inputs = if x == Encoding::Ternary { 2 } else { (1 << x.planes()) - 1 };
        let largest = taps as u64 * inputs * ((1 << planes) - 1);
        let digits = (u64::BITS - largest.leading_zeros()) as usize;
        let mut filters = Self { weights: vec![[0; 2]; channels.div_ceil(64) * each], each, planes, digits };
        let mut base = vec![Line([0; LANES]); channels.div_ceil(LANES)];
        for (index, &level) in levels.iter().enumerate() {
            let (tap, channel) = (index / channels, index % channels);
            for plane in 0..planes {
                let part = Bit::new(w, level, plane, x);
                let [mask, sign] = &mut filters.weights[channel / 64 * each + plane * taps + tap];
                *mask |= u64::from(part.mask) << (channel % 64);
                *sign |= u64::from(part.sign) << (channel % 64);
                base[channel / LANES].0[channel % LANES] -= part.constant;
            }
        }
        (filters, base)
    }
}

/// A row of output pixels for one word of channels.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Row<'a> {
    /// The word of the input, from the first pixel on; neighbouring pixels are neighbouring words.
    pub(crate) words: &'a [u64],
    pub(crate) taps: &'a [Tap],
    /// Runs of taps of the weights `2^(n − 1), …, 2, 1`.
    pub(crate) levels: &'a [Range<usize>],
    pub(crate) weights: &'a [[u64; 2]],
    pub(crate) digits: usize,
    pub(crate) shift: u32,
    /// For each line of channels what is added at the end, by class of pixels.
    pub(crate) offsets: [&'a [Line<i32>]; LINES],
    /// The class of every pixel.
    pub(crate) classes: &'a [u32],
    /// Lines between the accumulators of neighbouring lines of channels.
    pub(crate) pitch: usize,
}

/// The row's accumulators, from the line `first` on.
#[inline(always)]
pub(crate) fn row(row: &Row<'_>, first: usize, acc: &mut [Line<i32>]) {
    for start in (0..row.classes.len()).step_by(PIXELS) {
        let pixels = (row.classes.len() - start).min(PIXELS);
        let digits = digits(row, start, pixels);
        for (line, offsets) in row.offsets.iter().enumerate().filter(|(_, offsets)| !offsets.is_empty()) {
            let acc = &mut acc[first + line * row.pitch + start..][..pixels];
            for (pixel, (acc, &class)) in acc.iter_mut().zip(&row.classes[start..]).enumerate() {
                *acc = sums(&digits, row.digits, pixel, line);
                for lane in 0..LANES {
                    acc.0[lane] = (acc.0[lane] << row.shift).wrapping_add(offsets[class as usize].0[lane]);
                }
            }
        }
    }
}

/// The digits of the sums of 64 channels under a few pixels.
#[inline(always)]
fn digits(row: &Row<'_>, start: usize, pixels: usize) -> [[u64; PIXELS]; 32] {
    let mut digits = [[0; PIXELS]; 32];
    for (rank, level) in row.levels.iter().enumerate() {
        let lowest = row.levels.len() - 1 - rank;
        for tap in &row.taps[level.clone()] {
            let [mask, sign] = row.weights[tap.weights];
            let mut carry = [0; PIXELS];
            carry[..pixels].copy_from_slice(&row.words[start + tap.offset..][..pixels]);
            for pixel in 0..PIXELS {
                carry[pixel] = mask & (sign ^ carry[pixel]);
            }
            for digit in &mut digits[lowest..row.digits] {
                for pixel in 0..PIXELS {
                    (digit[pixel], carry[pixel]) = (digit[pixel] ^ carry[pixel], digit[pixel] & carry[pixel]);
                }
            }
        }
    }
    digits
}

/// The sums of one line of channels under one pixel.
#[inline(always)]
fn sums(digits: &[[u64; PIXELS]; 32], count: usize, pixel: usize, line: usize) -> Line<i32> {
    let mut sums = Line([0; LANES]);
    for (exponent, digit) in digits[..count].iter().enumerate() {
        let bits = (digit[pixel] >> (line * LANES)) as u32;
        for lane in 0..LANES {
            sums.0[lane] |= ((bits >> lane & 1) << exponent) as i32;
        }
    }
    sums
}
