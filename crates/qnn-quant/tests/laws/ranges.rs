//! Affine quantization's ranges and observers, activation scales, and the ternary optimum.

use std::slice;

use ndarray::{ArrayD, Axis, IxDyn, array};
use ndarray_rand::RandomExt;
use ndarray_rand::rand_distr::Normal;
use proptest::prelude::*;
use qnn_quant::*;
use rand_chacha::ChaCha8Rng;
use rand_chacha::rand_core::SeedableRng;

use crate::inputs::{array as arrays, bits};
use crate::reference::ternary::gain;

fn normal(len: usize, seed: u64) -> ArrayD<f32> {
    ArrayD::random_using(IxDyn(&[len]), Normal::new(0.3, 1.0).unwrap(), &mut ChaCha8Rng::seed_from_u64(seed))
}

fn methods() -> [RangeMethod; 6] {
    [
        RangeMethod::MinMax,
        RangeMethod::MovingAverage { rate: 0.1 },
        RangeMethod::Percentile { percent: 99.0 },
        RangeMethod::SquaredError { bits: 4 },
        RangeMethod::SquaredError { bits: 8 },
        RangeMethod::Divergence { bits: 8 },
    ]
}

fn range_of(method: RangeMethod, batches: &[ArrayD<f32>]) -> Range {
    let mut observer = RangeObserver::new(method).unwrap();
    batches.iter().for_each(|batch| observer.observe(batch.view()).unwrap());
    observer.range().unwrap()
}

fn squared_error(range: Range, x: &ArrayD<f32>, bits: u32) -> f64 {
    let map = Affine::asymmetric(bits).unwrap().with_ranges(vec![range]).unwrap();
    quantize(&map, x).unwrap().iter().zip(x).map(|(&y, &x)| (f64::from(y) - f64::from(x)).powi(2)).sum()
}

#[test]
fn calibration_cuts_outliers_and_errs_less() {
    let mut x = normal(20_000, 1);
    x[7] = 60.0;
    let whole = range_of(RangeMethod::MinMax, slice::from_ref(&x));
    assert_eq!(whole.high(), 60.0);
    for bits in [4, 8] {
        let best = range_of(RangeMethod::SquaredError { bits }, slice::from_ref(&x));
        assert!(squared_error(best, &x, bits) < squared_error(whole, &x, bits), "{bits} bits: {best:?}");
        // No other hundredth of the range is better by more than what the bins hide.
        for percent in 1..=100 {
            let part = |end: f32| end * percent as f32 / 100.0;
            let other = Range::new(part(whole.low()), part(whole.high())).unwrap();
            assert!(
                squared_error(best, &x, bits) <= 1.02 * squared_error(other, &x, bits),
                "{bits} bits: {other:?}"
            );
        }
    }
    let divergence = range_of(RangeMethod::Divergence { bits: 8 }, slice::from_ref(&x));
    assert!((2.0..20.0).contains(&divergence.high()), "{divergence:?}");
    assert!(divergence.low() >= whole.low());
}

/// The height whose quantized distribution diverges least, from the magnitudes in increasing order: bins are counted between their ends.
fn plain_divergence(x: &ArrayD<f32>, bits: u32) -> f32 {
    let (low, high) =
        x.iter().fold((f64::MAX, f64::MIN), |(low, high), &x| (low.min(x.into()), high.max(x.into())));
    let mut width = 2_f64.powi(-30);
    while (high / width).floor() - (low / width).floor() >= 2048.0 || high.max(-low) / width >= 4096.0 {
        width *= 2.0;
    }
    let mut sorted: Vec<f64> = x.iter().map(|x| f64::from(x.abs())).collect();
    sorted.sort_by(f64::total_cmp);
    let below = |end: usize| sorted.partition_point(|&x| x < end as f64 * width);
    let used = (sorted[sorted.len() - 1] / width).floor() as usize + 1;
    let counts: Vec<f64> = (0..used).map(|bin| (below(bin + 1) - below(bin)) as f64).collect();
    let levels = if low < 0.0 { 1 << (bits - 1) } else { 1_usize << bits };
    let divergence = |bins: usize| {
        let mut p = counts[..bins].to_vec();
        let kept: f64 = p.iter().sum();
        p[bins - 1] += sorted.len() as f64 - kept;
        let mut sum = 0.0;
        for level in 0..levels {
            let part = level * bins / levels..(level + 1) * bins / levels;
            let full = counts[part.clone()].iter().filter(|&&count| count > 0.0).count() as f64;
            let share = counts[part.clone()].iter().sum::<f64>() / full / kept;
            for bin in part.filter(|&bin| p[bin] > 0.0) {
                let p = p[bin] / sorted.len() as f64;
                let q = if counts[bin] > 0.0 { share } else { 1e-12 };
                sum += p * (p / q).ln();
            }
        }
        sum
    };
    let best = (levels..=used)
        .rev()
        .map(|bins| (divergence(bins), bins))
        .reduce(|a, b| if b.0 < a.0 { b } else { a });
    (best.unwrap().1 as f64 * width) as f32
}

