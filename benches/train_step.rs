//! Training steps (forward, backward, update by SGD with momentum) of whole networks on random
//! images; criterion prints images per second.
//!
//! ```text
//! cargo bench --bench train_step                        all networks, about a minute
//! cargo bench --bench train_step -- resnet20            those with this in their name
//! cargo bench --bench train_step -- --sample-size 50 --measurement-time 60      for figures to publish
//! RAYON_NUM_THREADS=1 cargo bench --bench train_step    on one core
//! QNN_ISA=scalar cargo bench --bench train_step         without vector instructions
//! ```
//!
//! Batches are those of the published recipes. Loading and augmenting images is not part of it: a
//! loader does that on another thread.

use std::time::Duration;

use criterion::{Criterion, SamplingMode, Throughput};
use qnn::layers::{Init, Layer};
use qnn::models::{LeNet5, LeNet5Config, Mlp, MlpConfig, ResNet, ResNetConfig, Scheme};
use qnn::tensor::Tensor;
use qnn::train::{Loss, Regularization, Sgd, SgdConfig, StepSettings, step};
use rand::{Rng, SeedableRng};
use rand_chacha::ChaCha8Rng;

const CLASSES: usize = 10;

fn main() {
    // Whatever the command line says comes later and counts.
    let criterion = Criterion::default().sample_size(10).measurement_time(Duration::from_secs(4));
    let mut criterion = criterion.warm_up_time(Duration::from_secs(1)).configure_from_args();
    for preset in ["fp", "bc-1.2", "bnn"] {
        let model = resnet20(preset);
        bench_step(&mut criterion, &format!("resnet20_{preset}"), model, &[100, 32, 32, 3]);
    }
    let lenet5 = LeNet5::new(&LeNet5Config::default(), &mut Init::new(0)).expect("a valid network");
    bench_step(&mut criterion, "lenet5_fp", lenet5, &[128, 28, 28, 1]);
    let mlp = MlpConfig::new(784, &[2048; 3], CLASSES);
    let mlp = Mlp::new(&mlp, &mut Init::new(0)).expect("a valid network");
    bench_step(&mut criterion, "mlp_784_2048_2048_2048_10_fp", mlp, &[100, 28, 28, 1]);
    criterion.final_summary();
}

fn resnet20(preset: &str) -> ResNet {
    let scheme = Scheme::preset(preset).expect("a known preset");
    let config = ResNetConfig { scheme, ..ResNetConfig::from_depth(20).expect("20 = 6 * 3 + 2") };
    ResNet::new(&config, &mut Init::new(0)).expect("a valid network")
}

fn bench_step(criterion: &mut Criterion, name: &str, mut model: impl Layer, shape: &[usize; 4]) {
    let (images, labels) = batch(shape);
    let regularization = Regularization { weight_decay: 1e-4, ..Regularization::default() };
    let config = SgdConfig { momentum: 0.9, regularization, ..SgdConfig::default() };
    let mut optimizer = Sgd::new(config).expect("valid constants");
    let mut settings = StepSettings { loss: Loss::default(), seed: 0, step: 0, rate: 0.01, progress: 0.0 };
    let mut group = criterion.benchmark_group("train_step");
    // A step is long: as many in each sample, not one more from sample to sample.
    group.sampling_mode(SamplingMode::Flat).throughput(Throughput::Elements(labels.len() as u64));
    group.bench_function(name, |bencher| {
        bencher.iter(|| {
            settings.step += 1;
            // The clone shares the images' buffer.
            step(&mut model, &mut optimizer, images.clone(), &labels, &settings).expect("a step")
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
