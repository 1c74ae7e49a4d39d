//! From codes to values.

use ndarray::{ArrayD, ArrayViewD, ArrayViewMutD};

use super::Grid;
use crate::levels::level;
use crate::{Alphabet, Error, Result, elementwise};

impl Grid {
    /// Values of integer codes.
    ///
    /// ```
    /// # use qnn_quant::{Quantizer, ScaledSign};
    /// # use ndarray::array;
    /// let w = array![[0.5, -0.25], [-0.5, 0.75]].into_dyn();
    /// let map = ScaledSign::per_axis(1);
    /// let grid = map.fit(w.view())?;
    /// let codes = map.codes(w.view(), &grid)?;
    /// assert_eq!(grid.dequantize(codes.view())?, array![[0.5, -0.5], [-0.5, 0.5]].into_dyn());
    /// # Ok::<(), qnn_quant::Error>(())
    /// ```
    ///
    /// # Errors
    ///
    /// [`Error::NotInAlphabet`], [`Error::GroupsDoNotFit`], and [`Error::Unquantized`] if there is no alphabet.
    pub fn dequantize(&self, codes: ArrayViewD<'_, i32>) -> Result<ArrayD<f32>> {
        self.check(&codes)?;
        let mut values = codes.mapv(|code| code as f32);
        self.dequantize_mut(values.view_mut())?;
        Ok(values)
    }

    /// Whether all integers are codes of their groups.
    fn check(&self, codes: &ArrayViewD<'_, i32>) -> Result<()> {
        let stored = self.alphabet.ok_or(Error::Unquantized { map: "this grid" })?;
        let partition = self.groups.partition(codes.shape())?;
        let foreign = |&(index, &code): &(usize, &i32)| {
            let zero = self.zero_points.get(index / partition.inner % partition.count).copied().unwrap_or(0);
            let member = self.members.as_ref().is_none_or(|members| members.binary_search(&code).is_ok());
            !member || !Alphabet { first: stored.first - zero, ..stored }.contains(code)
        };
        let Some((index, &code)) = codes.iter().enumerate().find(foreign) else { return Ok(()) };
        let codes = self.codes(index / partition.inner % partition.count);
        Err(Error::NotInAlphabet { index, code, codes })
    }

    /// Replaces codes, held as f32, by their values. NaN stays NaN.
    ///
    /// # Errors
    ///
    /// [`Error::GroupsDoNotFit`].
    ///
    /// # Panics
    ///
    /// If the grid has a table and a number is no code.
    pub fn dequantize_mut(&self, codes: ArrayViewMutD<'_, f32>) -> Result<()> {
        let (groups, denominator) = (self.groups, self.denominator);
        match self.spacing() {
            Spacing::Unit => Ok(()),
            Spacing::Table(rows) => elementwise::update(codes, groups, &rows, |code, row| row.value(code)),
            Spacing::Product => elementwise::update(
                codes,
                groups,
                &self.numerators,
                #[inline(always)]
                move |code, &scale| code * scale,
            ),
            Spacing::Quotient => elementwise::update(
                codes,
                groups,
                &self.numerators,
                #[inline(always)]
                move |code, _| code / denominator as f32,
            ),
            Spacing::Reciprocal(inverse) => elementwise::update(
                codes,
                groups,
                &self.numerators,
                #[inline(always)]
                move |code, &scale| scaled(code, scale, inverse),
            ),
            Spacing::Both => elementwise::update(
                codes,
                groups,
                &self.numerators,
                #[inline(always)]
                move |code, &scale| level(code.into(), scale, denominator),
            ),
        }
    }

