//! Gradients of trained parameters, where training starts, and INQ's portions.

use ndarray::{ArrayD, IxDyn, array};
use ndarray_rand::RandomExt;
use ndarray_rand::rand_distr::Normal;
use proptest::prelude::*;
use qnn_quant::*;
use rand_chacha::ChaCha8Rng;
use rand_chacha::rand_core::SeedableRng;

use crate::inputs::array as arrays;

fn random(len: usize, seed: u64) -> ArrayD<f32> {
    ArrayD::random_using(IxDyn(&[len]), Normal::new(0.0, 1.0).unwrap(), &mut ChaCha8Rng::seed_from_u64(seed))
}

/// `Σ dy f(x, p)` and its central difference in p.
fn difference(x: &ArrayD<f32>, dy: &ArrayD<f32>, p: f64, f: impl Fn(f64, f64) -> f64) -> f64 {
    let loss = |p: f64| x.iter().zip(dy).map(|(&x, &dy)| f64::from(dy) * f(x.into(), p)).sum::<f64>();
    (loss(p + 1e-6) - loss(p - 1e-6)) / 2e-6
}

fn close(found: f64, want: f64) {
    assert!((found - want).abs() < 1e-4 * want.abs().max(1.0), "{found}, expected {want}");
}

#[test]
fn the_gradient_of_pacts_height_is_that_of_the_clip() {
    let (x, dy) = (random(400, 1), random(400, 2));
    let map = Pact::new(4, 0.75).unwrap();
    let want = difference(&x, &dy, 0.75, |x, a| 0.5 * (x.abs() - (x - a).abs() + a));
    close(map.parameter_gradients(x.view(), dy.view()).unwrap()[0], want);
}

#[test]
fn the_gradient_of_lsqs_step_is_that_of_its_straight_through_form() {
    let (x, dy) = (random(400, 3), random(400, 4));
    for (bits, step) in [(2, 0.5_f32), (4, 0.25), (8, 0.03125)] {
        let map = Lsq::for_weights(bits, step).unwrap();
        let (low, high) = (-2_f64.powi(bits as i32 - 1), 2_f64.powi(bits as i32 - 1) - 1.0);
        let fixed = f64::from(step);
        // round(u) is u plus a residue that is held constant.
        let residue = |x: f64| (x / fixed).clamp(low, high).round_ties_even() - (x / fixed).clamp(low, high);
        let want = difference(&x, &dy, fixed, |x, s| s * ((x / s).clamp(low, high) + residue(x)));
        close(map.parameter_gradients(x.view(), dy.view()).unwrap()[0], want / (400.0 * high).sqrt());
    }
}

#[test]
fn both_gradients_of_a_step_find_the_same_numbers_between_the_levels() {
    // In f32 three steps of 0.001 are 0.003, though 0.003 / 0.001 is less than 3.
    let map = Lsq::for_weights(3, 0.001).unwrap();
    for end in [0.003_f32, -0.004] {
        for x in [end.next_down(), end, end.next_up()] {
            let x = array![x].into_dyn();
            let (grid, dy) = (map.fit(x.view()).unwrap(), array![1.0].into_dyn());
            let dx = Pair::published(map).pullback(x.view(), &grid, dy.view()).unwrap()[0];
            assert_eq!(dx, if x[0].abs() < end.abs() { 1.0 } else { 0.0 });
            let inside = f64::from(dx) * f64::from(x[0]) / f64::from(0.001_f32);
            let code = f64::from(map.codes(x.view(), &grid).unwrap()[0]);
            let found = map.parameter_gradients(x.view(), dy.view()).unwrap()[0];
            close(found, map.gradient_scale(&[1]) * (code - inside));
        }
    }
}

#[test]
fn signed_activations_have_the_levels_of_weights_and_count_the_features_of_an_example() {
    let x = random(400, 8).into_shape_with_order(IxDyn(&[20, 20])).unwrap();
    let dy = random(400, 9).into_shape_with_order(IxDyn(&[20, 20])).unwrap();
    for bits in 2..=8 {
        let maps =
            [Lsq::for_signed_activations(bits, 0.125), Lsq::for_weights(bits, 0.125)].map(Result::unwrap);
        let [activations, weights] = &maps;
        assert_eq!(quantize(activations, &x).unwrap(), quantize(weights, &x).unwrap());
        assert_eq!(activations.initial(x.view()).unwrap(), weights.initial(x.view()).unwrap());
        let high = 2_f64.powi(bits as i32 - 1) - 1.0;
        let [of_activations, of_weights] =
            maps.map(|map| map.parameter_gradients(x.view(), dy.view()).unwrap()[0]);
        // g is 1 / √(N Qp), N = 20 features of one example beside 400 weights.
        close(of_activations * (20.0 * high).sqrt(), of_weights * (400.0 * high).sqrt());
    }
    assert!(Lsq::for_signed_activations(1, 1.0).is_err());
}

