use std::path::Path;

use serde::{Serialize, Serializer};

use crate::{Error, files};

/// What one epoch showed.
///
/// Accuracies are shares in 0..=1. All but the times are reproducible bit for bit.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct EpochMetrics {
    /// The epoch, counted from 0; in files it counts from 1.
    #[serde(serialize_with = "counted_from_one")]
    pub epoch: usize,
    /// The mean loss per training image, during the epoch.
    pub train_loss: f64,
    /// The share of training images that were classified correctly, during the epoch.
    pub train_accuracy: f64,
    /// The mean loss per test image, after the epoch.
    pub test_loss: f64,
    /// The share of test images that are classified correctly, after the epoch.
    pub test_accuracy: f64,
    /// The base learning rate of the epoch's last step.
    pub learning_rate: f32,
    /// The share of latent weights that change their sign, a mean over the epoch's steps; `None` if
    /// the model has no latent weights.
    pub flip_ratio: Option<f64>,
    /// Time for training and evaluation, in seconds.
    pub seconds: f64,
    /// Training images per second, without evaluation.
    pub images_per_second: f64,
}

/// The epoch with the highest test accuracy, the first among equal ones.
pub fn best_epoch(history: &[EpochMetrics]) -> Option<&EpochMetrics> {
    let better = |best: Option<&EpochMetrics>, epoch: &EpochMetrics| {
        best.is_none_or(|best| epoch.test_accuracy > best.test_accuracy)
    };
    history.iter().fold(None, |best, epoch| if better(best, epoch) { Some(epoch) } else { best })
}

/// Whether the last epoch is the best one.
pub(crate) fn ends_with_its_best(history: &[EpochMetrics]) -> bool {
    // By number: a loss that is NaN makes metrics differ from themselves.
    let number = |epoch: Option<&EpochMetrics>| epoch.map(|epoch| epoch.epoch);
    history.last().is_some() && number(best_epoch(history)) == number(history.last())
}

/// Writes `metrics.csv` and `metrics.jsonl`, one line per epoch, into a folder.
///
/// Both are written as a whole from the history, so that a resumed run neither repeats nor loses a
/// line.
///
/// # Errors
///
/// [`Error::File`] if a file cannot be written.
pub fn write_history(folder: &Path, history: &[EpochMetrics]) -> Result<(), Error> {
    let (csv, jsonl) = (folder.join(files::METRICS_CSV), folder.join(files::METRICS_JSONL));
    let invalid = |error: csv::Error| Error::file(&csv)(std::io::Error::other(error));
    qnn_files::write_atomically(&csv, &to_csv(history).map_err(invalid)?)?;
    let invalid = |error: serde_json::Error| Error::file(&jsonl)(error.into());
    Ok(qnn_files::write_atomically(&jsonl, &to_jsonl(history).map_err(invalid)?)?)
}

fn to_csv(history: &[EpochMetrics]) -> Result<Vec<u8>, csv::Error> {
    let mut writer = csv::Writer::from_writer(Vec::new());
    history.iter().try_for_each(|epoch| writer.serialize(epoch))?;
    writer.into_inner().map_err(|error| error.into_error().into())
}

fn to_jsonl(history: &[EpochMetrics]) -> Result<Vec<u8>, serde_json::Error> {
    let mut text = Vec::new();
    for epoch in history {
        serde_json::to_writer(&mut text, epoch)?;
        text.push(b'\n');
    }
    Ok(text)
}

fn counted_from_one<S: Serializer>(epoch: &usize, serializer: S) -> Result<S::Ok, S::Error> {
    serializer.serialize_u64(*epoch as u64 + 1)
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;

    pub(crate) fn epoch(epoch: usize, test_accuracy: f64) -> EpochMetrics {
        EpochMetrics {
            epoch,
            train_loss: 1.5 / (epoch + 1) as f64,
            train_accuracy: 0.5,
            test_loss: 1.25,
            test_accuracy,
            learning_rate: 0.1,
            flip_ratio: None,
            seconds: 2.0,
            images_per_second: 640.0,
        }
    }

    #[test]
    fn files_hold_one_line_per_epoch_however_often_they_are_written() {
        let folder = tempfile::tempdir().unwrap();
        let mut history = vec![epoch(0, 0.25), epoch(1, 0.5)];
        history[1].flip_ratio = Some(0.125);
        history[1].test_loss = f64::NAN;
        write_history(folder.path(), &history[..1]).unwrap();
        write_history(folder.path(), &history).unwrap();
        let read = |name| std::fs::read_to_string(folder.path().join(name)).unwrap();
        assert_eq!(
            read("metrics.csv"),
            "epoch,train_loss,train_accuracy,test_loss,test_accuracy,learning_rate,flip_ratio,\
             seconds,images_per_second\n\
             1,1.5,0.5,1.25,0.25,0.1,,2.0,640.0\n\
             2,0.75,0.5,NaN,0.5,0.1,0.125,2.0,640.0\n"
        );
        let lines = read("metrics.jsonl");
        let second: serde_json::Value = serde_json::from_str(lines.lines().nth(1).unwrap()).unwrap();
        assert_eq!(lines.lines().count(), 2);
        assert_eq!((&second["epoch"], &second["flip_ratio"]), (&2.into(), &0.125.into()));
        assert!(second["test_loss"].is_null());
    }

    #[test]
    fn the_first_of_equally_good_epochs_is_the_best() {
        let history = [epoch(0, 0.5), epoch(1, 0.75), epoch(2, 0.75), epoch(3, 0.1)];
        assert_eq!(best_epoch(&history).unwrap().epoch, 1);
        assert!(best_epoch(&[]).is_none());
        let ends = [1, 2, 3, 4].map(|epochs| ends_with_its_best(&history[..epochs]));
        assert_eq!(ends, [true, true, false, false]);
        assert!(!ends_with_its_best(&[]));
        let without_loss = EpochMetrics { test_loss: f64::NAN, ..epoch(0, 0.5) };
        assert!(ends_with_its_best(&[without_loss]));
    }
}
