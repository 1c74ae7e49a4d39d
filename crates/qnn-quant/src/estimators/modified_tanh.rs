use ndarray::{ArrayViewD, ArrayViewMutD};
use qnn_math::sech2;

use crate::bell::{Bells, OneBell};
use crate::bounded::pullback_bounded_into;
use crate::elementwise::zip_into;
use crate::rounding::{clip, round_half_even};
use crate::{Estimator, Grid, Result};

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
/// the distance of the levels, and 0 outside of them; the purely periodic form goes on for ever and is an option,
/// which has a meaning for evenly spaced levels with thresholds midway alone. A map without levels
/// is taken for `{−1, +1}`. The report trains with k = 3, 4 and 5. Any x and any finite k are safe.
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

    /// The step between two levels.
    fn between(&self, threshold: f64, below: f64, above: f64) -> Step {
        let width = above - below;
        // Levels that coincide have an infinitely steep step: finite here, so that 0 · ∞ is no NaN.
        let steepness = if width == 0.0 { f64::MAX } else { 2.0 * f64::from(self.k) / width };
        Step { threshold, steepness }
    }

    /// Where the slope is not 0, of steps between these levels. Infinite elements are always outside.
    fn window(&self, levels: [f64; 2], steps: usize) -> [f64; 2] {
        let everywhere = [f64::MIN, f64::MAX];
        if steps <= 1 || self.periodic {
            return everywhere;
        }
        [levels[0].max(f64::MIN), levels[1].min(f64::MAX)]
    }

    fn even(&self, grid: &Grid, group: usize) -> Even {
        let (levels, steps) = match grid.count() {
            0 => ([-1.0, 1.0], 1),
            count => {
                let levels = grid.levels(group, 0);
                ([levels.lowest.into(), levels.highest.into()], (count - 1).max(1))
            }
        };
        let [lowest, highest] = levels;
        let width = (highest - lowest) / steps as f64;
        Even {
            lowest,
            width,
            per_width: if width == 0.0 { 0.0 } else { width.recip() },
            steepness: self.between(0.0, 0.0, width).steepness,
            indices: if self.periodic { [f64::MIN, f64::MAX] } else { [0.0, (steps - 1) as f64] },
            window: self.window(levels, steps),
        }
    }

    fn uneven(&self, grid: &Grid, group: usize) -> Uneven {
        let values: Vec<f64> = grid.values(group).map(f64::from).collect();
        let thresholds = grid.thresholds(group).into_iter().map(f64::from);
        let steps: Vec<Step> = thresholds
            .zip(values.windows(2))
            .map(|(threshold, levels)| self.between(threshold, levels[0], levels[1]))
            .collect();
        let ends = [values.first(), values.last()].map(|level| level.copied().unwrap_or(0.0));
        Uneven { window: self.window(ends, steps.len()), steps }
    }
}

/// One threshold, and `2k / d` there.
#[derive(Clone, Copy)]
struct Step {
    threshold: f64,
    steepness: f64,
}

impl Step {
    #[inline(always)]
    fn slope(&self, k: f64, x: f64, window: [f64; 2]) -> f32 {
        let slope = (k * sech2(self.steepness * (x - self.threshold))) as f32;
        if (x < window[0]) | (x > window[1]) { 0.0 } else { slope }
    }
}

/// Evenly spaced levels with thresholds midway.
#[derive(Clone, Copy)]
struct Even {
    lowest: f64,
    width: f64,
    per_width: f64,
    steepness: f64,
    /// The first and the last threshold, counted from 0.
    indices: [f64; 2],
    window: [f64; 2],
}

impl Even {
    #[inline(always)]
    fn nearest(&self, x: f64) -> Step {
        let index = round_half_even((x - self.lowest) * self.per_width - 0.5);
        let index = clip(index, self.indices[0], self.indices[1]);
        Step { threshold: self.lowest + (index + 0.5) * self.width, steepness: self.steepness }
    }

