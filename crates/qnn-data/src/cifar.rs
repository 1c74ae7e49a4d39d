//! CIFAR-10 in its binary version.
//!
//! Six files of 10,000 records; a record is the label and then 1,024 red, 1,024 green and 1,024 blue bytes,
//! row by row.

use std::io::{self, Read};
use std::path::Path;

use flate2::read::MultiGzDecoder;
use tar::{Archive, Entry};

use crate::read::{interrupted, open, read, read_bounded};
use crate::{Dataset, DatasetName, Error, Images, Result};

pub(crate) const FILES: [&str; 6] = [
    "data_batch_1.bin",
    "data_batch_2.bin",
    "data_batch_3.bin",
    "data_batch_4.bin",
    "data_batch_5.bin",
    "test_batch.bin",
];
const PLANE: usize = 32 * 32;
pub(crate) const RECORD: usize = 1 + 3 * PLANE;
/// Records in each official file.
const RECORDS: usize = 10_000;
/// The most the archive may hold after decompression; the official one has 184 MB.
const ARCHIVE_LIMIT: u64 = 256 << 20;

/// Reads CIFAR-10 from the folder with its six `.bin` files or directly from `cifar-10-binary.tar.gz`.
///
/// # Errors
/// [`Error::Io`] if a file is missing; [`Error::Format`] if one is damaged, has a label above 9 or is not
/// exactly 10,000 records long; [`Error::TooLarge`] if it is larger than that.
///
/// ```no_run
/// let cifar = qnn_data::read_cifar10("data/cifar-10-binary.tar.gz".as_ref())?;
/// assert_eq!((cifar.train.len(), cifar.test.len()), (50_000, 10_000));
/// # Ok::<(), qnn_data::Error>(())
/// ```
pub fn read_cifar10(path: &Path) -> Result<Dataset> {
    read_files(path, RECORDS)
}

/// The same for files of `records` records each.
fn read_files(path: &Path, records: usize) -> Result<Dataset> {
    let [mut train, others @ .., test] =
        if path.is_dir() { from_folder(path, records)? } else { from_archive(path, records)? };
    train.pixels.reserve_exact(others.iter().map(|records| records.pixels.len()).sum());
    others.into_iter().for_each(|records| train.append(records));
    Ok(Dataset {
        name: DatasetName::Cifar10.to_string(),
        train: train.into_images(DatasetName::Cifar10, "train")?,
        test: test.into_images(DatasetName::Cifar10, "test")?,
    })
}

fn from_folder(folder: &Path, records: usize) -> Result<[Records; 6]> {
    let mut files: [Records; 6] = Default::default();
    for (slot, name) in files.iter_mut().zip(FILES) {
        let path = folder.join(name);
        *slot = Records::parse(&read(&path, size(records))?, &path, records)?;
    }
    Ok(files)
}

fn from_archive(path: &Path, records: usize) -> Result<[Records; 6]> {
    let (file, _) = open(path)?;
    let mut stream = MultiGzDecoder::new(io::BufReader::new(file)).take(ARCHIVE_LIMIT);
    let mut files: [Option<Records>; 6] = Default::default();
    let damaged = |error| interrupted(path, 0, error);
    for entry in Archive::new(&mut stream).entries().map_err(damaged)? {
        let entry = entry.map_err(damaged)?;
        if let Some(i) = wanted(&entry) {
            let member = path.join(FILES[i]);
            let bytes = read_bounded(entry, size(records), &member, size(records))?;
            files[i] = Some(Records::parse(&bytes, &member, records)?);
        }
    }
    // The checksum stands behind the last block, which the archive does not need to end.
    io::copy(&mut stream, &mut io::sink()).map_err(damaged)?;
    if stream.limit() == 0 {
        return Err(Error::TooLarge { file: path.into(), limit: ARCHIVE_LIMIT });
    }
    complete(files, path)
}

/// Which of the six files an entry of the archive is.
fn wanted<R: Read>(entry: &Entry<'_, R>) -> Option<usize> {
    let path = entry.path_bytes();
    let name = path.rsplit(|&byte| byte == b'/').next()?;
    let regular = entry.header().entry_type().is_file();
    FILES.iter().position(|file| regular && file.as_bytes() == name)
}

fn complete(files: [Option<Records>; 6], path: &Path) -> Result<[Records; 6]> {
    let missing = files.iter().position(Option::is_none);
    if let Some(i) = missing {
        let (expected, found) = (FILES[i].into(), "an archive without it".into());
        return Err(Error::Format { file: path.into(), offset: 0, expected, found });
    }
    Ok(files.map(Option::unwrap_or_default))
}

fn size(records: usize) -> u64 {
    (records * RECORD) as u64
}

/// Content of one or more files, pixels already NHWC.
#[derive(Debug, Default, PartialEq)]
pub(crate) struct Records {
    labels: Vec<u16>,
    pixels: Vec<u8>,
}

impl Records {
    pub(crate) fn parse(bytes: &[u8], file: &Path, records: usize) -> Result<Self> {
        if bytes.len() as u64 != size(records) {
            let (expected, found) = (format!("{} bytes in all", size(records)), bytes.len().to_string());
            return Err(Error::Format { file: file.into(), offset: bytes.len() as u64, expected, found });
        }
        let mut parsed = Self { labels: Vec::with_capacity(records), pixels: vec![0; records * 3 * PLANE] };
        for ((i, record), pixels) in
            bytes.chunks_exact(RECORD).enumerate().zip(parsed.pixels.chunks_exact_mut(3 * PLANE))
        {
            if record[0] > 9 {
                let (offset, found) = ((i * RECORD) as u64, record[0].to_string());
                return Err(Error::Format {
                    file: file.into(),
                    offset,
                    expected: "a label from 0 to 9".into(),
                    found,
                });
            }
            parsed.labels.push(record[0].into());
            interleave(&record[1..], pixels);
        }
        Ok(parsed)
    }

