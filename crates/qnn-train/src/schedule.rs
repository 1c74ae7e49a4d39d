use std::f64::consts::PI;
use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Serialize};

use crate::Error;

/// How the learning rate changes during training.
///
/// A pure function of the step, with no state: what a resumed run needs is the step's number.
///
/// ```
/// use qnn_train::{Schedule, Span};
///
/// let schedule: Schedule = "step:80,120,160".parse()?;
/// let span = Span { steps: 200 * 500, steps_per_epoch: 500 };
/// assert_eq!(schedule.rate(0.1, 79 * 500, span), 0.1);
/// assert_eq!(schedule.rate(0.1, 80 * 500, span), 0.01);
/// # Ok::<(), qnn_train::Error>(())
/// ```
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[non_exhaustive]
pub enum Schedule {
    /// `rate = base`. Written `constant`.
    #[default]
    Constant,
    /// `rate = base · factor^k`, where k counts the milestones that lie at or before the running
    /// epoch (counted from 0). Written `step:80,120,160` or `step:80,120,160x0.1`.
    Step {
        /// Epochs; if there are none (`step`), 40, 60 and 80 % of the training: the proportions of
        /// 80, 120 and 160 among 200.
        milestones: Vec<usize>,
        /// What the rate is multiplied by at each.
        factor: f64,
    },
    /// `rate = base · final_factor^(step / steps)`. Written `exponential` (to a tenth) or
    /// `exponential:0.01`.
    Exponential {
        /// The ratio of the rate that a further step would have to the first.
        final_factor: f64,
    },
    /// Half a cosine from `base` to 0, after a linear warm-up of w steps; written `cosine` or
    /// `cosine:5` (Loshchilov & Hutter 2017, arXiv:1608.03983, eq. (5), without restarts).
    ///
    /// ```text
    /// rate = base · (step + 1) / w                                  while step < w
    ///        base · (1 + cos(π · (step − w) / (steps − w))) / 2     afterwards
    /// ```
    Cosine {
        /// The length of the warm-up in epochs, which may be a fraction.
        warmup_epochs: f64,
    },
    /// From `base / 25` up to `base` during the first 30 % of the steps, then down to
    /// `base / 25 / 10⁴` at the last step, both along half a cosine; written `one-cycle`
    /// (Smith & Topin 2018, arXiv:1708.07120, in the form that PyTorch's `OneCycleLR` gave it; the
    /// momentum is not cycled).
    OneCycle,
}

/// The length of a training.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Span {
    /// Steps from the first to the last epoch.
    pub steps: u64,
    /// Steps in each epoch.
    pub steps_per_epoch: u64,
}

impl Schedule {
    /// The rate of one step, counted from 0.
    pub fn rate(&self, base: f32, step: u64, span: Span) -> f32 {
        (f64::from(base) * self.share(step, span)) as f32
    }

    /// The rate as a share of the base rate.
    fn share(&self, step: u64, span: Span) -> f64 {
        match self {
            Self::Constant => 1.0,
            Self::Step { milestones, factor } => factor.powi(passed(milestones, step, span)),
            Self::Exponential { final_factor } => final_factor.powf(step as f64 / span.steps.max(1) as f64),
            Self::Cosine { warmup_epochs } => {
                cosine(step as f64, warmup_epochs * span.steps_per_epoch as f64, span.steps as f64)
            }
            Self::OneCycle => one_cycle(step as f64, span.steps as f64),
        }
    }

    /// Refuses values with which no rate makes sense.
    pub(crate) fn check(&self) -> Result<(), Error> {
        let positive = |setting, value: f64| {
            let good = value > 0.0 && value.is_finite();
            if good { Ok(()) } else { Err(Error::setting(setting, value, "a positive number")) }
        };
        match self {
            Self::Step { factor, .. } => positive("the step schedule's factor", *factor),
            Self::Exponential { final_factor } => {
                positive("the exponential schedule's final factor", *final_factor)
            }
            Self::Cosine { warmup_epochs } if !(0.0..=1e9).contains(warmup_epochs) => {
                Err(Error::setting("the warm-up", warmup_epochs, "a number of epochs from 0 on"))
            }
            _ => Ok(()),
        }
    }
}

