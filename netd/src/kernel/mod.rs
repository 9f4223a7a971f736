//! The kernel seam: a narrow trait, and the only place that opens netlink sockets, enters namespaces or writes
//! sysctls (invariant I1).
//!
//! Three forms: [`real`] does it, [`fake`] applies operations to observed data so that everything above is tested
//! without root, and [`faulty`] wraps either and fails or stops at the n-th operation.

#![expect(
    clippy::result_large_err,
    reason = "a failed list names its operation; that is rare, and moved twice on its way"
)]

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::io;
use std::net::{IpAddr, TcpListener, UdpSocket};
use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};

use netd_model::counters::{Counters, Dropped};
use netd_model::object::Sysctl;
use netd_model::observed::{HostFacts, Observed};
use netd_model::{ContainerId, Key, Ns, Object, Op, Owner};
use nix::errno::Errno;

pub mod fake;
pub mod faulty;
pub mod nft;
pub mod real;

/// What the shell can ask of a kernel. Calls block: they belong on executor threads, never on the async runtime.
pub trait Kernel: fmt::Debug + Send + Sync {
    /// An executor with sockets of its own, for one thread.
    fn executor(&self) -> Result<Box<dyn Executor>, KernelError>;

    /// Opens a network namespace by path and checks that it is one, and not the host's own.
    fn open_sandbox(&self, path: &Path) -> Result<Sandbox, SandboxError>;

    /// From now on operations in the container's namespace go to this sandbox.
    fn add_sandbox(&self, id: &ContainerId, sandbox: Sandbox);

    /// Forgets a sandbox and closes its descriptor: a descriptor keeps a namespace alive.
    fn remove_sandbox(&self, id: &ContainerId);

    /// Whether the path still leads to the namespace that was opened (invariant I4).
    fn sandbox_is_there(&self, id: &ContainerId) -> bool;

    /// Everything of ours in the host's namespace and in every known sandbox.
    ///
    /// Settings, `lo` and DNS sockets carry no owner's mark in the kernel, so of them only those in `wanted` (the
    /// desired objects) are looked at; all else is found by its mark. A container with wanted objects but without a
    /// sandbox, or with one that cannot be looked into, is in [`Observed::unseen`].
    fn observe(&self, wanted: &[Object]) -> Result<Observed, KernelError>;

    /// The same, looking only into these containers; all others are in [`Observed::unseen`].
    fn observe_some(
        &self,
        wanted: &[Object],
        containers: &BTreeSet<ContainerId>,
    ) -> Result<Observed, KernelError> {
        let mut observed = self.observe(wanted)?;
        observed.hide_all_but(wanted, containers);
        Ok(observed)
    }

    /// The settings of the host among these, as they are now; one that is not there is left out. The kernel tells nobody
    /// of their changes, so this is asked often, and has to be cheap.
    fn settings(&self, wanted: Vec<Sysctl>) -> Vec<Sysctl>;

    /// Tells `sink` from now on what changes in the kernel, whoever changes it. For as long as the kernel lives. One
    /// that tells nothing leaves all to full audits.
    fn watch(&self, _sink: Box<dyn Fn(Noticed) + Send>) -> Result<(), KernelError> {
        Ok(())
    }

    /// What published ports and endpoints have counted. One that counts nothing says nothing.
    fn counters(&self) -> Result<Counters, KernelError> {
        Ok(Counters::default())
    }

    /// What netd's rules have dropped, by reason.
    fn drops(&self) -> Result<Dropped, KernelError> {
        Ok(Dropped::default())
    }

    /// A new socket in the namespace of a container, neither bound nor connected, for what netd asks on its behalf.
    fn socket_inside(
        &self,
        id: &ContainerId,
        _datagrams: bool,
        _v6: bool,
    ) -> Result<OwnedFd, KernelError> {
        let unsupported = io::ErrorKind::Unsupported.into();
        Err(KernelError::new(
            format_args!("socket inside {}", id.short()),
            unsupported,
        ))
    }

    /// The largest packets that go by the routes to these addresses, in bytes. Of one that no route leads to nothing is said.
    fn path_mtus(&self, _to: &[IpAddr]) -> Result<BTreeMap<IpAddr, u32>, KernelError> {
        Ok(BTreeMap::new())
    }

    /// Facts about the host.
    fn facts(&self) -> Result<HostFacts, KernelError>;
}

/// What was noticed of a kernel that others change too. It may be netd's own doing.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Noticed {
    /// An object with netd's mark looks like this now; without one it is gone.
    Object {
        /// Whose it is.
        owner: Owner,
        /// Which it is.
        key: Key,
        /// What the kernel holds.
        now: Option<Box<Object>>,
    },
    /// Somebody else changed something there that cannot be told more exactly.
    Place {
        /// The namespace.
        ns: Ns,
        /// What.
        what: String,
        /// Who, where the kernel tells it.
        by: Option<Process>,
    },
    /// Notices were lost.
    Lost,
}

/// A process that changed something.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Process {
    /// Its thread's number in the first PID namespace.
    pub pid: u32,
    /// The name of its thread.
    pub name: String,
}

