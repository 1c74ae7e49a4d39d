//! Every example runs, and leaves what it promises.

use std::fs;
use std::path::Path;
use std::process::Stdio;

use qnn::prelude::*;
use qnn::train::{Checkpoint, load_model, save_model};
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
    let flags = "--variant bc --data embedded --limit 64 --epochs 1 --batch 16 --quiet";
    let trained = run_well("lenet5_mnist", flags, &out);
    let result: Value = serde_json::from_str(&trained.out).unwrap();
    let (model, packed) = (out.join("model.safetensors"), folder.path().join("lenet5.qnn"));
    let deploy = |flags: &str| {
        let mut deploy = command("deploy");
        // Nowhere near any data.
        deploy.current_dir(folder.path()).arg("--model").arg(&model).arg("--out").arg(&packed);
        said(deploy.args(flags.split_whitespace()))
    };
    // The file says how its network is quantized and on which data it was trained.
    let packing = deploy("--limit 64");
    assert_eq!((packing.code, packing.err.as_str()), (Some(0), ""), "{packing:?}");
    let accuracy = format!("{:.2} %", result["test_accuracy"].as_f64().unwrap());
    let accuracies = format!("test accuracy {accuracy}; the training reported {accuracy} on digits");
    for word in ["lenet5_mnist bc on digits", "64 equal predictions; no bit differs", &accuracies] {
        assert!(packing.out.contains(word), "{word:?} is not in {}", packing.out);
    }
    let predict = |flags: &str| {
        said(command("predict").current_dir(folder.path()).arg("--model").arg(&packed).args(flags.split(' ')))
    };
    let predicted = predict("--data embedded --dataset digits --count 8");
    assert_eq!((predicted.code, predicted.err.as_str()), (Some(0), ""), "{predicted:?}");
    assert_eq!(predicted.out.matches('%').count(), 3 * 8, "{}", predicted.out);
    // A file of the first image is told apart as the image is.
    let digits = qnn::data::load(DatasetName::Digits, &Source::Embedded).unwrap().dataset.test;
    let digits = digits.take(1).fit_to([28, 28, 1]).unwrap();
    fs::write(folder.path().join("first.pgm"), [b"P5 28 28 255\n", digits.pixels(0)].concat()).unwrap();
    let from_file = predict("--top 3 first.pgm");
    assert_eq!((from_file.code, from_file.err.as_str()), (Some(0), ""), "{from_file:?}");
    let classes = |line: &str| line.trim_end().split_once(": ").map(|(_, classes)| classes.to_owned());
    assert!(from_file.out.starts_with("first.pgm: "), "{}", from_file.out);
    assert_eq!(classes(&from_file.out), classes(predicted.out.lines().next().unwrap()));
    fs::write(folder.path().join("cut.pgm"), b"P5 28 28 255\nshort").unwrap();
    predict("cut.pgm").assert_refused(1, "cut.pgm");
    // One bad file does not hide the others, and contents tell a format, not names.
    fs::copy(folder.path().join("first.pgm"), folder.path().join("first.png")).unwrap();
    let both = predict("--top 3 cut.pgm first.png");
    assert_eq!(classes(&both.out), classes(&from_file.out), "{both:?}");
    assert!(both.code == Some(1) && both.err.contains("cut.pgm"), "{both:?}");
    let mut see_through = image::RgbaImage::from_pixel(28, 28, image::Rgba([9, 9, 9, 255]));
    see_through.save(folder.path().join("opaque.png")).unwrap();
    assert_eq!(predict("opaque.png").code, Some(0));
    see_through.put_pixel(3, 4, image::Rgba([9, 9, 9, 254]));
    see_through.save(folder.path().join("see-through.png")).unwrap();
    predict("see-through.png").assert_refused(1, "see-through.png: it has transparent pixels");
    // The normalisation is the training's, whatever images there are.
    let whole = fs::read(&packed).unwrap();
    deploy("--limit 32");
    assert!(
        fs::read(&packed).unwrap() == whole,
        "the packed model depends on the images it is verified with"
    );
    // Nobody who reads the report to its end: the model is written all the same.
    fs::remove_file(&packed).unwrap();
    let mut deploy = command("deploy");
    deploy.current_dir(folder.path()).arg("--model").arg(&model).arg("--out").arg(&packed);
    let mut unread = deploy.arg("--limit").arg("8").stdout(Stdio::piped()).spawn().unwrap();
    drop(unread.stdout.take());
    assert_eq!(unread.wait().unwrap().code(), Some(0));
    assert!(fs::read(&packed).unwrap() == whole);
    // Fashion has other classes, and is not at hand.
    let fashion = predict("--dataset fashion-mnist --count 1");
    assert!(fashion.code == Some(0) && fashion.err.contains("in place of fashion-mnist"), "{fashion:?}");
    predict("--dataset digits --count 0").assert_named(2, "--count");
}

