//! Joins the DNS server to the kernel seam: sockets come from executor threads, are served by the runtime.

use std::io;
use std::net::{IpAddr, SocketAddr, TcpListener, UdpSocket};
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

/// The host's resolvers, read again when their file changes.
#[derive(Debug)]
pub struct HostResolvers {
    path: PathBuf,
    seen: Option<SystemTime>,
    upstreams: Arc<ArcSwap<Vec<SocketAddr>>>,
}

impl HostResolvers {
    /// Reads the file for the first time. A host without one has no resolvers.
    pub fn new(path: &Path) -> Self {
        let mut resolvers = Self {
            path: path.to_owned(),
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
        let modified = std::fs::metadata(&self.path)
            .and_then(|meta| meta.modified())
            .ok();
        if modified.is_some() && modified == self.seen {
            return;
        }
        self.seen = modified;
        let text = std::fs::read(&self.path).unwrap_or_default();
        let servers: Vec<IpAddr> =
            netd_dns::ResolvConf::parse(&String::from_utf8_lossy(&text)).nameservers;
        tracing::info!(path = %self.path.display(), ?servers, "resolvers of the host");
        self.upstreams.store(Arc::new(
            servers
                .into_iter()
                .map(|ip| SocketAddr::new(ip, 53))
                .collect(),
        ));
    }
}
