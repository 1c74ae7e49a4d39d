use crate::parallel::for_each_row;
use crate::{Scalar, Tensor, Var, reduce};

impl<'t, T: Scalar> Var<'t, T> {
    /// The sum of all elements, a tensor of rank 0, added in f64.
    #[track_caller]
    pub fn sum(self) -> Self {
        let x = self.value();
        let y = Tensor::scalar(T::of(reduce::sum(x.as_slice())));
        self.tape().record("sum", [self], y, move |dy, _| [Some(Tensor::full(x.shape(), dy.item()))])
    }

    /// The mean of all elements, a tensor of rank 0, added in f64. NaN if there are none.
    #[track_caller]
    pub fn mean(self) -> Self {
        let x = self.value();
        let len = x.len() as f64;
        let y = Tensor::scalar(T::of(reduce::sum(x.as_slice()) / len));
        self.tape().record("mean", [self], y, move |dy, _| {
            [Some(Tensor::full(x.shape(), T::of(dy.item().as_f64() / len)))]
        })
    }

    /// The sums along an axis, which disappears; added in f64.
    ///
    /// ```
    /// use qnn_tensor::{Tape, Tensor};
    /// let tape = Tape::<f32>::new();
    /// let x = tape.leaf(Tensor::from_fn(&[2, 3], |i| i as f32));
    /// assert_eq!(x.sum_axis(0).value().as_slice(), [3.0, 5.0, 7.0]);
    /// assert_eq!(x.sum_axis(1).value().as_slice(), [3.0, 12.0]);
    /// ```
    ///
    /// # Panics
    ///
    /// If there is no such axis.
    #[track_caller]
    pub fn sum_axis(self, axis: usize) -> Self {
        self.reduce_axis("sum_axis", axis, |_| 1.0)
    }

    /// The means along an axis, which disappears; added in f64. NaN along an empty axis.
    ///
    /// # Panics
    ///
    /// If there is no such axis.
    #[track_caller]
    pub fn mean_axis(self, axis: usize) -> Self {
        self.reduce_axis("mean_axis", axis, |len| len as f64)
    }

    /// The sums along an axis over a divisor that may depend on its length.
    #[track_caller]
    fn reduce_axis(self, op: &'static str, axis: usize, divisor: fn(usize) -> f64) -> Self {
        let x = self.value();
        let shape = x.shape().to_vec();
        assert!(axis < shape.len(), "{op}: there is no axis {axis} in {shape:?}");
        let divisor = divisor(shape[axis]);
        let y = sums_along(&x, axis, divisor);
        self.tape().record(op, [self], y, move |dy, _| {
            let inner: usize = shape[axis + 1..].iter().product();
            let d = dy.map(|d| T::of(d.as_f64() / divisor));
            [Some(Tensor::build(&shape, |dx| {
                for_each_row(shape[axis] * inner, dx, |i, dx| {
                    let d = &d.as_slice()[i * inner..][..inner];
                    dx.chunks_exact_mut(inner).for_each(|dx| dx.copy_from_slice(d));
                });
            }))]
        })
    }
}

fn sums_along<T: Scalar>(x: &Tensor<T>, axis: usize, divisor: f64) -> Tensor<T> {
    let mut shape = x.shape().to_vec();
    let len = shape.remove(axis);
    let inner: usize = shape[axis..].iter().product();
    let x = x.as_slice();
    Tensor::build(&shape, |y| {
        for_each_row(inner, y, |i, y| {
            let sums = reduce::sum_rows(&x[i * len * inner..][..len * inner], inner);
            y.iter_mut().zip(sums).for_each(|(y, sum)| *y = T::of(sum / divisor));
        });
    })
}

#[cfg(test)]
mod tests {
    use crate::{Tape, Tensor, gradcheck};

    #[test]
    fn gradients_agree_with_differences() {
        let x = Tensor::from_fn(&[2, 3], |i| i as f64 - 2.5);
        gradcheck([x.clone()], |[x]| x.sum()).unwrap();
        gradcheck([x], |[x]| x.mean()).unwrap();
    }

    #[test]
    fn reductions_along_an_axis_agree_with_ndarray_and_differences() {
        let x = Tensor::from_fn(&[2, 3, 4], |i| i as f64 - 2.5);
        for axis in 0..3 {
            let tape = Tape::new();
            let v = tape.constant(x.clone());
            let sums = x.view().sum_axis(ndarray::Axis(axis));
            assert_eq!(v.sum_axis(axis).value().to_array(), sums);
            assert_eq!(v.mean_axis(axis).value().to_array(), sums / x.shape()[axis] as f64);
            gradcheck([x.clone()], |[x]| x.sum_axis(axis)).unwrap();
            gradcheck([x.clone()], |[x]| x.mean_axis(axis)).unwrap();
        }
    }

    #[test]
    fn empty_axes_sum_to_zero_and_have_no_mean() {
        let tape = Tape::new();
        let x = tape.leaf(Tensor::<f32>::zeros(&[0, 3]));
        assert_eq!(x.sum_axis(0).value(), Tensor::zeros(&[3]));
        assert!(x.mean_axis(0).value().as_slice().iter().all(|y| y.is_nan()));
        assert_eq!(x.sum_axis(1).shape(), [0]);
        assert!(x.mean().value().item().is_nan());
        let loss = x.sum_axis(0).sum();
        assert_eq!(tape.backward(loss).of(x).unwrap().shape(), [0, 3]);
    }

    #[test]
    #[should_panic(expected = "sum_axis: there is no axis 2 in [2, 3]")]
    fn missing_axes_panic() {
        Tape::new().leaf(Tensor::<f32>::zeros(&[2, 3])).sum_axis(2);
    }
}
