use ndarray::{ArrayViewD, ArrayViewMutD};
use qnn_math::{exp, exp2_roughly, tanh};

use crate::bounded::pullback_bounded_into;
use crate::rounding::clip;
use crate::{Estimator, Grid, Groups, Result};

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

/// Beyond this |βx| the slope is 0 in f32.
const END: f64 = 200.0;

impl SwishSign {
    #[inline(always)]
    fn slope(&self, x: f32) -> f32 {
        let beta = f64::from(self.beta);
        // Infinity must meet neither a β of 0 nor the 0 of its exponential.
        let z = (beta * f64::from(x.clamp(f32::MIN, f32::MAX))).clamp(-END, END);
        // 1 / (1 + cosh z) = 2e / (1 + e)², e = exp(−|z|), which cannot overflow.
        let e = exp(-z.abs());
        (beta * (2.0 - z * tanh(0.5 * z)) * 2.0 * e / ((1.0 + e) * (1.0 + e))) as f32
    }
}

impl Estimator for SwishSign {
    fn name(&self) -> &'static str {
        "swish-sign"
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
        let estimator = *self;
        // Far from the ends of f64 nothing overflows; elsewhere the bounds are NaN.
        let beta = if (1e-20..1e20).contains(&self.beta) { self.beta.into() } else { f64::NAN };
        grid.groups().partition(x.shape())?;
        pullback_bounded_into(
            x,
            dy,
            Groups::Tensor,
            &[()],
            dx,
            #[inline(always)]
            move |x, ()| bounds(x, beta),
            #[inline(always)]
            move |x, ()| estimator.slope(x),
        )
    }
}

/// Of the slope, by one exponential, since tanh(|z|/2) = (1 − e) / (1 + e):
///
/// ```text
/// β (2 − z tanh(z/2)) / (1 + cosh z) = 2βe (2 (1 + e) − |z| (1 − e)) / (1 + e)³
/// ```
#[inline(always)]
fn bounds(x: f32, beta: f64) -> [f32; 2] {
    // That of the exponential counts twice.
    const ERROR: f64 = 2e-12;
    let z = clip(beta * f64::from(x), -END, END).abs();
    let e = exp2_roughly(-std::f64::consts::LOG2_E * z);
    let sum = 1.0 + e;
    let weight = 2.0 * beta * e / (sum * sum * sum);
    let difference = 2.0 * sum - z * (1.0 - e);
    // Relative to what is subtracted: the difference may be 0.
    let error = z.mul_add(ERROR, 4.0 * ERROR);
    [(weight * (difference - error)) as f32, (weight * (difference + error)) as f32]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn equal_bounds_are_the_slope() {
        let exponents = (0..=255_u32).flat_map(|exponent| {
            (0..257_u32).map(move |i| f32::from_bits(exponent << 23 | i.wrapping_mul(0x9E37_79B1) >> 9))
        });
        let inputs: Vec<f32> =
            exponents.flat_map(|x| [x, -x]).chain((-100_000..100_000).map(|i| i as f32 * 1.7e-4)).collect();
        for beta in [5.0, 1.0, 10.0, 1e-19, 1e19] {
            let mut doubts = 0;
            for &x in &inputs {
                let ([low, high], exact) = (bounds(x, beta.into()), SwishSign { beta }.slope(x));
                let is_certain = low == high;
                assert!(!is_certain || low.to_bits() == exact.to_bits(), "{x:e}: {low:e}, not {exact:e}");
                doubts += usize::from(!is_certain && !x.is_nan());
            }
            assert!(doubts < 200, "{doubts} doubts with {beta}");
        }
        assert!(bounds(0.5, f64::NAN)[0].is_nan());
    }
}
