//! CPU kernels of quantized neural networks: order-exact convolution and matrix products, packed convolutions of few bits.
//!
//! Slices in, slices out: no arrays, no autograd. All kernels run on rayon's current pool.
//!
//! ```text
//! functions ──▶ Kernels (one table for each instruction set) ──▶ plan, kernel_gradient: frames, panels, chunks
//!                                                                winograd: 3×3 kernels in tiles of 2×2 pixels
//!                                                                        │
//!                reference: plain loops, the oracle                      ▼
//!                                                                tile: register tiles, instantiated in arch
//! ```
//!
//! ```
//! use qnn_kernels::{ChannelAffine, Conv2dShape, Padding, conv2d};
//!
//! // An image of 3 × 3 pixels and two filters of 2 × 2: the upper left pixel, and the lower right one.
//! let shape = Conv2dShape {
//!     batch: 1, height: 3, width: 3, channels: 1, out_channels: 2,
//!     kernel: [2, 2], stride: [1, 1], padding: Padding::NONE, groups: 1,
//! };
//! let x = [1.0, 2.0, 3.0, 4.0, 5.0, 6.0, 7.0, 8.0, 9.0];
//! let w = [1.0, 0.0, 0.0, 0.0, 0.0, 0.0, 0.0, 1.0]; // [kh, kw, in, out]
//! let mut y = [0.0_f32; 8]; // [n, oh, ow, out]
//! conv2d(&shape, &x, &w, 0.0, ChannelAffine::bias(&[0.0, 0.5]), &mut y);
//! assert_eq!(y, [1.0, 5.5, 2.0, 6.5, 4.0, 8.5, 5.0, 9.5]);
//! ```
//!
//! [`FloatConv`] is the same for weights that are used again and again, and [`packed`] has an example of a convolution of bits.
//!
//! # Invariants
//!
//! - Every output of a direct forward kernel is one accumulator: it starts at `+0` and takes its terms by fused multiply-add in the order
//!   `kh, kw, cin`, then scale and bias round once each. So neither tiles nor threads nor instruction set change a bit of it.
//! - Outputs of codes by [`Algorithm::Exact`] are sums of integers, rounded once.
//! - Gradients, and outputs by [`Algorithm::Winograd`], are sums in an order that the shape alone fixes; they too are the same bits on every
//!   machine.
//! - Packed kernels ([`packed`]) sum integers: every instruction set, tiling and schedule gives the same.
//! - [`reference`](mod@reference) says the same in plain loops, and agrees bit for bit while operands are finite (but for the sign of a vanished
//!   gradient, as it says there).
//! - Unsafe code is in `arch` and nowhere else.
//!
//! # Features
//!
//! `std`, on by default, brings threads, the choice of the instruction set at run time and buffers that are kept from call to call. Without it
//! the crate needs `alloc` alone: the same functions on the calling thread, for the instruction set that it is compiled for.
//!
//! `QNN_ISA` (`scalar`, `popcnt`, `avx2`, `avx512`, `neon`) forces an instruction set: see [`Kernels::current`].

#![cfg_attr(not(any(feature = "std", test)), no_std)]

extern crate alloc;

mod affine;
mod ahead;
mod arch;
// Columns are for tiles of AVX-512.
#[cfg_attr(not(target_arch = "x86_64"), allow(dead_code))]
mod column;
mod convolution;
mod exact;
mod float_conv;
mod frame;
mod functions;
mod gradients;
mod isa;
mod kernel_gradient;
mod kernels;
mod lanes;
mod line;
mod matrix;
mod operand;
pub mod packed;
mod plan;
mod product;
mod real;
pub mod reference;
mod scratch;
mod shape;
mod threads;
mod tile;
mod visitor;
mod winograd;

pub use affine::ChannelAffine;
pub use arch::Kernels;
pub use convolution::{Algorithm, Convolution};
pub use float_conv::{FloatConv, FloatTile};
pub use functions::{
    GradientRows, Vectorize, conv2d, conv2d_gradients, conv2d_input_gradient, conv2d_kernel_gradient,
    convolve, convolve_visited, matmul, matmul_exact, matmul_left_gradient, matmul_right_gradient,
    takes_rows, vectorized, with_matmul_right_gradient, with_scratch,
};
pub use gradients::{Conv2dGradients, OutputGradient, takes_pieces};
pub use isa::{Isa, UnknownIsa};
pub use real::Real;
pub use shape::{Conv2dShape, MatmulShape, Padding, ShapeError};
pub use visitor::{VisitImages, Visitor};
