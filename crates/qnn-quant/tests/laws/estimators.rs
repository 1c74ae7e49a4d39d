//! Each estimator against finite differences of the surrogate whose derivative it is, and in any company.

use ndarray::{ArrayD, array, aview1};
use proptest::prelude::*;
use qnn_quant::*;

use crate::cases::all;
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
    let kinks = [-1.5, -1.0, 0.0, 1.0, 1.5];
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
        for case in all() {
            for listing in registry::estimators() {
                let gradient = registry::estimator(listing.name, &registry::Parameters::default()).unwrap();
                let pair = Pair { map: case.map.clone(), gradient };
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
