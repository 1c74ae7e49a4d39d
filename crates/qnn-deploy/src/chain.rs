use qnn_kernels::{ChannelAffine, vectorized};
use qnn_quant::{Alphabet, Scale};
use qnn_tensor::ops::functions::{HardSigmoid, HardTanh, LeakyRelu, Pointwise, Relu, Sigmoid, Tanh};
use qnn_tensor::ops::normalized;

use crate::Result;
use crate::program::{Chain, Link, Value};
use crate::staircase::Staircase;
use crate::tensors::Tensors;

/// A [`Chain`] with its parameters at hand: what the session runs, and what the search for thresholds
/// asks.
///
/// Every function is the one that the tape's operation calls, so that the bits are the graph's.
#[derive(Debug, Default)]
pub(crate) struct Functions {
    steps: Vec<Function>,
    /// How many elements have parameters of their own.
    row: usize,
}

#[derive(Debug)]
enum Function {
    Scale(Vec<f32>),
    Bias(Vec<f32>),
    Norm { mean: Vec<f32>, s: Vec<f32>, beta: Vec<f32> },
    Factor(f32),
    PixelScale,
    Relu,
    LeakyRelu(f32),
    HardTanh,
    HardSigmoid,
    Sigmoid,
    Tanh,
    Value(Scale),
    Add(Option<Scale>),
    Quantize(Staircase),
}

/// An ascending step function: `first + step · (number of cuts that x reaches)`.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Cuts {
    pub(crate) alphabet: Alphabet,
    /// Ascending; then NaN for those that nothing reaches.
    pub(crate) cuts: Vec<f32>,
}

/// Parameters of shorter rows are repeated up to so many: vectors work on long runs, and a row of sixteen
/// is over before they have begun.
const LONG: usize = 256;

impl Functions {
    /// The functions of a chain over rows of `row` elements.
    pub(crate) fn new(chain: &Chain, row: usize, tensors: &Tensors<'_>) -> Result<Self> {
        let steps = chain.links.iter().map(|link| Function::new(link, row, tensors));
        Ok(Self { steps: steps.collect::<Result<_>>()?, row })
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.steps.is_empty()
    }

    /// Takes scale and bias off the front, for a kernel that applies them to its accumulators.
    pub(crate) fn take_affine(&mut self) -> [Option<Vec<f32>>; 2] {
        let mut take = |of: fn(&mut Function) -> Option<Vec<f32>>| {
            let mut values = self.steps.first_mut().and_then(of)?;
            self.steps.remove(0);
            values.truncate(self.row);
            Some(values)
        };
        let scale =
            take(|step| if let Function::Scale(values) = step { Some(std::mem::take(values)) } else { None });
        let bias =
            take(|step| if let Function::Bias(values) = step { Some(std::mem::take(values)) } else { None });
        [scale, bias]
    }

    /// How many channels the operand has beside so many of the rows.
    pub(crate) fn operand_channels(&self, channels: usize) -> usize {
        let scales = self.steps.iter().any(|step| matches!(step, Function::PixelScale));
        if scales { 1 } else { channels }
    }

    /// Replaces whole rows by their images, one function after the other. `operand` holds what a sum
    /// adds to each element, or what scales each pixel.
    pub(crate) fn apply(&self, rows: &mut [f32], operand: &[f32]) {
        self.steps.iter().for_each(|step| step.apply(rows, operand));
    }
}

impl Function {
    fn new(link: &Link, row: usize, tensors: &Tensors<'_>) -> Result<Self> {
        let of = |name: &str| tensors.floats(name, row).map(|values| values.repeat(LONG.div_ceil(row)));
        Ok(match link {
            Link::Scale { factors } => Self::Scale(of(factors)?),
            Link::Bias { bias } => Self::Bias(of(bias)?),
            Link::Norm { mean, s, beta } => Self::Norm { mean: of(mean)?, s: of(s)?, beta: of(beta)? },
            Link::Factor { factor } => Self::Factor(*factor),
            Link::PixelScale => Self::PixelScale,
            Link::Relu => Self::Relu,
            Link::LeakyRelu { slope } => Self::LeakyRelu(*slope),
            Link::HardTanh => Self::HardTanh,
            Link::HardSigmoid => Self::HardSigmoid,
            Link::Sigmoid => Self::Sigmoid,
            Link::Tanh => Self::Tanh,
            Link::Value(scale) => Self::Value((*scale).into()),
            Link::Add { operand } => Self::Add(operand.map(Scale::from)),
            Link::Quantize { alphabet, cuts } => {
                Self::Quantize(Staircase::new(Cuts::stored(*alphabet, cuts, tensors)?))
            }
        })
    }

