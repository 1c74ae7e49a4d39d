//! Columns of output pixels under three kernel rows: the tile for panels of one vector.
//!
//! A tile of one row reads one input for each of its multiply-adds, and the reads limit it. Where kernel rows visit the same places of
//! neighbouring frame rows, one input serves three outputs, one above the other:
//!
//! ```text
//! frame row i:   output i takes kernel row 0,   output i − 1 takes kernel row 1,   output i − 2 takes kernel row 2 and is done
//! ```
//!
//! Every output takes its terms in the same order as ever.

use alloc::vec::Vec;

use crate::Real;
use crate::ahead::Ahead;
use crate::lanes::Lanes;
use crate::line::{LANES, Line};
use crate::tile::{Row, Tap, in_pairs, store, window};

/// Kernel rows of the tile, those of the most common kernels.
const KERNEL_ROWS: usize = 3;

/// Three kernel rows that do the same in neighbouring frame rows.
#[derive(Clone, Debug)]
pub(crate) struct Rolling {
    /// The taps of a kernel row from its frame row on, with the weights of the first.
    taps: Vec<Tap>,
    /// Weights between kernel rows.
    weights: usize,
    /// Whether the first kernel row visits the last frame row.
    upwards: bool,
}

/// Neighbouring rows of output pixels for one panel of one vector.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Column<'a, T> {
    /// The first output row, with the taps of one kernel row.
    row: Row<'a, T>,
    /// Output rows, at least [`LEAST_ROWS`](Self::LEAST_ROWS).
    rows: usize,
    /// Lines between frame rows.
    row_lines: usize,
    /// Distance of two rows in the output.
    row_step: usize,
    /// Weights between kernel rows.
    weights: usize,
    upwards: bool,
    ahead: Ahead<'a, T>,
}

/// Where a column lies: its frame and its output, and what is asked for meanwhile.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Pitch<'a, T> {
    /// Output rows.
    pub(crate) rows: usize,
    /// Lines between frame rows.
    pub(crate) row_lines: usize,
    /// Distance of two rows in the output.
    pub(crate) row_step: usize,
    /// What is read soon.
    pub(crate) ahead: Ahead<'a, T>,
}

/// The sums of `P` neighbouring pixels.
type Sums<L, const P: usize> = [[L; 1]; P];

impl Rolling {
    /// Taps that are three times the same, one frame row further each time, or nothing.
    pub(crate) fn of(taps: &[Tap], row_lines: usize) -> Option<Self> {
        let each = taps.len() / KERNEL_ROWS;
        if each == 0 || !taps.len().is_multiple_of(KERNEL_ROWS) {
            return None;
        }
        let weights = taps[each].weights - taps[0].weights;
        let upwards = taps[each].line < taps[0].line;
        let lowest = &taps[if upwards { (KERNEL_ROWS - 1) * each } else { 0 }..][..each];
        let pairs = lowest.iter().zip(taps);
        let rolling: Vec<_> = pairs.map(|(low, first)| Tap { line: low.line, ..*first }).collect();
        let rows = taps.chunks_exact(each).enumerate();
        let alike = rows.flat_map(|(k, row)| row.iter().zip(&rolling).map(move |pair| (k, pair))).all(
            |(k, (tap, rolling))| {
                let frame_row = if upwards { KERNEL_ROWS - 1 - k } else { k };
                tap.channels == rolling.channels
                    && tap.line == rolling.line + frame_row * row_lines
                    && tap.weights == rolling.weights + k * weights
            },
        );
        alike.then_some(Self { taps: rolling, weights, upwards })
    }

    /// The rows from `row` on.
    pub(crate) fn column<'a, T>(&'a self, row: Row<'a, T>, pitch: Pitch<'a, T>) -> Column<'a, T> {
        let Self { taps, weights, upwards } = self;
        let Pitch { rows, row_lines, row_step, ahead } = pitch;
        let row = Row { taps, ..row };
        Column { row, rows, row_lines, row_step, weights: *weights, upwards: *upwards, ahead }
    }
}

impl<T> Column<'_, T> {
    /// Output rows that a column has at least.
    pub(crate) const LEAST_ROWS: usize = KERNEL_ROWS - 1;

    /// Output pixels in a row.
    pub(crate) fn pixels(&self) -> usize {
        self.row.pixels
    }
}

/// The outputs of `P` pixels of each row, from pixel `first` on.
#[inline(always)]
pub(crate) fn column_tile<T: Real, L: Lanes<T>, const P: usize>(
    column: &Column<'_, T>,
    first: usize,
    y: &mut [T],
) {
    let (rows, zero) = (column.rows, [[L::splat(T::zero())]; P]);
    // As much at a time as suits the pixels of a step.
    let ahead = column.ahead.share(first, P, column.row.pixels);
    let [above] = advance(column, first, 0, 0, [zero]);
    let [mut below, mut above] = advance(column, first, 1, 0, [zero, above]);
    for step in 2..rows {
        ahead.part(step - 2, rows - 2).ask();
        let [next, middle, done] = advance(column, first, step, 0, [zero, below, above]);
        finish(column, first, step - 2, &done, y);
        (below, above) = (next, middle);
    }
    let [below, above] = advance(column, first, rows, 1, [below, above]);
    finish(column, first, rows - 2, &above, y);
    let [below] = advance(column, first, rows + 1, 2, [below]);
    finish(column, first, rows - 1, &below, y);
}

