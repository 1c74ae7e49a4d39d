//! How fast tensors are quantized, against what the memory can do in the same run.
//!
//! ```text
//! cargo bench --bench quantizers             a quick profile, then the tables
//! cargo bench --bench quantizers -- --full   more samples, for figures to publish
//! ```
//!
//! A tensor of 16 million f32 is read once and its values are written once, on all cores; a map that measures something reads it
//! twice and writes its codes. The measure is a copy of the same tensor by the same threads, each cutting the same pieces. A
//! pseudo-gradient reads two tensors; its measure is their product. After the benchmarks a table gives each one's bytes per second and
//! its fraction of the measure's, the best of several interleaved repetitions of both.

mod support;

use std::hint::black_box;
use std::time::Instant;

use criterion::Throughput;
use qnn::quant::elementwise::{map_into, zip_into};
use qnn::quant::ndarray::{ArrayD, IxDyn};
use qnn::quant::registry::{self, Parameters};
use qnn::quant::{Estimator, EvenLevels, Grid, Groups, Quantizer};

/// Elements: 64 MiB, far beyond any cache.
const LEN: usize = 1 << 24;

fn main() {
    let x = tensor();
    let mut out = ArrayD::zeros(x.raw_dim());
    let mut criterion = support::criterion(support::Profile { samples: 10, seconds: [1.0, 5.0] });
    let mut group = criterion.benchmark_group("quantizers/16777216");
    group.throughput(Throughput::Bytes(bytes(1)));
    group.bench_function("copy", |b| b.iter(|| copy(&x, &mut out)));
    for (name, parameters) in maps() {
        let map = registry::quantizer(name, &parameters).expect("the parameters fit");
        let grid = map.fit(x.view()).expect("finite elements");
        group.bench_function(name, |b| b.iter(|| values(&*map, &x, &grid, &mut out)));
        if measures(name) {
            group.throughput(Throughput::Bytes(bytes(2)));
            group.bench_function(format!("{name} with its statistic"), |b| {
                b.iter(|| fit_and_codes(&*map, &x, &mut out))
            });
            group.throughput(Throughput::Bytes(bytes(1)));
        }
    }
    let (dy, grid) = (upstream(&x), levels(&x));
    for name in registry::estimators().map(|listing| listing.name) {
        let estimator = registry::estimator(name, &Parameters::default()).expect("defaults suffice");
        group.throughput(Throughput::Bytes(bytes(2)));
        group.bench_function(format!("gradient {name}"), |b| {
            b.iter(|| pullback(&*estimator, &x, &grid, &dy, &mut out))
        });
    }
    group.finish();
    // A compile check (`cargo bench --no-run`, `cargo test --benches`) wants no table.
    if std::env::args().any(|argument| argument == "--bench") {
        table_of_maps(&x, &mut out);
        table_of_gradients(&x, &dy, &grid, &mut out);
    }
}

fn table_of_maps(x: &ArrayD<f32>, out: &mut ArrayD<f32>) {
    println!("{:<24}{:>10}{:>14}", "map", "GB/s", "of the copy");
    for (name, parameters) in maps() {
        let map = registry::quantizer(name, &parameters).expect("the parameters fit");
        let grid = map.fit(x.view()).expect("finite elements");
        let [of_copy, of_map, of_both] = best(|| {
            let with_statistic =
                if measures(name) { seconds(|| fit_and_codes(&*map, x, out)) } else { f64::INFINITY };
            [seconds(|| copy(x, out)), seconds(|| values(&*map, x, &grid, out)), with_statistic]
        });
        row(name, 1, of_map, of_copy);
        if measures(name) {
            // The copy moves two tensors, this map three.
            row("  with its statistic", 2, of_both, 1.5 * of_copy);
        }
    }
}

fn table_of_gradients(x: &ArrayD<f32>, dy: &ArrayD<f32>, grid: &Grid, out: &mut ArrayD<f32>) {
    println!("{:<24}{:>10}{:>14}", "gradient", "GB/s", "of the product");
    for name in registry::estimators().map(|listing| listing.name) {
        let estimator = registry::estimator(name, &Parameters::default()).expect("defaults suffice");
        let [of_product, of_gradient] =
            best(|| [seconds(|| product(x, dy, out)), seconds(|| pullback(&*estimator, x, grid, dy, out))]);
        row(name, 2, of_gradient, of_product);
    }
}

