//! The names of the files that a training leaves in its folder.

/// All state of the training, after each epoch, after some time, and when it is stopped.
pub const CHECKPOINT: &str = "checkpoint.safetensors";

/// The model after the epoch with the best test accuracy.
pub const BEST_MODEL: &str = "best.safetensors";

/// The model at the end.
pub const MODEL: &str = "model.safetensors";

/// One line per epoch, for spreadsheets.
pub const METRICS_CSV: &str = "metrics.csv";

/// One line per epoch, as JSON objects.
pub const METRICS_JSONL: &str = "metrics.jsonl";

/// Loss and accuracy, drawn.
pub const CURVES: &str = "curves.svg";
