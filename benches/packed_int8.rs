//! Convolutions of bytes and of weights that stay packed, each beside the limit of the machine, measured in the same run.
//!
//! ```text
//! cargo bench --bench packed_int8                        one thread, a quick look
//! cargo bench --bench packed_int8 -- --full              more repetitions, for figures to publish
//! cargo bench --bench packed_int8 -- --threads 2 --batch 8
//! cargo bench --bench packed_int8 -- --isa avx2          one instruction set
//! ```
//!
//! The limit is what dot products of bytes on registers alone reach, and for f32 activations what fused multiply-adds reach there. Every time
//! is the shortest of several runs: whatever else the machine does only adds.

use std::hint::black_box;
use std::time::Instant;

use clap::Parser;
use qnn_kernels::packed::{
    ByteInput, CodeRange, ConvGeometry, Encoding, FixedPoint, Int8Conv, Int8Output, Output, Requantize,
    Rounded, WeightOnlyConv,
};
use qnn_kernels::{Algorithm, ChannelAffine, FloatConv, Isa, Kernels, Padding};

/// Times convolutions of bytes and of weights that stay packed.
#[derive(Parser)]
struct Flags {
    /// More repetitions, for figures to publish.
    #[arg(long)]
    full: bool,
    /// Threads of the pool.
    #[arg(long, default_value_t = 1)]
    threads: usize,
    /// Images at a time.
    #[arg(long, default_value_t = 1)]
    batch: usize,
    /// One instruction set (scalar, popcnt, avx2, avx512, neon) instead of all that the machine has; without this and `--full`, all with vectors.
    #[arg(long)]
    isa: Option<Isa>,
    // Cargo passes it to every benchmark, and any word is a part of names for the others.
    #[arg(long, hide = true)]
    bench: bool,
    #[arg(hide = true)]
    _filter: Option<String>,
}

fn main() {
    let flags = Flags::parse();
    let pool = rayon::ThreadPoolBuilder::new().num_threads(flags.threads).build().expect("a pool of threads");
    pool.install(|| {
        for isa in Isa::available().filter(|isa| flags.isa.is_none_or(|only| only == *isa)) {
            // Without vectors these figures say little and take minutes.
            if flags.full || flags.isa.is_some() || !matches!(isa, Isa::Popcnt | Isa::Scalar) {
                table(&flags, Kernels::of(isa).expect("available"));
            }
        }
    });
}

fn table(flags: &Flags, kernels: &'static Kernels) {
    let (bytes, floats) = (limit(kernels, Kernels::int8_limit), limit(kernels, Kernels::f32_limit));
    println!(
        "{}: {}, {} threads, batch {}",
        kernels.isa(),
        kernels.int8_instruction(),
        flags.threads,
        flags.batch
    );
    println!(
        "  limits of one core: {:.1} G multiply-accumulates/s of bytes, {:.1} of f32",
        bytes / 1e9,
        floats / 1e9
    );
    for (size, channels) in [(56, 64), (28, 128), (14, 256), (7, 512)] {
        let padding = Padding { top: 1, bottom: 1, left: 1, right: 1 };
        let geometry =
            ConvGeometry { padding, ..ConvGeometry::new([size, size, channels], [3, 3], channels) };
        int8(flags, kernels, bytes, &geometry);
        weights_beside_f32(flags, kernels, floats, &geometry);
        weights_beside_int8(flags, kernels, bytes, &geometry);
    }
}

/// Multiply-accumulates in a second, of a run of so many rounds on registers.
fn limit<R>(kernels: &Kernels, run: fn(&Kernels, usize) -> (u64, R)) -> f64 {
    // Short runs: one of them finds the machine at its fastest.
    let rounds = if kernels.isa() == Isa::Scalar { 1000 } else { 20_000 };
    let seconds = shortest(200, || run(kernels, rounds));
    run(kernels, rounds).0 as f64 / seconds
}

/// Prints the time of a convolution, its rate and the part of the limit; gives back the time in seconds.
fn row(flags: &Flags, geometry: &ConvGeometry, what: &str, limit: f64, run: &mut dyn FnMut()) -> f64 {
    let seconds = shortest(if flags.full { 1000 } else { 60 }, run);
    let rate = flags.batch as f64 * geometry.macs() as f64 / seconds;
    let fraction = 100.0 * rate / limit / flags.threads as f64;
    println!(
        "  {:3}x{:<3} {:4} channels, {what:26} {:8.4} ms  {:6.1} G/s  {fraction:5.1} %",
        geometry.height,
        geometry.width,
        geometry.channels,
        1e3 * seconds,
        rate / 1e9
    );
    seconds
}

