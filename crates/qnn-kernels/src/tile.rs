//! The register tiles: with [`column`](crate::column) and [`matrix`](crate::matrix) the only loops that touch every multiply-accumulate, written
//! once for all instruction sets.
//!
//! There are three here. *Product* multiplies broadcast input channels with vectors of output channels (forward pass, input gradient,
//! small matrix products), *elementwise* multiplies channel by channel (depthwise convolution), *outer* sums outer products over pixels (kernel
//! gradient). Each accumulator starts where it is told and takes its terms in the order they are listed.

use core::ops::Range;

use crate::Real;
use crate::lanes::Lanes;
use crate::line::{LANES, Line};

/// One block of input channels under one kernel position.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Tap {
    /// Lines from the pixel to the block.
    pub(crate) line: usize,
    /// First weight of the block in the panel.
    pub(crate) weights: usize,
    /// Channels in the block, at most [`LANES`].
    pub(crate) channels: usize,
}

/// A row of output pixels for one panel of output channels.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Row<'a, T> {
    /// Lines from the first pixel on; neighbouring pixels are neighbouring lines.
    pub(crate) image: &'a [Line<T>],
    /// Terms of the sum, in order.
    pub(crate) taps: &'a [Tap],
    /// Weights: as many lines for each as the panel is wide.
    pub(crate) panel: &'a [Line<T>],
    /// Factors, then summands, of the affine map: twice the panel's width.
    pub(crate) affine: &'a [Line<T>],
    /// Output pixels.
    pub(crate) pixels: usize,
    /// Distance of two pixels in the output.
    pub(crate) pixel_step: usize,
    /// Output channels to write, at most the panel's lanes.
    pub(crate) live: usize,
}

/// The pixels of one image for one kernel position, one block of input channels and as many blocks of output channels as a tile takes.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Sweep<'a, T> {
    /// Lines of the input, from the first pixel on.
    pub(crate) x: &'a [Line<T>],
    /// Lines of the output's gradient, from the first pixel on.
    pub(crate) dy: &'a [Line<T>],
    /// Output rows.
    pub(crate) rows: usize,
    /// Output columns.
    pub(crate) columns: usize,
    /// Lines between rows of `x`.
    pub(crate) x_row: usize,
    /// Lines between rows of `dy`.
    pub(crate) dy_row: usize,
    /// Lines between neighbouring pixels of `x`.
    pub(crate) x_pixel: usize,
    /// Lines between neighbouring pixels of `dy`.
    pub(crate) dy_pixel: usize,
    /// Lines between two blocks of `dy`.
    pub(crate) dy_block: usize,
    /// Input channels in the block.
    pub(crate) channels: usize,
    /// Lines between the accumulators of neighbouring input channels.
    pub(crate) sum_step: usize,
}

/// Cuts `pixels` into tiles of at most `most`, nearly equal: a narrow last one would leave the multipliers waiting for each other.
#[inline(always)]
pub(crate) fn cuts(pixels: usize, most: usize) -> impl ExactSizeIterator<Item = Range<usize>> {
    let tiles = pixels.div_ceil(most);
    let (narrow, wider) = (pixels / tiles.max(1), pixels % tiles.max(1));
    (0..tiles).map(move |tile| {
        let start = tile * narrow + tile.min(wider);
        start..start + narrow + usize::from(tile < wider)
    })
}

/// `y[pixel, o] = affine(Σ x[pixel + tap, c] · w[tap, c, o])` for `P` pixels, whose first line is `lines[0]`, by `V` vectors.
#[inline(always)]
pub(crate) fn product_tile<T: Real, L: Lanes<T>, const P: usize, const V: usize>(
    row: &Row<'_, T>,
    lines: &[Line<T>],
    y: &mut [T],
) {
    let (panel, _) = row.panel.as_chunks::<V>();
    let mut acc = [[L::splat(T::zero()); V]; P];
    for tap in row.taps {
        let window = window::<T, P>(lines, tap);
        // The minimum lets the compiler see that every channel lies inside its line.
        let weights = &panel[tap.weights..][..tap.channels.min(LANES)];
        in_pairs(
            weights,
            #[inline(always)]
            |channel: usize, weights: &[Line<T>; V]| add_products(window, channel, weights, &mut acc),
        );
    }
    store(row, &acc, y);
}

