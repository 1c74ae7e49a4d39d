//! The sets this crate knows.

use std::fmt;
use std::path::Path;
use std::str::FromStr;

use crate::{Error, Images, Result};

/// Images to train on and images to test with.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Dataset {
    /// Which set it is: a [`DatasetName`] in text, or what its owner calls it.
    pub name: String,
    /// Images to train on.
    pub train: Images,
    /// Images never trained on.
    pub test: Images,
}

impl Dataset {
    /// Both parts with images of `[height, width, channels]`; see [`Images::fit_to`].
    ///
    /// # Errors
    /// Those of [`Images::fit_to`].
    pub fn fit_to(&self, shape: [usize; 3]) -> Result<Self> {
        let (train, test) = (self.train.fit_to(shape)?, self.test.fit_to(shape)?);
        Ok(Self { name: self.name.clone(), train, test })
    }

    /// The first `limit` images of each part; see [`Images::take`].
    #[must_use]
    pub fn take(&self, limit: usize) -> Self {
        Self { name: self.name.clone(), train: self.train.take(limit), test: self.test.take(limit) }
    }
}

/// The sets that can be loaded by name.
///
/// ```
/// # use qnn_data::DatasetName;
/// assert_eq!("fashion-mnist".parse::<DatasetName>()?, DatasetName::FashionMnist);
/// assert_eq!(DatasetName::Cifar10.to_string(), "cifar10");
/// # Ok::<(), qnn_data::Error>(())
/// ```
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
#[non_exhaustive]
pub enum DatasetName {
    /// Colour photographs of ten kinds of things, 32×32×3 (Krizhevsky 2009).
    Cifar10,
    /// Digits of house numbers, 32×32×3 (Netzer et al. 2011); see [`read_svhn`](crate::read_svhn).
    Svhn,
    /// Handwritten digits, 28×28×1 (LeCun, Cortes, Burges 1998).
    Mnist,
    /// Articles of clothing, 28×28×1 (Xiao et al. 2017, arXiv:1708.07747).
    FashionMnist,
    /// Handwritten digits, 8×8×1, part of the program: [`embedded_digits`](crate::embedded_digits).
    Digits,
}

impl DatasetName {
    /// Every set.
    pub const ALL: [Self; 5] = [Self::Cifar10, Self::Svhn, Self::Mnist, Self::FashionMnist, Self::Digits];

    /// Name in lower case with hyphens, as in flags and folders.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Cifar10 => "cifar10",
            Self::Svhn => "svhn",
            Self::Mnist => "mnist",
            Self::FashionMnist => "fashion-mnist",
            Self::Digits => "digits",
        }
    }

    /// Height, width and channels of its images.
    pub fn shape(self) -> [usize; 3] {
        match self {
            Self::Cifar10 | Self::Svhn => [32, 32, 3],
            Self::Mnist | Self::FashionMnist => [28, 28, 1],
            Self::Digits => [8, 8, 1],
        }
    }

    /// What its labels 0, 1, 2, … stand for.
    pub fn class_names(self) -> Vec<String> {
        let names = match self {
            Self::Cifar10 => "airplane,automobile,bird,cat,deer,dog,frog,horse,ship,truck",
            Self::Svhn | Self::Mnist | Self::Digits => "0,1,2,3,4,5,6,7,8,9",
            Self::FashionMnist => {
                "T-shirt/top,Trouser,Pullover,Dress,Coat,Sandal,Shirt,Sneaker,Bag,Ankle boot"
            }
        };
        names.split(',').map(str::to_owned).collect()
    }

    /// How to come by the set under a root that [`load`](crate::load) searches, for messages.
    pub(crate) fn advice(self, root: &Path) -> String {
        let folder = root.join(self.as_str());
        let folder = folder.display();
        let source = match self {
            Self::Cifar10 => "https://www.cs.toronto.edu/~kriz/cifar-10-binary.tar.gz",
            Self::Svhn => {
                return format!(
                    "put train.bin and test.bin, its cropped digits in records like CIFAR-10's, into the folder {folder}"
                );
            }
            Self::Mnist => "https://ossci-datasets.s3.amazonaws.com/mnist/ (four IDX files)",
            Self::FashionMnist => {
                "https://github.com/zalandoresearch/fashion-mnist (four IDX files) or Debian's package dataset-fashion-mnist"
            }
            Self::Digits => "the program itself",
        };
        format!(
            "download it (the experiments do with --download), or put the files of {source} into the folder {folder}"
        )
    }

    pub(crate) fn listing() -> String {
        Self::ALL.map(Self::as_str).join(", ")
    }
}

impl fmt::Display for DatasetName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.as_str())
    }
}

impl FromStr for DatasetName {
    type Err = Error;

    fn from_str(text: &str) -> Result<Self> {
        let known = Self::ALL.into_iter().find(|name| name.as_str() == text);
        known.ok_or_else(|| Error::UnknownDataset { name: text.into() })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn both_parts_change_their_shape_and_size() {
        let digits = crate::embedded_digits().unwrap();
        assert_eq!((digits.take(500).train.len(), digits.take(500).test.len()), (500, 359));
        let large = digits.fit_to([28, 28, 1]).unwrap();
        assert_eq!((large.train.shape(), large.test.shape()), ([28, 28, 1], [28, 28, 1]));
        assert_eq!((large.train.labels(), large.test.len()), (digits.train.labels(), digits.test.len()));
    }

    #[test]
    fn names_are_read_back() {
        for name in DatasetName::ALL {
            assert_eq!(name.to_string().parse::<DatasetName>().unwrap(), name);
            assert_eq!(name.class_names().len(), 10);
        }
        let error = "cifar-10".parse::<DatasetName>().unwrap_err().to_string();
        assert!(error.contains("cifar-10") && error.contains("fashion-mnist"), "{error}");
    }
}
