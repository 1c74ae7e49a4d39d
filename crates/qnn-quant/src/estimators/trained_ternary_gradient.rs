use ndarray::{ArrayViewD, ArrayViewMutD};

use crate::{Estimator, Grid, Result, elementwise, estimator};

/// TTQ's gradient of the latent weight: scaled by the level of the region it lies in.
///
/// ```text
/// dx = dy · { Wp  if w > D,    1  if |w| ≤ D,    Wn  if w < −D }
/// ```
///
#[doc = include_str!("../../plots/estimator-trained-ternary.svg")]
///
/// Of a map other than [`TrainedTernary`](crate::TrainedTernary), `Wp` and `Wn` are the magnitudes of the outer levels, and
/// the regions begin at its outer thresholds. It is one of the published gradients that contain the scale.
///
/// ```
/// # use qnn_quant::{Pair, TrainedTernary};
/// # use ndarray::array;
/// let pair = Pair::published(TrainedTernary::new(0.7, 0.4)?);
/// let w = array![1.0, -0.04, -0.3].into_dyn();
/// let grid = pair.map.fit(w.view())?;
/// assert_eq!(pair.pullback(w.view(), &grid, w.mapv(|_| 1.0).view())?, array![0.7, 1.0, 0.4].into_dyn());
/// # Ok::<(), qnn_quant::Error>(())
/// ```
///
/// Source: Zhu, Han, Mao, Dally 2017, *Trained Ternary Quantization*, arXiv:1612.01064.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct TrainedTernaryGradient;

impl Estimator for TrainedTernaryGradient {
    fn name(&self) -> &'static str {
        "trained-ternary"
    }

    fn is_elementwise(&self) -> bool {
        true
    }

    fn pullback_into(
        &self,
        x: ArrayViewD<'_, f32>,
        grid: &Grid,
        dy: ArrayViewD<'_, f32>,
        dx: ArrayViewMutD<'_, f32>,
    ) -> Result<()> {
        let regions: Vec<Regions> = estimator::levels(grid, x.len())
            .iter()
            .enumerate()
            .map(|(group, levels)| {
                let thresholds = grid.thresholds(group);
                let end = |threshold: Option<&f32>| threshold.copied().unwrap_or(f32::NAN);
                let (below, above) = (end(thresholds.first()), end(thresholds.last()));
                Regions { below, above, negative: levels.lowest.abs(), positive: levels.highest.abs() }
            })
            .collect();
        elementwise::zip_into(
            x,
            dy,
            grid.groups(),
            &regions,
            dx,
            #[inline(always)]
            move |x, dy, regions| {
                let slope = if x > regions.above { regions.positive } else { 1.0 };
                dy * if x < regions.below { regions.negative } else { slope }
            },
        )
    }
}

struct Regions {
    below: f32,
    above: f32,
    negative: f32,
    positive: f32,
}
