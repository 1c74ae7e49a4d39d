use crate::{BatchNorm, Layer, ShiftBatchNorm};

/// A normalisation, for slots of a network that may hold one or another.
pub trait Normalization: Layer {
    /// The layer, if it is a batch norm, which other layers fold into their kernels, and which can do more in its passes over
    /// memory than normalise.
    fn as_batch_norm(&self) -> Option<&BatchNorm> {
        None
    }
}

impl Normalization for ShiftBatchNorm {}

impl Normalization for BatchNorm {
    fn as_batch_norm(&self) -> Option<&BatchNorm> {
        Some(self)
    }
}

impl<N: Normalization + ?Sized> Normalization for Box<N> {
    fn as_batch_norm(&self) -> Option<&BatchNorm> {
        (**self).as_batch_norm()
    }
}
