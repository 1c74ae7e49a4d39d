//! One pass over large arrays, group by group: what maps and estimators are made of.
//!
//! Arrays in standard (row-major) layout are read and written as slices, in parallel over pieces of constant size, with
//! the closure inlined into the innermost loop. Every other layout goes through a row-major copy, with the same result.
//! Nothing here depends on the number of threads.
//!
//! The loops are plain Rust, compiled once more for the widest vectors that the processor has, without fused operations: so the bits
//! are the same everywhere. Closures and all that they call should be `#[inline(always)]`: what is left as a call is compiled for
//! any processor.

use std::borrow::Cow;

use ndarray::{ArrayViewD, ArrayViewMutD, Axis, Zip};
use qnn_kernels::vectorized;
use rayon::prelude::*;

use crate::grid::{Spacing, scaled};
use crate::groups::Partition;
use crate::levels::level;
use crate::{Error, Grid, Groups, Result};

/// Elements in one piece of work: large enough to pay for its scheduling, small enough to stay in a core's cache. A multiple of all
/// that is done in batches.
const PIECE: usize = 1 << 14;

/// `out = f(x, parameters[group of x])`.
///
/// # Errors
///
/// [`Error::Shape`] if `out` has another shape than `x`, [`Error::GroupsDoNotFit`] if `x` has not these groups.
///
/// # Panics
///
/// If there is not one parameter per group.
pub fn map_into<P: Sync>(
    x: ArrayViewD<'_, f32>,
    groups: Groups,
    parameters: &[P],
    out: ArrayViewMutD<'_, f32>,
    f: impl Fn(f32, &P) -> f32 + Sync,
) -> Result<()> {
    each_piece(
        x,
        groups,
        parameters,
        out,
        #[inline(always)]
        |out: &mut [f32], x: &[f32], parameter: &P| map_slice(out, x, parameter, &f),
        #[inline(always)]
        |out: &mut [f32], x: &[f32], parameters: &[P]| map_row(out, x, parameters, &f),
    )
}

/// Hands every piece of `out` with its part of `x` to `slice` where one parameter serves all of it, and by whole rows of groups to `row`,
/// both in code for the widest vectors.
pub(crate) fn each_piece<P: Sync>(
    x: ArrayViewD<'_, f32>,
    groups: Groups,
    parameters: &[P],
    out: ArrayViewMutD<'_, f32>,
    slice: impl Fn(&mut [f32], &[f32], &P) + Sync,
    row: impl Fn(&mut [f32], &[f32], &[P]) + Sync,
) -> Result<()> {
    same_shape("the output", x.shape(), out.shape())?;
    let partition = partition(&x, groups, parameters.len())?;
    let x = row_major(&x);
    write_row_major(out, &mut |out| {
        run(out, partition, &|start, out, span| {
            let x = &x[start..start + out.len()];
            vectorized(
                #[inline(always)]
                || match span {
                    Span::Group(group) => slice(out, x, &parameters[group]),
                    Span::Rows => {
                        let rows = out.chunks_exact_mut(partition.count).zip(x.chunks_exact(partition.count));
                        for (out, x) in rows {
                            row(out, x, parameters);
                        }
                    }
                },
            );
        });
    });
    Ok(())
}

/// `out = f(x, y, parameters[group of x])`.
///
/// # Errors
///
/// [`Error::Shape`] if `y` or `out` has another shape than `x`, [`Error::GroupsDoNotFit`] if `x` has not these groups.
///
/// # Panics
///
/// If there is not one parameter per group.
pub fn zip_into<P: Sync>(
    x: ArrayViewD<'_, f32>,
    y: ArrayViewD<'_, f32>,
    groups: Groups,
    parameters: &[P],
    out: ArrayViewMutD<'_, f32>,
    f: impl Fn(f32, f32, &P) -> f32 + Sync,
) -> Result<()> {
    each_pair(
        x,
        y,
        groups,
        parameters,
        out,
        #[inline(always)]
        |out: &mut [f32], x: &[f32], y: &[f32], parameter: &P| zip_slice(out, x, y, parameter, &f),
        #[inline(always)]
        |out: &mut [f32], x: &[f32], y: &[f32], parameters: &[P]| zip_row(out, x, y, parameters, &f),
    )
}

