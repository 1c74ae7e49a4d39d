//! Pointwise pseudo-gradients by bounds: a quick way gives two f32 between which the exact slope lies. Where they are one number, it is that;
//! blocks in which they differ anywhere, or are NaN, are computed again, exactly.

use ndarray::{ArrayViewD, ArrayViewMutD};
use qnn_kernels::{Isa, Kernels};

use crate::elementwise::each_pair;
use crate::{Groups, Result};

/// Elements that are computed once more together: few, since one in doubt is enough.
const BLOCK: usize = 64;

/// `dx = dy · exact(x, parameters[group of x])`, by way of bounds.
pub(crate) fn pullback_bounded_into<P: Copy + Sync>(
    x: ArrayViewD<'_, f32>,
    dy: ArrayViewD<'_, f32>,
    groups: Groups,
    parameters: &[P],
    dx: ArrayViewMutD<'_, f32>,
    bounds: impl Fn(f32, &P) -> [f32; 2] + Sync,
    exact: impl Fn(f32, &P) -> f32 + Sync,
) -> Result<()> {
    // Bounds are made with fused operations: without an instruction for them, one costs more than all else.
    let is_quick = matches!(Kernels::current().isa(), Isa::Avx512 | Isa::Avx2 | Isa::Neon);
    each_pair(
        x,
        dy,
        groups,
        parameters,
        dx,
        #[inline(always)]
        |dx: &mut [f32], x: &[f32], dy: &[f32], parameter: &P| {
            if !is_quick {
                return exact_slice(dx, x, dy, parameter, &exact);
            }
            // A copy, which may stay in registers.
            let parameter = &{ *parameter };
            let (blocks, rest) = dx.as_chunks_mut::<BLOCK>();
            let (x_blocks, x_rest) = x.as_chunks::<BLOCK>();
            let (dy_blocks, dy_rest) = dy.as_chunks::<BLOCK>();
            for ((dx, x), dy) in blocks.iter_mut().zip(x_blocks).zip(dy_blocks) {
                if !quick_block(dx, x, dy, parameter, &bounds) {
                    exact_slice(dx, x, dy, parameter, &exact);
                }
            }
            exact_slice(rest, x_rest, dy_rest, parameter, &exact);
        },
        #[inline(always)]
        |dx: &mut [f32], x: &[f32], dy: &[f32], parameters: &[P]| {
            for (((dx, &x), &dy), parameter) in dx.iter_mut().zip(x).zip(dy).zip(parameters) {
                *dx = dy * exact(x, parameter);
            }
        },
    )
}

/// Whether the bounds of all elements are one number.
#[inline(always)]
fn quick_block<P>(
    dx: &mut [f32; BLOCK],
    x: &[f32; BLOCK],
    dy: &[f32; BLOCK],
    parameter: &P,
    bounds: &impl Fn(f32, &P) -> [f32; 2],
) -> bool {
    let mut are_equal = true;
    for ((dx, &x), &dy) in dx.iter_mut().zip(x).zip(dy) {
        let [low, high] = bounds(x, parameter);
        *dx = dy * low;
        are_equal &= low == high;
    }
    are_equal
}

#[inline(always)]
fn exact_slice<P>(dx: &mut [f32], x: &[f32], dy: &[f32], parameter: &P, exact: &impl Fn(f32, &P) -> f32) {
    for ((dx, &x), &dy) in dx.iter_mut().zip(x).zip(dy) {
        *dx = dy * exact(x, parameter);
    }
}
