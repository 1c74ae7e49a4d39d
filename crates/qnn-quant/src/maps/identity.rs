use std::sync::Arc;

use ndarray::{ArrayViewD, ArrayViewMutD};

use crate::{Error, Estimator, Grid, Groups, Quantizer, Result, StraightThrough, elementwise};

/// No quantization: the full-precision baseline as a map, bit for bit.
///
/// ```text
/// q(x) = x
/// ```
///
/// Its derivative is 1, which is what [`StraightThrough`] says.
///
/// Codes: none ([`Grid::alphabet`] is `None`), 32 bits, scale 1. A layer skips this map altogether.
///
/// ```
/// # use qnn_quant::{Identity, quantize};
/// # use ndarray::array;
/// assert_eq!(quantize(&Identity, &[-0.5, 3.25])?, array![-0.5, 3.25]);
/// # Ok::<(), qnn_quant::Error>(())
/// ```
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Identity;

impl Quantizer for Identity {
    fn name(&self) -> &'static str {
        "identity"
    }

    fn fit(&self, _: ArrayViewD<'_, f32>) -> Result<Grid> {
        Ok(Grid::unquantized())
    }

    fn codes_into(&self, x: ArrayViewD<'_, f32>, grid: &Grid, codes: ArrayViewMutD<'_, f32>) -> Result<()> {
        if grid.stored().is_some() {
            return Err(Error::ForeignGrid { map: self.name() });
        }
        elementwise::map_into(
            x,
            Groups::Tensor,
            &[()],
            codes,
            #[inline(always)]
            move |x, ()| x,
        )
    }

    fn is_fixed(&self) -> bool {
        true
    }

    fn is_identity(&self) -> bool {
        true
    }

    fn published(&self) -> Arc<dyn Estimator> {
        Arc::new(StraightThrough)
    }
}
