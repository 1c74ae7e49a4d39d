//! What every forward map promises.

use ndarray::{ArrayD, Axis, IxDyn, aview1};
use proptest::prelude::*;
use qnn_quant::*;

use crate::cases::{Case, all};
use crate::inputs::{array, bits, number};

/// The codes and values of the plain formula.
#[track_caller]
fn check(case: &Case, x: &ArrayD<f32>) {
    let (codes, values): (Vec<i32>, Vec<f64>) = (case.plain)(x).into_iter().unzip();
    let grid = case.map.fit(x.view()).unwrap();
    let found: Vec<i32> = case.map.codes(x.view(), &grid).unwrap().into_iter().collect();
    assert_eq!(found, codes, "{:?} of {x}", case.map);
    for (found, value) in quantize(&case.map, x).unwrap().iter().zip(values) {
        assert!(close(*found, value), "{:?}: {found}, not {value}", case.map);
    }
}

/// Whether levels are those of the tanh.
fn is_squashed(case: &Case) -> bool {
    case.map.published().name() == "dorefa-tanh"
}

/// Where the codes of a tensor with this grid change, and midpoints of its levels, of both signs and with their neighbours.
fn ties(case: &Case, grid: &Grid) -> Vec<f32> {
    let levels: Vec<f64> = grid.values(0).map(f64::from).collect();
    let midpoints = levels.windows(2).map(|pair| 0.5 * (pair[0] + pair[1]));
    let thresholds = grid.thresholds(0).into_iter().map(f64::from);
    let unsquashed = |tie: f64| if is_squashed(case) { (tie * grid.statistics()[0]).atanh() } else { tie };
    midpoints
        .chain(thresholds)
        .map(|tie| unsquashed(tie) as f32)
        .flat_map(|tie| [tie, -tie])
        .flat_map(|tie| [tie.next_down(), tie, tie.next_up()])
        .collect()
}

