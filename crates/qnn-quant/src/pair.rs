use std::sync::Arc;

use ndarray::{ArrayD, ArrayViewD};

use crate::{Estimator, Grid, Quantizer, Result};

/// Any forward map with any gradient: what a layer holds and a flag builds.
///
/// ```
/// # use qnn_quant::{ApproxSign, Pair, Sign};
/// let published = Pair::published(Sign);
/// assert_eq!(published.gradient.name(), "clipped-identity");
/// let other = Pair::new(Sign, ApproxSign);
/// assert_eq!((other.map.name(), other.gradient.name()), ("sign", "approx-sign"));
/// ```
#[derive(Clone, Debug)]
pub struct Pair {
    /// From inputs to levels.
    pub map: Arc<dyn Quantizer>,
    /// From the gradient of the values to that of the inputs.
    pub gradient: Arc<dyn Estimator>,
}

impl Pair {
    /// This map with this gradient.
    pub fn new(map: impl Quantizer + 'static, gradient: impl Estimator + 'static) -> Self {
        Pair { map: Arc::new(map), gradient: Arc::new(gradient) }
    }

    /// This map with the gradient that it was published with.
    pub fn published(map: impl Quantizer + 'static) -> Self {
        Pair { gradient: map.published(), map: Arc::new(map) }
    }

    /// The quantized values and the grid they lie on.
    ///
    /// # Errors
    ///
    /// Those of [`Quantizer::fit`].
    pub fn value(&self, x: ArrayViewD<'_, f32>) -> Result<(ArrayD<f32>, Grid)> {
        let grid = self.map.fit(x.view())?;
        let mut values = ArrayD::zeros(x.raw_dim());
        self.map.values_into(x, &grid, values.view_mut())?;
        Ok((values, grid))
    }

    /// The codes, held in f32 with NaN left as NaN, and the grid that reads them.
    ///
    /// # Errors
    ///
    /// Those of [`Quantizer::fit`].
    pub fn codes(&self, x: ArrayViewD<'_, f32>) -> Result<(ArrayD<f32>, Grid)> {
        let mut codes = ArrayD::zeros(x.raw_dim());
        let grid = self.map.fit_codes_into(x, codes.view_mut())?;
        Ok((codes, grid))
    }

    /// The gradient with respect to `x`, given `dy` with respect to the quantized value.
    ///
    /// # Errors
    ///
    /// Those of [`Estimator::pullback_into`].
    pub fn pullback(
        &self,
        x: ArrayViewD<'_, f32>,
        grid: &Grid,
        dy: ArrayViewD<'_, f32>,
    ) -> Result<ArrayD<f32>> {
        let mut dx = ArrayD::zeros(x.raw_dim());
        self.gradient.pullback_into(x, grid, dy, dx.view_mut())?;
        Ok(dx)
    }
}
