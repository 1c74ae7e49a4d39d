//! The optimizers of binary networks: flips, shifts, and rates scaled by fans.

use proptest::prelude::*;
use qnn_layers::{Ctx, Mode, Param, ParamGradients, Role, glorot_coefficient, state_dict};
use qnn_tensor::{Tape, Tensor};
use qnn_train::{Bop, BopConfig, Error, Optimizer, OptimizerConfig, Regularization, StepReport};

fn tensor(values: &[f32]) -> Tensor {
    Tensor::from_vec(&[values.len()], values.to_vec()).unwrap()
}

/// The gradients of `Σ g · w`, one list of `g` for each parameter.
fn gradients(model: &[Param], g: &[Tensor]) -> ParamGradients {
    let tape = Tape::new();
    let mut cx = Ctx::new(&tape, Mode::Train, 0, 0);
    let terms = model.iter().zip(g).map(|(param, g)| (cx.param(param) * tape.constant(g.clone())).sum());
    let loss = terms.reduce(|a, b| a + b).unwrap();
    cx.finish().gradients(&mut tape.backward(loss))
}

fn build(config: &OptimizerConfig) -> Box<dyn Optimizer> {
    config.build(Regularization::default()).unwrap()
}

/// The nearest power of two, by its definition.
fn power_of_two(x: f64) -> f64 {
    if x == 0.0 { 0.0 } else { x.signum() * x.abs().log2().round().exp2() }
}

/// Gradients of a few steps, some of them zero.
fn steps() -> impl Strategy<Value = Vec<Vec<f32>>> {
    let g = prop_oneof![1 => Just(0.0_f32), 6 => -2.0_f32..2.0, 1 => -1e-30_f32..1e-30];
    prop::collection::vec(prop::collection::vec(g, 5), 1..20)
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    #[test]
    fn shift_based_adamax_follows_its_formula(steps in steps(), rate in 1e-4_f32..0.5) {
        let start = [0.3_f32, -0.2, 0.0, 1.5, -4.0];
        let mut model = vec![Param::new(Role::Bias, tensor(&start))];
        let mut optimizer = build(&OptimizerConfig::SHIFT_ADAMAX);
        // v in f32, as the optimizer has it: a factor of two hangs on its last bit.
        let (mut m, mut v, mut w) = ([0.0_f64; 5], [0.0_f32; 5], start.map(f64::from));
        for (t, g) in (1..).zip(&steps) {
            let mut all = gradients(&model, &[tensor(g)]);
            optimizer.step(&mut model, &mut all, rate).unwrap();
            let correction = 1.0 - 0.875_f64.powi(t);
            for i in 0..5 {
                m[i] = 0.875 * m[i] + 0.125 * f64::from(g[i]);
                v[i] = (0.999_023_44_f32 * v[i]).max(g[i].abs());
                if v[i] > 0.0 {
                    let shift = power_of_two(f64::from(rate) / correction);
                    w[i] -= shift * m[i] * power_of_two(1.0 / f64::from(v[i]));
                }
            }
        }
        for (&got, expected) in model[0].value().as_slice().iter().zip(w) {
            prop_assert!((f64::from(got) - expected).abs() < 1e-5 * (1.0 + expected.abs()), "{got}, {expected}");
        }
    }

    #[test]
    fn bop_flips_what_insists_and_nothing_else(steps in steps(), gamma in 0.01_f32..1.0, threshold in 0.0_f32..0.3) {
        let start = [0.3_f32, -0.2, 0.0, -0.0, -1.0];
        let mut model = vec![Param::new(Role::Kernel, tensor(&start)).with_bits(1)];
        let rest = Box::new(OptimizerConfig::SGD);
        let mut optimizer = build(&OptimizerConfig::Bop { gamma, threshold, rest });
        let (mut m, mut w) = ([0.0_f32; 5], start);
        for g in &steps {
            let mut all = gradients(&model, &[tensor(g)]);
            let before = w;
            // The rate is nothing to signs.
            let report = optimizer.step(&mut model, &mut all, 1e9).unwrap();
            for i in 0..5 {
                m[i] = (1.0 - gamma) * m[i] + gamma * g[i];
                let sign = |x: f32| if x >= 0.0 { 1 } else { -1 };
                if m[i].abs() > threshold && sign(m[i]) == sign(w[i]) {
                    w[i] = if w[i] == 0.0 { -1.0 } else { -w[i] };
                }
            }
            prop_assert_eq!(model[0].value().as_slice(), w);
            let flips = before.iter().zip(w).filter(|(a, b)| (**a >= 0.0) != (*b >= 0.0)).count() as u64;
            prop_assert_eq!(report, StepReport { flips, binary_weights: 5 });
        }
    }

    #[test]
    fn rates_are_divided_by_the_glorot_coefficient(inputs in 1_usize..20, outputs in 1_usize..20) {
        let shape = [inputs, outputs];
        let coefficient = (1.5 / (inputs + outputs) as f64).sqrt();
        prop_assert!((glorot_coefficient(&shape) - coefficient).abs() < 1e-15);
        let moved = |config: &OptimizerConfig, glorot_rates, bits| {
            let mut model = vec![Param::new(Role::Kernel, Tensor::zeros(&shape)).with_bits(bits)];
            let mut optimizer =
                config.build(Regularization { glorot_rates, ..Regularization::default() }).unwrap();
            let mut all = gradients(&model, &[Tensor::full(&shape, 0.5)]);
            optimizer.step(&mut model, &mut all, 0.01).unwrap();
            f64::from(model[0].value().as_slice()[0])
        };
        for (config, factor) in [
            (OptimizerConfig::NESTEROV, coefficient.powi(-2)),
            (OptimizerConfig::ADAM, 1.0 / coefficient),
        ] {
            let ratio = moved(&config, true, 1) / moved(&config, false, 1);
            prop_assert!((ratio / factor - 1.0).abs() < 1e-5, "{config:?}: {ratio} for {factor}");
            prop_assert_eq!(moved(&config, true, 32), moved(&config, false, 32));
        }
    }
}

