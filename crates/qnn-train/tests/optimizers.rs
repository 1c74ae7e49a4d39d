//! The optimizers against their formulas in plain f64, and their bookkeeping.

use qnn_layers::{Constraint, Ctx, Mode, Param, ParamGradients, Role, state_dict};
use qnn_tensor::{Tape, Tensor};
use qnn_train::{Error, Optimizer, OptimizerConfig, Regularization, StepReport};

const REGULARIZED: Regularization =
    Regularization { weight_decay: 0.05, quantizer_decay: 0.0, clip_norm: None, glorot_rates: false };

fn wave(shape: &[usize], seed: f32) -> Tensor {
    Tensor::from_fn(shape, |i| (1.3 * i as f32 + seed).sin())
}

/// A kernel, a latent kernel in [−0.9, 0.9] and a slow bias.
fn model() -> Vec<Param> {
    let limit = Some(Constraint::Clip { limit: 0.9 });
    vec![
        Param::new(Role::Kernel, wave(&[3, 5], 0.0)),
        Param::new(Role::Kernel, wave(&[70], 1.0)).with_bits(1).with_constraint(limit),
        Param::new(Role::Bias, wave(&[4], 2.0)).with_learning_rate_factor(0.5),
    ]
}

/// Gradients as a loss of `Σ g · w` has them, for all parameters but the left out.
fn gradients(model: &[Param], seed: f32, left_out: Option<usize>) -> ParamGradients {
    let tape = Tape::new();
    let mut cx = Ctx::new(&tape, Mode::Train, 0, 0);
    let used = model.iter().enumerate().filter(|(i, _)| Some(*i) != left_out);
    let terms: Vec<_> = used
        .map(|(i, param)| {
            let g = tape.constant(wave(param.value().shape(), seed + i as f32));
            (cx.param(param) * g).sum()
        })
        .collect();
    let loss = terms.into_iter().reduce(|a, b| a + b).unwrap();
    cx.finish().gradients(&mut tape.backward(loss))
}

#[test]
fn what_quantizers_learn_decays_by_a_factor_of_its_own() {
    for (decay, expected) in [(0.0, 10.0), (0.5, 9.5)] {
        let regularization =
            Regularization { quantizer_decay: decay, weight_decay: 0.25, ..Regularization::default() };
        let mut model = vec![
            Param::new(Role::Quantizer, Tensor::scalar(10.0)),
            Param::new(Role::Kernel, Tensor::scalar(10.0)),
        ];
        let tape = Tape::new();
        let mut cx = Ctx::new(&tape, Mode::Train, 0, 0);
        let loss = cx.param(&model[0]) * tape.constant(Tensor::scalar(0.0))
            + cx.param(&model[1]) * tape.constant(Tensor::scalar(0.0));
        let mut gradients = cx.finish().gradients(&mut tape.backward(loss));
        let mut sgd = OptimizerConfig::Sgd { momentum: 0.0, nesterov: false }.build(regularization).unwrap();
        sgd.step(&mut model, &mut gradients, 0.1).unwrap();
        assert_eq!((model[0].value().item(), model[1].value().item()), (expected, 9.75));
    }
}

/// One weight's path in f64: `u(step, gradient with decay, weight)` is the rule's update.
fn expected(mut u: impl FnMut(i32, f64) -> f64, which: usize, index: usize, steps: i32) -> f64 {
    let model = model();
    let mut w = f64::from(model[which].value().as_slice()[index]);
    let (decay, factor, limit) = [(0.05, 1.0, 1e9), (0.0, 1.0, f64::from(0.9_f32)), (0.0, 0.5, 1e9)][which];
    for step in 1..=steps {
        let g = (1.3 * index as f64 + f64::from(step) + which as f64).sin();
        w = (w - 0.05 * factor * u(step, g + decay * w)).clamp(-limit, limit);
    }
    w
}

fn check(config: OptimizerConfig, rule: impl Fn() -> Box<dyn FnMut(i32, f64) -> f64>) {
    const STEPS: i32 = 25;
    let mut model = model();
    let mut optimizer = config.build(REGULARIZED).unwrap();
    for step in 1..=STEPS {
        let mut gradients = gradients(&model, step as f32, None);
        optimizer.step(&mut model, &mut gradients, 0.05).unwrap();
        assert!(gradients.is_empty());
    }
    for (which, param) in model.iter().enumerate() {
        for (index, &got) in param.value().as_slice().iter().enumerate() {
            let expected = expected(rule(), which, index, STEPS);
            let error = (f64::from(got) - expected).abs();
            assert!(error < 2e-5, "{config:?}, weight {index} of {which}: {got}, expected {expected}");
        }
    }
}

