use std::sync::Arc;

use ndarray::{ArrayViewD, ArrayViewMutD};

use super::ternary::ternary;
use crate::elementwise::Form;
use crate::rounding::floor_to_f32;
use crate::trained::{in_range, positive};
use crate::{
    Alphabet, Error, Estimator, Grid, Groups, Quantizer, Result, Trained, TrainedTernaryGradient,
    elementwise, statistics,
};

/// Ternary weights whose positive and negative level are trained (TTQ).
///
/// ```text
/// D    = t · max |w|                                                t = 0.05
/// q(w) = +Wp  if w > D,    −Wn  if w < −D,    else 0
/// ```
///
/// Published with [`TrainedTernaryGradient`], `dx = dy · { Wp above D, 1 between, Wn below −D }`; the gradients of the
/// levels are
///
/// ```text
/// dWp =  Σ dy over w > D
/// dWn = −Σ dy over w < −D
/// ```
///
/// (the paper prints both as plain sums; `−Wn` is the value, so `dWn` takes the minus sign.) Training starts at the mean of
/// |w| over each region.
///
#[doc = include_str!("../../plots/trained-ternary.svg")]
///
/// Codes: {−1, 0, +1}, 2 bits. The two levels have no common factor: the grid is [not factored](Grid::is_factored), its values
/// come from a table.
///
/// ```
/// # use qnn_quant::{TrainedTernary, Trained, quantize};
/// # use ndarray::array;
/// let map = TrainedTernary::new(0.7, 0.4)?;
/// let w = array![1.0, -0.04, -0.3, 0.2].into_dyn();
/// assert_eq!(quantize(&map, &w)?, array![0.7, 0.0, -0.4, 0.7].into_dyn());
/// let dy = array![1.0, 2.0, 3.0, 4.0].into_dyn();
/// assert_eq!(map.parameter_gradients(w.view(), dy.view())?, [5.0, -3.0]);
/// # Ok::<(), qnn_quant::Error>(())
/// ```
///
/// Source: Zhu, Han, Mao, Dally 2017, *Trained Ternary Quantization*, arXiv:1612.01064.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct TrainedTernary {
    threshold: f64,
    positive: f32,
    negative: f32,
}

impl TrainedTernary {
    /// The levels `+positive` and `−negative`, with the paper's t = 0.05.
    ///
    /// # Errors
    ///
    /// [`Error::Parameter`] unless both are positive and finite.
    pub fn new(positive: f32, negative: f32) -> Result<Self> {
        let checked = |parameter, value| self::positive("trained-ternary", parameter, value);
        let (positive, negative) = (checked("wp", positive)?, checked("wn", negative)?);
        Ok(TrainedTernary { threshold: 0.05, positive, negative })
    }

    /// Another factor between the greatest magnitude and the threshold.
    ///
    /// # Errors
    ///
    /// [`Error::Parameter`] if the factor is negative or not finite.
    pub fn with_threshold(self, threshold: f64) -> Result<Self> {
        if threshold >= 0.0 && threshold.is_finite() {
            return Ok(TrainedTernary { threshold, ..self });
        }
        let (value, expected) = (threshold.to_string(), "at least 0 and finite");
        Err(Error::Parameter { owner: "trained-ternary", parameter: "threshold", value, expected })
    }

    /// Wp.
    pub fn positive(&self) -> f32 {
        self.positive
    }

    /// Wn: the value of the negative level is −Wn.
    pub fn negative(&self) -> f32 {
        self.negative
    }

    /// D of a tensor, as the f32 that decides like the exact one.
    fn delta(&self, x: ArrayViewD<'_, f32>) -> Result<f32> {
        Ok(floor_to_f32(self.threshold * statistics::max_abs(x, Groups::Tensor)?[0]))
    }

    fn write(
        &self,
        x: ArrayViewD<'_, f32>,
        grid: &Grid,
        form: Form,
        out: ArrayViewMutD<'_, f32>,
    ) -> Result<()> {
        let own = grid.stored() == Some(Alphabet::TERNARY)
            && !grid.is_factored()
            && grid.groups() == Groups::Tensor;
        if !own {
            return Err(Error::ForeignGrid { map: self.name() });
        }
        let delta = super::own_statistics(self.name(), grid)?[0] as f32;
        let levels = match form {
            Form::Codes => [delta, -1.0, 0.0, 1.0],
            Form::Values => [delta, grid.value(0, -1), grid.value(0, 0), grid.value(0, 1)],
        };
        elementwise::map_into(
            x,
            grid.groups(),
            &[levels],
            out,
            #[inline(always)]
            move |x, &[delta, negative, middle, positive]| {
                let value = if x > delta { positive } else { middle };
                let value = if x < -delta { negative } else { value };
                let sum = x + delta;
                if sum.is_nan() { sum } else { value }
            },
        )
    }
}

impl Quantizer for TrainedTernary {
    fn name(&self) -> &'static str {
        "trained-ternary"
    }

    fn fit(&self, x: ArrayViewD<'_, f32>) -> Result<Grid> {
        let delta = self.delta(x)?;
        let grid = Grid::unit(Alphabet::TERNARY)?.with_table(vec![-self.negative, 0.0, self.positive])?;
        grid.with_thresholds(vec![-delta, delta])?.with_statistics(vec![delta.into()])
    }

    one_pass!(write);

    fn published(&self) -> Arc<dyn Estimator> {
        Arc::new(TrainedTernaryGradient)
    }

    fn trained(&self) -> Option<&dyn Trained> {
        Some(self)
    }
}

impl Trained for TrainedTernary {
    fn parameter_names(&self) -> &'static [&'static str] {
        &["wp", "wn"]
    }

    fn parameters(&self) -> Vec<f32> {
        vec![self.positive, self.negative]
    }

    fn with_parameters(&self, parameters: &[f32]) -> Result<Arc<dyn Quantizer>> {
        let [positive, negative] = in_range(self.name(), parameters)?;
        Ok(Arc::new(TrainedTernary { positive, negative, ..*self }))
    }

    /// The mean of |w| over `w > D`, and over `w < −D`; where there are none, [`LEAST`](crate::LEAST). NaN for a tensor that has a NaN.
    fn initial(&self, x: ArrayViewD<'_, f32>) -> Result<Vec<f32>> {
        let delta = self.delta(x.view())?;
        if delta.is_nan() {
            return Ok(vec![f32::NAN; 2]);
        }
        let [above, count_above, below, count_below] =
            statistics::sum_of_pairs(x.view(), x.view(), |x, _| {
                let code = ternary(x, delta);
                let part = |inside: bool| if inside { [f64::from(x.abs()), 1.0] } else { [0.0, 0.0] };
                let (above, below) = (part(code > 0.0), part(code < 0.0));
                [above[0], above[1], below[0], below[1]]
            })?;
        let mean = |sum: f64, count: f64| (sum / count.max(1.0)) as f32;
        let means = in_range::<2>(self.name(), &[mean(above, count_above), mean(below, count_below)])?;
        Ok(means.to_vec())
    }

    fn parameter_gradients(&self, x: ArrayViewD<'_, f32>, dy: ArrayViewD<'_, f32>) -> Result<Vec<f64>> {
        let delta = self.delta(x.view())?;
        let sums: [f64; 2] = statistics::sum_of_pairs(x, dy, |x, dy| {
            let code = ternary(x, delta);
            let dy = f64::from(dy);
            [if code > 0.0 { dy } else { 0.0 }, if code < 0.0 { -dy } else { 0.0 }]
        })?;
        Ok(if delta.is_nan() { vec![f64::NAN; 2] } else { sums.to_vec() })
    }
}
