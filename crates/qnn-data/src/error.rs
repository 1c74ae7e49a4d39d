//! What can go wrong between a file on disk or a server and a batch of images.

use std::path::{Path, PathBuf};
use std::{fmt, io};

use crate::DatasetName;

/// The result of this crate's operations.
pub type Result<T, E = Error> = std::result::Result<T, E>;

/// Any failure of this crate; each message says what was found, where, and what was expected.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// The operating system refused a file.
    #[error("cannot {action} {}: {source}", path.display())]
    Io {
        /// What was tried: "read", "create", …
        action: &'static str,
        /// The file or folder.
        path: PathBuf,
        /// What the operating system said.
        source: io::Error,
    },
    /// A file does not hold what its format demands.
    #[error("{}: at byte {offset}: expected {expected}, found {found}; fetch the file again", file.display())]
    Format {
        /// The damaged file.
        file: PathBuf,
        /// Where in the (decompressed) file, in bytes from its start.
        offset: u64,
        /// What should stand there.
        expected: String,
        /// What stands there.
        found: String,
    },
    /// A file is larger, or decompresses to more, than any file of its kind.
    #[error("{}: more than {limit} bytes (decompressed), which no file of this kind has", file.display())]
    TooLarge {
        /// The file.
        file: PathBuf,
        /// The most it may hold, in bytes.
        limit: u64,
    },
    /// An image file and its label file do not belong together.
    #[error("{} has {image_count} images but {} has {label_count} labels; the two files belong to different sets",
        images.display(), labels.display())]
    CountMismatch {
        /// The image file.
        images: PathBuf,
        /// How many images it holds.
        image_count: usize,
        /// The label file.
        labels: PathBuf,
        /// How many labels it holds.
        label_count: usize,
    },
    /// The set is not where it was looked for.
    #[error("{name} is not at hand; looked at {}; {}", Listing(looked), name.advice(root))]
    NotFound {
        /// The set that was wanted.
        name: DatasetName,
        /// The folder that was given.
        root: PathBuf,
        /// Every place that was tried, in order.
        looked: Vec<PathBuf>,
    },
    /// No set has this name.
    #[error("no data set is called {name:?}; known are {}", DatasetName::listing())]
    UnknownDataset {
        /// What was asked for.
        name: String,
    },
    /// Where to find the data was left empty.
    #[error("the data source is empty; give `auto`, `embedded` or a path")]
    EmptySource,
    /// Pixels, labels and shape of an image set contradict each other.
    #[error("image set {name:?}: {what} is {found}, expected {expected}")]
    Images {
        /// The set.
        name: String,
        /// Which part is wrong.
        what: &'static str,
        /// What it is.
        found: String,
        /// What it must be.
        expected: String,
    },
    /// A setting of the loader, the normalisation or a split makes no sense.
    #[error("{setting} is {found}, expected {expected}")]
    Setting {
        /// Name of the setting.
        setting: &'static str,
        /// Its value.
        found: String,
        /// What it must be.
        expected: String,
    },
    /// The set has no files to fetch.
    #[error("{}", nothing_to_download(*.name))]
    NothingToDownload {
        /// The set.
        name: DatasetName,
    },
    /// A transfer failed before its end; what arrived is kept for the next attempt.
    #[error("download of {url} stopped after {done} bytes: {source}; run it again to go on from there")]
    Transfer {
        /// What was fetched.
        url: String,
        /// How many bytes are on disk.
        done: u64,
        /// The cause.
        source: Box<dyn std::error::Error + Send + Sync>,
    },
    /// The server answered with a status that brings no data.
    #[error(
        "{url} answered with HTTP status {status}, expected 200 or 206; give another base address if the server moved"
    )]
    Status {
        /// What was fetched.
        url: String,
        /// The status code.
        status: u16,
    },
    /// The server sends more than the file holds.
    #[error("{url} sends more than the {limit} bytes of the published file; this is not that file")]
    Oversized {
        /// What was fetched.
        url: String,
        /// Size of the published file, in bytes.
        limit: u64,
    },
    /// A download is complete but its content is not the published one; it was removed.
    #[error("{url}: MD5 is {found}, expected {expected}; the downloaded file was removed")]
    Checksum {
        /// What was fetched.
        url: String,
        /// The published checksum.
        expected: String,
        /// That of the bytes received.
        found: String,
    },
    /// Another process is writing the same download.
    #[error("{} is being downloaded by another process; wait until it has ended", path.display())]
    Busy {
        /// The file both want to write.
        path: PathBuf,
    },
}

impl Error {
    /// Wraps an operating system error with what was tried on which path.
    pub(crate) fn io(action: &'static str, path: &Path) -> impl FnOnce(io::Error) -> Self {
        let path = path.to_path_buf();
        move |source| Self::Io { action, path, source }
    }

    pub(crate) fn setting(
        setting: &'static str,
        found: impl fmt::Display,
        expected: impl Into<String>,
    ) -> Self {
        Self::Setting { setting, found: found.to_string(), expected: expected.into() }
    }
}

fn nothing_to_download(name: DatasetName) -> String {
    match name {
        DatasetName::Digits => {
            format!("{name} is part of the program and needs no download; use `embedded` as the data source")
        }
        _ => format!("{name} cannot be downloaded; {}", name.advice(Path::new("data"))),
    }
}

/// Paths joined by commas.
struct Listing<'a>(&'a [PathBuf]);

impl fmt::Display for Listing<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (i, path) in self.0.iter().enumerate() {
            let separator = if i == 0 { "" } else { ", " };
            write!(f, "{separator}{}", path.display())?;
        }
        Ok(())
    }
}

/// The same list, for notices.
pub(crate) fn listing(paths: &[PathBuf]) -> String {
    Listing(paths).to_string()
}
