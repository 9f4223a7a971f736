//! The real kernel: netlink, namespaces, `/proc/sys` and sockets.
//!
//! A [`RealKernel`] works on the namespace that the thread was in which made it: the host's. Threads enter a
//! container's namespace only in [`ns`], and always come back.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::{Path, PathBuf};
use std::sync::{Arc, OnceLock};

use arc_swap::ArcSwap;
use netd_model::counters::{Counters, Dropped};
use netd_model::object::Sysctl;
use netd_model::observed::{HostFacts, Observed};
use netd_model::{ContainerId, Ns, Object};
use nix::errno::Errno;
use nix::sys::socket::{AddressFamily, SockFlag, SockType, socket};

use self::announcer::Announcer;
use self::closer::Closer;
use self::netlink::gone_is_done;
use self::ns::Sandboxes;
use self::ports::Ports;
use self::removal::Groups;
use self::space::{OwnSockets, Space};
use self::unlinker::Unlinker;
use self::watch::Watch;
use super::{DnsSink, Executor, Kernel, KernelError, Noticed, Sandbox, SandboxError};

mod announce;
mod announcer;
mod closer;
mod conntrack;
mod descriptors;
mod exec;
mod facts;
mod inet;
mod link;
mod neighbour;
mod netlink;
mod ns;
mod observe;
mod ops;
mod ports;
mod relay;
mod removal;
mod space;
mod traffic;
mod unlinker;
mod watch;
mod wire;

#[cfg(test)]
mod tests;

pub use exec::RealExecutor;
pub use inet::PROTOCOL;

/// What the real kernel needs to know.
#[derive(Clone, Debug)]
pub struct Config {
    /// The file that names the host's resolvers: `/etc/resolv.conf`, or that of a local forwarder.
    /// It may be exchanged at run time.
    pub resolv_conf: Arc<ArcSwap<PathBuf>>,
    /// Whether this process is the netd that runs on the host, and not one that only looks: then links that a killed
    /// netd left half-made are removed at once.
    pub daemon: bool,
}

/// The kernel this process runs on.
#[derive(Debug)]
pub struct RealKernel {
    shared: Arc<Shared>,
    config: Config,
    watch: OnceLock<Watch>,
}

/// What executors have in common.
#[derive(Debug)]
struct Shared {
    host: OwnedFd,
    host_identity: (u64, u64),
    sandboxes: Sandboxes,
    ports: Ports,
    groups: Groups,
    announcer: Announcer,
    closer: Closer,
    unlinker: Unlinker,
    dns: Arc<dyn DnsSink>,
    own_sockets: Arc<OwnSockets>,
}

impl Shared {
    fn host(&self) -> BorrowedFd<'_> {
        self.host.as_fd()
    }

    /// Opens sockets in the host's namespace, which the calling thread has to be in.
    fn host_space(&self) -> Result<Space, KernelError> {
        let failed = |source| KernelError::new("open a netlink socket on the host", source);
        let here = ns::own().and_then(ns::identity).map_err(failed)?;
        if here != self.host_identity {
            return Err(failed(Errno::EXDEV.into())
                .with_detail("the calling thread is in another network namespace"));
        }
        let space = Space::open(Ns::Host).map_err(failed)?;
        Ok(self.adopt(space))
    }

    /// Makes a space one of netd's: its nftables socket is known, and closed beside the work.
    fn adopt(&self, space: Space) -> Space {
        space.known_to(&self.own_sockets, &self.closer)
    }
}

impl RealKernel {
    /// The kernel as seen from the calling thread's namespace.
    pub fn new(config: Config, dns: Arc<dyn DnsSink>) -> Result<Self, KernelError> {
        let failed = |source| KernelError::new("open the host's network namespace", source);
        let host = ns::own().map_err(failed)?;
        let host_identity = ns::identity(&host).map_err(failed)?;
        let shared = Shared {
            host,
            host_identity,
            sandboxes: Sandboxes::default(),
            ports: Ports::default(),
            groups: Groups::new(),
            announcer: Announcer::start()
                .map_err(|source| KernelError::new("start a thread", source))?,
            closer: Closer::start().map_err(|source| KernelError::new("start a thread", source))?,
            unlinker: Unlinker::start()
                .map_err(|source| KernelError::new("start a thread", source))?,
            dns,
            own_sockets: Arc::default(),
        };
        let mut space = shared.host_space()?;
        if config.daemon {
            sweep(&mut space)?;
        }
        let links = space.route.dump(&link::all(), link::LinkView::read);
        shared
            .groups
            .seen(&links.map_err(|refusal| refusal.on("list links"))?);
        Ok(Self {
            shared: Arc::new(shared),
            config,
            watch: OnceLock::new(),
        })
    }
}

