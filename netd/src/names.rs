//! Joins the DNS server to the kernel seam: sockets come from executor threads, are served by the runtime.

use std::io;
use std::net::{IpAddr, SocketAddr, TcpListener, UdpSocket};
use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::SystemTime;

use arc_swap::ArcSwap;
use netd_dns::{Forwarder, Server, ZoneHandle};
use netd_model::ContainerId;
use tokio::runtime::Handle;

use crate::kernel::DnsSink;

/// The DNS of all containers.
#[derive(Debug)]
pub struct Names {
    runtime: Handle,
    server: Server,
}

impl Names {
    /// A server over a zone that forwards to these upstreams.
    pub fn new(
        runtime: Handle,
        zone: ZoneHandle,
        upstreams: Arc<ArcSwap<Vec<SocketAddr>>>,
    ) -> Self {
        let forwarder = Arc::new(Forwarder::new(upstreams));
        Self {
            runtime,
            server: Server::new(zone, forwarder),
        }
    }
}

impl DnsSink for Names {
    fn listen(&self, id: &ContainerId, udp: UdpSocket, tcp: TcpListener) -> io::Result<()> {
        let _guard = self.runtime.enter();
        self.server.listen(id, udp, tcp).map_err(io::Error::other)
    }

    fn close(&self, id: &ContainerId) {
        // Called on executor threads, never on the runtime's own.
        self.runtime.block_on(self.server.close(id));
    }

    fn is_listening(&self, id: &ContainerId) -> bool {
        self.server.stats(id).is_some()
    }
}

/// The path of the host's resolv.conf, which a new configuration may exchange.
pub type ConfPath = Arc<ArcSwap<PathBuf>>;

/// Such a path.
pub fn conf_path(path: &Path) -> ConfPath {
    Arc::new(ArcSwap::from_pointee(path.to_owned()))
}

/// What tells one version of a file from the next: the path, the inode, the size, and the time of the change, which is
/// compared and never reckoned with.
type Version = (PathBuf, u64, u64, Option<SystemTime>);

/// The host's resolvers, read again when their file changes.
#[derive(Debug)]
pub struct HostResolvers {
    path: ConfPath,
    seen: Option<Version>,
    upstreams: Arc<ArcSwap<Vec<SocketAddr>>>,
}

impl HostResolvers {
    /// Reads the file for the first time. A host without one has no resolvers.
    pub fn new(path: ConfPath) -> Self {
        let mut resolvers = Self {
            path,
            seen: None,
            upstreams: Arc::new(ArcSwap::from_pointee(Vec::new())),
        };
        resolvers.refresh();
        resolvers
    }

    /// Where the forwarder finds them.
    pub fn upstreams(&self) -> Arc<ArcSwap<Vec<SocketAddr>>> {
        Arc::clone(&self.upstreams)
    }

    /// Reads the file if it changed. Blocks.
    pub fn refresh(&mut self) {
        let path = PathBuf::clone(&self.path.load());
        let version = match std::fs::metadata(&path) {
            Ok(meta) => (path, meta.ino(), meta.len(), meta.modified().ok()),
            Err(_) => (path, 0, 0, None),
        };
        if self.seen.as_ref() == Some(&version) {
            return;
        }
        let text = match std::fs::read(&version.0) {
            Ok(text) => text,
            Err(error) if error.kind() == io::ErrorKind::NotFound => Vec::new(),
            // The last ones still serve, and the next look tries again.
            Err(error) => {
                tracing::warn!(path = %version.0.display(), %error, "the host's resolvers cannot be read");
                return;
            }
        };
        let servers: Vec<IpAddr> =
            netd_dns::ResolvConf::parse(&String::from_utf8_lossy(&text)).nameservers;
        tracing::info!(path = %version.0.display(), ?servers, "resolvers of the host");
        self.seen = Some(version);
        self.upstreams.store(Arc::new(
            servers
                .into_iter()
                .map(|ip| SocketAddr::new(ip, 53))
                .collect(),
        ));
    }
}
