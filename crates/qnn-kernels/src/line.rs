//! The unit of all packed buffers: sixteen numbers, aligned for the widest vector.

use alloc::vec::Vec;

/// Channels in a [`Line`]: one 512-bit vector of `f32`.
pub(crate) const LANES: usize = 16;

/// Sixteen consecutive channels of one pixel, or sixteen output channels of one weight.
#[derive(Clone, Copy, Debug)]
#[repr(C, align(64))]
pub(crate) struct Line<T>(pub(crate) [T; LANES]);

/// A run of at most [`LANES`] channels inside one group.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Block {
    pub(crate) group: usize,
    pub(crate) first: usize,
    pub(crate) count: usize,
}

/// The channels `0 .. groups·each` cut into blocks that never straddle a group.
pub(crate) fn blocks(groups: usize, each: usize, width: usize) -> Vec<Block> {
    let starts = (0..groups).flat_map(|group| (0..each).step_by(width).map(move |start| (group, start)));
    starts
        .map(|(group, start)| Block { group, first: group * each + start, count: (each - start).min(width) })
        .collect()
}
