//! From a trained model to a packed one: freeze it, compare the two on every test image, time both,
//! save.
//!
//! ```text
//! cargo run --release --example resnet20_bc -- --variant bc-1.2 --data data
//! cargo run --release --example deploy -- --network resnet \
//!     --model runs/resnet20_bc/bc-1.2/best.safetensors --data data --out resnet20.qnn
//! ```
//!
//! A model file says how its network was quantized, on which data and with which accuracy it was trained, and how its
//! images were normalised: that is taken over, and what the flags say otherwise is warned of.
//!
//! A network in full precision becomes one of integers on the way, calibrated on some training images:
//!
//! ```text
//! cargo run --release --example deploy -- --model runs/lenet5_mnist/fp/model.safetensors \
//!     --post-training int8 --calibrate 512 --range percentile --data data --out lenet5.qnn
//! ```

use std::fmt;
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::sync::Arc;
use std::time::{Duration, Instant};

use clap::builder::RangedU64ValueParser;
use clap::error::ErrorKind;
use clap::{ArgAction, CommandFactory, Parser, ValueEnum};
use qnn::data::{Dataset, Images, Loader, LoaderConfig, Normalize};
use qnn::deploy::{Program, Session, freeze, verify};
use qnn::experiment::{MAX_THREADS, Provenance, check_instruction_set, say};
use qnn::kernels::Kernels;
use qnn::layers::{Ctx, StateDict, load_state_dict, model_bits, state_dict};
use qnn::prelude::*;
use qnn::quant::registry::{self, Parameters};
use qnn::quant::{Granularity, RangeMethod};
use qnn::train::{Checkpoint, load_metadata, load_weights, quantize_trained};

/// What `--help` ends with.
const VARIANTS: &str = "\
Variants of the experiments that are no preset take flags:
  bc-fp-projections         --network resnet --preset bc --fp-projections
  bc-no-projections         --network resnet --preset bc --shortcut none
  hard-K, tanh-S-K          --network mlp3 or bnn-cnn, --preset even-K
  svhn-hard-K, ...          --network bnn-cnn --width 64 --preset even-K
  deterministic, stochastic*  --network mlp3 --preset bnn --output-norm
  no-hysteresis             --network resnet --preset w1a8 --quantizer scaled-sign
  hysteresis-0.05           --network resnet --preset w1a8 --quantizer hysteresis-sign --threshold 0.05
  w1                        --network resnet --preset bc --quantizer hysteresis-sign
  any with --quantizer      --preset of the variant, and the same --quantizer with its parameters
The hard tanh networks in full precision (fp of mlp_bits and cnn_bits) and TinyModel (tiny and tiny-fp
of mlp_bits) have no flags here.";

/// Freezes a trained network into a packed model, verifies it on the test set, and saves it
#[derive(Parser)]
#[command(name = "deploy", max_term_width = 100, after_help = VARIANTS)]
struct Args {
    /// The network that was trained
    #[arg(long, value_enum, default_value = "lenet5")]
    network: Network,

    /// How it was quantized, such as bnn, dorefa, twn, bc-1.2, even-2, fp (--list of any experiment
    /// shows all) [default: what the model file says; bnn without a model]
    #[arg(long, value_name = "NAME")]
    preset: Option<String>,

    /// Model file or checkpoint of the training; without one the weights are random
    #[arg(long, value_name = "FILE")]
    model: Option<PathBuf>,

    /// The number of weight layers of a resnet [default: 20]
    #[arg(long, value_name = "LAYERS")]
    depth: Option<usize>,

    /// What a resnet's shortcuts do where sizes change [default: projection]
    #[arg(long, value_enum)]
    shortcut: Option<ShortcutName>,

    /// Whether the projections of a resnet's shortcuts stayed in full precision
    #[arg(long)]
    fp_projections: bool,

    /// Units of each hidden layer of mlp3 [default: 1024]; filters of the first layer of bnn-cnn
    /// [default: 128]
    #[arg(long, value_name = "N")]
    width: Option<usize>,

    /// Whether batch norm follows the last layer of mlp3 or bnn-cnn
    #[arg(long)]
    output_norm: bool,

    /// Whether the first layer stayed in full precision
    #[arg(long, value_name = "true|false", action = ArgAction::Set)]
    first_fp: Option<bool>,

    /// Whether the last layer stayed in full precision
    #[arg(long, value_name = "true|false", action = ArgAction::Set)]
    last_fp: Option<bool>,

    #[command(flatten)]
    kernels: KernelFlags,

