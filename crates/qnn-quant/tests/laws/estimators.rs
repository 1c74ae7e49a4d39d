//! Each estimator against finite differences of the surrogate whose derivative it is, and in any company.

use std::sync::Arc;

use ndarray::{ArrayD, Axis, IxDyn, array, aview1};
use proptest::prelude::*;
use qnn_quant::*;

use crate::cases::{Map, all};
use crate::inputs::{array, bits};

fn hardtanh(x: f64) -> f64 {
    x.clamp(-1.0, 1.0)
}

/// `(f(x + h) − f(x − h)) / 2h`.
fn difference(f: impl Fn(f64) -> f64, x: f64) -> f64 {
    let h = 1e-5;
    (f(x + h) - f(x - h)) / (2.0 * h)
}

/// Points of [−2, 2] that keep away from the kinks of all surrogates.
fn points() -> Vec<f32> {
    let kinks = [-2.0, -1.5, -1.0, -0.5, 0.0, 0.5, 0.75, 1.0, 1.5, 2.0];
    let all = (-200..=200).map(|i| i as f32 / 99.7);
    all.filter(|x| kinks.iter().all(|kink: &f32| (x - kink).abs() > 1e-3)).collect()
}

/// An estimator, a map beside it, and the function whose derivative it is there.
struct Surrogate {
    estimator: Box<dyn Estimator>,
    map: Map,
    f: Box<dyn Fn(f64) -> f64>,
}

fn surrogate(
    estimator: impl Estimator + 'static,
    map: impl Quantizer + 'static,
    f: impl Fn(f64) -> f64 + 'static,
) -> Surrogate {
    Surrogate { estimator: Box::new(estimator), map: Arc::new(map), f: Box::new(f) }
}

/// `slope` through the public interface, with a gradient of 2 so that a forgotten factor shows.
fn check(surrogates: &[Surrogate]) {
    let x = points();
    let x = aview1(&x).into_dyn();
    for Surrogate { estimator, map, f } in surrogates {
        let grid = map.fit(x.view()).unwrap();
        let (dy, mut dx) = (ArrayD::from_elem(x.raw_dim(), 2.0), ArrayD::zeros(x.raw_dim()));
        estimator.pullback_into(x.view(), &grid, dy.view(), dx.view_mut()).unwrap();
        for (&x, &dx) in x.iter().zip(&dx) {
            let want = 2.0 * difference(f, x.into());
            let error = (f64::from(dx) - want).abs();
            assert!(error < 1e-5, "{estimator:?} of {map:?}: {dx} at {x}, expected {want}");
        }
    }
}

#[test]
fn every_registered_estimator_has_a_surrogate() {
    let all = [pointwise(), staircases(), smooth(), between_levels(), measuring()];
    for listing in registry::estimators() {
        let mut names = all.iter().flatten().map(|surrogate| surrogate.estimator.name());
        assert!(names.any(|name| name == listing.name), "{} has no surrogate", listing.name);
    }
}

fn quadratic(x: f64) -> f64 {
    x.signum() * (1.0 - (1.0 - x.abs().min(1.0)).powi(2))
}

fn pointwise() -> Vec<Surrogate> {
    vec![
        surrogate(StraightThrough, Sign, |x| x),
        surrogate(ClippedIdentity::default(), Sign, hardtanh),
        surrogate(ClippedIdentity { c: 1.5 }, Sign, |x| x.clamp(-1.5, 1.5)),
        surrogate(ClippedIdentity { c: f32::INFINITY }, Sign, |x| x),
        surrogate(ClippedUnit, BinaryUnit, |x| x.clamp(0.0, 1.0)),
        surrogate(ApproxSign, Sign, quadratic),
        surrogate(LeakyClipped { c: 1.5, leak: 0.25 }, Sign, |x| {
            x.clamp(-1.5, 1.5) + 0.25 * (x - x.clamp(-1.5, 1.5))
        }),
        surrogate(Custom { name: "cubic", f: |x: f32| 3.0 * x * x }, Sign, |x| x * x * x),
    ]
}

#[test]
fn pointwise_slopes_are_the_derivatives_of_their_surrogates() {
    check(&pointwise());
}

