use std::sync::Arc;

use ndarray::{ArrayViewD, ArrayViewMutD};

use crate::elementwise::{Form, quantize_into};
use crate::rounding::floor_to_f32;
use crate::{
    Alphabet, Error, Estimator, Granularity, Grid, Groups, Quantizer, Result, StraightThrough, statistics,
};

/// Ternary weights: small ones become 0, the others ±α.
///
/// ```text
/// D_g  = 0.7 · mean of |w| over group g
/// α_g  = mean of |w| over the elements of group g with |w| > D_g      (1 in the unscaled form)
/// q(w) = +α_g if w > D_g,   −α_g if w < −D_g,   else 0
/// ```
///
/// The threshold is the paper's approximation, under the assumption of a uniform or normal distribution, of the `D` with the least
/// squared error; that one itself is found by [`exact`](Ternary::exact). A zero tensor has `α = 0`. `D` is compared as if it were
/// not rounded.
///
/// Published with [`StraightThrough`], `dx = dy`; [`ClippedIdentity`](crate::ClippedIdentity) is common as well.
///
#[doc = include_str!("../../plots/ternary.svg")]
///
/// Codes: {−1, 0, +1}, 2 bits, scales α_g, or 1 in the unscaled form.
///
/// ```
/// # use qnn_quant::{Ternary, quantize};
/// # use ndarray::array;
/// let w = [0.1, -0.5, 1.0, 0.4]; // D = 0.35
/// let close = |a: f32, b: f32| (a - b).abs() < 1e-6;
/// let y = quantize(&Ternary::per_tensor(), &w)?;
/// assert!(y[0] == 0.0 && close(y[1], -1.9 / 3.0) && y[2] == -y[1] && y[3] == y[2]);
/// assert_eq!(quantize(&Ternary::per_tensor().unscaled(), &w)?, array![0.0, -1.0, 1.0, 1.0]);
/// # Ok::<(), qnn_quant::Error>(())
/// ```
///
/// Source: Li, Zhang, Liu 2016, *Ternary Weight Networks*, arXiv:1605.04711, formulas (3) for the codes, (5) for α and (6) for the best
/// threshold (numbers of version 3, which also makes the factor 0.75 of the 0.7 before).
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Ternary {
    granularity: Granularity,
    threshold: Threshold,
    scaled: bool,
}

#[derive(Clone, Copy, Debug, PartialEq)]
enum Threshold {
    /// This times the mean magnitude.
    OfMean(f64),
    /// The one with the least squared error.
    Best,
}

impl Ternary {
    /// One threshold and one scale for the whole tensor.
    pub fn per_tensor() -> Self {
        Ternary { granularity: Granularity::Tensor, threshold: Threshold::OfMean(0.7), scaled: true }
    }

    /// One threshold and one scale per index of an axis.
    pub fn per_axis(axis: usize) -> Self {
        Ternary { granularity: Granularity::Axis(axis), ..Ternary::per_tensor() }
    }

    /// One threshold and one scale per output channel: per index of the last axis.
    pub fn per_filter() -> Self {
        Ternary { granularity: Granularity::LastAxis, ..Ternary::per_tensor() }
    }

    /// Over which elements threshold and scale are taken.
    pub fn with_granularity(self, granularity: Granularity) -> Self {
        Ternary { granularity, ..self }
    }

    /// Levels −1, 0, 1.
    pub fn unscaled(self) -> Self {
        Ternary { scaled: false, ..self }
    }

    /// The threshold that brings `q(w)` closest to `w` in the least-squares sense, in place of the approximation.
    ///
    /// It maximizes `(Σ over |w| > D of |w|)² / count` over all `D`, by sorting a copy of the magnitudes: see
    /// [`ternary_threshold`](crate::statistics::ternary_threshold).
    pub fn exact(self) -> Self {
        Ternary { threshold: Threshold::Best, ..self }
    }

    /// Another factor between the mean magnitude and the threshold than the paper's 0.7.
    ///
    /// # Errors
    ///
    /// [`Error::Parameter`] if the factor is negative or not finite.
    pub fn with_threshold(self, threshold: f64) -> Result<Self> {
        if threshold >= 0.0 && threshold.is_finite() {
            return Ok(Ternary { threshold: Threshold::OfMean(threshold), ..self });
        }
        let (value, expected) = (threshold.to_string(), "at least 0 and finite");
        Err(Error::Parameter { owner: "ternary", parameter: "threshold", value, expected })
    }

