//! Every packed kernel on every instruction set of the machine, against three plain loops, integer by integer.

use std::sync::Mutex;

use proptest::prelude::*;
use qnn_kernels::packed::{
    ConvGeometry, Encoding, Extreme, Layout, Output, PackError, PackedConv, PoolGeometry, Selector,
    Thresholds, Tiles,
};
use qnn_kernels::{ChannelAffine, Isa, Kernels, Padding, reference};

/// Levels that look random, by a linear congruence.
fn codes(encoding: Encoding, len: usize, seed: u64) -> Vec<f32> {
    let mut state = seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1;
    let mut next = move || {
        state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        encoding.code((state >> 33) as usize % encoding.levels()) as f32
    };
    (0..len).map(|_| next()).collect()
}

fn kernels() -> impl Iterator<Item = &'static Kernels> {
    Isa::available().map(|isa| Kernels::of(isa).expect("available"))
}

fn in_pool<R: Send>(threads: usize, run: impl FnOnce() -> R + Send) -> R {
    rayon::ThreadPoolBuilder::new().num_threads(threads).build().expect("a pool").install(run)
}

/// A convolution, packed images that begin one byte after an aligned address, and what three loops make of them.
struct Case {
    conv: PackedConv,
    shifted: Vec<u8>,
    images: usize,
    acc: Vec<i32>,
}

impl Case {
    fn new(geometry: &ConvGeometry, images: usize, x: Encoding, pad_code: i32, w: Encoding) -> Self {
        let weights = codes(w, geometry.weight_len(), 7);
        let conv = PackedConv::new(geometry, x, pad_code, w, &weights).expect("a sound convolution");
        let values = codes(x, images * geometry.pixels() * geometry.channels, 11);
        let mut shifted = vec![0xff; 1 + conv.x_layout().bytes_for(images * geometry.pixels())];
        conv.x_layout().pack(&values, &mut shifted[1..]).expect("codes");
        let integers = |codes: &[f32]| codes.iter().map(|&code| code as i32).collect::<Vec<_>>();
        let mut acc = vec![0; images * geometry.out_pixels() * geometry.out_channels];
        reference::conv2d_codes(geometry, &integers(&values), &integers(&weights), pad_code, &mut acc);
        Self { conv, shifted, images, acc }
    }

    fn pixels(&self) -> usize {
        self.images * self.conv.geometry().out_pixels()
    }

    fn outputs(&self) -> usize {
        self.conv.geometry().out_channels
    }

    fn run(&self, kernels: &Kernels, out: Output<'_>) {
        self.conv.run(kernels, &self.shifted[1..], out);
    }

    fn check_accumulators(&self) {
        for kernels in kernels() {
            let mut found = vec![i32::MIN; self.acc.len()];
            self.run(kernels, Output::Accumulators(&mut found));
            let wrong = (0..found.len()).find(|&at| found[at] != self.acc[at]);
            assert!(
                wrong.is_none(),
                "{}: element {wrong:?} of {} for {:?}, {} x {}",
                kernels.isa(),
                found.len(),
                self.conv.geometry(),
                self.conv.x_layout().encoding(),
                self.conv.weight_encoding()
            );
        }
    }

