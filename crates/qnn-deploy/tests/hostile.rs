//! Files that somebody made on purpose: an error or a program that runs, in little time and memory.

mod common;

use std::path::{Path, PathBuf};
use std::sync::OnceLock;

use allocation_counter::measure;
use common::{Net, calibrated, forge, images, randomize};
use proptest::prelude::*;
use proptest::sample::Index;
use qnn_deploy::{Error, Program, Session, freeze};
use qnn_layers::{Conv2d, Conv2dConfig, Dense, DenseConfig, Init, Layer};
use qnn_models::{Scheme, Shortcut};
use safetensors::tensor::Dtype;
use serde_json::{Value, json};
use tempfile::TempDir;

/// More than any of these programs needs.
const ENOUGH: u64 = 1 << 26;

/// What loading and running a file took: bytes at most, on this thread.
fn most_bytes(path: &Path, image: Option<&[f32]>) -> (u64, Result<(), Error>) {
    let pool = rayon::ThreadPoolBuilder::new().num_threads(1).build().unwrap();
    let mut result = Ok(());
    let counted = pool.install(|| {
        measure(|| {
            result = Program::load(path).and_then(|program| {
                let (mut session, [h, w, c]) = (Session::new(&program)?, program.input_shape());
                let Some(image) = image else { return Ok(()) };
                let image: Vec<f32> = image.iter().copied().cycle().take(h * w * c).collect();
                session.run(&image[..]).map(|_| ())
            });
        })
    });
    (counted.bytes_max, result)
}

fn seeds() -> &'static [(TempDir, Net)] {
    static SEEDS: OnceLock<Vec<(TempDir, Net)>> = OnceLock::new();
    SEEDS.get_or_init(|| {
        let save = |net: Net, model: &dyn Layer| {
            let folder = tempfile::tempdir().unwrap();
            freeze(model, net.shape()).unwrap().save(folder.path().join("seed")).unwrap();
            (folder, net)
        };
        let float = |net: Net, preset: &str| {
            let mut model = net.build(&Scheme::preset(preset).unwrap(), 1);
            randomize(model.as_mut(), 2);
            save(net, model.as_ref())
        };
        let net = Net::ResNet8(Shortcut::PadZero);
        vec![
            float(net, "bnn"),
            float(Net::LeNet5, "dorefa"),
            float(Net::Mlp, "xnor-full"),
            save(net, calibrated(net, 3, &[1.0, -0.5]).as_ref()),
            save(Net::LeNet5, calibrated(Net::LeNet5, 3, &[1.0, -0.5]).as_ref()),
            float(net, "fp"),
        ]
    })
}

/// All integers of a description.
fn integers(value: &mut Value) -> Vec<&mut Value> {
    match value {
        Value::Number(number) if !number.is_f64() => vec![value],
        Value::Array(values) => values.iter_mut().flat_map(integers).collect(),
        Value::Object(fields) => fields.values_mut().flat_map(integers).collect(),
        _ => Vec::new(),
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(48))]

    #[test]
    fn any_integer_may_be_any_other(
        seed in any::<Index>(),
        at in any::<Index>(),
        number in proptest::sample::select(vec![
            json!(0), json!(1), json!(-1), json!(i32::MAX), json!(1_u64 << 40), json!(1_u64 << 63), json!(u64::MAX),
        ]),
    ) {
        let (folder, net) = seed.get(seeds());
        let (original, path) = (folder.path().join("seed"), folder.path().join("forged"));
        std::fs::copy(original, &path).unwrap();
        forge(&path, |description, _| {
            let mut all = integers(&mut description["program"]);
            let at = at.index(all.len());
            *all[at] = number.clone();
        });
        let (bytes, result) = most_bytes(&path, Some(images(1, net.shape(), 1).as_slice()));
        prop_assert!(bytes < ENOUGH, "{bytes} bytes, {result:?}");
        let refused = matches!(result, Ok(()) | Err(Error::Format { .. } | Error::Program { .. } | Error::Data(_)));
        prop_assert!(refused, "{result:?}");
    }
}

/// A file of these values and stages, of the version that they ask for.
fn written(integers: bool, program: Value, tensors: Vec<(&str, Dtype, Vec<u8>)>) -> (TempDir, PathBuf) {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("forged");
    if integers {
        std::fs::copy(seeds()[3].0.path().join("seed"), &path).unwrap();
    } else {
        let dense = Dense::new(&DenseConfig::new(1, 1), &mut Init::new(0)).unwrap();
        freeze(&dense, [1, 1, 1]).unwrap().save(&path).unwrap();
    }
    forge(&path, |description, found| {
        description["program"] = program;
        *found = tensors.into_iter().map(|(name, dtype, bytes)| (name.to_owned(), dtype, bytes)).collect();
    });
    (folder, path)
}

