//! Products of f32 operands that turn out to be signs: training's forward pass, by bits.
//!
//! Sums of ±1 are exact in f32 in any order, so that counting bits gives the bits of the f32 product. Operands are packed anew in each call,
//! which costs one pass over them; a look at their first elements dismisses all others.

use alloc::vec::Vec;

use super::plan::Plan;
use super::scratch::grown;
use super::weights::Weights;
use super::{ConvGeometry, Output};
use crate::arch::prefetch;
use crate::line::{LANES, Line};
use crate::threads::prelude::*;
use crate::threads::{current_num_threads, idle};
use crate::{ChannelAffine, Conv2dShape, Kernels, Vectorize, vectorized};

/// Bits of a word.
const WORD: usize = 64;
/// Bits of half a word: as many as an f32 has.
const HALF: usize = WORD / 2;
/// The sign's bit in an f32.
const SIGN: u32 = 1 << 31;
/// How many rows before its own turn a row of weights is asked for: the parts that are read lie a whole row apart, too far for the processor to
/// foresee the next one.
const AHEAD: usize = 8;
/// Output pixels from which on packed weights are used often enough.
const FEW_PIXELS: usize = 8;
/// Sums that f32 holds exactly.
const EXACT: usize = 1 << 24;
/// Panels that are packed together: what lies together in memory is read together.
const TOGETHER: usize = 16;
/// Numbers that a thread packs at a time.
const CHUNK: usize = 1 << 14;

/// Writes a convolution's output if this is one of signs by signs, and says whether it was.
pub(crate) fn sign_product(
    kernels: &Kernels,
    shape: &Conv2dShape,
    x: &[f32],
    w: &[f32],
    pad_value: f32,
    out: ChannelAffine<'_, f32>,
    y: &mut [f32],
) -> bool {
    let Some(geometry) = geometry(shape) else { return false };
    let pad_code = pad_value as i32;
    let padded = pad_code as f32 == pad_value && pad_code.abs() <= 1;
    if !(padded && are_signs(&w[..LANES]) && are_signs(&x[..LANES])) {
        return false;
    }
    with_buffers(|buffers| {
        let Some(x) = packed_input(kernels, shape.channels, x, &mut buffers.x) else { return false };
        let lines = core::mem::take(&mut buffers.weights);
        let (weights, are_signs) = packed_weights(w, shape.out_channels, lines);
        if !are_signs {
            buffers.weights = weights.into_lines();
            return false;
        }
        let plan = Plan::of_signs(&geometry, pad_code, weights);
        plan.run(&kernels.bits, x, y.len() / shape.out_channels, Output::Scaled { affine: out, y });
        buffers.weights = plan.into_lines();
        true
    })
}

/// The geometry of a product that is worth packing: whole words, whole panels, enough pixels.
fn geometry(shape: &Conv2dShape) -> Option<ConvGeometry> {
    let terms = shape.kernel[0] * shape.kernel[1] * shape.channels;
    let whole = shape.channels.is_multiple_of(WORD) && shape.out_channels.is_multiple_of(LANES);
    let pixels = shape.batch * shape.out_height() * shape.out_width();
    let worth = shape.groups == 1 && whole && pixels >= FEW_PIXELS && terms <= EXACT;
    worth.then(|| ConvGeometry {
        stride: shape.stride,
        padding: shape.padding,
        ..ConvGeometry::new([shape.height, shape.width, shape.channels], shape.kernel, shape.out_channels)
    })
}

/// What a call packs, kept by its thread for the next one.
#[derive(Default)]
struct Buffers {
    x: Vec<u8>,
    weights: Vec<Line<u64>>,
}

fn with_buffers<R>(visit: impl FnOnce(&mut Buffers) -> R) -> R {
    idle!(idle: Vec<Buffers>);
    let mut buffers = idle(Vec::pop).unwrap_or_default();
    let result = visit(&mut buffers);
    idle(|idle| idle.push(buffers));
    result
}