fn row(name: &str, reads: u64, seconds: f64, limit: f64) {
    println!("{name:<24}{:>10.1}{:>13.0}%", bytes(reads) as f64 / seconds / 1e9, 100.0 * limit / seconds);
}

/// The least of several repetitions, each for itself.
fn best<const N: usize>(mut times: impl FnMut() -> [f64; N]) -> [f64; N] {
    (0..9).fold([f64::INFINITY; N], |least, _| {
        let times = times();
        std::array::from_fn(|i| least[i].min(times[i]))
    })
}

/// Bytes moved by one write and this many reads.
fn bytes(reads: u64) -> u64 {
    (reads + 1) * 4 * LEN as u64
}

fn seconds(work: impl FnOnce()) -> f64 {
    let start = Instant::now();
    work();
    start.elapsed().as_secs_f64()
}

fn copy(x: &ArrayD<f32>, out: &mut ArrayD<f32>) {
    map_into(x.view(), Groups::Tensor, &[()], out.view_mut(), |x, ()| x).expect("equal shapes");
    black_box(&out);
}

fn product(x: &ArrayD<f32>, y: &ArrayD<f32>, out: &mut ArrayD<f32>) {
    zip_into(x.view(), y.view(), Groups::Tensor, &[()], out.view_mut(), |x, y, ()| x * y)
        .expect("equal shapes");
    black_box(&out);
}

fn pullback(estimator: &dyn Estimator, x: &ArrayD<f32>, grid: &Grid, dy: &ArrayD<f32>, dx: &mut ArrayD<f32>) {
    estimator.pullback_into(x.view(), grid, dy.view(), dx.view_mut()).expect("a grid of this tensor");
    black_box(&dx);
}

fn values(map: &dyn Quantizer, x: &ArrayD<f32>, grid: &Grid, out: &mut ArrayD<f32>) {
    map.values_into(x.view(), grid, out.view_mut()).expect("a grid of this tensor");
    black_box(&out);
}

fn fit_and_codes(map: &dyn Quantizer, x: &ArrayD<f32>, out: &mut ArrayD<f32>) {
    map.fit_codes_into(x.view(), out.view_mut()).expect("finite elements");
    black_box(&out);
}

/// Numbers in (−2, 2) without a pattern that branches could learn.
fn tensor() -> ArrayD<f32> {
    let mut state = 1_u64;
    let numbers = (0..LEN).map(|_| {
        state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        ((state >> 40) as f32 / (1 << 23) as f32 - 1.0) * 2.0
    });
    // The first axis is a batch of one, for the map that has a scale per example.
    ArrayD::from_shape_vec(IxDyn(&[1, LEN / 64, 64]), numbers.collect())
        .expect("as many numbers as the shape has")
}

/// Something to multiply slopes with.
fn upstream(x: &ArrayD<f32>) -> ArrayD<f32> {
    x.mapv(|x| 0.5 * x + 0.1)
}

/// Four levels from −1 to 1, for every pseudo-gradient.
fn levels(x: &ArrayD<f32>) -> Grid {
    EvenLevels::new(4, 1.0).and_then(|map| map.fit(x.view())).expect("finite elements")
}

fn measures(name: &str) -> bool {
    [
        "scaled-sign",
        "hysteresis-sign",
        "magnitude-aware-sign",
        "ternary",
        "trained-ternary",
        "dorefa-weights",
        "dorefa-gradients",
        "affine",
        "inq",
    ]
    .contains(&name)
}

/// Every map of the registry.
fn maps() -> Vec<(&'static str, Parameters)> {
    let names = registry::quantizers().filter(|listing| listing.name != "identity");
    names
        .map(|listing| {
            let takes = |parameter| listing.parameters.contains(&parameter);
            let parameters = Parameters {
                bits: takes("bits").then_some(4),
                scale: takes("scale").then_some(0.125),
                wp: takes("wp").then_some(0.7),
                wn: takes("wn").then_some(0.4),
                lowest: takes("lowest").then_some(-6),
                highest: takes("highest").then_some(0),
                clip: (listing.name == "pact").then_some(1.5),
                ..Parameters::default()
            };
            (listing.name, parameters)
        })
        .collect()
}
