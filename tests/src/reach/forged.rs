//! Frames that no socket would send: to 127.0.0.1 over a wire, or from it.
//!
//! Owns what must stay true even for a neighbour that writes its own frames: what answers on a
//! loopback address answers this host only.

use std::collections::BTreeSet;
use std::net::{IpAddr, SocketAddr, UdpSocket};
use std::time::Duration;

use super::run::Report;
use super::world::{Place, World};
use crate::lab::{Netns, PATIENCE, Sniffer, frame};

/// How long to listen to silence once the frames that should arrive have arrived.
const SILENCE: Duration = Duration::from_millis(300);

/// A port that the host itself listens on, on all addresses.
const SINK_PORT: u16 = 9001;

/// The payload of a forged frame is this and its number.
const MARK: &str = "forged ";

/// A frame to the host: who sends it, from where (empty: its own address), to where, and at which
/// container or host it should arrive (empty: at none).
type Forgery = (&'static str, &'static str, &'static str, &'static str);

const FORGERIES: [Forgery; 23] = [
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
    // By the bridge's Ethernet address, where the host has no address on the bridge, or lets nobody in.
    ("s1", "", "192.0.2.1:9001", ""),
    ("i1", "", "192.0.2.1:9001", ""),
    // Claiming to come from the host itself.
    ("a", "127.0.0.1", "192.0.2.1:9001", ""),
    ("a", "::1", "[2001:db8::1]:9001", ""),
];

/// Where an arrival is noticed.
enum Observer {
    Container(Sniffer, Vec<IpAddr>),
    Host(UdpSocket),
}

/// Where a forged frame arrived, and which.
type Arrival = (&'static str, u16);

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
    let expected: BTreeSet<Arrival> = sent
        .iter()
        .filter(|(_, forgery)| !forgery.3.is_empty())
        .map(|(number, forgery)| (forgery.3, *number))
        .collect();
    let arrived = arrivals(&observers, &expected);
    let lost = expected.difference(&arrived);
    let lost = lost.map(|arrival| describe(*arrival, "did not arrive at"));
    let leaked = arrived.difference(&expected);
    let leaked = leaked.map(|arrival| describe(*arrival, "LEAKED to"));
    let failures: Vec<_> = lost.chain(leaked).collect();
    report.add(&format!("{title}, forged frames"), "", sent.len(), failures);
}

fn describe((at, number): Arrival, how: &str) -> String {
    let (from, source, to, _) = FORGERIES[usize::from(number)];
    format!("a frame of {from} (source {source:?}) to {to} {how} {at}")
}

fn observers(world: &World) -> Vec<(&'static str, Observer)> {
    let containers = world.places.iter().filter(|place| place.network.is_some());
    let observer = |place: &Place| {
        let sniffer = world.netns(place).sniff("eth0");
        (place.name, Observer::Container(sniffer, place.ips.clone()))
    };
    let mut observers: Vec<_> = containers.map(observer).collect();
    // [::] takes IPv4 too.
    let everywhere = if world.ipv6 { "[::]" } else { "0.0.0.0" };
    let sink = world
        .host
        .netns
        .run(|| UdpSocket::bind(format!("{everywhere}:{SINK_PORT}")));
    observers.push(("host", Observer::Host(sink.unwrap())));
    observers
}

/// A datagram that carries its number, straight to the host's end of the wire.
fn send(world: &World, from: &Place, source: &str, to: &str, number: u16) {
    let to: SocketAddr = to.parse().unwrap();
    let own = from.ips.iter().find(|ip| ip.is_ipv4() == to.is_ipv4());
    let source = source.parse().ok().or_else(|| own.copied());
    let source = SocketAddr::new(source.expect("an address of that family"), 40_000 + number);
    let netns = world.netns(from);
    let macs = (mac(netns, "eth0"), mac(&world.host.netns, &from.link));
    let frame = frame::udp(macs, source, to, format!("{MARK}{number}").as_bytes());
    netns.send_frame("eth0", &frame);
}

fn mac(netns: &Netns, link: &str) -> frame::Mac {
    let link = netns.link(link).expect("the link");
    link.mac.try_into().expect("an Ethernet link")
}

/// Waits at all observers for what should arrive, and a little for what should not.
fn arrivals(
    observers: &[(&'static str, Observer)],
    expected: &BTreeSet<Arrival>,
) -> BTreeSet<Arrival> {
    std::thread::scope(|scope| {
        let waiting: Vec<_> = observers
            .iter()
            .map(|(name, observer)| scope.spawn(|| observe(name, observer, expected)))
            .collect();
        let arrived = waiting
            .into_iter()
            .flat_map(|thread| thread.join().unwrap());
        arrived.collect()
    })
}

fn observe(
    name: &'static str,
    observer: &Observer,
    expected: &BTreeSet<Arrival>,
) -> BTreeSet<Arrival> {
    let mut missing: BTreeSet<_> = expected.iter().filter(|(at, _)| *at == name).collect();
    let mut arrived = BTreeSet::new();
    loop {
        let patience = if missing.is_empty() {
            SILENCE
        } else {
            PATIENCE
        };
        let Some(number) = observer.next(patience) else {
            return arrived;
        };
        missing.remove(&(name, number));
        arrived.insert((name, number));
    }
}

impl Observer {
    /// The number of the next forged frame that arrives.
    fn next(&self, patience: Duration) -> Option<u16> {
        match self {
            Self::Container(sniffer, ips) => {
                let frame = sniffer.wait_for(patience, |frame| arrived_at(frame, ips).is_some())?;
                arrived_at(&frame, ips)
            }
            Self::Host(sink) => {
                let mut buffer = [0; 64];
                sink.set_read_timeout(Some(patience)).unwrap();
                let length = sink.recv(&mut buffer).ok()?;
                number(&buffer[..length])
            }
        }
    }
}

/// A sniffer also sees what the container itself sends: only its own addresses count.
fn arrived_at(frame: &[u8], ips: &[IpAddr]) -> Option<u16> {
    let (_, to, payload) = frame::parse_udp(frame)?;
    ips.contains(&to.ip()).then(|| number(payload)).flatten()
}

fn number(payload: &[u8]) -> Option<u16> {
    let text = std::str::from_utf8(payload).ok()?;
    text.strip_prefix(MARK)?.parse().ok()
}
