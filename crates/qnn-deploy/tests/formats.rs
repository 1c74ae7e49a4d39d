//! Codes of any alphabet behind any layers: packed where a kernel takes them so, else as numbers with the
//! reason, and always exact.

mod common;

use std::sync::Arc;

use common::{assert_exact, images, randomize};
use ndarray::{ArrayViewD, ArrayViewMutD};
use qnn_deploy::{Action, Arithmetic, Elements, Error, Program, Value, freeze, verify};
use qnn_layers::{
    BatchNorm, BatchNormConfig, Conv2d, Conv2dConfig, Dense, DenseConfig, Flatten, GlobalAveragePool, Init,
    Layer, LeafMut, MaxPool2d, Module, PaddingRule, Path, Quantize, Relu, Sequential, Window,
};
use qnn_models::PadZero;
use qnn_quant::{
    Alphabet, DorefaActivations, Estimator, Grid, Groups, Pair, Quantizer, Sign, StraightThrough, elementwise,
};

/// The code of an alphabet that is nearest to so many times a number.
#[derive(Clone, Copy, Debug)]
struct Nearest(Alphabet, f32);

impl Quantizer for Nearest {
    fn name(&self) -> &'static str {
        "nearest"
    }

    fn is_fixed(&self) -> bool {
        true
    }

    fn fit(&self, _: ArrayViewD<'_, f32>) -> qnn_quant::Result<Grid> {
        Grid::unit(self.0)
    }

    fn codes_into(
        &self,
        x: ArrayViewD<'_, f32>,
        _: &Grid,
        codes: ArrayViewMutD<'_, f32>,
    ) -> qnn_quant::Result<()> {
        let Self(Alphabet { first, step, count }, gain) = *self;
        let code = |x: f32, ()| {
            let level = ((x * gain - first as f32) / step as f32).round();
            first as f32 + step as f32 * level.clamp(0.0, (count - 1) as f32)
        };
        elementwise::map_into(x, Groups::Tensor, &[()], codes, |x, &()| code(x, ()))
    }

    fn published(&self) -> Arc<dyn Estimator> {
        Arc::new(StraightThrough)
    }
}

fn quantize(map: impl Quantizer + 'static) -> Quantize {
    Quantize::new(Pair::published(map))
}

fn conv(inputs: usize, outputs: usize, weights: impl Quantizer + 'static) -> Conv2d {
    let config = Conv2dConfig {
        kernel_quantizer: Some(Pair::published(weights)),
        padding: PaddingRule::Same,
        ..Conv2dConfig::new(inputs, outputs, 3)
    };
    Conv2d::new(&config, &mut Init::new(5)).unwrap()
}

/// Whether a pool of the program reads codes in their packed form.
fn pools_packed(program: &Program) -> bool {
    let packed =
        |value: usize| matches!(program.values()[value], Value { elements: Elements::Packed(_), .. });
    let mut stages = program.stages().iter();
    stages.any(|stage| matches!(stage.action, Action::MaxPool { .. }) && packed(stage.input))
}

fn frozen(model: &dyn Layer, shape: [usize; 3]) -> Program {
    freeze(model, shape).unwrap_or_else(|error| panic!("{error}"))
}

#[test]
fn codes_of_many_bits_are_pooled_as_bytes() {
    for bits in [2, 4, 5, 6, 7, 8] {
        let activations = || quantize(DorefaActivations::new(bits).unwrap());
        let model = Sequential::new().then(activations()).then(MaxPool2d::new(2)).then(conv(3, 5, Sign));
        assert_exact(&format!("{bits} bits"), &model, [8, 8, 3]);
        assert!(pools_packed(&frozen(&model, [8, 8, 3])), "{bits} bits");
        // The pool of a pool.
        let model = Sequential::new()
            .then(activations())
            .then(MaxPool2d::new(2))
            .then(MaxPool2d::new(2))
            .then(conv(3, 5, Sign));
        assert_exact(&format!("{bits} bits, twice"), &model, [8, 8, 3]);
    }
}

#[test]
fn codes_are_pooled_as_numbers_where_windows_are_incomplete() {
    let ceil = || MaxPool2d { window: Window { ceil: true, ..Window::square(2) } };
    for signs in [true, false] {
        let codes = || if signs { quantize(Sign) } else { quantize(DorefaActivations::new(6).unwrap()) };
        let alone = Sequential::new().then(codes()).then(ceil()).then(conv(3, 5, Sign));
        let before =
            Sequential::new().then(codes()).then(ceil()).then(MaxPool2d::new(2)).then(conv(3, 5, Sign));
        let behind =
            Sequential::new().then(codes()).then(MaxPool2d::new(2)).then(ceil()).then(conv(3, 5, Sign));
        for (what, model) in [("alone", alone), ("before", before), ("behind", behind)] {
            assert_exact(what, &model, [7, 7, 3]);
            let program = frozen(&model, [7, 7, 3]);
            assert!(!pools_packed(&program), "{what}\n{program}");
            assert!(program.to_string().contains("its input's codes lie as numbers"), "{what}\n{program}");
        }
    }
}

