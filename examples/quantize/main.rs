//! Quantizes a tensor from a file with any quantizer of the library, so that its results can be compared with those of any
//! other system, from any language.
//!
//! ```text
//! cargo run --release --example quantize -- --list
//! cargo run --release --example quantize -- --quantizer sign --estimator approx-sign \
//!     --input x.npy --upstream dy.npy --values y.npy --gradient dx.npy --codes c.npy --scales s.npy
//! ```
//!
//! Files are NumPy's `.npy`, float32 of any shape; codes and zero points are int32. A parameter that neither the quantizer nor
//! the estimator has a use for is an error. Nothing is written unless all that was asked for could be computed.

mod npy;

use std::error::Error;
use std::path::PathBuf;
use std::process::ExitCode;

use clap::{ArgGroup, Parser};
use qnn::experiment::{check_instruction_set, say};
use qnn::quant::ndarray::{Array1, Array2, ArrayD, ArrayViewD, Ix2};
use qnn::quant::registry::{self, Listing, Parameters};
use qnn::quant::{Dependence, Granularity, Grid, Moment, Pair, Quantizer};

use npy::Files;

/// Quantize a tensor, and take the pseudo-gradient.
#[derive(Debug, Parser)]
#[command(name = "quantize", allow_negative_numbers = true)]
#[command(group = ArgGroup::new("backward").multiple(true).args(["gradient", "parameter_gradients"]))]
struct Options {
    /// All quantizers and estimators with their formulas and parameters
    #[arg(long)]
    list: bool,
    /// The forward map
    #[arg(long, required_unless_present = "list")]
    quantizer: Option<String>,
    /// The gradient: the one that the map was published with by default
    #[arg(long)]
    estimator: Option<String>,
    /// x: the tensor, float32
    #[arg(long, required_unless_present = "list")]
    input: Option<PathBuf>,
    /// dy: the gradient with respect to the values, of x's shape
    #[arg(long, requires = "backward")]
    upstream: Option<PathBuf>,
    /// The codes before, int32 or float32, of x's shape: the state of `hysteresis-sign`
    #[arg(long)]
    previous: Option<PathBuf>,
    /// Take trained parameters (of `lsq` and `trained-ternary`) from the tensor, as at the start of training; the default
    /// where none of them is given. `pact` starts with --clip in any case
    #[arg(long, conflicts_with_all = ["scale", "wp", "wn"])]
    initial: bool,
    #[command(flatten)]
    parameters: ParameterFlags,
    #[command(flatten)]
    outputs: Outputs,
}

/// What to write: any of these.
#[derive(Debug, clap::Args)]
#[command(next_help_heading = "Outputs (.npy files)")]
struct Outputs {
    /// y: the quantized values, float32
    #[arg(long)]
    values: Option<PathBuf>,
    /// The integer codes, int32
    #[arg(long)]
    codes: Option<PathBuf>,
    /// One factor per group from codes to values; Wp and Wn of `trained-ternary`
    #[arg(long)]
    scales: Option<PathBuf>,
    /// All levels: one row of values per group
    #[arg(long)]
    level_table: Option<PathBuf>,
    /// What is added to codes to get the integers that `affine` stores, int32
    #[arg(long)]
    zero_points: Option<PathBuf>,
    /// dx
    #[arg(long, requires = "upstream")]
    gradient: Option<PathBuf>,
    /// The gradients of trained parameters, in the order in which they are named
    #[arg(long, requires = "upstream")]
    parameter_gradients: Option<PathBuf>,
}

/// What `--list` names as parameters.
#[derive(Debug, clap::Args)]
#[command(next_help_heading = "Parameters (see --list)")]
struct ParameterFlags {
    /// Bits of the codes
    #[arg(long)]
    bits: Option<u32>,
    /// Levels of `alphabet`, in place of bits
    #[arg(long)]
    levels: Option<u32>,
    /// The magnitude of `constant-scaled-sign`; the step of `lsq`
    #[arg(long)]
    scale: Option<f32>,
    /// Over which elements statistics are taken: `tensor`, or one group per index of an axis, `last` or its number
    #[arg(long)]
    axis: Option<Granularity>,
    /// The factor before mean|x| of `ternary` and before max|x| of `trained-ternary`; what x must pass in `hysteresis-sign`
    #[arg(long)]
    threshold: Option<f64>,
    /// Levels −1, 0, 1 of `ternary`
    #[arg(long)]
    unscaled: bool,
    /// The threshold of `ternary` with the least squared error
    #[arg(long)]
    exact: bool,
    /// The positive level of `trained-ternary`
    #[arg(long)]
    wp: Option<f32>,
    /// The magnitude of the negative level of `trained-ternary`
    #[arg(long)]
    wn: Option<f32>,
    /// Of whatever is random; has no effect where nothing is
    #[arg(long, default_value_t = 0)]
    seed: u64,
    /// The lower end of the range of `affine`, in place of the tensor's own; 0 if that is lower, since 0 is always a level
    #[arg(long)]
    low: Option<f32>,
    /// The upper end of the range of `affine`; 0 if that is higher
    #[arg(long)]
    high: Option<f32>,
    /// Zero point 0 in `affine`
    #[arg(long)]
    symmetric: bool,
    /// All codes of two's complement in `uniform`
    #[arg(long)]
    asymmetric: bool,
    /// Levels from 0 up in `lsq`, stored integers from 0 up in `affine`
    #[arg(long)]
    unsigned: bool,
    /// Spend one bit of `quantized-relu` on the sign
    #[arg(long)]
    sign_bit: bool,
    /// The lowest exponent of `log-ap2`
    #[arg(long)]
    lowest: Option<i32>,
    /// The highest exponent of `log-ap2`
    #[arg(long)]
    highest: Option<i32>,
    /// The range of `alphabet`, `uniform` and `pact`, and where the slope of an estimator ends
    #[arg(long)]
    clip: Option<f32>,
    /// The steepness of `modified-tanh`; the height of `error-decay`
    #[arg(long)]
    k: Option<f32>,
    /// Steps of `modified-tanh` outside of the levels as well
    #[arg(long)]
    periodic: bool,
    /// The steepness of `swish-sign`
    #[arg(long)]
    beta: Option<f32>,
    /// The steepness of `error-decay`
    #[arg(long)]
    t: Option<f32>,
    /// The slope of `leaky-clipped` outside
    #[arg(long)]
    leak: Option<f32>,
}

