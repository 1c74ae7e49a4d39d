//! Convolutions and matrix products of bytes.

use alloc::vec;
use alloc::vec::Vec;
use core::ops::RangeInclusive;

use super::dot_plan::{Both, DotJob, DotPlan, Rows, Weights, output_blocks};
use super::dot_tile::Packing;
use super::requantize::{Affine, Requantize};
use super::scratch::{Scratch, grown, with_scratch};
use super::stage::Part;
use super::{ConvGeometry, Output, PackError, Sum, Tile};
use crate::Kernels;
use crate::arch::bits::Bits;
use crate::arch::{DotTiles, as_bytes};
use crate::line::{Block, LANES, Line};
use crate::threads::Once;

/// The bytes of an image: signed or not, which of them is zero, and which stand outside the image.
///
/// ```text
/// acc[o] = bias[o] + Σ (x − zero_point) · w[o]
/// ```
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ByteInput {
    /// Bytes −128 to 127, in two's complement.
    Signed {
        /// The byte that stands for zero.
        zero_point: i8,
        /// The byte of padded positions.
        pad: i8,
    },
    /// Bytes 0 to 255.
    Unsigned {
        /// The byte that stands for zero.
        zero_point: u8,
        /// The byte of padded positions.
        pad: u8,
    },
}

impl ByteInput {
    /// Signed bytes around zero, padded by it.
    pub const SYMMETRIC: Self = Self::signed(0);

    /// Signed bytes, padded by the one that stands for zero.
    #[must_use]
    pub const fn signed(zero_point: i8) -> Self {
        Self::Signed { zero_point, pad: zero_point }
    }

    /// Unsigned bytes, padded by the one that stands for zero.
    #[must_use]
    pub const fn unsigned(zero_point: u8) -> Self {
        Self::Unsigned { zero_point, pad: zero_point }
    }

    /// The code that stands for zero.
    #[must_use]
    pub const fn zero_point(self) -> i32 {
        match self {
            Self::Signed { zero_point, .. } => zero_point as i32,
            Self::Unsigned { zero_point, .. } => zero_point as i32,
        }
    }

    /// Whether bytes are in two's complement.
    #[must_use]
    pub const fn is_signed(self) -> bool {
        matches!(self, Self::Signed { .. })
    }

    /// The code that a byte stands for.
    #[must_use]
    pub const fn code(self, byte: u8) -> i32 {
        if self.is_signed() { byte.cast_signed() as i32 } else { byte as i32 }
    }

    /// The byte of padded positions.
    #[must_use]
    pub const fn pad(self) -> u8 {
        match self {
            Self::Signed { pad, .. } => pad.cast_unsigned(),
            Self::Unsigned { pad, .. } => pad,
        }
    }

    /// The largest magnitude of `x − zero_point`.
    pub(crate) const fn magnitude(self) -> i64 {
        let [low, high] = if self.is_signed() { [-128, 127] } else { [0, 255] };
        let [below, above] = [self.zero_point() - low, high - self.zero_point()];
        if below > above { below as i64 } else { above as i64 }
    }
}

/// What a kernel of bytes makes of its accumulators, and where it writes that.
#[derive(Debug)]
pub enum Int8Output<'a> {
    /// As every packed kernel.
    Plain(Output<'a>),
    /// Codes of eight bits.
    Requantized {
        /// How accumulators become codes.
        by: &'a Requantize,
        /// A byte for each accumulator.
        y: &'a mut [u8],
    },
}

impl<'a> From<Output<'a>> for Int8Output<'a> {
    fn from(output: Output<'a>) -> Self {
        Self::Plain(output)
    }
}

/// A convolution of bytes with weights of eight bits, exact.
///
/// Inputs are the bytes of images `[image, row, column, channel]`; signed ones in two's complement, which is what [`Encoding::Int8`](super::Encoding::Int8) packs.
///
/// ```
/// use qnn_kernels::{Kernels, packed::{ByteInput, ConvGeometry, Int8Conv, Output}};
/// let conv = Int8Conv::new(&ConvGeometry::matmul(3, 2), ByteInput::unsigned(100), &[1, -1, 127, 0, -128, 2])?;
/// let mut y = [0; 2];
/// conv.run(Kernels::current(), &[255, 100, 99], Output::Accumulators(&mut y).into());
/// assert_eq!(y, [155 + 128, -155 - 2]);
/// # Ok::<(), qnn_kernels::packed::PackError>(())
/// ```
#[derive(Debug)]
pub struct Int8Conv {
    geometry: ConvGeometry,
    input: ByteInput,
    weights: Vec<i8>,
    bias: Vec<i32>,
    /// For each packing, made when first needed.
    prepared: [Once<Prepared>; 2],
}

