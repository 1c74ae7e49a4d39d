//! ResNet-20 and ResNet-32 with BinaryConnect weights: the collapse and its repairs.
//!
//! ```text
//! cargo run --release --example resnet20_bc -- --list
//! cargo run --release --example resnet20_bc -- --variant bc-1.2 --data data --epochs 200
//! ```
//!
//! The shortcuts that change size are 1x1 convolutions without batch norm, as in Keras' CIFAR
//! network. Binarized, their sums of ±1 reach the hundreds and drown what the blocks compute: plain
//! BinaryConnect loses nine points at depth 20 and fails at depth 32. Every repair of the table
//! makes those sums smaller: projections in full precision, none at all, weights of ±0.1 or ±1/8,
//! or a ReLU that scales.

use std::process::ExitCode;

use qnn::prelude::*;

fn main() -> ExitCode {
    Experiment::new("resnet20_bc", "ResNet-20/32 with BinaryConnect weights on CIFAR-10")
        .dataset(DatasetName::Cifar10)
        .recipe(Recipe::metu_cifar10())
        .variant(row("bc-1.2", "binary weights of ±1/8", net("bc-1.2"), [89.71, 90.90]))
        .variant(row("bc-1.1", "binary weights of ±0.1", net("bc-1.1"), [89.33, 90.67]))
        .variant(row("bc", "binary weights of ±1, projections included", net("bc"), [82.68, 10.00]))
        .variant(row("bc-fp-projections", "projections in full precision", fp_projections(), [89.60, 90.65]))
        .variant(row(
            "bc-no-projections",
            "no shortcut where the size changes",
            no_projections(),
            [89.03, 91.11],
        ))
        .variant(row("bc-2.1", "ReLU scaled by 0.1", net("bc-2.1"), [88.03, 87.69]))
        .variant(row("bc-2.2", "ReLU scaled by 1/8", net("bc-2.2"), [88.31, 87.83]))
        .variant(row("fp", "full precision", net("fp"), [91.66, 92.05]))
        .main()
}

/// A row of the table with its accuracies at depth 20 and 32.
fn row(name: &'static str, about: &'static str, net: ResNetConfig, published: [f64; 2]) -> Variant {
    Variant::new(name, about, net).published_at(20, published[0]).published_at(32, published[1])
}

fn net(preset: &str) -> ResNetConfig {
    let scheme = Scheme::preset(preset).expect("a known preset");
    ResNetConfig { scheme, ..ResNetConfig::new(3) }
}

fn fp_projections() -> ResNetConfig {
    let mut net = net("bc");
    net.scheme.projections_full_precision = true;
    net
}

fn no_projections() -> ResNetConfig {
    ResNetConfig { shortcut: Shortcut::None, ..net("bc") }
}
