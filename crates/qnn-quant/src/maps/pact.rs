use std::sync::Arc;

use ndarray::{ArrayViewD, ArrayViewMutD};

use crate::checked::quantize_checked_into;
use crate::elementwise::Form;
use crate::rounding::{Divisor, clip, clip_f32, likely_nearest, quick_factor};
use crate::trained::{in_range, positive};
use crate::{Alphabet, Estimator, Grid, Groups, PactGradient, Quantizer, Result, Trained, statistics};

/// Activations clipped at a trained height, then rounded to evenly spaced levels.
///
/// ```text
/// y    = 0.5 (|x| − |x − a| + a) = clip(x, 0, a)
/// q(x) = round( (2^k − 1) y / a ) · a / (2^k − 1)                   halves to even
/// ```
///
/// Published with [`PactGradient`], `dx = dy · 1[0 ≤ x < a]`; the gradient of the height is
///
/// ```text
/// da = Σ dy · 1[x ≥ a]
/// ```
///
/// to which the paper adds an L2 penalty on `a`: the optimizers' decay of what quantizers learn (`quantizer_decay` of a training's
/// regularization, 0 unless it is given).
///
#[doc = include_str!("../../plots/pact.svg")]
///
/// Codes: 0 to `2^k − 1`, k bits, values `code · a / (2^k − 1)`.
///
/// ```
/// # use qnn_quant::{Pact, Trained, quantize};
/// # use ndarray::array;
/// let map = Pact::new(2, 6.0)?;
/// let x = array![-1.0, 1.1, 5.0, 9.0].into_dyn();
/// assert_eq!(quantize(&map, &x)?, array![0.0, 2.0, 4.0, 6.0].into_dyn());   // 5/2 is a tie: to the even code 2
/// let dy = array![1.0, 1.0, 1.0, 0.5].into_dyn();
/// assert_eq!(map.parameter_gradients(x.view(), dy.view())?, [0.5]);
/// # Ok::<(), qnn_quant::Error>(())
/// ```
///
/// Source: Choi et al. 2018, *PACT*, arXiv:1805.06085, section 4, formulas (1) to (3).
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Pact {
    bits: u32,
    height: f32,
}

impl Pact {
    /// `bits` from 1 to 8, and the height `a` (the paper starts at 10, or at 8 for pretrained networks).
    ///
    /// # Errors
    ///
    /// [`Error::Bits`](crate::Error::Bits), and [`Error::Parameter`](crate::Error::Parameter) unless the height is
    /// positive and finite.
    pub fn new(bits: u32, height: f32) -> Result<Self> {
        Ok(Pact { bits: super::checked_bits("pact", bits)?, height: positive("pact", "a", height)? })
    }

    /// k.
    pub fn bits(&self) -> u32 {
        self.bits
    }

    /// a.
    pub fn height(&self) -> f32 {
        self.height
    }

    fn alphabet(&self) -> Alphabet {
        Alphabet::unsigned(self.bits)
    }

    fn write(
        &self,
        x: ArrayViewD<'_, f32>,
        grid: &Grid,
        form: Form,
        out: ArrayViewMutD<'_, f32>,
    ) -> Result<()> {
        super::own_grid(self.name(), grid, self.alphabet())?;
        let (n, height) = (f64::from((1_u32 << self.bits) - 1), f64::from(self.height));
        let by_height = Divisor::new(height);
        let (per_height, greatest) = (quick_factor(n / height), n as f32);
        quantize_checked_into(
            x,
            grid,
            &[()],
            form,
            out,
            #[inline(always)]
            move |x, ()| likely_nearest(clip_f32(x * per_height, 0.0, greatest), 2.5e-7 * greatest),
            #[inline(always)]
            move |x, ()| by_height.round(n * clip(x.into(), 0.0, height)) as f32,
        )
    }
}

impl Quantizer for Pact {
    fn name(&self) -> &'static str {
        "pact"
    }

    fn fit(&self, _: ArrayViewD<'_, f32>) -> Result<Grid> {
        let grid = Grid::new(self.alphabet(), Groups::Tensor, vec![self.height])?;
        grid.divided_by((1 << self.bits) - 1)
    }

    one_pass!(write);

    fn is_fixed(&self) -> bool {
        true
    }

    fn published(&self) -> Arc<dyn Estimator> {
        Arc::new(PactGradient)
    }

    fn trained(&self) -> Option<&dyn Trained> {
        Some(self)
    }
}

impl Trained for Pact {
    fn parameter_names(&self) -> &'static [&'static str] {
        &["a"]
    }

    fn parameters(&self) -> Vec<f32> {
        vec![self.height]
    }

    fn with_parameters(&self, parameters: &[f32]) -> Result<Arc<dyn Quantizer>> {
        let [height] = in_range("pact", parameters)?;
        Ok(Arc::new(Pact { height, ..*self }))
    }

    /// The height that the map has: PACT does not look at the tensor.
    fn initial(&self, _: ArrayViewD<'_, f32>) -> Result<Vec<f32>> {
        Ok(self.parameters())
    }

    fn parameter_gradients(&self, x: ArrayViewD<'_, f32>, dy: ArrayViewD<'_, f32>) -> Result<Vec<f64>> {
        let height = self.height;
        statistics::sum_of_pairs(x, dy, |x, dy| if x >= height { [dy.into()] } else { [0.0] })
            .map(|sums| sums.to_vec())
    }
}
