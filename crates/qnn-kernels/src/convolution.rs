//! What a convolution is made from beside its shape.

use crate::{ChannelAffine, Real};

/// How the outputs of a convolution are made.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub enum Algorithm {
    /// Each output is one sum over the kernel's taps, in their order: exact for codes while their sums are at most 2²⁴.
    #[default]
    Direct,
    /// In tiles of 2×2 with fewer multiplications, by Winograd's minimal filtering, where [`by_tiles`](crate::reference::by_tiles) says that the
    /// shape allows it; else direct. It rounds sums and differences of neighbours, and is for operands in full precision.
    Winograd,
    /// Each output is one sum in `f64`, rounded once at its end: exact for codes while their sums are at most 2⁵³, in two to three times the
    /// time. What integers give, as numbers.
    Exact,
}

/// The operands of a convolution, and what each output goes through.
#[derive(Clone, Copy, Debug)]
pub struct Convolution<'a, T> {
    /// The images, `[n, height, width, channels]`.
    pub x: &'a [T],
    /// The weights, `[kh, kw, channels / groups, out channels]`.
    pub w: &'a [T],
    /// What surrounds the images.
    pub pad_value: T,
    /// What every output goes through at its end.
    pub out: ChannelAffine<'a, T>,
    /// How the outputs are made.
    pub algorithm: Algorithm,
}

impl<'a, T: Real> Convolution<'a, T> {
    /// A direct one, padded with zeros, whose sums are the outputs.
    #[must_use]
    pub fn new(x: &'a [T], w: &'a [T]) -> Self {
        let algorithm = Algorithm::Direct;
        Self { x, w, pad_value: T::zero(), out: ChannelAffine::IDENTITY, algorithm }
    }
}
