//! Frames that no socket would send: to 127.0.0.1 over a wire, or from it.
//!
//! Owns what must stay true even for a neighbour that writes its own frames: what answers on a
//! loopback address answers this host only.

use std::collections::BTreeSet;
use std::net::{IpAddr, SocketAddr, UdpSocket};
use std::time::Duration;

use super::run::Report;
use super::world::{CONTAINER_PORT, Place, World};
use crate::lab::{Netns, PATIENCE, Sniffer, frame, poll_until};

/// How long to listen to silence once the frames that should arrive have arrived.
const SILENCE: Duration = Duration::from_millis(300);

/// A port of a server of the host's on all addresses.
const SINK_PORT: u16 = 9001;

/// A frame to the host: who sends it, from where (empty: its own address), to where, and the
/// container or host at which it should arrive (empty: at none).
type Forgery = (&'static str, &'static str, &'static str, &'static str);

const FORGERIES: [Forgery; 21] = [
    // That the frames are well made: these arrive.
    ("outside", "", "192.0.2.1:8001", "a"),
    ("outside", "", "[2001:db8::1]:8001", "a"),
    ("outside", "", "192.0.2.1:8002", "b"),
    ("outside", "", "192.0.2.1:9001", "host"),
    ("outside", "", "[2001:db8::1]:9001", "host"),
    ("a", "", "192.0.2.1:9001", "host"),
    ("a", "", "[2001:db8::1]:9001", "host"),
    // A port published on 127.0.0.1, one published on all addresses, a server of the host's own.
    ("outside", "", "127.0.0.1:8003", ""),
    ("outside", "", "127.0.0.1:8001", ""),
    ("outside", "", "127.0.0.1:9001", ""),
    ("outside", "", "[::1]:8003", ""),
    ("outside", "", "[::1]:8001", ""),
    ("outside", "", "[::1]:9001", ""),
    ("a", "", "127.0.0.1:8003", ""),
    ("a", "", "127.0.0.1:8001", ""),
    ("a", "", "127.0.0.1:9001", ""),
    ("a", "", "[::1]:8003", ""),
    ("a", "", "[::1]:9001", ""),
    ("i1", "", "127.0.0.1:9001", ""),
    // Claiming to come from the host itself.
    ("a", "127.0.0.1", "192.0.2.1:9001", ""),
    ("a", "::1", "[2001:db8::1]:9001", ""),
];

/// Where an arrival is noticed.
enum Observer {
    Container(Sniffer, Vec<IpAddr>),
    Host(Vec<UdpSocket>),
}

/// Sends every forged frame and compares where they arrive.
pub fn check_forged(world: &World, title: &str, report: &mut Report) {
    let observers = observers(world);
    let sent: Vec<_> = (0..)
        .zip(FORGERIES)
        .filter(|(_, (_, _, to, _))| world.ipv6 || !to.contains('['))
        .collect();
    for (number, (from, source, to, _)) in &sent {
        send(world, world.place(from), source, to, *number);
    }
    let expected: BTreeSet<_> = sent
        .iter()
        .filter(|(_, forgery)| !forgery.3.is_empty())
        .map(|(number, forgery)| (forgery.3, *number))
        .collect();
    let arrived = arrivals(&observers, &expected);
    let describe = |at: &str, number: &u16, how: &str| {
        let (from, source, to, _) = FORGERIES[usize::from(*number)];
        format!("forged frame {from} ({source}) -> {to} {how} {at}")
    };
    let lost = expected
        .difference(&arrived)
        .map(|(at, number)| describe(at, number, "never arrived at"));
    let leaked = arrived
        .difference(&expected)
        .map(|(at, number)| describe(at, number, "LEAKED to"));
    let failures: Vec<_> = lost.chain(leaked).collect();
    report.add(&format!("{title}, forged frames"), sent.len(), failures);
}

fn observers(world: &World) -> Vec<(&'static str, Observer)> {
    let containers = world.places.iter().filter(|place| place.network.is_some());
    let mut observers: Vec<_> = containers
        .map(|place| {
            let sniffer = world.netns(place).sniff("eth0");
            (place.name, Observer::Container(sniffer, place.ips.clone()))
        })
        .collect();
    let families = if world.ipv6 { 2 } else { 1 };
    let sinks = ["0.0.0.0", "::"].into_iter().take(families);
    let sinks = sinks.map(|ip| sink(&world.host.netns, ip)).collect();
    observers.push(("host", Observer::Host(sinks)));
    observers
}

fn sink(host: &Netns, ip: &str) -> UdpSocket {
    let address = SocketAddr::new(ip.parse().unwrap(), SINK_PORT);
    let socket = host.run(|| super::world::udp_socket(address));
    socket.set_nonblocking(true).unwrap();
    socket
}

/// A datagram that carries its number, straight to the host's end of the wire.
fn send(world: &World, from: &Place, source: &str, to: &str, number: u16) {
    let to: SocketAddr = to.parse().unwrap();
    let own = from.ips.iter().find(|ip| ip.is_ipv4() == to.is_ipv4());
    let source = source.parse().ok().or(own.copied());
    let source = SocketAddr::new(source.expect("an address of that family"), 40_000 + number);
    let netns = world.netns(from);
    let macs = (mac(netns, "eth0"), mac(&world.host.netns, &world.link_of(from)));
    let frame = frame::udp(macs, source, to, format!("forged {number}").as_bytes());
    netns.send_frame("eth0", &frame);
}

fn mac(netns: &Netns, link: &str) -> frame::Mac {
    let link = netns.link(link).expect("the link");
    link.mac.try_into().expect("an Ethernet link")
}

fn arrivals(
    observers: &[(&'static str, Observer)],
    expected: &BTreeSet<(&'static str, u16)>,
) -> BTreeSet<(&'static str, u16)> {
    let mut arrived = BTreeSet::new();
    let end = std::time::Instant::now() + PATIENCE;
    while !expected.is_subset(&arrived) && std::time::Instant::now() < end {
        look(observers, Duration::from_millis(10), &mut arrived);
    }
    look(observers, SILENCE, &mut arrived);
    arrived
}

/// Takes what has come in; waits `silence` for more at the first observer, which covers all.
fn look(
    observers: &[(&'static str, Observer)],
    silence: Duration,
    arrived: &mut BTreeSet<(&'static str, u16)>,
) {
    std::thread::sleep(silence);
    for (name, observer) in observers {
        let numbers = match observer {
            Observer::Container(sniffer, ips) => in_container(sniffer, ips),
            Observer::Host(sinks) => sinks.iter().flat_map(in_socket).collect(),
        };
        arrived.extend(numbers.into_iter().map(|number| (*name, number)));
    }
}

fn in_container(sniffer: &Sniffer, ips: &[IpAddr]) -> Vec<u16> {
    let is_here = |to: &SocketAddr| ips.contains(&to.ip()) && to.port() == CONTAINER_PORT;
    let read = |frame: &[u8]| {
        let (_, to, payload) = frame::parse_udp(frame)?;
        is_here(&to).then(|| number(payload)).flatten()
    };
    std::iter::from_fn(|| {
        let frame = sniffer.wait_for(Duration::ZERO, |frame| read(frame).is_some())?;
        read(&frame)
    })
    .collect()
}
