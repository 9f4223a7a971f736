//! Host ports held by bound sockets, so that no other program takes a published port (kernel-bridge.md section 7).

use std::collections::HashMap;
use std::io;
use std::net::{IpAddr, SocketAddr};
use std::sync::{Mutex, MutexGuard, PoisonError};

use netd_model::net::{Family, Proto};
use netd_model::object::HostPort;
use nix::errno::Errno;
use socket2::{Domain, Protocol, SockFilter, Socket, Type};

use super::netlink::Refusal;
use crate::kernel::KernelErrorKind;

type Key = (IpAddr, Proto, u16);

#[derive(Debug)]
struct Held {
    socket: Socket,
    port: HostPort,
}

/// The held ports. Their sockets live as long as netd does, or until the port is given back.
#[derive(Debug, Default)]
pub(super) struct Ports(Mutex<HashMap<Key, Held>>);

fn key(port: &HostPort) -> Key {
    (port.ip, port.proto, port.port)
}

impl Ports {
    fn lock(&self) -> MutexGuard<'_, HashMap<Key, Held>> {
        // Every change is one insert or remove: a panic cannot leave the map half-changed.
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Holds a port; holding it again for the same owner changes nothing.
    pub(super) fn hold(&self, port: &HostPort) -> Result<(), Refusal> {
        let mut held = self.lock();
        if let Some(own) = held.get(&key(port)) {
            if own.port.owner == port.owner {
                return Ok(());
            }
            return Err(Refusal::from(Errno::EADDRINUSE)
                .of_kind(KernelErrorKind::PortInUse)
                .because(format!("netd holds it for {}", own.port.owner)));
        }
        let socket = match bind(port, false) {
            Err(error) if error.raw_os_error() == Some(Errno::EADDRINUSE as i32) => {
                beside_own(port, &held)
            }
            other => other,
        };
        let socket = socket.map_err(explain)?;
        held.insert(
            key(port),
            Held {
                socket,
                port: port.clone(),
            },
        );
        Ok(())
    }

    /// Gives a port back.
    pub(super) fn release(&self, port: &HostPort) {
        let _held = self.lock().remove(&key(port));
    }

    /// Writes down a new owner.
    pub(super) fn hand_over(&self, port: &HostPort) -> Result<(), Refusal> {
        if let Some(held) = self.lock().get_mut(&key(port)) {
            held.port = port.clone();
            return Ok(());
        }
        self.hold(port)
    }

    /// What is held.
    pub(super) fn all(&self) -> Vec<HostPort> {
        self.lock().values().map(|held| held.port.clone()).collect()
    }
}

fn explain(error: io::Error) -> Refusal {
    let refusal = Refusal::from(error);
    match refusal.errno() {
        Errno::EADDRINUSE => refusal
            .of_kind(KernelErrorKind::PortInUse)
            .because("another program on this host uses the port"),
        Errno::EADDRNOTAVAIL => refusal
            .of_kind(KernelErrorKind::AddressNotHere)
            .because("the address is not on this host"),
        Errno::EAFNOSUPPORT => refusal
            .of_kind(KernelErrorKind::Ipv6Off)
            .because("this host has no IPv6"),
        _ => refusal,
    }
}

/// Binds a socket; `shared` beside sockets of ours that allow it.
fn bind(port: &HostPort, shared: bool) -> io::Result<Socket> {
    let domain = if port.ip.is_ipv4() {
        Domain::IPV4
    } else {
        Domain::IPV6
    };
    let socket = match port.proto {
        Proto::Tcp => Socket::new(domain, Type::STREAM, Some(Protocol::TCP))?,
        Proto::Udp => Socket::new(domain, Type::DGRAM, Some(Protocol::UDP))?,
    };
    if port.ip.is_ipv6() {
        // `[::]` would take the port in IPv4 too.
        socket.set_only_v6(true)?;
    }
    if port.proto == Proto::Udp {
        // `ret 0`: drops what comes while no element leads it away; the buffer would fill up.
        socket.attach_filter(&[SockFilter::new(0x06, 0, 0, 0)])?;
    }
    // TCP: without the flag the bind fails over connections in TIME_WAIT. Left set, another program that sets it too
    // could bind the same port and listen. It never listens, so that a client is refused at once when no element
    // leads it to a container.
    socket.set_reuse_address(shared || port.proto == Proto::Tcp)?;
    socket.bind(&SocketAddr::new(port.ip, port.port).into())?;
    socket.set_reuse_address(false)?;
    Ok(socket)
}

/// A port published on one address and, for another container, on all: the kernel takes both sockets of ours for a
/// conflict, unless both allow it at the time of the bind.
fn beside_own(port: &HostPort, held: &HashMap<Key, Held>) -> io::Result<Socket> {
    let overlaps = |own: &&Held| {
        own.port.proto == port.proto
            && own.port.port == port.port
            && Family::of(own.port.ip) == Family::of(port.ip)
            && (own.port.ip.is_unspecified() || port.ip.is_unspecified())
    };
    let own: Vec<&Held> = held.values().filter(overlaps).collect();
    if own.is_empty() {
        return Err(Errno::EADDRINUSE.into());
    }
    own.iter()
        .try_for_each(|held| held.socket.set_reuse_address(true))?;
    let socket = bind(port, true);
    own.iter()
        .try_for_each(|held| held.socket.set_reuse_address(false))?;
    socket
}
