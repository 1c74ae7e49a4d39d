//! Gradients on their way through the backward pass.

use std::fmt;

use crate::broadcast::sum_to;
use crate::parallel::{for_each_chunk, for_each_chunk_of, on_widest, whole_rows};
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
    lend: Box<Lend<T>>,
    follower: Option<Follower<T>>,
}

/// Writes the elements from a position on: whole rows of the last axis.
pub(crate) type Fill<'a, T> = dyn Fn(usize, &mut [T]) + Sync + 'a;

/// Lends a [`Fill`], with the number of elements that it writes together at full speed.
type Lend<T> = dyn Fn(&mut dyn FnMut(usize, &Fill<'_, T>)) + Send + Sync;

/// An operation of single elements through which the gradient goes on: to that of `input`, in place.
struct Follower<T: Scalar> {
    input: Tensor<T>,
    pullback: Box<Pullback<T>>,
}

/// Turns elements of a gradient into those of the input's, given the input's elements.
pub(crate) type Pullback<T> = dyn Fn(&[T], &mut [T]) + Send + Sync;

impl<T: Scalar> Gradient<T> {
    pub(crate) fn into_tensor(self) -> Tensor<T> {
        match self {
            Self::Value(value) => value,
            Self::Deferred(deferred) => deferred.to_tensor(),
        }
    }

    /// The gradient of what was broadcast from `shape`, or else the shape that does not reduce to it.
    pub(crate) fn sum_to(self, shape: &[usize]) -> Result<Self, Vec<usize>> {
        match self {
            Self::Deferred(deferred) if deferred.shape == shape => Ok(Self::Deferred(deferred)),
            other => sum_to(other.into_tensor(), shape).map(Self::Value),
        }
    }

    /// The gradient of the input of an operation of single elements.
    pub(crate) fn followed_by(
        self,
        input: Tensor<T>,
        pullback: impl Fn(&[T], &mut [T]) + Send + Sync + 'static,
    ) -> Self {
        match self {
            Self::Deferred(deferred) if deferred.follower.is_none() => {
                let follower = Some(Follower { input, pullback: Box::new(pullback) });
                Self::Deferred(Deferred { follower, ..deferred })
            }
            other => Self::Value(follow(other.into_tensor(), &input, pullback)),
        }
    }
}

/// Computes the input's gradient in the buffer of the value's, if nothing else reads that.
fn follow<T: Scalar>(
    dy: Tensor<T>,
    input: &Tensor<T>,
    pullback: impl Fn(&[T], &mut [T]) + Sync,
) -> Tensor<T> {
    let mut dx = if dy.is_shared() { dy.map(|dy| dy) } else { dy };
    let input = input.as_slice();
    for_each_chunk(
        dx.as_mut_slice(),
        #[inline(always)]
        |at, dx| pullback(&input[at..at + dx.len()], dx),
    );
    dx
}

impl<T: Scalar> Deferred<T> {
    /// `fill(at, out)` writes the elements from `at` on. It is called for whole rows of the last axis, and runs on the
    /// widest vectors if it says `#[inline(always)]`.
    pub(crate) fn new(shape: &[usize], fill: impl Fn(usize, &mut [T]) + Send + Sync + 'static) -> Self {
        let together = whole_rows(shape.last().copied().unwrap_or(1));
        Self::prepared(shape, move |visit| visit(together, &|at, out| on_widest(at, out, &fill)))
    }

    /// For what needs preparation: `lend` makes it, and lends the function that writes elements.
    pub(crate) fn prepared(
        shape: &[usize],
        lend: impl Fn(&mut dyn FnMut(usize, &Fill<'_, T>)) + Send + Sync + 'static,
    ) -> Self {
        Self { shape: shape.to_vec(), lend: Box::new(lend), follower: None }
    }

    /// Lends what writes the elements, and how many it writes together at full speed.
    pub(crate) fn with_fill<R>(&self, visit: impl FnOnce(usize, &Fill<'_, T>) -> R) -> R {
        let Some(Follower { input, pullback }) = &self.follower else {
            return self.with_source(visit);
        };
        self.with_source(|together, fill| {
            visit(together, &|at, out| {
                fill(at, out);
                pullback(&input.as_slice()[at..at + out.len()], out);
            })
        })
    }

    fn with_source<R>(&self, visit: impl FnOnce(usize, &Fill<'_, T>) -> R) -> R {
        let (mut visit, mut result) = (Some(visit), None);
        (self.lend)(&mut |together, fill| result = visit.take().map(|visit| visit(together, fill)));
        result.expect("a deferred gradient is lent once")
    }

    pub(crate) fn to_tensor(&self) -> Tensor<T> {
        self.with_fill(|together, fill| {
            Tensor::build(&self.shape, |out| for_each_chunk_of(together, out, |at, out| fill(at, out)))
        })
    }

    pub(crate) fn shape(&self) -> &[usize] {
        &self.shape
    }

    /// The gradient of what follows, and what turns it into the input's, without the input.
    pub(crate) fn split(self) -> (Self, Option<Box<Pullback<T>>>) {
        let pullback = self.follower.map(|follower| follower.pullback);
        (Self { follower: None, ..self }, pullback)
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

    #[test]
    fn an_elementwise_operation_follows_in_place_or_piece_by_piece() {
        let input = Tensor::from_fn(&[7001, 5], |i| (i % 7) as f64);
        let pullback = |x: &[f64], d: &mut [f64]| d.iter_mut().zip(x).for_each(|(d, x)| *d *= x);
        let expected = Tensor::from_fn(&[7001, 5], |i| (i * (i % 7)) as f64);
        let twice = expected.zip_map(&input, |dx, x| dx * x);
        let value = counted(&[7001, 5]).into_tensor();
        let shared = value.clone();
        for dy in [counted(&[7001, 5]), Gradient::Value(value)] {
            let dx = dy.followed_by(input.clone(), pullback);
            assert_eq!(dx.into_tensor(), expected);
        }
        assert_eq!(shared, counted(&[7001, 5]).into_tensor());
        let dx = counted(&[7001, 5]).followed_by(input.clone(), pullback).followed_by(input, pullback);
        assert_eq!(dx.into_tensor(), twice);
    }
}
