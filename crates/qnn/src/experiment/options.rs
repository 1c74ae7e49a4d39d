use std::path::PathBuf;

use clap::{ArgAction, Parser};
use qnn_data::Source;
use qnn_quant::Granularity;
use qnn_quant::registry::Parameters;
use qnn_train::{Loss, Schedule};

/// The flags that every experiment shares.
///
/// Each value is an `Option` that overrides the experiment's recipe, so that the recipe stays the
/// only place of a default.
#[derive(Clone, Debug, Default, Parser)]
#[command(disable_version_flag = true, next_line_help = false, max_term_width = 100)]
pub struct Options {
    /// Where the data are: `auto` looks in $QNN_DATA, then ./data, then takes the embedded digits;
    /// `embedded`; or a folder
    #[arg(long, value_name = "auto|embedded|PATH", help_heading = "Data")]
    pub data: Option<Source>,

    /// The data set, where the experiment allows several
    #[arg(long, value_name = "NAME", help_heading = "Data")]
    pub dataset: Option<String>,

    /// Download the data set into the data folder first, with checksums, if it is not there
    #[arg(long, help_heading = "Data")]
    pub download: bool,

    /// Use only the first N images of each split, for short runs
    #[arg(long, value_name = "N", help_heading = "Data")]
    pub limit: Option<usize>,

    /// Train without cropping and flipping
    #[arg(long, help_heading = "Data")]
    pub no_augment: bool,

    /// The row of the published table to run; --list shows them
    #[arg(long, value_name = "NAME", help_heading = "Network")]
    pub variant: Option<String>,

    /// Quantize the variant's network in another way: any preset of the library; --list shows them
    #[arg(long, value_name = "NAME", help_heading = "Network")]
    pub preset: Option<String>,

    /// List variants, published figures and presets, and exit
    #[arg(long, help_heading = "Network")]
    pub list: bool,

    /// The number of weight layers, where the network allows several
    #[arg(long, value_name = "LAYERS", help_heading = "Network")]
    pub depth: Option<usize>,

    /// Quantize kernels with this map instead of the variant's
    #[arg(long, value_name = "NAME", help_heading = "Network")]
    pub quantizer: Option<String>,

    /// Bits of --quantizer, where it has a choice
    #[arg(long, value_name = "K", help_heading = "Network")]
    pub bits: Option<u32>,

    /// Scale of --quantizer, where it has one that training does not find
    #[arg(long, value_name = "S", help_heading = "Network")]
    pub scale: Option<f32>,

    /// Over which elements --quantizer takes its statistics
    #[arg(long, value_name = "tensor|last|N", help_heading = "Network")]
    pub axis: Option<Granularity>,

    /// Threshold of --quantizer, where it has one
    #[arg(long, value_name = "T", help_heading = "Network")]
    pub threshold: Option<f64>,

    /// Levels -1, 0, 1 of --quantizer ternary
    #[arg(long, help_heading = "Network")]
    pub unscaled: bool,

    /// Pseudo-gradient of the kernels' quantizer instead of the published one
    #[arg(long, value_name = "NAME", help_heading = "Network")]
    pub estimator: Option<String>,

    /// Where the slope of --estimator ends, and the range of maps that have one
    #[arg(long, value_name = "C", help_heading = "Network")]
    pub clip: Option<f32>,

    /// Steepness of --estimator modified-tanh; height of error-decay, which then keeps its shape instead of following the training
    #[arg(long, value_name = "K", help_heading = "Network")]
    pub k: Option<f32>,

    /// Steepness of --estimator swish-sign
    #[arg(long, value_name = "B", help_heading = "Network")]
    pub beta: Option<f32>,

    /// Keep the first layer in full precision
    #[arg(long, value_name = "true|false", action = ArgAction::Set, help_heading = "Network")]
    pub first_fp: Option<bool>,

    /// Keep the last layer in full precision
    #[arg(long, value_name = "true|false", action = ArgAction::Set, help_heading = "Network")]
    pub last_fp: Option<bool>,

