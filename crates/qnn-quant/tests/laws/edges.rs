//! Empty, single, constant and infinite tensors, and grids that do not fit.

use ndarray::{ArrayD, IxDyn, array, aview1};
use qnn_quant::*;

use crate::cases::all;

#[test]
fn empty_tensors_are_legal() {
    for shape in [vec![0], vec![0, 3], vec![3, 0], vec![2, 0, 4]] {
        let x = ArrayD::<f32>::zeros(IxDyn(&shape));
        for case in all() {
            assert_eq!(quantize(&case.map, &x).unwrap().shape(), shape);
            for axis in 0..shape.len() {
                let Some(along) = &case.along else { continue };
                let map = along(Granularity::Axis(axis));
                let grid = map.fit(x.view()).unwrap();
                assert_eq!((grid.scales().len(), grid.groups().count()), (shape[axis], shape[axis]));
                assert!(grid.scales().iter().all(|scale| scale.is_finite()), "{map:?}");
                assert!(map.codes(x.view(), &grid).unwrap().is_empty());
            }
        }
    }
}

#[test]
fn one_number_is_a_tensor() {
    let x = ndarray::arr0(-0.5_f32).into_dyn();
    assert_eq!(quantize(&ScaledSign::per_tensor(), &x).unwrap(), x);
    assert_eq!(quantize(&Ternary::per_tensor(), &x).unwrap(), x);
    assert_eq!(quantize(&DorefaWeights::new(4).unwrap(), &x).unwrap(), ndarray::arr0(-1.0).into_dyn());
    // These two take statistics along an axis.
    let along_an_axis = ["magnitude-aware-sign", "dorefa-gradients"];
    let out_of_range = Error::AxisOutOfRange { axis: 0, rank: 0 };
    for case in all() {
        if along_an_axis.contains(&case.map.name()) {
            assert_eq!(case.map.fit(x.view()), Err(out_of_range.clone()), "{:?}", case.map);
            continue;
        }
        let row = quantize(&case.map, &array![-0.5]).unwrap();
        assert_eq!(quantize(&case.map, &x).unwrap().first(), row.first(), "{:?}", case.map);
    }
    assert_eq!(ScaledSign::per_filter().fit(x.view()), Err(out_of_range));
}

#[test]
fn zero_tensors_have_scale_zero_and_dequantize() {
    let x = array![[0.0_f32, -0.0], [0.0, 0.0]].into_dyn();
    for map in [&ScaledSign::per_axis(0) as &dyn Quantizer, &Ternary::per_axis(1)] {
        let grid = map.fit(x.view()).unwrap();
        assert_eq!(grid.scales(), [0.0, 0.0]);
        let codes = map.codes(x.view(), &grid).unwrap();
        assert_eq!(grid.dequantize(codes.view()).unwrap(), x);
    }
}

#[test]
fn a_zero_tensor_takes_dorefas_level_of_zero() {
    for bits in 2..=8 {
        let map = DorefaWeights::new(bits).unwrap();
        let of_zero = quantize(&map, &[0.0, 1.0]).unwrap()[0];
        assert_eq!(quantize(&map, &[0.0, -0.0]).unwrap(), array![of_zero, of_zero]);
    }
}

#[test]
fn infinities_saturate_or_are_refused() {
    let x = array![1.0, f32::NEG_INFINITY, f32::INFINITY].into_dyn();
    for case in all() {
        let grid = case.map.fit(x.view());
        if case.measures {
            let error = grid.unwrap_err();
            assert!(matches!(error, Error::Infinite { index: 1, value: f32::NEG_INFINITY, .. }), "{error}");
            continue;
        }
        let grid = grid.unwrap();
        let alphabet = grid.alphabet().unwrap();
        let codes = case.map.codes(x.view(), &grid).unwrap();
        assert_eq!((codes[1], codes[2]), (alphabet.first, alphabet.last()), "{:?}", case.map);
    }
}

#[test]
fn an_infinity_is_found_beside_a_nan() {
    let x = array![f32::NAN, f32::INFINITY].into_dyn();
    for case in all().into_iter().filter(|case| case.measures) {
        assert!(matches!(case.map.fit(x.view()), Err(Error::Infinite { index: 1, .. })), "{:?}", case.map);
    }
}

