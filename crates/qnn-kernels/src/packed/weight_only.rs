//! Convolutions whose weights stay packed in memory while activations are numbers or bytes.
//!
//! A panel of weights is unpacked into the lines that the tiles read, where the kernels of plain weights copy one. The sums are theirs.

use alloc::vec::Vec;
use core::ops::Range;

use super::dot_plan::{DotJob, DotPlan, Weights};
use super::dot_tile::Packing;
use super::int8::{ByteInput, Int8Output, check_len, check_run, check_sums, finish, starts};
use super::plane_weights::PlaneWeights;
use super::{ConvGeometry, Encoding, PackError};
use crate::arch::bits::Bits;
use crate::arch::{DotTiles, MOST_VECTORS};
use crate::float_conv::{FloatTile, run_tiles};
use crate::line::{Block, LANES, Line};
use crate::plan::{self, Window};
use crate::product::{Product, Tables, Weights as ProductWeights};
use crate::real::compute::Compute;
use crate::threads::Once;
use crate::{ChannelAffine, Kernels};

/// A convolution of `f32` images with packed codes as weights: binary, ternary, or of up to eight bits.
///
/// Bit for bit the numbers of [`conv2d`](crate::conv2d) with the unpacked weights: one accumulator, fused multiply-adds in the order `kh, kw, cin`.
/// That costs the same arithmetic; what is gained is memory.
///
/// ```
/// use qnn_kernels::{ChannelAffine, Kernels, packed::{ConvGeometry, Encoding, WeightOnlyConv}};
/// let conv = WeightOnlyConv::new(&ConvGeometry::matmul(3, 2), Encoding::Ternary, &[1.0, 0.0, -1.0, 1.0, 0.0, 1.0])?;
/// let mut y = [0.0; 2];
/// conv.run(Kernels::current(), &[0.5, 0.25, 2.0], 0.0, ChannelAffine::IDENTITY, &mut y);
/// assert_eq!(y, [0.25, 2.25]);
/// # Ok::<(), qnn_kernels::packed::PackError>(())
/// ```
#[derive(Clone, Debug)]
pub struct WeightOnlyConv {
    geometry: ConvGeometry,
    weights: PlaneWeights,
    /// For each width of the tiles, made when first needed: tables for the padding value with these bits.
    tables: [Once<(u32, Tables<f32>)>; MOST_VECTORS],
}

impl WeightOnlyConv {
    /// Packs the weights `[kh, kw, channels/groups, out_channels]`.
    ///
    /// # Errors
    ///
    /// A geometry that cannot be computed, another number of weights than it needs, numbers that are no codes of the encoding, an encoding of bytes.
    pub fn new(geometry: &ConvGeometry, encoding: Encoding, codes: &[f32]) -> Result<Self, PackError> {
        geometry.check()?;
        let geometry = &geometry.with_needed_strides();
        let weights = PlaneWeights::new(geometry, encoding, codes)?;
        Ok(Self { geometry: *geometry, weights, tables: [const { Once::new() }; MOST_VECTORS] })
    }

    /// The geometry it was made for, with strides no larger than its image needs.
    #[must_use]
    pub fn geometry(&self) -> &ConvGeometry {
        &self.geometry
    }

    /// The encoding of the weights.
    #[must_use]
    pub fn encoding(&self) -> Encoding {
        self.weights.encoding()
    }

    /// Bytes that the weights take in memory.
    #[must_use]
    pub fn weight_bytes(&self) -> usize {
        self.weights.bytes()
    }

    /// The weights, `[kh, kw, channels/groups, out_channels]`.
    #[must_use]
    pub fn unpack(&self) -> Vec<f32> {
        self.weights.unpack(&self.geometry)
    }

