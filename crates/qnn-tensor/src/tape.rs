use std::cell::{Cell, RefCell};
use std::fmt;
use std::sync::atomic::{AtomicU64, Ordering};

use crate::gradient::Gradient;
use crate::gradients::{Gradients, Input, Received};
use crate::ops::Moments;
use crate::{LeafGradient, Scalar, Tensor};

/// The record of one forward pass: a flat list of nodes in order of execution.
///
/// Its reverse is a topological order, so that the backward pass is a loop: no sorting, no
/// recursion, however deep the graph. [`backward`](Tape::backward) drains the tape; each saved
/// tensor is freed as soon as the sweep has passed it.
pub struct Tape<T: Scalar = f32> {
    /// Unique in the process, unlike the address.
    number: u64,
    nodes: RefCell<Vec<Node<T>>>,
    drained: Cell<bool>,
}

/// A value on a tape. `Copy`, so that expressions need no clones.
#[derive(Clone, Copy)]
pub struct Var<'t, T: Scalar = f32> {
    tape: &'t Tape<T>,
    id: usize,
}

struct Node<T: Scalar> {
    op: &'static str,
    value: Tensor<T>,
    kind: Kind<T>,
    /// The statistics of the value, where its operation has made them along with it.
    moments: Option<Moments<T>>,
}

/// How a node takes part in the backward pass.
enum Kind<T: Scalar> {
    /// Has no gradient, and stops what only depends on it from having one.
    Constant,
    /// Keeps its gradient.
    Leaf,
    /// Hands its gradient on to its inputs.
    Inner(Sweep<T>),
}

/// Turns the gradient of a value into contributions to those of its inputs.
type Sweep<T> = Box<dyn FnOnce(Gradient<T>, &mut Gradients<T>)>;

impl<T: Scalar> Tape<T> {
    /// An empty tape.
    pub fn new() -> Self {
        static NEXT: AtomicU64 = AtomicU64::new(0);
        let number = NEXT.fetch_add(1, Ordering::Relaxed);
        Self { number, nodes: RefCell::new(Vec::new()), drained: Cell::new(false) }
    }

