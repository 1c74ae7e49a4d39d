//! The affine map that ends a forward kernel.

use core::ops::Range;

use crate::Real;
use crate::line::{LANES, Line};

/// What happens to an accumulator of output channel `o`; each step that is present rounds once.
///
/// ```text
/// y = acc · scale[o] + bias[o]
/// ```
#[derive(Clone, Copy, Debug, Default)]
pub struct ChannelAffine<'a, T> {
    /// One factor for each output channel.
    pub scale: Option<&'a [T]>,
    /// One summand for each output channel.
    pub bias: Option<&'a [T]>,
}

impl<'a, T> ChannelAffine<'a, T> {
    /// The accumulator as it is.
    pub const IDENTITY: Self = Self { scale: None, bias: None };

    /// Only a bias.
    #[must_use]
    pub const fn bias(bias: &'a [T]) -> Self {
        Self { scale: None, bias: Some(bias) }
    }

    /// The output for one accumulator of a channel.
    ///
    /// # Panics
    ///
    /// If there are values, but none for this channel.
    #[inline]
    #[track_caller]
    pub fn value(&self, acc: T, channel: usize) -> T
    where
        T: Real,
    {
        let scaled = self.scale.map_or(acc, |scale| acc * scale[channel]);
        self.bias.map_or(scaled, |bias| scaled + bias[channel])
    }

    /// Writes the factors of some channels and then their summands, as many lines of each; what is missing does nothing.
    pub(crate) fn write(&self, channels: Range<usize>, lines: &mut [Line<T>])
    where
        T: Real,
    {
        let (scales, biases) = lines.split_at_mut(lines.len() / 2);
        // Both neutral elements are exact: a·1 = a, and a + (−0) = a even where a is −0.
        scales.fill(Line([T::one(); LANES]));
        biases.fill(Line([T::neg_zero(); LANES]));
        for (values, lines) in [(self.scale, scales), (self.bias, biases)] {
            let values = values.map_or(&[][..], |values| &values[channels.clone()]);
            for (line, values) in lines.iter_mut().zip(values.chunks(LANES)) {
                line.0[..values.len()].copy_from_slice(values);
            }
        }
    }

    #[track_caller]
    pub(crate) fn assert_channels(&self, channels: usize) {
        for (what, values) in [("scale", self.scale), ("bias", self.bias)] {
            let len = values.map_or(channels, <[T]>::len);
            assert!(len == channels, "{what} has {len} elements, the output has {channels} channels");
        }
    }
}
