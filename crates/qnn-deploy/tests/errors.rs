//! What cannot be frozen or run says why, where, and what to do.

mod common;

use common::{Net, images};
use qnn_data::Normalize;
use qnn_deploy::{Error, Session, freeze};
use qnn_layers::{
    Ctx, Dense, DenseConfig, Init, Layer, LeafMut, Module, Path, Quantize, Relu, Role, Sequential, Signal,
    module,
};
use qnn_models::{Scheme, Shortcut};
use qnn_quant::{Pair, ScaledSign, Sign};

fn dense(inputs: usize, outputs: usize) -> Dense {
    let kernel_quantizer = Some(Pair::published(Sign));
    Dense::new(&DenseConfig { kernel_quantizer, ..DenseConfig::new(inputs, outputs) }, &mut Init::new(0))
        .unwrap()
}

/// Squares its input with a tape operation and tells nobody.
#[derive(Debug)]
struct Square;
module!(Square {});

impl Layer for Square {
    fn forward<'t>(&self, _: &mut Ctx<'t>, x: Signal<'t>) -> Result<Signal<'t>, qnn_layers::Error> {
        Ok((x.value() * x.value()).into())
    }
}

#[test]
fn an_unreported_operation_names_the_layer_behind_it() {
    let model = Sequential::new().then(dense(4, 3)).then(Square).with("head", dense(3, 2));
    let error = freeze(&model, [1, 1, 4]).unwrap_err();
    assert!(matches!(error, Error::Unreported { .. }));
    let text = error.to_string();
    assert!(text.starts_with("dense (head) takes a value that no layer reported"), "{text}");
    assert!(text.contains("Ctx::report"), "{text}");
    let last = freeze(&Sequential::new().then(dense(4, 3)).then(Square), [1, 1, 4]).unwrap_err();
    assert!(last.to_string().starts_with("the end of the model takes a value"), "{last}");
}

#[test]
fn a_quantizer_that_measures_is_refused_with_its_name() {
    let measuring = Quantize::new(Pair::published(ScaledSign::per_tensor()));
    let model = Sequential::new().with("body", dense(4, 3)).then(measuring).then(dense(3, 2));
    let error = freeze(&model, [1, 1, 4]).unwrap_err();
    assert!(matches!(error, Error::Measures { quantizer: "scaled-sign", .. }));
    assert!(error.to_string().starts_with("quantize after body: scaled-sign is not fixed"), "{error}");
}

#[test]
fn parameters_that_are_not_finite_are_found() {
    let net = Net::ResNet8(Shortcut::Projection);
    for (end, parameter) in [("norm1.beta", "beta"), ("conv2.bias", "bias"), ("norm2.running_mean", "mean")] {
        let mut model = net.build(&Scheme::preset("bnn").unwrap(), 0);
        model.visit_mut(&mut Path::default(), &mut |at, leaf| {
            if at.as_str() == format!("blocks.1.{end}") {
                match leaf {
                    LeafMut::Param(param) => param.value_mut().as_mut_slice()[2] = f32::NAN,
                    LeafMut::Buffer(buffer) => {
                        let mut value = buffer.value().clone();
                        value.as_mut_slice()[2] = f32::INFINITY;
                        buffer.set(value);
                    }
                }
            }
        });
        let error = freeze(model.as_ref(), net.shape()).unwrap_err();
        let expected =
            format!("blocks.1.{}: element 2 of the {parameter} is ", end.split('.').next().unwrap());
        assert!(error.to_string().starts_with(&expected), "{error}");
    }
    let mut model = dense(4, 3);
    model.visit_mut(&mut Path::default(), &mut |_, leaf| {
        if let LeafMut::Param(param) = leaf
            && param.role() == Role::Kernel
        {
            param.value_mut().as_mut_slice()[1] = f32::NAN;
        }
    });
    let found = freeze(&model, [1, 1, 4]);
    assert!(matches!(found, Err(Error::NotFinite { parameter: "kernel", index: 1, .. })), "{found:?}");
}

