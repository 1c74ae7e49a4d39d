use memmap2::MmapMut;

use crate::Scalar;

/// Blocks of this many bytes or more are mapped pages: aligned to the cache lines, and huge where
/// the system has such pages.
const MAPPED_FROM: usize = 256 << 10;

/// The size of a huge page on x86-64 and, with 4 KiB base pages, on AArch64.
const HUGE_PAGE: usize = 2 << 20;

/// The memory of a buffer.
///
/// A step that streams through hundreds of megabytes of activations misses the translation cache
/// at every 4 KiB page: pages of 2 MiB made memory-bound passes up to four times faster.
#[derive(Debug)]
pub(crate) enum Storage<T> {
    /// From the allocator.
    Heap(Vec<T>),
    /// Pages of its own.
    Pages(MmapMut),
}

impl<T: Scalar> Storage<T> {
    /// Memory for at least `len` elements, all zero.
    pub(crate) fn allocate(len: usize) -> Self {
        let bytes = len.saturating_mul(size_of::<T>());
        let pages = if bytes < MAPPED_FROM { None } else { map(bytes) };
        pages.map_or_else(|| Self::Heap(vec![T::zero(); len]), Self::Pages)
    }

    pub(crate) fn as_slice(&self) -> &[T] {
        match self {
            Self::Heap(values) => values,
            Self::Pages(pages) => bytemuck::cast_slice(pages),
        }
    }

    pub(crate) fn as_mut_slice(&mut self) -> &mut [T] {
        match self {
            Self::Heap(values) => values,
            Self::Pages(pages) => bytemuck::cast_slice_mut(pages),
        }
    }

    /// How many elements there is room for.
    pub(crate) fn len(&self) -> usize {
        self.as_slice().len()
    }
}

/// Anonymous pages, or `None` where the system gives none: the allocator may still.
fn map(bytes: usize) -> Option<MmapMut> {
    let page = if bytes < HUGE_PAGE / 2 { 4096 } else { HUGE_PAGE };
    let pages = MmapMut::map_anon(bytes.checked_next_multiple_of(page)?).ok()?;
    // A wish: without huge pages the same memory is only slower.
    #[cfg(target_os = "linux")]
    let _ = pages.advise(memmap2::Advice::HugePage);
    Some(pages)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_size_has_room_and_starts_at_zero() {
        for len in [0, 1, 1000, 100_000, 300_000, 1 << 21] {
            let mut storage = Storage::<f64>::allocate(len);
            assert!(storage.len() >= len);
            assert!(storage.as_slice().iter().all(|&x| x == 0.0));
            storage.as_mut_slice().fill(1.0);
            assert_eq!(storage.as_slice()[..len].iter().sum::<f64>(), len as f64);
        }
    }

    #[test]
    fn large_blocks_start_at_a_cache_line() {
        let storage = Storage::<f32>::allocate(1 << 20);
        assert!(matches!(storage, Storage::Pages(_)));
        assert_eq!(storage.as_slice().as_ptr().addr() % 64, 0);
    }
}
