use std::sync::Arc;

use ndarray::{ArrayViewD, ArrayViewMutD};

use crate::elementwise::{Form, quantize_into};
use crate::{Alphabet, ClippedIdentity, Estimator, Grid, Quantizer, Result};

/// The unit step, with values in {0, 1}.
///
/// ```text
/// q(x) = 1 if x > 0, else 0
/// ```
///
/// Zero itself gives 0, unlike [`Sign`](crate::Sign), where it gives the upper level.
///
/// Published with [`ClippedIdentity`], `dx = dy · 1[|x| ≤ 1]`.
///
#[doc = include_str!("../../plots/heaviside.svg")]
///
/// Codes: {0, 1}, 1 bit, scale 1.
///
/// ```
/// # use qnn_quant::{Heaviside, quantize};
/// # use ndarray::array;
/// assert_eq!(quantize(&Heaviside, &[-0.5, 0.0, 0.1])?, array![0.0, 0.0, 1.0]);
/// # Ok::<(), qnn_quant::Error>(())
/// ```
///
/// Source: Larq's `SteHeaviside`, Geiger et al. 2020, *Larq*, JOSS 5(45), 1746.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Heaviside;

impl Heaviside {
    fn write(
        &self,
        x: ArrayViewD<'_, f32>,
        grid: &Grid,
        form: Form,
        out: ArrayViewMutD<'_, f32>,
    ) -> Result<()> {
        super::own_grid(self.name(), grid, Alphabet::UNIT)?;
        quantize_into(
            x,
            grid,
            &[()],
            form,
            out,
            #[inline(always)]
            move |x, ()| {
                let step = if x > 0.0 { 1.0 } else { 0.0 };
                if x.is_nan() { x } else { step }
            },
        )
    }
}

impl Quantizer for Heaviside {
    fn name(&self) -> &'static str {
        "heaviside"
    }

    fn fit(&self, _: ArrayViewD<'_, f32>) -> Result<Grid> {
        Grid::unit(Alphabet::UNIT)?.with_thresholds(vec![0.0])
    }

    one_pass!(write);

    fn is_fixed(&self) -> bool {
        true
    }

    fn published(&self) -> Arc<dyn Estimator> {
        Arc::new(ClippedIdentity::default())
    }
}
