use ndarray::ArrayD;

use super::{Pairs, each};

pub(crate) fn pact(x: &ArrayD<f32>, bits: u32, a: f64) -> Pairs {
    let n = 2_f64.powi(bits as i32) - 1.0;
    each(x, |x| {
        // The published form overflows for the greatest numbers of f64, which no f32 reaches.
        let clipped = (0.5 * (x.abs() - (x - a).abs() + a)).clamp(0.0, a);
        let clipped = if x.abs() > 1e15 { x.clamp(0.0, a) } else { clipped };
        let code = (n * clipped / a).round_ties_even();
        (code as i32, code * a / n)
    })
}

pub(crate) fn lsq(x: &ArrayD<f32>, low: f64, high: f64, s: f64) -> Pairs {
    each(x, |x| {
        let code = (x / s).clamp(low, high).round_ties_even();
        (code as i32, s * code)
    })
}