    /// Start from the weights of a model file or a checkpoint instead of random ones
    #[arg(long, value_name = "FILE", help_heading = "Network")]
    pub init_from: Option<PathBuf>,

    /// How often the training set is seen
    #[arg(long, value_name = "N", help_heading = "Training")]
    pub epochs: Option<usize>,

    /// Images per step
    #[arg(long, value_name = "N", help_heading = "Training")]
    pub batch: Option<usize>,

    /// sgd (momentum 0.9), nesterov, adam, shift-adamax, or bop (with adam for what is not binary)
    #[arg(long, value_name = "NAME", help_heading = "Training")]
    pub optimizer: Option<String>,

    /// Scale the learning rates of quantized kernels by their Glorot coefficients, as BinaryConnect does
    #[arg(long, help_heading = "Training")]
    pub glorot_rates: bool,

    /// The base learning rate (the highest, of a one-cycle schedule)
    #[arg(long, value_name = "RATE", help_heading = "Training")]
    pub lr: Option<f32>,

    /// constant, step:EPOCHS (a tenth from each on, as in step:80,120,160, or another factor: step:80,120x0.2),
    /// exponential (to a tenth, or exponential:FACTOR), cosine, cosine:WARMUP, one-cycle
    #[arg(long, value_name = "NAME", help_heading = "Training")]
    pub schedule: Option<Schedule>,

    /// Weight decay: L2 on full-precision kernels
    #[arg(long, value_name = "RATE", help_heading = "Training")]
    pub weight_decay: Option<f32>,

    /// The learning rate of what quantizers learn, such as the steps of LSQ, as a factor of the others'
    #[arg(long, value_name = "FACTOR", help_heading = "Training")]
    pub quantizer_rate: Option<f32>,

    /// L2 on what quantizers learn, such as the heights of PACT
    #[arg(long, value_name = "RATE", help_heading = "Training")]
    pub quantizer_decay: Option<f32>,

    /// The largest norm of the gradient of all parameters together
    #[arg(long, value_name = "NORM", help_heading = "Training")]
    pub clip_norm: Option<f32>,

    /// End after so many epochs without a better test accuracy
    #[arg(long, value_name = "EPOCHS", help_heading = "Training")]
    pub early_stopping: Option<usize>,

    /// cross-entropy, cross-entropy:SMOOTHING, squared-hinge, mean-squared-error
    #[arg(long, value_name = "NAME", help_heading = "Training")]
    pub loss: Option<Loss>,

    /// Seed of weights, shuffling and augmentation
    #[arg(long, value_name = "N", help_heading = "Training")]
    pub seed: Option<u64>,

    /// Repeat with N consecutive seeds and report mean and standard deviation
    #[arg(long, value_name = "N", help_heading = "Training")]
    pub seeds: Option<u64>,

    /// Threads; the results do not depend on it
    #[arg(long, value_name = "N", help_heading = "Training")]
    pub threads: Option<usize>,

    /// Folder for results, metrics, curves, model and checkpoint [default: runs/EXPERIMENT/VARIANT, with the preset, depth, quantizer and
    /// estimator of the command line in its name]
    #[arg(long, value_name = "DIR", help_heading = "Output")]
    pub out: Option<PathBuf>,

    /// Go on from the checkpoint in the output folder, if there is one
    #[arg(long, help_heading = "Output")]
    pub resume: bool,

    /// Print nothing but the result line and errors
    #[arg(long, help_heading = "Output")]
    pub quiet: bool,

    /// Fail if the best test accuracy stays below this
    #[arg(long, value_name = "PERCENT", help_heading = "Output")]
    pub require: Option<f64>,
}

impl Options {
    /// What the flags say about the quantizer's map.
    pub(super) fn of_map(&self) -> Parameters {
        let Self { bits, scale, axis, threshold, unscaled, .. } = *self;
        Parameters { bits, scale, axis, threshold, unscaled, ..Parameters::default() }
    }

    /// What the flags say about the estimator.
    pub(super) fn of_estimator(&self) -> Parameters {
        let Self { clip, k, beta, .. } = *self;
        Parameters { clip, k, beta, ..Parameters::default() }
    }
}
