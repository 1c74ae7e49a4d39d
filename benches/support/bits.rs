//! What the benches of packed networks share: the limit of the machine and best times.

use std::cell::Cell;
use std::time::Instant;

use criterion::BenchmarkGroup;
use criterion::measurement::WallTime;
use qnn_kernels::Kernels;

/// Multiply-accumulates of bits per second without anything around them, at the best of many short
/// runs.
pub(crate) fn limit(kernels: &Kernels) -> f64 {
    let run = |_| {
        let start = Instant::now();
        let macs = kernels.count_bits_without_pause(50_000);
        macs as f64 / start.elapsed().as_secs_f64()
    };
    (0..200).map(run).fold(0.0, f64::max)
}

/// The shortest time in seconds; infinite if the command line asks for other names.
pub(crate) fn best(group: &mut BenchmarkGroup<'_, WallTime>, name: &str, mut run: impl FnMut()) -> f64 {
    let best = Cell::new(f64::INFINITY);
    group.bench_function(name, |bencher| {
        bencher.iter_custom(|iterations| {
            let start = Instant::now();
            (0..iterations).for_each(|_| run());
            let elapsed = start.elapsed();
            best.set(best.get().min(elapsed.as_secs_f64() / iterations as f64));
            elapsed
        });
    });
    best.get()
}
