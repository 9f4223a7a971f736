//! Network namespaces: opening them, telling them apart, entering one and always coming back.

use std::collections::HashMap;
use std::fs::File;
use std::io;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use std::path::Path;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use netd_model::ContainerId;
use nix::errno::Errno;
use nix::fcntl::OFlag;
use nix::sched::{CloneFlags, setns};
use nix::sys::stat::Mode;
use nix::sys::statfs::{NSFS_MAGIC, fstatfs};

use crate::kernel::{KernelError, KernelErrorKind, Sandbox, SandboxError};

/// The thread's own namespace. `/proc/self` would be that of the first thread.
const OWN: &str = "/proc/thread-self/ns/net";

mod ioctl {
    // NS_GET_NSTYPE (linux/nsfs.h): the CLONE_NEW* flag of a namespace's descriptor.
    nix::ioctl_none!(ns_get_nstype, 0xb7, 0x3);
}

/// Opens the namespace of the calling thread.
pub(super) fn own() -> io::Result<OwnedFd> {
    File::open(OWN).map(OwnedFd::from)
}

/// Device and inode: what identifies a namespace.
pub(super) fn identity(fd: impl AsFd) -> io::Result<(u64, u64)> {
    let stat = nix::sys::stat::fstat(fd)?;
    Ok((stat.st_dev, stat.st_ino))
}

fn is_netns(fd: BorrowedFd<'_>) -> bool {
    #[expect(unsafe_code, reason = "nix gives ioctls as unsafe functions only")]
    // SAFETY: this ioctl has no argument, and the descriptor is open for as long as it is borrowed.
    let kind = unsafe { ioctl::ns_get_nstype(fd.as_raw_fd()) };
    kind == Ok(CloneFlags::CLONE_NEWNET.bits())
}

/// Opens a namespace by path; `host` is the identity of the one that is not accepted.
pub(super) fn open(path: &Path, host: (u64, u64)) -> Result<Sandbox, SandboxError> {
    let failed = |source: io::Error| SandboxError::Open {
        path: path.to_owned(),
        source,
    };
    // Only a look at first: opening a FIFO or a device would wait or have effects.
    let look = nix::fcntl::open(path, OFlag::O_PATH | OFlag::O_CLOEXEC, Mode::empty())
        .map_err(|errno| failed(errno.into()))?;
    let stat = fstatfs(&look).map_err(|errno| failed(errno.into()))?;
    if stat.filesystem_type() != NSFS_MAGIC {
        return Err(SandboxError::NotNetns {
            path: path.to_owned(),
        });
    }
    let fd = File::open(format!("/proc/self/fd/{}", look.as_raw_fd())).map_err(failed)?;
    if !is_netns(fd.as_fd()) {
        return Err(SandboxError::NotNetns {
            path: path.to_owned(),
        });
    }
    let identity = identity(&fd).map_err(failed)?;
    if identity == host {
        return Err(SandboxError::Host {
            path: path.to_owned(),
        });
    }
    Ok(Sandbox {
        path: path.to_owned(),
        fd: Some(fd.into()),
        identity,
    })
}

/// Whether a path leads to the namespace of this identity.
pub(super) fn leads_to(path: &Path, identity: (u64, u64)) -> bool {
    match nix::sys::stat::stat(path) {
        Ok(stat) => (stat.st_dev, stat.st_ino) == identity,
        // What cannot be looked at, for lack of memory or of permission, is not gone.
        Err(errno) => !matches!(errno, Errno::ENOENT | Errno::ENOTDIR | Errno::ESRCH),
    }
}

/// Brings the thread back when it is dropped, also by a panic.
struct Return<'a>(BorrowedFd<'a>);

impl Drop for Return<'_> {
    fn drop(&mut self) {
        if let Err(errno) = setns(self.0, CloneFlags::CLONE_NEWNET) {
            // A thread left in a container's namespace would work for other containers in there.
            tracing::error!(%errno, "cannot return to the host's network namespace");
            std::process::abort();
        }
    }
}

/// Runs `work` with the calling thread inside `target`, and brings it back to `host`.
///
/// `work` must not start threads: they would stay inside.
pub(super) fn inside<T>(
    host: BorrowedFd<'_>,
    target: BorrowedFd<'_>,
    work: impl FnOnce() -> T,
) -> io::Result<T> {
    setns(target, CloneFlags::CLONE_NEWNET)?;
    let _back = Return(host);
    Ok(work())
}

/// The known sandboxes. Locked for moments only; whoever works in one holds a reference.
#[derive(Debug, Default)]
pub(super) struct Sandboxes(Mutex<Known>);

#[derive(Debug, Default)]
struct Known {
    /// With the number of the addition that brought each.
    sandboxes: HashMap<ContainerId, (u64, Arc<Sandbox>)>,
    additions: u64,
}

impl Sandboxes {
    fn lock(&self) -> MutexGuard<'_, Known> {
        // Nothing panics while it is held; if something did, the map would still be whole.
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Adds or replaces one.
    pub(super) fn add(&self, id: &ContainerId, sandbox: Sandbox) {
        let mut known = self.lock();
        known.additions += 1;
        let addition = (known.additions, Arc::new(sandbox));
        known.sandboxes.insert(id.clone(), addition);
    }

    /// Forgets one.
    pub(super) fn remove(&self, id: &ContainerId) {
        // The descriptor is closed after the lock is released.
        let _sandbox = self.lock().sandboxes.remove(id);
    }

    /// The sandbox of a container.
    pub(super) fn get(&self, id: &ContainerId) -> Option<Arc<Sandbox>> {
        let known = self.lock();
        known
            .sandboxes
            .get(id)
            .map(|(_, sandbox)| Arc::clone(sandbox))
    }

    /// Whether a container has one.
    pub(super) fn holds(&self, id: &ContainerId) -> bool {
        self.lock().sandboxes.contains_key(id)
    }

    /// Those that came after an addition, and the number of the last one.
    pub(super) fn after(&self, addition: u64) -> (u64, Vec<ContainerId>) {
        let known = self.lock();
        if known.additions == addition {
            return (addition, Vec::new());
        }
        let later = known
            .sandboxes
            .iter()
            .filter(|(_, (number, _))| *number > addition);
        (known.additions, later.map(|(id, _)| id.clone()).collect())
    }

    /// All of them.
    pub(super) fn all(&self) -> Vec<(ContainerId, Arc<Sandbox>)> {
        self.lock()
            .sandboxes
            .iter()
            .map(|(id, (_, sandbox))| (id.clone(), Arc::clone(sandbox)))
            .collect()
    }

    /// Runs `work` inside the namespace of a container.
    pub(super) fn inside<T>(
        &self,
        host: BorrowedFd<'_>,
        id: &ContainerId,
        work: impl FnOnce(BorrowedFd<'_>) -> T,
    ) -> Result<T, KernelError> {
        let sandbox = self.get(id);
        let Some(fd) = sandbox.as_ref().and_then(|sandbox| sandbox.fd.as_ref()) else {
            let gone = io::Error::from(Errno::ENOENT);
            return Err(
                KernelError::new(format_args!("sandbox of {}", id.short()), gone)
                    .of_kind(KernelErrorKind::NoSandbox),
            );
        };
        inside(host, fd.as_fd(), || work(fd.as_fd())).map_err(|source| {
            KernelError::new(
                format_args!("enter the network namespace of {}", id.short()),
                source,
            )
        })
    }
}
