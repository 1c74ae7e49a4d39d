use std::sync::Arc;

use ndarray::{ArrayViewD, ArrayViewMutD};

use crate::elementwise::{self, Form};
use crate::{Alphabet, ClippedIdentity, Estimator, Grid, Groups, Quantizer, Result};

/// The sign, with values in {−1, +1}: BinaryConnect's weights, weights and activations of binarized neural networks.
///
/// ```text
/// q(x) = +1   if x ≥ 0        (also −0.0: a binary alphabet has no zero)
///        −1   if x < 0
/// ```
///
/// Published with [`ClippedIdentity`], `dx = dy · 1[|x| ≤ 1]`.
///
#[doc = include_str!("../../plots/sign.svg")]
///
/// Codes: {−1, +1}, 1 bit, scale 1.
///
/// ```
/// # use qnn_quant::{Sign, quantize};
/// # use ndarray::array;
/// assert_eq!(quantize(&Sign, &[-0.5, -0.0, 0.0, 2.0])?, array![-1.0, 1.0, 1.0, 1.0]);
/// # Ok::<(), qnn_quant::Error>(())
/// ```
///
/// Sources: Courbariaux, Bengio, David 2015, *BinaryConnect*, arXiv:1511.00363; Courbariaux et al. 2016,
/// *Binarized Neural Networks*, arXiv:1602.02830, section 1.1, formula (1).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Sign;

impl Quantizer for Sign {
    fn name(&self) -> &'static str {
        "sign"
    }

    fn fit(&self, _: ArrayViewD<'_, f32>) -> Result<Grid> {
        Grid::unit(Alphabet::BINARY)
    }

    fn codes_into(&self, x: ArrayViewD<'_, f32>, grid: &Grid, codes: ArrayViewMutD<'_, f32>) -> Result<()> {
        super::own_grid(self.name(), grid, Alphabet::BINARY)?;
        signs_into(x, grid, Form::Codes, codes)
    }

    fn values_into(&self, x: ArrayViewD<'_, f32>, grid: &Grid, values: ArrayViewMutD<'_, f32>) -> Result<()> {
        super::own_grid(self.name(), grid, Alphabet::BINARY)?;
        signs_into(x, grid, Form::Values, values)
    }

    fn is_fixed(&self) -> bool {
        true
    }

    fn is_sign(&self) -> bool {
        true
    }

    fn published(&self) -> Arc<dyn Estimator> {
        Arc::new(ClippedIdentity::default())
    }
}

pub(crate) fn signs_into(
    x: ArrayViewD<'_, f32>,
    grid: &Grid,
    form: Form,
    out: ArrayViewMutD<'_, f32>,
) -> Result<()> {
    if form == Form::Codes {
        grid.groups().partition(x.shape())?;
        return elementwise::map_into(
            x,
            Groups::Tensor,
            &[()],
            out,
            #[inline(always)]
            move |x, ()| sign(x),
        );
    }
    // The value ±scale is the scale with the sign put on: as many instructions as the code.
    elementwise::map_into(
        x,
        grid.groups(),
        grid.scales(),
        out,
        #[inline(always)]
        move |x, &scale| {
            let value = if x < 0.0 { -scale } else { scale };
            if x.is_nan() { x } else { value }
        },
    )
}

/// +1 for `x ≥ 0`, −1 for `x < 0`, NaN for NaN.
#[inline(always)]
pub(crate) fn sign(x: f32) -> f32 {
    let sign = if x < 0.0 { -1.0 } else { 1.0 };
    if x.is_nan() { x } else { sign }
}
