//! Announcements on the wire, and UDP flows in the connection table.

use std::time::Duration;

use netlink_packet_core::{NLM_F_ACK, NLM_F_CREATE, NLM_F_DUMP, NLM_F_EXCL};
use netlink_sys::protocols::NETLINK_NETFILTER;
use socket2::{Domain, Protocol, Socket, Type};

use super::*;
use crate::kernel::real::announce::on_link;
use crate::kernel::real::inet::{LOCAL, RouteView, route_to};
use crate::kernel::real::netlink::{Netlink, Request};
use crate::kernel::real::wire::{Attrs, Writer, ip as read_ip, u16_at};

/// Every frame on a link from now on.
fn listen(space: &mut Space, link: &str) -> Socket {
    // ETH_P_ALL, in network byte order.
    let all = Protocol::from(i32::from(3u16.to_be()));
    let socket = Socket::new(Domain::PACKET, Type::RAW, Some(all)).unwrap();
    let index = space.link(&name(link)).unwrap().unwrap().index;
    socket.bind(&on_link(index).unwrap()).unwrap();
    socket
        .set_read_timeout(Some(Duration::from_secs(2)))
        .unwrap();
    socket
}

fn frame(socket: &Socket, wanted: impl Fn(&[u8]) -> bool) -> Vec<u8> {
    loop {
        let mut buffer = Vec::with_capacity(2000);
        let len = socket
            .recv(buffer.spare_capacity_mut())
            .expect("no such frame came");
        #[expect(
            unsafe_code,
            reason = "socket2 receives into uninitialised memory only"
        )]
        // SAFETY: that many bytes were just written.
        unsafe {
            buffer.set_len(len);
        }
        if wanted(&buffer) {
            return buffer;
        }
    }
}

#[test]
fn neighbours_hear_of_a_new_address_on_the_bridge() {
    in_lab("neighbours_hear_of_a_new_address_on_the_bridge", |lab| {
        let id = lab.container(1);
        let both = pair(&id, 1, 1);
        lab.add(&bridge(1));
        let wire = listen(&mut lab.space, "br1");
        let (four, six) = (
            address(&both.1, "10.1.0.2", 24),
            address(&both.1, "fd00:1::2", 64),
        );
        let announce = Op::Announce {
            container: id,
            ifname: both.1.name.clone(),
            mac: both.1.mac,
            ips: vec![four.ip, six.ip],
        };
        // Right behind the pair: the port does not forward yet.
        lab.apply(&[
            add_pair(&both),
            Op::Add(four.object()),
            Op::Add(six.object()),
            announce,
        ])
        .unwrap();
        let arp = frame(&wire, |frame| frame[12..14] == [8, 6]);
        assert_eq!(arp[..6], [0xff; 6]);
        assert_eq!(arp[6..12], both.1.mac.bytes());
        assert_eq!((&arp[20..22], &arp[28..32]), (&[0, 1][..], &arp[38..42]));
        let na = frame(&wire, |frame| {
            frame[12..14] == [0x86, 0xdd] && frame[54] == 136
        });
        assert_eq!(read_ip(&na[22..38]), Some(six.ip));
        assert_eq!(read_ip(&na[62..78]), Some(six.ip));
        assert!(checksum_is_good(&na[14..]));
    });
}

/// The checksum of an ICMPv6 packet without extension headers (RFC 4443, section 2.3).
fn checksum_is_good(packet: &[u8]) -> bool {
    let body = &packet[40..];
    let words = packet[8..40].chunks(2).chain(body.chunks(2));
    let sum: u32 = words
        .map(|w| u32::from(u16::from_be_bytes([w[0], *w.get(1).unwrap_or(&0)])))
        .sum();
    let sum = sum + u32::try_from(body.len()).unwrap() + 58;
    let folded = (sum & 0xffff) + (sum >> 16);
    (folded & 0xffff) + (folded >> 16) == 0xffff
}

/// A flow: protocol, source, destination, destination port.
type Flow = (u8, &'static str, &'static str, u16);

fn octets(text: &str) -> Vec<u8> {
    match ip(text) {
        IpAddr::V4(v4) => v4.octets().to_vec(),
        IpAddr::V6(v6) => v6.octets().to_vec(),
    }
}

fn tuple(proto: u8, src: (&str, u16), dst: (&str, u16)) -> Writer {
    let (from, to) = if ip(src.0).is_ipv4() { (1, 2) } else { (3, 4) };
    let addresses = Writer::default()
        .attr(from, &octets(src.0))
        .attr(to, &octets(dst.0));
    let ports = Writer::default()
        .attr(1, &[proto])
        .attr(2, &src.1.to_be_bytes())
        .attr(3, &dst.1.to_be_bytes());
    Writer::default().nest(1, &addresses).nest(2, &ports)
}

