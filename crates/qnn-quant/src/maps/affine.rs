use std::sync::Arc;

use ndarray::{ArrayViewD, ArrayViewMutD};

use crate::checked::quantize_checked_into;
use crate::elementwise::Form;
use crate::rounding::{Steps, clip, round_half_even};
use crate::{
    Alphabet, Error, Estimator, Granularity, Grid, Groups, Quantizer, Range, Result, WithinLevels, statistics,
};

/// Affine quantization to integers, as integer-only inference uses it: a scale, and an integer that stands for zero.
///
/// ```text
/// r = S (q − Z)
/// symmetric (weights):        S = max|w| / (2^(b−1) − 1),   Z = 0,   q in ±(2^(b−1) − 1)
/// asymmetric (activations):   S = (rmax − rmin) / (2^b − 1), Z = round(qmin − rmin / S),   q in [qmin, qmax]
/// q(x) = S · clip( round(x / S), qmin − Z, qmax − Z )               halves to even
/// ```
///
/// The range `[rmin, rmax]` is stretched to contain 0 and the zero point is a whole number, so that 0, and with it the padding of
/// a convolution, is exact; the range that is represented, `S (qmin − Z)` to `S (qmax − Z)`, differs from the one that was
/// asked for by less than S at both ends, unless it is widened to be symmetric, to the least S, or cut at half of the greatest f32. Without [ranges](Affine::with_ranges) from an [observer](crate::RangeObserver) each tensor's
/// own are taken. A zero range (a tensor of zeros) has `S = 1`: everything there is stays exact; S is at least the least normal f32.
///
/// Published with [`WithinLevels`], `dx = dy · 1[S (qmin − Z) ≤ x ≤ S (qmax − Z)]`: fake quantization.
///
#[doc = include_str!("../../plots/affine.svg")]
///
/// Codes: `q − Z`, so that a value is `S · code`, b bits; the stored integers are `code + Z` with the grid's
/// [`zero_points`](Grid::zero_points).
///
/// ```
/// # use qnn_quant::{Affine, Quantizer, Range, quantize};
/// # use ndarray::array;
/// let x = array![-1.0, 0.0, 0.4, 3.0].into_dyn();
/// let map = Affine::asymmetric(2)?;                                 // S = 4/3, Z = −2 + 0.75, rounded −1
/// let grid = map.fit(x.view())?;
/// assert_eq!((grid.scales(), grid.zero_points()), (&[4.0 / 3.0][..], &[-1][..]));
/// assert_eq!(map.codes(x.view(), &grid)?, array![-1, 0, 0, 2].into_dyn());
/// let fixed = Affine::symmetric(8)?.with_ranges(vec![Range::new(-127.0, 127.0)?])?;
/// assert_eq!(quantize(&fixed, &[0.6, -1000.0])?, array![1.0, -127.0]);
/// # Ok::<(), qnn_quant::Error>(())
/// ```
///
/// Source: Jacob et al. 2018, *Quantization and Training of Neural Networks for Efficient Integer-Arithmetic-Only Inference*,
/// arXiv:1712.05877, formulas (1), (12) and (13).
#[derive(Clone, Debug, PartialEq)]
pub struct Affine {
    bits: u32,
    granularity: Granularity,
    symmetric: bool,
    unsigned: bool,
    ranges: Option<Arc<[Range]>>,
}

impl Affine {
    /// Zero point 0 and codes ±(2^(b−1) − 1), of 2 to 8 bits: for weights.
    ///
    /// # Errors
    ///
    /// [`Error::Bits`].
    pub fn symmetric(bits: u32) -> Result<Self> {
        let bits = super::bits_in("affine", bits, 2, 8)?;
        Ok(Affine { bits, granularity: Granularity::Tensor, symmetric: true, unsigned: false, ranges: None })
    }

    /// A zero point of its own and all codes of 1 to 8 bits, stored in two's complement: for activations.
    ///
    /// # Errors
    ///
    /// [`Error::Bits`].
    pub fn asymmetric(bits: u32) -> Result<Self> {
        let bits = super::checked_bits("affine", bits)?;
        Ok(Affine { bits, granularity: Granularity::Tensor, symmetric: false, unsigned: false, ranges: None })
    }

    /// Stored integers from 0 to `2^b − 1`, as Jacob et al. have them, in place of two's complement. Values do not change, except with
    /// 1 bit, where a zero point half-way between 0 and 1 is rounded to the other side.
    pub fn unsigned(self) -> Self {
        Affine { unsigned: !self.symmetric, ..self }
    }

    /// Over which elements ranges are taken.
    pub fn with_granularity(self, granularity: Granularity) -> Self {
        Affine { granularity, ..self }
    }

    /// Ranges that do not depend on the tensor: one for all, or one per group.
    ///
    /// # Errors
    ///
    /// [`Error::Parameter`] if there is none.
    pub fn with_ranges(self, ranges: Vec<Range>) -> Result<Self> {
        if ranges.is_empty() {
            let (value, expected) = ("none".to_owned(), "one range, or one per channel");
            return Err(Error::Parameter { owner: "affine", parameter: "ranges", value, expected });
        }
        Ok(Affine { ranges: Some(ranges.into()), ..self })
    }

