//! Two training steps of ResNet-20 against PyTorch's: `vectors/` holds the figures, the script that
//! made them and how weights and images come about.

use std::collections::BTreeMap;

use qnn_layers::{
    Bindings, Ctx, Init, Layer, Mode, ParamId, Role, apply_updates, for_each_param, for_each_param_mut,
    state_dict,
};
use qnn_models::{ResNet, ResNetConfig};
use qnn_tensor::{Tape, Tensor};
use safetensors::SafeTensors;

const SEED: u64 = 1647;
const LEARNING_RATE: f32 = 0.06644;
const MOMENTUM: f32 = 0.9;
const WEIGHT_DECAY: f32 = 1e-2;
const BATCH: usize = 8;
const TOLERANCE: f64 = 1e-4;

/// Element `i` of tensor `t`: splitmix64, as the script describes it.
fn value(t: u64, i: u64, bound: f64, offset: f64) -> f32 {
    let mut z = SEED.wrapping_add(((t << 32) + i + 1).wrapping_mul(0x9E37_79B9_7F4A_7C15));
    z = (z ^ (z >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
    z = (z ^ (z >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
    let k = ((z ^ (z >> 31)) >> 40) as f64;
    (offset + bound * ((2.0 * k - 2.0_f64.powi(24)) / 2.0_f64.powi(24))) as f32
}

fn tensor(t: u64, shape: &[usize], bound: f64, offset: f64) -> Tensor {
    Tensor::from_fn(shape, |i| value(t, i as u64, bound, offset))
}

fn model() -> ResNet {
    let mut model = ResNet::new(&ResNetConfig::from_depth(20).unwrap(), &mut Init::new(0)).unwrap();
    let mut t = 0;
    for_each_param_mut(&mut model, &mut |_, param| {
        let shape = param.value().shape().to_vec();
        let fan_in: usize = shape[..shape.len() - 1].iter().product();
        let (bound, offset) = match param.role() {
            Role::Kernel => ((6.0 / fan_in as f64).sqrt(), 0.0),
            Role::Bias => (0.1, 0.0),
            Role::Gamma => (0.2, 1.0),
            _ => (0.2, 0.0),
        };
        *param.value_mut() = tensor(t, &shape, bound, offset);
        t += 1;
    });
    model
}

struct Vectors(Vec<u8>);

impl Vectors {
    fn load() -> Self {
        let path = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/vectors/resnet20_step.safetensors");
        Self(std::fs::read(path).unwrap())
    }

    fn of(&self, name: &str) -> Vec<f32> {
        let file = SafeTensors::deserialize(&self.0).unwrap();
        let bytes = file.tensor(name).unwrap().data();
        bytes.chunks_exact(4).map(|b| f32::from_le_bytes(b.try_into().unwrap())).collect()
    }

    /// Compares relative to `scale`, as a rule the largest element of the whole tensor.
    fn check(&self, name: &str, got: &[f32], scale: f64) {
        let expected = self.of(name);
        assert_eq!(got.len(), expected.len(), "{name}");
        for (i, (&got, &expected)) in got.iter().zip(&expected).enumerate() {
            let difference = (f64::from(got) - f64::from(expected)).abs();
            assert!(difference <= TOLERANCE * scale, "{name}[{i}]: {got} for {expected} (scale {scale:e})");
        }
    }

    fn check_all(&self, name: &str, got: &[f32]) {
        self.check(name, got, largest(&self.of(name)));
    }
}

fn largest(values: &[f32]) -> f64 {
    values.iter().fold(0.0, |m, &x| f64::from(x.abs()).max(m))
}

/// Up to 16 elements, evenly spaced.
fn signature(values: &[f32]) -> Vec<f32> {
    let count = values.len().min(16);
    (0..count).map(|j| values[j * values.len() / count]).collect()
}

/// `[sum, L2 norm]`; the terms of the sum cancel, so that it is as certain as √len times the norm.
fn check_sum_and_norm(vectors: &Vectors, name: &str, values: &[f32]) {
    let f64s = || values.iter().map(|&x| f64::from(x));
    let (sum, norm) = (f64s().sum::<f64>(), f64s().map(|x| x * x).sum::<f64>().sqrt());
    let expected = vectors.of(name).into_iter().map(f64::from).collect::<Vec<_>>();
    let sum_scale = expected[1] * (values.len() as f64).sqrt();
    assert!((sum - expected[0]).abs() <= TOLERANCE * sum_scale, "{name}: sum {sum} for {}", expected[0]);
    assert!((norm - expected[1]).abs() <= TOLERANCE * expected[1], "{name}: norm {norm} for {}", expected[1]);
}

/// The batch norm behind it removes any mean, so that its gradient is zero up to rounding.
fn feeds_a_norm(path: &str) -> bool {
    ["conv.bias", "conv1.bias", "conv2.bias"].iter().any(|end| path.ends_with(end))
}

#[derive(Default)]
struct Step {
    logits: Vec<f32>,
    loss: f32,
    gradients: BTreeMap<String, Tensor>,
}

/// SGD with momentum in the order of PyTorch's operations.
fn step(model: &mut ResNet, velocity: &mut BTreeMap<ParamId, Vec<f32>>) -> Step {
    let tape = Tape::new();
    let mut cx = Ctx::new(&tape, Mode::Train, 0, 0);
    let images = tape.constant(tensor(1000, &[BATCH, 32, 32, 3], 1.7, 0.0));
    let logits = model.forward(&mut cx, images.into()).unwrap().value();
    let labels: Vec<usize> = (0..BATCH).map(|i| (7 * i + 3) % 10).collect();
    let loss = logits.cross_entropy(&labels, 0.0);
    let (logits, loss_value) = (logits.value().as_slice().to_vec(), loss.value().item());
    let bindings: Bindings<'_> = cx.finish();
    let mut gradients = bindings.gradients(&mut tape.backward(loss));
    let updates = bindings.into_updates();
    drop(tape);
    let mut result = Step { logits, loss: loss_value, ..Step::default() };
    for_each_param_mut(model, &mut |path, param| {
        let gradient = gradients.take(param.id()).expect(path);
        let decay = if param.decays() { WEIGHT_DECAY } else { 0.0 };
        let velocity = velocity.entry(param.id()).or_insert_with(|| vec![0.0; gradient.len()]);
        let weights = param.value_mut().as_mut_slice().iter_mut();
        for ((w, v), dw) in weights.zip(velocity).zip(gradient.as_slice()) {
            *v = MOMENTUM * *v + (dw + decay * *w);
            *w -= LEARNING_RATE * *v;
        }
        result.gradients.insert(path.to_owned(), gradient);
    });
    apply_updates(model, updates);
    result
}

#[test]
fn two_steps_agree_with_pytorch() {
    let vectors = Vectors::load();
    let mut model = model();
    let images = tensor(1000, &[BATCH, 32, 32, 3], 1.7, 0.0);
    assert_eq!(images.as_slice()[..16], vectors.of("input/head"));
    for_each_param(&model, &mut |path, param| {
        assert_eq!(signature(param.value().as_slice()), vectors.of(&format!("before/{path}")), "{path}");
    });

    let mut velocity = BTreeMap::new();
    let first = step(&mut model, &mut velocity);
    let second = step(&mut model, &mut velocity);

    vectors.check_all("logits/1", &first.logits);
    vectors.check_all("logits/2", &second.logits);
    vectors.check_all("loss", &[first.loss, second.loss]);
    for (path, gradient) in &first.gradients {
        let name = format!("grad/{path}");
        let scale = if feeds_a_norm(path) { 0.1 } else { largest(&vectors.of(&name)) };
        vectors.check(&name, gradient.as_slice(), scale);
    }
    for (path, value) in state_dict(&model) {
        let scale = largest(value.as_slice());
        vectors.check(&format!("after/{path}"), &signature(value.as_slice()), scale);
        check_sum_and_norm(&vectors, &format!("sum_norm/{path}"), value.as_slice());
    }
}