fn family(text: &str) -> [u8; 4] {
    [if ip(text).is_ipv4() { 2 } else { 10 }, 0, 0, 0]
}

/// Puts a flow into the table, as if a packet had passed.
fn track(socket: &mut Netlink, (proto, src, dst, port): Flow) {
    let mut body = Writer::behind(&family(dst))
        .nest(1, &tuple(proto, (src, 5000), (dst, port)))
        .nest(2, &tuple(proto, (dst, port), (src, 5000)))
        .attr(7, &600u32.to_be_bytes());
    if proto == 6 {
        // CTA_PROTOINFO: an established connection.
        body = body.nest(
            4,
            &Writer::default().nest(1, &Writer::default().attr(1, &[3])),
        );
    }
    let request = Request::raw(0x0100, NLM_F_ACK | NLM_F_CREATE | NLM_F_EXCL, body.done());
    socket.call(&request).unwrap();
}

fn tracked(socket: &mut Netlink) -> Vec<(u8, IpAddr, u16)> {
    let mut found = Vec::new();
    for four_or_six in [[2, 0, 0, 0], [10, 0, 0, 0]] {
        let request = Request::raw(0x0101, NLM_F_DUMP, four_or_six.to_vec());
        let read = |body: &[u8]| {
            let orig = Attrs::behind(body, 4).nested(1);
            let addresses = orig.nested(1);
            let dst = read_ip(addresses.find(2).or_else(|| addresses.find(4))?)?;
            let proto = orig.nested(2);
            Some((proto.find(1)?[0], dst, u16_at(proto.find(3)?, 0)?.to_be()))
        };
        found.extend(socket.dump(&request, read).unwrap());
    }
    found.sort();
    found
}

const FLOWS: [Flow; 11] = [
    (17, "192.0.2.9", "10.1.0.1", 53),
    (17, "192.0.2.10", "10.1.0.1", 53),
    (17, "192.0.2.9", "127.0.0.1", 53),
    (17, "192.0.2.9", "10.2.0.1", 53),
    // Other port, other protocol, egress to a server's port 53, and another's address.
    (17, "192.0.2.9", "10.1.0.1", 54),
    (6, "192.0.2.9", "10.1.0.1", 53),
    (17, "10.1.0.2", "198.51.100.53", 53),
    (17, "10.1.0.2", "10.1.0.77", 53),
    (17, "fd00::9", "fd00:1::1", 53),
    (17, "fd00:1::2", "fd99::53", 53),
    (6, "fd00::9", "fd00:1::1", 53),
];

fn is_local(space: &mut Space, text: &str) -> bool {
    let answer = space.route.call(&route_to(ip(text)));
    let view = answer.ok().and_then(|body| RouteView::read(&body));
    view.is_some_and(|view| view.kind == LOCAL)
}

fn check(ip_text: &str, except: &[&str], gone: &[usize]) {
    let (ip_text, except) = (
        ip_text.to_owned(),
        except.iter().map(|text| ip(text)).collect::<Vec<_>>(),
    );
    let gone = gone.to_vec();
    in_lab("only_the_flows_of_the_port_are_forgotten", move |lab| {
        super::super::ops::loopback(&mut lab.space).unwrap();
        for number in [1, 2] {
            lab.add(&bridge(number));
            lab.add(&address(&bridge(number), &format!("10.{number}.0.1"), 24));
        }
        lab.add(&address(&bridge(1), "fd00:1::1", 64));
        // The route that makes an IPv6 address local comes by a work queue (net/ipv6/addrconf.c, addrconf_dad_work).
        while !is_local(&mut lab.space, "fd00:1::1") {
            std::thread::sleep(Duration::from_millis(1));
        }
        let mut socket = Netlink::open(NETLINK_NETFILTER).unwrap();
        for flow in FLOWS {
            track(&mut socket, flow);
        }
        assert_eq!(tracked(&mut socket).len(), FLOWS.len());
        let forget = Op::ForgetUdpFlows {
            ip: ip(&ip_text),
            port: 53,
            except,
        };
        lab.apply(&[forget.clone(), forget]).unwrap();
        let left = FLOWS
            .iter()
            .enumerate()
            .filter(|(at, _)| !gone.contains(at));
        let mut left: Vec<_> = left.map(|(_, flow)| (flow.0, ip(flow.2), flow.3)).collect();
        left.sort();
        assert_eq!(tracked(&mut socket), left, "{ip_text}");
    });
}

#[test]
fn only_the_flows_of_the_port_are_forgotten() {
    check("10.1.0.1", &[], &[0, 1]);
    check("198.51.100.1", &[], &[]);
    check("0.0.0.0", &[], &[0, 1, 2, 3]);
    check("0.0.0.0", &["10.1.0.1"], &[2, 3]);
    check("::", &[], &[8]);
    check("fd00:1::1", &[], &[8]);
}