/// Numbers in order, with infinities and both zeros.
fn increasing(mut at: Vec<f32>) -> Vec<f32> {
    at.extend([f32::NEG_INFINITY, -0.0, 0.0, f32::INFINITY]);
    at.sort_by(f32::total_cmp);
    at
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(96))]

    #[test]
    fn agrees_with_the_plain_formula(x in array()) {
        for case in all() {
            check(&case, &x);
        }
    }

    #[test]
    fn codes_dequantize_to_the_values_and_lie_in_the_alphabet(x in array(), last in any::<bool>()) {
        let granularity = if last { Granularity::LastAxis } else { Granularity::Axis(0) };
        for case in all() {
            let map = case.along.as_ref().map_or_else(|| case.map.clone(), |along| along(granularity));
            let grid = map.fit(x.view()).unwrap();
            let codes = map.codes(x.view(), &grid).unwrap();
            let values = quantize(&map, &x).unwrap();
            prop_assert_eq!(bits(&grid.dequantize(codes.view()).unwrap()), bits(&values), "{:?}", map);
            prop_assert!(codes.iter().all(|&code| grid.alphabet().unwrap().contains(code)), "{:?}", map);
            prop_assert!(grid.count() <= 1 << grid.bits(), "{:?}", map);
            let groups = match grid.groups() {
                Groups::Tensor => vec![values.view()],
                Groups::Axis { axis, .. } => values.axis_iter(Axis(axis)).collect(),
            };
            for (group, values) in groups.into_iter().enumerate() {
                let levels: Vec<f32> = grid.values(group).collect();
                prop_assert!(values.iter().all(|value| levels.contains(value)), "{:?}: {values} in {levels:?}", map);
            }
        }
    }

    #[test]
    fn is_idempotent_where_it_says_so(x in array()) {
        for case in all().into_iter().filter(|case| case.idempotent) {
            let once = quantize(&case.map, &x).unwrap();
            let twice = quantize(&case.map, &once).unwrap();
            // A scale of 0 loses the signs: the values are equal, though not in the sign of zero.
            prop_assert_eq!(once, twice, "{:?}", case.map);
        }
    }

    #[test]
    fn increases_with_its_input_for_fixed_statistics(x in array(), at in prop::collection::vec(number(), 1..40)) {
        let at = increasing(at);
        for case in all().into_iter().filter(|case| case.increasing) {
            let grid = case.map.fit(x.view()).unwrap();
            let codes = case.map.codes(aview1(&at).into_dyn(), &grid).unwrap();
            let codes: Vec<i32> = codes.into_iter().collect();
            prop_assert!(codes.is_sorted(), "{:?}: {at:?} to {codes:?}", case.map);
            let alphabet = grid.alphabet().unwrap();
            prop_assert!(alphabet.contains(codes[0]) && alphabet.contains(codes[codes.len() - 1]), "{:?}", case.map);
        }
    }

    #[test]
    fn increases_with_its_input_in_a_channel(x in array(), at in prop::collection::vec(number(), 1..40)) {
        let column = |x: Vec<f32>| ArrayD::from_shape_vec(IxDyn(&[x.len(), 1]), x).unwrap();
        let grid = MagnitudeAwareSign.fit(column(x.into_iter().collect()).view()).unwrap();
        let at = column(increasing(at));
        let codes = MagnitudeAwareSign.codes(at.view(), &grid).unwrap();
        prop_assert!(codes.iter().is_sorted(), "{at} to {codes}");
    }

    #[test]
    fn increases_with_its_input_where_chance_is_the_same(
        x in array(), at in prop::collection::vec(number(), 1..20), draw in any::<u64>(), bits in 1_u32..=8,
    ) {
        let row = |x: Vec<f32>| ArrayD::from_shape_vec(IxDyn(&[1, x.len()]), x).unwrap();
        // An example of zeros has no scale to saturate at.
        let x = row(x.into_iter().chain([0.5]).collect());
        for map in [&StochasticSign::new(draw) as &dyn Quantizer, &DorefaGradients::new(bits, draw).unwrap()] {
            let grid = map.fit(x.view()).unwrap();
            let mut before = vec![grid.alphabet().unwrap().first as f32; 70];
            for &at in &increasing(at.clone()) {
                // The same words at the same positions.
                let mut codes = row(vec![0.0; before.len()]);
                let at = row(vec![at; before.len()]);
                map.codes_at_into(at.view(), &grid, &Moment::draw(draw), codes.view_mut()).unwrap();
                prop_assert!(codes.iter().zip(&before).all(|(code, before)| code >= before), "{map:?} at {at}");
                before = codes.into_iter().collect();
            }
            prop_assert!(before.iter().all(|&code| code == grid.alphabet().unwrap().last() as f32), "{map:?}");
        }
    }

    #[test]
    fn a_channel_is_quantized_as_if_it_were_alone(x in array()) {
        for case in all() {
            let Some(along) = &case.along else { continue };
            for axis in 0..x.ndim() {
                let whole = quantize(&along(Granularity::Axis(axis)), &x).unwrap();
                for (slice, whole) in x.axis_iter(Axis(axis)).zip(whole.axis_iter(Axis(axis))) {
                    let alone = quantize(&case.map, slice).unwrap();
                    prop_assert_eq!(bits(&alone), bits(&whole.to_owned()), "{:?} along {}", case.map, axis);
                }
            }
        }
    }

    #[test]
    fn a_channel_or_example_that_is_always_measured_alone_is_as_if_it_were(x in array()) {
        let whole = quantize(&MagnitudeAwareSign, &x).unwrap();
        let last = Axis(x.ndim() - 1);
        for (channel, whole) in x.axis_chunks_iter(last, 1).zip(whole.axis_chunks_iter(last, 1)) {
            let alone = quantize(&MagnitudeAwareSign, channel).unwrap();
            prop_assert_eq!(bits(&alone), bits(&whole.to_owned()));
        }
        let map = DorefaGradients::new(4, 1).unwrap();
        let grid = map.fit(x.view()).unwrap();
        for (example, &scale) in x.axis_chunks_iter(Axis(0), 1).zip(grid.scales()) {
            let alone = map.fit(example.view()).unwrap();
            prop_assert_eq!(alone.scales(), [scale], "{}", example);
        }
    }

    #[test]
    fn gradients_err_by_a_step_at_most(x in array(), draw in any::<u64>()) {
        for bits in 1..=8 {
            let values = quantize(&DorefaGradients::new(bits, draw).unwrap(), &x).unwrap();
            for (x, values) in x.axis_iter(Axis(0)).zip(values.axis_iter(Axis(0))) {
                let greatest = x.iter().fold(0.0, |max: f64, x| max.max(f64::from(x.abs())));
                // Half a step of noise, and half a step of rounding.
                let step = 2.0 * greatest / f64::from((1_u32 << bits) - 1);
                for (&x, &value) in x.iter().zip(&values) {
                    let error = (f64::from(x) - f64::from(value)).abs();
                    prop_assert!(error <= step * (1.0 + 1e-6) + 1e-45, "{bits} bits: {x} to {value}, step {step}");
                }
            }
        }
    }

    #[test]
    fn uniform_maps_err_by_half_a_step_at_most(x in array()) {
        for case in all().into_iter().filter(|case| case.nearest) {
            let grid = case.map.fit(x.view()).unwrap();
            let values: Vec<f64> = grid.values(0).map(f64::from).collect();
            let (low, high) = (values[0], values[values.len() - 1]);
            let half_step = 0.5 * (high - low) / (values.len() - 1) as f64;
            for (x, value) in x.iter().zip(&quantize(&case.map, &x).unwrap()) {
                let error = (f64::from(*x).clamp(low, high) - f64::from(*value)).abs();
                prop_assert!(error <= half_step * (1.0 + 1e-4), "{:?}: {x} to {value}", case.map);
            }
        }
    }

    #[test]
    fn squashed_weights_err_by_half_a_step_at_most(x in array()) {
        let squashed: Vec<f64> = x.iter().map(|&x| f64::from(x).tanh()).collect();
        let max = squashed.iter().fold(0.0_f64, |max, x| max.max(x.abs()));
        prop_assume!(max > 0.0);
        for bits in 2..=8 {
            let half_step = 1.0 / f64::from((1_u32 << bits) - 1);
            for (x, value) in squashed.iter().zip(&quantize(&DorefaWeights::new(bits).unwrap(), &x).unwrap()) {
                prop_assert!((x / max - f64::from(*value)).abs() <= half_step + 1e-7, "{bits} bits: {x} to {value}");
            }
        }
    }

    #[test]
    fn finite_inputs_give_finite_values(x in array()) {
        for case in all() {
            let values = quantize(&case.map, &x).unwrap();
            prop_assert!(values.iter().all(|value| value.is_finite()), "{:?}: {values}", case.map);
        }
    }

    #[test]
    fn nan_stays_nan_in_values_and_is_refused_as_a_code(x in array(), at in any::<prop::sample::Index>()) {
        prop_assume!(!x.is_empty());
        let (mut x, index) = (x.clone(), at.index(x.len()));
        *x.iter_mut().nth(index).unwrap() = f32::NAN;
        for case in all() {
            let values = quantize(&case.map, &x).unwrap();
            prop_assert!(values.iter().nth(index).unwrap().is_nan(), "{:?}: {values}", case.map);
            let grid = case.map.fit(x.view()).unwrap();
            let error = case.map.codes(x.view(), &grid).unwrap_err();
            prop_assert!(matches!(error, Error::NotANumber { .. }), "{:?}: {error}", case.map);
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(32))]

    #[test]
    fn fitting_while_writing_codes_changes_nothing(x in array()) {
        for case in all() {
            let axes = [Granularity::Axis(0), Granularity::LastAxis];
            let along = case.along.iter().flat_map(|along| axes.map(|axis| along(axis)));
            for map in along.chain([case.map.clone()]) {
                let mut codes = [ArrayD::zeros(x.raw_dim()), ArrayD::zeros(x.raw_dim())];
                let grid = map.fit(x.view()).unwrap();
                map.codes_into(x.view(), &grid, codes[0].view_mut()).unwrap();
                let fused = map.fit_codes_into(x.view(), codes[1].view_mut()).unwrap();
                prop_assert_eq!(&fused, &grid, "{:?}", map);
                prop_assert_eq!(bits(&codes[0]), bits(&codes[1]), "{:?}", map);
            }
        }
    }
}

