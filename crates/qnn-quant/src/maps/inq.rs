use std::sync::Arc;

use ndarray::{ArrayViewD, ArrayViewMutD};

use crate::elementwise::{Form, quantize_into};
use crate::{
    Alphabet, Error, Estimator, Grid, Groups, InqOrder, Quantizer, Result, StraightThrough, statistics,
};

/// Weights that are zero or a power of two (incremental network quantization).
///
/// ```text
/// s    = max |w|
/// n1   = ⌊log2(4s/3)⌋,   n2 = n1 + 1 − 2^(b−1)/2
/// P    = {0, ±2^n2, .., ±2^n1}
/// q(w) = β sign(w)   if (α+β)/2 ≤ |w| < 3β/2 for neighbours α < β of P's magnitudes,   else 0
/// ```
///
/// The greatest magnitude has no upper bound. A product with such a weight is a shift. Training proceeds in portions: see
/// [`InqPartition`](crate::InqPartition), which freezes the weights that have been quantized while the others are retrained.
///
/// Published with [`StraightThrough`], `dx = dy`, for the weights that are not frozen.
///
#[doc = include_str!("../../plots/inq.svg")]
///
/// Codes: 0 and ±2^0 to ±2^(2^(b−2) − 1), which is how a factored product uses them; b bits, scale `2^n2`. 2 to 6 bits: with 7 the
/// least magnitude would be 2⁻³¹ of the greatest, below what an f32 sum can hold beside it. The exponents are kept where
/// `2^n1` and `2^n2` are ordinary numbers of f32; a zero tensor has scale 0.
///
/// ```
/// # use qnn_quant::{Inq, quantize};
/// # use ndarray::array;
/// let w = [1.3, -0.8, 0.5, 0.2, 0.1];                               // s = 1.3, n1 = 0, n2 = −1
/// assert_eq!(quantize(&Inq::new(3)?, &w)?, array![1.0, -1.0, 0.5, 0.0, 0.0]);
/// # Ok::<(), qnn_quant::Error>(())
/// ```
///
/// Source: Zhou et al. 2017, *Incremental Network Quantization*, arXiv:1702.03044, section 2.1, formulas (1) to (4).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Inq {
    bits: u32,
    top: Option<i32>,
    order: InqOrder,
}

impl Inq {
    /// b from 2 to 6 bits, with the codebook measured on each tensor.
    ///
    /// # Errors
    ///
    /// [`Error::Bits`].
    pub fn new(bits: u32) -> Result<Self> {
        Ok(Inq { bits: super::bits_in("inq", bits, 2, 6)?, top: None, order: InqOrder::default() })
    }

    /// With a codebook that does not depend on the tensor: `n1` is `top`, as [`Inq::top_of`] measured it before. So the
    /// weights that are frozen stay levels while the others grow.
    ///
    /// # Errors
    ///
    /// [`Error::Parameter`] unless `2^n1` and `2^n2` are ordinary numbers of f32.
    pub fn with_top(self, top: i32) -> Result<Self> {
        if top == self.bounded(top) {
            return Ok(Inq { top: Some(top), ..self });
        }
        let (value, expected) = (top.to_string(), "such that all levels are ordinary numbers of f32");
        Err(Error::Parameter { owner: "inq", parameter: "top", value, expected })
    }

    /// With another order in which layers freeze weights. Levels and codes do not depend on it.
    pub fn with_order(self, order: InqOrder) -> Self {
        Inq { order, ..self }
    }

    /// b.
    pub fn bits(&self) -> u32 {
        self.bits
    }

    /// n1, if it [was given](Inq::with_top).
    pub fn top(&self) -> Option<i32> {
        self.top
    }

    /// Which weights are frozen first.
    pub fn order(&self) -> InqOrder {
        self.order
    }

