//! What holds on average, and what memory does.

use ndarray::{ArrayD, Axis, IxDyn, array};
use ndarray_rand::RandomExt;
use ndarray_rand::rand_distr::Uniform as Evenly;
use proptest::prelude::*;
use qnn_quant::*;
use rand_chacha::ChaCha8Rng;
use rand_chacha::rand_core::SeedableRng;

use crate::inputs::array as arrays;
use crate::reference::{binary, multi_bit, words};

fn draw(map: &dyn Quantizer, x: &ArrayD<f32>, draw: u64) -> ArrayD<f32> {
    let grid = map.fit(x.view()).unwrap();
    let mut values = ArrayD::zeros(x.raw_dim());
    map.codes_at_into(x.view(), &grid, &Moment::draw(draw), values.view_mut()).unwrap();
    grid.dequantize_mut(values.view_mut()).unwrap();
    values
}

/// Mean of many draws, element by element.
fn mean(map: &dyn Quantizer, x: &ArrayD<f32>, draws: u64) -> Vec<f64> {
    let mut mean = vec![0.0; x.len()];
    for index in 0..draws {
        let values = draw(map, x, index);
        mean.iter_mut().zip(&values).for_each(|(mean, &value)| *mean += f64::from(value) / draws as f64);
    }
    mean
}

#[test]
fn the_expectation_of_a_stochastic_sign_is_the_clipped_input() {
    let x = array![-3.0, -1.0, -0.6, 0.0, 0.25, 0.9, 1.0, 2.0].into_dyn();
    for (mean, &x) in mean(&StochasticSign::new(3), &x, 20_000).into_iter().zip(&x) {
        // Four standard deviations, of at most 1 / √20000.
        assert!((mean - f64::from(x.clamp(-1.0, 1.0))).abs() < 4.0 * 0.0071, "{mean} at {x}");
    }
}

#[test]
fn rounded_gradients_are_unbiased_away_from_the_clip() {
    let dr = array![[1.0, 0.3, -0.7, 0.01, 0.0], [-2e-3, 1e-3, 1e-4, 0.0, 1.3e-3]].into_dyn();
    for bits in [2, 4, 8] {
        let map = DorefaGradients::new(bits, 11).unwrap();
        let n = f64::from((1_u32 << bits) - 1);
        for (row, means) in mean(&map, &dr, 20_000).chunks(5).enumerate() {
            let row = dr.index_axis(Axis(0), row);
            let greatest = row.iter().fold(0.0_f64, |max, x| max.max(f64::from(x.abs())));
            for (&mean, &dr) in means.iter().zip(&row) {
                let step = 2.0 * greatest / n;
                // Within half a step of the ends the noise is clipped on one side.
                let inside = f64::from(dr.abs()) <= greatest - 0.5 * step;
                let slack = if inside { 4.0 * 0.5 * step / 20_000_f64.sqrt() } else { 0.25 * step };
                assert!((mean - f64::from(dr)).abs() <= slack, "{bits} bits: {mean} at {dr}");
            }
        }
    }
}

/// Inputs that only the last digits of their random words decide, over several batches of words.
#[test]
fn a_sign_is_that_of_all_digits_of_its_word() {
    let nearby = [f32::next_down, |x| x, f32::next_up];
    let inputs = words(8, 2_000).into_iter().enumerate().map(|(i, word)| {
        let threshold = f64::from(word >> 8) / 2_f64.powi(23) - 1.0;
        nearby[i % 3](threshold as f32)
    });
    let x = ArrayD::from_shape_vec(IxDyn(&[2_000]), inputs.collect()).unwrap();
    let expected = binary::stochastic(&x, 8);
    for (i, (&y, (sign, _))) in
        quantize(&StochasticSign::new(8), &x).unwrap().iter().zip(expected).enumerate()
    {
        assert_eq!((y, sign), if i % 3 == 2 { (1.0, 1) } else { (-1.0, -1) }, "element {i}");
    }
}

#[test]
fn rounded_gradients_are_those_of_the_reference_over_many_batches() {
    let evenly = Evenly::new(-1.0_f32, 1.0).unwrap();
    let x = ArrayD::random_using(IxDyn(&[30, 1_111]), evenly, &mut ChaCha8Rng::seed_from_u64(3));
    for bits in [1, 4, 8] {
        let map = DorefaGradients::new(bits, 6).unwrap();
        let mut codes = x.clone();
        map.fit_codes_into(x.view(), codes.view_mut()).unwrap();
        for (&code, (expected, _)) in codes.iter().zip(multi_bit::dorefa_gradients(&x, bits, 6)) {
            assert_eq!(code, expected as f32, "{bits} bits");
        }
    }
}

#[test]
fn draws_differ_and_repeat() {
    let x = ArrayD::random_using(
        IxDyn(&[50, 40]),
        Evenly::new(-1.0_f32, 1.0).unwrap(),
        &mut ChaCha8Rng::seed_from_u64(1),
    );
    for map in [&StochasticSign::new(1) as &dyn Quantizer, &DorefaGradients::new(3, 1).unwrap()] {
        assert_eq!(map.dependence(), Dependence::Chance);
        assert_eq!(draw(map, &x, 5), draw(map, &x, 5));
        assert_ne!(draw(map, &x, 5), draw(map, &x, 6));
        assert_eq!(draw(map, &x, 0), quantize(map, &x).unwrap());
    }
    assert_ne!(draw(&StochasticSign::new(1), &x, 0), draw(&StochasticSign::new(2), &x, 0));
}

