//! Shapes of convolutions and matrix products, and what can be wrong with them.

use thiserror::Error;

/// Why a shape cannot be computed.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
pub enum ShapeError {
    /// An extent, stride or group count is zero.
    #[error("{what} is 0, it must be at least 1")]
    Zero {
        /// Which number.
        what: &'static str,
    },
    /// The groups do not cut the channels into equal parts.
    #[error(
        "{groups} groups do not divide {count} {what}; choose a group count that divides both channel counts"
    )]
    Groups {
        /// Input or output channels.
        what: &'static str,
        /// How many channels.
        count: usize,
        /// How many groups.
        groups: usize,
    },
    /// The kernel does not fit into the padded input once.
    #[error(
        "the kernel's {axis} {kernel} exceeds the padded input's {axis} {padded}; pad more or use a smaller kernel"
    )]
    KernelTooLarge {
        /// Height or width.
        axis: &'static str,
        /// The kernel's extent.
        kernel: usize,
        /// The input's extent with its padding.
        padded: usize,
    },
    /// A buffer of this shape could not be addressed.
    #[error("the number of elements of the {what} overflows")]
    Overflow {
        /// Which buffer.
        what: &'static str,
    },
}

/// Rows and columns added around the input of a convolution.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Padding {
    /// Rows above.
    pub top: usize,
    /// Rows below.
    pub bottom: usize,
    /// Columns to the left.
    pub left: usize,
    /// Columns to the right.
    pub right: usize,
}

impl Padding {
    /// No padding at all (`valid`).
    pub const NONE: Self = Self { top: 0, bottom: 0, left: 0, right: 0 };

    /// TensorFlow's `same` rule: as many outputs as `⌈input / stride⌉`, the odd row or column at the bottom or right.
    ///
    /// ```text
    /// total = max((⌈input/stride⌉ − 1)·stride + kernel − input, 0);   top = ⌊total/2⌋;   bottom = total − top
    /// ```
    ///
    /// Arguments are `[height, width]` pairs. A stride of zero counts as one here; [`Conv2dShape::check`] reports it.
    ///
    /// ```
    /// use qnn_kernels::Padding;
    /// assert_eq!(Padding::same([32, 32], [3, 3], [2, 2]), Padding { top: 0, bottom: 1, left: 0, right: 1 });
    /// ```
    #[must_use]
    pub fn same(input: [usize; 2], kernel: [usize; 2], stride: [usize; 2]) -> Self {
        let [(top, bottom), (left, right)] =
            [0, 1].map(|axis| same_axis(input[axis], kernel[axis], stride[axis].max(1)));
        Self { top, bottom, left, right }
    }
}

fn same_axis(input: usize, kernel: usize, stride: usize) -> (usize, usize) {
    let reach = input.div_ceil(stride).saturating_sub(1).saturating_mul(stride).saturating_add(kernel);
    let total = reach.saturating_sub(input);
    (total / 2, total - total / 2)
}

/// A two-dimensional convolution: input `[batch, height, width, channels]`, weights `[kh, kw, channels/groups, out_channels]`.
///
/// ```
/// use qnn_kernels::{Conv2dShape, Padding};
/// let shape = Conv2dShape {
///     batch: 100, height: 32, width: 32, channels: 16, out_channels: 32,
///     kernel: [3, 3], stride: [2, 2], padding: Padding::same([32, 32], [3, 3], [2, 2]), groups: 1,
/// };
/// shape.check()?;
/// assert_eq!([shape.out_height(), shape.out_width()], [16, 16]);
/// assert_eq!(shape.weight_len(), 3 * 3 * 16 * 32);
/// # Ok::<(), qnn_kernels::ShapeError>(())
/// ```
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Conv2dShape {
    /// Images.
    pub batch: usize,
    /// Input rows.
    pub height: usize,
    /// Input columns.
    pub width: usize,
    /// Input channels.
    pub channels: usize,
    /// Output channels (filters).
    pub out_channels: usize,
    /// Rows and columns of the kernel.
    pub kernel: [usize; 2],
    /// Step between windows, down and right.
    pub stride: [usize; 2],
    /// Explicit padding.
    pub padding: Padding,
    /// Channel groups: output channels of group `g` see only the input channels of group `g`.
    pub groups: usize,
}

