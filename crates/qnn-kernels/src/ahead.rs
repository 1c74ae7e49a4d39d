//! What is read soon, asked for piece by piece while something else is computed.

use crate::Real;
use crate::arch::prefetch;
use crate::line::LANES;

/// Numbers that the next image, or the visitor of this one, will read. Memory takes as long to bring an image as a core to convolve it:
/// neither waits for the other if the one is asked for in small pieces between the tiles of the other.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Ahead<'a, T>([&'a [T]; 2]);

impl<'a, T> Ahead<'a, T> {
    /// Nothing.
    pub(crate) const NOTHING: Self = Self([&[], &[]]);

    pub(crate) fn of(numbers: [&'a [T]; 2]) -> Self {
        Self(numbers)
    }

    /// Part `index` of `count`.
    #[inline(always)]
    pub(crate) fn part(self, index: usize, count: usize) -> Self {
        self.share(index, 1, count)
    }

    /// The share of `len` things from `first` on of `count`.
    #[inline(always)]
    pub(crate) fn share(mut self, first: usize, len: usize, count: usize) -> Self {
        for numbers in &mut self.0 {
            let each = numbers.len().div_ceil(LANES * count.max(1)) * LANES;
            let start = (first * each).min(numbers.len());
            *numbers = &numbers[start..(start + len * each).min(numbers.len())];
        }
        self
    }
}

impl<T: Real> Ahead<'_, T> {
    /// Asks for it.
    #[inline(always)]
    pub(crate) fn ask(self) {
        self.0.into_iter().for_each(prefetch);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn parts_are_the_whole_one_after_the_other() {
        let numbers: [f32; 1000] = core::array::from_fn(|i| i as f32);
        for count in [1, 3, 7, 100] {
            let parts = (0..count).map(|index| Ahead::of([&numbers[..], &numbers[..70]]).part(index, count));
            let (mut first, mut second) = (vec![], vec![]);
            parts.for_each(|Ahead([a, b])| {
                first.extend_from_slice(a);
                second.extend_from_slice(b);
            });
            assert_eq!((&first[..], &second[..]), (&numbers[..], &numbers[..70]));
        }
        assert!(Ahead::of([&numbers[..], &[]]).share(3, 2, 0).0[0].is_empty());
    }
}
