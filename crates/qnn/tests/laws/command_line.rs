//! What a command line cannot mean is an error that names the flag, before any file is written.

use std::fs;

use serde_json::Value;

use crate::example::{SMALL, command, run, run_well, said};

/// An example, its flags, the exit code, and what the message must name: 2 where the command line
/// itself is at fault, 1 where a file is missing.
const REFUSED: [(&str, &str, i32, &str); 48] = [
    ("resnet20_bc", "--nonsense", 2, "--nonsense"),
    ("resnet20_bc", "--variant nonsense", 2, "--variant"),
    ("resnet20_bc", "--variant bc-12", 2, "did you mean bc-1.2?"),
    ("resnet20_bc", "--preset twm", 2, "did you mean twn?"),
    ("resnet20_bc", "--preset nonsense", 2, "known are fp, bc,"),
    ("resnet20_bc", "--depth 9", 2, "6n + 2"),
    ("lenet5_mnist", "--depth 8", 2, "--depth"),
    ("resnet20_bc", "--bits 3", 2, "--bits"),
    ("resnet20_bc", "--scale 0.5", 2, "--scale"),
    ("resnet20_bc", "--quantizer nonsense", 2, "`nonsense`"),
    ("resnet20_bc", "--quantizer dorefa-weights", 2, "`--bits`"),
    ("resnet20_bc", "--quantizer dorefa-weights --bits 9", 2, "1 to 8 bits, got 9"),
    ("resnet20_bc", "--quantizer sign --bits 2", 2, "`--bits`"),
    ("resnet20_bc", "--quantizer constant-scaled-sign --scale=-1", 2, "`scale`"),
    ("resnet20_bc", "--variant fp --estimator approx-sign", 2, "--estimator"),
    ("resnet20_bc", "--estimator nonsense", 2, "`nonsense`"),
    ("resnet20_bc", "--threshold 0.5", 2, "--threshold"),
    ("resnet20_bc", "--k 3", 2, "--k"),
    ("resnet20_bc", "--estimator identity --k 3", 2, "`--k`"),
    ("resnet20_bc", "--quantizer ternary --axis middle", 2, "--axis"),
    ("resnet20_bc", "--first-fp maybe", 2, "--first-fp"),
    ("resnet20_bc", "--dataset mnist", 2, "--dataset"),
    ("lenet5_mnist", "--dataset cifar10", 2, "--dataset"),
    ("lenet5_mnist", "--dataset nonsense", 2, "--dataset"),
    ("lenet5_mnist", "--no-augment", 2, "--no-augment"),
    ("resnet20_bc", "--data embedded --download", 2, "--download"),
    ("resnet20_bc", "--data /nonexistent", 1, "/nonexistent"),
    ("resnet20_bc", "--init-from missing.safetensors", 1, "missing.safetensors"),
    ("resnet20_bc", "--limit 0", 2, "--limit"),
    ("resnet20_bc", "--threads 0", 2, "--threads"),
    ("resnet20_bc", "--threads 1025", 2, "--threads: at most 1024"),
    ("resnet20_bc", "--require nan", 2, "--require"),
    ("resnet20_bc", "--require 101", 2, "--require"),
    ("resnet20_bc", "--seeds 0", 2, "--seeds"),
    ("resnet20_bc", "--seeds 1001", 2, "goes to --seed"),
    ("resnet20_bc", "--quantizer lsq --bits 4 --scale 0.1", 2, "--scale"),
    ("resnet20_bc", "--epochs 0", 2, "epochs"),
    ("resnet20_bc", "--batch 0", 2, "batch"),
    ("resnet20_bc", "--lr nan", 2, "learning rate"),
    ("resnet20_bc", "--quantizer-rate 0.1", 2, "no quantizer of this network learns"),
    ("resnet20_bc", "--preset lsq --quantizer-rate 0", 2, "--quantizer-rate"),
    ("resnet20_bc", "--preset pact --quantizer-rate nan", 2, "--quantizer-rate"),
    ("resnet20_bc", "--optimizer nonsense", 2, "--optimizer"),
    ("resnet20_bc", "--loss hinge", 2, "cross-entropy:SMOOTHING"),
    ("resnet20_bc", "--weight-decay=-1", 2, "weight decay"),
    ("resnet20_bc", "--clip-norm 0", 2, "norm"),
    ("resnet20_bc", "--early-stopping 0", 2, "patience"),
    ("lenet5_mnist", "--data /nonexistent", 1, "/nonexistent/mnist"),
];

