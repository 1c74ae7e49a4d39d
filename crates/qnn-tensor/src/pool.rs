//! Recycled buffers.
//!
//! A large block goes back to the system when it is freed, and its pages fault in one by one when
//! the next one is written: that costs more than a batch normalisation. Tensors therefore return
//! their buffers to a pool, and a training step whose shapes were seen before allocates none.

use std::collections::BTreeMap;
use std::sync::{Mutex, MutexGuard, PoisonError};

use crate::Scalar;
use crate::storage::Storage;

/// Buffers shorter than this are left to the allocator, which keeps small blocks itself.
const POOLED_FROM: usize = 1024;

/// Free buffers of one element type, by length.
#[derive(Debug)]
pub struct Pool<T> {
    shelves: Mutex<Shelves<T>>,
}

#[derive(Debug)]
struct Shelves<T> {
    free: BTreeMap<usize, Vec<Storage<T>>>,
    statistics: Statistics,
}

/// What a [`Pool`] has done so far; lengths count elements.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Statistics {
    /// Elements of the pooled buffers that are in use.
    pub live: usize,
    /// The largest `live` so far.
    pub peak: usize,
    /// Elements of the buffers waiting to be used again.
    pub free: usize,
    /// How many buffers the pool had to allocate.
    pub allocations: u64,
}

impl<T: Scalar> Pool<T> {
    pub(crate) const fn new() -> Self {
        let statistics = Statistics { live: 0, peak: 0, free: 0, allocations: 0 };
        Self { shelves: Mutex::new(Shelves { free: BTreeMap::new(), statistics }) }
    }

    /// A buffer of at least `len` elements with unspecified contents (in debug builds, NaN: an
    /// operation that forgets to write an output shows).
    pub(crate) fn take(&self, len: usize) -> Storage<T> {
        let recycled = if len < POOLED_FROM { None } else { self.lock().take(len) };
        let mut storage = recycled.unwrap_or_else(|| self.allocate(len));
        if cfg!(debug_assertions) {
            storage.as_mut_slice().fill(T::nan());
        }
        storage
    }

    fn allocate(&self, len: usize) -> Storage<T> {
        let storage = Storage::allocate(len);
        if len >= POOLED_FROM {
            let mut shelves = self.lock();
            shelves.count_live(storage.len());
            shelves.statistics.allocations += 1;
        }
        storage
    }

    /// Counts a buffer of `len` elements that was allocated elsewhere and will be given to the pool.
    pub(crate) fn adopt(&self, len: usize) {
        if len >= POOLED_FROM {
            self.lock().count_live(len);
        }
    }

    /// Puts a buffer that came from [`take`](Pool::take) back on its shelf.
    pub(crate) fn give(&self, buffer: Storage<T>) {
        if buffer.len() >= POOLED_FROM {
            self.lock().give(buffer);
        }
    }

    /// Counts of what the pool holds and has allocated.
    pub fn statistics(&self) -> Statistics {
        self.lock().statistics
    }

    /// Frees every buffer that is not in use.
    pub fn trim(&self) {
        let mut shelves = self.lock();
        shelves.free.clear();
        shelves.statistics.free = 0;
    }

    fn lock(&self) -> MutexGuard<'_, Shelves<T>> {
        // Shelves are consistent between statements: a panic elsewhere cannot have broken them.
        self.shelves.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl<T: Scalar> Shelves<T> {
    /// The shortest buffer that fits without wasting more than its half.
    fn take(&mut self, len: usize) -> Option<Storage<T>> {
        let fit = *self.free.range(len..=len.saturating_mul(2)).next()?.0;
        self.count_live(fit);
        self.statistics.free -= fit;
        let shelf = self.free.get_mut(&fit)?;
        let buffer = shelf.pop();
        if shelf.is_empty() {
            self.free.remove(&fit);
        }
        buffer
    }

    fn count_live(&mut self, len: usize) {
        self.statistics.live += len;
        self.statistics.peak = self.statistics.peak.max(self.statistics.live);
    }

    /// Keeps the buffer, unless the pool would then hold more than twice what was ever in use at
    /// once: lengths that do not serve one another must fit side by side, but shapes that keep
    /// changing must not pile up.
    fn give(&mut self, buffer: Storage<T>) {
        let len = buffer.len();
        let statistics = &mut self.statistics;
        statistics.live = statistics.live.saturating_sub(len);
        if statistics.live + statistics.free + len <= 2 * statistics.peak {
            statistics.free += len;
            self.free.entry(len).or_default().push(buffer);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_returned_buffer_is_taken_again() {
        let pool = Pool::<f32>::new();
        pool.give(pool.take(5000));
        let buffer = pool.take(4000);
        assert_eq!(buffer.len(), 5000);
        assert_eq!(pool.statistics().allocations, 1);
        assert_eq!(pool.statistics().live, 5000);
    }

    #[test]
    fn a_buffer_more_than_twice_too_long_is_left_on_the_shelf() {
        let pool = Pool::<f32>::new();
        pool.give(pool.take(5000));
        assert_eq!(pool.take(2000).len(), 2000);
        assert_eq!(pool.statistics().allocations, 2);
    }

    #[test]
    fn buffers_never_exceed_twice_the_peak_in_use() {
        let pool = Pool::<f32>::new();
        for step in 0..200 {
            let _kept = pool.take(1024 + 997 * step);
            pool.give(pool.take(2000 + 1500 * step));
            let Statistics { live, free, peak, .. } = pool.statistics();
            assert!(live + free <= 2 * peak, "{:?}", pool.statistics());
        }
    }

    #[test]
    fn lengths_that_do_not_serve_one_another_stay_side_by_side() {
        let pool = Pool::<f32>::new();
        for _ in 0..3 {
            for len in [9000, 4000, 1500] {
                pool.give(pool.take(len));
            }
            assert_eq!(pool.statistics().allocations, 3);
        }
    }

    #[test]
    fn small_buffers_are_not_pooled() {
        let pool = Pool::<f64>::new();
        pool.give(pool.take(16));
        assert_eq!(pool.statistics(), Statistics::default());
    }

    #[test]
    fn trimming_frees_what_is_not_in_use() {
        let pool = Pool::<f64>::new();
        let kept = pool.take(3000);
        pool.give(pool.take(3000));
        pool.trim();
        let statistics = pool.statistics();
        assert_eq!((statistics.free, statistics.live), (0, kept.len()));
    }
}