/// `t + (d/2) tanh(2k (x − t)/d)` at the threshold that is nearest, 0 in slope outside of the levels.
fn staircase(x: f64, k: f64, low: f64, count: usize, periodic: bool) -> f64 {
    let d = -2.0 * low / (count - 1) as f64;
    let index = ((x - low) / d).floor();
    let index = if periodic || count == 2 { index } else { index.clamp(0.0, count as f64 - 2.0) };
    let index = if count == 2 && !periodic { 0.0 } else { index };
    let t = low + (index + 0.5) * d;
    let x = if periodic || count == 2 { x } else { x.clamp(low, -low) };
    t + 0.5 * d * (2.0 * k * (x - t) / d).tanh()
}

fn staircases() -> Vec<Surrogate> {
    let mut surrogates = Vec::new();
    for steepness in [3.0, 4.0, 5.0_f32] {
        let (estimator, k) = (ModifiedTanh::new(steepness), f64::from(steepness));
        surrogates.push(surrogate(estimator, Sign, move |x| (k * x).tanh()));
        surrogates.push(surrogate(estimator, Identity, move |x| (k * x).tanh()));
        surrogates.push(surrogate(estimator, BinaryUnit, move |x| 0.5 * (2.0 * k * (x - 0.5)).tanh()));
        for count in [2, 3, 5] {
            for periodic in [false, true] {
                let estimator = ModifiedTanh { k: steepness, periodic };
                let map = EvenLevels::new(count as u32, 1.0).unwrap();
                surrogates.push(surrogate(estimator, map, move |x| staircase(x, k, -1.0, count, periodic)));
            }
        }
    }
    surrogates
}

#[test]
fn modified_tanh_is_the_derivative_of_the_staircase() {
    check(&staircases());
}

#[test]
fn modified_tanh_finds_the_thresholds_of_uneven_levels() {
    let x = array![-1.0, -0.6, -0.5, 0.0, 0.5, 0.6, 1.0].into_dyn();
    // D = 0.42, levels ±0.74: a step is 0.74 wide at ±0.42.
    let pair = Pair::new(Ternary::per_tensor(), ModifiedTanh::new(3.0));
    let grid = pair.map.fit(x.view()).unwrap();
    let (d, t) = (f64::from(grid.value(0, 1)), f64::from(grid.thresholds(0)[1]));
    let dx = pair.pullback(x.view(), &grid, x.mapv(|_| 1.0).view()).unwrap();
    for (&x, &dx) in x.iter().zip(&dx) {
        let (x, slope) = (f64::from(x), |t: f64| 3.0 * (1.0 - (6.0 * (f64::from(x) - t) / d).tanh().powi(2)));
        let want = if x.abs() > d { 0.0 } else { slope(if x < 0.0 { -t } else { t }) };
        assert!((f64::from(dx) - want).abs() < 1e-5, "{dx} at {x}, expected {want}");
    }
}

#[test]
fn modified_tanh_is_the_derivative_of_a_staircase_of_any_steps() {
    let x = points();
    let x = aview1(&x).into_dyn();
    let maps: [Map; 5] = [
        Arc::new(Ternary::per_tensor()),
        Arc::new(Inq::new(3).unwrap()),
        Arc::new(Inq::new(5).unwrap()),
        Arc::new(LogAp2::new(-3, 1).unwrap()),
        Arc::new(TrainedTernary::new(0.7, 0.4).unwrap()),
    ];
    for map in maps {
        let grid = map.fit(x.view()).unwrap();
        let levels: Vec<f64> = grid.values(0).map(f64::from).collect();
        let thresholds: Vec<f64> = grid.thresholds(0).into_iter().map(f64::from).collect();
        let dx = Pair { map: map.clone(), gradient: Arc::new(ModifiedTanh::new(4.0)) };
        let dx = dx.pullback(x.view(), &grid, x.mapv(|_| 1.0).view()).unwrap();
        for (&x, &dx) in x.iter().zip(&dx) {
            let x = f64::from(x);
            let mut distances: Vec<(f64, usize)> =
                thresholds.iter().enumerate().map(|(i, t)| ((x - t).abs(), i)).collect();
            distances.sort_by(|a, b| a.0.total_cmp(&b.0));
            if distances[1].0 - distances[0].0 < 1e-6 {
                continue;
            }
            let nearest = distances[0].1;
            let (t, d) = (thresholds[nearest], levels[nearest + 1] - levels[nearest]);
            let (step, h) = (|x: f64| 0.5 * d * (8.0 * (x - t) / d).tanh(), 1e-4 * d);
            let inside = (levels[0]..=levels[levels.len() - 1]).contains(&x);
            let want = if inside { (step(x + h) - step(x - h)) / (2.0 * h) } else { 0.0 };
            assert!((f64::from(dx) - want).abs() < 1e-5, "{map:?}: {dx} at {x}, expected {want}");
        }
    }
}