#[test]
fn ties_and_their_neighbours_agree_with_the_plain_formula() {
    let tensors: [&[f32]; 6] =
        [&[0.3, -1.0, 0.7], &[0.013, -2.7], &[-0.4, 0.0], &[1e3, -1e3], &[1e-30, -3e-30], &[0.0]];
    for case in all().into_iter().filter(|case| case.increasing) {
        for tensor in tensors {
            let grid = case.map.fit(aview1(tensor).into_dyn()).unwrap();
            let (least, greatest) =
                tensor.iter().fold((f32::MAX, f32::MIN), |ends, &x| (ends.0.min(x), ends.1.max(x)));
            // There tanh w is w, and what is a tie in real numbers need be none in f64.
            if is_squashed(&case) && greatest.max(-least) < 1e-6 {
                continue;
            }
            // What is measured shall stay what it was.
            let fits = |x: &f32| !case.measures || (least..=greatest).contains(x);
            let x: Vec<f32> =
                tensor.iter().copied().chain(ties(&case, &grid).into_iter().filter(fits)).collect();
            let x = aview1(&x).into_dyn().to_owned();
            assert!(!case.nearest || case.map.fit(x.view()).unwrap() == grid, "{:?} of {x}", case.map);
            check(&case, &x);
        }
    }
}

