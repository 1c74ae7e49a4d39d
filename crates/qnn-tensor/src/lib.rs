//! Tensors with recycled buffers and a hand-written autograd tape.
//!
//! ```text
//!   Tensor<T>  shared, contiguous values; cloning copies no data, buffers return to a pool
//!      │
//!   Tape<T>    the record of one forward pass: a flat list of nodes in order of execution
//!      │
//!   Var<'t,T>  a Copy handle to a value on a tape: `x * w + b` reads like mathematics
//!      │
//!   record     the one primitive every operation is built from, in this crate or in yours
//! ```
//!
//! An operation is one function: it computes a value and hands [`Tape::record`] the closure that
//! turns the gradient of that value into gradients of its inputs.
//!
//! ```
//! use qnn_tensor::{Tape, Tensor};
//!
//! let tape = Tape::<f32>::new();
//! let x = tape.leaf(Tensor::from_vec(&[3], vec![1.0, -2.0, 3.0])?);
//! let loss = (x * x).sum();
//! let gradients = tape.backward(loss);
//! assert_eq!(gradients.of(x).unwrap().as_slice(), [2.0, -4.0, 6.0]);
//! # Ok::<(), qnn_tensor::ShapeError>(())
//! ```
//!
//! # Invariants
//!
//! - A tensor is always contiguous and row-major; images are NHWC, convolution kernels
//!   `[kernel height, kernel width, input channels, output channels]`.
//! - A forward or backward pass gives the same bits for any number of threads: work is split over
//!   disjoint outputs, and sums are made in chunks of constant size, combined in order.
//! - Gradients of a broadcast input are reduced in one place, by the tape.
//! - Once its shapes have been seen, a training step takes every large buffer from the [`pool`].

pub mod gradcheck;
pub mod ops;
pub mod parallel;
pub mod pool;
pub mod reduce;

mod broadcast;
mod error;
mod gradient;
mod gradients;
mod leaf_gradient;
mod scalar;
mod storage;
mod tape;
mod tensor;

pub use error::ShapeError;
pub use gradcheck::gradcheck;
pub use gradients::Gradients;
pub use leaf_gradient::{FillPiece, LeafGradient, Pieces};
pub use ndarray;
pub use qnn_kernels::{Algorithm, Padding};
pub use qnn_math as math;
pub use scalar::Scalar;
pub use tape::{Tape, Var};
pub use tensor::Tensor;
