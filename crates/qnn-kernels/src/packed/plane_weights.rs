//! Weights of few bits as they stay in memory, and their way into the lines that the tiles read.

use alloc::vec;
use alloc::vec::Vec;

use super::dot_plan::{OutputBlock, output_blocks};
use super::dot_tile::Packing;
use super::unit_frame::UnitForm;
use super::{ConvGeometry, Encoding, PackError};
use crate::line::{LANES, Line};

/// The largest number of planes.
const MOST: usize = 8;

/// Weights `[kh, kw, channels/groups, out_channels]`, one bit in each plane of their encoding.
///
/// ```text
/// masks[block of sixteen output channels, term, plane]: bit l is that of channel l of the block
/// ```
#[derive(Clone, Debug)]
pub(crate) struct PlaneWeights {
    encoding: Encoding,
    terms: usize,
    masks: Vec<u16>,
    /// For each output channel the sum of the codes, and of their magnitudes.
    pub(crate) sums: [Vec<i64>; 2],
}

/// Weights of one block of output channels, term by term.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Spread<'a> {
    masks: &'a [u16],
    /// A code is this offset and the factors of the planes whose bit is set.
    offset: i32,
    factors: [i32; MOST],
    planes: usize,
}

impl PlaneWeights {
    /// Packs codes. The geometry has been checked.
    ///
    /// # Errors
    ///
    /// Another number of weights than the geometry needs, numbers that are no codes, an encoding without planes.
    pub(crate) fn new(geometry: &ConvGeometry, encoding: Encoding, codes: &[f32]) -> Result<Self, PackError> {
        let (expected, len) = (geometry.weight_len(), codes.len());
        if len != expected {
            return Err(PackError::Length { what: "weights", found: len, expected });
        }
        if encoding.checked()? == Encoding::Int8 {
            let remedy = "weights of eight bits have a convolution of their own, `Int8Conv`";
            return Err(PackError::Unsupported { what: "weights in planes", encoding, remedy });
        }
        let terms = geometry.terms();
        let mut weights = Self { encoding, terms, masks: Vec::new(), sums: [vec![], vec![]] };
        let mut integers = Vec::with_capacity(len);
        for (index, &code) in codes.iter().enumerate() {
            integers.push(encoding.code(encoding.level_of(code, index, len)?));
        }
        for block in output_blocks(geometry) {
            weights.push_block(&block, geometry.out_channels, &integers);
        }
        let sums = |of: fn(i32) -> i32| {
            (0..geometry.out_channels)
                .map(|o| {
                    integers[o..].iter().step_by(geometry.out_channels).map(|&code| i64::from(of(code))).sum()
                })
                .collect()
        };
        weights.sums = [sums(|code| code), sums(i32::abs)];
        Ok(weights)
    }

    fn push_block(&mut self, block: &OutputBlock, channels: usize, codes: &[i32]) {
        let planes = self.encoding.planes();
        for row in codes.chunks_exact(channels) {
            let row = &row[block.first_channel..][..block.live];
            for plane in 0..planes {
                let bits = row.iter().enumerate();
                let mask =
                    bits.fold(0, |mask, (lane, &code)| mask | u16::from(self.bit(code, plane)) << lane);
                self.masks.push(mask);
            }
        }
    }

    /// Whether a code's bit in a plane is set.
    fn bit(&self, code: i32, plane: usize) -> bool {
        match self.encoding {
            Encoding::Ternary if plane == 0 => code != 0,
            Encoding::Ternary => code < 0,
            Encoding::Unsigned { .. } => code >> plane & 1 == 1,
            // Signs: set where the term is negative.
            _ => (((1 << self.encoding.planes()) - 1 - code) / 2) >> plane & 1 == 1,
        }
    }

    pub(crate) fn encoding(&self) -> Encoding {
        self.encoding
    }

    /// Bytes of the packed weights.
    pub(crate) fn bytes(&self) -> usize {
        size_of_val(&self.masks[..])
    }

    /// The weights of one block of output channels.
    pub(crate) fn block(&self, block: usize) -> Spread<'_> {
        let planes = self.encoding.planes();
        let len = self.terms * planes;
        let mut factors = [0; MOST];
        let offset = match self.encoding {
            Encoding::Ternary => {
                factors[..2].copy_from_slice(&[1, -2]);
                0
            }
            Encoding::Unsigned { .. } => {
                (0..planes).for_each(|plane| factors[plane] = 1 << plane);
                0
            }
            _ => {
                (0..planes).for_each(|plane| factors[plane] = -2 << plane);
                (1 << planes) - 1
            }
        };
        Spread { masks: &self.masks[block * len..][..len], offset, factors, planes }
    }

    /// The codes, `[kh, kw, channels/groups, out_channels]`.
    pub(crate) fn unpack(&self, geometry: &ConvGeometry) -> Vec<f32> {
        let mut codes = vec![0.0; geometry.weight_len()];
        let mut lines = vec![Line([0.0; LANES]); self.terms];
        for (index, block) in output_blocks(geometry).enumerate() {
            self.block(index).write_floats(1, &mut lines);
            for (line, row) in lines.iter().zip(codes.chunks_exact_mut(geometry.out_channels)) {
                row[block.first_channel..][..block.live].copy_from_slice(&line.0[..block.live]);
            }
        }
        codes
    }
}

impl Spread<'_> {
    /// Writes the codes as numbers, a line for each term and `step` lines from one to the next.
    #[inline(always)]
    pub(crate) fn write_floats(self, step: usize, lines: &mut [Line<f32>]) {
        match self.planes {
            1 => self.floats::<1>(step, lines),
            2 => self.floats::<2>(step, lines),
            _ => self.floats::<MOST>(step, lines),
        }
    }

    #[inline(always)]
    fn floats<const PLANES: usize>(self, step: usize, lines: &mut [Line<f32>]) {
        let planes = self.planes.min(PLANES);
        for (line, masks) in lines.iter_mut().step_by(step).zip(self.masks.chunks_exact(planes)) {
            let mut codes = [self.offset as f32; LANES];
            for (&mask, &factor) in masks.iter().zip(&self.factors) {
                let factor = factor as f32;
                for lane in 0..LANES {
                    // Small integers: every sum is exact.
                    codes[lane] += if u32::from(mask) & 1 << lane != 0 { factor } else { 0.0 };
                }
            }
            line.0 = codes;
        }
    }

    /// Writes the codes as units: for each of `taps` kernel positions those of its channels.
    #[inline(always)]
    pub(crate) fn write_units(self, taps: usize, form: UnitForm, lines: &mut [Line<u32>]) {
        let channels = self.masks.len() / self.planes / taps;
        let (bits, low) = match form.packing {
            Packing::Quads => (8, 0xff),
            Packing::Pairs => (16, 0xffff),
        };
        let terms = self.masks.chunks_exact(channels * self.planes);
        let units = terms.flat_map(|tap| tap.chunks(form.channels() * self.planes));
        for (line, masks) in lines.iter_mut().zip(units) {
            let mut unit = [0; LANES];
            for (at, masks) in masks.chunks_exact(self.planes).enumerate() {
                let mut codes = [self.offset; LANES];
                for (&mask, &factor) in masks.iter().zip(&self.factors) {
                    for lane in 0..LANES {
                        codes[lane] += if u32::from(mask) & 1 << lane != 0 { factor } else { 0 };
                    }
                }
                for lane in 0..LANES {
                    unit[lane] |= (codes[lane].cast_unsigned() & low) << (bits * at);
                }
            }
            line.0 = unit;
        }
    }
}