    /// Where the data are: auto, embedded, or a folder
    #[arg(long, value_name = "auto|embedded|PATH", default_value = "auto")]
    data: Source,

    /// The data set [default: what the model file says; else mnist for lenet5 and mlp3, cifar10 for
    /// the others]
    #[arg(long, value_name = "NAME")]
    dataset: Option<DatasetName>,

    /// Use only the first N images of each split, as the training did
    #[arg(long, value_name = "N", value_parser = at_least_one())]
    limit: Option<usize>,

    /// Images per batch, for verification and times
    #[arg(long, value_name = "N", default_value_t = 100, value_parser = at_least_one())]
    batch: usize,

    /// Threads; the results do not depend on it
    #[arg(long, value_name = "N", default_value_t = 1, value_parser = RangedU64ValueParser::<usize>::new().range(1..=MAX_THREADS as u64))]
    threads: usize,

    /// Quantize the trained network to this preset, without training
    #[arg(long, value_name = "NAME")]
    post_training: Option<String>,

    /// Training images that show which ranges activations have
    #[arg(long, value_name = "IMAGES", default_value_t = 512, requires = "post_training", value_parser = at_least_one())]
    calibrate: usize,

    /// How ranges follow from what was seen
    #[arg(long, value_enum, default_value = "percentile", requires = "post_training")]
    range: Range,

    /// Where to write the packed model
    #[arg(long, value_name = "FILE", default_value = "model.qnn")]
    out: PathBuf,
}

/// The map of kernels, as an experiment's flags of the same names put it in place of the preset's.
#[derive(clap::Args)]
struct KernelFlags {
    /// Kernels were quantized with this map instead of the preset's
    #[arg(long, value_name = "NAME")]
    quantizer: Option<String>,

    /// Bits of --quantizer
    #[arg(long, value_name = "K", requires = "quantizer")]
    bits: Option<u32>,

    /// Scale of --quantizer
    #[arg(long, value_name = "S", requires = "quantizer")]
    scale: Option<f32>,

    /// Over which elements --quantizer takes its statistics
    #[arg(long, value_name = "tensor|last|N", requires = "quantizer")]
    axis: Option<Granularity>,

    /// Threshold of --quantizer
    #[arg(long, value_name = "T", requires = "quantizer")]
    threshold: Option<f64>,

    /// Levels -1, 0, 1 of --quantizer ternary
    #[arg(long, requires = "quantizer")]
    unscaled: bool,

    /// The range of --quantizer
    #[arg(long, value_name = "C", requires = "quantizer")]
    clip: Option<f32>,
}

impl KernelFlags {
    /// The map, if there is one. Which gradient it was trained with makes no difference to a trained network.
    fn pair(&self) -> Result<Option<Pair>, qnn::quant::Error> {
        let Self { bits, scale, axis, threshold, unscaled, clip, .. } = *self;
        let parameters = Parameters { bits, scale, axis, threshold, unscaled, clip, ..Parameters::default() };
        self.quantizer.as_deref().map(|name| registry::pair(name, None, &parameters)).transpose()
    }
}

fn at_least_one() -> RangedU64ValueParser<usize> {
    RangedU64ValueParser::new().range(1..)
}

#[derive(Clone, Copy, PartialEq, Eq, ValueEnum)]
enum Network {
    Lenet5,
    Vgg7,
    Resnet,
    /// The perceptron of mlp_bits and stochastic_vs_deterministic
    Mlp3,
    /// The network of cnn_bits
    BnnCnn,
}

#[derive(Clone, Copy, ValueEnum)]
enum Range {
    /// From the least to the greatest
    MinMax,
    /// The average over batches, of which a new one counts for a tenth
    MovingAverage,
    /// Without one of ten thousand at each end
    Percentile,
    /// The least mean squared error
    SquaredError,
    /// The least Kullback-Leibler divergence
    Divergence,
}

#[derive(Clone, Copy, ValueEnum)]
enum ShortcutName {
    Projection,
    ProjectionNorm,
    PadZero,
    None,
}

fn main() -> ExitCode {
    let args = Args::parse();
    if let Err(reason) = args.check() {
        Args::command().error(ErrorKind::ArgumentConflict, reason).exit();
    }
    let pool = rayon::ThreadPoolBuilder::new().num_threads(args.threads).build();
    let result = pool.map_err(AnyError::from).and_then(|pool| pool.install(|| run(&args)));
    match result {
        Ok(true) => ExitCode::SUCCESS,
        Ok(false) => ExitCode::FAILURE,
        Err(error) => {
            eprintln!("error: {error}");
            ExitCode::FAILURE
        }
    }
}

