use qnn_kernels::vectorized;

use crate::chain::Cuts;

/// Cuts laid out for many numbers.
///
/// Of many cuts that lie nearly evenly, the number that `x` reaches is guessed by a line through the first and the last one:
///
/// ```text
/// guess(x) = ⌊ (x − first) · (n − 1) / (last − first) + 1 ⌋        between 0 and n
/// ```
///
/// No step of this falls where x rises, roundings included. So if the guess at the `i`th cut is `i` or `i + 1` (where `i + 1` cuts are reached, the
/// first being the 0th), it is never off by more than one, and the cuts on both sides of it tell which.
#[derive(Debug)]
pub(crate) struct Staircase {
    cuts: Cuts,
    line: Option<Line>,
}

#[derive(Debug)]
struct Line {
    first: f32,
    per_unit: f32,
    /// −∞, the cuts, and NaN, which nothing reaches.
    bounds: Vec<f32>,
}

/// More cuts than this are not all compared with each number.
const FEW: usize = 16;

impl Staircase {
    pub(crate) fn new(cuts: Cuts) -> Self {
        let line = Line::through(&cuts.cuts);
        Self { cuts, line }
    }

    /// Replaces numbers by the codes of the cuts that they reach.
    pub(crate) fn apply(&self, rows: &mut [f32]) {
        let (first, step) = (self.cuts.alphabet.first as f32, self.cuts.alphabet.step as f32);
        match (&self.cuts.cuts[..], &self.line) {
            (&[cut], _) => {
                vectorized(|| {
                    rows.iter_mut().for_each(|x| *x = if *x >= cut { first + step } else { first })
                });
            }
            (cuts, _) if cuts.len() <= FEW => vectorized(|| {
                rows.iter_mut().for_each(|x| {
                    let reached: f32 = cuts.iter().map(|&cut| if *x >= cut { 1.0 } else { 0.0 }).sum();
                    *x = first + step * reached;
                });
            }),
            (_, Some(line)) => {
                vectorized(|| rows.iter_mut().for_each(|x| *x = first + step * line.level(*x) as f32));
            }
            _ => rows.iter_mut().for_each(|x| *x = first + step * self.cuts.level(*x) as f32),
        }
    }
}

impl Line {
    /// Nothing for few cuts, and where they are so uneven that guesses would be off by more than one.
    fn through(cuts: &[f32]) -> Option<Self> {
        let reached = cuts.iter().take_while(|cut| !cut.is_nan()).count();
        let cuts = cuts.get(..reached).filter(|cuts| cuts.len() > FEW)?;
        let (first, last) = (cuts[0], cuts[reached - 1]);
        let per_unit = (reached - 1) as f32 / (last - first);
        let bounds = [f32::NEG_INFINITY].into_iter().chain(cuts.iter().copied()).chain([f32::NAN]).collect();
        let line = Self { first, per_unit, bounds };
        let usable = first.is_finite() && per_unit.is_finite() && per_unit > 0.0;
        let near = |(i, &cut): (usize, &f32)| (i..=i + 1).contains(&line.guess(cut));
        (usable && cuts.iter().enumerate().all(near)).then_some(line)
    }

    #[inline(always)]
    fn guess(&self, x: f32) -> usize {
        let most = (self.bounds.len() - 2) as f32;
        ((x - self.first) * self.per_unit + 1.0).clamp(0.0, most) as usize
    }

    /// The number of cuts that `x` reaches: none if it is NaN.
    #[inline(always)]
    fn level(&self, x: f32) -> usize {
        let guess = self.guess(x);
        guess + usize::from(x >= self.bounds[guess + 1]) - usize::from(x < self.bounds[guess])
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use qnn_quant::Alphabet;

    use super::*;

    fn staircase(cuts: Vec<f32>) -> Staircase {
        Staircase::new(Cuts { alphabet: Alphabet::unsigned(8), cuts })
    }

    /// At every cut, beside it, far out, and in between.
    fn check(staircase: &Staircase, more: &[f32]) {
        let ends = [f32::NEG_INFINITY, f32::INFINITY, f32::NAN, 0.0, -0.0, f32::MAX, f32::MIN];
        let beside = staircase.cuts.cuts.iter().flat_map(|cut| [cut.next_down(), *cut, cut.next_up()]);
        for x in beside.chain(ends).chain(more.iter().copied()) {
            let mut row = [x];
            staircase.apply(&mut row);
            let expected = staircase.cuts.cuts.iter().filter(|&&cut| x >= cut).count();
            assert_eq!(row[0], expected as f32, "{x} among {:?}", staircase.cuts.cuts);
        }
    }

    proptest! {
        #[test]
        fn even_cuts_are_reached_as_when_counted(
            first in -8.0_f32..8.0,
            step in prop_oneof![1e-3_f32..1.0, Just(1e-30), Just(1e30)],
            unevenness in 0.0_f32..0.9,
            count in 17_usize..256,
            unreached in 0_usize..3,
            x in proptest::collection::vec(-300.0_f32..300.0, 40),
        ) {
            let cut = |i: usize| first + step * (i as f32 + unevenness * ((i * 7919) % 97) as f32 / 97.0);
            let cuts = (0..count).map(cut).chain(std::iter::repeat_n(f32::NAN, unreached)).collect();
            check(&staircase(cuts), &x);
        }
    }

    #[test]
    fn lines_are_for_many_even_cuts() {
        let even = |count: usize| (0..count).map(|i| 0.5 + 0.1 * i as f32).collect::<Vec<_>>();
        assert!(staircase(even(255)).line.is_some() && staircase(even(16)).line.is_none());
        let squares: Vec<f32> = (0..100).map(|i| (i * i) as f32).collect();
        let flat = vec![1.0; 40];
        let endless: Vec<f32> = std::iter::once(f32::NEG_INFINITY).chain(even(40)).collect();
        for cuts in [squares, flat, endless, vec![f32::NAN; 30], even(3)] {
            let staircase = staircase(cuts);
            assert!(staircase.line.is_none());
            check(&staircase, &[0.7, 2.0, 5000.0]);
        }
    }
}
