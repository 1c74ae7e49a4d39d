use std::path::{Path, PathBuf};

/// What can go wrong in training.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// A file that cannot be read or written.
    #[error("{path}: {source}", path = .path.display())]
    File {
        /// The file.
        path: PathBuf,
        /// What the system said.
        source: std::io::Error,
    },
    /// A file that is no safetensors file, or a damaged one.
    #[error("{path}: {reason}; the file is damaged or of another kind", path = .path.display())]
    Format {
        /// The file.
        path: PathBuf,
        /// What is wrong in it.
        reason: String,
    },
    /// A checkpoint of a format that this version does not know.
    #[error(
        "{path}: a checkpoint of version {found}, but this program reads version {supported}; \
         resume with the program that wrote it",
        path = .path.display()
    )]
    Version {
        /// The file.
        path: PathBuf,
        /// The file's version.
        found: u64,
        /// The version that can be read.
        supported: u64,
    },
    /// A checkpoint of another experiment.
    #[error(
        "{path}: this checkpoint belongs to another run: {differences}; \
         resume with the same settings, or start anew in another folder",
        path = .path.display()
    )]
    OtherRun {
        /// The file.
        path: PathBuf,
        /// Each setting that differs, with both values.
        differences: String,
    },
    /// Weights that do not fit the model.
    #[error("{path}: {source}", path = .path.display())]
    Weights {
        /// The file.
        path: PathBuf,
        /// Missing and unexpected tensors, wrong shapes.
        source: qnn_layers::LoadError,
    },
    /// An optimizer state that does not fit the model or the optimizer.
    #[error("the optimizer state {path:?}: {reason}")]
    Slot {
        /// The path of the slot.
        path: String,
        /// What is wrong with it.
        reason: String,
    },
    /// A setting that no training can have.
    #[error("{setting} is {value}, it must be {expected}")]
    Setting {
        /// The field.
        setting: &'static str,
        /// Its value.
        value: String,
        /// What it may be.
        expected: String,
    },
    /// A text that names no schedule.
    #[error("no schedule is called {text:?}: {reason}; known are {KNOWN_SCHEDULES}")]
    Schedule {
        /// The text.
        text: String,
        /// What is wrong with it.
        reason: String,
    },
    /// A parameter that the loss does not depend on.
    #[error(
        "the parameter {parameter:?} got no gradient: the loss does not depend on it; \
         use it in forward(), or freeze it with a learning rate factor of 0"
    )]
    NoGradient {
        /// Its path.
        parameter: String,
    },
    /// A gradient of another shape than its parameter.
    #[error("the gradient of {parameter:?} has the shape {got:?}, the parameter {expected:?}")]
    GradientShape {
        /// The parameter's path.
        parameter: String,
        /// The parameter's shape.
        expected: Vec<usize>,
        /// The gradient's shape.
        got: Vec<usize>,
    },
    /// Model outputs that do not fit the labels.
    #[error("the loss takes outputs of shape [{images}, classes], got {got:?}")]
    Outputs {
        /// The number of labels.
        images: usize,
        /// The shape of the outputs.
        got: Vec<usize>,
    },
    /// A label that the model has no output for.
    #[error("a label is {label}, but the model tells {classes} classes apart: 0 to {last}", last = .classes.saturating_sub(1))]
    Label {
        /// The label.
        label: usize,
        /// The model's classes.
        classes: usize,
    },
    /// Images that do not fill their shape.
    #[error(transparent)]
    Shape(#[from] qnn_tensor::ShapeError),
    /// A loss that is infinite or not a number.
    #[error(
        "the loss is {loss} in {at} (learning rate {rate}): training diverged; \
         lower the learning rate, warm it up (cosine:5), or limit the gradient's norm. \
         What was saved before is intact"
    )]
    Diverged {
        /// The loss.
        loss: f32,
        /// The step, or the epoch and the batch, counted from 1.
        at: String,
        /// The learning rate of the step.
        rate: f32,
    },
    /// A weight or statistic that is infinite or not a number, found before it was saved.
    #[error(
        "{tensor:?} holds an infinite value or NaN after epoch {epoch}, step {step}: training diverged; \
         lower the learning rate. Nothing was saved over the last good checkpoint"
    )]
    NotFinite {
        /// The tensor's path.
        tensor: String,
        /// The epoch, counted from 1.
        epoch: usize,
        /// Training steps so far.
        step: u64,
    },
    /// Resuming without a folder to resume from.
    #[error("to resume, name the folder that holds the checkpoint")]
    NoFolder,
    /// A curve that cannot be drawn.
    #[error("the curves cannot be drawn: {reason}")]
    Curves {
        /// What the drawing library said.
        reason: String,
    },
    /// The state of a network that does not fit the one it is to become.
    #[error(transparent)]
    State(#[from] qnn_layers::LoadError),
    /// A layer that rejects its input.
    #[error(transparent)]
    Layer(#[from] qnn_layers::Error),
    /// Data that cannot be made into batches.
    #[error(transparent)]
    Data(#[from] qnn_data::Error),
}

const KNOWN_SCHEDULES: &str = "constant, step, step:80,120,160, step:80,120,160x0.1, exponential, \
                               exponential:0.1, cosine, cosine:WARMUP_EPOCHS, one-cycle";

impl From<qnn_files::Error> for Error {
    fn from(error: qnn_files::Error) -> Self {
        match error {
            qnn_files::Error::File { path, source } => Self::File { path, source },
            qnn_files::Error::Format { path, reason } => Self::Format { path, reason },
        }
    }
}

impl Error {
    pub(crate) fn file(path: &Path) -> impl FnOnce(std::io::Error) -> Self + '_ {
        |source| Self::File { path: path.to_owned(), source }
    }

    pub(crate) fn format(path: &Path, reason: impl Into<String>) -> Self {
        Self::Format { path: path.to_owned(), reason: reason.into() }
    }

    pub(crate) fn setting(setting: &'static str, value: impl ToString, expected: &str) -> Self {
        Self::Setting { setting, value: value.to_string(), expected: expected.to_owned() }
    }
}
