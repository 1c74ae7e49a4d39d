//! The operations of the tape one by one: what each costs at the sizes of ResNet-20's first stage,
//! which is where most of its memory traffic lies, and classifiers' losses at a thousand rows.
//!
//! ```text
//! cargo bench --bench ops                    quick: one to two minutes
//! cargo bench --bench ops -- --full          for figures to publish
//! cargo bench --bench ops -- batch_norm      those with this in their name
//! ```
//!
//! The throughput is that of elements of the output or of the first input, whichever has more. A
//! figure covers the forward pass and all gradients; where the name ends in `eval`, the forward pass
//! alone.

mod support;

use criterion::{Criterion, Throughput};
use qnn::layers::{Ctx, FakeQuantize, Layer, Mode, QuantizeGradient};
use qnn::quant::{DorefaActivations, EvenLevels, ModifiedTanh, Pair, Sign, Ternary};
use qnn::tensor::ops::{
    Conv2dOptions, ConvEnd, Factors, Gate, PoolOptions, ShiftScale, batch_norm_add_gated_train,
    batch_norm_eval, batch_norm_gated_train, batch_norm_train, concat, conv2d_factored, conv2d_measured,
    conv2d_normalized, embedding, matmul_exact, matmul_factored, shift_batch_norm_eval,
    shift_batch_norm_train,
};
use qnn::tensor::{Algorithm, Padding, Tape, Tensor, Var};
use rand::{Rng, SeedableRng};
use rand_chacha::ChaCha8Rng;

const IMAGES: [usize; 4] = [100, 32, 32, 16];

fn main() {
    let mut criterion = support::criterion(support::Profile { samples: 10, seconds: [1.0, 10.0] });
    elementwise(&mut criterion);
    quantizers(&mut criterion);
    normalizations(&mut criterion);
    products(&mut criterion);
    poolings(&mut criterion);
    reductions(&mut criterion);
    selections(&mut criterion);
    losses(&mut criterion);
    criterion.final_summary();
}

fn elementwise(criterion: &mut Criterion) {
    bench(criterion, "relu", &[&IMAGES], |x| x[0].relu());
    bench(criterion, "leaky_relu", &[&IMAGES], |x| x[0].leaky_relu(0.1));
    bench(criterion, "hardtanh", &[&IMAGES], |x| x[0].hardtanh());
    bench(criterion, "hard_sigmoid", &[&IMAGES], |x| x[0].hard_sigmoid());
    bench(criterion, "tanh", &[&IMAGES], |x| x[0].tanh());
    bench(criterion, "sigmoid", &[&IMAGES], |x| x[0].sigmoid());
    bench(criterion, "scale", &[&IMAGES], |x| x[0].scale(0.5));
    bench(criterion, "dropout", &[&IMAGES], |x| x[0].dropout(0.5, &mut ChaCha8Rng::seed_from_u64(1)));
    bench(criterion, "add", &[&IMAGES, &IMAGES], |x| x[0] + x[1]);
    bench(criterion, "sub", &[&IMAGES, &IMAGES], |x| x[0] - x[1]);
    bench(criterion, "mul", &[&IMAGES, &IMAGES], |x| x[0] * x[1]);
    bench(criterion, "add_relu", &[&IMAGES, &IMAGES], |x| x[0].add_relu(x[1]));
    bench(criterion, "add_bias", &[&IMAGES, &[16]], |x| x[0] + x[1]);
}

fn quantizers(criterion: &mut Criterion) {
    let two_bits = DorefaActivations::new(2).expect("2 bits");
    let four_levels = EvenLevels::of_bits(2, 1.0).expect("2 bits");
    for (name, pair) in [
        ("quantize_sign", Pair::published(Sign)),
        ("quantize_ternary", Pair::published(Ternary::per_tensor())),
        ("quantize_dorefa_2", Pair::published(two_bits)),
        ("quantize_alphabet_2_modified_tanh", Pair::new(four_levels, ModifiedTanh::new(3.0))),
    ] {
        bench(criterion, name, &[&IMAGES], move |x| quantized(&pair, x[0]));
    }
    let layer = QuantizeGradient::new(4).expect("4 bits");
    bench(criterion, "quantize_gradient_4", &[&IMAGES], move |x| {
        let mut cx = Ctx::new(x[0].tape(), Mode::Train, 0, 0);
        layer.forward(&mut cx, x[0].into()).expect("one value").value()
    });
}

/// The codes that a layer computes with.
fn quantized<'t>(pair: &Pair, x: Var<'t>) -> Var<'t> {
    let mut cx = Ctx::new(x.tape(), Mode::Train, 0, 0);
    pair.apply(&mut cx, x).expect("finite elements").codes
}

