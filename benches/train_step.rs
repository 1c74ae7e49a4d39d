//! Training steps (forward, backward, update by SGD with momentum) and evaluation of whole networks
//! on random images; criterion prints images per second.
//!
//! ```text
//! cargo bench --bench train_step                        all networks, two to three minutes
//! cargo bench --bench train_step -- resnet20            those with this in their name
//! cargo bench --bench train_step -- --full              for figures to publish
//! RAYON_NUM_THREADS=1 cargo bench --bench train_step    on one core
//! QNN_ISA=avx2 cargo bench --bench train_step           with another instruction set
//! ```
//!
//! Batches are those of the published recipes. Loading and augmenting images is not part of it: a
//! loader does that on another thread.

mod support;

use criterion::{Criterion, SamplingMode, Throughput};
use qnn::layers::{Ctx, Init, Layer, Mode};
use qnn::models::{LeNet5, LeNet5Config, Mlp, MlpConfig, ResNet, ResNetConfig, Scheme, Vgg7, Vgg7Config};
use qnn::tensor::{Tape, Tensor};
use qnn::train::{Loss, Regularization, Sgd, SgdConfig, StepSettings, step};
use rand::{Rng, SeedableRng};
use rand_chacha::ChaCha8Rng;

const CLASSES: usize = 10;
const CIFAR: [usize; 4] = [100, 32, 32, 3];

fn main() {
    let mut criterion = support::criterion(support::Profile { samples: 10, seconds: [4.0, 60.0] });
    for preset in ["fp", "bc-1.2", "bnn"] {
        bench_step(&mut criterion, &format!("resnet20_{preset}"), || resnet20(preset), &CIFAR);
    }
    for preset in ["fp", "bnn"] {
        bench_step(&mut criterion, &format!("vgg7_{preset}"), || vgg7(preset), &CIFAR);
    }
    bench_step(&mut criterion, "lenet5_fp", lenet5, &[128, 28, 28, 1]);
    for preset in ["fp", "bnn"] {
        let name = format!("mlp_784_2048_2048_2048_10_{preset}");
        bench_step(&mut criterion, &name, || mlp(preset), &[100, 28, 28, 1]);
    }
    for preset in ["fp", "bnn"] {
        bench_evaluation(&mut criterion, &format!("resnet20_{preset}"), || resnet20(preset), &CIFAR);
    }
    criterion.final_summary();
}

fn scheme(preset: &str) -> Scheme {
    Scheme::preset(preset).expect("a known preset")
}

fn resnet20(preset: &str) -> ResNet {
    let config =
        ResNetConfig { scheme: scheme(preset), ..ResNetConfig::from_depth(20).expect("20 = 6 * 3 + 2") };
    ResNet::new(&config, &mut Init::new(0)).expect("a valid network")
}

fn vgg7(preset: &str) -> Vgg7 {
    let config = Vgg7Config { scheme: scheme(preset), ..Vgg7Config::default() };
    Vgg7::new(&config, &mut Init::new(0)).expect("a valid network")
}

fn lenet5() -> LeNet5 {
    LeNet5::new(&LeNet5Config::default(), &mut Init::new(0)).expect("a valid network")
}

fn mlp(preset: &str) -> Mlp {
    let config = MlpConfig { scheme: scheme(preset), ..MlpConfig::new(784, &[2048; 3], CLASSES) };
    Mlp::new(&config, &mut Init::new(0)).expect("a valid network")
}

/// `model` is built only if its figure is asked for.
fn bench_step<M: Layer>(criterion: &mut Criterion, name: &str, model: impl Fn() -> M, shape: &[usize; 4]) {
    let mut group = criterion.benchmark_group("train_step");
    // A step is long: as many in each sample, not one more from sample to sample.
    group.sampling_mode(SamplingMode::Flat).throughput(Throughput::Elements(shape[0] as u64));
    group.bench_function(name, |bencher| {
        let mut model = model();
        let (images, labels) = batch(shape);
        let regularization = Regularization { weight_decay: 1e-4, ..Regularization::default() };
        let config = SgdConfig { momentum: 0.9, regularization, ..SgdConfig::default() };
        let mut optimizer = Sgd::new(config).expect("valid constants");
        let mut settings =
            StepSettings { loss: Loss::default(), seed: 0, step: 0, rate: 0.01, progress: 0.0 };
        bencher.iter(|| {
            settings.step += 1;
            // The clone shares the images' buffer.
            step(&mut model, &mut optimizer, images.clone(), &labels, &settings).expect("a step")
        });
    });
    group.finish();
}

fn bench_evaluation<M: Layer>(
    criterion: &mut Criterion,
    name: &str,
    model: impl Fn() -> M,
    shape: &[usize; 4],
) {
    let mut group = criterion.benchmark_group("evaluation");
    group.sampling_mode(SamplingMode::Flat).throughput(Throughput::Elements(shape[0] as u64));
    group.bench_function(name, |bencher| {
        let model = model();
        let (images, _) = batch(shape);
        bencher.iter(|| {
            let tape = Tape::new();
            let mut cx = Ctx::new(&tape, Mode::Eval, 0, 0);
            let x = tape.constant(images.clone()).into();
            model.forward(&mut cx, x).expect("an evaluation").value().value()
        });
    });
    group.finish();
}

/// Random images with random labels, always the same.
fn batch(shape: &[usize; 4]) -> (Tensor, Vec<usize>) {
    let mut rng = ChaCha8Rng::seed_from_u64(1);
    let images = Tensor::from_fn(shape, |_| rng.random_range(-2.0..2.0));
    (images, (0..shape[0]).map(|_| rng.random_range(0..CLASSES)).collect())
}
