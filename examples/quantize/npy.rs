//! Arrays from and to NumPy's `.npy` files.

use std::fs;
use std::path::{Path, PathBuf};

use ndarray_npy::{ViewElement, ViewNpyError, ViewNpyExt, WritableElement, WriteNpyExt};
use qnn::quant::ndarray::{Array, ArrayD, ArrayViewD, Dimension};

/// Reads float32, of any shape.
pub(crate) fn read(path: &Path) -> Result<ArrayD<f32>, String> {
    File::open(path)?.floats(path)
}

/// Reads float32, or int32 as written for codes.
pub(crate) fn read_codes(path: &Path) -> Result<ArrayD<f32>, String> {
    let file = File::open(path)?;
    match file.array::<i32>() {
        Ok(codes) => Ok(codes.mapv(|code| code as f32)),
        Err(_) => file.floats(path),
    }
}

fn named(path: &Path, error: &dyn std::fmt::Display) -> String {
    format!("{}: {error}", path.display())
}

/// The contents of a file, with the array's elements at an address that is a multiple of four. NumPy's own files
/// have them so, those of other programs need not.
struct File {
    bytes: Vec<u8>,
    start: usize,
}

impl File {
    fn open(path: &Path) -> Result<Self, String> {
        let mut bytes = fs::read(path).map_err(|error| named(path, &error))?;
        let data = check_header(&bytes).map_err(|reason| named(path, &reason))?;
        if bytes[data..].as_ptr().addr().is_multiple_of(4) {
            return Ok(Self { bytes, start: 0 });
        }
        let len = bytes.len();
        bytes.resize(len + 3, 0);
        let address = bytes[data..].as_ptr().addr();
        let start = address.next_multiple_of(4) - address;
        bytes.copy_within(..len, start);
        bytes.truncate(start + len);
        Ok(Self { bytes, start })
    }

    fn floats(&self, path: &Path) -> Result<ArrayD<f32>, String> {
        self.array::<f32>().map_err(|error| {
            let path_name = path.display();
            let advice = "save it with x.astype(numpy.float32)";
            match error {
                ViewNpyError::WrongDescriptor(found) => {
                    let found = found.to_string();
                    format!("{path_name} holds {}, expected float32: {advice}", found.trim_matches('\''))
                }
                ViewNpyError::NonNativeEndian => {
                    format!("{path_name} holds numbers in the other byte order: {advice}")
                }
                error => named(path, &error),
            }
        })
    }

    /// A view of the whole file first: no allocation is sized by a number in its header.
    fn array<T: ViewElement + Clone>(&self) -> Result<ArrayD<T>, ViewNpyError> {
        let view = ArrayViewD::<T>::view_npy(&self.bytes[self.start..])?;
        Ok(view.as_standard_layout().into_owned())
    }
}

/// Where the elements begin, if the file has a header.
fn check_header(bytes: &[u8]) -> Result<usize, String> {
    if bytes.starts_with(b"PK") {
        return Err("an archive of arrays: save the one that is meant with numpy.save".to_owned());
    }
    if bytes.len() < 10 || !bytes.starts_with(b"\x93NUMPY") {
        return Err("no .npy file, as numpy.save writes them".to_owned());
    }
    let number = |range: std::ops::Range<usize>| {
        let bytes = bytes.get(range)?;
        Some(bytes.iter().rev().fold(0, |number, &byte| (number << 8) | usize::from(byte)))
    };
    let (start, len) = match bytes[6] {
        1 => (10, number(8..10)),
        2 | 3 => (12, number(8..12)),
        version => return Err(format!("version {version} of the format is not known here")),
    };
    let header = len
        .and_then(|len| bytes.get(start..len.saturating_add(start)))
        .ok_or("the file ends within its header")?;
    if is_nested(header) {
        return Err("the header is nested deeper than that of any array of numbers".to_owned());
    }
    if is_too_large(&String::from_utf8_lossy(header)) {
        return Err("no machine has room for an array of this shape".to_owned());
    }
    Ok(start + header.len())
}

/// Whether brackets stand within brackets more than four deep: to read such a header takes exponential time.
fn is_nested(header: &[u8]) -> bool {
    let mut depth = 0_usize;
    header.iter().any(|byte| {
        match byte {
            b'(' | b'[' | b'{' => depth += 1,
            b')' | b']' | b'}' => depth = depth.saturating_sub(1),
            _ => {}
        }
        depth > 4
    })
}

/// Whether the axes that are not empty have more elements together than an array can have. An empty axis hides
/// that, and `ndarray` refuses such shapes.
fn is_too_large(header: &str) -> bool {
    let shape = header.split_once("shape").and_then(|(_, rest)| rest.split_once('('));
    let Some((shape, _)) = shape.and_then(|(_, rest)| rest.split_once(')')) else { return false };
    let axes = shape.split(',').map(str::trim).filter(|axis| !axis.is_empty());
    let mut lengths = axes.map(str::parse::<usize>).filter(|length| *length != Ok(0));
    let bytes = lengths.try_fold(4_usize, |bytes, length| bytes.checked_mul(length.ok()?));
    bytes.is_none_or(|bytes| bytes > isize::MAX.unsigned_abs())
}

/// Arrays to be written once all of them are known.
#[derive(Default)]
pub(crate) struct Files(Vec<(PathBuf, Vec<u8>)>);

impl Files {
    /// An array for a file, if there is a path.
    pub(crate) fn add<T, D>(&mut self, path: Option<&PathBuf>, array: &Array<T, D>) -> Result<(), String>
    where
        T: WritableElement,
        D: Dimension,
    {
        let Some(path) = path else { return Ok(()) };
        let mut bytes = Vec::new();
        array.write_npy(&mut bytes).map_err(|error| named(path, &error))?;
        self.0.push((path.clone(), bytes));
        Ok(())
    }

    /// Each file as a whole, or the old one.
    pub(crate) fn write(self) -> Result<(), String> {
        for (path, bytes) in self.0 {
            // A pipe or a device has no other name to write under first.
            if fs::metadata(&path).is_ok_and(|place| !place.is_file() && !place.is_dir()) {
                fs::write(&path, bytes).map_err(|error| named(&path, &error))?;
            } else {
                qnn::train::write_atomically(&path, &bytes).map_err(|error| error.to_string())?;
            }
        }
        Ok(())
    }
}

/// What two paths of one file have in common; nothing for pipes and devices, which several may share.
pub(crate) fn identity(path: &Path) -> Option<PathBuf> {
    if let Ok(place) = fs::metadata(path) {
        return place.is_file().then(|| fs::canonicalize(path).ok()).flatten();
    }
    let folder = path.parent().filter(|folder| !folder.as_os_str().is_empty());
    let folder = fs::canonicalize(folder.unwrap_or(Path::new("."))).ok()?;
    Some(folder.join(path.file_name()?))
}
