//! Descriptors that stay open leave some for those that come and go: records, netlink, and the API, which has to tell
//! of the lack.

use std::io;
use std::os::fd::{AsFd, AsRawFd as _};

use nix::errno::Errno;
use nix::sys::resource::{Resource, getrlimit};

use crate::limits::Limits;

/// Passes a descriptor through that is going to stay open, if it leaves enough of them.
///
/// The kernel gives the lowest number that is free, so that a high number says how many are in use.
pub(super) fn keep<F: AsFd>(fd: F) -> io::Result<F> {
    let (limit, _) = getrlimit(Resource::RLIMIT_NOFILE)?;
    let number = u64::try_from(fd.as_fd().as_raw_fd()).unwrap_or_default();
    if number < Limits::of(limit).lasting {
        Ok(fd)
    } else {
        Err(Errno::EMFILE.into())
    }
}
