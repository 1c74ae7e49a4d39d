//! Where data comes from.

use std::fmt;
use std::path::{Path, PathBuf};
use std::str::FromStr;

use crate::error::listing;
use crate::locate::{Place, places};
use crate::{Dataset, DatasetName, Error, Result, embedded_digits, read_cifar10, read_mnist, read_svhn};

/// Where to look for a set.
///
/// ```
/// # use qnn_data::Source;
/// assert_eq!("auto".parse::<Source>()?, Source::Auto);
/// assert_eq!("embedded".parse::<Source>()?, Source::Embedded);
/// assert_eq!("my/data".parse::<Source>()?, Source::Path("my/data".into()));
/// # Ok::<(), qnn_data::Error>(())
/// ```
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub enum Source {
    /// The folder in the environment variable `QNN_DATA`, then `./data`, then the embedded digits in place of
    /// the set.
    #[default]
    Auto,
    /// The embedded digits, whatever set is wanted.
    Embedded,
    /// This folder (or archive) and nothing else.
    Path(PathBuf),
}

impl FromStr for Source {
    type Err = Error;

    fn from_str(text: &str) -> Result<Self> {
        match text {
            "" => Err(Error::EmptySource),
            "auto" => Ok(Self::Auto),
            "embedded" => Ok(Self::Embedded),
            path => Ok(Self::Path(path.into())),
        }
    }
}

impl fmt::Display for Source {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Auto => f.pad("auto"),
            Self::Embedded => f.pad("embedded"),
            Self::Path(path) => path.display().fmt(f),
        }
    }
}

/// A set, and what the user should know about it.
#[derive(Clone, Debug)]
pub struct Loaded {
    /// The images.
    pub dataset: Dataset,
    /// Whether these are the digits that are part of the program.
    pub is_embedded: bool,
    /// One line to show if the set is not the one that was asked for.
    pub notice: Option<String>,
}

/// Reads a set from where it lies; see [`Source`] for the order in which places are tried.
///
/// In a folder ROOT the usual places are searched:
///
/// ```text
/// cifar10        ROOT/cifar10/cifar-10-batches-bin/    ROOT/cifar-10-batches-bin/
///                ROOT/cifar10/cifar-10-binary.tar.gz   ROOT/cifar-10-binary.tar.gz
///                ROOT/cifar10/                         ROOT (folder or archive)
/// svhn           ROOT/svhn/   ROOT
/// mnist          ROOT/mnist/          ROOT/MNIST/raw/         ROOT
/// fashion-mnist  ROOT/fashion-mnist/  ROOT/FashionMNIST/raw/  ROOT
/// ```
///
/// The digits are those of the program whatever the source. With [`Source::Auto`] Fashion-MNIST is also found
/// where Debian installs it, in `/usr/share/datasets/fashion-mnist`.
///
/// # Errors
/// [`Error::NotFound`] if a given path does not hold the set; [`Error::Format`] and others if it is there but
/// damaged.
///
/// ```
/// use qnn_data::{load, DatasetName, Source};
///
/// let loaded = load(DatasetName::Cifar10, &Source::Embedded)?;
/// assert_eq!(loaded.dataset.name, "digits");
/// assert!(loaded.notice.unwrap().contains("in place of cifar10"));
/// # Ok::<(), qnn_data::Error>(())
/// ```
pub fn load(name: DatasetName, source: &Source) -> Result<Loaded> {
    let variable = std::env::var_os("QNN_DATA").filter(|value| !value.is_empty());
    let roots: Vec<PathBuf> = variable.map(PathBuf::from).into_iter().chain(["data".into()]).collect();
    load_with(name, source, &roots)
}

/// [`load`] with the roots that `auto` searches.
fn load_with(name: DatasetName, source: &Source, roots: &[PathBuf]) -> Result<Loaded> {
    let silent = |dataset| Loaded { dataset, is_embedded: false, notice: None };
    match source {
        _ if name == DatasetName::Digits => {
            Ok(Loaded { dataset: embedded_digits()?, is_embedded: true, notice: None })
        }
        Source::Embedded => stand_in(name, "as requested".into()),
        Source::Path(root) => {
            let looked = places(name, root);
            let missing = || Error::NotFound { name, root: root.clone(), looked: paths(looked.clone()) };
            first(name, &looked)?.map(silent).ok_or_else(missing)
        }
        Source::Auto => {
            let looked: Vec<Place> =
                roots.iter().flat_map(|root| places(name, root)).chain(system(name)).collect();
            match first(name, &looked)? {
                Some(dataset) => Ok(silent(dataset)),
                None => {
                    let advice = name.advice(roots.first().map_or(Path::new("data"), PathBuf::as_path));
                    stand_in(name, format!("which was not found at {}; {advice}", listing(&paths(looked))))
                }
            }
        }
    }
}