fn normalizations(criterion: &mut Criterion) {
    let shapes: [&[usize]; 3] = [&IMAGES, &[16], &[16]];
    bench(criterion, "batch_norm", &shapes, |x| batch_norm_train(x[0], x[1], x[2], 1e-5).0);
    for (name, gate) in [("batch_norm_relu", Gate::Relu), ("batch_norm_sign", Gate::Sign { clip: 1.0 })] {
        bench(criterion, name, &shapes, move |x| batch_norm_gated_train(x[0], x[1], x[2], 1e-5, gate).0);
    }
    bench(criterion, "batch_norm_add_relu", &[&IMAGES, &IMAGES, &[16], &[16]], |x| {
        batch_norm_add_gated_train(x[0], x[1], x[2], x[3], 1e-5, Gate::Relu).0
    });
    let shifts = ShiftScale { epsilon: 1e-5, round_variance: true };
    bench(criterion, "shift_batch_norm", &shapes, move |x| {
        shift_batch_norm_train(x[0], x[1], x[2], shifts).0
    });
    let (mean, variance) = (numbers(&[16]), Tensor::full(&[16], 0.5));
    bench_eval(criterion, "batch_norm_eval", &shapes, |x| {
        batch_norm_eval(x[0], x[1], x[2], &mean, &variance, 1e-5)
    });
    bench_eval(criterion, "shift_batch_norm_eval", &shapes, |x| {
        shift_batch_norm_eval(x[0], x[1], x[2], [&mean, &variance], shifts)
    });
}

fn products(criterion: &mut Criterion) {
    let padding = Padding::same([32, 32], [3, 3], [1, 1]);
    let same = Conv2dOptions { padding, ..Conv2dOptions::default() };
    let shapes: [&[usize]; 2] = [&IMAGES, &[3, 3, 16, 16]];
    bench(criterion, "conv2d_3x3_16_16", &shapes, move |x| x[0].conv2d(x[1], None, &same));
    let wide: [&[usize]; 2] = [&[100, 16, 16, 64], &[3, 3, 64, 64]];
    let padding = Padding::same([16, 16], [3, 3], [1, 1]);
    for (name, algorithm) in
        [("direct", Algorithm::Direct), ("winograd", Algorithm::Winograd), ("exact", Algorithm::Exact)]
    {
        let options = Conv2dOptions { padding, algorithm, ..same };
        bench_eval(criterion, &format!("conv2d_3x3_64_64_{name}_eval"), &wide, move |x| {
            x[0].conv2d(x[1], None, &options)
        });
    }
    let depthwise = Conv2dOptions { groups: 16, ..same };
    bench(criterion, "conv2d_3x3_depthwise_16", &[&IMAGES, &[3, 3, 1, 16]], move |x| {
        x[0].conv2d(x[1], None, &depthwise)
    });
    bench(
        criterion,
        "conv2d_3x3_16_16_batch_norm_relu",
        &[&IMAGES, &[3, 3, 16, 16], &[16], &[16]],
        move |x| {
            let y = conv2d_measured(x[0], x[1], None, &Factors::unit(), &same);
            batch_norm_gated_train(y, x[2], x[3], 1e-5, Gate::Relu).0
        },
    );
    let [mean, s, beta] = [1, 2, 3].map(|seed| random(&[16], seed));
    bench_eval(criterion, "conv2d_3x3_16_16_batch_norm_relu_eval", &shapes, |x| {
        let end = ConvEnd { mean: &mean, s: &s, beta: &beta, shortcut: None, gate: Gate::Relu };
        conv2d_normalized(x[0], x[1], None, &Factors::unit(), &same, &end)
    });
    let per_channel = Factors { x: 1.0, w: vec![0.125; 16] };
    let padded = Conv2dOptions { pad_value: 1.0, ..same };
    bench_on(criterion, "conv2d_3x3_16_16_signs", &shapes.map(signs), move |x| {
        conv2d_factored(x[0], x[1], None, &per_channel, &padded)
    });
    let shapes: [&[usize]; 2] = [&[100, 2048], &[2048, 2048]];
    bench(criterion, "matmul_100_2048_2048", &shapes, |x| x[0].matmul(x[1], None));
    bench_eval(criterion, "matmul_100_2048_2048_exact_eval", &shapes, |x| {
        matmul_exact(x[0], x[1], None, &Factors::unit())
    });
    let factors = Factors { x: 1.0, w: vec![0.125] };
    bench_on(criterion, "matmul_100_2048_2048_signs", &shapes.map(signs), move |x| {
        matmul_factored(x[0], x[1], None, &factors)
    });
}