#[test]
fn a_nan_spoils_its_own_group_only() {
    let x = array![[1.0, f32::NAN], [-2.0, 0.5]].into_dyn();
    for case in all() {
        let Some(along) = &case.along else { continue };
        let values = quantize(&along(Granularity::Axis(0)), &x).unwrap();
        assert!(values[[0, 0]].is_nan() && values[[0, 1]].is_nan(), "{:?}: {values}", case.map);
        assert!(values[[1, 0]].is_finite() && values[[1, 1]].is_finite(), "{:?}: {values}", case.map);
    }
}

#[test]
fn sums_beyond_f32_are_no_infinity() {
    let x = ArrayD::from_elem(IxDyn(&[5000]), f32::MAX);
    assert_eq!(ScaledSign::per_tensor().fit(x.view()).unwrap().scales(), [f32::MAX]);
}

#[test]
fn halves_round_to_even_in_every_width() {
    for bits in 1..=8 {
        let n = f64::from((1_u32 << bits) - 1);
        let map = DorefaActivations::new(bits).unwrap();
        let grid = map.fit(aview1(&[]).into_dyn()).unwrap();
        let middle = map.codes(aview1(&[0.5_f32]).into_dyn(), &grid).unwrap()[0];
        assert_eq!(
            (middle % 2, f64::from(middle)),
            (0, (n / 2.0).round_ties_even()),
            "1/2 is a tie in {bits} bits"
        );
    }
}

#[test]
fn a_product_beside_a_tie_is_not_rounded_onto_it() {
    let mut misleading = 0;
    for bits in 1..=8 {
        let n = (1_u32 << bits) - 1;
        let map = DorefaActivations::new(bits).unwrap();
        let grid = map.fit(aview1(&[]).into_dyn()).unwrap();
        for code in 0..n {
            let tie = f64::from(code) + 0.5;
            let nearest = (tie / f64::from(n)) as f32;
            for x in [nearest.next_down(), nearest, nearest.next_up()] {
                let product = f64::from(n) * f64::from(x);
                misleading += usize::from(product != tie && f64::from(n as f32 * x) == tie);
                let found = map.codes(aview1(&[x]).into_dyn(), &grid).unwrap()[0];
                assert_eq!(f64::from(found), product.round_ties_even(), "{x} in {bits} bits");
            }
        }
    }
    assert!(misleading > 0, "no input tells an f32 product from an exact one");
}

#[test]
fn grids_of_other_maps_and_shapes_are_refused() {
    let (x, other) = (array![[1.0, 2.0], [3.0, 4.0]].into_dyn(), array![[1.0], [2.0], [3.0]].into_dyn());
    let foreign = Sign.fit(x.view()).unwrap();
    for map in [&Ternary::per_tensor() as &dyn Quantizer, &DorefaWeights::new(2).unwrap()] {
        assert_eq!(map.codes(x.view(), &foreign), Err(Error::ForeignGrid { map: map.name() }));
    }
    let map = Ternary::per_axis(1);
    let grid = map.fit(x.view()).unwrap();
    assert!(matches!(map.codes(other.view(), &grid), Err(Error::GroupsDoNotFit { axis: 1, len: 2, .. })));
    assert!(matches!(Ternary::per_axis(2).fit(x.view()), Err(Error::AxisOutOfRange { axis: 2, rank: 2 })));
    for case in all() {
        let grid = case.map.fit(x.view()).unwrap();
        let mut codes = ArrayD::zeros(other.raw_dim());
        let error = case.map.codes_into(x.view(), &grid, codes.view_mut()).unwrap_err();
        assert!(matches!(error, Error::Shape { .. }), "{error}");
    }
}

