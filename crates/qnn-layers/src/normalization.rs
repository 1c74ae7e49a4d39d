use crate::activation::relu_of;
use crate::{BatchNorm, Ctx, Error, Layer, ShiftBatchNorm, Signal};

/// A normalisation, for slots of a network that may hold one or another.
pub trait Normalization: Layer {
    /// `max(forward(x), 0)`, in the normalisation's own pass over memory where it can.
    ///
    /// # Errors
    ///
    /// As [`forward`](Layer::forward).
    fn forward_relu<'t>(&self, cx: &mut Ctx<'t>, x: Signal<'t>) -> Result<Signal<'t>, Error> {
        let y = self.forward(cx, x)?;
        let y = cx.value(y);
        Ok(relu_of(cx, y).into())
    }

    /// The batch norm that this is, for layers that fold it into their kernels.
    fn as_batch_norm(&self) -> Option<&BatchNorm> {
        None
    }
}

impl Normalization for ShiftBatchNorm {}

impl Normalization for BatchNorm {
    fn forward_relu<'t>(&self, cx: &mut Ctx<'t>, x: Signal<'t>) -> Result<Signal<'t>, Error> {
        BatchNorm::forward_relu(self, cx, x)
    }

    fn as_batch_norm(&self) -> Option<&BatchNorm> {
        Some(self)
    }
}

impl<N: Normalization + ?Sized> Normalization for Box<N> {
    fn forward_relu<'t>(&self, cx: &mut Ctx<'t>, x: Signal<'t>) -> Result<Signal<'t>, Error> {
        (**self).forward_relu(cx, x)
    }

    fn as_batch_norm(&self) -> Option<&BatchNorm> {
        (**self).as_batch_norm()
    }
}
