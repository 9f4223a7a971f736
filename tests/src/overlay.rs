//! What tests of overlay networks have in common: containers that answer, pairs that talk, a stream that loses nothing.

use std::net::{IpAddr, SocketAddr, UdpSocket};
use std::time::Duration;

use crate::cluster::{Cluster, addresses};
use crate::host::Host;
use crate::lab::{self, Netns, PATIENCE, Proto, Transport};
use crate::load::{self, DatagramServer, Load};

/// A container, its addresses, and servers in it.
#[derive(Debug)]
pub struct Guest {
    /// Its namespace.
    pub netns: Netns,
    /// Its addresses on its first network, IPv4 first.
    pub ips: Vec<IpAddr>,
    _servers: Vec<lab::Server>,
}

impl Guest {
    /// Attaches a new one.
    pub fn attach(host: &Host, name: &str, args: &[&str]) -> Self {
        let netns = Netns::new(name);
        let attached = host.attach(&netns, args);
        let ips = addresses(&attached);
        let servers = vec![netns.tcp_server(name, 80), netns.udp_server(name, 80)];
        Self {
            netns,
            ips,
            _servers: servers,
        }
    }
}

/// Creates a network of both families and has containers on three hosts, and the hosts, speak with each other: TCP, UDP, ping,
/// names, datagrams up to the MTU, which has to be this.
pub fn every_pair_talks(cluster: &Cluster, mtu: u16) {
    let network = cluster.network("web", &["--ipv6"]);
    assert_eq!(network["driver"], "overlay");
    assert_eq!(network["mtu"], mtu);
    assert!(network["vni"].as_u64().unwrap() > 0);
    let names = ["a1", "a2", "b1", "c1"];
    let places = [0, 0, 1, 2];
    let boxes: Vec<Guest> = names
        .iter()
        .zip(places)
        .map(|(name, at)| Guest::attach(&cluster.hosts[at], name, &["--network", "web"]))
        .collect();
    let all: Vec<IpAddr> = boxes.iter().flat_map(|one| one.ips.clone()).collect();
    let mut unique = all.clone();
    unique.sort();
    unique.dedup();
    assert_eq!(unique.len(), all.len(), "no address twice: {all:?}");
    for (from, name) in boxes.iter().zip(names) {
        for (to, other) in boxes.iter().zip(names) {
            if name == other {
                continue;
            }
            for ip in &to.ips {
                let at = SocketAddr::new(*ip, 80);
                for proto in [Proto::Tcp, Proto::Udp] {
                    let reached = from.netns.probe(proto, at, PATIENCE);
                    assert_eq!(
                        reached.name(),
                        Some(other),
                        "{name} {proto:?} {at}: {reached:?}"
                    );
                }
                assert!(from.netns.ping(*ip, PATIENCE), "{name} pings {ip}");
                datagrams_fit(&from.netns, &to.netns, *ip, mtu);
            }
            resolves(&from.netns, other, &to.ips);
        }
    }
    // The host itself, to a container of its own and to those of others, by its own address.
    for (host, netns) in cluster.hosts.iter().zip(["h1", "h2", "h3"]) {
        for (to, other) in boxes.iter().zip(names) {
            for ip in &to.ips {
                let at = SocketAddr::new(*ip, 80);
                let reached = host.netns.probe(Proto::Tcp, at, PATIENCE);
                assert_eq!(reached.name(), Some(other), "{netns} to {at}: {reached:?}");
            }
        }
    }
}

/// Datagrams of 1 byte up to what the MTU takes arrive as they are.
fn datagrams_fit(from: &Netns, to: &Netns, ip: IpAddr, mtu: u16) {
    let headers = if ip.is_ipv4() { 28 } else { 48 };
    let receiver = to.run(|| UdpSocket::bind(SocketAddr::new(ip, 9000)).unwrap());
    receiver.set_read_timeout(Some(PATIENCE)).unwrap();
    let sender = from.run(|| {
        let any: SocketAddr = if ip.is_ipv4() { "0.0.0.0:0" } else { "[::]:0" }
            .parse()
            .unwrap();
        UdpSocket::bind(any).unwrap()
    });
    let largest = usize::from(mtu) - headers;
    for size in [1, 100, largest - 50, largest] {
        let bytes = vec![7_u8; size];
        sender.send_to(&bytes, SocketAddr::new(ip, 9000)).unwrap();
        let mut buffer = vec![0; 1 << 16];
        let got = receiver.recv(&mut buffer);
        assert_eq!(got.ok(), Some(size), "{size} bytes to {ip}");
    }
}

/// A container finds another by name, sooner or later.
pub fn resolves(from: &Netns, name: &str, ips: &[IpAddr]) {
    use lab::hickory_proto::rr::RecordType::{A, AAAA};
    for (kind, ip) in [A, AAAA].into_iter().zip(ips) {
        let what = format!("{} resolves {name}", from.name());
        lab::wait_for(&what, PATIENCE, || {
            let reply =
                from.dns_query("127.0.0.11:53".parse().unwrap(), name, kind, Transport::Udp);
            reply.is_ok_and(|reply| reply.ips() == [*ip])
        });
    }
}

/// Two containers on two hosts, and a stream of datagrams from one to the other and back.
#[derive(Debug)]
pub struct Stream {
    /// Where it comes from.
    pub a: Netns,
    /// Where it goes to.
    pub b: Netns,
    _server: DatagramServer,
    load: Load,
}

impl Stream {
    /// Attaches both, and starts it once the first has passed.
    pub fn start(cluster: &Cluster, network: &str) -> Self {
        let (a, b) = (Netns::new("a"), Netns::new("b"));
        cluster.hosts[0].attach(&a, &["--network", network]);
        let attached = cluster.hosts[1].attach(&b, &["--network", network]);
        let to = SocketAddr::new(addresses(&attached)[0], 7000);
        let server = DatagramServer::start(&b, 7000);
        let answers = b.udp_server("b", 7001);
        let probe = SocketAddr::new(to.ip(), 7001);
        assert!(a.probe(Proto::Udp, probe, PATIENCE).reached());
        drop(answers);
        let load = load::datagrams(&a, "datagrams between hosts", to, u64::MAX);
        Load::go_on(std::iter::once(&load), 100);
        Self {
            a,
            b,
            _server: server,
            load,
        }
    }

    /// Waits until more have passed.
    pub fn go_on(&self) {
        Load::go_on(std::iter::once(&self.load), 300);
    }

    /// Ends it: nothing was lost.
    pub fn end(self) {
        let figures = self.load.end();
        eprintln!(
            "datagrams between hosts: {} answered, {} lost",
            figures.done, figures.lost
        );
        assert!(figures.done > 500, "{figures:?}");
        assert_eq!(figures.lost, 0, "{figures:?}");
    }
}

/// How it stands with the store: whether the word in `status` is this.
pub fn store_is(host: &Host, word: &str) -> bool {
    let status = host.api("GET", "/v1/status", "").body;
    status["store"]
        .as_str()
        .is_some_and(|text| text.starts_with(word))
}

/// Waits for that.
pub fn until_store_is(host: &Host, word: &str) {
    let what = format!("the store of {} is {word}", host.netns.name());
    lab::wait_for(&what, Duration::from_secs(60), || store_is(host, word));
}