fn smooth() -> Vec<Surrogate> {
    let mut surrogates = Vec::new();
    for beta in [1.0, 5.0, 10.0_f32] {
        let sigmoid = |x: f64| 1.0 / (1.0 + (-x).exp());
        let swish = move |x: f64| 2.0 * sigmoid(x) * (1.0 + x * (1.0 - sigmoid(x))) - 1.0;
        surrogates.push(surrogate(SwishSign { beta }, Sign, move |x| swish(f64::from(beta) * x)));
    }
    for steepness in [0.1, 1.0, 10.0_f32] {
        let (estimator, t) = (ErrorDecay::new(steepness).unwrap(), f64::from(steepness));
        surrogates.push(surrogate(estimator, Sign, move |x| t.recip().max(1.0) * (t * x).tanh()));
    }
    surrogates
}

#[test]
fn smooth_slopes_are_the_derivatives_of_their_surrogates() {
    check(&smooth());
    assert_eq!((ErrorDecay::at(0.5).t, ErrorDecay::at(0.5).k), (1.0, 1.0));
}

/// The mean magnitude of all points.
fn mean_magnitude() -> f64 {
    points().iter().map(|&x| f64::from(x).abs()).sum::<f64>() / points().len() as f64
}

fn between_levels() -> Vec<Surrogate> {
    let scale = mean_magnitude();
    let trained = TrainedTernary::new(0.5, 2.0).unwrap().with_threshold(0.3037).unwrap();
    // D lies between two points.
    let d = 0.3037 * 200.0 / 99.7;
    let regions = move |x: f64| {
        if x > d {
            0.5 * x
        } else if x < -d {
            2.0 * x
        } else {
            x
        }
    };
    vec![
        surrogate(WithinLevels, Sign, hardtanh),
        surrogate(WithinLevels, Identity, |x| x),
        surrogate(LsqGradient, Lsq::for_weights(2, 0.75).unwrap(), |x| x.clamp(-1.5, 0.75)),
        surrogate(PactGradient, Pact::new(3, 1.5).unwrap(), |x| x.clamp(0.0, 1.5)),
        surrogate(MagnitudeAwareGradient, ScaledSign::per_tensor(), move |x| scale * quadratic(x)),
        surrogate(MagnitudeAwareGradient, Identity, quadratic),
        surrogate(TrainedTernaryGradient, trained, regions),
    ]
}

#[test]
fn slopes_that_know_the_levels_are_the_derivatives_of_their_clips() {
    check(&between_levels());
}

#[test]
fn slopes_are_safe_far_out_and_where_levels_coincide() {
    let x = array![0.0, -0.0, 1e-45, -1e30, f32::MAX, f32::INFINITY, f32::NEG_INFINITY].into_dyn();
    let zero = Ternary::per_tensor().fit(array![0.0].into_dyn().view()).unwrap();
    for listing in registry::estimators() {
        let gradient = registry::estimator(listing.name, &registry::Parameters::default()).unwrap();
        for grid in [
            Sign.fit(x.view()).unwrap(),
            EvenLevels::new(5, 1.0).unwrap().fit(x.view()).unwrap(),
            zero.clone(),
        ] {
            let mut dx = ArrayD::zeros(x.raw_dim());
            gradient.pullback_into(x.view(), &grid, x.mapv(|_| 1.0).view(), dx.view_mut()).unwrap();
            assert!(dx.iter().all(|dx| dx.is_finite()), "{gradient:?}: {dx}");
        }
    }
    let periodic = ModifiedTanh::periodic(1e30);
    let mut dx = ArrayD::zeros(x.raw_dim());
    periodic.pullback_into(x.view(), &zero, x.mapv(|_| 1.0).view(), dx.view_mut()).unwrap();
    assert!(dx.iter().all(|dx| dx.is_finite()), "{dx}");
    for k in [f32::MAX, f32::MIN] {
        let mut high = ErrorDecay::new(10.0).unwrap();
        high.k = k;
        high.pullback_into(x.view(), &zero, x.mapv(|_| 0.0).view(), dx.view_mut()).unwrap();
        assert!(dx.iter().all(|&dx| dx == 0.0), "{dx}");
        high.pullback_into(x.view(), &zero, x.mapv(|_| 1.0).view(), dx.view_mut()).unwrap();
        assert_eq!((dx[0], dx[3]), (k, 0.0));
    }
}

