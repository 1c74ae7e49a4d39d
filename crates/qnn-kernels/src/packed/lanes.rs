//! What the generic algorithms need of a register of words, and its portable form.

use crate::line::{LANES as CHANNELS, Line};

/// Words of several output channels in one register.
pub(crate) trait BitLanes: Copy {
    /// Words in the register; they divide the sixteen channels of a [`Line`].
    const LANES: usize;
    /// How often a [`Self::Count`] can take bits before it must be closed.
    const STEPS: usize;
    /// Running counts of bits, in whatever form the instruction set adds them fastest.
    type Count: Copy;

    fn splat(word: u64) -> Self;
    /// The first [`Self::LANES`] of the words.
    fn load(words: &[u64]) -> Self;
    fn xor(self, other: Self) -> Self;
    /// `self ∧ (sign ⊕ x)`
    fn masked(self, sign: Self, x: Self) -> Self;
    /// Counts on from the sums, or from nothing if [`Self::close`] adds the sums.
    fn open(sums: Self) -> Self::Count;
    fn count(self, counts: Self::Count) -> Self::Count;
    /// The sums and what was counted since [`Self::open`].
    fn close(counts: Self::Count, sums: Self) -> Self;
    fn plus(self, other: Self) -> Self;
    /// `acc = (sums << shift) + offsets` for `V ·` [`Self::LANES`] channels, in 32 bits.
    fn store<const V: usize>(sums: [Self; V], shift: u32, offsets: &[i32], acc: &mut [i32]);

    /// The channels whose accumulator reaches its cut, a bit each.
    #[inline(always)]
    fn reached(acc: &Line<i32>, cuts: &Line<i32>) -> u16 {
        // Sums of lanes, which any compiler makes vectors of.
        let mut bits = [0; CHANNELS];
        for channel in 0..CHANNELS {
            bits[channel] = if acc.0[channel] >= cuts.0[channel] { 1 << channel } else { 0 };
        }
        bits.iter().sum::<i32>() as u16
    }

    /// The numbers below zero and those that are none, a bit each.
    #[inline(always)]
    fn signs(values: &[f32; CHANNELS]) -> [u16; 2] {
        let mut masks = [0; 2];
        for (bit, value) in values.iter().enumerate() {
            masks[0] |= u16::from(*value < 0.0) << bit;
            masks[1] |= u16::from(value.is_nan()) << bit;
        }
        masks
    }
}

/// One word, counted by `count_ones`: one instruction wherever the instruction set has one.
#[derive(Clone, Copy)]
pub(crate) struct Word(u64);

impl BitLanes for Word {
    const LANES: usize = 1;
    const STEPS: usize = usize::MAX;
    type Count = u64;

    #[inline(always)]
    fn splat(word: u64) -> Self {
        Self(word)
    }

    #[inline(always)]
    fn load(words: &[u64]) -> Self {
        Self(words[0])
    }

    #[inline(always)]
    fn xor(self, other: Self) -> Self {
        Self(self.0 ^ other.0)
    }

    #[inline(always)]
    fn masked(self, sign: Self, x: Self) -> Self {
        Self(self.0 & (sign.0 ^ x.0))
    }

    #[inline(always)]
    fn open(sums: Self) -> u64 {
        sums.0
    }

    #[inline(always)]
    fn count(self, counts: u64) -> u64 {
        counts.wrapping_add(u64::from(self.0.count_ones()))
    }

    #[inline(always)]
    fn close(counts: u64, _: Self) -> Self {
        Self(counts)
    }

    #[inline(always)]
    fn plus(self, other: Self) -> Self {
        Self(self.0.wrapping_add(other.0))
    }

    #[inline(always)]
    fn store<const V: usize>(sums: [Self; V], shift: u32, offsets: &[i32], acc: &mut [i32]) {
        for v in 0..V {
            acc[v] = ((sums[v].0 << shift) as i32).wrapping_add(offsets[v]);
        }
    }
}
