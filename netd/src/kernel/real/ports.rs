//! Host ports held by bound sockets, so that no other program takes a published port (kernel-bridge.md section 7).

use std::collections::HashMap;
use std::io;
use std::net::{IpAddr, SocketAddr, UdpSocket};
use std::sync::{Mutex, MutexGuard, PoisonError};

use netd_model::net::{Family, Proto};
use netd_model::object::HostPort;
use nix::errno::Errno;
use socket2::{Domain, Protocol, SockFilter, Socket, Type};

use super::descriptors::keep;
use super::netlink::Refusal;
use crate::kernel::KernelErrorKind;

type Key = (IpAddr, Proto, u16);

/// The kernel lets nobody bind an address of a port whose wildcard is held, netd included; and a published port of
/// one address may stand beside that of all. So where the wildcard is held, it holds for the others too.
#[derive(Debug)]
struct Held {
    /// None while the wildcard of the same port holds this one.
    socket: Option<Socket>,
    port: HostPort,
}

/// The held ports. Their sockets live as long as netd does, or until the port is given back.
#[derive(Debug, Default)]
pub(super) struct Ports(Mutex<HashMap<Key, Held>>);

fn key(port: &HostPort) -> Key {
    (port.ip, port.proto, port.port)
}

/// The wildcard of a port.
fn wildcard(port: &HostPort) -> Key {
    (Family::of(port.ip).unspecified(), port.proto, port.port)
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
            if own.port.owner != port.owner {
                return Err(Refusal::from(Errno::EADDRINUSE)
                    .of_kind(KernelErrorKind::PortInUse)
                    .because(format!("netd holds it for {}", own.port.owner)));
            }
            if is_held(&held, own) {
                return Ok(());
            }
        }
        let socket = if port.ip.is_unspecified() {
            bind_over_own(port, &mut held).map(Some)
        } else if held.contains_key(&wildcard(port)) {
            UdpSocket::bind(SocketAddr::new(port.ip, 0)).map(|_| None)
        } else {
            bind(port).map(Some)
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

    /// Gives a port back; one that is another owner's by now stays.
    pub(super) fn release(&self, port: &HostPort) {
        let mut held = self.lock();
        if held
            .get(&key(port))
            .is_none_or(|own| own.port.owner != port.owner)
        {
            return;
        }
        // The socket is closed before the ports that it held too are bound.
        held.remove(&key(port));
        if port.ip.is_unspecified() {
            bind_own_again(port, &mut held);
        }
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
        let held = self.lock();
        held.values()
            .filter(|own| is_held(&held, own))
            .map(|own| own.port.clone())
            .collect()
    }
}

fn is_held(held: &HashMap<Key, Held>, own: &Held) -> bool {
    own.socket.is_some() || held.contains_key(&wildcard(&own.port))
}

/// The ports of single addresses that a wildcard covers.
fn covered<'a>(
    port: &'a HostPort,
    held: &'a mut HashMap<Key, Held>,
) -> impl Iterator<Item = &'a mut Held> {
    held.values_mut()
        .filter(move |own| !own.port.ip.is_unspecified() && wildcard(&own.port) == wildcard(port))
}

/// Binds a wildcard; own sockets make room for a moment, another program's do not.
fn bind_over_own(port: &HostPort, held: &mut HashMap<Key, Held>) -> io::Result<Socket> {
    covered(port, held).for_each(|own| own.socket = None);
    let socket = bind(port);
    if socket.is_err() {
        bind_own_again(port, held);
    }
    socket
}

fn bind_own_again(port: &HostPort, held: &mut HashMap<Key, Held>) {
    for own in covered(port, held) {
        match bind(&own.port) {
            Ok(socket) => own.socket = Some(socket),
            // From now on it is missing when observed, so that netd tries again.
            Err(error) => {
                tracing::warn!(port = ?own.port, %error, "a published port is no longer held");
            }
        }
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

fn bind(port: &HostPort) -> io::Result<Socket> {
    let domain = if port.ip.is_ipv4() {
        Domain::IPV4
    } else {
        Domain::IPV6
    };
    let socket = match port.proto {
        Proto::Tcp => Socket::new(domain, Type::STREAM, Some(Protocol::TCP))?,
        Proto::Udp => Socket::new(domain, Type::DGRAM, Some(Protocol::UDP))?,
    };
    let socket = keep(socket)?;
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
    socket.set_reuse_address(port.proto == Proto::Tcp)?;
    socket.bind(&SocketAddr::new(port.ip, port.port).into())?;
    socket.set_reuse_address(false)?;
    Ok(socket)
}
