//! Against those who published: values and gradients that other systems computed once, with the scripts beside them.

use ndarray::{ArrayD, IxDyn};
use qnn_quant::registry::{self, Parameters};
use qnn_quant::*;
use serde_json::{Map, Value};

/// All cases of a file.
fn cases(text: &str) -> Vec<Map<String, Value>> {
    let file: Value = serde_json::from_str(text).unwrap();
    file["cases"].as_array().unwrap().iter().map(|case| case.as_object().unwrap().clone()).collect()
}

fn numbers(value: &Value) -> Vec<f64> {
    value.as_array().unwrap().iter().map(|x| x.as_f64().unwrap()).collect()
}

fn parameters(given: &Value) -> Parameters {
    let number = |name: &str| given.get(name).and_then(Value::as_f64);
    let float = |name| number(name).map(|x| x as f32);
    let whole = |name| number(name).map(|x| x as u32);
    let flag = |name: &str| given.get(name).and_then(Value::as_bool).unwrap_or(false);
    Parameters {
        bits: whole("bits"),
        scale: float("scale"),
        axis: whole("axis").map(|axis| Granularity::Axis(axis as usize)),
        clip: float("clip"),
        k: float("k"),
        beta: float("beta"),
        t: float("t"),
        wp: float("wp"),
        wn: float("wn"),
        low: float("low"),
        high: float("high"),
        lowest: number("lowest").map(|x| x as i32),
        highest: number("highest").map(|x| x as i32),
        threshold: number("threshold"),
        unscaled: flag("unscaled"),
        exact: flag("exact"),
        symmetric: flag("symmetric"),
        asymmetric: flag("asymmetric"),
        unsigned: flag("unsigned"),
        sign_bit: flag("sign_bit"),
        ..Parameters::default()
    }
}

struct Case {
    about: String,
    entry: Map<String, Value>,
    pair: Pair,
    x: ArrayD<f32>,
}

impl Case {
    fn new(entry: Map<String, Value>) -> Self {
        let name = entry["quantizer"].as_str().unwrap();
        let estimator = entry.get("estimator").and_then(Value::as_str);
        let pair = registry::pair(name, estimator, &parameters(&entry["parameters"])).unwrap();
        let about = format!("{name} {} {estimator:?}", entry["parameters"]);
        let shape: Vec<usize> = numbers(&entry["shape"]).iter().map(|&len| len as usize).collect();
        let x = array(&entry["x"], &shape);
        Case { about, entry, pair, x }
    }

    /// Within a few units in the last place of f32, in which most peers compute.
    fn check(&self, name: &str, found: impl IntoIterator<Item = f64>) {
        let Some(want) = self.entry.get(name).map(numbers) else { return };
        let found: Vec<f64> = found.into_iter().collect();
        assert_eq!(found.len(), want.len(), "{}: {name}", self.about);
        for (index, (found, want)) in found.iter().zip(&want).enumerate() {
            let close = (found - want).abs() <= 2e-6 * want.abs() + 1e-6;
            let x = self.x.iter().nth(index);
            assert!(close, "{}: {name}[{index}] is {found}, not {want}, at {x:?}", self.about);
        }
    }

    fn run(&self) {
        let (values, grid) = self.pair.value(self.x.view()).unwrap();
        self.check("y", values.iter().map(|&y| y.into()));
        self.check("scales", grid.scales().iter().map(|&scale| scale.into()));
        let codes = self.pair.map.codes(self.x.view(), &grid).unwrap();
        self.check("codes", codes.iter().map(|&code| code.into()));
        let Some(dy) = self.entry.get("dy") else { return };
        let dy = array(dy, self.x.shape());
        let dx = self.pair.pullback(self.x.view(), &grid, dy.view()).unwrap();
        self.check("dx", dx.iter().map(|&dx| dx.into()));
        if let Some(trained) = self.pair.map.trained() {
            self.check("parameter_gradients", trained.parameter_gradients(self.x.view(), dy.view()).unwrap());
        }
    }
}

fn array(value: &Value, shape: &[usize]) -> ArrayD<f32> {
    let elements = numbers(value).into_iter().map(|x| x as f32).collect();
    ArrayD::from_shape_vec(IxDyn(shape), elements).unwrap()
}

fn run(text: &str, at_least: usize) {
    let cases = cases(text);
    assert!(cases.len() >= at_least);
    cases.into_iter().map(Case::new).for_each(|case| case.run());
}

#[test]
fn larq_agrees() {
    run(include_str!("../vectors/larq.json"), 14);
}

#[test]
fn pytorch_agrees() {
    run(include_str!("../vectors/torch.json"), 11);
}

#[test]
fn the_formulas_in_numpy_agree() {
    run(include_str!("../vectors/numpy.json"), 58);
}

#[test]
fn brevitas_agrees() {
    run(include_str!("../vectors/brevitas.json"), 11);
}