/// How many milestones lie at or before the step's epoch.
fn passed(milestones: &[usize], step: u64, span: Span) -> i32 {
    let passed = if milestones.is_empty() {
        // In whole numbers, so that no rounding moves a milestone, and wide ones, so that none overflows.
        let (step, steps) = (u128::from(step), u128::from(span.steps));
        [40, 60, 80].iter().filter(|&&percent| step * 100 >= percent * steps).count()
    } else {
        let epoch = step / span.steps_per_epoch.max(1);
        milestones.iter().filter(|&&milestone| epoch >= milestone as u64).count()
    };
    i32::try_from(passed).unwrap_or(i32::MAX)
}

fn cosine(step: f64, warmup: f64, steps: f64) -> f64 {
    if step < warmup {
        return ((step + 1.0) / warmup).min(1.0);
    }
    let progress = (step - warmup) / (steps - warmup).max(1.0);
    (1.0 + (PI * progress.min(1.0)).cos()) / 2.0
}

fn one_cycle(step: f64, steps: f64) -> f64 {
    const START: f64 = 1.0 / 25.0;
    const END: f64 = START / 1e4;
    const RISE: f64 = 0.3;
    let (top, last) = ((RISE * steps - 1.0).max(0.0), (steps - 1.0).max(0.0));
    // Half a cosine from `a` to `b`.
    let anneal = |a: f64, b: f64, progress: f64| b + (a - b) / 2.0 * (1.0 + (PI * progress).cos());
    if step <= top {
        let progress = if top > 0.0 { step / top } else { 1.0 };
        return anneal(START, 1.0, progress);
    }
    anneal(1.0, END, ((step - top) / (last - top)).min(1.0))
}

impl fmt::Display for Schedule {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Constant => write!(f, "constant"),
            Self::Step { milestones, factor } => {
                let list: Vec<_> = milestones.iter().map(usize::to_string).collect();
                write!(f, "step:{}x{factor}", list.join(","))
            }
            Self::Exponential { final_factor } => write!(f, "exponential:{final_factor}"),
            Self::Cosine { warmup_epochs } if *warmup_epochs == 0.0 => write!(f, "cosine"),
            Self::Cosine { warmup_epochs } => write!(f, "cosine:{warmup_epochs}"),
            Self::OneCycle => write!(f, "one-cycle"),
        }
    }
}

/// Reads what [`Display`](fmt::Display) writes, and the shorter forms in the variants'
/// descriptions.
impl FromStr for Schedule {
    type Err = Error;

    fn from_str(text: &str) -> Result<Self, Error> {
        let fail = |reason: String| Error::Schedule { text: text.to_owned(), reason };
        let (name, argument) = match text.split_once(':') {
            Some((name, argument)) => (name, Some(argument)),
            None => (text, None),
        };
        let number = |default| argument.map_or(Ok(default), |a| parse(a, "a number")).map_err(fail);
        let schedule = match (name, argument) {
            ("constant", None) => Self::Constant,
            ("one-cycle", None) => Self::OneCycle,
            ("constant" | "one-cycle", Some(_)) => return Err(fail(format!("{name} takes no value"))),
            ("step", argument) => parse_step(argument.unwrap_or("")).map_err(fail)?,
            ("exponential", _) => Self::Exponential { final_factor: number(0.1)? },
            ("cosine", _) => Self::Cosine { warmup_epochs: number(0.0)? },
            _ => return Err(fail("the name is not known".to_owned())),
        };
        schedule.check().map_err(|error| fail(error.to_string()))?;
        Ok(schedule)
    }
}

/// `80,120,160` or `80,120,160x0.1`.
fn parse_step(argument: &str) -> Result<Schedule, String> {
    let (list, factor) = match argument.split_once('x') {
        Some((list, factor)) => (list, parse(factor, "a factor")?),
        None => (argument, 0.1),
    };
    let list = list.split(',').filter(|epoch| !(list.is_empty() && epoch.is_empty()));
    let milestones = list.map(|epoch| parse(epoch, "an epoch")).collect::<Result<_, _>>()?;
    Ok(Schedule::Step { milestones, factor })
}

