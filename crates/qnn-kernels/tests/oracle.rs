//! Every kernel against the plain loops, on every instruction set of the machine, bit for bit.

use proptest::prelude::*;
use qnn_kernels::{
    Algorithm, ChannelAffine, Conv2dShape, FloatConv, Isa, Kernels, MatmulShape, Padding, Real, reference,
    takes_rows,
};

/// Numbers that look random, by a linear congruence; every eighth is a zero or one of either sign.
fn values<T: Real>(len: usize, seed: u64) -> Vec<T> {
    let mut state = seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1;
    let mut next = move || {
        state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        let special = [0.0, -0.0, 1.0, -1.0];
        let value = (state >> 33) as f64 / f64::from(1_u32 << 30) - 1.0;
        let chosen = if state >> 61 == 0 { special[(state >> 59 & 3) as usize] } else { value };
        T::from(chosen).unwrap()
    };
    (0..len).map(|_| next()).collect()
}

fn filled<T: Real>(len: usize) -> Vec<T> {
    vec![T::nan(); len]
}

/// Equality of bits, zeros of different sign told apart.
#[track_caller]
fn assert_same<T: Real>(what: &str, isa: Isa, found: &[T], expected: &[T]) {
    assert_eq!(found.len(), expected.len());
    for index in 0..found.len() {
        let (found, expected) = (found[index], expected[index]);
        let same = found == expected && found.is_sign_negative() == expected.is_sign_negative();
        assert!(same, "{what} on {isa}: element {index} is {found:?}, the reference says {expected:?}");
    }
}

fn kernels() -> impl Iterator<Item = &'static Kernels> {
    Isa::available().map(|isa| Kernels::of(isa).expect("available"))
}

fn in_pool<R: Send>(threads: usize, run: impl FnOnce() -> R + Send) -> R {
    rayon::ThreadPoolBuilder::new().num_threads(threads).build().expect("a pool").install(run)
}

fn check_conv2d<T: Real>(shape: &Conv2dShape, pad_value: f64, with_scale: bool, with_bias: bool) {
    let pad_value = T::from(pad_value).unwrap();
    // Neither begins at a multiple of a vector.
    let (x, w) = (values::<T>(1 + shape.input_len(), 1), values::<T>(3 + shape.weight_len(), 2));
    let (x, w) = (&x[1..], &w[3..]);
    let (scale, bias) = (values::<T>(shape.out_channels, 3), values::<T>(shape.out_channels, 4));
    let out = ChannelAffine { scale: with_scale.then_some(&scale[..]), bias: with_bias.then_some(&bias[..]) };
    let dy = values::<T>(shape.output_len(), 5);
    let (mut y, mut dx, mut dw) = (filled(dy.len()), filled(x.len()), filled(w.len()));
    reference::conv2d(shape, x, w, pad_value, out, &mut y);
    reference::conv2d_input_gradient(shape, &dy, w, &mut dx);
    reference::conv2d_kernel_gradient(shape, x, pad_value, &dy, &mut dw);
    for kernels in kernels() {
        let (mut found_y, mut found_dx, mut found_dw) = (filled(y.len()), filled(dx.len()), filled(dw.len()));
        kernels.conv2d(shape, x, w, pad_value, out, &mut found_y);
        assert_same("conv2d", kernels.isa(), &found_y, &y);
        kernels.conv2d_input_gradient(shape, &dy, w, &mut found_dx);
        assert_same("input gradient", kernels.isa(), &found_dx, &dx);
        kernels.conv2d_kernel_gradient(shape, x, pad_value, &dy, &mut found_dw);
        assert_same("kernel gradient", kernels.isa(), &found_dw, &dw);
    }
}