    /// n1 of a tensor; `None` of a zero or an empty tensor, which has no codebook.
    ///
    /// # Errors
    ///
    /// [`Error::Infinite`], and [`Error::NotANumber`] if an element is NaN.
    pub fn top_of(&self, w: ArrayViewD<'_, f32>) -> Result<Option<i32>> {
        let greatest = statistics::max_abs(w.view(), Groups::Tensor)?[0];
        if greatest.is_nan() {
            let index = w.iter().position(|w| w.is_nan()).unwrap_or(0);
            return Err(Error::NotANumber { index });
        }
        Ok((greatest > 0.0).then(|| self.bounded(nearest_exponent(greatest))))
    }

    /// How many exponents there are below the greatest.
    fn span(&self) -> i32 {
        (1 << (self.bits - 2)) - 1
    }

    fn bounded(&self, top: i32) -> i32 {
        top.clamp(f32::MIN_EXP - 1 + self.span(), f32::MAX_EXP - 1)
    }

    fn scale(&self, w: ArrayViewD<'_, f32>) -> Result<f32> {
        let top = match self.top {
            Some(top) => Some(top),
            None => match self.top_of(w) {
                Err(Error::NotANumber { .. }) => return Ok(f32::NAN),
                top => top?,
            },
        };
        Ok(top.map_or(0.0, |top| 2_f32.powi(top - self.span())))
    }

    fn write(
        &self,
        x: ArrayViewD<'_, f32>,
        grid: &Grid,
        form: Form,
        out: ArrayViewMutD<'_, f32>,
    ) -> Result<()> {
        super::own_grid(self.name(), grid, Alphabet::symmetric(1 << self.span()))?;
        let scale = grid.scales()[0];
        // Of a zero tensor every element is below every level.
        let inverse = if scale == 0.0 { 0.0 } else { 1.0 / scale };
        let greatest = (1 << self.span()) as f32;
        quantize_into(
            x,
            grid,
            &[()],
            form,
            out,
            #[inline(always)]
            move |x, ()| code(x.clamp(f32::MIN, f32::MAX) * inverse, greatest),
        )
    }
}

impl Quantizer for Inq {
    fn name(&self) -> &'static str {
        "inq"
    }

    fn fit(&self, x: ArrayViewD<'_, f32>) -> Result<Grid> {
        let powers: Vec<i32> = (0..=self.span()).map(|exponent| 1 << exponent).collect();
        let members =
            powers.iter().rev().map(|power| -power).chain([0]).chain(powers.iter().copied()).collect();
        let alphabet = Alphabet::symmetric(1 << self.span());
        Grid::new(alphabet, Groups::Tensor, vec![self.scale(x)?])?.with_members(members)
    }

    one_pass!(write);

    fn incremental(&self) -> Option<Inq> {
        Some(*self)
    }

    fn published(&self) -> Arc<dyn Estimator> {
        Arc::new(StraightThrough)
    }
}

/// `⌊log2(4x/3)⌋`: the exponent of the power of two that is nearest to a positive `x`, the greater one of two.
fn nearest_exponent(x: f64) -> i32 {
    // From half of the mantissa's range on, an addition carries into the exponent.
    ((x.to_bits() + (1 << 51)) >> 52) as i32 - 1023
}

/// `x` in units of the least magnitude, of which `greatest` is the largest multiple.
#[inline(always)]
fn code(x: f32, greatest: f32) -> f32 {
    const HALF: u32 = 1 << 22;
    const EXPONENT: u32 = 0xFF << 23;
    let magnitude = x.abs();
    let bounded = if magnitude < 1.0 { 1.0 } else { magnitude };
    let bounded = if bounded > greatest { greatest } else { bounded };
    // The nearest power of two, by the same carry.
    let power = f32::from_bits((bounded.to_bits() + HALF) & EXPONENT);
    let power = if magnitude < 0.5 { 0.0 } else { power };
    let code = if x < 0.0 { -power } else { power };
    if x.is_nan() { x } else { code }
}
