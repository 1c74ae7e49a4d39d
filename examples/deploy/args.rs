//! The command line.

use std::fmt;
use std::path::PathBuf;

use clap::builder::RangedU64ValueParser;
use clap::{ArgAction, Parser, ValueEnum};
use qnn::experiment::MAX_THREADS;
use qnn::prelude::*;
use qnn::quant::Granularity;
use qnn::quant::registry::{self, Parameters};

/// What `--help` ends with.
const VARIANTS: &str = "\
Variants of the experiments that are no preset take flags:
  bc-fp-projections         --network resnet --preset bc --fp-projections
  bc-no-projections         --network resnet --preset bc --shortcut none
  hard-K, tanh-S-K          --network mlp3 or bnn-cnn, --preset even-K
  svhn-hard-K, ...          --network bnn-cnn --width 64 --preset even-K
  deterministic, stochastic*  --network mlp3 --preset bnn
  no-hysteresis             --network resnet --preset w1a8 --quantizer scaled-sign
  hysteresis-0.05           --network resnet --preset w1a8 --quantizer hysteresis-sign --threshold 0.05
  w1                        --network resnet --preset bc --quantizer hysteresis-sign
  any with --quantizer      --preset of the variant, and the same --quantizer with its parameters
Without --model, those of mlp3 and bnn-cnn take --output-norm, too.
The hard tanh networks in full precision (fp of mlp_bits and cnn_bits) and TinyModel (tiny and tiny-fp
of mlp_bits) have no flags here.";

/// Freezes a trained network into a packed model, verifies it on the test set, and saves it
#[derive(Parser)]
#[command(name = "deploy", max_term_width = 100, after_help = VARIANTS)]
pub(crate) struct Args {
    /// The network that was trained
    #[arg(long, value_enum, default_value = "lenet5")]
    pub(crate) network: Network,

    /// How it was quantized, such as bnn, dorefa, twn, bc-1.2, even-2, fp (--list of any experiment
    /// shows all) [default: what the model file says; bnn without a model]
    #[arg(long, value_name = "NAME")]
    pub(crate) preset: Option<String>,

    /// Model file or checkpoint of the training; without one the weights are random
    #[arg(long, value_name = "FILE")]
    pub(crate) model: Option<PathBuf>,

    /// The number of weight layers of a resnet [default: 20]
    #[arg(long, value_name = "LAYERS")]
    pub(crate) depth: Option<usize>,

    /// What a resnet's shortcuts do where sizes change [default: projection]
    #[arg(long, value_enum)]
    pub(crate) shortcut: Option<ShortcutName>,

    /// Whether the projections of a resnet's shortcuts stayed in full precision
    #[arg(long)]
    pub(crate) fp_projections: bool,

    /// Units of each hidden layer of mlp3 [default: 1024]; filters of the first layer of bnn-cnn
    /// [default: 128]
    #[arg(long, value_name = "N")]
    pub(crate) width: Option<usize>,

    /// Batch norm follows the last layer of mlp3 or bnn-cnn [default: if it does in the model file]
    #[arg(long)]
    pub(crate) output_norm: bool,

    /// Whether the first layer stayed in full precision
    #[arg(long, value_name = "true|false", action = ArgAction::Set)]
    pub(crate) first_fp: Option<bool>,

    /// Whether the last layer stayed in full precision
    #[arg(long, value_name = "true|false", action = ArgAction::Set)]
    pub(crate) last_fp: Option<bool>,

    #[command(flatten)]
    pub(crate) kernels: KernelFlags,

    /// Where the data are: auto, embedded, or a folder
    #[arg(long, value_name = "auto|embedded|PATH", default_value = "auto")]
    pub(crate) data: Source,

    /// The data set [default: what the model file says; else mnist for lenet5 and mlp3, cifar10 for
    /// the others]
    #[arg(long, value_name = "NAME")]
    pub(crate) dataset: Option<DatasetName>,

    /// Use only the first N images of each split, as the training did
    #[arg(long, value_name = "N", value_parser = at_least_one())]
    pub(crate) limit: Option<usize>,

    /// Images per batch, for verification and times
    #[arg(long, value_name = "N", default_value_t = 100, value_parser = at_least_one())]
    pub(crate) batch: usize,

    /// Threads; the results do not depend on it
    #[arg(long, value_name = "N", default_value_t = 1, value_parser = RangedU64ValueParser::<usize>::new().range(1..=MAX_THREADS as u64))]
    pub(crate) threads: usize,

    /// Quantize the trained network to this preset, without training
    #[arg(long, value_name = "NAME")]
    pub(crate) post_training: Option<String>,

    /// Training images that show which ranges activations have
    #[arg(long, value_name = "IMAGES", default_value_t = 512, requires = "post_training", value_parser = at_least_one())]
    pub(crate) calibrate: usize,

    /// How ranges follow from what was seen
    #[arg(long, value_enum, default_value = "percentile", requires = "post_training")]
    pub(crate) range: Range,

    /// Where to write the packed model
    #[arg(long, value_name = "FILE", default_value = "model.qnn")]
    pub(crate) out: PathBuf,
}

/// The map of kernels, as an experiment's flags of the same names put it in place of the preset's.
#[derive(clap::Args)]
pub(crate) struct KernelFlags {
    /// Kernels were quantized with this map instead of the preset's
    #[arg(long, value_name = "NAME")]
    pub(crate) quantizer: Option<String>,

    /// Bits of --quantizer
    #[arg(long, value_name = "K", requires = "quantizer")]
    pub(crate) bits: Option<u32>,

    /// Scale of --quantizer
    #[arg(long, value_name = "S", requires = "quantizer")]
    pub(crate) scale: Option<f32>,

    /// Over which elements --quantizer takes its statistics
    #[arg(long, value_name = "tensor|last|N", requires = "quantizer")]
    pub(crate) axis: Option<Granularity>,

    /// Threshold of --quantizer
    #[arg(long, value_name = "T", requires = "quantizer")]
    pub(crate) threshold: Option<f64>,

    /// Levels -1, 0, 1 of --quantizer ternary
    #[arg(long, requires = "quantizer")]
    pub(crate) unscaled: bool,

    /// The range of --quantizer
    #[arg(long, value_name = "C", requires = "quantizer")]
    pub(crate) clip: Option<f32>,
}

impl KernelFlags {
    /// The map, if there is one. Which gradient it was trained with makes no difference to a trained network.
    pub(crate) fn pair(&self) -> Result<Option<Pair>, qnn::quant::Error> {
        let Self { bits, scale, axis, threshold, unscaled, clip, .. } = *self;
        let parameters = Parameters { bits, scale, axis, threshold, unscaled, clip, ..Parameters::default() };
        self.quantizer.as_deref().map(|name| registry::pair(name, None, &parameters)).transpose()
    }
}

fn at_least_one() -> RangedU64ValueParser<usize> {
    RangedU64ValueParser::new().range(1..)
}

#[derive(Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(crate) enum Network {
    Lenet5,
    Vgg7,
    Resnet,
    /// The perceptron of mlp_bits and stochastic_vs_deterministic
    Mlp3,
    /// The network of cnn_bits
    BnnCnn,
}

#[derive(Clone, Copy, ValueEnum)]
pub(crate) enum Range {
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
pub(crate) enum ShortcutName {
    Projection,
    ProjectionNorm,
    PadZero,
    None,
}

impl Args {
    /// Refuses flags that the network has no use for.
    pub(crate) fn check(&self) -> Result<(), String> {
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