/// Visits items with their indices, two in each round of the loop: what else a round costs comes half as often.
#[inline(always)]
pub(crate) fn in_pairs<I>(items: &[I], mut visit: impl FnMut(usize, &I)) {
    let (pairs, last) = items.as_chunks::<2>();
    for (pair, [first, second]) in pairs.iter().enumerate() {
        visit(2 * pair, first);
        visit(2 * pair + 1, second);
    }
    if let [last] = last {
        visit(items.len() - 1, last);
    }
}

/// `acc[p, v] += lines[p][lane] · factors[v]`.
#[inline(always)]
pub(crate) fn add_products<T: Real, L: Lanes<T>, const P: usize, const V: usize>(
    lines: &[Line<T>; P],
    lane: usize,
    factors: &[Line<T>; V],
    acc: &mut [[L; V]; P],
) {
    let factors = load::<T, L, V>(factors);
    for p in 0..P {
        let x = L::splat(lines[p].0[lane]);
        for v in 0..V {
            acc[p][v] = acc[p][v].fused(x, factors[v]);
        }
    }
}

/// `y[pixel, c] = affine(Σ x[pixel + tap, c] · w[tap, c])` for one row and one block of channels.
#[inline(always)]
pub(crate) fn elementwise<T: Real, L: Lanes<T>>(row: &Row<'_, T>, y: &mut [T]) {
    // Enough accumulators to hide the latency of a sum on two-register vectors.
    const WIDE: usize = 4;
    let mut first = 0;
    while first < row.pixels {
        let (lines, y) = (&row.image[first..], &mut y[first * row.pixel_step..]);
        if row.pixels - first >= WIDE {
            elementwise_tile::<T, L, WIDE>(row, lines, y);
            first += WIDE;
        } else {
            elementwise_tile::<T, L, 1>(row, lines, y);
            first += 1;
        }
    }
}

#[inline(always)]
fn elementwise_tile<T: Real, L: Lanes<T>, const P: usize>(row: &Row<'_, T>, lines: &[Line<T>], y: &mut [T]) {
    let mut acc = [[L::splat(T::zero())]; P];
    for tap in row.taps {
        let window = window::<T, P>(lines, tap);
        let weights = L::load(&row.panel[tap.weights]);
        for p in 0..P {
            acc[p][0] = acc[p][0].fused(L::load(&window[p]), weights);
        }
    }
    store(row, &acc, y);
}

#[inline(always)]
pub(crate) fn window<'a, T, const P: usize>(lines: &'a [Line<T>], tap: &Tap) -> &'a [Line<T>; P] {
    lines[tap.line..].first_chunk().expect("a window inside the frame")
}

#[inline(always)]
fn load<T: Real, L: Lanes<T>, const V: usize>(lines: &[Line<T>; V]) -> [L; V] {
    let mut loaded = [L::splat(T::zero()); V];
    for v in 0..V {
        loaded[v] = L::load(&lines[v]);
    }
    loaded
}

#[inline(always)]
pub(crate) fn store<T: Real, L: Lanes<T>, const P: usize, const V: usize>(
    row: &Row<'_, T>,
    acc: &[[L; V]; P],
    y: &mut [T],
) {
    let (affine, _) = row.affine.as_chunks::<V>();
    let (scale, bias) = (load::<T, L, V>(&affine[0]), load::<T, L, V>(&affine[1]));
    // All sums leave their registers at once: where some are written on a path of their own, the compiler keeps those of large tiles in memory
    // through all taps.
    let mut lines = [[Line([T::zero(); LANES]); V]; P];
    for p in 0..P {
        for v in 0..V {
            lines[p][v] = acc[p][v].times(scale[v]).plus(bias[v]).to_line();
        }
    }
    for (lines, y) in lines.iter().zip(y.chunks_mut(row.pixel_step)) {
        for (line, y) in lines.iter().zip(y[..row.live].chunks_mut(LANES)) {
            match y.first_chunk_mut::<LANES>() {
                Some(whole) => *whole = line.0,
                None => y.iter_mut().zip(line.0).for_each(|(y, sum)| *y = sum),
            }
        }
    }
}

/// `sums[c, o] += Σ x[pixel, c] · dy[pixel, o]`, pixel by pixel, with `C` channels by `V` vectors in registers at a time.
#[inline(always)]
pub(crate) fn outer<T: Real, L: Lanes<T>, const C: usize, const V: usize>(
    sweep: &Sweep<'_, T>,
    sums: &mut [Line<T>],
) {
    for channel in (0..sweep.channels.min(LANES)).step_by(C) {
        outer_tile::<T, L, C, V>(sweep, channel, &mut sums[channel * sweep.sum_step..]);
    }
}

