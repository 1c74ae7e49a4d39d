use ndarray::ArrayD;

use super::{Pairs, each, max_abs, wide};

/// S is stored as an f32.
fn stored(scale: f64) -> f64 {
    if scale == 0.0 { 1.0 } else { f64::from((scale as f32).max(f32::MIN_POSITIVE)) }
}

/// No range goes further.
fn limit() -> f64 {
    f64::from(0.5 * f32::MAX)
}

pub(crate) fn symmetric(x: &ArrayD<f32>, bits: u32) -> Pairs {
    let last = 2_f64.powi(bits as i32 - 1) - 1.0;
    let scale = stored(max_abs(x).min(limit()) / last);
    each(x, |x| {
        let code = (x / scale).round_ties_even().clamp(-last, last);
        (code as i32, scale * code)
    })
}

pub(crate) fn ranged(x: &ArrayD<f32>, bits: u32, low: f64, high: f64) -> Pairs {
    let (first, last) = (-2_f64.powi(bits as i32 - 1), 2_f64.powi(bits as i32 - 1) - 1.0);
    let (low, high) = (low.min(0.0).max(-limit()), high.max(0.0).min(limit()));
    let scale = stored((high - low) / (last - first));
    let zero = (first - low / scale).round_ties_even().clamp(first, last);
    each(x, |x| {
        let stored = ((x / scale).round_ties_even() + zero).clamp(first, last);
        ((stored - zero) as i32, scale * (stored - zero))
    })
}

pub(crate) fn asymmetric(x: &ArrayD<f32>, bits: u32) -> Pairs {
    let wide = wide(x);
    let low = wide.iter().copied().reduce(f64::min).unwrap_or(0.0);
    let high = wide.iter().copied().reduce(f64::max).unwrap_or(0.0);
    ranged(x, bits, low, high)
}
