use std::fmt::Display;
use std::iter::Sum;

use bytemuck::Pod;
use num_traits::NumAssign;
use qnn_kernels::Real;

use crate::pool::Pool;

/// An element type of tensors: `f32` for work, `f64` for gradient checks.
pub trait Scalar: Real + Pod + NumAssign + Sum + Display {
    /// The pool that tensors of this type take their buffers from.
    fn pool() -> &'static Pool<Self>;

    /// The nearest value to `x`.
    fn of(x: f64) -> Self;

    /// This value in double precision, exactly.
    fn as_f64(self) -> f64;
}

macro_rules! scalar {
    ($type:ty) => {
        impl Scalar for $type {
            fn pool() -> &'static Pool<Self> {
                static POOL: Pool<$type> = Pool::new();
                &POOL
            }

            #[inline(always)]
            fn of(x: f64) -> Self {
                x as $type
            }

            #[inline(always)]
            fn as_f64(self) -> f64 {
                f64::from(self)
            }
        }
    };
}
scalar!(f32);
scalar!(f64);