/// Sums of integers, of planes and of bytes, and of codes that lie as numbers: the training graph has them exactly, and so do programs.
#[test]
fn sums_beyond_f32_are_those_of_integers() {
    let unsigned = Nearest(Alphabet::unsigned(8), 1e3);
    let signed = Nearest(Alphabet::signed(8), 1e3);
    // The greatest code of both, for all weights are made positive.
    let (planes, bytes) = (Nearest(Alphabet::odd(8), 1e6), Nearest(Alphabet::symmetric(127), 1e6));
    let no_encoding = Nearest(Alphabet::symmetric(500), 1e6);
    let dense = |w: Nearest| {
        let kernel_quantizer = Some(Pair::published(w));
        Dense::new(&DenseConfig { kernel_quantizer, ..DenseConfig::new(5 * 5 * 300, 3) }, &mut Init::new(2))
    };
    let ceil = MaxPool2d { window: Window { ceil: true, ..Window::square(2) } };
    let start = |x| Sequential::new().then(quantize(x));
    let cases = [
        ("planes", start(unsigned).then(conv(300, 5, planes)), Arithmetic::Integer),
        ("bytes", start(signed).then(conv(300, 5, bytes)), Arithmetic::Integer),
        ("dense", start(unsigned).then(Flatten).then(dense(planes).unwrap()), Arithmetic::Integer),
        ("numbers", start(unsigned).then(ceil).then(conv(300, 5, planes)), Arithmetic::Exact),
        ("codes of no encoding", start(unsigned).then(conv(300, 5, no_encoding)), Arithmetic::Exact),
        (
            "codes behind exact sums",
            start(unsigned).then(ceil).then(conv(300, 5, planes)).then(quantize(unsigned)),
            Arithmetic::Exact,
        ),
    ];
    let folder = tempfile::tempdir().unwrap();
    for (what, mut model, expected) in cases {
        let shape = [5, 5, 300];
        model.visit_mut(&mut Path::default(), &mut |_, leaf| {
            if let LeafMut::Param(param) = leaf {
                param.value_mut().as_mut_slice().iter_mut().for_each(|weight| *weight = weight.abs());
            }
        });
        assert_exact(what, &model, shape);
        let program = frozen(&model, shape);
        let product = program.stages().iter().find_map(|stage| match &stage.action {
            Action::Product(product) => Some(product),
            _ => None,
        });
        assert_eq!(product.map(|product| product.arithmetic), Some(expected), "{what}\n{program}");
        let path = folder.path().join(what);
        program.save(&path).unwrap();
        assert_eq!(Program::load(&path).unwrap(), program, "{what}");
        let report = verify(&model, &program, [images(3, shape, 6).as_slice().to_vec()]).unwrap();
        assert!(report.is_exact(), "{what}: {report}");
    }
}

#[test]
fn channels_of_zeros_behind_codes_are_numbers() {
    let zeros = || PadZero { stride: 2, channels: 6 };
    for (what, codes) in [
        ("signs", Pair::published(Sign)),
        ("two bits", Pair::published(DorefaActivations::new(2).unwrap())),
        ("odd", Pair::published(Nearest(Alphabet::odd(2), 4.0))),
    ] {
        let quantized = || Sequential::new().then(Quantize::new(codes.clone())).then(zeros());
        let products = quantized().then(conv(6, 5, Sign));
        let pooled = quantized().then(MaxPool2d::new(2)).then(conv(6, 5, Sign));
        let mean = quantized().then(GlobalAveragePool);
        for model in [products, pooled, mean] {
            assert_exact(what, &model, [8, 8, 3]);
        }
    }
    let program =
        frozen(&Sequential::new().then(quantize(Sign)).then(zeros()).then(conv(6, 5, Sign)), [8, 8, 3]);
    assert!(program.to_string().contains("its input's codes lie as numbers"), "{program}");
}

/// Everything that codes meet in a network, by codes that lie in planes, in bytes and in nothing but numbers.
fn network(x: Nearest, w: Nearest) -> Sequential {
    let norm = || BatchNorm::new(&BatchNormConfig::new(3)).unwrap();
    let dense = DenseConfig { kernel_quantizer: Some(Pair::published(w)), ..DenseConfig::new(4 * 4 * 2, 3) };
    let mut model = Sequential::new()
        .then(quantize(x))
        .then(conv(2, 3, w))
        .then(MaxPool2d::new(2))
        .then(norm())
        .then(quantize(x))
        .then(conv(3, 3, w))
        .then(norm())
        .then(quantize(x))
        .then(conv(3, 2, w))
        .then(quantize(x))
        .then(Flatten)
        .then(Dense::new(&dense, &mut Init::new(2)).unwrap());
    randomize(&mut model, 3);
    model
}