    fn apply(&self, rows: &mut [f32], operand: &[f32]) {
        match self {
            Self::Scale(scale) => {
                by_channel(rows, scale, |x, s| ChannelAffine { scale: Some(&[s]), bias: None }.value(x, 0));
            }
            Self::Bias(bias) => by_channel(rows, bias, |x, bias| ChannelAffine::bias(&[bias]).value(x, 0)),
            Self::Norm { mean, s, beta } => normalize(rows, mean, s, beta),
            Self::Factor(factor) => each(rows, |x| x * factor),
            Self::PixelScale => scale_pixels(rows, operand),
            Self::Relu => each(rows, |x| Relu.f(x)),
            Self::LeakyRelu(slope) => each(rows, |x| LeakyRelu { slope: *slope }.f(x)),
            Self::HardTanh => each(rows, |x| HardTanh.f(x)),
            Self::HardSigmoid => each(rows, |x| HardSigmoid.f(x)),
            Self::Sigmoid => each(rows, |x| Sigmoid.f(x)),
            Self::Tanh => each(rows, |x| Tanh.f(x)),
            Self::Value(scale) => each(rows, |x| scale.value(x)),
            Self::Add(None) => add(rows, operand, |other| other),
            Self::Add(Some(scale)) => add(rows, operand, |code| scale.value(code)),
            Self::Quantize(staircase) => staircase.apply(rows),
        }
    }
}

fn each(rows: &mut [f32], f: impl Fn(f32) -> f32) {
    vectorized(|| rows.iter_mut().for_each(|x| *x = f(*x)));
}

fn by_channel(rows: &mut [f32], parameters: &[f32], f: impl Fn(f32, f32) -> f32) {
    vectorized(|| {
        for row in rows.chunks_mut(parameters.len()) {
            row.iter_mut().zip(parameters).for_each(|(x, &parameter)| *x = f(*x, parameter));
        }
    });
}

fn add(rows: &mut [f32], operand: &[f32], value: impl Fn(f32) -> f32) {
    vectorized(|| rows.iter_mut().zip(operand).for_each(|(x, &other)| *x += value(other)));
}

fn scale_pixels(rows: &mut [f32], scales: &[f32]) {
    let channels = rows.len().checked_div(scales.len()).unwrap_or(1);
    vectorized(|| {
        for (row, scale) in rows.chunks_exact_mut(channels.max(1)).zip(scales) {
            row.iter_mut().for_each(|x| *x *= scale);
        }
    });
}

fn normalize(rows: &mut [f32], mean: &[f32], s: &[f32], beta: &[f32]) {
    vectorized(|| {
        for row in rows.chunks_mut(mean.len()) {
            let parameters = mean.iter().zip(s).zip(beta);
            let elements = row.iter_mut().zip(parameters);
            elements.for_each(|(x, ((&mean, &s), &beta))| *x = normalized(*x, mean, s, beta));
        }
    });
}

impl Cuts {
    pub(crate) fn stored(alphabet: Alphabet, name: &str, tensors: &Tensors<'_>) -> Result<Self> {
        let cuts = tensors.floats(name, alphabet.count.saturating_sub(1) as usize)?.to_vec();
        let reached = cuts.iter().take_while(|cut| !cut.is_nan()).count();
        if !cuts[..reached].is_sorted() || cuts[reached..].iter().any(|cut| !cut.is_nan()) {
            return Err(tensors.error(format!("the cuts {name:?} do not ascend")));
        }
        Ok(Self { alphabet, cuts })
    }

    /// The number of cuts that `x` reaches.
    pub(crate) fn level(&self, x: f32) -> usize {
        self.cuts.partition_point(|&cut| x >= cut)
    }
}

impl Chain {
    /// Whether there is nothing but a scale, then a bias.
    pub(crate) fn is_affine(&self) -> bool {
        matches!(
            self.links[..],
            [] | [Link::Scale { .. } | Link::Bias { .. }] | [Link::Scale { .. }, Link::Bias { .. }]
        )
    }

    /// How many elements have parameters of their own: the channels, or, behind a flattening, all
    /// elements of an image.
    pub(crate) fn row(&self, value: &Value, tensors: &Tensors<'_>) -> usize {
        let whole = |link: &Link| {
            let (Link::Scale { factors: name } | Link::Bias { bias: name } | Link::Norm { mean: name, .. }) =
                link
            else {
                return false;
            };
            tensors.floats(name, value.len()).is_ok()
        };
        if self.links.iter().any(whole) { value.len() } else { value.shape[2] }
    }
}

impl Link {
    /// Whether a larger input never gives an output on the other side: falling or rising, but not both.
    ///
    /// The smooth functions are computed by approximations, of which nobody has proved that they
    /// never step back.
    pub(crate) fn is_monotone(&self) -> bool {
        match self {
            Self::LeakyRelu { slope } => *slope >= 0.0,
            Self::Sigmoid | Self::Tanh | Self::Add { .. } | Self::PixelScale => false,
            _ => true,
        }
    }
}
