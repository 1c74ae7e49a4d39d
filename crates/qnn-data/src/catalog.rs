//! The official files of each set.

use crate::DatasetName;

/// A published file.
#[derive(Clone, Copy, Debug)]
pub(crate) struct RemoteFile {
    /// Name on the server and on disk.
    pub(crate) name: &'static str,
    /// Exact size in bytes.
    pub(crate) size: u64,
    /// MD5 in hexadecimal, as published.
    pub(crate) md5: &'static str,
}

/// Where the files of a set are, and which.
pub(crate) fn catalog(name: DatasetName) -> Option<(&'static str, &'static [RemoteFile])> {
    match name {
        DatasetName::Cifar10 => Some(("https://www.cs.toronto.edu/~kriz/", &CIFAR10)),
        DatasetName::Mnist => Some(("https://ossci-datasets.s3.amazonaws.com/mnist/", &MNIST)),
        DatasetName::FashionMnist => {
            Some(("http://fashion-mnist.s3-website.eu-central-1.amazonaws.com/", &FASHION_MNIST))
        }
        DatasetName::Svhn | DatasetName::Digits => None,
    }
}

const fn file(name: &'static str, size: u64, md5: &'static str) -> RemoteFile {
    RemoteFile { name, size, md5 }
}

const CIFAR10: [RemoteFile; 1] =
    [file("cifar-10-binary.tar.gz", 170_052_171, "c32a1d4ab5d03f1284b67883e8d87530")];

const MNIST: [RemoteFile; 4] = [
    file("train-images-idx3-ubyte.gz", 9_912_422, "f68b3c2dcbeaaa9fbdd348bbdeb94873"),
    file("train-labels-idx1-ubyte.gz", 28_881, "d53e105ee54ea40749a09fcbcd1e9432"),
    file("t10k-images-idx3-ubyte.gz", 1_648_877, "9fb629c4189551a2d022fa330f9573f3"),
    file("t10k-labels-idx1-ubyte.gz", 4_542, "ec29112dd5afa0611ce80d1b7f02629c"),
];

const FASHION_MNIST: [RemoteFile; 4] = [
    file("train-images-idx3-ubyte.gz", 26_421_880, "8d4fb7e6c68d591d4c3dfef9ec88bf0d"),
    file("train-labels-idx1-ubyte.gz", 29_515, "25c81989df183df01b3e8a0aad5dffbe"),
    file("t10k-images-idx3-ubyte.gz", 4_422_102, "bef4ecab320f06d8554ea6380940ec79"),
    file("t10k-labels-idx1-ubyte.gz", 5_148, "bb300cfdad3c16e7a12a480ee83cd310"),
];
