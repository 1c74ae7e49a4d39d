use crate::{Levels, Slope};

/// The straight-through estimator inside of [−c, c], nothing outside: the derivative of `hardtanh`.
///
/// ```text
/// dx = dy · 1[|x| ≤ c]
/// ```
///
#[doc = include_str!("../../plots/estimator-clipped-identity.svg")]
///
/// `c` is 1 by default; with `c = ∞` nothing is clipped. With a NaN or negative `c` every slope is 0.
///
/// ```
/// # use qnn_quant::{ClippedIdentity, Pair, Sign};
/// # use ndarray::array;
/// let pair = Pair::new(Sign, ClippedIdentity { c: 0.5 });
/// let x = array![-0.6, 0.5, 0.0].into_dyn();
/// let dy = array![3.0, 3.0, -3.0].into_dyn();
/// let grid = pair.map.fit(x.view())?;
/// assert_eq!(pair.pullback(x.view(), &grid, dy.view())?, array![0.0, 3.0, -3.0].into_dyn());
/// # Ok::<(), qnn_quant::Error>(())
/// ```
///
/// Source: Courbariaux et al. 2016, arXiv:1602.02830, section 1.3, formula (4). Formula (10) of the
/// UCSD report on quantized networks prints −1 outside of the interval; its text and its code say 0, as here.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct ClippedIdentity {
    /// Half the width of the interval in which gradients pass.
    pub c: f32,
}

impl Default for ClippedIdentity {
    fn default() -> Self {
        ClippedIdentity { c: 1.0 }
    }
}

impl Slope for ClippedIdentity {
    fn label(&self) -> &'static str {
        "clipped-identity"
    }

    #[inline(always)]
    fn slope(&self, x: f32, _: &Levels) -> f32 {
        if x.abs() <= self.c { 1.0 } else { 0.0 }
    }

    fn is_elementwise(&self) -> bool {
        true
    }

    fn clip(&self) -> Option<f32> {
        Some(self.c)
    }
}
