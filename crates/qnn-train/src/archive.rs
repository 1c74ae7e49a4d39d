//! Tensors and one note in a safetensors file.

use std::collections::HashMap;
use std::fs::File;
use std::io::Read;
use std::path::Path;

use qnn_layers::StateDict;
use qnn_tensor::Tensor;
use safetensors::tensor::{Dtype, Metadata, TensorView};
use safetensors::{SafeTensors, serialize};

use crate::{Error, atomic};

/// The metadata entry of the note. There is one entry only: the format's library writes several in
/// an order that changes from process to process, and equal runs shall leave equal files.
const NOTE: &str = "qnn";

/// What a file holds.
#[derive(Debug, Default, PartialEq)]
pub(crate) struct Archive {
    pub(crate) tensors: StateDict,
    /// Empty if the file has none.
    pub(crate) note: String,
}

impl Archive {
    pub(crate) fn write(&self, path: &Path) -> Result<(), Error> {
        let invalid = |error: safetensors::SafeTensorError| Error::format(path, error.to_string());
        let bytes: Vec<(&str, Vec<u8>)> =
            self.tensors.iter().map(|(name, tensor)| (name.as_str(), to_bytes(tensor))).collect();
        let views = bytes.iter().zip(self.tensors.values()).map(|((name, bytes), tensor)| {
            Ok((*name, TensorView::new(Dtype::F32, tensor.shape().to_vec(), bytes)?))
        });
        let views = views.collect::<Result<Vec<_>, _>>().map_err(invalid)?;
        let note = HashMap::from([(NOTE.to_owned(), self.note.clone())]);
        atomic::write(path, &serialize(views, Some(note)).map_err(invalid)?)
    }

    pub(crate) fn read(path: &Path) -> Result<Self, Error> {
        let invalid = |error: safetensors::SafeTensorError| Error::format(path, error.to_string());
        let bytes = read_bytes(path)?;
        let (_, metadata) = SafeTensors::read_metadata(&bytes).map_err(invalid)?;
        let note = metadata.metadata().as_ref().and_then(|entries| entries.get(NOTE));
        let file = SafeTensors::deserialize(&bytes).map_err(invalid)?;
        let tensors = file.iter().map(|(name, view)| Ok((name.to_owned(), to_tensor(path, name, &view)?)));
        Ok(Self { tensors: tensors.collect::<Result<_, Error>>()?, note: note.cloned().unwrap_or_default() })
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
        digest.0
    }
}

/// The 64-bit FNV-1a hash (Fowler, Noll & Vo): against accidents, not against forgers.
struct Digest(u64);

impl Digest {
    fn new() -> Self {
        Self(0xcbf2_9ce4_8422_2325)
    }

    fn bytes(&mut self, bytes: &[u8]) {
        for &byte in bytes {
            self.0 = (self.0 ^ u64::from(byte)).wrapping_mul(0x0000_0100_0000_01b3);
        }
    }

    fn number(&mut self, number: u64) {
        self.bytes(&number.to_le_bytes());
    }

    fn text(&mut self, text: &str) {
        self.number(text.len() as u64);
        self.bytes(text.as_bytes());
    }
}

/// The whole file, once its header has told the file's own length: nothing that merely claims to be
/// large takes memory.
fn read_bytes(path: &Path) -> Result<Vec<u8>, Error> {
    let io = |error| Error::file(path)(error);
    let mut file = File::open(path).map_err(io)?;
    let metadata = file.metadata().map_err(io)?;
    if !metadata.is_file() {
        return Err(Error::format(path, "it is not a file"));
    }
    let mut bytes = Vec::new();
    file.by_ref().take(8).read_to_end(&mut bytes).map_err(io)?;
    let header = header_len(path, &bytes, metadata.len())?;
    file.by_ref().take(header).read_to_end(&mut bytes).map_err(io)?;
    check_len(path, &bytes[8..], header, metadata.len())?;
    file.take(metadata.len()).read_to_end(&mut bytes).map_err(io)?;
    Ok(bytes)
}

fn header_len(path: &Path, prefix: &[u8], len: u64) -> Result<u64, Error> {
    const LARGEST: u64 = 100_000_000;
    let prefix: [u8; 8] = prefix
        .try_into()
        .map_err(|_| Error::format(path, format!("it ends after {len} bytes, within its first field")))?;
    let header = u64::from_le_bytes(prefix);
    if header > len - 8 || header > LARGEST {
        let reason = format!("byte 0 announces a header of {header} bytes, the file has {len}");
        return Err(Error::format(path, reason));
    }
    Ok(header)
}

fn check_len(path: &Path, header: &[u8], header_len: u64, len: u64) -> Result<(), Error> {
    let metadata: Metadata = serde_json::from_slice(header)
        .map_err(|error| Error::format(path, format!("the header at byte 8: {error}")))?;
    let expected = (metadata.data_len() as u64).checked_add(8 + header_len);
    if expected == Some(len) {
        return Ok(());
    }
    let reason = format!(
        "its header describes {} bytes of tensors, {} follow",
        metadata.data_len(),
        len - 8 - header_len
    );
    Err(Error::format(path, reason))
}

fn to_bytes(tensor: &Tensor) -> Vec<u8> {
    tensor.as_slice().iter().flat_map(|x| x.to_le_bytes()).collect()
}

fn to_tensor(path: &Path, name: &str, view: &TensorView<'_>) -> Result<Tensor, Error> {
    if view.dtype() != Dtype::F32 {
        let reason = format!("the tensor {name:?} is of type {:?}, expected F32", view.dtype());
        return Err(Error::format(path, reason));
    }
    Ok(Tensor::build(view.shape(), |out| {
        let words = view.data().as_chunks::<4>().0;
        out.iter_mut().zip(words).for_each(|(y, &word)| *y = f32::from_le_bytes(word));
    }))
}

#[cfg(test)]
mod tests {
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
    fn the_digest_is_that_of_its_definition() {
        let mut digest = Digest::new();
        digest.bytes(b"foobar");
        assert_eq!(digest.0, 0x8594_4171_f739_67e8);
        let mut other = archive();
        other.tensors.get_mut("b").unwrap().as_mut_slice()[0] = 7.000_000_5;
        assert_ne!(other.digest(), archive().digest());
    }

    #[test]
    fn other_types_missing_files_and_folders_are_errors() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("doubles");
        let view = TensorView::new(Dtype::F64, vec![1], &[0; 8]).unwrap();
        std::fs::write(&path, serialize([("x", view)], None).unwrap()).unwrap();
        let error = Archive::read(&path).unwrap_err().to_string();
        assert!(error.contains("\"x\" is of type F64, expected F32"), "{error}");
        assert!(matches!(Archive::read(folder.path()), Err(Error::Format { .. } | Error::File { .. })));
        assert!(matches!(Archive::read(&folder.path().join("none")), Err(Error::File { .. })));
    }

    #[test]
    fn lengths_that_the_file_does_not_have_take_no_memory() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("x");
        let header = br#"{"x":{"dtype":"F32","shape":[4000000000],"data_offsets":[0,16000000000]}}"#;
        let with = |len: u64, rest: &[u8]| [&len.to_le_bytes()[..], rest].concat();
        for bytes in [
            vec![],
            vec![1, 2, 3],
            with(u64::MAX, b""),
            with(1 << 40, b"{}"),
            with(3, b"{}"),
            with(header.len() as u64, header),
        ] {
            std::fs::write(&path, bytes).unwrap();
            assert!(matches!(Archive::read(&path), Err(Error::Format { .. })));
        }
    }
}