/// Reads the frame row of a step: `sums[k]` take the terms of kernel row `kernel_row + k`.
#[inline(always)]
fn advance<T: Real, L: Lanes<T>, const P: usize, const K: usize>(
    column: &Column<'_, T>,
    first: usize,
    step: usize,
    kernel_row: usize,
    mut sums: [Sums<L, P>; K],
) -> [Sums<L, P>; K] {
    let frame_row = if column.upwards { column.rows + 1 - step } else { step };
    let lines = &column.row.image[frame_row * column.row_lines + first..];
    for tap in column.row.taps {
        let window = window::<T, P>(lines, tap);
        // The minimum lets the compiler see that every channel lies inside its line.
        let channels = tap.channels.min(LANES);
        let mut panels: [&[Line<T>]; K] = [&[]; K];
        for k in 0..K {
            panels[k] = &column.row.panel[tap.weights + (kernel_row + k) * column.weights..][..channels];
        }
        in_pairs(
            panels[0],
            #[inline(always)]
            |channel: usize, first: &Line<T>| {
                let mut weights = [L::load(first); K];
                for k in 1..K {
                    weights[k] = L::load(&panels[k][channel]);
                }
                for p in 0..P {
                    let x = L::splat(window[p].0[channel]);
                    for k in 0..K {
                        sums[k][p][0] = sums[k][p][0].fused(x, weights[k]);
                    }
                }
            },
        );
    }
    sums
}

/// Writes the outputs of the row that was the `index`th to be done.
#[inline(always)]
fn finish<T: Real, L: Lanes<T>, const P: usize>(
    column: &Column<'_, T>,
    first: usize,
    index: usize,
    sums: &Sums<L, P>,
    y: &mut [T],
) {
    let row = if column.upwards { column.rows - 1 - index } else { index };
    store(&column.row, sums, &mut y[row * column.row_step + first * column.row.pixel_step..]);
}

#[cfg(test)]
mod tests {
    use alloc::vec;

    use super::*;
    use crate::{ChannelAffine, Conv2dShape, Isa, Kernels, Padding, reference};

    fn tap(line: usize, weights: usize) -> Tap {
        Tap { line, weights, channels: 16 }
    }

    #[test]
    fn only_kernel_rows_in_neighbouring_frame_rows_roll() {
        let rows = |lines: [usize; 3]| lines.iter().enumerate().map(|(k, &line)| tap(line, 16 * k)).collect();
        let cases: [(Vec<Tap>, Option<bool>); 5] = [
            (rows([3, 13, 23]), Some(false)),
            (rows([23, 13, 3]), Some(true)),
            (rows([3, 23, 43]), None),
            (rows([3, 13, 24]), None),
            (vec![tap(0, 0), tap(10, 16)], None),
        ];
        for (taps, expected) in cases {
            assert_eq!(Rolling::of(&taps, 10).map(|rolling| rolling.upwards), expected, "{taps:?}");
        }
        assert!(Rolling::of(&[], 10).is_none());
    }

    /// Every width of a tile, few rows and many, few channels and several blocks, both directions.
    #[test]
    fn columns_have_the_bits_of_the_reference() {
        let sizes = (1..=19).map(|width| (2 + width % 5, width)).chain([(1, 8), (32, 32), (11, 25)]);
        for ((height, width), channels) in sizes.zip([16, 3, 5, 20, 33].into_iter().cycle()) {
            let shape = Conv2dShape {
                batch: 2,
                height,
                width,
                channels,
                out_channels: if width % 3 == 0 { 13 } else { 16 },
                kernel: [3, 3],
                stride: [1, 1],
                padding: Padding { top: 1, bottom: 1, left: 1, right: 1 },
                groups: 1,
            };
            let numbers = |len: usize, f: f32| (0..len).map(|i| (i as f32 * f).sin()).collect::<Vec<_>>();
            let (x, w) = (numbers(shape.input_len(), 0.37), numbers(shape.weight_len(), 0.71));
            let (bias, dy) = (numbers(shape.out_channels, 0.9), numbers(shape.output_len(), 0.53));
            let out = ChannelAffine::bias(&bias);
            let (mut y, mut dx) = (vec![0.0; dy.len()], vec![0.0; x.len()]);
            reference::conv2d(&shape, &x, &w, 1.0, out, &mut y);
            reference::conv2d_input_gradient(&shape, &dy, &w, &mut dx);
            for kernels in Isa::available().filter_map(Kernels::of) {
                let (mut own, mut gradient) = (vec![f32::NAN; dy.len()], vec![f32::NAN; x.len()]);
                kernels.conv2d(&shape, &x, &w, 1.0, out, &mut own);
                kernels.conv2d_input_gradient(&shape, &dy, &w, &mut gradient);
                assert_eq!((&own, &gradient), (&y, &dx), "{shape:?} {}", kernels.isa());
            }
        }
    }
}
