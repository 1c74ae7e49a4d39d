mod build;
mod values;

use std::sync::Arc;

use self::build::one_per_group;
pub(crate) use self::values::{Spacing, scaled};
use crate::levels::level;
use crate::{Alphabet, Error, Groups, Levels, Result, Scale};

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
///
/// # Levels that are not evenly spaced
///
/// Three parts cover the maps whose levels are not `scale · {first, first + step, ..}`:
///
/// - [`with_members`](Grid::with_members) names the codes that occur, for powers of two written as integers; everything
///   above stays true.
/// - [`with_table`](Grid::with_table) gives each code a value of its own, for levels without a common factor. Such a grid
///   is not [factored](Grid::is_factored): its scales are 1, codes are positions, and a network computes with values.
/// - [`with_zero_points`](Grid::with_zero_points) shifts the alphabet of each group, for affine quantization: the code is
///   `q − Z`, so that 0 is real zero, and the *stored* integer is `q = code + Z`.
#[derive(Clone, Debug, PartialEq)]
pub struct Grid {
    alphabet: Option<Alphabet>,
    members: Option<Arc<[i32]>>,
    zero_points: Vec<i32>,
    groups: Groups,
    numerators: Vec<f32>,
    denominator: u32,
    scales: Vec<f32>,
    table: Option<Arc<[f32]>>,
    thresholds: Option<Arc<[f32]>>,
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
        Ok(Grid { groups, numerators: scales.clone(), scales, ..Grid::of(Some(alphabet.checked()?)) })
    }

    fn of(alphabet: Option<Alphabet>) -> Self {
        Grid {
            alphabet,
            members: None,
            zero_points: Vec::new(),
            groups: Groups::Tensor,
            numerators: vec![1.0],
            denominator: 1,
            scales: vec![1.0],
            table: None,
            thresholds: None,
            statistics: Vec::new(),
        }
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
        Grid::of(None)
    }

    /// The integer codes, or `None` for a tensor that is not quantized. With zero points, all codes that any group has.
    pub fn alphabet(&self) -> Option<Alphabet> {
        let stored = self.alphabet?;
        let least = self.zero_points.iter().max().copied().unwrap_or(0);
        let most = self.zero_points.iter().min().copied().unwrap_or(0);
        let further = (least - most) as u32 / stored.step as u32;
        Some(Alphabet { first: stored.first - least, count: stored.count + further, ..stored })
    }

    /// The integers that are stored: the codes, before [zero points](Grid::zero_points) are taken off.
    pub(crate) fn stored(&self) -> Option<Alphabet> {
        self.alphabet
    }

    /// The codes of one group.
    fn alphabet_of(&self, group: usize) -> Option<Alphabet> {
        let stored = self.alphabet?;
        let zero = self.zero_points.get(group).copied().unwrap_or(0);
        Some(Alphabet { first: stored.first - zero, ..stored })
    }

    /// How many codes an element can take; 0 without an alphabet.
    pub fn count(&self) -> usize {
        let evenly = self.alphabet.map_or(0, |alphabet| alphabet.count as usize);
        self.members.as_ref().map_or(evenly, |members| members.len())
    }

    /// Bits per stored element: `⌈log2 count⌉`, at least 1; 32 without an alphabet.
    pub fn bits(&self) -> u32 {
        match self.count() {
            0 => 32,
            count => count.next_power_of_two().trailing_zeros().max(1),
        }
    }

    /// All codes of a group in increasing order; empty for a tensor that is not quantized.
    pub fn codes(&self, group: usize) -> Vec<i32> {
        match &self.members {
            Some(members) => members.to_vec(),
            None => self.alphabet_of(group).into_iter().flat_map(Alphabet::codes).collect(),
        }
    }

    /// What is added to a group's codes where integers are stored; empty except in affine quantization.
    pub fn zero_points(&self) -> &[i32] {
        &self.zero_points
    }

    /// Whether values are `scale · code`: false where a table gives each code its value.
    pub fn is_factored(&self) -> bool {
        self.table.is_none()
    }

    /// The inputs of a group at which the code changes, in increasing order: one less than there are codes.
    ///
    /// The midpoints between neighbouring values, unless the map has [named](Grid::with_thresholds) others. Those of
    /// [`DorefaWeights`](crate::DorefaWeights) concern the squashed weights.
    ///
    /// # Panics
    ///
    /// If there is no such group.
    pub fn thresholds(&self, group: usize) -> Vec<f32> {
        if let Some(thresholds) = &self.thresholds {
            let each = self.count() - 1;
            return thresholds[group * each..(group + 1) * each].to_vec();
        }
        let values: Vec<f64> = self.values(group).map(f64::from).collect();
        values.windows(2).map(|pair| (0.5 * (pair[0] + pair[1])) as f32).collect()
    }

    /// Whether the values are evenly spaced with thresholds midway.
    pub(crate) fn is_even(&self) -> bool {
        self.members.is_none() && self.table.is_none() && self.thresholds.is_none()
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

    pub(crate) fn numerators(&self) -> &[f32] {
        &self.numerators
    }

    pub(crate) fn scale_denominator(&self) -> u32 {
        self.denominator
    }

    /// What the map measured per group and its codes depend on; empty for most maps.
    pub fn statistics(&self) -> &[f64] {
        &self.statistics
    }

    /// Whether every factor is exactly 1, so that codes are values, unless a [table](Grid::is_factored) gives these.
    pub fn is_unit(&self) -> bool {
        self.scales.iter().all(|&scale| scale == 1.0)
    }

    /// The value of a code in a group.
    ///
    /// # Panics
    ///
    /// If there is no such group, or if the grid has a table and the code is not in its alphabet.
    #[track_caller]
    pub fn value(&self, group: usize, code: i32) -> f32 {
        match (&self.table, self.alphabet) {
            (Some(table), Some(alphabet)) => table[group * alphabet.count as usize + alphabet.position(code)],
            _ => level(code.into(), self.numerators[group], self.denominator),
        }
    }

    /// All values of a group in increasing order; empty for a tensor that is not quantized.
    ///
    /// # Panics
    ///
    /// If there is no such group.
    pub fn values(&self, group: usize) -> impl Iterator<Item = f32> {
        self.codes(group).into_iter().map(move |code| self.value(group, code))
    }

    /// What a [`Slope`](crate::Slope) may know about one group.
    ///
    /// # Panics
    ///
    /// If there is no such group.
    #[track_caller]
    pub fn levels(&self, group: usize, len: usize) -> Levels {
        let [first, last] = match &self.members {
            Some(members) => [members.first(), members.last()].map(Option::<&i32>::copied),
            None => self.alphabet_of(group).map_or([None; 2], |codes| [codes.first, codes.last()].map(Some)),
        };
        let value = |code: Option<i32>, none: f32| code.map_or(none, |code| self.value(group, code));
        Levels {
            lowest: value(first, f32::NEG_INFINITY),
            highest: value(last, f32::INFINITY),
            count: self.count() as u32,
            len,
        }
    }
}