fn poolings(criterion: &mut Criterion) {
    let halving = PoolOptions::tiles(2);
    bench(criterion, "max_pool_2x2", &[&IMAGES], move |x| x[0].max_pool2d(&halving));
    bench(criterion, "average_pool_2x2", &[&IMAGES], move |x| x[0].average_pool2d(&halving));
    bench(criterion, "global_average_pool", &[&IMAGES], |x| x[0].global_average_pool());
}

fn reductions(criterion: &mut Criterion) {
    bench(criterion, "sum", &[&IMAGES], |x| x[0].sum());
    bench(criterion, "mean", &[&IMAGES], |x| x[0].mean());
    bench(criterion, "sum_axis_0", &[&IMAGES], |x| x[0].sum_axis(0));
    bench(criterion, "mean_axis_3", &[&IMAGES], |x| x[0].mean_axis(3));
}

fn selections(criterion: &mut Criterion) {
    bench(criterion, "concat_channels", &[&IMAGES, &IMAGES], |x| concat(x, 3));
    bench(criterion, "slice_channels", &[&IMAGES], |x| x[0].slice(3, 4..12));
    let ids: Vec<usize> = (0..25_600).map(|i| i * 7919 % 1000).collect();
    bench(criterion, "embedding_1000x64", &[&[1000, 64]], move |x| embedding(x[0], &ids, &[100, 256]));
}

fn losses(criterion: &mut Criterion) {
    let scores: [&[usize]; 1] = [&[1000, 100]];
    let labels: Vec<usize> = (0..1000).map(|i| i % 100).collect();
    bench(criterion, "softmax_1000x100", &scores, |x| x[0].softmax());
    bench(criterion, "log_softmax_1000x100", &scores, |x| x[0].log_softmax());
    bench(criterion, "cross_entropy_1000x100", &scores, move |x| x[0].cross_entropy(&labels, 0.0));
    let targets = signs(scores[0]);
    bench(criterion, "mean_squared_error_1000x100", &scores, |x| x[0].mean_squared_error(&targets));
    bench(criterion, "squared_hinge_1000x100", &scores, |x| x[0].squared_hinge(&targets));
}

/// Times `op` on random leaves of the shapes, with the gradients of all of them.
fn bench(
    criterion: &mut Criterion,
    name: &str,
    shapes: &[&[usize]],
    op: impl for<'t> Fn(&[Var<'t>]) -> Var<'t>,
) {
    let inputs: Vec<Tensor> = shapes.iter().map(|shape| numbers(shape)).collect();
    bench_on(criterion, name, &inputs, op);
}

/// The same on leaves of these values.
fn bench_on(
    criterion: &mut Criterion,
    name: &str,
    inputs: &[Tensor],
    op: impl for<'t> Fn(&[Var<'t>]) -> Var<'t>,
) {
    let cotangent = numbers(&run(inputs, &op, None));
    let mut group = criterion.benchmark_group("ops");
    group.throughput(Throughput::Elements(cotangent.len().max(inputs[0].len()) as u64));
    group.bench_function(name, |bencher| {
        bencher.iter(|| run(inputs, &op, Some(&cotangent)));
    });
    group.finish();
}

/// Times the forward pass of `op` on random constants.
fn bench_eval(
    criterion: &mut Criterion,
    name: &str,
    shapes: &[&[usize]],
    op: impl for<'t> Fn(&[Var<'t>]) -> Var<'t>,
) {
    let inputs: Vec<Tensor> = shapes.iter().map(|shape| numbers(shape)).collect();
    let mut group = criterion.benchmark_group("ops");
    group.throughput(Throughput::Elements(inputs[0].len() as u64));
    group.bench_function(name, |bencher| {
        bencher.iter(|| {
            let tape = Tape::new();
            let constants: Vec<Var<'_>> = inputs.iter().map(|x| tape.constant(x.clone())).collect();
            op(&constants).value()
        });
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
    // The backward pass empties the tape.
    let shape = y.shape();
    if let Some(cotangent) = cotangent {
        std::hint::black_box(tape.backward_from(y, cotangent.clone()));
    }
    shape
}

fn numbers(shape: &[usize]) -> Tensor {
    random(shape, shape.iter().product::<usize>() as u64)
}

fn signs(shape: &[usize]) -> Tensor {
    numbers(shape).map(|x| if x < 0.0 { -1.0 } else { 1.0 })
}

fn random(shape: &[usize], seed: u64) -> Tensor {
    let mut rng = ChaCha8Rng::seed_from_u64(seed);
    Tensor::from_fn(shape, |_| rng.random_range(-1.0..1.0))
}
