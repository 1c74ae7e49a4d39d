use qnn_kernels::packed::Thresholds;

use crate::chain::Functions;

/// Why the functions after a sum are no thresholds of it.
pub(crate) struct NotMonotone {
    /// The output channel.
    pub(crate) channel: usize,
    /// A sum at which the code contradicts the thresholds.
    pub(crate) at: i32,
}

/// The thresholds that equal `functions`, of which the last quantizes into `levels` codes, for every
/// sum from `−reach` to `reach`, in each of `channels` channels.
///
/// The functions are asked for whole rows of channels at a time; they are the ones that the session
/// would run. Afterwards the thresholds are compared with them at every sum, or, where that would
/// take long, at evenly spaced ones and beside every cut.
pub(crate) fn thresholds(
    functions: &Functions,
    code: impl Fn(f32) -> usize,
    channels: usize,
    levels: usize,
    reach: i32,
) -> Result<Thresholds, NotMonotone> {
    let mut asked = Asked { functions, row: vec![0.0; channels] };
    let mut level = |sums: &dyn Fn(usize) -> i32, found: &mut dyn FnMut(usize, usize)| {
        asked.codes(sums).iter().enumerate().for_each(|(channel, &x)| found(channel, code(x)));
    };
    let (mut lowest, mut highest) = (vec![0; channels], vec![0; channels]);
    level(&|_| -reach, &mut |channel, found| lowest[channel] = found);
    level(&|_| reach, &mut |channel, found| highest[channel] = found);
    let flips: Vec<bool> = lowest.iter().zip(&highest).map(|(low, high)| low > high).collect();
    let rank = |channel: usize, level: usize| if flips[channel] { levels - 1 - level } else { level };
    let mut cuts = vec![0; channels * (levels - 1)];
    for step in 1..levels {
        // The least sum that reaches the step lies in low + 1 ..= high.
        let (mut low, mut high) = (vec![-reach - 1; channels], vec![reach + 1; channels]);
        while low.iter().zip(&high).any(|(low, high)| high - low > 1) {
            let middle: Vec<i32> =
                low.iter().zip(&high).map(|(low, high)| (low + high).div_euclid(2)).collect();
            level(&|channel| middle[channel].clamp(-reach, reach), &mut |channel, found| {
                if high[channel] - low[channel] > 1 {
                    let bound = if rank(channel, found) >= step { &mut high } else { &mut low };
                    bound[channel] = middle[channel];
                }
            });
        }
        for (channel, &at) in high.iter().enumerate() {
            let cut = &mut cuts[channel * (levels - 1) + step - 1];
            *cut = if at > reach {
                i32::MAX
            } else if at == -reach {
                i32::MIN
            } else {
                at
            };
        }
    }
    let found = Thresholds::new(levels, &cuts, flips).map_err(|_| NotMonotone { channel: 0, at: 0 })?;
    check(&found, reach, &mut level)?;
    Ok(found)
}

/// A function that evaluates one sum per channel and hands the levels on.
type Level<'a> = dyn FnMut(&dyn Fn(usize) -> i32, &mut dyn FnMut(usize, usize)) + 'a;

/// More comparisons than this would be noticed when freezing.
const AFFORDABLE: usize = 1 << 24;

fn check(found: &Thresholds, reach: i32, level: &mut Level<'_>) -> Result<(), NotMonotone> {
    let channels = found.channels();
    let sums = 2 * reach as usize + 1;
    let stride = sums.saturating_mul(channels).div_ceil(AFFORDABLE).max(1);
    let mut wrong = None;
    let mut compare = |sum: &dyn Fn(usize) -> i32| {
        level(sum, &mut |channel, asked| {
            if found.level(channel, sum(channel)) != asked {
                wrong.get_or_insert(NotMonotone { channel, at: sum(channel) });
            }
        });
    };
    (-reach..=reach).step_by(stride).for_each(|sum| compare(&|_| sum));
    if stride > 1 {
        for rank in 0..found.levels() - 1 {
            let cuts = found.cuts(rank);
            for beside in [-1, 0] {
                compare(&|channel| cuts[channel].saturating_add(beside).clamp(-reach, reach));
            }
        }
    }
    wrong.map_or(Ok(()), Err)
}

struct Asked<'a> {
    functions: &'a Functions,
    row: Vec<f32>,
}

impl Asked<'_> {
    fn codes(&mut self, sum: &dyn Fn(usize) -> i32) -> &[f32] {
        self.row.iter_mut().enumerate().for_each(|(channel, x)| *x = sum(channel) as f32);
        self.functions.apply(&mut self.row, &[]);
        &self.row
    }
}
