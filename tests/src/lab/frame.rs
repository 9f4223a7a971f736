//! Frames built and read by hand.
//!
//! Owns the few packets the tests forge or look for. Anything rarer is built in the test itself
//! with `lab::etherparse`.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};

use etherparse::{
    ArpHardwareId, ArpOperation, ArpPacket, EtherType, Icmpv6Type, LinkSlice, NetSlice,
    PacketBuilder, SlicedPacket, TransportSlice,
};

/// A hardware address.
pub type Mac = [u8; 6];

/// The broadcast address.
pub const BROADCAST: Mac = [0xff; 6];

/// An ARP message as it was seen on the wire.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Arp {
    /// Source of the frame.
    pub from: Mac,
    /// Destination of the frame.
    pub to: Mac,
    /// Whether it is a request; else a reply.
    pub is_request: bool,
    /// Who says so.
    pub sender: (Mac, Ipv4Addr),
    /// About whom, or to whom.
    pub target: (Mac, Ipv4Addr),
}

impl Arp {
    /// The message as a frame.
    pub fn to_frame(&self) -> Vec<u8> {
        let operation = if self.is_request {
            ArpOperation::REQUEST
        } else {
            ArpOperation::REPLY
        };
        let arp = ArpPacket::new(
            ArpHardwareId::ETHERNET,
            EtherType::IPV4,
            operation,
            &self.sender.0,
            &self.sender.1.octets(),
            &self.target.0,
            &self.target.1.octets(),
        );
        let builder = PacketBuilder::ethernet2(self.from, self.to);
        let builder = builder.arp(arp.expect("addresses of equal length"));
        let mut frame = Vec::new();
        builder.write(&mut frame).expect("writing to memory");
        frame
    }

    /// Reads a frame; none when it is not ARP for IPv4.
    pub fn parse(frame: &[u8]) -> Option<Self> {
        let packet = SlicedPacket::from_ethernet(frame).ok()?;
        let (Some(LinkSlice::Ethernet2(link)), Some(NetSlice::Arp(arp))) =
            (packet.link, packet.net)
        else {
            return None;
        };
        let arp = arp.to_packet().try_eth_ipv4().ok()?;
        Some(Self {
            from: link.source(),
            to: link.destination(),
            is_request: arp.operation == ArpOperation::REQUEST,
            sender: (arp.sender_mac, arp.sender_ipv4_addr()),
            target: (arp.target_mac, arp.target_ipv4_addr()),
        })
    }
}

/// A UDP datagram in a frame.
pub fn udp(macs: (Mac, Mac), from: SocketAddr, to: SocketAddr, payload: &[u8]) -> Vec<u8> {
    const TTL: u8 = 64;
    let link = PacketBuilder::ethernet2(macs.0, macs.1);
    let net = match (from.ip(), to.ip()) {
        (IpAddr::V4(from), IpAddr::V4(to)) => link.ipv4(from.octets(), to.octets(), TTL),
        (IpAddr::V6(from), IpAddr::V6(to)) => link.ipv6(from.octets(), to.octets(), TTL),
        _ => panic!("{from} and {to} are of different families"),
    };
    let mut frame = Vec::new();
    net.udp(from.port(), to.port())
        .write(&mut frame, payload)
        .expect("writing to memory");
    frame
}

/// The ends and the payload of a UDP datagram over IPv4 or IPv6.
pub fn parse_udp(frame: &[u8]) -> Option<(SocketAddr, SocketAddr, &[u8])> {
    let packet = SlicedPacket::from_ethernet(frame).ok()?;
    let (from, to) = addresses(&packet)?;
    let Some(TransportSlice::Udp(udp)) = packet.transport else {
        return None;
    };
    let ends = (
        (from, udp.source_port()).into(),
        (to, udp.destination_port()).into(),
    );
    Some((ends.0, ends.1, udp.payload()))
}

/// Whether the frame is a gratuitous ARP (request or reply) that announces `ip`.
pub fn announces_v4(frame: &[u8], ip: Ipv4Addr) -> bool {
    Arp::parse(frame).is_some_and(|arp| arp.sender.1 == ip && arp.target.1 == ip)
}

/// Whether the frame is an unsolicited neighbour advertisement that announces `ip`.
pub fn announces_v6(frame: &[u8], ip: Ipv6Addr) -> bool {
    let Ok(packet) = SlicedPacket::from_ethernet(frame) else {
        return false;
    };
    let Some(TransportSlice::Icmpv6(icmp)) = packet.transport else {
        return false;
    };
    match icmp.icmp_type() {
        Icmpv6Type::NeighborAdvertisement(head) => {
            !head.solicited && icmp.payload().starts_with(&ip.octets())
        }
        _ => false,
    }
}

fn addresses(packet: &SlicedPacket<'_>) -> Option<(IpAddr, IpAddr)> {
    match packet.net.as_ref()? {
        NetSlice::Ipv4(ip) => {
            let header = ip.header();
            Some((
                header.source_addr().into(),
                header.destination_addr().into(),
            ))
        }
        NetSlice::Ipv6(ip) => {
            let header = ip.header();
            Some((
                header.source_addr().into(),
                header.destination_addr().into(),
            ))
        }
        NetSlice::Arp(_) => None,
    }
}
