//! What quantizers have in their places: trained parameters, memory, frozen weights, scales of inputs.

use std::sync::Arc;

use qnn_layers::{
    Conv2d, Conv2dConfig, Ctx, Dense, DenseConfig, Error, FakeQuantize, Init, Layer, LeafMut, Mode, Module,
    PaddingRule, Path, Quantize, apply_updates, for_each_param, load_state_dict, state_dict,
};
use qnn_quant::ndarray::{ArrayViewD, ArrayViewMutD};
use qnn_quant::{
    Alphabet, Custom, Dependence, DorefaTanh, Estimator, Grid, HysteresisSign, Inq, InqOrder, Lsq, Moment,
    Pact, Pair, Quantizer, ScaledSign, Sign, StraightThrough, Ternary, Trained, TrainedTernary, registry,
};
use qnn_tensor::{Tape, Tensor};

fn numbers(shape: &[usize], seed: usize) -> Tensor {
    Tensor::from_fn(shape, |i| (((i + 1) * (seed * 2 + 7)) as f32 * 0.618).sin() * 1.2)
}

fn dense(pair: Pair) -> Dense {
    let config = DenseConfig { kernel_quantizer: Some(pair), bias: false, ..DenseConfig::new(6, 4) };
    Dense::new(&config, &mut Init::new(3)).unwrap()
}

/// A pass at some progress; in training, updates are applied. Returns output and gradients by path.
fn pass(layer: &mut dyn Layer, mode: Mode, progress: f64, x: &Tensor) -> (Tensor, Vec<(String, Tensor)>) {
    let tape = Tape::new();
    let mut cx = Ctx::new(&tape, mode, 1, 2).with_progress(progress);
    let y = layer.forward(&mut cx, tape.leaf(x.clone()).into()).unwrap().value();
    let (value, bindings) = (y.value(), cx.finish());
    let gradients = bindings.gradients(&mut tape.backward_from(y, numbers(value.shape(), 5)));
    let mut named = Vec::new();
    for_each_param(layer, &mut |path, param| {
        named.extend(gradients.of(param.id()).map(|dw| (path.to_owned(), dw.clone())));
    });
    apply_updates(layer, bindings.into_updates());
    (value, named)
}

fn train(layer: &mut dyn Layer, x: &Tensor) -> (Tensor, Vec<(String, Tensor)>) {
    pass(layer, Mode::Train, 0.0, x)
}

fn evaluate(layer: &mut dyn Layer, x: &Tensor) -> Tensor {
    pass(layer, Mode::Eval, 0.0, x).0
}

fn set(module: &mut dyn Module, wanted: &str, values: &[f32]) {
    module.visit_mut(&mut Path::default(), &mut |at, leaf| {
        if let LeafMut::Param(param) = leaf
            && at.as_str() == wanted
        {
            param.value_mut().as_mut_slice().copy_from_slice(values);
        }
    });
}

/// The gradient of a layer's input, given one of its output.
fn pulled_back(layer: &Quantize, x: &Tensor, dy: &Tensor) -> Tensor {
    let tape = Tape::new();
    let mut cx = Ctx::new(&tape, Mode::Train, 1, 2);
    let x = tape.leaf(x.clone());
    let y = layer.forward(&mut cx, x.into()).unwrap().value();
    tape.backward_from(y, dy.clone()).take(x).unwrap()
}

#[test]
fn gradients_in_layers_are_those_of_the_pair_alone() {
    let (x, dy) = (numbers(&[5, 7001], 4), numbers(&[5, 7001], 5));
    for listing in registry::estimators() {
        let gradient = registry::estimator(listing.name, &registry::Parameters::default()).unwrap();
        let gradient = gradient.scheduled(0.0).unwrap_or(gradient);
        for pair in [Pair::new(Sign, gradient.clone()), Pair::new(Ternary::per_tensor(), gradient.clone())] {
            let grid = pair.map.fit(x.view()).unwrap();
            let expected = pair.pullback(x.view(), &grid, dy.view()).unwrap();
            let found = pulled_back(&Quantize::new(pair.clone()), &x, &dy);
            assert_eq!(found.to_array(), expected, "{pair:?}");
        }
    }
}

/// Codes −1, 0 and 1 of the values −½, 0 and 2, which an element keeps until it has passed the middle by ½.
#[derive(Debug)]
struct Sluggish;

