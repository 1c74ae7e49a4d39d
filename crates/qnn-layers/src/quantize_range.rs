use qnn_quant::{Affine, Grid, Pair, Quantizer, Range, RangeMethod, RangeObserver};
use qnn_tensor::Tensor;

use crate::{Buffer, Ctx, Error, FakeQuantize, Layer, Mode, Op, Signal, module};

const LAYER: &str = "quantize range";

/// What a [`QuantizeRange`] is made from.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct QuantizeRangeConfig {
    /// Bits of the codes, 1 to 8.
    pub bits: u32,
    /// The weight of a new batch in the moving average of ranges, above 0 and at most 1.
    pub rate: f64,
}

/// Affine quantization of activations to the range that training or calibration has observed.
///
/// ```text
/// y = S · clip( round(x / S), qmin − Z, qmax − Z )      S and Z from the range, see Affine
/// ```
///
/// In training the range is the moving average of the batches' least and greatest elements, the running
/// batch included; a fresh range is the first batch's. In evaluation it stays as it is. A layer that has
/// not seen anything yet hands on its input, and so does one that is being
/// [calibrated](crate::Calibration): other layers are to see what a network in full precision sees.
/// Source: Jacob et al. 2018, arXiv:1712.05877, section 3.1.
#[derive(Debug)]
pub struct QuantizeRange {
    config: QuantizeRangeConfig,
    /// Whether there is a range (0 or 1), its lower and its upper end.
    range: Buffer,
}

module!(QuantizeRange { range });

impl QuantizeRangeConfig {
    /// 8 bits, of which a batch's range counts for one hundredth.
    pub fn new() -> Self {
        Self { bits: 8, rate: 0.01 }
    }
}

impl Default for QuantizeRangeConfig {
    fn default() -> Self {
        Self::new()
    }
}

impl QuantizeRange {
    /// A layer that has not seen anything.
    ///
    /// # Errors
    ///
    /// [`Error::Quantizer`] for other numbers of bits and for rates out of range.
    pub fn new(config: QuantizeRangeConfig) -> Result<Self, Error> {
        let QuantizeRangeConfig { bits, rate } = config;
        Affine::asymmetric(bits).map_err(failed)?;
        RangeObserver::new(RangeMethod::MovingAverage { rate }).map_err(failed)?;
        Ok(Self { config, range: Buffer::new(Tensor::zeros(&[3])).optional() })
    }

    /// What the layer was made from.
    pub fn config(&self) -> &QuantizeRangeConfig {
        &self.config
    }

    /// The range, once there is one.
    pub fn range(&self) -> Option<Range> {
        range_of(self.range.value())
    }

    /// The range after a training batch. One with a NaN has no range and counts for nothing here: the
    /// loss will show it.
    fn observe(&self, cx: &mut Ctx<'_>, x: &Tensor) -> Result<Option<Range>, Error> {
        let before = range_of(&cx.buffer(&self.range));
        let method = RangeMethod::MovingAverage { rate: self.config.rate };
        let mut observer = RangeObserver::resume(method, before).map_err(failed)?;
        match observer.observe(x.view()) {
            Ok(()) => {}
            Err(qnn_quant::Error::NotANumber { .. }) => return Ok(before),
            Err(error) => return Err(failed(error)),
        }
        if let Some(range) = observer.range() {
            cx.update(&self.range, tensor_of(range));
        }
        Ok(observer.range())
    }
}

impl QuantizeRange {
    /// The grid that evaluation puts values on, once there is a range.
    ///
    /// # Errors
    ///
    /// [`Error::Quantizer`] for a range that no scale represents.
    pub(crate) fn grid(&self) -> Result<Option<Grid>, Error> {
        let Some(range) = self.range() else { return Ok(None) };
        let empty = Tensor::zeros(&[0]);
        self.map(range)?.fit(empty.view()).map(Some).map_err(failed)
    }

    fn map(&self, range: Range) -> Result<Affine, Error> {
        Affine::asymmetric(self.config.bits).and_then(|map| map.with_ranges(vec![range])).map_err(failed)
    }
}

impl Layer for QuantizeRange {
    fn forward<'t>(&self, cx: &mut Ctx<'t>, x: Signal<'t>) -> Result<Signal<'t>, Error> {
        let value = cx.value(x);
        let range = match cx.mode() {
            Mode::Train => self.observe(cx, &value.value())?,
            Mode::Eval => self.range(),
            Mode::Calibrate => {
                cx.calibrate(&self.range, value).map_err(failed)?;
                None
            }
        };
        let Some(range) = range else { return Ok(x) };
        let quantized = Pair::published(self.map(range)?).apply(cx, value).map_err(failed)?;
        let (codes, scale) = (quantized.codes, quantized.grid.scale(0));
        let op = || Op::Quantize { map: quantized.map.clone(), grid: quantized.grid.clone() };
        cx.report("quantize", None, &[value], codes, op);
        let signal = Signal::factored(codes, scale);
        Ok(quantized.grid.alphabet().map_or(signal, |alphabet| signal.with_alphabet(alphabet)))
    }
}

fn failed(source: qnn_quant::Error) -> Error {
    Error::Quantizer { layer: LAYER, operand: "input", source }
}

fn range_of(state: &Tensor) -> Option<Range> {
    match *state.as_slice() {
        [known, low, high] if known != 0.0 => Range::new(low, high).ok(),
        _ => None,
    }
}

pub(crate) fn tensor_of(range: Range) -> Tensor {
    Tensor::from_fn(&[3], |i| [1.0, range.low(), range.high()][i])
}
