use std::collections::BTreeMap;
use std::path::Path;

use qnn_files::Signature;
use qnn_layers::StateDict;
use serde::{Deserialize, Serialize};

use crate::archive::Archive;
use crate::{EpochMetrics, Error, OptimizerState};

/// Everything that a training needs to go on as if it had never stopped.
///
/// A file is a safetensors file: tensors `model.PATH` and `optimizer.PATH.SLOT`, and in the header's
/// metadata the rest, under a version and a digest of all of it. Floating-point numbers are stored
/// by their bits. Random numbers need no state: they are functions of the seed and the step.
#[derive(Clone, Debug, PartialEq)]
pub struct Checkpoint {
    /// What run this belongs to: the settings, by name, as text.
    pub run: BTreeMap<String, String>,
    /// The model's parameters and buffers.
    pub model: StateDict,
    /// What the optimizer remembers.
    pub optimizer: OptimizerState,
    /// How far the training is.
    pub progress: Progress,
}

/// How far a training is.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Progress {
    /// The running epoch, counted from 0.
    pub epoch: usize,
    /// The next batch of this epoch, counted from 0.
    pub batch: usize,
    /// Training steps so far.
    pub step: u64,
    /// Sums over the running epoch.
    pub sums: EpochSums,
    /// The epochs before.
    pub history: Vec<EpochMetrics>,
}

/// Sums over the batches of an epoch so far.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct EpochSums {
    /// Of the losses of the images.
    #[serde(with = "bits")]
    pub loss: f64,
    /// Images that were classified correctly.
    pub correct: u64,
    /// Images.
    pub images: u64,
    /// Sign changes of latent weights.
    pub flips: u64,
    /// Latent weights, counted in each step.
    pub binary_weights: u64,
    /// Time, in seconds.
    #[serde(with = "bits")]
    pub seconds: f64,
}

const FORMAT: &str = "qnn-checkpoint";
const VERSION: u64 = 1;

/// No training counts further; f64 does not either.
const LARGEST: u64 = 1 << 53;

/// What the header says beside the tensors.
#[derive(Serialize, Deserialize)]
struct Note {
    run: BTreeMap<String, String>,
    epoch: usize,
    batch: usize,
    step: u64,
    optimizer_steps: u64,
    sums: EpochSums,
    history: Vec<EpochBits>,
}

/// An epoch's numbers, by their bits.
#[derive(Serialize, Deserialize)]
struct EpochBits {
    train_loss: u64,
    train_accuracy: u64,
    test_loss: u64,
    test_accuracy: u64,
    learning_rate: u32,
    flip_ratio: Option<u64>,
    seconds: u64,
    images_per_second: u64,
}

impl Checkpoint {
    /// Writes the file, atomically: whoever is killed meanwhile leaves the old one.
    ///
    /// # Errors
    ///
    /// [`Error::File`] if it cannot be written.
    pub fn save(&self, path: impl AsRef<Path>) -> Result<(), Error> {
        let path = path.as_ref();
        let note = serde_json::to_string(&self.note());
        let note = note.map_err(|error| Error::format(path, error.to_string()))?;
        let mut archive = Archive { tensors: self.tensors(), note };
        archive.note = Signature { version: VERSION, digest: archive.digest() }.sign(FORMAT, &archive.note);
        archive.write(path)
    }

    /// Reads a file.
    ///
    /// # Errors
    ///
    /// [`Error::File`] if it cannot be read, [`Error::Version`] if a newer or older program wrote
    /// it, [`Error::Format`] if it is no checkpoint or damaged.
    pub fn load(path: impl AsRef<Path>) -> Result<Self, Error> {
        let path = path.as_ref();
        let mut archive = Archive::read(path)?;
        let (digest, note) = open_note(path, &archive.note)?;
        archive.note = note.to_owned();
        if archive.digest() != digest {
            return Err(Error::format(path, "its contents do not have the digest of its header"));
        }
        let note: Note = serde_json::from_str(&archive.note)
            .map_err(|error| Error::format(path, format!("its metadata: {error}")))?;
        if note.epoch != note.history.len() {
            let reason = format!("it is in epoch {} with {} before", note.epoch, note.history.len());
            return Err(Error::format(path, reason));
        }
        note.sums.check().map_err(|reason| Error::format(path, reason))?;
        Self::assemble(path, note, archive.tensors)
    }

    /// Each setting in which this checkpoint's run differs from another one, as `epochs is 10 there and 20 here`; empty if
    /// none does. See [`run_settings`](crate::run_settings).
    pub fn differences(&self, here: &BTreeMap<String, String>) -> String {
        let there = &self.run;
        let names = there.keys().chain(here.keys().filter(|name| !there.contains_key(*name)));
        let value =
            |run: &BTreeMap<String, String>, name| run.get(name).map_or("absent".to_owned(), String::clone);
        let lines = names.map(|name| (name, value(there, name), value(here, name)));
        let lines = lines.filter(|(_, there, here)| there != here);
        let lines = lines.map(|(name, there, here)| format!("{name} is {there} there and {here} here"));
        lines.collect::<Vec<_>>().join("; ")
    }