    fn write(
        &self,
        x: ArrayViewD<'_, f32>,
        grid: &Grid,
        form: Form,
        out: ArrayViewMutD<'_, f32>,
    ) -> Result<()> {
        super::own_codes(self.name(), grid, Alphabet::TERNARY)?;
        let thresholds = super::own_statistics(self.name(), grid)?;
        let thresholds: Vec<f32> = thresholds.iter().map(|&threshold| threshold as f32).collect();
        quantize_into(
            x,
            grid,
            &thresholds,
            form,
            out,
            #[inline(always)]
            move |x, &threshold| ternary(x, threshold),
        )
    }

    fn grid(&self, groups: Groups, thresholds: Vec<f32>, scales: Vec<f32>) -> Result<Grid> {
        let statistics = thresholds.iter().copied().map(f64::from).collect();
        let grid = Grid::new(Alphabet::TERNARY, groups, scales)?.with_statistics(statistics)?;
        grid.with_thresholds(thresholds.into_iter().flat_map(|threshold| [-threshold, threshold]).collect())
    }

    fn thresholds(&self, x: ArrayViewD<'_, f32>, groups: Groups) -> Result<Vec<f32>> {
        match self.threshold {
            Threshold::Best => statistics::ternary_threshold(x, groups),
            Threshold::OfMean(factor) => {
                let means = statistics::mean_abs(x, groups)?;
                Ok(means.iter().map(|mean| floor_to_f32(factor * mean)).collect())
            }
        }
    }

    fn scales(&self, x: ArrayViewD<'_, f32>, groups: Groups, thresholds: &[f32]) -> Result<Vec<f32>> {
        if !self.scaled {
            return Ok(vec![1.0; thresholds.len()]);
        }
        let means = statistics::mean_abs_above(x, groups, thresholds)?;
        Ok(means.into_iter().map(|mean| mean as f32).collect())
    }
}

impl Default for Ternary {
    fn default() -> Self {
        Ternary::per_tensor()
    }
}

impl Quantizer for Ternary {
    fn name(&self) -> &'static str {
        "ternary"
    }

    fn fit(&self, x: ArrayViewD<'_, f32>) -> Result<Grid> {
        let groups = self.granularity.groups(x.shape())?;
        let thresholds = self.thresholds(x.view(), groups)?;
        let scales = self.scales(x, groups, &thresholds)?;
        self.grid(groups, thresholds, scales)
    }

    one_pass!(write);

    /// The second pass both measures α and writes codes.
    fn fit_codes_into(&self, x: ArrayViewD<'_, f32>, codes: ArrayViewMutD<'_, f32>) -> Result<Grid> {
        let groups = self.granularity.groups(x.shape())?;
        let (thresholds, means) = match groups {
            Groups::Tensor if self.scaled => {
                let threshold = self.thresholds(x.view(), groups)?[0];
                let mean = statistics::mean_abs_above_while(
                    x,
                    threshold,
                    codes,
                    #[inline(always)]
                    move |x| ternary(x, threshold),
                )?;
                (vec![threshold], vec![mean])
            }
            Groups::Axis { .. } if self.scaled => {
                let thresholds = self.thresholds(x.view(), groups)?;
                let means = statistics::channel_means_above_while(
                    x,
                    groups,
                    &thresholds,
                    codes,
                    #[inline(always)]
                    |x, &threshold| ternary(x, threshold),
                )?;
                (thresholds, means)
            }
            _ => {
                let grid = self.fit(x.view())?;
                self.codes_into(x, &grid, codes)?;
                return Ok(grid);
            }
        };
        self.grid(groups, thresholds, means.into_iter().map(|mean| mean as f32).collect())
    }

    fn published(&self) -> Arc<dyn Estimator> {
        Arc::new(StraightThrough)
    }
}

/// A NaN threshold belongs to a group that holds a NaN, none of whose elements has a meaningful code.
#[inline(always)]
pub(crate) fn ternary(x: f32, threshold: f32) -> f32 {
    let code = if x > threshold { 1.0 } else { 0.0 };
    let code = if x < -threshold { -1.0 } else { code };
    let sum = x + threshold;
    if sum.is_nan() { sum } else { code }
}
