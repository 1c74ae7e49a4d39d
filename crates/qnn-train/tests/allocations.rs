//! A warm training step takes no block as large as an activation from the system, neither through the pool of buffers nor past it.

use allocation_counter::measure;
use qnn_layers::Init;
use qnn_models::{ResNet, ResNetConfig, Scheme};
use qnn_tensor::{Scalar, Tensor};
use qnn_train::{Loss, Sgd, SgdConfig, StepSettings, step};

const BATCH: usize = 20;

/// Bytes of an activation in the first stage.
const GREATEST: u64 = (BATCH * 32 * 32 * 16 * size_of::<f32>()) as u64;
/// Bytes of one in the third.
const LEAST: u64 = (BATCH * 8 * 8 * 64 * size_of::<f32>()) as u64;

#[test]
fn a_warm_step_of_a_residual_network_takes_no_block_as_large_as_an_activation() {
    let images = Tensor::from_fn(&[BATCH, 32, 32, 3], |i| (i as f32 * 0.618).sin());
    let labels: Vec<usize> = (0..BATCH).map(|i| i % 10).collect();
    let pool = rayon::ThreadPoolBuilder::new().num_threads(1).build().unwrap();
    for name in ["fp", "bnn", "twn"] {
        let scheme = Scheme::preset(name).unwrap();
        let config = ResNetConfig { scheme, ..ResNetConfig::from_depth(8).unwrap() };
        let mut model = ResNet::new(&config, &mut Init::new(0)).unwrap();
        let mut optimizer = Sgd::new(SgdConfig::default()).unwrap();
        let mut one = |number| {
            let settings =
                StepSettings { loss: Loss::default(), seed: 0, step: number, rate: 0.01, progress: 0.0 };
            step(&mut model, &mut optimizer, images.clone(), &labels, &settings).unwrap();
        };
        let (counted, from_pool) = pool.install(|| {
            (0..3).for_each(&mut one);
            let before = f32::pool().statistics().allocations;
            let counted = measure(|| one(3));
            (counted, f32::pool().statistics().allocations - before)
        });
        assert_eq!(from_pool, 0, "{name}");
        // At no time as much as one activation, and in all less than one of the first stage.
        let (at_once, in_all) = (counted.bytes_max, counted.bytes_total);
        assert!(at_once < LEAST && in_all < GREATEST, "{name}: {counted:?}, beside {LEAST} and {GREATEST}");
    }
}
