//! Gradients on their way through the backward pass.

use std::fmt;

use crate::broadcast::sum_to;
use crate::parallel::{for_each_chunk_of, on_widest, whole_rows};
use crate::{Scalar, Tensor};

/// The gradient of a value: its elements, or what computes them where they are used.
#[derive(Debug)]
pub(crate) enum Gradient<T: Scalar> {
    Value(Tensor<T>),
    Deferred(Deferred<T>),
}

/// A gradient that an operation would only write for the next one to read: whoever takes it computes
/// each piece while it is in the cache.
pub(crate) struct Deferred<T: Scalar> {
    shape: Vec<usize>,
    fill: Box<Fill<T>>,
}

type Fill<T> = dyn Fn(usize, &mut [T]) + Send + Sync;

impl<T: Scalar> Gradient<T> {
    pub(crate) fn into_tensor(self) -> Tensor<T> {
        match self {
            Self::Value(value) => value,
            Self::Deferred(deferred) => deferred.into_tensor(),
        }
    }

    /// The gradient of what was broadcast from `shape`, or else the shape that does not reduce to it.
    pub(crate) fn sum_to(self, shape: &[usize]) -> Result<Self, Vec<usize>> {
        match self {
            Self::Deferred(deferred) if deferred.shape == shape => Ok(Self::Deferred(deferred)),
            other => sum_to(other.into_tensor(), shape).map(Self::Value),
        }
    }
}

impl<T: Scalar> Deferred<T> {
    /// `fill(at, out)` writes the elements from `at` on. It is called for whole rows of the last axis, and runs on the
    /// widest vectors if it says `#[inline(always)]`.
    pub(crate) fn new(shape: &[usize], fill: impl Fn(usize, &mut [T]) + Send + Sync + 'static) -> Self {
        Self { shape: shape.to_vec(), fill: Box::new(move |at, out| on_widest(at, out, &fill)) }
    }

    /// Writes the elements from `at` on: whole rows of the last axis.
    pub(crate) fn fill(&self, at: usize, out: &mut [T]) {
        (self.fill)(at, out);
    }

    fn into_tensor(self) -> Tensor<T> {
        let rows = whole_rows(self.shape.last().copied().unwrap_or(1));
        Tensor::build(&self.shape, |out| for_each_chunk_of(rows, out, |at, out| self.fill(at, out)))
    }
}

impl<T: Scalar> fmt::Debug for Deferred<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Deferred{:?}", self.shape)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn counted(shape: &[usize]) -> Gradient<f64> {
        Gradient::Deferred(Deferred::new(shape, |at, out| {
            out.iter_mut().enumerate().for_each(|(i, y)| *y = (at + i) as f64);
        }))
    }

    #[test]
    fn a_deferred_gradient_has_the_elements_it_would_write() {
        for shape in [&[3][..], &[0, 3], &[7001, 5]] {
            assert_eq!(counted(shape).into_tensor(), Tensor::from_fn(shape, |i| i as f64));
        }
    }

    #[test]
    fn it_stays_deferred_unless_it_was_broadcast() {
        assert!(matches!(counted(&[2, 3]).sum_to(&[2, 3]), Ok(Gradient::Deferred(_))));
        let sum = counted(&[2, 3]).sum_to(&[3]).unwrap().into_tensor();
        assert_eq!(sum.as_slice(), [3.0, 5.0, 7.0]);
        assert_eq!(counted(&[2, 3]).sum_to(&[4]).unwrap_err(), [2, 3]);
    }
}
