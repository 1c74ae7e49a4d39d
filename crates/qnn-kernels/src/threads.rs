//! What needs an operating system: threads, and what they keep. Without `std` the calling thread does everything, and keeps nothing.

#[cfg(feature = "std")]
pub(crate) use rayon::{current_num_threads, join, prelude};
#[cfg(any(feature = "std", test))]
pub(crate) use std::sync::OnceLock as Once;

#[cfg(not(feature = "std"))]
pub(crate) use alone::{current_num_threads, join, prelude};
/// Types that hold one cannot be shared between threads then.
#[cfg(not(any(feature = "std", test)))]
pub(crate) use core::cell::OnceCell as Once;

/// Declares a function that lends the idle buffers of the calling thread.
macro_rules! idle {
    ($name:ident: $buffers:ty) => {
        #[cfg(feature = "std")]
        fn $name<R>(visit: impl FnOnce(&mut $buffers) -> R) -> R {
            std::thread_local! {
                static IDLE: core::cell::RefCell<$buffers> = const { core::cell::RefCell::new(<$buffers>::new()) };
            }
            IDLE.with_borrow_mut(visit)
        }

        #[cfg(not(feature = "std"))]
        fn $name<R>(visit: impl FnOnce(&mut $buffers) -> R) -> R {
            visit(&mut <$buffers>::new())
        }
    };
}
pub(crate) use idle;

/// The part of rayon that the crate uses, one after the other.
#[cfg(not(feature = "std"))]
mod alone {
    pub(crate) fn current_num_threads() -> usize {
        1
    }

    pub(crate) fn join<A, B>(a: impl FnOnce() -> A, b: impl FnOnce() -> B) -> (A, B) {
        (a(), b())
    }

    pub(crate) mod prelude {
        use core::slice::{Chunks, ChunksExact, ChunksExactMut, ChunksMut, Iter};

        pub(crate) trait ParallelSlice<T> {
            fn par_iter(&self) -> Iter<'_, T>;
            fn par_chunks(&self, len: usize) -> Chunks<'_, T>;
            fn par_chunks_mut(&mut self, len: usize) -> ChunksMut<'_, T>;
            fn par_chunks_exact(&self, len: usize) -> ChunksExact<'_, T>;
            fn par_chunks_exact_mut(&mut self, len: usize) -> ChunksExactMut<'_, T>;
        }

        impl<T> ParallelSlice<T> for [T] {
            fn par_iter(&self) -> Iter<'_, T> {
                self.iter()
            }

            fn par_chunks(&self, len: usize) -> Chunks<'_, T> {
                self.chunks(len)
            }

            fn par_chunks_mut(&mut self, len: usize) -> ChunksMut<'_, T> {
                self.chunks_mut(len)
            }

            fn par_chunks_exact(&self, len: usize) -> ChunksExact<'_, T> {
                self.chunks_exact(len)
            }

            fn par_chunks_exact_mut(&mut self, len: usize) -> ChunksExactMut<'_, T> {
                self.chunks_exact_mut(len)
            }
        }

        pub(crate) trait IndexedParallelIterator: Iterator + Sized {
            fn with_min_len(self, _: usize) -> Self {
                self
            }

            fn with_max_len(self, _: usize) -> Self {
                self
            }
        }

        impl<I: Iterator> IndexedParallelIterator for I {}

        pub(crate) trait IntoParallelIterator: IntoIterator + Sized {
            fn into_par_iter(self) -> Self::IntoIter {
                self.into_iter()
            }
        }

        impl<I: IntoIterator> IntoParallelIterator for I {}
    }
}
