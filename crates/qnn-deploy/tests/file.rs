//! Packed model files: what was saved comes back, and nothing in a file is trusted.

mod common;

use std::collections::BTreeSet;
use std::path::PathBuf;

use common::{Net, bits, forge, images, randomize, train};
use qnn_deploy::{Action, Error, Finish, Link, Product, Program, Session, Stage, freeze, verify};
use qnn_files::Container;
use qnn_layers::{Dense, DenseConfig, Init, Layer, Leaf, Path, Relu, Role, Sequential};
use qnn_models::{Scheme, Shortcut};
use serde_json::{Value, json};
use tempfile::TempDir;

const NET: Net = Net::ResNet8(Shortcut::Projection);

fn frozen(preset: &str) -> (Box<dyn Layer>, Program) {
    let mut model = NET.build(&Scheme::preset(preset).unwrap(), 3);
    randomize(model.as_mut(), 4);
    let program = freeze(model.as_ref(), NET.shape()).unwrap();
    (model, program)
}

fn saved(preset: &str) -> (TempDir, PathBuf, Box<dyn Layer>, Program) {
    let (folder, (model, program)) = (tempfile::tempdir().unwrap(), frozen(preset));
    let path = folder.path().join("model.qnn");
    program.save(&path).unwrap();
    (folder, path, model, program)
}

#[test]
fn programs_come_back_and_compute_the_same() {
    for preset in ["bnn", "bnn-w-dorefa-a", "twn", "fp", "bwn"] {
        let (_folder, path, _, program) = saved(preset);
        let loaded = Program::load(&path).unwrap();
        assert_eq!(loaded, program, "{preset}");
        let x = images(2, NET.shape(), 9);
        let run = |program| Session::new(program).unwrap().run(x.as_slice()).unwrap();
        assert_eq!(bits(&run(&loaded)), bits(&run(&program)), "{preset}");
    }
}

/// The cuts of quantizers that no thresholds replace, one list for a quantizer.
fn cut_bytes(program: &Program) -> usize {
    let chain = |stage: &Stage| match &stage.action {
        Action::Chain(chain) | Action::Product(Product { finish: Finish::Chain(chain), .. }) => {
            chain.links.clone()
        }
        _ => Vec::new(),
    };
    let name = |link| if let Link::Quantize { cuts, .. } = link { Some(cuts) } else { None };
    let names: BTreeSet<String> = program.stages().iter().flat_map(chain).filter_map(name).collect();
    names.iter().map(|name| program.tensor(name).unwrap().bytes()).sum()
}

/// Kernels at the bits that the summary of a model counts, up to the words that each plane fills;
/// what batch norms become takes no more than batch norms, beside the lists of cuts.
#[test]
fn a_file_is_as_large_as_the_model_summary_says_and_its_header() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("model.qnn");
    for preset in ["bnn", "xnor", "dorefa", "bwn", "twn", "bc", "dorefa-w", "w1a8", "fixed8", "lsq", "fp"] {
        let mut model = NET.build(&Scheme::preset(preset).unwrap(), 3);
        train(model.as_mut(), NET.shape());
        let program = freeze(model.as_ref(), NET.shape()).unwrap();
        program.save(&path).unwrap();
        let bytes = std::fs::read(&path).unwrap();
        let header = u64::from_le_bytes(bytes[..8].try_into().unwrap()) as usize;
        assert_eq!(bytes.len(), 8 + header + program.tensor_bytes(), "{preset}");
        let (mut kernels, mut planes, mut norms) = (0, 0, 0);
        model.visit(&mut Path::default(), &mut |_, leaf| match leaf {
            Leaf::Param(param) if param.role() == Role::Kernel => {
                kernels += (u64::from(param.bits()) * param.value().len() as u64).div_ceil(8) as usize;
                planes += param.bits() as usize;
            }
            Leaf::Param(param) => norms += 4 * param.value().len(),
            Leaf::Buffer(buffer) => norms += 4 * buffer.value().len(),
        });
        let (least, most) = (kernels, kernels + 8 * planes + norms + cut_bytes(&program));
        let found = program.tensor_bytes();
        assert!((least..=most).contains(&found), "{preset}: {found} bytes for {least} to {most}");
    }
}

