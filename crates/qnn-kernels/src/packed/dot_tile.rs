//! The register tiles of integer dot products: every multiply-accumulate of the int8 kernels happens here.
//!
//! A *unit* is 32 bits of consecutive channels: four bytes or two halves, as [`Packing`] says. One instruction (or two) multiplies a unit of one
//! pixel with the units of sixteen output channels and adds the products of each lane to its `i32` sum. Sums wrap, so that neither order nor
//! offsets matter: what fits at the end is exact.

use crate::line::{LANES, Line};
use crate::tile::{Tap, cuts};

/// How channels fill a unit.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Packing {
    /// Four channels: activations as unsigned bytes, weights as signed ones.
    Quads,
    /// Two channels: activations and weights as signed halves.
    Pairs,
}

impl Packing {
    /// Channels in a unit.
    pub(crate) const fn channels(self) -> usize {
        match self {
            Self::Quads => 4,
            Self::Pairs => 2,
        }
    }
}

/// Sixteen `i32` sums in registers.
pub(crate) trait DotLanes: Copy {
    /// Sixteen units in registers.
    type Units: Copy;
    /// Sums that start with these numbers.
    fn start(sums: &Line<i32>) -> Self;
    fn splat(unit: u32) -> Self::Units;
    fn load(units: &Line<u32>) -> Self::Units;
    /// Asks for a line that will be needed later, if there is an instruction to ask with.
    #[inline(always)]
    fn prefetch(_line: &Line<u32>) {}
    /// Adds the products of the units' channels, lane by lane.
    fn dot(self, x: Self::Units, w: Self::Units) -> Self;
    fn to_line(self) -> Line<i32>;
}

/// A row of output pixels for one or more blocks of sixteen output channels.
#[derive(Clone, Copy, Debug)]
pub(crate) struct DotRow<'a> {
    /// Lines from the first pixel on; neighbouring pixels are neighbouring lines.
    pub(crate) image: &'a [Line<u32>],
    /// Terms of the sum; `channels` counts units.
    pub(crate) taps: &'a [Tap],
    /// Weights: the lines of one block after those of the other.
    pub(crate) weights: &'a [Line<u32>],
    /// Lines of one block.
    pub(crate) depth: usize,
    /// What the sums start with: a line for each block.
    pub(crate) start: &'a [Line<i32>],
    /// Lines that will be needed later, and how many of them to ask for at each tap.
    pub(crate) next: &'a [Line<u32>],
    pub(crate) next_step: usize,
    /// Output pixels.
    pub(crate) pixels: usize,
    /// Distance of two pixels in the output.
    pub(crate) pixel_step: usize,
    /// Output channels to write.
    pub(crate) live: usize,
}

/// `y[pixel, o] = start[o] + Σ x[pixel + tap, c] · w[tap, c, o]` for `P` pixels, whose first line is `lines[0]`, by `V` blocks.
#[inline(always)]
pub(crate) fn dot_tile<D: DotLanes, const P: usize, const V: usize>(
    row: &DotRow<'_>,
    lines: &[Line<u32>],
    y: &mut [i32],
) {
    let mut acc = [starts::<D, V>(row.start); P];
    let mut next = row.next.chunks(row.next_step);
    for tap in row.taps {
        next.next().unwrap_or_default().iter().for_each(D::prefetch);
        let window: &[Line<u32>; P] = lines[tap.line..].first_chunk().expect("a window inside the frame");
        // The minimum lets the compiler see that every unit lies inside its line.
        let units = tap.channels.min(LANES);
        let weights: [&[Line<u32>]; V] =
            core::array::from_fn(|v| &row.weights[v * row.depth + tap.weights..][..units]);
        for unit in 0..units {
            let mut w = [D::load(&weights[0][unit]); V];
            for v in 1..V {
                w[v] = D::load(&weights[v][unit]);
            }
            for p in 0..P {
                let x = D::splat(window[p].0[unit]);
                for v in 0..V {
                    acc[p][v] = acc[p][v].dot(x, w[v]);
                }
            }
        }
    }
    store(row, &acc, y);
}

/// `y[pixel, c] = start[c] + Σ x[pixel + tap, c] · w[tap, c]` for one row and one block of channels, a channel to a unit.
#[inline(always)]
pub(crate) fn dot_elementwise<D: DotLanes>(row: &DotRow<'_>, y: &mut [i32]) {
    const WIDE: usize = 4;
    for cut in cuts(row.pixels, WIDE) {
        let (lines, y) = (&row.image[cut.start..], &mut y[cut.start * row.pixel_step..]);
        match cut.len() {
            4 => elementwise_tile::<D, 4>(row, lines, y),
            3 => elementwise_tile::<D, 3>(row, lines, y),
            2 => elementwise_tile::<D, 2>(row, lines, y),
            _ => elementwise_tile::<D, 1>(row, lines, y),
        }
    }
}

