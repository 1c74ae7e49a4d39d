//! Packed convolutions on every instruction set of the machine, each with the fraction of what that
//! instruction set could do at most: the same word operations on operands that stay in the first
//! cache, measured in the same run.
//!
//! ```text
//! cargo bench --bench packed                    quick: about a minute
//! cargo bench --bench packed -- --full          for figures to publish
//! cargo bench --bench packed -- avx512          those with this in their name
//! ```
//!
//! All on one thread, except where the name says otherwise. Criterion prints multiply-accumulates
//! per second from its estimate of the mean; the fraction is that of the fastest sample, which
//! neighbours on the machine disturb least.

#[path = "support/bits.rs"]
mod bits;
mod support;

use criterion::measurement::WallTime;
use criterion::{BenchmarkGroup, Criterion, Throughput};
use qnn_kernels::packed::{
    ByteInput, ConvGeometry, Encoding, Extreme, Int8Conv, Layout, Output, PackedConv, PoolGeometry,
    Threshold, Thresholds,
};
use qnn_kernels::{Algorithm, ChannelAffine, FloatConv, Isa, Kernels, Padding};

const SAME: Padding = Padding { top: 1, bottom: 1, left: 1, right: 1 };

fn main() {
    // From another thread than the pool's, every call would have to enter the pool, which takes some microseconds.
    let pool = rayon::ThreadPoolBuilder::new().num_threads(1).build().expect("a thread");
    pool.install(|| {
        let mut criterion = support::criterion(support::Profile { samples: 10, seconds: [0.2, 3.0] });
        Isa::available().for_each(|isa| bench_isa(&mut criterion, isa));
        criterion.final_summary();
    });
}

fn bench_isa(criterion: &mut Criterion, isa: Isa) {
    let kernels = Kernels::of(isa).expect("an available instruction set");
    let limit = bits::limit(kernels);
    println!("{isa}: at most {:.0} G multiply-accumulates of bits per second", limit / 1e9);
    let mut bench = Bench { group: criterion.benchmark_group("packed"), kernels, limit };
    for (channels, extent) in [(64, 56), (128, 28), (256, 14), (512, 7)] {
        bench.packed_input(&square(channels, extent));
        bench.float_input(&square(channels, extent));
    }
    // The layers of ResNet-20.
    for (channels, extent) in [(16, 32), (32, 16), (64, 8)] {
        bench.packed_input(&square(channels, extent));
    }
    bench.scaled(&square(128, 28));
    bench.encodings(&square(128, 28));
    bench.product(1024, 1024, 100);
    bench.pool(128, 28);
    bench.threads(&square(128, 28), 8);
    for extent in [3, 4, 5] {
        bench.metu(&ConvGeometry::new([16, 16, 3], [extent; 2], 8));
    }
    bench.group.finish();
}

/// A 3x3 convolution between as many channels, of a square image, padded to keep its extent.
fn square(channels: usize, extent: usize) -> ConvGeometry {
    ConvGeometry { padding: SAME, ..ConvGeometry::new([extent, extent, channels], [3, 3], channels) }
}

struct Bench<'a> {
    group: BenchmarkGroup<'a, WallTime>,
    kernels: &'static Kernels,
    limit: f64,
}