type AnyError = Box<dyn std::error::Error + Send + Sync>;

impl Args {
    /// Refuses flags that the network has no use for.
    fn check(&self) -> Result<(), String> {
        let of_resnet = [
            (self.depth.is_some(), "--depth"),
            (self.shortcut.is_some(), "--shortcut"),
            (self.fp_projections, "--fp-projections"),
        ];
        let has_width = matches!(self.network, Network::Mlp3 | Network::BnnCnn);
        match of_resnet.iter().find(|(given, _)| *given && self.network != Network::Resnet) {
            Some((_, flag)) => Err(format!("{flag} belongs to --network resnet, not to {}", self.network)),
            None if (self.width.is_some() || self.output_norm) && !has_width => {
                let flag = if self.output_norm { "--output-norm" } else { "--width" };
                Err(format!("{flag} belongs to --network mlp3 and bnn-cnn, not to {}", self.network))
            }
            None => Ok(()),
        }
    }
}

impl fmt::Display for Network {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let value = self.to_possible_value().expect("no network is hidden");
        f.write_str(value.get_name())
    }
}

/// Weights, and what their file says about them.
struct Trained<'a> {
    file: &'a Path,
    weights: StateDict,
    provenance: Provenance,
}

/// Whether the packed model is exactly the trained one.
fn run(args: &Args) -> Result<bool, AnyError> {
    check_instruction_set()?;
    check_place(&args.out, args.model.as_deref())?;
    let trained = args.model.as_deref().map(Trained::read).transpose()?;
    let preset = preset(args, trained.as_ref())?;
    let mut design = design(args, preset)?;
    let scheme = design.scheme_mut();
    scheme.first_full_precision = args.first_fp.or(scheme.first_full_precision);
    scheme.last_full_precision = args.last_fp.or(scheme.last_full_precision);
    scheme.projections_full_precision |= args.fp_projections;
    if let Some(kernel) = args.kernels.pair()? {
        scheme.kernel = Some(kernel);
    }
    let mut model = design.build(&mut Init::new(0))?;
    match &trained {
        Some(trained) => trained.load_into(model.as_mut(), args, preset)?,
        None => say("no --model: the weights are random"),
    }
    let dataset = dataset(args, trained.as_ref(), design.input())?;
    let normalize = normalize(trained.as_ref(), &dataset);
    if let Some(preset) = &args.post_training {
        *design.scheme_mut() = Scheme::preset(preset)?;
        model = quantized(args, design.as_ref(), model.as_ref(), &dataset, &normalize)?;
    }
    let classes =
        trained.as_ref().map(|trained| &trained.provenance.classes).filter(|known| !known.is_empty());
    let classes = classes.map_or_else(|| dataset.test.class_names().to_vec(), Vec::clone);
    let program =
        freeze(model.as_ref(), design.input())?.with_normalization(&normalize)?.with_classes(classes)?;
    say(&program);
    say(format_args!("kernels: {}; threads: {}", Kernels::current().isa(), args.threads));
    let program = stored(&program)?;
    let (exact, correct) = check(args, model.as_ref(), &program, &dataset, &normalize)?;
    if exact {
        program.save(&args.out)?;
    }
    report_accuracy(args, trained.as_ref(), &dataset, correct);
    times(args, model.as_ref(), &program, &dataset, &normalize)?;
    if !exact {
        say(format_args!(
            "\nnothing is written to {}: the packed model is not the trained one",
            args.out.display()
        ));
        return Ok(false);
    }
    let (size, bits) = (std::fs::metadata(&args.out)?.len(), model_bits(model.as_ref()));
    say(format_args!(
        "\n{}: {size} bytes; parameters at their bits {}",
        args.out.display(),
        bits.div_ceil(8)
    ));
    Ok(true)
}

/// The program as a file gives it back: what is verified is what users load.
fn stored(program: &Program) -> Result<Program, AnyError> {
    let folder = tempfile::tempdir()?;
    let file = folder.path().join("program.qnn");
    program.save(&file)?;
    Ok(Program::load(&file)?)
}

