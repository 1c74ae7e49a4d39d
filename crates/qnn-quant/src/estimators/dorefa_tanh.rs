use ndarray::{ArrayViewD, ArrayViewMutD};
use qnn_math::sech2;

use crate::bell::OneBell;
use crate::bounded::pullback_bounded_into;
use crate::maps::greatest_tanh;
use crate::{Estimator, Grid, Result, statistics};

/// The derivative of DoReFa-Net's squashing of weights, `tanh(w) / max |tanh w|`, with the maximum held constant.
///
/// ```text
/// dx = dy · (1 − tanh²w) / max |tanh w|
/// ```
///
#[doc = include_str!("../../plots/estimator-dorefa-tanh.svg")]
///
/// The maximum is taken over each group of the grid, and for 1 in a zero tensor. A slope beyond f32 (the maximum can be
/// subnormal) is the greatest finite f32, so that finite inputs give no NaN. The tanh of an infinite weight, which another
/// map may let pass, is ±1, and the slope there 0.
///
/// ```
/// # use qnn_quant::{DorefaWeights, Pair};
/// # use ndarray::array;
/// let pair = Pair::published(DorefaWeights::new(2)?);
/// let w = array![0.0, 1.0].into_dyn();
/// let grid = pair.map.fit(w.view())?;
/// let dw = pair.pullback(w.view(), &grid, array![1.0, 1.0].into_dyn().view())?;
/// assert!((dw[0] - 1.3130353).abs() < 1e-6); // 1 / tanh(1)
/// # Ok::<(), qnn_quant::Error>(())
/// ```
///
/// Source: Zhou et al. 2016, *DoReFa-Net*, arXiv:1606.06160, section 2.3, the derivative of formula (5).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct DorefaTanh;

impl Estimator for DorefaTanh {
    fn name(&self) -> &'static str {
        "dorefa-tanh"
    }

    fn pullback_into(
        &self,
        x: ArrayViewD<'_, f32>,
        grid: &Grid,
        dy: ArrayViewD<'_, f32>,
        dx: ArrayViewMutD<'_, f32>,
    ) -> Result<()> {
        let maxima = greatest_tanh(statistics::max_abs_or_infinity(x.view(), grid.groups())?);
        // A safe bell stays far below the greatest f32.
        let bells: Vec<(OneBell, f64)> =
            maxima.iter().map(|&max| (OneBell::new(max.recip(), 1.0, 0.0), max)).collect();
        pullback_bounded_into(
            x,
            dy,
            grid.groups(),
            &bells,
            dx,
            #[inline(always)]
            |x, (bell, _)| bell.bounds(x),
            #[inline(always)]
            |x, &(_, max)| slope(x, max),
        )
    }
}

#[inline(always)]
fn slope(x: f32, max: f64) -> f32 {
    let slope = (sech2(x.into()) / max) as f32;
    // Not `min`, which would hide a NaN.
    if slope > f32::MAX { f32::MAX } else { slope }
}
