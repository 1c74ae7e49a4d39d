//! Every preset of the models, after a step of training: its packed form is the training graph, bit for bit.

mod common;

use common::{Net, assert_exact, train};
use qnn_deploy::{Error, freeze};
use qnn_models::Scheme;

fn check(net: Net, name: &str, scheme: &Scheme) {
    let mut model = net.build(scheme, 7);
    train(model.as_mut(), net.shape());
    assert_exact(&format!("{net:?} {name}"), model.as_ref(), net.shape());
}

#[test]
fn a_perceptron_of_every_preset() {
    for preset in Scheme::presets() {
        check(Net::Mlp, preset.name, &Scheme::preset(preset.name).unwrap());
    }
}

/// Fixed point, trained heights and steps, frozen powers of two, hysteresis, integers.
#[test]
fn convolutions_of_presets_with_a_state_or_many_levels() {
    for name in ["fixed8", "pact", "lsq", "inq", "w1a8", "int8"] {
        check(Net::LeNet5, name, &Scheme::preset(name).unwrap());
    }
}

#[test]
fn evenly_spaced_levels_of_one_to_four_bits() {
    for bits in 1..=4 {
        for steepness in [None, Some(4.0)] {
            check(Net::Mlp, &format!("{bits} bits"), &Scheme::even_levels(bits, steepness).unwrap());
        }
    }
    check(Net::LeNet5, "2 bits", &Scheme::even_levels(2, None).unwrap());
}

/// What an untrained network would take from the image it is frozen with is no property of it.
#[test]
fn steps_and_ranges_that_no_training_has_set_are_named() {
    let refused = |name| {
        let model = Net::Mlp.build(&Scheme::preset(name).unwrap(), 7);
        match freeze(model.as_ref(), Net::Mlp.shape()) {
            Err(Error::Forward { source, .. }) => source.to_string(),
            other => panic!("{name}: {other:?}"),
        }
    };
    assert!(refused("lsq").contains("lsq takes its s from the first training batch"), "{}", refused("lsq"));
    assert!(refused("int8").contains("range is not known"), "{}", refused("int8"));
    // The height of PACT does not depend on what it meets.
    assert!(freeze(Net::Mlp.build(&Scheme::preset("pact").unwrap(), 7).as_ref(), Net::Mlp.shape()).is_ok());
}