    fn note(&self) -> Note {
        let Progress { epoch, batch, step, sums, ref history } = self.progress;
        let history = history.iter().map(EpochBits::of).collect();
        let (run, optimizer_steps) = (self.run.clone(), self.optimizer.steps);
        Note { run, epoch, batch, step, optimizer_steps, sums, history }
    }

    fn tensors(&self) -> StateDict {
        let named = |prefix: &'static str, state: &StateDict| -> StateDict {
            state.iter().map(|(path, value)| (format!("{prefix}{path}"), value.clone())).collect()
        };
        let mut tensors = named("model.", &self.model);
        tensors.extend(named("optimizer.", &self.optimizer.slots));
        tensors
    }

    fn assemble(path: &Path, note: Note, tensors: StateDict) -> Result<Self, Error> {
        let (mut model, mut slots) = (StateDict::new(), StateDict::new());
        for (name, value) in tensors {
            match name.split_once('.') {
                Some(("model", path)) => model.insert(path.to_owned(), value),
                Some(("optimizer", path)) => slots.insert(path.to_owned(), value),
                _ => return Err(Error::format(path, format!("it holds an unknown tensor {name:?}"))),
            };
        }
        let history = note.history.iter().enumerate();
        let history = history.map(|(epoch, bits)| bits.metrics(epoch)).collect();
        let Note { run, epoch, batch, step, optimizer_steps, sums, .. } = note;
        let progress = Progress { epoch, batch, step, sums, history };
        Ok(Self { run, model, optimizer: OptimizerState { steps: optimizer_steps, slots }, progress })
    }
}

/// The digest and the rest of a note.
fn open_note<'n>(path: &Path, note: &'n str) -> Result<(u64, &'n str), Error> {
    let opened = Signature::open(FORMAT, note);
    let (Signature { version, digest }, rest) =
        opened.ok_or_else(|| Error::format(path, "it is no checkpoint"))?;
    if version != VERSION {
        return Err(Error::Version { path: path.to_owned(), found: version, supported: VERSION });
    }
    Ok((digest, rest))
}

impl EpochSums {
    /// Refuses sums that no epoch has, before anything is added to them.
    fn check(&self) -> Result<(), String> {
        let parts = [
            ("correct", self.correct, "images", self.images),
            ("flips", self.flips, "latent weights", self.binary_weights),
        ];
        let wrong = parts.iter().find(|(_, part, _, whole)| part > whole || *whole > LARGEST);
        match wrong {
            Some((what, part, of, whole)) => Err(format!("it counts {part} {what} of {whole} {of}")),
            None => Ok(()),
        }
    }
}

impl EpochBits {
    fn of(metrics: &EpochMetrics) -> Self {
        Self {
            train_loss: metrics.train_loss.to_bits(),
            train_accuracy: metrics.train_accuracy.to_bits(),
            test_loss: metrics.test_loss.to_bits(),
            test_accuracy: metrics.test_accuracy.to_bits(),
            learning_rate: metrics.learning_rate.to_bits(),
            flip_ratio: metrics.flip_ratio.map(f64::to_bits),
            seconds: metrics.seconds.to_bits(),
            images_per_second: metrics.images_per_second.to_bits(),
        }
    }

    fn metrics(&self, epoch: usize) -> EpochMetrics {
        EpochMetrics {
            epoch,
            train_loss: f64::from_bits(self.train_loss),
            train_accuracy: f64::from_bits(self.train_accuracy),
            test_loss: f64::from_bits(self.test_loss),
            test_accuracy: f64::from_bits(self.test_accuracy),
            learning_rate: f32::from_bits(self.learning_rate),
            flip_ratio: self.flip_ratio.map(f64::from_bits),
            seconds: f64::from_bits(self.seconds),
            images_per_second: f64::from_bits(self.images_per_second),
        }
    }
}

/// A number as the integer of its bits: decimal digits would round, and JSON has no NaN.
mod bits {
    use serde::{Deserialize, Deserializer, Serializer};

    pub(super) fn serialize<S: Serializer>(x: &f64, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_u64(x.to_bits())
    }

    pub(super) fn deserialize<'de, D: Deserializer<'de>>(deserializer: D) -> Result<f64, D::Error> {
        u64::deserialize(deserializer).map(f64::from_bits)
    }
}

#[cfg(test)]
mod tests {
    use std::path::PathBuf;

    use qnn_tensor::Tensor;

    use super::*;
    use crate::metrics::tests::epoch;

    fn checkpoint() -> Checkpoint {
        let tensor = |seed: f32| Tensor::from_fn(&[3, 2], |i| (i as f32 + seed).sin());
        let mut history = vec![epoch(0, 0.1 + 0.2), epoch(1, 0.4)];
        history[0].flip_ratio = Some(1.0 / 3.0);
        let sums = EpochSums { loss: 0.1, correct: 3, images: 8, flips: 2, binary_weights: 12, seconds: 0.7 };
        Checkpoint {
            run: BTreeMap::from([("seed".to_owned(), "7".to_owned())]),
            model: StateDict::from([("stem.kernel".to_owned(), tensor(0.0))]),
            optimizer: OptimizerState {
                steps: 45,
                slots: StateDict::from([("stem.kernel.momentum".to_owned(), tensor(1.0))]),
            },
            progress: Progress { epoch: 2, batch: 5, step: 45, sums, history },
        }
    }

