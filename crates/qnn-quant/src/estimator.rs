use std::fmt::Debug;
use std::sync::Arc;

use ndarray::{ArrayViewD, ArrayViewMutD};

use crate::elementwise;
use crate::{Grid, Levels, Result};

/// What training pretends the derivative of a forward map is.
///
/// The estimator replaces the derivative of the *whole* map, from the input `x` to the quantized *value*: `dy` is the
/// gradient with respect to the value, and no scale belongs into the slope unless a publication puts it there. Most
/// estimators are pointwise and implement [`Slope`] instead, which makes them estimators.
pub trait Estimator: Debug + Send + Sync {
    /// The name on the command line, in kebab case.
    fn name(&self) -> &'static str;

    /// The c of an estimator that is exactly `dx = dy · 1[|x| ≤ c]`, so that the operation before the map may compute
    /// it in its own pass over memory.
    fn clip(&self) -> Option<f32> {
        None
    }

    /// Whether the gradient of an element depends on that element and the grid alone, so that parts of an array whose groups are one may be
    /// handed over one by one.
    fn is_elementwise(&self) -> bool {
        false
    }

    /// Whether `dx = dy`, so that nothing need be computed.
    fn is_identity(&self) -> bool {
        false
    }

    /// The estimator for this part of training, 0 at its start and 1 at its end, if it changes on the way. Layers ask in each step;
    /// `None` of an estimator that stays as it is.
    fn scheduled(&self, _progress: f64) -> Option<Arc<dyn Estimator>> {
        None
    }

    /// Writes the gradient with respect to `x`, given `dy` with respect to the quantized value.
    ///
    /// # Errors
    ///
    /// [`Error::Shape`](crate::Error::Shape) if the arrays differ in shape,
    /// [`Error::GroupsDoNotFit`](crate::Error::GroupsDoNotFit) if the grid was fitted to another shape.
    fn pullback_into(
        &self,
        x: ArrayViewD<'_, f32>,
        grid: &Grid,
        dy: ArrayViewD<'_, f32>,
        dx: ArrayViewMutD<'_, f32>,
    ) -> Result<()>;
}

/// A pointwise estimator: `dx = dy · slope(x)`. Every slope is an [`Estimator`].
///
/// ```
/// use ndarray::array;
/// use qnn_quant::{Levels, Pair, Sign, Slope};
///
/// /// 1 inside of the levels, a tenth outside.
/// #[derive(Debug)]
/// struct Leaky;
///
/// impl Slope for Leaky {
///     fn label(&self) -> &'static str {
///         "leaky"
///     }
///     fn slope(&self, x: f32, levels: &Levels) -> f32 {
///         if (levels.lowest..=levels.highest).contains(&x) { 1.0 } else { 0.1 }
///     }
/// }
///
/// let pair = Pair::new(Sign, Leaky);
/// let x = array![0.5, 3.0].into_dyn();
/// let dy = array![2.0, 2.0].into_dyn();
/// let grid = pair.map.fit(x.view())?;
/// assert_eq!(pair.pullback(x.view(), &grid, dy.view())?, array![2.0, 0.2].into_dyn());
/// # Ok::<(), qnn_quant::Error>(())
/// ```
pub trait Slope: Debug + Send + Sync {
    /// The name on the command line, in kebab case: what [`Estimator::name`] returns.
    fn label(&self) -> &'static str;

    /// dq/dx at `x`. Called in the innermost loop: branches that are selections keep it vectorised.
    fn slope(&self, x: f32, levels: &Levels) -> f32;

    /// What [`Estimator::clip`] returns.
    fn clip(&self) -> Option<f32> {
        None
    }

    /// What [`Estimator::is_elementwise`] returns: false where the slope depends on [`Levels::len`].
    fn is_elementwise(&self) -> bool {
        false
    }

    /// What [`Estimator::is_identity`] returns: whether the slope is 1 everywhere.
    fn is_identity(&self) -> bool {
        false
    }
}

impl<S: Slope> Estimator for S {
    fn name(&self) -> &'static str {
        self.label()
    }

    fn clip(&self) -> Option<f32> {
        Slope::clip(self)
    }

    fn is_elementwise(&self) -> bool {
        Slope::is_elementwise(self)
    }

    fn is_identity(&self) -> bool {
        Slope::is_identity(self)
    }

    fn pullback_into(
        &self,
        x: ArrayViewD<'_, f32>,
        grid: &Grid,
        dy: ArrayViewD<'_, f32>,
        dx: ArrayViewMutD<'_, f32>,
    ) -> Result<()> {
        let levels = levels(grid, x.len());
        elementwise::zip_into(
            x,
            dy,
            grid.groups(),
            &levels,
            dx,
            #[inline(always)]
            |x, dy, levels| dy * self.slope(x, levels),
        )
    }
}

impl Estimator for Arc<dyn Estimator> {
    fn name(&self) -> &'static str {
        (**self).name()
    }

    fn clip(&self) -> Option<f32> {
        (**self).clip()
    }

    fn is_elementwise(&self) -> bool {
        (**self).is_elementwise()
    }

    fn is_identity(&self) -> bool {
        (**self).is_identity()
    }

    fn scheduled(&self, progress: f64) -> Option<Arc<dyn Estimator>> {
        (**self).scheduled(progress)
    }

    fn pullback_into(
        &self,
        x: ArrayViewD<'_, f32>,
        grid: &Grid,
        dy: ArrayViewD<'_, f32>,
        dx: ArrayViewMutD<'_, f32>,
    ) -> Result<()> {
        (**self).pullback_into(x, grid, dy, dx)
    }
}

/// The levels of each group of an array of `len` elements.
pub(crate) fn levels(grid: &Grid, len: usize) -> Vec<Levels> {
    let count = grid.groups().count();
    (0..count).map(|group| grid.levels(group, len / count)).collect()
}
