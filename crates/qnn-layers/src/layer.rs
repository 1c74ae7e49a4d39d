use std::fmt::Debug;

use qnn_tensor::ops::Gate;

use crate::{Ctx, Error, Module, QuantizeRange, Signal};

/// A differentiable map with parameters.
///
/// `forward` takes `&self`: evaluation threads share a model freely, and whatever a pass changes
/// (running statistics) queues in the [`Ctx`].
pub trait Layer: Module + Debug + Send + Sync {
    /// The output for an input.
    ///
    /// # Errors
    ///
    /// [`Error`] if the input's shape does not fit the layer or a quantizer rejects its values.
    fn forward<'t>(&self, cx: &mut Ctx<'t>, x: Signal<'t>) -> Result<Signal<'t>, Error>;

    /// The function of single elements that the layer exactly is, if the layer before it may compute
    /// it in its own passes over memory.
    fn gate(&self) -> Option<Gate> {
        None
    }

    /// The range, if the layer is exactly `max(x, 0)` quantized to an observed range, so that the layer before it may
    /// give those codes at once.
    fn relu_range(&self) -> Option<&QuantizeRange> {
        None
    }
}

impl<L: Layer + ?Sized> Layer for Box<L> {
    fn forward<'t>(&self, cx: &mut Ctx<'t>, x: Signal<'t>) -> Result<Signal<'t>, Error> {
        (**self).forward(cx, x)
    }

    fn gate(&self) -> Option<Gate> {
        (**self).gate()
    }

    fn relu_range(&self) -> Option<&QuantizeRange> {
        (**self).relu_range()
    }
}

/// An absent layer hands on its input.
impl<L: Layer> Layer for Option<L> {
    fn forward<'t>(&self, cx: &mut Ctx<'t>, x: Signal<'t>) -> Result<Signal<'t>, Error> {
        match self {
            Some(layer) => layer.forward(cx, x),
            None => Ok(x),
        }
    }
}