#[test]
fn the_range_of_least_divergence_is_that_of_the_plain_formula() {
    let signed = normal(20_000, 5);
    let unsigned = signed.mapv(f32::abs);
    let shifted = unsigned.mapv(|x| 3.0 + 0.8 * x);
    let far = unsigned.mapv(|x| 100.0 + x);
    for (what, mut x, outlier) in [
        ("signed", signed, 30.0),
        ("unsigned", unsigned, 30.0),
        ("shifted", shifted, 16.5),
        ("far", far, 117.0),
    ] {
        x[11] = outlier;
        for bits in [4, 8] {
            let range = range_of(RangeMethod::Divergence { bits }, slice::from_ref(&x));
            let height = plain_divergence(&x, bits);
            assert_eq!(range.high(), height.min(outlier), "{what}, {bits} bits: {range:?}");
            assert!(range.high() < outlier, "{what}, {bits} bits: the outlier is kept");
        }
    }
}

#[test]
fn percentiles_are_quantiles() {
    let x = normal(50_000, 2);
    let mut sorted: Vec<f32> = x.iter().copied().collect();
    sorted.sort_by(f32::total_cmp);
    for percent in [90.0, 99.0, 99.9, 100.0] {
        let range = range_of(RangeMethod::Percentile { percent }, slice::from_ref(&x));
        let at = |part: f64| sorted[((part * 50_000.0) as usize).min(49_999)];
        assert!((range.high() - at(percent / 100.0)).abs() < 0.02, "{percent}: {range:?}");
        assert!((range.low() - at(1.0 - percent / 100.0)).abs() < 0.02, "{percent}: {range:?}");
    }
    let whole = range_of(RangeMethod::Percentile { percent: 100.0 }, &[x]);
    assert_eq!((whole.low(), whole.high()), (sorted[0], sorted[49_999]));
}

#[test]
fn a_moving_average_starts_with_the_first_batch() {
    let batches = [array![2.0, 4.0].into_dyn(), array![0.0, 8.0].into_dyn()];
    let range = range_of(RangeMethod::MovingAverage { rate: 0.25 }, &batches);
    assert_eq!((range.low(), range.high()), (1.5, 5.0));
    let method = RangeMethod::MovingAverage { rate: 0.25 };
    let mut resumed = RangeObserver::resume(method, Some(Range::new(2.0, 4.0).unwrap())).unwrap();
    resumed.observe(batches[1].view()).unwrap();
    assert_eq!(resumed.range(), Some(range));
    assert!(RangeObserver::resume(RangeMethod::Percentile { percent: 99.0 }, None).is_err());
}

#[test]
fn a_great_batch_swallows_no_small_one() {
    let mut observer = RangeObserver::new(RangeMethod::MovingAverage { rate: 1.0 }).unwrap();
    for ends in [[1.0, 1e30], [1.0, 2.0]] {
        observer.observe(ndarray::aview1(&ends).into_dyn()).unwrap();
        assert_eq!(observer.range(), Some(Range::new(ends[0], ends[1]).unwrap()));
    }
}