#[test]
fn momentum_follows_its_formula() {
    check(OptimizerConfig::SGD, || {
        let mut v = 0.0;
        Box::new(move |_, g| {
            v = f64::from(0.9_f32) * v + g;
            v
        })
    });
}

#[test]
fn nesterov_follows_its_formula() {
    check(OptimizerConfig::NESTEROV, || {
        let mut v = 0.0;
        Box::new(move |_, g| {
            v = f64::from(0.9_f32) * v + g;
            g + f64::from(0.9_f32) * v
        })
    });
}

#[test]
fn adam_follows_its_formula() {
    check(OptimizerConfig::ADAM, || {
        let (mut m, mut v, b1, b2) = (0.0, 0.0, f64::from(0.9_f32), f64::from(0.999_f32));
        Box::new(move |t, g| {
            m = b1 * m + (1.0 - b1) * g;
            v = b2 * v + (1.0 - b2) * g * g;
            (m / (1.0 - b1.powi(t))) / ((v / (1.0 - b2.powi(t))).sqrt() + 1e-8)
        })
    });
}

#[test]
fn flips_are_counted_on_latent_weights_and_minus_zero_is_positive() {
    let values = |values: &[f32]| Tensor::from_vec(&[values.len()], values.to_vec()).unwrap();
    let mut model = vec![
        Param::new(Role::Kernel, values(&[-0.0, 0.5, 0.5, -0.5, 0.0])).with_bits(1),
        Param::new(Role::Kernel, values(&[0.5])),
    ];
    let wanted = [values(&[0.0, 1.0, 0.2, -1.0, 1.0]), values(&[1.0])];
    let tape = Tape::new();
    let mut cx = Ctx::new(&tape, Mode::Train, 0, 0);
    let terms = [0, 1].map(|i| (cx.param(&model[i]) * tape.constant(wanted[i].clone())).sum());
    let mut gradients = cx.finish().gradients(&mut tape.backward(terms[0] + terms[1]));
    drop(tape);
    let plain = OptimizerConfig::Sgd { momentum: 0.0, nesterov: false };
    let mut optimizer = plain.build(Regularization::default()).unwrap();
    let report = optimizer.step(&mut model, &mut gradients, 1.0).unwrap();
    // −0 stays, 0.5 − 1, 0.5 − 0.2, −0.5 + 1, 0 − 1; the weight that is not latent does not count.
    assert_eq!(report, StepReport { flips: 3, binary_weights: 5 });
}

#[test]
fn a_parameter_without_gradient_is_named_and_nothing_changes() {
    let mut model = model();
    let before = state_dict(&model);
    let mut optimizer = OptimizerConfig::ADAM.build(REGULARIZED).unwrap();
    let mut incomplete = gradients(&model, 0.0, Some(1));
    let error = optimizer.step(&mut model, &mut incomplete, 0.1).unwrap_err();
    assert!(matches!(error, Error::NoGradient { ref parameter } if parameter == "1"), "{error}");
    assert_eq!(state_dict(&model), before);
    assert_eq!(optimizer.state().steps, 0);
}

#[test]
fn a_frozen_parameter_needs_no_gradient_and_keeps_its_value() {
    let mut model = model();
    model[2] = Param::new(Role::Kernel, wave(&[4], 2.0)).with_learning_rate_factor(0.0);
    let mut optimizer = OptimizerConfig::SGD.build(REGULARIZED).unwrap();
    for left_out in [Some(2), None] {
        let mut gradients = gradients(&model, 0.0, left_out);
        optimizer.step(&mut model, &mut gradients, 0.1).unwrap();
    }
    assert_eq!(model[2].value(), &wave(&[4], 2.0));
    assert_ne!(model[0].value(), &wave(&[3, 5], 0.0));
}

