//! The frames: what a container may send, and what it may not.
//!
//! Each carries a mark, by which it is known where it arrives.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use netd_tests::lab::etherparse::PacketBuilder;
use netd_tests::lab::frame::{self, Arp, BROADCAST, Mac};

/// Somebody on a network.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Station {
    pub(crate) mac: Mac,
    pub(crate) v4: Ipv4Addr,
    pub(crate) v6: Ipv6Addr,
}

impl Station {
    fn link_local(&self) -> Ipv6Addr {
        let [a, b, c, d, e, f] = self.mac;
        let word = |high: u8, low: u8| u16::from_be_bytes([high, low]);
        Ipv6Addr::new(
            0xfe80,
            0,
            0,
            0,
            word(a ^ 2, b),
            word(c, 0xff),
            word(0xfe, d),
            word(e, f),
        )
    }
}

/// Those the frames speak of: who sends, to whom, who is impersonated, and whom all trust.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Cast {
    pub(crate) sender: Station,
    pub(crate) victim: Station,
    pub(crate) other: Station,
    pub(crate) gateway: Station,
    /// Addresses that the sender is allowed beside its own.
    pub(crate) allowed: (Ipv4Addr, Ipv6Addr),
}

/// A frame, and whether an honest container could send it.
#[derive(Debug)]
pub(crate) struct Sample {
    pub(crate) name: &'static str,
    pub(crate) honest: bool,
    pub(crate) frame: Vec<u8>,
}

/// What a frame is known by.
pub(crate) fn mark(number: usize) -> [u8; 6] {
    [
        b'm',
        b'a',
        b'r',
        b'k',
        b'0' + (number / 10) as u8,
        b'0' + (number % 10) as u8,
    ]
}

/// The hardware address of nobody.
const NOBODY: Mac = [0x02, 0x99, 0, 0, 0, 0x99];
const ALL_NODES: Ipv6Addr = Ipv6Addr::new(0xff02, 0, 0, 0, 0, 0, 0, 1);
const ALL_NODES_MAC: Mac = [0x33, 0x33, 0, 0, 0, 1];

const ROUTER_ADVERTISEMENT: u8 = 134;
const SOLICITATION: u8 = 135;
const ADVERTISEMENT: u8 = 136;
const REDIRECT: u8 = 137;
const LISTENER_REPORT: u8 = 143;

type Builder<'a> = Box<dyn Fn(&[u8; 6]) -> Vec<u8> + 'a>;

