//! Every table of integer dot products against plain loops.

use std::sync::Mutex;

use proptest::prelude::*;

use super::int8::{ByteInput, Int8Conv, Int8Output, bytes_of};
use super::requantize::{FixedPoint, Requantize, Rounded};
use super::{CodeRange, ConvGeometry, Encoding, Layout, Output, PackError, Sum, Tiles};
use crate::arch::bits::Bits;
use crate::arch::{DotTiles, dot_tables};
use crate::{ChannelAffine, Isa, Kernels, Padding};

/// Every table that this machine can run, also those that a better one hides.
pub(super) fn tables() -> impl Iterator<Item = &'static DotTiles> {
    Isa::available().flat_map(dot_tables)
}

pub(super) fn bits() -> &'static Bits {
    &Kernels::current().bits
}

pub(super) fn bytes(len: usize, seed: u64) -> Vec<u8> {
    let mut state = seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1;
    let mut next = move || {
        state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        // Every fourth is an extreme of one kind or the other.
        match state >> 60 {
            0 | 1 => 0x80,
            2 | 3 => 0xff,
            _ => (state >> 40) as u8,
        }
    };
    (0..len).map(|_| next()).collect()
}

pub(super) fn signed(len: usize, seed: u64) -> Vec<i8> {
    bytes(len, seed).into_iter().map(u8::cast_signed).collect()
}

/// The accumulators as the definition says, in 64 bits.
pub(super) fn plain(
    geometry: &ConvGeometry,
    input: ByteInput,
    w: &[i32],
    bias: &[i32],
    x: &[u8],
) -> Vec<i32> {
    let (groups, each) = (geometry.group_channels(), geometry.group_outputs());
    let mut acc = Vec::new();
    for image in x.chunks_exact(geometry.pixels() * geometry.channels) {
        for oy in 0..geometry.out_height() {
            for ox in 0..geometry.out_width() {
                for o in 0..geometry.out_channels {
                    let mut sum = i64::from(bias[o]);
                    for kh in 0..geometry.kernel[0] {
                        for kw in 0..geometry.kernel[1] {
                            let (row, column) = (geometry.source(0, oy, kh), geometry.source(1, ox, kw));
                            for c in 0..groups {
                                let byte = match (row, column) {
                                    (Some(row), Some(column)) => {
                                        image[(row * geometry.width + column) * geometry.channels
                                            + o / each * groups
                                            + c]
                                    }
                                    _ => input.pad(),
                                };
                                let w = w[((kh * geometry.kernel[1] + kw) * groups + c)
                                    * geometry.out_channels
                                    + o];
                                sum += i64::from(input.code(byte) - input.zero_point()) * i64::from(w);
                            }
                        }
                    }
                    acc.push(i32::try_from(sum).unwrap());
                }
            }
        }
    }
    acc
}

pub(super) fn any_geometry() -> impl Strategy<Value = ConvGeometry> {
    let dense = proptest::sample::select(vec![
        (1, 1, 1),
        (3, 16, 1),
        (16, 17, 1),
        (17, 33, 1),
        (63, 65, 1),
        (64, 64, 1),
        (65, 3, 1),
        (130, 80, 1),
        (4, 6, 2),
        (34, 66, 2),
    ]);
    let depthwise =
        proptest::sample::select(vec![(3, 3, 3), (16, 16, 16), (33, 33, 33), (5, 10, 5), (64, 64, 64)]);
    let kernel = proptest::sample::select(vec![[1, 1], [3, 3], [5, 5], [2, 3], [1, 4]]);
    let window = (kernel, (1_usize..4, 1_usize..4), (1_usize..3, 1_usize..3));
    let padding = (0_usize..3, 0_usize..3, 0_usize..3, 0_usize..3);
    let extents = (1_usize..9, 1_usize..12);
    let any = (extents, prop_oneof![3 => dense, 1 => depthwise], window, padding);
    let any = any.prop_map(|((height, width), (channels, out_channels, groups), window, padding)| {
        let (kernel, stride, dilation) = window;
        let (top, bottom, left, right) = padding;
        ConvGeometry {
            stride: stride.into(),
            dilation: dilation.into(),
            padding: Padding { top, bottom, left, right },
            groups,
            ..ConvGeometry::new([height, width, channels], kernel, out_channels)
        }
    });
    // A pointwise one with neither stride nor padding is laid out in a way of its own.
    let flat = any.clone().prop_map(|geometry| ConvGeometry {
        kernel: [1, 1],
        stride: [1, 1],
        padding: Padding::NONE,
        ..geometry
    });
    prop_oneof![4 => any, 1 => flat].prop_filter("a kernel that fits", |geometry| geometry.check().is_ok())
}