/// One layout for every batch.
fn check_laid_out(shape: &Conv2dShape, pad_value: f32) {
    let (w, bias) = (values::<f32>(shape.weight_len(), 2), values::<f32>(shape.out_channels, 4));
    let out = ChannelAffine { scale: None, bias: Some(&bias[..]) };
    for kernels in kernels() {
        let conv = FloatConv::new(kernels, shape, &w, pad_value, out, Algorithm::Direct).unwrap();
        for batch in [shape.batch, 1, 3] {
            let shape = Conv2dShape { batch, ..*shape };
            let x = values::<f32>(shape.input_len(), 1 + batch as u64);
            let (mut y, mut found) = (filled(shape.output_len()), filled(shape.output_len()));
            reference::conv2d(&shape, &x, &w, pad_value, out, &mut y);
            conv.run(&x, &mut found);
            assert_same("a convolution laid out once", kernels.isa(), &found, &y);
            let mut bytes = vec![0; 4 * y.len()];
            conv.run_tiles(&x, &mut bytes, &|tile| {
                assert_eq!(tile.numbers.len(), tile.pixels.len() * shape.out_channels);
                for (number, bytes) in tile.numbers.iter().zip(tile.bytes.as_chunks_mut::<4>().0) {
                    *bytes = (number + tile.pixels.start as f32 * 0.0).to_le_bytes();
                }
            });
            let found: Vec<f32> =
                bytes.as_chunks::<4>().0.iter().map(|&bytes| f32::from_le_bytes(bytes)).collect();
            assert!(found == y, "runs of a convolution laid out once, {}", kernels.isa());
        }
    }
}

fn check_matmul<T: Real>(dims: MatmulShape, with_affine: bool) {
    let (a, b, dy) = (
        values::<T>(dims.left_len(), 1),
        values::<T>(dims.right_len(), 2),
        values::<T>(dims.output_len(), 3),
    );
    let (scale, bias) = (values::<T>(dims.columns, 4), values::<T>(dims.columns, 5));
    let out = if with_affine {
        ChannelAffine { scale: Some(&scale), bias: Some(&bias) }
    } else {
        ChannelAffine::IDENTITY
    };
    let (mut y, mut da, mut db) = (filled(dy.len()), filled(a.len()), filled(b.len()));
    reference::matmul(dims, &a, &b, out, &mut y);
    reference::matmul_left_gradient(dims, &dy, &b, &mut da);
    reference::matmul_right_gradient(dims, &a, &dy, &mut db);
    for kernels in kernels() {
        let (mut found_y, mut found_da, mut found_db) = (filled(y.len()), filled(da.len()), filled(db.len()));
        kernels.matmul(dims, &a, &b, out, &mut found_y);
        assert_same("matmul", kernels.isa(), &found_y, &y);
        kernels.matmul_left_gradient(dims, &dy, &b, &mut found_da);
        assert_same("left gradient", kernels.isa(), &found_da, &da);
        kernels.matmul_right_gradient(dims, &a, &dy, &mut found_db);
        assert_same("right gradient", kernels.isa(), &found_db, &db);
        if takes_rows(dims) {
            kernels.with_matmul_right_gradient(dims, &a, &dy, |few, rows| {
                rows(dims.inner - 1, &mut []);
                for rows_together in [few, few.div_ceil(3), dims.inner] {
                    found_db.fill(T::nan());
                    let pieces = found_db.chunks_mut(rows_together * dims.columns).enumerate();
                    pieces.for_each(|(index, db)| rows(index * rows_together, db));
                    assert_same("right gradient in rows", kernels.isa(), &found_db, &db);
                }
            });
        }
    }
}

fn any_shape() -> impl Strategy<Value = Conv2dShape> {
    let channels = proptest::sample::select(vec![
        (1, 1, 1),
        (3, 16, 1),
        (16, 17, 1),
        (17, 33, 1),
        (31, 3, 1),
        (33, 31, 1),
        (4, 6, 2),
        (34, 66, 2),
    ]);
    let depthwise = proptest::sample::select(vec![(3, 3, 3), (16, 16, 16), (33, 33, 33), (5, 10, 5)]);
    let kernel = proptest::sample::select(vec![[1, 1], [3, 3], [5, 5], [2, 3], [1, 4]]);
    let extents = (0_usize..4, 1_usize..9, 1_usize..12);
    let padding = (0_usize..3, 0_usize..3, 0_usize..3, 0_usize..3);
    (extents, prop_oneof![channels, depthwise], kernel, (1_usize..4, 1_usize..4), padding)
        .prop_map(
            |(
                (batch, height, width),
                (channels, out_channels, groups),
                kernel,
                stride,
                (top, bottom, left, right),
            )| Conv2dShape {
                batch,
                height,
                width,
                channels,
                out_channels,
                kernel,
                stride: stride.into(),
                padding: Padding { top, bottom, left, right },
                groups,
            },
        )
        .prop_filter("the kernel fits", |shape| shape.check().is_ok())
}

