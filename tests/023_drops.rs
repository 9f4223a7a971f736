//! Dropped packets are counted by reason: one frame of each kind that netd keeps away, and where its count shows.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    reason = "test code: a panic is how a test fails"
)]

use std::net::{IpAddr, SocketAddr};
use std::process::ExitCode;

use netd_tests::host::{Host, PROGRAMS};
use netd_tests::lab::etherparse::PacketBuilder;
use netd_tests::lab::{self, Netns, PATIENCE, frame};
use serde_json::Value;

fn main() -> ExitCode {
    lab::dispatch(PROGRAMS);
    lab::enter();
    lab::main(vec![lab::test("by_reason", by_reason)])
}

const NETWORKS: [&str; 6] = ["open", "other", "routed", "apart", "inner", "quiet"];
/// How often each frame is sent.
const TIMES: u64 = 3;

/// A container with what its frames need.
struct Station {
    netns: Netns,
    ips: Vec<IpAddr>,
    /// The Ethernet address of its bridge.
    bridge: frame::Mac,
}

struct World {
    host: Host,
    /// On two different wires of the host.
    outside: Netns,
    _beyond: Netns,
    /// The Ethernet address of the host on the wire to `outside`.
    wan: frame::Mac,
}

impl World {
    fn new() -> Self {
        let [host, outside, beyond] = ["host", "outside", "beyond"].map(Netns::host);
        let (ours, theirs) = (
            ["192.0.2.1/24", "2001:db8::1/64"],
            ["192.0.2.9/24", "2001:db8::9/64"],
        );
        lab::wire(&host, "wan", &ours, &outside, &theirs);
        lab::wire(
            &host,
            "vpn",
            &["198.51.100.1/24"],
            &beyond,
            &["198.51.100.9/24"],
        );
        // netd switches it on.
        host.set_sysctl("net/ipv4/ip_forward", "0");
        let wan = mac(&host, "wan");
        let host = Host::on(host);
        Self {
            host,
            outside,
            _beyond: beyond,
            wan,
        }
    }

    fn network(&self, name: &str, options: &[&str]) {
        self.host
            .ok(&[&["network", "create", name], options].concat());
    }

    fn container(&self, name: &str, network: &str, options: &[&str]) -> Station {
        let netns = Netns::new(name);
        let made = self
            .host
            .attach(&netns, &[&["--network", network], options].concat());
        let endpoint = &made["endpoints"][0];
        let bridge = self.host.ok(&["network", "inspect", network])["interface"].clone();
        let ip = |key: &str| endpoint[key].as_str()?.split('/').next()?.parse().ok();
        Station {
            netns,
            ips: ["ipv4", "ipv6"].into_iter().filter_map(ip).collect(),
            bridge: mac(&self.host.netns, bridge.as_str().unwrap()),
        }
    }

    fn count(&self, reason: &str) -> u64 {
        let status = self.host.ok(&["status"]);
        let count = &status["drops"][reason];
        count
            .as_u64()
            .unwrap_or_else(|| panic!("no count of {reason}: {status}"))
    }

    /// What a network shows of a reason; none where it does not count it.
    fn count_at(&self, network: &str, reason: &str) -> Option<u64> {
        self.host.ok(&["network", "inspect", network])["drops"][reason].as_u64()
    }

    /// The networks that count a reason, with what they have counted.
    fn counts_at(&self, reason: &str) -> Vec<(&'static str, u64)> {
        let count = |network| Some((network, self.count_at(network, reason)?));
        NETWORKS.into_iter().filter_map(count).collect()
    }

    /// Sends a frame some times, which are all dropped for the reason, and counted at the network that is told, or at none.
    fn dropped_at(&self, network: Option<&str>, reason: &str, from: &Netns, frame: &[u8]) {
        let before = self.counts_at(reason);
        self.dropped(reason, from, frame);
        let more = |(name, count): &(&'static str, u64)| {
            let times = if network == Some(*name) { TIMES } else { 0 };
            (*name, count + times)
        };
        let expected: Vec<_> = before.iter().map(more).collect();
        assert_eq!(self.counts_at(reason), expected, "{reason}");
        let is_counted = network.is_none_or(|own| before.iter().any(|(name, _)| *name == own));
        assert!(is_counted, "{network:?} counts {reason}: {before:?}");
    }

