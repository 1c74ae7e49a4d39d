//! What holds for every program on a tape: thread counts, buffers, depth, updates in place.

use std::sync::{Mutex, MutexGuard, PoisonError};

use qnn_tensor::ops::{Conv2dOptions, concat};
use qnn_tensor::{Gradients, Padding, Scalar, Tape, Tensor, Var};

/// The tests of this file share the pool of `f32` buffers: those that count it must be alone.
fn alone() -> MutexGuard<'static, ()> {
    static ALONE: Mutex<()> = Mutex::new(());
    ALONE.lock().unwrap_or_else(PoisonError::into_inner)
}

fn noise(shape: &[usize], seed: u64) -> Tensor {
    let mut state = seed.wrapping_mul(0x9E37_79B9_7F4A_7C15) | 1;
    Tensor::from_fn(shape, |_| {
        state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (state >> 40) as f32 / (1_u64 << 24) as f32 - 0.5
    })
}

const BATCH: usize = 32;
const CLASSES: usize = 10;

/// A small network; its larger values take several chunks of the parallel loops.
struct Network {
    images: Tensor,
    kernel: Tensor,
    bias: Tensor,
    dense: Tensor,
    labels: Vec<usize>,
}

impl Network {
    fn new() -> Self {
        Self {
            images: noise(&[BATCH, 16, 16, 8], 1),
            kernel: noise(&[3, 3, 8, 8], 2),
            bias: noise(&[8], 3),
            dense: noise(&[2 * 16 * 16 * 8, CLASSES], 4),
            labels: (0..BATCH).map(|i| i * 7 % CLASSES).collect(),
        }
    }

    /// The loss, and the gradients of kernel, bias and dense weights.
    fn step(&self) -> (f32, [Tensor; 3]) {
        let tape = Tape::new();
        let images = tape.constant(self.images.clone());
        let leaves = [&self.kernel, &self.bias, &self.dense].map(|w| tape.leaf(w.clone()));
        let [kernel, bias, dense] = leaves;
        let padding = Padding { top: 1, bottom: 1, left: 1, right: 1 };
        let options = Conv2dOptions { padding, ..Conv2dOptions::default() };
        let x = images.conv2d(kernel, None, &options) + bias;
        let y = concat(&[x.relu(), x.tanh()], 3) * concat(&[x.hardtanh(), x.sigmoid()], 3);
        let logits = y.flatten().matmul(dense, None);
        let loss = logits.cross_entropy(&self.labels, 0.1) + logits.softmax().mean() + y.mean();
        let value = loss.value().item();
        let mut gradients = tape.backward(loss);
        (value, leaves.map(|leaf| gradients.take(leaf).expect("the loss depends on every leaf")))
    }
}

fn bits(x: &Tensor) -> Vec<u32> {
    x.as_slice().iter().map(|x| x.to_bits()).collect()
}

#[test]
fn any_number_of_threads_gives_the_same_bits() {
    let _alone = alone();
    let network = Network::new();
    let with = |threads| {
        let pool = rayon::ThreadPoolBuilder::new().num_threads(threads).build().unwrap();
        let (loss, gradients) = pool.install(|| network.step());
        (loss.to_bits(), gradients.map(|dw| bits(&dw)))
    };
    let one = with(1);
    assert!(f32::from_bits(one.0).is_finite());
    assert!(one.1.iter().all(|dw| dw.iter().any(|&bits| bits != 0)));
    assert!(one == with(3), "the step depends on the number of threads");
}

#[test]
fn after_the_first_step_no_buffer_is_allocated() {
    let _alone = alone();
    let network = Network::new();
    // What another test has left would do for the first step.
    f32::pool().trim();
    let before = f32::pool().statistics();
    drop(network.step());
    let first = f32::pool().statistics();
    assert!(first.allocations > before.allocations, "the step needs buffers");
    for _ in 0..3 {
        drop(network.step());
        let now = f32::pool().statistics();
        assert_eq!(now.allocations, first.allocations);
        assert_eq!((now.live, now.peak), (before.live, first.peak));
    }
}

#[test]
fn deep_tapes_are_dropped_and_swept_without_recursion() {
    const DEPTH: usize = 10_000;
    let deep = |sweep: bool| {
        let tape = Tape::<f64>::new();
        let x = tape.leaf(Tensor::scalar(1.0));
        let y = (0..DEPTH).fold(x, |y, _| y.scale(1.0));
        assert_eq!(tape.len(), DEPTH + 1);
        if sweep {
            assert_eq!(tape.backward(y).of(x).unwrap().item(), 1.0);
        }
    };
    // A frame per node would need far more than this stack.
    let thread = std::thread::Builder::new().stack_size(64 * 1024);
    thread
        .spawn(move || {
            deep(false);
            deep(true);
        })
        .unwrap()
        .join()
        .expect("the stack holds");
}

fn square_loss<'t>(tape: &'t Tape, w: &Tensor) -> (Var<'t>, Gradients) {
    let w = tape.leaf(w.clone());
    let loss = (w * w).sum();
    (w, tape.backward(loss))
}

#[test]
fn parameters_are_updated_in_place_once_the_tape_is_gone() {
    let _alone = alone();
    let mut w = noise(&[100, 100], 5);
    let address = w.as_slice().as_ptr();
    for _ in 0..3 {
        let tape = Tape::new();
        let (leaf, mut gradients) = square_loss(&tape, &w);
        let dw = gradients.take(leaf).unwrap();
        drop(tape);
        assert!(!w.is_shared());
        let pairs = w.as_mut_slice().iter_mut().zip(dw.as_slice());
        pairs.for_each(|(w, dw)| *w -= 0.1 * dw);
        assert_eq!(w.as_slice().as_ptr(), address);
    }
}

#[test]
fn a_parameter_on_a_live_tape_is_copied_before_it_changes() {
    let mut w = Tensor::<f32>::full(&[3], 1.0);
    let tape = Tape::new();
    let leaf = tape.leaf(w.clone());
    w.as_mut_slice().fill(2.0);
    assert_eq!(leaf.value(), Tensor::full(&[3], 1.0));
}
