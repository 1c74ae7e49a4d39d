//! From a trained model to a packed one: freeze it, compare the two on every test image, time both,
//! save.
//!
//! ```text
//! cargo run --release --example resnet20_bc -- --variant bc-1.2 --data data
//! cargo run --release --example deploy -- --network resnet --preset bc-1.2 \
//!     --model runs/resnet20_bc/bc-1.2/best.safetensors --data data --out resnet20.qnn
//! ```
//!
//! A network in full precision becomes one of integers on the way, calibrated on some training images:
//!
//! ```text
//! cargo run --release --example deploy -- --preset fp --model runs/lenet5_mnist/fp/model.safetensors \
//!     --post-training int8 --calibrate 512 --range percentile --data data --out lenet5.qnn
//! ```

use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::sync::Arc;
use std::time::{Duration, Instant};

use clap::{ArgAction, Parser, ValueEnum};
use qnn::data::{Dataset, Images, Loader, LoaderConfig, Normalize};
use qnn::deploy::{Program, Session, freeze, verify};
use qnn::experiment::Design;
use qnn::layers::{Ctx, StateDict, load_state_dict, model_bits, state_dict};
use qnn::prelude::*;
use qnn::quant::RangeMethod;
use qnn::train::{Checkpoint, Loss, evaluate, load_model, quantize_trained};

/// Freezes a trained network into a packed model, verifies it on the test set, and saves it
#[derive(Parser)]
#[command(name = "deploy", max_term_width = 100)]
struct Args {
    /// The network that was trained
    #[arg(long, value_enum, default_value = "lenet5")]
    network: Network,

    /// How it was quantized: the variant of the experiment, such as bnn, dorefa, twn, bc-1.2, fp
    #[arg(long, visible_alias = "variant", value_name = "NAME", default_value = "bnn")]
    preset: String,

    /// Model file or checkpoint of the training; without one the weights are random
    #[arg(long, value_name = "FILE")]
    model: Option<PathBuf>,

    /// The number of weight layers of a resnet
    #[arg(long, value_name = "LAYERS")]
    depth: Option<usize>,

    /// What a resnet's shortcuts do where sizes change
    #[arg(long, value_enum, default_value = "projection")]
    shortcut: ShortcutName,

    /// Whether the projections of shortcuts stayed in full precision
    #[arg(long)]
    fp_projections: bool,

    /// Whether the first layer stayed in full precision
    #[arg(long, value_name = "true|false", action = ArgAction::Set)]
    first_fp: Option<bool>,

    /// Whether the last layer stayed in full precision
    #[arg(long, value_name = "true|false", action = ArgAction::Set)]
    last_fp: Option<bool>,

    /// Where the data are: auto, embedded, or a folder
    #[arg(long, value_name = "auto|embedded|PATH", default_value = "auto")]
    data: Source,

    /// The data set; mnist for lenet5 and cifar10 for the others, if not given
    #[arg(long, value_name = "NAME")]
    dataset: Option<DatasetName>,

    /// Use only the first N images of each split, as the training did
    #[arg(long, value_name = "N")]
    limit: Option<usize>,

    /// Images per batch, for verification and times
    #[arg(long, value_name = "N", default_value_t = 100)]
    batch: usize,

    /// Threads; the results do not depend on it
    #[arg(long, value_name = "N", default_value_t = 1)]
    threads: usize,

    /// Quantize the trained network to this preset, without training
    #[arg(long, value_name = "NAME")]
    post_training: Option<String>,

    /// Training images that show which ranges activations have
    #[arg(long, value_name = "IMAGES", default_value_t = 512)]
    calibrate: usize,

    /// How ranges follow from what was seen
    #[arg(long, value_enum, default_value = "percentile")]
    range: Range,

    /// Where to write the packed model
    #[arg(long, value_name = "FILE", default_value = "model.qnn")]
    out: PathBuf,
}

