//! Tensors and one note in a safetensors file.

use std::path::Path;

use qnn_files::{Container, Digest};
use qnn_layers::StateDict;
use qnn_tensor::Tensor;
use safetensors::SafeTensorError;
use safetensors::tensor::{Dtype, TensorView};

use crate::Error;

/// What a file holds.
#[derive(Debug, Default, PartialEq)]
pub(crate) struct Archive {
    pub(crate) tensors: StateDict,
    /// Empty if the file has none.
    pub(crate) note: String,
}

impl Archive {
    pub(crate) fn write(&self, path: &Path) -> Result<(), Error> {
        let invalid = |error: SafeTensorError| Error::format(path, error.to_string());
        let bytes: Vec<(&str, Vec<u8>)> =
            self.tensors.iter().map(|(name, tensor)| (name.as_str(), to_bytes(tensor))).collect();
        let views = bytes.iter().zip(self.tensors.values()).map(|((name, bytes), tensor)| {
            Ok((*name, TensorView::new(Dtype::F32, tensor.shape().to_vec(), bytes)?))
        });
        let views = views.collect::<Result<Vec<_>, _>>().map_err(invalid)?;
        Ok(Container::write(path, views, self.note.clone())?)
    }

    pub(crate) fn read(path: &Path) -> Result<Self, Error> {
        let container = Container::read(path)?;
        let file = container.tensors()?;
        let tensors = file.iter().map(|(name, view)| Ok((name.to_owned(), to_tensor(path, name, &view)?)));
        Ok(Self { tensors: tensors.collect::<Result<_, Error>>()?, note: container.note().to_owned() })
    }

    /// A number that changes with any bit of the note or the tensors.
    pub(crate) fn digest(&self) -> u64 {
        let mut digest = Digest::new();
        digest.text(&self.note);
        for (name, tensor) in &self.tensors {
            digest.text(name);
            digest.number(tensor.rank() as u64);
            tensor.shape().iter().for_each(|&axis| digest.number(axis as u64));
            tensor.as_slice().iter().for_each(|x| digest.bytes(&x.to_le_bytes()));
        }
        digest.value()
    }
}

fn to_bytes(tensor: &Tensor) -> Vec<u8> {
    tensor.as_slice().iter().flat_map(|x| x.to_le_bytes()).collect()
}

fn to_tensor(path: &Path, name: &str, view: &TensorView<'_>) -> Result<Tensor, Error> {
    if view.dtype() != Dtype::F32 {
        let reason = format!("the tensor {name:?} is of type {:?}, expected F32", view.dtype());
        return Err(Error::format(path, reason));
    }
    let values = view.data().as_chunks::<4>().0.iter().map(|&word| f32::from_le_bytes(word)).collect();
    // The format lets an axis of 0 hide any other.
    Tensor::from_vec(view.shape(), values)
        .map_err(|error| Error::format(path, format!("the tensor {name:?}: {error}")))
}

#[cfg(test)]
mod tests {
    use safetensors::serialize;

    use super::*;

    fn archive() -> Archive {
        let values = vec![1.5, -0.0, f32::NAN, f32::INFINITY, f32::from_bits(1), 3.0];
        let tensors = StateDict::from([
            ("a.kernel".to_owned(), Tensor::from_vec(&[2, 3], values).unwrap()),
            ("b".to_owned(), Tensor::scalar(7.0)),
            ("c".to_owned(), Tensor::zeros(&[0, 4])),
        ]);
        Archive { tensors, note: "epoch \"3\"".to_owned() }
    }

    #[test]
    fn tensors_and_note_come_back_bit_for_bit_and_files_are_equal() {
        let folder = tempfile::tempdir().unwrap();
        let (a, b) = (folder.path().join("a"), folder.path().join("b"));
        archive().write(&a).unwrap();
        let read = Archive::read(&a).unwrap();
        assert_eq!(read.note, archive().note);
        assert_eq!(read.digest(), archive().digest());
        let bits = |archive: &Archive| -> Vec<_> {
            let row = |(name, t): (&String, &Tensor)| (name.clone(), t.shape().to_vec(), to_bytes(t));
            archive.tensors.iter().map(row).collect()
        };
        assert_eq!(bits(&read), bits(&archive()));
        read.write(&b).unwrap();
        assert_eq!(std::fs::read(a).unwrap(), std::fs::read(b).unwrap());
    }

    #[test]
    fn the_digest_changes_with_the_least_bit() {
        let mut other = archive();
        other.tensors.get_mut("b").unwrap().as_mut_slice()[0] = 7.000_000_5;
        assert_ne!(other.digest(), archive().digest());
    }

    /// The format multiplies the sizes of a shape to 0 before it sees that no machine has such an axis.
    #[test]
    fn empty_tensors_of_absurd_shapes_are_errors() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("absurd");
        let header = br#"{"x":{"dtype":"F32","shape":[0,9223372036854775808],"data_offsets":[0,0]}}"#;
        let bytes = [&(header.len() as u64).to_le_bytes()[..], header].concat();
        std::fs::write(&path, bytes).unwrap();
        let errors = [crate::load_model(&path).unwrap_err(), crate::Checkpoint::load(&path).unwrap_err()];
        for error in errors {
            assert!(matches!(error, Error::Format { .. }), "{error}");
            let text = error.to_string();
            assert!(
                text.contains("absurd: the tensor \"x\": ") && text.contains("9223372036854775808"),
                "{text}"
            );
        }
    }

    #[test]
    fn other_types_are_errors() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("doubles");
        let view = TensorView::new(Dtype::F64, vec![1], &[0; 8]).unwrap();
        std::fs::write(&path, serialize([("x", view)], None).unwrap()).unwrap();
        let error = Archive::read(&path).unwrap_err().to_string();
        assert!(error.contains("\"x\" is of type F64, expected F32"), "{error}");
    }
}
