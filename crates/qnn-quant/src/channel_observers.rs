use ndarray::{ArrayViewD, Axis};

use crate::statistics;
use crate::{Error, Granularity, Groups, Range, RangeMethod, RangeObserver, Result};

/// A [`RangeObserver`] for each channel: ranges for affine quantization with a scale and a zero point per channel.
///
/// Every channel has the range that an observer of its elements alone would find, by the formulas and from the sources named there. Batches
/// may have any rank and differ in all axes but that of the channels.
///
/// ```
/// use qnn_quant::{Affine, ChannelObservers, Granularity, RangeMethod, quantize};
/// # use ndarray::array;
///
/// let mut observers = ChannelObservers::new(RangeMethod::MinMax, Granularity::LastAxis)?;
/// observers.observe(array![[-1.0, 0.0], [1.0, 50.0]].into_dyn().view())?;
/// observers.observe(array![[2.0, -5.0]].into_dyn().view())?;
/// let ranges = observers.ranges().unwrap();
/// let ends: Vec<_> = ranges.iter().map(|range| (range.low(), range.high())).collect();
/// assert_eq!(ends, [(-1.0, 2.0), (-5.0, 50.0)]);
/// let map = Affine::asymmetric(8)?.with_granularity(Granularity::LastAxis).with_ranges(ranges)?;
/// assert_eq!(quantize(&map, &array![[9.0, 0.0]])?, array![[2.0, 0.0]]);
/// # Ok::<(), qnn_quant::Error>(())
/// ```
#[derive(Clone, Debug, PartialEq)]
pub struct ChannelObservers {
    granularity: Granularity,
    /// What each channel's observer is before it has seen anything.
    fresh: RangeObserver,
    /// None before the first batch, which says how many channels there are.
    observers: Vec<RangeObserver>,
}

impl ChannelObservers {
    /// Nothing has been seen. With [`Granularity::Tensor`] there is one channel.
    ///
    /// # Errors
    ///
    /// Those of [`RangeObserver::new`].
    pub fn new(method: RangeMethod, granularity: Granularity) -> Result<Self> {
        Ok(ChannelObservers { granularity, fresh: RangeObserver::new(method)?, observers: Vec::new() })
    }

    /// Takes a batch into account. An empty one changes nothing.
    ///
    /// # Errors
    ///
    /// [`Error::AxisOutOfRange`], [`Error::Infinite`], [`Error::NotANumber`], and [`Error::Parameter`] where the batches before had
    /// another number of channels: nothing has changed.
    pub fn observe(&mut self, x: ArrayViewD<'_, f32>) -> Result<()> {
        let groups = self.granularity.groups(x.shape())?;
        if x.is_empty() {
            return Ok(());
        }
        if !self.observers.is_empty() && self.observers.len() != groups.count() {
            let value = format!("{} instead of {}", groups.count(), self.observers.len());
            let (owner, expected) = ("channel observers", "as many as in the batches before");
            return Err(Error::Parameter { owner, parameter: "channels", value, expected });
        }
        let ranges = ranges_of(x.view(), groups)?;
        self.observers.resize(ranges.len(), self.fresh.clone());
        for (channel, (observer, range)) in self.observers.iter_mut().zip(ranges).enumerate() {
            match groups {
                Groups::Tensor => observer.add(x.view(), range),
                Groups::Axis { axis, .. } => observer.add(x.index_axis(Axis(axis), channel), range),
            }
        }
        Ok(())
    }

    /// How the ranges are made.
    pub fn method(&self) -> RangeMethod {
        self.fresh.method()
    }

    /// The range of each channel; `None` before anything was seen.
    pub fn ranges(&self) -> Option<Vec<Range>> {
        let ranges: Option<Vec<Range>> = self.observers.iter().map(RangeObserver::range).collect();
        ranges.filter(|ranges| !ranges.is_empty())
    }
}

/// From the least to the greatest element of each group of a tensor that is not empty.
///
/// # Errors
///
/// [`Error::Infinite`], [`Error::NotANumber`].
pub(crate) fn ranges_of(x: ArrayViewD<'_, f32>, groups: Groups) -> Result<Vec<Range>> {
    let ends = statistics::min_max(x.view(), groups)?;
    if ends.iter().any(|(low, _)| low.is_nan()) {
        let index = x.iter().position(|x| x.is_nan()).unwrap_or(0);
        return Err(Error::NotANumber { index });
    }
    ends.into_iter().map(|(low, high)| Range::new(low, high)).collect()
}