impl Quantizer for Sluggish {
    fn name(&self) -> &'static str {
        "sluggish"
    }

    fn fit(&self, _: ArrayViewD<'_, f32>) -> qnn_quant::Result<Grid> {
        Grid::unit(Alphabet::TERNARY)?.with_table(vec![-0.5, 0.0, 2.0])
    }

    fn codes_into(
        &self,
        x: ArrayViewD<'_, f32>,
        grid: &Grid,
        codes: ArrayViewMutD<'_, f32>,
    ) -> qnn_quant::Result<()> {
        let nowhere = Tensor::<f32>::zeros(x.shape());
        self.codes_at_into(x, grid, &Moment::after(nowhere.view()), codes)
    }

    fn codes_at_into(
        &self,
        x: ArrayViewD<'_, f32>,
        _: &Grid,
        moment: &Moment<'_>,
        mut codes: ArrayViewMutD<'_, f32>,
    ) -> qnn_quant::Result<()> {
        for (i, (code, x)) in codes.iter_mut().zip(&x).enumerate() {
            let before =
                moment.previous.as_ref().and_then(|previous| previous.iter().nth(i)).copied().unwrap_or(0.0);
            assert!([-1.0, 0.0, 1.0].contains(&before), "{before} is no code");
            *code = if x.abs() > 0.5 { x.signum() } else { before };
        }
        Ok(())
    }

    fn dependence(&self) -> Dependence {
        Dependence::Memory
    }

    fn published(&self) -> Arc<dyn Estimator> {
        Arc::new(StraightThrough)
    }
}

#[test]
fn memory_holds_codes_where_a_table_gives_the_values() {
    let mut layer = dense(Pair::published(Sluggish));
    for step in 0..2 {
        train(&mut layer, &numbers(&[3, 6], step));
        let state = state_dict(&layer);
        let (kernel, codes) = (&state["kernel"], &state["kernel_quantizer.codes"]);
        for (x, code) in kernel.as_slice().iter().zip(codes.as_slice()) {
            assert_eq!(*code, if x.abs() > 0.5 { x.signum() } else { 0.0 });
        }
    }
}

/// PACT that gives nothing but zeros in training.
#[derive(Debug)]
struct Shy(Pact);

impl Quantizer for Shy {
    fn name(&self) -> &'static str {
        "shy"
    }

    fn fit(&self, x: ArrayViewD<'_, f32>) -> qnn_quant::Result<Grid> {
        self.0.fit(x)
    }

    fn codes_into(
        &self,
        _: ArrayViewD<'_, f32>,
        _: &Grid,
        mut codes: ArrayViewMutD<'_, f32>,
    ) -> qnn_quant::Result<()> {
        codes.fill(0.0);
        Ok(())
    }

    fn evaluated(&self) -> Option<Arc<dyn Quantizer>> {
        Some(Arc::new(self.0))
    }

    fn trained(&self) -> Option<&dyn Trained> {
        Some(self)
    }

    fn published(&self) -> Arc<dyn Estimator> {
        self.0.published()
    }
}

impl Trained for Shy {
    fn parameter_names(&self) -> &'static [&'static str] {
        self.0.parameter_names()
    }

    fn parameters(&self) -> Vec<f32> {
        self.0.parameters()
    }

    fn with_parameters(&self, parameters: &[f32]) -> qnn_quant::Result<Arc<dyn Quantizer>> {
        Ok(Arc::new(Self(Pact::new(2, parameters[0])?)))
    }

    fn initial(&self, x: ArrayViewD<'_, f32>) -> qnn_quant::Result<Vec<f32>> {
        self.0.initial(x)
    }

    fn parameter_gradients(
        &self,
        x: ArrayViewD<'_, f32>,
        dy: ArrayViewD<'_, f32>,
    ) -> qnn_quant::Result<Vec<f64>> {
        self.0.parameter_gradients(x, dy)
    }
}

#[test]
fn trained_maps_are_evaluated_as_they_say() {
    let pact = Pact::new(2, 1.0).unwrap();
    let (mut shy, mut plain) =
        (Quantize::new(Pair::published(Shy(pact))), Quantize::new(Pair::published(pact)));
    let x = numbers(&[4, 5], 1);
    for _ in 0..2 {
        assert_eq!(evaluate(&mut shy, &x), evaluate(&mut plain, &x));
        assert!(train(&mut shy, &x).0.as_slice().iter().all(|&y| y == 0.0));
        train(&mut plain, &x);
    }
}

