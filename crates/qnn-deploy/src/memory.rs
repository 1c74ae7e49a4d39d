use std::cell::RefCell;
use std::ops::Range;

use bytemuck::{cast_slice, cast_slice_mut};
use qnn_kernels::packed::Layout;

use crate::bits::unpack;

/// The slots of a session for a number of images. Words of 8 bytes, so that numbers and codes are
/// aligned wherever they begin.
#[derive(Debug, Default)]
pub(crate) struct Memory {
    slots: Vec<Vec<u64>>,
}

impl Memory {
    /// Makes room for so many images with these bytes per image in each slot. What the slots hold is
    /// lost if they grow.
    pub(crate) fn reserve(&mut self, bytes: &[usize], images: usize) {
        self.slots.resize_with(bytes.len(), Vec::new);
        for (slot, bytes) in self.slots.iter_mut().zip(bytes) {
            let words = (bytes * images).div_ceil(8);
            if slot.len() < words {
                slot.resize(words, 0);
            }
        }
    }

    pub(crate) fn floats(&self, slot: usize, len: usize) -> &[f32] {
        &cast_slice(&self.slots[slot])[..len]
    }

    pub(crate) fn bytes(&self, slot: usize, len: usize) -> &[u8] {
        &cast_slice(&self.slots[slot])[..len]
    }

    pub(crate) fn floats_mut(&mut self, slot: usize, len: usize) -> &mut [f32] {
        &mut cast_slice_mut(&mut self.slots[slot])[..len]
    }

    /// Lends a slot out while the others are read; `f` gets it as words.
    pub(crate) fn writing<R>(&mut self, slot: usize, f: impl FnOnce(&Self, &mut [u64]) -> R) -> R {
        let mut words = std::mem::take(&mut self.slots[slot]);
        let result = f(self, &mut words);
        self.slots[slot] = words;
        result
    }
}

/// Elements that are read as numbers, whatever they lie as.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Source<'a> {
    Floats(&'a [f32]),
    Codes(Layout, &'a [u8]),
}

impl Source<'_> {
    /// The numbers of a range of pixels of so many channels, in `scratch` if they have to be unpacked.
    pub(crate) fn numbers<'b>(
        &'b self,
        pixels: Range<usize>,
        channels: usize,
        scratch: &'b mut [f32],
    ) -> &'b [f32] {
        match self {
            Self::Floats(values) => &values[pixels.start * channels..pixels.end * channels],
            Self::Codes(layout, bytes) => {
                let numbers = &mut scratch[..pixels.len() * channels];
                let bytes = &bytes[layout.bytes_for(pixels.start)..layout.bytes_for(pixels.end)];
                unpack(*layout, bytes, numbers);
                numbers
            }
        }
    }
}

/// Lends a thread's own buffer of `len` numbers with unspecified contents: no run allocates after the
/// first one on a thread.
pub(crate) fn with_scratch<R>(len: usize, f: impl FnOnce(&mut [f32]) -> R) -> R {
    thread_local! {
        static SCRATCH: RefCell<Vec<Vec<f32>>> = const { RefCell::new(Vec::new()) };
    }
    let mut numbers = SCRATCH.with_borrow_mut(Vec::pop).unwrap_or_default();
    if numbers.len() < len {
        numbers.resize(len, 0.0);
    }
    let result = f(&mut numbers[..len]);
    SCRATCH.with_borrow_mut(|spare| spare.push(numbers));
    result
}
