//! Packing the signs of numbers.

use super::{Encoding, Layout, PackError};
use crate::Kernels;
use crate::threads;
use crate::threads::prelude::*;

/// Numbers beyond which threads share them: some microseconds.
const WORTH_SHARING: usize = 1 << 16;

impl Kernels {
    /// [`Layout::pack_signs`] with these kernels.
    ///
    /// # Errors
    ///
    /// As there.
    pub fn pack_signs(&self, layout: Layout, values: &[f32], packed: &mut [u8]) -> Result<(), PackError> {
        if layout.encoding() != Encoding::Sign {
            let remedy = "signs go into the sign encoding";
            return Err(PackError::Unsupported { what: "signs", encoding: layout.encoding(), remedy });
        }
        layout.check_lengths(values.len(), packed.len())?;
        let nans = if values.len() > WORTH_SHARING && threads::current_num_threads() > 1 {
            let pixels = WORTH_SHARING.div_ceil(layout.channels());
            let values = values.par_chunks(pixels * layout.channels());
            let parts = packed.par_chunks_mut(layout.bytes_for(pixels)).zip(values);
            parts.into_par_iter().any(|(packed, values)| self.pack_pixels(layout, values, packed))
        } else {
            self.pack_pixels(layout, values, packed)
        };
        let index = if nans { values.iter().position(|value| value.is_nan()) } else { None };
        index.map_or(Ok(()), |index| Err(PackError::NotANumber { index, len: values.len() }))
    }

    /// What the kernels of bits can reach at most: counts the differing bits of `steps` register tiles whose operands stay in the first cache, and
    /// returns how many multiply-accumulates that was. Benchmarks take the time.
    pub fn count_bits_without_pause(&self, steps: usize) -> u64 {
        self.bits.limit(steps.max(1))
    }

    /// Packs whole pixels and says whether any number was none.
    fn pack_pixels(&self, layout: Layout, values: &[f32], packed: &mut [u8]) -> bool {
        if layout.plane_bytes() * 8 == layout.channels() {
            return self.bits.pack_signs(values, packed);
        }
        let mut nans = false;
        let pixels =
            values.chunks_exact(layout.channels()).zip(packed.chunks_exact_mut(layout.plane_bytes()));
        for (values, packed) in pixels {
            let (bytes, rest) = packed.split_at_mut(values.len().div_ceil(8));
            nans |= self.bits.pack_signs(values, bytes);
            rest.fill(0);
        }
        nans
    }
}
