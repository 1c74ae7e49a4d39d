use ndarray::{ArrayD, Axis};

use super::{Pairs, each, max_abs, words};

fn steps(bits: u32) -> f64 {
    f64::from((1_u32 << bits) - 1)
}

pub(crate) fn dorefa_weights(x: &ArrayD<f32>, bits: u32) -> Pairs {
    let (n, max) = (steps(bits), max_abs(x).tanh());
    each(x, |x| {
        let squashed = if max == 0.0 { 0.5 } else { x.tanh() / (2.0 * max) + 0.5 };
        let index = (n * squashed).round_ties_even();
        ((2.0 * index - n) as i32, 2.0 * index / n - 1.0)
    })
}

pub(crate) fn unit(x: &ArrayD<f32>, bits: u32) -> Pairs {
    let n = steps(bits);
    each(x, |x| {
        let code = (n * x.clamp(0.0, 1.0)).round_ties_even();
        (code as i32, code / n)
    })
}

/// The greatest magnitude of an element is that of its index along the first axis.
pub(crate) fn dorefa_gradients(x: &ArrayD<f32>, bits: u32, seed: u64) -> Pairs {
    let n = steps(bits);
    let max = |row: usize| max_abs(&x.index_axis(Axis(0), row).to_owned());
    x.indexed_iter()
        .zip(words(seed, x.len()))
        .map(|((index, &x), word)| {
            let max = max(index[0]);
            let noise = ((f64::from(word) + 0.5) / 2_f64.powi(32) - 0.5) / n;
            let ratio = if max == 0.0 { 0.0 } else { f64::from(x) / (2.0 * max) };
            let index = (n * (ratio + 0.5 + noise).clamp(0.0, 1.0)).round_ties_even();
            ((2.0 * index - n) as i32, 2.0 * max * (index / n - 0.5))
        })
        .collect()
}

pub(crate) fn alphabet(x: &ArrayD<f32>, count: u32, a: f64) -> Pairs {
    let n = f64::from(count);
    each(x, |x| {
        let index = match count {
            2 => f64::from(u32::from(x >= 0.0)),
            _ => ((x.clamp(-a, a) + a) * (n - 1.0) / (2.0 * a)).round_ties_even(),
        };
        (2 * index as i32 - (count as i32 - 1), index * 2.0 * a / (n - 1.0) - a)
    })
}

pub(crate) fn uniform_symmetric(x: &ArrayD<f32>, bits: u32, alpha: f64) -> Pairs {
    let s = (2_f64.powi(bits as i32 - 1) - 1.0) / alpha;
    each(x, |x| {
        let code = (s * x.clamp(-alpha, alpha)).round_ties_even();
        (code as i32, code / s)
    })
}

pub(crate) fn uniform_asymmetric(x: &ArrayD<f32>, bits: u32, alpha: f64) -> Pairs {
    let half = 2_f64.powi(bits as i32 - 1);
    let s = half / alpha;
    each(x, |x| {
        let code = (s * x).round_ties_even().clamp(-half, half - 1.0);
        (code as i32, code / s)
    })
}

pub(crate) fn fixed_point(x: &ArrayD<f32>, q: u32) -> Pairs {
    let unit = 2_f64.powi(q as i32 - 1);
    each(x, |x| {
        let value = ((unit * x).round_ties_even() / unit).clamp(-1.0, 1.0 - 1.0 / unit);
        ((value * unit) as i32, value)
    })
}

pub(crate) fn relu(x: &ArrayD<f32>, places: i32) -> Pairs {
    let unit = 2_f64.powi(places);
    each(x, |x| {
        let value = ((unit * x).round_ties_even() / unit).clamp(0.0, 1.0 - 1.0 / unit);
        ((value * unit) as i32, value)
    })
}
