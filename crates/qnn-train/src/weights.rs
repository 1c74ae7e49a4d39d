//! Model files: the weights and statistics alone, for deployment, evaluation and fine-tuning.

use std::collections::BTreeMap;
use std::path::Path;

use qnn_layers::{Module, StateDict, state_dict};

use crate::Error;
use crate::archive::Archive;

/// Writes a model's parameters and buffers as a safetensors file, atomically.
///
/// The metadata go into the file's header as one JSON object under `qnn`; equal models and metadata
/// give equal files.
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
    let note = serde_json::to_string(metadata).map_err(|e| Error::format(path, e.to_string()))?;
    Archive { tensors: state_dict(model), note }.write(path)
}

/// Reads the tensors of a safetensors file, from here or elsewhere, by name; for
/// [`qnn_layers::load_state_dict`].
///
/// # Errors
///
/// [`Error::File`] if it cannot be read, [`Error::Format`] if it is damaged, is no safetensors file
/// or holds other types than F32.
pub fn load_model(path: impl AsRef<Path>) -> Result<StateDict, Error> {
    Ok(Archive::read(path.as_ref())?.tensors)
}

/// Reads the metadata of a file that [`save_model`] wrote.
///
/// # Errors
///
/// Those of [`load_model`], and [`Error::Format`] if there are no such metadata.
pub fn load_metadata(path: impl AsRef<Path>) -> Result<BTreeMap<String, String>, Error> {
    let path = path.as_ref();
    let note = Archive::read(path)?.note;
    serde_json::from_str(&note).map_err(|e| Error::format(path, format!("its metadata: {e}")))
}

#[cfg(test)]
mod tests {
    use qnn_layers::{Param, Role};
    use qnn_tensor::Tensor;

    use super::*;

    #[test]
    fn models_and_metadata_come_back() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("model.safetensors");
        let model = vec![Param::new(Role::Kernel, Tensor::from_fn(&[2, 2], |i| i as f32 / 3.0))];
        let metadata = BTreeMap::from([("experiment".to_owned(), "lenet5".to_owned())]);
        save_model(&path, &model, &metadata).unwrap();
        assert_eq!(load_model(&path).unwrap(), state_dict(&model));
        assert_eq!(load_metadata(&path).unwrap(), metadata);
        std::fs::write(
            &path,
            safetensors::serialize::<&str, safetensors::tensor::TensorView<'_>, _>([], None).unwrap(),
        )
        .unwrap();
        assert!(load_model(&path).unwrap().is_empty());
        assert!(matches!(load_metadata(&path), Err(Error::Format { .. })));
    }
}
