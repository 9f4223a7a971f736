//! A container sends from its own addresses only: nobody takes a neighbour's or the gateway's place, or plays the router.
//!
//! Each frame is sent on two networks. On the one with `antispoof=off` all of them arrive, so they are well made; on the
//! other only what is honest arrives.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::cast_possible_truncation,
    clippy::print_stderr,
    reason = "test code: a panic is how a test fails"
)]

use std::collections::BTreeSet;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::process::ExitCode;
use std::time::Duration;

use netd_tests::host::{Host, PROGRAMS};
use netd_tests::lab::{self, Netns, PATIENCE, Proto, Sniffer, Transport, frame};

use self::frames::{Cast, Sample, Station, mark};

#[path = "spoofing/frames.rs"]
mod frames;

fn main() -> ExitCode {
    lab::dispatch(PROGRAMS);
    lab::enter();
    lab::main(vec![
        lab::test("frames_bridge_nf_off", || frames_arrive(false)),
        lab::test("frames_bridge_nf_on", || frames_arrive(true)),
        lab::test(
            "a_stolen_address_moves_nothing",
            a_stolen_address_moves_nothing,
        ),
        lab::test(
            "nobody_asks_a_neighbours_resolver",
            nobody_asks_a_neighbours_resolver,
        ),
        lab::test(
            "a_port_is_guarded_before_it_is_up",
            a_port_is_guarded_before_it_is_up,
        ),
        lab::test("bad_allow", bad_allow),
    ])
}

/// Three containers on a network: one that sends, and two that it lies to and about.
struct Network {
    sender: Netns,
    victim: Netns,
    other: Netns,
    cast: Cast,
}

const ALLOWED: (Ipv4Addr, Ipv6Addr) = (
    Ipv4Addr::new(10, 99, 0, 7),
    Ipv6Addr::new(0xfd99, 0, 0, 0, 0, 0, 0, 7),
);

impl Network {
    fn new(host: &Host, name: &str, options: &[&str]) -> Self {
        let mut words = vec!["network", "create", name];
        words.extend(lab::has_ipv6().then_some("--ipv6"));
        words.extend(options);
        let network = host.ok(&words);
        let container = |role: &str, keys: &str| {
            let netns = Netns::new(&format!("{name}-{role}"));
            let made = host.attach(&netns, &["--network", &format!("{name}{keys}")]);
            (netns, station(&made["endpoints"][0]))
        };
        let allow = if lab::has_ipv6() {
            ",allow=10.99.0.0/24,allow=fd99::7"
        } else {
            ",allow=10.99.0.0/24"
        };
        let (sender, sends) = container("sender", allow);
        let (victim, hears) = container("victim", "");
        let (other, is_named) = container("other", "");
        let bridge = host
            .netns
            .link(network["interface"].as_str().unwrap())
            .unwrap();
        let gateway = |at: usize| network["subnets"][at]["gateway"].as_str();
        let cast = Cast {
            sender: sends,
            victim: hears,
            other: is_named,
            gateway: Station {
                mac: bridge.mac.try_into().unwrap(),
                v4: gateway(0).unwrap().parse().unwrap(),
                v6: gateway(1).map_or(Ipv6Addr::LOCALHOST, |ip| ip.parse().unwrap()),
            },
            allowed: ALLOWED,
        };
        Self {
            sender,
            victim,
            other,
            cast,
        }
    }

    fn samples(&self) -> Vec<Sample> {
        let mut samples = frames::of_ipv4(&self.cast);
        if lab::has_ipv6() {
            samples.extend(frames::of_ipv6(&self.cast));
        }
        samples
    }

    /// The names of the frames that arrive at the victim.
    fn arrived(&self) -> BTreeSet<&'static str> {
        let samples = self.samples();
        let sniffer = self.victim.sniff("eth0");
        for sample in &samples {
            self.sender.send_frame("eth0", &sample.frame);
        }
        // A bridge keeps the order: when this one is there, all that came before it are.
        let macs = (self.cast.sender.mac, self.cast.victim.mac);
        let end = |ip: Ipv4Addr| SocketAddr::from((ip, 9));
        let last = frame::udp(
            macs,
            end(self.cast.sender.v4),
            end(self.cast.victim.v4),
            &mark(99),
        );
        self.sender.send_frame("eth0", &last);
        let numbers = numbers(&sniffer);
        let of = |number: usize| samples.iter().find(|s| holds(&s.frame, number));
        let names = numbers.into_iter().filter_map(of).map(full_name);
        names.collect()
    }
}

/// The same name in both families is two frames.
fn full_name(sample: &Sample) -> &'static str {
    let family = if (50..99).any(|number| holds(&sample.frame, number)) {
        "6: "
    } else {
        "4: "
    };
    Box::leak(format!("{family}{}", sample.name).into_boxed_str())
}

fn holds(frame: &[u8], number: usize) -> bool {
    frame.windows(6).any(|window| window == mark(number))
}

/// Which marks arrive before the last.
fn numbers(sniffer: &Sniffer) -> BTreeSet<usize> {
    let mut found = BTreeSet::new();
    loop {
        let frame = sniffer.wait_for(PATIENCE, |frame| frame.windows(4).any(|w| w == b"mark"));
        let frame = frame.expect("the last frame arrives");
        let number = (0..100).find(|number| holds(&frame, *number)).unwrap();
        if number == 99 {
            return found;
        }
        found.insert(number);
    }
}

fn station(endpoint: &serde_json::Value) -> Station {
    let text = |key: &str| endpoint[key].as_str().unwrap_or_default();
    let bytes: Vec<u8> = text("mac")
        .split(':')
        .map(|b| u8::from_str_radix(b, 16).unwrap())
        .collect();
    let ip = |key: &str| text(key).split('/').next().unwrap().to_owned();
    Station {
        mac: bytes.try_into().unwrap(),
        v4: ip("ipv4").parse().unwrap(),
        v6: ip("ipv6").parse().unwrap_or(Ipv6Addr::UNSPECIFIED),
    }
}

