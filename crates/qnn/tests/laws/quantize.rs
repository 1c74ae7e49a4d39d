//! The program `quantize`, as another language sees it: `.npy` files in, `.npy` files out, equal to the library and to numbers
//! that were worked out by hand.

use std::fs;
use std::path::Path;

use ndarray_npy::{ReadableElement, read_npy, write_npy};
use qnn::quant::ndarray::{ArrayD, IxDyn, arr1, arr2};
use qnn::quant::registry::{self, Parameters};
use qnn::quant::{Granularity, Pair};

use crate::example::{Said, command, said};

/// A quantizer, an estimator, the flags, and the same parameters for the library.
type Case = (&'static str, Option<&'static str>, &'static str, Parameters);

fn cases() -> Vec<Case> {
    let p = Parameters::default;
    let bits = |bits| Parameters { bits: Some(bits), ..p() };
    vec![
        ("sign", Some("approx-sign"), "", p()),
        (
            "scaled-sign",
            Some("scaled-sign"),
            "--axis last",
            Parameters { axis: Some(Granularity::LastAxis), ..p() },
        ),
        ("stochastic-sign", Some("swish-sign"), "--seed 5", Parameters { seed: Some(5), ..p() }),
        ("hysteresis-sign", Some("error-decay"), "--t 2", Parameters { t: Some(2.0), ..p() }),
        (
            "ternary",
            Some("modified-tanh"),
            "--axis 1 --k 4",
            Parameters { axis: Some(Granularity::Axis(1)), k: Some(4.0), ..p() },
        ),
        ("trained-ternary", None, "--wp 0.7 --wn 0.4", Parameters { wp: Some(0.7), wn: Some(0.4), ..p() }),
        ("alphabet", Some("modified-tanh"), "--bits 2 --periodic", Parameters { periodic: true, ..bits(2) }),
        ("dorefa-weights", None, "--bits 4", bits(4)),
        ("dorefa-activations", None, "--bits 2", bits(2)),
        ("dorefa-gradients", None, "--bits 3 --seed 7", Parameters { seed: Some(7), ..bits(3) }),
        ("affine", None, "--axis 0", Parameters { axis: Some(Granularity::Axis(0)), ..p() }),
        ("inq", Some("leaky-clipped"), "--bits 5 --leak 0.25", Parameters { leak: Some(0.25), ..bits(5) }),
        ("pact", None, "--bits 4 --clip 1.5", Parameters { clip: Some(1.5), ..bits(4) }),
        ("lsq", Some("clipped-identity"), "--bits 3 --scale 0.1", Parameters { scale: Some(0.1), ..bits(3) }),
    ]
}

/// Numbers of both signs, zeros and halves among them.
fn tensor(shape: &[usize], offset: f32) -> ArrayD<f32> {
    let len = shape.iter().product::<usize>();
    let numbers = (0..len).map(|i| (i * 37 % 101) as f32 / 32.0 - offset).collect();
    ArrayD::from_shape_vec(IxDyn(shape), numbers).unwrap()
}

/// Runs `quantize` in a folder, with flags that are divided at spaces.
fn quantize(folder: &Path, flags: &str) -> Said {
    said(command("quantize").current_dir(folder).args(flags.split_whitespace()))
}

fn read<T: ReadableElement>(folder: &Path, name: &str) -> ArrayD<T> {
    read_npy(folder.join(name)).unwrap_or_else(|error| panic!("{name}: {error}"))
}

/// The same shape and, `−0.0` and NaN included, the same bits.
fn assert_same(what: &str, found: &ArrayD<f32>, expected: &ArrayD<f32>) {
    let bits = |array: &ArrayD<f32>| array.mapv(f32::to_bits);
    assert_eq!(bits(found), bits(expected), "{what}: {found} is not {expected}");
}

#[test]
fn files_hold_what_the_library_computes() {
    let folder = tempfile::tempdir().unwrap();
    let (x, dy) = (tensor(&[4, 3, 5], 1.5), tensor(&[4, 3, 5], 1.0));
    write_npy(folder.path().join("x.npy"), &x).unwrap();
    write_npy(folder.path().join("dy.npy"), &dy).unwrap();
    for (map, gradient, flags, parameters) in cases() {
        let estimator = gradient.map(|name| format!("--estimator {name}")).unwrap_or_default();
        let flags = format!(
            "--quantizer {map} {estimator} {flags} --input x.npy --upstream dy.npy --values y.npy \
             --codes c.npy --scales s.npy --gradient dx.npy"
        );
        let said = quantize(folder.path(), &flags);
        assert_eq!((said.code, said.err.as_str()), (Some(0), ""), "{flags}");
        assert_files(folder.path(), &flags, &registry::pair(map, gradient, &parameters).unwrap(), &x, &dy);
    }
}

fn assert_files(folder: &Path, flags: &str, pair: &Pair, x: &ArrayD<f32>, dy: &ArrayD<f32>) {
    let (values, grid) = pair.value(x.view()).unwrap();
    assert_same(flags, &read(folder, "y.npy"), &values);
    assert_eq!(read::<i32>(folder, "c.npy"), pair.map.codes(x.view(), &grid).unwrap(), "{flags}");
    assert_same(flags, &read(folder, "dx.npy"), &pair.pullback(x.view(), &grid, dy.view()).unwrap());
    let scales = match pair.map.trained() {
        Some(trained) if !grid.is_factored() => trained.parameters(),
        _ => grid.scales().to_vec(),
    };
    assert_same(flags, &read(folder, "s.npy"), &arr1(&scales).into_dyn());
}

#[test]
fn numbers_worked_out_by_hand_come_back() {
    let folder = tempfile::tempdir().unwrap();
    let path = |name: &str| folder.path().join(name);
    write_npy(path("x.npy"), &arr2(&[[-0.75_f32, -0.0], [0.25, 2.0]])).unwrap();
    write_npy(path("dy.npy"), &arr2(&[[1.0_f32, 2.0], [-4.0, 8.0]])).unwrap();
    let files =
        "--input x.npy --upstream dy.npy --values y.npy --codes c.npy --scales s.npy --gradient dx.npy";
    assert_eq!(
        quantize(folder.path(), &format!("--quantizer sign --estimator approx-sign {files}")).code,
        Some(0)
    );
    assert_eq!(read::<f32>(folder.path(), "y.npy"), arr2(&[[-1.0, 1.0], [1.0, 1.0]]).into_dyn());
    assert_eq!(read::<f32>(folder.path(), "dx.npy"), arr2(&[[0.5, 4.0], [-6.0, 0.0]]).into_dyn());

    // mean|x| = 0.75, the threshold 0.7 · 0.75 = 0.525, the scale (0.75 + 2) / 2.
    assert_eq!(quantize(folder.path(), &format!("--quantizer ternary {files}")).code, Some(0));
    assert_eq!(read::<i32>(folder.path(), "c.npy"), arr2(&[[-1, 0], [0, 1]]).into_dyn());
    assert_eq!(read::<f32>(folder.path(), "s.npy"), arr1(&[1.375]).into_dyn());
    assert_eq!(read::<f32>(folder.path(), "y.npy"), arr2(&[[-1.375, 0.0], [0.0, 1.375]]).into_dyn());
    assert_eq!(read::<f32>(folder.path(), "dx.npy"), read::<f32>(folder.path(), "dy.npy"));

    // Levels −1, −1/3, 1/3, 1, and codes that are odd numbers of thirds.
    assert_eq!(quantize(folder.path(), &format!("--quantizer alphabet --bits 2 {files}")).code, Some(0));
    assert_eq!(read::<i32>(folder.path(), "c.npy"), arr2(&[[-3, 1], [1, 3]]).into_dyn());
    assert_eq!(read::<f32>(folder.path(), "y.npy"), arr2(&[[-1.0, 1.0 / 3.0], [1.0 / 3.0, 1.0]]).into_dyn());
    assert_eq!(read::<f32>(folder.path(), "dx.npy"), arr2(&[[1.0, 2.0], [-4.0, 0.0]]).into_dyn());
}

#[test]
fn nothing_is_written_over_what_is_still_needed_or_before_all_is_known() {
    let folder = tempfile::tempdir().unwrap();
    let path = |name: &str| folder.path().join(name);
    write_npy(path("x.npy"), &arr1(&[-0.5_f32, 2.0])).unwrap();
    write_npy(path("dy.npy"), &arr1(&[1.0_f32, 2.0])).unwrap();
    write_npy(path("nan.npy"), &arr1(&[1.0_f32, f32::NAN])).unwrap();
    let files = || ["x.npy", "dy.npy", "nan.npy"].map(|name| fs::read(path(name)).unwrap());
    let before = files();
    for (flags, word) in [
        ("--input x.npy --values x.npy", "--input and --values are one file"),
        ("--input x.npy --upstream dy.npy --values ./dy.npy --gradient dx.npy", "--upstream and --values"),
        ("--input x.npy --values y.npy --codes y.npy", "--values and --codes"),
        ("--input nan.npy --values y.npy --codes c.npy", "element 1 is NaN"),
        ("--input x.npy --values y.npy --zero-points z.npy", "--zero-points"),
        ("--input x.npy --values y.npy --upstream missing.npy --gradient dx.npy", "missing.npy"),
    ] {
        quantize(folder.path(), &format!("--quantizer sign {flags}")).assert_refused(1, word);
        assert!(files() == before, "{flags}");
        assert_eq!(fs::read_dir(folder.path()).unwrap().count(), 3, "{flags}");
    }
}

#[test]
fn codes_are_the_state_that_comes_next() {
    let folder = tempfile::tempdir().unwrap();
    write_npy(folder.path().join("x.npy"), &arr1(&[-0.05_f32, 0.05, 0.5])).unwrap();
    write_npy(folder.path().join("past.npy"), &arr1(&[1.0_f32, -1.0, -1.0])).unwrap();
    let flags = "--quantizer hysteresis-sign --input x.npy --codes c.npy";
    assert_eq!(quantize(folder.path(), &format!("{flags} --previous past.npy")).code, Some(0));
    assert_eq!(read::<i32>(folder.path(), "c.npy"), arr1(&[1, -1, 1]).into_dyn());
    fs::rename(folder.path().join("c.npy"), folder.path().join("past.npy")).unwrap();
    assert_eq!(quantize(folder.path(), &format!("{flags} --previous past.npy")).code, Some(0));
    assert_eq!(read::<i32>(folder.path(), "c.npy"), arr1(&[1, -1, 1]).into_dyn());
}

/// A file with this header, in a version of the format and without the padding that NumPy puts behind it.
fn npy(version: u8, header: &str, data: &[u8]) -> Vec<u8> {
    let len = header.len().to_le_bytes();
    let len = if version == 1 { &len[..2] } else { &len[..4] };
    [b"\x93NUMPY", &[version, 0][..], len, header.as_bytes(), data].concat()
}

#[test]
fn files_of_other_programs_are_read_or_refused_with_advice() {
    let folder = tempfile::tempdir().unwrap();
    let header = |descriptor: &str, fortran: &str, shape: &str| {
        format!("{{'descr': '{descriptor}', 'fortran_order': {fortran}, 'shape': {shape}}}\n")
    };
    let numbers: Vec<u8> =
        [1.0_f32, -2.0, 3.0, -4.0, 5.0, 6.0].iter().flat_map(|x| x.to_le_bytes()).collect();
    let run = |bytes: &[u8]| {
        fs::write(folder.path().join("x.npy"), bytes).unwrap();
        quantize(folder.path(), "--quantizer identity --input x.npy --values y.npy")
    };
    // Elements at any address, and in any order of axes.
    for padding in 0..4 {
        let header = |fortran| header("<f4", fortran, "(2, 3)").replace('\n', &format!("{:padding$}\n", ""));
        for version in 1..=3 {
            assert_eq!(run(&npy(version, &header("False"), &numbers)).code, Some(0));
            let expected = arr2(&[[1.0, -2.0, 3.0], [-4.0, 5.0, 6.0]]).into_dyn();
            assert_eq!(read::<f32>(folder.path(), "y.npy"), expected);
            assert_eq!(run(&npy(version, &header("True"), &numbers)).code, Some(0));
            let expected = arr2(&[[1.0, 3.0, 5.0], [-2.0, -4.0, 6.0]]).into_dyn();
            assert_eq!(read::<f32>(folder.path(), "y.npy"), expected);
        }
    }
    let plain = header("<f4", "False", "(2, 3)");
    let vast = header("<f4", "False", "(0, 4294967296, 4294967296)");
    for (bytes, word) in [
        (npy(1, &header(">f4", "False", "(2, 3)"), &numbers), "byte order: save it with x.astype"),
        (npy(9, &plain, &numbers), "version 9"),
        (npy(1, &vast, &[]), "no machine has room"),
        (npy(1, &header("<f4", "False", "(0, 99999999999999999999)"), &[]), "no machine has room"),
        (npy(1, &plain, &numbers)[..20].to_vec(), "ends within its header"),
        (npy(2, &plain, &numbers)[..11].to_vec(), "ends within its header"),
        // To read it whole takes hours.
        (
            npy(1, &plain.replace("(2, 3)", &format!("{}1{}", "[".repeat(40), "]".repeat(40))), &numbers),
            "nested",
        ),
        (b"1.0 2.0 3.0\n".to_vec(), "no .npy file"),
        (Vec::new(), "no .npy file"),
        (b"PK\x03\x04 and more".to_vec(), "numpy.save"),
    ] {
        run(&bytes).assert_refused(1, word);
    }
    assert_eq!(run(&npy(1, &header("<f4", "False", "(0, 4)"), &[])).code, Some(0));
    assert_eq!(run(&npy(1, &header("<f4", "False", "()"), &numbers[..4])).code, Some(0));
}

/// Flags after the input, and what the message must name.
const REFUSED: [(&str, &str); 15] = [
    ("x.npy --quantizer dorefa-weights --bits 0", "1 to 8 bits, got 0"),
    ("x.npy --quantizer dorefa-activations --bits 33", "1 to 8 bits, got 33"),
    ("x.npy --quantizer lsq --scale 1 --bits 1", "2 to 8 bits, got 1"),
    ("x.npy --quantizer alphabet", "needs `--bits`"),
    ("x.npy --quantizer sign --bits 2", "`--bits` has no meaning"),
    ("x.npy --quantizer ternary --axis 2", "axis 2 is out of range for an array of 2 axes"),
    ("x.npy --quantizer nonsense", "unknown quantizer `nonsense`"),
    ("x.npy --quantizer sign --estimator nonsense", "unknown estimator `nonsense`"),
    ("x.npy --quantizer identity --codes c.npy", "does not quantize"),
    ("x.npy --quantizer sign --upstream row.npy --gradient dx.npy", "has shape [3], expected [2, 3]"),
    ("nan.npy --quantizer sign --codes c.npy", "element 1 is NaN"),
    ("inf.npy --quantizer scaled-sign --values y.npy", "element 0 is inf"),
    ("cut.npy --quantizer sign", "cut.npy"),
    (
        "doubles.npy --quantizer sign",
        "doubles.npy holds <f8, expected float32: save it with x.astype(numpy.float32)",
    ),
    ("missing.npy --quantizer sign", "missing.npy"),
];

#[test]
fn what_cannot_be_quantized_is_named() {
    let folder = tempfile::tempdir().unwrap();
    let path = |name: &str| folder.path().join(name);
    write_npy(path("x.npy"), &tensor(&[2, 3], 0.5)).unwrap();
    write_npy(path("row.npy"), &tensor(&[3], 0.5)).unwrap();
    write_npy(path("nan.npy"), &arr1(&[1.0_f32, f32::NAN])).unwrap();
    write_npy(path("inf.npy"), &arr1(&[f32::INFINITY, 1.0])).unwrap();
    write_npy(path("doubles.npy"), &arr1(&[1.0_f64])).unwrap();
    let whole = fs::read(path("x.npy")).unwrap();
    for len in [0, 5, 9, 64, whole.len() - 1] {
        fs::write(path("cut.npy"), &whole[..len]).unwrap();
        quantize(folder.path(), "--quantizer sign --input cut.npy").assert_refused(1, "cut.npy");
    }
    for (flags, word) in REFUSED {
        quantize(folder.path(), &format!("--input {flags}")).assert_refused(1, word);
        assert!(!["c.npy", "dx.npy"].iter().any(|name| path(name).exists()), "{flags}");
    }
    // Where no integer is asked for, NaN passes.
    assert_eq!(quantize(folder.path(), "--quantizer sign --input nan.npy --values y.npy").code, Some(0));
    let values = read::<f32>(folder.path(), "y.npy");
    assert!(values[0] == 1.0 && values[1].is_nan());
    // What clap itself refuses: a gradient without dy, parameters that are no numbers, and a start that is given twice.
    for flags in [
        "--quantizer sign --input x.npy --gradient dx.npy",
        "--quantizer sign --input x.npy --bits two",
        "--quantizer lsq --input x.npy --bits 3 --initial --scale 1",
    ] {
        assert_eq!(quantize(folder.path(), flags).code, Some(2), "{flags}");
    }
}

#[test]
fn parameters_that_are_trained_start_where_training_would() {
    let folder = tempfile::tempdir().unwrap();
    write_npy(folder.path().join("x.npy"), &tensor(&[4, 5], 1.5)).unwrap();
    for flags in ["lsq --bits 3", "trained-ternary"] {
        let values = |start: &str| {
            let flags = format!("--quantizer {flags} {start} --input x.npy --values y.npy");
            assert_eq!(quantize(folder.path(), &flags).code, Some(0), "{flags}");
            read::<f32>(folder.path(), "y.npy")
        };
        assert_same(flags, &values(""), &values("--initial"));
    }
}

#[test]
fn the_help_explains_every_flag_under_its_heading() {
    let help = said(command("quantize").arg("--help")).out;
    let (parameters, outputs) = help.split_once("Outputs (.npy files):").expect("a heading for the outputs");
    let (_, parameters) =
        parameters.split_once("Parameters (see --list):").expect("a heading for the parameters");
    for flag in ["--values", "--codes", "--gradient"] {
        assert!(outputs.contains(flag) && !parameters.contains(&format!(" {flag} ")), "{flag} in {help}");
    }
    let lines: Vec<&str> = parameters.lines().chain(outputs.lines()).collect();
    for (i, line) in lines.iter().enumerate().filter(|(_, line)| line.trim_start().starts_with("--")) {
        let beside = line.trim().contains("  ");
        let below = lines.get(i + 1).is_some_and(|below| !below.trim().is_empty() && !below.contains("--"));
        assert!(beside || below, "{line:?} has no explanation");
    }
}

#[test]
fn the_list_names_every_quantizer_and_estimator_with_its_formula() {
    let said = said(command("quantize").arg("--list"));
    assert_eq!(said.code, Some(0));
    let (quantizers, estimators) = said.out.split_once("Estimators").expect("two sections");
    let stands_in = |section: &str, name: &str, formula: &str| {
        let mut lines = section.lines().filter_map(|line| line.trim().split_once(' '));
        lines.any(|(first, rest)| first == name && rest.trim() == formula)
    };
    for listing in registry::quantizers() {
        assert!(
            stands_in(quantizers, listing.name, listing.formula),
            "{} is not in {quantizers}",
            listing.name
        );
    }
    for listing in registry::estimators() {
        assert!(
            stands_in(estimators, listing.name, listing.formula),
            "{} is not in {estimators}",
            listing.name
        );
    }
    let flags = registry::quantizers().chain(registry::estimators()).flat_map(|listing| listing.parameters);
    for flag in flags {
        assert!(said.out.contains(&format!("--{flag}")), "--{flag} is not in {}", said.out);
    }
}
