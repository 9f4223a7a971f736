//! Owns where the sockets for upstreams are opened: in the daemon's namespace, or inside the container that asks.
//!
//! IO. Entering a namespace is the work of whoever implements [`Inside`].

use std::fmt;
use std::io;
use std::net::{Ipv4Addr, Ipv6Addr, SocketAddr};
use std::os::fd::OwnedFd;
use std::sync::{Arc, OnceLock};

use tokio::net::{TcpSocket, TcpStream, UdpSocket};

use crate::resolv::Upstream;

/// What a socket carries.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Carries {
    /// Datagrams: UDP.
    Datagrams,
    /// A stream: TCP.
    Stream,
}

/// Opens sockets inside containers, for the queries that leave from there.
pub trait Inside: fmt::Debug + Send + Sync {
    /// A new socket in the namespace of the container with this id, neither bound nor connected. Blocks, shortly. An error
    /// is a container that is not there, or what the kernel said.
    fn socket(&self, container: &str, carries: Carries, v6: bool) -> io::Result<OwnedFd>;
}

/// The ways to upstreams. Cloning shares.
#[derive(Clone, Debug, Default)]
pub(crate) struct Reach(Arc<OnceLock<Arc<dyn Inside>>>);

impl Reach {
    /// Lets queries leave from inside containers. The first one given stays.
    pub(crate) fn set_inside(&self, inside: Arc<dyn Inside>) {
        let _ = self.0.set(inside);
    }

    /// A socket of its own that is connected: the kernel drops what others send and reports ICMP errors.
    pub(crate) async fn udp(&self, upstream: &Upstream) -> io::Result<UdpSocket> {
        let socket = match &upstream.from {
            None => UdpSocket::bind(any(upstream.address)).await?,
            Some(container) => {
                let socket = self.inside(container, Carries::Datagrams, upstream.address);
                let socket = std::net::UdpSocket::from(socket.await?);
                socket.set_nonblocking(true)?;
                UdpSocket::from_std(socket)?
            }
        };
        socket.connect(upstream.address).await?;
        Ok(socket)
    }

    /// A new connection.
    pub(crate) async fn tcp(&self, upstream: &Upstream) -> io::Result<TcpStream> {
        let Some(container) = &upstream.from else {
            return TcpStream::connect(upstream.address).await;
        };
        let socket = self.inside(container, Carries::Stream, upstream.address);
        let socket = std::net::TcpStream::from(socket.await?);
        socket.set_nonblocking(true)?;
        let socket = TcpSocket::from_std_stream(socket);
        socket.connect(upstream.address).await
    }

    async fn inside(
        &self,
        container: &Arc<str>,
        carries: Carries,
        to: SocketAddr,
    ) -> io::Result<OwnedFd> {
        let Some(inside) = self.0.get().cloned() else {
            return Err(io::ErrorKind::Unsupported.into());
        };
        let container = Arc::clone(container);
        // The thread enters a namespace for it, which none of the runtime's own should.
        let opened =
            tokio::task::spawn_blocking(move || inside.socket(&container, carries, to.is_ipv6()));
        opened.await.map_err(io::Error::other)?
    }
}

fn any(like: SocketAddr) -> SocketAddr {
    match like {
        SocketAddr::V4(_) => (Ipv4Addr::UNSPECIFIED, 0).into(),
        SocketAddr::V6(_) => (Ipv6Addr::UNSPECIFIED, 0).into(),
    }
}