#[test]
fn an_infinity_that_the_map_lets_pass_has_no_slope() {
    let layer = Quantize::new(Pair::new(Sign, DorefaTanh));
    let x = Tensor::from_vec(&[1, 3], vec![f32::INFINITY, 0.0, f32::NEG_INFINITY]).unwrap();
    assert_eq!(pulled_back(&layer, &x, &Tensor::full(&[1, 3], 1.0)).as_slice(), [0.0, 1.0, 0.0]);
    // Half of the weights are frozen, and nothing measures the others any more.
    let mut layer = dense(Pair::new(Inq::new(3).unwrap(), DorefaTanh));
    let mut kernel: Vec<f32> = (0..24).map(|i| if i < 12 { 0.5 } else { 0.25 }).collect();
    set(&mut layer, "kernel", &kernel);
    train(&mut layer, &numbers(&[2, 6], 1));
    kernel[20] = f32::INFINITY;
    set(&mut layer, "kernel", &kernel);
    let (_, gradients) = train(&mut layer, &numbers(&[2, 6], 1));
    let dw = gradients[0].1.as_slice();
    assert!(dw[20] == 0.0 && dw[19] != 0.0, "{dw:?}");
}

#[test]
fn trained_parameters_and_states_have_paths() {
    let keys = |layer: &dyn Module| state_dict(layer).into_keys().collect::<Vec<_>>();
    let lsq = dense(Pair::published(Lsq::for_weights(3, 1.0).unwrap()));
    assert_eq!(keys(&lsq), ["kernel", "kernel_quantizer.is_set", "kernel_quantizer.s"]);
    let hysteresis = dense(Pair::published(HysteresisSign::new(0.1).unwrap()));
    assert_eq!(keys(&hysteresis), ["kernel", "kernel_quantizer.codes", "kernel_quantizer.is_set"]);
    let inq = dense(Pair::published(Inq::new(3).unwrap()));
    let frozen = ["levels", "mask", "top"].map(|name| format!("kernel_quantizer.frozen.{name}"));
    assert_eq!(keys(&inq)[1..], frozen);
    assert_eq!(keys(&Quantize::new(Pair::published(Pact::new(4, 6.0).unwrap()))), ["a", "is_set"]);
    assert_eq!(keys(&dense(Pair::published(Sign))), ["kernel"]);
}

#[test]
fn the_first_step_starts_trained_parameters_from_what_it_meets() {
    let map = Lsq::for_weights(3, 1.0).unwrap();
    let mut layer = dense(Pair::published(map));
    let kernel = layer.kernel().value().clone();
    let x = numbers(&[2, 6], 1);
    let untrained = evaluate(&mut layer, &x);
    let (y, gradients) = train(&mut layer, &x);
    assert_eq!(y, untrained);
    let first = map.initial(kernel.view()).unwrap();
    assert_eq!(state_dict(&layer)["kernel_quantizer.s"].item(), first[0]);
    let map = map.with_parameters(&first).unwrap();
    // The gradient of the kernel's values is xᵀ · dy.
    let tape = Tape::new();
    let (vx, vw) = (tape.constant(x.clone()), tape.leaf(kernel.clone()));
    let dy = tape.backward_from(vx.matmul(vw, None), numbers(&[2, 4], 5)).take(vw).unwrap();
    let expected = map.trained().unwrap().parameter_gradients(kernel.view(), dy.view()).unwrap()[0];
    let (path, ds) = &gradients[1];
    assert_eq!(path, "kernel_quantizer.s");
    assert!((f64::from(ds.item()) - expected).abs() < 1e-5 * expected.abs().max(1.0), "{ds:?}, {expected}");
    // From then on the parameter is the optimizer's.
    set(&mut layer, "kernel_quantizer.s", &[0.25]);
    let (y, _) = train(&mut layer, &Tensor::full(&[1, 6], 1.0));
    assert!(y.as_slice().iter().all(|y| (y / 0.25).fract() == 0.0), "{y:?}");
    assert_eq!(state_dict(&layer)["kernel_quantizer.s"].item(), 0.25);
}

#[test]
fn steps_of_activations_start_from_the_first_batch() {
    let map = Lsq::for_activations(2, 123.0).unwrap();
    let mut layer = Quantize::new(Pair::published(map));
    let x = numbers(&[5, 7], 2);
    train(&mut layer, &x);
    let first = map.initial(x.view()).unwrap()[0];
    assert_eq!(state_dict(&layer)["s"].item(), first);
    // Another batch has another mean, which no longer counts.
    train(&mut layer, &x.map(|x| 10.0 * x));
    assert_eq!(state_dict(&layer)["s"].item(), first);
}

