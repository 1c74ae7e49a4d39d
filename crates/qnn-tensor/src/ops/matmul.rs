use qnn_kernels::{ChannelAffine, MatmulShape, takes_rows};

use super::factors::{Factors, bias_values, record_product};
use crate::gradient::{Deferred, Gradient};
use crate::{Scalar, Tensor, Var};

impl<'t, T: Scalar> Var<'t, T> {
    /// The product of a matrix of rows with a kernel, as in a dense layer.
    ///
    /// ```text
    /// y[.., o] = bias[o] + Σ_k x[.., k] · w[k, o]
    /// ```
    ///
    /// Shapes: `[.., k]` with `[k, n]` and a bias of `[n]` give `[.., n]`.
    ///
    /// ```
    /// use qnn_tensor::{Tape, Tensor};
    ///
    /// let tape = Tape::<f32>::new();
    /// let x = tape.constant(Tensor::from_vec(&[1, 2], vec![3.0, 4.0])?);
    /// let w = tape.leaf(Tensor::from_vec(&[2, 2], vec![1.0, 0.0, 0.5, 2.0])?);
    /// assert_eq!(x.matmul(w, None).value().as_slice(), [5.0, 8.0]);
    /// # Ok::<(), qnn_tensor::ShapeError>(())
    /// ```
    ///
    /// # Panics
    ///
    /// If the shapes do not fit.
    #[track_caller]
    pub fn matmul(self, w: Self, bias: Option<Self>) -> Self {
        matmul_factored(self, w, bias, &Factors::unit())
    }
}

/// The [product](Var::matmul) of codes, scaled to that of their values.
///
/// ```text
/// y[.., o] = (x_factor · w_factor_o) · (x_codes · w_codes)[.., o] + bias[o]
/// ```
///
/// The product of the two factors is rounded once per channel. By convention the gradients handed
/// on to `x` and `w` are those with respect to their *values*.
///
/// # Panics
///
/// If the shapes or factors do not fit.
#[track_caller]
pub fn matmul_factored<'t, T: Scalar>(
    x: Var<'t, T>,
    w: Var<'t, T>,
    bias: Option<Var<'t, T>>,
    factors: &Factors<T>,
) -> Var<'t, T> {
    product([x, w], bias, factors, qnn_kernels::matmul)
}

/// [`matmul_factored`] for codes whose sums f32 does not hold: they are summed in f64, and rounded once, in two to three times the time.
///
/// # Panics
///
/// As [`matmul_factored`].
#[track_caller]
pub fn matmul_exact<'t, T: Scalar>(
    x: Var<'t, T>,
    w: Var<'t, T>,
    bias: Option<Var<'t, T>>,
    factors: &Factors<T>,
) -> Var<'t, T> {
    product([x, w], bias, factors, qnn_kernels::matmul_exact)
}

/// `y = a · b`, through an affine map.
type Kernel<T> = fn(MatmulShape, &[T], &[T], ChannelAffine<'_, T>, &mut [T]);

#[track_caller]
fn product<'t, T: Scalar>(
    [x, w]: [Var<'t, T>; 2],
    bias: Option<Var<'t, T>>,
    factors: &Factors<T>,
    matmul: Kernel<T>,
) -> Var<'t, T> {
    let (codes, kernel) = (x.value(), w.value());
    let shape = matmul_shape(codes.shape(), kernel.shape());
    let scale = factors.output_scale("matmul", shape.columns);
    let offset = bias_values("matmul", bias, shape.columns);
    let out = ChannelAffine { scale: scale.as_deref(), bias: offset.as_ref().map(Tensor::as_slice) };
    let (x_shape, w_shape) = (codes.shape().to_vec(), kernel.shape().to_vec());
    let y_shape = [&x_shape[..x_shape.len() - 1], &[shape.columns]].concat();
    let y = Tensor::build(&y_shape, |y| {
        matmul(shape, codes.as_slice(), kernel.as_slice(), out, y);
    });
    let (of_x, of_w) = (factors.clone(), factors.clone());
    let input_gradient = move |dy: &Tensor<T>| {
        let values = of_x.kernel_values(&kernel);
        Tensor::build(&x_shape, |dx| {
            qnn_kernels::matmul_left_gradient(shape, dy.as_slice(), values.as_slice(), dx);
        })
    };
    let kernel_gradient = move |dy: Tensor<T>| {
        if takes_rows(shape) {
            return Gradient::Deferred(deferred_kernel_gradient(shape, codes, dy, of_w));
        }
        Gradient::Value(of_w.scale_by_input(Tensor::build(&w_shape, |dw| {
            qnn_kernels::matmul_right_gradient(shape, codes.as_slice(), dy.as_slice(), dw);
        })))
    };
    record_product("matmul", [x, w], bias, y, input_gradient, kernel_gradient)
}