#[test]
fn a_draw_depends_on_positions_not_on_threads() {
    let x = ArrayD::random_using(
        IxDyn(&[70_001]),
        Evenly::new(-1.0_f32, 1.0).unwrap(),
        &mut ChaCha8Rng::seed_from_u64(2),
    );
    let pool = |threads| rayon::ThreadPoolBuilder::new().num_threads(threads).build().unwrap();
    let whole = pool(1).install(|| draw(&StochasticSign::new(4), &x, 9));
    assert_eq!(pool(3).install(|| draw(&StochasticSign::new(4), &x, 9)), whole);
    let start = x.view().split_at(Axis(0), 1000).0.to_owned();
    assert_eq!(draw(&StochasticSign::new(4), &start, 9), whole.view().split_at(Axis(0), 1000).0);
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    #[test]
    fn hysteresis_is_a_state_machine(steps in prop::collection::vec(prop::collection::vec(-0.3_f32..0.3, 5), 1..20)) {
        let map = HysteresisSign::new(0.1).unwrap();
        let mut state: Option<ArrayD<f32>> = None;
        let mut plain: Vec<f32> = steps[0].iter().map(|&w| if w >= 0.0 { 1.0 } else { -1.0 }).collect();
        for weights in &steps {
            for (s, &w) in plain.iter_mut().zip(weights) {
                if *s > 0.0 && w < -0.1 { *s = -1.0 } else if *s < 0.0 && w > 0.1 { *s = 1.0 }
            }
            let w = ArrayD::from_shape_vec(IxDyn(&[5]), weights.clone()).unwrap();
            let grid = map.fit(w.view()).unwrap();
            let moment = state.as_ref().map_or_else(Moment::default, |state| Moment::after(state.view()));
            let mut codes = ArrayD::zeros(w.raw_dim());
            map.codes_at_into(w.view(), &grid, &moment, codes.view_mut()).unwrap();
            prop_assert_eq!(codes.iter().copied().collect::<Vec<_>>(), plain.clone());
            let mean = weights.iter().map(|&w| f64::from(w).abs()).sum::<f64>() / 5.0;
            let mut values = codes.clone();
            grid.dequantize_mut(values.view_mut()).unwrap();
            for (value, s) in values.iter().zip(&plain) {
                prop_assert!((f64::from(*value) - mean * f64::from(*s)).abs() <= 1e-7 * mean, "{values}, mean {mean}");
            }
            state = Some(codes);
        }
    }

    #[test]
    fn a_remembered_sign_changes_beyond_the_threshold_alone(
        w in arrays(), t in prop::sample::select(vec![0.0, 0.1, 0.5, 1e-45, f32::MAX]),
    ) {
        let ends = [t.next_down(), t, t.next_up(), f32::INFINITY, f32::NAN].into_iter().flat_map(|t| [t, -t]);
        let w: Vec<f32> = w.into_iter().chain(ends).collect();
        let w = ArrayD::from_shape_vec(IxDyn(&[w.len()]), w).unwrap();
        let (map, grid) = (HysteresisSign::new(t).unwrap(), Sign.fit(w.view()).unwrap());
        for before in [1.0, -1.0] {
            let (previous, mut codes) = (w.mapv(|_| before), w.clone());
            map.codes_at_into(w.view(), &grid, &Moment::after(previous.view()), codes.view_mut()).unwrap();
            for (&w, &code) in w.iter().zip(&codes) {
                let changes = if before > 0.0 { w < -t } else { w > t };
                let is_expected = if w.is_nan() { code.is_nan() } else { code == if changes { -before } else { before } };
                prop_assert!(is_expected, "{before} becomes {code} at {w}, threshold {t}");
            }
        }
    }

    #[test]
    fn a_threshold_of_zero_remembers_the_sign_of_zero_alone(w in arrays()) {
        let (map, grid) = (HysteresisSign::new(0.0).unwrap(), Sign.fit(w.view()).unwrap());
        for before in [1.0, -1.0] {
            let (previous, mut codes) = (w.mapv(|_| before), w.clone());
            map.codes_at_into(w.view(), &grid, &Moment::after(previous.view()), codes.view_mut()).unwrap();
            for (&w, &code) in w.iter().zip(&codes) {
                prop_assert_eq!(code, if w == 0.0 { before } else { w.signum() });
            }
        }
    }
}

#[test]
fn a_previous_code_that_is_no_sign_starts_anew() {
    let (map, w) = (HysteresisSign::new(0.1).unwrap(), array![0.05, -0.05, 0.0, 0.5, -0.5].into_dyn());
    let (grid, mut codes) = (map.fit(w.view()).unwrap(), w.clone());
    for none in [0.0, -0.0, f32::NAN] {
        let previous = w.mapv(|_| none);
        map.codes_at_into(w.view(), &grid, &Moment::after(previous.view()), codes.view_mut()).unwrap();
        assert_eq!(codes, array![1.0, -1.0, 1.0, 1.0, -1.0].into_dyn(), "after {none}");
    }
}

#[test]
fn a_state_of_another_shape_is_refused() {
    let (map, w) = (HysteresisSign::new(0.1).unwrap(), array![1.0, 2.0].into_dyn());
    let (grid, previous, mut codes) = (map.fit(w.view()).unwrap(), array![1.0].into_dyn(), w.clone());
    let result = map.codes_at_into(w.view(), &grid, &Moment::after(previous.view()), codes.view_mut());
    assert!(matches!(result, Err(Error::Shape { .. })));
}