/// Refuses a place that the packed model could not or must not be written to, before all the work.
fn check_place(out: &Path, model: Option<&Path>) -> Result<(), String> {
    let folder = match out.parent() {
        Some(folder) if folder != Path::new("") => folder,
        _ => Path::new("."),
    };
    if out.is_dir() {
        return Err(format!("--out: {} is a folder, a file is needed", out.display()));
    }
    let real = |path: &Path| std::fs::canonicalize(path).ok();
    if real(out).is_some_and(|out| model.and_then(real) == Some(out)) {
        return Err(format!("--out and --model are one file, {}: its weights would be lost", out.display()));
    }
    if out.is_file()
        && let Err(error) = Program::load(out)
    {
        return Err(format!(
            "--out: the file that is there would be lost, and it is no packed model: {error}"
        ));
    }
    tempfile::tempfile_in(folder)
        .map(drop)
        .map_err(|error| format!("--out: cannot write into {}: {error}", folder.display()))
}

impl<'a> Trained<'a> {
    /// From a model file or a checkpoint.
    fn read(file: &'a Path) -> Result<Self, AnyError> {
        if let Ok(mut checkpoint) = Checkpoint::load(file) {
            let network = checkpoint.run.remove("experiment");
            let provenance = Provenance { network, ..Provenance::default() };
            return Ok(Self { file, weights: checkpoint.model, provenance });
        }
        let weights = load_weights(file)?;
        // Files from elsewhere have no metadata.
        let metadata = load_metadata(file).unwrap_or_default();
        Ok(Self { file, weights, provenance: Provenance::read(&metadata)? })
    }

    /// What was trained, as far as the file says it.
    fn name(&self) -> Option<&str> {
        let Provenance { network, variant, .. } = &self.provenance;
        network.as_deref().or(variant.as_deref())
    }

    /// The preset that the file speaks of.
    fn preset(&self) -> Option<&str> {
        let Provenance { preset, variant, network, .. } = &self.provenance;
        // Earlier files name the variant alone, and neither network nor preset.
        let variant = variant.as_deref().filter(|name| network.is_none() && Scheme::preset(name).is_ok());
        preset.as_deref().or(variant)
    }

    fn load_into(&self, model: &mut dyn Layer, args: &Args, preset: &str) -> Result<(), AnyError> {
        let file = self.file.display();
        let name = self.name().map_or(String::new(), |name| format!(", which holds {name},"));
        load_state_dict(model, &self.weights)
            .map_err(|error| format!("{file}{name} does not fit --network {}: {error}", args.network))?;
        if let Some(name) = self.name() {
            say(format_args!("{file}: {name}"));
        }
        if let Some(trained) = self.preset().filter(|&trained| trained != preset) {
            eprintln!("warning: {file} was trained as --preset {trained}, not as {preset}");
        }
        Ok(())
    }
}

/// How the network is quantized: as the flag says or, without it, as the model file does.
fn preset<'a>(args: &'a Args, trained: Option<&'a Trained<'_>>) -> Result<&'a str, String> {
    match (&args.preset, trained) {
        (Some(name), _) => Ok(name),
        (None, None) => Ok("bnn"),
        (None, Some(trained)) => trained.preset().ok_or_else(|| {
            let file = trained.file.display();
            match trained.name() {
                Some(name) => format!(
                    "{file} holds {name}, and does not name a preset for it: give --preset, and the flags that make this \
                     network of it, see --help"
                ),
                None => format!("{file} does not say how its network is quantized: give --preset"),
            }
        }),
    }
}

/// How images were normalised for the training, as the file says, or else how these images are.
fn normalize(trained: Option<&Trained<'_>>, dataset: &Dataset) -> Normalize {
    trained.and_then(|trained| trained.provenance.normalize.clone()).unwrap_or_else(|| {
        if let Some(trained) = trained {
            let (file, images, name) = (trained.file.display(), dataset.train.len(), &dataset.name);
            say(format_args!(
                "{file} does not say how images were normalised: measured on {images} training images of {name}"
            ));
        }
        Normalize::fit(&dataset.train)
    })
}

/// The accuracy of the packed model beside that of the training, and whether they contradict each other.
fn report_accuracy(args: &Args, trained: Option<&Trained<'_>>, dataset: &Dataset, correct: usize) {
    let images = dataset.test.len();
    let deployed = 100.0 * correct as f64 / images as f64;
    let Some((trained, reported)) = trained.and_then(|it| Some((it, it.provenance.test_accuracy?))) else {
        say(format_args!("test accuracy {deployed:.2} %"));
        return;
    };
    let Provenance { dataset: trained_on, test_images, .. } = &trained.provenance;
    let on = trained_on.as_ref().map_or(String::new(), |name| format!(" on {name}"));
    say(format_args!("test accuracy {deployed:.2} %; the training reported {:.2} %{on}", 100.0 * reported));
    let is_same_test = trained_on.as_ref() == Some(&dataset.name) && *test_images == Some(images);
    // A network is evaluated to the same bits here and there: one image more or less is a difference.
    let is_same = (reported * images as f64).round() == correct as f64;
    if is_same_test && !is_same && args.post_training.is_none() {
        let file = trained.file.display();
        eprintln!(
            "warning: these are the images that {file} was tested on, so that this is another network: compare --network, \
             --preset, --shortcut and the full-precision flags with those of the training"
        );
    }
}