    /// The same weights for images of bytes, with a bias for each output channel in units of the accumulator.
    ///
    /// # Errors
    ///
    /// Weights that no signed byte holds (of eight bits, unsigned or odd), another number of biases than output channels, or sums beyond 32 bits.
    pub fn into_int8(self, input: ByteInput, bias: &[i32]) -> Result<WeightOnlyInt8Conv, PackError> {
        let (encoding, range) = (self.encoding(), self.encoding().range());
        if *range.start() < i8::MIN.into() || *range.end() > i8::MAX.into() {
            let remedy = "weights beside bytes lie in -128..=127";
            return Err(PackError::Unsupported { what: "the weights", encoding, remedy });
        }
        check_len("bias", bias.len(), self.geometry.out_channels)?;
        let largest = encoding.magnitude().into();
        check_sums(&self.geometry, input, largest, &self.weights.sums[1], bias)?;
        let prepared = [const { Once::new() }; 2];
        Ok(WeightOnlyInt8Conv { conv: self, input, bias: bias.to_vec(), prepared })
    }

    /// Convolves the images `x`, as many as it holds; positions outside hold `pad_value`. Runs on rayon's current pool.
    ///
    /// # Panics
    ///
    /// If `x` is no whole number of images, or the output's or the affine map's lengths do not fit them.
    #[track_caller]
    pub fn run(
        &self,
        kernels: &Kernels,
        x: &[f32],
        pad_value: f32,
        out: ChannelAffine<'_, f32>,
        y: &mut [f32],
    ) {
        let pixels = self.pixels(x);
        let expected = pixels * self.geometry.out_channels;
        assert!(y.len() == expected, "the output has {} elements of {expected}", y.len());
        self.with_product(kernels, pad_value, out, |product| product.run(x, y));
    }