/// Pixels of whole words, or nothing if one of the numbers is no sign.
fn packed_input<'b>(
    kernels: &Kernels,
    channels: usize,
    x: &[f32],
    bytes: &'b mut Vec<u8>,
) -> Option<&'b [u8]> {
    debug_assert!(channels.is_multiple_of(WORD));
    let bytes = grown(bytes, x.len() / 8, 0);
    let pack = |(bytes, x): (&mut [u8], &[f32])| {
        let sound = are_signs(x);
        if sound {
            kernels.bits.pack_signs(x, bytes);
        }
        sound
    };
    bytes.par_chunks_mut(CHUNK / 8).zip(x.par_chunks(CHUNK)).all(pack).then_some(&*bytes)
}

/// Rows of `columns` weights, and whether all of them were signs.
fn packed_weights(w: &[f32], columns: usize, mut lines: Vec<Line<u64>>) -> (Weights, bool) {
    let (words, panels) = (w.len() / columns / WORD, columns / LANES);
    lines.resize(words * panels, Line([0; LANES]));
    let together = panels.div_ceil(2 * current_num_threads()).clamp(1, TOGETHER);
    let pack = |(part, lines): (usize, &mut [Line<u64>])| {
        vectorized(PackWeights { w, columns, first: part * together * LANES, words, lines })
    };
    let are_signs = lines.par_chunks_mut(together * words).enumerate().all(pack);
    (Weights::of_words(lines, words), are_signs)
}

/// Whether all numbers are +1 or −1.
fn are_signs(numbers: &[f32]) -> bool {
    vectorized(AreSigns(numbers))
}

struct AreSigns<'a>(&'a [f32]);

impl Vectorize for AreSigns<'_> {
    type Output = bool;

    #[inline(always)]
    fn run(self) -> bool {
        let mut others = 0_u32;
        for number in self.0 {
            others |= number.abs().to_bits() ^ 1.0_f32.to_bits();
        }
        others == 0
    }
}

/// Some panels, word by word. A set bit is +1: where inputs are signs, too, the kernels count equal bits.
struct PackWeights<'a> {
    w: &'a [f32],
    columns: usize,
    /// The first column.
    first: usize,
    words: usize,
    lines: &'a mut [Line<u64>],
}

