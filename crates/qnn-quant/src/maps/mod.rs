/// Codes and values of a map whose method `write` gives either in one pass.
macro_rules! one_pass {
    ($write:ident) => {
        fn codes_into(
            &self,
            x: ArrayViewD<'_, f32>,
            grid: &Grid,
            codes: ArrayViewMutD<'_, f32>,
        ) -> Result<()> {
            self.$write(x, grid, Form::Codes, codes)
        }

        fn values_into(
            &self,
            x: ArrayViewD<'_, f32>,
            grid: &Grid,
            values: ArrayViewMutD<'_, f32>,
        ) -> Result<()> {
            self.$write(x, grid, Form::Values, values)
        }
    };
}

mod affine;
mod ap2;
mod binary_unit;
mod constant_scaled_sign;
mod dorefa_activations;
mod dorefa_gradients;
mod dorefa_weights;
mod even_levels;
mod fixed_point;
mod heaviside;
mod hysteresis_sign;
mod identity;
mod inq;
mod log_ap2;
mod lsq;
mod magnitude_aware_sign;
mod pact;
mod quantized_hardtanh;
mod quantized_relu;
mod scaled_sign;
mod sign;
mod stochastic_sign;
mod ternary;
mod trained_ternary;
mod uniform;

pub use affine::Affine;
pub use ap2::{Ap2, ap2};
pub use binary_unit::BinaryUnit;
pub use constant_scaled_sign::ConstantScaledSign;
pub use dorefa_activations::DorefaActivations;
pub use dorefa_gradients::DorefaGradients;
pub use dorefa_weights::DorefaWeights;
pub use even_levels::EvenLevels;
pub use fixed_point::FixedPoint;
pub use heaviside::Heaviside;
pub use hysteresis_sign::HysteresisSign;
pub use identity::Identity;
pub use inq::Inq;
pub use log_ap2::LogAp2;
pub use lsq::Lsq;
pub use magnitude_aware_sign::MagnitudeAwareSign;
pub use pact::Pact;
pub use quantized_hardtanh::QuantizedHardTanh;
pub use quantized_relu::QuantizedRelu;
pub use scaled_sign::ScaledSign;
pub use sign::Sign;
pub use stochastic_sign::StochasticSign;
pub use ternary::Ternary;
pub use trained_ternary::TrainedTernary;
pub use uniform::Uniform;

pub use log_ap2::log_ap2;

pub(crate) use dorefa_weights::greatest_tanh;
pub(crate) use sign::sign;

use crate::{Alphabet, Error, Grid, Groups, Result};

fn checked_bits(map: &'static str, bits: u32) -> Result<u32> {
    bits_in(map, bits, 1, 8)
}

fn bits_in(map: &'static str, bits: u32, min: u32, max: u32) -> Result<u32> {
    if (min..=max).contains(&bits) { Ok(bits) } else { Err(Error::Bits { map, bits, min, max }) }
}

/// Refuses a grid of other codes, or with a table in place of a common scale.
fn own_codes(map: &'static str, grid: &Grid, alphabet: Alphabet) -> Result<()> {
    let is_own = grid.stored() == Some(alphabet) && grid.is_factored();
    if is_own { Ok(()) } else { Err(Error::ForeignGrid { map }) }
}

/// The same of maps whose grids have one group: the whole tensor.
fn own_grid(map: &'static str, grid: &Grid, alphabet: Alphabet) -> Result<()> {
    own_codes(map, grid, alphabet)?;
    if grid.groups() == Groups::Tensor { Ok(()) } else { Err(Error::ForeignGrid { map }) }
}

/// What `fit` of this map left in the grid.
fn own_statistics<'a>(map: &'static str, grid: &'a Grid) -> Result<&'a [f64]> {
    let statistics = grid.statistics();
    if statistics.len() == grid.groups().count() { Ok(statistics) } else { Err(Error::ForeignGrid { map }) }
}
