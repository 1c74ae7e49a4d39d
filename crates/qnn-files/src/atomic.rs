//! Files that are either the old ones or the new ones, whenever the process or the machine dies.

use std::fs::{self, File};
use std::io::Write;
use std::path::Path;

use crate::Error;

/// Writes beside the file, waits until the bytes are on the disk, and renames.
///
/// The name of the file beside is fixed (`NAME.partial`): what a killed process leaves there is
/// overwritten by the next one instead of piling up. After an error it is removed. Of several writers
/// of one file each waits for the one before, on Unix and where the file system has locks.
///
/// # Errors
///
/// [`Error::File`] if the file cannot be written; the old one is intact then.
pub fn write(path: &Path, bytes: &[u8]) -> Result<(), Error> {
    let mut name = path.file_name().unwrap_or_default().to_owned();
    name.push(".partial");
    let partial = path.with_file_name(name);
    // Locked until it has its own name, or is gone.
    let mut file = open_alone(&partial).map_err(Error::file(&partial))?;
    let written = write_through(&mut file, bytes).map_err(Error::file(&partial));
    let renamed = written.and_then(|()| fs::rename(&partial, path).map_err(Error::file(path)));
    if renamed.is_err() {
        // What went wrong is worth more to the caller than what goes wrong now.
        let _ = fs::remove_file(&partial);
    }
    renamed.map(|()| sync_folder(path))
}

/// The file of this name, for this writer alone.
#[cfg(unix)]
fn open_alone(path: &Path) -> std::io::Result<File> {
    loop {
        let file = fs::OpenOptions::new().write(true).create(true).truncate(false).open(path)?;
        match file.lock() {
            Err(error) if error.kind() == std::io::ErrorKind::Interrupted => continue,
            // Some file systems have no locks.
            Err(_) => return Ok(file),
            Ok(()) if has_name(&file, path) => return Ok(file),
            // Whoever held the lock has renamed or removed the file meanwhile.
            Ok(()) => {}
        }
    }
}

#[cfg(unix)]
fn has_name(file: &File, path: &Path) -> bool {
    use std::os::unix::fs::MetadataExt;
    let identity = |metadata: &fs::Metadata| (metadata.dev(), metadata.ino());
    matches!((file.metadata(), fs::metadata(path)), (Ok(a), Ok(b)) if identity(&a) == identity(&b))
}

/// Without an identity of files nobody knows whether a lock is that of the name.
#[cfg(not(unix))]
fn open_alone(path: &Path) -> std::io::Result<File> {
    File::create(path)
}

fn write_through(file: &mut File, bytes: &[u8]) -> std::io::Result<()> {
    file.set_len(0)?;
    file.write_all(bytes)?;
    file.sync_all()
}

/// Makes the renaming itself durable, where the system can open folders. If it cannot, a power cut
/// may bring back the old file, which is a whole one too.
fn sync_folder(path: &Path) {
    let folder = path.parent().filter(|folder| !folder.as_os_str().is_empty());
    if let Ok(folder) = File::open(folder.unwrap_or(Path::new("."))) {
        let _ = folder.sync_all();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn files_are_replaced_as_a_whole_and_leave_nothing_beside_them() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("metrics.csv");
        fs::write(folder.path().join("metrics.csv.partial"), "of a killed process").unwrap();
        write(&path, b"first").unwrap();
        write(&path, b"second").unwrap();
        assert_eq!(fs::read(&path).unwrap(), b"second");
        assert_eq!(fs::read_dir(folder.path()).unwrap().count(), 1);
    }

    #[test]
    #[cfg(unix)]
    fn of_several_writers_each_leaves_a_whole_file() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("model");
        std::thread::scope(|scope| {
            for writer in 0..4_u8 {
                let path = &path;
                scope.spawn(move || {
                    for round in 1..20 {
                        write(path, &vec![writer; 1000 * round + usize::from(writer)]).unwrap();
                        let read = fs::read(path).unwrap();
                        let by = read[0];
                        assert!(read.iter().all(|&byte| byte == by), "bytes of two writers");
                        assert_eq!(read.len() % 1000, usize::from(by), "a part of a file");
                    }
                });
            }
        });
        assert_eq!(fs::read_dir(folder.path()).unwrap().count(), 1);
    }

    #[test]
    fn an_error_leaves_nothing_beside_the_old_file() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("model");
        fs::create_dir(&path).unwrap();
        fs::write(path.join("inside"), "a folder that no file replaces").unwrap();
        let error = write(&path, b"x").unwrap_err();
        assert!(matches!(&error, Error::File { path: at, .. } if *at == path), "{error}");
        assert_eq!(fs::read_dir(folder.path()).unwrap().count(), 1);
    }

    #[test]
    fn a_missing_folder_is_named() {
        let error = write(Path::new("no/such/folder/x"), b"").unwrap_err();
        assert!(error.to_string().starts_with("no/such/folder/x.partial: "), "{error}");
    }
}