#[test]
fn the_gradients_of_trained_levels_are_exact() {
    let (x, dy) = (random(400, 5), random(400, 6));
    let map = TrainedTernary::new(0.7, 0.4).unwrap();
    let found = map.parameter_gradients(x.view(), dy.view()).unwrap();
    for (index, found) in found.into_iter().enumerate() {
        let loss = |change: f32| {
            let mut parameters = map.parameters();
            parameters[index] += change;
            let values = quantize(&map.with_parameters(&parameters).unwrap(), &x).unwrap();
            values.iter().zip(&dy).map(|(&y, &dy)| f64::from(y) * f64::from(dy)).sum::<f64>()
        };
        close(found, (loss(0.125) - loss(-0.125)) / 0.25);
    }
}

#[test]
fn training_starts_where_the_papers_say() {
    let x = array![0.4, -0.2, 0.6, -0.8].into_dyn();
    let step = Lsq::for_weights(3, 1.0).unwrap().initial(x.view()).unwrap()[0];
    assert!((step - 2.0 * 0.5 / 3_f32.sqrt()).abs() < 1e-6);
    assert_eq!(Lsq::for_weights(3, 1.0).unwrap().gradient_scale(&[4, 4]), 1.0 / 48_f64.sqrt());
    assert_eq!(Lsq::for_activations(2, 1.0).unwrap().gradient_scale(&[10, 4]), 1.0 / 12_f64.sqrt());
    assert_eq!(TrainedTernary::new(1.0, 1.0).unwrap().initial(x.view()).unwrap(), [0.5, 0.5]);
    let zero = array![0.0, -0.0].into_dyn();
    for map in trained() {
        let map = map.trained().unwrap();
        assert!(map.initial(zero.view()).unwrap().iter().all(|&parameter| parameter > 0.0), "{map:?}");
    }
    let greatest = array![f32::MAX, f32::MIN].into_dyn();
    for bits in [2, 4] {
        let map = Lsq::for_weights(bits, 1.0).unwrap();
        let error = map.initial(greatest.view()).unwrap_err();
        assert!(matches!(error, Error::Parameter { .. }), "{error}");
        let parameters = map.initial(greatest.mapv(|x| 0.125 * x).view()).unwrap();
        assert!(map.with_parameters(&parameters).is_ok(), "{bits} bits");
    }
}

fn trained() -> [std::sync::Arc<dyn Quantizer>; 5] {
    [
        std::sync::Arc::new(Pact::new(4, 2.0).unwrap()),
        std::sync::Arc::new(Lsq::for_weights(4, 0.1).unwrap()),
        std::sync::Arc::new(Lsq::for_activations(4, 0.1).unwrap()),
        std::sync::Arc::new(Lsq::for_signed_activations(4, 0.1).unwrap()),
        std::sync::Arc::new(TrainedTernary::new(0.5, 0.5).unwrap()),
    ]
}

