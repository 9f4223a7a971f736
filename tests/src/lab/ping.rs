//! Ping.
//!
//! Owns an ICMP echo over a raw socket: a ping socket would need a sysctl changed in the
//! namespace under test.

use std::io::{self, ErrorKind, Read};
use std::net::{IpAddr, SocketAddr};
use std::time::{Duration, Instant};

use etherparse::{IcmpEchoHeader, Icmpv4Header, Icmpv4Type};
use socket2::{Domain, Protocol, Socket, Type};

use super::Netns;

const PAYLOAD: &[u8] = b"netd";
const ECHO_REPLY_V4: u8 = 0;
const ECHO_REQUEST_V6: u8 = 128;
const ECHO_REPLY_V6: u8 = 129;

/// How long an echo may be under way before it is sent again.
const RESEND: Duration = Duration::from_millis(250);

impl Netns {
    /// Whether `to` answers an ICMP echo within `timeout`; asks a few times.
    pub fn ping(&self, to: IpAddr, timeout: Duration) -> bool {
        let answered = self.run(|| ping(to, timeout));
        answered.unwrap_or_else(|error| match error.kind() {
            ErrorKind::PermissionDenied
            | ErrorKind::NetworkUnreachable
            | ErrorKind::HostUnreachable => false,
            _ => panic!("ping {to} in {}: {error}", self.name()),
        })
    }
}

fn ping(to: IpAddr, timeout: Duration) -> io::Result<bool> {
    let (domain, protocol) = match to {
        IpAddr::V4(_) => (Domain::IPV4, Protocol::ICMPV4),
        IpAddr::V6(_) => (Domain::IPV6, Protocol::ICMPV6),
    };
    let mut socket = Socket::new(domain, Type::RAW, Some(protocol))?;
    // Connected, the socket receives nothing but what this address sends.
    socket.connect(&SocketAddr::new(to, 0).into())?;
    let id = identifier(&socket);
    let end = Instant::now() + timeout;
    while Instant::now() < end {
        match socket.send(&request(to, id)) {
            // The machine is too busy to resolve all neighbours at once: it is sent again.
            Err(error) if error.raw_os_error() == Some(nix::libc::ENOBUFS) => {}
            sent => drop(sent?),
        }
        let round = end.min(Instant::now() + RESEND);
        if reply_before(&mut socket, round, to, id)? {
            return Ok(true);
        }
    }
    Ok(false)
}

fn reply_before(socket: &mut Socket, end: Instant, to: IpAddr, id: u16) -> io::Result<bool> {
    let mut buffer = [0; 2048];
    while let Some(left) = end.checked_duration_since(Instant::now()) {
        socket.set_read_timeout(Some(left.max(Duration::from_millis(1))))?;
        match socket.read(&mut buffer) {
            Ok(length) if is_reply(&buffer[..length], to, id) => return Ok(true),
            Ok(_) => {}
            Err(error) if error.kind() == ErrorKind::WouldBlock => {}
            Err(error) => return Err(error),
        }
    }
    Ok(false)
}

/// Pings of one binary run beside each other: a number of their own keeps them apart.
fn identifier(socket: &Socket) -> u16 {
    use std::os::fd::AsRawFd;
    u16::try_from(socket.as_raw_fd() & 0xffff).unwrap_or_default()
}

fn request(to: IpAddr, id: u16) -> Vec<u8> {
    let echo = IcmpEchoHeader { id, seq: 1 };
    if to.is_ipv4() {
        let header = Icmpv4Header::with_checksum(Icmpv4Type::EchoRequest(echo), PAYLOAD);
        return [&header.to_bytes()[..], PAYLOAD].concat();
    }
    // The kernel fills in the checksum of ICMPv6.
    [&[ECHO_REQUEST_V6, 0, 0, 0], &echo.to_bytes()[..], PAYLOAD].concat()
}

/// A raw IPv4 socket delivers the IP header too, an IPv6 one does not.
fn is_reply(packet: &[u8], from: IpAddr, id: u16) -> bool {
    let (icmp, kind) = match from {
        IpAddr::V4(_) => {
            let head = packet
                .first()
                .map_or(0, |first| usize::from(first & 0xf) * 4);
            (packet.get(head..).unwrap_or_default(), ECHO_REPLY_V4)
        }
        IpAddr::V6(_) => (packet, ECHO_REPLY_V6),
    };
    icmp.first() == Some(&kind) && icmp.get(4..6) == Some(&id.to_be_bytes()[..])
}
