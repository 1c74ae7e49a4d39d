//! Convolutions of bytes and of weights that stay packed, each beside the limit of the machine, measured in the same run.
//!
//! ```text
//! cargo bench --bench packed_int8                        one thread, a quick look
//! cargo bench --bench packed_int8 -- --full              more repetitions, for figures to publish
//! cargo bench --bench packed_int8 -- --threads 2 --batch 8
//! cargo bench --bench packed_int8 -- --isa avx2          one instruction set
//! ```
//!
//! The limit is what dot products on registers alone reach. Every time is the shortest of several runs: whatever else the machine does only adds.

use std::hint::black_box;
use std::time::Instant;

use clap::Parser;
use qnn_kernels::packed::{
    ByteInput, CodeRange, ConvGeometry, FixedPoint, Int8Conv, Int8Output, Output, Requantize, Rounded,
};
use qnn_kernels::{Isa, Kernels, Padding};

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
    /// One instruction set (scalar, avx2, avx512, neon) instead of all that the machine has.
    #[arg(long)]
    isa: Option<Isa>,
    // Cargo passes it to every benchmark.
    #[arg(long, hide = true)]
    bench: bool,
}

fn main() {
    let flags = Flags::parse();
    let pool = rayon::ThreadPoolBuilder::new().num_threads(flags.threads).build().expect("a pool of threads");
    pool.install(|| {
        for isa in Isa::available().filter(|isa| flags.isa.is_none_or(|only| only == *isa)) {
            // As scalar: int8 has no use for counting bits.
            if isa != Isa::Popcnt {
                table(&flags, Kernels::of(isa).expect("available"));
            }
        }
    });
}

fn table(flags: &Flags, kernels: &Kernels) {
    let limit = limit(kernels);
    println!(
        "{}: {}, {} threads, batch {}",
        kernels.isa(),
        kernels.int8_instruction(),
        flags.threads,
        flags.batch
    );
    println!("  limit of one core {:.0} G multiply-accumulates/s", limit / 1e9);
    for (size, channels) in [(56, 64), (28, 128), (14, 256), (7, 512)] {
        let padding = Padding { top: 1, bottom: 1, left: 1, right: 1 };
        let geometry =
            ConvGeometry { padding, ..ConvGeometry::new([size, size, channels], [3, 3], channels) };
        conv(flags, kernels, limit, &geometry);
    }
}

/// Multiply-accumulates in a second.
fn limit(kernels: &Kernels) -> f64 {
    let seconds = shortest(20, || kernels.int8_limit(100_000));
    kernels.int8_limit(100_000).0 as f64 / seconds
}

fn conv(flags: &Flags, kernels: &Kernels, limit: f64, geometry: &ConvGeometry) {
    let scales = vec![0.001_f32; geometry.out_channels];
    let weights: Vec<i8> = (0..geometry.weight_len()).map(|at| (at * 73 % 255) as i8).collect();
    let x: Vec<u8> =
        (0..flags.batch * geometry.pixels() * geometry.channels).map(|at| (at * 31) as u8).collect();
    let len = flags.batch * geometry.out_pixels() * geometry.out_channels;
    let (mut sums, mut codes) = (vec![0; len], vec![0; len]);
    let fixed = FixedPoint::new(&vec![0.001; geometry.out_channels], CodeRange::SYMMETRIC).expect("sound");
    let rounded = Rounded::new(&scales, &scales, CodeRange::SYMMETRIC).expect("sound");
    let conv = Int8Conv::new(geometry, ByteInput::SYMMETRIC, &weights).expect("sound");
    let repetitions = if flags.full { 1000 } else { 60 };
    let mut row = |what: &str, run: &mut dyn FnMut()| {
        let seconds = shortest(repetitions, run);
        let rate = flags.batch as f64 * geometry.macs() as f64 / seconds;
        let fraction = 100.0 * rate / limit / flags.threads as f64;
        println!(
            "  {:3}x{:<3} {:4} channels, {what:18} {:8.4} ms  {:6.1} G/s  {fraction:5.1} %",
            geometry.height,
            geometry.width,
            geometry.channels,
            1e3 * seconds,
            rate / 1e9
        );
    };
    row("accumulators", &mut || conv.run(kernels, &x, Output::Accumulators(&mut sums).into()));
    for (what, by) in
        [("fixed point", Requantize::Fixed(fixed)), ("rounded f32", Requantize::Rounded(rounded))]
    {
        row(what, &mut || conv.run(kernels, &x, Int8Output::Requantized { by: &by, y: &mut codes }));
    }
}

/// The shortest time of one call, in seconds.
fn shortest<R>(repetitions: usize, mut run: impl FnMut() -> R) -> f64 {
    black_box(run());
    let time = |_| {
        let start = Instant::now();
        black_box(run());
        start.elapsed().as_secs_f64()
    };
    (0..repetitions).map(time).fold(f64::INFINITY, f64::min)
}
