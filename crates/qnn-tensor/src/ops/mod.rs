//! Operations on a tape: forward and backward side by side, one concept per file.
//!
//! Most are methods of [`Var`](crate::Var). Shapes that do not fit are programming errors and
//! panic, naming the operation; every method says so under *Panics*.

mod activation;
mod arithmetic;
mod batch_norm;
mod batch_norm_add;
mod channels;
mod conv;
mod conv_gradients;
mod conv_normalized;
mod dropout;
mod embedding;
mod factors;
mod gate;
mod loss;
mod matmul;
mod max_pool;
mod moments;
mod pointwise;
mod pool;
mod reduction;
mod shape;
mod shift_batch_norm;
pub mod slices;
mod softmax;

/// Functions of one element, as the tape's operations compute them: `functions::Relu.f(x)` has the
/// bits of [`Var::relu`](crate::Var::relu).
pub mod functions {
    pub use super::activation::{HardSigmoid, HardTanh, LeakyRelu, Relu, Sigmoid, Tanh};
    pub use super::pointwise::Pointwise;
}

pub use batch_norm::{
    affine, batch_norm_eval, batch_norm_gated_train, batch_norm_scale, batch_norm_train, normalized,
};
pub use batch_norm_add::batch_norm_add_gated_train;
pub use conv::{Conv2dOptions, conv2d_factored, conv2d_measured};
pub use conv_normalized::{ConvEnd, conv2d_normalized};
pub use embedding::embedding;
pub use factors::Factors;
pub use gate::Gate;
pub use matmul::{matmul_exact, matmul_factored};
pub use moments::Moments;
pub use pointwise::Pointwise;
pub use pool::PoolOptions;
pub use shape::concat;
pub use shift_batch_norm::{ShiftScale, shift_batch_norm_eval, shift_batch_norm_train};

#[cfg(test)]
mod tests {
    /// Runs `f` in a pool of `threads` threads.
    pub(super) fn with_threads<R: Send>(threads: usize, f: impl FnOnce() -> R + Send) -> R {
        rayon::ThreadPoolBuilder::new().num_threads(threads).build().unwrap().install(f)
    }
}