impl Conv2dShape {
    /// Whether this convolution can be computed.
    ///
    /// # Errors
    ///
    /// A zero extent (only the batch may be empty), groups that do not divide the channels, a kernel larger than the padded input, or
    /// buffers whose length overflows.
    pub fn check(&self) -> Result<(), ShapeError> {
        self.check_extents()?;
        self.check_groups()?;
        let [rows, columns] = self.padded().ok_or(ShapeError::Overflow { what: "padded input" })?;
        for (axis, kernel, padded) in [("height", self.kernel[0], rows), ("width", self.kernel[1], columns)] {
            if kernel > padded {
                return Err(ShapeError::KernelTooLarge { axis, kernel, padded });
            }
        }
        self.check_lengths(rows, columns)
    }

    fn check_extents(&self) -> Result<(), ShapeError> {
        let extents = [
            ("height", self.height),
            ("width", self.width),
            ("input channel count", self.channels),
            ("output channel count", self.out_channels),
            ("kernel height", self.kernel[0]),
            ("kernel width", self.kernel[1]),
            ("vertical stride", self.stride[0]),
            ("horizontal stride", self.stride[1]),
            ("group count", self.groups),
        ];
        extents
            .iter()
            .find(|(_, extent)| *extent == 0)
            .map_or(Ok(()), |&(what, _)| Err(ShapeError::Zero { what }))
    }

    fn check_groups(&self) -> Result<(), ShapeError> {
        let groups = self.groups;
        for (what, count) in [("input channels", self.channels), ("output channels", self.out_channels)] {
            if count % groups != 0 {
                return Err(ShapeError::Groups { what, count, groups });
            }
        }
        Ok(())
    }

    fn check_lengths(&self, rows: usize, columns: usize) -> Result<(), ShapeError> {
        let buffers = [
            ("padded input", [self.batch.max(1), rows, columns, self.channels]),
            ("weights", [self.kernel[0], self.kernel[1], self.channels / self.groups, self.out_channels]),
            ("output", [self.batch.max(1), self.out_height(), self.out_width(), self.out_channels]),
        ];
        for (what, extents) in buffers {
            product(&extents).ok_or(ShapeError::Overflow { what })?;
        }
        Ok(())
    }

    fn padded(&self) -> Option<[usize; 2]> {
        let Padding { top, bottom, left, right } = self.padding;
        Some([
            self.height.checked_add(top)?.checked_add(bottom)?,
            self.width.checked_add(left)?.checked_add(right)?,
        ])
    }

    /// Output rows: `⌊(height + top + bottom − kh) / stride⌋ + 1`, and 0 where the kernel does not fit or the stride is 0.
    #[must_use]
    pub fn out_height(&self) -> usize {
        self.out_extent(0)
    }

    /// Output columns, by the same rule.
    #[must_use]
    pub fn out_width(&self) -> usize {
        self.out_extent(1)
    }

    fn out_extent(&self, axis: usize) -> usize {
        let room = self.padded().and_then(|padded| padded[axis].checked_sub(self.kernel[axis]));
        room.and_then(|room| room.checked_div(self.stride[axis])).map_or(0, |steps| steps + 1)
    }

    /// Elements of the input.
    #[must_use]
    pub fn input_len(&self) -> usize {
        self.batch * self.height * self.width * self.channels
    }

    /// Elements of the weights.
    #[must_use]
    pub fn weight_len(&self) -> usize {
        self.kernel[0] * self.kernel[1] * self.group_channels() * self.out_channels
    }

    /// Elements of the output.
    #[must_use]
    pub fn output_len(&self) -> usize {
        self.batch * self.out_height() * self.out_width() * self.out_channels
    }

    /// Multiply-accumulates of the forward pass, padded taps included.
    #[must_use]
    pub fn macs(&self) -> u64 {
        let taps = self.kernel[0] * self.kernel[1] * self.group_channels();
        (self.output_len() as u64).saturating_mul(taps as u64)
    }

    /// The same convolution with strides that are no larger than what is left beside the kernel, and one: the outputs are the same, and a
    /// stride of any number would have as many pixels laid out.
    pub(crate) fn with_needed_strides(&self) -> Self {
        let needed = |axis: usize| {
            let room = self.padded().and_then(|padded| padded[axis].checked_sub(self.kernel[axis]));
            self.stride[axis].min(room.map_or(usize::MAX, |room| room.saturating_add(1)))
        };
        Conv2dShape { stride: [needed(0), needed(1)], ..*self }
    }

