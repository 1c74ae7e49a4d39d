use ndarray::{ArrayViewD, ArrayViewMutD};
use qnn_math::sech2;

use crate::rounding::round_half_even;
use crate::{Estimator, Grid, Result, elementwise};

/// The derivative of a staircase of tanh steps, one at each threshold: steep where a code changes, flat between.
///
/// ```text
/// dx = dy · k (1 − tanh²(2k (x − t) / d))     t: the threshold nearest to x,  d: the distance of the levels beside it
/// ```
///
#[doc = include_str!("../../plots/estimator-modified-tanh.svg")]
///
/// With two levels there is one threshold; for `{−1, +1}` (t = 0, d = 2) it is the derivative of the report's
/// `f2(x) = tanh(kx)`. With more levels it is the derivative of its `f3(x) = f2(x − 2 round(x/2)) + 2 round(x/2)`, rescaled to
/// the distance of the levels, and 0 outside of them; the purely periodic form goes on for ever and is an option. A map without levels
/// is taken for `{−1, +1}`. The report trains with k = 3, 4 and 5. Any x and k are safe.
///
/// ```
/// # use qnn_quant::{EvenLevels, ModifiedTanh, Pair};
/// # use ndarray::array;
/// let pair = Pair::new(EvenLevels::new(3, 1.0)?, ModifiedTanh::new(4.0)); // levels −1, 0, 1: thresholds ±1/2
/// let x = array![-0.5, 0.5, 0.0, 1.5].into_dyn();
/// let grid = pair.map.fit(x.view())?;
/// let dx = pair.pullback(x.view(), &grid, x.mapv(|_| 1.0).view())?;
/// assert_eq!((dx[0], dx[1], dx[3]), (4.0, 4.0, 0.0));
/// assert!(dx[2] < 0.01);
/// # Ok::<(), qnn_quant::Error>(())
/// ```
///
/// Source: the UCSD report on quantized networks, its `f2` and `f3`.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct ModifiedTanh {
    /// Steepness, and the slope at a threshold.
    pub k: f32,
    /// Whether steps go on outside of the levels, each as far from the next as the outermost ones.
    pub periodic: bool,
}

impl ModifiedTanh {
    /// Steepness k, and 0 outside of the levels.
    pub fn new(k: f32) -> Self {
        ModifiedTanh { k, periodic: false }
    }

    /// Steepness k, and steps without end.
    pub fn periodic(k: f32) -> Self {
        ModifiedTanh { k, periodic: true }
    }

    /// The slope at a distance from a threshold.
    #[inline]
    fn step(&self, distance: f64, width: f64) -> f64 {
        let k = f64::from(self.k);
        // Levels that coincide have an infinitely steep step: finite here, so that 0 · ∞ is no NaN.
        let steepness = if width == 0.0 { f64::MAX } else { 2.0 * k / width };
        k * sech2(steepness * distance)
    }

    #[inline]
    fn even(&self, x: f64, levels: &Even) -> f32 {
        let Even { lowest, highest, width, last } = *levels;
        let per_width = if width == 0.0 { 0.0 } else { width.recip() };
        let index = round_half_even((x - lowest) * per_width - 0.5);
        let index = if self.periodic { index } else { index.clamp(0.0, last) };
        let slope = self.step(x - (lowest + (index + 0.5) * width), width);
        let outside = (x < lowest || x > highest) && last > 0.0 && !self.periodic;
        if outside || x.is_infinite() { 0.0 } else { slope as f32 }
    }

    fn uneven(&self, x: f64, steps: &[Step]) -> f32 {
        let (Some(first), Some(last)) = (steps.first(), steps.last()) else { return 0.0 };
        let above = steps.partition_point(|step| step.threshold < x).min(steps.len() - 1);
        let nearest = match above.checked_sub(1).map(|below| &steps[below]) {
            Some(below) if x - below.threshold < steps[above].threshold - x => below,
            _ => &steps[above],
        };
        let outside = (x < first.below || x > last.above) && steps.len() > 1 && !self.periodic;
        let slope = self.step(x - nearest.threshold, nearest.above - nearest.below);
        if outside || x.is_infinite() { 0.0 } else { slope as f32 }
    }
}

/// Evenly spaced levels with thresholds midway.
struct Even {
    lowest: f64,
    highest: f64,
    width: f64,
    /// The index of the last threshold.
    last: f64,
}

impl Even {
    fn of(grid: &Grid, group: usize) -> Self {
        match grid.count() {
            0 => Even { lowest: -1.0, highest: 1.0, width: 2.0, last: 0.0 },
            count => {
                let levels = grid.levels(group, 0);
                let (lowest, highest) = (f64::from(levels.lowest), f64::from(levels.highest));
                let steps = (count - 1).max(1) as f64;
                Even { lowest, highest, width: (highest - lowest) / steps, last: steps - 1.0 }
            }
        }
    }
}

/// One threshold and the levels beside it.
struct Step {
    threshold: f64,
    below: f64,
    above: f64,
}

fn steps(grid: &Grid, group: usize) -> Vec<Step> {
    let values: Vec<f64> = grid.values(group).map(f64::from).collect();
    let pairs = values.windows(2).map(|pair| (pair[0], pair[1]));
    let thresholds = grid.thresholds(group).into_iter().map(f64::from);
    thresholds.zip(pairs).map(|(threshold, (below, above))| Step { threshold, below, above }).collect()
}

impl Estimator for ModifiedTanh {
    fn name(&self) -> &'static str {
        "modified-tanh"
    }

    fn pullback_into(
        &self,
        x: ArrayViewD<'_, f32>,
        grid: &Grid,
        dy: ArrayViewD<'_, f32>,
        dx: ArrayViewMutD<'_, f32>,
    ) -> Result<()> {
        let groups = grid.groups();
        if grid.is_even() {
            let levels: Vec<Even> = (0..groups.count()).map(|group| Even::of(grid, group)).collect();
            return elementwise::zip_into(x, dy, groups, &levels, dx, |x, dy, levels| {
                dy * self.even(x.into(), levels)
            });
        }
        let levels: Vec<Vec<Step>> = (0..groups.count()).map(|group| steps(grid, group)).collect();
        elementwise::zip_into(x, dy, groups, &levels, dx, |x, dy, steps| dy * self.uneven(x.into(), steps))
    }
}
