//! Cuts of the accumulator that give the next layer's codes, found by asking the network's own function.

use alloc::vec;
use alloc::vec::Vec;
use core::ops::RangeInclusive;

use super::PackError;

/// A step function of the accumulator: `(acc ≥ cut) ⊕ flip`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Threshold {
    /// The smallest accumulator past the step.
    pub cut: i32,
    /// Whether the step goes down.
    pub flip: bool,
}

impl Threshold {
    /// Whether an accumulator lies on the true side.
    #[must_use]
    pub const fn holds(self, acc: i32) -> bool {
        (acc >= self.cut) != self.flip
    }
}

/// The threshold that equals a monotone predicate at every accumulator in `range`, by bisection.
///
/// A predicate that is the same everywhere gets a cut beyond all accumulators.
///
/// # Errors
///
/// The accumulator where the predicate contradicts the threshold found, if one of a few dozen probes (the ends, their neighbours, and evenly
/// between) shows that it is not monotone. What no probe sees stays unseen.
///
/// ```
/// use qnn_kernels::packed::{Threshold, threshold};
/// assert_eq!(threshold(-9..=9, |acc| acc as f32 * 0.5 - 1.0 >= 0.0), Ok(Threshold { cut: 2, flip: false }));
/// assert_eq!(threshold(-9..=9, |acc| acc < 4), Ok(Threshold { cut: 4, flip: true }));
/// assert_eq!(threshold(-9..=9, |acc| acc * acc > 9), Err(-3));
/// ```
pub fn threshold(range: RangeInclusive<i32>, holds: impl Fn(i32) -> bool) -> Result<Threshold, i32> {
    let (first, last) = (*range.start(), *range.end());
    let found = match (holds(first), holds(last)) {
        // No cut lies beyond the greatest integer, but all reach the least.
        (false, false) if last == i32::MAX => Threshold { cut: i32::MIN, flip: true },
        (false, false) => Threshold { cut: i32::MAX, flip: false },
        (true, true) => Threshold { cut: i32::MIN, flip: false },
        (flip, _) => Threshold { cut: bisect(first, last, |acc| holds(acc) != flip), flip },
    };
    probes(first, last).find(|&acc| holds(acc) != found.holds(acc)).map_or(Ok(found), Err)
}

/// The smallest true argument, where `first` is false and `last` is true.
fn bisect(mut first: i32, mut last: i32, holds: impl Fn(i32) -> bool) -> i32 {
    while i64::from(last) - i64::from(first) > 1 {
        let middle = ((i64::from(first) + i64::from(last)) / 2) as i32;
        if holds(middle) {
            last = middle;
        } else {
            first = middle;
        }
    }
    last
}

fn probes(first: i32, last: i32) -> impl Iterator<Item = i32> {
    let span = i64::from(last) - i64::from(first);
    let at = move |offset: i64| (i64::from(first) + offset) as i32;
    let ends = [1, span - 1].into_iter().filter(move |&offset| 0 < offset && offset < span);
    (1..32).map(move |part| span * part / 32).chain(ends).filter(move |_| span > 0).map(at)
}

/// The cuts of every output channel.
///
/// Channel `o` has the ascending cuts `c₁ ≤ … ≤ c_n`, `n = levels − 1`; an accumulator's level is the number of cuts that it reaches, or, where the
/// channel is flipped, `n` minus that. The level stands for the code of the same rank ([`Encoding::code`](super::Encoding::code)).
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Thresholds {
    /// `[cut, channel]`.
    cuts: Vec<i32>,
    flips: Vec<bool>,
    levels: usize,
}

impl Thresholds {
    /// From cuts `[channel, levels − 1]` and a flip for each channel.
    ///
    /// # Errors
    ///
    /// [`PackError::Thresholds`] if their number does not fit, [`PackError::NotMonotone`] if the cuts of a channel do not ascend.
    pub fn new(levels: usize, cuts: &[i32], flips: Vec<bool>) -> Result<Self, PackError> {
        let (channels, steps) = (flips.len(), levels.saturating_sub(1));
        if steps == 0 || channels.checked_mul(steps) != Some(cuts.len()) {
            let expected = channels.saturating_mul(steps.max(1));
            return Err(PackError::Thresholds { thresholds: cuts.len(), channels, levels, expected });
        }
        for (channel, cuts) in cuts.chunks_exact(steps).enumerate() {
            if let Some(pair) = cuts.windows(2).find(|pair| pair[0] > pair[1]) {
                return Err(PackError::NotMonotone { channel, at: pair[1] });
            }
        }
        let cuts = (0..steps).flat_map(|step| cuts[step..].iter().step_by(steps).copied()).collect();
        Ok(Self { cuts, flips, levels })
    }

    /// One threshold for each channel: two levels.
    #[must_use]
    pub fn binary(thresholds: &[Threshold]) -> Self {
        Self {
            cuts: thresholds.iter().map(|threshold| threshold.cut).collect(),
            flips: thresholds.iter().map(|threshold| threshold.flip).collect(),
            levels: 2,
        }
    }

