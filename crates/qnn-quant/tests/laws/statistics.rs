//! Statistics of large tensors against one plain f64 loop.

use approx::assert_relative_eq;
use ndarray::{ArrayD, Axis, IxDyn};
use ndarray_rand::RandomExt;
use ndarray_rand::rand_distr::Normal;
use qnn_quant::{Granularity, statistics};
use rand_chacha::ChaCha8Rng;
use rand_chacha::rand_core::SeedableRng;

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
    let normal = Normal::new(100.0, 30.0).unwrap();
    let x = ArrayD::random_using(IxDyn(&[400, 250, 100]), normal, &mut ChaCha8Rng::seed_from_u64(3));
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
