use ndarray::ArrayD;

use super::{Pairs, each, max_abs};

pub(crate) fn ap2(x: &ArrayD<f32>) -> Pairs {
    each(x, |x| {
        if x == 0.0 {
            return (0, 0.0);
        }
        let exponent = x.abs().log2().round_ties_even().min(127.0);
        ((x.signum() * (exponent + 150.0)) as i32, x.signum() * exponent.exp2())
    })
}

pub(crate) fn log_ap2(x: &ArrayD<f32>, lowest: f64, highest: f64) -> Pairs {
    each(x, |x| {
        if x == 0.0 {
            return (0, 0.0);
        }
        let exponent = x.abs().log2().round_ties_even().clamp(lowest, highest);
        ((x.signum() * (exponent - lowest).exp2()) as i32, x.signum() * exponent.exp2())
    })
}

/// Exponents are kept within those of ordinary f32.
pub(crate) fn inq(x: &ArrayD<f32>, bits: u32) -> Pairs {
    let s = max_abs(x);
    if s == 0.0 {
        return each(x, |_| (0, 0.0));
    }
    let below = 2_f64.powi(bits as i32 - 1) / 2.0 - 1.0;
    inq_below(x, bits, (4.0 * s / 3.0).log2().floor().clamp(-126.0 + below, 127.0))
}

/// By going through the codebook whose greatest exponent is `n1`.
pub(crate) fn inq_below(x: &ArrayD<f32>, bits: u32, n1: f64) -> Pairs {
    let n2 = n1 + 1.0 - 2_f64.powi(bits as i32 - 1) / 2.0;
    let mut codebook = vec![0.0];
    codebook.extend((n2 as i32..=n1 as i32).map(|exponent| 2_f64.powi(exponent)));
    let top = codebook[codebook.len() - 1];
    each(x, |x| {
        let inside = |pair: &&[f64]| {
            let (alpha, beta) = (pair[0], pair[1]);
            (alpha + beta) / 2.0 <= x.abs() && (x.abs() < 3.0 * beta / 2.0 || beta == top)
        };
        // Below the second level the intervals of the definition overlap with none, and the first match is the least.
        let level = codebook.windows(2).filter(inside).map(|pair| pair[1]).next_back().unwrap_or(0.0);
        let value = if x < 0.0 { -level } else { level };
        ((value / n2.exp2()) as i32, value)
    })
}