    /// Puts a value on the tape that will have a gradient.
    pub fn leaf(&self, value: Tensor<T>) -> Var<'_, T> {
        self.push("leaf", value, Kind::Leaf)
    }

    /// Puts a value on the tape that has no gradient; what depends on constants alone is not
    /// differentiated either.
    pub fn constant(&self, value: Tensor<T>) -> Var<'_, T> {
        self.push("constant", value, Kind::Constant)
    }

    /// Records one operation: the primitive from which all others are made, here and in other
    /// crates.
    ///
    /// `pullback(dy, wanted)` receives the gradient of the value and, for each input, whether its
    /// gradient is wanted; it returns the gradients in the order of the inputs (`None` for a zero
    /// or an unwanted one). The gradient of an input that was broadcast may have the broadcast
    /// shape: the tape sums it down. Whatever the pullback captures is what the operation saves.
    ///
    /// ```
    /// use qnn_tensor::{Tape, Tensor, Var};
    ///
    /// fn cube<'t>(x: Var<'t>) -> Var<'t> {
    ///     let value = x.value();
    ///     let y = value.map(|x| x * x * x);
    ///     x.tape().record("cube", [x], y, move |dy, _| {
    ///         [Some(value.zip_map(dy, |x, dy| 3.0 * x * x * dy))]
    ///     })
    /// }
    ///
    /// let tape = Tape::new();
    /// let x = tape.leaf(Tensor::scalar(2.0));
    /// assert_eq!(tape.backward(cube(x)).of(x).unwrap().item(), 12.0);
    /// ```
    ///
    /// # Panics
    ///
    /// If an input lives on another tape. The backward pass panics, naming the operation, if the
    /// pullback returns a gradient whose shape does not reduce to its input's.
    #[track_caller]
    pub fn record<'t, const N: usize>(
        &'t self,
        op: &'static str,
        inputs: [Var<'t, T>; N],
        value: Tensor<T>,
        pullback: impl FnOnce(&Tensor<T>, [bool; N]) -> [Option<Tensor<T>>; N] + 'static,
    ) -> Var<'t, T> {
        self.record_gradients(op, inputs, value, move |dy, received| {
            pullback(&dy.into_tensor(), received.wanted).map(|part| part.map(Gradient::Value))
        })
    }

    /// [`record`](Tape::record) for an operation of single elements: `pullback(x, d)` turns elements of the value's gradient, in `d`, into those
    /// of the input's, where the input is `x`. It is called for parts of the tensors, in any order and by several threads, and may wait until
    /// the gradient is used: so the input's gradient takes no memory of its own.
    ///
    /// ```
    /// use qnn_tensor::{Tape, Tensor};
    ///
    /// let tape = Tape::new();
    /// let x = tape.leaf(Tensor::scalar(-3.0_f32));
    /// let y = tape.record_elementwise("square", x, Tensor::scalar(9.0), |x, d| {
    ///     d.iter_mut().zip(x).for_each(|(d, x)| *d *= 2.0 * x);
    /// });
    /// assert_eq!(tape.backward(y).of(x).unwrap().item(), -6.0);
    /// ```
    ///
    /// # Panics
    ///
    /// If the input lives on another tape or has another shape than the value.
    #[track_caller]
    pub fn record_elementwise<'t>(
        &'t self,
        op: &'static str,
        x: Var<'t, T>,
        value: Tensor<T>,
        pullback: impl Fn(&[T], &mut [T]) + Send + Sync + 'static,
    ) -> Var<'t, T> {
        let input = x.value();
        assert_eq!(input.shape(), value.shape(), "{op}: an operation of single elements keeps the shape");
        self.record_gradients(op, [x], value, move |dy, _| [Some(dy.followed_by(input, pullback))])
    }

    /// [`record`](Tape::record) for operations that take or give gradients that are not computed yet,
    /// or add to those that an input has received.
    #[track_caller]
    pub(crate) fn record_gradients<'t, const N: usize>(
        &'t self,
        op: &'static str,
        inputs: [Var<'t, T>; N],
        value: Tensor<T>,
        pullback: impl FnOnce(Gradient<T>, &mut Received<'_, T, N>) -> [Option<Gradient<T>>; N] + 'static,
    ) -> Var<'t, T> {
        let wanted = inputs.map(|input| self.accepts(op, input));
        if !wanted.contains(&true) {
            return self.push(op, value, Kind::Constant);
        }
        let inputs = inputs.map(Input::new);
        let sweep = move |dy: Gradient<T>, gradients: &mut Gradients<T>| {
            let parts = pullback(dy, &mut Received::new(wanted, &inputs, gradients));
            gradients.hand_on(op, &inputs, &wanted, parts);
        };
        self.push(op, value, Kind::Inner(Box::new(sweep)))
    }

    /// [`record`](Tape::record) for an operation of any number of inputs, such as
    /// [`concat`](crate::ops::concat).
    ///
    /// # Panics
    ///
    /// As [`record`](Tape::record); and in the backward pass if there are not as many gradients as
    /// inputs.
    #[track_caller]
    pub fn record_many<'t>(
        &'t self,
        op: &'static str,
        inputs: &[Var<'t, T>],
        value: Tensor<T>,
        pullback: impl FnOnce(&Tensor<T>, &[bool]) -> Vec<Option<Tensor<T>>> + 'static,
    ) -> Var<'t, T> {
        let wanted: Vec<bool> = inputs.iter().map(|&input| self.accepts(op, input)).collect();
        if !wanted.contains(&true) {
            return self.push(op, value, Kind::Constant);
        }
        let inputs: Vec<Input> = inputs.iter().map(|&input| Input::new(input)).collect();
        let sweep = move |dy: Gradient<T>, gradients: &mut Gradients<T>| {
            let parts = pullback(&dy.into_tensor(), &wanted);
            assert_eq!(parts.len(), inputs.len(), "{op}: one gradient is needed for each input");
            let parts = parts.into_iter().map(|part| part.map(Gradient::Value));
            gradients.hand_on(op, &inputs, &wanted, parts);
        };
        self.push(op, value, Kind::Inner(Box::new(sweep)))
    }

    /// The gradients of `loss` with respect to every leaf. Drains the tape.
    ///
    /// # Panics
    ///
    /// If `loss` has more than one element, lives on another tape, or the tape was drained before.
    #[track_caller]
    pub fn backward(&self, loss: Var<'_, T>) -> Gradients<T> {
        self.check_loss(loss);
        self.backward_from(loss, Tensor::full(&loss.shape(), T::one()))
    }

    /// The gradients of `sum(y * cotangent)` with respect to every leaf. Drains the tape.
    ///
    /// # Panics
    ///
    /// If the shapes differ, `y` lives on another tape, or the tape was drained before.
    #[track_caller]
    pub fn backward_from(&self, y: Var<'_, T>, cotangent: Tensor<T>) -> Gradients<T> {
        assert!(std::ptr::eq(y.tape, self), "backward: the value lives on another tape");
        assert_eq!(y.shape(), cotangent.shape(), "backward: a cotangent has its value's shape");
        self.sweep(y, cotangent, |dy| Gradient::Value(dy.into_tensor()))
    }

    /// [`backward`](Tape::backward) that leaves gradients of large matrices uncomputed until they are
    /// [asked for](LeafGradient): what they are computed of lives as long.
    ///
    /// # Panics
    ///
    /// As [`backward`](Tape::backward).
    #[track_caller]
    pub fn backward_deferred(&self, loss: Var<'_, T>) -> Gradients<T> {
        self.check_loss(loss);
        self.sweep(loss, Tensor::full(&loss.shape(), T::one()), |dy| dy)
    }

    /// `leaf` is what becomes of a leaf's gradient.
    fn sweep(
        &self,
        y: Var<'_, T>,
        cotangent: Tensor<T>,
        leaf: impl Fn(Gradient<T>) -> Gradient<T>,
    ) -> Gradients<T> {
        let mut nodes = self.nodes.take();
        self.drained.set(true);
        let mut gradients = Gradients::new(self.number, nodes.len());
        gradients.by_node[y.id] = Some(Gradient::Value(cotangent));
        while let Some(node) = nodes.pop() {
            let id = nodes.len();
            drop(node.value);
            match (node.kind, gradients.by_node[id].take()) {
                (Kind::Leaf, Some(dy)) => {
                    gradients.leaves.insert(id, LeafGradient::new(leaf(dy)));
                }
                (Kind::Inner(pullback), Some(dy)) => pullback(dy, &mut gradients),
                _ => {}
            }
        }
        gradients
    }

    #[track_caller]
    fn check_loss(&self, loss: Var<'_, T>) {
        assert!(std::ptr::eq(loss.tape, self), "backward: the value lives on another tape");
        let shape = loss.shape();
        let len: usize = shape.iter().product();
        assert_eq!(len, 1, "backward() needs a loss of one element, its shape is {shape:?}");
    }

    /// The number of recorded values.
    pub fn len(&self) -> usize {
        self.nodes.borrow().len()
    }

    /// Whether nothing is recorded.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Whether an input's gradient is wanted, once it is known to live here.
    #[track_caller]
    fn accepts(&self, op: &str, input: Var<'_, T>) -> bool {
        assert!(std::ptr::eq(input.tape, self), "{op}: an input lives on another tape");
        input.needs_gradient()
    }

    #[track_caller]
    fn push(&self, op: &'static str, value: Tensor<T>, kind: Kind<T>) -> Var<'_, T> {
        assert!(!self.drained.get(), "{op}: the tape was drained by backward(); use a new one");
        let mut nodes = self.nodes.borrow_mut();
        nodes.push(Node { op, value, kind, moments: None });
        Var { tape: self, id: nodes.len() - 1 }
    }
}