#[test]
fn zeros_of_either_sign_may_come_first() {
    let x = normal(500, 1);
    for method in methods().into_iter().filter(|method| !matches!(method, RangeMethod::MovingAverage { .. }))
    {
        for zeros in [[0.0, 0.0], [-0.0, -0.0], [-0.0, 0.0], [0.0, -0.0]] {
            let zeros = ArrayD::from_shape_vec(IxDyn(&[2]), zeros.to_vec()).unwrap();
            let expected = range_of(method, &[x.clone(), ArrayD::zeros(IxDyn(&[2]))]);
            assert_eq!(range_of(method, &[zeros, x.clone()]), expected, "{method:?}");
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(48))]

    #[test]
    fn any_finite_batches_give_a_range_within_what_was_seen(a in arrays(), b in arrays()) {
        let all: Vec<f32> = a.iter().chain(&b).copied().collect();
        for method in methods() {
            let mut observer = RangeObserver::new(method).unwrap();
            observer.observe(a.view()).unwrap();
            observer.observe(b.view()).unwrap();
            let Some(range) = observer.range() else {
                prop_assert!(all.is_empty());
                continue;
            };
            let (low, high) = all.iter().fold((0.0_f32, 0.0_f32), |ends, &x| (ends.0.min(x), ends.1.max(x)));
            prop_assert!(low <= range.low() && range.high() <= high, "{method:?}: {range:?} of {low} to {high}");
            let map = Affine::asymmetric(8).unwrap().with_ranges(vec![range]).unwrap();
            prop_assert!(quantize(&map, &a).unwrap().iter().all(|y| y.is_finite()));
        }
    }

    #[test]
    fn how_elements_are_batched_does_not_matter(len in 1_usize..3000, cut in any::<prop::sample::Index>(), seed in any::<u64>()) {
        let x = normal(len, seed);
        let (a, b) = x.view().split_at(Axis(0), cut.index(len));
        for method in methods().into_iter().filter(|method| !matches!(method, RangeMethod::MovingAverage { .. })) {
            let whole = range_of(method, slice::from_ref(&x));
            prop_assert_eq!(range_of(method, &[a.to_owned(), b.to_owned()]), whole, "{:?}", method);
            prop_assert_eq!(range_of(method, &[b.to_owned(), a.to_owned()]), whole, "{:?}", method);
        }
    }

    #[test]
    fn a_channel_is_observed_and_quantized_as_if_it_were_alone(x in arrays(), width in 1_u32..=8) {
        let half = x.mapv(|x| 0.5 * x);
        let percentile = RangeMethod::Percentile { percent: 99.0 };
        for method in [RangeMethod::MinMax, RangeMethod::MovingAverage { rate: 0.1 }, percentile] {
            for axis in 0..x.ndim() {
                let along = Granularity::Axis(axis);
                let mut observers = ChannelObservers::new(method, along).unwrap();
                [&x, &half].into_iter().for_each(|batch| observers.observe(batch.view()).unwrap());
                let Some(ranges) = observers.ranges() else {
                    prop_assert!(x.is_empty());
                    continue;
                };
                let map = Affine::asymmetric(width).unwrap();
                let all = map.clone().with_granularity(along).with_ranges(ranges.clone()).unwrap();
                let whole = quantize(&all, &x).unwrap();
                for (channel, &range) in ranges.iter().enumerate() {
                    let [first, second] = [&x, &half].map(|x| x.index_axis(Axis(axis), channel).to_owned());
                    let alone = quantize(&map.clone().with_ranges(vec![range]).unwrap(), &first).unwrap();
                    prop_assert_eq!(bits(&alone), bits(&whole.index_axis(Axis(axis), channel).to_owned()));
                    prop_assert_eq!(range_of(method, &[first, second]), range, "{:?}", method);
                }
            }
        }
    }

    #[test]
    fn zero_is_exact_and_stored_integers_fit(x in arrays(), bits in 1_u32..=8, unsigned in any::<bool>()) {
        let map = Affine::asymmetric(bits).unwrap();
        let map = if unsigned { map.unsigned() } else { map };
        let grid = map.fit(x.view()).unwrap();
        let zero = grid.zero_points()[0];
        let first = if unsigned { 0 } else { -(1 << (bits - 1)) };
        prop_assert!(grid.codes(0).contains(&0) && grid.bits() == bits);
        for code in map.codes(x.view(), &grid).unwrap() {
            prop_assert!((first..first + (1 << bits)).contains(&(code + zero)));
        }
    }

    #[test]
    fn no_ternary_threshold_errs_less_than_the_exact_one(x in arrays()) {
        prop_assume!(!x.is_empty());
        let best = statistics::ternary_threshold(x.view(), Groups::Tensor).unwrap()[0];
        for other in x.iter().map(|x| f64::from(x.abs())).chain([0.0]) {
            prop_assert!(gain(&x, other) <= gain(&x, best.into()) * (1.0 + 1e-12), "{best} of {x}, but {other}");
        }
    }

    #[test]
    fn activation_scales_are_a_convolution_with_a_box(
        (n, h, w, c) in (1_usize..3, 1_usize..6, 1_usize..6, 1_usize..4),
        kernel in [1_usize..4, 1_usize..4],
        stride in [1_usize..3, 1_usize..3],
        padding in [[0_usize..3, 0_usize..3], [0_usize..3, 0_usize..3]],
        seed in any::<u64>(),
    ) {
        let scaling = ActivationScaling { kernel, stride, padding };
        let x = normal(n * h * w * c, seed).into_shape_with_order((n, h, w, c)).unwrap();
        let [[top, bottom], [left, right]] = padding;
        let fits = kernel[0] <= h + top + bottom && kernel[1] <= w + left + right;
        let found = scaling.scales(x.view());
        prop_assert_eq!(found.is_ok(), fits);
        let Ok(found) = found else { return Ok(()) };
        let at = |image: usize, y: usize, x_: usize, channel: usize| {
            let inside = (top..top + h).contains(&y) && (left..left + w).contains(&x_);
            if inside { f64::from(x[[image, y - top, x_ - left, channel]].abs()) } else { 0.0 }
        };
        for ((image, row, column, _), &scale) in found.indexed_iter() {
            let mut sum = 0.0;
            for y in row * stride[0]..row * stride[0] + kernel[0] {
                for x in column * stride[1]..column * stride[1] + kernel[1] {
                    sum += (0..c).map(|channel| at(image, y, x, channel)).sum::<f64>();
                }
            }
            let want = sum / (kernel[0] * kernel[1] * c) as f64;
            prop_assert!((f64::from(scale) - want).abs() <= 1e-6 * want, "{scale}, not {want}");
        }
    }
}

