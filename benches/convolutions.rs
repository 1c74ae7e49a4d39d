//! Convolutions and matrix products in f32: forward, directly and, where the shape allows it, in tiles by Winograd's
//! algorithm, and both gradients, on every instruction set that has vectors. The rate of each, and the fraction of what
//! that instruction set could do at most, which is fused multiply-adds on registers, measured in the same run.
//!
//! ```text
//! cargo bench --bench convolutions               one thread, batches of 8, some twenty seconds
//! cargo bench --bench convolutions -- avx2       one instruction set
//! cargo bench --bench convolutions -- --full     batches of 100 and more runs, for figures to publish
//! ```
//!
//! Work is counted as that of direct sums, one multiply-add for each weight and output pixel. Tiles and the gradients of 3x3 kernels with 32 channels
//! and more take fewer (Winograd's minimal filtering), so that their rate may be more than the limit.
//!
//! Every figure is that of the fastest of many runs on warm buffers, which neighbours on the machine
//! disturb least.

use std::hint::black_box;
use std::time::Instant;

use qnn::tensor::Tensor;
use qnn_kernels::{
    Algorithm, ChannelAffine, Conv2dShape, Convolution, Isa, Kernels, MatmulShape, Padding, reference,
};

/// How much is measured.
#[derive(Clone, Copy)]
struct Profile {
    batch: usize,
    /// For each figure.
    seconds: f64,
}

/// Few images: a run that is over before the system gives the core to another program is a fair one.
const QUICK: Profile = Profile { batch: 8, seconds: 0.2 };
/// As in training steps.
const FULL: Profile = Profile { batch: 100, seconds: 2.0 };

/// Input channels, output channels, extent of the image, extent of the kernel, stride: ResNet-20's, then VGG-7's.
const CONVOLUTIONS: [(usize, usize, usize, usize, usize); 12] = [
    (3, 16, 32, 3, 1),
    (16, 16, 32, 3, 1),
    (16, 32, 32, 3, 2),
    (16, 32, 32, 1, 2),
    (32, 32, 16, 3, 1),
    (32, 64, 16, 3, 2),
    (64, 64, 8, 3, 1),
    (128, 128, 32, 3, 1),
    (128, 256, 16, 3, 1),
    (256, 256, 16, 3, 1),
    (256, 512, 8, 3, 1),
    (512, 512, 8, 3, 1),
];

/// A dense layer of the perceptrons, at the batch of training steps.
const MATRIX: MatmulShape = MatmulShape { rows: 100, inner: 2048, columns: 2048 };

fn main() {
    let (flags, names): (Vec<String>, Vec<String>) =
        std::env::args().skip(1).partition(|argument| argument.starts_with("--"));
    let profile = if flags.iter().any(|flag| flag == "--full") { FULL } else { QUICK };
    rayon::ThreadPoolBuilder::new().num_threads(1).build_global().expect("the first use of threads");
    let vectors = [Isa::Avx512, Isa::Avx2, Isa::Neon].into_iter().filter(|isa| isa.is_available());
    for isa in vectors.filter(|isa| names.is_empty() || names.iter().any(|name| name == isa.name())) {
        bench(Kernels::of(isa).expect("an available instruction set"), profile);
    }
}

fn bench(kernels: &Kernels, profile: Profile) {
    let limit = limit(kernels);
    println!("{}: at most {limit:.0} GFLOP/s in fused multiply-adds", kernels.isa());
    let columns = |name: &str, columns: [&str; 4]| {
        let [forward, tiles, input, kernel] = columns;
        println!("{name:>32} {forward:>16} {tiles:>16} {input:>16} {kernel:>16}");
    };
    columns("GFLOP/s", ["forward", "forward, tiles", "input gradient", "kernel gradient"]);
    let row = |name: &str, forward: f64, tiles: Option<f64>, gradients: [f64; 2]| {
        let share = |rate: f64| format!("{rate:5.0} ({:3.0} %)", 100.0 * rate / limit);
        let [input, kernel] = gradients.map(share);
        columns(name, [&share(forward), &tiles.map_or_else(String::new, share), &input, &kernel]);
    };
    for (channels, out_channels, extent, kernel, stride) in CONVOLUTIONS {
        let (extents, kernel, stride) = ([extent; 2], [kernel; 2], [stride; 2]);
        let padding = Padding::same(extents, kernel, stride);
        let [height, width] = extents;
        let shape = Conv2dShape {
            batch: profile.batch,
            height,
            width,
            channels,
            out_channels,
            kernel,
            stride,
            padding,
            groups: 1,
        };
        let name =
            format!("{channels}→{out_channels}, {extent}x{extent}, {0}x{0} / {1}", kernel[0], stride[0]);
        let [forward, gradients @ ..] = of_convolution(kernels, &shape, profile.seconds);
        let tiles = reference::by_tiles(&shape).then(|| of_tiles(kernels, &shape, profile.seconds));
        row(&name, forward, tiles, gradients);
    }
    let MatmulShape { rows, inner, columns } = MATRIX;
    let [forward, gradients @ ..] = of_matrices(kernels, MATRIX, profile.seconds);
    row(&format!("matrices, {rows}x{inner}x{columns}"), forward, None, gradients);
}