#[inline(always)]
fn outer_tile<T: Real, L: Lanes<T>, const C: usize, const V: usize>(
    sweep: &Sweep<'_, T>,
    channel: usize,
    sums: &mut [Line<T>],
) {
    let mut acc = [[L::splat(T::zero()); V]; C];
    for c in 0..C {
        for v in 0..V {
            acc[c][v] = L::load(&sums[c * sweep.sum_step + v]);
        }
    }
    for row in 0..sweep.rows {
        outer_row(sweep, row, channel, &mut acc);
    }
    for c in 0..C {
        for v in 0..V {
            sums[c * sweep.sum_step + v] = acc[c][v].to_line();
        }
    }
}

/// Adds the pixels of a row; where they are neighbours, two in each round of the loop.
#[inline(always)]
fn outer_row<T: Real, L: Lanes<T>, const C: usize, const V: usize>(
    sweep: &Sweep<'_, T>,
    row: usize,
    channel: usize,
    acc: &mut [[L; V]; C],
) {
    let Sweep { columns, x_pixel, dy_pixel, .. } = *sweep;
    let (x, blocks) = (&sweep.x[row * sweep.x_row..], &sweep.dy[row * sweep.dy_row..]);
    let mut dy = [blocks; V];
    for v in 1..V {
        dy[v] = &blocks[v * sweep.dy_block..];
    }
    if x_pixel == 1 && dy_pixel == 1 {
        let (pairs, last) = x[..columns].as_chunks::<2>();
        let dy_pairs = dy.map(|dy| &dy[..columns].as_chunks::<2>().0[..pairs.len()]);
        for (pair, x) in pairs.iter().enumerate() {
            for half in 0..2 {
                outer_pixel(&x[half], dy_pairs.map(|dy| &dy[pair][half]), channel, acc);
            }
        }
        if let [x] = last {
            outer_pixel(x, dy.map(|dy| &dy[columns - 1]), channel, acc);
        }
    } else {
        for pixel in 0..columns {
            outer_pixel(&x[pixel * x_pixel], dy.map(|dy| &dy[pixel * dy_pixel]), channel, acc);
        }
    }
}

#[inline(always)]
fn outer_pixel<T: Real, L: Lanes<T>, const C: usize, const V: usize>(
    x: &Line<T>,
    dy: [&Line<T>; V],
    channel: usize,
    acc: &mut [[L; V]; C],
) {
    // No `map`: it may stay a call, and a call at each pixel.
    let mut loaded = [L::splat(T::zero()); V];
    for v in 0..V {
        loaded[v] = L::load(dy[v]);
    }
    let x: &[T; C] = x.0[channel..].first_chunk().expect("a tile inside the line");
    for c in 0..C {
        let x = L::splat(x[c]);
        for v in 0..V {
            acc[c][v] = acc[c][v].fused(x, loaded[v]);
        }
    }
}

/// Multiply-adds of `SUMS` independent sums that stay in registers: what the machine can do at most.
///
/// Returns how many there were, and a number that depends on all of them.
#[inline(always)]
pub(crate) fn fused_peak<T: Real, L: Lanes<T>, const SUMS: usize>(rounds: usize) -> (u64, T) {
    let number = |value: f64| T::from(value).expect("a number that every float type holds");
    let [factor, summand] = core::hint::black_box([number(0.999), number(0.001)]).map(L::splat);
    let mut acc = [L::splat(T::one()); SUMS];
    for _ in 0..rounds {
        for sum in 0..SUMS {
            acc[sum] = summand.fused(acc[sum], factor);
        }
    }
    let mixed = acc.iter().flat_map(|sum| sum.to_line().0).fold(T::zero(), |mixed, lane| mixed + lane);
    ((rounds * SUMS * LANES) as u64, mixed)
}

/// `sums[c] += Σ x[pixel, c] · dy[pixel, c]` for one block of channels.
#[inline(always)]
pub(crate) fn elementwise_outer<T: Real, L: Lanes<T>>(sweep: &Sweep<'_, T>, sums: &mut [Line<T>]) {
    let mut acc = L::load(&sums[0]);
    for row in 0..sweep.rows {
        let x = sweep.x[row * sweep.x_row..].iter().step_by(sweep.x_pixel);
        let dy = sweep.dy[row * sweep.dy_row..].iter().step_by(sweep.dy_pixel);
        for (x, dy) in x.zip(dy).take(sweep.columns) {
            acc = acc.fused(L::load(x), L::load(dy));
        }
    }
    sums[0] = acc.to_line();
}
