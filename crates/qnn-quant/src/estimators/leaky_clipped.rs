use crate::{Levels, Slope};

/// The clipped straight-through estimator that lets a little through outside: no weight is lost for good.
///
/// ```text
/// dx = dy · { 1  if |x| ≤ c,   leak  otherwise }
/// ```
///
#[doc = include_str!("../../plots/estimator-leaky-clipped.svg")]
///
/// `c` is 1 and `leak` 0.1 by default. It is the derivative of `clip(x, −c, c)` continued with the slope `leak`.
///
/// ```
/// # use qnn_quant::{LeakyClipped, Pair, Sign};
/// # use ndarray::array;
/// let pair = Pair::new(Sign, LeakyClipped::default());
/// let x = array![0.5, 3.0].into_dyn();
/// let grid = pair.map.fit(x.view())?;
/// assert_eq!(pair.pullback(x.view(), &grid, x.mapv(|_| 2.0).view())?, array![2.0, 0.2].into_dyn());
/// # Ok::<(), qnn_quant::Error>(())
/// ```
///
/// Source: none, it is this crate's own variant of [`ClippedIdentity`](crate::ClippedIdentity).
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct LeakyClipped {
    /// Half the width of the interval in which gradients pass unchanged.
    pub c: f32,
    /// The slope outside.
    pub leak: f32,
}

impl Default for LeakyClipped {
    fn default() -> Self {
        LeakyClipped { c: 1.0, leak: 0.1 }
    }
}

impl Slope for LeakyClipped {
    fn label(&self) -> &'static str {
        "leaky-clipped"
    }

    #[inline(always)]
    fn slope(&self, x: f32, _: &Levels) -> f32 {
        let slope = if x.abs() <= self.c { 1.0 } else { self.leak };
        if x.is_nan() { 0.0 } else { slope }
    }

    fn is_elementwise(&self) -> bool {
        true
    }
}
