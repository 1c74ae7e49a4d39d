use ndarray::{ArrayD, Axis};

use super::{Pairs, each, mean, mean_abs, wide, words};

fn sign_of(x: f64) -> i32 {
    if x >= 0.0 { 1 } else { -1 }
}

pub(crate) fn scaled(x: &ArrayD<f32>, scale: f64) -> Pairs {
    each(x, |x| (sign_of(x), scale * f64::from(sign_of(x))))
}

pub(crate) fn mean_sign(x: &ArrayD<f32>) -> Pairs {
    scaled(x, mean_abs(x))
}

/// +1 where u < (x + 1)/2. So that no digit of a small x is lost, x stands alone.
pub(crate) fn stochastic(x: &ArrayD<f32>, seed: u64) -> Pairs {
    let code = |(x, word): (f64, u32)| {
        let u = f64::from(word >> 8) / 2_f64.powi(24);
        if 2.0 * u - 1.0 < x.clamp(-1.0, 1.0) { 1 } else { -1 }
    };
    wide(x).into_iter().zip(words(seed, x.len())).map(code).map(|code| (code, code.into())).collect()
}

pub(crate) fn unit(x: &ArrayD<f32>) -> Pairs {
    each(x, |x| if x > 0.5 { (1, 1.0) } else { (0, 0.0) })
}

pub(crate) fn heaviside(x: &ArrayD<f32>) -> Pairs {
    each(x, |x| if x > 0.0 { (1, 1.0) } else { (0, 0.0) })
}

/// The scale of an element is that of its index along the last axis.
pub(crate) fn magnitude_aware(x: &ArrayD<f32>) -> Pairs {
    let last = x.ndim() - 1;
    let channel = |channel: usize| {
        x.index_axis(Axis(last), channel).iter().map(|x| f64::from(x.abs())).collect::<Vec<_>>()
    };
    let scale = |index: usize| mean(&channel(index));
    x.indexed_iter()
        .map(|(index, &x)| {
            let sign = sign_of(x.into());
            (sign, scale(index[last]) * f64::from(sign))
        })
        .collect()
}
