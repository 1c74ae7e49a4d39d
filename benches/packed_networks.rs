//! Whole networks of bits on one thread, one image and a hundred at a time, from normalised f32 to
//! logits: the packed program beside the training graph, and the part of the limit that the
//! program's binary products reach, with everything around them counted in.
//!
//! ```text
//! cargo bench --bench packed_networks                    quick: under a minute
//! cargo bench --bench packed_networks -- --full          for figures to publish
//! cargo bench --bench packed_networks -- vgg7            those with this in their name
//! QNN_ISA=avx2 cargo bench --bench packed_networks       with another instruction set
//! ```
//!
//! The networks are untrained, which changes their logits and not their work. The limit is that of
//! `benches/packed.rs`, measured in the same run; the fraction is that of the fastest sample.

#[path = "support/bits.rs"]
mod bits;
mod support;

use criterion::{Criterion, Throughput};
use qnn::deploy::{Action, Arithmetic, Program, Session, Stage, freeze};
use qnn::kernels::Kernels;
use qnn::layers::{Ctx, Init, Layer, Mode};
use qnn::models::{LeNet5, LeNet5Config, ResNet, ResNetConfig, Scheme, Vgg7, Vgg7Config};
use qnn::tensor::{Tape, Tensor};

const BATCHES: [usize; 2] = [1, 100];

fn main() {
    // From another thread than the pool's, every operation of the graph would have to enter the pool.
    let pool = rayon::ThreadPoolBuilder::new().num_threads(1).build().expect("a thread");
    pool.install(bench_networks);
}

fn bench_networks() {
    let mut criterion = support::criterion(support::Profile { samples: 10, seconds: [0.5, 5.0] });
    let kernels = Kernels::current();
    let limit = bits::limit(kernels);
    println!("{}: at most {:.0} G multiply-accumulates of bits per second", kernels.isa(), limit / 1e9);
    bench_network(&mut criterion, limit, "lenet5", &lenet5(), [28, 28, 1]);
    bench_network(&mut criterion, limit, "resnet20", &resnet20(), [32, 32, 3]);
    bench_network(&mut criterion, limit, "vgg7", &vgg7(), [32, 32, 3]);
    criterion.final_summary();
}

fn bnn() -> Scheme {
    Scheme::preset("bnn").expect("a known preset")
}

fn lenet5() -> LeNet5 {
    LeNet5::new(&LeNet5Config { scheme: bnn(), ..LeNet5Config::default() }, &mut Init::new(0))
        .expect("a valid network")
}

fn resnet20() -> ResNet {
    let config = ResNetConfig { scheme: bnn(), ..ResNetConfig::from_depth(20).expect("20 = 6 * 3 + 2") };
    ResNet::new(&config, &mut Init::new(0)).expect("a valid network")
}

fn vgg7() -> Vgg7 {
    Vgg7::new(&Vgg7Config { scheme: bnn(), ..Vgg7Config::default() }, &mut Init::new(0))
        .expect("a valid network")
}

fn bench_network(criterion: &mut Criterion, limit: f64, name: &str, model: &dyn Layer, shape: [usize; 3]) {
    let program = freeze(model, shape).expect("a network of bits");
    let mut session = Session::new(&program).expect("a sound program");
    let mut group = criterion.benchmark_group("packed_networks");
    for images in BATCHES {
        let values: Vec<f32> = (0..images * shape.iter().product::<usize>())
            .map(|i| (i * 7919 % 255) as f32 / 127.0 - 1.0)
            .collect();
        let mut logits = vec![0.0; images * program.outputs()];
        group.throughput(Throughput::Elements(images as u64));
        let packed = bits::best(&mut group, &format!("{name}_bnn/packed_{images}"), || {
            session.run_into(values.as_slice(), &mut logits).expect("a run");
        });
        let [height, width, channels] = shape;
        let images_of_graph =
            Tensor::from_vec(&[images, height, width, channels], values.clone()).expect("as many numbers");
        let graph = bits::best(&mut group, &format!("{name}_bnn/graph_{images}"), || {
            let tape = Tape::new();
            let mut cx = Ctx::new(&tape, Mode::Eval, 0, 0);
            let x = tape.constant(images_of_graph.clone()).into();
            model.forward(&mut cx, x).expect("an evaluation");
        });
        report(packed, graph, images as u64 * binary_macs(&program), limit);
    }
    group.finish();
}

fn report(packed: f64, graph: f64, macs: u64, limit: f64) {
    if !packed.is_finite() {
        return;
    }
    let fraction = 100.0 * macs as f64 / packed / limit;
    println!("{:>48} {:9.4} ms at best, {fraction:5.1} % of the limit", "", packed * 1e3);
    if graph.is_finite() {
        println!(
            "{:>48} {:9.4} ms at best in the graph, {:.1} times as long",
            "",
            graph * 1e3,
            graph / packed
        );
    }
}

/// Multiply-accumulates of codes by codes for one image: of bits, as every code of these networks
/// has one.
fn binary_macs(program: &Program) -> u64 {
    let macs = |stage: &Stage| match &stage.action {
        Action::Product(product) if product.arithmetic == Arithmetic::Integer => {
            let [height, width, out_channels] = program.values()[stage.output].shape;
            let channels = program.values()[stage.input].shape[2] / product.groups;
            let window = product.kernel[0] * product.kernel[1] * channels;
            (height * width * out_channels * window) as u64
        }
        _ => 0,
    };
    program.stages().iter().map(macs).sum()
}
