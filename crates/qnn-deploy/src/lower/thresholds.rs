use qnn_kernels::packed::Thresholds;

use crate::chain::{Cuts, Functions};

/// Why the functions after a sum are no thresholds of it.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct NotMonotone {
    /// The output channel.
    pub(crate) channel: usize,
    /// A sum at which the code contradicts the thresholds.
    pub(crate) at: i32,
}

/// The thresholds that equal `functions` beside an operand, whose results `cuts` turns into codes, for every sum from
/// `−reach` to `reach`, in each of `channels` channels.
///
/// The functions are asked for whole rows of channels at a time; they are the ones that the session
/// would run. Afterwards the thresholds are compared with them at every sum, or, where that would
/// take long, at evenly spaced ones and beside every cut.
pub(crate) fn thresholds(
    (functions, operand): (&Functions, &[f32]),
    cuts: &Cuts,
    channels: usize,
    reach: i32,
) -> Result<Thresholds, NotMonotone> {
    let (row, levels) = (vec![0.0; channels], vec![0; channels]);
    let mut asked = Asked { functions, operand, cuts, row, levels, reach };
    let lowest = asked.levels(|_| -reach).to_vec();
    let flips: Vec<bool> = lowest.iter().zip(asked.levels(|_| reach)).map(|(low, high)| low > high).collect();
    let steps = cuts.cuts.len();
    let mut found = vec![0; channels * steps];
    for step in 0..steps {
        let cuts = asked.search(step + 1, &flips);
        found.iter_mut().skip(step).step_by(steps).zip(cuts).for_each(|(found, cut)| *found = cut);
    }
    let found = Thresholds::new(steps + 1, &found, flips).map_err(|_| NotMonotone { channel: 0, at: 0 })?;
    asked.check(&found)?;
    Ok(found)
}

/// Functions under question.
struct Asked<'a> {
    functions: &'a Functions,
    /// What a sum among the functions adds in each channel.
    operand: &'a [f32],
    cuts: &'a Cuts,
    row: Vec<f32>,
    levels: Vec<usize>,
    reach: i32,
}

/// More comparisons than this would be noticed when freezing.
const AFFORDABLE: usize = 1 << 25;

