//! What goes wrong with records, each with its remedy.

use std::fmt;
use std::io;
use std::path::{Path, PathBuf};

use netd_model::Error;
use netd_model::error::Code;
use nix::errno::Errno;

use super::envelope::Version;

/// Which of the daemon's two directories.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Place {
    /// `--state-dir`.
    State,
    /// `--run-dir`.
    Run,
}

impl fmt::Display for Place {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::State => "--state-dir",
            Self::Run => "--run-dir",
        })
    }
}

/// Why records cannot be read or written. Each message is one line and ends with the remedy.
#[derive(Debug, thiserror::Error)]
pub enum StateError {
    /// A newer major version wrote it. Nothing was changed.
    #[error(
        "{} has format {found}, and this netd knows up to {known}: start the newer netd again, or use another {place}",
        path.display()
    )]
    TooNew {
        /// Where.
        place: Place,
        /// The file.
        path: PathBuf,
        /// The version of the file.
        found: Version,
        /// The newest version known.
        known: Version,
    },
    /// A file as a whole cannot be read. It was left as it is.
    #[error(
        "{} is damaged: {why}; it was left as it is: restore it from a backup, or move it away to start without it",
        path.display()
    )]
    Damaged {
        /// The file.
        path: PathBuf,
        /// What is wrong with it.
        why: String,
    },
    /// Another daemon works with it.
    #[error("{} is in use by {}: stop that one first, or use another {place}", path.display(), holder(*pid))]
    Locked {
        /// Where.
        place: Place,
        /// The file.
        path: PathBuf,
        /// The other daemon, if known.
        pid: Option<u32>,
    },
    /// In the place of this record is one that could not be read. It was left as it is.
    #[error(
        "the record of {object} in {} cannot be read and is not overwritten: start the netd that wrote it, or restore \
         it from a backup",
        path.display()
    )]
    Unreadable {
        /// Whose record.
        object: String,
        /// The file.
        path: PathBuf,
    },
    /// The operating system refused.
    #[error("{} cannot be {done}: {error}: {}", path.display(), remedy(error, *place))]
    Unavailable {
        /// Where.
        place: Place,
        /// `written`, `read` and so on.
        done: &'static str,
        /// The file.
        path: PathBuf,
        /// Its answer. Part of the message, and so not a `source` that would repeat it.
        error: io::Error,
    },
}

impl StateError {
    /// The operating system refused.
    pub(super) fn unavailable(
        place: Place,
        done: &'static str,
        path: &Path,
        error: io::Error,
    ) -> Self {
        Self::Unavailable {
            place,
            done,
            path: path.to_owned(),
            error,
        }
    }

    /// The file it is about.
    pub fn path(&self) -> &Path {
        match self {
            Self::TooNew { path, .. }
            | Self::Damaged { path, .. }
            | Self::Locked { path, .. }
            | Self::Unreadable { path, .. }
            | Self::Unavailable { path, .. } => path,
        }
    }

    /// Its code in the API.
    pub const fn code(&self) -> Code {
        match self {
            Self::TooNew { .. } => Code::StateTooNew,
            Self::Damaged { .. } | Self::Unreadable { .. } => Code::StateDamaged,
            Self::Locked { .. } | Self::Unavailable { .. } => Code::StoreUnavailable,
        }
    }
}

impl From<StateError> for Error {
    fn from(error: StateError) -> Self {
        Self::new(error.code(), &error).with("path", error.path().to_string_lossy().as_ref())
    }
}

fn holder(pid: Option<u32>) -> String {
    pid.map_or_else(
        || "another netd".to_owned(),
        |pid| format!("another netd (pid {pid})"),
    )
}

fn remedy(error: &io::Error, place: Place) -> String {
    match error.raw_os_error().map(Errno::from_raw) {
        Some(Errno::ENOSPC | Errno::EDQUOT) => "free some space there".to_owned(),
        Some(Errno::EROFS | Errno::EACCES | Errno::EPERM) => {
            format!("make it writable for netd, or use another {place}")
        }
        Some(Errno::ENOTDIR | Errno::EISDIR | Errno::EEXIST | Errno::ELOOP) => {
            format!("move away what is in its place, or use another {place}")
        }
        Some(Errno::EMFILE | Errno::ENFILE) => {
            "raise the limit of open files (LimitNOFILE)".to_owned()
        }
        _ => "look into the kernel log for errors of the disk, then try again".to_owned(),
    }
}

/// One record that could not be read, while the others could.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Problem {
    /// Whose record.
    pub object: String,
    /// What is wrong with it.
    pub why: String,
    /// What to do.
    pub remedy: String,
}

impl fmt::Display for Problem {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {}: {}", self.object, self.why, self.remedy)
    }
}