fn parse<T: FromStr>(text: &str, what: &str) -> Result<T, String> {
    text.trim().parse().map_err(|_| format!("{text:?} is not {what}"))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const SPAN: Span = Span { steps: 1000, steps_per_epoch: 100 };

    fn rates(text: &str, steps: &[u64]) -> Vec<f32> {
        let schedule: Schedule = text.parse().unwrap();
        steps.iter().map(|&step| schedule.rate(0.5, step, SPAN)).collect()
    }

    fn assert_near(got: Vec<f32>, expected: &[f64]) {
        assert_eq!(got.len(), expected.len());
        for (got, expected) in got.into_iter().zip(expected) {
            assert!((f64::from(got) - expected).abs() <= 1e-6 * expected.abs(), "{got} {expected}");
        }
    }

    #[test]
    fn the_longest_training_has_its_steps() {
        let span = Span { steps: u64::MAX, steps_per_epoch: 1 };
        let schedule: Schedule = "step".parse().unwrap();
        let rates = [0, u64::MAX / 2, u64::MAX].map(|step| schedule.rate(0.5, step, span));
        assert_near(rates.to_vec(), &[0.5, 0.05, 0.0005]);
    }

    #[test]
    fn constant_and_step() {
        assert_near(rates("constant", &[0, 999]), &[0.5, 0.5]);
        assert_near(rates("step:2,7", &[199, 200, 699, 700]), &[0.5, 0.05, 0.05, 0.005]);
        assert_near(rates("step:2x0.5", &[0, 999]), &[0.5, 0.25]);
    }

    #[test]
    fn steps_without_epochs_lie_at_the_proportions_of_the_long_recipe() {
        let expected = [0.5, 0.05, 0.05, 0.005, 0.0005];
        assert_near(rates("step", &[399, 400, 599, 600, 800]), &expected);
    }

    #[test]
    fn exponential() {
        let expected = [0.5, 0.5 * 0.01_f64.sqrt(), 0.5 * 0.01_f64.powf(0.999)];
        assert_near(rates("exponential:0.01", &[0, 500, 999]), &expected);
    }

    #[test]
    fn cosine_with_and_without_warm_up() {
        let half = |progress: f64| 0.25 * (1.0 + (PI * progress).cos());
        assert_near(rates("cosine", &[0, 250, 999]), &[0.5, half(0.25), half(0.999)]);
        let expected = [0.5 / 200.0, 0.5, 0.5, half(0.5)];
        assert_near(rates("cosine:2", &[0, 199, 200, 600]), &expected);
    }

    /// `torch.optim.lr_scheduler.OneCycleLR(optimizer, 0.5, total_steps=1000)` of PyTorch 2, by its
    /// formulas: the top at step 0.3 · 1000 − 1, the end at step 999.
    #[test]
    fn one_cycle_has_its_corners_where_pytorch_has_them() {
        let middle = |a: f64, b: f64, x: f64| b + (a - b) / 2.0 * (1.0 + (PI * x).cos());
        let expected = [0.02, middle(0.02, 0.5, 100.0 / 299.0), 0.5, middle(0.5, 2e-6, 301.0 / 700.0), 2e-6];
        assert_near(rates("one-cycle", &[0, 100, 299, 600, 999]), &expected);
    }

    #[test]
    fn bad_texts_are_refused_with_a_list_of_good_ones() {
        for text in [
            "",
            "cosin",
            "step:a",
            "step:1,,2",
            "step:1x",
            "cosine:",
            "cosine:-1",
            "cosine:NaN",
            "exponential:0",
            "exponential:inf",
            "constant:1",
            "one-cycle:0.3",
            "step:-1",
        ] {
            let error = text.parse::<Schedule>().unwrap_err().to_string();
            assert!(error.contains(&format!("{text:?}")) && error.contains("one-cycle"), "{error}");
        }
    }

    proptest! {
        #[test]
        fn every_schedule_gives_finite_rates_up_to_the_base(
            steps in 1_u64..50, per_epoch in 1_u64..9, at in 0.0_f64..1.0,
        ) {
            let span = Span { steps, steps_per_epoch: per_epoch };
            let step = (at * steps as f64) as u64;
            for text in ["constant", "step", "step:1,3", "exponential", "cosine", "cosine:2.5", "one-cycle"] {
                let schedule: Schedule = text.parse().unwrap();
                let rate = schedule.rate(0.1, step, span);
                prop_assert!(rate > 0.0 && rate <= 0.1, "{text}: {rate}");
            }
        }

        #[test]
        fn texts_survive_a_round_trip(
            milestones in prop::collection::vec(0_usize..300, 0..4), factor in 0.01_f64..2.0,
        ) {
            for schedule in [
                Schedule::Step { milestones: milestones.clone(), factor },
                Schedule::Exponential { final_factor: factor },
                Schedule::Cosine { warmup_epochs: factor },
                Schedule::OneCycle,
                Schedule::Constant,
            ] {
                prop_assert_eq!(schedule.to_string().parse::<Schedule>().unwrap(), schedule);
            }
        }
    }
}
