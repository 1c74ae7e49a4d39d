//! Buffers that outlive a call: each thread keeps its own, so that no training step allocates after the first.

use alloc::vec::Vec;

use crate::Real;
use crate::line::{LANES, Line};

/// The idle buffers of one thread, the last returned first.
#[derive(Debug)]
pub struct Pool<T>(Vec<Vec<Line<T>>>);

impl<T> Pool<T> {
    pub(crate) const fn new() -> Self {
        Self(Vec::new())
    }
}

/// Lends `len` lines with unspecified contents.
///
/// The buffer leaves the pool while it is lent: a rayon task that is stolen meanwhile and runs on the same thread finds another one.
pub(crate) fn with_lines<T: Real, R>(len: usize, visit: impl FnOnce(&mut [Line<T>]) -> R) -> R {
    let mut lines = T::with_pool(|pool| pool.0.pop()).unwrap_or_default();
    if lines.len() < len {
        lines.resize(len, Line([T::zero(); LANES]));
    }
    let result = visit(&mut lines[..len]);
    T::with_pool(|pool| pool.0.push(lines));
    result
}