/// [`each_piece`] of two inputs.
pub(crate) fn each_pair<P: Sync>(
    x: ArrayViewD<'_, f32>,
    y: ArrayViewD<'_, f32>,
    groups: Groups,
    parameters: &[P],
    out: ArrayViewMutD<'_, f32>,
    slice: impl Fn(&mut [f32], &[f32], &[f32], &P) + Sync,
    row: impl Fn(&mut [f32], &[f32], &[f32], &[P]) + Sync,
) -> Result<()> {
    same_shape("the second input", x.shape(), y.shape())?;
    same_shape("the output", x.shape(), out.shape())?;
    let partition = partition(&x, groups, parameters.len())?;
    let (x, y) = (row_major(&x), row_major(&y));
    write_row_major(out, &mut |out| {
        run(out, partition, &|start, out, span| {
            let (x, y) = (&x[start..start + out.len()], &y[start..start + out.len()]);
            vectorized(
                #[inline(always)]
                || match span {
                    Span::Group(group) => slice(out, x, y, &parameters[group]),
                    Span::Rows => {
                        let count = partition.count;
                        let inputs = x.chunks_exact(count).zip(y.chunks_exact(count));
                        for (out, (x, y)) in out.chunks_exact_mut(count).zip(inputs) {
                            row(out, x, y, parameters);
                        }
                    }
                },
            );
        });
    });
    Ok(())
}

/// What a map is asked for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Form {
    Codes,
    Values,
}

/// Codes, or in the same pass their values on the grid: the tensor is read once and the result written once.
pub(crate) fn quantize_into<P: Copy + Sync>(
    x: ArrayViewD<'_, f32>,
    grid: &Grid,
    parameters: &[P],
    form: Form,
    out: ArrayViewMutD<'_, f32>,
    code: impl Fn(f32, &P) -> f32 + Sync,
) -> Result<()> {
    let groups = grid.groups();
    let denominator = grid.scale_denominator();
    // An integer has no negative zero: `+ 0.0` makes it a positive one. `inline(always)` and `move`, here and in the maps, since
    // a call in the innermost loop, or a number behind a reference, would keep it from being vectorised.
    let spacing = if form == Form::Codes { Spacing::Unit } else { grid.spacing() };
    match spacing {
        Spacing::Unit => map_into(
            x,
            groups,
            parameters,
            out,
            #[inline(always)]
            move |x, p| code(x, p) + 0.0,
        ),
        Spacing::Product => {
            let pairs = pair_up(parameters, grid.scales());
            map_into(
                x,
                groups,
                &pairs,
                out,
                #[inline(always)]
                move |x, (p, scale)| (code(x, p) + 0.0) * scale,
            )
        }
        Spacing::Quotient => {
            let denominator = denominator as f32;
            map_into(
                x,
                groups,
                parameters,
                out,
                #[inline(always)]
                move |x, p| (code(x, p) + 0.0) / denominator,
            )
        }
        Spacing::Reciprocal(inverse) => {
            let pairs = pair_up(parameters, grid.numerators());
            map_into(
                x,
                groups,
                &pairs,
                out,
                #[inline(always)]
                move |x, (p, scale)| scaled(code(x, p) + 0.0, *scale, inverse),
            )
        }
        Spacing::Both => {
            let pairs = pair_up(parameters, grid.numerators());
            map_into(
                x,
                groups,
                &pairs,
                out,
                #[inline(always)]
                move |x, (p, scale)| level((code(x, p) + 0.0).into(), *scale, denominator),
            )
        }
        Spacing::Table(rows) => {
            let pairs = pair_up(parameters, &rows);
            map_into(x, groups, &pairs, out, move |x, (p, row)| row.value(code(x, p)))
        }
    }
}

/// Side by side in memory: of many groups, a vector's worth is read at once.
pub(crate) fn pair_up<P: Copy, S: Copy>(parameters: &[P], scales: &[S]) -> Vec<(P, S)> {
    parameters.iter().copied().zip(scales.iter().copied()).collect()
}

/// `x = f(x, parameters[group of x])`, in place.
///
/// # Errors
///
/// [`Error::GroupsDoNotFit`] if `x` has not these groups.
///
/// # Panics
///
/// If there is not one parameter per group.
pub fn update<P: Sync>(
    mut x: ArrayViewMutD<'_, f32>,
    groups: Groups,
    parameters: &[P],
    f: impl Fn(f32, &P) -> f32 + Sync,
) -> Result<()> {
    let partition = partition(&x.view(), groups, parameters.len())?;
    if let Some(slice) = x.as_slice_mut() {
        run(slice, partition, &|_, piece, span| {
            vectorized(
                #[inline(always)]
                || match span {
                    Span::Group(group) => {
                        let parameter = &parameters[group];
                        update_slice(piece, parameter, &f);
                    }
                    Span::Rows => {
                        for row in piece.chunks_exact_mut(partition.count) {
                            update_row(row, parameters, &f);
                        }
                    }
                },
            );
        });
        return Ok(());
    }
    match groups {
        Groups::Tensor => x.mapv_inplace(|x| f(x, &parameters[0])),
        Groups::Axis { axis, .. } => {
            for (mut slice, parameter) in x.axis_iter_mut(Axis(axis)).zip(parameters) {
                slice.mapv_inplace(|x| f(x, parameter));
            }
        }
    }
    Ok(())
}