fn stage(input: usize, output: usize, action: Value) -> Value {
    json!({"layers": [], "input": input, "operand": null, "output": output, "action": action, "remarks": []})
}

fn float(shape: [usize; 3]) -> Value {
    json!({"shape": shape, "elements": "float"})
}

fn program(values: Vec<Value>, stages: Vec<Value>) -> Value {
    let output = values.len() - 1;
    json!({"values": values, "stages": stages, "output": output, "normalization": null, "classes": []})
}

fn padding(top: usize, bottom: usize) -> Value {
    json!({"top": top, "bottom": bottom, "left": 0, "right": 0})
}

const BINARY: [i64; 3] = [-1, 2, 2];

fn alphabet([first, step, count]: [i64; 3]) -> Value {
    json!({"first": first, "step": step, "count": count})
}

/// A product of signs, which a chain makes of the image.
fn signs(
    image: [usize; 3],
    product: Value,
    output: Value,
    tensors: Vec<(&'static str, Dtype, Vec<u8>)>,
) -> (TempDir, PathBuf) {
    let quantize =
        json!({"chain": {"links": [{"quantize": {"alphabet": alphabet(BINARY), "cuts": "zero"}}]}});
    let codes = json!({"shape": image, "elements": {"packed": alphabet(BINARY)}});
    let shape = output["shape"].clone();
    let mut values = vec![float(image), codes, output];
    let mut stages = vec![stage(0, 1, quantize), stage(1, 2, json!({"product": product}))];
    if values[2]["elements"] != json!("float") {
        values.push(json!({"shape": shape, "elements": "float"}));
        stages.push(stage(2, 3, json!({"chain": {"links": []}})));
    }
    let mut all = vec![("zero", Dtype::F32, vec![0; 4])];
    all.extend(tensors);
    written(false, program(values, stages), all)
}

#[track_caller]
fn assert_refused((_folder, path): (TempDir, PathBuf), expected: &str) {
    let (bytes, result) = most_bytes(&path, None);
    let error = result.unwrap_err();
    assert!(matches!(error, Error::Program { .. }), "{error}");
    assert!(error.to_string().contains(expected), "{error}");
    assert!(bytes < ENOUGH, "{bytes} bytes");
}

#[test]
fn one_normalisation_for_millions_of_channels_takes_one_table() {
    let normalized = |channels: usize, count: usize, std: f32| {
        let mut program = program(vec![float([1, 1, channels])], vec![]);
        program["normalization"] = json!({"mean": vec![0.0; count], "std": vec![std; count]});
        written(false, program, vec![])
    };
    let (_folder, path) = normalized(1 << 26, 1, 1.0);
    let (bytes, result) = most_bytes(&path, None);
    assert!(result.is_ok() && bytes < 1 << 20, "{bytes} bytes, {result:?}");
    let (_folder, path) = normalized(4, 1, 0.0);
    assert!(matches!(Program::load(&path), Err(Error::Data(_))));
    let (_folder, path) = normalized(4, 3, 1.0);
    assert!(matches!(Program::load(&path), Err(Error::Data(_))));
    assert_refused(normalized(1 << 13, 1 << 13, 1.0), "it normalises 8192 channels");
}

#[test]
fn bytes_of_all_channels_are_normalised_alike() {
    let mut program = program(vec![float([1, 2, 3])], vec![]);
    program["normalization"] = json!({"mean": [0.0], "std": [1.0]});
    let (_folder, path) = written(false, program, vec![]);
    let mut session = Session::new(&Program::load(&path).unwrap()).unwrap();
    let found = session.run(&[0_u8, 255, 51, 0, 255, 102][..]).unwrap();
    assert_eq!(found, [0.0, 1.0, 0.2, 0.0, 1.0, 0.4]);
}

/// A product of signs with all its numbers, as JSON.
fn product(kernel: [usize; 2], padding: Value, finish: Value) -> Value {
    json!({
        "kernel": kernel, "stride": [1, 1], "padding": padding, "pad_code": 0, "groups": 1,
        "weights": {"packed": {"alphabet": alphabet(BINARY), "tensor": "weights"}},
        "arithmetic": "integer", "finish": finish,
    })
}

#[test]
fn a_kernel_with_more_borders_than_weights_is_refused() {
    let product = product([65_536, 1], padding(65_535, 65_535), json!({"chain": {"links": []}}));
    let weights = vec![("weights", Dtype::U8, vec![0; 8192])];
    assert_refused(
        signs([1, 1, 1], product, float([65_536, 1, 1]), weights),
        "too large to be padded with zeros",
    );
}

/// A program of one product in full precision, of which somebody changes description and tensors.
fn changed(change: impl FnOnce(&mut Value, &mut Vec<(String, Dtype, Vec<u8>)>)) -> (TempDir, PathBuf) {
    let config = Conv2dConfig { bias: false, ..Conv2dConfig::new(32, 32, 3) };
    let conv = Conv2d::new(&config, &mut Init::new(0)).unwrap();
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("changed");
    freeze(&conv, [6, 6, 32]).unwrap().save(&path).unwrap();
    forge(&path, |description, tensors| change(&mut description["program"], tensors));
    (folder, path)
}

#[test]
fn tiles_of_convolutions_that_have_none_are_refused() {
    let (_folder, path) = changed(|_, _| ());
    assert!(Program::load(&path).is_ok());
    let stride = |program: &mut Value, _: &mut Vec<(String, Dtype, Vec<u8>)>| {
        program["stages"][0]["action"]["product"]["stride"] = json!([2, 2]);
        program["values"][1]["shape"] = json!([2, 2, 32]);
    };
    assert_refused(changed(stride), "is not made in tiles");
}

/// Exact sums take more than twice the memory.
#[test]
fn exact_sums_of_images_beyond_the_memory_are_refused() {
    let summed = |arithmetic: &'static str, [height, width]: [usize; 2]| {
        changed(move |program, tensors| {
            program["values"] = json!([float([height, width, 1]), float([height - 2, width - 2, 1])]);
            program["stages"][0]["action"]["product"]["arithmetic"] = json!(arithmetic);
            tensors[0].2 = vec![0; 4 * 9];
        })
    };
    let (_folder, path) = summed("exact", [40, 50]);
    let (bytes, result) = most_bytes(&path, Some(&[1.0]));
    assert!(result.is_ok() && bytes < ENOUGH, "{result:?}");
    assert_refused(summed("exact", [8192, 4096]), "bytes for one image");
}