impl Bench<'_> {
    /// Times `run`, prints which part of the limit it reached, and returns its best time in seconds.
    fn time(&mut self, name: &str, macs: u64, run: impl FnMut()) -> f64 {
        let best = self.measure(name, macs, run);
        if best.is_finite() {
            let fraction = 100.0 * macs as f64 / best / self.limit;
            println!("{:>48} {:9.4} ms at best, {fraction:5.1} % of the limit", "", best * 1e3);
        }
        best
    }

    fn measure(&mut self, name: &str, elements: u64, run: impl FnMut()) -> f64 {
        self.group.throughput(Throughput::Elements(elements));
        bits::best(&mut self.group, &format!("{name}/{}", self.kernels.isa()), run)
    }

    fn packed_input(&mut self, geometry: &ConvGeometry) {
        let mut layer = Layer::new(geometry, 1, Encoding::Sign, Encoding::Sign);
        let kernels = self.kernels;
        self.time(&format!("conv3x3/{}", name(geometry)), geometry.macs(), || layer.run(kernels));
    }

    fn float_input(&mut self, geometry: &ConvGeometry) {
        let mut layer = Layer::new(geometry, 1, Encoding::Sign, Encoding::Sign);
        let values: Vec<f32> =
            (0..geometry.pixels() * geometry.channels).map(|index| (index * 7919 % 5) as f32 - 2.0).collect();
        let kernels = self.kernels;
        self.time(&format!("conv3x3_from_f32/{}", name(geometry)), geometry.macs(), || {
            kernels.pack_signs(layer.conv.x_layout(), &values, &mut layer.x).expect("numbers");
            layer.run(kernels);
        });
    }

    fn scaled(&mut self, geometry: &ConvGeometry) {
        let layer = Layer::new(geometry, 1, Encoding::Sign, Encoding::Sign);
        let (scale, kernels) = (vec![0.1; geometry.out_channels], self.kernels);
        let affine = ChannelAffine { scale: Some(&scale), bias: Some(&scale) };
        let mut y = vec![0.0; geometry.out_pixels() * geometry.out_channels];
        self.time(&format!("conv3x3_to_f32/{}", name(geometry)), geometry.macs(), || {
            layer.conv.run(kernels, &layer.x, Output::Scaled { affine, y: &mut y });
        });
    }

    /// One multiply-accumulate for every pair of planes: a ternary weight has one, a ternary input two.
    fn encodings(&mut self, geometry: &ConvGeometry) {
        let (unit, two) = (Encoding::Unsigned { bits: 1 }, Encoding::Unsigned { bits: 2 });
        for (what, x, w, pairs) in [
            ("unit_x_sign", unit, Encoding::Sign, 1),
            ("sign_x_ternary", Encoding::Sign, Encoding::Ternary, 1),
            ("ternary_x_sign", Encoding::Ternary, Encoding::Sign, 2),
            ("ternary_x_ternary", Encoding::Ternary, Encoding::Ternary, 2),
            ("2_x_1_bit", two, Encoding::Sign, 2),
            ("2_x_2_bit", two, Encoding::Odd { bits: 2 }, 4),
        ] {
            let mut layer = Layer::new(geometry, 1, x, w);
            let kernels = self.kernels;
            self.time(&format!("{what}/{}", name(geometry)), pairs * geometry.macs(), || layer.run(kernels));
        }
    }

    fn product(&mut self, inner: usize, columns: usize, rows: usize) {
        let geometry = ConvGeometry::matmul(inner, columns);
        let mut layer = Layer::new(&geometry, rows, Encoding::Sign, Encoding::Sign);
        let kernels = self.kernels;
        self.time(&format!("matmul/{rows}x{inner}x{columns}"), rows as u64 * geometry.macs(), || {
            layer.run(kernels);
        });
    }

    fn pool(&mut self, channels: usize, extent: usize) {
        let layout = Layout::new(Encoding::Sign, channels).expect("a layout");
        let geometry = PoolGeometry {
            height: extent,
            width: extent,
            window: [2, 2],
            stride: [2, 2],
            padding: Padding::NONE,
        };
        let x = vec![0x5a; layout.bytes_for(extent * extent)];
        let mut y = vec![0; layout.bytes_for(geometry.out_height() * geometry.out_width())];
        let kernels = self.kernels;
        let elements = (extent * extent * channels) as u64;
        self.measure(&format!("max_pool2x2/{channels}x{extent}x{extent}"), elements, || {
            kernels.pool_codes(&geometry, layout, Extreme::Largest, &x, &mut y);
        });
    }

    /// METU's small convolution in floats whose weights were laid out once, in bytes and in bits.
    fn metu(&mut self, geometry: &ConvGeometry) {
        let kernels = self.kernels;
        let x: Vec<f32> =
            (0..geometry.pixels() * geometry.channels).map(|at| (at * 37 % 256) as f32).collect();
        let signs: Vec<i8> =
            (0..geometry.weight_len()).map(|at| if at * 7 % 5 < 2 { -1 } else { 1 }).collect();
        let len = geometry.out_pixels() * geometry.out_channels;
        let (mut y, mut sums) = (vec![0.0; len], vec![0; len]);
        let mut time = |form: &str, run: &mut dyn FnMut()| {
            let [height, width] = geometry.kernel;
            self.measure(&format!("metu{height}x{width}/{form}"), geometry.macs(), run)
        };
        let weights: Vec<f32> = signs.iter().map(|&sign| f32::from(sign)).collect();
        let shape = geometry.undilated(1).expect("a shape");
        let conv = FloatConv::new(kernels, &shape, &weights, 0.0, ChannelAffine::IDENTITY, Algorithm::Direct)
            .expect("a convolution");
        let float = time("f32", &mut || conv.run(&x, &mut y));
        let bytes: Vec<u8> = x.iter().map(|&value| value as u8).collect();
        let conv = Int8Conv::new(geometry, ByteInput::SYMMETRIC, &signs).expect("a convolution");
        let int8 = time("int8", &mut || {
            conv.run(kernels, &bytes, Output::Accumulators(&mut sums).into());
        });
        let layer = Layer::new(geometry, 1, Encoding::Sign, Encoding::Sign);
        let binary = time("binary", &mut || {
            layer.conv.run(kernels, &layer.x, Output::Accumulators(&mut sums));
        });
        if float.is_finite() && int8.is_finite() && binary.is_finite() {
            let (int8, binary) = (float / int8, float / binary);
            println!("{:>48} int8 is {int8:.2}, binary {binary:.2} times as fast as f32", "");
        }
    }

    fn threads(&mut self, geometry: &ConvGeometry, batch: usize) {
        let kernels = self.kernels;
        let mut time = |threads: usize| {
            let mut layer = Layer::new(geometry, batch, Encoding::Sign, Encoding::Sign);
            let pool = rayon::ThreadPoolBuilder::new().num_threads(threads).build().expect("a thread pool");
            let name = format!("batch{batch}_threads{threads}/{}", name(geometry));
            self.time(&name, batch as u64 * geometry.macs(), || pool.install(|| layer.run(kernels)))
        };
        let (one, two) = (time(1), time(2));
        if two.is_finite() {
            println!("{:>48} two threads are {:.2} times as fast as one", "", one / two);
        }
    }
}

