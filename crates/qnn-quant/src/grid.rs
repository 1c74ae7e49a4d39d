use ndarray::{ArrayD, ArrayViewD, ArrayViewMutD};

use crate::elementwise;
use crate::{Alphabet, Error, Groups, Result};

/// The levels of one quantized tensor: what [`Quantizer::fit`](crate::Quantizer::fit) found.
///
/// Values, bits, packing and export derive from the grid alone. For the code `c` of an element of group `g`
///
/// ```text
/// value(g, c) = f32( c · scale_g / denominator )        in f64, rounded to f32 once
/// ```
///
/// `denominator` is an integer that all groups share (`2^k − 1` for DoReFa's levels, 1 for most maps), so that a level
/// like 2/3 is the f32 nearest to 2/3 rather than twice the f32 nearest to 1/3.
///
/// # `value` and `scales`
///
/// [`scales`](Grid::scales) are the factors `f32(scale_g / denominator)` of a *factored* computation: sums of products of
/// codes are exact integers, multiplied once by the factor. With a denominator of 1, `value(g, c) == scales()[g] * c`
/// exactly, bit for bit. With another denominator the two differ by up to 1.5 units in the last place of f32, because
/// the factor was rounded before the multiplication. A network uses one of them throughout: layers and packed models
/// compute `scales()[g] · Σ codes`, arrays that leave as values use `value`.
///
/// ```
/// # use qnn_quant::{Alphabet, Grid, Groups};
/// let grid = Grid::new(Alphabet::BINARY, Groups::Axis { axis: 1, len: 2 }, vec![0.5, 0.0])?;
/// assert_eq!((grid.value(0, -1), grid.value(1, 1)), (-0.5, 0.0));
/// assert_eq!(grid.bits(), 1);
/// # Ok::<(), qnn_quant::Error>(())
/// ```
#[derive(Clone, Debug, PartialEq)]
pub struct Grid {
    alphabet: Option<Alphabet>,
    groups: Groups,
    numerators: Vec<f32>,
    denominator: u32,
    scales: Vec<f32>,
    statistics: Vec<f64>,
}

impl Grid {
    /// Levels `code · scale`, one scale per group. A scale of 0 is legal (all values are 0), and so is NaN (a tensor
    /// that diverged).
    ///
    /// # Errors
    ///
    /// [`Error::Grid`] if the alphabet is empty or not increasing, if there is not one scale per group, or if a scale is
    /// negative or infinite.
    pub fn new(alphabet: Alphabet, groups: Groups, scales: Vec<f32>) -> Result<Self> {
        one_per_group("the number of scales", scales.len(), groups)?;
        if let Some(scale) = scales.iter().find(|&&scale| scale < 0.0 || scale.is_infinite()) {
            return Err(Error::Grid {
                what: "a scale",
                value: scale.to_string(),
                expected: "at least 0 and finite".to_owned(),
            });
        }
        Ok(Grid {
            alphabet: Some(alphabet.checked()?),
            groups,
            numerators: scales.clone(),
            denominator: 1,
            scales,
            statistics: Vec::new(),
        })
    }

    /// Levels that *are* the codes: one group with scale 1.
    ///
    /// # Errors
    ///
    /// [`Error::Grid`] if the alphabet is empty or not increasing.
    pub fn unit(alphabet: Alphabet) -> Result<Self> {
        Grid::new(alphabet, Groups::Tensor, vec![1.0])
    }

    /// The grid of a tensor that is not quantized: 32 bits, no alphabet, "codes" are the values themselves.
    pub fn unquantized() -> Self {
        Grid {
            alphabet: None,
            groups: Groups::Tensor,
            numerators: vec![1.0],
            denominator: 1,
            scales: vec![1.0],
            statistics: Vec::new(),
        }
    }

    /// The same grid with all levels divided by an integer, exactly.
    ///
    /// # Errors
    ///
    /// [`Error::Grid`] if the denominator is 0, above 2^24, or set already.
    pub fn divided_by(mut self, denominator: u32) -> Result<Self> {
        if self.denominator != 1 || !(1..=1 << 24).contains(&denominator) {
            let value = format!("{denominator} after {}", self.denominator);
            let expected = "1 to 2^24, set once".to_owned();
            return Err(Error::Grid { what: "the denominator", value, expected });
        }
        self.denominator = denominator;
        self.scales =
            self.numerators.iter().map(|&scale| (f64::from(scale) / f64::from(denominator)) as f32).collect();
        Ok(self)
    }

    /// The same grid with the number per group that the map's codes depend on: a threshold, a largest element.
    ///
    /// # Errors
    ///
    /// [`Error::Grid`] if there is not one per group.
    pub fn with_statistics(mut self, statistics: Vec<f64>) -> Result<Self> {
        one_per_group("the number of statistics", statistics.len(), self.groups)?;
        self.statistics = statistics;
        Ok(self)
    }

