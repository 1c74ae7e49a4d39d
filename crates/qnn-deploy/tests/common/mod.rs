//! Networks whose parameters make thresholds land on sums.

#![allow(dead_code)] // Each test binary uses some of it.

use qnn_deploy::{Action, Arithmetic, Elements, IntegerStage, Program, Session, freeze};
use qnn_files::{Container, Digest};
use qnn_layers::{Calibration, Ctx, Init, Layer, LeafMut, Mode, Module, Path, Role, apply_updates};
use qnn_models::{
    LeNet5, LeNet5Config, Mlp, MlpConfig, ResNet, ResNetConfig, Scheme, Shortcut, Vgg7, Vgg7Config,
};
use qnn_quant::RangeMethod;
use qnn_tensor::{Tape, Tensor};
use rand::{Rng, SeedableRng};
use rand_chacha::ChaCha8Rng;
use safetensors::tensor::{Dtype, TensorView};
use serde_json::Value;

/// A network of a size that a test can afford.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Net {
    LeNet5,
    Vgg7,
    ResNet8(Shortcut),
    ResNet20,
    Mlp,
    /// With batch norm on its logits.
    MlpOutputNorm,
}

impl Net {
    pub(crate) fn shape(self) -> [usize; 3] {
        match self {
            Self::LeNet5 => [28, 28, 1],
            Self::Vgg7 => [16, 16, 3],
            Self::ResNet8(_) => [12, 12, 3],
            Self::ResNet20 => [16, 16, 3],
            Self::Mlp | Self::MlpOutputNorm => [6, 5, 2],
        }
    }

    pub(crate) fn build(self, scheme: &Scheme, seed: u64) -> Box<dyn Layer> {
        let (scheme, init) = (scheme.clone(), &mut Init::new(seed));
        match self {
            Self::LeNet5 => {
                Box::new(LeNet5::new(&LeNet5Config { scheme, ..LeNet5Config::default() }, init).unwrap())
            }
            Self::Vgg7 => {
                let config = Vgg7Config {
                    input: self.shape(),
                    width: 20,
                    hidden: 40,
                    scheme,
                    ..Vgg7Config::default()
                };
                Box::new(Vgg7::new(&config, init).unwrap())
            }
            Self::ResNet8(shortcut) => {
                let config = ResNetConfig { scheme, shortcut, ..ResNetConfig::new(1) };
                Box::new(ResNet::new(&config, init).unwrap())
            }
            Self::ResNet20 => {
                Box::new(ResNet::new(&ResNetConfig { scheme, ..ResNetConfig::new(3) }, init).unwrap())
            }
            Self::Mlp | Self::MlpOutputNorm => {
                let (dropout, output_norm) = (vec![0.2, 0.5, 0.5], matches!(self, Self::MlpOutputNorm));
                let config = MlpConfig { scheme, dropout, output_norm, ..MlpConfig::new(60, &[70, 33], 10) };
                Box::new(Mlp::new(&config, init).unwrap())
            }
        }
    }
}

/// Draws parameters and statistics of batch norms, and biases: negative and zero factors, whole and
/// dyadic means and offsets, so that sums meet thresholds exactly.
pub(crate) fn randomize(model: &mut dyn Module, seed: u64) {
    let mut rng = ChaCha8Rng::seed_from_u64(seed);
    model.visit_mut(&mut Path::default(), &mut |at, leaf| match leaf {
        LeafMut::Param(param) => match param.role() {
            Role::Gamma => fill(param.value_mut(), || {
                [-1.5, -1.0, -0.5, 0.0, 0.25, 0.5, 1.0, 1.0, 2.0, 1.0 / 3.0][rng.random_range(0..10)]
            }),
            Role::Beta | Role::Bias => {
                fill(param.value_mut(), || [-0.5, -0.25, 0.0, -0.0, 0.125, 0.5, 0.3][rng.random_range(0..7)]);
            }
            _ => {}
        },
        LeafMut::Buffer(buffer) => {
            let mean = at.as_str().ends_with("mean");
            let mut value = buffer.value().clone();
            fill(&mut value, || {
                if mean {
                    rng.random_range(-6..6) as f32 * 0.5
                } else {
                    [0.25, 1.0, 4.0, 7.3][rng.random_range(0..4)]
                }
            });
            buffer.set(value);
        }
    });
}

fn fill(tensor: &mut Tensor, mut value: impl FnMut() -> f32) {
    tensor.as_mut_slice().iter_mut().for_each(|x| *x = value());
}

