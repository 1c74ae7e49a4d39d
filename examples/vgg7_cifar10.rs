//! VGG-7 on CIFAR-10 with ten ways to quantize it: weights alone, activations alone, both.
//!
//! ```text
//! cargo run --release --example vgg7_cifar10 -- --list
//! cargo run --release --example vgg7_cifar10 -- --variant twn --data data --epochs 200
//! ```
//!
//! The network has no shortcuts, so that binary weights cost it one point where they cost a ResNet
//! nine: batch norm follows every sum. Binary activations cost more than binary weights.

use std::process::ExitCode;

use qnn::prelude::*;

fn main() -> ExitCode {
    Experiment::new("vgg7_cifar10", "VGG-7 on CIFAR-10: ten methods compared")
        .dataset(DatasetName::Cifar10)
        .recipe(Recipe::metu_cifar10())
        .variant(row("bc", "BinaryConnect: weights ±1", 92.32))
        .variant(row("dorefa-w", "DoReFa-Net: 1-bit weights", 92.29))
        .variant(row("twn", "ternary weights", 92.95))
        .variant(row("bnn", "BNN: weights and activations ±1", 88.24))
        .variant(row("dorefa", "DoReFa-Net: 1-bit weights and activations", 90.15))
        .variant(row("bnn-w-dorefa-a", "BNN's weights, DoReFa-Net's activations", 89.68))
        .variant(row("dorefa-w-bnn-a", "DoReFa-Net's weights, BNN's activations", 88.52))
        .variant(row("bnn-a", "BNN's activations, weights in full precision", 90.28))
        .variant(row("dorefa-a", "DoReFa-Net's activations, weights in full precision", 91.85))
        .variant(row("fp", "full precision", 93.34))
        .main()
}

/// A row of the table: a preset of the same name and its accuracy.
fn row(name: &'static str, about: &'static str, published: f64) -> Variant {
    let scheme = Scheme::preset(name).expect("a known preset");
    Variant::new(name, about, Vgg7Config { scheme, ..Vgg7Config::default() }).published(published)
}
