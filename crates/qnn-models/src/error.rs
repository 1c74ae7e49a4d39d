/// What can go wrong in building a model.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// A layer that cannot be built.
    #[error(transparent)]
    Layer(#[from] qnn_layers::Error),
    /// A quantizer that cannot be built.
    #[error(transparent)]
    Quantizer(#[from] qnn_quant::Error),
    /// No preset has this name.
    #[error("unknown preset `{name}`; known are {}", known.join(", "))]
    UnknownPreset {
        /// The name that was asked for.
        name: String,
        /// All names there are.
        known: Vec<&'static str>,
    },
    /// A residual network of a depth that there is none of.
    #[error(
        "a CIFAR ResNet has 6n + 2 layers with n from 1 to {}, got {depth}; try 14, 20, 32, 44, 56 or 110",
        crate::resnet::MAX_BLOCKS
    )]
    Depth {
        /// The depth that was asked for.
        depth: usize,
    },
    /// A setting that makes no model.
    #[error("{model}: {setting} is {value}, it must be {expected}")]
    Setting {
        /// The model.
        model: &'static str,
        /// The field of its configuration.
        setting: &'static str,
        /// Its value.
        value: String,
        /// What it may be.
        expected: String,
    },
    /// A layer that is to stay in full precision and does not exist.
    #[error("no weight layer lies at or below `{path}`; there are {}", known.join(", "))]
    UnknownPath {
        /// The path that was asked for.
        path: String,
        /// The paths of all weight layers.
        known: Vec<String>,
    },
}

/// The crate's result.
pub type Result<T, E = Error> = std::result::Result<T, E>;