/// Removes links that a killed netd left without a mark; nothing else is ever in their group.
fn sweep(space: &mut Space) -> Result<(), KernelError> {
    let answer = space.route.call(&link::remove_group(link::GROUPS));
    gone_is_done(answer, &[Errno::ENODEV]).map_err(|r| r.on("remove half-made links"))
}

impl Kernel for RealKernel {
    fn executor(&self) -> Result<Box<dyn Executor>, KernelError> {
        Ok(Box::new(RealExecutor::new(Arc::clone(&self.shared))?))
    }

    fn open_sandbox(&self, path: &Path) -> Result<Sandbox, SandboxError> {
        let mut sandbox = ns::open(path, self.shared.host_identity)?;
        let kept = sandbox.fd.take().map(descriptors::keep).transpose();
        sandbox.fd = kept.map_err(|source| SandboxError::Open {
            path: path.to_owned(),
            source,
        })?;
        Ok(sandbox)
    }

    fn add_sandbox(&self, id: &ContainerId, sandbox: Sandbox) {
        self.shared.sandboxes.add(id, sandbox);
    }

    fn remove_sandbox(&self, id: &ContainerId) {
        self.shared.sandboxes.remove(id);
    }

    fn sandbox_is_there(&self, id: &ContainerId) -> bool {
        let sandbox = self.shared.sandboxes.get(id);
        sandbox.is_some_and(|sandbox| ns::leads_to(&sandbox.path, sandbox.identity))
    }

    fn observe(&self, wanted: &[Object]) -> Result<Observed, KernelError> {
        observe::observe(&self.shared, &mut self.shared.host_space()?, wanted, None)
    }

    fn observe_some(
        &self,
        wanted: &[Object],
        containers: &BTreeSet<ContainerId>,
    ) -> Result<Observed, KernelError> {
        let mut host = self.shared.host_space()?;
        observe::observe(&self.shared, &mut host, wanted, Some(containers))
    }

    fn settings(&self, wanted: Vec<Sysctl>) -> Vec<Sysctl> {
        let of_host = wanted.into_iter().filter(|sysctl| sysctl.ns == Ns::Host);
        let now = of_host.filter_map(|sysctl| {
            // One that cannot be read now is read by the next audit.
            let value = ops::read_sysctl(&sysctl.path).ok().flatten()?;
            Some(Sysctl { value, ..sysctl })
        });
        now.collect()
    }

    fn watch(&self, sink: Box<dyn Fn(Noticed) + Send>) -> Result<(), KernelError> {
        let watch = watch::start(&self.shared, sink)
            .map_err(|source| KernelError::new("watch the kernel", source))?;
        // A second one would only tell everything twice.
        let _ = self.watch.set(watch);
        Ok(())
    }

    fn counters(&self) -> Result<Counters, KernelError> {
        let mut host = self.shared.host_space()?;
        let nft = host.nft()?.counters()?;
        let links = host.route.dump(&link::all(), link::read_count);
        Ok(Counters {
            ports: nft,
            links: links
                .map_err(|refusal| refusal.on("list links"))?
                .into_iter()
                .collect(),
        })
    }

    fn drops(&self) -> Result<Dropped, KernelError> {
        self.shared.host_space()?.nft()?.drops()
    }

    fn socket_inside(
        &self,
        id: &ContainerId,
        datagrams: bool,
        v6: bool,
    ) -> Result<OwnedFd, KernelError> {
        let family = if v6 {
            AddressFamily::Inet6
        } else {
            AddressFamily::Inet
        };
        let kind = if datagrams {
            SockType::Datagram
        } else {
            SockType::Stream
        };
        let open = |_: BorrowedFd<'_>| socket(family, kind, SockFlag::SOCK_CLOEXEC, None);
        let opened = self.shared.sandboxes.inside(self.shared.host(), id, open)?;
        opened.map_err(|errno| {
            KernelError::new(
                format_args!("open a socket in {}", id.short()),
                errno.into(),
            )
        })
    }

    fn path_mtus(&self, to: &[IpAddr]) -> Result<BTreeMap<IpAddr, u32>, KernelError> {
        facts::path_mtus(&mut self.shared.host_space()?, to)
    }

    fn facts(&self) -> Result<HostFacts, KernelError> {
        facts::read(
            &mut self.shared.host_space()?,
            &self.config.resolv_conf.load(),
        )
    }
}
