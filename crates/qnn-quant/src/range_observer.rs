use ndarray::ArrayViewD;

use crate::channel_observers::ranges_of;
use crate::histogram::Histogram;
use crate::{Error, Groups, Range, Result};

/// How a range is made of the batches that were seen.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum RangeMethod {
    /// From the least to the greatest element.
    MinMax,
    /// A moving average of the batches' least and greatest elements, `r ← r + rate (batch − r)`; at the start, the first
    /// batch's. For training.
    MovingAverage {
        /// In (0, 1]: 0.01 forgets slowly.
        rate: f64,
    },
    /// Without the elements beyond a percentile at each end.
    Percentile {
        /// In (50, 100]: 99.9 drops one element of a thousand above, and one below.
        percent: f64,
    },
    /// The part of the least-to-greatest range in which affine quantization has the least mean squared error.
    SquaredError {
        /// Bits of the quantization.
        bits: u32,
    },
    /// The range whose quantized distribution diverges least from that of the elements (Kullback-Leibler): the part of what was seen
    /// from −T, or from 0 without negative elements, to a height T.
    Divergence {
        /// Bits of the quantization.
        bits: u32,
    },
}

/// Watches tensors pass, and says which range affine quantization should represent.
///
/// ```text
/// MinMax          [min x, max x]
/// MovingAverage   r ← r + rate (batch's − r)
/// Percentile      [quantile 1 − p, quantile p]
/// SquaredError    argmin over f in 1/100 .. 1 of Σ (x − q(x))²,  range f · [min x, max x]
/// Divergence      argmin over T of Σ P ln(P / Q):  P the clipped histogram, Q the quantized one
/// ```
///
/// The last three keep a histogram of 2048 bins whose width, a power of two, doubles when the range outgrows it. So the result
/// does not depend on how the elements are divided into batches, nor on threads. For a range per channel see
/// [`ChannelObservers`](crate::ChannelObservers).
///
/// ```
/// use qnn_quant::{Affine, RangeMethod, RangeObserver, quantize};
/// # use ndarray::array;
///
/// let mut observer = RangeObserver::new(RangeMethod::MovingAverage { rate: 0.1 })?;
/// observer.observe(array![-1.0, 2.0].into_dyn().view())?;           // fresh: the first batch's range
/// observer.observe(array![0.0, 3.0].into_dyn().view())?;
/// let range = observer.range().unwrap();
/// assert_eq!((range.low(), range.high()), (-0.9, 2.1));
/// let map = Affine::asymmetric(8)?.with_ranges(vec![range])?;
/// assert_eq!(quantize(&map, &[0.0])?, array![0.0]);
/// # Ok::<(), qnn_quant::Error>(())
/// ```
///
/// Sources: Jacob et al. 2018, arXiv:1712.05877, section 3.1 (moving average); Migacz 2017, *8-bit inference with TensorRT* (divergence); Krishnamoorthi
/// 2018, arXiv:1806.08342.
#[derive(Clone, Debug, PartialEq)]
pub struct RangeObserver {
    method: RangeMethod,
    range: Option<Range>,
    histogram: Option<Histogram>,
}

impl RangeObserver {
    /// Nothing has been seen.
    ///
    /// # Errors
    ///
    /// [`Error::Parameter`], [`Error::Bits`] if the method's parameter is out of its range.
    pub fn new(method: RangeMethod) -> Result<Self> {
        let refuse = |parameter, value: f64, expected| {
            Err(Error::Parameter { owner: "range observer", parameter, value: value.to_string(), expected })
        };
        match method {
            RangeMethod::MovingAverage { rate } if !(rate > 0.0 && rate <= 1.0) => {
                refuse("rate", rate, "above 0 and at most 1")
            }
            RangeMethod::Percentile { percent } if !(percent > 50.0 && percent <= 100.0) => {
                refuse("percent", percent, "above 50 and at most 100")
            }
            RangeMethod::SquaredError { bits } | RangeMethod::Divergence { bits }
                if !(2..=8).contains(&bits) =>
            {
                Err(Error::Bits { map: "range observer", bits, min: 2, max: 8 })
            }
            _ => Ok(RangeObserver { method, range: None, histogram: None }),
        }
    }

    /// With the range that a checkpoint has kept, for [`RangeMethod::MinMax`] and [`RangeMethod::MovingAverage`], which need no
    /// more.
    ///
    /// # Errors
    ///
    /// Those of [`new`](RangeObserver::new), and [`Error::Parameter`] for other methods.
    pub fn resume(method: RangeMethod, range: Option<Range>) -> Result<Self> {
        if matches!(method, RangeMethod::MinMax | RangeMethod::MovingAverage { .. }) {
            return Ok(RangeObserver { range, ..RangeObserver::new(method)? });
        }
        let (value, expected) = (format!("{method:?}"), "MinMax or MovingAverage");
        Err(Error::Parameter { owner: "range observer", parameter: "method", value, expected })
    }

    /// Takes a batch into account. An empty one changes nothing.
    ///
    /// # Errors
    ///
    /// [`Error::Infinite`], [`Error::NotANumber`]: nothing has changed.
    pub fn observe(&mut self, x: ArrayViewD<'_, f32>) -> Result<()> {
        if x.is_empty() {
            return Ok(());
        }
        let batch = ranges_of(x.view(), Groups::Tensor)?[0];
        self.add(x, batch);
        Ok(())
    }

    /// Takes a batch with these ends into account.
    pub(crate) fn add(&mut self, x: ArrayViewD<'_, f32>, batch: Range) {
        self.range = Some(match (self.range, self.method) {
            (None, _) => batch,
            (Some(range), RangeMethod::MovingAverage { rate }) => range.towards(batch, rate),
            (Some(range), _) => range.union(batch),
        });
        if !matches!(self.method, RangeMethod::MinMax | RangeMethod::MovingAverage { .. }) {
            self.histogram.get_or_insert_default().add(x, batch);
        }
    }

    /// How the range is made.
    pub fn method(&self) -> RangeMethod {
        self.method
    }

    /// The range; `None` before anything was seen.
    pub fn range(&self) -> Option<Range> {
        let (range, histogram) = (self.range?, &self.histogram);
        Some(match (self.method, histogram) {
            (RangeMethod::Percentile { percent }, Some(histogram)) => histogram.percentile(percent, range),
            (RangeMethod::SquaredError { bits }, Some(histogram)) => {
                histogram.least_squared_error(bits, range)
            }
            (RangeMethod::Divergence { bits }, Some(histogram)) => histogram.least_divergence(bits, range),
            _ => range,
        })
    }
}