    fn saved() -> (tempfile::TempDir, PathBuf, Vec<u8>) {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("checkpoint.safetensors");
        checkpoint().save(&path).unwrap();
        let bytes = std::fs::read(&path).unwrap();
        (folder, path, bytes)
    }

    #[test]
    fn everything_comes_back_and_equal_states_are_equal_files() {
        let (_folder, path, bytes) = saved();
        let loaded = Checkpoint::load(&path).unwrap();
        assert_eq!(loaded, checkpoint());
        loaded.save(&path).unwrap();
        assert_eq!(std::fs::read(&path).unwrap(), bytes);
    }

    #[test]
    fn not_a_number_comes_back_too() {
        let (_folder, path, _) = saved();
        let mut odd = checkpoint();
        odd.progress.history[1].test_loss = f64::NAN;
        odd.progress.sums.loss = f64::NEG_INFINITY;
        odd.save(&path).unwrap();
        let loaded = Checkpoint::load(&path).unwrap().progress;
        assert!(loaded.history[1].test_loss.is_nan() && loaded.sums.loss == f64::NEG_INFINITY);
    }

    #[test]
    fn every_truncation_is_an_error() {
        let (_folder, path, bytes) = saved();
        for len in 0..bytes.len() {
            std::fs::write(&path, &bytes[..len]).unwrap();
            assert!(matches!(Checkpoint::load(&path), Err(Error::Format { .. })), "{len} bytes");
        }
    }

    #[test]
    fn every_flipped_bit_is_an_error() {
        let (_folder, path, bytes) = saved();
        let mut bytes = bytes;
        for bit in (0..bytes.len() * 8).step_by(11) {
            bytes[bit / 8] ^= 1 << (bit % 8);
            std::fs::write(&path, &bytes).unwrap();
            let result = Checkpoint::load(&path);
            assert!(
                matches!(result, Err(Error::Format { .. } | Error::Version { .. })),
                "bit {} of byte {}",
                bit % 8,
                bit / 8
            );
            bytes[bit / 8] ^= 1 << (bit % 8);
        }
    }

    /// Whoever signs anew what no training has counted.
    #[test]
    fn sums_that_no_epoch_has_are_errors() {
        let (_folder, path, _) = saved();
        let changes: [fn(&mut EpochSums); 4] = [
            |sums| sums.correct = sums.images + 1,
            |sums| sums.flips = sums.binary_weights + 1,
            |sums| sums.images = u64::MAX,
            |sums| sums.binary_weights = u64::MAX,
        ];
        for change in changes {
            let mut forged = checkpoint();
            change(&mut forged.progress.sums);
            forged.save(&path).unwrap();
            let error = Checkpoint::load(&path).unwrap_err();
            assert!(matches!(error, Error::Format { .. }), "{error}");
            assert!(error.to_string().contains("it counts "), "{error}");
        }
    }

    #[test]
    fn every_flipped_bit_of_the_first_line_is_an_error() {
        let (_folder, path, bytes) = saved();
        let start = bytes.windows(FORMAT.len()).position(|at| at == FORMAT.as_bytes()).unwrap();
        // Behind the digest stand the two characters of an escaped line break.
        let end = start + format!("{FORMAT} {VERSION} {:016x}\\n", 0).len();
        for bit in 8 * start..8 * end {
            let mut bytes = bytes.clone();
            bytes[bit / 8] ^= 1 << (bit % 8);
            std::fs::write(&path, &bytes).unwrap();
            let result = Checkpoint::load(&path);
            let noticed = matches!(result, Err(Error::Format { .. } | Error::Version { .. }));
            assert!(noticed, "bit {} of {:?}", bit % 8, char::from(bytes[bit / 8]));
        }
    }

    #[test]
    fn settings_that_differ_are_named_with_both_values() {
        let run = |settings: &[(&str, &str)]| -> BTreeMap<String, String> {
            settings.iter().map(|&(name, value)| (name.to_owned(), value.to_owned())).collect()
        };
        assert_eq!(checkpoint().differences(&run(&[("seed", "7")])), "");
        assert_eq!(
            checkpoint().differences(&run(&[("seed", "8"), ("rate", "0.1")])),
            "seed is 7 there and 8 here; rate is absent there and 0.1 here"
        );
    }

    #[test]
    fn other_versions_and_other_files_say_so() {
        let (_folder, path, _) = saved();
        let mut archive = Archive::read(&path).unwrap();
        archive.note = archive.note.replacen("checkpoint 1", "checkpoint 2", 1);
        archive.write(&path).unwrap();
        let error = Checkpoint::load(&path).unwrap_err();
        assert!(matches!(error, Error::Version { found: 2, supported: 1, .. }), "{error}");
        archive.note = "{}".to_owned();
        archive.write(&path).unwrap();
        assert!(Checkpoint::load(&path).unwrap_err().to_string().contains("it is no checkpoint"));
    }
}