#[test]
fn infinite_activations_have_no_scale() {
    let scaling = ActivationScaling { kernel: [1, 1], stride: [1, 1], padding: [[0, 0], [0, 0]] };
    let images = array![[[[1.0, f32::NAN]], [[f32::INFINITY, 0.0]]]];
    assert!(matches!(scaling.scales(images.view()), Err(Error::Infinite { index: 2, .. })));
}

#[test]
fn more_positions_than_an_array_holds_are_refused() {
    for padding in [[[usize::MAX / 2, 0], [0, 0]], [[1 << 40, 0], [1 << 40, 0]], [[usize::MAX, 1], [0, 0]]] {
        let scaling = ActivationScaling { kernel: [1, 1], stride: [1, 1], padding };
        for images in [ndarray::Array4::zeros((1, 1, 1, 1)), ndarray::Array4::zeros((0, 1, 1, 1))] {
            let refused = scaling.scales(images.view());
            assert!(matches!(refused, Err(Error::Parameter { parameter: "padding", .. })), "{refused:?}");
        }
    }
}

#[test]
fn one_range_per_channel() {
    let x = array![[1.0, -100.0], [-1.0, 50.0]].into_dyn();
    let ranges = vec![Range::new(-1.0, 1.0).unwrap(), Range::new(-100.0, 50.0).unwrap()];
    let map = Affine::asymmetric(8).unwrap().with_granularity(Granularity::Axis(1));
    let fixed = map.clone().with_ranges(ranges.clone()).unwrap();
    assert_eq!(quantize(&fixed, &x).unwrap(), quantize(&map, &x).unwrap());
    let tensor = Affine::asymmetric(8).unwrap().with_ranges(ranges).unwrap();
    assert!(matches!(tensor.fit(x.view()), Err(Error::Grid { .. })));
    // Groups with different zero points have different codes; the alphabet has all of them.
    let grid = map.fit(x.view()).unwrap();
    assert_ne!(grid.zero_points()[0], grid.zero_points()[1]);
    for group in 0..2 {
        assert!(grid.codes(group).iter().all(|&code| grid.alphabet().unwrap().contains(code)));
    }
    let codes = map.codes(x.view(), &grid).unwrap();
    assert_eq!(grid.dequantize(codes.view()).unwrap(), quantize(&map, &x).unwrap());
    assert!(grid.dequantize(codes.mapv(|code| 300 - code).view()).is_err());
}

