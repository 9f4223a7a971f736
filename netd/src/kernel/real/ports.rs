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
use super::relay::{Relay, Relays};
use crate::kernel::KernelErrorKind;

/// `IPPROTO_SCTP`.
const SCTP: i32 = 132;

/// All that can stand in each other's way.
type Key = (Family, Proto, u16);

/// The kernel lets nobody bind an address of a port whose wildcard is held, netd included; and a published port of
/// one address may stand beside that of all. So where the wildcard is held, it holds for the others too.
#[derive(Debug)]
struct Held {
    /// None while the wildcard of the same port holds this one, and where the relay has it.
    socket: Option<Socket>,
    relay: Option<Relay>,
    port: HostPort,
}

/// What is held of one port of one family, by address.
type Group = HashMap<IpAddr, Held>;

/// The held ports. Their sockets live as long as netd does, or until the port is given back. What one costs does not
/// grow with the others: only those of the same number are looked at.
#[derive(Debug, Default)]
pub(super) struct Ports(Mutex<HashMap<Key, Group>>, Mutex<Relays>);

fn key(port: &HostPort) -> Key {
    (Family::of(port.ip), port.proto, port.port)
}

fn wildcard(port: &HostPort) -> IpAddr {
    Family::of(port.ip).unspecified()
}

impl Ports {
    fn lock(&self) -> MutexGuard<'_, HashMap<Key, Group>> {
        // Every change is one insert or remove: a panic cannot leave the map half-changed.
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Holds a port; holding it again for the same owner changes nothing.
    pub(super) fn hold(&self, port: &HostPort) -> Result<(), Refusal> {
        let mut ports = self.lock();
        let group = ports.entry(key(port)).or_default();
        let done = match &port.relay {
            None => hold_in(group, port),
            Some(to) => self.relay_in(group, port, to),
        };
        if group.is_empty() {
            ports.remove(&key(port));
        }
        done
    }

    /// Gives a port back; one that is another owner's by now stays.
    pub(super) fn release(&self, port: &HostPort) {
        let mut ports = self.lock();
        let Some(group) = ports.get_mut(&key(port)) else {
            return;
        };
        if group
            .get(&port.ip)
            .is_none_or(|own| own.port.owner != port.owner)
        {
            return;
        }
        // The socket is closed before the ports that it held too are bound.
        group.remove(&port.ip);
        if port.ip.is_unspecified() {
            bind_own_again(group);
        }
        if group.is_empty() {
            ports.remove(&key(port));
        }
    }

    /// Writes down a new owner.
    pub(super) fn hand_over(&self, port: &HostPort) -> Result<(), Refusal> {
        let mut ports = self.lock();
        let held = ports
            .get_mut(&key(port))
            .and_then(|group| group.get_mut(&port.ip));
        match held {
            Some(held) if held.port.relay == port.relay => {
                held.port = port.clone();
                return Ok(());
            }
            Some(held) => {
                let was = held.port.clone();
                drop(ports);
                self.release(&was);
            }
            None => drop(ports),
        }
        self.hold(port)
    }

    /// Listens on a port and passes on what comes. Never beside another address of the same port: a wildcard's socket
    /// would have to make room for a moment, and lose its connections.
    fn relay_in(
        &self,
        group: &mut Group,
        port: &HostPort,
        to: &netd_model::object::Relay,
    ) -> Result<(), Refusal> {
        if let Some(own) = group.get(&port.ip) {
            if own.port == *port {
                return Ok(());
            }
            return Err(held_by(&own.port));
        }
        let socket = bind(port).map_err(explain)?;
        let mut relays = self.1.lock().unwrap_or_else(PoisonError::into_inner);
        let relay = relays.start(socket, port.proto, to).map_err(explain)?;
        group.insert(
            port.ip,
            Held {
                socket: None,
                relay: Some(relay),
                port: port.clone(),
            },
        );
        Ok(())
    }

    /// What is held.
    pub(super) fn all(&self) -> Vec<HostPort> {
        let ports = self.lock();
        let held = |group: &Group| -> Vec<HostPort> {
            let held = group.values().filter(|own| is_held(group, own));
            held.map(|own| own.port.clone()).collect()
        };
        ports.values().flat_map(held).collect()
    }
}

fn held_by(port: &HostPort) -> Refusal {
    Refusal::from(Errno::EADDRINUSE)
        .of_kind(KernelErrorKind::PortInUse)
        .because(format!("netd holds it for {}", port.owner))
}

fn hold_in(group: &mut Group, port: &HostPort) -> Result<(), Refusal> {
    if let Some(own) = group.get(&port.ip) {
        if own.port.owner != port.owner {
            return Err(held_by(&own.port));
        }
        if is_held(group, own) {
            return Ok(());
        }
    }
    let socket = if port.ip.is_unspecified() {
        bind_over_own(port, group).map(Some)
    } else if group.contains_key(&wildcard(port)) {
        UdpSocket::bind(SocketAddr::new(port.ip, 0)).map(|_| None)
    } else {
        bind(port).map(Some)
    };
    let socket = socket.map_err(explain)?;
    group.insert(
        port.ip,
        Held {
            socket,
            relay: None,
            port: port.clone(),
        },
    );
    Ok(())
}

fn is_held(group: &Group, own: &Held) -> bool {
    own.socket.is_some() || own.relay.is_some() || group.contains_key(&wildcard(&own.port))
}

/// The ports of single addresses, which a wildcard covers.
fn covered(group: &mut Group) -> impl Iterator<Item = &mut Held> {
    group
        .values_mut()
        .filter(|own| !own.port.ip.is_unspecified() && own.relay.is_none())
}

/// Binds a wildcard; own sockets make room for a moment, another program's do not.
fn bind_over_own(port: &HostPort, group: &mut Group) -> io::Result<Socket> {
    covered(group).for_each(|own| own.socket = None);
    let socket = bind(port);
    if socket.is_err() {
        bind_own_again(group);
    }
    socket
}

fn bind_own_again(group: &mut Group) {
    for own in covered(group) {
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
        Proto::Sctp => Socket::new(domain, Type::STREAM, Some(Protocol::from(SCTP)))?,
    };
    let socket = keep(socket)?;
    if port.ip.is_ipv6() {
        // `[::]` would take the port in IPv4 too.
        socket.set_only_v6(true)?;
    }
    if port.proto == Proto::Udp && port.relay.is_none() {
        // `ret 0`: drops what comes while no element leads it away; the buffer would fill up.
        socket.attach_filter(&[SockFilter::new(0x06, 0, 0, 0)])?;
    }
    // TCP and SCTP: without the flag the bind fails over connections in TIME_WAIT. Left set, another program that sets it too
    // could bind the same port and listen. It never listens, so that a client is refused at once when no element
    // leads it to a container.
    socket.set_reuse_address(port.proto != Proto::Udp)?;
    socket.bind(&SocketAddr::new(port.ip, port.port).into())?;
    // A relay listens, which says no to others by itself; without the flag it could not, beside old connections.
    if port.relay.is_none() {
        socket.set_reuse_address(false)?;
    }
    Ok(socket)
}
