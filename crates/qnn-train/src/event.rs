use std::path::PathBuf;

use crate::EpochMetrics;

/// What a training reports while it runs.
#[derive(Clone, Debug, PartialEq)]
#[non_exhaustive]
pub enum Event {
    /// It begins, or goes on.
    Started {
        /// The first epoch to train, counted from 0.
        first_epoch: usize,
        /// The first batch of it, counted from 0.
        batch: usize,
        /// Batches in each epoch.
        of: usize,
        /// Epochs in all.
        epochs: usize,
        /// Whether a checkpoint was read.
        resumed: bool,
    },
    /// A batch is done.
    Batch {
        /// The epoch, counted from 0.
        epoch: usize,
        /// The batch, counted from 0.
        batch: usize,
        /// Batches in the epoch.
        of: usize,
        /// The loss of the batch, before its update.
        loss: f32,
        /// Training images per second in this epoch so far.
        images_per_second: f64,
    },
    /// An epoch is done, evaluation included.
    Epoch(EpochMetrics),
    /// A checkpoint is safely on the disk.
    Checkpoint(PathBuf),
    /// Someone asked to stop; what is to be saved is saved.
    Stopped {
        /// The epoch, counted from 0.
        epoch: usize,
        /// The batch that would have been next, counted from 0.
        batch: usize,
    },
}
