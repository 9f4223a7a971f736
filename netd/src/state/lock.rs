//! One daemon per directory.

use std::fs::{File, OpenOptions};
use std::io::{Read as _, Seek as _, Write as _};
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::{Path, PathBuf};

use nix::errno::Errno;
use nix::fcntl::{Flock, FlockArg};

use super::error::{Place, StateError};
use super::files;

/// The right to be the daemon of a run directory, held until dropped. The kernel takes it back from a process that
/// dies, whichever way.
#[derive(Debug)]
pub struct RunLock {
    _lock: Lock,
}

impl RunLock {
    /// Takes the lock on `netd.lock` in the directory, which is made if it is not there.
    pub fn acquire(run_dir: &Path) -> Result<Self, StateError> {
        files::make_dir(Place::Run, run_dir, 0o755)?;
        Lock::acquire(Place::Run, &run_dir.join("netd.lock")).map(|lock| Self { _lock: lock })
    }
}

/// A file that is locked. Its content is the pid of the holder, for the message to the next one; the file stays.
#[derive(Debug)]
pub(super) struct Lock {
    _file: Flock<File>,
}

impl Lock {
    pub(super) fn acquire(place: Place, path: &Path) -> Result<Self, StateError> {
        let unavailable = |error| StateError::unavailable(place, "locked", path, error);
        let file = open(path).map_err(unavailable)?;
        match Flock::lock(file, FlockArg::LockExclusiveNonblock) {
            Ok(mut file) => {
                // The pid is for a message only; a full disk must not keep the daemon from starting again.
                if let Err(error) = sign(&mut file) {
                    tracing::warn!(path = %path.display(), %error, "the lock does not name its holder");
                }
                Ok(Self { _file: file })
            }
            Err((file, Errno::EWOULDBLOCK)) => Err(StateError::Locked {
                place,
                path: PathBuf::from(path),
                pid: signature(&file),
            }),
            Err((_, errno)) => Err(unavailable(errno.into())),
        }
    }
}

fn open(path: &Path) -> std::io::Result<File> {
    OpenOptions::new()
        .read(true)
        .write(true)
        .create(true)
        .truncate(false)
        .mode(0o600)
        .custom_flags(files::NO_FOLLOW)
        .open(path)
}

fn sign(file: &mut File) -> std::io::Result<()> {
    file.set_len(0)?;
    file.rewind()?;
    writeln!(file, "{}", std::process::id())
}

fn signature(mut file: &File) -> Option<u32> {
    let mut text = String::new();
    file.read_to_string(&mut text).ok()?;
    text.trim().parse().ok()
}