/// A convolution laid out for one packing.
#[derive(Debug)]
struct Prepared {
    plan: DotPlan,
    lines: Vec<Line<u32>>,
    start: Vec<Line<i32>>,
}

impl Int8Conv {
    /// A convolution with the weights `[kh, kw, channels/groups, out_channels]`, without bias.
    ///
    /// # Errors
    ///
    /// A geometry that cannot be computed, another number of weights than it needs, or weights whose sums exceed 32 bits for some input.
    pub fn new(geometry: &ConvGeometry, input: ByteInput, weights: &[i8]) -> Result<Self, PackError> {
        Self::with_bias(geometry, input, weights, &vec![0; geometry.out_channels.min(weights.len())])
    }

    /// The same with a bias for each output channel, in units of the accumulator.
    ///
    /// # Errors
    ///
    /// As [`Self::new`]; also for another number of biases than output channels.
    pub fn with_bias(
        geometry: &ConvGeometry,
        input: ByteInput,
        weights: &[i8],
        bias: &[i32],
    ) -> Result<Self, PackError> {
        geometry.check()?;
        let geometry = &geometry.with_needed_strides();
        check_len("weights", weights.len(), geometry.weight_len())?;
        check_len("bias", bias.len(), geometry.out_channels)?;
        let conv = Self {
            geometry: *geometry,
            input,
            weights: weights.to_vec(),
            bias: bias.to_vec(),
            prepared: [const { Once::new() }; 2],
        };
        let most = column_sums(geometry.out_channels, weights, |w| i64::from(w).abs());
        check_sums(geometry, input, 128, &most, bias)?;
        Ok(conv)
    }

    /// The geometry it was made for, with strides no larger than its image needs.
    #[must_use]
    pub fn geometry(&self) -> &ConvGeometry {
        &self.geometry
    }

    /// What its input's bytes mean.
    #[must_use]
    pub fn input(&self) -> ByteInput {
        self.input
    }

    /// The weights, `[kh, kw, channels/groups, out_channels]`.
    #[must_use]
    pub fn weights(&self) -> &[i8] {
        &self.weights
    }

    /// The bias of each output channel.
    #[must_use]
    pub fn bias(&self) -> &[i32] {
        &self.bias
    }

    /// Bounds of every accumulator.
    #[must_use]
    pub fn range(&self) -> RangeInclusive<i32> {
        let most = column_sums(self.geometry.out_channels, &self.weights, |w| i64::from(w).abs());
        let bounds = most.iter().zip(&self.bias).map(|(sum, bias)| {
            let sum = sum * self.input.magnitude();
            [i64::from(*bias) - sum, i64::from(*bias) + sum]
        });
        let [low, high] = bounds.fold([0, 0], |[low, high], [l, h]| [low.min(l), high.max(h)]);
        // Both were checked when the convolution was made.
        low as i32..=high as i32
    }

    /// Convolves the images `x`, as many as it holds. Runs on rayon's current pool; the integers are the same for every schedule and every
    /// instruction set.
    ///
    /// # Panics
    ///
    /// If `x` is no whole number of images, or the output's lengths, channels or levels do not fit them.
    #[track_caller]
    pub fn run(&self, kernels: &Kernels, x: &[u8], out: Int8Output<'_>) {
        let pixels = check_run(&self.geometry, x, &out);
        self.run_with(kernels.dots(), &kernels.bits, pixels, x, out);
    }

    pub(super) fn run_with(
        &self,
        tiles: &DotTiles,
        bits: &Bits,
        pixels: usize,
        x: &[u8],
        out: Int8Output<'_>,
    ) {
        let prepared =
            self.prepared[tiles.packing as usize].get_or_init(|| Prepared::new(self, tiles.packing));
        let weights = Weights::Lines(&prepared.lines);
        let job = DotJob { tiles, bits, weights, start: &prepared.start, x };
        finish(&prepared.plan, &job, self.geometry.out_channels, pixels, out);
    }
}

