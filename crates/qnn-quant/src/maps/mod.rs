mod binary_unit;
mod constant_scaled_sign;
mod dorefa_activations;
mod dorefa_weights;
mod identity;
mod scaled_sign;
mod sign;
mod ternary;

pub use binary_unit::BinaryUnit;
pub use constant_scaled_sign::ConstantScaledSign;
pub use dorefa_activations::DorefaActivations;
pub use dorefa_weights::DorefaWeights;
pub use identity::Identity;
pub use scaled_sign::ScaledSign;
pub use sign::Sign;
pub use ternary::Ternary;

pub(crate) use dorefa_weights::greatest_tanh;
pub(crate) use sign::sign;

use crate::{Error, Grid, Result};

fn checked_bits(map: &'static str, bits: u32) -> Result<u32> {
    let (min, max) = (1, 8);
    if (min..=max).contains(&bits) { Ok(bits) } else { Err(Error::Bits { map, bits, min, max }) }
}

/// What `fit` of this map left in the grid.
fn own_statistics<'a>(map: &'static str, grid: &'a Grid) -> Result<&'a [f64]> {
    let statistics = grid.statistics();
    if statistics.len() == grid.groups().count() { Ok(statistics) } else { Err(Error::ForeignGrid { map }) }
}
