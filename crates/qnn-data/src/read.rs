//! Whole files into memory, never more than a file of that kind can hold.

use std::fs::{self, File};
use std::io::{self, Read};
use std::path::Path;

use flate2::read::MultiGzDecoder;

use crate::{Error, Result};

/// Opens a regular file and tells its size: a pipe might keep its reader waiting for ever.
pub(crate) fn open(path: &Path) -> Result<(File, u64)> {
    let metadata = fs::metadata(path).map_err(Error::io("open", path))?;
    if !metadata.is_file() {
        let error = io::Error::new(io::ErrorKind::InvalidInput, "it is not a regular file");
        return Err(Error::io("open", path)(error));
    }
    Ok((File::open(path).map_err(Error::io("open", path))?, metadata.len()))
}

/// Reads a file as it is, at most `limit` bytes.
pub(crate) fn read(path: &Path, limit: u64) -> Result<Vec<u8>> {
    let (file, size) = open(path)?;
    if size > limit {
        return Err(Error::TooLarge { file: path.into(), limit });
    }
    read_bounded(file, size, path, limit)
}

/// Reads a file and decompresses it if it is gzip (by content, whatever its name), at most `limit` bytes at
/// each stage.
pub(crate) fn read_expanded(path: &Path, limit: u64) -> Result<Vec<u8>> {
    let bytes = read(path, limit)?;
    if is_gzip(&bytes) { expand(&bytes, path, limit) } else { Ok(bytes) }
}

/// Decompresses gzip to at most `limit` bytes.
pub(crate) fn expand(bytes: &[u8], path: &Path, limit: u64) -> Result<Vec<u8>> {
    read_bounded(MultiGzDecoder::new(bytes), bytes.len() as u64, path, limit)
}

/// Whether these bytes begin like a gzip file.
pub(crate) fn is_gzip(bytes: &[u8]) -> bool {
    bytes.starts_with(&[0x1f, 0x8b])
}

/// Reads to the end; `at_least` is the size to begin with.
pub(crate) fn read_bounded(reader: impl Read, at_least: u64, path: &Path, limit: u64) -> Result<Vec<u8>> {
    let mut bytes = Vec::with_capacity(at_least.min(limit) as usize);
    let outcome = reader.take(limit + 1).read_to_end(&mut bytes);
    match outcome {
        Ok(_) if bytes.len() as u64 > limit => Err(Error::TooLarge { file: path.into(), limit }),
        Ok(_) => Ok(bytes),
        Err(error) => Err(interrupted(path, bytes.len() as u64, error)),
    }
}

/// A damaged stream is the file's fault, everything else the operating system's.
pub(crate) fn interrupted(path: &Path, offset: u64, error: io::Error) -> Error {
    use io::ErrorKind::{InvalidData, InvalidInput, Other, UnexpectedEof};
    match error.kind() {
        InvalidData | InvalidInput | UnexpectedEof | Other => Error::Format {
            file: path.into(),
            offset,
            expected: "an intact file".into(),
            found: error.to_string(),
        },
        _ => Error::io("read", path)(error),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use flate2::{Compression, write::GzEncoder};
    use std::io::Write;

    fn gzip(bytes: &[u8]) -> Vec<u8> {
        let mut encoder = GzEncoder::new(Vec::new(), Compression::fast());
        encoder.write_all(bytes).unwrap();
        encoder.finish().unwrap()
    }

    #[test]
    fn a_small_file_that_expands_without_end_is_cut_off() {
        let bomb = gzip(&vec![0; 10 << 20]);
        assert!(bomb.len() < 100_000);
        let error = expand(&bomb, Path::new("bomb.gz"), 1 << 20).unwrap_err();
        assert!(matches!(error, Error::TooLarge { limit: 1_048_576, .. }), "{error}");
        assert_eq!(expand(&bomb, Path::new("bomb.gz"), 10 << 20).unwrap().len(), 10 << 20);
    }

    #[test]
    fn damage_is_told_from_absence() {
        let mut bytes = gzip(b"some text that is long enough to be cut");
        bytes.truncate(20);
        assert!(matches!(expand(&bytes, Path::new("cut.gz"), 99), Err(Error::Format { .. })));
        for other in ["/nowhere/at/all", "/dev/null", "/"] {
            assert!(matches!(read(Path::new(other), 99), Err(Error::Io { .. })), "{other}");
        }
    }

    #[test]
    fn a_large_file_is_refused_before_it_is_read() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("sparse");
        File::create(&path).unwrap().set_len(1 << 40).unwrap();
        assert!(matches!(read(&path, 1 << 20), Err(Error::TooLarge { .. })));
    }
}