/// GFLOP/s of the forward pass by Winograd's algorithm.
fn of_tiles(kernels: &Kernels, shape: &Conv2dShape, seconds: f64) -> f64 {
    let [x, w, mut y] = [shape.input_len(), shape.weight_len(), shape.output_len()].map(numbers);
    let convolution =
        Convolution { algorithm: Algorithm::Winograd, ..Convolution::new(x.as_slice(), w.as_slice()) };
    work(shape) / best(seconds, || kernels.convolve(shape, &convolution, y.as_mut_slice()))
}

/// Floating-point operations of direct sums, in billions.
fn work(shape: &Conv2dShape) -> f64 {
    2e-9 * (shape.output_len() * shape.weight_len() / shape.out_channels) as f64
}

/// GFLOP/s of the direct forward pass and of both gradients.
fn of_convolution(kernels: &Kernels, shape: &Conv2dShape, seconds: f64) -> [f64; 3] {
    let [x, w, y] = [shape.input_len(), shape.weight_len(), shape.output_len()].map(numbers);
    let (mut dx, mut dw, mut dy) = (x.clone(), w.clone(), y.clone());
    let [x, w, y] = [&x, &w, &y].map(Tensor::as_slice);
    let [dx, dw, dy] = [&mut dx, &mut dw, &mut dy].map(Tensor::as_mut_slice);
    let work = work(shape);
    [
        work / best(seconds, || kernels.conv2d(shape, x, w, 0.0, ChannelAffine::IDENTITY, dy)),
        work / best(seconds, || kernels.conv2d_input_gradient(shape, y, w, dx)),
        work / best(seconds, || kernels.conv2d_kernel_gradient(shape, x, 0.0, y, dw)),
    ]
}

/// GFLOP/s of a product and of both gradients.
fn of_matrices(kernels: &Kernels, dims: MatmulShape, seconds: f64) -> [f64; 3] {
    let MatmulShape { rows, inner, columns } = dims;
    let [a, b, y] = [rows * inner, inner * columns, rows * columns].map(numbers);
    let (mut da, mut db, mut dy) = (a.clone(), b.clone(), y.clone());
    let [a, b, y] = [&a, &b, &y].map(Tensor::as_slice);
    let [da, db, dy] = [&mut da, &mut db, &mut dy].map(Tensor::as_mut_slice);
    let work = 2e-9 * (rows * inner * columns) as f64;
    [
        work / best(seconds, || kernels.matmul(dims, a, b, ChannelAffine::IDENTITY, dy)),
        work / best(seconds, || kernels.matmul_left_gradient(dims, y, b, da)),
        work / best(seconds, || kernels.matmul_right_gradient(dims, a, y, db)),
    ]
}

/// Aligned, as the numbers of a training step are: those images are read where they lie, not from padded copies.
fn numbers(len: usize) -> Tensor {
    Tensor::from_fn(&[len], |i| (i % 89) as f32 * 0.01 - 0.4)
}

/// Seconds of the fastest run within this time, after one that warms up.
fn best(seconds: f64, mut run: impl FnMut()) -> f64 {
    run();
    let (begin, mut best) = (Instant::now(), f64::INFINITY);
    while begin.elapsed().as_secs_f64() < seconds {
        let start = Instant::now();
        run();
        best = start.elapsed().as_secs_f64().min(best);
    }
    best
}

/// GFLOP/s of multiply-adds on registers alone.
fn limit(kernels: &Kernels) -> f64 {
    const ROUNDS: usize = 20_000;
    let (multiply_adds, _) = kernels.f32_limit(ROUNDS);
    2e-9 * multiply_adds as f64 / best(0.2, || _ = black_box(kernels.f32_limit(black_box(ROUNDS))))
}
