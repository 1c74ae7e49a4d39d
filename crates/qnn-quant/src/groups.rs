use std::fmt;
use std::str::FromStr;

use crate::{Error, Result};

/// Over which elements a statistic is taken, as the caller asks for it.
///
/// Becomes [`Groups`] when it meets an array. Parses from `tensor`, `last` or an axis number.
///
/// ```
/// # use qnn_quant::{Granularity, Groups};
/// assert_eq!(Granularity::LastAxis.groups(&[3, 3, 16, 32])?, Groups::Axis { axis: 3, len: 32 });
/// assert_eq!("0".parse::<Granularity>()?, Granularity::Axis(0));
/// # Ok::<(), qnn_quant::Error>(())
/// ```
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub enum Granularity {
    /// One statistic for the whole tensor.
    #[default]
    Tensor,
    /// One statistic per index of this axis.
    Axis(usize),
    /// One statistic per index of the last axis, whatever the rank: the output channels of `[kh, kw, cin, cout]`
    /// convolution kernels and of `[in, out]` matrices alike.
    LastAxis,
}

impl Granularity {
    /// The groups of an array of this shape.
    ///
    /// # Errors
    ///
    /// [`Error::AxisOutOfRange`].
    pub fn groups(self, shape: &[usize]) -> Result<Groups> {
        let axis = match self {
            Granularity::Tensor => return Ok(Groups::Tensor),
            Granularity::Axis(axis) => axis,
            Granularity::LastAxis => shape.len().saturating_sub(1),
        };
        let out_of_range = Error::AxisOutOfRange { axis, rank: shape.len() };
        shape.get(axis).map(|&len| Groups::Axis { axis, len }).ok_or(out_of_range)
    }
}

impl FromStr for Granularity {
    type Err = Error;

    fn from_str(text: &str) -> Result<Self> {
        match text {
            "tensor" => Ok(Granularity::Tensor),
            "last" => Ok(Granularity::LastAxis),
            number => number.parse().map(Granularity::Axis).map_err(|_| Error::Parameter {
                owner: "granularity",
                parameter: "axis",
                value: text.to_owned(),
                expected: "`tensor`, `last` or the number of an axis",
            }),
        }
    }
}

impl fmt::Display for Granularity {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Granularity::Tensor => f.write_str("tensor"),
            Granularity::Axis(axis) => write!(f, "{axis}"),
            Granularity::LastAxis => f.write_str("last"),
        }
    }
}

/// How the elements of one array are divided: each group has a scale and a statistic of its own.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub enum Groups {
    /// One group: the whole tensor.
    #[default]
    Tensor,
    /// One group per index of an axis.
    Axis {
        /// The axis, counted from 0.
        axis: usize,
        /// Its length: the number of groups.
        len: usize,
    },
}

impl Groups {
    /// How many groups there are.
    pub fn count(&self) -> usize {
        match *self {
            Groups::Tensor => 1,
            Groups::Axis { len, .. } => len,
        }
    }

    /// Where the groups lie in the row-major elements of an array of this shape.
    pub(crate) fn partition(&self, shape: &[usize]) -> Result<Partition> {
        match *self {
            Groups::Tensor => Ok(Partition { count: 1, inner: shape.iter().product() }),
            Groups::Axis { axis, len } if shape.get(axis) == Some(&len) => {
                Ok(Partition { count: len, inner: shape[axis + 1..].iter().product() })
            }
            Groups::Axis { axis, len } => Err(Error::GroupsDoNotFit { axis, len, shape: shape.to_vec() }),
        }
    }
}

/// The element at row-major position `i` belongs to group `(i / inner) % count`.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Partition {
    pub(crate) count: usize,
    pub(crate) inner: usize,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn granularity_meets_a_shape() {
        assert_eq!(Granularity::Axis(1).groups(&[2, 5]).unwrap(), Groups::Axis { axis: 1, len: 5 });
        assert_eq!(Granularity::LastAxis.groups(&[2, 5, 7]).unwrap(), Groups::Axis { axis: 2, len: 7 });
        assert_eq!(Granularity::Tensor.groups(&[]).unwrap(), Groups::Tensor);
        assert_eq!(Granularity::Axis(2).groups(&[2, 5]), Err(Error::AxisOutOfRange { axis: 2, rank: 2 }));
        assert_eq!(Granularity::LastAxis.groups(&[]), Err(Error::AxisOutOfRange { axis: 0, rank: 0 }));
    }

    #[test]
    fn granularity_is_written_as_it_is_read() {
        for granularity in [Granularity::Tensor, Granularity::LastAxis, Granularity::Axis(3)] {
            assert_eq!(granularity.to_string().parse(), Ok(granularity));
        }
        assert!("-1".parse::<Granularity>().is_err());
    }

    #[test]
    fn a_partition_needs_the_shape_of_its_grid() {
        let groups = Groups::Axis { axis: 1, len: 3 };
        let Partition { count, inner } = groups.partition(&[2, 3, 4]).unwrap();
        assert_eq!((count, inner), (3, 4));
        assert!(groups.partition(&[2, 4, 3]).is_err());
        assert!(groups.partition(&[2]).is_err());
    }
}
