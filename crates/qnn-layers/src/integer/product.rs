use qnn_quant::{Affine, Alphabet, Granularity, Groups, Multiplier, Pair, Range, statistics};
use qnn_tensor::ops::{Conv2dOptions, Factors, matmul_factored};
use qnn_tensor::parallel::for_each_chunk_of;
use qnn_tensor::{Algorithm, Scalar, Tape, Tensor};

use super::target::{Target, clamp};
use crate::reach::{EXACT, reach};

/// A product of codes in integers, with what becomes of the sums.
///
/// ```text
/// acc[o] = bias[o] + Σ x · w[o]                     exact, in 32 bits
/// bias   = round( b / (S_x S_w) )                   b: that of the folded batch norm; halves to even
/// codes  = clamp( acc · multiplier[o] )             multiplier = S_x S_w / S_y, two roundings: see Multiplier
/// values = acc · scale[o]                           in f32: the logits
/// ```
///
/// Source: Jacob et al. 2018, arXiv:1712.05877, sections 2.2 and 2.4.
#[derive(Clone, Debug)]
pub struct IntegerProduct {
    /// The kernel's codes, −127 to 127, of shape `[kh, kw, in / groups, out]` or `[in, out]`.
    pub kernel: Tensor,
    /// What is added for each output channel, in units of the sums.
    pub bias: Vec<i32>,
    /// What becomes of the sums.
    pub finish: IntegerFinish,
}

/// What becomes of sums of codes.
#[derive(Clone, Debug)]
pub enum IntegerFinish {
    /// Codes of another scale.
    Codes {
        /// One for each output channel.
        multipliers: Vec<Multiplier>,
        /// The codes that come out.
        codes: Alphabet,
    },
    /// Numbers.
    Values {
        /// One factor for each output channel.
        scales: Vec<f32>,
    },
}

/// No bias is larger, so that the sums have the rest of 32 bits for themselves.
const LARGEST_BIAS: f64 = (1_u32 << 30) as f64;

impl IntegerProduct {
    /// Kernel and bias in integers, for inputs of the scale `s_x`. Without a target the sums become numbers.
    ///
    /// The scale of an output channel is `max|w| / 127`, or larger if its bias would not fit 30 bits: weights that small do not
    /// show in the result.
    pub(super) fn new(
        kernel: &Tensor,
        bias: &[f32],
        s_x: f32,
        target: Option<&Target>,
    ) -> qnn_quant::Result<Self> {
        let limit = |b: f32| 127.0 * f64::from(b.abs()) / (f64::from(s_x) * LARGEST_BIAS);
        let shape = kernel.shape();
        let groups = Groups::Axis { axis: shape.len() - 1, len: bias.len() };
        let ends = statistics::min_max(kernel.view(), groups)?;
        let range = |((low, high), &b): ((f32, f32), &f32)| {
            // A NaN is an error here, before a maximum could hide it.
            let [weights, bias] = [Range::new(low, high)?, Range::new(-b.abs(), b.abs())?];
            let height = f64::from(weights.high().max(-weights.low())).max(limit(bias.high())) as f32;
            Range::new(-height, height)
        };
        let ranges = ends.into_iter().zip(bias).map(range).collect::<qnn_quant::Result<_>>()?;
        let map = Affine::symmetric(8)?.with_granularity(Granularity::LastAxis).with_ranges(ranges)?;
        let (codes, grid) = Pair::published(map).codes(kernel.view())?;
        let scales: Vec<f64> = grid.scales().iter().map(|&s_w| f64::from(s_x) * f64::from(s_w)).collect();
        let biases = bias.iter().zip(&scales);
        let finish = match target {
            None => IntegerFinish::Values { scales: scales.iter().map(|&scale| scale as f32).collect() },
            Some(target) => {
                let multiplier = |scale: &f64| Multiplier::new(scale / f64::from(target.scale));
                let multipliers = scales.iter().map(multiplier).collect::<qnn_quant::Result<_>>()?;
                IntegerFinish::Codes { multipliers, codes: target.codes }
            }
        };
        Ok(Self {
            kernel: Tensor::from_array(&codes),
            bias: biases.map(|(&b, scale)| (f64::from(b) / scale).round_ties_even() as i32).collect(),
            finish,
        })
    }

    /// The sums for codes x, bias included; of a convolution with these options, or of a matrix product. Sums that do not fit 32 bits
    /// saturate.
    ///
    /// They are computed in f32 where that is exact, else in f64.
    ///
    /// # Panics
    ///
    /// If the shapes do not fit.
    #[track_caller]
    pub fn accumulators(&self, x: &Tensor, options: Option<&Conv2dOptions>) -> Vec<i32> {
        let largest = x.as_slice().iter().fold(0.0_f32, |largest, x| largest.max(x.abs()));
        let reach = reach(&self.kernel, largest.into());
        if reach <= EXACT { self.sums::<f32>(x, options) } else { self.sums::<f64>(x, options) }
    }

    fn sums<T: Scalar>(&self, x: &Tensor, options: Option<&Conv2dOptions>) -> Vec<i32> {
        let tape = Tape::<T>::new();
        let (x, kernel) = (tape.constant(x.cast()), tape.constant(self.kernel.cast()));
        let sums = match options {
            Some(options) => {
                x.conv2d(kernel, None, &Conv2dOptions { algorithm: Algorithm::Direct, ..*options })
            }
            None => matmul_factored(x, kernel, None, &Factors::unit()),
        };
        let sums = sums.value();
        let mut accumulators = vec![0; sums.len()];
        for_each_chunk_of(self.bias.len() * 64, &mut accumulators, |at, accumulators| {
            let bias = self.bias.iter().cycle();
            for ((acc, sum), &bias) in accumulators.iter_mut().zip(&sums.as_slice()[at..]).zip(bias) {
                *acc = (sum.as_f64() as i32).saturating_add(bias);
            }
        });
        accumulators
    }

    /// What becomes of sums `[.., channels]`, as a tensor of that shape.
    pub(super) fn finished(&self, shape: &[usize], accumulators: &[i32]) -> Tensor {
        let channels = self.bias.len();
        Tensor::build(shape, |y| {
            for_each_chunk_of(channels * 64, y, |at, y| {
                let rows = y.chunks_exact_mut(channels).zip(accumulators[at..].chunks_exact(channels));
                rows.for_each(|(y, acc)| self.finish.row(acc, y));
            });
        })
    }
}

impl IntegerFinish {
    fn row(&self, acc: &[i32], y: &mut [f32]) {
        let elements = y.iter_mut().zip(acc);
        match self {
            Self::Codes { multipliers, codes } => elements.zip(multipliers).for_each(|((y, &acc), by)| {
                *y = clamp(by.apply(acc), codes);
            }),
            Self::Values { scales } => {
                elements.zip(scales).for_each(|((y, &acc), scale)| *y = acc as f32 * scale);
            }
        }
    }
}
