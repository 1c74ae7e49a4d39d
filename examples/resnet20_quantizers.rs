//! ResNet-20 and ResNet-32 on CIFAR-10: DoReFa-Net, ternary weights and binary activations.
//!
//! ```text
//! cargo run --release --example resnet20_quantizers -- --list
//! cargo run --release --example resnet20_quantizers -- --variant twn --depth 32 --data data
//! ```
//!
//! Weights with a scale lose little where plain ±1 collapses (`resnet20_bc`): the scale keeps the
//! sums of the projections small. Binary activations lose nine points and more, and lose them even
//! with weights in full precision, because the shortcut itself carries one bit.

use std::process::ExitCode;

use qnn::prelude::*;

fn main() -> ExitCode {
    Experiment::new("resnet20_quantizers", "ResNet-20/32 on CIFAR-10: quantizers compared")
        .dataset(DatasetName::Cifar10)
        .recipe(Recipe::metu_cifar10())
        .variant(row("twn", "ternary weights", [91.38, 91.24]))
        .variant(row("dorefa-w", "DoReFa-Net: 1-bit weights", [89.76, 90.27]))
        .variant(row("bnn", "BNN: weights and activations ±1", [77.88, 68.23]))
        .variant(row("dorefa", "DoReFa-Net: 1-bit weights and activations", [78.43, 69.99]))
        .variant(row("bnn-a", "BNN's activations, weights in full precision", [81.35, 78.00]))
        .variant(row("dorefa-a", "DoReFa-Net's activations, weights in full precision", [82.12, 77.35]))
        .variant(Variant::new("int8", "integers alone: 8-bit weights and activations", net("int8")))
        .variant(row("fp", "full precision", [91.66, 92.05]))
        .main()
}

/// A row of the table: a preset of the same name and its accuracies at depth 20 and 32.
fn row(name: &'static str, about: &'static str, published: [f64; 2]) -> Variant {
    Variant::new(name, about, net(name)).published_at(20, published[0]).published_at(32, published[1])
}

fn net(preset: &str) -> ResNetConfig {
    let scheme = Scheme::preset(preset).expect("a known preset");
    ResNetConfig { scheme, ..ResNetConfig::new(3) }
}
