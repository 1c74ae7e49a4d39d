//! Fetching the official files.

use std::fs::{self, File, OpenOptions, TryLockError};
use std::io::{self, Read, Seek, SeekFrom, Write};
use std::path::{Path, PathBuf};
use std::time::Duration;

use md5::{Digest, Md5};
use ureq::config::ConfigBuilder;
use ureq::http::{Response, header};
use ureq::typestate::AgentScope;
use ureq::{Agent, Body};

use crate::catalog::{RemoteFile, catalog};
use crate::read::open;
use crate::{DatasetName, Error, Result};

/// Fetches the official files of a set into `dir/NAME` and returns that folder; [`load`](crate::load) finds
/// them with [`Source::Path`](crate::Source::Path) of either.
///
/// Each file is written to `FILE.part`, where an interrupted download goes on the next time, checked against
/// its published MD5 and only then given its name. Files that are already there and right are not fetched
/// again; wrong ones are replaced. `progress` is told the bytes that are there and the bytes of all files
/// together.
///
/// # Errors
/// [`Error::Transfer`], [`Error::Status`], [`Error::Oversized`] or [`Error::Checksum`] for what comes from
/// the server; [`Error::Io`] and [`Error::Busy`] for the disk; [`Error::NothingToDownload`] for the embedded
/// digits.
///
/// ```no_run
/// use qnn_data::{download, DatasetName};
///
/// let mut progress = |done, total| eprintln!("{done} of {total:?} bytes");
/// let folder = download(DatasetName::Mnist, "data".as_ref(), &mut progress)?;
/// # Ok::<(), qnn_data::Error>(())
/// ```
pub fn download(
    name: DatasetName,
    dir: &Path,
    progress: &mut dyn FnMut(u64, Option<u64>),
) -> Result<PathBuf> {
    let (base, _) = catalog(name).ok_or(Error::NothingToDownload { name })?;
    download_from(name, base, dir, progress)
}

/// [`download`] from another server that has the same files under the address `base`.
///
/// # Errors
/// Those of [`download`].
pub fn download_from(
    name: DatasetName,
    base: &str,
    dir: &Path,
    progress: &mut dyn FnMut(u64, Option<u64>),
) -> Result<PathBuf> {
    let (_, files) = catalog(name).ok_or(Error::NothingToDownload { name })?;
    let folder = dir.join(name.as_str());
    fetch_all(&patience().build().into(), files, base, &folder, progress)?;
    Ok(folder)
}

fn fetch_all(
    agent: &Agent,
    files: &[RemoteFile],
    base: &str,
    folder: &Path,
    progress: &mut dyn FnMut(u64, Option<u64>),
) -> Result<()> {
    fs::create_dir_all(folder).map_err(Error::io("create", folder))?;
    let total = files.iter().map(|file| file.size).sum();
    let mut before = 0;
    for file in files {
        let url = format!("{}/{}", base.trim_end_matches('/'), file.name);
        fetch(agent, file, &url, folder, &mut |done| progress(before + done, Some(total)))?;
        before += file.size;
    }
    Ok(())
}

/// One file: nothing to do, or into the part file, checked, renamed.
fn fetch(
    agent: &Agent,
    file: &RemoteFile,
    url: &str,
    folder: &Path,
    progress: &mut dyn FnMut(u64),
) -> Result<()> {
    let path = folder.join(file.name);
    if path.is_file() && checksum(&mut open(&path)?.0, &path)? == file.md5 {
        progress(file.size);
        return Ok(());
    }
    let mut part = Part::open(folder.join(format!("{}.part", file.name)), file.size)?;
    part.fill(agent, file, url, progress)?;
    part.verify(file, url)?;
    part.file.sync_all().map_err(Error::io("write", &part.path))?;
    let Part { path: part, file: handle, .. } = part;
    drop(handle); // some systems do not rename open files
    fs::rename(&part, &path).map_err(Error::io("rename", &part))
}

/// A file that is not complete yet, locked against other processes.
struct Part {
    path: PathBuf,
    file: File,
    done: u64,
}

impl Part {
    /// What an earlier attempt left, or an empty file.
    fn open(path: PathBuf, size: u64) -> Result<Self> {
        let options = OpenOptions::new().read(true).write(true).create(true).truncate(false).open(&path);
        let file = options.map_err(Error::io("create", &path))?;
        match file.try_lock() {
            Err(TryLockError::WouldBlock) => return Err(Error::Busy { path }),
            // Some file systems have no locks: the checksum still guards the result.
            Err(TryLockError::Error(_)) | Ok(()) => {}
        }
        let done = file.metadata().map_err(Error::io("read", &path))?.len();
        let mut part = Self { path, file, done };
        if part.done > size {
            part.restart()?
        } else {
            part.seek()?
        }
        Ok(part)
    }