/// Places outside any root that a package manager uses.
fn system(name: DatasetName) -> Vec<Place> {
    match name {
        DatasetName::FashionMnist => vec![Place::Idx("/usr/share/datasets/fashion-mnist".into())],
        _ => Vec::new(),
    }
}

/// The set from the first place that has it.
fn first(name: DatasetName, places: &[Place]) -> Result<Option<Dataset>> {
    let Some(place) = places.iter().find(|place| place.exists()) else { return Ok(None) };
    let dataset = match name {
        DatasetName::Cifar10 => read_cifar10(place.path())?,
        DatasetName::Svhn => read_svhn(place.path())?,
        _ => read_mnist(name, place.path())?,
    };
    Ok(Some(dataset))
}

fn stand_in(name: DatasetName, reason: String) -> Result<Loaded> {
    let notice = format!("using the embedded 8x8 digits in place of {name}, {reason}");
    Ok(Loaded { dataset: embedded_digits()?, is_embedded: true, notice: Some(notice) })
}

fn paths(places: Vec<Place>) -> Vec<PathBuf> {
    let mut paths: Vec<PathBuf> = places.iter().map(Place::path).map(Path::to_path_buf).collect();
    paths.dedup();
    paths
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::fs;

    fn idx(dimensions: &[u32], content: &[u8]) -> Vec<u8> {
        let header = [0x0800 + dimensions.len() as u32].into_iter().chain(dimensions.iter().copied());
        header.flat_map(u32::to_be_bytes).chain(content.iter().copied()).collect()
    }

    /// A folder with three training images and one test image, all of one grey.
    fn write_mnist(folder: &Path, grey: u8, side: u32) {
        fs::create_dir_all(folder).unwrap();
        for (part, n) in [("train", 3), ("t10k", 1)] {
            let images = idx(&[n, side, side], &vec![grey; (n * side * side) as usize]);
            fs::write(folder.join(format!("{part}-images-idx3-ubyte")), images).unwrap();
            fs::write(folder.join(format!("{part}-labels-idx1-ubyte")), idx(&[n], &vec![7; n as usize]))
                .unwrap();
        }
    }

    fn grey(loaded: &Loaded) -> u8 {
        loaded.dataset.train.as_bytes()[0]
    }

    #[test]
    fn the_usual_places_are_searched() {
        for place in ["mnist", "MNIST/raw", ""] {
            let root = tempfile::tempdir().unwrap();
            write_mnist(&root.path().join(place), 5, 28);
            let loaded = load(DatasetName::Mnist, &Source::Path(root.path().into())).unwrap();
            assert_eq!((loaded.dataset.train.len(), loaded.dataset.test.len(), grey(&loaded)), (3, 1, 5));
            assert_eq!(
                (loaded.dataset.name.as_str(), loaded.is_embedded, loaded.notice),
                ("mnist", false, None)
            );
        }
    }

    #[test]
    fn the_missing_file_of_an_incomplete_set_is_named() {
        for part in ["train", "t10k"] {
            for file in ["images-idx3-ubyte", "labels-idx1-ubyte"].map(|kind| format!("{part}-{kind}")) {
                let root = tempfile::tempdir().unwrap();
                write_mnist(root.path(), 5, 28);
                fs::remove_file(root.path().join(&file)).unwrap();
                for source in [Source::Path(root.path().into()), Source::Auto] {
                    let error = load_with(DatasetName::Mnist, &source, &[root.path().into()]).unwrap_err();
                    assert!(error.to_string().contains(&file), "{error}");
                }
            }
        }
    }

    #[test]
    fn earlier_roots_come_first_and_sets_are_not_mixed_up() {
        let (one, two) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
        write_mnist(&one.path().join("fashion-mnist"), 1, 28);
        write_mnist(&two.path().join("mnist"), 2, 28);
        let roots = [one.path().to_path_buf(), two.path().to_path_buf()];
        let loaded = |name| load_with(name, &Source::Auto, &roots).unwrap();
        assert_eq!(grey(&loaded(DatasetName::Mnist)), 2);
        assert_eq!(grey(&loaded(DatasetName::FashionMnist)), 1);
        write_mnist(&one.path().join("FashionMNIST/raw"), 3, 28);
        write_mnist(&two.path().join("MNIST/raw"), 4, 28);
        let raw = |root: &Path, folder: &str| Source::Path(root.join(folder).join("raw"));
        let (fashion, digits) = (raw(one.path(), "FashionMNIST"), raw(two.path(), "MNIST"));
        assert_eq!(grey(&load(DatasetName::FashionMnist, &fashion).unwrap()), 3);
        assert_eq!(grey(&load(DatasetName::Mnist, &digits).unwrap()), 4);
        for (name, wrong) in [
            (DatasetName::Mnist, Source::Path(one.path().join("fashion-mnist"))),
            (DatasetName::Mnist, fashion),
            (DatasetName::FashionMnist, digits),
        ] {
            assert!(matches!(load(name, &wrong), Err(Error::NotFound { .. })), "{name} in {wrong:?}");
        }
    }

    #[test]
    fn with_nothing_at_hand_the_digits_stand_in_and_say_so() {
        let root = tempfile::tempdir().unwrap();
        let loaded = load_with(DatasetName::Cifar10, &Source::Auto, &[root.path().into()]).unwrap();
        assert_eq!((loaded.dataset.name.as_str(), loaded.is_embedded), ("digits", true));
        let notice = loaded.notice.unwrap();
        assert_eq!(notice.lines().count(), 1);
        let own = root.path().join("cifar10").display().to_string();
        for word in
            ["in place of cifar10", "cifar-10-batches-bin", "--download", &format!("into the folder {own}")]
        {
            assert!(notice.contains(word), "{word:?} in {notice}");
        }
        assert_eq!(load(DatasetName::Digits, &Source::Path("nowhere".into())).unwrap().notice, None);
    }

    #[test]
    fn a_given_path_is_never_replaced() {
        let root = tempfile::tempdir().unwrap();
        for name in [DatasetName::Cifar10, DatasetName::Mnist, DatasetName::FashionMnist] {
            match load(name, &Source::Path(root.path().into())) {
                Err(error @ Error::NotFound { .. }) => {
                    let folder = root.path().join(name.as_str()).display().to_string();
                    for word in ["looked at", "--download", &format!("into the folder {folder}")] {
                        assert!(error.to_string().contains(word), "{word:?} in {error}");
                    }
                }
                other => panic!("{other:?}"),
            }
        }
    }

    #[test]
    fn damaged_sets_are_errors_also_with_auto() {
        let root = tempfile::tempdir().unwrap();
        let auto = |name| load_with(name, &Source::Auto, &[root.path().into()]);
        write_mnist(&root.path().join("mnist"), 1, 27);
        assert!(matches!(auto(DatasetName::Mnist), Err(Error::Format { offset: 8, .. })));
        write_mnist(&root.path().join("mnist"), 1, 28);
        fs::write(root.path().join("mnist/train-labels-idx1-ubyte"), idx(&[2], &[1, 2])).unwrap();
        assert!(matches!(
            auto(DatasetName::Mnist),
            Err(Error::CountMismatch { image_count: 3, label_count: 2, .. })
        ));
        fs::remove_file(root.path().join("mnist/train-labels-idx1-ubyte")).unwrap();
        assert!(matches!(auto(DatasetName::Mnist), Err(Error::Io { .. })));
        fs::write(root.path().join("cifar-10-binary.tar.gz"), b"<html>").unwrap();
        assert!(matches!(auto(DatasetName::Cifar10), Err(Error::Format { .. })));
    }

    #[test]
    fn sources_are_read_back() {
        for text in ["auto", "embedded", "some/where"] {
            assert_eq!(text.parse::<Source>().unwrap().to_string(), text);
        }
        assert!(matches!("".parse::<Source>(), Err(Error::EmptySource)));
    }
}