fn resnet(
    batch: usize,
    size: usize,
    channels: usize,
    out_channels: usize,
    kernel: usize,
    stride: usize,
) -> Conv2dShape {
    let padding = Padding::same([size; 2], [kernel; 2], [stride; 2]);
    Conv2dShape {
        batch,
        height: size,
        width: size,
        channels,
        out_channels,
        kernel: [kernel; 2],
        stride: [stride; 2],
        padding,
        groups: 1,
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(96))]

    #[test]
    fn convolutions_equal_the_loops(
        shape in any_shape(),
        pad_value in proptest::sample::select(vec![0.0, 1.0, -1.0]),
        with_scale: bool,
        with_bias: bool,
    ) {
        check_conv2d::<f32>(&shape, pad_value, with_scale, with_bias);
    }

    #[test]
    fn convolutions_laid_out_once_equal_the_loops(
        shape in any_shape(), pad_value in proptest::sample::select(vec![0.0, -1.0])
    ) {
        check_laid_out(&shape, pad_value);
    }

    #[test]
    fn products_equal_the_loops(rows in 0_usize..70, inner in 0_usize..40, columns in 0_usize..70, with_affine: bool) {
        check_matmul::<f32>(MatmulShape { rows, inner, columns }, with_affine);
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(16))]

    #[test]
    fn double_precision_equals_the_loops(shape in any_shape(), pad_value in proptest::sample::select(vec![0.0, -1.0])) {
        check_conv2d::<f64>(&shape, pad_value, true, true);
    }
}

#[test]
fn the_simplest_convolution() {
    check_conv2d::<f32>(&resnet(1, 1, 1, 1, 1, 1), 0.0, false, false);
}

#[test]
fn shapes_of_residual_networks() {
    for shape in [
        resnet(2, 16, 3, 16, 3, 1),
        resnet(9, 8, 16, 32, 3, 2),
        resnet(17, 8, 32, 32, 3, 1),
        resnet(3, 8, 32, 64, 1, 2),
        resnet(2, 4, 64, 64, 3, 1),
        resnet(0, 4, 64, 64, 3, 1),
    ] {
        check_conv2d::<f32>(&shape, 0.0, false, true);
        check_laid_out(&shape, 0.0);
    }
    // Many weights: panels instead of bands.
    check_laid_out(&resnet(1, 1, 700, 600, 1, 1), 0.0);
    check_laid_out(&resnet(1, 2, 200, 300, 3, 1), 1.0);
}

/// Rows of every width under panels of one vector, two and three, the last of them cut.
#[test]
fn every_width_of_a_tile() {
    for width in 1..=19 {
        for (channels, out_channels, groups) in
            [(3, 16, 1), (5, 27, 1), (17, 48, 1), (48, 71, 1), (34, 96, 2)]
        {
            let shape =
                Conv2dShape { height: 2, width, groups, ..resnet(2, 1, channels, out_channels, 3, 1) };
            check_conv2d::<f32>(&shape, 0.0, true, true);
            check_laid_out(&shape, 0.0);
        }
    }
    for rows in 1..=19 {
        check_matmul::<f32>(MatmulShape { rows, inner: 165, columns: 400 + 7 * rows }, true);
    }
}

#[test]
fn images_cut_into_bands() {
    let wide = Conv2dShape { height: 40, width: 60, ..resnet(1, 40, 130, 2, 3, 1) };
    check_conv2d::<f32>(&wide, 1.0, false, true);
    check_conv2d::<f32>(&Conv2dShape { stride: [2, 3], ..wide }, -1.0, true, false);
}

#[test]
fn many_weights_and_few_pixels() {
    check_conv2d::<f32>(&resnet(3, 3, 150, 170, 3, 1), 0.0, true, true);
    check_conv2d::<f32>(&resnet(9, 3, 150, 170, 3, 2), 0.0, true, true);
    check_matmul::<f32>(MatmulShape { rows: 30, inner: 300, columns: 500 }, true);
}