    /// Every other stage, by applying the plain one to the plain accumulators.
    fn check_stages(&self, encoding: Encoding) {
        let channels = self.outputs();
        let (scale, bias) =
            (codes(Encoding::Odd { bits: 5 }, channels, 3), codes(Encoding::Odd { bits: 4 }, channels, 5));
        let affine = ChannelAffine { scale: Some(&scale), bias: Some(&bias) };
        let layout = Layout::new(encoding, channels).expect("a layout");
        let thresholds = self.thresholds(encoding);
        let mut expected = (vec![0.0; self.acc.len()], vec![0; layout.bytes_for(self.pixels())]);
        reference::packed_output(channels, &self.acc, Output::Scaled { affine, y: &mut expected.0 });
        let plain = Output::Codes { thresholds: &thresholds, layout, y: &mut expected.1 };
        reference::packed_output(channels, &self.acc, plain);
        for kernels in kernels() {
            let mut found = (vec![f32::NAN; self.acc.len()], vec![0xff; 1 + layout.bytes_for(self.pixels())]);
            self.run(kernels, Output::Scaled { affine, y: &mut found.0 });
            assert_eq!(found.0, expected.0, "{}", kernels.isa());
            self.run(kernels, Output::Codes { thresholds: &thresholds, layout, y: &mut found.1[1..] });
            assert_eq!(found.1[1..], expected.1, "{} {encoding}", kernels.isa());
            self.check_tiles(kernels);
        }
    }

    /// Thresholds that another packed value selects.
    fn check_selected(&self, encoding: Encoding, by: Encoding) {
        let channels = self.outputs();
        let layout = Layout::new(encoding, channels).expect("a layout");
        let selector = Layout::new(by, channels).expect("a layout");
        let mut selecting = vec![0; 1 + selector.bytes_for(self.pixels())];
        selector.pack(&codes(by, self.acc.len(), 13), &mut selecting[1..]).expect("codes");
        let by = Selector { layout: selector, codes: &selecting[1..] };
        let thresholds: Vec<_> =
            (0..selector.encoding().levels()).map(|level| self.thresholds_from(encoding, level)).collect();
        let mut expected = vec![0; layout.bytes_for(self.pixels())];
        let plain = Output::Selected { thresholds: &thresholds, by, layout, y: &mut expected };
        reference::packed_output(channels, &self.acc, plain);
        for kernels in kernels() {
            let mut found = vec![0xff; 1 + layout.bytes_for(self.pixels())];
            let out = Output::Selected { thresholds: &thresholds, by, layout, y: &mut found[1..] };
            self.run(kernels, out);
            assert_eq!(found[1..], expected, "{} {encoding} by {}", kernels.isa(), selector.encoding());
        }
    }

    /// Cuts that lie on accumulators, below all, above all, in channels that rise and fall.
    fn thresholds(&self, encoding: Encoding) -> Thresholds {
        self.thresholds_from(encoding, 0)
    }

    fn thresholds_from(&self, encoding: Encoding, seed: usize) -> Thresholds {
        let steps = encoding.levels() - 1;
        let (first, last) = (*self.conv.range().start(), *self.conv.range().end());
        let mut cuts = Vec::new();
        for channel in 0..self.outputs() {
            let mut some: Vec<i32> = (0..steps)
                .map(|step| match (channel + step + 3 * seed) % 7 {
                    0 => i32::MIN,
                    1 => i32::MAX,
                    2 => last + 1,
                    3 => first,
                    part => self.acc[(channel + part * self.outputs()) % self.acc.len().max(1)],
                })
                .collect();
            some.sort_unstable();
            cuts.extend(some);
        }
        let flips = (0..self.outputs()).map(|channel| (channel + seed) % 3 == 1).collect();
        Thresholds::new(encoding.levels(), &cuts, flips).expect("ascending cuts")
    }

    fn check_tiles(&self, kernels: &Kernels) {
        let channels = self.outputs();
        let (mut numbers, mut bytes) = (vec![f32::NAN; self.acc.len()], vec![0; 2 * self.pixels()]);
        let seen = Mutex::new(vec![false; self.pixels()]);
        let visit = |tile: qnn_kernels::packed::Tile<'_>| {
            assert_eq!(tile.accumulators.len(), tile.pixels.len() * channels);
            for (number, &acc) in tile.numbers.iter_mut().zip(tile.accumulators) {
                *number = acc as f32;
            }
            for (pixel, bytes) in tile.pixels.zip(tile.bytes.chunks_exact_mut(2)) {
                bytes.copy_from_slice(&(pixel as u16).to_le_bytes());
                assert!(!std::mem::replace(&mut seen.lock().expect("no panic")[pixel], true));
            }
        };
        self.run(kernels, Output::Tiles(Tiles { numbers: &mut numbers, bytes: &mut bytes, visit: &visit }));
        assert!(seen.lock().expect("no panic").iter().all(|&seen| seen));
        assert!(numbers.iter().zip(&self.acc).all(|(&number, &acc)| number == acc as f32));
        let indices = bytes.as_chunks::<2>().0.iter().map(|pair| usize::from(u16::from_le_bytes(*pair)));
        assert!(indices.eq((0..self.pixels()).map(|pixel| pixel % (1 << 16))));
    }
}