fn name(geometry: &ConvGeometry) -> String {
    format!("{}x{}x{}", geometry.channels, geometry.height, geometry.width)
}

/// A packed convolution with its input and its output of bits.
struct Layer {
    conv: PackedConv,
    thresholds: Thresholds,
    layout: Layout,
    x: Vec<u8>,
    y: Vec<u8>,
}

impl Layer {
    fn new(geometry: &ConvGeometry, images: usize, x: Encoding, w: Encoding) -> Self {
        let codes = |encoding: Encoding, len: usize| {
            (0..len)
                .map(|index| encoding.code(index * 7919 / 5 % encoding.levels()) as f32)
                .collect::<Vec<_>>()
        };
        let conv =
            PackedConv::new(geometry, x, 0, w, &codes(w, geometry.weight_len())).expect("a convolution");
        let layout = Layout::new(Encoding::Sign, geometry.out_channels).expect("a layout");
        let mut packed = vec![0; conv.x_layout().bytes_for(images * geometry.pixels())];
        let input = codes(x, images * geometry.pixels() * geometry.channels);
        conv.x_layout().pack(&input, &mut packed).expect("codes");
        Self {
            conv,
            thresholds: Thresholds::binary(&vec![Threshold { cut: 3, flip: false }; geometry.out_channels]),
            layout,
            x: packed,
            y: vec![0; layout.bytes_for(images * geometry.out_pixels())],
        }
    }

    fn run(&mut self, kernels: &Kernels) {
        let out = Output::Codes { thresholds: &self.thresholds, layout: self.layout, y: &mut self.y };
        self.conv.run(kernels, &self.x, out);
    }
}
