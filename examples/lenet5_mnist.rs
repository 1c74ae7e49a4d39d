//! LeNet-5 on MNIST with seven ways to quantize it.
//!
//! ```text
//! cargo run --release --example lenet5_mnist -- --list
//! cargo run --release --example lenet5_mnist -- --variant twn --data data --epochs 30
//! ```

use std::process::ExitCode;

use qnn::prelude::*;

fn main() -> ExitCode {
    Experiment::new("lenet5_mnist", "LeNet-5 on MNIST: seven methods compared")
        .dataset(DatasetName::Mnist)
        .dataset(DatasetName::FashionMnist)
        .recipe(recipe())
        .variant(Variant::new("bc", "BinaryConnect: weights ±1", net("bc")).published(99.50))
        .variant(Variant::new("bnn", "BNN: weights and activations ±1", net("bnn")).published(99.00))
        .variant(Variant::new("dorefa-w", "DoReFa-Net: 1-bit weights", net("dorefa-w")).published(99.43))
        .variant(
            Variant::new("dorefa", "DoReFa-Net: 1-bit weights and activations", net("dorefa"))
                .published(99.18),
        )
        .variant(Variant::new("twn", "ternary weights", net("twn")).published(99.51))
        .variant(Variant::new("int8", "integers alone: 8-bit weights and activations", net("int8")))
        .variant(Variant::new("fp", "full precision", net("fp")).published(99.54))
        .main()
}

/// The thesis's hyperparameters for MNIST: Adam from 0.001 to 0.0001.
fn recipe() -> Recipe {
    Recipe {
        epochs: 30,
        batch: 128,
        optimizer: OptimizerConfig::ADAM,
        learning_rate: 0.001,
        schedule: Schedule::Exponential { final_factor: 0.1 },
        ..Recipe::default()
    }
}

fn net(preset: &str) -> LeNet5Config {
    LeNet5Config { scheme: Scheme::preset(preset).expect("a known preset"), ..LeNet5Config::default() }
}
