use ndarray::{ArrayViewD, ArrayViewMutD};

use crate::maps::sign;
use crate::{Estimator, Grid, Levels, Result, elementwise, estimator, statistics};

/// The exact chain rule of `α sign(w)` with `α = mean |w|`, where only the sign's own derivative is a pseudo-gradient.
///
/// ```text
/// dx_j = α · 1[|w_j| ≤ c] · dy_j  +  sign(w_j) / n · Σ_i dy_i sign(w_i)
/// ```
///
#[doc = include_str!("../../plots/estimator-scaled-sign.svg")]
///
/// The sum runs over the `n` elements that share the scale: every weight of a filter moves its `α`. `c` is 1 by default.
/// Of a map other than [`ScaledSign`](crate::ScaledSign), `α` is the greatest level, or 1 where there is [none](Levels::scale).
///
/// ```
/// # use qnn_quant::{Pair, ScaledSign, ScaledSignGradient};
/// # use ndarray::array;
/// let pair = Pair::new(ScaledSign::per_tensor(), ScaledSignGradient::default());
/// let w = array![0.5, -1.5].into_dyn(); // α = 1, Σ dy sign(w) = 3 − 1 = 2
/// let grid = pair.map.fit(w.view())?;
/// let dw = pair.pullback(w.view(), &grid, array![3.0, 1.0].into_dyn().view())?;
/// assert_eq!(dw, array![4.0, -1.0].into_dyn());
/// # Ok::<(), qnn_quant::Error>(())
/// ```
///
/// Source: the derivative of α sign(w), derived here. Rastegari et al. 2016, *XNOR-Net*, arXiv:1603.05279, who define α,
/// print the shorter [`XnorNetGradient`](crate::XnorNetGradient).
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct ScaledSignGradient {
    /// Half the width of the interval in which gradients pass the sign; may be infinite.
    pub c: f32,
}

impl Default for ScaledSignGradient {
    fn default() -> Self {
        ScaledSignGradient { c: 1.0 }
    }
}

impl Estimator for ScaledSignGradient {
    fn name(&self) -> &'static str {
        "scaled-sign"
    }

    fn pullback_into(
        &self,
        x: ArrayViewD<'_, f32>,
        grid: &Grid,
        dy: ArrayViewD<'_, f32>,
        dx: ArrayViewMutD<'_, f32>,
    ) -> Result<()> {
        let sums = statistics::sum_of_products(
            x.view(),
            dy.view(),
            grid.groups(),
            #[inline(always)]
            |x, dy| sign(x) * dy,
        )?;
        let levels = estimator::levels(grid, x.len());
        let groups: Vec<Group> =
            levels.iter().zip(sums).map(|(levels, sum)| Group::new(levels, sum)).collect();
        let c = self.c;
        elementwise::zip_into(
            x,
            dy,
            grid.groups(),
            &groups,
            dx,
            #[inline(always)]
            move |x, dy, group| {
                let slope = if x.abs() <= c { group.scale } else { 0.0 };
                slope * dy + sign(x) * group.through_scale
            },
        )
    }
}

struct Group {
    scale: f32,
    /// `Σ dy sign(w) / n`.
    through_scale: f32,
}

impl Group {
    fn new(levels: &Levels, sum: f64) -> Self {
        Group { scale: levels.scale(), through_scale: (sum / levels.len.max(1) as f64) as f32 }
    }
}
