use std::sync::Arc;

use ndarray::{ArrayViewD, ArrayViewMutD};

use super::sign::{sign, signs_into};
use crate::{
    Alphabet, Dependence, Error, Estimator, Granularity, Grid, Groups, Moment, Quantizer, Result,
    StraightThrough, elementwise, statistics,
};

/// The scaled sign with memory: a weight keeps its sign until it has passed a threshold on the other side.
///
/// ```text
/// s(w) = −1          if s was +1 and w < −t
///        +1          if s was −1 and w > t
///        what it was otherwise                     at the start: sign(w)
/// q(w) = mean|w| · s(w)
/// ```
///
/// Weights that hover around zero no longer change their signs at each step. The state is one sign per weight: the codes
/// of the step before. It is given from outside, as [`Moment::previous`], since it belongs to the weight and is saved with
/// it; without it the map is [`ScaledSign`](crate::ScaledSign). A previous code of 0 or NaN is
/// none: that weight starts anew.
///
/// Published with [`StraightThrough`], `dx = dy`.
///
#[doc = include_str!("../../plots/hysteresis-sign.svg")]
///
/// Codes: {−1, +1}, 1 bit, scale mean |w|.
///
/// ```
/// # use qnn_quant::{HysteresisSign, Moment, Quantizer};
/// # use ndarray::{ArrayD, array};
/// let map = HysteresisSign::new(0.1)?;
/// let w = array![-0.05, -0.2, 0.05].into_dyn();
/// let (before, mut codes) = (array![1.0, 1.0, -1.0].into_dyn(), ArrayD::zeros(vec![3]));
/// map.codes_at_into(w.view(), &map.fit(w.view())?, &Moment::after(before.view()), codes.view_mut())?;
/// assert_eq!(codes, array![1.0, -1.0, -1.0].into_dyn());
/// # Ok::<(), qnn_quant::Error>(())
/// ```
///
/// Source: the SJSU poster on binary weights with hysteresis, t = 0.1.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct HysteresisSign {
    threshold: f32,
    granularity: Granularity,
}

impl HysteresisSign {
    /// One scale for the whole tensor; the poster's threshold is 0.1.
    ///
    /// # Errors
    ///
    /// [`Error::Parameter`] if the threshold is negative or not finite.
    pub fn new(threshold: f32) -> Result<Self> {
        if threshold >= 0.0 && threshold.is_finite() {
            return Ok(HysteresisSign { threshold, granularity: Granularity::Tensor });
        }
        let (value, expected) = (threshold.to_string(), "at least 0 and finite");
        Err(Error::Parameter { owner: "hysteresis-sign", parameter: "threshold", value, expected })
    }

    /// Over which elements the scale is the mean.
    pub fn with_granularity(self, granularity: Granularity) -> Self {
        HysteresisSign { granularity, ..self }
    }

    /// t.
    pub fn threshold(&self) -> f32 {
        self.threshold
    }
}

impl Quantizer for HysteresisSign {
    fn name(&self) -> &'static str {
        "hysteresis-sign"
    }

    fn fit(&self, x: ArrayViewD<'_, f32>) -> Result<Grid> {
        let groups = self.granularity.groups(x.shape())?;
        let scales = statistics::mean_abs(x, groups)?.into_iter().map(|mean| mean as f32).collect();
        Grid::new(Alphabet::BINARY, groups, scales)
    }

    fn codes_into(&self, x: ArrayViewD<'_, f32>, grid: &Grid, codes: ArrayViewMutD<'_, f32>) -> Result<()> {
        super::own_codes(self.name(), grid, Alphabet::BINARY)?;
        signs_into(x, grid, elementwise::Form::Codes, codes)
    }

    fn values_into(&self, x: ArrayViewD<'_, f32>, grid: &Grid, values: ArrayViewMutD<'_, f32>) -> Result<()> {
        super::own_codes(self.name(), grid, Alphabet::BINARY)?;
        signs_into(x, grid, elementwise::Form::Values, values)
    }

    fn published(&self) -> Arc<dyn Estimator> {
        Arc::new(StraightThrough)
    }

    fn dependence(&self) -> Dependence {
        Dependence::Memory
    }

    fn codes_at_into(
        &self,
        x: ArrayViewD<'_, f32>,
        grid: &Grid,
        moment: &Moment<'_>,
        codes: ArrayViewMutD<'_, f32>,
    ) -> Result<()> {
        let Some(previous) = &moment.previous else { return self.codes_into(x, grid, codes) };
        super::own_codes(self.name(), grid, Alphabet::BINARY)?;
        grid.groups().partition(x.shape())?;
        let threshold = self.threshold;
        elementwise::zip_into(
            x,
            previous.view(),
            Groups::Tensor,
            &[()],
            codes,
            #[inline(always)]
            move |x, previous, ()| held(x, previous, threshold),
        )
    }
}

#[inline(always)]
fn held(x: f32, previous: f32, threshold: f32) -> f32 {
    let from_above = if x < -threshold { -1.0 } else { 1.0 };
    let from_below = if x > threshold { 1.0 } else { -1.0 };
    let code = if previous < 0.0 { from_below } else { sign(x) };
    let code = if previous > 0.0 { from_above } else { code };
    if x.is_nan() { x } else { code }
}