#[test]
fn what_deploys_another_network_than_the_trained_one_is_told() {
    let folder = tempfile::tempdir().unwrap();
    let out = folder.path().join("run");
    let flags =
        "--variant bc-fp-projections --depth 8 --data embedded --limit 100 --epochs 2 --batch 10 --quiet";
    run_well("resnet20_bc", flags, &out);
    let packed = folder.path().join("resnet.qnn");
    let deploy = |model: &str, flags: &str| {
        let mut deploy = command("deploy");
        deploy.current_dir(folder.path()).arg("--model").arg(out.join(model)).arg("--out").arg(&packed);
        said(deploy.args("--network resnet --depth 8 --limit 100".split(' ')).args(flags.split_whitespace()))
    };
    let refused = deploy("model.safetensors", "");
    refused.assert_refused(1, "does not name a preset");
    assert!(refused.err.contains("bc-fp-projections on digits"), "{refused:?}");
    let right = deploy("model.safetensors", "--preset bc --fp-projections");
    assert_eq!((right.code, right.err.as_str()), (Some(0), ""), "{right:?}");
    // Tensors of the same names and shapes, and another network.
    let wrong = deploy("model.safetensors", "--preset bc");
    assert!(wrong.err.contains("warning: these are the images"), "{wrong:?}");
    // A checkpoint names the run, and neither a preset nor a normalisation.
    deploy("checkpoint.safetensors", "").assert_refused(1, "does not name a preset");
    let measured =
        deploy("checkpoint.safetensors", "--preset bc --fp-projections --data embedded --dataset digits");
    assert!(
        measured.code == Some(0) && measured.out.contains("does not say how images were normalised"),
        "{measured:?}"
    );
    let mut bytes = fs::read(out.join("checkpoint.safetensors")).unwrap();
    *bytes.last_mut().unwrap() ^= 1;
    fs::write(out.join("damaged.safetensors"), bytes).unwrap();
    deploy("damaged.safetensors", "--preset bc --fp-projections").assert_refused(1, "digest");
}

#[test]
fn what_would_overwrite_the_trained_model_is_refused() {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("model.safetensors");
    let net = MlpConfig { scheme: Scheme::preset("bc").unwrap(), ..MlpConfig::mlp3(8) };
    let model = Mlp::new(&net, &mut Init::new(3)).unwrap();
    save_model(&file, &model, &[("preset".to_owned(), "bc".to_owned())].into()).unwrap();
    fs::copy(&file, folder.path().join("other.safetensors")).unwrap();
    let whole = fs::read(&file).unwrap();
    for (out, word) in [
        ("model.safetensors", "--out and --model are one file"),
        ("./model.safetensors", "its weights would be lost"),
        ("other.safetensors", "it is no packed model"),
    ] {
        let mut deploy = command("deploy");
        deploy.current_dir(folder.path()).args("--network mlp3 --width 8 --limit 10".split(' '));
        deploy.args("--data embedded --model model.safetensors --out".split(' ')).arg(out);
        said(&mut deploy).assert_refused(1, word);
        assert!(fs::read(&file).unwrap() == whole);
        assert!(fs::read(folder.path().join("other.safetensors")).unwrap() == whole);
    }
}