fn int8(flags: &Flags, kernels: &Kernels, limit: f64, geometry: &ConvGeometry) {
    let scales = vec![0.001_f32; geometry.out_channels];
    let weights: Vec<i8> = (0..geometry.weight_len()).map(|at| (at * 73 % 255) as i8).collect();
    let x = bytes(flags, geometry);
    let len = flags.batch * geometry.out_pixels() * geometry.out_channels;
    let (mut sums, mut codes) = (vec![0; len], vec![0; len]);
    let fixed = FixedPoint::new(&vec![0.001; geometry.out_channels], CodeRange::SYMMETRIC).expect("sound");
    let rounded = Rounded::new(&scales, &scales, CodeRange::SYMMETRIC).expect("sound");
    let conv = Int8Conv::new(geometry, ByteInput::SYMMETRIC, &weights).expect("sound");
    row(flags, geometry, "int8, accumulators", limit, &mut || {
        conv.run(kernels, &x, Output::Accumulators(&mut sums).into());
    });
    let ways = [
        ("int8, rounded f32", Requantize::Rounded(rounded)),
        ("int8, fixed point", Requantize::Fixed(fixed)),
    ];
    for (what, by) in ways {
        row(flags, geometry, what, limit, &mut || {
            conv.run(kernels, &x, Int8Output::Requantized { by: &by, y: &mut codes });
        });
    }
}

/// Weights that are laid out in every call, once, and not at all: binary and ternary ones stay packed.
fn weights_beside_f32(flags: &Flags, kernels: &'static Kernels, limit: f64, geometry: &ConvGeometry) {
    let signs = signs(geometry);
    let x: Vec<f32> = bytes(flags, geometry).iter().map(|&byte| f32::from(byte) / 17.0).collect();
    let mut y = vec![0.0; flags.batch * geometry.out_pixels() * geometry.out_channels];
    let shape = geometry.undilated(flags.batch).expect("a shape");
    let mut f32_row =
        |what: &str, run: &mut dyn FnMut(&mut [f32])| row(flags, geometry, what, limit, &mut || run(&mut y));
    let anew = f32_row("f32 weights x f32, anew", &mut |y| {
        kernels.conv2d(&shape, &x, &signs, 0.0, ChannelAffine::IDENTITY, y);
    });
    let conv = FloatConv::new(kernels, &shape, &signs, 0.0, ChannelAffine::IDENTITY, Algorithm::Direct)
        .expect("sound");
    let once = f32_row("f32 weights x f32, once", &mut |y| conv.run(&x, y));
    for (what, encoding) in WEIGHTS {
        let conv = WeightOnlyConv::new(geometry, encoding, &signs).expect("sound");
        let packed = f32_row(&format!("{what} weights x f32"), &mut |y| {
            conv.run(kernels, &x, 0.0, ChannelAffine::IDENTITY, y);
        });
        println!(
            "{:38}{:.2} times the time with f32 weights laid out once, {:.2} in every call",
            "",
            packed / once,
            packed / anew
        );
    }
}

fn weights_beside_int8(flags: &Flags, kernels: &Kernels, limit: f64, geometry: &ConvGeometry) {
    let bytes = bytes(flags, geometry);
    let mut sums = vec![0; flags.batch * geometry.out_pixels() * geometry.out_channels];
    let bias = vec![0; geometry.out_channels];
    for (what, encoding) in WEIGHTS {
        let conv = WeightOnlyConv::new(geometry, encoding, &signs(geometry)).expect("sound");
        let conv = conv.into_int8(ByteInput::SYMMETRIC, &bias).expect("sound");
        row(flags, geometry, &format!("{what} weights x int8"), limit, &mut || {
            conv.run(kernels, &bytes, Output::Accumulators(&mut sums).into());
        });
    }
}

const WEIGHTS: [(&str, Encoding); 2] = [("binary", Encoding::Sign), ("ternary", Encoding::Ternary)];

/// Weights that are binary, and ternary too.
fn signs(geometry: &ConvGeometry) -> Vec<f32> {
    (0..geometry.weight_len()).map(|at| if at * 73 % 7 < 3 { -1.0 } else { 1.0 }).collect()
}

fn bytes(flags: &Flags, geometry: &ConvGeometry) -> Vec<u8> {
    (0..flags.batch * geometry.pixels() * geometry.channels).map(|at| (at * 31) as u8).collect()
}

/// The shortest time of one call, in seconds, out of so many as long as they take no more than a second and a half together.
fn shortest<R>(repetitions: usize, mut run: impl FnMut() -> R) -> f64 {
    black_box(run());
    let (begin, mut best) = (Instant::now(), f64::INFINITY);
    for _ in 0..repetitions {
        let start = Instant::now();
        black_box(run());
        best = best.min(start.elapsed().as_secs_f64());
        if begin.elapsed().as_secs_f64() > 1.5 {
            break;
        }
    }
    best
}