/// What is measured on all points, or how many there are, is held constant.
fn measuring() -> Vec<Surrogate> {
    let max = points().iter().map(|&x| f64::from(x).tanh().abs()).fold(0.0, f64::max);
    let (n, alpha) = (points().len() as f64, mean_magnitude());
    let signs = points().iter().map(|&x| f64::from(x).signum()).sum::<f64>() / n;
    let squashed = move |x: f64| x.tanh() / max;
    let mut surrogates = vec![
        surrogate(DorefaTanh, Sign, squashed),
        surrogate(XnorNetGradient, ScaledSign::per_tensor(), move |x| x / n + alpha * hardtanh(x)),
        surrogate(XnorNetGradient, Sign, move |x| x / n + hardtanh(x)),
        surrogate(XnorNetGradient, Identity, move |x| x / n + hardtanh(x)),
        surrogate(ScaledSignGradient::default(), ScaledSign::per_tensor(), move |x| {
            alpha * hardtanh(x) + x.abs() * signs
        }),
    ];
    surrogates.extend((2..=8).map(|bits| surrogate(DorefaTanh, DorefaWeights::new(bits).unwrap(), squashed)));
    surrogates
}

#[test]
fn slopes_that_measure_the_tensor_are_the_derivatives_of_their_surrogates() {
    check(&measuring());
}

#[test]
fn an_infinite_weight_has_the_greatest_tanh_and_no_slope() {
    let x = array![f32::INFINITY, 0.5, f32::NEG_INFINITY].into_dyn();
    let grid = Sign.fit(x.view()).unwrap();
    let mut dx = x.clone();
    DorefaTanh.pullback_into(x.view(), &grid, x.mapv(|_| 2.0).view(), dx.view_mut()).unwrap();
    assert_eq!((dx[0], dx[2]), (0.0, 0.0));
    assert!((f64::from(dx[1]) - 2.0 * difference(f64::tanh, 0.5)).abs() < 1e-6, "{dx}");
}

#[test]
fn the_slope_never_contains_the_scale() {
    let (x, dy) = (array![0.3, -0.4, 0.9].into_dyn(), array![1.0, 2.0, -3.0].into_dyn());
    let maps: [&dyn Quantizer; 3] =
        [&Sign, &ScaledSign::per_axis(0), &ConstantScaledSign::new(0.125).unwrap()];
    for map in maps {
        let grid = map.fit(x.view()).unwrap();
        let mut dx = ArrayD::zeros(x.raw_dim());
        StraightThrough.pullback_into(x.view(), &grid, dy.view(), dx.view_mut()).unwrap();
        assert_eq!(dx, dy, "{map:?}");
    }
}

/// `Σ dy_i · mean|w| · s_i(w_i)`, where `s_i` has the sign's value at `at` and the slope of `hardtanh`.
fn loss(w: &[f64], at: &[f64], dy: &[f64]) -> f64 {
    let alpha = w.iter().map(|w| w.abs()).sum::<f64>() / w.len() as f64;
    let sign = |i: usize| at[i].signum() + hardtanh(w[i]) - hardtanh(at[i]);
    (0..w.len()).map(|i| dy[i] * alpha * sign(i)).sum()
}

