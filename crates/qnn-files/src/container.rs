use std::collections::HashMap;
use std::fs::File;
use std::io::Read;
use std::path::{Path, PathBuf};

use safetensors::tensor::{Metadata, TensorView};
use safetensors::{SafeTensorError, SafeTensors, serialize};

use crate::{Error, atomic};

/// The metadata entry of the note. There is one entry only: the format's library writes several in
/// an order that changes from process to process, and equal contents shall make equal files.
const NOTE: &str = "qnn";

/// A safetensors file in memory, whose header has told the file's own length.
#[derive(Clone, Debug)]
pub struct Container {
    path: PathBuf,
    bytes: Vec<u8>,
    note: String,
}

impl Container {
    /// Writes tensors and a note, atomically.
    ///
    /// # Errors
    ///
    /// [`Error::File`] if the file cannot be written, [`Error::Format`] if a tensor is none.
    pub fn write<'t>(
        path: &Path,
        tensors: impl IntoIterator<Item = (&'t str, TensorView<'t>)>,
        note: String,
    ) -> Result<(), Error> {
        let note = HashMap::from([(NOTE.to_owned(), note)]);
        let bytes = serialize(tensors, Some(note)).map_err(|error| Error::format(path, error.to_string()))?;
        atomic::write(path, &bytes)
    }

    /// Reads a file of which nothing is known.
    ///
    /// # Errors
    ///
    /// [`Error::File`] if it cannot be read, [`Error::Format`] if it is damaged or no safetensors
    /// file.
    pub fn read(path: &Path) -> Result<Self, Error> {
        let invalid = |error: SafeTensorError| Error::format(path, error.to_string());
        let bytes = read_bytes(path)?;
        let (_, metadata) = SafeTensors::read_metadata(&bytes).map_err(invalid)?;
        let note = metadata.metadata().as_ref().and_then(|entries| entries.get(NOTE)).cloned();
        let container = Self { path: path.to_owned(), bytes, note: note.unwrap_or_default() };
        container.tensors()?;
        Ok(container)
    }

    /// The note; empty if the file has none.
    pub fn note(&self) -> &str {
        &self.note
    }

    /// The tensors.
    ///
    /// # Errors
    ///
    /// None that [`read`](Container::read) has not reported.
    pub fn tensors(&self) -> Result<SafeTensors<'_>, Error> {
        SafeTensors::deserialize(&self.bytes).map_err(|error| Error::format(&self.path, error.to_string()))
    }
}

/// The whole file, once its header has told the file's own length: nothing that merely claims to be
/// large takes memory.
fn read_bytes(path: &Path) -> Result<Vec<u8>, Error> {
    let io = |error| Error::file(path)(error);
    // Asked by name: opening a pipe waits for whoever writes into it.
    if !std::fs::metadata(path).map_err(io)?.is_file() {
        return Err(Error::format(path, "it is not a file"));
    }
    let mut file = File::open(path).map_err(io)?;
    let metadata = file.metadata().map_err(io)?;
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
    // A file of the system, such as those in /proc, may claim to be empty and yet give bytes.
    if len.checked_sub(8).is_none_or(|rest| header > rest) || header > LARGEST {
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

#[cfg(test)]
mod tests {
    use safetensors::tensor::Dtype;

    use super::*;

    #[test]
    fn equal_contents_make_equal_files() {
        let folder = tempfile::tempdir().unwrap();
        let [a, b] = ["a", "b"].map(|name| folder.path().join(name));
        for path in [&a, &b] {
            let view = |bytes| TensorView::new(Dtype::U8, vec![2], bytes).unwrap();
            Container::write(path, [("x", view(&[1, 2])), ("y", view(&[3, 4]))], "note".to_owned()).unwrap();
        }
        assert_eq!(std::fs::read(&a).unwrap(), std::fs::read(b).unwrap());
        let read = Container::read(&a).unwrap();
        assert_eq!(read.tensors().unwrap().tensor("y").unwrap().data(), [3, 4]);
    }

    #[test]
    fn missing_files_and_folders_are_errors() {
        let folder = tempfile::tempdir().unwrap();
        assert!(matches!(Container::read(folder.path()), Err(Error::Format { .. } | Error::File { .. })));
        assert!(matches!(Container::read(&folder.path().join("none")), Err(Error::File { .. })));
    }

    #[cfg(unix)]
    #[test]
    fn a_pipe_is_an_error_and_nothing_to_wait_for() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("pipe");
        let made = std::process::Command::new("mkfifo").arg(&path).status();
        if !made.is_ok_and(|status| status.success()) {
            return; // A system without the program has no pipes to offer.
        }
        let (sender, receiver) = std::sync::mpsc::channel();
        std::thread::spawn(move || sender.send(Container::read(&path)));
        let read = receiver.recv_timeout(std::time::Duration::from_secs(20)).expect("an answer");
        assert!(matches!(read, Err(Error::Format { .. })), "{read:?}");
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
            assert!(matches!(Container::read(&path), Err(Error::Format { .. })));
        }
    }

    #[test]
    #[cfg(target_os = "linux")]
    fn a_file_of_the_system_that_claims_to_be_empty_is_refused() {
        let refused = Container::read(Path::new("/proc/self/status"));
        assert!(matches!(refused, Err(Error::Format { .. })));
    }
}