/// A kernel, a binary one, a ternary one and a bias.
fn mixed() -> Vec<Param> {
    let kernel = || Param::new(Role::Kernel, tensor(&[0.5, -0.5, 0.25]));
    vec![kernel(), kernel().with_bits(1), kernel().with_bits(2), Param::new(Role::Bias, tensor(&[0.5]))]
}

fn mixed_gradients(model: &[Param], step: u8) -> ParamGradients {
    let g = |param: &Param| Tensor::from_fn(param.value().shape(), |i| (f32::from(step) + i as f32).sin());
    let g: Vec<_> = model.iter().map(g).collect();
    gradients(model, &g)
}

#[test]
fn what_is_not_binary_goes_to_the_second_optimizer() {
    let regularization =
        Regularization { weight_decay: 0.01, clip_norm: Some(0.5), ..Regularization::default() };
    let (mut flipped, mut adam) = (mixed(), mixed());
    let mut bop = OptimizerConfig::bop(OptimizerConfig::ADAM).build(regularization).unwrap();
    let mut plain = OptimizerConfig::ADAM.build(regularization).unwrap();
    for step in 0..5 {
        let mut all = mixed_gradients(&flipped, step);
        bop.step(&mut flipped, &mut all, 0.1).unwrap();
        let mut all = mixed_gradients(&adam, step);
        plain.step(&mut adam, &mut all, 0.1).unwrap();
    }
    for i in [0, 2, 3] {
        assert_eq!(flipped[i].value(), adam[i].value(), "{i}");
    }
    let magnitudes = flipped[1].value().map(f32::abs);
    assert_eq!(magnitudes.as_slice(), [0.5, 0.5, 0.25]);
    let slots: Vec<_> = bop.state().slots.into_keys().collect();
    assert_eq!(slots, ["0.mean", "0.square", "1.flip", "2.mean", "2.square", "3.mean", "3.square"]);
}

#[test]
fn a_gradient_that_is_missing_leaves_both_halves_unchanged() {
    for missing in [0, 1] {
        let mut model = mixed();
        let before = state_dict(&model);
        let mut optimizer = build(&OptimizerConfig::bop(OptimizerConfig::ADAM));
        let mut all = mixed_gradients(&model, 0);
        all.take(model[missing].id());
        let error = optimizer.step(&mut model, &mut all, 0.1).unwrap_err();
        assert!(matches!(error, Error::NoGradient { ref parameter } if *parameter == missing.to_string()));
        assert_eq!(state_dict(&model), before);
        assert_eq!(optimizer.state().steps, 0);
    }
}

#[test]
fn the_memory_of_another_optimizer_is_refused_and_nothing_changes() {
    let mut model = mixed();
    let mut bop = Bop::new(BopConfig::default()).unwrap();
    let mut all = mixed_gradients(&model, 0);
    bop.step(&mut model, &mut all, 0.1).unwrap();
    let good = bop.state();
    for (unknown, shape) in [("1.mean", 3), ("9.flip", 3), ("1.flip", 4), ("0.flip", 3), ("0.mean", 4)] {
        let mut state = bop.state();
        state.slots.insert(unknown.to_owned(), Tensor::zeros(&[shape]));
        let error = bop.load_state(&model, state).unwrap_err();
        assert!(matches!(error, Error::Slot { .. }), "{unknown}: {error}");
        assert_eq!(bop.state(), good, "{unknown}");
    }
}