#[test]
fn products_of_many_weights_equal_the_loops() {
    // Around the ends of tiles, of panels and of blocks of terms; one row, one column.
    for [rows, inner, columns] in [
        [1, 300, 257],
        [15, 513, 129],
        [29, 257, 260],
        [33, 1030, 70],
        [31, 17, 4100],
        [3, 70_000, 1],
        [2, 1, 70_000],
    ] {
        let dims = MatmulShape { rows, inner, columns };
        check_matmul::<f32>(dims, rows % 2 == 1);
        in_pool(3, || check_matmul::<f32>(dims, false));
    }
    check_matmul::<f64>(MatmulShape { rows: 17, inner: 260, columns: 300 }, true);
}

#[test]
fn products_of_signs_equal_the_loops_and_so_do_nearly_signs() {
    for [rows, inner, columns] in [[70, 256, 128], [64, 1024, 512], [130, 320, 272]] {
        let dims = MatmulShape { rows, inner, columns };
        let sign = |x: &f32| if *x < 0.0 { -1.0 } else { 1.0 };
        let a: Vec<f32> = values::<f32>(dims.left_len(), 7).iter().map(sign).collect();
        let b: Vec<f32> = values::<f32>(dims.right_len(), 8).iter().map(sign).collect();
        let scale = values::<f32>(columns, 9);
        // A number that is no sign, at the very end of either side: the product may not count bits.
        let (mut nearly_a, mut nearly_b) = (a.clone(), b.clone());
        *nearly_a.last_mut().unwrap() = 0.5;
        *nearly_b.last_mut().unwrap() = 0.0;
        for (a, b) in [(&a, &b), (&nearly_a, &b), (&a, &nearly_b)] {
            for out in [ChannelAffine::IDENTITY, ChannelAffine { scale: Some(&scale), bias: Some(&scale) }] {
                let (mut y, mut found) = (filled(dims.output_len()), filled(dims.output_len()));
                reference::matmul(dims, a, b, out, &mut y);
                for kernels in kernels() {
                    kernels.matmul(dims, a, b, out, &mut found);
                    assert_same("matmul of signs", kernels.isa(), &found, &y);
                }
            }
        }
    }
}

#[test]
fn products_with_empty_extents() {
    for [rows, inner, columns] in [[0, 3, 4], [3, 0, 4], [3, 4, 0], [0, 0, 0], [1, 1, 1]] {
        check_matmul::<f32>(MatmulShape { rows, inner, columns }, true);
    }
}

#[test]
fn underflow_keeps_the_sign_of_its_zero() {
    // −tiny · tiny rounds to −0 in the accumulator; a dummy term would turn it into +0.
    let shape = resnet(1, 3, 3, 5, 1, 1);
    let (x, w) = (vec![-1e-30_f32; shape.input_len()], vec![1e-30_f32; shape.weight_len()]);
    for kernels in kernels() {
        let mut y = filled::<f32>(shape.output_len());
        kernels.conv2d(&shape, &x, &w, 0.0, ChannelAffine::IDENTITY, &mut y);
        assert!(y.iter().all(|y| *y == 0.0 && y.is_sign_negative()), "{y:?} on {}", kernels.isa());
    }
}

/// Gradients of kernels and right matrices are added to +0, whichever way they are computed.
#[test]
fn gradients_of_weights_have_no_negative_zeros() {
    for (inner, columns) in [(1, 1), (300, 300)] {
        let dims = MatmulShape { rows: 1, inner, columns };
        let (a, dy) = (vec![-1e-30_f32; inner], vec![1e-30_f32; columns]);
        let mut expected = filled::<f32>(inner * columns);
        reference::matmul_right_gradient(dims, &a, &dy, &mut expected);
        assert!(expected.iter().all(|x| x.to_bits() == 0));
        for kernels in kernels() {
            let mut found = filled::<f32>(inner * columns);
            kernels.matmul_right_gradient(dims, &a, &dy, &mut found);
            assert!(found.iter().all(|x| x.to_bits() == 0), "{}", kernels.isa());
        }
    }
}

