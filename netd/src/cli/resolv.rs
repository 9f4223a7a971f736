//! Writes the file of `attach --resolv-conf`.
//!
//! netctl does it, with the rights of who runs it: the daemon writes no path that a client chose.

use std::fs::{File, OpenOptions, Permissions};
use std::io::{self, ErrorKind, Write as _};
use std::os::unix::fs::{OpenOptionsExt as _, PermissionsExt as _};
use std::path::{Path, PathBuf};

use nix::fcntl::OFlag;

/// Writes the text into the file, mode 0644: into a file beside it that takes its place, so that a reader sees the
/// old text or the new one. Where that is not allowed (a bind mount cannot be replaced, its directory may be
/// read-only), the file is overwritten.
///
/// The path often lies in the root of a container, whose image decides what is there: a symbolic link at its end is
/// replaced, never followed. What is neither a file nor a link to one (`/dev/null`, `/dev/stdout`) is refused: it
/// would be gone for every other program.
pub(super) fn write(path: &Path, text: &str) -> io::Result<()> {
    check_target(path)?;
    match replace(path, text) {
        Err(refusal) if is_refusal(&refusal) => match overwrite(path, text) {
            // There is nothing to overwrite: what hinders is the refusal.
            Err(error) if error.kind() == ErrorKind::NotFound => Err(refusal),
            done => done,
        },
        done => done,
    }
}

fn check_target(path: &Path) -> io::Result<()> {
    let kind = match std::fs::symlink_metadata(path) {
        Ok(metadata) => metadata.file_type(),
        Err(error) if error.kind() == ErrorKind::NotFound => return Ok(()),
        Err(error) => return Err(error),
    };
    // Links into /proc, such as /dev/stdout, are doors to open descriptors and no names of files.
    let leads_to_file =
        || std::fs::read_link(path).is_ok_and(|target| !target.starts_with("/proc"));
    if kind.is_file() || (kind.is_symlink() && leads_to_file()) {
        return Ok(());
    }
    Err(not_a_file())
}

fn not_a_file() -> io::Error {
    io::Error::new(ErrorKind::InvalidInput, "it is not a regular file")
}

/// Whether the directory or the mount says no; a full disk or a missing directory is the same for both ways.
fn is_refusal(error: &io::Error) -> bool {
    matches!(
        error.kind(),
        ErrorKind::PermissionDenied
            | ErrorKind::ReadOnlyFilesystem
            | ErrorKind::ResourceBusy
            | ErrorKind::CrossesDevices
    )
}

fn replace(path: &Path, text: &str) -> io::Result<()> {
    let temporary = beside(path)?;
    let written = write_new(&temporary, text).and_then(|()| std::fs::rename(&temporary, path));
    if written.is_err() {
        // The first error is the one to report.
        let _ = std::fs::remove_file(&temporary);
    }
    written
}

fn beside(path: &Path) -> io::Result<PathBuf> {
    let name = path
        .file_name()
        .ok_or_else(|| io::Error::new(ErrorKind::InvalidInput, "the path names no file"))?;
    let mut temporary = std::ffi::OsString::from(".");
    temporary.push(name);
    temporary.push(format!(".netctl-{}", std::process::id()));
    Ok(path.with_file_name(temporary))
}

fn write_new(path: &Path, text: &str) -> io::Result<()> {
    // What an earlier netctl of the same process number left behind when it was killed.
    match std::fs::remove_file(path) {
        Err(error) if error.kind() != ErrorKind::NotFound => return Err(error),
        _ => {}
    }
    let mut file = OpenOptions::new()
        .write(true)
        .create_new(true)
        .mode(0o644)
        .open(path)?;
    file.set_permissions(Permissions::from_mode(0o644))?;
    fill(&mut file, text)
}

/// Writes into the file that is there, if it is a regular one.
pub(super) fn overwrite(path: &Path, text: &str) -> io::Result<()> {
    let no_link = OFlag::O_NOFOLLOW | OFlag::O_NONBLOCK;
    let mut file = OpenOptions::new()
        .write(true)
        .custom_flags(no_link.bits())
        .open(path)?;
    if !file.metadata()?.is_file() {
        return Err(not_a_file());
    }
    file.set_len(0)?;
    fill(&mut file, text)
}

fn fill(file: &mut File, text: &str) -> io::Result<()> {
    file.write_all(text.as_bytes())
}