#[test]
fn equal_programs_make_equal_files() {
    let (folder, path, _, program) = saved("dorefa");
    let again = folder.path().join("again");
    program.save(&again).unwrap();
    assert_eq!(std::fs::read(path).unwrap(), std::fs::read(again).unwrap());
}

#[test]
fn truncated_files_are_errors() {
    let (_folder, path, ..) = saved("bnn");
    let bytes = std::fs::read(&path).unwrap();
    for len in (0..40).chain((40..bytes.len()).step_by(613)).chain([bytes.len() - 1]) {
        std::fs::write(&path, &bytes[..len]).unwrap();
        assert!(matches!(Program::load(&path), Err(Error::Format { .. })), "{len} bytes");
    }
}

#[test]
fn every_flipped_bit_is_noticed() {
    let (_folder, path, ..) = saved("bnn");
    let bytes = std::fs::read(&path).unwrap();
    for at in (0..bytes.len()).step_by(97) {
        let mut bytes = bytes.clone();
        bytes[at] ^= 1 << (at % 8);
        std::fs::write(&path, bytes).unwrap();
        let found = Program::load(&path);
        assert!(matches!(found, Err(Error::Format { .. } | Error::Version { .. })), "byte {at}: {found:?}");
    }
}

#[test]
fn other_files_and_versions_say_so() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("x");
    let write = |note: &str| Container::write(&path, [], note.to_owned()).unwrap();
    write("");
    assert!(matches!(Program::load(&path), Err(Error::Format { .. })));
    write("qnn-packed-model 5 0000000000000000\n{}");
    let error = Program::load(&path).unwrap_err();
    assert!(matches!(error, Error::Version { found: 5, supported: 4, .. }));
    assert!(
        error.to_string().contains("a packed model of version 5, but this program reads versions up to 4")
    );
    assert!(matches!(Program::load(folder.path().join("none")), Err(Error::File { .. })));
}

#[test]
fn forged_descriptions_are_errors() {
    type Change = fn(&mut Value);
    let changes: [(&str, Change); 12] = [
        ("an unknown field", |program| program["extra"] = json!(1)),
        ("a value that nobody makes", |program| program["stages"][1]["input"] = json!(40)),
        ("a value made twice", |program| program["stages"][2]["output"] = json!(1)),
        ("an output that does not exist", |program| program["output"] = json!(1000)),
        ("a shape beyond all memory", |program| {
            program["values"][0]["shape"] = json!([1_u64 << 40, 1_u64 << 40, 3])
        }),
        ("a shape that does not follow", |program| program["values"][1]["shape"] = json!([12, 12, 17])),
        ("no shape at all", |program| program["values"][0]["shape"] = json!([0, 12, 3])),
        ("codes of no encoding", |program| {
            program["values"][1]["elements"] = json!({"packed": {"first": 0, "step": 0, "count": 2}});
        }),
        ("a kernel of no rows", |program| {
            program["stages"][0]["action"]["product"]["kernel"] = json!([0, 3])
        }),
        ("a padding beyond the image", |program| {
            program["stages"][0]["action"]["product"]["padding"]["top"] = json!(u64::MAX);
        }),
        ("another tensor", |program| {
            program["stages"][0]["action"]["product"]["weights"]["float"]["tensor"] = json!("none");
        }),
        ("an operand for nobody", |program| program["stages"][0]["operand"] = json!(0)),
    ];
    let (_folder, path, _, program) = saved("bnn");
    for (what, change) in changes {
        program.save(&path).unwrap();
        forge(&path, |description, _| change(&mut description["program"]));
        let found = Program::load(&path);
        assert!(matches!(found, Err(Error::Format { .. } | Error::Program { .. })), "{what}: {found:?}");
    }
    program.save(&path).unwrap();
    forge(&path, |description, _| description["conventions"]["signs"] = json!("a set bit is +1"));
    assert!(Program::load(&path).unwrap_err().to_string().contains("other conventions"));
    program.save(&path).unwrap();
    forge(&path, |_, tensors| {
        tensors.iter_mut().for_each(|(_, _, bytes)| bytes.truncate(bytes.len() / 8 * 4))
    });
    assert!(matches!(Program::load(&path), Err(Error::Program { .. })));
}