/// Calls `fill(start, piece)` for pieces of constant size that together cover `out`, in row-major order, once.
pub(crate) fn fill_pieces(out: ArrayViewMutD<'_, f32>, fill: impl Fn(usize, &mut [f32]) + Sync) {
    write_row_major(out, &mut |out| pieces(out, PIECE, &fill));
}

/// The elements in row-major order, copied only if they do not lie that way.
pub(crate) fn row_major<'a>(x: &'a ArrayViewD<'_, f32>) -> Cow<'a, [f32]> {
    match x.as_slice() {
        Some(slice) => Cow::Borrowed(slice),
        None => Cow::Owned(x.iter().copied().collect()),
    }
}

pub(crate) fn same_shape(what: &'static str, expected: &[usize], found: &[usize]) -> Result<()> {
    if expected == found {
        return Ok(());
    }
    Err(Error::Shape { what, expected: expected.to_vec(), found: found.to_vec() })
}

// The innermost loops. They are functions so that the compiler knows that the output overlaps nothing else.

#[inline(always)]
pub(crate) fn map_slice<P>(out: &mut [f32], x: &[f32], parameter: &P, f: &impl Fn(f32, &P) -> f32) {
    for (out, &x) in out.iter_mut().zip(x) {
        *out = f(x, parameter);
    }
}

#[inline(always)]
pub(crate) fn map_row<P>(out: &mut [f32], x: &[f32], parameters: &[P], f: &impl Fn(f32, &P) -> f32) {
    for ((out, &x), parameter) in out.iter_mut().zip(x).zip(parameters) {
        *out = f(x, parameter);
    }
}

#[inline(always)]
pub(crate) fn zip_slice<P>(
    out: &mut [f32],
    x: &[f32],
    y: &[f32],
    parameter: &P,
    f: &impl Fn(f32, f32, &P) -> f32,
) {
    for ((out, &x), &y) in out.iter_mut().zip(x).zip(y) {
        *out = f(x, y, parameter);
    }
}

#[inline(always)]
pub(crate) fn zip_row<P>(
    out: &mut [f32],
    x: &[f32],
    y: &[f32],
    parameters: &[P],
    f: &impl Fn(f32, f32, &P) -> f32,
) {
    for (((out, &x), &y), parameter) in out.iter_mut().zip(x).zip(y).zip(parameters) {
        *out = f(x, y, parameter);
    }
}

#[inline(always)]
fn update_slice<P>(x: &mut [f32], parameter: &P, f: &impl Fn(f32, &P) -> f32) {
    for x in x {
        *x = f(*x, parameter);
    }
}

#[inline(always)]
fn update_row<P>(x: &mut [f32], parameters: &[P], f: &impl Fn(f32, &P) -> f32) {
    for (x, parameter) in x.iter_mut().zip(parameters) {
        *x = f(*x, parameter);
    }
}

/// How the elements of one piece are spread over the groups.
enum Span {
    /// All belong to this group.
    Group(usize),
    /// The piece is made of whole rows, element `j` of a row belongs to group `j`.
    Rows,
}

#[track_caller]
fn partition(x: &ArrayViewD<'_, f32>, groups: Groups, parameters: usize) -> Result<Partition> {
    assert_eq!(parameters, groups.count(), "there must be one parameter per group");
    groups.partition(x.shape())
}

/// Lends the elements of `out` in row-major order, as a copy that is written back if they do not lie that way.
pub(crate) fn write_row_major(mut out: ArrayViewMutD<'_, f32>, write: &mut dyn FnMut(&mut [f32])) {
    if let Some(slice) = out.as_slice_mut() {
        return write(slice);
    }
    let mut copy = ndarray::ArrayD::zeros(out.raw_dim());
    write(copy.as_slice_mut().expect("a new array is row-major"));
    Zip::from(&mut out).and(&copy).for_each(|out, &value| *out = value);
}