#[test]
fn a_trace_of_steps_that_no_training_has_set_is_refused() {
    let x = numbers(&[5, 7], 2);
    let trace = |layer: &Quantize| {
        let tape = Tape::new();
        let mut cx = Ctx::tracing(&tape);
        layer.forward(&mut cx, tape.constant(x.clone()).into()).map(|y| y.value().value())
    };
    let mut layer = Quantize::new(Pair::published(Lsq::for_activations(2, 123.0).unwrap()));
    let error = trace(&layer).unwrap_err();
    assert!(matches!(error, Error::Untrained { quantizer: "lsq", parameter: "s", .. }), "{error}");
    evaluate(&mut layer, &x);
    train(&mut layer, &x);
    assert_eq!(trace(&layer).unwrap(), evaluate(&mut layer, &x));
    // PACT does not look at its input to start.
    assert!(trace(&Quantize::new(Pair::published(Pact::new(2, 1.0).unwrap()))).is_ok());
}

#[test]
fn two_scales_make_values_instead_of_codes() {
    let mut layer = dense(Pair::published(TrainedTernary::new(1.0, 1.0).unwrap()));
    train(&mut layer, &numbers(&[2, 6], 1));
    set(&mut layer, "kernel_quantizer.wp", &[0.5]);
    set(&mut layer, "kernel_quantizer.wn", &[2.0]);
    let mut unit = Tensor::zeros(&[6, 6]);
    (0..6).for_each(|i| unit.as_mut_slice()[7 * i] = 1.0);
    let values = evaluate(&mut layer, &unit);
    let latent = layer.kernel().value().as_slice().to_vec();
    let threshold = 0.05 * latent.iter().fold(0.0_f32, |m, w| m.max(w.abs()));
    for (value, w) in values.as_slice().iter().zip(latent) {
        let expected = if w > threshold { 0.5 } else { -2.0 };
        assert_eq!(*value, if w.abs() > threshold { expected } else { 0.0 }, "{w}");
    }
}

#[test]
fn rates_of_trained_parameters_are_a_setting() {
    let kernel_quantizer = Some(Pair::published(Lsq::for_weights(3, 1.0).unwrap()));
    let config = DenseConfig { kernel_quantizer, quantizer_rate: 0.125, ..DenseConfig::new(6, 4) };
    let layer = Dense::new(&config, &mut Init::new(3)).unwrap();
    let mut rates = Vec::new();
    for_each_param(&layer, &mut |path, param| rates.push((path.to_owned(), param.learning_rate_factor())));
    let expected = [("kernel", 1.0), ("bias", 1.0), ("kernel_quantizer.s", 0.125)];
    assert_eq!(rates, expected.map(|(path, rate)| (path.to_owned(), rate)));
}

#[test]
fn hysteresis_remembers_signs_over_steps_and_in_state_dicts() {
    let pair = Pair::published(HysteresisSign::new(0.1).unwrap());
    let config = DenseConfig { kernel_quantizer: Some(pair), bias: false, ..DenseConfig::new(1, 4) };
    let mut layer = Dense::new(&config, &mut Init::new(3)).unwrap();
    let signs = |y: Tensor| y.as_slice().iter().map(|y| *y > 0.0).collect::<Vec<_>>();
    let one = Tensor::full(&[1, 1], 1.0);
    set(&mut layer, "kernel", &[0.5, 0.5, -0.5, -0.5]);
    assert_eq!(signs(train(&mut layer, &one).0), [true, true, false, false]);
    set(&mut layer, "kernel", &[-0.05, -0.2, 0.05, 0.2]);
    let held = [true, false, false, true];
    assert_eq!(signs(evaluate(&mut layer, &one)), held);
    let mut again = Dense::new(&config, &mut Init::new(9)).unwrap();
    load_state_dict(&mut again, &state_dict(&layer)).unwrap();
    assert_eq!(signs(train(&mut again, &one).0), held);
    assert_eq!(signs(train(&mut layer, &one).0), held);
    assert_eq!(state_dict(&again), state_dict(&layer));
}