#[inline(always)]
fn elementwise_tile<D: DotLanes, const P: usize>(row: &DotRow<'_>, lines: &[Line<u32>], y: &mut [i32]) {
    let mut acc = [starts::<D, 1>(row.start); P];
    for tap in row.taps {
        let window: &[Line<u32>; P] = lines[tap.line..].first_chunk().expect("a window inside the frame");
        let weights = D::load(&row.weights[tap.weights]);
        for p in 0..P {
            acc[p][0] = acc[p][0].dot(D::load(&window[p]), weights);
        }
    }
    store(row, &acc, y);
}

#[inline(always)]
fn starts<D: DotLanes, const V: usize>(lines: &[Line<i32>]) -> [D; V] {
    let mut starts = [D::start(&lines[0]); V];
    for v in 1..V {
        starts[v] = D::start(&lines[v]);
    }
    starts
}

#[inline(always)]
fn store<D: DotLanes, const P: usize, const V: usize>(row: &DotRow<'_>, acc: &[[D; V]; P], y: &mut [i32]) {
    // All sums leave their registers here, and at once: written one by one, they would be kept in memory from tap to tap.
    let mut lines = [[Line([0; LANES]); V]; P];
    for p in 0..P {
        for v in 0..V {
            lines[p][v] = acc[p][v].to_line();
        }
    }
    for (p, lines) in lines.iter().enumerate() {
        let y = &mut y[p * row.pixel_step..][..row.live];
        for (v, line) in lines.iter().enumerate() {
            match y[v * LANES..].first_chunk_mut::<LANES>() {
                Some(whole) => *whole = line.0,
                None => y[v * LANES..].iter_mut().zip(line.0).for_each(|(y, sum)| *y = sum),
            }
        }
    }
}

/// Multiply-accumulates of `SUMS` independent sums that stay in registers: what the machine can do at most.
///
/// Returns how many there were, and a number that depends on all of them. `LOADS` factors are read in every round: as many as sums, where the
/// compiler would otherwise multiply once for several of them.
#[inline(always)]
pub(crate) fn dot_peak<D: DotLanes, const SUMS: usize, const LOADS: usize>(
    rounds: usize,
    channels: usize,
) -> (u64, i32) {
    const UNROLLED: usize = 4;
    let units: [Line<u32>; LOADS] = core::array::from_fn(|load| Line([0x0102_0304 + load as u32; LANES]));
    let mut acc = [D::start(&Line([0; LANES])); SUMS];
    let w = D::load(&units[0]);
    for _ in 0..rounds.div_ceil(UNROLLED) {
        for _ in 0..UNROLLED {
            // Or the products, which never change, would be taken out of the loop.
            let units = if LOADS == 1 { &units } else { core::hint::black_box(&units) };
            for sum in 0..SUMS {
                acc[sum] = acc[sum].dot(D::load(&units[sum % LOADS]), w);
            }
        }
    }
    let mixed =
        acc.iter().flat_map(|sum| sum.to_line().0).fold(0_i32, |mixed, lane| mixed.wrapping_add(lane));
    ((rounds.next_multiple_of(UNROLLED) * SUMS * LANES * channels) as u64, mixed)
}

/// Pairs in plain code, for every machine.
#[derive(Clone, Copy)]
pub(crate) struct PortablePairs([i32; LANES]);

impl DotLanes for PortablePairs {
    type Units = [[i16; 2]; LANES];

    #[inline(always)]
    fn start(sums: &Line<i32>) -> Self {
        Self(sums.0)
    }

    #[inline(always)]
    fn splat(unit: u32) -> Self::Units {
        [halves(unit); LANES]
    }

    #[inline(always)]
    fn load(units: &Line<u32>) -> Self::Units {
        units.0.map(halves)
    }

    #[inline(always)]
    fn dot(mut self, x: Self::Units, w: Self::Units) -> Self {
        for lane in 0..LANES {
            let products = [0, 1].map(|half| i32::from(x[lane][half]) * i32::from(w[lane][half]));
            self.0[lane] = self.0[lane].wrapping_add(products[0].wrapping_add(products[1]));
        }
        self
    }

    #[inline(always)]
    fn to_line(self) -> Line<i32> {
        Line(self.0)
    }
}

#[inline(always)]
fn halves(unit: u32) -> [i16; 2] {
    [unit as i16, (unit >> 16) as i16]
}