fn any_geometry() -> impl Strategy<Value = ConvGeometry> {
    let channels = proptest::sample::select(vec![
        (1, 1, 1),
        (3, 16, 1),
        (16, 17, 1),
        (17, 63, 1),
        (63, 3, 1),
        (64, 65, 1),
        (65, 16, 1),
        (130, 5, 1),
        (6, 4, 2),
        (34, 66, 2),
        (128, 32, 2),
        (3, 3, 3),
        (64, 64, 64),
        (17, 34, 17),
        (130, 130, 130),
    ]);
    let kernel = proptest::sample::select(vec![[1, 1], [3, 3], [5, 5], [2, 3], [1, 4]]);
    let padding = (0_usize..3, 0_usize..3, 0_usize..3, 0_usize..3);
    let steps = ((1_usize..4, 1_usize..4), (1_usize..3, 1_usize..4));
    (1_usize..8, 1_usize..24, channels, kernel, steps, padding)
        .prop_map(|(height, width, (channels, out_channels, groups), kernel, (stride, dilation), padding)| {
            ConvGeometry {
                height,
                width,
                channels,
                out_channels,
                kernel,
                stride: stride.into(),
                dilation: dilation.into(),
                padding: Padding { top: padding.0, bottom: padding.1, left: padding.2, right: padding.3 },
                groups,
            }
        })
        .prop_filter("a kernel inside the padded image", |geometry| geometry.check().is_ok())
}

fn any_encoding() -> impl Strategy<Value = Encoding> {
    prop_oneof![
        3 => Just(Encoding::Sign),
        2 => Just(Encoding::Ternary),
        2 => (1_u32..5).prop_map(|bits| Encoding::Unsigned { bits }),
        1 => (2_u32..5).prop_map(|bits| Encoding::Odd { bits }),
    ]
}

