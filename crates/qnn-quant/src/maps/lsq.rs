use std::sync::Arc;

use ndarray::{ArrayViewD, ArrayViewMutD};

use crate::checked::quantize_checked_into;
use crate::elementwise::Form;
use crate::rounding::{Steps, clip, round_half_even};
use crate::trained::{in_range, positive};
use crate::{Alphabet, Error, Estimator, Grid, Groups, LsqGradient, Quantizer, Result, Trained, statistics};

/// Evenly spaced levels whose distance, the step size, is trained.
///
/// ```text
/// q(x) = s · round( clip(x / s, −Qn, Qp) )                          halves to even
/// signed:   Qn = 2^(k−1), Qp = 2^(k−1) − 1          weights, and activations of both signs
/// unsigned: Qn = 0,       Qp = 2^k − 1              activations behind a ReLU
/// ```
///
/// Published with [`LsqGradient`], `dx = dy · 1[−Qn < x/s < Qp]`; the gradient of the step is
///
/// ```text
/// ds = g · Σ dy · { round(x/s) − x/s  if −Qn < x/s < Qp,   −Qn below,   Qp above }
/// g  = 1 / √(N Qp)        N: the number of weights, or of features of one example
/// ```
///
/// The first axis of activations is the batch. Training starts at `s = 2 E|x| / √Qp`. Signed maps have at least 2 bits:
/// with one, Qp is 0 and g infinite.
///
#[doc = include_str!("../../plots/lsq.svg")]
///
/// Codes: −Qn to Qp, k bits, scale s.
///
/// ```
/// # use qnn_quant::{Lsq, Trained, quantize};
/// # use ndarray::array;
/// let map = Lsq::for_weights(3, 0.5)?;                              // Qn = 4, Qp = 3
/// let w = array![-9.0, 0.75, 0.6, 1.4].into_dyn();
/// assert_eq!(quantize(&map, &w)?, array![-2.0, 1.0, 0.5, 1.5].into_dyn());
/// let dy = array![1.0, 0.0, 0.0, 0.0].into_dyn();
/// assert_eq!(map.parameter_gradients(w.view(), dy.view())?, [-4.0 / 12_f64.sqrt()]);
/// # Ok::<(), qnn_quant::Error>(())
/// ```
///
/// Source: Esser et al. 2020, *Learned Step Size Quantization*, arXiv:1902.08153, sections 2.1 and 2.2.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Lsq {
    bits: u32,
    signed: bool,
    /// Whether N counts the features of one example rather than all elements.
    per_example: bool,
    step: f32,
}

impl Lsq {
    /// Signed levels of 2 to 8 bits with this step.
    ///
    /// # Errors
    ///
    /// [`Error::Bits`](crate::Error::Bits), and [`Error::Parameter`](crate::Error::Parameter) unless the step is positive and all levels are finite.
    pub fn for_weights(bits: u32, step: f32) -> Result<Self> {
        Lsq::new(super::bits_in("lsq", bits, 2, 8)?, [true, false], step)
    }

    /// Levels from 0 up, of 1 to 8 bits, with this step. The first axis is the batch.
    ///
    /// # Errors
    ///
    /// [`Error::Bits`](crate::Error::Bits), and [`Error::Parameter`](crate::Error::Parameter) unless the step is positive and all levels are finite.
    pub fn for_activations(bits: u32, step: f32) -> Result<Self> {
        Lsq::new(bits, [false, true], step)
    }

    /// Signed levels of 2 to 8 bits for activations of both signs, with this step. The first axis is the batch.
    ///
    /// # Errors
    ///
    /// [`Error::Bits`](crate::Error::Bits), and [`Error::Parameter`](crate::Error::Parameter) unless the step is positive and all levels are finite.
    pub fn for_signed_activations(bits: u32, step: f32) -> Result<Self> {
        Lsq::new(super::bits_in("lsq", bits, 2, 8)?, [true, true], step)
    }

    fn new(bits: u32, [signed, per_example]: [bool; 2], step: f32) -> Result<Self> {
        let (bits, step) = (super::checked_bits("lsq", bits)?, positive("lsq", "s", step)?);
        Lsq { bits, signed, per_example, step }.with_finite_levels()
    }