    /// b.
    pub fn bits(&self) -> u32 {
        self.bits
    }

    /// S and Z of a range.
    pub fn scale_and_zero_point(&self, range: Range) -> (f32, i32) {
        let Alphabet { first, count, .. } = self.stored();
        // A nudged range may be longer than the one that was asked for, and its ends are still f32.
        let limit = 0.5 * f32::MAX;
        let (low, high) = (range.low().clamp(-limit, 0.0), range.high().clamp(0.0, limit));
        let (low, high) = (f64::from(low), f64::from(high));
        if self.symmetric {
            return (at_least_normal(high.max(-low) / f64::from(count / 2)), 0);
        }
        let scale = at_least_normal((high - low) / f64::from(count - 1));
        let zero = round_half_even(f64::from(first) - low / f64::from(scale));
        (scale, zero.clamp(first.into(), self.stored().last().into()) as i32)
    }

    /// The code of one number under a scale, of the codes from `low` to `high`: what every map of this kind does to each
    /// element. NaN stays NaN.
    ///
    /// ```
    /// # use qnn_quant::Affine;
    /// assert_eq!([0.3, 0.25, 9.0].map(|x| Affine::code(x, 0.5, [-128, 127])), [1.0, 0.0, 18.0]);
    /// ```
    #[inline(always)]
    pub fn code(x: f32, scale: f32, [low, high]: [i32; 2]) -> f32 {
        round_half_even(clip(f64::from(x) / f64::from(scale), low.into(), high.into())) as f32
    }

    fn stored(&self) -> Alphabet {
        match (self.symmetric, self.unsigned) {
            (true, _) => Alphabet::symmetric((1 << (self.bits - 1)) - 1),
            (_, true) => Alphabet::unsigned(self.bits),
            (_, false) => Alphabet::signed(self.bits),
        }
    }

    /// One range per group; `None` where a NaN is among the elements.
    fn ranges(&self, x: ArrayViewD<'_, f32>, groups: Groups) -> Result<Vec<Option<Range>>> {
        let Some(ranges) = &self.ranges else {
            let ends = statistics::min_max(x, groups)?;
            return Ok(ends.into_iter().map(|(low, high)| Range::new(low, high).ok()).collect());
        };
        let count = groups.count();
        match **ranges {
            [range] => Ok(vec![Some(range); count]),
            _ if ranges.len() == count => Ok(ranges.iter().copied().map(Some).collect()),
            _ => Err(Error::Grid {
                what: "the number of ranges",
                value: ranges.len().to_string(),
                expected: format!("1 or {count}, one per group"),
            }),
        }
    }

    fn write(
        &self,
        x: ArrayViewD<'_, f32>,
        grid: &Grid,
        form: Form,
        out: ArrayViewMutD<'_, f32>,
    ) -> Result<()> {
        super::own_codes(self.name(), grid, self.stored())?;
        let stored = self.stored();
        if grid.zero_points().len() != grid.groups().count() {
            return Err(Error::ForeignGrid { map: self.name() });
        }
        let parameters: Vec<Steps> = grid
            .scales()
            .iter()
            .zip(grid.zero_points())
            .map(|(&scale, &zero)| Steps::new(scale, stored.first - zero, stored.last() - zero))
            .collect();
        quantize_checked_into(
            x,
            grid,
            &parameters,
            form,
            out,
            #[inline(always)]
            move |x, steps| steps.likely(x),
            #[inline(always)]
            move |x, steps| steps.nearest(x),
        )
    }
}

/// A scale that divisions survive.
fn at_least_normal(scale: f64) -> f32 {
    if scale == 0.0 { 1.0 } else { (scale as f32).max(f32::MIN_POSITIVE) }
}

impl Quantizer for Affine {
    fn name(&self) -> &'static str {
        "affine"
    }

    fn fit(&self, x: ArrayViewD<'_, f32>) -> Result<Grid> {
        let groups = self.granularity.groups(x.shape())?;
        let diverged = (f32::NAN, self.stored().first.max(0));
        let parameters = self.ranges(x, groups)?.into_iter();
        let (scales, zero_points) =
            parameters.map(|range| range.map_or(diverged, |range| self.scale_and_zero_point(range))).unzip();
        Grid::new(self.stored(), groups, scales)?.with_zero_points(zero_points)
    }

    /// As [`Affine::symmetric`] makes it, of 8 bits, along [`Granularity::LastAxis`] and without ranges of its own.
    fn is_int8_per_channel(&self) -> bool {
        let measured = self.ranges.is_none() && self.granularity == Granularity::LastAxis;
        self.bits == 8 && self.symmetric && measured
    }

    /// With a range for the whole tensor.
    fn is_fixed(&self) -> bool {
        self.ranges.is_some() && self.granularity == Granularity::Tensor
    }

    one_pass!(write);

    fn published(&self) -> Arc<dyn Estimator> {
        Arc::new(WithinLevels)
    }
}
