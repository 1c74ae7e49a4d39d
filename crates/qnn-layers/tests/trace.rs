//! A traced evaluation tells the whole graph, and computes what any evaluation computes.

use std::collections::BTreeSet;

use qnn_layers::{
    AveragePool2d, BatchNorm, BatchNormConfig, Conv2d, Conv2dConfig, Ctx, Dense, DenseConfig, Dropout,
    Flatten, GlobalAveragePool, HardTanh, Init, Layer, LeakyRelu, MaxPool2d, Mode, Op, Quantize, Relu,
    Residual, Sequential, Sigmoid, Tanh,
};
use qnn_quant::{DorefaActivations, Pair, Sign};
use qnn_tensor::{Tape, Tensor};

fn network() -> Sequential {
    let mut init = Init::new(2);
    let quantizer = Some(Pair::published(Sign));
    let conv = Conv2dConfig { kernel_quantizer: quantizer.clone(), ..Conv2dConfig::new(3, 4, 3) };
    let inner = Conv2dConfig { kernel_quantizer: quantizer, ..Conv2dConfig::new(4, 4, 1) };
    let body = Sequential::new().then(Conv2d::new(&inner, &mut init).unwrap()).then(Tanh);
    let activation: Option<Box<dyn Layer>> = Some(Box::new(Relu::default()));
    Sequential::new()
        .then(Conv2d::new(&conv, &mut init).unwrap())
        .then(BatchNorm::new(&BatchNormConfig::new(4)).unwrap())
        .then(Quantize::new(Pair::published(DorefaActivations::new(2).unwrap())))
        .then(MaxPool2d::new(2))
        .then(Residual { body: Box::new(body), shortcut: None, activation })
        .then(LeakyRelu { slope: 0.5 })
        .then(Dropout::new(0.5).unwrap())
        .then(AveragePool2d::new(1))
        .then(Relu { scale: 0.5 })
        .then(Sigmoid)
        .then(HardTanh)
        .then(GlobalAveragePool)
        .then(Flatten)
        .then(Dense::new(&DenseConfig::new(4, 2), &mut init).unwrap())
}

#[test]
fn every_value_has_a_maker_and_no_bit_changes() {
    let (model, images) = (network(), Tensor::from_fn(&[2, 8, 8, 3], |i| (i as f32 * 0.37).sin()));
    let tape = Tape::new();
    let x = tape.constant(images.clone());
    let mut cx = Ctx::tracing(&tape);
    let y = model.forward(&mut cx, x.into()).unwrap().value();
    let trace = cx.into_trace();
    let mut known = BTreeSet::from([x.index()]);
    for step in &trace.steps {
        assert!(step.inputs.iter().all(|input| known.contains(&input.index())), "{}", step.layer);
        assert!(known.insert(step.output.index()), "{} reports an output twice", step.layer);
    }
    assert!(known.contains(&y.index()));
    let plain = Tape::new();
    let mut cx = Ctx::new(&plain, Mode::Eval, 0, 0);
    let expected = model.forward(&mut cx, plain.constant(images).into()).unwrap().value();
    assert_eq!(y.value(), expected.value());
    assert!(cx.into_trace().steps.is_empty());
}

#[test]
fn codes_become_values_where_a_layer_needs_them() {
    let tape = Tape::new();
    let mut cx = Ctx::tracing(&tape);
    let x = tape.constant(Tensor::from_fn(&[1, 8, 8, 3], |i| (i as f32 * 0.37).sin()));
    network().forward(&mut cx, x.into()).unwrap();
    let steps = cx.into_trace().steps;
    let at = |wanted: fn(&Op) -> bool| steps.iter().position(|step| wanted(&step.op)).unwrap();
    let (pool, sum) = (at(|op| matches!(op, Op::MaxPool(_))), at(|op| matches!(op, Op::Add { relu: true })));
    let value = at(|op| matches!(op, Op::Value { scale } if scale.denominator == 3));
    assert!(pool < value && value < sum);
    assert_eq!(steps[sum].inputs[1].index(), steps[value].output.index());
    let Op::Conv2d { product, .. } = &steps[at(|op| matches!(op, Op::Conv2d { .. }))].op else {
        unreachable!()
    };
    assert_eq!(product.alphabet, Some(qnn_quant::Alphabet::BINARY));
    assert!(product.kernel.as_slice().iter().all(|code| code.abs() == 1.0));
}
