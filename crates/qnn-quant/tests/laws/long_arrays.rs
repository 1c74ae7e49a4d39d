//! Long arrays are computed by quick ways that ask the exact one in doubt; short ones by the exact one alone. No bit may tell them apart.

use ndarray::{ArrayD, Ix1, aview1};
use qnn_quant::*;

/// Shorter than any block of the quick ways.
const SHORT: usize = 62;

/// Every exponent with several mantissas, thresholds and their neighbours, and a dense middle, all with both signs; the greatest first.
fn inputs() -> Vec<f32> {
    let exponents = (0..=254_u32).flat_map(|exponent| {
        (0..40_u32).map(move |i| f32::from_bits(exponent << 23 | i.wrapping_mul(0x9E37_79B1) >> 9))
    });
    let thresholds = (-64..=64).map(|i| i as f32 / 32.0).chain((-30..=30).map(|i| i as f32 / 15.0));
    let ties = thresholds.flat_map(|x| [x, x.next_down(), x.next_up()]);
    let middle = (0..20_000).map(|i| i as f32 * 1.3e-4);
    [f32::MAX].into_iter().chain(exponents.chain(ties).chain(middle).flat_map(|x| [x, -x])).collect()
}

/// [`inputs`] and what is not finite.
fn all_inputs() -> Vec<f32> {
    [f32::INFINITY, f32::NEG_INFINITY, f32::NAN].into_iter().chain(inputs()).collect()
}

fn upstream(i: usize) -> f32 {
    [1.0, -0.7, 1e-38, 3e38, -0.0, 1.0e-45, f32::INFINITY][i % 7]
}

fn slopes(estimator: &dyn Estimator, grid: &Grid, x: &[f32], dy: &[f32]) -> Vec<f32> {
    let mut dx = ArrayD::zeros(vec![x.len()]);
    estimator
        .pullback_into(aview1(x).into_dyn(), grid, aview1(dy).into_dyn(), dx.view_mut())
        .unwrap_or_else(|error| panic!("{estimator:?}: {error}"));
    dx.into_dimensionality::<Ix1>().unwrap().to_vec()
}

#[track_caller]
fn check(estimator: &dyn Estimator, grid: &Grid, x: &[f32]) {
    let dy: Vec<f32> = (0..x.len()).map(upstream).collect();
    let long = slopes(estimator, grid, x, &dy);
    let short = x.chunks(SHORT).zip(dy.chunks(SHORT)).flat_map(|(x, dy)| {
        // With the greatest element, for what is measured.
        let (x, dy) = ([x, &[f32::MAX]].concat(), [dy, &[1.0]].concat());
        let mut dx = slopes(estimator, grid, &x, &dy);
        dx.pop();
        dx
    });
    for ((found, expected), x) in long.iter().zip(short).zip(x) {
        let is_same = found.to_bits() == expected.to_bits() || found.is_nan() && expected.is_nan();
        assert!(is_same, "{estimator:?} at {x:e} of {grid:?}: {found:e}, not {expected:e}");
    }
}

fn grids() -> Vec<Grid> {
    let fit = |map: &dyn Quantizer| map.fit(aview1(&[0.9_f32, -0.2, 0.4]).into_dyn()).unwrap();
    let even = |count, a| fit(&EvenLevels::new(count, a).unwrap());
    let mut grids = vec![
        fit(&Sign),
        fit(&Identity),
        fit(&BinaryUnit),
        fit(&ScaledSign::per_tensor()),
        fit(&Ternary::per_tensor()),
        fit(&QuantizedRelu::new(3).unwrap()),
        fit(&FixedPoint::new(4).unwrap()),
        fit(&Ap2),
    ];
    grids.extend((2..=16).map(|count| even(count, 1.0)));
    grids.extend([(4, 0.37), (3, 1e-30), (3, 1e30), (256, 1.0), (5, 1e-45)].map(|(count, a)| even(count, a)));
    grids
}

#[test]
fn staircases_keep_their_bits() {
    let x = all_inputs();
    for grid in grids() {
        for k in [3.0, 4.0, 5.0] {
            check(&ModifiedTanh::new(k), &grid, &x);
        }
    }
}

#[test]
fn extreme_staircases_keep_their_bits() {
    let x = all_inputs();
    for grid in grids() {
        for k in [0.0, -4.0, 1e-35, 300.0, 1e4, 1e30, f32::MAX, f32::INFINITY, f32::NAN] {
            check(&ModifiedTanh::new(k), &grid, &x[..4000]);
        }
        check(&ModifiedTanh::periodic(4.0), &grid, &x[..4000]);
    }
}

#[test]
fn smooth_slopes_keep_their_bits() {
    let (x, grid) = (all_inputs(), Sign.fit(aview1(&[1.0_f32]).into_dyn()).unwrap());
    for t in [0.1, 0.5, 1.0, 2.0, 10.0] {
        check(&ErrorDecay::new(t).unwrap(), &grid, &x);
    }
    for beta in [1.0, 5.0, 10.0] {
        check(&SwishSign { beta }, &grid, &x);
    }
    check(&DorefaTanh, &grid, &inputs());
    for extreme in [0.0, -1.0, 1e-38, 1e30, f32::INFINITY, f32::NAN] {
        let (mut steep, mut high) = (ErrorDecay::at(0.5), ErrorDecay::at(0.5));
        (steep.t, high.k) = (extreme, extreme);
        check(&steep, &grid, &x);
        check(&high, &grid, &x);
        check(&SwishSign { beta: extreme }, &grid, &x);
    }
}

#[test]
fn dorefas_slope_keeps_its_bits_whatever_the_maximum() {
    let grid = Sign.fit(aview1(&[1.0_f32]).into_dyn()).unwrap();
    for greatest in [1.0, 0.1, 3.0, 1e-20, 1e-40, 1e-45] {
        let x: Vec<f32> = (0..3000).map(|i| (i as f32 * 0.7).sin() * greatest).chain([greatest]).collect();
        let dy: Vec<f32> = (0..x.len()).map(upstream).collect();
        let long = slopes(&DorefaTanh, &grid, &x, &dy);
        for ((&x, &dy), found) in x.iter().zip(&dy).zip(long) {
            let expected = slopes(&DorefaTanh, &grid, &[x, greatest], &[dy, 1.0])[0];
            let is_same = found.to_bits() == expected.to_bits() || found.is_nan() && expected.is_nan();
            assert!(is_same, "{x:e} beside {greatest:e}: {found:e}, not {expected:e}");
        }
    }
}
