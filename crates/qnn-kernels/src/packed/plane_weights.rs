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
///
/// ```text
/// code = base ⊕ ⊕_planes (bit of the plane ? delta of the plane : 0)        in two's complement
/// ```
///
/// Every encoding is of this form: its codes are unsigned numbers, or numbers of one sign and their complements.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Spread<'a> {
    masks: &'a [u16],
    base: i32,
    deltas: [i32; MOST],
    planes: usize,
    /// The bit of each lane. Not a constant: compilers would take tests of known bits apart, one by one.
    bits: [i32; LANES],
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
        let mut deltas = [0; MOST];
        let base = match self.encoding {
            Encoding::Ternary => {
                deltas[..2].copy_from_slice(&[1, !1]);
                0
            }
            Encoding::Unsigned { .. } => {
                (0..planes).for_each(|plane| deltas[plane] = 1 << plane);
                0
            }
            _ => {
                // With all bits of `planes` set in m: m − 2u is odd, and its other bits are those of ¬u, the highest of them extended.
                (0..planes).for_each(|plane| deltas[plane] = 2 << plane);
                deltas[planes - 1] = -1 << planes;
                (1 << planes) - 1
            }
        };
        let bits = core::array::from_fn(|lane| 1 << lane);
        Spread { masks: &self.masks[block * len..][..len], base, deltas, planes, bits }
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
        for (lines, masks) in lines.chunks_mut(step).zip(self.masks.chunks_exact(planes)) {
            let mut codes = [self.base; LANES];
            for (mask, delta) in masks.iter().zip(&self.deltas) {
                self.toggle(&mut codes, *mask, *delta);
            }
            for lane in 0..LANES {
                lines[0].0[lane] = codes[lane] as f32;
            }
        }
    }

    /// Writes the codes as units: for each of `taps` kernel positions those of its channels.
    #[inline(always)]
    pub(crate) fn write_units(self, taps: usize, form: UnitForm, lines: &mut [Line<u32>]) {
        match (self.planes, form.channels()) {
            (1, 4) => self.units::<1, 4>(taps, form, lines),
            (2, 4) => self.units::<2, 4>(taps, form, lines),
            _ => self.units::<MOST, 4>(taps, form, lines),
        }
    }

    #[inline(always)]
    fn units<const PLANES: usize, const EACH: usize>(
        self,
        taps: usize,
        form: UnitForm,
        lines: &mut [Line<u32>],
    ) {
        let (planes, each) = (self.planes.min(PLANES), form.channels().min(EACH));
        let part = |code: i32, at: usize| match form.packing {
            Packing::Quads => (code & 0xff) << (8 * at),
            Packing::Pairs => (code & 0xffff) << (16 * at),
        };
        let mut deltas = [[0; EACH]; PLANES];
        for plane in 0..planes {
            for at in 0..each {
                deltas[plane][at] = part(self.deltas[plane], at);
            }
        }
        let terms = self.masks.chunks_exact(self.masks.len() / taps);
        let units = terms.flat_map(|tap| tap.chunks(each * planes));
        for (line, masks) in lines.iter_mut().zip(units) {
            let (mut unit, mut base) = ([0; LANES], 0);
            let mut masks = masks.chunks_exact(planes);
            for at in 0..each {
                // Channels that the last unit lacks are zeros.
                let Some(masks) = masks.next() else { break };
                base |= part(self.base, at);
                for plane in 0..planes {
                    self.toggle(&mut unit, masks[plane], deltas[plane][at]);
                }
            }
            for lane in 0..LANES {
                line.0[lane] = (unit[lane] ^ base).cast_unsigned();
            }
        }
    }

    /// Changes the bits `delta` of the codes whose bit is set in the mask.
    #[inline(always)]
    fn toggle(&self, codes: &mut [i32; LANES], mask: u16, delta: i32) {
        for lane in 0..LANES {
            codes[lane] ^= if i32::from(mask) & self.bits[lane] != 0 { delta } else { 0 };
        }
    }
}