impl Vectorize for PackWeights<'_> {
    type Output = bool;

    #[inline(always)]
    fn run(self) -> bool {
        let Self { w, columns, first, words, lines } = self;
        let width = lines.len() / words * LANES;
        let mut others = [0_u32; LANES];
        let mut packed = [Line([0_u64; LANES]); TOGETHER];
        for (word, rows) in w.chunks_exact(WORD * columns).enumerate() {
            packed.fill(Line([0; LANES]));
            for (half, rows) in rows.chunks_exact(HALF * columns).enumerate() {
                let mut bits = [[0_u32; LANES]; TOGETHER];
                for (at, row) in rows.chunks_exact(columns).enumerate() {
                    let soon = (word * WORD + half * HALF + at + AHEAD) * columns + first;
                    prefetch(w.get(soon..soon + width).unwrap_or_default());
                    let (row, _) = row[first..][..width].as_chunks::<LANES>();
                    for (lanes, numbers) in bits.iter_mut().zip(row) {
                        for lane in 0..LANES {
                            let number = numbers[lane].to_bits();
                            others[lane] |= (number & !SIGN) ^ 1.0_f32.to_bits();
                            // The first row's bit has come down to the lowest place after the last row.
                            lanes[lane] = (lanes[lane] >> 1) | (!number & SIGN);
                        }
                    }
                }
                for (line, bits) in packed.iter_mut().zip(&bits) {
                    for lane in 0..LANES {
                        line.0[lane] |= u64::from(bits[lane]) << (half * HALF);
                    }
                }
            }
            for (line, lines) in packed.iter().zip(lines.chunks_exact_mut(words)) {
                lines[word] = *line;
            }
        }
        others.iter().all(|&others| others == 0)
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::{Isa, Padding, reference};

    fn signs(len: usize, seed: u64) -> Vec<f32> {
        let mut state = seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1;
        let mut next = move || {
            state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
            if state >> 63 == 0 { 1.0 } else { -1.0 }
        };
        (0..len).map(|_| next()).collect()
    }

    /// The output and whether it came from bits, on every instruction set.
    fn check(shape: &Conv2dShape, x: &[f32], w: &[f32], pad_value: f32, by_bits: bool) {
        let scale: Vec<f32> = (0..shape.out_channels).map(|o| 0.3 - 0.01 * o as f32).collect();
        for out in [ChannelAffine::IDENTITY, ChannelAffine { scale: Some(&scale), bias: Some(&scale) }] {
            let mut expected = vec![f32::NAN; shape.output_len()];
            reference::conv2d(shape, x, w, pad_value, out, &mut expected);
            for kernels in Isa::available().filter_map(Kernels::of) {
                let mut y = vec![f32::NAN; shape.output_len()];
                assert_eq!(sign_product(kernels, shape, x, w, pad_value, out, &mut y), by_bits);
                if by_bits {
                    let bits = |y: &[f32]| y.iter().map(|y| y.to_bits()).collect::<Vec<_>>();
                    assert_eq!(bits(&y), bits(&expected), "{shape:?} on {}", kernels.isa());
                }
            }
        }
    }

    fn shapes() -> impl Strategy<Value = Conv2dShape> {
        let extents = (1_usize..3, 3_usize..7, 3_usize..7);
        let channels = (1_usize..3, 1_usize..4);
        let kernel = prop::sample::select(vec![[1, 1], [3, 3], [2, 3]]);
        let padding = (0_usize..2, 0_usize..2, 0_usize..2, 0_usize..2);
        (extents, channels, kernel, (1_usize..3, 1_usize..3), padding).prop_map(
            |((batch, height, width), (words, panels), kernel, stride, (top, bottom, left, right))| {
                Conv2dShape {
                    batch,
                    height,
                    width,
                    channels: words * WORD,
                    out_channels: panels * LANES,
                    kernel,
                    stride: stride.into(),
                    padding: Padding { top, bottom, left, right },
                    groups: 1,
                }
            },
        )
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(24))]

        #[test]
        fn counted_bits_are_the_sums_of_signs(shape in shapes(), pad in -1_i32..=1, seed in 0_u64..1000) {
            let (x, w) = (signs(shape.input_len(), seed), signs(shape.weight_len(), seed + 1));
            let pixels = shape.batch * shape.out_height() * shape.out_width();
            check(&shape, &x, &w, pad as f32, pixels >= FEW_PIXELS);
        }
    }

    #[test]
    fn one_number_that_is_no_sign_is_found() {
        let shape = Conv2dShape {
            batch: 2,
            height: 6,
            width: 6,
            channels: 64,
            out_channels: 32,
            kernel: [3, 3],
            stride: [1, 1],
            padding: Padding { top: 1, bottom: 1, left: 1, right: 1 },
            groups: 1,
        };
        let (x, w) = (signs(shape.input_len(), 1), signs(shape.weight_len(), 2));
        check(&shape, &x, &w, 0.0, true);
        check(&shape, &x, &w, 0.5, false);
        for other in [0.0, -0.0, f32::NAN, f32::INFINITY, 1.0 + f32::EPSILON, -0.5] {
            for at in [0, 77, x.len() - 1] {
                let mut x = x.clone();
                x[at] = other;
                check(&shape, &x, &w, 0.0, false);
            }
            for at in [0, 77, w.len() - 1] {
                let mut w = w.clone();
                w[at] = other;
                check(&shape, &x, &w, 0.0, false);
            }
        }
    }
}