#[test]
fn parameters_are_replaced_by_number_and_kept_positive() {
    for map in trained() {
        let map = map.trained().unwrap();
        let names = map.parameter_names().len();
        assert_eq!(map.parameters().len(), names);
        let other = map.with_parameters(&vec![0.25; names]).unwrap();
        assert_eq!(other.trained().unwrap().parameters(), vec![0.25; names]);
        let lifted = map.with_parameters(&vec![-3.0; names]).unwrap();
        assert_eq!(lifted.trained().unwrap().parameters(), vec![LEAST; names]);
        assert!(map.with_parameters(&vec![f32::INFINITY; names]).is_err());
        assert!(map.with_parameters(&vec![1.0; names + 1]).is_err());
        let diverged = map.with_parameters(&vec![f32::NAN; names]).unwrap();
        let values = quantize(&diverged, &[5.0, -5.0]).unwrap();
        assert!(values.iter().any(|value| value.is_nan()), "{diverged:?}: {values}");
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    #[test]
    fn parameter_gradients_are_finite_and_need_equal_shapes(x in arrays()) {
        let dy = x.mapv(|x| x.clamp(-1.0, 1.0));
        for map in trained() {
            let gradients = map.trained().unwrap().parameter_gradients(x.view(), dy.view()).unwrap();
            prop_assert!(gradients.iter().all(|gradient| gradient.is_finite()), "{map:?}: {gradients:?}");
            let longer = ArrayD::zeros(IxDyn(&[x.len() + 1]));
            prop_assert!(map.trained().unwrap().parameter_gradients(x.view(), longer.view()).is_err());
        }
    }

    #[test]
    fn portions_freeze_the_largest_first_and_end_in_the_quantization(w in arrays(), bits in 2_u32..=6) {
        let map = Inq::new(bits).unwrap();
        let (start, mut w) = (w.clone(), w);
        let mut partition = InqPartition::new(map, start.shape());
        for portion in InqPartition::PORTIONS {
            let before = (w.clone(), partition.mask().to_owned());
            partition.advance(portion, w.view_mut()).unwrap();
            prop_assert_eq!(partition.frozen(), (portion * w.len() as f64).round_ties_even() as usize);
            for ((&was, &is), (&frozen, &now)) in before.0.iter().zip(&w).zip(before.1.iter().zip(partition.mask())) {
                prop_assert!(frozen == 0.0 || now == 1.0, "a frozen weight has thawed");
                prop_assert!(was.to_bits() == is.to_bits() || (frozen, now) == (0.0, 1.0), "{was} has become {is}");
            }
        }
        prop_assert_eq!(&w, &quantize(&map, &start).unwrap());
        let top = partition.top();
        let kept = InqPartition::from_parts(map, partition.mask().to_owned(), top).unwrap();
        prop_assert_eq!(kept, partition);
    }
}

#[test]
fn random_portions_are_others_and_repeat() {
    let freeze = |order| {
        let mut w = random(100, 7);
        let mut partition = InqPartition::new(Inq::new(5).unwrap().with_order(order), w.shape());
        partition.advance(0.5, w.view_mut()).unwrap();
        partition.mask().to_owned()
    };
    let random = |seed| freeze(InqOrder::Random { seed });
    assert_eq!((random(1), random(1).sum()), (random(1), 50.0));
    assert_ne!(random(1), random(2));
    assert_ne!(random(1), freeze(InqOrder::Magnitude));
}

#[test]
fn frozen_weights_stay_levels_while_others_grow() {
    let mut w = array![1.0, 0.4, 0.2, 0.1].into_dyn();
    let mut partition = InqPartition::new(Inq::new(3).unwrap(), w.shape());
    partition.advance(0.5, w.view_mut()).unwrap();
    w[2] = 7.0;
    partition.advance(1.0, w.view_mut()).unwrap();
    assert_eq!(w, array![1.0, 0.5, 1.0, 0.0].into_dyn());
}

#[test]
fn a_greatest_level_that_is_given_is_not_measured() {
    let mut w = array![1.0, 0.4, 0.2, 0.1].into_dyn();
    let map = Inq::new(3).unwrap().with_top(-2).unwrap();
    let mut partition = InqPartition::new(map, w.shape());
    partition.advance(1.0, w.view_mut()).unwrap();
    assert_eq!((w, partition.top()), (array![0.25, 0.25, 0.25, 0.125].into_dyn(), Some(-2)));
}

#[test]
fn impossible_portions_change_nothing() {
    let mut w = array![1.0, f32::NAN].into_dyn();
    let mut partition = InqPartition::new(Inq::new(3).unwrap(), w.shape());
    assert!(matches!(partition.advance(0.5, w.view_mut()), Err(Error::NotANumber { index: 1 })));
    assert!(matches!(partition.advance(1.5, w.view_mut()), Err(Error::Parameter { .. })));
    assert_eq!((partition.frozen(), partition.top(), w[0]), (0, None, 1.0));
    assert!(partition.release(array![1.0].into_dyn().view_mut()).is_err());
    assert!(InqPartition::from_parts(Inq::new(3).unwrap(), array![0.5].into_dyn(), None).is_err());
    assert!(InqPartition::from_parts(Inq::new(3).unwrap(), array![1.0].into_dyn(), Some(500)).is_err());
}