impl Clone for Int8Conv {
    fn clone(&self) -> Self {
        Self {
            geometry: self.geometry,
            input: self.input,
            weights: self.weights.clone(),
            bias: self.bias.clone(),
            prepared: [const { Once::new() }; 2],
        }
    }
}

impl Prepared {
    fn new(conv: &Int8Conv, packing: Packing) -> Self {
        let geometry = &conv.geometry;
        let plan = DotPlan::new(geometry, packing, conv.input.is_signed(), conv.input.pad());
        let blocks = output_blocks(geometry).count();
        let mut lines = vec![Line([0; LANES]); blocks * plan.depth()];
        for (block, lines) in output_blocks(geometry).zip(lines.chunks_exact_mut(plan.depth())) {
            let weight = |tap, channel, o| {
                conv.weights[(tap * geometry.group_channels() + channel) * geometry.out_channels + o]
            };
            plan.write_block(&block, weight, lines);
        }
        let sums = column_sums(geometry.out_channels, &conv.weights, i64::from);
        let start = starts(&plan, geometry, conv.input, &sums, &conv.bias);
        Self { plan, lines, start }
    }
}

/// What sums start with: the bias, less what zero point and offset of the units will have added.
pub(crate) fn starts(
    plan: &DotPlan,
    geometry: &ConvGeometry,
    input: ByteInput,
    weight_sums: &[i64],
    bias: &[i32],
) -> Vec<Line<i32>> {
    let shift = i64::from(input.zero_point() + plan.form().offset());
    let start = |o: usize| (i64::from(bias[o]) - shift * weight_sums[o]) as i32;
    output_blocks(geometry)
        .map(|block| {
            let mut line = Line([0; LANES]);
            for (lane, sum) in line.0[..block.live].iter_mut().enumerate() {
                *sum = start(block.first_channel + lane);
            }
            line
        })
        .collect()
}

/// Runs a plan and ends its accumulators as the output says.
pub(crate) fn finish(plan: &DotPlan, job: &DotJob<'_>, channels: usize, pixels: usize, out: Int8Output<'_>) {
    match out {
        Int8Output::Requantized { by, y } => {
            plan.run(job, Rows { y, step: channels }, |_, acc, rows| match by {
                Requantize::Fixed(by) => job.tiles.fixed(by, acc, rows.y),
                Requantize::Rounded(by) => job.tiles.rounded(by, acc, rows.y),
            });
        }
        Int8Output::Plain(Output::Accumulators(y)) => plan.accumulate(job, y),
        Int8Output::Plain(Output::Scaled { affine, y }) => {
            let by = Affine { channels, out: affine };
            plan.run(job, Rows { y, step: channels }, |_, acc, rows| job.tiles.scaled(&by, acc, rows.y));
        }
        Int8Output::Plain(Output::Codes { thresholds, layout, y }) => {
            plan.run(job, Rows { y, step: layout.pixel_bytes() }, |_, acc, rows| {
                write_codes(job.bits, channels, acc, Output::Codes { thresholds, layout, y: rows.y });
            });
        }
        Int8Output::Plain(Output::Selected { thresholds, by, layout, y }) => {
            plan.run(job, Rows { y, step: layout.pixel_bytes() }, |pixels, acc, rows| {
                let by = by.part(pixels);
                write_codes(job.bits, channels, acc, Output::Selected { thresholds, by, layout, y: rows.y });
            });
        }
        Int8Output::Plain(Output::Tiles(tiles)) => {
            let steps =
                [tiles.numbers.len(), tiles.bytes.len()].map(|len| len.checked_div(pixels).unwrap_or(0));
            let sink =
                Both(Rows { y: tiles.numbers, step: steps[0] }, Rows { y: tiles.bytes, step: steps[1] });
            plan.run(job, sink, |pixels, accumulators, Both(numbers, bytes)| {
                (tiles.visit)(Tile { pixels, accumulators, numbers: numbers.y, bytes: bytes.y });
            });
        }
    }
}