    /// Sends a frame some times, which are all dropped for the reason.
    fn dropped(&self, reason: &str, from: &Netns, frame: &[u8]) {
        let before = self.count(reason);
        for _ in 0..TIMES {
            from.send_frame("eth0", frame);
        }
        lab::wait_for(&format!("drops for reason {reason}"), PATIENCE, || {
            self.count(reason) >= before + TIMES
        });
        // What a container's kernel says by itself may be dropped too, by the bridge.
        let is_exact = !["spoofed", "discovery", "protocol"].contains(&reason);
        assert!(
            !is_exact || self.count(reason) == before + TIMES,
            "{reason}"
        );
    }

    /// A datagram from outside, to an address and port.
    fn drops_of_outside(&self, network: Option<&str>, reason: &str, to: &str) {
        let to: SocketAddr = to.parse().unwrap();
        let own = if to.is_ipv4() {
            "192.0.2.9:4000"
        } else {
            "[2001:db8::9]:4000"
        };
        let macs = (mac(&self.outside, "eth0"), self.wan);
        let frame = frame::udp(macs, own.parse().unwrap(), to, b"?");
        self.dropped_at(network, reason, &self.outside, &frame);
    }

    /// A datagram from a container to the host's end of its bridge, as one that is to be routed.
    fn drops_of_container(&self, network: &str, reason: &str, from: &Station, to: &str) {
        let frame = frame::udp(
            from.macs(),
            SocketAddr::new(from.ips[0], 4000),
            to.parse().unwrap(),
            b"?",
        );
        self.dropped_at(Some(network), reason, &from.netns, &frame);
    }

    /// What `trace` names as the end of the way.
    fn traced(&self, from: &str, to: &str) -> String {
        self.host.ok(&["trace", from, to])["verdict"]
            .as_str()
            .unwrap()
            .to_owned()
    }
}

impl Station {
    fn macs(&self) -> (frame::Mac, frame::Mac) {
        (mac(&self.netns, "eth0"), self.bridge)
    }

    fn at(&self, port: u16) -> String {
        SocketAddr::new(self.ips[0], port).to_string()
    }
}

fn mac(netns: &Netns, link: &str) -> frame::Mac {
    netns.link(link).unwrap().mac.try_into().unwrap()
}

/// Each reason counts what it should, `trace` names the drop, and the counts outlive a repair and a restart.
fn by_reason() {
    let mut world = World::new();
    let both: &[&str] = if lab::has_ipv6() { &["--ipv6"] } else { &[] };
    world.network("open", both);
    world.network("other", &[]);
    world.network("routed", &["--mode", "routed"]);
    world.network("apart", &["--icc=false"]);
    world.network("inner", &["--internal"]);
    world.network("quiet", &["--opt", "host_access=off"]);
    let open = world.container("open", "open", &["--publish=8080:80/udp"]);
    let other = world.container("other", "other", &[]);
    let routed = world.container("routed", "routed", &[]);
    let [apart, neighbour] = ["apart", "neighbour"].map(|name| world.container(name, "apart", &[]));
    let inner = world.container("inner", "inner", &[]);
    let quiet = world.container("quiet", "quiet", &[]);

    world.drops_of_outside(Some("open"), "direct", &open.at(80));
    if let Some(ip) = open.ips.get(1) {
        let to = SocketAddr::new(*ip, 80).to_string();
        world.drops_of_outside(Some("open"), "direct", &to);
    }
    world.drops_of_container("open", "isolation", &open, &other.at(80));
    world.drops_of_outside(Some("routed"), "unpublished", &routed.at(81));
    world.drops_of_container("apart", "icc", &apart, &neighbour.at(80));
    world.drops_of_container("inner", "internal", &inner, "192.0.2.9:80");
    world.drops_of_container("routed", "isolation", &routed, &inner.at(80));
    world.drops_of_container("quiet", "host_access", &quiet, "192.0.2.1:80");
    world.drops_of_outside(None, "loopback", "127.0.0.1:8080");
    world.drops_of_outside(None, "forwarding", "198.51.100.9:80");
    world
        .host
        .ok(&["network", "set", "open", "--block-from=192.0.2.9"]);
    world.drops_of_outside(Some("open"), "blocked", "192.0.2.1:8080");
    world.dropped_at(Some("open"), "invalid", &open.netns, &impossible(&open));
    let stranger = "203.0.113.77:4000".parse().unwrap();
    let frame = frame::udp(open.macs(), stranger, "192.0.2.9:80".parse().unwrap(), b"?");
    world.dropped("spoofed", &open.netns, &frame);
    world.dropped("discovery", &open.netns, &router_advertisement(&open));
    // The type that is kept for experiments (IEEE 802).
    let frame = [&open.bridge[..], &mac(&open.netns, "eth0"), b"\x88\xb5?"].concat();
    world.dropped("protocol", &open.netns, &frame);

    for (from, to, reason) in [
        ("192.0.2.9", open.at(80), "drop_direct"),
        ("open", other.at(80), "drop_isolation"),
        ("192.0.2.9", routed.at(81), "drop_unpublished"),
        ("192.0.2.9", "192.0.2.1:8080/udp".to_owned(), "drop_blocked"),
    ] {
        let verdict = world.traced(from, &to);
        assert!(verdict.contains(reason), "{from} -> {to}: {verdict}");
    }
    outlive(&mut world);
    world.host.done();
}