fn any_layout_encoding() -> impl Strategy<Value = Encoding> {
    prop_oneof![4 => any_encoding(), 1 => Just(Encoding::Int8)]
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(if cfg!(miri) { 3 } else { 192 }))]

    #[test]
    fn convolutions_are_three_loops(
        geometry in any_geometry(), images in 0_usize..4, x in any_encoding(), w in any_encoding(), pad in 0_usize..20
    ) {
        let pad_code = if pad < x.levels() { x.code(pad) } else { 0 };
        Case::new(&geometry, images, x, pad_code, w).check_accumulators();
    }

    #[test]
    fn stages_are_those_of_the_plain_accumulators(
        geometry in any_geometry(), images in 1_usize..3, x in any_encoding(), w in any_encoding(), y in any_encoding()
    ) {
        Case::new(&geometry, images, x, 0, w).check_stages(y);
    }

    #[test]
    fn selected_thresholds_are_those_of_the_plain_accumulators(
        geometry in any_geometry(), images in 1_usize..3, x in any_encoding(), y in any_encoding(), by in any_encoding()
    ) {
        Case::new(&geometry, images, x, 0, Encoding::Sign).check_selected(y, by);
    }

    #[test]
    fn pooling_keeps_the_extreme_code(
        (height, width) in (1_usize..9, 1_usize..20), window in (1_usize..4, 1_usize..4), stride in (1_usize..4, 1_usize..4),
        channels in proptest::sample::select(vec![1_usize, 3, 16, 17, 63, 64, 65, 130]), encoding in any_layout_encoding(),
        images in 0_usize..3, pad in (0_usize..3, 0_usize..3), flagged in any::<bool>()
    ) {
        let padding = Padding { top: pad.0, bottom: pad.1, left: pad.1, right: pad.0 };
        let geometry = PoolGeometry { height, width, window: window.into(), stride: stride.into(), padding };
        prop_assume!(geometry.check().is_ok());
        check_pooling(&geometry, Layout::new(encoding, channels).unwrap(), images, flagged);
    }

    #[test]
    fn packing_round_trips(encoding in any_layout_encoding(), channels in 1_usize..140, pixels in 0_usize..5) {
        let layout = Layout::new(encoding, channels).unwrap();
        let values = codes(encoding, channels * pixels, 1);
        let mut packed = vec![0xff; 1 + layout.bytes_for(pixels)];
        layout.pack(&values, &mut packed[1..]).unwrap();
        let mut found = vec![f32::NAN; values.len()];
        layout.unpack(&packed[1..], &mut found).unwrap();
        prop_assert_eq!(found, values);
        let planes = packed[1..].chunks_exact(layout.plane_bytes()).filter(|_| encoding != Encoding::Int8);
        for plane in planes {
            let set = |bit: usize| plane[bit / 8] >> (bit % 8) & 1 == 1;
            prop_assert!((channels..8 * layout.plane_bytes()).all(|bit| !set(bit)), "a bit past the last channel");
        }
    }

    #[test]
    fn signs_are_packed_on_every_set(channels in 1_usize..140, pixels in 0_usize..5, nan in any::<proptest::sample::Index>()) {
        let layout = Layout::new(Encoding::Sign, channels).unwrap();
        let special = [0.0, -0.0, f32::INFINITY, f32::NEG_INFINITY, -1e-45, f32::MIN_POSITIVE];
        let mut values = codes(Encoding::Odd { bits: 3 }, channels * pixels, 9);
        values.iter_mut().enumerate().step_by(3).for_each(|(at, value)| *value = special[at % special.len()]);
        let signs: Vec<f32> = values.iter().map(|&value| if value < 0.0 { -1.0 } else { 1.0 }).collect();
        let mut expected = vec![0; layout.bytes_for(pixels)];
        layout.pack(&signs, &mut expected).unwrap();
        for kernels in kernels() {
            let mut found = vec![0xff; 1 + expected.len()];
            kernels.pack_signs(layout, &values, &mut found[1..]).unwrap();
            prop_assert_eq!(&found[1..], &expected[..]);
        }
        if !values.is_empty() {
            let index = nan.index(values.len());
            values[index] = f32::NAN;
            for kernels in kernels() {
                let error = Err(PackError::NotANumber { index, len: values.len() });
                prop_assert_eq!(kernels.pack_signs(layout, &values, &mut expected), error);
            }
        }
    }
}