#[test]
fn long_gradients_are_shortened_and_short_ones_left() {
    let plain = OptimizerConfig::Sgd { momentum: 0.0, nesterov: false };
    let norm_of_update = |limit: f32| {
        let mut model =
            vec![Param::new(Role::Kernel, Tensor::zeros(&[3])), Param::new(Role::Bias, Tensor::zeros(&[4]))];
        let regularization = Regularization { clip_norm: Some(limit), ..Regularization::default() };
        let mut gradients = gradients(&model, 0.5, None);
        plain.build(regularization).unwrap().step(&mut model, &mut gradients, 1.0).unwrap();
        let weights = model.iter().flat_map(|param| param.value().as_slice().to_vec());
        weights.map(|w| f64::from(w).powi(2)).sum::<f64>().sqrt()
    };
    let full = norm_of_update(1e9);
    assert!((norm_of_update(0.25) - 0.25).abs() < 1e-6);
    assert!(full > 0.5 && norm_of_update(full as f32 * 1.01) == full);
}

#[test]
fn large_parameters_are_updated_in_place_and_alike_on_any_number_of_threads() {
    let run = |threads| {
        let pool = rayon::ThreadPoolBuilder::new().num_threads(threads).build().unwrap();
        let mut model = vec![Param::new(Role::Kernel, wave(&[40_000], 0.3)).with_bits(1)];
        let mut optimizer = OptimizerConfig::ADAM.build(REGULARIZED).unwrap();
        let address = model[0].value().as_slice().as_ptr();
        let reports: Vec<_> = (0..4)
            .map(|step| {
                let mut gradients = gradients(&model, step as f32, None);
                pool.install(|| optimizer.step(&mut model, &mut gradients, 0.3).unwrap())
            })
            .collect();
        assert_eq!(model[0].value().as_slice().as_ptr(), address);
        (reports, model[0].value().clone(), optimizer.state())
    };
    let (reports, weights, state) = run(1);
    assert_eq!(run(3), (reports.clone(), weights.clone(), state));
    let signs = |w: &Tensor| w.as_slice().iter().map(|&x| x >= 0.0).collect::<Vec<_>>();
    let changed =
        signs(&wave(&[40_000], 0.3)).iter().zip(signs(&weights)).filter(|(a, b)| **a != *b).count() as u64;
    assert!(changed > 0 && reports.iter().map(|report| report.flips).sum::<u64>() >= changed);
}

#[test]
fn an_optimizer_goes_on_from_its_state() {
    for name in OptimizerConfig::NAMES {
        let config: OptimizerConfig = name.parse().unwrap();
        let run = |optimizer: &mut dyn Optimizer, model: &mut Vec<Param>, steps: std::ops::Range<u8>| {
            for step in steps {
                let mut gradients = gradients(model, f32::from(step), None);
                optimizer.step(model, &mut gradients, 0.1).unwrap();
            }
        };
        let (mut whole, mut parts) = (model(), model());
        run(&mut *config.build(REGULARIZED).unwrap(), &mut whole, 0..6);
        let mut first = config.build(REGULARIZED).unwrap();
        run(&mut *first, &mut parts, 0..3);
        let mut second = config.build(REGULARIZED).unwrap();
        second.load_state(&parts, first.state()).unwrap();
        run(&mut *second, &mut parts, 3..6);
        assert_eq!(state_dict(&parts), state_dict(&whole), "{config:?}");
    }
}

#[test]
fn states_of_other_rules_and_models_are_refused() {
    let mut model = model();
    let mut adam = OptimizerConfig::ADAM.build(REGULARIZED).unwrap();
    let mut all = gradients(&model, 0.0, None);
    adam.step(&mut model, &mut all, 0.1).unwrap();
    let refused =
        |config: OptimizerConfig, model: &Vec<Param>, change: &dyn Fn(&mut qnn_layers::StateDict)| {
            let mut state = adam.state();
            change(&mut state.slots);
            let mut fresh = config.build(REGULARIZED).unwrap();
            let error = fresh.load_state(model, state).unwrap_err();
            assert_eq!(fresh.state().steps, 0);
            error.to_string()
        };
    let nothing = |_: &mut qnn_layers::StateDict| {};
    assert!(refused(OptimizerConfig::SGD, &model, &nothing).contains("\"0.mean\""));
    let missing = refused(OptimizerConfig::ADAM, &model, &|slots| drop(slots.remove("1.square")));
    assert!(missing.contains("\"1.square\": is missing"), "{missing}");
    model[2] = Param::new(Role::Bias, Tensor::zeros(&[5]));
    let shape = refused(OptimizerConfig::ADAM, &model, &nothing);
    assert!(shape.contains("\"2.mean\": has the shape [4], its parameter [5]"), "{shape}");
}
