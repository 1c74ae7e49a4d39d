use std::sync::Arc;

use ndarray::{ArrayViewD, ArrayViewMutD};
use qnn_math::{exp, sech2};

use crate::bell::OneBell;
use crate::bounded::pullback_bounded_into;
use crate::rounding::clip;
use crate::{Error, Estimator, Grid, Groups, Result};

/// IR-Net's error decay estimator: at the start of training nearly the identity, at its end nearly the sign's own derivative.
///
/// ```text
/// dx = dy · k t (1 − tanh²(t x))
/// t  = 10^(2 progress − 1), from 0.1 to 10 over training,   k = max(1/t, 1)
/// ```
///
#[doc = include_str!("../../plots/estimator-error-decay.svg")]
///
/// It is the derivative of `k tanh(t x)`: first the gradients reach all weights, later they are exact near the threshold. Made by
/// [`at`](ErrorDecay::at), it goes by the progress of training wherever a layer trains with it
/// ([`scheduled`](Estimator::scheduled)); made by [`new`](ErrorDecay::new), it stays as it is. A height or slope beyond f32 is the
/// greatest finite f32, so that a gradient of 0 gives no NaN.
///
/// ```
/// # use qnn_quant::{ErrorDecay, Pair, Sign};
/// # use ndarray::array;
/// let (start, end) = (ErrorDecay::at(0.0), ErrorDecay::at(1.0));
/// let x = array![0.0, 0.5].into_dyn();
/// let grid = Pair::published(Sign).map.fit(x.view())?;
/// let slopes = |estimator| Pair::new(Sign, estimator).pullback(x.view(), &grid, x.mapv(|_| 1.0).view());
/// assert!(slopes(start)?.iter().all(|slope| (slope - 1.0).abs() < 0.01));
/// let end = slopes(end)?;
/// assert!((end[0] - 10.0).abs() < 1e-5 && end[1] < 0.01);
/// # Ok::<(), qnn_quant::Error>(())
/// ```
///
/// Source: Qin et al. 2020, *Forward and Backward Information Retention for Accurate Binary Neural Networks* (IR-Net), arXiv:1909.10788.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct ErrorDecay {
    /// Steepness.
    pub t: f32,
    /// Height.
    pub k: f32,
    is_scheduled: bool,
}

impl ErrorDecay {
    /// Steepness t with the paper's height, `max(1/t, 1)`, throughout training.
    ///
    /// # Errors
    ///
    /// [`Error::Parameter`] unless t is positive and finite.
    pub fn new(t: f32) -> Result<Self> {
        if t > 0.0 && t.is_finite() {
            return Ok(ErrorDecay { t, k: t.recip().clamp(1.0, f32::MAX), is_scheduled: false });
        }
        let (value, expected) = (t.to_string(), "positive and finite");
        Err(Error::Parameter { owner: "error-decay", parameter: "t", value, expected })
    }

    /// The estimator of the paper's schedule, after this part of training: 0 at the start and 1 at the end. In a layer it follows
    /// the schedule, whatever the part was.
    pub fn at(progress: f64) -> Self {
        let progress = progress.clamp(0.0, 1.0);
        let t = exp(std::f64::consts::LN_10 * (2.0 * progress - 1.0));
        ErrorDecay { t: t as f32, k: t.recip().max(1.0) as f32, is_scheduled: true }
    }
}

impl ErrorDecay {
    #[inline(always)]
    fn slope(&self, x: f32) -> f32 {
        let (t, k) = (f64::from(self.t), f64::from(self.k));
        let slope = k * t * sech2(t * f64::from(x));
        clip(slope, f32::MIN.into(), f32::MAX.into()) as f32
    }
}

impl Estimator for ErrorDecay {
    fn name(&self) -> &'static str {
        "error-decay"
    }

    fn is_elementwise(&self) -> bool {
        true
    }

    fn scheduled(&self, progress: f64) -> Option<Arc<dyn Estimator>> {
        self.is_scheduled.then(|| Arc::new(ErrorDecay::at(progress)) as Arc<dyn Estimator>)
    }

    fn pullback_into(
        &self,
        x: ArrayViewD<'_, f32>,
        grid: &Grid,
        dy: ArrayViewD<'_, f32>,
        dx: ArrayViewMutD<'_, f32>,
    ) -> Result<()> {
        let (estimator, t) = (*self, f64::from(self.t));
        let bell = OneBell::new(f64::from(self.k) * t, t, 0.0);
        grid.groups().partition(x.shape())?;
        pullback_bounded_into(
            x,
            dy,
            Groups::Tensor,
            &[()],
            dx,
            #[inline(always)]
            move |x, ()| bell.bounds(x),
            #[inline(always)]
            move |x, ()| estimator.slope(x),
        )
    }
}