fn check_pooling(geometry: &PoolGeometry, layout: Layout, images: usize, flagged: bool) {
    let channels = layout.channels();
    let values = codes(layout.encoding(), images * geometry.height * geometry.width * channels, 5);
    let flags: Vec<bool> = (0..channels).map(|channel| flagged && channel % 3 == 0).collect();
    let (rows, columns) = (geometry.out_height(), geometry.out_width());
    let mut expected = Vec::new();
    for output in 0..images * rows * columns {
        let (image, row, column) = (output / (rows * columns), output / columns % rows, output % columns);
        for channel in 0..channels {
            let mut kept: Option<f32> = None;
            for tap in 0..geometry.window[0] * geometry.window[1] {
                let y =
                    (row * geometry.stride[0] + tap / geometry.window[1]).checked_sub(geometry.padding.top);
                let x = (column * geometry.stride[1] + tap % geometry.window[1])
                    .checked_sub(geometry.padding.left);
                let (Some(y), Some(x)) = (y, x) else { continue };
                if y < geometry.height && x < geometry.width {
                    let code =
                        values[((image * geometry.height + y) * geometry.width + x) * channels + channel];
                    let better = |kept: f32| if flags[channel] { code.min(kept) } else { code.max(kept) };
                    kept = Some(kept.map_or(code, better));
                }
            }
            expected.push(kept.expect("a pixel in every window"));
        }
    }
    let mut packed = vec![0; 1 + layout.bytes_for(images * geometry.height * geometry.width)];
    layout.pack(&values, &mut packed[1..]).expect("codes");
    let extreme = if flagged { Extreme::SmallestWhere(&flags) } else { Extreme::Largest };
    for kernels in kernels() {
        let mut pooled = vec![0xff; 1 + layout.bytes_for(images * rows * columns)];
        kernels.pool_codes(geometry, layout, extreme, &packed[1..], &mut pooled[1..]);
        let mut found = vec![f32::NAN; expected.len()];
        layout.unpack(&pooled[1..], &mut found).expect("whole pixels");
        assert_eq!(found, expected, "{} {geometry:?} {layout:?}", kernels.isa());
    }
}

#[test]
fn long_sums_fill_and_close_byte_counts() {
    for (inner, columns) in [
        (63, 17),
        (64, 16),
        (65, 3),
        (511, 9),
        (512, 40),
        (513, 17),
        (64 * 31, 8),
        (64 * 31 + 1, 17),
        (64 * 200 + 3, 1),
    ] {
        for (x, w) in [
            (Encoding::Sign, Encoding::Sign),
            (Encoding::Unsigned { bits: 2 }, Encoding::Odd { bits: 2 }),
            (Encoding::Ternary, Encoding::Ternary),
        ] {
            Case::new(&ConvGeometry::matmul(inner, columns), 35, x, 0, w).check_accumulators();
        }
    }
    let geometry = ConvGeometry::matmul(64 * 62, 16);
    let (x, w) = (vec![1.0; 64 * 62], vec![-1.0; 64 * 62 * 16]);
    for kernels in kernels() {
        let conv =
            PackedConv::new(&geometry, Encoding::Sign, 0, Encoding::Sign, &w).expect("a sound product");
        let mut packed = vec![0; conv.x_layout().bytes_for(1)];
        conv.x_layout().pack(&x, &mut packed).expect("codes");
        let mut acc = [0; 16];
        conv.run(kernels, &packed, Output::Accumulators(&mut acc));
        assert_eq!(acc, [-64 * 62; 16], "{}", kernels.isa());
    }
}

#[test]
fn widest_codes_are_exact() {
    let geometry = ConvGeometry {
        padding: Padding { top: 1, bottom: 0, left: 2, right: 1 },
        ..ConvGeometry::new([4, 5, 70], [2, 2], 3)
    };
    for (x, w) in [
        (Encoding::Unsigned { bits: 8 }, Encoding::Odd { bits: 8 }),
        (Encoding::Odd { bits: 8 }, Encoding::Unsigned { bits: 8 }),
    ] {
        let case = Case::new(&geometry, 2, x, 0, w);
        case.check_accumulators();
        case.check_stages(Encoding::Unsigned { bits: 8 });
    }
}

#[test]
fn threads_give_the_same_integers() {
    let padding = Padding { top: 1, bottom: 1, left: 1, right: 1 };
    for geometry in [
        ConvGeometry { padding, ..ConvGeometry::new([33, 35, 64], [3, 3], 64) },
        ConvGeometry { padding, stride: [2, 2], ..ConvGeometry::new([33, 35, 48], [3, 3], 40) },
        ConvGeometry::new([33, 35, 64], [1, 1], 65),
    ] {
        let case = Case::new(&geometry, 3, Encoding::Sign, 0, Encoding::Sign);
        for threads in 1..=3 {
            in_pool(threads, || case.check_accumulators());
            in_pool(threads, || case.check_stages(Encoding::Unsigned { bits: 2 }));
            in_pool(threads, || case.check_selected(Encoding::Sign, Encoding::Ternary));
        }
    }
}