#[test]
fn networks_of_any_quantizer_are_deployed_by_its_flags() {
    for (train, network, deploy) in [
        (
            "lenet5_mnist --variant bc --quantizer uniform --bits 4",
            "lenet5",
            "--preset bc --quantizer uniform --bits 4",
        ),
        (
            "lenet5_mnist --variant bc --quantizer lsq --bits 3",
            "lenet5",
            "--preset bc --quantizer lsq --bits 3",
        ),
        (
            "resnet_w1a8 --depth 8 --variant no-hysteresis",
            "resnet",
            "--depth 8 --preset w1a8 --quantizer scaled-sign",
        ),
        (
            "resnet_w1a8 --depth 8 --variant hysteresis-0.05",
            "resnet",
            "--depth 8 --preset w1a8 --quantizer hysteresis-sign --threshold 0.05",
        ),
        ("resnet_w1a8 --depth 8 --variant w1", "resnet", "--depth 8 --preset bc --quantizer hysteresis-sign"),
    ] {
        let folder = tempfile::tempdir().unwrap();
        let out = folder.path().join("run");
        let (example, flags) = train.split_once(' ').unwrap();
        let data = "--data embedded --limit 20 --epochs 1 --batch 10 --quiet";
        run_well(example, &format!("{flags} {data}"), &out);
        let mut command = command("deploy");
        command.current_dir(folder.path()).arg("--model").arg(out.join("model.safetensors"));
        command.args(["--network", network, "--limit", "20"]).args(deploy.split(' '));
        let said = said(&mut command);
        assert_eq!((said.code, said.err.as_str()), (Some(0), ""), "{said:?}");
        assert!(said.out.contains("no bit differs"), "{said:?}");
    }
}

#[test]
fn batch_norm_on_the_logits_is_found_in_the_model_file() {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("model.safetensors");
    for output_norm in [false, true] {
        let net = MlpConfig { scheme: Scheme::preset("bnn").unwrap(), output_norm, ..MlpConfig::mlp3(8) };
        let model = Mlp::new(&net, &mut Init::new(3)).unwrap();
        save_model(&file, &model, &[("preset".to_owned(), "bnn".to_owned())].into()).unwrap();
        let mut deploy = command("deploy");
        deploy.current_dir(folder.path()).args("--network mlp3 --width 8 --limit 10".split(' '));
        let said = said(deploy.args("--data embedded --model model.safetensors".split(' ')));
        assert_eq!((said.code, said.err.as_str()), (Some(0), ""), "{said:?}");
        assert!(said.out.contains("no bit differs"), "{said:?}");
    }
}

#[test]
fn another_preset_than_the_trained_one_and_missing_data_are_told() {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("model.safetensors");
    let mlp = |preset| MlpConfig { scheme: Scheme::preset(preset).unwrap(), ..MlpConfig::mlp3(8) };
    let model = Mlp::new(&mlp("bc"), &mut Init::new(3)).unwrap();
    let save = |metadata: &[(&str, &str)]| {
        let metadata = metadata.iter().map(|&(key, value)| (key.to_owned(), value.to_owned())).collect();
        save_model(&file, &model, &metadata).unwrap();
    };
    let deploy = |flags: &str| {
        let mut deploy = command("deploy");
        deploy
            .current_dir(folder.path())
            .args("--network mlp3 --width 8 --limit 10 --model model.safetensors".split(' '));
        said(deploy.args(flags.split_whitespace()))
    };
    // Files of earlier versions name the variant.
    save(&[("experiment", "mine"), ("variant", "bc")]);
    let old = deploy("--data embedded");
    assert!(old.code == Some(0) && old.out.contains("measured on 10 training images of digits"), "{old:?}");
    let warned = deploy("--preset bnn --data embedded");
    assert!(warned.err.contains("was trained as --preset bc, not as bnn"), "{warned:?}");
    save(&[("variant", "hard-2")]);
    deploy("--data embedded").assert_refused(1, "holds hard-2");
    save(&[]);
    deploy("--data embedded").assert_refused(1, "give --preset");
    // What was trained on a set that is not here is not measured on another one unasked.
    save(&[("variant", "bc"), ("network", "mine bc on mnist"), ("preset", "bc"), ("dataset", "mnist")]);
    deploy("").assert_named(1, "trained on mnist, but mnist is not at hand");
    let embedded = deploy("--data embedded");
    assert!(embedded.code == Some(0) && embedded.err.contains("is verified on digits"), "{embedded:?}");
    // The packed model has the classes of its file, not those of the images.
    let letters = r#"["a","b","c","d","e","f","g","h","i","j"]"#;
    save(&[("variant", "bc"), ("dataset", "digits"), ("classes", letters)]);
    assert_eq!(deploy("").code, Some(0));
    let mut predict = command("predict");
    let told = said(predict.current_dir(folder.path()).args("--dataset digits --count 1".split(' ')));
    assert!(told.err.contains("warning: the model tells a, b, c"), "{told:?}");
    assert!(told.out.starts_with("test image 0 ("), "{told:?}");
}

