//! How often which numbers occur, in bins that grow with the range.

use ndarray::ArrayViewD;
use qnn_math::ln;
use rayon::prelude::*;

use crate::elementwise::row_major;
use crate::{Affine, Range};

/// Bin `i` counts the elements of `[(first + i) w, (first + i + 1) w)`, with a width `w = 2^exponent`.
///
/// Bins lie at multiples of their width, so doubling the width merges pairs exactly: the counts depend on the elements alone,
/// not on the order in which they came.
#[derive(Clone, Debug, Default, PartialEq)]
pub(crate) struct Histogram {
    exponent: i32,
    first: i64,
    counts: Vec<u64>,
    range: Option<Range>,
}

/// As many as the methods were published with.
const BINS: usize = 2048;
/// Elements that are counted together.
const PIECE: usize = 1 << 16;
/// Positions have magnitudes below 2 to this and one: they are exact in f64 and i64.
const PRECISION: i32 = 40;

impl Histogram {
    /// Counts finite elements that lie in `range`.
    pub(crate) fn add(&mut self, x: ArrayViewD<'_, f32>, range: Range) {
        self.cover(self.range.map_or(range, |seen| seen.union(range)));
        let (x, first, width) = (row_major(&x), self.first, self.width());
        let inverse = width.recip();
        let count = |piece: &[f32]| {
            let mut counts = vec![0_u64; BINS];
            piece
                .iter()
                .for_each(|&x| counts[((f64::from(x) * inverse).floor() as i64 - first) as usize] += 1);
            counts
        };
        let sum = |mut a: Vec<u64>, b: Vec<u64>| {
            a.iter_mut().zip(&b).for_each(|(a, b)| *a += b);
            a
        };
        // Integer sums: any order gives the same.
        let new = x.par_chunks(PIECE).map(count).reduce(|| vec![0; BINS], sum);
        self.counts = sum(std::mem::take(&mut self.counts), new);
    }

    fn width(&self) -> f64 {
        2_f64.powi(self.exponent)
    }

    /// The least width at which all of `range` has bins.
    fn cover(&mut self, range: Range) {
        let position = |x: f32, exponent: i32| (f64::from(x) * 2_f64.powi(-exponent)).floor() as i64;
        // Without a sign, which would be the exponent's upper bit: of two zeros, either may be the greater.
        let greatest = f64::from(range.high().abs().max(range.low().abs()));
        let mut exponent = ((greatest.to_bits() >> 52) as i32 - 1023 - PRECISION).max(-149);
        while position(range.high(), exponent) - position(range.low(), exponent) >= BINS as i64 {
            exponent += 1;
        }
        let first = position(range.low(), exponent);
        let mut counts = vec![0; BINS];
        for (index, count) in self.counts.iter().enumerate().filter(|(_, count)| **count > 0) {
            // Further shifts change nothing more.
            let position = (self.first + index as i64) >> (exponent - self.exponent).min(63);
            counts[(position - first) as usize] += count;
        }
        *self = Histogram { exponent, first, counts, range: Some(range) };
    }