#[test]
fn what_is_no_code_is_named() {
    for (encoding, value) in [
        (Encoding::Sign, 0.0),
        (Encoding::Sign, -3.0),
        (Encoding::Ternary, 1e-10),
        (Encoding::Ternary, 2.0),
        (Encoding::Unsigned { bits: 2 }, 4.0),
        (Encoding::Unsigned { bits: 2 }, -1.0),
        (Encoding::Odd { bits: 2 }, 2.0),
        (Encoding::Odd { bits: 2 }, f32::INFINITY),
        (Encoding::Int8, 128.0),
        (Encoding::Int8, 0.5),
    ] {
        let layout = Layout::new(encoding, 9).expect("a layout");
        let mut values = codes(encoding, 27, 3);
        values[13] = value;
        let mut packed = vec![0; layout.bytes_for(3)];
        assert_eq!(
            layout.pack(&values, &mut packed),
            Err(PackError::NotACode { index: 13, value, encoding })
        );
        values[13] = f32::NAN;
        assert_eq!(layout.pack(&values, &mut packed), Err(PackError::NotANumber { index: 13, len: 27 }));
        assert!(matches!(layout.pack(&values[1..], &mut packed), Err(PackError::Length { found: 26, .. })));
        assert!(matches!(layout.pack(&values, &mut packed[1..]), Err(PackError::Length { .. })));
        assert!(matches!(layout.unpack(&packed[1..], &mut values), Err(PackError::Length { .. })));
    }
}

#[test]
fn what_cannot_be_packed_is_an_error() {
    let geometry = ConvGeometry::matmul(4, 2);
    let new = |geometry: &ConvGeometry, x, pad, w, codes: &[f32]| {
        PackedConv::new(geometry, x, pad, w, codes).map(|_| ())
    };
    let ones = [1.0; 8];
    assert_eq!(
        new(&geometry, Encoding::Sign, 2, Encoding::Sign, &ones),
        Err(PackError::Padding { code: 2, encoding: Encoding::Sign })
    );
    assert_eq!(
        new(&geometry, Encoding::Sign, 0, Encoding::Sign, &[1.0, 1.0, 0.0, 1.0, 1.0, 1.0, 1.0, 1.0]),
        Err(PackError::NotACode { index: 2, value: 0.0, encoding: Encoding::Sign })
    );
    assert!(matches!(
        new(&geometry, Encoding::Sign, 0, Encoding::Ternary, &[f32::NAN; 8]),
        Err(PackError::NotANumber { index: 0, len: 8 })
    ));
    assert!(matches!(
        new(&geometry, Encoding::Sign, 0, Encoding::Sign, &[1.0; 7]),
        Err(PackError::Length { found: 7, expected: 8, .. })
    ));
    assert!(matches!(
        new(&geometry, Encoding::Int8, 0, Encoding::Sign, &ones),
        Err(PackError::Unsupported { .. })
    ));
    assert!(matches!(
        new(&ConvGeometry { stride: [0, 1], ..geometry }, Encoding::Sign, 0, Encoding::Sign, &ones),
        Err(PackError::Shape(_))
    ));
    let endless = ConvGeometry { height: 1 << 30, ..geometry };
    assert!(matches!(new(&endless, Encoding::Sign, 0, Encoding::Sign, &ones), Err(PackError::Shape(_))));
    let wide = Encoding::Odd { bits: 8 };
    assert!(matches!(
        new(&ConvGeometry::matmul(1 << 20, 1), wide, 0, wide, &ones),
        Err(PackError::Accumulator { .. })
    ));
}
