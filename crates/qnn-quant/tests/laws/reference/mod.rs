//! Every map a second time: plain f64, element by element, nothing shared with the library.
//!
//! A reference gives the integer code and the value of each element, in row-major order.

pub(crate) mod affine;
pub(crate) mod binary;
pub(crate) mod learned;
pub(crate) mod multi_bit;
pub(crate) mod powers;
pub(crate) mod ternary;

use ndarray::ArrayD;
use rand_chacha::ChaCha8Rng;
use rand_chacha::rand_core::{RngCore, SeedableRng};

/// Code and value.
pub(crate) type Pairs = Vec<(i32, f64)>;

pub(crate) fn wide(x: &ArrayD<f32>) -> Vec<f64> {
    x.iter().map(|&x| f64::from(x)).collect()
}

pub(crate) fn mean(x: &[f64]) -> f64 {
    if x.is_empty() { 0.0 } else { x.iter().sum::<f64>() / x.len() as f64 }
}

pub(crate) fn mean_abs(x: &ArrayD<f32>) -> f64 {
    mean(&wide(x).iter().map(|x| x.abs()).collect::<Vec<_>>())
}

pub(crate) fn max_abs(x: &ArrayD<f32>) -> f64 {
    wide(x).iter().fold(0.0, |max, x| max.max(x.abs()))
}

/// Each element by itself.
pub(crate) fn each(x: &ArrayD<f32>, f: impl Fn(f64) -> (i32, f64)) -> Pairs {
    wide(x).into_iter().map(f).collect()
}

/// The random words that belong to the first elements: upper halves from the first stream, lower halves from the last. In each stream the
/// upper halves of 256 words come first, then their lower halves.
pub(crate) fn words(seed: u64, count: usize) -> Vec<u32> {
    let halves = |stream| {
        let mut random = ChaCha8Rng::seed_from_u64(seed);
        random.set_stream(stream);
        let mut halves = Vec::new();
        while halves.len() < count {
            let words: Vec<u32> = (0..256).map(|_| random.next_u32()).collect();
            halves.extend(words.iter().map(|word| word >> 16));
            halves.extend(words.iter().map(|word| word & 0xFFFF));
        }
        halves
    };
    let pairs = halves(0).into_iter().zip(halves(u64::MAX)).take(count);
    pairs.map(|(upper, lower)| upper << 16 | lower).collect()
}