#[test]
fn the_chain_rule_through_alpha_is_exact() {
    let w = array![[0.3, -1.7, 0.9, 0.2], [-0.4, 0.6, 1.2, -0.8], [0.05, 0.7, -2.0, -0.3]];
    let dy = array![[1.0, -2.0, 0.5, 0.3], [0.7, 0.1, -0.9, 2.0], [-1.1, 0.4, 0.6, -0.2]];
    for axis in 0..2 {
        let pair = Pair::new(ScaledSign::per_axis(axis), ScaledSignGradient::default());
        let wide = w.mapv(|x: f64| x as f32).into_dyn();
        let grid = pair.map.fit(wide.view()).unwrap();
        let dx = pair.pullback(wide.view(), &grid, dy.mapv(|x: f64| x as f32).into_dyn().view()).unwrap();
        for (group, (w, dy)) in w.axis_iter(Axis(axis)).zip(dy.axis_iter(Axis(axis))).enumerate() {
            let (at, dy) = (w.to_vec(), dy.to_vec());
            for j in 0..at.len() {
                let moved = |x: f64| {
                    let mut w = at.clone();
                    w[j] = x;
                    loss(&w, &at, &dy)
                };
                let found = if axis == 0 { dx[[group, j]] } else { dx[[j, group]] };
                let want = difference(moved, at[j]);
                assert!(
                    (f64::from(found) - want).abs() < 1e-5,
                    "axis {axis}, ({group}, {j}): {found}, expected {want}"
                );
            }
        }
    }
}

#[test]
fn ends_of_intervals_belong_to_them() {
    let x = array![-1.0, 1.0, 1.0_f32.next_up(), -0.0, f32::INFINITY, f32::NAN].into_dyn();
    let grid = Sign.fit(x.view()).unwrap();
    let slopes = |estimator: &dyn Estimator| {
        let (dy, mut dx) = (ArrayD::ones(x.raw_dim()), ArrayD::zeros(x.raw_dim()));
        estimator.pullback_into(x.view(), &grid, dy.view(), dx.view_mut()).unwrap();
        dx.into_iter().collect::<Vec<f32>>()
    };
    assert_eq!(slopes(&ClippedIdentity::default()), [1.0, 1.0, 0.0, 1.0, 0.0, 0.0]);
    assert_eq!(slopes(&ClippedIdentity { c: f32::INFINITY }), [1.0, 1.0, 1.0, 1.0, 1.0, 0.0]);
    assert_eq!(slopes(&ClippedUnit), [0.0, 1.0, 0.0, 1.0, 0.0, 0.0]);
    assert_eq!(slopes(&ApproxSign), [0.0, 0.0, 0.0, 2.0, 0.0, 0.0]);
}

/// Every estimator with its published parameters.
pub(crate) fn published() -> Vec<Arc<dyn Estimator>> {
    let of = |name| registry::estimator(name, &registry::Parameters::default()).unwrap();
    registry::estimators().map(|listing| of(listing.name)).collect()
}