pub(super) fn any_input() -> impl Strategy<Value = ByteInput> {
    prop_oneof![
        Just(ByteInput::SYMMETRIC),
        Just(ByteInput::unsigned(0)),
        (any::<i8>(), any::<i8>()).prop_map(|(zero_point, pad)| ByteInput::Signed { zero_point, pad }),
        (any::<u8>(), any::<u8>()).prop_map(|(zero_point, pad)| ByteInput::Unsigned { zero_point, pad }),
    ]
}

/// All the ways out, each from the accumulators by the plain functions.
pub(super) fn check_outputs(channels: usize, acc: &[i32], run: impl Fn(&'static DotTiles, Int8Output<'_>)) {
    let scale: Vec<f32> = (0..channels).map(|o| 0.001 + o as f32 * 0.0007).collect();
    let bias: Vec<f32> = (0..channels).map(|o| o as f32 * 0.5 - 7.0).collect();
    let range = CodeRange::new(3, 251, 117).unwrap();
    let scales: Vec<f64> = scale.iter().map(|&scale| scale.into()).collect();
    let requantizers = [
        Requantize::Fixed(FixedPoint::new(&scales, range).unwrap()),
        Requantize::Rounded(Rounded::new(&scale, &bias, range).unwrap()),
    ];
    let layout = Layout::new(Encoding::Sign, channels).unwrap();
    let search = |levels, level: fn(i32, i32) -> usize| {
        super::Thresholds::search(channels, levels, -9000..=9000, |o, acc| level(o as i32, acc)).unwrap()
    };
    let thresholds = search(2, |o, acc| usize::from(acc > o - 5));
    let several = search(4, |o, acc| [-700, o - 5, 900].into_iter().filter(|&cut| acc > cut).count());
    let falling = search(2, |o, acc| usize::from(acc < 70 - o));
    for tiles in tables() {
        let mut y = vec![i32::MIN; acc.len()];
        run(tiles, Output::Accumulators(&mut y).into());
        assert_eq!(y, acc, "{}", tiles.name);

        let mut y = vec![f32::NAN; acc.len()];
        let affine = ChannelAffine { scale: Some(&scale[..]), bias: Some(&bias[..]) };
        run(tiles, Output::Scaled { affine, y: &mut y }.into());
        let scaled = |(at, &acc): (usize, &i32)| acc as f32 * scale[at % channels] + bias[at % channels];
        assert_eq!(y, acc.iter().enumerate().map(scaled).collect::<Vec<_>>(), "{}", tiles.name);

        for by in &requantizers {
            let mut y = vec![0; acc.len()];
            run(tiles, Int8Output::Requantized { by, y: &mut y });
            let code = |(at, &acc): (usize, &i32)| by.code(acc, at % channels) as u8;
            assert_eq!(y, acc.iter().enumerate().map(code).collect::<Vec<_>>(), "{}", tiles.name);
        }

        let pixels = acc.len() / channels;
        let (mut numbers, mut bytes) = (vec![0.0; pixels], vec![0; 2 * pixels]);
        let seen = Mutex::new(vec![false; pixels]);
        let visit = |tile: super::Tile<'_>| {
            assert_eq!(tile.accumulators, &acc[tile.pixels.start * channels..tile.pixels.end * channels]);
            for (at, pixel) in tile.pixels.enumerate() {
                assert!(!core::mem::replace(&mut seen.lock().unwrap()[pixel], true));
                tile.numbers[at] = pixel as f32;
                tile.bytes[2 * at + 1] = pixel as u8;
            }
        };
        run(tiles, Output::Tiles(Tiles { numbers: &mut numbers, bytes: &mut bytes, visit: &visit }).into());
        assert!(numbers.iter().enumerate().all(|(pixel, &number)| number == pixel as f32));
        assert!(
            bytes.iter().enumerate().all(|(at, &byte)| byte == if at % 2 == 1 { (at / 2) as u8 } else { 0 })
        );

        for (thresholds, encoding) in [(&several, Encoding::Odd { bits: 2 }), (&thresholds, Encoding::Sign)] {
            let layout = Layout::new(encoding, channels).unwrap();
            let mut y = vec![0; layout.bytes_for(pixels)];
            run(tiles, Output::Codes { thresholds, layout, y: &mut y }.into());
            for (at, &acc) in acc.iter().enumerate() {
                let pixel = &y[at / channels * layout.pixel_bytes()..][..layout.pixel_bytes()];
                let code = layout.code(at % channels, pixel);
                assert_eq!(code, encoding.code(thresholds.level(at % channels, acc)), "{}", tiles.name);
            }
        }

        let codes: Vec<f32> = (0..acc.len()).map(|at| if at % 5 < 2 { 1.0 } else { -1.0 }).collect();
        let mut selecting = vec![0; layout.bytes_for(pixels)];
        layout.pack(&codes, &mut selecting).unwrap();
        let by = super::Selector { layout, codes: &selecting };
        let mut y = vec![0; layout.bytes_for(pixels)];
        let choice = [thresholds.clone(), falling.clone()];
        run(tiles, Output::Selected { thresholds: &choice, by, layout, y: &mut y }.into());
        for (at, &acc) in acc.iter().enumerate() {
            let pixel = &y[at / channels * layout.pixel_bytes()..][..layout.pixel_bytes()];
            let selected = &choice[usize::from(codes[at] > 0.0)];
            let code = layout.code(at % channels, pixel);
            assert_eq!(code, Encoding::Sign.code(selected.level(at % channels, acc)));
        }
    }
}

