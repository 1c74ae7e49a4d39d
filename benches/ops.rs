//! The operations of the tape, forward and backward, one by one: what each costs at the sizes of
//! ResNet-20's first stage, which is where most of its memory traffic lies.
//!
//! ```text
//! cargo bench --bench ops                    quick: two minutes
//! cargo bench --bench ops -- --full          for figures to publish
//! cargo bench --bench ops -- batch_norm      those with this in their name
//! ```
//!
//! The throughput is that of elements of the output; a figure covers the forward pass and all
//! gradients.

mod support;

use criterion::{Criterion, Throughput};
use qnn::tensor::ops::{Conv2dOptions, Gate, PoolOptions, batch_norm_gated_train, batch_norm_train};
use qnn::tensor::{Padding, Tape, Tensor, Var};
use rand::{Rng, SeedableRng};
use rand_chacha::ChaCha8Rng;

const IMAGES: [usize; 4] = [100, 32, 32, 16];

fn main() {
    let mut criterion = support::criterion(support::Profile { samples: 10, seconds: [1.0, 10.0] });
    elementwise(&mut criterion);
    normalizations(&mut criterion);
    products(&mut criterion);
    poolings(&mut criterion);
    losses(&mut criterion);
    criterion.final_summary();
}

fn elementwise(criterion: &mut Criterion) {
    bench(criterion, "relu", &[&IMAGES], |x| x[0].relu());
    bench(criterion, "hardtanh", &[&IMAGES], |x| x[0].hardtanh());
    bench(criterion, "tanh", &[&IMAGES], |x| x[0].tanh());
    bench(criterion, "sigmoid", &[&IMAGES], |x| x[0].sigmoid());
    bench(criterion, "add", &[&IMAGES, &IMAGES], |x| x[0] + x[1]);
    bench(criterion, "mul", &[&IMAGES, &IMAGES], |x| x[0] * x[1]);
    bench(criterion, "add_relu", &[&IMAGES, &IMAGES], |x| x[0].add_relu(x[1]));
    bench(criterion, "add_bias", &[&IMAGES, &[16]], |x| x[0] + x[1]);
}

fn normalizations(criterion: &mut Criterion) {
    let shapes: [&[usize]; 3] = [&IMAGES, &[16], &[16]];
    bench(criterion, "batch_norm", &shapes, |x| batch_norm_train(x[0], x[1], x[2], 1e-5).0);
    for (name, gate) in [("batch_norm_relu", Gate::Relu), ("batch_norm_sign", Gate::Sign { clip: 1.0 })] {
        bench(criterion, name, &shapes, move |x| batch_norm_gated_train(x[0], x[1], x[2], 1e-5, gate).0);
    }
}

fn products(criterion: &mut Criterion) {
    let padding = Padding::same([32, 32], [3, 3], [1, 1]);
    let same = Conv2dOptions { padding, ..Conv2dOptions::default() };
    bench(criterion, "conv2d_3x3_16_16", &[&IMAGES, &[3, 3, 16, 16]], move |x| {
        x[0].conv2d(x[1], None, &same)
    });
    let depthwise = Conv2dOptions { groups: 16, ..same };
    bench(criterion, "conv2d_3x3_depthwise_16", &[&IMAGES, &[3, 3, 1, 16]], move |x| {
        x[0].conv2d(x[1], None, &depthwise)
    });
    bench(criterion, "matmul_100_2048_2048", &[&[100, 2048], &[2048, 2048]], |x| x[0].matmul(x[1], None));
}

fn poolings(criterion: &mut Criterion) {
    let halving = PoolOptions::tiles(2);
    bench(criterion, "max_pool_2x2", &[&IMAGES], move |x| x[0].max_pool2d(&halving));
    bench(criterion, "average_pool_2x2", &[&IMAGES], move |x| x[0].average_pool2d(&halving));
    bench(criterion, "global_average_pool", &[&IMAGES], |x| x[0].global_average_pool());
}

fn losses(criterion: &mut Criterion) {
    let labels: Vec<usize> = (0..1000).map(|i| i % 100).collect();
    bench(criterion, "softmax_1000x100", &[&[1000, 100]], |x| x[0].softmax());
    bench(criterion, "cross_entropy_1000x100", &[&[1000, 100]], move |x| x[0].cross_entropy(&labels, 0.0));
}

/// Times `op` on random leaves of the shapes, with the gradients of all of them.
fn bench(
    criterion: &mut Criterion,
    name: &str,
    shapes: &[&[usize]],
    op: impl for<'t> Fn(&[Var<'t>]) -> Var<'t>,
) {
    let mut group = criterion.benchmark_group("ops");
    let inputs: Vec<Tensor> = shapes.iter().map(|shape| numbers(shape)).collect();
    let cotangent = numbers(&run(&inputs, &op, None));
    group.throughput(Throughput::Elements(cotangent.len() as u64));
    group.bench_function(name, |bencher| {
        bencher.iter(|| run(&inputs, &op, Some(&cotangent)));
    });
    group.finish();
}

/// The shape of the value; with a cotangent, after a backward pass from it.
fn run(
    inputs: &[Tensor],
    op: impl for<'t> Fn(&[Var<'t>]) -> Var<'t>,
    cotangent: Option<&Tensor>,
) -> Vec<usize> {
    let tape = Tape::new();
    let leaves: Vec<Var<'_>> = inputs.iter().map(|x| tape.leaf(x.clone())).collect();
    let y = op(&leaves);
    if let Some(cotangent) = cotangent {
        std::hint::black_box(tape.backward_from(y, cotangent.clone()));
    }
    y.shape()
}

fn numbers(shape: &[usize]) -> Tensor {
    let mut rng = ChaCha8Rng::seed_from_u64(shape.iter().product::<usize>() as u64);
    Tensor::from_fn(shape, |_| rng.random_range(-1.0..1.0))
}
