//! House numbers in records like CIFAR-10's.

use std::path::Path;

use crate::cifar::{RECORD, Records};
use crate::read::read;
use crate::{Dataset, DatasetName, Error, Images, Result};

/// More than the official set has with its extra images, 604,388.
const MOST_RECORDS: u64 = 1 << 20;

/// Reads SVHN's cropped digits from a folder with `train.bin` and `test.bin`.
///
/// Netzer et al. 2011 publish MATLAB files; here a file holds records of a label byte, 0 to 9, and
/// 1,024 red, 1,024 green and 1,024 blue bytes, as CIFAR-10's binary version has them. There may be any
/// number of records.
///
/// # Errors
/// [`Error::Io`] if a file is missing; [`Error::Format`] if one is empty, ends within a record or has a
/// label above 9; [`Error::TooLarge`] beyond a million records.
pub fn read_svhn(folder: &Path) -> Result<Dataset> {
    Ok(Dataset {
        name: DatasetName::Svhn.to_string(),
        train: read_part(folder, "train")?,
        test: read_part(folder, "test")?,
    })
}

fn read_part(folder: &Path, part: &str) -> Result<Images> {
    let file = folder.join(format!("{part}.bin"));
    let bytes = read(&file, MOST_RECORDS * RECORD as u64)?;
    if bytes.is_empty() {
        let (expected, found) = ("at least one record".to_owned(), "an empty file".to_owned());
        return Err(Error::Format { file, offset: 0, expected, found });
    }
    Records::parse(&bytes, &file, bytes.len().div_ceil(RECORD))?.into_images(DatasetName::Svhn, part)
}

#[cfg(test)]
mod tests {
    use std::fs;

    use super::*;

    fn records(labels: &[u8]) -> Vec<u8> {
        labels.iter().flat_map(|&label| [label].into_iter().chain((1..RECORD).map(|i| i as u8))).collect()
    }

    fn folder(train: &[u8], test: &[u8]) -> tempfile::TempDir {
        let folder = tempfile::tempdir().unwrap();
        fs::write(folder.path().join("train.bin"), train).unwrap();
        fs::write(folder.path().join("test.bin"), test).unwrap();
        folder
    }

    #[test]
    fn any_number_of_records_is_read() {
        let set = read_svhn(folder(&records(&[9, 0, 4]), &records(&[1])).path()).unwrap();
        assert_eq!(
            (set.name.as_str(), set.train.labels(), set.test.labels()),
            ("svhn", &[9, 0, 4][..], &[1][..])
        );
        // Plane by plane in the file, pixel by pixel in memory.
        assert_eq!(set.train.pixels(1)[..6], [1, 1, 1, 2, 2, 2]);
    }

    #[test]
    fn damage_is_located() {
        let good = records(&[1, 2]);
        for (train, offset) in [(&good[..RECORD + 5], RECORD + 5), (&[], 0), (&records(&[3, 10]), RECORD)] {
            match read_svhn(folder(train, &good).path()) {
                Err(Error::Format { offset: at, .. }) => assert_eq!(at, offset as u64),
                other => panic!("{other:?}"),
            }
        }
        assert!(matches!(read_svhn(Path::new("nowhere")), Err(Error::Io { .. })));
    }
}