fn check(geometry: &ConvGeometry, input: ByteInput, batch: usize, seed: u64) {
    let weights = signed(geometry.weight_len(), seed);
    let bias: Vec<i32> = (0..geometry.out_channels as i32).map(|o| o * 1000 - 3000).collect();
    // The slice does not begin at a multiple of anything.
    let image = geometry.pixels() * geometry.channels;
    let x = &bytes(1 + batch * image, seed + 1)[1..];
    let wide: Vec<i32> = weights.iter().map(|&w| w.into()).collect();
    let expected = plain(geometry, input, &wide, &bias, x);
    let conv = Int8Conv::with_bias(geometry, input, &weights, &bias).unwrap();
    assert!(expected.iter().all(|acc| conv.range().contains(acc)));
    let pixels = batch * geometry.out_pixels();
    check_outputs(geometry.out_channels, &expected, |tiles, out| {
        conv.run_with(tiles, bits(), pixels, x, out)
    });
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(96))]

    #[test]
    fn convolution_is_the_plain_sum(
        geometry in any_geometry(), input in any_input(), batch in 0_usize..4, seed in any::<u32>(),
    ) {
        check(&geometry, input, batch, seed.into());
    }

    #[test]
    fn matrix_product_is_the_plain_sum(rows in 0_usize..70, inner in 1_usize..300, columns in 1_usize..70) {
        check(&ConvGeometry::matmul(inner, columns), ByteInput::SYMMETRIC, rows, 7);
        check(&ConvGeometry::matmul(inner, columns), ByteInput::unsigned(3), rows, 8);
    }

    #[test]
    fn sums_of_codes_are_the_expression(
        scales in (-3.0_f32..3.0, -3.0_f32..3.0), zero_points in (-128_i32..128, -128_i32..128), seed in any::<u32>(),
    ) {
        let range = CodeRange::new(-100, 120, -3).unwrap();
        let by = Sum::new(scales.into(), zero_points.into(), true, range).unwrap();
        let (a, b) = (bytes(132, seed.into()), bytes(133, u64::from(seed) + 1));
        let (a, b) = (&a[1..], &b[2..]);
        for kernels in Isa::available().filter_map(Kernels::of) {
            let mut y = [0; 134];
            let y = &mut y[3..];
            kernels.add_codes(a, b, &by, y);
            for at in 0..131 {
                let term = |byte: u8, zero_point: i32, scale: f32| {
                    (i32::from(byte.cast_signed()) - zero_point) as f32 * scale
                };
                let sum = term(a[at], zero_points.0, scales.0) + term(b[at], zero_points.1, scales.1);
                let expected = (sum.round_ties_even() as i32).saturating_sub(3).clamp(-100, 120);
                prop_assert_eq!(i32::from(y[at].cast_signed()), expected);
            }
        }
    }
}

#[test]
fn lengths_around_those_of_vectors() {
    for inner in [63, 64, 65, 511, 512, 513] {
        for columns in [1, 3, 16, 17, 63, 64, 65] {
            check(&ConvGeometry::matmul(inner, columns), ByteInput::SYMMETRIC, 3, inner as u64);
        }
    }
}

