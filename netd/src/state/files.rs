//! Small files: written whole or not at all, and set aside rather than deleted.

use std::fs::{self, DirBuilder, File, OpenOptions};
use std::io::{self, Read as _, Write as _};
use std::os::unix::fs::{DirBuilderExt as _, OpenOptionsExt as _};
use std::path::{Path, PathBuf};

use nix::fcntl::OFlag;

use super::error::{Place, StateError};

/// Open the file itself or nothing, and do not wait for the other end of a pipe.
pub(super) const NO_FOLLOW: i32 = OFlag::O_NOFOLLOW.union(OFlag::O_NONBLOCK).bits();

/// More than any record takes: one with 4,096 ports has less than 1 MiB.
const RECORD_MAX: u64 = 16 << 20;

/// What starts the name of a file that is being written. No record's name starts with it.
const TEMPORARY: char = '.';

/// Makes a directory, if it is not there, with the mode given to those made.
pub(super) fn make_dir(place: Place, path: &Path, mode: u32) -> Result<(), StateError> {
    DirBuilder::new()
        .recursive(true)
        .mode(mode)
        .create(path)
        .map_err(|error| StateError::unavailable(place, "made", path, error))
}

/// The name in a directory under which a file is written before it gets its own.
pub(super) fn temporary(dir: &Path, path: &Path, number: u64) -> PathBuf {
    let name = path.file_name().unwrap_or_default().to_string_lossy();
    dir.join(format!("{TEMPORARY}{name}.{number}"))
}

/// Whether a name is that of a file of which the writing never ended.
pub(super) fn is_temporary(name: &str) -> bool {
    name.starts_with(TEMPORARY)
}

/// Writes a file whole or not at all: to a temporary name, then renamed. No fsync: after a crash of the host the
/// run directory counts for nothing anyway.
pub(super) fn write(path: &Path, temporary: &Path, bytes: &[u8]) -> io::Result<()> {
    let written = create(temporary, bytes).and_then(|()| fs::rename(temporary, path));
    if written.is_err() {
        // The first error is the one to tell; what stays behind here is deleted at the next start.
        let _ = fs::remove_file(temporary);
    }
    written
}

fn create(path: &Path, bytes: &[u8]) -> io::Result<()> {
    OpenOptions::new()
        .write(true)
        .create(true)
        .truncate(true)
        .mode(0o600)
        .custom_flags(NO_FOLLOW)
        .open(path)?
        .write_all(bytes)
}

/// Reads a file; nothing if there is none, and what is wrong if it is no plain file or too large for a record.
pub(super) fn read(path: &Path) -> io::Result<Option<Result<Vec<u8>, &'static str>>> {
    match fs::symlink_metadata(path) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
        Err(error) => return Err(error),
        Ok(about) if !about.is_file() => return Ok(Some(Err("it is no plain file"))),
        Ok(about) if about.len() > RECORD_MAX => {
            return Ok(Some(Err("it is too large for a record")));
        }
        Ok(_) => {}
    }
    let file = OpenOptions::new()
        .read(true)
        .custom_flags(NO_FOLLOW)
        .open(path)?;
    let mut bytes = Vec::new();
    file.take(RECORD_MAX).read_to_end(&mut bytes)?;
    Ok(Some(Ok(bytes)))
}

/// Removes a file; one that is not there is fine.
pub(super) fn remove(path: &Path) -> io::Result<()> {
    match fs::remove_file(path) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => Err(error),
        _ => Ok(()),
    }
}

/// Removes a directory and all in it; one that is not there is fine.
pub(super) fn remove_dir(path: &Path) -> io::Result<()> {
    match fs::remove_dir_all(path) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => Err(error),
        _ => Ok(()),
    }
}

/// Moves a file into a directory, under its name and the first number that is free there.
pub(super) fn set_aside(path: &Path, dir: &Path) -> io::Result<PathBuf> {
    DirBuilder::new().recursive(true).mode(0o700).create(dir)?;
    let name = path.file_name().unwrap_or_default().to_string_lossy();
    let free = |number: &u64| fs::symlink_metadata(dir.join(format!("{name}.{number}"))).is_err();
    // There are fewer files than numbers.
    let number = (1..u64::MAX).find(free).unwrap_or_default();
    let kept = dir.join(format!("{name}.{number}"));
    fs::rename(path, &kept)?;
    Ok(kept)
}

/// Makes names in a directory durable.
pub(super) fn sync_dir(path: &Path) -> io::Result<()> {
    File::open(path)?.sync_all()
}
