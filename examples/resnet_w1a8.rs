//! ResNet-20 on CIFAR-10 with 1-bit weights and 8-bit feature maps.
//!
//! ```text
//! cargo run --release --example resnet_w1a8 -- --list
//! cargo run --release --example resnet_w1a8 -- --variant no-hysteresis --data data
//! ```
//!
//! A latent weight near zero changes its sign with every other step, and its whole filter with it.
//! Hysteresis lets a sign change only after the latent weight has passed ±0.1 on the other side. The
//! poster gives no figures to compare with; the variants show what each of the parts does.

use std::process::ExitCode;

use qnn::prelude::*;
use qnn::quant::{HysteresisSign, ScaledSign};

fn main() -> ExitCode {
    Experiment::new("resnet_w1a8", "ResNet-20 on CIFAR-10 with hysteresis weights and 8-bit feature maps")
        .dataset(DatasetName::Cifar10)
        .recipe(recipe())
        .variant(Variant::new("w1a8", "hysteresis 0.1, 8-bit feature maps", net(hysteresis(0.1), true)))
        .variant(Variant::new("no-hysteresis", "the same without hysteresis", net(plain(), true)))
        .variant(Variant::new("hysteresis-0.05", "half the threshold", net(hysteresis(0.05), true)))
        .variant(Variant::new(
            "w1",
            "hysteresis 0.1, feature maps in full precision",
            net(hysteresis(0.1), false),
        ))
        .variant(Variant::new("fp", "full precision", ResNetConfig::new(3)))
        .main()
}

/// A lower rate than for full precision, since a step of a latent weight must be small against the
/// threshold.
fn recipe() -> Recipe {
    Recipe { learning_rate: 0.05, ..Recipe::metu_cifar10() }
}

fn hysteresis(threshold: f32) -> Pair {
    Pair::published(HysteresisSign::new(threshold).expect("a threshold from 0 on"))
}

fn plain() -> Pair {
    Pair::published(ScaledSign::per_tensor())
}

fn net(kernel: Pair, quantize_activations: bool) -> ResNetConfig {
    let activation =
        if quantize_activations { Activation::ReluInRange { bits: 8 } } else { Activation::default() };
    let constraint = Some(Constraint::Clip { limit: 1.0 });
    let scheme = Scheme { kernel: Some(kernel), activation, constraint, ..Scheme::default() };
    ResNetConfig { scheme, ..ResNetConfig::new(3) }
}