#[test]
fn alphabets_of_every_kind_meet_each_other() {
    let odd = |bits| Alphabet::odd(bits);
    let activations = [
        Alphabet::BINARY,
        Alphabet::TERNARY,
        Alphabet::UNIT,
        odd(2),
        odd(5),
        odd(8),
        Alphabet::unsigned(3),
        Alphabet::unsigned(8),
        Alphabet::unsigned(9),
        Alphabet::signed(2),
        Alphabet::signed(8),
        Alphabet { first: 5, step: 1, count: 4 },
        Alphabet { first: -6, step: 3, count: 4 },
        Alphabet { first: 0, step: 1, count: 1 },
    ];
    let weights = [
        Alphabet::BINARY,
        odd(2),
        odd(8),
        Alphabet::unsigned(2),
        Alphabet::signed(8),
        Alphabet::symmetric(200),
    ];
    for x in activations {
        for w in weights {
            // Thresholds are compared with the functions at every sum: of these it would take seconds.
            if x.last() * w.last() > 1 << 15 {
                continue;
            }
            // Numbers around 1 take most of the codes.
            let gain = |codes: Alphabet| codes.last().max(1) as f32;
            let model = network(Nearest(x, gain(x)), Nearest(w, 3.0 * gain(w)));
            let what = format!("{x:?} by {w:?}");
            assert_exact(&what, &model, [8, 8, 2]);
            let program = frozen(&model, [8, 8, 2]);
            let batch = [images(3, [8, 8, 2], 7).as_slice().to_vec()];
            let report = verify(&model, &program, batch).unwrap();
            assert!(report.is_exact(), "{what}: {report}");
            let folder = tempfile::tempdir().unwrap();
            let path = folder.path().join("model");
            program.save(&path).unwrap();
            assert_eq!(Program::load(&path).unwrap(), program, "{what}");
        }
    }
}

#[test]
fn products_without_a_kernel_say_why() {
    let text = |x, w| frozen(&network(Nearest(x, 2.0), Nearest(w, 2.0)), [8, 8, 2]).to_string();
    let cases = [
        (Alphabet::odd(2), Alphabet::odd(2), "integer sums"),
        (Alphabet::signed(8), Alphabet::odd(3), "integer sums"),
        (Alphabet::unsigned(8), Alphabet::BINARY, "integer sums"),
        (Alphabet::signed(8), Alphabet::odd(8), "no integer kernel takes it: the weights as odd (8 bit)"),
        (Alphabet::unsigned(2), Alphabet::signed(8), "no integer kernel takes it: the weights as int8"),
        (Alphabet::unsigned(9), Alphabet::BINARY, "no integer kernel takes it: an encoding of 9 bits"),
        (Alphabet::BINARY, Alphabet::symmetric(200), "its weights are f32"),
    ];
    for (x, w, expected) in cases {
        let text = text(x, w);
        assert!(text.contains(expected), "{x:?} by {w:?}: {expected}\n{text}");
    }
}

/// Sums that stay small, of so many terms that the kernel of planes must expect large ones.
#[test]
fn sums_that_an_accumulator_might_not_hold_are_numbers() {
    let terms = 34_000;
    let (x, w) = (Nearest(Alphabet::unsigned(8), 1.0), Nearest(Alphabet::odd(8), 0.0));
    let dense = DenseConfig { kernel_quantizer: Some(Pair::published(w)), ..DenseConfig::new(terms, 1) };
    let model = Sequential::new().then(quantize(x)).then(Dense::new(&dense, &mut Init::new(2)).unwrap());
    assert_exact("many terms", &model, [1, 1, terms]);
    let text = frozen(&model, [1, 1, terms]).to_string();
    assert!(text.contains("overflow a 32-bit accumulator"), "{text}");
}

#[test]
fn large_kernels_around_codes_without_zero_are_numbers() {
    let config = |kernel| Conv2dConfig {
        kernel: [kernel, 1],
        kernel_quantizer: Some(Pair::published(Sign)),
        padding: PaddingRule::Same,
        ..Conv2dConfig::new(2, 3, 1)
    };
    for (kernel, fits) in [(63, true), (65, false)] {
        let conv = Conv2d::new(&config(kernel), &mut Init::new(1)).unwrap();
        let model = Sequential::new().then(quantize(Sign)).then(conv);
        assert_exact("a large kernel", &model, [80, 1, 2]);
        let text = frozen(&model, [80, 1, 2]).to_string();
        assert_eq!(text.contains("its kernel is too large to be padded with zeros"), !fits, "{text}");
    }
}

#[test]
fn what_no_program_holds_names_its_layers() {
    let far = Window { stride: [1 << 27, 1], ..Window::square(2) };
    let model = Sequential::new().then(Relu::default()).then(MaxPool2d { window: far });
    let error = freeze(&model, [4, 4, 1]).unwrap_err();
    let Error::Unsupported { layer, reason } = &error else { panic!("{error}") };
    assert!(layer.contains("pool") && reason.contains("does not fit images of 4 × 4"), "{error}");
}