#[test]
fn threads_change_no_bit() {
    for shape in [
        resnet(19, 9, 17, 33, 3, 1),
        resnet(1, 30, 20, 20, 3, 2),
        resnet(5, 3, 150, 170, 3, 1),
        // Gradients by tiles: in chunks of images, and in one chunk.
        resnet(19, 9, 32, 48, 3, 1),
        resnet(5, 5, 176, 192, 3, 1),
    ] {
        let (x, w, dy) = (
            values::<f32>(shape.input_len(), 1),
            values::<f32>(shape.weight_len(), 2),
            values::<f32>(shape.output_len(), 3),
        );
        let run = || {
            let (mut y, mut dx, mut dw) = (filled(dy.len()), filled(x.len()), filled(w.len()));
            let kernels = Kernels::current();
            kernels.conv2d(&shape, &x, &w, 1.0, ChannelAffine::IDENTITY, &mut y);
            kernels.conv2d_input_gradient(&shape, &dy, &w, &mut dx);
            kernels.conv2d_kernel_gradient(&shape, &x, 1.0, &dy, &mut dw);
            [y, dx, dw]
        };
        let (one, three) = (in_pool(1, run), in_pool(3, run));
        for (one, three) in one.iter().zip(&three) {
            assert_same("three threads", Kernels::current().isa(), three, one);
        }
    }
}

#[test]
fn single_precision_is_near_double() {
    let shape = resnet(10, 9, 17, 20, 3, 2);
    let narrow = |wide: &[f64]| wide.iter().map(|x| *x as f32).collect::<Vec<_>>();
    let (x, w, dy) = (
        values::<f64>(shape.input_len(), 1),
        values::<f64>(shape.weight_len(), 2),
        values::<f64>(shape.output_len(), 3),
    );
    let (mut wide, mut found) = (
        [filled(dy.len()), filled(x.len()), filled(w.len())],
        [filled(dy.len()), filled(x.len()), filled(w.len())],
    );
    reference::conv2d(&shape, &x, &w, 0.0, ChannelAffine::IDENTITY, &mut wide[0]);
    reference::conv2d_input_gradient(&shape, &dy, &w, &mut wide[1]);
    reference::conv2d_kernel_gradient(&shape, &x, 0.0, &dy, &mut wide[2]);
    qnn_kernels::conv2d(&shape, &narrow(&x), &narrow(&w), 0.0, ChannelAffine::IDENTITY, &mut found[0]);
    qnn_kernels::conv2d_input_gradient(&shape, &narrow(&dy), &narrow(&w), &mut found[1]);
    qnn_kernels::conv2d_kernel_gradient(&shape, &narrow(&x), 0.0, &narrow(&dy), &mut found[2]);
    for (found, wide) in found.iter().flatten().zip(wide.iter().flatten()) {
        assert!((f64::from(*found) - wide).abs() < 2e-5, "{found} is not {wide}");
    }
}

#[test]
#[should_panic(expected = "input, weights and output have [1, 9, 1] elements")]
fn wrong_lengths_are_named() {
    qnn_kernels::conv2d(
        &resnet(1, 3, 1, 1, 3, 1),
        &[0.0_f32],
        &[0.0; 9],
        0.0,
        ChannelAffine::IDENTITY,
        &mut [0.0],
    );
}

#[test]
#[should_panic(expected = "bias has 2 elements, the output has 1 channels")]
fn a_bias_of_another_length_is_named() {
    let dims = MatmulShape { rows: 1, inner: 1, columns: 1 };
    qnn_kernels::matmul(dims, &[0.0_f32], &[0.0], ChannelAffine::bias(&[0.0; 2]), &mut [0.0]);
}

#[test]
fn strides_beyond_the_image_are_no_larger_than_it() {
    // Few channels are gathered into kernel rows, many are dealt into as many phases as the stride has steps.
    for channels in [3, 17, 34] {
        for stride in [[3, 1 << 40], [1 << 30, 1 << 30], [usize::MAX, 2]] {
            let groups = if channels == 34 { 2 } else { 1 };
            let resnet = resnet(2, 4, channels, 18, 2, 1);
            let shape = Conv2dShape { width: 5, stride, padding: Padding::NONE, groups, ..resnet };
            check_conv2d::<f32>(&shape, 0.0, true, true);
            check_laid_out(&shape, 0.0);
        }
    }
}