#[test]
fn thresholds_make_no_bytes() {
    let finish = json!({"thresholds": {"cuts": "cuts", "flips": "flips"}});
    let output = json!({"shape": [1, 1, 1], "elements": {"packed": alphabet([-128, 1, 256])}});
    let tensors = vec![
        ("weights", Dtype::U8, vec![0]),
        ("cuts", Dtype::I32, vec![0; 4 * 255]),
        ("flips", Dtype::U8, vec![0]),
    ];
    assert_refused(
        signs([1, 1, 8], product([1, 1], padding(0, 0), finish), output, tensors),
        "it cannot make",
    );
}

#[test]
fn weights_of_no_encoding_are_refused() {
    for codes in
        [[0, i64::from(i32::MAX), 3], [-1, 0, 2], [1, -2, 2], [0, 1, 0], [0, 1, 1 << 31], [-1000, 2, 2]]
    {
        let mut product = product([1, 1], padding(0, 0), json!({"chain": {"links": []}}));
        product["weights"]["packed"]["alphabet"] = alphabet(codes);
        let weights = vec![("weights", Dtype::U8, vec![0])];
        assert_refused(signs([1, 1, 8], product, float([1, 1, 1]), weights), "which no encoding has");
    }
}

#[test]
fn windows_far_apart_are_refused() {
    for huge in [1_u64 << 26, 1 << 40, 1 << 63, u64::MAX] {
        for axis in 0..2 {
            let mut conv = product([1, 1], padding(0, 0), json!({"chain": {"links": []}}));
            conv["weights"] = json!({"float": {"tensor": "weights"}});
            conv["arithmetic"] = json!("float");
            conv["stride"][axis] = json!(huge);
            let values = vec![float([1, 1, 8]), float([1, 1, 1])];
            let program = |action| program(values.clone(), vec![stage(0, 1, action)]);
            let weights = vec![("weights", Dtype::F32, vec![0; 32])];
            let convolution = written(false, program(json!({"product": conv})), weights);
            assert_refused(convolution, "in whole strides");
        }
        for (size, stride, around) in [(2, huge, 0), (huge, 1, huge - 1), (huge, huge, huge / 2)] {
            let padding = json!({"top": around, "bottom": around, "left": around, "right": around});
            let options =
                json!({"size": [size, size], "stride": [stride, stride], "padding": padding, "ceil": true});
            let action = json!({"max-pool": {"options": options, "falling": null}});
            let values = vec![float([9, 9, 1]), float([7, 7, 1])];
            let (_folder, path) = written(false, program(values, vec![stage(0, 1, action)]), vec![]);
            let found = Program::load(&path);
            assert!(matches!(found, Err(Error::Program { .. })), "{size}, {stride}, {around}: {found:?}");
        }
    }
}

