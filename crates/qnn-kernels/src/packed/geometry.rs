//! Shapes of packed convolutions and poolings; the batch is what the buffers hold.

use core::ops::Range;

use crate::{Conv2dShape, Padding, ShapeError};

/// A convolution of images `[height, width, channels]` with weights `[kh, kw, channels/groups, out_channels]`.
///
/// ```text
/// y[oy, ox, o] = Σ x[oy·s₀ + kh·d₀ − top, ox·s₁ + kw·d₁ − left, g·channels/groups + c] · w[kh, kw, c, o]
/// ```
///
/// ```
/// use qnn_kernels::{Padding, packed::ConvGeometry};
/// let padding = Padding { top: 1, bottom: 1, left: 1, right: 1 };
/// let geometry = ConvGeometry { padding, ..ConvGeometry::new([56, 56, 64], [3, 3], 128) };
/// assert_eq!([geometry.out_height(), geometry.out_width()], [56, 56]);
/// assert_eq!(geometry.terms(), 576);
/// ```
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ConvGeometry {
    /// Input rows.
    pub height: usize,
    /// Input columns.
    pub width: usize,
    /// Input channels.
    pub channels: usize,
    /// Output channels.
    pub out_channels: usize,
    /// Rows and columns of the kernel.
    pub kernel: [usize; 2],
    /// Step between windows, down and right.
    pub stride: [usize; 2],
    /// Step between the taps of a window, down and right.
    pub dilation: [usize; 2],
    /// Rows and columns around the image.
    pub padding: Padding,
    /// Channel groups: output channels of group `g` see only the input channels of group `g`.
    pub groups: usize,
}

impl ConvGeometry {
    /// An image `[height, width, channels]`, a kernel `[kh, kw]`; strides, dilations and groups of 1, no padding.
    #[must_use]
    pub const fn new([height, width, channels]: [usize; 3], kernel: [usize; 2], out_channels: usize) -> Self {
        Self {
            height,
            width,
            channels,
            out_channels,
            kernel,
            stride: [1, 1],
            dilation: [1, 1],
            padding: Padding::NONE,
            groups: 1,
        }
    }

    /// The product of a matrix `[rows, inner]` with weights `[inner, columns]`: every row is an image of one pixel.
    #[must_use]
    pub const fn matmul(inner: usize, columns: usize) -> Self {
        Self::new([1, 1, inner], [1, 1], columns)
    }

    /// The shape of the same convolution of `batch` images without dilation: its kernel covers the dilated one's extent.
    ///
    /// # Errors
    ///
    /// [`ShapeError::Overflow`] if no number holds the extent.
    pub fn undilated(&self, batch: usize) -> Result<Conv2dShape, ShapeError> {
        let span = |axis: usize| {
            let reach = self.kernel[axis].saturating_sub(1).checked_mul(self.dilation[axis])?;
            if self.kernel[axis] == 0 { Some(0) } else { reach.checked_add(1) }
        };
        let [Some(rows), Some(columns)] = [span(0), span(1)] else {
            return Err(ShapeError::Overflow { what: "dilated kernel" });
        };
        Ok(Conv2dShape {
            batch,
            height: self.height,
            width: self.width,
            channels: self.channels,
            out_channels: self.out_channels,
            kernel: [rows, columns],
            stride: self.stride,
            padding: self.padding,
            groups: self.groups,
        })
    }

    /// Whether this convolution can be computed.
    ///
    /// # Errors
    ///
    /// As [`Conv2dShape::check`]; also for a dilation of zero.
    pub fn check(&self) -> Result<(), ShapeError> {
        for (what, dilation) in
            [("vertical dilation", self.dilation[0]), ("horizontal dilation", self.dilation[1])]
        {
            if dilation == 0 {
                return Err(ShapeError::Zero { what });
            }
        }
        self.undilated(1)?.check()
    }

    /// Output rows, or 0 where the kernel does not fit or the stride is 0.
    #[must_use]
    pub fn out_height(&self) -> usize {
        self.undilated(1).map_or(0, |shape| shape.out_height())
    }

    /// Output columns, by the same rule.
    #[must_use]
    pub fn out_width(&self) -> usize {
        self.undilated(1).map_or(0, |shape| shape.out_width())
    }

    /// As [`Conv2dShape::with_needed_strides`], of a geometry that was checked.
    pub(crate) fn with_needed_strides(&self) -> Self {
        let stride = self.undilated(1).map_or(self.stride, |shape| shape.with_needed_strides().stride);
        Self { stride, ..*self }
    }

    /// Input pixels of one image.
    #[must_use]
    pub const fn pixels(&self) -> usize {
        self.height * self.width
    }