#[test]
fn forged_selections_are_errors() {
    let (_folder, path, _, program) = saved("bnn");
    let at = program.stages().iter().position(|stage| {
        matches!(&stage.action, Action::Product(product) if matches!(product.finish, Finish::Selected { .. }))
    });
    let at = at.expect("the first block adds its codes");
    type Change = fn(&mut Value);
    let changes: [(&str, Change); 3] = [
        ("nobody selects", |stage| stage["operand"] = json!(null)),
        ("numbers select", |stage| stage["operand"] = json!(0)),
        ("cuts of another stage", |stage| {
            let flips = stage["action"]["product"]["finish"]["selected"]["flips"].clone();
            stage["action"]["product"]["finish"]["selected"]["cuts"] = flips;
        }),
    ];
    for (what, change) in changes {
        program.save(&path).unwrap();
        forge(&path, |description, _| change(&mut description["program"]["stages"][at]));
        let found = Program::load(&path);
        assert!(matches!(found, Err(Error::Program { .. })), "{what}: {found:?}");
    }
}

/// Files say the least version that has all their parts, and are read as that.
#[test]
fn files_of_all_versions_are_read() {
    let note =
        |path: &std::path::Path| Container::read(path).unwrap().note().split('\n').next().unwrap().to_owned();
    let (_folder, path, _, program) = saved("bnn");
    assert!(note(&path).starts_with("qnn-packed-model 2 "));
    let (_folder, path, _, old) = saved("twn");
    assert!(note(&path).starts_with("qnn-packed-model 1 "));
    assert_eq!(Program::load(&path).unwrap(), old);
    assert_ne!(old, program);
    for (preset, version) in [("w1a8", 2), ("fixed8", 3), ("fp", 4)] {
        let mut model = NET.build(&Scheme::preset(preset).unwrap(), 3);
        train(model.as_mut(), NET.shape());
        let program = freeze(model.as_ref(), NET.shape()).unwrap();
        program.save(&path).unwrap();
        assert!(
            note(&path).starts_with(&format!("qnn-packed-model {version} ")),
            "{preset}: {}",
            note(&path)
        );
        assert_eq!(Program::load(&path).unwrap(), program, "{preset}");
    }
}

#[test]
fn verification_names_the_layer_of_a_changed_weight() {
    let (_folder, path, model, _) = saved("bnn");
    let batch = || [images(3, NET.shape(), 5).as_slice().to_vec()];
    let exact = verify(model.as_ref(), &Program::load(&path).unwrap(), batch()).unwrap();
    assert!(exact.is_exact() && exact.sums > 10_000 && exact.values > 10_000, "{exact}");
    assert!(exact.to_string().ends_with("3 equal predictions; no bit differs"), "{exact}");
    forge(&path, |_, tensors| {
        for name in ["blocks.2.conv1.kernel", "blocks.1.conv2.kernel"] {
            let kernel = tensors.iter_mut().find(|(found, ..)| found.contains(name));
            kernel.unwrap().2[0] ^= 1;
        }
    });
    let report = verify(model.as_ref(), &Program::load(&path).unwrap(), batch()).unwrap();
    let difference = report.difference.as_ref().unwrap();
    assert_eq!((difference.layer.as_str(), difference.what), ("blocks.1.conv2", "sums"), "{report}");
    assert_eq!((difference.model - difference.program).abs(), 2.0, "{report}");
    assert!(!report.is_exact());
    let nothing = verify(model.as_ref(), &Program::load(&path).unwrap(), []).unwrap();
    assert!(!nothing.is_exact(), "no image shows nothing: {nothing}");
}