#[derive(Clone, Copy, ValueEnum)]
enum Network {
    Lenet5,
    Vgg7,
    Resnet,
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

/// Whether the packed model is exactly the trained one.
fn run(args: &Args) -> Result<bool, AnyError> {
    let mut design = design(args)?;
    let scheme = design.scheme_mut();
    scheme.first_full_precision = args.first_fp.or(scheme.first_full_precision);
    scheme.last_full_precision = args.last_fp.or(scheme.last_full_precision);
    scheme.projections_full_precision |= args.fp_projections;
    let mut model = design.build(&mut Init::new(0))?;
    match &args.model {
        Some(file) => load_state_dict(model.as_mut(), &weights(file)?)?,
        None => println!("no --model: the weights are random"),
    }
    let dataset = dataset(args, design.input())?;
    let normalize = Normalize::fit(&dataset.train);
    if let Some(preset) = &args.post_training {
        *design.scheme_mut() = Scheme::preset(preset)?;
        model = quantized(args, design.as_ref(), model.as_ref(), &dataset, &normalize)?;
    }
    let program = freeze(model.as_ref(), design.input())?
        .with_normalization(&normalize)?
        .with_classes(dataset.test.class_names().to_vec())?;
    println!("{program}");
    let exact = check(args, model.as_ref(), &program, &dataset, &normalize)?;
    times(args, model.as_ref(), &program, &dataset)?;
    program.save(&args.out)?;
    let (size, bits) = (std::fs::metadata(&args.out)?.len(), model_bits(model.as_ref()));
    println!("\n{}: {size} bytes; parameters at their bits {}", args.out.display(), bits.div_ceil(8));
    Ok(exact)
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
    println!(
        "{ranges} ranges from {} training images: test accuracy {before:.2} % before, {after:.2} % after",
        args.calibrate.clamp(1, dataset.train.len())
    );
    Ok(model)
}

fn design(args: &Args) -> Result<Box<dyn Design>, qnn::models::Error> {
    let scheme = Scheme::preset(&args.preset)?;
    Ok(match args.network {
        Network::Lenet5 => Box::new(LeNet5Config { scheme, ..LeNet5Config::default() }),
        Network::Vgg7 => Box::new(Vgg7Config { scheme, ..Vgg7Config::default() }),
        Network::Resnet => {
            let shortcut = match args.shortcut {
                ShortcutName::Projection => Shortcut::Projection,
                ShortcutName::ProjectionNorm => Shortcut::ProjectionNorm,
                ShortcutName::PadZero => Shortcut::PadZero,
                ShortcutName::None => Shortcut::None,
            };
            Box::new(ResNetConfig { scheme, shortcut, ..ResNetConfig::from_depth(args.depth.unwrap_or(20))? })
        }
    })
}

/// The parameters in a model file or a checkpoint.
fn weights(file: &Path) -> Result<StateDict, qnn::train::Error> {
    match Checkpoint::load(file) {
        Ok(checkpoint) => Ok(checkpoint.model),
        Err(_) => load_model(file),
    }
}

/// The data as the experiment runner prepares them.
fn dataset(args: &Args, shape: [usize; 3]) -> Result<Dataset, qnn::data::Error> {
    let name = args.dataset.unwrap_or(match args.network {
        Network::Lenet5 => DatasetName::Mnist,
        Network::Vgg7 | Network::Resnet => DatasetName::Cifar10,
    });
    let loaded = qnn::data::load(name, &args.data)?;
    loaded.notice.iter().for_each(|notice| println!("{notice}"));
    let dataset = args.limit.map_or(loaded.dataset.clone(), |limit| loaded.dataset.take(limit));
    dataset.fit_to(shape)
}

/// Compares model and program on all test images, and says how many the program classifies correctly.
fn check(
    args: &Args,
    model: &dyn Layer,
    program: &Program,
    dataset: &Dataset,
    normalize: &Normalize,
) -> Result<bool, AnyError> {
    let config = LoaderConfig { batch: args.batch, normalize: normalize.clone(), ..LoaderConfig::default() };
    let loader = Loader::new(Arc::new(dataset.test.clone()), config)?;
    let report = verify(model, program, loader.epoch(0).map(|batch| batch.images))?;
    let logits = Session::new(program)?.run(dataset.test.as_bytes())?;
    let predictions = logits.chunks_exact(program.outputs()).map(largest);
    let correct =
        predictions.zip(dataset.test.labels()).filter(|&(found, &label)| found == usize::from(label));
    println!("{report}");
    println!("test accuracy {:.2} %", 100.0 * correct.count() as f64 / dataset.test.len() as f64);
    Ok(report.is_exact())
}

fn largest(logits: &[f32]) -> usize {
    (1..logits.len()).fold(0, |best, i| if logits[i] > logits[best] { i } else { best })
}

/// Times of the training graph and of the program, and of the program's stages.
fn times(args: &Args, model: &dyn Layer, program: &Program, dataset: &Dataset) -> Result<(), AnyError> {
    let mut session = Session::new(program)?;
    let image: usize = program.input_shape().iter().product();
    let [h, w, c] = program.input_shape();
    println!("\nimages  graph ms  packed ms  speed-up  images/s");
    for count in [1, args.batch.min(dataset.test.len())] {
        let bytes = &dataset.test.as_bytes()[..count * image];
        let numbers: Vec<f32> = bytes.iter().map(|&v| f32::from(v) / 128.0 - 1.0).collect();
        let mut logits = vec![0.0; count * program.outputs()];
        let images = Tensor::from_vec(&[count, h, w, c], numbers.clone())?;
        let graph = fastest(5, || {
            let tape = Tape::new();
            let mut cx = Ctx::new(&tape, Mode::Eval, 0, 0);
            let images = tape.constant(images.clone());
            model.forward(&mut cx, images.into()).map(|_| ())
        })?;
        let packed = fastest(20, || session.run_into(numbers.as_slice(), &mut logits))?;
        println!(
            "{count:>6}  {:>8.3}  {:>9.3}  {:>7.1}x  {:>8.0}",
            1e3 * graph.as_secs_f64(),
            1e3 * packed.as_secs_f64(),
            graph.as_secs_f64() / packed.as_secs_f64(),
            count as f64 / packed.as_secs_f64()
        );
    }
    let one = &dataset.test.as_bytes()[..image];
    let runs = (0..20).map(|_| session.profile(one)).collect::<Result<Vec<_>, _>>()?;
    println!("\nµs for one image, stage by stage");
    for (i, stage) in program.stages().iter().enumerate() {
        let best = runs.iter().map(|times| times[i]).min().unwrap_or_default();
        println!("{:>9.1}  {}", 1e6 * best.as_secs_f64(), stage.title());
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