impl<T: Scalar> Default for Tape<T> {
    fn default() -> Self {
        Self::new()
    }
}

impl<T: Scalar> fmt::Debug for Tape<T> {
    /// One line per node: number, operation, shape.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(f, "Tape")?;
        for (id, node) in self.nodes.borrow().iter().enumerate() {
            writeln!(f, "  {id:4} {:<20} {:?}", node.op, node.value.shape())?;
        }
        Ok(())
    }
}

impl<'t, T: Scalar> Var<'t, T> {
    /// The value; shares the buffer.
    ///
    /// # Panics
    ///
    /// If the tape was drained by [`Tape::backward`].
    #[track_caller]
    pub fn value(self) -> Tensor<T> {
        self.with_node(|node| node.value.clone())
    }

    /// The sizes of the axes.
    ///
    /// # Panics
    ///
    /// If the tape was drained by [`Tape::backward`].
    #[track_caller]
    pub fn shape(self) -> Vec<usize> {
        self.with_node(|node| node.value.shape().to_vec())
    }

    /// The number of the tape, unique in the process.
    pub(crate) fn tape_number(self) -> u64 {
        self.tape.number
    }

    /// The tape that holds the value.
    pub fn tape(self) -> &'t Tape<T> {
        self.tape
    }

    /// The value's position on the tape, which identifies it among the tape's values.
    pub fn index(self) -> usize {
        self.id
    }

    /// The statistics of the value's channels, if its operation has noted them.
    pub(crate) fn moments(self) -> Option<Moments<T>> {
        self.with_node(|node| node.moments.clone())
    }

    /// Notes the statistics of the value's channels for an operation that will need them.
    pub(crate) fn with_moments(self, moments: Moments<T>) -> Self {
        self.tape.nodes.borrow_mut()[self.id].moments = Some(moments);
        self
    }

    /// Whether the value depends on a leaf.
    ///
    /// # Panics
    ///
    /// If the tape was drained by [`Tape::backward`].
    #[track_caller]
    pub fn needs_gradient(self) -> bool {
        self.with_node(|node| !matches!(node.kind, Kind::Constant))
    }

    /// The same value as a constant: no gradient flows through it.
    #[track_caller]
    pub fn detach(self) -> Self {
        self.tape.constant(self.value())
    }

    #[track_caller]
    fn with_node<R>(self, f: impl FnOnce(&Node<T>) -> R) -> R {
        let nodes = self.tape.nodes.borrow();
        let node = nodes.get(self.id).expect("backward() has drained this tape: read values first");
        f(node)
    }
}