/// Each value is small enough; all together are not, and the last stages want all of them at once.
#[test]
fn many_large_values_at_once_are_refused() {
    let count = 20;
    let large = float([1, 1, 1 << 26]);
    let mut values = vec![float([1, 1, 1])];
    let mut stages = Vec::new();
    for output in 1..=count {
        values.push(large.clone());
        stages.push(stage(0, output, json!({"pad-zero": {"stride": 1}})));
    }
    for operand in 2..=count {
        let input = if operand == 2 { 1 } else { values.len() - 1 };
        values.push(large.clone());
        let mut sum =
            stage(input, values.len() - 1, json!({"chain": {"links": [{"add": {"operand": null}}]}}));
        sum["operand"] = json!(operand);
        stages.push(sum);
    }
    assert_refused(written(false, program(values, stages), vec![]), "bytes for one image");
}

#[test]
fn means_of_more_codes_than_sums_hold_are_refused() {
    let bytes = |shape: [usize; 3]| json!({"shape": shape, "elements": {"bytes": alphabet([-255, 1, 256])}});
    let scale = json!({"quantize": {"scale": 1.0}});
    let mean = json!({"mean": {"multiplier": 1 << 30, "shift": 0}});
    let values = json!({"values": {"scales": "scales"}});
    let dense = json!({
        "kernel": [1, 1], "stride": [1, 1], "padding": padding(0, 0), "groups": 1,
        "weights": "weights", "bias": "bias", "finish": values,
    });
    let all = |height: usize| {
        let values = vec![
            float([height, 1 << 12, 1]),
            bytes([height, 1 << 12, 1]),
            bytes([1, 1, 1]),
            float([1, 1, 1]),
        ];
        let stages = vec![
            stage(0, 1, json!({"integer": scale})),
            stage(1, 2, json!({"integer": mean})),
            stage(2, 3, json!({"integer": {"product": dense}})),
        ];
        let tensors = vec![
            ("weights", Dtype::U8, vec![1]),
            ("bias", Dtype::I32, vec![0; 4]),
            ("scales", Dtype::F32, 1_f32.to_le_bytes().to_vec()),
        ];
        written(true, program(values, stages), tensors)
    };
    let (_folder, path) = all(1 << 11);
    let mut session = Session::new(&Program::load(&path).unwrap()).unwrap();
    let found = session.run(&vec![-1e9_f32; 1 << 23][..]).unwrap();
    assert_eq!(found, [-255.0]);
    assert_refused(all((1 << 11) + 1), "exceed 32 bits");
}

#[test]
fn names_of_other_classes_are_refused() {
    let mut program = program(vec![float([1, 1, 3])], vec![]);
    program["classes"] = json!(["a", "b"]);
    assert_refused(written(false, program, vec![]), "it names 2 classes for 3 outputs");
}

/// The digest is sixteen digits in one spelling; no bit of the line is without meaning.
#[test]
fn every_flipped_bit_of_the_first_line_is_noticed() {
    let (_folder, path) = written(false, program(vec![float([1, 1, 3])], vec![]), vec![]);
    assert!(Program::load(&path).is_ok());
    let bytes = std::fs::read(&path).unwrap();
    let start = bytes.windows(16).position(|at| at == b"qnn-packed-model").unwrap();
    // Behind the digest stand the two characters of an escaped line break.
    for bit in 8 * start..8 * (start + "qnn-packed-model 1 0123456789abcdef\\n".len()) {
        let mut bytes = bytes.clone();
        bytes[bit / 8] ^= 1 << (bit % 8);
        std::fs::write(&path, &bytes).unwrap();
        let found = Program::load(&path);
        let noticed = matches!(found, Err(Error::Format { .. } | Error::Version { .. }));
        assert!(noticed, "bit {} of {:?}: {found:?}", bit % 8, char::from(bytes[bit / 8]));
    }
}

