use std::fmt;

use crate::{Levels, Slope};

/// Any function of the input as a pseudo-gradient.
///
/// ```text
/// dx = dy · f(x)
/// ```
///
/// ```
/// # use qnn_quant::{Custom, Pair, Sign};
/// # use ndarray::array;
/// let bell = Custom { name: "bell", f: |x: f32| (-x * x).exp() };
/// let pair = Pair::new(Sign, bell);
/// let x = array![0.0, 1.0].into_dyn();
/// let grid = pair.map.fit(x.view())?;
/// let dx = pair.pullback(x.view(), &grid, array![2.0, 2.0].into_dyn().view())?;
/// assert_eq!(dx, array![2.0, 2.0 * (-1.0_f32).exp()].into_dyn());
/// # Ok::<(), qnn_quant::Error>(())
/// ```
///
/// A slope that depends on the levels implements [`Slope`] itself.
#[derive(Clone, Copy)]
pub struct Custom<F> {
    /// What the estimator is called in messages and results.
    pub name: &'static str,
    /// dq/dx.
    pub f: F,
}

impl<F: Fn(f32) -> f32 + Send + Sync> Slope for Custom<F> {
    fn label(&self) -> &'static str {
        self.name
    }

    #[inline(always)]
    fn slope(&self, x: f32, _: &Levels) -> f32 {
        (self.f)(x)
    }

    fn is_elementwise(&self) -> bool {
        true
    }
}

impl<F> fmt::Debug for Custom<F> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Custom").field("name", &self.name).finish_non_exhaustive()
    }
}