/// Carries operations out. One thread, its own sockets.
pub trait Executor: fmt::Debug + Send {
    /// Applies the operations in order; stops at the first that fails.
    ///
    /// Neighbouring nftables operations of one namespace are one atomic batch; neighbouring removals of links are one
    /// request where the kernel can do that.
    fn apply(&mut self, ops: &[Op]) -> Result<(), ApplyError>;
}

/// A network namespace that was opened.
#[derive(Debug)]
pub struct Sandbox {
    /// How it was named: an absolute path.
    pub path: PathBuf,
    /// An open descriptor; the fake has none.
    pub fd: Option<OwnedFd>,
    /// Device and inode of the namespace: its identity.
    pub identity: (u64, u64),
}

impl Sandbox {
    /// The same namespace with a descriptor of its own.
    pub fn try_clone(&self) -> io::Result<Self> {
        Ok(Self {
            path: self.path.clone(),
            fd: self.fd.as_ref().map(OwnedFd::try_clone).transpose()?,
            identity: self.identity,
        })
    }
}

/// Why a path is not accepted as a sandbox.
#[derive(Debug, thiserror::Error)]
pub enum SandboxError {
    /// It cannot be opened.
    #[error("network namespace {} cannot be opened: {source}", path.display())]
    Open {
        /// The path.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// It is something else.
    #[error("{} is not a network namespace", path.display())]
    NotNetns {
        /// The path.
        path: PathBuf,
    },
    /// It is the namespace the daemon works in.
    #[error("{} is the host's own network namespace", path.display())]
    Host {
        /// The path.
        path: PathBuf,
    },
}

impl SandboxError {
    /// Whether descriptors are lacking: then the path may well be right.
    pub fn is_lack_of_files(&self) -> bool {
        let Self::Open { source, .. } = self else {
            return false;
        };
        let errno = source.raw_os_error().map(Errno::from_raw);
        matches!(errno, Some(Errno::EMFILE | Errno::ENFILE))
    }

    /// Whether the namespace itself may be there all the same: the path could not be looked at.
    pub fn says_nothing(&self) -> bool {
        let Self::Open { source, .. } = self else {
            return false;
        };
        let errno = source.raw_os_error().map(Errno::from_raw);
        let gone = [
            Errno::ENOENT,
            Errno::ENOTDIR,
            Errno::ESRCH,
            Errno::ELOOP,
            Errno::ESTALE,
        ];
        errno.is_some_and(|errno| !gone.contains(&errno))
    }
}

/// What a failure means to the caller, where the error number alone does not say it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum KernelErrorKind {
    /// The interface name wanted inside the container is taken there.
    IfnameInUse,
    /// The name of a link of the host is taken by something that is not netd's.
    HostIfnameInUse,
    /// Another program holds the host port.
    PortInUse,
    /// The address of a host port is on no interface of this host.
    AddressNotHere,
    /// The bridge has no port number left: it takes 1,023.
    BridgeFull,
    /// An interface that the operation needs is not there, or is not netd's.
    NoSuchDevice,
    /// IPv6 is switched off in the namespace.
    Ipv6Off,
    /// No sandbox of this container is known.
    NoSandbox,
    /// Any other.
    #[default]
    Other,
}

/// A failed operation.
#[derive(Debug, thiserror::Error)]
#[error("{what}: {source}{}", in_brackets(detail.as_deref()))]
pub struct KernelError {
    /// What was tried, on which object.
    pub what: String,
    /// What the failure means.
    pub kind: KernelErrorKind,
    /// The kernel's answer.
    pub source: io::Error,
    /// The kernel's own words on it, or what to do about it.
    pub detail: Option<String>,
}

fn in_brackets(detail: Option<&str>) -> String {
    detail.map_or_else(String::new, |text| format!(" ({text})"))
}

impl KernelError {
    /// An error of an operation on an object.
    pub fn new(what: impl fmt::Display, source: io::Error) -> Self {
        Self {
            what: what.to_string(),
            kind: KernelErrorKind::Other,
            source,
            detail: None,
        }
    }

    /// The same with its meaning.
    #[must_use]
    pub fn of_kind(self, kind: KernelErrorKind) -> Self {
        Self { kind, ..self }
    }

    /// The same with words that go behind the error number's.
    #[must_use]
    pub fn with_detail(self, detail: impl Into<String>) -> Self {
        Self {
            detail: Some(detail.into()),
            ..self
        }
    }

    /// The error number of the kernel, if it was one.
    pub fn errno(&self) -> Option<i32> {
        self.source.raw_os_error()
    }
}

/// How far a list of operations came.
#[derive(Debug, thiserror::Error)]
#[error("{error}")]
pub struct ApplyError {
    /// How many operations of the list are done; those after them left nothing.
    pub done: usize,
    /// The operation that failed, if one is known.
    pub failed: Option<Op>,
    /// Why.
    pub error: KernelError,
}

/// Who serves the DNS sockets of containers. Called on executor threads.
pub trait DnsSink: fmt::Debug + Send + Sync {
    /// Takes over the sockets and serves them.
    fn listen(&self, id: &ContainerId, udp: UdpSocket, tcp: TcpListener) -> io::Result<()>;
    /// Closes them; returns when they are closed.
    fn close(&self, id: &ContainerId);
    /// Whether sockets of this container are being served.
    fn is_listening(&self, id: &ContainerId) -> bool;
}
