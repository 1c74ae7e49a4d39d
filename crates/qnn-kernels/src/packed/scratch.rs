//! Buffers of packed kernels, kept by each thread from call to call.

use alloc::vec::Vec;

use crate::line::Line;
use crate::threads::idle;

/// What one band of an image needs.
#[derive(Debug, Default)]
pub(crate) struct Scratch {
    pub(crate) frame: Vec<u64>,
    pub(crate) dealt: Vec<u64>,
    pub(crate) acc: Vec<Line<i32>>,
    pub(crate) masks: Vec<u16>,
    pub(crate) rows: Vec<i32>,
}

/// Lends buffers with unspecified contents.
///
/// They leave their place while they are lent: whatever a visited function does on the same thread finds others.
pub(crate) fn with_scratch<R>(visit: impl FnOnce(&mut Scratch) -> R) -> R {
    idle!(idle: Vec<Scratch>);
    let mut scratch = idle(Vec::pop).unwrap_or_default();
    let result = visit(&mut scratch);
    idle(|idle| idle.push(scratch));
    result
}

/// The first `len` of a buffer, which grows where it must.
pub(crate) fn grown<T: Clone>(buffer: &mut Vec<T>, len: usize, value: T) -> &mut [T] {
    if buffer.len() < len {
        buffer.resize(len, value);
    }
    &mut buffer[..len]
}