    /// Convolves as [`run`](Self::run) does, and shows the output to a function in runs of pixels, while they lie in the cache. Several threads
    /// may visit, in no order.
    ///
    /// # Panics
    ///
    /// As [`run`](Self::run), or if `bytes` are no equal parts, of a byte at least, for the output pixels.
    #[track_caller]
    pub fn run_tiles(
        &self,
        kernels: &Kernels,
        x: &[f32],
        pad_value: f32,
        out: ChannelAffine<'_, f32>,
        bytes: &mut [u8],
        visit: &(dyn Fn(FloatTile<'_>) + Sync),
    ) {
        let pixels = self.pixels(x);
        self.with_product(kernels, pad_value, out, |product| run_tiles(product, x, pixels, bytes, visit));
    }

    /// Output pixels of all images.
    #[track_caller]
    fn pixels(&self, x: &[f32]) -> usize {
        let image = self.geometry.pixels() * self.geometry.channels;
        assert!(x.len().is_multiple_of(image), "{} numbers are no whole images of {image}", x.len());
        x.len() / image * self.geometry.out_pixels()
    }

    #[track_caller]
    fn with_product(
        &self,
        kernels: &Kernels,
        pad_value: f32,
        out: ChannelAffine<'_, f32>,
        run: impl FnOnce(&Product<'_, f32>),
    ) {
        let (geometry, weights) = (&self.geometry, &self.weights);
        out.assert_channels(geometry.out_channels);
        let tiles = f32::tiles(kernels);
        let make = || {
            let shape = geometry.undilated(1).expect("a geometry that was checked");
            let window = Window { shape: &shape, kernel: geometry.kernel, dilation: geometry.dilation };
            plan::forward_tables(tiles, &window, pad_value)
        };
        let kept = self.tables[tiles.vectors() - 1].get_or_init(|| (pad_value.to_bits(), make()));
        let other = (kept.0 != pad_value.to_bits()).then(make);
        let tables = other.as_ref().unwrap_or(&kept.1);
        let pack = |panel: Block, vectors: usize, lines: &mut [Line<f32>]| {
            for vector in 0..vectors {
                let block = weights.block(block_of(geometry, panel.first + vector * LANES));
                kernels.dots().write_floats(block, vectors, &mut lines[vector..]);
            }
        };
        run(&Product { tiles, tables, weights: ProductWeights::Pack(&pack, out) });
    }
}

/// The block that begins at an output channel.
fn block_of(geometry: &ConvGeometry, channel: usize) -> usize {
    if geometry.is_depthwise() {
        return channel / LANES;
    }
    let each = geometry.group_outputs();
    channel / each * each.div_ceil(LANES) + channel % each / LANES
}

/// A convolution of bytes with packed codes as weights, exact. Made by [`WeightOnlyConv::into_int8`].
///
/// ```
/// use qnn_kernels::{Kernels, packed::{ByteInput, ConvGeometry, Encoding, Output, WeightOnlyConv}};
/// let conv = WeightOnlyConv::new(&ConvGeometry::matmul(3, 1), Encoding::Sign, &[1.0, -1.0, -1.0])?;
/// let conv = conv.into_int8(ByteInput::unsigned(0), &[1000])?;
/// let mut y = [0];
/// conv.run(Kernels::current(), &[250, 3, 4], Output::Accumulators(&mut y).into());
/// assert_eq!(y, [1243]);
/// # Ok::<(), qnn_kernels::packed::PackError>(())
/// ```
#[derive(Debug)]
pub struct WeightOnlyInt8Conv {
    conv: WeightOnlyConv,
    input: ByteInput,
    bias: Vec<i32>,
    /// For each packing, made when first needed: the plan, and what sums start with.
    prepared: [Once<(DotPlan, Vec<Line<i32>>)>; 2],
}

impl WeightOnlyInt8Conv {
    /// The convolution without what is about bytes.
    #[must_use]
    pub fn weights(&self) -> &WeightOnlyConv {
        &self.conv
    }

    /// What its input's bytes mean.
    #[must_use]
    pub fn input(&self) -> ByteInput {
        self.input
    }

    /// Convolves the images `x`, as many as it holds. Runs on rayon's current pool; the integers are the same for every schedule and every
    /// instruction set.
    ///
    /// # Panics
    ///
    /// If `x` is no whole number of images, or the output's lengths, channels or levels do not fit them.
    #[track_caller]
    pub fn run(&self, kernels: &Kernels, x: &[u8], out: Int8Output<'_>) {
        let pixels = check_run(&self.conv.geometry, x, &out);
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
        let (geometry, weights) = (&self.conv.geometry, &self.conv.weights);
        let (plan, start) = self.prepared[tiles.packing as usize].get_or_init(|| self.prepare(tiles.packing));
        let taps = geometry.kernel[0] * geometry.kernel[1];
        let write = |blocks: Range<usize>, lines: &mut [Line<u32>]| {
            for (block, lines) in blocks.zip(lines.chunks_exact_mut(plan.depth())) {
                tiles.write_units(weights.block(block), taps, plan.form(), lines);
            }
        };
        let job = DotJob { tiles, bits, weights: Weights::Unpacked(&write), start, x };
        finish(plan, &job, geometry.out_channels, pixels, out);
    }

    fn prepare(&self, packing: Packing) -> (DotPlan, Vec<Line<i32>>) {
        let geometry = &self.conv.geometry;
        let plan = DotPlan::new(geometry, packing, self.input.is_signed(), self.input.pad());
        let start = starts(&plan, geometry, self.input, &self.conv.weights.sums[0], &self.bias);
        (plan, start)
    }
}

impl Clone for WeightOnlyInt8Conv {
    fn clone(&self) -> Self {
        let prepared = [const { Once::new() }; 2];
        Self { conv: self.conv.clone(), input: self.input, bias: self.bias.clone(), prepared }
    }
}

#[cfg(test)]
mod tests {
    use super::super::int8_tests::{any_geometry, any_input, bits, bytes, check_outputs, plain};
    use super::*;
    use crate::{Isa, Padding, reference};
    use proptest::prelude::*;

    fn any_encoding() -> impl Strategy<Value = Encoding> {
        prop_oneof![
            Just(Encoding::Sign),
            Just(Encoding::Ternary),
            (1_u32..=8).prop_map(|bits| Encoding::Unsigned { bits }),
            (1_u32..=8).prop_map(|bits| Encoding::Odd { bits }),
        ]
    }

    fn codes(geometry: &ConvGeometry, encoding: Encoding, seed: u64) -> Vec<f32> {
        let level = |byte: u8| encoding.code(usize::from(byte) % encoding.levels()) as f32;
        bytes(geometry.weight_len(), seed).into_iter().map(level).collect()
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(64))]

        #[test]
        fn the_numbers_are_those_of_unpacked_weights(
            geometry in any_geometry(), encoding in any_encoding(), batch in 0_usize..3, seed in any::<u32>(),
        ) {
            let codes = codes(&geometry, encoding, seed.into());
            let conv = WeightOnlyConv::new(&geometry, encoding, &codes).unwrap();
            prop_assert_eq!(conv.unpack(), codes.clone());
            let len = 1 + batch * geometry.pixels() * geometry.channels;
            let x: Vec<f32> = bytes(len, 9).iter().enumerate().map(|(at, &byte)| f32::from(byte) / 7.0 - at as f32 * 0.01).collect();
            let scale: Vec<f32> = (0..geometry.out_channels).map(|o| 0.1 + o as f32).collect();
            let out = ChannelAffine { scale: Some(&scale[..]), bias: Some(&scale[..]) };
            let expected = dilated(&geometry, &x[1..], &codes, 0.75, out, batch);
            for kernels in Isa::available().filter_map(Kernels::of) {
                let mut y = vec![f32::NAN; expected.len()];
                conv.run(kernels, &x[1..], 0.75, out, &mut y);
                let same = y.iter().zip(&expected).all(|(y, expected)| y.to_bits() == expected.to_bits());
                prop_assert!(same, "{}", kernels.isa());
            }
        }

        #[test]
        fn sums_of_bytes_are_the_plain_ones(
            geometry in any_geometry(), encoding in any_encoding(), input in any_input(), batch in 0_usize..3, seed in any::<u32>(),
        ) {
            let codes = codes(&geometry, encoding, seed.into());
            let bias: Vec<i32> = (0..geometry.out_channels as i32).map(|o| 100 - o).collect();
            if encoding.magnitude() > 128 {
                let refused = WeightOnlyConv::new(&geometry, encoding, &codes).unwrap().into_int8(input, &bias);
                prop_assert!(matches!(refused, Err(PackError::Unsupported { .. })), "{encoding:?}");
                return Ok(());
            }
            let x = bytes(1 + batch * geometry.pixels() * geometry.channels, u64::from(seed) + 1);
            let x = &x[1..];
            let integers: Vec<i32> = codes.iter().map(|&code| code as i32).collect();
            let expected = plain(&geometry, input, &integers, &bias, x);
            let conv = WeightOnlyConv::new(&geometry, encoding, &codes).unwrap().into_int8(input, &bias).unwrap();
            let pixels = batch * geometry.out_pixels();
            check_outputs(geometry.out_channels, &expected, |tiles, out| conv.run_with(tiles, bits(), pixels, x, out));
        }
    }

    /// As many sums as fill several bands, which share what was unpacked.
    #[test]
    fn bands_of_bytes_read_the_same_weights() {
        let geometry = ConvGeometry::new([40, 16, 3], [3, 3], 65);
        for encoding in [Encoding::Sign, Encoding::Ternary, Encoding::Odd { bits: 3 }] {
            let codes = codes(&geometry, encoding, 5);
            let integers: Vec<i32> = codes.iter().map(|&code| code as i32).collect();
            let (bias, x) =
                (vec![-7; geometry.out_channels], bytes(geometry.pixels() * geometry.channels, 6));
            let expected = plain(&geometry, ByteInput::SYMMETRIC, &integers, &bias, &x);
            let conv = WeightOnlyConv::new(&geometry, encoding, &codes).unwrap();
            let conv = conv.into_int8(ByteInput::SYMMETRIC, &bias).unwrap();
            check_outputs(geometry.out_channels, &expected, |tiles, out| {
                conv.run_with(tiles, bits(), geometry.out_pixels(), &x, out);
            });
        }
    }

    /// By the oracle, with zeros in the gaps of the kernel. They add nothing: `fma(x, 0, acc) = acc`, but for zeros of other sign.
    fn dilated(
        geometry: &ConvGeometry,
        x: &[f32],
        codes: &[f32],
        pad: f32,
        out: ChannelAffine<'_, f32>,
        batch: usize,
    ) -> Vec<f32> {
        let shape = geometry.undilated(batch).unwrap();
        let row = geometry.group_channels() * geometry.out_channels;
        let mut w = vec![0.0; shape.weight_len()];
        for (tap, codes) in codes.chunks_exact(row).enumerate() {
            let (kh, kw) = (tap / geometry.kernel[1], tap % geometry.kernel[1]);
            let at = kh * geometry.dilation[0] * shape.kernel[1] + kw * geometry.dilation[1];
            w[at * row..][..row].copy_from_slice(codes);
        }
        let mut y = vec![0.0; shape.output_len()];
        reference::conv2d(&shape, x, &w, pad, out, &mut y);
        y
    }

    #[test]
    fn weights_take_their_bits() {
        let geometry = ConvGeometry::new([8, 8, 64], [3, 3], 64);
        let bytes = |encoding, code| {
            let codes = vec![code; geometry.weight_len()];
            WeightOnlyConv::new(&geometry, encoding, &codes).unwrap().weight_bytes()
        };
        assert_eq!(bytes(Encoding::Sign, -1.0), 64 * 64 * 9 / 8);
        assert_eq!(bytes(Encoding::Ternary, 0.0), 64 * 64 * 9 / 4);
        assert_eq!(bytes(Encoding::Odd { bits: 3 }, 7.0), 64 * 64 * 9 * 3 / 8);
    }

    #[test]
    fn threads_change_nothing() {
        let padding = Padding { top: 1, bottom: 1, left: 1, right: 1 };
        let geometry = ConvGeometry { padding, ..ConvGeometry::new([24, 24, 48], [3, 3], 40) };
        let conv =
            WeightOnlyConv::new(&geometry, Encoding::Sign, &codes(&geometry, Encoding::Sign, 5)).unwrap();
        let x: Vec<f32> =
            bytes(2 * geometry.pixels() * 48, 6).iter().map(|&byte| f32::from(byte) / 3.0).collect();
        let run = |threads: usize| {
            let mut y = vec![0.0; 2 * geometry.out_pixels() * geometry.out_channels];
            let pool = rayon::ThreadPoolBuilder::new().num_threads(threads).build().unwrap();
            pool.install(|| conv.run(Kernels::current(), &x, 0.0, ChannelAffine::IDENTITY, &mut y));
            y
        };
        let one = run(1);
        assert!(run(2) == one && run(3) == one);
    }

    #[test]
    fn faults_are_errors() {
        let geometry = ConvGeometry::matmul(2, 1);
        let new = |encoding, codes: &[f32]| WeightOnlyConv::new(&geometry, encoding, codes);
        assert!(matches!(new(Encoding::Sign, &[1.0]), Err(PackError::Length { found: 1, expected: 2, .. })));
        assert!(matches!(new(Encoding::Sign, &[1.0, 0.0]), Err(PackError::NotACode { index: 1, .. })));
        assert!(matches!(
            new(Encoding::Ternary, &[f32::NAN, 0.0]),
            Err(PackError::NotANumber { index: 0, len: 2 })
        ));
        assert!(matches!(new(Encoding::Int8, &[1.0, 0.0]), Err(PackError::Unsupported { .. })));
        assert!(matches!(new(Encoding::Odd { bits: 9 }, &[1.0, 1.0]), Err(PackError::Bits { bits: 9 })));
        let conv = new(Encoding::Sign, &[1.0, 1.0]).unwrap();
        assert!(conv.clone().into_int8(ByteInput::SYMMETRIC, &[]).is_err());
        assert!(conv.into_int8(ByteInput::SYMMETRIC, &[i32::MAX]).is_err());
    }
}