/// Estimators with parameters at the ends of what they take.
fn extreme() -> Vec<Arc<dyn Estimator>> {
    let mut all: Vec<Arc<dyn Estimator>> =
        vec![Arc::new(ClippedIdentity { c: 0.0 }), Arc::new(LeakyClipped { c: 0.0, leak: 1e30 })];
    for extreme in [1e-30, 1e30, f32::MAX] {
        all.push(Arc::new(ModifiedTanh::new(extreme)));
        all.push(Arc::new(ModifiedTanh::periodic(extreme)));
        all.push(Arc::new(SwishSign { beta: extreme }));
        all.push(Arc::new(ErrorDecay::new(extreme).unwrap()));
    }
    all
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(32))]

    #[test]
    fn any_map_goes_with_any_estimator_and_never_gives_nan(x in array()) {
        let dy = x.mapv(|x| if x > 0.3 { 1.0 } else { (-2.5 * x).min(1e30) });
        let identity: Map = Arc::new(Identity);
        for map in all().into_iter().map(|case| case.map).chain([identity]) {
            for gradient in published().into_iter().chain(extreme()) {
                let pair = Pair { map: map.clone(), gradient };
                let grid = pair.map.fit(x.view()).unwrap();
                let dx = pair.pullback(x.view(), &grid, dy.view()).unwrap();
                prop_assert!(dx.iter().all(|dx| !dx.is_nan()), "{pair:?}: {dx} of {x}");
            }
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(6))]

    #[test]
    fn a_channel_has_the_gradient_that_it_would_have_alone(x in array()) {
        let dy = x.mapv(|x| 0.7 - x.clamp(-2.0, 2.0));
        for (case, gradient) in all().iter().flat_map(|case| published().into_iter().map(move |gradient| (case, gradient))) {
            let Some(along) = &case.along else { continue };
            let axis = x.ndim() - 1;
            let pair = Pair { map: along(Granularity::Axis(axis)), gradient };
            let alone = Pair { map: case.map.clone(), ..pair.clone() };
            let grid = pair.map.fit(x.view()).unwrap();
            let dx = pair.pullback(x.view(), &grid, dy.view()).unwrap();
            for (channel, x) in x.axis_iter(Axis(axis)).enumerate() {
                let of_channel = |of: &ArrayD<f32>| of.index_axis(Axis(axis), channel).to_owned();
                let grid = alone.map.fit(x.view()).unwrap();
                let expected = alone.pullback(x, &grid, of_channel(&dy).view()).unwrap();
                prop_assert_eq!(bits(&of_channel(&dx)), bits(&expected), "{:?}", pair);
            }
        }
    }

    #[test]
    fn magnitudes_of_several_channels_stay_apart(x in array()) {
        let (pair, axis) = (Pair::published(MagnitudeAwareSign), Axis(x.ndim() - 1));
        let dy = x.mapv(|x| 0.7 - x.clamp(-2.0, 2.0));
        let grid = pair.map.fit(x.view()).unwrap();
        let dx = pair.pullback(x.view(), &grid, dy.view()).unwrap();
        let parts = x.axis_chunks_iter(axis, 1).zip(dy.axis_chunks_iter(axis, 1)).zip(dx.axis_chunks_iter(axis, 1));
        for ((x, dy), dx) in parts {
            let grid = pair.map.fit(x.view()).unwrap();
            prop_assert_eq!(bits(&pair.pullback(x, &grid, dy).unwrap()), bits(&dx.to_owned()));
        }
    }
}

#[test]
fn elementwise_gradients_may_be_taken_in_parts() {
    let x = ArrayD::from_shape_fn(IxDyn(&[300]), |i| ((i[0] * 7919) % 1000) as f32 / 250.0 - 2.0);
    let dy = x.mapv(|x| 0.7 - x * x);
    let mut whole_only = Vec::new();
    for listing in registry::estimators() {
        let gradient = registry::estimator(listing.name, &registry::Parameters::default()).unwrap();
        if !gradient.is_elementwise() {
            whole_only.push(listing.name);
            continue;
        }
        for map in all().into_iter().map(|case| case.map) {
            let grid = map.fit(x.view()).unwrap();
            if grid.groups() != Groups::Tensor {
                continue;
            }
            let (mut whole, mut parts) = (x.clone(), x.clone());
            gradient.pullback_into(x.view(), &grid, dy.view(), whole.view_mut()).unwrap();
            let pairs = x.axis_chunks_iter(Axis(0), 7).zip(dy.axis_chunks_iter(Axis(0), 7));
            for ((x, dy), dx) in pairs.zip(parts.axis_chunks_iter_mut(Axis(0), 7)) {
                gradient.pullback_into(x, &grid, dy, dx).unwrap();
            }
            assert_eq!(bits(&parts), bits(&whole), "{gradient:?} of {map:?}");
        }
    }
    assert_eq!(whole_only, ["dorefa-tanh", "xnor-net", "scaled-sign"]);
}

#[test]
fn other_shapes_are_refused() {
    let (x, dy) = (array![[1.0, 2.0]].into_dyn(), array![1.0, 2.0].into_dyn());
    for listing in registry::estimators() {
        let gradient = registry::estimator(listing.name, &registry::Parameters::default()).unwrap();
        let pair = Pair { map: Arc::new(ScaledSign::per_axis(1)), gradient };
        let grid = pair.map.fit(x.view()).unwrap();
        assert!(matches!(pair.pullback(x.view(), &grid, dy.view()), Err(Error::Shape { .. })), "{pair:?}");
        let transposed = x.t();
        let error = pair.pullback(transposed, &grid, x.t()).unwrap_err();
        assert!(matches!(error, Error::GroupsDoNotFit { .. }), "{pair:?}: {error}");
    }
}