    /// Bins that are not empty: their middle and count.
    fn middles(&self) -> impl Iterator<Item = (f64, f64)> + '_ {
        let full = self.counts.iter().enumerate().filter(|(_, count)| **count > 0);
        full.map(|(i, &count)| (((self.first + i as i64) as f64 + 0.5) * self.width(), count as f64))
    }

    /// Between the quantiles `1 − percent/100` and `percent/100`.
    pub(crate) fn percentile(&self, percent: f64, seen: Range) -> Range {
        let quantile = |part: f64| self.quantile(part).clamp(seen.low().into(), seen.high().into()) as f32;
        let (low, high) = (quantile(1.0 - percent / 100.0), quantile(percent / 100.0));
        Range::new(low, high.max(low)).unwrap_or(seen)
    }

    /// Where this part of the elements lies below, taken for evenly spread within a bin.
    fn quantile(&self, part: f64) -> f64 {
        let rank = part * self.counts.iter().sum::<u64>() as f64;
        let mut below = 0.0;
        for (index, &count) in self.counts.iter().enumerate().filter(|(_, count)| **count > 0) {
            let inside = (rank - below) / count as f64;
            if inside <= 1.0 {
                return ((self.first + index as i64) as f64 + inside.max(0.0)) * self.width();
            }
            below += count as f64;
        }
        f64::INFINITY
    }

    /// The hundredth parts of the range, and which of them errs least; of equals the widest.
    pub(crate) fn least_squared_error(&self, bits: u32, seen: Range) -> Range {
        let Ok(map) = Affine::asymmetric(bits) else { return seen };
        let part = |percent: i32| {
            let end = |end: f32| (f64::from(end) * f64::from(percent) / 100.0) as f32;
            Range::new(end(seen.low()), end(seen.high())).unwrap_or(seen)
        };
        let error = |range: Range| {
            let (scale, zero) = map.scale_and_zero_point(range);
            let first = f64::from(-(1 << (bits - 1)) - zero);
            let (scale, last) = (f64::from(scale), first + f64::from((1 << bits) - 1));
            let residue = |x: f64| x - scale * (x / scale).round_ties_even().clamp(first, last);
            self.middles().map(|(x, count)| count * residue(x) * residue(x)).sum::<f64>()
        };
        let candidates = (1..=100).rev().map(part).map(|range| (error(range), range));
        candidates
            .reduce(|best, next| if next.0 < best.0 { next } else { best })
            .map_or(seen, |(_, range)| range)
    }

    /// The clipping height whose quantized histogram of |x| is closest to the clipped one; of equals the greatest.
    pub(crate) fn least_divergence(&self, bits: u32, seen: Range) -> Range {
        let full = self.counts.iter().enumerate().filter(|(_, count)| **count > 0);
        let full: Vec<(u64, f64)> = full
            .map(|(index, &count)| {
                let position = self.first + index as i64;
                (if position < 0 { -1 - position } else { position }.unsigned_abs(), count as f64)
            })
            .collect();
        // The greatest magnitude may be more bins away from 0 than the range is wide, where all of it lies on one side: then two bins
        // become one, until there are few enough.
        let greatest = full.iter().map(|&(position, _)| position).max().unwrap_or(0);
        let halvings = (0..).find(|&halvings| greatest >> halvings < 2 * BINS as u64).unwrap_or(0);
        let mut magnitudes = vec![0.0; 2 * BINS];
        for (position, count) in full {
            magnitudes[(position >> halvings) as usize] += count;
        }
        let used = magnitudes.iter().rposition(|&count| count > 0.0).map_or(0, |last| last + 1);
        let levels = if seen.low() < 0.0 { 1 << (bits - 1) } else { 1_usize << bits };
        let candidates =
            (levels..=used).rev().map(|bins| (divergence(&magnitudes[..used], bins, levels), bins));
        let best = candidates.reduce(|best, next| if next.0 < best.0 { next } else { best });
        let Some((_, bins)) = best.filter(|&(_, bins)| bins < used) else { return seen };
        let height = (bins as f64 * self.width() * f64::from(1_u32 << halvings)) as f32;
        let low = if seen.low() < 0.0 { -height } else { 0.0 };
        Range::new(low.max(seen.low()), height.min(seen.high()).max(low.max(seen.low()))).unwrap_or(seen)
    }
}

/// `Σ P ln(P/Q)`: P the first `bins`, with all that lies beyond in the last; Q the same bins without it, merged into
/// `levels` and spread again over those that are not empty.
fn divergence(counts: &[f64], bins: usize, levels: usize) -> f64 {
    /// In place of an empty bin of Q, whose logarithm would be infinite.
    const EMPTY: f64 = 1e-12;
    let total: f64 = counts.iter().sum();
    let kept: f64 = counts[..bins].iter().sum();
    let beyond = total - kept;
    let mut sum = 0.0;
    for level in 0..levels {
        let members = &counts[level * bins / levels..(level + 1) * bins / levels];
        let full = members.iter().filter(|&&count| count > 0.0).count().max(1) as f64;
        let q = members.iter().sum::<f64>() / full / kept.max(1.0);
        let is_last = level + 1 == levels;
        for (index, &count) in members.iter().enumerate() {
            let clipped = if is_last && index + 1 == members.len() { count + beyond } else { count };
            let q = if count > 0.0 { q } else { 0.0 };
            if clipped > 0.0 {
                let p = clipped / total;
                sum += p * ln(p / q.max(EMPTY));
            }
        }
    }
    sum
}