/// All frames over IPv4, ARP and other protocols.
#[expect(clippy::too_many_lines, reason = "one list")]
pub(crate) fn of_ipv4(cast: &Cast) -> Vec<Sample> {
    let Cast {
        sender,
        victim,
        other,
        gateway,
        allowed,
    } = *cast;
    let udp = move |from: Mac, source: Ipv4Addr| -> Builder<'_> {
        Box::new(move |mark| datagram((from, victim.mac), source.into(), victim.v4.into(), mark))
    };
    let arp = move |from: Mac, is_request: bool, who: (Mac, Ipv4Addr)| -> Builder<'_> {
        Box::new(move |mark| {
            let message = Arp {
                from,
                to: BROADCAST,
                is_request,
                sender: who,
                target: (victim.mac, victim.v4),
            };
            [message.to_frame(), mark.to_vec()].concat()
        })
    };
    let tagged = move |source: Ipv4Addr| -> Builder<'_> {
        Box::new(move |mark| {
            let ends = (sender.mac, victim.mac);
            let plain = datagram(ends, source.into(), victim.v4.into(), mark);
            [&plain[..12], &[0x81, 0, 0, 0], &plain[12..]].concat()
        })
    };
    let unknown: Builder<'_> = Box::new(move |mark| {
        [&victim.mac[..], &sender.mac, &[0x88, 0xb5], &[0; 46], mark].concat()
    });
    let unset = Ipv4Addr::UNSPECIFIED;
    samples(
        0,
        vec![
            ("own address", true, udp(sender.mac, sender.v4)),
            ("an allowed address", true, udp(sender.mac, allowed.0)),
            ("a neighbour's address", false, udp(sender.mac, other.v4)),
            ("the gateway's address", false, udp(sender.mac, gateway.v4)),
            (
                "an address from outside",
                false,
                udp(sender.mac, Ipv4Addr::new(198, 51, 100, 7)),
            ),
            ("no address, as DHCP", false, udp(sender.mac, unset)),
            (
                "own address from a foreign MAC",
                false,
                udp(NOBODY, sender.v4),
            ),
            (
                "an allowed address from a foreign MAC",
                false,
                udp(NOBODY, allowed.0),
            ),
            (
                "a neighbour's address and MAC",
                false,
                udp(other.mac, other.v4),
            ),
            (
                "ARP: own address",
                true,
                arp(sender.mac, true, (sender.mac, sender.v4)),
            ),
            (
                "ARP: own reply",
                true,
                arp(sender.mac, false, (sender.mac, sender.v4)),
            ),
            (
                "ARP: probe",
                true,
                arp(sender.mac, true, (sender.mac, unset)),
            ),
            (
                "ARP: an allowed address",
                true,
                arp(sender.mac, false, (sender.mac, allowed.0)),
            ),
            (
                "ARP: the gateway is here",
                false,
                arp(sender.mac, false, (sender.mac, gateway.v4)),
            ),
            (
                "ARP: asks as the gateway",
                false,
                arp(sender.mac, true, (sender.mac, gateway.v4)),
            ),
            (
                "ARP: a neighbour is here",
                false,
                arp(sender.mac, false, (sender.mac, other.v4)),
            ),
            (
                "ARP: a neighbour is nowhere",
                false,
                arp(sender.mac, false, (NOBODY, other.v4)),
            ),
            (
                "ARP: own address is elsewhere",
                false,
                arp(sender.mac, false, (NOBODY, sender.v4)),
            ),
            (
                "ARP: an allowed address is elsewhere",
                false,
                arp(sender.mac, false, (NOBODY, allowed.0)),
            ),
            (
                "ARP: probe from a foreign MAC",
                false,
                arp(NOBODY, true, (NOBODY, unset)),
            ),
            (
                "ARP: a probe that is a reply",
                false,
                arp(sender.mac, false, (sender.mac, unset)),
            ),
            ("own address behind a VLAN tag", false, tagged(sender.v4)),
            (
                "a neighbour's address behind a VLAN tag",
                false,
                tagged(other.v4),
            ),
            ("another protocol", false, unknown),
        ],
    )
}

