//! Model files: the weights and statistics alone, for deployment, evaluation and fine-tuning.

use std::collections::BTreeMap;
use std::path::Path;

use qnn_layers::{Module, StateDict, state_dict};

use crate::archive::Archive;
use crate::{Checkpoint, Error};

/// What the header calls the digest of the tensors and the other metadata.
const DIGEST: &str = "digest";

/// Writes a model's parameters and buffers as a safetensors file, atomically.
///
/// The metadata go into the file's header as one JSON object under `qnn`, with a `digest` of themselves and of the tensors,
/// which takes the place of metadata of that name; equal models and metadata give equal files.
///
/// # Errors
///
/// [`Error::File`] if the file cannot be written.
pub fn save_model(
    path: impl AsRef<Path>,
    model: &dyn Module,
    metadata: &BTreeMap<String, String>,
) -> Result<(), Error> {
    let path = path.as_ref();
    let mut metadata = metadata.clone();
    metadata.remove(DIGEST);
    let mut archive = Archive { tensors: state_dict(model), note: note(path, &metadata)? };
    metadata.insert(DIGEST.to_owned(), format!("{:016x}", archive.digest()));
    archive.note = note(path, &metadata)?;
    archive.write(path)
}

fn note(path: &Path, metadata: &BTreeMap<String, String>) -> Result<String, Error> {
    serde_json::to_string(metadata).map_err(|e| Error::format(path, e.to_string()))
}

/// Reads the tensors of a safetensors file, from here or elsewhere, by name; for
/// [`qnn_layers::load_state_dict`].
///
/// # Errors
///
/// [`Error::File`] if it cannot be read, [`Error::Format`] if it is no safetensors file, holds other types than F32, or is
/// damaged, which shows in the tensors of files that [`save_model`] wrote.
pub fn load_model(path: impl AsRef<Path>) -> Result<StateDict, Error> {
    Ok(read(path.as_ref())?.0)
}

/// Reads the tensors of a model file, as [`load_model`] does, or the model of a [`Checkpoint`].
///
/// # Errors
///
/// Those of [`load_model`]; for a damaged checkpoint those of [`Checkpoint::load`].
pub fn load_weights(path: impl AsRef<Path>) -> Result<StateDict, Error> {
    let path = path.as_ref();
    let no_checkpoint = match Checkpoint::load(path) {
        Ok(checkpoint) => return Ok(checkpoint.model),
        Err(error) => error,
    };
    let weights = load_model(path)?;
    // Tensors are named so in checkpoints alone: why it is none is worth more than which names do not fit.
    if !weights.is_empty()
        && weights.keys().all(|name| name.starts_with("model.") || name.starts_with("optimizer."))
    {
        return Err(no_checkpoint);
    }
    Ok(weights)
}

/// A number that changes with any bit of any tensor, and with their names and shapes.
pub fn weights_digest(weights: &StateDict) -> u64 {
    Archive { tensors: weights.clone(), note: String::new() }.digest()
}

/// Reads the metadata of a file that [`save_model`] wrote.
///
/// # Errors
///
/// Those of [`load_model`], and [`Error::Format`] if there are no such metadata.
pub fn load_metadata(path: impl AsRef<Path>) -> Result<BTreeMap<String, String>, Error> {
    let path = path.as_ref();
    read(path)?.1.ok_or_else(|| Error::format(path, "it has no metadata, as model files have"))
}

/// The tensors of a file, and its metadata without their digest. Files from elsewhere have neither metadata nor digest.
fn read(path: &Path) -> Result<(StateDict, Option<BTreeMap<String, String>>), Error> {
    let mut archive = Archive::read(path)?;
    let Ok(mut metadata) = serde_json::from_str::<BTreeMap<String, String>>(&archive.note) else {
        return Ok((archive.tensors, None));
    };
    if let Some(digest) = metadata.remove(DIGEST) {
        archive.note = note(path, &metadata)?;
        if format!("{:016x}", archive.digest()) != digest {
            return Err(Error::format(path, "its contents do not have the digest of its header"));
        }
    }
    Ok((archive.tensors, Some(metadata)))
}

#[cfg(test)]
mod tests {
    use qnn_layers::{Param, Role};
    use qnn_tensor::Tensor;

    use super::*;

    fn model_and_metadata() -> (Vec<Param>, BTreeMap<String, String>) {
        let kernel = Tensor::from_fn(&[2, 2], |i| i as f32 / 3.0);
        let metadata = BTreeMap::from([("experiment".to_owned(), "lenet5".to_owned())]);
        (vec![Param::new(Role::Kernel, kernel)], metadata)
    }

    #[test]
    fn models_and_metadata_come_back() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("model.safetensors");
        let (model, metadata) = model_and_metadata();
        save_model(&path, &model, &metadata).unwrap();
        assert_eq!(load_model(&path).unwrap(), state_dict(&model));
        assert_eq!(load_metadata(&path).unwrap(), metadata);
        std::fs::write(
            &path,
            safetensors::serialize::<&str, safetensors::tensor::TensorView<'_>, _>([], None).unwrap(),
        )
        .unwrap();
        assert!(load_model(&path).unwrap().is_empty());
        assert!(load_weights(&path).unwrap().is_empty());
        assert!(matches!(load_metadata(&path), Err(Error::Format { .. })));
    }

    #[test]
    fn damaged_weights_and_metadata_are_found() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("model.safetensors");
        let (model, metadata) = model_and_metadata();
        save_model(&path, &model, &metadata).unwrap();
        let whole = std::fs::read(&path).unwrap();
        let name = whole.windows(6).position(|bytes| bytes == b"lenet5").unwrap();
        for at in [name, whole.len() - 16, whole.len() - 1] {
            let mut damaged = whole.clone();
            damaged[at] ^= 1;
            std::fs::write(&path, damaged).unwrap();
            for error in [load_model(&path).unwrap_err(), load_metadata(&path).unwrap_err()] {
                assert!(error.to_string().contains("digest"), "{error}");
            }
        }
        // Files without a digest are taken as they are.
        let plain = Archive { tensors: state_dict(&model), note: note(&path, &metadata).unwrap() };
        plain.write(&path).unwrap();
        assert_eq!(load_weights(&path).unwrap(), state_dict(&model));
        assert_eq!(load_metadata(&path).unwrap(), metadata);
        // Metadata that bring a digest of their own cannot make the file a damaged one.
        let forged = BTreeMap::from([(DIGEST.to_owned(), "0".to_owned())]);
        save_model(&path, &model, &forged).unwrap();
        assert!(load_metadata(&path).unwrap().is_empty());
    }
}
