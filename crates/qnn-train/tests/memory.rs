//! A training step whose shapes were seen before takes no large block from the system.

use std::sync::Arc;

use qnn_data::{Loader, LoaderConfig, Normalize, embedded_digits};
use qnn_layers::{Dense, DenseConfig, Flatten, Init, Relu, Sequential};
use qnn_tensor::Scalar;
use qnn_train::{Event, FitOptions, Recipe, TrainingData, fit, pooled};

#[test]
fn after_the_first_epochs_every_buffer_comes_from_the_pool() {
    let recipe = Recipe { epochs: 5, batch: 96, learning_rate: 0.01, ..Recipe::default() };
    let digits = embedded_digits().unwrap();
    let config = LoaderConfig {
        batch: recipe.batch,
        shuffle: true,
        normalize: Normalize::fit(&digits.train),
        // On this thread: how far another one is ahead would depend on its luck.
        prefetch: 0,
        buffer: pooled,
        ..LoaderConfig::default()
    };
    let loader = |images| Loader::new(Arc::new(images), config.clone()).unwrap();
    let data = TrainingData { train: loader(digits.train), test: loader(digits.test) };
    let mut init = Init::new(0);
    let mut dense = |inputs, outputs| Dense::new(&DenseConfig::new(inputs, outputs), &mut init).unwrap();
    let mut model =
        Sequential::new().then(Flatten).then(dense(64, 128)).then(Relu::default()).then(dense(128, 10));

    let mut allocations = Vec::new();
    let pool = rayon::ThreadPoolBuilder::new().num_threads(1).build().unwrap();
    pool.install(|| {
        fit(&mut model, &data, &recipe, &FitOptions::default(), &mut |event| {
            if let Event::Epoch(_) = event {
                allocations.push(f32::pool().statistics().allocations);
            }
        })
    })
    .unwrap();
    assert_eq!(allocations.len(), 5);
    assert!(allocations[0] > 0);
    assert_eq!(allocations[1..].iter().max(), allocations[1..].iter().min(), "{allocations:?}");
}