    /// The integer codes, or `None` for a tensor that is not quantized.
    pub fn alphabet(&self) -> Option<Alphabet> {
        self.alphabet
    }

    /// Bits per element: those of the alphabet, 32 without one.
    pub fn bits(&self) -> u32 {
        self.alphabet.map_or(32, |alphabet| alphabet.bits())
    }

    /// How the elements are divided into groups.
    pub fn groups(&self) -> Groups {
        self.groups
    }

    /// One factor per group, from codes to values: see the type's page.
    pub fn scales(&self) -> &[f32] {
        &self.scales
    }

    /// How the codes of a group become values.
    ///
    /// # Panics
    ///
    /// If there is no such group.
    #[track_caller]
    pub fn scale(&self, group: usize) -> Scale {
        Scale { numerator: self.numerators[group], denominator: self.denominator }
    }

    /// What the map measured per group and its codes depend on; empty for most maps.
    pub fn statistics(&self) -> &[f64] {
        &self.statistics
    }

    /// Whether every factor is exactly 1, so that codes are values.
    pub fn is_unit(&self) -> bool {
        self.scales.iter().all(|&scale| scale == 1.0)
    }

    /// The value of a code in a group.
    ///
    /// # Panics
    ///
    /// If there is no such group.
    #[track_caller]
    pub fn value(&self, group: usize, code: i32) -> f32 {
        level(code.into(), self.numerators[group], self.denominator)
    }

    /// All values of a group in increasing order; empty for a tensor that is not quantized.
    ///
    /// # Panics
    ///
    /// If there is no such group.
    pub fn values(&self, group: usize) -> impl Iterator<Item = f32> {
        self.alphabet.into_iter().flat_map(Alphabet::codes).map(move |code| self.value(group, code))
    }

    /// What a [`Slope`](crate::Slope) may know about one group.
    ///
    /// # Panics
    ///
    /// If there is no such group.
    #[track_caller]
    pub fn levels(&self, group: usize, len: usize) -> Levels {
        let end = |code: fn(&Alphabet) -> i32, none: f32| {
            self.alphabet.map_or(none, |a| self.value(group, code(&a)))
        };
        Levels {
            lowest: end(|alphabet| alphabet.first, f32::NEG_INFINITY),
            highest: end(Alphabet::last, f32::INFINITY),
            count: self.alphabet.map_or(0, |alphabet| alphabet.count),
            len,
        }
    }

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
        let alphabet = self.alphabet.ok_or(Error::Unquantized { map: "this grid" })?;
        if let Some((index, &code)) = codes.iter().enumerate().find(|&(_, &code)| !alphabet.contains(code)) {
            let Alphabet { first, step, .. } = alphabet;
            return Err(Error::NotInAlphabet { index, code, first, step, last: alphabet.last() });
        }
        let mut values = codes.mapv(|code| code as f32);
        self.dequantize_mut(values.view_mut())?;
        Ok(values)
    }

    /// Replaces codes, held as f32, by their values. NaN stays NaN.
    ///
    /// # Errors
    ///
    /// [`Error::GroupsDoNotFit`].
    pub fn dequantize_mut(&self, codes: ArrayViewMutD<'_, f32>) -> Result<()> {
        let (groups, denominator) = (self.groups, self.denominator as f32);
        if self.denominator == 1 {
            // One rounding of an exact product, in f32 as in f64.
            elementwise::update(codes, groups, &self.numerators, |code, &scale| code * scale)
        } else if self.numerators.iter().all(|&scale| scale == 1.0) {
            // f64 has more than twice the digits of f32, so a quotient of f32 rounded to both ends in the same f32.
            elementwise::update(codes, groups, &self.numerators, |code, _| code / denominator)
        } else {
            elementwise::update(codes, groups, &self.numerators, |code, &scale| {
                level(code.into(), scale, self.denominator)
            })
        }
    }
}

/// One group's levels, as a [`Slope`](crate::Slope) sees them.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Levels {
    /// The value of the least code; −∞ without quantization.
    pub lowest: f32,
    /// The value of the greatest code; +∞ without quantization.
    pub highest: f32,
    /// How many levels there are; 0 without quantization.
    pub count: u32,
    /// How many elements the group has.
    pub len: usize,
}

/// How codes become values in one group, without the grid around it.
///
/// ```text
/// value = f32(code · numerator / denominator)      computed in f64, rounded once
/// ```
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Scale {
    /// The group's statistic or constant.
    pub numerator: f32,
    /// A whole number from 1 to 2²⁴.
    pub denominator: u32,
}

impl Scale {
    /// Codes are the values.
    pub const ONE: Self = Self { numerator: 1.0, denominator: 1 };

    /// The quotient rounded to f32: what multiplies a sum of codes.
    pub fn factor(self) -> f32 {
        (f64::from(self.numerator) / f64::from(self.denominator)) as f32
    }

