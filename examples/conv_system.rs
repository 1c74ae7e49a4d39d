//! METU's convolution system, and what became of it: times of one small convolution in six forms, and the memory that its weights take.
//!
//! ```text
//! cargo run --release --example conv_system
//! cargo run --release --example conv_system -- --repetitions 2001 --isa avx2
//! ```
//!
//! The thesis's system convolves a 3×16×16 image with eight filters, without padding. Its quantized form packs weights into indices of one or
//! two bits and looks them up in a codebook where they are used: that saved memory, and took 1.3 to 1.8 times as long. The packed kernels here
//! compute with the codes themselves.

use std::hint::black_box;
use std::process::ExitCode;
use std::time::Instant;

use clap::Parser;
use qnn::experiment::{check_instruction_set, say};
use qnn_kernels::packed::{
    ByteInput, ConvGeometry, Encoding, Int8Conv, LookupConv, Output, PackError, PackedConv, StoredValues,
    compression_rate, plain_conv2d,
};
use qnn_kernels::{ChannelAffine, Isa, Kernels};

/// Times METU's convolution in plain loops, by index lookup, and with this project's kernels.
#[derive(Parser)]
struct Flags {
    /// How often each convolution is timed; the median is printed.
    #[arg(long, default_value_t = 501, value_parser = clap::value_parser!(u32).range(1..=1_000_000))]
    repetitions: u32,
    /// Instruction set of the kernels: scalar, popcnt, avx2, avx512 or neon; the machine's best if it is not given.
    #[arg(long)]
    isa: Option<Isa>,
}

const IMAGE: [usize; 3] = [16, 16, 3];
const FILTERS: usize = 8;
const EXTENTS: [usize; 3] = [3, 4, 5];

fn main() -> ExitCode {
    match run(&Flags::parse()) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("error: {error}");
            ExitCode::FAILURE
        }
    }
}

fn run(flags: &Flags) -> Result<(), Box<dyn std::error::Error>> {
    let kernels = match flags.isa {
        Some(isa) => {
            Kernels::of(isa).ok_or_else(|| format!("--isa: this machine has no {isa} instructions"))?
        }
        None => {
            check_instruction_set()?;
            Kernels::current()
        }
    };
    let [height, width, channels] = IMAGE;
    say(format_args!(
        "{channels}x{height}x{width} image, {FILTERS} filters, no padding; {} kernels, one thread",
        kernels.isa()
    ));
    say(format_args!(
        "median of {} runs in microseconds, and how many times faster than the base\n",
        flags.repetitions
    ));
    say(format_args!("{:34}{:>16}{:>16}{:>16}", "", "3x3", "4x4", "5x5"));
    let pool = rayon::ThreadPoolBuilder::new().num_threads(1).build()?;
    let columns = EXTENTS.map(|extent| pool.install(|| times(flags, kernels, extent)));
    let [first, second, third] = columns.map(|column| column.map_err(|error| error.to_string()));
    let columns = [first?, second?, third?];
    for (row, (form, _)) in columns[0].iter().enumerate() {
        let cell =
            |column: &[(&str, f64)]| format!("{:9.2} {:5.1}x", column[row].1, column[0].1 / column[row].1);
        let cells = columns.iter().map(|column| format!("{:>16}", cell(column))).collect::<String>();
        say(format_args!("{form:34}{cells}"));
    }
    memory();
    Ok(())
}

type Times = Vec<(&'static str, f64)>;

/// Every form of the convolution, in microseconds.
fn times(flags: &Flags, kernels: &Kernels, extent: usize) -> Result<Times, PackError> {
    let geometry = ConvGeometry::new(IMAGE, [extent; 2], FILTERS);
    let signs: Vec<f32> =
        (0..geometry.weight_len()).map(|at| if at * 7 % 5 < 2 { -1.0 } else { 1.0 }).collect();
    let x: Vec<f32> =
        (0..geometry.pixels() * geometry.channels).map(|at| (at * 37 % 256) as f32 - 128.0).collect();
    let len = geometry.out_pixels() * FILTERS;
    let (mut y, mut sums) = (vec![0.0; len], vec![0; len]);
    let mut times = Times::new();
    let mut time = |form, run: &mut dyn FnMut()| times.push((form, median(flags.repetitions, run)));

    time("base: plain loops over floats", &mut || plain_conv2d(&geometry, &x, &signs, &mut y));
    let indices: Vec<u8> = signs.iter().map(|&sign| u8::from(sign > 0.0)).collect();
    let binary = LookupConv::new(&geometry, &[-1.0, 1.0], &indices)?;
    time("index lookup, 1 bit", &mut || binary.run(&x, &mut y));
    let ternary = LookupConv::new(&geometry, &[-1.0, 1.0, 0.0], &indices)?;
    time("index lookup, 2 bits", &mut || ternary.run(&x, &mut y));
    let shape = geometry.undilated(1).map_err(PackError::Shape)?;
    time("this project, f32", &mut || {
        kernels.conv2d(&shape, &x, &signs, 0.0, ChannelAffine::IDENTITY, &mut y);
    });
    let bytes: Vec<u8> = x.iter().map(|&value| (value as i8).cast_unsigned()).collect();
    let weights: Vec<i8> = signs.iter().map(|&sign| sign as i8).collect();
    let int8 = Int8Conv::new(&geometry, ByteInput::SYMMETRIC, &weights)?;
    time("this project, int8 x int8", &mut || {
        int8.run(kernels, &bytes, Output::Accumulators(&mut sums).into())
    });
    let bits = PackedConv::new(&geometry, Encoding::Sign, 0, Encoding::Sign, &signs)?;
    let mut packed = vec![0; bits.x_layout().bytes_for(geometry.pixels())];
    bits.x_layout().pack_signs(&x, &mut packed)?;
    time("this project, binary x binary", &mut || {
        bits.run(kernels, &packed, Output::Accumulators(&mut sums))
    });
    Ok(times)
}

/// Microseconds of one run. Short runs are timed several at a time.
fn median(repetitions: u32, run: &mut dyn FnMut()) -> f64 {
    const AT_A_TIME: u32 = 8;
    black_box(&mut *run)();
    let mut times: Vec<f64> = (0..repetitions)
        .map(|_| {
            let start = Instant::now();
            (0..AT_A_TIME).for_each(|_| black_box(&mut *run)());
            1e6 * start.elapsed().as_secs_f64() / f64::from(AT_A_TIME)
        })
        .collect();
    times.sort_by(f64::total_cmp);
    times[times.len() / 2]
}

/// How much less memory the weights take as indices: the thesis's table, and the rates if every level is counted.
fn memory() {
    say(format_args!("\nmemory of the weights: times less than as floats"));
    say(format_args!("{:10}{:>12}{:>12}{:>28}", "filter", "1 bit", "2 bits", "every level stored"));
    for extent in EXTENTS {
        let rate =
            |levels, stored| compression_rate(extent * extent * IMAGE[2] * FILTERS, 32, levels, stored);
        say(format_args!(
            "{:10}{:12.2}{:12.2}{:16.2}{:12.2}",
            format!("{extent}x{extent}"),
            rate(2, StoredValues::Magnitudes),
            rate(3, StoredValues::Magnitudes),
            rate(2, StoredValues::Levels),
            rate(3, StoredValues::Levels),
        ));
    }
}
