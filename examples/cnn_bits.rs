//! The BNN paper's convolutional network on CIFAR-10 and SVHN at 1 to 4 bits, with two
//! pseudo-gradients.
//!
//! ```text
//! cargo run --release --example cnn_bits -- --list
//! cargo run --release --example cnn_bits -- --variant hard-2 --data data
//! cargo run --release --example cnn_bits -- --variant svhn-hard-2 --data data
//! ```
//!
//! The variants named `svhn` have half as many filters, as the paper has them for that set, and run
//! on it. What was published was measured on the whole set; of the steepnesses 3, 4 and 5 only 4 was.

use std::process::ExitCode;

use qnn::prelude::*;

/// Names, steepness of the tanh (none for a hard one), and accuracies at 1 to 4 bits where they were published.
type Row = ([&'static str; 4], Option<f32>, Option<[f64; 4]>);

/// What was published for one data set, and what was not.
struct Table {
    dataset: DatasetName,
    /// Filters of the first two convolutions.
    width: usize,
    quantized: [Row; 4],
    full_precision: (&'static str, f64),
}

const TABLES: [Table; 2] = [
    Table {
        dataset: DatasetName::Cifar10,
        width: 128,
        quantized: [
            (["hard-1", "hard-2", "hard-3", "hard-4"], None, Some([78.86, 80.01, 79.64, 78.84])),
            (["tanh-3-1", "tanh-3-2", "tanh-3-3", "tanh-3-4"], Some(3.0), None),
            (["tanh-4-1", "tanh-4-2", "tanh-4-3", "tanh-4-4"], Some(4.0), Some([76.80, 78.38, 75.16, 75.04])),
            (["tanh-5-1", "tanh-5-2", "tanh-5-3", "tanh-5-4"], Some(5.0), None),
        ],
        full_precision: ("fp", 81.54),
    },
    Table {
        dataset: DatasetName::Svhn,
        width: 64,
        quantized: [
            (
                ["svhn-hard-1", "svhn-hard-2", "svhn-hard-3", "svhn-hard-4"],
                None,
                Some([93.64, 93.60, 93.37, 93.76]),
            ),
            (["svhn-tanh-3-1", "svhn-tanh-3-2", "svhn-tanh-3-3", "svhn-tanh-3-4"], Some(3.0), None),
            (
                ["svhn-tanh-4-1", "svhn-tanh-4-2", "svhn-tanh-4-3", "svhn-tanh-4-4"],
                Some(4.0),
                Some([92.35, 92.18, 91.14, 91.80]),
            ),
            (["svhn-tanh-5-1", "svhn-tanh-5-2", "svhn-tanh-5-3", "svhn-tanh-5-4"], Some(5.0), None),
        ],
        full_precision: ("svhn-fp", 94.02),
    },
];

fn main() -> ExitCode {
    let mut experiment = Experiment::new("cnn_bits", "The BNN paper's ConvNet at 1 to 4 bits")
        .dataset(DatasetName::Cifar10)
        .dataset(DatasetName::Svhn)
        .recipe(recipe());
    for Table { dataset, width, quantized: rows, full_precision: (name, accuracy) } in TABLES {
        for (names, steepness, published) in rows {
            let about = match steepness {
                None => "hard tanh, then the bits",
                Some(_) => "modified tanh: its steepness, then the bits",
            };
            for (bits, (index, name)) in (1..).zip(names.into_iter().enumerate()) {
                let variant = Variant::new(name, about, net(width, quantized(bits, steepness))).on(dataset);
                experiment = experiment.variant(match published {
                    Some(accuracies) => variant.published(accuracies[index]),
                    None => variant,
                });
            }
        }
        let activation = Activation::HardTanh;
        let scheme = Scheme { activation, ..Scheme::default() };
        let variant = Variant::new(name, "full precision", net(width, scheme));
        experiment = experiment.variant(variant.published(accuracy).on(dataset));
    }
    experiment.main()
}

/// Adam with a falling rate, lower than that of mlp_bits: at 0.01 the first epochs learn less.
fn recipe() -> Recipe {
    Recipe {
        epochs: 50,
        batch: 100,
        optimizer: OptimizerConfig::ADAM,
        learning_rate: 0.001,
        schedule: Schedule::Exponential { final_factor: 0.01 },
        ..Recipe::default()
    }
}

fn quantized(bits: u32, steepness: Option<f32>) -> Scheme {
    Scheme::even_levels(bits, steepness).expect("1 to 4 bits")
}

/// In the variants with quantized kernels the last layer's are, too, and batch norm brings its sums to a scale on which a softmax
/// does not saturate.
fn net(width: usize, scheme: Scheme) -> BnnCnnConfig {
    let output_norm = scheme.kernel.is_some();
    BnnCnnConfig { width, scheme, output_norm, ..BnnCnnConfig::default() }
}
