//! Telling the neighbours who has an address now.

use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::time::{Duration, Instant};

use etherparse::icmpv6::NeighborAdvertisementHeader;
use etherparse::{ArpEthIpv4Packet, ArpOperation, Icmpv6Type, PacketBuilder};
use netd_model::Mac;
use nix::libc;
use socket2::{Domain, SockAddr, SockAddrStorage, Socket, Type};

use super::link::{self, LinkView};
use super::netlink::Refusal;
use super::space::Space;
use netd_model::IfName;

/// All nodes on the link (RFC 4291), and the Ethernet group it maps to (RFC 2464).
const ALL_NODES: Ipv6Addr = Ipv6Addr::new(0xff02, 0, 0, 0, 0, 0, 0, 1);
const ALL_NODES_MAC: [u8; 6] = [0x33, 0x33, 0, 0, 0, 1];
const BROADCAST: [u8; 6] = [0xff; 6];
/// Target link-layer address, one unit of 8 bytes long (RFC 4861, section 4.6.1).
const TLLA: [u8; 2] = [2, 1];
/// ND messages with another hop limit came from beyond the link and are ignored (RFC 4861, section 7.1).
const HOP_LIMIT: u8 = 255;

/// How long to wait for the bridge to pass the port's frames.
const PATIENCE: Duration = Duration::from_millis(50);
const PAUSE: Duration = Duration::from_micros(100);

/// What is said, and the socket of the container's namespace that says it.
///
/// Saying it floods the bridge, in the time of who sends, and closing a packet socket waits for RCU: neither belongs
/// into an attach, so a thread of its own does both.
#[derive(Debug)]
pub(super) struct Announcement {
    socket: Socket,
    to: SockAddr,
    frames: Vec<Vec<u8>>,
}

impl Announcement {
    /// Sends each frame once and closes the socket. Neighbours that miss it ask: a failure is worth a line, no more.
    pub(super) fn make(self) {
        for frame in &self.frames {
            if let Err(error) = self.socket.send_to(frame, &self.to) {
                tracing::debug!(%error, "an address could not be announced");
            }
        }
    }
}

/// Prepares an announcement of each address. Works inside the container's namespace.
pub(super) fn announce(
    host: &mut Space,
    inside: &mut Space,
    ifname: &IfName,
    mac: Mac,
    ips: &[IpAddr],
) -> Result<Announcement, Refusal> {
    let index = inside.index(ifname)?;
    wait_for_port(host, inside, index)?;
    let socket = Socket::new_raw(Domain::PACKET, Type::RAW, None)?;
    let frame = |ip: &IpAddr| match ip {
        IpAddr::V4(v4) => arp(mac, *v4),
        IpAddr::V6(v6) => advertisement(mac, *v6),
    };
    let frames = ips.iter().map(frame).collect::<io::Result<_>>()?;
    Ok(Announcement {
        socket,
        to: on_link(index)?,
        frames,
    })
}

/// A port may pass frames only some time after both ends are up: where the kernel has noted it as down in between, it
/// tells the bridge from a work queue (net/core/link_watch.c). What is sent before is lost.
fn wait_for_port(host: &mut Space, inside: &mut Space, index: u32) -> Result<(), Refusal> {
    let start = Instant::now();
    let peer =
        LinkView::read(&inside.route.call(&link::by_index(index))?).and_then(|view| view.peer);
    let Some(peer) = peer else { return Ok(()) };
    while start.elapsed() < PATIENCE {
        match LinkView::read(&host.route.call(&link::by_index(peer))?) {
            Some(port) if port.hairpin.is_some() && !port.forwarding => std::thread::sleep(PAUSE),
            _ => break,
        }
    }
    Ok(())
}

/// An ARP announcement: a request whose sender and target are the same (RFC 5227, section 2.3).
fn arp(mac: Mac, ip: Ipv4Addr) -> io::Result<Vec<u8>> {
    let packet = ArpEthIpv4Packet {
        operation: ArpOperation::REQUEST,
        sender_mac: mac.bytes(),
        sender_ipv4: ip.octets(),
        target_mac: [0; 6],
        target_ipv4: ip.octets(),
    };
    let mut frame = Vec::new();
    PacketBuilder::ethernet2(mac.bytes(), BROADCAST)
        .arp(packet.into())
        .write(&mut frame)
        .map_err(io::Error::other)?;
    Ok(frame)
}

/// An unsolicited neighbour advertisement that overrides what neighbours know (RFC 4861, section 7.2.6).
fn advertisement(mac: Mac, ip: Ipv6Addr) -> io::Result<Vec<u8>> {
    let header = NeighborAdvertisementHeader {
        router: false,
        solicited: false,
        r#override: true,
    };
    let payload = [&ip.octets()[..], &TLLA, &mac.bytes()].concat();
    let mut frame = Vec::new();
    PacketBuilder::ethernet2(mac.bytes(), ALL_NODES_MAC)
        .ipv6(ip.octets(), ALL_NODES.octets(), HOP_LIMIT)
        .icmpv6(Icmpv6Type::NeighborAdvertisement(header))
        .write(&mut frame, &payload)
        .map_err(io::Error::other)?;
    Ok(frame)
}

/// The address "out of this interface"; a raw packet socket takes all else from the frame.
pub(super) fn on_link(index: u32) -> io::Result<SockAddr> {
    let mut storage = SockAddrStorage::zeroed();
    #[expect(
        unsafe_code,
        reason = "no crate of the workspace makes a packet socket's address"
    )]
    // SAFETY: `sockaddr_ll` is one of the platform's `sockaddr_*` types, for which zeroes are valid.
    let address = unsafe { storage.view_as::<libc::sockaddr_ll>() };
    address.sll_family = libc::sa_family_t::try_from(libc::AF_PACKET).map_err(io::Error::other)?;
    address.sll_ifindex = i32::try_from(index).map_err(io::Error::other)?;
    let len =
        libc::socklen_t::try_from(size_of::<libc::sockaddr_ll>()).map_err(io::Error::other)?;
    #[expect(unsafe_code, reason = "as above")]
    // SAFETY: the storage holds a `sockaddr_ll` of this length with its family set.
    Ok(unsafe { SockAddr::new(storage, len) })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn announcements_are_those_of_the_rfcs() {
        let mac: Mac = "02:6e:ac:10:00:02".parse().unwrap();
        let frame = arp(mac, Ipv4Addr::new(172, 16, 0, 2)).unwrap();
        let hex = netd_model::id::hex(&frame);
        assert_eq!(
            hex,
            "ffffffffffff026eac1000020806\
             0001080006040001026eac100002ac100002000000000000ac100002"
        );
        let frame = advertisement(mac, "fd00::2".parse().unwrap()).unwrap();
        assert_eq!(frame.len(), 14 + 40 + 8 + 16 + 8);
        assert_eq!(&frame[..6], ALL_NODES_MAC);
        assert_eq!(&frame[54..56], [136, 0]);
        assert_eq!(frame[58], 0x20);
        assert_eq!(&frame[78..80], TLLA);
    }
}