    /// The cheapest computation of values that rounds as [`value`](Grid::value) does.
    pub(crate) fn spacing(&self) -> Spacing<'_> {
        let unit = self.numerators.iter().all(|&scale| scale == 1.0);
        match (&self.table, self.alphabet, self.denominator) {
            (Some(table), Some(alphabet), _) => {
                let row = |values| Row { alphabet, values };
                Spacing::Table(table.chunks_exact(alphabet.count as usize).map(row).collect())
            }
            (_, _, 1) if unit => Spacing::Unit,
            // One rounding of an exact product, in f32 as in f64.
            (_, _, 1) => Spacing::Product,
            // f64 has more than twice the digits of f32, so a quotient of f32 rounded to both ends in the same f32.
            _ if unit => Spacing::Quotient,
            (_, Some(alphabet), _) if self.suits_reciprocal(alphabet) => {
                Spacing::Reciprocal(f64::from(self.denominator).recip())
            }
            _ => Spacing::Both,
        }
    }

    /// Two factors per group, of grids with at most 8 bits: `code · high + code · low` is the value, in f32 alone.
    ///
    /// `code · high` is exact, so that the sum is wrong by 2⁻⁴⁰ of itself before it is rounded: less than what separates a value that is
    /// no midpoint of two f32 from all of them, 2⁻³³ by the argument for [`scaled`].
    pub(crate) fn factors(&self) -> Option<Vec<[f32; 2]>> {
        let inverse = match self.spacing() {
            Spacing::Unit | Spacing::Product => {
                return Some(self.numerators.iter().map(|&scale| [scale, 0.0]).collect());
            }
            Spacing::Quotient | Spacing::Reciprocal(_) => f64::from(self.denominator).recip(),
            Spacing::Both | Spacing::Table(_) => return None,
        };
        let suits = self.alphabet.is_some_and(|alphabet| self.suits_reciprocal(alphabet));
        // Of the least numbers the lower part would lose digits.
        let is_ordinary = |&scale: &f32| scale > 1e-20 || scale == 0.0;
        if !suits || self.denominator > 256 || !self.numerators.iter().all(is_ordinary) {
            return None;
        }
        Some(self.numerators.iter().map(|&scale| in_two_parts(f64::from(scale) * inverse)).collect())
    }

    /// Whether a product with the reciprocal of the denominator rounds to the same f32 as the quotient: see [`scaled`].
    fn suits_reciprocal(&self, codes: Alphabet) -> bool {
        let denominator = self.denominator;
        let within_scale = codes.first.abs().max(codes.last()) <= denominator as i32;
        within_scale && self.zero_points.is_empty() && (denominator % 2 == 1 || denominator.is_power_of_two())
    }
}

/// `code · scale / denominator`, of codes up to an odd denominator, by its reciprocal: the same f32 as by the quotient.
///
/// The product of code and scale is exact. If the value is no midpoint of two f32, it is further from all of them than 2⁻⁴⁹ of itself
/// (midpoint and denominator have 25 and 24 digits), and the reciprocal is wrong by less than 2⁻⁵¹. It is none: a quotient by an
/// odd number that has finitely many digits is a multiple of the scale's last digit, and no greater than the scale. With a power of
/// two everything is exact.
#[inline(always)]
pub(crate) fn scaled(code: f32, scale: f32, inverse: f64) -> f32 {
    (f64::from(code) * f64::from(scale) * inverse) as f32
}

/// A number as the sum of one of 16 digits and a small one.
fn in_two_parts(number: f64) -> [f32; 2] {
    let high = f32::from_bits((number as f32).to_bits() & !0xFF);
    [high, (number - f64::from(high)) as f32]
}

/// How codes become values.
pub(crate) enum Spacing<'a> {
    /// They are the values.
    Unit,
    /// `code · scale`.
    Product,
    /// `code / denominator`.
    Quotient,
    /// `code · scale · (1 / denominator)`, in f64.
    Reciprocal(f64),
    /// `code · scale / denominator`, in f64.
    Both,
    /// By position, one row per group.
    Table(Vec<Row<'a>>),
}

/// The values of one group's codes.
#[derive(Clone, Copy)]
pub(crate) struct Row<'a> {
    alphabet: Alphabet,
    values: &'a [f32],
}

impl Row<'_> {
    #[inline(always)]
    pub(crate) fn value(&self, code: f32) -> f32 {
        if code.is_nan() { code } else { self.values[self.alphabet.position(code as i32)] }
    }
}
