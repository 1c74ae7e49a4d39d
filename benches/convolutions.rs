//! Convolutions in f32, forward and both gradients, on every instruction set that has vectors: the
//! rate of each, and the fraction of what that instruction set could do at most, which is fused
//! multiply-adds on registers, measured in the same run.
//!
//! ```text
//! cargo bench --bench convolutions               one thread, some ten seconds
//! cargo bench --bench convolutions -- avx2       one instruction set
//! ```
//!
//! Every figure is that of the fastest of many runs on warm buffers, which neighbours on the machine
//! disturb least.

use std::hint::black_box;
use std::time::Instant;

use qnn_kernels::{ChannelAffine, Conv2dShape, Isa, Kernels, Padding};

/// Few images: a run that is over before the system gives the core to another program is a fair one.
const BATCH: usize = 8;

fn main() {
    let names: Vec<String> = std::env::args().skip(1).filter(|name| !name.starts_with("--")).collect();
    rayon::ThreadPoolBuilder::new().num_threads(1).build_global().expect("the first use of threads");
    let vectors = [Isa::Avx512, Isa::Avx2, Isa::Neon].into_iter().filter(|isa| isa.is_available());
    for isa in vectors.filter(|isa| names.is_empty() || names.iter().any(|name| name == isa.name())) {
        bench(Kernels::of(isa).expect("an available instruction set"));
    }
}

fn bench(kernels: &Kernels) {
    let limit = limit(kernels);
    println!("{}: at most {limit:.0} GFLOP/s in fused multiply-adds", kernels.isa());
    println!("{:>32} {:>16} {:>16} {:>16}", "GFLOP/s", "forward", "input gradient", "kernel gradient");
    for (channels, out_channels, extent, kernel, stride) in [
        (3, 16, 32, 3, 1),
        (16, 16, 32, 3, 1),
        (16, 32, 32, 3, 2),
        (16, 32, 32, 1, 2),
        (32, 32, 16, 3, 1),
        (32, 64, 16, 3, 2),
        (64, 64, 8, 3, 1),
        (128, 128, 16, 3, 1),
        (256, 256, 8, 3, 1),
    ] {
        let (extents, kernel, stride) = ([extent; 2], [kernel; 2], [stride; 2]);
        let padding = Padding::same(extents, kernel, stride);
        let [height, width] = extents;
        let shape = Conv2dShape {
            batch: BATCH,
            height,
            width,
            channels,
            out_channels,
            kernel,
            stride,
            padding,
            groups: 1,
        };
        let rates = rates(kernels, &shape).map(|rate| format!("{rate:5.0} ({:3.0} %)", 100.0 * rate / limit));
        let name =
            format!("{channels}→{out_channels}, {extent}x{extent}, {0}x{0} / {1}", kernel[0], stride[0]);
        println!("{name:>32} {:>16} {:>16} {:>16}", rates[0], rates[1], rates[2]);
    }
}

/// GFLOP/s of the forward pass and of both gradients.
fn rates(kernels: &Kernels, shape: &Conv2dShape) -> [f64; 3] {
    let numbers = |len: usize| -> Vec<f32> { (0..len).map(|i| (i % 89) as f32 * 0.01 - 0.4).collect() };
    let (x, w, y) = (numbers(shape.input_len()), numbers(shape.weight_len()), numbers(shape.output_len()));
    let (mut dx, mut dw, mut dy) = (x.clone(), w.clone(), y.clone());
    let work = 2e-9 * (shape.output_len() * shape.weight_len() / shape.out_channels) as f64;
    [
        work / best(|| kernels.conv2d(shape, &x, &w, 0.0, ChannelAffine::IDENTITY, &mut dy)),
        work / best(|| kernels.conv2d_input_gradient(shape, &y, &w, &mut dx)),
        work / best(|| kernels.conv2d_kernel_gradient(shape, &x, 0.0, &y, &mut dw)),
    ]
}

/// Seconds of the fastest run within a fifth of a second, after one that warms up.
fn best(mut run: impl FnMut()) -> f64 {
    run();
    let (begin, mut best) = (Instant::now(), f64::INFINITY);
    while begin.elapsed().as_secs_f64() < 0.2 {
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
    2e-9 * multiply_adds as f64 / best(|| _ = black_box(kernels.f32_limit(black_box(ROUNDS))))
}