#[cfg(test)]
mod tests {
    use ndarray::{ArrayD, aview1};

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
        let scales = [1.0 / 3.0, 3.7e-45, 1.3e-38, 3e38, 16_777_215.0, 16_777_215.0 / 64.0];
        let alphabets = [Alphabet::odd(4), Alphabet::signed(8), Alphabet::symmetric(127), Alphabet::TERNARY];
        let more = scales.into_iter().flat_map(|scale| alphabets.map(|alphabet| (scale, alphabet))).flat_map(
            |(scale, alphabet)| {
                let grid = Grid::new(alphabet, Groups::Tensor, vec![scale]).unwrap();
                [1, 3, 6, 15, 127, 128, 255].map(|denominator| grid.clone().divided_by(denominator).unwrap())
            },
        );
        for grid in grids().into_iter().chain(more) {
            let codes: Vec<i32> = grid.alphabet().unwrap().codes().collect();
            let values = grid.dequantize(aview1(&codes).into_dyn()).unwrap();
            let factors = grid.factors().map(|factors| factors[0]);
            for (&code, &value) in codes.iter().zip(&values) {
                assert_eq!(value.to_bits(), grid.value(0, code).to_bits(), "{code} of {grid:?}");
                if let Some([high, low]) = factors {
                    assert_eq!(code as f32 * high + code as f32 * low, value, "{code} of {grid:?}");
                }
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
