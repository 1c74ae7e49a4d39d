//! Statistics of large tensors against one plain f64 loop.

use std::sync::LazyLock;

use approx::assert_relative_eq;
use ndarray::{ArrayD, Axis, IxDyn};
use ndarray_rand::RandomExt;
use ndarray_rand::rand_distr::Normal;
use qnn_quant::{
    Estimator, Granularity, Groups, Lsq, Pact, Quantizer, ScaledSignGradient, Sign, Trained, TrainedTernary,
    statistics,
};
use rand_chacha::ChaCha8Rng;
use rand_chacha::rand_core::SeedableRng;

static TEN_MILLION: LazyLock<ArrayD<f32>> = LazyLock::new(|| {
    let normal = Normal::new(100.0, 30.0).unwrap();
    ArrayD::random_using(IxDyn(&[400, 250, 100]), normal, &mut ChaCha8Rng::seed_from_u64(3))
});

struct Plain {
    mean: f64,
    max: f64,
    mean_above: f64,
}

fn plain<'a>(elements: impl Iterator<Item = &'a f32>, threshold: f32) -> Plain {
    let (mut sum, mut count, mut max, mut sum_above, mut count_above) = (0.0, 0, 0.0_f64, 0.0, 0);
    for x in elements.map(|x| f64::from(x.abs())) {
        (sum, count, max) = (sum + x, count + 1, max.max(x));
        if x > f64::from(threshold) {
            (sum_above, count_above) = (sum_above + x, count_above + 1);
        }
    }
    Plain { mean: sum / f64::from(count), max, mean_above: sum_above / f64::from(count_above) }
}

#[test]
fn ten_million_elements_are_measured_as_in_f64() {
    let x = &*TEN_MILLION;
    let groupings = [Granularity::Tensor, Granularity::Axis(0), Granularity::Axis(1), Granularity::LastAxis];
    for granularity in groupings {
        let groups = granularity.groups(x.shape()).unwrap();
        let thresholds = vec![110.0; groups.count()];
        let mean = statistics::mean_abs(x.view(), groups).unwrap();
        let max = statistics::max_abs(x.view(), groups).unwrap();
        let ends = statistics::min_max(x.view(), groups).unwrap();
        let above = statistics::mean_abs_above(x.view(), groups, &thresholds).unwrap();
        let views = match granularity {
            Granularity::Tensor => vec![x.view()],
            Granularity::Axis(axis) => x.axis_iter(Axis(axis)).collect(),
            Granularity::LastAxis => x.axis_iter(Axis(2)).collect(),
        };
        assert_eq!(mean.len(), views.len());
        for (group, view) in views.iter().enumerate() {
            let want = plain(view.iter(), 110.0);
            assert_relative_eq!(mean[group], want.mean, max_relative = 1e-12);
            assert_eq!(max[group], want.max);
            let (least, greatest) =
                view.iter().fold((f32::MAX, f32::MIN), |ends, &x| (ends.0.min(x), ends.1.max(x)));
            assert_eq!(ends[group], (least, greatest));
            assert_relative_eq!(above[group], want.mean_above, max_relative = 1e-12);
        }
    }
}

#[test]
fn means_above_a_threshold_do_not_hide_nan() {
    let mean = |x: &[f32], threshold: f32| {
        let x = ndarray::aview1(x).into_dyn();
        statistics::mean_abs_above(x, Groups::Tensor, &[threshold]).unwrap()[0]
    };
    assert_eq!(mean(&[1.0, -3.0, 0.25], 0.5), 2.0);
    assert_eq!(mean(&[0.5, -0.25], 0.5), 0.0);
    assert!(mean(&[f32::NAN, 1.0], 0.5).is_nan());
    assert!(mean(&[1.0, 2.0], f32::NAN).is_nan());
    assert!(mean(&[], f32::NAN).is_nan());
}

