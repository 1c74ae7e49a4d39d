mod binary_unit;
mod constant_scaled_sign;
mod dorefa_activations;
mod dorefa_weights;
mod hysteresis_sign;
mod identity;
mod inq;
mod lsq;
mod pact;
mod scaled_sign;
mod sign;
mod ternary;
mod trained_ternary;

pub use binary_unit::BinaryUnit;
pub use constant_scaled_sign::ConstantScaledSign;
pub use dorefa_activations::DorefaActivations;
pub use dorefa_weights::DorefaWeights;
pub use hysteresis_sign::HysteresisSign;
pub use identity::Identity;
pub use inq::Inq;
pub use lsq::Lsq;
pub use pact::Pact;
pub use scaled_sign::ScaledSign;
pub use sign::Sign;
pub use ternary::Ternary;
pub use trained_ternary::TrainedTernary;

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