#[test]
fn channels_have_the_ranges_of_observers_of_their_own() {
    let x = normal(900, 6).into_shape_with_order(IxDyn(&[10, 30, 3])).unwrap();
    for method in methods() {
        for (axis, len) in [(0, 10), (2, 3)] {
            let mut observers = ChannelObservers::new(method, Granularity::Axis(axis)).unwrap();
            observers.observe(x.view()).unwrap();
            let alone = x.axis_iter(Axis(axis)).map(|channel| range_of(method, &[channel.to_owned()]));
            let ranges = observers.ranges().unwrap();
            assert_eq!((ranges.len(), ranges), (len, alone.collect()), "{method:?} along {axis}");
        }
        let mut tensor = ChannelObservers::new(method, Granularity::Tensor).unwrap();
        tensor.observe(x.view()).unwrap();
        assert_eq!(tensor.ranges(), Some(vec![range_of(method, slice::from_ref(&x))]), "{method:?}");
    }
}

#[test]
fn refused_batches_change_no_channel() {
    let mut observers = ChannelObservers::new(RangeMethod::MinMax, Granularity::LastAxis).unwrap();
    assert_eq!((observers.ranges(), observers.method()), (None, RangeMethod::MinMax));
    observers.observe(ArrayD::zeros(IxDyn(&[0, 7])).view()).unwrap();
    observers.observe(array![[1.0, -2.0], [3.0, 4.0]].into_dyn().view()).unwrap();
    let before = observers.clone();
    let nan = observers.observe(array![[9.0, 9.0], [9.0, f32::NAN]].into_dyn().view());
    assert_eq!(nan, Err(Error::NotANumber { index: 3 }));
    let infinite = observers.observe(array![[9.0, f32::NEG_INFINITY]].into_dyn().view());
    assert!(matches!(infinite, Err(Error::Infinite { .. })), "{infinite:?}");
    let wider = observers.observe(array![[9.0, 9.0, 9.0]].into_dyn().view());
    assert!(matches!(wider, Err(Error::Parameter { parameter: "channels", .. })), "{wider:?}");
    let scalar = observers.observe(ndarray::arr0(9.0).into_dyn().view());
    assert_eq!(scalar, Err(Error::AxisOutOfRange { axis: 0, rank: 0 }));
    assert_eq!(observers, before);
    let ends = |range: Range| (range.low(), range.high());
    assert_eq!(
        observers.ranges().unwrap().into_iter().map(ends).collect::<Vec<_>>(),
        [(1.0, 3.0), (-2.0, 4.0)]
    );
    assert!(ChannelObservers::new(RangeMethod::Divergence { bits: 0 }, Granularity::Tensor).is_err());
}

#[test]
fn what_is_not_finite_is_refused_and_changes_nothing() {
    for method in methods() {
        let mut observer = RangeObserver::new(method).unwrap();
        assert!(matches!(
            observer.observe(array![0.0, f32::NAN].into_dyn().view()),
            Err(Error::NotANumber { index: 1 })
        ));
        assert!(matches!(
            observer.observe(array![f32::INFINITY].into_dyn().view()),
            Err(Error::Infinite { .. })
        ));
        assert_eq!(observer.range(), None);
    }
    for method in [
        RangeMethod::MovingAverage { rate: 0.0 },
        RangeMethod::MovingAverage { rate: f64::NAN },
        RangeMethod::Percentile { percent: 50.0 },
        RangeMethod::SquaredError { bits: 0 },
        RangeMethod::Divergence { bits: 33 },
    ] {
        assert!(RangeObserver::new(method).is_err(), "{method:?}");
    }
}

#[test]
fn a_network_layer_in_integers_is_the_quantized_layer() {
    // Σ (S1 c1)(S2 c2) / S3, rounded, for all codes of small layers: at most one unit beside the exact quotient.
    let (s1, s2, s3) = (0.013_f64, 0.0041_f64, 0.071_f64);
    let multiplier = Multiplier::new(s1 * s2 / s3).unwrap();
    for acc in (-128 * 127 * 9..128 * 127 * 9).step_by(997) {
        let exact = f64::from(acc) * s1 * s2 / s3;
        let found = multiplier.requantize(acc, 3, -128..=127);
        assert!(
            (f64::from(found) - (exact + 3.0).clamp(-128.0, 127.0)).abs() <= 1.0,
            "{acc}: {found}, {exact}"
        );
    }
}