/// One scale per column, a table of values, powers of two, zero points, and no levels at all.
fn all_sorts_of_grids(x: &ArrayD<f32>) -> Vec<Grid> {
    let maps: [&dyn Quantizer; 12] = [
        &Sign,
        &ScaledSign::per_axis(1),
        &Ternary::per_axis(1),
        &Ternary::per_tensor(),
        &DorefaWeights::new(2).unwrap().with_granularity(Granularity::Axis(1)),
        &DorefaGradients::new(2, 0).unwrap(),
        &DorefaActivations::new(2).unwrap(),
        &Affine::asymmetric(2).unwrap().with_granularity(Granularity::Axis(1)),
        &TrainedTernary::new(0.7, 0.4).unwrap(),
        &Ap2,
        &Inq::new(3).unwrap(),
        &Identity,
    ];
    let mut grids: Vec<Grid> = maps.iter().map(|map| map.fit(x.view()).unwrap()).collect();
    let empty = ArrayD::<f32>::zeros(IxDyn(&[2, 0]));
    grids.push(ScaledSign::per_axis(1).fit(empty.view()).unwrap());
    let unit = Grid::unit(Alphabet::TERNARY).unwrap();
    grids.push(unit.clone().with_statistics(vec![0.5]).unwrap());
    grids.push(unit.with_table(vec![-3.0, 0.5, 2.0]).unwrap());
    for bits in 1..=8 {
        let columns = Groups::Axis { axis: 1, len: 2 };
        for alphabet in [Alphabet::signed(bits), Alphabet::unsigned(bits), Alphabet::odd(bits)] {
            grids.push(Grid::new(alphabet, columns, vec![0.5, 2.0]).unwrap());
            let table = alphabet.codes().map(|code| code as f32 + 0.25).collect();
            grids.push(Grid::unit(alphabet).unwrap().with_table(table).unwrap());
        }
    }
    grids
}

#[test]
fn whatever_the_grid_there_is_an_error_or_a_value_on_it() {
    let x = array![[1.0, -2.0], [0.3, 4.0]].into_dyn();
    let identity: crate::cases::Map = std::sync::Arc::new(Identity);
    for map in all().into_iter().map(|case| case.map).chain([identity]) {
        let mut refused = 0;
        for grid in all_sorts_of_grids(&x) {
            let (mut codes, mut values) = (ArrayD::zeros(x.raw_dim()), ArrayD::zeros(x.raw_dim()));
            let outcome = map.codes_into(x.view(), &grid, codes.view_mut());
            assert_eq!(map.values_into(x.view(), &grid, values.view_mut()), outcome, "{map:?} on {grid:?}");
            match outcome {
                Err(error) => {
                    let shape = matches!(error, Error::GroupsDoNotFit { .. });
                    assert!(shape || error == Error::ForeignGrid { map: map.name() }, "{map:?}: {error}");
                    refused += 1;
                }
                Ok(()) => {
                    grid.dequantize_mut(codes.view_mut()).unwrap();
                    assert_eq!(codes, values, "{map:?} on {grid:?}");
                }
            }
        }
        assert!(refused > 40, "{map:?} refuses {refused} grids");
    }
}

#[test]
fn messages_say_what_and_where() {
    let error = DorefaWeights::new(33).unwrap_err();
    assert_eq!(error.to_string(), "dorefa-weights takes 1 to 8 bits, got 33");
    let grid = Sign.fit(aview1(&[]).into_dyn()).unwrap();
    let error = grid.dequantize(array![1, 0].into_dyn().view()).unwrap_err();
    assert_eq!(error.to_string(), "element 1 is 0, which is not in the alphabet {-1, 1}");
    let said = |map: &dyn Quantizer| {
        let grid = map.fit(aview1(&[1.0]).into_dyn()).unwrap();
        grid.dequantize(array![99].into_dyn().view()).unwrap_err().to_string()
    };
    let beginning = "element 0 is 99, which is not in the alphabet ";
    assert_eq!(said(&Inq::new(4).unwrap()), format!("{beginning}{{-8, -4, -2, -1, 0, 1, 2, 4, 8}}"));
    assert_eq!(said(&DorefaWeights::new(3).unwrap()), format!("{beginning}{{-7, -5, .. 7}}"));
    let error = ScaledSign::per_tensor().fit(aview1(&[1.0, f32::INFINITY]).into_dyn()).unwrap_err();
    assert_eq!(error.to_string(), "element 1 is inf: the mean of |x| of the tensor is not finite");
}

