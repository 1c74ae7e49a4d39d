use std::collections::BTreeMap;

use qnn_quant::{RangeMethod, RangeObserver};
use qnn_tensor::Tensor;

use crate::quantize_range::tensor_of;
use crate::{Buffer, BufferId, Updates};

/// What the activations of a network in full precision look like, to choose ranges by: observers of
/// all [`QuantizeRange`](crate::QuantizeRange) layers, over any number of batches.
///
/// ```
/// use qnn_layers::{Calibration, Ctx, Layer, QuantizeRange, QuantizeRangeConfig, apply_updates};
/// use qnn_quant::RangeMethod;
/// use qnn_tensor::{Tape, Tensor};
///
/// let mut layer = QuantizeRange::new(QuantizeRangeConfig::new())?;
/// let mut calibration = Calibration::new(RangeMethod::MinMax)?;
/// for batch in [[-1.0, 2.0], [0.5, 3.0]] {
///     let tape = Tape::new();
///     let mut cx = Ctx::calibrating(&tape, calibration);
///     let x = tape.constant(Tensor::from_vec(&[2], batch.to_vec())?);
///     layer.forward(&mut cx, x.into())?;
///     calibration = cx.into_calibration();
/// }
/// apply_updates(&mut layer, calibration.into_updates());
/// let range = layer.range().expect("it has seen two batches");
/// assert_eq!((range.low(), range.high()), (-1.0, 3.0));
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
#[derive(Debug)]
pub struct Calibration {
    method: RangeMethod,
    observers: BTreeMap<BufferId, RangeObserver>,
}

impl Calibration {
    /// Nothing has been seen.
    ///
    /// # Errors
    ///
    /// Those of [`RangeObserver::new`].
    pub fn new(method: RangeMethod) -> qnn_quant::Result<Self> {
        RangeObserver::new(method)?;
        Ok(Self { method, observers: BTreeMap::new() })
    }

    /// How many layers have been seen.
    pub fn len(&self) -> usize {
        self.observers.len()
    }

    /// Whether none has.
    pub fn is_empty(&self) -> bool {
        self.observers.is_empty()
    }

    pub(crate) fn observe(&mut self, buffer: &Buffer, x: &Tensor) -> qnn_quant::Result<()> {
        let observer = match self.observers.entry(buffer.id()) {
            std::collections::btree_map::Entry::Occupied(observer) => observer.into_mut(),
            std::collections::btree_map::Entry::Vacant(place) => {
                place.insert(RangeObserver::new(self.method)?)
            }
        };
        observer.observe(x.view())
    }

    /// The ranges, for [`apply_updates`](crate::apply_updates).
    pub fn into_updates(self) -> Updates {
        let range = |(id, observer): (BufferId, RangeObserver)| Some((id, tensor_of(observer.range()?)));
        Updates::of_buffers(self.observers.into_iter().filter_map(range).collect())
    }
}