#[test]
fn flags_without_a_meaning_and_impossible_outputs_are_refused_by_the_tools() {
    let folder = tempfile::tempdir().unwrap();
    for (tool, flags, code, word) in [
        ("deploy", "--depth 20", 2, "--depth belongs to --network resnet, not to lenet5"),
        ("deploy", "--network vgg7 --shortcut none", 2, "--shortcut belongs"),
        ("deploy", "--network mlp3 --fp-projections", 2, "--fp-projections belongs"),
        ("deploy", "--network vgg7 --output-norm", 2, "--output-norm belongs"),
        ("deploy", "--network resnet --width 8", 2, "--width belongs"),
        ("deploy", "--calibrate 16", 2, "--post-training"),
        ("deploy", "--range min-max", 2, "--post-training"),
        ("deploy", "--limit 0", 2, "--limit"),
        ("deploy", "--threads 0", 2, "--threads"),
        ("deploy", "--threads 1025", 2, "--threads"),
        ("deploy", "--bits 4", 2, "--quantizer"),
        ("deploy", "--quantizer uniform", 1, "--bits"),
        ("predict", "--data embedded x.png", 2, "--data"),
        ("predict", "--count 3 x.png", 2, "--count"),
        ("deploy", "--batch 0", 2, "--batch"),
        ("deploy", "--out nowhere/model.qnn", 1, "nowhere"),
        ("deploy", "--out .", 1, "is a folder"),
        ("deploy", "--preset nonsense", 1, "known are fp, bc,"),
        (
            "deploy",
            "--data embedded --preset fp --post-training bnn",
            1,
            "this scheme has no ranges to observe",
        ),
        ("deploy", "--data embedded --preset bnn --post-training int8", 1, "was trained with quantizers"),
        ("predict", "--dataset digits --top 0", 2, "--top"),
        ("predict", "--dataset digits --model missing.qnn", 1, "missing.qnn"),
    ] {
        said(command(tool).current_dir(folder.path()).args(flags.split(' '))).assert_refused(code, word);
    }
    for (tool, flags) in [
        ("deploy", "--data embedded"),
        ("predict", "--dataset digits"),
        ("conv_system", "--repetitions 1"),
        ("quantize", "--quantizer sign --input x.npy"),
    ] {
        let mut command = command(tool);
        command.current_dir(folder.path()).args(flags.split(' ')).env("QNN_ISA", "sse9");
        said(&mut command).assert_refused(1, "\"sse9\" is no instruction set");
    }
    assert_eq!(fs::read_dir(folder.path()).unwrap().count(), 0);
}

/// The names that `--list` shows: indented lines, a name first.
fn variants(example: &str) -> Vec<String> {
    let list = said(command(example).arg("--list"));
    assert_eq!((list.code, list.err.as_str()), (Some(0), ""), "{example}");
    let lines = list.out.lines().take_while(|line| *line != "Presets:").filter(|line| line.starts_with("  "));
    lines.map(|line| line.split_whitespace().next().unwrap().to_owned()).collect()
}
