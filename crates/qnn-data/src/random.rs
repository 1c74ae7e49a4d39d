//! Random numbers as functions of what they are for, never of when they are drawn.

use rand_chacha::ChaCha8Rng;
use rand_chacha::rand_core::{RngCore, SeedableRng};

/// Keeps the uses of one seed apart.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Purpose {
    Shuffle = 1,
    Augment = 2,
    Split = 3,
}

/// The generator of item `index` in `epoch`: its key is (seed, epoch, purpose), its stream the index, so no
/// two coincide.
pub(crate) fn stream(seed: u64, epoch: u64, purpose: Purpose, index: u64) -> ChaCha8Rng {
    let mut key = [0; 32];
    key[..8].copy_from_slice(&seed.to_le_bytes());
    key[8..16].copy_from_slice(&epoch.to_le_bytes());
    key[16..24].copy_from_slice(&(purpose as u64).to_le_bytes());
    key[24..].copy_from_slice(b"qnn-data");
    let mut generator = ChaCha8Rng::from_seed(key);
    generator.set_stream(index);
    generator
}

/// A number below `n` by multiplication: one draw each, so a later draw never moves; the bias is below n /
/// 2⁶⁴.
pub(crate) fn below(generator: &mut ChaCha8Rng, n: usize) -> usize {
    ((u128::from(generator.next_u64()) * n as u128) >> 64) as usize
}

/// Fisher and Yates' shuffle.
pub(crate) fn shuffle<T>(items: &mut [T], generator: &mut ChaCha8Rng) {
    for last in (1..items.len()).rev() {
        items.swap(last, below(generator, last + 1));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_part_of_the_address_matters() {
        let draws = [
            stream(1, 2, Purpose::Shuffle, 3),
            stream(0, 2, Purpose::Shuffle, 3),
            stream(1, 0, Purpose::Shuffle, 3),
            stream(1, 2, Purpose::Augment, 3),
            stream(1, 2, Purpose::Shuffle, 0),
        ]
        .map(|mut generator| generator.next_u64());
        for (i, a) in draws.iter().enumerate() {
            assert!(draws[..i].iter().all(|b| a != b));
        }
    }

    #[test]
    fn below_is_even() {
        let mut generator = stream(7, 0, Purpose::Augment, 0);
        let mut counts = [0_u32; 9];
        (0..90_000).for_each(|_| counts[below(&mut generator, 9)] += 1);
        // Five standard deviations of a binomial with p = 1/9: 5 · 94.
        assert!(counts.iter().all(|&count| count.abs_diff(10_000) < 472), "{counts:?}");
    }

    #[test]
    fn shuffle_reaches_every_order_equally() {
        let mut counts = [0_u32; 27];
        for index in 0..6_000 {
            let mut items = [0, 1, 2];
            shuffle(&mut items, &mut stream(1, 0, Purpose::Shuffle, index));
            counts[items.iter().fold(0, |code, item| 3 * code + item)] += 1;
        }
        let reached: Vec<u32> = counts.into_iter().filter(|&count| count > 0).collect();
        assert_eq!(reached.len(), 6);
        assert!(reached.iter().all(|count| count.abs_diff(1_000) < 145), "{reached:?}");
    }
}