/// The thresholds' codes of a band, by the stage that all packed kernels share.
fn write_codes(bits: &Bits, channels: usize, acc: &[i32], out: Output<'_>) {
    let pixels = acc.len() / channels;
    let mut part = Part { out, pixels, channels };
    with_scratch(|Scratch { acc: lines, masks, rows, .. }| {
        let mut run = part.open(0..pixels, 0, rows);
        let lines = grown(lines, pixels, Line([0; LANES]));
        for first in (0..channels).step_by(LANES) {
            let count = (channels - first).min(LANES);
            for (line, acc) in lines.iter_mut().zip(acc.chunks_exact(channels)) {
                line.0[..count].copy_from_slice(&acc[first..][..count]);
            }
            run.panel(bits, Block { group: 0, first, count }, lines, masks);
        }
        run.close();
    });
}

/// Output pixels of a run.
#[track_caller]
pub(crate) fn check_run(geometry: &ConvGeometry, x: &[u8], out: &Int8Output<'_>) -> usize {
    let image = geometry.pixels() * geometry.channels;
    assert!(x.len().is_multiple_of(image), "{} bytes are no whole images of {image} bytes", x.len());
    let pixels = x.len() / image * geometry.out_pixels();
    match out {
        Int8Output::Plain(out) => out.assert_fits(pixels, geometry.out_channels),
        Int8Output::Requantized { by, y } => {
            let channels = geometry.out_channels;
            assert!(by.channels() == channels, "{} requantized channels of {channels}", by.channels());
            let expected = pixels * channels;
            assert!(y.len() == expected, "requantized output: {} bytes of {expected}", y.len());
        }
    }
    pixels
}

pub(crate) fn check_len(what: &'static str, found: usize, expected: usize) -> Result<(), PackError> {
    if found == expected { Ok(()) } else { Err(PackError::Length { what, found, expected }) }
}

/// For each output channel the sum of a function of its weights.
pub(crate) fn column_sums<W: Copy>(channels: usize, weights: &[W], of: impl Fn(W) -> i64) -> Vec<i64> {
    let mut sums = vec![0; channels];
    for row in weights.chunks_exact(channels) {
        sums.iter_mut().zip(row).for_each(|(sum, &weight)| *sum += of(weight));
    }
    sums
}

/// Whether every accumulator fits 32 bits and leaves the greatest integer for a cut beyond all, given the sums of the weights' magnitudes.
pub(crate) fn check_sums(
    geometry: &ConvGeometry,
    input: ByteInput,
    largest_weight: i64,
    magnitudes: &[i64],
    bias: &[i32],
) -> Result<(), PackError> {
    let fits = |(sum, bias): (&i64, &i32)| {
        sum.checked_mul(input.magnitude())
            .is_some_and(|most| most + i64::from(*bias).abs() < i64::from(i32::MAX))
    };
    if magnitudes.iter().zip(bias).all(fits) {
        return Ok(());
    }
    let product = input.magnitude() * largest_weight;
    Err(PackError::Accumulator { terms: geometry.terms(), product })
}

impl Kernels {
    /// Adds two tensors of codes, each with a scale of its own: the sum at the end of a residual block.
    ///
    /// # Panics
    ///
    /// If the lengths differ.
    #[track_caller]
    pub fn add_codes(&self, a: &[u8], b: &[u8], by: &Sum, y: &mut [u8]) {
        let lengths = [a.len(), b.len(), y.len()];
        assert!(
            lengths[0] == lengths[1] && lengths[1] == lengths[2],
            "codes of {lengths:?} elements are added"
        );
        self.dots().add(by, a, b, y);
    }

    /// Runs `rounds` rounds of this table's int8 dot products on registers alone, and returns how many multiply-accumulates that were, besides a
    /// number that depends on them all: by the clock, the limit of every int8 kernel on this machine.
    #[must_use]
    pub fn int8_limit(&self, rounds: usize) -> (u64, i32) {
        self.dots().peak(rounds)
    }

    /// The instruction that this table's int8 kernels multiply with.
    #[must_use]
    pub fn int8_instruction(&self) -> &'static str {
        self.dots().name
    }
}

/// The bytes of signed codes, as the kernels take them.
#[must_use]
pub fn bytes_of(codes: &[i8]) -> &[u8] {
    as_bytes(codes)
}