/// The network in the design's scheme, with the parameters of a trained one and the ranges of some training images.
fn quantized(
    args: &Args,
    design: &dyn Design,
    trained: &dyn Layer,
    dataset: &Dataset,
    normalize: &Normalize,
) -> Result<Box<dyn Layer>, AnyError> {
    let config = LoaderConfig { batch: args.batch, normalize: normalize.clone(), ..LoaderConfig::default() };
    let loader = |images: &Images| Loader::new(Arc::new(images.clone()), config.clone());
    let (train, test) = (loader(&dataset.train.take(args.calibrate))?, loader(&dataset.test)?);
    let method = match args.range {
        Range::MinMax => RangeMethod::MinMax,
        Range::MovingAverage => RangeMethod::MovingAverage { rate: 0.1 },
        Range::Percentile => RangeMethod::Percentile { percent: 99.99 },
        Range::SquaredError => RangeMethod::SquaredError { bits: 8 },
        Range::Divergence => RangeMethod::Divergence { bits: 8 },
    };
    let mut model = design.build(&mut Init::new(0))?;
    let batches = train.batches_per_epoch();
    let ranges = quantize_trained(model.as_mut(), &state_dict(trained), &train, batches, method)?;
    let accuracy =
        |model: &dyn Layer| evaluate(model, &test, &Loss::default()).map(|found| 100.0 * found.accuracy);
    let [before, after] = [accuracy(trained)?, accuracy(model.as_ref())?];
    say(format_args!(
        "{ranges} ranges from {} training images: test accuracy {before:.2} % before, {after:.2} % after",
        args.calibrate.clamp(1, dataset.train.len())
    ));
    Ok(model)
}

fn design(args: &Args, preset: &str) -> Result<Box<dyn Design>, qnn::models::Error> {
    let scheme = Scheme::preset(preset)?;
    Ok(match args.network {
        Network::Lenet5 => Box::new(LeNet5Config { scheme, ..LeNet5Config::default() }),
        Network::Vgg7 => Box::new(Vgg7Config { scheme, ..Vgg7Config::default() }),
        Network::Mlp3 => {
            let (width, output_norm) = (args.width.unwrap_or(1024), args.output_norm);
            Box::new(MlpConfig { scheme, output_norm, ..MlpConfig::mlp3(width) })
        }
        Network::BnnCnn => {
            let (width, output_norm) = (args.width.unwrap_or(128), args.output_norm);
            Box::new(BnnCnnConfig { scheme, width, output_norm, ..BnnCnnConfig::default() })
        }
        Network::Resnet => {
            let shortcut = match args.shortcut {
                None | Some(ShortcutName::Projection) => Shortcut::Projection,
                Some(ShortcutName::ProjectionNorm) => Shortcut::ProjectionNorm,
                Some(ShortcutName::PadZero) => Shortcut::PadZero,
                Some(ShortcutName::None) => Shortcut::None,
            };
            Box::new(ResNetConfig { scheme, shortcut, ..ResNetConfig::from_depth(args.depth.unwrap_or(20))? })
        }
    })
}

/// The data as the experiment runner prepares them.
fn dataset(args: &Args, trained: Option<&Trained<'_>>, shape: [usize; 3]) -> Result<Dataset, AnyError> {
    let trained_on = trained.and_then(|trained| Some((trained.file, trained.provenance.dataset.as_deref()?)));
    let name = args.dataset.or_else(|| trained_on?.1.parse().ok()).unwrap_or(match args.network {
        Network::Lenet5 | Network::Mlp3 => DatasetName::Mnist,
        Network::Vgg7 | Network::Resnet | Network::BnnCnn => DatasetName::Cifar10,
    });
    let loaded = qnn::data::load(name, &args.data)?;
    let stands_in = loaded.is_embedded && name != DatasetName::Digits;
    match trained_on {
        Some((file, trained_on))
            if stands_in && args.data == Source::Auto && trained_on != loaded.dataset.name =>
        {
            let file = file.display();
            let reason = format!(
                "{file} was trained on {trained_on}, but {name} is not at hand: name its folder with --data, fetch it with the \
                 --download of an experiment, or verify on the embedded digits with --data embedded"
            );
            return Err(reason.into());
        }
        Some((file, trained_on)) if trained_on != loaded.dataset.name => {
            let (file, found) = (file.display(), &loaded.dataset.name);
            eprintln!("warning: {file} was trained on {trained_on}, and is verified on {found}");
        }
        _ => {}
    }
    loaded.notice.iter().for_each(say);
    let dataset = match args.limit {
        Some(limit) => loaded.dataset.take(limit),
        None => loaded.dataset,
    };
    Ok(dataset.fit_to(shape)?)
}