    /// Those that equal `level(channel, acc)`, a monotone function for each channel, at every accumulator in `range`, which ends below `i32::MAX`
    /// (the cut of a level that nothing reaches).
    ///
    /// # Errors
    ///
    /// [`PackError::NotMonotone`] as [`threshold`] says.
    ///
    /// # Panics
    ///
    /// If there are fewer than two levels, or if `i32::MAX` is in the range.
    pub fn search(
        channels: usize,
        levels: usize,
        range: RangeInclusive<i32>,
        level: impl Fn(usize, i32) -> usize,
    ) -> Result<Self, PackError> {
        assert!(levels >= 2, "thresholds between {levels} levels: there must be two at least");
        assert!(*range.end() < i32::MAX, "accumulators up to the greatest integer, which is no cut");
        let steps = levels - 1;
        let mut found = Self { cuts: vec![0; channels * steps], flips: Vec::with_capacity(channels), levels };
        for channel in 0..channels {
            let level = |acc| level(channel, acc);
            let flip = level(*range.start()) > level(*range.end());
            for step in 0..steps {
                let reached = |acc| if flip { level(acc) < steps - step } else { level(acc) > step };
                let at = threshold(range.clone(), reached);
                let sound = at.and_then(|at| if at.flip { Err(*range.start()) } else { Ok(at.cut) });
                found.cuts[step * channels + channel] =
                    sound.map_err(|at| PackError::NotMonotone { channel, at })?;
            }
            found.flips.push(flip);
        }
        Ok(found)
    }

    /// Output channels.
    #[must_use]
    pub fn channels(&self) -> usize {
        self.flips.len()
    }

    /// Levels that the accumulators are cut into.
    #[must_use]
    pub fn levels(&self) -> usize {
        self.levels
    }

    /// Which channels are flipped.
    #[must_use]
    pub fn flips(&self) -> &[bool] {
        &self.flips
    }

    /// The cuts of one rank (0 is the lowest), one for each channel.
    #[must_use]
    #[track_caller]
    pub fn cuts(&self, rank: usize) -> &[i32] {
        &self.cuts[rank * self.channels()..][..self.channels()]
    }

    /// The level of an accumulator.
    #[must_use]
    #[track_caller]
    pub fn level(&self, channel: usize, acc: i32) -> usize {
        let reached = (0..self.levels - 1).filter(|&rank| acc >= self.cuts(rank)[channel]).count();
        if self.flips[channel] { self.levels - 1 - reached } else { reached }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn a_batch_norm_with_sign_is_found_exactly(
            mean in -40.0_f32..40.0, scale in prop_oneof![-2.0_f32..2.0, Just(0.0), Just(-0.0)], shift in -3.0_f32..3.0, reach in 0_i32..80
        ) {
            let holds = |acc: i32| (acc as f32 - mean) * scale + shift >= 0.0;
            let found = threshold(-reach..=reach, holds).unwrap();
            for acc in -reach..=reach {
                prop_assert_eq!(found.holds(acc), holds(acc));
            }
        }

        #[test]
        fn levels_of_a_rounding_quantizer_are_found_exactly(
            scale in -0.2_f32..0.2, shift in -3.0_f32..3.0, levels in 2_usize..9, reach in 0_i32..80
        ) {
            let level = |_: usize, acc: i32| (acc as f32 * scale + shift).round().clamp(0.0, (levels - 1) as f32) as usize;
            let found = Thresholds::search(1, levels, -reach..=reach, level).unwrap();
            for acc in -reach..=reach {
                prop_assert_eq!(found.level(0, acc), level(0, acc));
            }
        }
    }

    #[test]
    fn the_whole_range_of_integers_is_searched() {
        let found = threshold(i32::MIN..=i32::MAX, |acc| acc >= 7).unwrap();
        assert_eq!(found, Threshold { cut: 7, flip: false });
        assert_eq!(threshold(3..=3, |_| true).unwrap().cut, i32::MIN);
        for always in [false, true] {
            let constant = threshold(0..=i32::MAX, |_| always).unwrap();
            assert_eq!([0, 7, i32::MAX].map(|acc| constant.holds(acc)), [always; 3]);
        }
    }

    #[test]
    fn what_is_not_monotone_is_an_error() {
        let hill = |_: usize, acc: i32| usize::from(acc.abs() < 10);
        assert!(matches!(
            Thresholds::search(1, 2, -40..=40, hill),
            Err(PackError::NotMonotone { channel: 0, .. })
        ));
        let descending = Thresholds::new(3, &[5, 4], vec![false]);
        assert_eq!(descending, Err(PackError::NotMonotone { channel: 0, at: 4 }));
        assert!(matches!(
            Thresholds::new(3, &[5], vec![false]),
            Err(PackError::Thresholds { expected: 2, .. })
        ));
        assert!(Thresholds::new(1, &[], vec![false]).is_err());
    }
}
