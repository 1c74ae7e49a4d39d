use std::path::PathBuf;

/// Why an experiment did not run.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// A flag that this experiment has no use for, or whose value does not fit it.
    #[error("{flag}: {reason}")]
    Flag {
        /// The flag, with dashes.
        flag: &'static str,
        /// What is wrong and what would be right.
        reason: String,
    },
    /// The output folder holds a run that was not finished.
    #[error(
        "{} holds an unfinished run: add --resume to go on with it, choose another --out, or delete the folder",
        .folder.display()
    )]
    Unfinished {
        /// The output folder.
        folder: PathBuf,
    },
    /// The output folder holds the files of another run.
    #[error("{} holds {what}: choose another --out, or delete the folder", .folder.display())]
    Occupied {
        /// The output folder.
        folder: PathBuf,
        /// What is in it.
        what: String,
    },
    /// The output folder holds a checkpoint that tells no settings.
    #[error("{} holds a checkpoint that cannot be read: choose another --out, or delete the folder", .folder.display())]
    Damaged {
        /// The output folder.
        folder: PathBuf,
        /// What is wrong with the checkpoint.
        source: Box<qnn_train::Error>,
    },
    /// Another process trains into the output folder.
    #[error("another process is training into {}: wait for it, or choose another --out", .folder.display())]
    Busy {
        /// The output folder.
        folder: PathBuf,
    },
    /// Metadata of a model file that have no meaning.
    #[error("the metadata of the model: {key} is {value:?}, expected {expected}")]
    Metadata {
        /// Their name.
        key: &'static str,
        /// Their value.
        value: String,
        /// What it may be.
        expected: &'static str,
    },
    /// The accuracy that `--require` asks for was not reached.
    #[error("the best test accuracy is {reached:.2} %, below the required {required:.2} %")]
    Accuracy {
        /// The best test accuracy in percent.
        reached: f64,
        /// What `--require` said.
        required: f64,
    },
    /// A file could not be written.
    #[error("cannot write {}", .path.display())]
    Write {
        /// The file or folder.
        path: PathBuf,
        /// The system's reason.
        source: std::io::Error,
    },
    /// The threads could not be started.
    #[error(transparent)]
    Threads(#[from] rayon::ThreadPoolBuildError),
    /// The data could not be had.
    #[error(transparent)]
    Data(#[from] qnn_data::Error),
    /// The network could not be made.
    #[error(transparent)]
    Model(#[from] qnn_models::Error),
    /// The quantizer could not be made.
    #[error(transparent)]
    Quantizer(#[from] qnn_quant::Error),
    /// The weights of `--init-from` do not fit.
    #[error("--init-from")]
    Load(#[from] qnn_layers::LoadError),
    /// Training failed.
    #[error(transparent)]
    Train(#[from] qnn_train::Error),
}

impl Error {
    /// Whether the command line was at fault.
    pub fn is_usage(&self) -> bool {
        use Error::{Busy, Flag, Load, Model, Occupied, Quantizer, Train, Unfinished};
        match self {
            Flag { .. } | Unfinished { .. } | Occupied { .. } | Busy { .. } => true,
            Quantizer(_) | Model(_) | Load(_) => true,
            Train(error) => matches!(error, qnn_train::Error::Setting { .. }),
            _ => false,
        }
    }

    pub(super) fn flag(flag: &'static str, reason: impl Into<String>) -> Self {
        Self::Flag { flag, reason: reason.into() }
    }

    pub(super) fn metadata(key: &'static str, value: &str, expected: &'static str) -> Self {
        Self::Metadata { key, value: value.to_owned(), expected }
    }
}