/// The counts are those of before, after a restart and a repair of the rules, and are in the metrics too.
fn outlive(world: &mut World) {
    let held = |world: &World| {
        let mut drops = world.host.ok(&["status"])["drops"].clone();
        // Containers' kernels go on talking.
        for noisy in ["spoofed", "discovery", "protocol"] {
            drops[noisy] = Value::Null;
        }
        drops
    };
    let before = held(world);
    let at_open = world.host.ok(&["network", "inspect", "open"])["drops"].clone();
    world.host.kill_daemon();
    world.host.start_daemon();
    assert_eq!(held(world), before);
    let again = world.host.ok(&["network", "inspect", "open"]);
    assert_eq!(again["drops"], at_open);
    let answer = world.host.metrics();
    let line = format!(
        "netd_drops_total{{reason=\"direct\"}} {}\n",
        before["direct"]
    );
    assert!(answer.contains(&line), "{line}: {answer}");
    let line = format!(
        "netd_network_drops_total{{network=\"open\",reason=\"direct\"}} {}\n",
        at_open["direct"]
    );
    assert!(answer.contains(&line), "{line}: {answer}");
    let shown = world
        .host
        .netctl_raw(&["network", "inspect", "open"])
        .stdout;
    let words = format!("isolation: {}", at_open["isolation"]);
    assert!(shown.contains(&words), "{shown}");
    let flush = ["flush", "chain", "inet", "netd", "drop_direct"];
    let status = world.host.netns.command("nft", &flush).status();
    let status =
        status.unwrap_or_else(|error| lab::skip(&format!("no nft to break rules with: {error}")));
    assert!(status.success(), "{status}");
    lab::wait_for("the rules are repaired", PATIENCE, || {
        world.host.plan().is_empty()
    });
    assert_eq!(held(world), before);
}

/// A TCP segment that both begins and ends a connection: no flow has it.
fn impossible(from: &Station) -> Vec<u8> {
    let IpAddr::V4(ip) = from.ips[0] else {
        panic!("no IPv4 address");
    };
    let (own, to) = from.macs();
    let builder = PacketBuilder::ethernet2(own, to).ipv4(ip.octets(), [192, 0, 2, 9], 64);
    let mut frame = Vec::new();
    let builder = builder.tcp(4000, 80, 1, 1024).syn().fin();
    builder.write(&mut frame, &[]).unwrap();
    frame
}

fn router_advertisement(from: &Station) -> Vec<u8> {
    const ADVERTISEMENT: u8 = 134;
    let (own, _) = from.macs();
    let all_nodes = std::net::Ipv6Addr::new(0xff02, 0, 0, 0, 0, 0, 0, 1);
    let link_local = std::net::Ipv6Addr::new(0xfe80, 0, 0, 0, 0, 0, 0, 0x99);
    let builder = PacketBuilder::ethernet2(own, [0x33, 0x33, 0, 0, 0, 1]);
    let builder = builder.ipv6(link_local.octets(), all_nodes.octets(), 255);
    let mut frame = Vec::new();
    let builder = builder.icmpv6_raw(ADVERTISEMENT, 0, [64, 0, 7, 8]);
    builder.write(&mut frame, &[0; 8]).unwrap();
    frame
}