type Outcome<T = ()> = Result<T, Box<dyn Error>>;

fn main() -> ExitCode {
    let options = Options::parse();
    let outcome = if options.list { list(&mut std::io::stdout()) } else { run(&options) };
    match outcome {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("error: {error}");
            ExitCode::FAILURE
        }
    }
}

fn list(out: &mut impl std::io::Write) -> Outcome {
    let mut section = |title: &str, listings: &mut dyn Iterator<Item = Listing>| -> Outcome {
        writeln!(out, "{title}")?;
        for Listing { name, formula, parameters } in listings {
            let flags: String = parameters.iter().map(|parameter| format!(" --{parameter}")).collect();
            writeln!(out, "  {name:<22}{formula}")?;
            if !flags.is_empty() {
                writeln!(out, "  {:<22} {flags}", "")?;
            }
        }
        Ok(())
    };
    section("Quantizers", &mut registry::quantizers())?;
    section("Estimators: dx", &mut registry::estimators())
}

fn run(options: &Options) -> Outcome {
    check_instruction_set()?;
    check_places(options)?;
    let x = npy::read(options.input.as_deref().ok_or("--input is missing")?)?;
    let like_x = |flag: &str, path: &PathBuf, array: ArrayD<f32>| match array.shape() == x.shape() {
        true => Ok(array),
        false => {
            let (found, expected, path) = (array.shape(), x.shape(), path.display());
            Err(format!("{path} ({flag}) has shape {found:?}, expected {expected:?}, that of --input"))
        }
    };
    let upstream = options.upstream.as_ref().map(|path| like_x("--upstream", path, npy::read(path)?));
    let previous = options.previous.as_ref().map(|path| like_x("--previous", path, npy::read_codes(path)?));
    let (upstream, previous) = (upstream.transpose()?, previous.transpose()?);
    let pair = pair(options, x.view())?;
    let grid = pair.map.fit(x.view())?;
    let (codes, values) = forward(previous, &pair, &grid, x.view())?;
    let outputs = &options.outputs;
    let mut files = Files::default();
    files.add(outputs.values.as_ref(), &values)?;
    if outputs.codes.is_some() {
        files.add(outputs.codes.as_ref(), &codes?)?;
    }
    files.add(outputs.scales.as_ref(), &Array1::from_vec(scales(&pair, &grid)))?;
    if outputs.level_table.is_some() {
        files.add(outputs.level_table.as_ref(), &levels(&grid)?)?;
    }
    if outputs.zero_points.is_some() && grid.zero_points().is_empty() {
        return Err(format!("`--zero-points` has no meaning for {}", pair.map.name()).into());
    }
    files.add(outputs.zero_points.as_ref(), &Array1::from_vec(grid.zero_points().to_vec()))?;
    if let Some(dy) = upstream {
        backward(outputs, &pair, &grid, x.view(), dy.view(), &mut files)?;
    }
    files.write()?;
    say(format_args!(
        "{} with {}: {} bits, {} levels",
        pair.map.name(),
        pair.gradient.name(),
        grid.bits(),
        grid.count()
    ));
    Ok(())
}