#[test]
fn the_best_threshold_of_ten_million_elements_is_that_in_f64() {
    let mut magnitudes: Vec<f64> = TEN_MILLION.iter().map(|x| f64::from(x.abs())).collect();
    magnitudes.sort_unstable_by(|a, b| b.total_cmp(a));
    let (mut sum, mut best, mut threshold) = (0.0, 0.0, 0.0);
    for (kept, pair) in (1..).zip(magnitudes.windows(2)) {
        sum += pair[0];
        let gain = sum * sum / f64::from(kept);
        if pair[1] < pair[0] && gain > best {
            (best, threshold) = (gain, pair[1]);
        }
    }
    let found = statistics::ternary_threshold(TEN_MILLION.view(), Groups::Tensor).unwrap();
    assert_eq!(f64::from(found[0]), threshold);
}

/// Positive terms, of which f32 would lose the last digits.
#[test]
fn gradients_of_ten_million_elements_are_summed_as_in_f64() {
    let x = &*TEN_MILLION;
    let sum = |term: &dyn Fn(f64) -> f64| x.iter().map(|&x| term(f64::from(x))).sum::<f64>();
    let gradients = |map: &dyn Trained| map.parameter_gradients(x.view(), x.view()).unwrap();
    let above = |end: f32| sum(&|x| if x >= f64::from(end) { x } else { 0.0 });

    let lsq = Lsq::for_weights(8, 1.0).unwrap();
    let residue = |x: f64| if x < 127.0 { x.round_ties_even() - x } else { 127.0 };
    let ends = sum(&|x| x * if x <= -128.0 { -128.0 } else { residue(x) });
    let per_weight = lsq.gradient_scale(x.shape());
    assert_relative_eq!(gradients(&lsq)[0], per_weight * ends, max_relative = 1e-11);

    assert_relative_eq!(gradients(&Pact::new(4, 110.0).unwrap())[0], above(110.0), max_relative = 1e-12);

    let ternary = TrainedTernary::new(1.0, 1.0).unwrap().with_threshold(0.5).unwrap();
    let delta = 0.5 * statistics::max_abs(x.view(), Groups::Tensor).unwrap()[0];
    let positive = sum(&|x| if x > delta { x } else { 0.0 });
    assert_relative_eq!(gradients(&ternary)[0], positive, max_relative = 1e-12);

    // The same for each element: the mean of dy sign(w), where no sign has a gradient of its own.
    let gradient = ScaledSignGradient { c: -1.0 };
    let (grid, mut dx) = (Sign.fit(x.view()).unwrap(), ArrayD::zeros(x.raw_dim()));
    gradient.pullback_into(x.view(), &grid, x.view(), dx.view_mut()).unwrap();
    let mean = sum(&|x| x.abs()) / x.len() as f64;
    assert!(x.iter().zip(&dx).all(|(x, &dx)| dx == (mean as f32).copysign(*x)), "{mean}");
}

#[test]
fn a_channel_is_measured_as_if_it_were_alone() {
    let normal = Normal::new(0.1, 30.0).unwrap();
    for shape in [[2500, 17], [1030, 64], [1024, 16], [7, 33], [3, 2], [1, 20]] {
        let random = |seed| ArrayD::random_using(IxDyn(&shape), normal, &mut ChaCha8Rng::seed_from_u64(seed));
        let x: ArrayD<f32> = random(4);
        let groups = Granularity::LastAxis.groups(&shape).unwrap();
        let means = statistics::mean_abs(x.view(), groups).unwrap();
        for channel in 0..shape[1] {
            let alone = |x: &ArrayD<f32>| x.index_axis(Axis(1), channel).to_owned();
            let x = alone(&x);
            let tensor = Granularity::Tensor.groups(x.shape()).unwrap();
            let mean = statistics::mean_abs(x.view(), tensor).unwrap()[0];
            assert_eq!(means[channel].to_bits(), mean.to_bits(), "channel {channel} of {shape:?}");
        }
    }
}