impl<T: Scalar> fmt::Debug for Var<'_, T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.tape.nodes.borrow().get(self.id) {
            Some(node) => write!(f, "Var({}: {} {:?})", self.id, node.op, node.value),
            None => write!(f, "Var({}: drained)", self.id),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn double<'t>(x: Var<'t>) -> Var<'t> {
        let y = x.value().map(|x| x + x);
        x.tape().record("double", [x], y, |dy, _| [Some(dy.map(|d| d + d))])
    }

    #[test]
    fn a_value_used_twice_receives_both_gradients() {
        let tape = Tape::new();
        let x = tape.leaf(Tensor::scalar(3.0));
        let y = tape.record("product", [x, x], Tensor::scalar(9.0), |dy, _| {
            [Some(dy.map(|d| 3.0 * d)), Some(dy.map(|d| 3.0 * d))]
        });
        assert_eq!(tape.backward(y).of(x).unwrap().item(), 6.0);
    }

    #[test]
    fn constants_prune_the_backward_pass() {
        let tape = Tape::new();
        let x = tape.constant(Tensor::scalar(3.0));
        let y = tape.record("never", [x], Tensor::scalar(1.0), |_, _| unreachable!());
        assert!(!y.needs_gradient());
        assert!(tape.backward(y).of(x).is_none());
    }

    #[test]
    fn ten_thousand_nodes_neither_recurse_nor_overflow() {
        let tape = Tape::new();
        let x = tape.leaf(Tensor::scalar(0.0));
        let y =
            (0..10_000).fold(x, |y, _| y.tape().record("same", [y], y.value(), |dy, _| [Some(dy.clone())]));
        assert_eq!(tape.backward(y).of(x).unwrap().item(), 1.0);
    }

    #[test]
    fn leaves_keep_their_gradients_and_shared_gradients_are_not_overwritten() {
        let tape = Tape::new();
        let x = tape.leaf(Tensor::scalar(1.0));
        let (a, b) = (double(x), double(x));
        let y =
            tape.record("pair", [a, b], Tensor::scalar(0.0), |dy, _| [Some(dy.clone()), Some(dy.clone())]);
        assert_eq!(tape.backward(y).of(x).unwrap().item(), 4.0);
    }

    #[test]
    #[should_panic(expected = "another tape")]
    fn tapes_do_not_mix() {
        let (a, b) = (Tape::new(), Tape::<f32>::new());
        let x = a.leaf(Tensor::scalar(1.0));
        b.record("mixed", [x], Tensor::scalar(1.0), |_, _| [None]);
    }

    #[test]
    #[should_panic(expected = "the gradients of another tape")]
    fn gradients_belong_to_their_tape() {
        let (a, b) = (Tape::new(), Tape::new());
        let x = a.leaf(Tensor::scalar(1.0_f32));
        let gradients = a.backward(x);
        gradients.of(b.leaf(Tensor::scalar(1.0)));
    }

    #[test]
    fn a_constant_has_no_gradient_even_as_the_loss() {
        let tape = Tape::new();
        let x = tape.constant(Tensor::scalar(1.0_f32));
        assert!(tape.backward(x).of(x).is_none());
    }

    #[test]
    #[should_panic(expected = "many: one gradient is needed for each input")]
    fn a_missing_gradient_names_the_operation() {
        let tape = Tape::new();
        let x = tape.leaf(Tensor::<f32>::zeros(&[2]));
        let y = tape.record_many("many", &[x, x], Tensor::scalar(0.0), |_, _| vec![None]);
        tape.backward(y);
    }

    #[test]
    #[should_panic(expected = "drained")]
    fn a_drained_tape_says_so() {
        let tape = Tape::new();
        let x = tape.leaf(Tensor::scalar(1.0_f32));
        tape.backward(x);
        x.value();
    }

    #[test]
    #[should_panic(expected = "bad: a gradient of shape [3]")]
    fn a_wrong_gradient_shape_names_the_operation() {
        let tape = Tape::new();
        let x = tape.leaf(Tensor::<f32>::zeros(&[2]));
        let y = tape.record("bad", [x], Tensor::scalar(0.0), |_, _| [Some(Tensor::zeros(&[3]))]);
        tape.backward(y);
    }
}