impl Asked<'_> {
    /// The level of each channel's code at a sum of its own.
    fn levels(&mut self, sum: impl Fn(usize) -> i32) -> &[usize] {
        self.row.iter_mut().enumerate().for_each(|(channel, x)| *x = sum(channel) as f32);
        self.functions.apply(&mut self.row, self.operand);
        self.levels.iter_mut().zip(&self.row).for_each(|(level, &x)| *level = self.cuts.level(x));
        &self.levels
    }

    /// In each channel the least sum whose level, counted from the other end in flipped channels,
    /// reaches `step`: by bisection of all channels at once.
    fn search(&mut self, step: usize, flips: &[bool]) -> Vec<i32> {
        let (reach, steps) = (self.reach, self.cuts.cuts.len());
        let reached =
            |channel: usize, level: usize| (if flips[channel] { steps - level } else { level }) >= step;
        // It lies in low + 1 ..= high.
        // In 64 bits, for the bounds lie up to twice as far apart as 32 bits reach.
        let beyond = i64::from(reach) + 1;
        let (mut low, mut high) = (vec![-beyond; flips.len()], vec![beyond; flips.len()]);
        while low.iter().zip(&high).any(|(low, high)| high - low > 1) {
            let middle: Vec<i64> =
                low.iter().zip(&high).map(|(low, high)| (low + high).div_euclid(2)).collect();
            let levels = self.levels(|channel| middle[channel].clamp(1 - beyond, beyond - 1) as i32);
            for (channel, &level) in levels.iter().enumerate() {
                if high[channel] - low[channel] > 1 {
                    let bound = if reached(channel, level) { &mut high } else { &mut low };
                    bound[channel] = middle[channel];
                }
            }
        }
        // Cuts at the ends lie beyond all sums.
        let cut = |at: i64| match at {
            at if at == beyond => i32::MAX,
            at if at == 1 - beyond => i32::MIN,
            at => at as i32,
        };
        high.into_iter().map(cut).collect()
    }

    fn check(&mut self, found: &Thresholds) -> Result<(), NotMonotone> {
        let sums = 2 * self.reach as usize + 1;
        let stride = sums.saturating_mul(found.channels()).div_ceil(AFFORDABLE).max(1);
        for sum in (-self.reach..=self.reach).step_by(stride) {
            self.compare(found, |_| sum)?;
        }
        let ranks = if stride > 1 { found.levels() - 1 } else { 0 };
        for rank in 0..ranks {
            for beside in [-1, 0] {
                let reach = self.reach;
                self.compare(found, |c| found.cuts(rank)[c].saturating_add(beside).clamp(-reach, reach))?;
            }
        }
        Ok(())
    }

    fn compare(&mut self, found: &Thresholds, sum: impl Fn(usize) -> i32) -> Result<(), NotMonotone> {
        let levels = self.levels(&sum).iter().enumerate();
        let wrong = levels.into_iter().find(|&(channel, &level)| found.level(channel, sum(channel)) != level);
        wrong.map_or(Ok(()), |(channel, _)| Err(NotMonotone { channel, at: sum(channel) }))
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use proptest::prelude::*;
    use qnn_quant::Alphabet;
    use qnn_tensor::ops::normalized;

    use super::*;
    use crate::program::{Chain, Data, Link};
    use crate::tensors::Tensors;

    /// Batch norm with these parameters, then a ReLU with this slope for negative numbers.
    fn functions(norm: &[[f32; 3]], slope: f32) -> Functions {
        let part = |i: usize| Data::Floats(norm.iter().map(|parameters| parameters[i]).collect());
        let data = BTreeMap::from(["mean", "s", "beta"].map(str::to_owned).map(|name| {
            let i = ["mean", "s", "beta"].iter().position(|of| *of == name);
            (name, part(i.unwrap_or(0)))
        }));
        let [mean, s, beta] = ["mean", "s", "beta"].map(str::to_owned);
        let links = vec![Link::Norm { mean, s, beta }, Link::LeakyRelu { slope }];
        Functions::new(&Chain { links }, norm.len(), &Tensors { data: &data, stage: 0 }).unwrap()
    }

    fn parameter() -> impl Strategy<Value = f32> {
        prop_oneof![-8.0_f32..8.0, (-16_i32..16).prop_map(|n| n as f32 / 4.0), Just(0.0), Just(-0.0)]
    }

    proptest! {
        #[test]
        fn thresholds_are_the_functions_at_every_sum(
            norm in proptest::collection::vec([parameter(), parameter(), parameter()], 1..5),
            cuts in proptest::collection::vec(parameter(), 1..4),
            reach in 0_i32..70,
        ) {
            let mut cuts = cuts;
            cuts.sort_by(f32::total_cmp);
            let steps = Cuts { alphabet: Alphabet::unsigned(2), cuts };
            let found = thresholds((&functions(&norm, 1.0), &[]), &steps, norm.len(), reach).unwrap();
            for (channel, &[mean, s, beta]) in norm.iter().enumerate() {
                for sum in -reach..=reach {
                    let x = normalized(sum as f32, mean, s, beta);
                    let level = steps.cuts.iter().filter(|&&cut| x >= cut).count();
                    prop_assert_eq!(found.level(channel, sum), level, "channel {}, sum {}", channel, sum);
                }
            }
        }
    }

    /// Every sum that 32 bits hold, and cuts that none of them reaches.
    #[test]
    fn sums_of_all_sizes_are_searched() {
        let (functions, reach) = (functions(&[[0.0, 1.0, 0.0], [0.0, 0.0, 0.5]], 1.0), i32::MAX - 1);
        let steps = Cuts { alphabet: Alphabet::unsigned(2), cuts: vec![-4e9, 1.9e9, 4e9] };
        let found = thresholds((&functions, &[]), &steps, 2, reach).unwrap();
        for sum in [-reach, 0, 1_899_999_872, 1_900_000_000, reach] {
            let expected = if sum as f32 >= 1.9e9 { 2 } else { 1 };
            assert_eq!([found.level(0, sum), found.level(1, sum)], [expected, 1], "{sum}");
        }
    }

    #[test]
    fn what_goes_up_and_down_has_none() {
        let functions = functions(&[[0.0, 1.0, 0.0]], -1.0);
        let steps = Cuts { alphabet: Alphabet::BINARY, cuts: vec![5.0] };
        assert!(matches!(thresholds((&functions, &[]), &steps, 1, 20), Err(NotMonotone { channel: 0, .. })));
    }
}
