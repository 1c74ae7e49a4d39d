use std::collections::BTreeMap;

use crate::gradient::Gradient;
use crate::parallel::for_each_chunk;
use crate::{LeafGradient, Scalar, Tensor, Var};

/// The gradients of a tape's leaves, as [`Tape::backward`](crate::Tape::backward) returns them.
#[derive(Debug)]
pub struct Gradients<T: Scalar = f32> {
    tape: u64,
    /// Those on their way.
    pub(crate) by_node: Vec<Option<Gradient<T>>>,
    /// Those of leaves.
    pub(crate) leaves: BTreeMap<usize, LeafGradient<T>>,
}

impl<T: Scalar> Gradients<T> {
    pub(crate) fn new(tape: u64, nodes: usize) -> Self {
        Self { tape, by_node: std::iter::repeat_with(|| None).take(nodes).collect(), leaves: BTreeMap::new() }
    }

    /// The gradient of a leaf, or `None` if the loss does not depend on it.
    ///
    /// # Panics
    ///
    /// If the leaf lives on another tape.
    #[track_caller]
    pub fn of(&self, leaf: Var<'_, T>) -> Option<&Tensor<T>> {
        self.check(leaf);
        self.leaves.get(&leaf.index()).map(LeafGradient::value)
    }

    /// Like [`of`](Gradients::of), and gives the tensor away.
    ///
    /// # Panics
    ///
    /// If the leaf lives on another tape.
    #[track_caller]
    pub fn take(&mut self, leaf: Var<'_, T>) -> Option<Tensor<T>> {
        self.take_leaf(leaf).map(LeafGradient::into_value)
    }

    /// Like [`take`](Gradients::take), but what was not computed yet is left so.
    ///
    /// # Panics
    ///
    /// If the leaf lives on another tape.
    #[track_caller]
    pub fn take_leaf(&mut self, leaf: Var<'_, T>) -> Option<LeafGradient<T>> {
        self.check(leaf);
        self.leaves.remove(&leaf.index())
    }

    #[track_caller]
    fn check(&self, leaf: Var<'_, T>) {
        assert_eq!(leaf.tape_number(), self.tape, "these are the gradients of another tape");
    }

    pub(crate) fn hand_on(
        &mut self,
        op: &str,
        inputs: &[Input],
        wanted: &[bool],
        parts: impl IntoIterator<Item = Option<Gradient<T>>>,
    ) {
        for ((input, part), wanted) in inputs.iter().zip(parts).zip(wanted) {
            if let (Some(part), true) = (part, wanted) {
                self.accumulate(op, input, part);
            }
        }
    }

    fn accumulate(&mut self, op: &str, input: &Input, part: Gradient<T>) {
        let shape = &input.shape;
        let part = part.sum_to(shape).unwrap_or_else(|found| {
            panic!("{op}: a gradient of shape {found:?} for an input of shape {shape:?}")
        });
        let slot = &mut self.by_node[input.id];
        *slot = Some(match slot.take() {
            None => part,
            Some(sum) => Gradient::Value(add(sum.into_tensor(), &part.into_tensor())),
        });
    }
}

/// What a pullback may know of the gradients of its operation's inputs.
pub(crate) struct Received<'a, T: Scalar, const N: usize> {
    /// Whose gradients are wanted.
    pub(crate) wanted: [bool; N],
    inputs: &'a [Input; N],
    gradients: &'a mut Gradients<T>,
}

impl<'a, T: Scalar, const N: usize> Received<'a, T, N> {
    pub(crate) fn new(wanted: [bool; N], inputs: &'a [Input; N], gradients: &'a mut Gradients<T>) -> Self {
        Self { wanted, inputs, gradients }
    }

    /// Takes what an input has received so far, if its elements can be added to where they are. The
    /// part that the pullback returns must then contain it.
    pub(crate) fn take(&mut self, input: usize) -> Option<Tensor<T>> {
        let slot = &mut self.gradients.by_node[self.inputs[input].id];
        match slot {
            Some(Gradient::Value(sum)) if !sum.is_shared() => slot.take().map(Gradient::into_tensor),
            _ => None,
        }
    }
}

/// What the backward pass must know of an input.
pub(crate) struct Input {
    id: usize,
    shape: Vec<usize>,
}

impl Input {
    pub(crate) fn new<T: Scalar>(input: Var<'_, T>) -> Self {
        Self { id: input.index(), shape: input.shape() }
    }
}

/// `sum + part`, in the buffer of `sum` if nothing else reads it.
fn add<T: Scalar>(mut sum: Tensor<T>, part: &Tensor<T>) -> Tensor<T> {
    if sum.is_shared() {
        return sum.zip_map(part, |a, b| a + b);
    }
    let part = part.as_slice();
    for_each_chunk(
        sum.as_mut_slice(),
        #[inline(always)]
        |at, sum| {
            sum.iter_mut().zip(&part[at..]).for_each(|(a, &b)| *a += b);
        },
    );
    sum
}