    fn append(&mut self, mut other: Self) {
        self.labels.append(&mut other.labels);
        self.pixels.append(&mut other.pixels);
    }

    pub(crate) fn into_images(self, name: DatasetName, part: &str) -> Result<Images> {
        Images::new(format!("{name} {part}"), name.shape(), self.pixels, self.labels, name.class_names())
    }
}

/// Three planes to pixels of three bytes.
fn interleave(planes: &[u8], pixels: &mut [u8]) {
    let (red, rest) = planes.split_at(PLANE);
    let (green, blue) = rest.split_at(PLANE);
    for (((pixel, &r), &g), &b) in pixels.as_chunks_mut().0.iter_mut().zip(red).zip(green).zip(blue) {
        *pixel = [r, g, b];
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use flate2::{Compression, write::GzEncoder};
    use proptest::prelude::*;
    use std::fs;

    /// Record `i` of file `f`: its label is `i`, its byte `p` of plane `c` is `f + c + p`.
    fn file(f: usize, records: usize) -> Vec<u8> {
        let plane = |c: usize| (0..PLANE).map(move |p| (f + c + p) as u8);
        (0..records).flat_map(|i| [i as u8].into_iter().chain((0..3).flat_map(plane))).collect()
    }

    fn archive(files: &[(&str, Vec<u8>)]) -> Vec<u8> {
        let mut builder = tar::Builder::new(GzEncoder::new(Vec::new(), Compression::fast()));
        for (name, bytes) in files {
            let mut header = tar::Header::new_gnu();
            header.set_size(bytes.len() as u64);
            header.set_cksum();
            builder.append_data(&mut header, format!("cifar-10-batches-bin/{name}"), &bytes[..]).unwrap();
        }
        builder.into_inner().unwrap().finish().unwrap()
    }

    fn official(records: usize) -> Vec<(&'static str, Vec<u8>)> {
        // Neither complete nor in order: the readme is of no use and the test images come first.
        let mut files: Vec<_> = FILES.iter().enumerate().map(|(f, name)| (*name, file(f, records))).collect();
        files.rotate_right(1);
        files.insert(3, ("readme.html", b"about".to_vec()));
        files
    }

    fn from_bytes(bytes: &[u8], records: usize) -> Result<Dataset> {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("archive");
        fs::write(&path, bytes).unwrap();
        read_files(&path, records)
    }

    #[test]
    fn folder_and_archive_give_the_same_images() {
        let folder = tempfile::tempdir().unwrap();
        for (name, bytes) in official(2) {
            fs::write(folder.path().join(name), bytes).unwrap();
        }
        let set = read_files(folder.path(), 2).unwrap();
        assert_eq!(set, from_bytes(&archive(&official(2)), 2).unwrap());
        assert_eq!(set.train.labels(), [0, 1, 0, 1, 0, 1, 0, 1, 0, 1]);
        for (image, f) in [(0, 0), (3, 1), (9, 4)] {
            let pixels = set.train.pixels(image);
            assert!((0..3 * PLANE).all(|i| pixels[i] == (f + i % 3 + i / 3) as u8));
        }
        assert_eq!(set.test.pixels(1)[..6], [5, 6, 7, 6, 7, 8]);
    }

    #[test]
    fn missing_and_damaged_files_are_named() {
        let mut files = official(1);
        files.remove(2);
        let error = from_bytes(&archive(&files), 1).unwrap_err().to_string();
        assert!(error.contains("data_batch_2.bin"), "{error}");
        let folder = tempfile::tempdir().unwrap();
        assert!(matches!(read_files(folder.path(), 1), Err(Error::Io { .. })));
        assert!(matches!(read_files(&folder.path().join("none"), 1), Err(Error::Io { .. })));
        let mut bytes = file(0, 3);
        bytes[2 * RECORD] = 10;
        match Records::parse(&bytes, Path::new("f"), 3) {
            Err(Error::Format { offset, found, .. }) => assert_eq!((offset, found.as_str()), (6146, "10")),
            other => panic!("{other:?}"),
        }
        assert!(matches!(
            Records::parse(&bytes[..RECORD], Path::new("f"), 3),
            Err(Error::Format { offset: 3073, .. })
        ));
    }

    #[test]
    fn entries_larger_than_a_file_are_refused() {
        let mut files = official(1);
        files[0].1 = vec![0; 1 << 20];
        assert!(matches!(from_bytes(&archive(&files), 1), Err(Error::TooLarge { .. })));
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(64))]

        #[test]
        fn cuts_and_flips_of_an_archive_never_pass_unnoticed(
            cut in 0.0_f64..1.0, place in 0.0_f64..1.0, bit in 0_u8..8,
        ) {
            let good = archive(&official(1));
            let at = |part: f64| (good.len() as f64 * part) as usize;
            prop_assert!(from_bytes(&good[..at(cut)], 1).is_err());
            let mut flipped = good.clone();
            flipped[at(place)] ^= 1 << bit;
            // Only the header has bits without meaning: time, system, flags.
            if let Ok(set) = from_bytes(&flipped, 1) {
                prop_assert_eq!(set, from_bytes(&good, 1).unwrap());
            }
        }

        #[test]
        fn no_bytes_make_it_panic(bytes in prop::collection::vec(any::<u8>(), 0..200), gzip: bool) {
            let bytes = if gzip {
                let mut encoder = GzEncoder::new(Vec::new(), Compression::fast());
                io::Write::write_all(&mut encoder, &bytes).unwrap();
                encoder.finish().unwrap()
            } else {
                bytes
            };
            prop_assert!(from_bytes(&bytes, 1).is_err());
        }
    }
}
