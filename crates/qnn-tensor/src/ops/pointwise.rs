use crate::parallel::for_each_chunk;
use crate::{Scalar, Tensor, Var};

/// A function of one element: its value and its slope, next to each other.
///
/// The slope receives the value too, which for many functions is the cheaper way to it. Written
/// without branches (`if … { a } else { b }` between two numbers is a selection), both vectorise.
///
/// ```
/// use qnn_tensor::{Tape, Tensor, ops::Pointwise};
///
/// /// y = 1 / x, dy/dx = −y²
/// struct Reciprocal;
/// impl Pointwise<f32> for Reciprocal {
///     const NAME: &'static str = "reciprocal";
///     fn f(&self, x: f32) -> f32 { 1.0 / x }
///     fn df(&self, _x: f32, y: f32) -> f32 { -y * y }
/// }
/// let tape = Tape::new();
/// let x = tape.leaf(Tensor::scalar(2.0));
/// assert_eq!(tape.backward(x.pointwise(Reciprocal)).of(x).unwrap().item(), -0.25);
/// ```
pub trait Pointwise<T>: Send + Sync + 'static {
    /// The operation's name on the tape.
    const NAME: &'static str;

    /// The value at `x`.
    fn f(&self, x: T) -> T;

    /// The slope at `x`, where the value is `y = f(x)`.
    fn df(&self, x: T, y: T) -> T;
}

impl<'t, T: Scalar> Var<'t, T> {
    /// Applies a [`Pointwise`] function to every element; `dx = df(x, y) · dy`.
    #[track_caller]
    pub fn pointwise<P: Pointwise<T>>(self, function: P) -> Self {
        let x = self.value();
        let y = x.map(|x| function.f(x));
        // Saving both costs nothing: the tape holds them until the sweep has passed this node.
        let saved = y.clone();
        self.tape().record(P::NAME, [self], y, move |dy, _| {
            let (x, y, d) = (x.as_slice(), saved.as_slice(), dy.as_slice());
            [Some(Tensor::build(dy.shape(), |dx| {
                for_each_chunk(
                    dx,
                    #[inline(always)]
                    |at, dx| {
                        let points = x[at..].iter().zip(&y[at..]).zip(&d[at..]);
                        dx.iter_mut().zip(points).for_each(|(dx, ((&x, &y), &dy))| {
                            *dx = function.df(x, y) * dy;
                        });
                    },
                );
            }))]
        })
    }
}