    fn with_finite_levels(self) -> Result<Self> {
        let codes = self.alphabet();
        if (codes.first.abs().max(codes.last()) as f32 * self.step).is_infinite() {
            let (value, expected) = (self.step.to_string(), "so small that all levels are finite");
            return Err(Error::Parameter { owner: "lsq", parameter: "s", value, expected });
        }
        Ok(self)
    }

    /// k.
    pub fn bits(&self) -> u32 {
        self.bits
    }

    /// s.
    pub fn step(&self) -> f32 {
        self.step
    }

    /// Whether there are levels below 0.
    pub fn is_signed(&self) -> bool {
        self.signed
    }

    /// `g = 1 / √(N Qp)` of a tensor of this shape; 0 for an empty one.
    pub fn gradient_scale(&self, shape: &[usize]) -> f64 {
        let elements: usize = shape.iter().product();
        let batch = if self.per_example { shape.first().copied().unwrap_or(1) } else { 1 };
        match elements.checked_div(batch) {
            Some(count) if count > 0 => 1.0 / (count as f64 * f64::from(self.alphabet().last())).sqrt(),
            _ => 0.0,
        }
    }

    fn alphabet(&self) -> Alphabet {
        if self.signed { Alphabet::signed(self.bits) } else { Alphabet::unsigned(self.bits) }
    }

    fn write(
        &self,
        x: ArrayViewD<'_, f32>,
        grid: &Grid,
        form: Form,
        out: ArrayViewMutD<'_, f32>,
    ) -> Result<()> {
        super::own_grid(self.name(), grid, self.alphabet())?;
        let alphabet = self.alphabet();
        quantize_checked_into(
            x,
            grid,
            &[Steps::new(self.step, alphabet.first, alphabet.last())],
            form,
            out,
            #[inline(always)]
            move |x, steps| steps.likely(x),
            #[inline(always)]
            move |x, steps| steps.nearest(x),
        )
    }
}

impl Quantizer for Lsq {
    fn name(&self) -> &'static str {
        "lsq"
    }

    fn fit(&self, _: ArrayViewD<'_, f32>) -> Result<Grid> {
        Grid::new(self.alphabet(), Groups::Tensor, vec![self.step])
    }

    one_pass!(write);

    fn is_fixed(&self) -> bool {
        true
    }

    fn published(&self) -> Arc<dyn Estimator> {
        Arc::new(LsqGradient)
    }

    fn trained(&self) -> Option<&dyn Trained> {
        Some(self)
    }
}

impl Trained for Lsq {
    fn parameter_names(&self) -> &'static [&'static str] {
        &["s"]
    }

    fn parameters(&self) -> Vec<f32> {
        vec![self.step]
    }

    fn with_parameters(&self, parameters: &[f32]) -> Result<Arc<dyn Quantizer>> {
        let [step] = in_range("lsq", parameters)?;
        Ok(Arc::new(Lsq { step, ..*self }.with_finite_levels()?))
    }

    /// `2 E|x| / √Qp`, and at least [`LEAST`](crate::LEAST). With few bits, the levels of the greatest numbers are no f32: an error.
    fn initial(&self, x: ArrayViewD<'_, f32>) -> Result<Vec<f32>> {
        let mean = statistics::mean_abs(x, Groups::Tensor)?[0];
        let step = (2.0 * mean / f64::from(self.alphabet().last()).sqrt()) as f32;
        let [step] = in_range(self.name(), &[step])?;
        Ok(vec![Lsq { step, ..*self }.with_finite_levels()?.step])
    }

    fn parameter_gradients(&self, x: ArrayViewD<'_, f32>, dy: ArrayViewD<'_, f32>) -> Result<Vec<f64>> {
        let (step, alphabet) = (f64::from(self.step), self.alphabet());
        let (low, high) = (f64::from(alphabet.first), f64::from(alphabet.last()));
        let scale = self.gradient_scale(x.shape());
        // The levels as f32, so that both gradients find the same numbers between them.
        let [lowest, highest] = [low, high].map(|code| (code * step) as f32);
        let [sum] = statistics::sum_of_pairs(x, dy, |x, dy| {
            let ratio = f64::from(x) / step;
            let clipped = clip(ratio, low, high);
            // At the ends and beyond the slope is the level itself; between them round(x/s) − x/s.
            let residue = if lowest < x && x < highest { ratio } else { 0.0 };
            [f64::from(dy) * (round_half_even(clipped) - residue)]
        })?;
        Ok(vec![scale * sum])
    }
}
