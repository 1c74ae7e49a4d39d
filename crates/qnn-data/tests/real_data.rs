//! The published sets, where they are at hand: set `QNN_DATA` to the folder that holds them.

use std::path::PathBuf;

use qnn_data::{Dataset, DatasetName, Error, Normalize, Source, load};

/// Where Debian's packages put data sets.
const DEBIAN: &str = "/usr/share/datasets";

/// The set, or nothing and a word about it.
fn published(name: DatasetName) -> Option<Dataset> {
    let Some(root) = std::env::var_os("QNN_DATA").map(PathBuf::from) else {
        eprintln!("skipped: QNN_DATA is not set, {name} was not read");
        return None;
    };
    for root in [root, PathBuf::from(DEBIAN)] {
        match load(name, &Source::Path(root)) {
            Ok(loaded) => return Some(loaded.dataset),
            Err(error @ Error::NotFound { .. }) => eprintln!("{error}"),
            Err(error) => panic!("{error}"),
        }
    }
    eprintln!("skipped: {name} was not read");
    None
}

fn check(set: &Dataset, name: DatasetName, train: usize) {
    assert_eq!((set.name.as_str(), set.train.len(), set.test.len()), (name.as_str(), train, 10_000));
    assert_eq!((set.train.shape(), set.test.shape()), (name.shape(), name.shape()));
    assert_eq!(set.train.class_names(), name.class_names());
}

/// Whether fitted statistics are the ones everybody quotes, to their last digit.
fn quoted(set: &Dataset, mean: &[f32], std: &[f32]) {
    let fitted = Normalize::fit(&set.train);
    for (found, expected) in fitted.mean().iter().chain(fitted.std()).zip(mean.iter().chain(std)) {
        assert!((found - expected).abs() <= 5.1e-5, "{fitted:?}");
    }
}

#[test]
fn cifar10() {
    let Some(set) = published(DatasetName::Cifar10) else { return };
    check(&set, DatasetName::Cifar10, 50_000);
    assert_eq!((set.train.class_counts(), set.test.class_counts()), (vec![5_000; 10], vec![1_000; 10]));
    assert_eq!(set.train.labels()[..10], [6, 9, 9, 4, 1, 1, 2, 7, 8, 3]);
    assert_eq!(set.test.labels()[..10], [3, 8, 8, 0, 6, 6, 1, 6, 3, 1]);
    assert_eq!(set.train.pixels(0)[..6], [59, 62, 63, 43, 46, 45]);
    quoted(&set, &[0.4914, 0.4822, 0.4465], &[0.2470, 0.2435, 0.2616]);
}

#[test]
fn mnist() {
    let Some(set) = published(DatasetName::Mnist) else { return };
    check(&set, DatasetName::Mnist, 60_000);
    assert_eq!(set.train.class_counts(), [5923, 6742, 5958, 6131, 5842, 5421, 5918, 6265, 5851, 5949]);
    assert_eq!(set.train.labels()[..10], [5, 0, 4, 1, 9, 2, 1, 3, 1, 4]);
    assert_eq!(set.test.labels()[..10], [7, 2, 1, 0, 4, 1, 4, 9, 5, 9]);
    quoted(&set, &[0.1307], &[0.3081]);
}

#[test]
fn fashion_mnist() {
    let Some(set) = published(DatasetName::FashionMnist) else { return };
    check(&set, DatasetName::FashionMnist, 60_000);
    assert_eq!((set.train.class_counts(), set.test.class_counts()), (vec![6_000; 10], vec![1_000; 10]));
    assert_eq!(set.train.labels()[..10], [9, 0, 0, 3, 0, 2, 7, 2, 5, 5]);
    quoted(&set, &[0.2860], &[0.3530]);
}
