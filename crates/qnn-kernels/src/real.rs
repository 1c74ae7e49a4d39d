//! The number types that kernels compute in.

use core::fmt::Debug;

use num_traits::Float;

/// The numbers that every kernel is written for: `f32` and `f64`.
///
/// `f32` is what networks compute in; `f64` runs the same algorithms for gradient checks. Sealed: the order of roundings is a promise that
/// only types with a fused multiply-add can keep.
pub trait Real: Float + Default + Debug + Send + Sync + compute::Compute + 'static {}

impl Real for f32 {}
impl Real for f64 {}

pub(crate) mod compute {
    use crate::arch::{Kernels, Tiles};
    use crate::scratch::Pool;
    use crate::threads::idle;

    #[cfg(not(any(feature = "std", test)))]
    #[allow(unused_imports)] // Whether core lacks these functions depends on what else is compiled.
    use num_traits::Float as _;

    /// What the crate itself needs of a number type.
    pub trait Compute: Copy {
        /// `self · factor + addend`, rounded once.
        fn fused(self, factor: Self, addend: Self) -> Self;
        /// The numbers as `f32`, if that is their type.
        fn as_f32(numbers: &[Self]) -> Option<&[f32]>;
        /// The same for writing.
        fn as_f32_mut(numbers: &mut [Self]) -> Option<&mut [f32]>;
        /// This type's tiles.
        fn tiles(kernels: &Kernels) -> &Tiles<Self>;
        /// Visits this thread's idle buffers.
        fn with_pool<R>(visit: impl FnOnce(&mut Pool<Self>) -> R) -> R;
    }

    macro_rules! compute {
        ($number:ident, $as_f32:expr, $as_f32_mut:expr) => {
            impl Compute for $number {
                // Always inlined: only in its caller, with the caller's instruction set, does it become one instruction.
                #[inline(always)]
                fn fused(self, factor: Self, addend: Self) -> Self {
                    self.mul_add(factor, addend)
                }

                fn as_f32(numbers: &[Self]) -> Option<&[f32]> {
                    $as_f32(numbers)
                }

                fn as_f32_mut(numbers: &mut [Self]) -> Option<&mut [f32]> {
                    $as_f32_mut(numbers)
                }

                fn tiles(kernels: &Kernels) -> &Tiles<Self> {
                    &kernels.$number
                }

                fn with_pool<R>(visit: impl FnOnce(&mut Pool<Self>) -> R) -> R {
                    idle!(pool: Pool<$number>);
                    pool(visit)
                }
            }
        };
    }

    compute!(f32, Some, Some);
    compute!(f64, |_| None, |_| None);
}
