use std::ops::Range;

use crate::parallel::for_each_row;
use crate::{Scalar, Tensor, Var};

impl<'t, T: Scalar> Var<'t, T> {
    /// The same elements under another shape; no data is copied.
    ///
    /// # Panics
    ///
    /// If `shape` names another number of elements.
    #[track_caller]
    pub fn reshape(self, shape: &[usize]) -> Self {
        let x = self.value();
        let y = x.reshape(shape).unwrap_or_else(|error| panic!("reshape of {:?}: {error}", x.shape()));
        let from = x.shape().to_vec();
        self.tape().record("reshape", [self], y, move |dy, _| {
            [Some(dy.reshape(&from).expect("a gradient has as many elements as its value"))]
        })
    }

    /// Joins all axes but the first: `[n, …]` becomes `[n, k]`.
    ///
    /// # Panics
    ///
    /// If the rank is 0.
    #[track_caller]
    pub fn flatten(self) -> Self {
        let shape = self.shape();
        let [batch, others @ ..] = &*shape else { panic!("flatten needs an axis, the value has rank 0") };
        self.reshape(&[*batch, others.iter().product()])
    }

    /// The part of an axis in `range`; the other axes stay whole.
    ///
    /// ```
    /// use qnn_tensor::{Tape, Tensor};
    /// let tape = Tape::<f32>::new();
    /// let x = tape.leaf(Tensor::from_fn(&[2, 3], |i| i as f32));
    /// assert_eq!(x.slice(1, 1..3).value().as_slice(), [1.0, 2.0, 4.0, 5.0]);
    /// ```
    ///
    /// # Panics
    ///
    /// If there is no such axis, or the range does not lie within it.
    #[track_caller]
    pub fn slice(self, axis: usize, range: Range<usize>) -> Self {
        let x = self.value();
        let shape = x.shape();
        assert!(axis < shape.len(), "slice: there is no axis {axis} in {shape:?}");
        let inside = range.start <= range.end && range.end <= shape[axis];
        assert!(inside, "slice: {range:?} does not lie within axis {axis} of {shape:?}");
        let whole = shape.to_vec();
        let y = part(&x, axis, range.clone());
        self.tape().record("slice", [self], y, move |dy, _| {
            let inner: usize = whole[axis + 1..].iter().product();
            let (row, d) = (whole[axis] * inner, dy.as_slice());
            let (at, len) = (range.start * inner, range.len() * inner);
            [Some(Tensor::build(&whole, |dx| {
                for_each_row(row, dx, |i, dx| {
                    dx[..at].fill(T::zero());
                    dx[at..at + len].copy_from_slice(&d[i * len..][..len]);
                    dx[at + len..].fill(T::zero());
                });
            }))]
        })
    }
}

/// Joins values along an axis, in order; all other axes must agree.
///
/// ```
/// use qnn_tensor::{Tape, Tensor, ops::concat};
/// let tape = Tape::<f32>::new();
/// let (a, b) = (tape.leaf(Tensor::zeros(&[2, 1])), tape.leaf(Tensor::full(&[2, 2], 1.0)));
/// assert_eq!(concat(&[a, b], 1).value().as_slice(), [0.0, 1.0, 1.0, 0.0, 1.0, 1.0]);
/// ```
///
/// # Panics
///
/// If there are no values, there is no such axis, or another axis differs.
#[track_caller]
pub fn concat<'t, T: Scalar>(inputs: &[Var<'t, T>], axis: usize) -> Var<'t, T> {
    let [first, ..] = inputs else { panic!("concat needs at least one value") };
    let parts: Vec<Tensor<T>> = inputs.iter().map(|input| input.value()).collect();
    let shape = joined_shape(&parts, axis);
    let inner: usize = shape[axis + 1..].iter().product();
    let lens: Vec<usize> = parts.iter().map(|part| part.shape()[axis] * inner).collect();
    let y = Tensor::build(&shape, |y| {
        for_each_row(shape[axis] * inner, y, |i, mut y| {
            for (part, &len) in parts.iter().zip(&lens) {
                let (head, rest) = y.split_at_mut(len);
                head.copy_from_slice(&part.as_slice()[i * len..][..len]);
                y = rest;
            }
        });
    });
    let sizes: Vec<usize> = parts.iter().map(|part| part.shape()[axis]).collect();
    first.tape().record_many("concat", inputs, y, move |dy, wanted| {
        let mut end = 0;
        let ranges = sizes.iter().map(|size| {
            end += size;
            end - size..end
        });
        ranges.zip(wanted).map(|(range, wanted)| wanted.then(|| part(dy, axis, range))).collect()
    })
}