/// Numbers so small that the ways in f32 alone would leave its range: the exact ones have to answer.
#[test]
fn tiny_ranges_are_rounded_as_any_other() {
    let eighths = |unit: f32| (-300..=300).map(move |i| i as f32 * (0.125 * unit));
    for exponent in [-30, -95, -105, -120, -130, -140] {
        let (large, tiny) = (1.0, 2_f64.powi(exponent) as f32);
        let maps = |unit: f32| -> Vec<std::sync::Arc<dyn Quantizer>> {
            vec![
                std::sync::Arc::new(Lsq::for_weights(4, unit).unwrap()),
                std::sync::Arc::new(Lsq::for_activations(8, unit).unwrap()),
                std::sync::Arc::new(Pact::new(3, 7.0 * unit).unwrap()),
                std::sync::Arc::new(EvenLevels::new(9, 4.0 * unit).unwrap()),
            ]
        };
        let arrays = [large, tiny].map(|unit| ndarray::Array1::from_iter(eighths(unit)).into_dyn());
        for (of_large, of_tiny) in maps(large).iter().zip(maps(tiny)) {
            let codes = |map: &dyn Quantizer, x: &ArrayD<f32>| {
                let grid = map.fit(x.view()).unwrap();
                let codes = map.codes(x.view(), &grid).unwrap();
                assert_eq!(grid.dequantize(codes.view()).unwrap(), quantize(map, x).unwrap(), "{map:?}");
                codes
            };
            assert_eq!(codes(&**of_large, &arrays[0]), codes(&*of_tiny, &arrays[1]), "{of_tiny:?}");
        }
        // Here tanh is the identity.
        let map = DorefaWeights::new(4).unwrap();
        let grid = map.fit(arrays[1].view()).unwrap();
        for (&x, &code) in arrays[1].iter().zip(&map.codes(arrays[1].view(), &grid).unwrap()) {
            let unit = f64::from(x) / (2.0 * 37.5 * f64::from(tiny)) + 0.5;
            let expected = 2.0 * (15.0 * unit).round_ties_even() - 15.0;
            let is_tie = ((15.0 * unit).fract() - 0.5).abs() < 1e-9;
            assert!(is_tie || f64::from(code) == expected, "{x:e}: {code}, not {expected}");
        }
    }
}

#[test]
fn levels_beyond_the_greatest_number_are_refused() {
    for step in [2e38, f32::MAX] {
        assert!(matches!(Lsq::for_weights(2, step), Err(Error::Parameter { .. })), "{step:e}");
    }
    let map = Lsq::for_weights(2, 1e38).unwrap();
    assert_eq!(quantize(&map, &[f32::MIN, f32::MAX]).unwrap().to_vec(), [-2e38, 1e38]);
    assert!(map.with_parameters(&[2e38]).is_err());
    assert!(map.initial(aview1(&[1e38, -1e38]).into_dyn()).is_err());
}

#[test]
fn a_flat_swish_has_no_nan() {
    let x = ndarray::array![f32::INFINITY, f32::NEG_INFINITY, f32::MAX, 0.0].into_dyn();
    let grid = Sign.fit(aview1(&[1.0]).into_dyn()).unwrap();
    let mut dx = x.clone();
    let dy = x.mapv(|_| 1.0);
    SwishSign { beta: 0.0 }.pullback_into(x.view(), &grid, dy.view(), dx.view_mut()).unwrap();
    assert!(dx.iter().all(|dx| dx.abs() == 0.0), "{dx}");
}

#[test]
fn a_nan_is_seen_in_the_first_levels_of_trained_ternary_weights() {
    let map = TrainedTernary::new(1.0, 1.0).unwrap();
    let x = ndarray::array![f32::NAN, 1.0].into_dyn();
    assert!(map.initial(x.view()).unwrap().iter().all(|level| level.is_nan()));
    assert!(map.parameter_gradients(x.view(), x.view()).unwrap().iter().all(|gradient| gradient.is_nan()));
}

#[test]
fn grids_take_no_parts_that_contradict_each_other() {
    let grid = |alphabet| Grid::new(alphabet, Groups::Tensor, vec![1.0]).unwrap();
    let few = grid(Alphabet::symmetric(4)).with_members(vec![-1, 0, 1]).unwrap();
    assert_eq!((few.levels(0, 9).lowest, few.levels(0, 9).highest), (-1.0, 1.0));
    assert!(few.with_zero_points(vec![1]).is_err());
    let named = grid(Alphabet::TERNARY).with_thresholds(vec![-0.1, 0.1]).unwrap();
    assert!(named.with_members(vec![-1, 1]).is_err());
    let stored = grid(Alphabet::TERNARY).with_zero_points(vec![1]).unwrap();
    assert!(
        stored.clone().with_table(vec![-1.0, 0.0, 2.0]).is_err() && stored.with_members(vec![-1, 1]).is_err()
    );
    let table = grid(Alphabet::TERNARY).with_table(vec![-1.0, 0.0, 2.0]).unwrap();
    assert!(table.with_zero_points(vec![1]).is_err());
}