/// Calls `body(start, piece, span)` for pieces that together cover `out` once.
///
/// The body is a trait object so that scheduling is compiled once, not for each map: one call through a pointer for a
/// piece of thousands of elements.
fn run(
    out: &mut [f32],
    Partition { count, inner }: Partition,
    body: &(dyn Fn(usize, &mut [f32], Span) + Sync),
) {
    if out.is_empty() {
    } else if count == 1 {
        pieces(out, PIECE, &|start, piece| body(start, piece, Span::Group(0)));
    } else if inner == 1 {
        let rows = (PIECE / count).max(1);
        pieces(out, rows * count, &|start, piece| body(start, piece, Span::Rows));
    } else {
        pieces(out, inner * (PIECE / inner).max(1), &|start, piece| {
            for (index, block) in piece.chunks_mut(inner).enumerate() {
                let start = start + index * inner;
                let group = start / inner % count;
                pieces(block, PIECE, &|offset, block| body(start + offset, block, Span::Group(group)));
            }
        });
    }
}

fn pieces(out: &mut [f32], size: usize, body: &(dyn Fn(usize, &mut [f32]) + Sync)) {
    if out.len() <= size {
        return body(0, out);
    }
    out.par_chunks_mut(size).enumerate().for_each(|(index, piece)| body(index * size, piece));
}

#[cfg(test)]
mod tests {
    use ndarray::{Array, ArrayD, IxDyn, ShapeBuilder};

    use super::*;

    fn counting(shape: &[usize]) -> ArrayD<f32> {
        let len = shape.iter().product::<usize>();
        Array::from_iter((0..len).map(|i| i as f32)).into_shape_with_order(IxDyn(shape)).unwrap()
    }

    /// `100000 · group + x`, through indices.
    fn tagged(x: &ArrayD<f32>, axis: usize) -> ArrayD<f32> {
        ArrayD::from_shape_fn(x.raw_dim(), |index| x[&index] + 100_000.0 * index[axis] as f32)
    }

    #[test]
    fn every_shape_axis_and_layout_finds_its_group() {
        for shape in
            [vec![3, 5, 7], vec![2, 3, 2, 4], vec![70, 40, 9], vec![3, 40_000], vec![40_000, 3], vec![1, 5]]
        {
            let x = counting(&shape);
            for axis in 0..shape.len() {
                let groups = Groups::Axis { axis, len: shape[axis] };
                let tags: Vec<f32> = (0..shape[axis]).map(|group| 100_000.0 * group as f32).collect();
                let want = tagged(&x, axis);
                let mut out = ArrayD::zeros(x.raw_dim());
                map_into(x.view(), groups, &tags, out.view_mut(), |x, tag| x + tag).unwrap();
                assert_eq!(out, want, "{shape:?} along {axis}");
                let mut columns = ArrayD::zeros(IxDyn(&shape).f());
                zip_into(x.view(), x.view(), groups, &tags, columns.view_mut(), |x, _, tag| x + tag).unwrap();
                assert_eq!(columns, want, "{shape:?} along {axis}, column-major output");
                columns.assign(&x);
                let copy = columns.clone();
                map_into(copy.view(), groups, &tags, out.view_mut(), |x, tag| x + tag).unwrap();
                assert_eq!(out, want, "{shape:?} along {axis}, column-major input");
                update(columns.view_mut(), groups, &tags, |x, tag| x + tag).unwrap();
                assert_eq!(columns, want, "{shape:?} along {axis}, column-major update");
            }
        }
    }

    #[test]
    fn empty_arrays_and_single_numbers_pass() {
        let mut empty = ArrayD::zeros(IxDyn(&[0, 4]));
        let groups = Groups::Axis { axis: 1, len: 4 };
        update(empty.view_mut(), groups, &[1.0; 4], |x, p| x + p).unwrap();
        update(empty.view_mut(), Groups::Axis { axis: 0, len: 0 }, &[0.0; 0], |x, p| x + p).unwrap();
        let mut number = ArrayD::zeros(IxDyn(&[]));
        update(number.view_mut(), Groups::Tensor, &[2.0], |x, p| x + p).unwrap();
        assert_eq!(number[IxDyn(&[])], 2.0);
    }

    #[test]
    fn other_shapes_are_errors() {
        let (x, mut out) = (counting(&[2, 3]), counting(&[3, 2]));
        let shape = map_into(x.view(), Groups::Tensor, &[()], out.view_mut(), |x, ()| x).unwrap_err();
        assert_eq!(shape, Error::Shape { what: "the output", expected: vec![2, 3], found: vec![3, 2] });
        let groups = Groups::Axis { axis: 1, len: 3 };
        assert!(matches!(
            update(out.view_mut(), groups, &[0; 3], |x, _| x),
            Err(Error::GroupsDoNotFit { .. })
        ));
    }
}