/// Batch-norm scales of every size and sign, and ranges that some images have.
pub(crate) fn calibrated(net: Net, seed: u64, gammas: &[f32]) -> Box<dyn Layer> {
    let mut model = net.build(&Scheme::preset("int8").unwrap(), seed);
    randomize(model.as_mut(), seed);
    let mut rng = ChaCha8Rng::seed_from_u64(seed);
    model.visit_mut(&mut Path::default(), &mut |_, leaf| match leaf {
        LeafMut::Param(param) if param.role() == Role::Gamma => {
            let gamma = param.value_mut().as_mut_slice();
            gamma.iter_mut().for_each(|gamma| *gamma = gammas[rng.random_range(0..gammas.len())]);
        }
        _ => {}
    });
    let tape = Tape::new();
    let mut cx = Ctx::calibrating(&tape, Calibration::new(RangeMethod::MinMax).unwrap());
    model.forward(&mut cx, tape.constant(images(6, net.shape(), seed)).into()).unwrap();
    let updates = cx.into_calibration().into_updates();
    apply_updates(model.as_mut(), updates);
    model
}

/// What a step leaves behind: statistics of batch norms, ranges, trained parameters, remembered codes, frozen weights.
pub(crate) fn train(model: &mut dyn Layer, shape: [usize; 3]) {
    let tape = Tape::new();
    // The end of training, when INQ freezes what is left.
    let mut cx = Ctx::new(&tape, Mode::Train, 3, 0).with_progress(1.0);
    model.forward(&mut cx, tape.constant(images(20, shape, 50)).into()).unwrap();
    let updates = cx.finish().into_updates();
    apply_updates(model, updates);
}

/// Images of small dyadic numbers.
pub(crate) fn images(count: usize, [h, w, c]: [usize; 3], seed: u64) -> Tensor {
    let mut rng = ChaCha8Rng::seed_from_u64(seed);
    Tensor::from_fn(&[count, h, w, c], |_| rng.random_range(-20..20) as f32 * 0.0625)
}

/// The logits of the training graph in evaluation.
pub(crate) fn graph_logits(model: &dyn Layer, images: &Tensor) -> Vec<f32> {
    let tape = Tape::new();
    let mut cx = Ctx::new(&tape, Mode::Eval, 0, 0);
    let x = tape.constant(images.clone()).into();
    model.forward(&mut cx, x).unwrap().value().value().as_slice().to_vec()
}

pub(crate) fn bits(values: &[f32]) -> Vec<u32> {
    values.iter().map(|x| x.to_bits()).collect()
}

/// Whatever does not run on codes, or takes a pass of its own, says why and what could be done.
fn assert_explained(what: &str, program: &Program) {
    for (i, stage) in program.stages().iter().enumerate() {
        let on_codes = program.values()[stage.input].elements != Elements::Float;
        let accelerated = match &stage.action {
            Action::Product(product) => product.arithmetic == Arithmetic::Integer,
            Action::MaxPool { .. } => on_codes,
            Action::Integer(stage) => matches!(stage, IntegerStage::Product(_)),
            _ => false,
        };
        assert!(accelerated || !stage.remarks.is_empty(), "{what}: stage {i} has no remark\n{program}");
    }
}

/// Compares graph and session for batches of one and seven.
pub(crate) fn assert_exact(what: &str, model: &dyn Layer, shape: [usize; 3]) {
    let program = freeze(model, shape).unwrap_or_else(|error| panic!("{what}: {error}"));
    assert_explained(what, &program);
    let mut session = Session::new(&program).unwrap_or_else(|error| panic!("{what}: {error}"));
    for count in [1, 7] {
        let x = images(count, shape, count as u64);
        let (expected, found) = (graph_logits(model, &x), session.run(x.as_slice()).unwrap());
        assert_eq!(
            bits(&found),
            bits(&expected),
            "{what}, {count} images: {found:?} for {expected:?}\n{program:?}"
        );
    }
}

/// Writes a container again after a change, with the digest that the change asks for.
pub(crate) fn forge(
    path: &std::path::Path,
    change: impl FnOnce(&mut Value, &mut Vec<(String, Dtype, Vec<u8>)>),
) {
    let container = Container::read(path).unwrap();
    let (first, text) = container.note().split_once('\n').unwrap();
    let (kind, _) = first.rsplit_once(' ').unwrap();
    let mut description: Value = serde_json::from_str(text).unwrap();
    let tensors = container.tensors().unwrap();
    let mut tensors: Vec<_> =
        tensors.iter().map(|(name, view)| (name.to_owned(), view.dtype(), view.data().to_vec())).collect();
    tensors.sort();
    change(&mut description, &mut tensors);
    tensors.sort();
    let text = description.to_string();
    let mut digest = Digest::new();
    digest.text(&text);
    let size = |dtype: &Dtype| if *dtype == Dtype::U8 { 1 } else { 4 };
    for (name, dtype, bytes) in &tensors {
        digest.text(name);
        digest.number((bytes.len() / size(dtype)) as u64);
        digest.bytes(bytes);
    }
    let views = tensors.iter().map(|(name, dtype, bytes)| {
        (name.as_str(), TensorView::new(*dtype, vec![bytes.len() / size(dtype)], bytes).unwrap())
    });
    Container::write(path, views, format!("{kind} {:016x}\n{text}", digest.value())).unwrap();
}