    #[inline(always)]
    fn slope(&self, k: f64, x: f64) -> f32 {
        self.nearest(x).slope(k, x, self.window)
    }

    /// The bell at the only threshold.
    fn only(&self, k: f64) -> OneBell {
        let step = self.nearest(0.0);
        OneBell::new(k, step.steepness, step.threshold)
    }

    /// The bells at all thresholds; without an end of the levels there are no bounds.
    fn all(&self, k: f64) -> Bells {
        let window = self.window.map(|level| if level.abs() < f64::MAX { level as f32 } else { f32::NAN });
        Bells::new(k, self.steepness, self.width, window)
    }
}

/// Steps anywhere, in increasing order.
struct Uneven {
    steps: Vec<Step>,
    window: [f64; 2],
}

impl Uneven {
    /// All steps, where there are at most two: a choice that needs no search.
    fn pair(&self) -> Option<([Step; 2], [f64; 2])> {
        match self.steps[..] {
            [only] => Some(([only; 2], self.window)),
            [first, last] => Some(([first, last], self.window)),
            _ => None,
        }
    }

    fn nearest(&self, x: f64) -> Option<Step> {
        let above =
            self.steps.partition_point(|step| step.threshold < x).min(self.steps.len().checked_sub(1)?);
        Some(nearer(x, self.steps[above.saturating_sub(1)], self.steps[above]))
    }
}

#[inline(always)]
fn nearer(x: f64, below: Step, above: Step) -> Step {
    let is_below = x - below.threshold < above.threshold - x;
    let of = |part: fn(&Step) -> f64| if is_below { part(&below) } else { part(&above) };
    Step { threshold: of(|step| step.threshold), steepness: of(|step| step.steepness) }
}

impl ModifiedTanh {
    /// Of evenly spaced levels: by bounds where they can be had.
    fn pullback_even_into(
        &self,
        x: ArrayViewD<'_, f32>,
        grid: &Grid,
        dy: ArrayViewD<'_, f32>,
        dx: ArrayViewMutD<'_, f32>,
    ) -> Result<()> {
        let (k, groups) = (f64::from(self.k), grid.groups());
        let levels = (0..groups.count()).map(|group| self.even(grid, group));
        if grid.count() <= 2 && !self.periodic {
            let levels: Vec<(Even, OneBell)> = levels.map(|levels| (levels, levels.only(k))).collect();
            return pullback_bounded_into(
                x,
                dy,
                groups,
                &levels,
                dx,
                #[inline(always)]
                |x, (_, bell)| bell.bounds(x),
                #[inline(always)]
                move |x, (levels, _)| levels.slope(k, x.into()),
            );
        }
        let levels: Vec<(Even, Bells)> = levels.map(|levels| (levels, levels.all(k))).collect();
        pullback_bounded_into(
            x,
            dy,
            groups,
            &levels,
            dx,
            #[inline(always)]
            |x, (_, bells)| bells.bounds(x),
            #[inline(always)]
            move |x, (levels, _)| levels.slope(k, x.into()),
        )
    }
}

impl Estimator for ModifiedTanh {
    fn name(&self) -> &'static str {
        "modified-tanh"
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
        let (k, groups) = (f64::from(self.k), grid.groups());
        if grid.is_even() {
            return self.pullback_even_into(x, grid, dy, dx);
        }
        let levels: Vec<Uneven> = (0..groups.count()).map(|group| self.uneven(grid, group)).collect();
        if let Some(pairs) = levels.iter().map(Uneven::pair).collect::<Option<Vec<_>>>() {
            return zip_into(
                x,
                dy,
                groups,
                &pairs,
                dx,
                #[inline(always)]
                move |x, dy, &([first, last], window)| {
                    dy * nearer(x.into(), first, last).slope(k, x.into(), window)
                },
            );
        }
        zip_into(x, dy, groups, &levels, dx, |x, dy, levels| {
            dy * levels.nearest(x.into()).map_or(0.0, |step| step.slope(k, x.into(), levels.window))
        })
    }
}
