//! Integer dot products in plain code.

use super::dots::{DotTiles, dot_rows, dot_tiles};
use crate::line::Line;
use crate::packed::dot_tile::{self, DotRow, Packing, PortablePairs};
use crate::packed::plane_weights::Spread;
use crate::packed::requantize::{Affine, FixedPoint, Rounded};
use crate::packed::sum::Sum;
use crate::packed::unit_frame::UnitForm;
use crate::tile;

pub(super) static PORTABLE: DotTiles =
    dot_tiles!("plain", inline(never), PortablePairs, Packing::Pairs, peak: [2, 2], rows: [1: [1 2]]);
