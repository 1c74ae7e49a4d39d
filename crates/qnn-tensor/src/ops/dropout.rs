use qnn_math::chacha::{BATCH, ChaCha8};
use rand_chacha::ChaCha8Rng;

use crate::parallel::for_each_chunk;
use crate::{Scalar, Tensor, Var};

impl<'t, T: Scalar> Var<'t, T> {
    /// Inverted dropout: each element becomes zero with probability `rate`, the others are scaled
    /// so that expectations stay.
    ///
    /// ```text
    /// y = x / (1 − rate)   where the element's random word is at least rate · 2³²
    ///     0                elsewhere
    /// ```
    ///
    /// Element i takes the i-th 32-bit word of `rng` from its present position, which moves behind
    /// the last: the outcome depends on nothing else. A rate of zero returns `self`, adds nothing
    /// to the tape and draws nothing. Source: Srivastava et al. 2014, JMLR 15.
    ///
    /// ```
    /// use qnn_tensor::{Tape, Tensor};
    /// use rand_chacha::{ChaCha8Rng, rand_core::SeedableRng};
    ///
    /// let tape = Tape::<f32>::new();
    /// let x = tape.leaf(Tensor::full(&[1000], 1.0));
    /// let y = x.dropout(0.75, &mut ChaCha8Rng::seed_from_u64(1)).value();
    /// assert!(y.as_slice().iter().all(|&y| y == 0.0 || y == 4.0));
    /// ```
    ///
    /// # Panics
    ///
    /// If `rate` is not in `[0, 1)`, or the generator stands behind 2⁶⁴ words.
    #[track_caller]
    pub fn dropout(self, rate: f64, rng: &mut ChaCha8Rng) -> Self {
        assert!((0.0..1.0).contains(&rate), "dropout: expected a rate in [0, 1), got {rate}");
        if rate == 0.0 {
            return self;
        }
        let x = self.value();
        let mask = mask(x.shape(), rate, rng);
        let y = x.zip_map(&mask, select);
        self.tape().record("dropout", [self], y, move |dy, _| [Some(dy.zip_map(&mask, select))])
    }
}

/// A dropped element is zero even if it was infinite or NaN.
fn select<T: Scalar>(x: T, mask: T) -> T {
    if mask.is_zero() { T::zero() } else { x * mask }
}

/// `1 / (1 − rate)` where an element is kept, zero where it is dropped.
fn mask<T: Scalar>(shape: &[usize], rate: f64, rng: &mut ChaCha8Rng) -> Tensor<T> {
    let kept = T::of(1.0 / (1.0 - rate));
    let threshold = (rate * 2.0_f64.powi(32)).round() as u64;
    // Words at most this large drop their element, unless none does.
    let (none, last) = (threshold == 0, threshold.saturating_sub(1) as u32);
    let start = rng.get_word_pos();
    let random = ChaCha8::new(rng.get_seed(), rng.get_stream());
    let position = u64::try_from(start).expect("dropout: the generator stands behind 2⁶⁴ words");
    let mask = Tensor::build(shape, |mask| {
        for_each_chunk(
            mask,
            #[inline(always)]
            |at, mask| {
                let (mut words, mut position, mut rest) = ([0; BATCH], position + at as u64, mask);
                while !rest.is_empty() {
                    let skipped = position as usize % BATCH;
                    random.fill(position - skipped as u64, &mut words);
                    let (mask, after) = rest.split_at_mut(rest.len().min(BATCH - skipped));
                    for (mask, &word) in mask.iter_mut().zip(&words[skipped..]) {
                        *mask = if none | (word > last) { kept } else { T::zero() };
                    }
                    position += mask.len() as u64;
                    rest = after;
                }
            },
        );
    });
    rng.set_word_pos(start.wrapping_add(mask.len() as u128));
    mask
}

#[cfg(test)]
mod tests {
    use rand::{RngCore, SeedableRng};

    use super::*;
    use crate::ops::tests::with_threads;
    use crate::{Tape, gradcheck};

    fn rng() -> ChaCha8Rng {
        ChaCha8Rng::seed_from_u64(7)
    }

    #[test]
    fn gradients_agree_with_differences() {
        let x = Tensor::from_fn(&[30], |i| i as f64 - 14.5);
        gradcheck([x], |[x]| x.dropout(0.4, &mut rng())).unwrap();
    }

    #[test]
    fn element_i_takes_word_i_and_the_generator_moves_behind_the_last() {
        for start in [0, 1, 255, 256, 1000] {
            let (mut words, mut used) = (rng(), rng());
            [&mut words, &mut used].into_iter().for_each(|rng| rng.set_word_pos(start));
            let x = Tape::<f32>::new();
            let x = x.constant(Tensor::full(&[40_003], 1.0));
            let y = x.dropout(0.25, &mut used).value();
            for &y in y.as_slice() {
                let kept = words.next_u32() >= 1 << 30;
                assert_eq!(y, if kept { 1.0 / 0.75 } else { 0.0 });
            }
            assert_eq!(words.next_u32(), used.next_u32());
        }
    }

    #[test]
    fn the_bits_do_not_depend_on_the_number_of_threads() {
        let run = || mask::<f32>(&[100_001], 0.3, &mut rng());
        assert_eq!(with_threads(1, run), with_threads(3, run));
    }

    #[test]
    fn the_share_of_dropped_elements_is_the_rate() {
        for rate in [0.01, 0.5, 0.9] {
            let mask = mask::<f32>(&[200_000], rate, &mut rng());
            let dropped = mask.as_slice().iter().filter(|&&mask| mask == 0.0).count() as f64;
            let deviation = (rate * (1.0 - rate) / 200_000.0).sqrt();
            assert!((dropped / 200_000.0 - rate).abs() < 5.0 * deviation);
        }
    }

    #[test]
    fn rates_beside_zero_and_one_drop_nothing_and_all() {
        let kept =
            |rate| mask::<f64>(&[10_000], rate, &mut rng()).as_slice().iter().filter(|m| **m > 0.0).count();
        assert_eq!([kept(1e-11), kept(1.0 - 1e-11)], [10_000, 0]);
    }

    #[test]
    fn a_dropped_nan_is_zero() {
        let tape = Tape::<f32>::new();
        let y = tape.constant(Tensor::full(&[100], f32::NAN)).dropout(0.5, &mut rng()).value();
        assert!(y.as_slice().contains(&0.0));
    }

    #[test]
    fn a_rate_of_zero_adds_and_draws_nothing() {
        let tape = Tape::<f32>::new();
        let mut used = rng();
        tape.leaf(Tensor::full(&[100], 2.0)).dropout(0.0, &mut used);
        assert_eq!(tape.len(), 1);
        assert_eq!(used.get_word_pos(), rng().get_word_pos());
    }

    #[test]
    #[should_panic(expected = "dropout: expected a rate in [0, 1), got 1")]
    fn a_rate_of_one_panics() {
        Tape::<f32>::new().leaf(Tensor::zeros(&[1])).dropout(1.0, &mut rng());
    }

    #[test]
    #[should_panic(expected = "got NaN")]
    fn a_rate_of_nan_panics() {
        Tape::<f32>::new().leaf(Tensor::zeros(&[1])).dropout(f64::NAN, &mut rng());
    }
}
