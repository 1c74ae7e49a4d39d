//! Portable kernels: no vector instruction is asked for, `mul_add` is the one of the platform's mathematics library.

use core::ops::Range;

use super::bits::{Bits, bit_row, bits};
use super::{Kernels, MOST_VECTORS, Tiles, Width, matrix_tiles, other_tiles, product_row, tiles, width};
use crate::Isa;
use crate::lanes::Portable;
use crate::line::{LANES, Line};
use crate::matrix::{Job, matrix_tile};
use crate::packed::depthwise;
use crate::packed::frame::Frame;
use crate::packed::lanes::{BitLanes, Word};
use crate::packed::tile as packed;
use crate::tile::{self, Row, Sweep};

pub(super) static KERNELS: Kernels = Kernels { isa: Isa::Scalar, f32: F32, f64: F64, bits: BITS };

pub(super) const F32: Tiles<f32> = tiles!(() f32, Portable<f32>, widths: {1: [1 2] outer [| 4]}, peak: 2);
pub(super) const F64: Tiles<f64> = tiles!(() f64, Portable<f64>, widths: {1: [1 2] outer [| 4]}, peak: 2);
pub(super) const BITS: Bits = bits!(Word, vectors: 4, pixels: [1 2]);