/// The gradient of a large kernel, some rows at a time.
fn deferred_kernel_gradient<T: Scalar>(
    shape: MatmulShape,
    codes: Tensor<T>,
    dy: Tensor<T>,
    factors: Factors<T>,
) -> Deferred<T> {
    let columns = shape.columns;
    Deferred::prepared(&[shape.inner, columns], move |visit| {
        let (codes, dy) = (codes.as_slice(), dy.as_slice());
        qnn_kernels::with_matmul_right_gradient(shape, codes, dy, |few, rows| {
            visit(few * columns, &|at, dw| {
                rows(at / columns, dw);
                factors.scale_part_by_input(dw);
            });
        });
    })
}

#[track_caller]
fn matmul_shape(x: &[usize], w: &[usize]) -> MatmulShape {
    let &[inner, columns] = w else {
        panic!("matmul: expected a kernel [inputs, outputs], got {w:?}");
    };
    let Some((&last, leading)) = x.split_last() else {
        panic!("matmul: expected rows [.., {inner}], got a tensor of rank 0");
    };
    assert!(last == inner, "matmul: expected rows [.., {inner}] for a kernel {w:?}, got {x:?}");
    MatmulShape { rows: leading.iter().product(), inner, columns }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ops::tests::with_threads;
    use crate::{Tape, gradcheck};

    fn numbers(shape: &[usize], frequency: f64) -> Tensor<f64> {
        Tensor::from_fn(shape, |i| (i as f64 * frequency + 0.3).sin())
    }

    const SHAPES: [(&[usize], [usize; 2]); 4] =
        [(&[3, 4], [4, 5]), (&[4], [4, 2]), (&[2, 2, 3], [3, 1]), (&[1, 1], [1, 1])];

    #[test]
    fn values_agree_with_the_formula() {
        for (x, w) in SHAPES {
            let (x, w, b) = (numbers(x, 0.7), numbers(&w, 0.9), numbers(&w[1..], 1.1));
            let tape = Tape::new();
            let [vx, vw, vb] = [&x, &w, &b].map(|value| tape.constant(value.clone()));
            let y = vx.matmul(vw, Some(vb)).value();
            let &[inner, columns] = w.shape() else { unreachable!() };
            assert_eq!(y.shape().last(), Some(&columns));
            for (i, y) in y.as_slice().iter().enumerate() {
                let (row, column) = (i / columns, i % columns);
                let term = |k| x.as_slice()[row * inner + k] * w.as_slice()[k * columns + column];
                let expected = b.as_slice()[column] + (0..inner).map(term).sum::<f64>();
                assert!((y - expected).abs() < 1e-12);
            }
        }
    }

    #[test]
    fn gradients_agree_with_differences() {
        for (x, w) in SHAPES {
            let (x, w, b) = (numbers(x, 0.7), numbers(&w, 0.9), numbers(&w[1..], 1.1));
            gradcheck([x.clone(), w.clone(), b], |[x, w, b]| x.matmul(w, Some(b))).unwrap();
            gradcheck([x, w], |[x, w]| x.matmul(w, None)).unwrap();
        }
    }

    /// Codes of a value; their gradient is by convention the value's.
    fn codes<'t>(value: Var<'t, f64>, factor: f64) -> Var<'t, f64> {
        let codes = value.value().map(|x| x / factor);
        value.tape().record("codes", [value], codes, |dy, _| [Some(dy.clone())])
    }

    #[test]
    fn factored_gradients_are_those_of_the_values() {
        for (x, w) in SHAPES {
            let inputs = [numbers(x, 0.7), numbers(&w, 0.9), numbers(&w[1..], 1.1)];
            let factors = Factors { x: 0.3, w: vec![0.7; w[1]] };
            gradcheck(inputs, |[x, w, b]| matmul_factored(codes(x, 0.3), codes(w, 0.7), Some(b), &factors))
                .unwrap();
        }
    }

    #[test]
    fn the_bits_do_not_depend_on_the_number_of_threads() {
        let run = || {
            let tape = Tape::<f32>::new();
            let x = tape.leaf(numbers(&[300, 70], 0.37).cast());
            let w = tape.leaf(numbers(&[70, 90], 0.91).cast());
            let b = tape.leaf(numbers(&[90], 0.5).cast());
            let y = x.matmul(w, Some(b));
            let mut gradients = tape.backward((y * y).sum());
            [x, w, b].map(|leaf| gradients.take(leaf).unwrap())
        };
        assert_eq!(with_threads(1, run), with_threads(3, run));
    }

    #[test]
    #[should_panic(expected = "matmul: expected rows [.., 3] for a kernel [3, 4], got [5, 2]")]
    fn rows_of_another_length_panic() {
        let tape = Tape::<f32>::new();
        let x = tape.constant(Tensor::zeros(&[5, 2]));
        let _ = x.matmul(tape.constant(Tensor::zeros(&[3, 4])), None);
    }

    #[test]
    #[should_panic(expected = "matmul: expected 1 or 4 kernel factors")]
    fn another_number_of_factors_panics() {
        let tape = Tape::<f32>::new();
        let (x, w) = (tape.constant(Tensor::zeros(&[5, 3])), tape.constant(Tensor::zeros(&[3, 4])));
        let _ = matmul_factored(x, w, None, &Factors { x: 1.0, w: vec![1.0; 3] });
    }
}
