use qnn_math::{exp, tanh};

use crate::{Levels, Slope};

/// The derivative of the SignSwish function, a sign that overshoots: near its ends the slope is negative.
///
/// ```text
/// dx = dy · β (2 − βx tanh(βx/2)) / (1 + cosh(βx))                  β = 5 by default
/// ```
///
#[doc = include_str!("../../plots/estimator-swish-sign.svg")]
///
/// It is the derivative of `2σ(βx) (1 + βx (1 − σ(βx))) − 1`. Any x is safe: far out the slope is 0.
///
/// ```
/// # use qnn_quant::{Pair, Sign, SwishSign};
/// # use ndarray::array;
/// let pair = Pair::new(Sign, SwishSign::default());
/// let x = array![0.0, 1e30].into_dyn();
/// let grid = pair.map.fit(x.view())?;
/// assert_eq!(pair.pullback(x.view(), &grid, x.mapv(|_| 1.0).view())?, array![5.0, 0.0].into_dyn());
/// # Ok::<(), qnn_quant::Error>(())
/// ```
///
/// Source: Darabi et al. 2018, *Regularized Binary Network Training* (BNN+), arXiv:1812.11800; as in Larq's `SwishSign`.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct SwishSign {
    /// Steepness.
    pub beta: f32,
}

impl Default for SwishSign {
    fn default() -> Self {
        SwishSign { beta: 5.0 }
    }
}

impl Slope for SwishSign {
    fn label(&self) -> &'static str {
        "swish-sign"
    }

    #[inline(always)]
    fn slope(&self, x: f32, _: &Levels) -> f32 {
        let beta = f64::from(self.beta);
        // Beyond, the slope is 0 in f32; infinity must not meet that 0.
        let z = (beta * f64::from(x)).clamp(-200.0, 200.0);
        // 1 / (1 + cosh z) = 2e / (1 + e)², e = exp(−|z|), which cannot overflow.
        let e = exp(-z.abs());
        (beta * (2.0 - z * tanh(0.5 * z)) * 2.0 * e / ((1.0 + e) * (1.0 + e))) as f32
    }
}
