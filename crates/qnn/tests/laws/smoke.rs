//! Every example runs, and leaves what it promises.

use std::fs;
use std::path::Path;

use qnn::tensor::Tensor;
use qnn::train::{Checkpoint, load_model};
use rayon::prelude::*;
use serde_json::Value;

use crate::example::{TOOLS, command, names, run, run_well, said};
use crate::outputs::rows;

#[test]
fn every_example_trains_on_the_embedded_digits() {
    names().par_iter().for_each(|name| {
        let folder = tempfile::tempdir().unwrap();
        let out = folder.path().join("not/there/yet");
        let flags = "--data embedded --limit 16 --epochs 1 --batch 4 --threads 1 --quiet";
        let said = run_well(name, flags, &out);
        let line = said.out.strip_suffix('\n').unwrap_or_else(|| panic!("{name}: {:?}", said.out));
        assert_eq!(line.lines().count(), 1, "{name}: one line is for machines to read: {line}");
        let result: Value =
            serde_json::from_str(line).unwrap_or_else(|error| panic!("{name}: {error}: {line}"));
        assert_result(name, &result);
        let file = fs::read_to_string(out.join("result.json")).unwrap();
        assert_eq!(serde_json::from_str::<Value>(&file).unwrap(), result, "{name}");
        assert_files(name, &out);
    });
}

fn assert_result(name: &str, result: &Value) {
    let number = |field: &str| {
        let number = result[field].as_f64();
        number.unwrap_or_else(|| panic!("{name}: {field} is no number: {result}"))
    };
    assert_eq!(result["experiment"], name);
    assert_eq!(result["variant"], variants(name)[0].as_str(), "the first variant is the default");
    assert_eq!(result["dataset"], "digits", "{name}");
    // The field is there, but nothing was published for these data.
    assert_eq!(result.get("published"), Some(&Value::Null), "{name}");
    for (field, value) in [("epochs", 1.0), ("seed", 0.0), ("threads", 1.0)] {
        assert_eq!(number(field), value, "{name}: {field}");
    }
    for field in ["train_loss", "images_per_second", "seconds", "parameters", "model_bytes"] {
        assert!(number(field) > 0.0, "{name}: {field} in {result}");
    }
    assert!((0.0..=100.0).contains(&number("test_accuracy")), "{name}: {result}");
    // Of a single epoch, the best is the last.
    assert_eq!(number("best_test_accuracy"), number("test_accuracy"), "{name}");
    assert!(number("model_bytes") <= 4.0 * number("parameters"), "{name}: {result}");
}

fn assert_files(name: &str, out: &Path) {
    let lines: Vec<usize> = rows(out).iter().map(Vec::len).collect();
    assert!(lines.len() == 2 && lines[0] == lines[1], "{name}: metrics.csv has {lines:?}");
    let jsonl = fs::read_to_string(out.join("metrics.jsonl")).unwrap();
    let epoch: Value =
        serde_json::from_str(&jsonl).unwrap_or_else(|error| panic!("{name}: {error}: {jsonl}"));
    assert_eq!(epoch["epoch"], 1, "{name}");
    let curves = fs::read_to_string(out.join("curves.svg")).unwrap();
    assert!(curves.starts_with("<svg") && curves.trim_end().ends_with("</svg>"), "{name}: {curves:.80}");
    let model = load_model(out.join("model.safetensors")).unwrap();
    assert!(!model.is_empty() && model.values().all(is_finite), "{name}: {:?}", model.keys());
    assert_eq!(model, load_model(out.join("best.safetensors")).unwrap(), "{name}");
    let checkpoint = Checkpoint::load(out.join("checkpoint.safetensors")).unwrap();
    assert_eq!((checkpoint.progress.epoch, checkpoint.progress.step), (1, 4), "{name}");
    assert_eq!(checkpoint.model, model, "{name}");
}

fn is_finite(tensor: &Tensor) -> bool {
    tensor.as_slice().iter().all(|x| x.is_finite())
}

#[test]
fn every_example_explains_itself() {
    for name in names() {
        let variants = variants(&name);
        assert!(!variants.is_empty(), "{name} lists no variant");
        let help = said(command(&name).arg("--help"));
        assert_eq!((help.code, help.err.as_str()), (Some(0), ""), "{name}");
        for word in variants.iter().map(String::as_str).chain(["--data", "--resume", "--out", &name]) {
            assert!(help.out.contains(word), "{name} --help does not name {word}: {}", help.out);
        }
        let folder = tempfile::tempdir().unwrap();
        let refused = run(&name, "--variant nonsense", folder.path());
        refused.assert_refused(2, &format!("--variant: \"nonsense\" is none of {}\n", variants.join(", ")));
    }
}

#[test]
fn every_tool_explains_itself() {
    for name in TOOLS {
        let help = said(command(name).arg("--help"));
        assert_eq!((help.code, help.err.as_str()), (Some(0), ""), "{name}");
        assert!(help.out.contains(&format!("Usage: {name}")), "{name}: {}", help.out);
        assert_eq!(said(command(name).arg("--nonsense")).code, Some(2), "{name}");
    }
}

#[test]
fn a_trained_network_is_packed_verified_and_predicts() {
    let folder = tempfile::tempdir().unwrap();
    let out = folder.path().join("run");
    run_well("lenet5_mnist", "--variant bnn --data embedded --limit 64 --epochs 1 --batch 16 --quiet", &out);
    let (model, packed) = (out.join("model.safetensors"), folder.path().join("lenet5.qnn"));
    let mut deploy = command("deploy");
    deploy.args("--network lenet5 --preset bnn --data embedded --limit 64".split(' '));
    let said_deploy = said(deploy.arg("--model").arg(&model).arg("--out").arg(&packed));
    assert_eq!(said_deploy.code, Some(0), "{}", said_deploy.err);
    assert!(said_deploy.out.contains("64 equal predictions; no bit differs"), "{}", said_deploy.out);
    let mut predict = command("predict");
    let said_predict = said(
        predict.arg("--model").arg(&packed).args("--data embedded --dataset digits --count 8".split(' ')),
    );
    assert_eq!(said_predict.code, Some(0), "{}", said_predict.err);
    assert!(said_predict.out.contains('%'), "{}", said_predict.out);
}

/// The names that `--list` shows: indented lines, a name first.
fn variants(example: &str) -> Vec<String> {
    let list = said(command(example).arg("--list"));
    assert_eq!((list.code, list.err.as_str()), (Some(0), ""), "{example}");
    let lines = list.out.lines().take_while(|line| *line != "Presets:").filter(|line| line.starts_with("  "));
    lines.map(|line| line.split_whitespace().next().unwrap().to_owned()).collect()
}