fn host_with(bridge_nf: bool) -> Host {
    let netns = Netns::host("host");
    netns.filter_bridged(bridge_nf);
    Host::on(netns)
}

fn frames_arrive(bridge_nf: bool) {
    let host = host_with(bridge_nf);
    let guarded = Network::new(&host, "guarded", &[]);
    let samples = guarded.samples();
    let honest: BTreeSet<_> = samples.iter().filter(|s| s.honest).map(full_name).collect();
    assert_eq!(
        guarded.arrived(),
        honest,
        "antispoof on, bridge-nf {bridge_nf}"
    );
    // With br_netfilter the hooks of IP refuse some of these by themselves.
    if !bridge_nf {
        let open = Network::new(&host, "open", &["--opt", "antispoof=off"]);
        let all: BTreeSet<_> = samples.iter().map(full_name).collect();
        assert_eq!(open.arrived(), all, "antispoof off");
    }
    eprintln!("{} frames, {} of them honest", samples.len(), honest.len());
    host.assert_healthy();
    host.done();
}

/// The bridge does not learn from a frame that is dropped.
fn a_stolen_address_moves_nothing() {
    let host = host_with(false);
    let network = Network::new(&host, "guarded", &[]);
    let ip = network.cast.other.v4;
    let _server = network.other.tcp_server("other", 80);
    let asks = || {
        network
            .victim
            .probe(Proto::Tcp, (IpAddr::V4(ip), 80), PATIENCE)
    };
    assert_eq!(asks().name(), Some("other"));
    let theft = network
        .samples()
        .into_iter()
        .find(|s| s.name == "a neighbour's address and MAC");
    let theft = theft.unwrap().frame;
    let at_sender = network.sender.sniff("eth0");
    for _ in 0..100 {
        network.sender.send_frame("eth0", &theft);
    }
    assert_eq!(asks().name(), Some("other"));
    // What the victim sends to the other's MAC would come by here.
    let stray = |frame: &[u8]| frame.starts_with(&network.cast.other.mac);
    assert_eq!(at_sender.wait_for(Duration::from_millis(50), stray), None);
    host.done();
}

/// The resolver at 127.0.0.11 is there for its own container: no frame from a neighbour or from the host gets to it, whatever
/// name an attacker has resolved to that address.
fn nobody_asks_a_neighbours_resolver() {
    let host = host_with(true);
    // Where a container may send from any address, only its kernel stands between.
    let network = Network::new(&host, "open", &["--opt", "antispoof=off"]);
    let query: &[u8] = b"\x12\x34\x01\0\0\x01\0\0\0\0\0\0\x0bopen-victim\0\0\x01\0\x01";
    let resolver = |port| SocketAddr::from(([127, 0, 0, 11], port));
    let reply = network.victim.dns_query(
        resolver(53),
        "open-victim",
        lab::hickory_proto::rr::RecordType::A,
        Transport::Udp,
    );
    assert_eq!(reply.unwrap().ips(), [IpAddr::V4(network.cast.victim.v4)]);
    let answers = network.sender.sniff("eth0");
    let macs = (network.cast.sender.mac, network.cast.victim.mac);
    for port in [53, 40053] {
        for source in [network.cast.sender.v4, Ipv4Addr::new(127, 0, 0, 11)] {
            let from = SocketAddr::from((source, 5353));
            network
                .sender
                .send_frame("eth0", &frame::udp(macs, from, resolver(port), query));
        }
        // On the host the address is the host's own, and nobody listens there.
        let answer = host
            .netns
            .udp_probe(resolver(port), Duration::from_millis(50));
        assert!(!answer.reached(), "{answer:?}");
    }
    let is_answer = |frame: &[u8]| {
        frame
            .windows(4)
            .any(|window| window == b"\x12\x34\x81\x80" || window == b"\x12\x34\x85\x80")
    };
    assert_eq!(
        answers.wait_for(Duration::from_millis(300), is_answer),
        None
    );
    host.done();
}

/// The rules for a port come before the port.
fn a_port_is_guarded_before_it_is_up() {
    let host = host_with(false);
    host.ok(&["network", "create", "guarded"]);
    let netns = Netns::new("c");
    let ops = host.attach(&netns, &["--network", "guarded", "--dry-run"]);
    let texts: Vec<&str> = ops["text"]
        .as_array()
        .unwrap()
        .iter()
        .filter_map(|t| t.as_str())
        .collect();
    let at = |what: &str| {
        texts
            .iter()
            .position(|text| text.starts_with(what))
            .expect(what)
    };
    for set in ["ports", "macs", "senders", "src4"] {
        assert!(
            at(&format!("add element {set} ")) < at("add veth"),
            "{texts:#?}"
        );
    }
    host.done();
}

/// Nobody is allowed to speak for the gateway.
fn bad_allow() {
    let host = host_with(false);
    host.ok(&["network", "create", "n", "--subnet", "10.1.0.0/24"]);
    let netns = Netns::new("c");
    for allow in ["10.1.0.0/28", "10.1.0.1", "x", "10.1.0.1/24"] {
        let network = format!("n,allow={allow}");
        let refused = host.refuses_attach(&netns, &["--network", &network]);
        assert_eq!(refused, "invalid_allow", "{allow}");
    }
    let twice = ["--network", "n,allow=10.2.0.0/24,allow=10.2.0.7"];
    assert_eq!(host.refuses_attach(&netns, &twice), "invalid_allow");
    host.assert_healthy();
    host.done();
}