#[test]
fn a_map_with_memory_cannot_quantize_inputs() {
    let layer = Quantize::new(Pair::published(HysteresisSign::new(0.1).unwrap()));
    let tape = Tape::new();
    let mut cx = Ctx::new(&tape, Mode::Train, 0, 0);
    let error = layer.forward(&mut cx, tape.leaf(Tensor::zeros(&[2, 2])).into()).unwrap_err();
    assert!(matches!(error, Error::Setting { .. }), "{error}");
}

#[test]
fn frozen_weights_stay_where_they_are_and_all_are_frozen_in_the_end() {
    let mut layer = dense(Pair::published(Inq::new(3).unwrap()));
    let mut unit = Tensor::zeros(&[6, 6]);
    (0..6).for_each(|i| unit.as_mut_slice()[7 * i] = 1.0);
    let mut frozen: Vec<(usize, f32)> = Vec::new();
    for (progress, share) in [(0.0, 12), (0.2, 12), (0.3, 18), (0.5, 21), (0.75, 24), (1.0, 24)] {
        let (values, gradients) = pass(&mut layer, Mode::Train, progress, &unit);
        let mask = state_dict(&layer)["kernel_quantizer.frozen.mask"].clone();
        assert_eq!(mask.as_slice().iter().filter(|&&m| m == 1.0).count(), share, "{progress}");
        for &(i, level) in &frozen {
            assert_eq!(values.as_slice()[i], level);
        }
        frozen = (0..24).filter(|&i| mask.as_slice()[i] == 1.0).map(|i| (i, values.as_slice()[i])).collect();
        assert!(frozen.iter().all(|(_, level)| *level == 0.0 || level.abs().log2().fract() == 0.0));
        let dw = gradients[0].1.as_slice();
        assert!((0..24).all(|i| (dw[i] == 0.0) == (mask.as_slice()[i] == 1.0)));
        assert_eq!(evaluate(&mut layer, &unit), values);
        // What momentum would do.
        let moved: Vec<f32> = layer.kernel().value().as_slice().iter().map(|w| 0.9 * w + 0.01).collect();
        set(&mut layer, "kernel", &moved);
    }
}

#[test]
fn weights_that_are_not_frozen_have_the_gradient_of_the_pair_and_the_levels_that_were_given() {
    let slope = 0.25;
    let map = Inq::new(3).unwrap().with_top(2).unwrap().with_order(InqOrder::Random { seed: 5 });
    let mut layer = dense(Pair::new(map, Custom { name: "quarter", f: move |_: f32| slope }));
    let mut plain = dense(Pair::published(Inq::new(3).unwrap()));
    let mut unit = Tensor::zeros(&[6, 6]);
    (0..6).for_each(|i| unit.as_mut_slice()[7 * i] = 1.0);
    let before = layer.kernel().value().clone();
    let (values, gradients) = train(&mut layer, &unit);
    let (_, all) = train(&mut plain, &unit);
    let mask = |layer: &Dense| state_dict(layer)["kernel_quantizer.frozen.mask"].clone();
    let (masks, magnitudes_first) = (mask(&layer), mask(&plain));
    assert_ne!(masks, magnitudes_first);
    let dy = numbers(&[6, 4], 5);
    for i in 0..24 {
        let (frozen, w) = (masks.as_slice()[i] == 1.0, values.as_slice()[i]);
        let expected = if frozen { 0.0 } else { slope * dy.as_slice()[i] };
        assert_eq!(gradients[0].1.as_slice()[i], expected, "{i}");
        // Levels 0, ±2 and ±4, above what any weight is: the given top is kept.
        assert!(if frozen { [0.0, 2.0].contains(&w.abs()) } else { w == before.as_slice()[i] }, "{i}: {w}");
    }
    let published = all[0].1.as_slice().iter().zip(magnitudes_first.as_slice()).zip(dy.as_slice());
    assert!(published.clone().all(|((dw, frozen), dy)| *dw == if *frozen == 1.0 { 0.0 } else { *dy }));
}