    /// The value of a code that is stored in f32.
    #[inline]
    pub fn value(self, code: f32) -> f32 {
        level(code.into(), self.numerator, self.denominator)
    }
}

impl From<f32> for Scale {
    fn from(numerator: f32) -> Self {
        Self { numerator, denominator: 1 }
    }
}

fn level(code: f64, numerator: f32, denominator: u32) -> f32 {
    (code * f64::from(numerator) / f64::from(denominator)) as f32
}

fn one_per_group(what: &'static str, found: usize, groups: Groups) -> Result<()> {
    if found == groups.count() {
        return Ok(());
    }
    Err(Error::Grid {
        what,
        value: found.to_string(),
        expected: format!("{}, one per group", groups.count()),
    })
}

#[cfg(test)]
mod tests {
    use ndarray::aview1;

    use super::*;

    fn grids() -> Vec<Grid> {
        let new = |alphabet, scale| Grid::new(alphabet, Groups::Tensor, vec![scale]).unwrap();
        let mut grids =
            vec![new(Alphabet::TERNARY, 0.3), new(Alphabet::BINARY, 0.0), new(Alphabet::odd(8), 1e-45)];
        for bits in 1..=8 {
            let denominator = (1 << bits) - 1;
            grids.push(new(Alphabet::unsigned(bits), 1.0).divided_by(denominator).unwrap());
            grids.push(new(Alphabet::odd(bits), 1.0).divided_by(denominator).unwrap());
            grids.push(new(Alphabet::odd(bits), 0.7).divided_by(denominator).unwrap());
        }
        grids
    }

    #[test]
    fn fast_paths_of_dequantization_round_like_value() {
        for grid in grids() {
            let codes: Vec<i32> = grid.alphabet().unwrap().codes().collect();
            let values = grid.dequantize(aview1(&codes).into_dyn()).unwrap();
            for (&code, &value) in codes.iter().zip(&values) {
                assert_eq!(value.to_bits(), grid.value(0, code).to_bits(), "{code} of {grid:?}");
            }
        }
    }

    #[test]
    fn values_increase_and_end_at_the_levels() {
        for grid in grids().into_iter().filter(|grid| grid.scales()[0] > 0.0) {
            let values: Vec<f32> = grid.values(0).collect();
            assert!(values.windows(2).all(|pair| pair[0] < pair[1]), "{grid:?}");
            let levels = grid.levels(0, 9);
            assert_eq!((Some(&levels.lowest), Some(&levels.highest)), (values.first(), values.last()));
            assert_eq!((levels.count as usize, levels.len), (values.len(), 9));
        }
    }

    #[test]
    fn factor_and_value_differ_by_the_stated_rounding_only() {
        for grid in grids() {
            for code in grid.alphabet().unwrap().codes() {
                let (value, factored) = (grid.value(0, code), grid.scales()[0] * code as f32);
                let unit = f64::from(f32::EPSILON) * f64::from(value.abs()) + f64::from(f32::from_bits(1));
                assert!((f64::from(value) - f64::from(factored)).abs() <= 1.5 * unit, "{code} of {grid:?}");
            }
        }
    }

    #[test]
    fn parts_that_do_not_belong_together_are_refused() {
        let axis = Groups::Axis { axis: 0, len: 2 };
        assert!(Grid::new(Alphabet::BINARY, axis, vec![1.0]).is_err());
        assert!(Grid::new(Alphabet::BINARY, Groups::Tensor, vec![-1.0]).is_err());
        assert!(Grid::new(Alphabet::BINARY, Groups::Tensor, vec![f32::INFINITY]).is_err());
        let grid = Grid::unit(Alphabet::odd(2)).unwrap();
        assert!(grid.clone().divided_by(0).is_err());
        assert!(grid.clone().divided_by(3).unwrap().divided_by(3).is_err());
        assert!(grid.clone().with_statistics(vec![]).is_err());
        let codes = ArrayD::from_elem(vec![3], 2);
        assert!(matches!(grid.dequantize(codes.view()), Err(Error::NotInAlphabet { index: 0, code: 2, .. })));
        assert!(matches!(Grid::unquantized().dequantize(codes.view()), Err(Error::Unquantized { .. })));
    }

    #[test]
    fn unquantized_values_pass_through() {
        let grid = Grid::unquantized();
        let mut x = ArrayD::from_shape_vec(vec![3], vec![-0.0, f32::NAN, 1e-45]).unwrap();
        let before: Vec<u32> = x.iter().map(|x| x.to_bits()).collect();
        grid.dequantize_mut(x.view_mut()).unwrap();
        assert_eq!(before, x.iter().map(|x| x.to_bits()).collect::<Vec<_>>());
        assert!(grid.is_unit() && grid.bits() == 32 && grid.values(0).next().is_none());
    }
}
