use std::sync::Arc;

use ndarray::{ArrayViewD, ArrayViewMutD};

use super::dorefa_activations::unit_codes_into;
use crate::elementwise::Form;
use crate::{Alphabet, ClippedUnit, Estimator, Grid, Quantizer, Result};

/// Activations of one bit with values in {0, 1}: DoReFa-Net's activations for k = 1.
///
/// ```text
/// q(x) = round(clip(x, 0, 1)) = 1 if x > 1/2, else 0                (1/2 itself rounds to the even 0)
/// ```
///
/// With weights in {−1, +1} a product needs two AND gates and two popcounts in place of an XNOR.
///
/// Published with [`ClippedUnit`], `dx = dy · 1[0 ≤ x ≤ 1]`.
///
#[doc = include_str!("../../plots/binary-unit.svg")]
///
/// Codes: {0, 1}, 1 bit, scale 1.
///
/// ```
/// # use qnn_quant::{BinaryUnit, quantize};
/// # use ndarray::array;
/// assert_eq!(quantize(&BinaryUnit, &[-1.0, 0.5, 0.6, 2.0])?, array![0.0, 0.0, 1.0, 1.0]);
/// # Ok::<(), qnn_quant::Error>(())
/// ```
///
/// Source: Zhou et al. 2016, *DoReFa-Net*, arXiv:1606.06160, section 2.4, formula (6) with k = 1.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct BinaryUnit;

impl Quantizer for BinaryUnit {
    fn name(&self) -> &'static str {
        "binary-unit"
    }

    fn fit(&self, _: ArrayViewD<'_, f32>) -> Result<Grid> {
        Grid::unit(Alphabet::UNIT)
    }

    fn codes_into(&self, x: ArrayViewD<'_, f32>, grid: &Grid, codes: ArrayViewMutD<'_, f32>) -> Result<()> {
        super::own_grid(self.name(), grid, Alphabet::UNIT)?;
        unit_codes_into(x, 1, grid, Form::Codes, codes)
    }

    fn values_into(&self, x: ArrayViewD<'_, f32>, grid: &Grid, values: ArrayViewMutD<'_, f32>) -> Result<()> {
        super::own_grid(self.name(), grid, Alphabet::UNIT)?;
        unit_codes_into(x, 1, grid, Form::Values, values)
    }

    fn is_fixed(&self) -> bool {
        true
    }

    fn published(&self) -> Arc<dyn Estimator> {
        Arc::new(ClippedUnit)
    }
}