#[test]
fn images_of_another_shape_are_refused_by_the_model() {
    let model = Net::LeNet5.build(&Scheme::default(), 0);
    let error = freeze(model.as_ref(), [10, 10, 1]).unwrap_err();
    assert!(matches!(error, Error::Forward { shape: [10, 10, 1], .. }), "{error}");
}

#[test]
fn wrong_images_and_logits_are_errors() {
    let model = Sequential::new().then(dense(4, 3)).then(Relu::default());
    let program = freeze(&model, [1, 1, 4]).unwrap();
    let mut session = Session::new(&program).unwrap();
    let mut logits = [0.0; 6];
    assert!(matches!(
        session.run_into(&[0.0_f32; 7][..], &mut logits),
        Err(Error::Length { what: "images", .. })
    ));
    assert!(matches!(
        session.run_into(&[0.0_f32; 4][..], &mut logits),
        Err(Error::Length { what: "logits", .. })
    ));
    let bad = [0.0, 0.0, 0.0, 0.0, 0.0, 0.0, f32::NAN, 0.0];
    let error = session.run_into(&bad[..], &mut logits).unwrap_err();
    assert!(matches!(error, Error::Image { image: 1, element: 2, .. }), "{error}");
    assert!(matches!(session.run(&[1_u8; 4][..]), Err(Error::NoNormalization)));
    assert!(session.run(&[0.0_f32; 0][..]).unwrap().is_empty());
    assert!(matches!(program.clone().with_classes(vec!["a".into()]), Err(Error::Length { .. })));
    assert!(matches!(
        program.with_normalization(&Normalize::new([0.0; 3], [1.0; 3]).unwrap()),
        Err(Error::Data(_))
    ));
}

#[test]
fn bytes_are_normalised_as_in_training() {
    let net = Net::ResNet8(Shortcut::Projection);
    let normalize = Normalize::new([0.4914, 0.4822, 0.4465], [0.2023, 0.1994, 0.2010]).unwrap();
    let model = net.build(&Scheme::preset("bnn").unwrap(), 0);
    let program = freeze(model.as_ref(), net.shape()).unwrap().with_normalization(&normalize).unwrap();
    let bytes: Vec<u8> = (0..2 * 12 * 12 * 3).map(|i| (i * 37 % 256) as u8).collect();
    let tables = normalize.tables(3).unwrap();
    let numbers: Vec<f32> = bytes.iter().enumerate().map(|(i, &v)| tables[i % 3][usize::from(v)]).collect();
    let mut session = Session::new(&program).unwrap();
    assert_eq!(session.run(&bytes[..]).unwrap(), session.run(&numbers[..]).unwrap());
}

#[test]
fn a_program_prints_its_stages_and_what_slows_it_down() {
    let net = Net::Vgg7;
    let model = net.build(&Scheme::preset("bnn").unwrap(), 0);
    let text = freeze(model.as_ref(), net.shape()).unwrap().to_string();
    assert!(text.contains("features.0.conv"), "{text}");
    assert!(text.contains("±1 × ±1, integer sums, thresholds"), "{text}");
    assert!(text.contains("f32 × ±1, f32 sums, functions to codes"), "{text}");
    assert!(text.contains("max pool of bits"), "{text}");
    assert!(
        text.contains("0: its input is f32: packed weights, sums in f32; quantize the activation before it"),
        "{text}"
    );
    assert!(text.contains("activations of one image take at most "), "{text}");
    let float = Net::LeNet5.build(&Scheme::default(), 0);
    let text = freeze(float.as_ref(), Net::LeNet5.shape()).unwrap().to_string();
    assert!(
        text.contains("input and weights are f32; quantize the layer's kernel and the activation before it")
    );
}

#[test]
fn a_model_without_layers_hands_its_images_on() {
    let program = freeze(&Sequential::new(), [1, 2, 3]).unwrap();
    let x = images(2, [1, 2, 3], 1);
    assert_eq!(Session::new(&program).unwrap().run(x.as_slice()).unwrap(), x.as_slice());
}
