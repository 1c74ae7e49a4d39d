use ndarray::ArrayD;

use super::{Pairs, each, max_abs, mean, mean_abs, wide};

fn levels(x: &ArrayD<f32>, threshold: f64, positive: f64, negative: f64) -> Pairs {
    each(x, |x| {
        if x > threshold {
            (1, positive)
        } else if x < -threshold {
            (-1, -negative)
        } else {
            (0, 0.0)
        }
    })
}

fn mean_above(x: &ArrayD<f32>, threshold: f64) -> f64 {
    mean(&wide(x).iter().map(|x| x.abs()).filter(|&x| x > threshold).collect::<Vec<_>>())
}

pub(crate) fn published(x: &ArrayD<f32>, factor: f64, scaled: bool) -> Pairs {
    let threshold = factor * mean_abs(x);
    let scale = if scaled { mean_above(x, threshold) } else { 1.0 };
    levels(x, threshold, scale, scale)
}

/// `(Σ over |x| > D of |x|)² / count`.
pub(crate) fn gain(x: &ArrayD<f32>, threshold: f64) -> f64 {
    let above: Vec<f64> = wide(x).iter().map(|x| x.abs()).filter(|&x| x > threshold).collect();
    if above.is_empty() { 0.0 } else { above.iter().sum::<f64>().powi(2) / above.len() as f64 }
}

/// Of all thresholds that tell elements apart the one with the greatest gain.
pub(crate) fn exact(x: &ArrayD<f32>) -> Pairs {
    let mut magnitudes: Vec<f64> = wide(x).iter().map(|x| x.abs()).collect();
    magnitudes.push(0.0);
    magnitudes.sort_by(|a, b| b.total_cmp(a));
    let mut best = magnitudes[0];
    for &threshold in &magnitudes {
        // Sums in another order differ in the last bits: a tie is no improvement.
        if gain(x, threshold) > gain(x, best) * (1.0 + 1e-14) {
            best = threshold;
        }
    }
    let scale = mean_above(x, best);
    levels(x, best, scale, scale)
}

pub(crate) fn trained(x: &ArrayD<f32>, factor: f64, positive: f32, negative: f32) -> Pairs {
    levels(x, factor * max_abs(x), positive.into(), negative.into())
}
