//! Joins the DNS server to the kernel seam: sockets come from executor threads, are served by the runtime.

pub mod gateway;
mod metrics;
mod resolvers;

use std::io;
use std::net::{TcpListener, UdpSocket};
use std::os::fd::OwnedFd;

use netd_dns::{Carries, Forwarder, Inside, Server, ZoneHandle};
use netd_model::ContainerId;
use tokio::runtime::Handle;

pub use resolvers::{ConfPath, HostResolvers, conf_path, follow};

use crate::kernel::{DnsSink, Kernel};

/// The DNS of all containers.
#[derive(Debug)]
pub struct Names {
    runtime: Handle,
    server: Server,
}

impl Names {
    /// A server over a zone, which asks what it does not know from this forwarder.
    pub fn new(runtime: Handle, zone: ZoneHandle, forwarder: Forwarder) -> Self {
        Self {
            runtime,
            server: Server::new(zone, forwarder),
        }
    }

    /// The server itself. What it does is done on its own runtime.
    pub fn server(&self) -> &Server {
        &self.server
    }

    /// Asks as a container would, on the server's runtime, and says where the answer comes from.
    pub async fn explain(
        self: std::sync::Arc<Self>,
        asker: String,
        name: String,
        kind: String,
    ) -> Option<Result<netd_dns::Explanation, String>> {
        let runtime = self.runtime.clone();
        let explained =
            runtime.spawn(async move { self.server.explain(&asker, &name, &kind).await });
        explained.await.ok().flatten()
    }

    /// Serves sockets at the gateway addresses of a network.
    pub(crate) fn open_gateway(
        &self,
        network: &str,
        sockets: Vec<(UdpSocket, TcpListener)>,
    ) -> io::Result<()> {
        let _guard = self.runtime.enter();
        let opened = self.server.listen_at_gateway(network, sockets);
        opened.map_err(io::Error::other)
    }

    /// Closes them.
    pub(crate) async fn close_gateway(&self, network: &str) {
        self.server.close_gateway(network).await;
    }
}

/// Sockets inside containers, by way of the kernel seam.
#[derive(Debug)]
pub struct Ways(pub std::sync::Arc<dyn Kernel>);

impl Inside for Ways {
    fn socket(&self, container: &str, carries: Carries, v6: bool) -> io::Result<OwnedFd> {
        let id = ContainerId::parse(container).map_err(io::Error::other)?;
        let datagrams = carries == Carries::Datagrams;
        let opened = self.0.socket_inside(&id, datagrams, v6);
        opened.map_err(io::Error::other)
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
