use ndarray::{ArrayViewD, ArrayViewMutD, IxDyn};
use qnn_quant::{Alphabet, Grid, Quantizer};

use crate::chain::Cuts;
use crate::{Error, Result};

/// Each code of a program's quantizers has a cut of its own in memory, and takes part in the search for all of them.
const MOST_CODES: u32 = 1 << 16;

impl Cuts {
    /// The step function that a fixed quantizer is, found by asking the quantizer itself: for each
    /// code the least f32 that reaches it.
    pub(crate) fn of(layer: &str, map: &dyn Quantizer, grid: &Grid) -> Result<Self> {
        let Some(alphabet) = grid.alphabet() else {
            let source = qnn_quant::Error::Unquantized { map: map.name() };
            return Err(Error::Quantizer { layer: layer.to_owned(), source });
        };
        if !map.is_fixed() {
            return Err(Error::Measures { layer: layer.to_owned(), quantizer: map.name() });
        }
        let asked = Asked { layer, map, grid, alphabet };
        if alphabet.count > MOST_CODES {
            return Err(asked.no_steps(format!(
                "it has {} codes, and a program holds the cuts of {MOST_CODES}; quantize to fewer bits",
                alphabet.count
            )));
        }
        let cuts = asked.search()?;
        let found = Self { alphabet, cuts };
        asked.check(&found)?;
        Ok(found)
    }
}

/// A quantizer under question.
struct Asked<'a> {
    layer: &'a str,
    map: &'a dyn Quantizer,
    grid: &'a Grid,
    alphabet: Alphabet,
}

impl Asked<'_> {
    /// All levels by bisection at once, over the f32 in ascending order.
    fn search(&self) -> Result<Vec<f32>> {
        let (first, last) = (key(f32::NEG_INFINITY), key(f32::INFINITY));
        let levels = 1..self.alphabet.count as usize;
        // The least key that reaches a level lies in low + 1 ..= high.
        let mut low = vec![i64::from(first) - 1; levels.len()];
        let mut high = vec![i64::from(last) + 1; levels.len()];
        while low.iter().zip(&high).any(|(low, high)| high - low > 1) {
            let middle: Vec<i64> =
                low.iter().zip(&high).map(|(low, high)| (low + high).div_euclid(2)).collect();
            let inside = |at: i64| at.clamp(first.into(), last.into()) as i32;
            let inputs: Vec<f32> = middle.iter().map(|&at| number(inside(at))).collect();
            let found = self.levels(&inputs)?;
            for (i, level) in levels.clone().enumerate() {
                if high[i] - low[i] > 1 {
                    *(if found[i] >= level { &mut high[i] } else { &mut low[i] }) = middle[i];
                }
            }
        }
        let cut = |&at: &i64| if at > i64::from(last) { f32::NAN } else { number(at as i32) };
        Ok(high.iter().map(cut).collect())
    }

    /// Compares the cuts with the quantizer beside every cut, at both zeros and all over the line.
    fn check(&self, cuts: &Cuts) -> Result<()> {
        let mut inputs = vec![0.0, -0.0, f32::MIN_POSITIVE, -f32::MIN_POSITIVE, f32::MAX, f32::MIN];
        let reached = cuts.cuts.iter().filter(|cut| !cut.is_nan());
        inputs.extend(reached.flat_map(|&cut| [cut.next_down(), cut, cut.next_up()]));
        inputs.extend((-2048..2048).map(|at| number(at << 20)).filter(|x| !x.is_nan()));
        inputs.extend((-1024..=1024).map(|i| i as f32 / 128.0));
        let found = self.levels(&inputs)?;
        match inputs.iter().zip(found).find(|&(&x, found)| cuts.level(x) != found) {
            None => Ok(()),
            Some((x, found)) => Err(self.no_steps(format!(
                "at {x} it gives code {}, but cuts that agree elsewhere give {}",
                self.alphabet.first + self.alphabet.step * found as i32,
                self.alphabet.first + self.alphabet.step * cuts.level(*x) as i32,
            ))),
        }
    }

    fn levels(&self, inputs: &[f32]) -> Result<Vec<usize>> {
        let shape = IxDyn(&[inputs.len()]);
        let mut codes = vec![0.0; inputs.len()];
        let x = ArrayViewD::from_shape(shape.clone(), inputs).expect("one axis");
        let out = ArrayViewMutD::from_shape(shape, &mut codes).expect("one axis");
        let failed = |source| Error::Quantizer { layer: self.layer.to_owned(), source };
        self.map.codes_into(x, self.grid, out).map_err(failed)?;
        inputs.iter().zip(codes).map(|(&x, code)| self.level(x, code)).collect()
    }

    fn level(&self, x: f32, code: f32) -> Result<usize> {
        let Alphabet { first, step, .. } = self.alphabet;
        let whole = code as i32;
        if whole as f32 == code && self.alphabet.contains(whole) {
            return Ok(((whole - first) / step) as usize);
        }
        Err(self.no_steps(format!("at {x} it gives {code}, which is none of its codes")))
    }

    fn no_steps(&self, reason: String) -> Error {
        Error::NoSteps { layer: self.layer.to_owned(), quantizer: self.map.name(), reason }
    }
}