/// Of two layers the first, and in it the first image and element, counted over all batches.
#[test]
fn verification_names_the_first_image_and_element_that_differ() {
    let init = &mut Init::new(1);
    let model = Sequential::new()
        .with("head", Dense::new(&DenseConfig::new(4, 3), init).unwrap())
        .with("tail", Dense::new(&DenseConfig::new(3, 2), init).unwrap());
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("dense.qnn");
    freeze(&model, [1, 1, 4]).unwrap().save(&path).unwrap();
    forge(&path, |_, tensors| {
        // Weights [input, output]: from input 3 to output 1 of the head, and the first one of the tail.
        for (name, weight) in [("tail.kernel", 0), ("head.kernel", 3 * 3 + 1)] {
            let (.., bytes) = tensors.iter_mut().find(|(found, ..)| found.contains(name)).unwrap();
            bytes[4 * weight..4 * weight + 4].copy_from_slice(&7.5_f32.to_le_bytes());
        }
    });
    // Input 3 is zero but in the second image of the second batch.
    let batches = [[0.0; 8], [0.5, 0.0, 1.0, 0.0, 0.5, 0.0, 1.0, 1.0]].map(|batch| batch.to_vec());
    let report = verify(&model, &Program::load(&path).unwrap(), batches).unwrap();
    let difference = report.difference.as_ref().unwrap();
    let found = (difference.layer.as_str(), difference.what, difference.image, difference.element);
    assert_eq!(found, ("head", "values", 3, 1), "{report}");
    assert!(
        report.to_string().contains("of head differ first in image 3, element 1: the model has "),
        "{report}"
    );
}

/// Whoever compares only what the program has does not see what it lacks.
#[test]
fn a_program_that_ends_before_its_model_is_refused() {
    let layers =
        || Sequential::new().with("head", Dense::new(&DenseConfig::new(4, 3), &mut Init::new(1)).unwrap());
    let program = freeze(&layers(), [1, 1, 4]).unwrap();
    let batch = || [images(5, [1, 1, 4], 2).as_slice().to_vec()];
    assert!(verify(&layers(), &program, batch()).unwrap().is_exact());
    let error = verify(&layers().then(Relu::default()), &program, batch()).unwrap_err();
    let Error::OtherModel { found, expected } = &error else { panic!("{error}") };
    assert_eq!((found.as_str(), expected.as_str()), ("relu after head", "nothing"));
}

/// `nothing` is also what the error calls a step that the model does not have.
#[test]
fn layers_that_no_model_has_are_refused() {
    let (_folder, path, model, _) = saved("bnn");
    forge(&path, |description, _| {
        description["program"]["stages"][0]["layers"][0] = json!({"step": 1_000_000, "name": "nothing"});
    });
    let batch = [images(1, NET.shape(), 5).as_slice().to_vec()];
    let found = verify(model.as_ref(), &Program::load(&path).unwrap(), batch);
    assert!(matches!(found, Err(Error::OtherModel { .. })), "{found:?}");
}

/// A stage's output may be right where the graph's is another value.
#[test]
fn logits_that_are_not_the_last_stage_are_compared_too() {
    let (_folder, path, model, _) = saved("bnn");
    forge(&path, |description, _| {
        let program = &mut description["program"];
        let (values, stages) = (program["values"].clone(), program["stages"].as_array_mut().unwrap());
        let last = stages.last_mut().unwrap();
        let output = last["output"].as_u64().unwrap() as usize;
        let mut negative = last.clone();
        negative["layers"] = json!([]);
        negative["input"] = json!(output);
        negative["output"] = json!(values.as_array().unwrap().len());
        negative["action"] = json!({"chain": {"links": [{"factor": {"factor": 1.5}}]}});
        stages.push(negative);
        program["output"] = json!(values.as_array().unwrap().len());
        program["values"].as_array_mut().unwrap().push(values[output].clone());
    });
    let batch = [images(3, NET.shape(), 5).as_slice().to_vec()];
    let report = verify(model.as_ref(), &Program::load(&path).unwrap(), batch).unwrap();
    let difference = report.difference.as_ref().expect("the logits are one and a half times the model's");
    assert_eq!((difference.layer.as_str(), report.equal_predictions), ("the logits", 3), "{report}");
    assert!(!report.is_exact());
}

#[test]
fn a_program_of_another_model_is_refused() {
    let (model, _) = frozen("bnn");
    let other = Net::ResNet8(Shortcut::None);
    let program = freeze(other.build(&Scheme::preset("bnn").unwrap(), 3).as_ref(), other.shape()).unwrap();
    let found = verify(model.as_ref(), &program, [images(1, NET.shape(), 5).as_slice().to_vec()]);
    assert!(matches!(found, Err(Error::OtherModel { .. })), "{found:?}");
}
