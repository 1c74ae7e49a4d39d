//! Each estimator against finite differences of the surrogate whose derivative it is, and in any company.

use ndarray::{ArrayD, array, aview1};
use proptest::prelude::*;
use qnn_quant::*;

use crate::cases::{Map, all};
use crate::inputs::array;

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

/// `slope` through the public interface, with a gradient of 2 so that a forgotten factor shows.
fn check(estimator: &dyn Estimator, map: &dyn Quantizer, surrogate: impl Fn(f64) -> f64) {
    let x = points();
    let x = aview1(&x).into_dyn();
    let grid = map.fit(x.view()).unwrap();
    let (dy, mut dx) = (ArrayD::from_elem(x.raw_dim(), 2.0), ArrayD::zeros(x.raw_dim()));
    estimator.pullback_into(x.view(), &grid, dy.view(), dx.view_mut()).unwrap();
    for (&x, &dx) in x.iter().zip(&dx) {
        let want = 2.0 * difference(&surrogate, x.into());
        assert!((f64::from(dx) - want).abs() < 1e-5, "{}: {dx} at {x}, expected {want}", estimator.name());
    }
}

#[test]
fn pointwise_slopes_are_the_derivatives_of_their_surrogates() {
    check(&StraightThrough, &Sign, |x| x);
    check(&ClippedIdentity::default(), &Sign, hardtanh);
    check(&ClippedIdentity { c: 1.5 }, &Sign, |x| x.clamp(-1.5, 1.5));
    check(&ClippedIdentity { c: f32::INFINITY }, &Sign, |x| x);
    check(&ClippedUnit, &BinaryUnit, |x| x.clamp(0.0, 1.0));
    let quadratic = |x: f64| x.signum() * (1.0 - (1.0 - x.abs().min(1.0)).powi(2));
    check(&ApproxSign, &Sign, quadratic);
    check(&Custom { name: "cubic", f: |x: f32| 3.0 * x * x }, &Sign, |x| x * x * x);
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

#[test]
fn modified_tanh_is_the_derivative_of_the_staircase() {
    for k in [3.0, 4.0, 5.0] {
        check(&ModifiedTanh::new(k), &Sign, |x| (f64::from(k) * x).tanh());
        check(&ModifiedTanh::new(k), &Identity, |x| (f64::from(k) * x).tanh());
        check(&ModifiedTanh::new(k), &BinaryUnit, |x| 0.5 * (2.0 * f64::from(k) * (x - 0.5)).tanh());
        for count in [2, 3, 5] {
            for periodic in [false, true] {
                let estimator = ModifiedTanh { k, periodic };
                let map = EvenLevels::new(count as u32, 1.0).unwrap();
                check(&estimator, &map, |x| staircase(x, k.into(), -1.0, count, periodic));
            }
        }
    }
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
fn smooth_slopes_are_the_derivatives_of_their_surrogates() {
    for beta in [1.0, 5.0, 10.0] {
        let sigmoid = |x: f64| 1.0 / (1.0 + (-x).exp());
        let swish = |x: f64| 2.0 * sigmoid(x) * (1.0 + x * (1.0 - sigmoid(x))) - 1.0;
        check(&SwishSign { beta }, &Sign, |x| swish(f64::from(beta) * x));
    }
    for t in [0.1_f32, 1.0, 10.0] {
        let k = f64::from(t).recip().max(1.0);
        check(&ErrorDecay::new(t).unwrap(), &Sign, |x| k * (f64::from(t) * x).tanh());
    }
    assert_eq!((ErrorDecay::at(0.5).t, ErrorDecay::at(0.5).k), (1.0, 1.0));
    let leaky = |x: f64| x.clamp(-1.5, 1.5) + 0.25 * (x - x.clamp(-1.5, 1.5));
    check(&LeakyClipped { c: 1.5, leak: 0.25 }, &Sign, leaky);
}

#[test]
fn slopes_that_know_the_levels_are_the_derivatives_of_their_clips() {
    check(&WithinLevels, &Sign, hardtanh);
    check(&WithinLevels, &Identity, |x| x);
    check(&LsqGradient, &Lsq::for_weights(2, 0.75).unwrap(), |x| x.clamp(-1.5, 0.75));
    check(&PactGradient, &Pact::new(3, 1.5).unwrap(), |x| x.clamp(0.0, 1.5));
    let scale = points().iter().map(|&x| f64::from(x).abs()).sum::<f64>() / points().len() as f64;
    let quadratic = |x: f64| x.signum() * (1.0 - (1.0 - x.abs().min(1.0)).powi(2));
    check(&MagnitudeAwareGradient, &ScaledSign::per_tensor(), |x| scale * quadratic(x));
    check(&MagnitudeAwareGradient, &Identity, quadratic);
    let trained = TrainedTernary::new(0.5, 2.0).unwrap().with_threshold(0.3037).unwrap();
    // D lies between two points.
    let d = 0.3037 * 200.0 / 99.7;
    check(&TrainedTernaryGradient, &trained, |x| {
        if x > d {
            0.5 * x
        } else if x < -d {
            2.0 * x
        } else {
            x
        }
    });
}

#[test]
fn slopes_are_safe_far_out_and_where_levels_coincide() {
    let x = array![0.0, -0.0, 1e-45, -1e30, f32::MAX, f32::INFINITY, f32::NEG_INFINITY].into_dyn();
    let zero = Ternary::per_tensor().fit(array![0.0].into_dyn().view()).unwrap();
    for listing in registry::estimators() {
        let gradient = registry::estimator(listing.name, &registry::Parameters::default()).unwrap();
        if ["dorefa-tanh", "scaled-sign"].contains(&listing.name) {
            continue; // They measure the tensor.
        }
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
}

#[test]
fn dorefas_slope_is_the_derivative_of_its_squashing() {
    let max = points().iter().map(|&x| f64::from(x).tanh().abs()).fold(0.0, f64::max);
    for bits in 2..=8 {
        check(&DorefaTanh, &DorefaWeights::new(bits).unwrap(), |x| x.tanh() / max);
    }
    check(&DorefaTanh, &Sign, |x| x.tanh() / max);
}

#[test]
fn the_printed_gradient_of_xnor_net() {
    let x = points();
    let (n, alpha) = (x.len() as f64, x.iter().map(|&x| f64::from(x).abs()).sum::<f64>() / x.len() as f64);
    check(&XnorNetGradient, &ScaledSign::per_tensor(), |x| x / n + alpha * hardtanh(x));
    check(&XnorNetGradient, &Sign, |x| x / n + hardtanh(x));
    check(&XnorNetGradient, &Identity, |x| x / n + hardtanh(x));
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
        for (group, (w, dy)) in
            w.axis_iter(ndarray::Axis(axis)).zip(dy.axis_iter(ndarray::Axis(axis))).enumerate()
        {
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

proptest! {
    #![proptest_config(ProptestConfig::with_cases(32))]

    #[test]
    fn any_map_goes_with_any_estimator_and_never_gives_nan(x in array()) {
        let dy = x.mapv(|x| if x > 0.3 { 1.0 } else { 0.0 });
        let identity: Map = std::sync::Arc::new(Identity);
        for map in all().into_iter().map(|case| case.map).chain([identity]) {
            for listing in registry::estimators() {
                let gradient = registry::estimator(listing.name, &registry::Parameters::default()).unwrap();
                let pair = Pair { map: map.clone(), gradient };
                let grid = pair.map.fit(x.view()).unwrap();
                let dx = pair.pullback(x.view(), &grid, dy.view()).unwrap();
                prop_assert!(dx.iter().all(|dx| !dx.is_nan()), "{pair:?}: {dx} of {x}");
            }
        }
    }
}

#[test]
fn other_shapes_are_refused() {
    let (x, dy) = (array![[1.0, 2.0]].into_dyn(), array![1.0, 2.0].into_dyn());
    for listing in registry::estimators() {
        let gradient = registry::estimator(listing.name, &registry::Parameters::default()).unwrap();
        let pair = Pair { map: std::sync::Arc::new(ScaledSign::per_axis(1)), gradient };
        let grid = pair.map.fit(x.view()).unwrap();
        assert!(matches!(pair.pullback(x.view(), &grid, dy.view()), Err(Error::Shape { .. })), "{pair:?}");
        let transposed = x.t();
        let error = pair.pullback(transposed, &grid, x.t()).unwrap_err();
        assert!(matches!(error, Error::GroupsDoNotFit { .. }), "{pair:?}: {error}");
    }
}