/// All frames over IPv6.
#[expect(clippy::too_many_lines, reason = "one list")]
pub(crate) fn of_ipv6(cast: &Cast) -> Vec<Sample> {
    let Cast {
        sender,
        victim,
        other,
        gateway,
        allowed,
    } = *cast;
    let (own, local) = (sender.v6, sender.link_local());
    let udp = move |from: Mac, source: Ipv6Addr| -> Builder<'_> {
        Box::new(move |mark| datagram((from, victim.mac), source.into(), victim.v6.into(), mark))
    };
    let icmp = move |from: Mac, source: Ipv6Addr, kind: u8, target: Ipv6Addr| -> Builder<'_> {
        Box::new(move |mark| icmpv6(from, source, kind, target, *mark))
    };
    let hidden = move |kind: u8, target: Ipv6Addr| -> Builder<'_> {
        Box::new(move |mark| behind_options(&icmpv6(sender.mac, local, kind, target, *mark)))
    };
    let unset = Ipv6Addr::UNSPECIFIED;
    samples(
        50,
        vec![
            ("own address", true, udp(sender.mac, own)),
            ("own link-local address", true, udp(sender.mac, local)),
            ("an allowed address", true, udp(sender.mac, allowed.1)),
            ("a neighbour's address", false, udp(sender.mac, other.v6)),
            (
                "a neighbour's link-local address",
                false,
                udp(sender.mac, other.link_local()),
            ),
            ("the gateway's address", false, udp(sender.mac, gateway.v6)),
            (
                "an address from outside",
                false,
                udp(sender.mac, Ipv6Addr::new(0x2001, 0xdb8, 9, 0, 0, 0, 0, 7)),
            ),
            ("no address", false, udp(sender.mac, unset)),
            ("own address from a foreign MAC", false, udp(NOBODY, own)),
            (
                "own advertisement",
                true,
                icmp(sender.mac, own, ADVERTISEMENT, own),
            ),
            (
                "advertisement of an allowed address",
                true,
                icmp(sender.mac, own, ADVERTISEMENT, allowed.1),
            ),
            (
                "looks whether an address is free",
                true,
                icmp(sender.mac, unset, SOLICITATION, own),
            ),
            (
                "joins a group",
                true,
                icmp(sender.mac, unset, LISTENER_REPORT, unset),
            ),
            (
                "looks from a foreign MAC",
                false,
                icmp(NOBODY, unset, SOLICITATION, own),
            ),
            (
                "advertises the gateway",
                false,
                icmp(sender.mac, own, ADVERTISEMENT, gateway.v6),
            ),
            (
                "advertises the gateway as the gateway",
                false,
                icmp(sender.mac, gateway.v6, ADVERTISEMENT, gateway.v6),
            ),
            (
                "advertises a neighbour",
                false,
                icmp(sender.mac, local, ADVERTISEMENT, other.v6),
            ),
            (
                "advertises from no address",
                false,
                icmp(sender.mac, unset, ADVERTISEMENT, own),
            ),
            (
                "solicits as a neighbour",
                false,
                icmp(sender.mac, other.v6, SOLICITATION, victim.v6),
            ),
            (
                "router advertisement",
                false,
                icmp(sender.mac, local, ROUTER_ADVERTISEMENT, unset),
            ),
            (
                "redirect",
                false,
                icmp(sender.mac, local, REDIRECT, other.v6),
            ),
            (
                "router advertisement behind options",
                false,
                hidden(ROUTER_ADVERTISEMENT, unset),
            ),
            (
                "advertises the gateway behind options",
                false,
                hidden(ADVERTISEMENT, gateway.v6),
            ),
        ],
    )
}

fn samples(first: usize, all: Vec<(&'static str, bool, Builder<'_>)>) -> Vec<Sample> {
    let sample = |(number, (name, honest, build)): (usize, (_, _, Builder<'_>))| Sample {
        name,
        honest,
        frame: build(&mark(number)),
    };
    (first..).zip(all).map(sample).collect()
}

fn datagram(macs: (Mac, Mac), from: IpAddr, to: IpAddr, mark: &[u8]) -> Vec<u8> {
    const DISCARD: u16 = 9;
    frame::udp(macs, (from, 4444).into(), (to, DISCARD).into(), mark)
}

/// A message of neighbour discovery to all nodes: a target, and an option that says nothing but the mark.
fn icmpv6(mac: Mac, source: Ipv6Addr, kind: u8, target: Ipv6Addr, mark: [u8; 6]) -> Vec<u8> {
    const NONCE: u8 = 14;
    const HOPS: u8 = 255;
    let body = [&target.octets()[..], &[NONCE, 1], &mark].concat();
    let builder = PacketBuilder::ethernet2(mac, ALL_NODES_MAC);
    let builder = builder.ipv6(source.octets(), ALL_NODES.octets(), HOPS);
    let builder = builder.icmpv6_raw(kind, 0, [0; 4]);
    let mut frame = Vec::new();
    builder.write(&mut frame, &body).expect("writing to memory");
    frame
}

/// The same packet with destination options between the header and the message, which its checksum does not cover.
fn behind_options(frame: &[u8]) -> Vec<u8> {
    const ETHERNET: usize = 14;
    const HEADER: usize = 40;
    const DESTINATION_OPTIONS: u8 = 60;
    const ICMPV6: u8 = 58;
    let (head, message) = frame.split_at(ETHERNET + HEADER);
    let mut head = head.to_vec();
    let length = u16::try_from(message.len() + 8).expect("a short packet");
    head[ETHERNET + 4..ETHERNET + 6].copy_from_slice(&length.to_be_bytes());
    head[ETHERNET + 6] = DESTINATION_OPTIONS;
    // One option that pads six bytes.
    [&head[..], &[ICMPV6, 0, 1, 4, 0, 0, 0, 0], message].concat()
}
