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
    stored_from(x, -2_f64.powi(bits as i32 - 1), bits, low, high)
}

/// With stored integers from `first` on.
fn stored_from(x: &ArrayD<f32>, first: f64, bits: u32, low: f64, high: f64) -> Pairs {
    let last = first + 2_f64.powi(bits as i32) - 1.0;
    let (low, high) = (low.min(0.0).max(-limit()), high.max(0.0).min(limit()));
    let scale = stored((high - low) / (last - first));
    let zero = (first - low / scale).round_ties_even().clamp(first, last);
    each(x, |x| {
        let stored = ((x / scale).round_ties_even() + zero).clamp(first, last);
        ((stored - zero) as i32, scale * (stored - zero))
    })
}

fn ends(x: &ArrayD<f32>) -> (f64, f64) {
    let wide = wide(x);
    let end = |better: fn(f64, f64) -> f64| wide.iter().copied().reduce(better).unwrap_or(0.0);
    (end(f64::min), end(f64::max))
}

pub(crate) fn asymmetric(x: &ArrayD<f32>, bits: u32) -> Pairs {
    let (low, high) = ends(x);
    ranged(x, bits, low, high)
}

pub(crate) fn unsigned(x: &ArrayD<f32>, bits: u32) -> Pairs {
    let (low, high) = ends(x);
    stored_from(x, 0.0, bits, low, high)
}