/// Compares model and program on all test images: whether they are equal, and how many the program classifies correctly.
fn check(
    args: &Args,
    model: &dyn Layer,
    program: &Program,
    dataset: &Dataset,
    normalize: &Normalize,
) -> Result<(bool, usize), AnyError> {
    let config = LoaderConfig { batch: args.batch, normalize: normalize.clone(), ..LoaderConfig::default() };
    let loader = Loader::new(Arc::new(dataset.test.clone()), config)?;
    let report = verify(model, program, loader.epoch(0).map(|batch| batch.images))?;
    let logits = Session::new(program)?.run(dataset.test.as_bytes())?;
    let predictions = logits.chunks_exact(program.outputs()).map(largest);
    let correct =
        predictions.zip(dataset.test.labels()).filter(|&(found, &label)| found == usize::from(label));
    say(&report);
    Ok((report.is_exact(), correct.count()))
}

fn largest(logits: &[f32]) -> usize {
    (1..logits.len()).fold(0, |best, i| if logits[i] > logits[best] { i } else { best })
}

/// Times of the training graph and of the program, and of the program's stages.
fn times(
    args: &Args,
    model: &dyn Layer,
    program: &Program,
    dataset: &Dataset,
    normalize: &Normalize,
) -> Result<(), AnyError> {
    let mut session = Session::new(program)?;
    let image: usize = program.input_shape().iter().product();
    let [h, w, c] = program.input_shape();
    let tables = normalize.tables(c)?;
    say("\nimages  graph ms  packed ms  speed-up  images/s  packed ms from bytes");
    for count in [1, args.batch.min(dataset.test.len())] {
        let bytes = &dataset.test.as_bytes()[..count * image];
        let number = |(i, &byte): (usize, &u8)| tables[i % tables.len()][usize::from(byte)];
        let numbers: Vec<f32> = bytes.iter().enumerate().map(number).collect();
        let mut logits = vec![0.0; count * program.outputs()];
        let images = Tensor::from_vec(&[count, h, w, c], numbers.clone())?;
        let graph = fastest(5, || {
            let tape = Tape::new();
            let mut cx = Ctx::new(&tape, Mode::Eval, 0, 0);
            let images = tape.constant(images.clone());
            model.forward(&mut cx, images.into()).map(|_| ())
        })?;
        let packed = fastest(20, || session.run_into(numbers.as_slice(), &mut logits))?;
        let from_bytes = fastest(20, || session.run_into(bytes, &mut logits))?;
        say(format_args!(
            "{count:>6}  {:>8.3}  {:>9.3}  {:>7.1}x  {:>8.0}  {:>20.3}",
            1e3 * graph.as_secs_f64(),
            1e3 * packed.as_secs_f64(),
            graph.as_secs_f64() / packed.as_secs_f64(),
            count as f64 / packed.as_secs_f64(),
            1e3 * from_bytes.as_secs_f64()
        ));
    }
    let one = &dataset.test.as_bytes()[..image];
    let runs = (0..20).map(|_| session.profile(one)).collect::<Result<Vec<_>, _>>()?;
    say("\nµs for one image, stage by stage");
    for (i, stage) in program.stages().iter().enumerate() {
        let best = runs.iter().map(|times| times[i]).min().unwrap_or_default();
        say(format_args!("{:>9.1}  {}", 1e6 * best.as_secs_f64(), stage.title()));
    }
    Ok(())
}

/// The shortest of several runs.
fn fastest<E>(runs: usize, mut run: impl FnMut() -> Result<(), E>) -> Result<Duration, E> {
    let mut best = Duration::MAX;
    for _ in 0..runs {
        let start = Instant::now();
        run()?;
        best = best.min(start.elapsed());
    }
    Ok(best)
}