#[test]
fn the_largest_sums_are_exact() {
    let terms = 65_500;
    let geometry = ConvGeometry::matmul(terms, 17);
    for (input, byte, weight) in [
        (ByteInput::SYMMETRIC, 0x80, -128),
        (ByteInput::SYMMETRIC, 0x80, 127),
        (ByteInput::unsigned(0), 0xff, -128),
        (ByteInput::unsigned(255), 0, -128),
        (ByteInput::signed(127), 0x80, -128),
    ] {
        let conv = Int8Conv::new(&geometry, input, &vec![weight; geometry.weight_len()]).unwrap();
        let product = (input.code(byte) - input.zero_point()) * i32::from(weight);
        for tiles in tables() {
            let mut y = vec![0; 17];
            conv.run_with(tiles, bits(), 1, &vec![byte; terms], Output::Accumulators(&mut y).into());
            assert_eq!(y, [terms as i32 * product; 17], "{}", tiles.name);
        }
    }
}

#[test]
fn threads_change_nothing() {
    let padding = Padding { top: 1, bottom: 1, left: 1, right: 1 };
    let wide = ConvGeometry { padding, ..ConvGeometry::new([28, 29, 64], [3, 3], 40) };
    let narrow = ConvGeometry { padding, ..ConvGeometry::new([7, 7, 256], [3, 3], 80) };
    for (geometry, batch) in [(wide, 1), (wide, 3), (narrow, 1), (narrow, 5)] {
        let conv = Int8Conv::new(&geometry, ByteInput::SYMMETRIC, &signed(geometry.weight_len(), 3)).unwrap();
        let x = bytes(batch * geometry.pixels() * geometry.channels, 4);
        let run = |threads: usize| {
            let mut y = vec![0; batch * geometry.out_pixels() * geometry.out_channels];
            let pool = rayon::ThreadPoolBuilder::new().num_threads(threads).build().unwrap();
            pool.install(|| conv.run(Kernels::current(), &x, Output::Accumulators(&mut y).into()));
            y
        };
        let one = run(1);
        assert!(run(2) == one && run(3) == one, "{geometry:?}");
    }
}

#[test]
fn a_clone_computes_the_same() {
    let geometry = ConvGeometry::matmul(5, 3);
    let conv = Int8Conv::with_bias(&geometry, ByteInput::unsigned(9), &[7; 15], &[1, 2, 3]).unwrap();
    let run = |conv: &Int8Conv| {
        let mut y = [0; 3];
        conv.run(Kernels::current(), bytes_of(&[1, 2, 3, 4, 5]), Output::Accumulators(&mut y).into());
        y
    };
    assert_eq!(run(&conv), [7 * (15 - 45) + 1, 7 * (15 - 45) + 2, 7 * (15 - 45) + 3]);
    assert_eq!(run(&conv.clone()), run(&conv));
    assert_eq!((conv.clone().bias(), conv.weights()), (&[1, 2, 3][..], &[7; 15][..]));
}

#[test]
fn faults_are_errors() {
    let geometry = ConvGeometry::matmul(70_000, 2);
    let error = Int8Conv::new(&geometry, ByteInput::unsigned(0), &[127; 140_000]).unwrap_err();
    assert!(matches!(error, PackError::Accumulator { terms: 70_000, .. }), "{error}");
    assert!(Int8Conv::new(&geometry, ByteInput::unsigned(127), &[127; 140_000]).is_ok());
    let error = Int8Conv::new(&geometry, ByteInput::SYMMETRIC, &[1; 7]).unwrap_err();
    assert_eq!(error, PackError::Length { what: "weights", found: 7, expected: 140_000 });
    let small = ConvGeometry::matmul(1, 2);
    let error = Int8Conv::with_bias(&small, ByteInput::SYMMETRIC, &[1; 2], &[0; 3]).unwrap_err();
    assert_eq!(error, PackError::Length { what: "bias", found: 3, expected: 2 });
    let error = Int8Conv::with_bias(&small, ByteInput::SYMMETRIC, &[1; 2], &[0, i32::MIN]).unwrap_err();
    assert!(matches!(error, PackError::Accumulator { .. }), "{error}");
    let none = ConvGeometry::new([3, 3, 0], [1, 1], 2);
    assert!(matches!(Int8Conv::new(&none, ByteInput::SYMMETRIC, &[]), Err(PackError::Shape(_))));
}
