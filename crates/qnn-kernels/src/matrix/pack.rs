//! Factors of a matrix product, laid out for the tiles.

use core::ops::Range;

use super::panel::Panel;
use crate::arch::prefetch;
use crate::line::{LANES, Line};
use crate::{Real, Vectorize, vectorized};

/// A matrix where it lies.
#[derive(Clone, Copy)]
pub(super) struct Matrix<'a, T> {
    numbers: &'a [T],
    columns: usize,
}

impl<'a, T: Real> Matrix<'a, T> {
    /// Rows of `columns` numbers.
    pub(super) fn new(numbers: &'a [T], columns: usize) -> Self {
        Self { numbers, columns }
    }

    fn part(self, row: usize, columns: &Range<usize>) -> &'a [T] {
        &self.numbers[row * self.columns..][columns.clone()]
    }

    /// `rows` of a left factor over the terms `columns`: for every sixteen terms one line for each row.
    pub(super) fn pack_left(self, rows: Range<usize>, columns: &Range<usize>, lines: &mut [Line<T>]) {
        vectorized(Left { matrix: self, rows, columns, lines });
    }

    /// The same of a left factor that lies transposed: its rows are the columns of the matrix.
    pub(super) fn pack_left_transposed(
        self,
        rows: Range<usize>,
        terms: &Range<usize>,
        lines: &mut [Line<T>],
    ) {
        let count = rows.len();
        for (block, lines) in lines.chunks_exact_mut(count).enumerate() {
            let first = terms.start + block * LANES;
            vectorized(Transposed {
                matrix: self,
                rows: first..(first + LANES).min(terms.end),
                columns: &rows,
                step: 1,
                lines,
            });
        }
    }

    /// Asks for a part of some rows, which is read soon.
    pub(super) fn expect(self, rows: Range<usize>, columns: &Range<usize>) {
        for row in rows {
            prefetch(self.part(row, columns));
        }
    }

    /// The terms `rows` of a right factor, a panel of `vectors` after the other: for each term one line for each vector.
    pub(super) fn pack_right(self, rows: &Range<usize>, panels: &[Panel], lines: &mut [Line<T>]) {
        vectorized(Right { matrix: self, rows, panels, lines });
    }

    /// One panel of a right factor that lies transposed: its columns are the rows of the matrix.
    pub(super) fn pack_right_transposed(self, terms: &Range<usize>, panel: &Panel, lines: &mut [Line<T>]) {
        let end = panel.columns.end;
        for vector in 0..panel.vectors() {
            let first = panel.columns.start + vector * LANES;
            vectorized(Transposed {
                matrix: self,
                rows: first..(first + LANES).min(end),
                columns: terms,
                step: panel.vectors(),
                lines: &mut lines[vector..],
            });
        }
    }
}

struct Left<'a, T> {
    matrix: Matrix<'a, T>,
    rows: Range<usize>,
    columns: &'a Range<usize>,
    lines: &'a mut [Line<T>],
}

impl<T: Real> Vectorize for Left<'_, T> {
    type Output = ();

    #[inline(always)]
    fn run(self) {
        let Self { matrix, rows, columns, lines } = self;
        let count = rows.len();
        for (at, row) in rows.enumerate() {
            for (block, numbers) in matrix.part(row, columns).chunks(LANES).enumerate() {
                copy(numbers, &mut lines[block * count + at]);
            }
        }
    }
}

struct Right<'a, T> {
    matrix: Matrix<'a, T>,
    rows: &'a Range<usize>,
    panels: &'a [Panel],
    lines: &'a mut [Line<T>],
}

impl<T: Real> Vectorize for Right<'_, T> {
    type Output = ();

    #[inline(always)]
    fn run(self) {
        let Self { matrix, rows, panels, lines } = self;
        let Some((first, last)) = panels.first().zip(panels.last()) else { return };
        // Row by row through all panels: what lies together in memory is read together.
        for (term, row) in rows.clone().enumerate() {
            let row = matrix.part(row, &(first.columns.start..last.columns.end));
            let mut panel_line = 0;
            let mut rest = row;
            for panel in panels {
                let (numbers, after) = rest.split_at(panel.columns.len());
                let vectors = panel.vectors();
                let lines = &mut lines[panel_line + term * vectors..][..vectors];
                for (line, numbers) in lines.iter_mut().zip(numbers.chunks(LANES)) {
                    copy(numbers, line);
                }
                panel_line += rows.len() * vectors;
                rest = after;
            }
        }
    }
}

/// At most sixteen rows, which become the lanes of a line for each column.
struct Transposed<'a, T> {
    matrix: Matrix<'a, T>,
    rows: Range<usize>,
    columns: &'a Range<usize>,
    /// Lines between neighbouring columns.
    step: usize,
    lines: &'a mut [Line<T>],
}

impl<T: Real> Vectorize for Transposed<'_, T> {
    type Output = ();

    #[inline(always)]
    fn run(self) {
        let Self { matrix, rows, columns, step, lines } = self;
        let none: &[T] = &[];
        let mut parts = [none; LANES];
        for (part, row) in parts.iter_mut().zip(rows.clone()) {
            *part = matrix.part(row, columns);
        }
        for first in (0..columns.len()).step_by(LANES) {
            let count = (columns.len() - first).min(LANES);
            let mut block = [[T::zero(); LANES]; LANES];
            for (lane, part) in parts[..rows.len()].iter().enumerate() {
                match part[first..].first_chunk::<LANES>() {
                    Some(whole) => {
                        for column in 0..LANES {
                            block[column][lane] = whole[column];
                        }
                    }
                    None => {
                        for (column, &number) in part[first..].iter().enumerate() {
                            block[column][lane] = number;
                        }
                    }
                }
            }
            for (column, numbers) in block[..count].iter().enumerate() {
                lines[(first + column) * step].0 = *numbers;
            }
        }
    }
}

#[inline(always)]
fn copy<T: Real>(numbers: &[T], line: &mut Line<T>) {
    match numbers.first_chunk::<LANES>() {
        Some(whole) => line.0 = *whole,
        None => {
            line.0 = [T::zero(); LANES];
            line.0[..numbers.len()].copy_from_slice(numbers);
        }
    }
}
