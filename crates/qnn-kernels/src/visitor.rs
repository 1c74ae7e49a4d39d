//! Who sees an output while it is in the cache.

use core::fmt;

use crate::Real;
use crate::threads::prelude::*;

/// Sees some images of the output as soon as they are written, and may change them: the number of the first, and their elements.
pub type VisitImages<'a, T> = dyn Fn(usize, &mut [T]) + Sync + 'a;

/// Who visits the images of an output.
#[derive(Clone, Copy)]
pub struct Visitor<'a, T> {
    /// Images that it sees at a time.
    pub together: usize,
    /// What it does.
    pub visit: &'a VisitImages<'a, T>,
    /// What it reads beside each image, as many elements for each: asked for while the image is computed. It may be empty.
    pub beside: &'a [T],
}

/// Shows all images, `together` at a time.
pub(crate) fn visit_all<T: Real>(y: &mut [T], image_len: usize, visitor: Visitor<'_, T>) {
    let parts = y.par_chunks_mut(image_len * visitor.together).enumerate();
    parts.for_each(|(index, y)| (visitor.visit)(index * visitor.together, y));
}

impl<T> fmt::Debug for Visitor<'_, T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Visitor {{ together: {}, beside: {} numbers }}", self.together, self.beside.len())
    }
}
