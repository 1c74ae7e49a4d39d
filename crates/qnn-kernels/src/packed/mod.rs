//! Codes of few bits, packed: convolutions, matrix products and pooling of integers, exact on every instruction set.
//!
//! ```text
//! f32 codes ──Layout::pack──▶ bytes ──PackedConv::run──▶ accumulators ──Output──▶ integers, f32, packed codes
//!                                                                          ▲
//!                                         Thresholds: found by asking the network's own function
//! ```
//!
//! Every code is a weighted sum of planes of bits ([`Encoding`]), so every product of two codes is one of few word operations and a count of bits:
//!
//! ```text
//! ±1 × ±1        K − 2·pop(x ⊕ w)
//! {0,1} × ±1     pop(x ⊕ w) − pop(w)
//! ±1 × {m, n}    pop(m) − 2·pop(m ∧ (n ⊕ x))       ternary weights: m nonzero, n negative; {0,1}: n = 0
//! {0,1} × {m, n} pop(m ∧ (n ⊕ x)) − pop(n)
//! ```
//!
//! A convolution runs as `frame` (images to padded words, plane by plane), `tile` (register tiles over words, instantiated in `arch`; `depthwise`
//! where every channel has its own filter), `stage` (what becomes of the accumulators); `run` deals bands of rows to threads.
//!
//! A ternary input is the half sum of two vectors of signs; planes of weight `2^i` and `2^j` add with `2^(i+j)`.
//!
//! ```
//! use qnn_kernels::{Kernels, Padding, packed::{ConvGeometry, Encoding, Layout, Output, PackedConv, Thresholds}};
//! let padding = Padding { top: 1, bottom: 1, left: 1, right: 1 };
//! let geometry = ConvGeometry { padding, ..ConvGeometry::new([4, 4, 16], [3, 3], 8) };
//! let conv = PackedConv::new(&geometry, Encoding::Sign, 0, Encoding::Sign, &vec![1.0; geometry.weight_len()])?;
//! let mut x = vec![0; conv.x_layout().bytes_for(geometry.pixels())];
//! conv.x_layout().pack_signs(&vec![0.5; 4 * 4 * 16], &mut x)?;
//! // The code of every output: +1 where batch norm, here (acc − 70)·0.1, is not negative.
//! let thresholds = Thresholds::search(8, 2, conv.range(), |_, acc| usize::from((acc as f32 - 70.0) * 0.1 >= 0.0))?;
//! let layout = Layout::new(Encoding::Sign, 8)?;
//! let mut y = vec![0; layout.bytes_for(geometry.out_pixels())];
//! conv.run(Kernels::current(), &x, Output::Codes { thresholds: &thresholds, layout, y: &mut y });
//! assert_eq!(y[0], 0b1111_1111, "a corner sees 4 · 16 ones: 64 < 70");
//! assert_eq!(y[1], 0, "an edge sees 6 · 16");
//! # Ok::<(), qnn_kernels::packed::PackError>(())
//! ```

mod border;
mod code_range;
mod codes;
mod compression;
mod conv;
pub(crate) mod depthwise;
mod dot_plan;
pub(crate) mod dot_tile;
mod encoding;
mod error;
pub(crate) mod frame;
mod geometry;
mod int8;
#[cfg(test)]
mod int8_tests;
pub(crate) mod lanes;
mod layout;
mod lookup;
mod output;
mod plan;
pub(crate) mod plane_weights;
mod pool;
pub(crate) mod requantize;
mod run;
mod scratch;
pub(crate) mod sign_product;
mod signs;
mod stage;
pub(crate) mod sum;
mod threshold;
pub(crate) mod tile;
pub(crate) mod unit_frame;
mod weight_only;
mod weights;

pub use code_range::{CodeRange, RequantizeError};
pub use compression::{StoredValues, compression_rate};
pub use conv::PackedConv;
pub use encoding::Encoding;
pub use error::PackError;
pub use geometry::ConvGeometry;
pub use int8::{ByteInput, Int8Conv, Int8Output, bytes_of};
pub use layout::Layout;
pub use lookup::{LookupConv, plain_conv2d};
pub use output::{Output, Selector, Tile, Tiles};
pub use pool::{Extreme, PoolGeometry};
pub use requantize::{FixedPoint, Requantize, Rounded};
pub use sum::Sum;
pub use threshold::{Threshold, Thresholds, threshold};
pub use weight_only::{WeightOnlyConv, WeightOnlyInt8Conv};
