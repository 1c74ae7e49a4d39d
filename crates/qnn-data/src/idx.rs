//! IDX files: MNIST, Fashion-MNIST and whatever else comes in their format.
//!
//! ```text
//! byte 0..4        0, 0, 8 (unsigned bytes), number of dimensions
//! byte 4..4+4d     the d dimensions, big-endian
//! then             the bytes, last dimension innermost
//! ```

use std::path::{Path, PathBuf};

use crate::read::read_expanded;
use crate::{Dataset, DatasetName, Error, Images, Result};

/// The most an IDX file may hold after decompression: five times MNIST's largest.
const LIMIT: u64 = 256 << 20;

/// Reads MNIST, or Fashion-MNIST, from a folder with its four IDX files, raw or `.gz`.
///
/// # Errors
/// [`Error::Io`] if a file is missing, [`Error::Format`] if one is damaged or its images are not 28×28,
/// [`Error::CountMismatch`] if images and labels do not belong together.
pub fn read_mnist(name: DatasetName, folder: &Path) -> Result<Dataset> {
    let read = |part: Part| {
        let (images, labels) = part.files(folder);
        let read = read_idx(&images, &labels, &format!("{name} {}", part.word()), name.class_names())?;
        if read.shape() == name.shape() {
            return Ok(read);
        }
        let (expected, found) =
            (format!("images of {:?} pixels", name.shape()), format!("{:?}", read.shape()));
        Err(Error::Format { file: images, offset: 8, expected, found })
    };
    Ok(Dataset { name: name.to_string(), train: read(Part::Train)?, test: read(Part::Test)? })
}

/// Reads one pair of IDX files, grey images and their labels, raw or gzip.
///
/// # Errors
/// As [`read_mnist`], but for any size of image.
pub fn read_idx(images: &Path, labels: &Path, name: &str, class_names: Vec<String>) -> Result<Images> {
    let (shape, pixels) = parse_images(read_expanded(images, LIMIT)?, images)?;
    let label_bytes = parse_labels(read_expanded(labels, LIMIT)?, labels, class_names.len())?;
    let image_count = pixels.len() / (shape[0] * shape[1]);
    if image_count != label_bytes.len() {
        let (images, labels) = (images.into(), labels.into());
        return Err(Error::CountMismatch { images, image_count, labels, label_count: label_bytes.len() });
    }
    Images::new(name, shape, pixels, label_bytes.into_iter().map(u16::from).collect(), class_names)
}

/// The two halves of a set.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Part {
    Train,
    Test,
}

impl Part {
    /// Whether a file of this part is there.
    pub(crate) fn exists(self, folder: &Path) -> bool {
        let mut files =
            [("images", 3), ("labels", 1)].into_iter().flat_map(|(kind, d)| self.variants(kind, d, folder));
        files.any(|file| file.is_file())
    }

    fn word(self) -> &'static str {
        match self {
            Self::Train => "train",
            Self::Test => "test",
        }
    }

    /// Image and label file; if one is missing, the name it has when unpacked.
    fn files(self, folder: &Path) -> (PathBuf, PathBuf) {
        let existing = |kind, dimensions| {
            let [raw, rest @ ..] = self.variants(kind, dimensions, folder);
            if raw.is_file() { raw } else { rest.into_iter().find(|path| path.is_file()).unwrap_or(raw) }
        };
        (existing("images", 3), existing("labels", 1))
    }

    /// The names a file goes by: unpackers sometimes put a dot before the extension.
    fn variants(self, kind: &str, dimensions: usize, folder: &Path) -> [PathBuf; 4] {
        let prefix = match self {
            Self::Train => "train",
            Self::Test => "t10k",
        };
        [("-", ""), ("-", ".gz"), (".", ""), (".", ".gz")]
            .map(|(dot, end)| folder.join(format!("{prefix}-{kind}{dot}idx{dimensions}-ubyte{end}")))
    }
}

/// Shape and bytes of an image file.
fn parse_images(bytes: Vec<u8>, file: &Path) -> Result<([usize; 3], Vec<u8>)> {
    let ([_, height, width], pixels) = parse::<3>(bytes, file)?;
    Ok(([height, width, 1], pixels))
}

fn parse_labels(bytes: Vec<u8>, file: &Path, classes: usize) -> Result<Vec<u8>> {
    let (_, labels) = parse::<1>(bytes, file)?;
    match labels.iter().position(|&label| usize::from(label) >= classes) {
        Some(i) => Err(format_error(file, 8 + i, format!("a label below {classes}"), labels[i])),
        None => Ok(labels),
    }
}