    /// Fetches what is missing.
    fn fill(
        &mut self,
        agent: &Agent,
        file: &RemoteFile,
        url: &str,
        progress: &mut dyn FnMut(u64),
    ) -> Result<()> {
        progress(self.done);
        if self.done == file.size {
            return Ok(());
        }
        let response = self.request(agent, url)?;
        self.begin(&response, url)?;
        if response.body().content_length().is_some_and(|length| length > file.size - self.done) {
            return Err(Error::Oversized { url: url.into(), limit: file.size });
        }
        self.receive(response.into_body().into_reader(), file, url, progress)?;
        if self.done < file.size {
            Err(self.cut(url, "the server closed the connection early"))
        } else {
            Ok(())
        }
    }

    fn receive(
        &mut self,
        mut body: impl Read,
        file: &RemoteFile,
        url: &str,
        progress: &mut dyn FnMut(u64),
    ) -> Result<()> {
        let mut buffer = vec![0; 64 << 10];
        loop {
            match body.read(&mut buffer) {
                Ok(0) => return Ok(()),
                Ok(n) => self.append(&buffer[..n], file, url)?,
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => return Err(self.cut(url, error)),
            }
            progress(self.done);
        }
    }

    fn request(&self, agent: &Agent, url: &str) -> Result<Response<Body>> {
        let mut request = agent.get(url);
        if self.done > 0 {
            request = request.header(header::RANGE, format!("bytes={}-", self.done));
        }
        request.call().map_err(|error| self.cut(url, error))
    }

    /// Looks at the status: a server may go on where we were, or start anew.
    fn begin(&mut self, response: &Response<Body>, url: &str) -> Result<()> {
        let status = response.status().as_u16();
        match status {
            200 => self.restart(),
            206 if starts_at(response, self.done) => Ok(()),
            206 | 416 => {
                self.restart()?;
                Err(Error::Status { url: url.into(), status })
            }
            _ => Err(Error::Status { url: url.into(), status }),
        }
    }

    fn append(&mut self, bytes: &[u8], file: &RemoteFile, url: &str) -> Result<()> {
        if self.done + bytes.len() as u64 > file.size {
            self.restart()?;
            return Err(Error::Oversized { url: url.into(), limit: file.size });
        }
        self.file.write_all(bytes).map_err(Error::io("write", &self.path))?;
        self.done += bytes.len() as u64;
        Ok(())
    }

    fn verify(&mut self, file: &RemoteFile, url: &str) -> Result<()> {
        self.file.seek(SeekFrom::Start(0)).map_err(Error::io("read", &self.path))?;
        let found = checksum(&mut self.file, &self.path)?;
        if found == file.md5 {
            return Ok(());
        }
        fs::remove_file(&self.path).map_err(Error::io("remove", &self.path))?;
        Err(Error::Checksum { url: url.into(), expected: file.md5.into(), found })
    }

    fn restart(&mut self) -> Result<()> {
        self.done = 0;
        self.file.set_len(0).map_err(Error::io("write", &self.path))?;
        self.seek()
    }

    fn seek(&mut self) -> Result<()> {
        self.file.seek(SeekFrom::Start(self.done)).map(|_| ()).map_err(Error::io("write", &self.path))
    }

    fn cut(&self, url: &str, source: impl Into<Box<dyn std::error::Error + Send + Sync>>) -> Error {
        Error::Transfer { url: url.into(), done: self.done, source: source.into() }
    }
}

/// How a client gives up: half a minute for a connection, one for an answer or for the next bytes.
fn patience() -> ConfigBuilder<AgentScope> {
    Agent::config_builder()
        .http_status_as_error(false)
        .user_agent(concat!("qnn-data/", env!("CARGO_PKG_VERSION")))
        .max_redirects(5)
        .timeout_resolve(Some(Duration::from_secs(30)))
        .timeout_connect(Some(Duration::from_secs(30)))
        .timeout_recv_response(Some(Duration::from_secs(60)))
        .timeout_per_read(Some(Duration::from_secs(60)))
}

/// Whether a partial answer begins with byte `offset`.
fn starts_at(response: &Response<Body>, offset: u64) -> bool {
    let range = response.headers().get(header::CONTENT_RANGE).and_then(|range| range.to_str().ok());
    range.is_some_and(|range| range.starts_with(&format!("bytes {offset}-")))
}

/// MD5 of the rest of a file, in hexadecimal.
fn checksum(file: &mut File, path: &Path) -> Result<String> {
    let mut hasher = Md5::new();
    io::copy(file, &mut hasher).map_err(Error::io("read", path))?;
    Ok(hasher.finalize().iter().map(|byte| format!("{byte:02x}")).collect())
}

#[cfg(test)]
#[path = "download_tests.rs"]
mod tests;