#[test]
fn input_scaling_is_the_map_of_xnor_net() {
    let config = Conv2dConfig {
        stride: 2,
        padding: PaddingRule::Same,
        kernel_quantizer: Some(Pair::published(ScaledSign::per_filter())),
        input_quantizer: Some(Pair::published(Sign)),
        input_scaling: true,
        ..Conv2dConfig::new(3, 2, 3)
    };
    let mut layer = Conv2d::new(&config, &mut Init::new(1)).unwrap();
    set(&mut layer, "bias", &[0.25, -0.5]);
    let x = numbers(&[1, 5, 5, 3], 1);
    let y = evaluate(&mut layer, &x);
    let kernel = layer.kernel().value();
    let (x, w) = (x.as_slice(), kernel.as_slice());
    let sign = |x: f32| if x >= 0.0 { 1.0 } else { -1.0 };
    for (index, &got) in y.as_slice().iter().enumerate() {
        let (o, j, i) = (index % 2, index / 2 % 3, index / 6);
        let alpha = (0..27).map(|k| f64::from(w[2 * k + o].abs())).sum::<f64>() / 27.0;
        let (mut product, mut magnitude) = (0.0, 0.0);
        for (p, q) in (0..9).map(|k| (k / 3, k % 3)) {
            // At stride 2 from 5 to 3 pixels, same padding adds one row and column on each side.
            let (row, column) = (2 * i + p, 2 * j + q);
            if !(1..=5).contains(&row) || !(1..=5).contains(&column) {
                continue;
            }
            for c in 0..3 {
                let value = x[((row - 1) * 5 + column - 1) * 3 + c];
                product += sign(value) * sign(w[((p * 3 + q) * 3 + c) * 2 + o]);
                magnitude += f64::from(value.abs()) / 3.0;
            }
        }
        let expected = product * alpha * magnitude / 9.0 + [0.25, -0.5][o];
        assert!((f64::from(got) - expected).abs() < 1e-5, "{index}: {got} for {expected}");
    }
    let (_, gradients) = train(&mut layer, &numbers(&[1, 5, 5, 3], 1));
    assert_eq!(gradients.len(), 2);
}

#[test]
fn rows_of_a_dense_layer_have_one_scale_each() {
    let config = DenseConfig {
        kernel_quantizer: Some(Pair::published(Sign)),
        input_quantizer: Some(Pair::published(Sign)),
        input_scaling: true,
        ..DenseConfig::new(4, 1)
    };
    let mut layer = Dense::new(&config, &mut Init::new(1)).unwrap();
    set(&mut layer, "kernel", &[1.0, 1.0, -1.0, 1.0]);
    let x = Tensor::from_vec(&[2, 4], vec![1.0, -2.0, 3.0, 2.0, 0.5, 0.5, -0.5, 0.5]).unwrap();
    assert_eq!(evaluate(&mut layer, &x).as_slice(), [0.0, 2.0]);
}

#[test]
fn infinite_inputs_have_no_scale() {
    let [kernel_quantizer, input_quantizer] = [Sign, Sign].map(|map| Some(Pair::published(map)));
    let config =
        DenseConfig { kernel_quantizer, input_quantizer, input_scaling: true, ..DenseConfig::new(3, 1) };
    let layer = Dense::new(&config, &mut Init::new(1)).unwrap();
    let tape = Tape::new();
    let mut cx = Ctx::new(&tape, Mode::Train, 0, 0);
    let x = Tensor::from_vec(&[2, 3], vec![1.0, 2.0, f32::NAN, 3.0, f32::NEG_INFINITY, 4.0]).unwrap();
    let error = layer.forward(&mut cx, tape.constant(x).into()).unwrap_err();
    let infinite = |source: &qnn_quant::Error| matches!(source, qnn_quant::Error::Infinite { index: 4, .. });
    assert!(matches!(&error, Error::Quantizer { source, .. } if infinite(source)), "{error}");
}

#[test]
fn input_scaling_needs_an_input_quantizer() {
    let conv = Conv2dConfig { input_scaling: true, ..Conv2dConfig::new(3, 2, 3) };
    assert!(matches!(Conv2d::new(&conv, &mut Init::new(0)), Err(Error::Setting { .. })));
    let dense = DenseConfig { input_scaling: true, ..DenseConfig::new(3, 2) };
    assert!(matches!(Dense::new(&dense, &mut Init::new(0)), Err(Error::Setting { .. })));
}

#[test]
fn a_pair_alone_takes_trained_parameters_for_constants() {
    let pair = Pair::published(Lsq::for_weights(3, 0.25).unwrap());
    let tape = Tape::new();
    let mut cx = Ctx::new(&tape, Mode::Train, 0, 0);
    let x = tape.leaf(numbers(&[4, 4], 1));
    let quantized = pair.apply(&mut cx, x).unwrap();
    assert_eq!(quantized.grid.scales(), [0.25]);
    let bindings = cx.finish();
    assert_eq!(bindings.params().count(), 0);
    assert!(bindings.into_updates().is_empty());
}
