//! The weights of a panel of channels, transformed: for each of sixteen products, lines `[channel read, vector of the panel]`.

use core::ops::Range;

use super::transform;
use crate::Real;
use crate::lanes::{Lanes, Portable};
use crate::line::{LANES, Line};

/// Weights `[3, 3, read, made]`, for the vectors of a panel of the channels made.
#[inline(always)]
pub(super) fn pack_plain<T: Real>(
    w: &[T],
    [read, made]: [usize; 2],
    panel: &Range<usize>,
    lines: &mut [Line<T>],
) {
    let (width, plane) = (panel.len(), read * panel.len());
    for channel in 0..read {
        for vector in 0..width {
            let first = channel * made + (panel.start + vector) * LANES;
            let tap = |i: usize, j: usize| {
                let weights = w[(3 * i + j) * read * made + first..].first_chunk();
                Line(*weights.expect("channels in whole lines"))
            };
            write_kernel(tap, plane, &mut lines[channel * width + vector..]);
        }
    }
}

/// Flipped weights `[3, 3, made, read]`.
#[inline(always)]
pub(super) fn pack_flipped<T: Real>(
    w: &[T],
    [read, made]: [usize; 2],
    panel: &Range<usize>,
    lines: &mut [Line<T>],
) {
    let (width, plane) = (panel.len(), read * panel.len());
    for vector in 0..width {
        let channel = (panel.start + vector) * LANES;
        for first in (0..read).step_by(LANES) {
            // The block of each tap, with the channel read as its row.
            let mut taps = [[Line([T::zero(); LANES]); LANES]; 9];
            for (tap, block) in taps.iter_mut().enumerate() {
                for lane in 0..LANES {
                    let row = &w[(tap * made + channel + lane) * read + first..];
                    let row = row.first_chunk::<LANES>().expect("channels in whole lines");
                    for o in 0..LANES {
                        block[o].0[lane] = row[o];
                    }
                }
            }
            for o in 0..LANES {
                let tap = |i: usize, j: usize| taps[8 - (3 * i + j)][o];
                write_kernel(tap, plane, &mut lines[(first + o) * width + vector..]);
            }
        }
    }
}

/// Transforms one vector of kernels, and writes its products `plane` lines apart.
#[inline(always)]
fn write_kernel<T: Real>(tap: impl Fn(usize, usize) -> Line<T>, plane: usize, lines: &mut [Line<T>]) {
    let kernel = core::array::from_fn(|i| core::array::from_fn(|j| Portable::load(&tap(i, j))));
    let transformed = transform::of_kernel::<T, Portable<T>>(kernel);
    for (product, numbers) in transformed.as_flattened().iter().enumerate() {
        lines[product * plane] = numbers.to_line();
    }
}
