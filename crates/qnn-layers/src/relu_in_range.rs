use crate::activation::relu_of;
use crate::{Ctx, Error, Layer, QuantizeRange, QuantizeRangeConfig, Signal, module};

/// `max(x, 0)`, quantized to the range that training or calibration has observed: the activation of integer-only networks.
#[derive(Debug)]
pub struct ReluInRange {
    quantize: QuantizeRange,
}

module!(ReluInRange { quantize });

impl ReluInRange {
    /// An activation that has not seen anything.
    ///
    /// # Errors
    ///
    /// Those of [`QuantizeRange::new`].
    pub fn new(config: QuantizeRangeConfig) -> Result<Self, Error> {
        Ok(Self { quantize: QuantizeRange::new(config)? })
    }
}

impl Layer for ReluInRange {
    fn forward<'t>(&self, cx: &mut Ctx<'t>, x: Signal<'t>) -> Result<Signal<'t>, Error> {
        let x = cx.value(x);
        let y = relu_of(cx, x);
        self.quantize.forward(cx, y.into())
    }

    fn relu_range(&self) -> Option<&QuantizeRange> {
        Some(&self.quantize)
    }
}
