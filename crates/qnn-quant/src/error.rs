use std::fmt;

use thiserror::Error;

/// What can go wrong in this crate.
#[derive(Clone, Debug, Error, PartialEq)]
#[non_exhaustive]
pub enum Error {
    /// The caller named an axis that the array does not have.
    #[error("axis {axis} is out of range for an array of {rank} axes (the axes are counted from 0)")]
    AxisOutOfRange {
        /// The axis that was asked for.
        axis: usize,
        /// How many axes the array has.
        rank: usize,
    },
    /// A bit width outside of what the map is defined for.
    #[error("{map} takes {min} to {max} bits, got {bits}")]
    Bits {
        /// The map's command line name.
        map: &'static str,
        /// The width that was asked for.
        bits: u32,
        /// Least width.
        min: u32,
        /// Greatest width.
        max: u32,
    },
    /// A parameter outside of its range.
    #[error("{owner}: `{parameter}` must be {expected}, got {value}")]
    Parameter {
        /// The map or estimator, by its command line name.
        owner: &'static str,
        /// The parameter's name.
        parameter: &'static str,
        /// The value that was given.
        value: String,
        /// What would have been accepted.
        expected: &'static str,
    },
    /// A parameter is needed and was not given.
    #[error("{owner} needs `--{parameter}`")]
    MissingParameter {
        /// The map or estimator, by its command line name.
        owner: &'static str,
        /// The parameter's name.
        parameter: &'static str,
    },
    /// A parameter was given that has no meaning here.
    #[error("`--{parameter}` has no meaning for {owner}")]
    UnusedParameter {
        /// The map or estimator, by its command line name.
        owner: &'static str,
        /// The parameter's name.
        parameter: &'static str,
    },
    /// No map or estimator has this name.
    #[error("unknown {kind} `{name}`; known are {}", known.join(", "))]
    UnknownName {
        /// `quantizer` or `estimator`.
        kind: &'static str,
        /// The name that was asked for.
        name: String,
        /// All names there are.
        known: Vec<&'static str>,
    },
    /// An infinite element where a mean or a maximum is taken.
    #[error("element {index} is {value}: {statistic} of the tensor is not finite")]
    Infinite {
        /// Which statistic needs finite elements.
        statistic: &'static str,
        /// Position in row-major order.
        index: usize,
        /// The element.
        value: f32,
    },
    /// A NaN where an integer code is asked for.
    #[error("element {index} is NaN and has no integer code")]
    NotANumber {
        /// Position in row-major order.
        index: usize,
    },
    /// Integer codes of a tensor that is not quantized.
    #[error("{map} does not quantize: there are no integer codes")]
    Unquantized {
        /// The map's command line name.
        map: &'static str,
    },
    /// An integer that is not in the alphabet.
    #[error("element {index} is {code}, which is not in the alphabet {}", Listed(codes))]
    NotInAlphabet {
        /// Position in row-major order.
        index: usize,
        /// The integer.
        code: i32,
        /// The codes there are, in increasing order.
        codes: Vec<i32>,
    },
    /// Arrays that must have equal shapes have not.
    #[error("{what} has shape {found:?}, expected {expected:?}")]
    Shape {
        /// The array that does not fit.
        what: &'static str,
        /// The shape of the input.
        expected: Vec<usize>,
        /// The shape of the other array.
        found: Vec<usize>,
    },
    /// The grid was fitted to an array of another shape.
    #[error(
        "the grid has {len} groups along axis {axis}, which an array of shape {shape:?} has not: fit the grid to this array"
    )]
    GroupsDoNotFit {
        /// The axis whose indices are the groups.
        axis: usize,
        /// How many groups there are.
        len: usize,
        /// The array's shape.
        shape: Vec<usize>,
    },
    /// The grid was fitted by another map, which has other codes, other groups, or measures other things.
    #[error(
        "{map} needs a grid that it fitted itself: this one has other codes or groups, or lacks what the map measures"
    )]
    ForeignGrid {
        /// The map's command line name.
        map: &'static str,
    },
    /// A grid was built from parts that do not belong together.
    #[error("invalid grid: {what} is {value}, expected {expected}")]
    Grid {
        /// The part.
        what: &'static str,
        /// Its value.
        value: String,
        /// What would have been accepted.
        expected: String,
    },
}

/// Codes as a person reads them: evenly spaced ones by their beginning and end.
struct Listed<'a>(&'a [i32]);

impl fmt::Display for Listed<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let is_even = self.0.windows(3).all(|three| three[1] - three[0] == three[2] - three[1]);
        match *self.0 {
            [first, second, .., last] if is_even && self.0.len() > 4 => {
                write!(f, "{{{first}, {second}, .. {last}}}")
            }
            ref codes => {
                let codes: Vec<String> = codes.iter().map(i32::to_string).collect();
                write!(f, "{{{}}}", codes.join(", "))
            }
        }
    }
}

/// The crate's result.
pub type Result<T, E = Error> = std::result::Result<T, E>;
