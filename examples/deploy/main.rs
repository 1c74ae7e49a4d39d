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

mod args;
mod design;
mod images;
mod post_training;
mod times;
mod trained;

use std::path::Path;
use std::process::ExitCode;
use std::sync::Arc;

use clap::error::ErrorKind;
use clap::{CommandFactory, Parser};
use qnn::data::{Dataset, Loader, LoaderConfig, Normalize};
use qnn::deploy::{Program, Session, freeze, verify};
use qnn::experiment::{check_instruction_set, say};
use qnn::kernels::Kernels;
use qnn::layers::model_bits;
use qnn::prelude::*;

use args::Args;
use design::design;
use images::dataset;
use post_training::quantized;
use times::times;
use trained::{Trained, normalize, preset, report_accuracy};

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

/// Whether the packed model is exactly the trained one.
fn run(args: &Args) -> Result<bool, AnyError> {
    check_instruction_set()?;
    check_place(&args.out, args.model.as_deref())?;
    let trained = args.model.as_deref().map(Trained::read).transpose()?;
    let preset = preset(args, trained.as_ref())?;
    let mut design = design(args, preset, trained.as_ref())?;
    if let Some(preset) = &args.post_training {
        check_post_training(design.scheme_mut(), preset)?;
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

/// Calibration observes the ranges of a network in full precision, and nothing else.
fn check_post_training(trained: &Scheme, preset: &str) -> Result<(), AnyError> {
    if trained.kernel.is_some() || matches!(trained.activation, Activation::Quantized(_)) {
        return Err(
            "--post-training: this network was trained with quantizers, one in full precision is needed"
                .into(),
        );
    }
    if !matches!(Scheme::preset(preset)?.activation, Activation::ReluInRange { .. }) {
        return Err(
            format!("--post-training {preset}: this scheme has no ranges to observe, int8 has").into()
        );
    }
    Ok(())
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