/// The position of a number among all f32 in ascending order; −0 stands before +0.
pub(crate) fn key(x: f32) -> i32 {
    let bits = x.to_bits() as i32;
    if bits < 0 { i32::MIN - bits - 1 } else { bits }
}

pub(crate) fn number(key: i32) -> f32 {
    let bits = if key < 0 { i32::MIN - (key + 1) } else { key };
    f32::from_bits(bits as u32)
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use qnn_quant::{
        BinaryUnit, DorefaActivations, Estimator, ScaledSign, Sign, StraightThrough, elementwise,
    };

    use super::*;

    fn cuts(map: &dyn Quantizer) -> Result<Cuts> {
        let grid = map.fit(ArrayViewD::from_shape(IxDyn(&[1]), &[1.0]).unwrap()).unwrap();
        Cuts::of("here", map, &grid)
    }

    #[test]
    fn keys_count_the_numbers() {
        let numbers = [f32::NEG_INFINITY, -1.0, -1e-45, -0.0, 0.0, 1e-45, 1.0, f32::INFINITY];
        assert!(numbers.map(key).is_sorted_by(|a, b| a < b));
        assert_eq!(key(-0.0) + 1, key(0.0));
        assert!(numbers.iter().all(|&x| number(key(x)).to_bits() == x.to_bits()));
    }

    #[test]
    fn cuts_of_published_maps() {
        assert_eq!(cuts(&Sign).unwrap().cuts, [0.0]);
        assert_eq!(cuts(&BinaryUnit).unwrap().cuts, [0.5_f32.next_up()]);
        let two = cuts(&DorefaActivations::new(2).unwrap()).unwrap();
        // Codes 1, 2, 3 from above 1/6, from 1/2 (1.5 rounds to the even 2) and from above 5/6 or at it.
        assert_eq!(two.cuts[1], 0.5);
        assert!((two.cuts[0] - 1.0 / 6.0).abs() < 1e-7 && (two.cuts[2] - 5.0 / 6.0).abs() < 1e-7);
    }

    #[test]
    fn a_map_that_measures_is_refused() {
        assert!(matches!(cuts(&ScaledSign::per_tensor()), Err(Error::Measures { .. })));
    }

    /// Codes of a function of one element, ternary or of another alphabet.
    #[derive(Debug)]
    struct Made(fn(f32) -> f32, Alphabet);

    impl Quantizer for Made {
        fn name(&self) -> &'static str {
            "made"
        }

        fn is_fixed(&self) -> bool {
            true
        }

        fn fit(&self, _: ArrayViewD<'_, f32>) -> qnn_quant::Result<Grid> {
            Grid::unit(self.1)
        }

        fn codes_into(
            &self,
            x: ArrayViewD<'_, f32>,
            _: &Grid,
            codes: ArrayViewMutD<'_, f32>,
        ) -> qnn_quant::Result<()> {
            elementwise::map_into(x, qnn_quant::Groups::Tensor, &[()], codes, |x, ()| (self.0)(x))
        }

        fn published(&self) -> Arc<dyn Estimator> {
            Arc::new(StraightThrough)
        }
    }

    #[test]
    fn codes_that_never_occur_have_no_cut_and_constants_have_one_below_all() {
        let never = cuts(&Made(|x| if x >= 2.5 { 0.0 } else { -1.0 }, Alphabet::TERNARY)).unwrap();
        assert!(never.cuts[0] == 2.5 && never.cuts[1].is_nan());
        assert_eq!((never.level(1e30), never.level(-1e30)), (1, 0));
        assert_eq!(cuts(&Made(|_| 1.0, Alphabet::TERNARY)).unwrap().cuts, [f32::NEG_INFINITY; 2]);
    }

    #[test]
    fn what_is_no_ascending_step_function_is_refused() {
        let maps: [fn(f32) -> f32; 4] = [
            |x| if x < 0.0 { 1.0 } else { -1.0 },
            |x| if x.abs() < 1.0 { 1.0 } else { -1.0 },
            |x| if x.is_sign_negative() { -1.0 } else { 1.0 },
            |x| x.clamp(-1.0, 1.0),
        ];
        for map in maps {
            let map = Made(map, Alphabet::TERNARY);
            assert!(matches!(cuts(&map), Err(Error::NoSteps { .. })), "{map:?}");
        }
    }

    #[test]
    fn maps_of_more_codes_than_anyone_wants_are_refused() {
        let whole = |x: f32| x.round().clamp(-8_388_608.0, 8_388_608.0);
        let Err(Error::NoSteps { reason, .. }) = cuts(&Made(whole, Alphabet::symmetric(1 << 23))) else {
            panic!("accepted")
        };
        assert!(reason.contains("16777217 codes"), "{reason}");
        let some = |x: f32| x.round().clamp(0.0, 65_535.0);
        assert_eq!(cuts(&Made(some, Alphabet::unsigned(16))).unwrap().level(3.0), 3);
    }
}
