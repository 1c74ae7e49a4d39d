//! Elementwise maps by a quick way in f32, checked by the exact one: the quick way says of every result how much it is in doubt, and blocks
//! with doubts are computed again.

use ndarray::{ArrayViewD, ArrayViewMutD};

use crate::elementwise::{Form, each_piece, map_row, map_slice, pair_up, quantize_into};
use crate::{Grid, Groups, Result};

/// Elements that are computed once more together: few, since one in doubt is enough.
const BLOCK: usize = 64;

/// [`quantize_into`] by a quick code in f32, whose second result is a doubt: where it is 1 and more, the exact code is asked.
pub(crate) fn quantize_checked_into<P: Copy + Sync>(
    x: ArrayViewD<'_, f32>,
    grid: &Grid,
    parameters: &[P],
    form: Form,
    out: ArrayViewMutD<'_, f32>,
    quick: impl Fn(f32, &P) -> (f32, f32) + Sync,
    exact: impl Fn(f32, &P) -> f32 + Sync,
) -> Result<()> {
    let factors = match form {
        Form::Codes => Some(vec![[1.0, 0.0]; grid.groups().count()]),
        Form::Values => grid.factors(),
    };
    let Some(factors) = factors else { return quantize_into(x, grid, parameters, form, out, exact) };
    map_checked_into(
        x,
        grid.groups(),
        &pair_up(parameters, &factors),
        out,
        #[inline(always)]
        move |x, (p, [high, low])| {
            let (code, doubt) = quick(x, p);
            (code * high + code * low, doubt)
        },
        #[inline(always)]
        move |x, (p, [high, low])| {
            let code = exact(x, p) + 0.0;
            code * high + code * low
        },
    )
}

/// [`map_into`](crate::elementwise::map_into) with `exact`, by way of `quick`, whose second result is a doubt: blocks in which it is below 1
/// everywhere are finished.
pub(crate) fn map_checked_into<P: Sync>(
    x: ArrayViewD<'_, f32>,
    groups: Groups,
    parameters: &[P],
    out: ArrayViewMutD<'_, f32>,
    quick: impl Fn(f32, &P) -> (f32, f32) + Sync,
    exact: impl Fn(f32, &P) -> f32 + Sync,
) -> Result<()> {
    each_piece(
        x,
        groups,
        parameters,
        out,
        #[inline(always)]
        |out: &mut [f32], x: &[f32], parameter: &P| {
            for (out, x) in out.chunks_mut(BLOCK).zip(x.chunks(BLOCK)) {
                let is_certain = quick_slice(out, x, parameter, &quick) < 1.0;
                if !is_certain {
                    map_slice(out, x, parameter, &exact);
                }
            }
        },
        #[inline(always)]
        |out: &mut [f32], x: &[f32], parameters: &[P]| map_row(out, x, parameters, &exact),
    )
}

/// The greatest doubt.
#[inline(always)]
fn quick_slice<P>(out: &mut [f32], x: &[f32], parameter: &P, f: &impl Fn(f32, &P) -> (f32, f32)) -> f32 {
    let mut greatest = 0;
    for (out, &x) in out.iter_mut().zip(x) {
        let (value, doubt) = f(x, parameter);
        *out = value;
        // As integers, the bits of non-negative floats are ordered like the floats, with NaN at the top; this maximum vectorises.
        greatest = greatest.max(doubt.abs().to_bits() as i32);
    }
    f32::from_bits(greatest as u32)
}
