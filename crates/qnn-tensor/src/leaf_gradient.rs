use std::sync::OnceLock;

use crate::gradient::{Deferred, Fill, Gradient, Pullback};
use crate::{Scalar, Tensor};

/// The gradient of a leaf: its elements, or what computes them.
///
/// That of a large matrix fills as much memory as the matrix itself. An optimizer that takes it
/// [in pieces](LeafGradient::into_pieces) has each piece in the cache when it is used, and the whole is never written.
#[derive(Debug)]
pub struct LeafGradient<T: Scalar = f32> {
    value: OnceLock<Tensor<T>>,
    deferred: Option<Deferred<T>>,
}

/// A gradient that is computed where it is used.
pub struct Pieces<T: Scalar = f32> {
    lend: Deferred<T>,
    pullback: Option<Box<Pullback<T>>>,
}

/// `fill(at, leaf, out)` writes the gradient's elements from `at` on: whole rows of the last axis, where the leaf has the elements `leaf`.
pub type FillPiece<'a, T> = dyn Fn(usize, &[T], &mut [T]) + Sync + 'a;

impl<T: Scalar> LeafGradient<T> {
    pub(crate) fn new(gradient: Gradient<T>) -> Self {
        match gradient {
            Gradient::Value(value) => Self::from(value),
            Gradient::Deferred(deferred) => Self { value: OnceLock::new(), deferred: Some(deferred) },
        }
    }

    /// The sizes of the axes.
    pub fn shape(&self) -> &[usize] {
        match (&self.deferred, self.value.get()) {
            (Some(deferred), _) => deferred.shape(),
            (None, value) => value.map_or(&[], Tensor::shape),
        }
    }

    /// The elements, computed when they are asked for the first time.
    pub fn value(&self) -> &Tensor<T> {
        self.value.get_or_init(|| {
            self.deferred.as_ref().expect("without elements there is what computes them").to_tensor()
        })
    }

    /// The elements for writing.
    pub fn value_mut(&mut self) -> &mut Tensor<T> {
        self.value();
        self.deferred = None;
        self.value.get_mut().expect("the elements were just computed")
    }

    /// The elements.
    pub fn into_value(self) -> Tensor<T> {
        self.value();
        self.value.into_inner().expect("the elements were just computed")
    }

    /// What computes the elements, or the elements themselves if they are known.
    ///
    /// # Errors
    ///
    /// The elements: nothing failed.
    pub fn into_pieces(self) -> Result<Pieces<T>, Tensor<T>> {
        match (self.value.into_inner(), self.deferred) {
            (Some(value), _) => Err(value),
            (None, deferred) => {
                Ok(Pieces::new(deferred.expect("without elements there is what computes them")))
            }
        }
    }
}

impl<T: Scalar> From<Tensor<T>> for LeafGradient<T> {
    fn from(value: Tensor<T>) -> Self {
        Self { value: OnceLock::from(value), deferred: None }
    }
}

impl<T: Scalar> Pieces<T> {
    /// The leaf's value is let go, so that it can be changed in place.
    fn new(deferred: Deferred<T>) -> Self {
        let (lend, pullback) = deferred.split();
        Self { lend, pullback }
    }

    /// Lends what computes the elements, and a number of elements that are computed together at full speed and stay in a core's cache.
    ///
    /// Each element may be computed by any thread and with any others: its bits are the same.
    pub fn with_fill<R>(&self, visit: impl FnOnce(usize, &FillPiece<'_, T>) -> R) -> R {
        self.lend.with_fill(|together, fill: &Fill<'_, T>| {
            visit(together, &|at, leaf, out| {
                fill(at, out);
                if let Some(pullback) = &self.pullback {
                    pullback(leaf, out);
                }
            })
        })
    }
}

impl<T: Scalar> std::fmt::Debug for Pieces<T> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_tuple("Pieces").field(&self.lend).finish()
    }
}