/// Refuses to write two results, or a result and what it was made from, to one file.
fn check_places(options: &Options) -> Outcome {
    let Outputs { values, codes, scales, level_table, zero_points, gradient, parameter_gradients } =
        &options.outputs;
    let places = [
        ("--input", &options.input),
        ("--upstream", &options.upstream),
        ("--previous", &options.previous),
        ("--values", values),
        ("--codes", codes),
        ("--scales", scales),
        ("--level-table", level_table),
        ("--zero-points", zero_points),
        ("--gradient", gradient),
        ("--parameter-gradients", parameter_gradients),
    ];
    let inputs = 3;
    let identities = places.map(|(_, path)| path.as_deref().and_then(npy::identity));
    for (i, (flag, path)) in places.iter().enumerate().skip(inputs) {
        let same = (0..i).find(|&other| identities[i].is_some() && identities[other] == identities[i]);
        if let (Some(other), Some(path)) = (same, path) {
            return Err(format!("{} and {flag} are one file, {}", places[other].0, path.display()).into());
        }
    }
    Ok(())
}

fn pair(options: &Options, x: ArrayViewD<'_, f32>) -> Outcome<Pair> {
    let name = options.quantizer.as_deref().ok_or("--quantizer is missing")?;
    let mut parameters = parameters(&options.parameters);
    let takes = |parameter| {
        registry::quantizers().any(|listing| listing.name == name && listing.parameters.contains(&parameter))
    };
    parameters.seed = takes("seed").then_some(options.parameters.seed);
    let pair = registry::pair(name, options.estimator.as_deref(), &parameters)?;
    let Some(trained) = pair.map.trained() else {
        if options.initial {
            return Err(format!("{name} has no trained parameters: `--initial`").into());
        }
        return Ok(pair);
    };
    // PACT starts with the height it was given: for it nothing changes.
    let ParameterFlags { scale, wp, wn, .. } = options.parameters;
    if scale.is_some() || wp.is_some() || wn.is_some() {
        return Ok(pair);
    }
    let map = trained.with_parameters(&trained.initial(x)?)?;
    Ok(Pair { map, gradient: pair.gradient })
}

fn parameters(flags: &ParameterFlags) -> Parameters {
    Parameters {
        bits: flags.bits,
        levels: flags.levels,
        scale: flags.scale,
        axis: flags.axis,
        threshold: flags.threshold,
        unscaled: flags.unscaled,
        exact: flags.exact,
        wp: flags.wp,
        wn: flags.wn,
        seed: None,
        low: flags.low,
        high: flags.high,
        symmetric: flags.symmetric,
        asymmetric: flags.asymmetric,
        unsigned: flags.unsigned,
        sign_bit: flags.sign_bit,
        lowest: flags.lowest,
        highest: flags.highest,
        clip: flags.clip,
        k: flags.k,
        periodic: flags.periodic,
        beta: flags.beta,
        t: flags.t,
        leak: flags.leak,
    }
}

type Codes = qnn::quant::Result<ArrayD<i32>>;

/// The codes, an error where one is NaN, and the values.
fn forward(
    previous: Option<ArrayD<f32>>,
    pair: &Pair,
    grid: &Grid,
    x: ArrayViewD<'_, f32>,
) -> Outcome<(Codes, ArrayD<f32>)> {
    let mut values = ArrayD::zeros(x.raw_dim());
    let Some(previous) = previous else {
        pair.map.values_into(x.view(), grid, values.view_mut())?;
        return Ok((pair.map.codes(x, grid), values));
    };
    if pair.map.dependence() != Dependence::Memory {
        return Err(format!("`--previous` has no meaning for {}", pair.map.name()).into());
    }
    pair.map.codes_at_into(x, grid, &Moment::after(previous.view()), values.view_mut())?;
    let codes = match values.iter().position(|code| code.is_nan()) {
        Some(index) => Err(qnn::quant::Error::NotANumber { index }),
        None => Ok(values.mapv(|code| code as i32)),
    };
    grid.dequantize_mut(values.view_mut())?;
    Ok((codes, values))
}

fn backward(
    outputs: &Outputs,
    pair: &Pair,
    grid: &Grid,
    x: ArrayViewD<'_, f32>,
    dy: ArrayViewD<'_, f32>,
    files: &mut Files,
) -> Outcome {
    if outputs.gradient.is_some() {
        files.add(outputs.gradient.as_ref(), &pair.pullback(x.view(), grid, dy.view())?)?;
    }
    if outputs.parameter_gradients.is_some() {
        let missing = || format!("{} has no trained parameters: `--parameter-gradients`", pair.map.name());
        let gradients = pair.map.trained().ok_or_else(missing)?.parameter_gradients(x, dy)?;
        let gradients: Vec<f32> = gradients.into_iter().map(|gradient| gradient as f32).collect();
        files.add(outputs.parameter_gradients.as_ref(), &Array1::from_vec(gradients))?;
    }
    Ok(())
}

/// From codes to values; of levels without a common factor, their parameters or 1.
fn scales(pair: &Pair, grid: &Grid) -> Vec<f32> {
    match pair.map.trained() {
        Some(trained) if !grid.is_factored() => trained.parameters(),
        _ => grid.scales().to_vec(),
    }
}

fn levels(grid: &Grid) -> Outcome<ArrayD<f32>> {
    let groups = grid.groups().count();
    let values: Vec<f32> = (0..groups).flat_map(|group| grid.values(group)).collect();
    Ok(Array2::from_shape_vec(Ix2(groups, grid.count()), values)?.into_dyn())
}