    /// Output pixels of one image.
    #[must_use]
    pub fn out_pixels(&self) -> usize {
        self.out_height() * self.out_width()
    }

    /// Input channels of one group.
    #[must_use]
    pub fn group_channels(&self) -> usize {
        self.channels.checked_div(self.groups).unwrap_or(0)
    }

    /// Output channels of one group.
    #[must_use]
    pub fn group_outputs(&self) -> usize {
        self.out_channels.checked_div(self.groups).unwrap_or(0)
    }

    /// Whether every channel has one filter of its own.
    pub(crate) fn is_depthwise(&self) -> bool {
        self.groups > 1 && self.groups == self.channels && self.groups == self.out_channels
    }

    /// Whether it never looks sideways: a product of as many rows as there are pixels.
    pub(crate) fn is_pointwise(&self) -> bool {
        self.kernel == [1, 1] && self.stride == [1, 1] && self.padding == Padding::NONE
    }

    /// Terms of one sum: `kh · kw · channels/groups`.
    #[must_use]
    pub fn terms(&self) -> usize {
        self.kernel[0] * self.kernel[1] * self.group_channels()
    }

    /// Elements of the weights.
    #[must_use]
    pub fn weight_len(&self) -> usize {
        self.terms() * self.out_channels
    }

    /// Multiply-accumulates for one image, padded taps included.
    #[must_use]
    pub fn macs(&self) -> u64 {
        (self.out_pixels() * self.out_channels) as u64 * self.terms() as u64
    }

    /// Where a tap of an output reads along one axis (0: rows, 1: columns), or nothing for padding.
    pub(crate) fn source(&self, axis: usize, output: usize, tap: usize) -> Option<usize> {
        let (before, extent) = [(self.padding.top, self.height), (self.padding.left, self.width)][axis];
        let position = output * self.stride[axis] + tap * self.dilation[axis];
        position.checked_sub(before).filter(|&position| position < extent)
    }

    /// The taps of an output along one axis that read inside the image.
    pub(crate) fn taps_inside(&self, axis: usize, output: usize) -> Range<usize> {
        let (before, extent) = [(self.padding.top, self.height), (self.padding.left, self.width)][axis];
        let (start, [taps, dilation]) =
            (output * self.stride[axis], [self.kernel[axis], self.dilation[axis]]);
        let first = before.saturating_sub(start).div_ceil(dilation).min(taps);
        first..(before + extent).saturating_sub(start).div_ceil(dilation).clamp(first, taps)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn dilation_widens_the_kernel() {
        let geometry = ConvGeometry { dilation: [2, 3], ..ConvGeometry::new([9, 9, 4], [3, 3], 8) };
        assert_eq!(geometry.check(), Ok(()));
        assert_eq!([geometry.out_height(), geometry.out_width()], [5, 3]);
        assert_eq!([geometry.source(1, 1, 2), geometry.source(0, 8, 1)], [Some(7), None]);
    }

    #[test]
    fn the_taps_inside_are_those_with_a_source() {
        for (extent, kernel, stride, before, after, dilation) in [
            (9, 3, 1, 1, 1, 1),
            (4, 7, 1, 6, 6, 1),
            (5, 3, 2, 3, 2, 2),
            (1, 5, 3, 4, 9, 1),
            (6, 2, 1, 5, 5, 4),
        ] {
            let geometry = ConvGeometry {
                stride: [stride; 2],
                padding: Padding { top: before, bottom: after, left: before, right: after },
                dilation: [dilation; 2],
                ..ConvGeometry::new([extent, extent, 1], [kernel; 2], 1)
            };
            assert_eq!(geometry.check(), Ok(()));
            for (axis, output) in (0..2).flat_map(|axis| (0..geometry.out_height()).map(move |at| (axis, at)))
            {
                let sourced = (0..kernel).filter(|&tap| geometry.source(axis, output, tap).is_some());
                assert!(sourced.eq(geometry.taps_inside(axis, output)), "{geometry:?} at {output}");
            }
        }
    }

    #[test]
    fn faults_are_errors() {
        let sound = ConvGeometry::new([9, 9, 4], [3, 3], 8);
        let faults = [
            (ConvGeometry { dilation: [0, 1], ..sound }, "vertical dilation is 0"),
            (ConvGeometry { dilation: [1, 5], ..sound }, "width 11 exceeds"),
            (ConvGeometry { dilation: [usize::MAX, 1], ..sound }, "overflows"),
            (ConvGeometry { kernel: [0, 1], ..sound }, "kernel height is 0"),
            (ConvGeometry { groups: 3, ..sound }, "3 groups do not divide 4"),
        ];
        for (geometry, message) in faults {
            let error = geometry.check().unwrap_err().to_string();
            assert!(error.contains(message), "{error}");
        }
    }
}