    pub(crate) fn group_channels(&self) -> usize {
        self.channels.checked_div(self.groups).unwrap_or(0)
    }
}

/// A matrix product `[rows, inner] · [inner, columns]`, all row-major. Any extent may be zero.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct MatmulShape {
    /// Rows of the left matrix and of the product.
    pub rows: usize,
    /// The dimension summed over.
    pub inner: usize,
    /// Columns of the right matrix and of the product.
    pub columns: usize,
}

impl MatmulShape {
    /// Elements of the left matrix.
    #[must_use]
    pub fn left_len(&self) -> usize {
        self.rows * self.inner
    }

    /// Elements of the right matrix.
    #[must_use]
    pub fn right_len(&self) -> usize {
        self.inner * self.columns
    }

    /// Elements of the product.
    #[must_use]
    pub fn output_len(&self) -> usize {
        self.rows * self.columns
    }

    /// Multiply-accumulates of the product.
    #[must_use]
    pub fn macs(&self) -> u64 {
        (self.output_len() as u64).saturating_mul(self.inner as u64)
    }
}

fn product(extents: &[usize]) -> Option<usize> {
    // Half the address space, as for any Rust allocation, divided by the widest number and by a vector's worth of rounding up.
    let elements = extents.iter().try_fold(1_usize, |product, &extent| product.checked_mul(extent))?;
    (elements <= isize::MAX as usize / 256).then_some(elements)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn shape() -> Conv2dShape {
        Conv2dShape {
            batch: 2,
            height: 5,
            width: 6,
            channels: 4,
            out_channels: 8,
            kernel: [3, 2],
            stride: [2, 1],
            padding: Padding { top: 1, bottom: 0, left: 0, right: 2 },
            groups: 2,
        }
    }

    #[test]
    fn extents_and_lengths() {
        let shape = shape();
        assert_eq!(shape.check(), Ok(()));
        assert_eq!([shape.out_height(), shape.out_width()], [2, 7]);
        assert_eq!([shape.input_len(), shape.weight_len(), shape.output_len()], [240, 96, 224]);
        assert_eq!(shape.macs(), 224 * 12);
    }

    #[test]
    fn each_fault_is_named() {
        let faults = [
            (Conv2dShape { stride: [0, 1], ..shape() }, "vertical stride is 0"),
            (Conv2dShape { channels: 0, ..shape() }, "input channel count is 0"),
            (Conv2dShape { groups: 3, ..shape() }, "3 groups do not divide 4 input channels"),
            (Conv2dShape { out_channels: 7, ..shape() }, "2 groups do not divide 7 output channels"),
            (Conv2dShape { kernel: [7, 1], ..shape() }, "height 7 exceeds the padded input's height 6"),
            (Conv2dShape { batch: usize::MAX / 2, ..shape() }, "overflows"),
            (Conv2dShape { padding: Padding { top: usize::MAX, ..Padding::NONE }, ..shape() }, "overflows"),
        ];
        for (shape, message) in faults {
            let error = shape.check().unwrap_err().to_string();
            assert!(error.contains(message), "{error}");
        }
    }

    #[test]
    fn an_empty_batch_is_a_shape() {
        let shape = Conv2dShape { batch: 0, ..shape() };
        assert_eq!(shape.check(), Ok(()));
        assert_eq!(shape.output_len(), 0);
    }

    #[test]
    fn same_padding_keeps_the_ceiling_of_the_quotient() {
        for (input, kernel, stride) in
            [(5, 3, 1), (5, 3, 2), (6, 3, 2), (7, 5, 3), (4, 1, 2), (1, 7, 1), (9, 2, 1)]
        {
            let padding = Padding::same([input; 2], [kernel; 2], [stride; 2]);
            let shape = Conv2dShape {
                height: input,
                width: input,
                kernel: [kernel; 2],
                stride: [stride; 2],
                padding,
                ..shape()
            };
            assert_eq!(shape.out_height(), input.div_ceil(stride), "{input} {kernel} {stride}");
            assert!(padding.bottom == padding.top || padding.bottom == padding.top + 1);
        }
    }
}