#[track_caller]
fn joined_shape<T: Scalar>(parts: &[Tensor<T>], axis: usize) -> Vec<usize> {
    let mut shape = parts[0].shape().to_vec();
    assert!(axis < shape.len(), "concat: there is no axis {axis} in {shape:?}");
    for part in &parts[1..] {
        let found = part.shape();
        let agree = found.len() == shape.len() && (0..shape.len()).all(|i| i == axis || found[i] == shape[i]);
        assert!(agree, "concat along axis {axis}: {found:?} does not fit {:?}", parts[0].shape());
        shape[axis] += found[axis];
    }
    shape
}

/// A copy of the part of an axis.
fn part<T: Scalar>(x: &Tensor<T>, axis: usize, range: Range<usize>) -> Tensor<T> {
    let mut shape = x.shape().to_vec();
    let inner: usize = shape[axis + 1..].iter().product();
    let row = shape[axis] * inner;
    shape[axis] = range.len();
    let x = x.as_slice();
    Tensor::build(&shape, |y| {
        let len = range.len() * inner;
        for_each_row(len, y, |i, y| y.copy_from_slice(&x[i * row + range.start * inner..][..len]));
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{Tape, gradcheck};

    fn numbers(shape: &[usize]) -> Tensor<f64> {
        Tensor::from_fn(shape, |i| i as f64 + 0.25)
    }

    #[test]
    fn reshaping_shares_the_buffer() {
        let tape = Tape::new();
        let x = tape.leaf(numbers(&[2, 3, 4]));
        let y = x.flatten();
        assert_eq!(y.shape(), [2, 12]);
        assert_eq!(y.value().as_slice().as_ptr(), x.value().as_slice().as_ptr());
        gradcheck([numbers(&[2, 3])], |[x]| x.reshape(&[3, 1, 2])).unwrap();
    }

    #[test]
    fn flattening_keeps_an_empty_batch() {
        let tape = Tape::new();
        assert_eq!(tape.leaf(numbers(&[0, 3, 4])).flatten().shape(), [0, 12]);
        assert_eq!(tape.leaf(numbers(&[5])).flatten().shape(), [5, 1]);
    }

    #[test]
    #[should_panic(expected = "reshape of [2, 3]: shape [5] holds 5 elements, but 6 were given")]
    fn reshaping_to_another_count_panics() {
        Tape::new().leaf(numbers(&[2, 3])).reshape(&[5]);
    }

    #[test]
    fn slices_agree_with_ndarray_along_every_axis() {
        let x = numbers(&[3, 4, 5]);
        for axis in 0..3 {
            for range in [0..1, 1..3, 0..3, 2..2] {
                let tape = Tape::new();
                let y = tape.constant(x.clone()).slice(axis, range.clone()).value();
                let expected = x.view();
                let expected = expected.slice_axis(ndarray::Axis(axis), range.clone().into());
                assert_eq!(y, Tensor::from_array(&expected));
                gradcheck([x.clone()], |[x]| x.slice(axis, range.clone())).unwrap();
            }
        }
    }

    #[test]
    fn joining_the_slices_gives_the_whole() {
        let x = numbers(&[3, 4, 5]);
        for axis in 0..3 {
            let tape = Tape::new();
            let v = tape.constant(x.clone());
            let end = x.shape()[axis];
            let parts = [v.slice(axis, 0..1), v.slice(axis, 1..1), v.slice(axis, 1..end)];
            assert_eq!(concat(&parts, axis).value(), x);
        }
    }

    #[test]
    fn gradients_of_joined_values_agree_with_differences() {
        let inputs = || [numbers(&[2, 1, 3]), numbers(&[2, 2, 3])];
        gradcheck(inputs(), |[a, b]| concat(&[a, b, a], 1)).unwrap();
        gradcheck([numbers(&[2, 3]), numbers(&[0, 3])], |[a, b]| concat(&[b, a, b], 0)).unwrap();
        gradcheck(inputs(), |[a, b]| concat(&[a.detach(), b], 1)).unwrap_err();
    }

    #[test]
    #[should_panic(expected = "concat along axis 1: [3, 2] does not fit [2, 2]")]
    fn other_axes_must_agree() {
        let tape = Tape::new();
        concat(&[tape.leaf(numbers(&[2, 2])), tape.leaf(numbers(&[3, 2]))], 1);
    }

    #[test]
    #[should_panic(expected = "slice: 2..5 does not lie within axis 0 of [4]")]
    fn slices_beyond_the_axis_panic() {
        Tape::new().leaf(numbers(&[4])).slice(0, 2..5);
    }
}
