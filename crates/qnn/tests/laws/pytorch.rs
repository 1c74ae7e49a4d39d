//! Single operations and optimizers against PyTorch: `crates/qnn-models/tests/vectors` holds the
//! figures and the script that made them.

use std::collections::BTreeMap;

use qnn::layers::{Ctx, Mode, Param, Role, module};
use qnn::tensor::ops::{Conv2dOptions, PoolOptions, batch_norm_train};
use qnn::tensor::{Padding, Tape, Tensor, Var};
use qnn::train::{OptimizerConfig, Regularization};
use safetensors::SafeTensors;

/// Relative to the largest element of a tensor.
const TOLERANCE: f32 = 2e-6;

struct Vectors(BTreeMap<String, Tensor>);

impl Vectors {
    fn read() -> Self {
        let path = concat!(env!("CARGO_MANIFEST_DIR"), "/crates/qnn-models/tests/vectors/ops.safetensors");
        let bytes = std::fs::read(path).unwrap();
        let file = SafeTensors::deserialize(&bytes).unwrap();
        let tensor = |data: &[u8], shape: &[usize]| {
            let values = data.chunks_exact(4).map(|bytes| f32::from_le_bytes(bytes.try_into().unwrap()));
            Tensor::from_vec(shape, values.collect()).unwrap()
        };
        let tensors = file.iter().map(|(name, view)| (name.to_owned(), tensor(view.data(), view.shape())));
        Self(tensors.collect())
    }

    fn of(&self, case: &str, name: &str) -> Tensor {
        self.0[&format!("{case}/{name}")].clone()
    }

    #[track_caller]
    fn check(&self, case: &str, name: &str, ours: &Tensor) {
        let theirs = self.of(case, name);
        assert_eq!(ours.len(), theirs.len(), "{case}/{name}");
        let largest = theirs.as_slice().iter().fold(0.0_f32, |max, x| max.max(x.abs()));
        for (i, (a, b)) in ours.as_slice().iter().zip(theirs.as_slice()).enumerate() {
            assert!((a - b).abs() <= TOLERANCE * largest.max(1e-3), "{case}/{name}[{i}]: {a}, PyTorch {b}");
        }
    }

    /// Compares the value of `f` and its gradients with respect to the named inputs.
    fn check_op<const N: usize>(
        &self,
        case: &str,
        inputs: [&str; N],
        f: impl for<'t> Fn([Var<'t>; N]) -> Var<'t>,
    ) {
        let tape = Tape::new();
        let leaves = inputs.map(|name| tape.leaf(self.of(case, name)));
        let y = f(leaves);
        self.check(case, "y", &y.value());
        let gradients = tape.backward_from(y, self.of(case, "dy"));
        for (leaf, name) in leaves.into_iter().zip(inputs) {
            self.check(case, &format!("d{name}"), gradients.of(leaf).unwrap());
        }
    }
}

fn padding(top: usize, bottom: usize, left: usize, right: usize) -> Padding {
    Padding { top, bottom, left, right }
}

#[test]
fn strided_grouped_convolutions_with_asymmetric_padding() {
    let vectors = Vectors::read();
    for (case, padding) in [("conv_same", padding(0, 1, 0, 1)), ("conv_explicit", padding(2, 1, 0, 1))] {
        let options = Conv2dOptions { stride: [2, 2], padding, groups: 2, ..Conv2dOptions::default() };
        vectors.check_op(case, ["x", "kernel", "bias"], |[x, kernel, bias]| {
            x.conv2d(kernel, Some(bias), &options)
        });
    }
}

#[test]
fn pools_with_overlap_padding_and_a_rounded_up_size() {
    let vectors = Vectors::read();
    let options = |size, stride, pad, ceil| PoolOptions {
        size: [size, size],
        stride: [stride, stride],
        padding: padding(pad, pad, pad, pad),
        ceil,
    };
    let max = [
        ("max_pool", options(3, 2, 0, true)),
        ("max_pool_padded", options(3, 2, 1, true)),
        ("max_pool_dropped", options(2, 3, 1, true)),
    ];
    for (case, options) in max {
        vectors.check_op(case, ["x"], |[x]| x.max_pool2d(&options));
    }
    let average = [("average_pool", options(3, 2, 1, false)), ("average_pool_ceil", options(3, 2, 1, true))];
    for (case, options) in average {
        vectors.check_op(case, ["x"], |[x]| x.average_pool2d(&options));
    }
}

#[test]
fn batch_norm_and_its_statistics() {
    let vectors = Vectors::read();
    vectors.check_op("batch_norm", ["x", "gamma", "beta"], |[x, gamma, beta]| {
        batch_norm_train(x, gamma, beta, 1e-5).0
    });
    let tape = Tape::new();
    let [x, gamma, beta] = ["x", "gamma", "beta"].map(|name| tape.constant(vectors.of("batch_norm", name)));
    let (_, moments) = batch_norm_train(x, gamma, beta, 1e-5);
    vectors.check("batch_norm", "batch_mean", &moments.mean);
    vectors.check("batch_norm", "batch_var", &moments.variance);
}

#[test]
fn cross_entropy_with_smoothed_labels() {
    let vectors = Vectors::read();
    let labels = vectors.of("cross_entropy", "labels");
    let labels: Vec<usize> = labels.as_slice().iter().map(|&label| label as usize).collect();
    let tape = Tape::new();
    let logits = tape.leaf(vectors.of("cross_entropy", "logits"));
    let loss = logits.cross_entropy(&labels, 0.1);
    vectors.check("cross_entropy", "loss", &loss.value());
    vectors.check("cross_entropy", "dlogits", tape.backward(loss).of(logits).unwrap());
}

struct Weights {
    values: Param,
}
module!(Weights { values });

/// Three steps with given gradients.
fn check_optimizer(case: &str, config: OptimizerConfig, rate: f32) {
    let vectors = Vectors::read();
    let (gradients, expected) = (vectors.of(case, "gradients"), vectors.of(case, "weights"));
    let mut model = Weights { values: Param::new(Role::Other, vectors.of(case, "start")) };
    let mut optimizer = config.build(Regularization::default()).unwrap();
    for (gradient, expected) in gradients.as_slice().chunks(7).zip(expected.as_slice().chunks(7)) {
        let tape = Tape::new();
        let mut cx = Ctx::new(&tape, Mode::Train, 0, 0);
        // A loss that has the given gradient.
        let gradient = tape.constant(Tensor::from_vec(&[7], gradient.to_vec()).unwrap());
        let loss = (cx.param(&model.values) * gradient).sum();
        let mut gradients = cx.finish().gradients(&mut tape.backward(loss));
        drop(tape);
        optimizer.step(&mut model, &mut gradients, rate).unwrap();
        for (ours, theirs) in model.values.value().as_slice().iter().zip(expected) {
            assert!((ours - theirs).abs() <= TOLERANCE, "{case}: {ours}, PyTorch {theirs}");
        }
    }
}

#[test]
fn adam() {
    check_optimizer("adam", OptimizerConfig::ADAM, 1e-3);
}

#[test]
fn sgd_with_nesterov_momentum() {
    check_optimizer("sgd_nesterov", OptimizerConfig::NESTEROV, 0.1);
}