#[test]
fn a_map_is_fixed_if_it_measures_nothing_and_depends_on_nothing() {
    let not_asked = ["ap2", "log-ap2", "inq"];
    for case in all().into_iter().filter(|case| !not_asked.contains(&case.map.name())) {
        let expected = !case.measures && case.map.dependence() == Dependence::Nothing;
        assert_eq!(case.map.is_fixed(), expected, "{:?}", case.map);
    }
    assert!(Identity.is_fixed());
}

#[test]
fn a_large_tensor_has_the_same_grid_in_two_passes() {
    let x = ArrayD::from_shape_fn(IxDyn(&[70_210]), |i| ((i[0] * 7919) % 1000) as f32 / 500.0 - 1.0);
    let channels = x.clone().into_shape_with_order(IxDyn(&[1003, 70])).unwrap();
    let tall = ArrayD::from_shape_fn(IxDyn(&[3000, 37]), |i| {
        ((i[0] * 7919 + i[1] * 31) % 1000) as f32 / 500.0 - 1.0
    });
    let middle = x.clone().into_shape_with_order(IxDyn(&[10, 7, 1003])).unwrap();
    for (x, map) in [
        (x, Ternary::per_tensor()),
        (channels.clone(), Ternary::per_filter()),
        (channels, Ternary::per_axis(0)),
        (middle, Ternary::per_axis(1)),
        (tall, Ternary::per_filter()),
    ] {
        let mut codes = [ArrayD::zeros(x.raw_dim()), ArrayD::zeros(x.raw_dim())];
        let grid = map.fit(x.view()).unwrap();
        map.codes_into(x.view(), &grid, codes[0].view_mut()).unwrap();
        assert_eq!(map.fit_codes_into(x.view(), codes[1].view_mut()).unwrap(), grid);
        assert_eq!(codes[0], codes[1]);
    }
}

#[test]
fn levels_are_the_f32_nearest_to_the_fraction() {
    for bits in 1..=8 {
        let n = (1_i32 << bits) - 1;
        let x: Vec<f32> = (0..=n).map(|code| (f64::from(code) / f64::from(n)) as f32).collect();
        let map = DorefaActivations::new(bits as u32).unwrap();
        let grid = map.fit(aview1(&x).into_dyn()).unwrap();
        assert_eq!(quantize(&map, &x).unwrap().to_vec(), x, "levels are fixed points");
        for code in 0..=n {
            assert_eq!(grid.value(0, code), (f64::from(code) / f64::from(n)) as f32);
        }
    }
}

#[test]
fn the_identity_changes_nothing() {
    let x = ArrayD::from_shape_vec(IxDyn(&[2, 2]), vec![-0.0, f32::INFINITY, 1e-45, f32::NAN]).unwrap();
    assert_eq!(bits(&quantize(&Identity, &x).unwrap()), bits(&x));
    let grid = Identity.fit(x.view()).unwrap();
    assert_eq!((grid.alphabet(), grid.bits(), grid.is_unit()), (None, 32, true));
    assert_eq!(Identity.codes(x.view(), &grid), Err(Error::Unquantized { map: "identity" }));
}

fn close(found: f32, want: f64) -> bool {
    (f64::from(found) - want).abs() <= 1e-6 * want.abs() + f64::from(f32::from_bits(1))
}
