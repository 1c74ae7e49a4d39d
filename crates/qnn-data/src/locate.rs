//! The places where the files of a set usually lie.

use std::path::{Path, PathBuf};

use crate::idx::Part;
use crate::{DatasetName, cifar};

/// A place and what would lie there.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Place {
    /// A folder with the six CIFAR-10 files.
    CifarFolder(PathBuf),
    /// The CIFAR-10 archive.
    CifarArchive(PathBuf),
    /// A folder with SVHN's two files.
    Svhn(PathBuf),
    /// A folder with four IDX files.
    Idx(PathBuf),
}

impl Place {
    pub(crate) fn path(&self) -> &Path {
        let (Self::CifarFolder(path) | Self::CifarArchive(path) | Self::Svhn(path) | Self::Idx(path)) = self;
        path
    }

    /// Whether the set, or at least one of its files, is there. A set that is there but incomplete is an error
    /// later, which names the missing file, not another place.
    pub(crate) fn exists(&self) -> bool {
        let any = |folder: &Path, names: &[&str]| names.iter().any(|name| folder.join(name).is_file());
        match self {
            Self::CifarFolder(folder) => any(folder, &cifar::FILES),
            Self::CifarArchive(file) => file.is_file(),
            Self::Svhn(folder) => any(folder, &["train.bin", "test.bin"]),
            Self::Idx(folder) => [Part::Train, Part::Test].iter().any(|part| part.exists(folder)),
        }
    }
}

/// Where `name` may lie under `root`, the most specific places first.
pub(crate) fn places(name: DatasetName, root: &Path) -> Vec<Place> {
    let idx = |folders: [&str; 2]| {
        let below = folders.map(|folder| Place::Idx(root.join(folder)));
        below.into_iter().chain((!names_another(name, root)).then(|| Place::Idx(root.into()))).collect()
    };
    match name {
        DatasetName::Cifar10 => cifar10(root),
        DatasetName::Svhn => vec![Place::Svhn(root.join("svhn")), Place::Svhn(root.into())],
        DatasetName::Mnist => idx(["mnist", "MNIST/raw"]),
        DatasetName::FashionMnist => idx(["fashion-mnist", "FashionMNIST/raw"]),
        DatasetName::Digits => Vec::new(),
    }
}

fn cifar10(root: &Path) -> Vec<Place> {
    const FOLDER: &str = "cifar-10-batches-bin";
    const ARCHIVE: &str = "cifar-10-binary.tar.gz";
    let own = root.join("cifar10");
    vec![
        Place::CifarFolder(own.join(FOLDER)),
        Place::CifarFolder(root.join(FOLDER)),
        Place::CifarArchive(own.join(ARCHIVE)),
        Place::CifarArchive(root.join(ARCHIVE)),
        Place::CifarFolder(own),
        Place::CifarFolder(root.into()),
        Place::CifarArchive(root.into()),
    ]
}

/// MNIST and Fashion-MNIST have the same file names: a folder named after one does not hold the other, nor does a folder `raw` in it.
fn names_another(name: DatasetName, root: &Path) -> bool {
    let mut names = root.iter().rev().map(|name| name.to_string_lossy().to_lowercase());
    let folder = names.find(|name| name != "raw").unwrap_or_default();
    match name {
        DatasetName::Mnist => folder.contains("fashion"),
        DatasetName::FashionMnist => folder == "mnist",
        _ => false,
    }
}