#[test]
fn one_tensor_that_is_laid_out_again_and_again_is_refused() {
    let channels = 1 << 10;
    let biases = |names: &[&str]| {
        let links: Vec<Value> = names.iter().map(|name| json!({"bias": {"bias": name}})).collect();
        let values = vec![float([1, 1, channels]), float([1, 1, channels])];
        let stages = vec![stage(0, 1, json!({"chain": {"links": links}}))];
        let tensors =
            vec![("a", Dtype::F32, vec![0; 4 * channels]), ("b", Dtype::F32, vec![0; 4 * channels])];
        written(false, program(values, stages), tensors)
    };
    let (_folder, path) = biases(&["a", "b"]);
    assert!(Program::load(&path).is_ok());
    assert_refused(biases(&["a", "b", "a"]), "it uses the tensor a more than once");
    assert_refused(biases(&["a"; 65]), "it has 65 functions");
}

#[test]
fn weights_that_fill_few_bits_of_many_words_are_refused() {
    // A word of 64 channels, and sixteen of them side by side, for every single bit.
    let columns = product([1 << 22, 1], padding(0, 0), json!({"chain": {"links": []}}));
    let weights = vec![("weights", Dtype::U8, vec![0; 1 << 19])];
    assert_refused(signs([1 << 22, 1, 1], columns, float([1, 1, 1]), weights), "in whole vectors");
    let mut groups = product([1, 1], padding(0, 0), json!({"chain": {"links": []}}));
    groups["groups"] = json!(1 << 21);
    let weights = vec![("weights", Dtype::U8, vec![0; 1 << 18])];
    assert_refused(signs([1, 1, 1 << 21], groups, float([1, 1, 1 << 21]), weights), "in whole vectors");
}

#[test]
fn denominators_beyond_those_of_scales_are_refused() {
    let divided = |link: Value, operand: Value| {
        let mut stage = stage(0, 1, json!({"chain": {"links": [link]}}));
        stage["operand"] = operand;
        written(false, program(vec![float([1, 1, 2]), float([1, 1, 2])], vec![stage]), vec![])
    };
    for denominator in [0, (1 << 24) + 1, u32::MAX] {
        let factor = json!({"numerator": 1.0, "denominator": denominator});
        assert_refused(divided(json!({"value": factor}), Value::Null), "it divides by");
        assert_refused(divided(json!({"add": {"operand": factor}}), json!(0)), "it divides by");
    }
    let factor = json!({"numerator": 1.0, "denominator": 1 << 24});
    let (_folder, path) = divided(json!({"value": factor}), Value::Null);
    assert!(Program::load(&path).is_ok());
}

#[test]
fn functions_of_numbers_read_no_bytes() {
    let bytes = json!({"shape": [1, 1, 1], "elements": {"bytes": alphabet([0, 1, 256])}});
    let quantize = json!({"integer": {"quantize": {"scale": 1.0}}});
    let read = |chain: Value, operand: Value| {
        let mut last = stage(if operand.is_null() { 1 } else { 0 }, 2, json!({"chain": chain}));
        last["operand"] = operand;
        let values = vec![float([1, 1, 1]), bytes.clone(), float([1, 1, 1])];
        written(true, program(values, vec![stage(0, 1, quantize.clone()), last]), vec![])
    };
    assert_refused(read(json!({"links": []}), Value::Null), "it cannot make");
    let codes = json!({"shape": [1, 1, 1], "elements": {"packed": alphabet(BINARY)}});
    let sign = json!({"links": [{"quantize": {"alphabet": alphabet(BINARY), "cuts": "zero"}}]});
    let stages = vec![
        stage(0, 1, quantize.clone()),
        stage(1, 2, json!({"chain": sign})),
        stage(2, 3, json!({"chain": {"links": []}})),
    ];
    let values = vec![float([1, 1, 1]), bytes.clone(), codes, float([1, 1, 1])];
    let zero = vec![("zero", Dtype::F32, vec![0; 4])];
    assert_refused(written(true, program(values, stages), zero), "it cannot make");
    assert_refused(
        read(json!({"links": [{"add": {"operand": null}}]}), json!(1)),
        "its operand lies in bytes",
    );
}

#[test]
fn bytes_that_would_be_infinite_are_refused() {
    let mut program = program(vec![float([1, 1, 1])], vec![]);
    program["normalization"] = json!({"mean": [0.0], "std": [1e-39]});
    let (_folder, path) = written(false, program, vec![]);
    assert!(matches!(Program::load(&path), Err(Error::Data(_))));
}