#[test]
fn impossible_flags_are_named_and_leave_no_file() {
    let folder = tempfile::tempdir().unwrap();
    for (example, flags, code, word) in REFUSED {
        let said = said(command(example).args(flags.split(' ')).current_dir(folder.path()));
        said.assert_refused(code, word);
        assert_eq!(fs::read_dir(folder.path()).unwrap().count(), 0, "{example} {flags}");
    }
}

#[test]
fn a_missed_accuracy_is_a_failure_after_the_result() {
    let folder = tempfile::tempdir().unwrap();
    let said =
        run("resnet20_bc", &format!("{SMALL} --limit 16 --batch 8 --epochs 1 --require 100"), folder.path());
    assert_eq!((said.code, said.out.lines().count()), (Some(1), 1), "{said:?}");
    assert!(said.err.starts_with("error: the best test accuracy is"), "{said:?}");
    assert!(said.err.contains("100.00 %") && folder.path().join("result.json").exists(), "{said:?}");
}

#[test]
fn a_finished_run_is_neither_replaced_nor_trained_again() {
    let folder = tempfile::tempdir().unwrap();
    let out = folder.path();
    let flags = format!("{SMALL} --limit 16 --batch 8 --epochs 1");
    let result = || fs::read_to_string(out.join("result.json")).unwrap();
    run_well("resnet20_bc", &flags, out);
    let first = result();
    let model = || fs::read(out.join("model.safetensors")).unwrap();
    let before = model();
    for (other, word) in [
        ("--seed 1", "seed is 0 there and 1 here"),
        ("--lr 0.05", "learning_rate is 0.1 there and 0.05 here"),
        ("--no-augment", "augment is true there and false here"),
        ("--loss squared-hinge", "loss"),
        ("--weight-decay 0", "weight_decay"),
        ("--quantizer-decay 0.1", "quantizer_decay"),
        ("--clip-norm 1", "clip_norm"),
        ("--early-stopping 3", "early_stopping"),
        ("--quantizer ternary", "quantizer ternary"),
        ("--seeds 2", "a run of one seed"),
    ] {
        run("resnet20_bc", &format!("{flags} {other}"), out).assert_refused(2, word);
        assert!(model() == before, "{other} changed the model");
    }
    let again = run_well("resnet20_bc", &flags, out);
    assert!(model() == before, "the same run is the same model");
    assert_eq!(result(), first);
    let [first, again] = [&first, &again.out].map(|text| serde_json::from_str::<Value>(text).unwrap());
    assert_eq!(first["network"], "resnet20_bc bc-1.2 on digits, depth 8");
    assert_eq!(first["seconds"], again["seconds"], "nothing was trained");
    fs::remove_file(out.join("checkpoint.safetensors")).unwrap();
    for resume in ["", "--resume"] {
        run("resnet20_bc", &format!("{flags} {resume}"), out).assert_refused(2, "without the checkpoint");
    }
}

#[test]
fn a_run_is_resumed_with_its_own_settings_only() {
    let folder = tempfile::tempdir().unwrap();
    let out = folder.path();
    let flags = format!("{SMALL} --limit 16 --batch 8 --epochs 1");
    run_well("resnet20_bc", &flags, out);
    let checkpoint = || fs::read(out.join("checkpoint.safetensors")).unwrap();
    let (before, resume) = (checkpoint(), format!("{SMALL} --resume --limit 16 --batch 8"));
    for (other, word) in [
        ("--epochs 2", "epochs is 1 there and 2 here"),
        ("--epochs 1 --lr 0.05", "learning_rate is 0.1 there and 0.05 here"),
        ("--epochs 1 --seed 1", "seed is 0 there and 1 here"),
        ("--epochs 1 --optimizer adam", "optimizer"),
        ("--epochs 1 --variant bc", "experiment"),
        ("--epochs 1 --preset xnor", "experiment"),
        ("--epochs 1 --first-fp false", "experiment"),
        ("--epochs 1 --estimator identity", "experiment"),
        ("--epochs 1 --no-augment", "augment"),
    ] {
        run("resnet20_bc", &format!("{resume} {other}"), out).assert_refused(2, word);
        assert!(checkpoint() == before, "{other} changed the checkpoint");
    }
    let fewer_images = format!("{SMALL} --resume --limit 15 --batch 8 --epochs 1");
    run("resnet20_bc", &fewer_images, out).assert_refused(2, "15 images");
    run_well("resnet20_bc", &format!("{resume} --epochs 1"), out);
}