/// The `D` dimensions and the content; the header is believed only if it agrees with the length.
fn parse<const D: usize>(mut bytes: Vec<u8>, file: &Path) -> Result<([usize; D], Vec<u8>)> {
    let word =
        |at: usize| bytes.get(at..at + 4).and_then(|word| word.try_into().ok()).map(u32::from_be_bytes);
    let start = 4 + 4 * D;
    let magic = 0x0800 + D as u32;
    match word(0) {
        Some(found) if found == magic => {}
        Some(found) => return Err(format_error(file, 0, format!("{magic:#010x}"), format!("{found:#010x}"))),
        None => {
            return Err(format_error(
                file,
                0,
                format!("a header of {start} bytes"),
                format!("{} bytes", bytes.len()),
            ));
        }
    }
    let mut dimensions = [0; D];
    for (axis, dimension) in dimensions.iter_mut().enumerate() {
        let at = 4 + 4 * axis;
        let found = word(at).ok_or_else(|| format_error(file, at, "a dimension", "the end of the file"))?;
        *dimension = usize::try_from(found)
            .ok()
            .filter(|&d| d > 0)
            .ok_or_else(|| format_error(file, at, "at least 1", found))?;
    }
    let declared = dimensions.iter().try_fold(1_usize, |product, &d| product.checked_mul(d));
    if declared != Some(bytes.len() - start) {
        let (expected, found) =
            (format!("{dimensions:?} bytes, as the header says"), format!("{}", bytes.len() - start));
        return Err(format_error(file, start, expected, found));
    }
    bytes.drain(..start);
    Ok((dimensions, bytes))
}

fn format_error(file: &Path, offset: usize, expected: impl Into<String>, found: impl ToString) -> Error {
    Error::Format {
        file: file.into(),
        offset: offset as u64,
        expected: expected.into(),
        found: found.to_string(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn idx(dimensions: &[u32], content: &[u8]) -> Vec<u8> {
        let header = [0x0800 + dimensions.len() as u32].into_iter().chain(dimensions.iter().copied());
        header.flat_map(u32::to_be_bytes).chain(content.iter().copied()).collect()
    }

    fn expectation(result: Result<impl std::fmt::Debug>) -> (u64, String) {
        match result.unwrap_err() {
            Error::Format { offset, expected, .. } => (offset, expected),
            error => panic!("{error}"),
        }
    }

    #[test]
    fn a_small_file_is_read() {
        let (shape, pixels) = parse_images(idx(&[2, 1, 3], &[1, 2, 3, 4, 5, 6]), Path::new("i")).unwrap();
        assert_eq!((shape, pixels), ([1, 3, 1], vec![1, 2, 3, 4, 5, 6]));
        assert_eq!(parse_labels(idx(&[2], &[9, 0]), Path::new("l"), 10).unwrap(), [9, 0]);
    }

    #[test]
    fn damage_is_located() {
        let images = |bytes| expectation(parse_images(bytes, Path::new("i")));
        let labels = |bytes| expectation(parse_labels(bytes, Path::new("l"), 10));
        assert_eq!(images(idx(&[2], &[1, 2])).0, 0);
        assert_eq!(images(vec![0, 0]).0, 0);
        assert_eq!(images(idx(&[2, 1, 3], &[])[..10].to_vec()).0, 8);
        assert_eq!(images(idx(&[2, 1, 3], &[1, 2, 3, 4, 5])).0, 16);
        assert_eq!(images(idx(&[2, 1, 3], &[0; 7])).0, 16);
        assert_eq!(images(idx(&[2, 0, 3], &[])).0, 8);
        assert_eq!(images(idx(&[u32::MAX, u32::MAX, u32::MAX], &[0; 4])).0, 16);
        assert_eq!(labels(idx(&[3], &[1, 10, 2])), (9, "a label below 10".into()));
    }

    proptest! {
        #[test]
        fn no_bytes_make_it_panic(bytes in prop::collection::vec(any::<u8>(), 0..64)) {
            let _ = parse_images(bytes.clone(), Path::new("i"));
            let _ = parse_labels(bytes, Path::new("l"), 10);
        }

        #[test]
        fn every_flip_in_the_header_and_every_cut_is_noticed(bit in 0_usize..128, cut in 0_usize..22) {
            let good = idx(&[2, 1, 3], &[1, 2, 3, 4, 5, 6]);
            let mut flipped = good.clone();
            flipped[bit / 8] ^= 1 << (bit % 8);
            // A product may by chance stay the same only if two dimensions change.
            prop_assert!(parse_images(flipped, Path::new("i")).is_err());
            prop_assert!(parse_images(good[..cut].to_vec(), Path::new("i")).is_err());
        }
    }
}
