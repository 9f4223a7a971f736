//! What a packet costs on its way through a published port, with 10 and with 10,000 ports programmed by netd, beside the
//! same path made by hand: a bridge, a veth pair and one rule that rewrites the destination.
//!
//!     cargo bench -p netd-tests --bench packets
//!
//! Each path has a client, a host and a container of its own. Client and server share one processor, so what is carried
//! says what the packets cost. Turns are short and taken one after the other, path by path in changing order; each
//! turn of netd's is compared with the hand-made one of its round. Of these ratios the median and the quartiles are
//! printed. On a busy machine run it under `nice -n -20`; `NETD_ROUNDS` changes how many rounds there are.

#![allow(
    clippy::expect_used,
    clippy::cast_precision_loss,
    clippy::print_stdout,
    reason = "a benchmark prints its figures, and ends where something fails"
)]

use std::io::{self, Read, Write};
use std::net::{Ipv4Addr, SocketAddr, TcpStream, UdpSocket};
use std::time::Instant;

use netd_tests::host::{Host, PROGRAMS};
use netd_tests::lab::{self, Netns};
use netd_tests::turns::{self, Traffic, Turn, pin, quantile, ratio};

/// Rounds of one turn for each path and kind of traffic.
const ROUNDS: usize = 1000;
/// One turn: some 4 ms on one processor.
const STREAMED: usize = 6 << 20;
const EXCHANGES: u32 = 200;
const CONNECTIONS: u32 = 40;

/// Where the host answers, for the client.
const HOST: Ipv4Addr = Ipv4Addr::new(192, 0, 2, 1);
const PORT: u16 = 8000;
/// Where the container listens.
const INSIDE: u16 = 80;

fn main() {
    lab::dispatch(PROGRAMS);
    lab::enter();
    pin();
    let rounds = turns::rounds(ROUNDS);
    let mut paths = [
        by_hand(),
        by_netd("10 ports", 10),
        by_netd("10,000 ports", 10_000),
    ];
    let rates = turns::compare(&mut paths, &KINDS, rounds);
    println!("\n{rounds} rounds; netd / made by hand: median [quartiles] (aim: at least 0.95)");
    for (kind, (name, _)) in KINDS.iter().enumerate() {
        let [hand, few, many] = [0, 1, 2].map(|path| &rates[path][kind]);
        println!(
            "  {name:<26} by hand {:>9.1}   10 ports {}   10,000 ports {}",
            quantile(hand, 0.5),
            ratio(few, hand),
            ratio(many, hand),
        );
    }
}

/// Kinds of traffic with their units. A turn says how many of them passed a second.
const KINDS: [(&str, Turn<Path>); 4] = [
    ("TCP stream, Gbit/s", Path::stream),
    ("TCP request/response, k/s", |path| {
        turns::exchange(&mut path.turns, EXCHANGES)
    }),
    ("TCP connections, k/s", Path::connect),
    ("UDP request/response, k/s", Path::datagrams),
];

/// One way from a client through a host to a container, with connections that stay open.
struct Path {
    client: Netns,
    stream: TcpStream,
    turns: TcpStream,
    datagrams: UdpSocket,
    /// What has to live as long.
    _host: Made,
    _containers: Vec<Netns>,
}

/// Who made the host.
#[allow(dead_code, reason = "held, not read")]
enum Made {
    Hand(Netns),
    Netd(Box<Host>),
}

impl Path {
    fn new(client: Netns, host: Made, containers: Vec<Netns>) -> Self {
        turns::serve(&containers[0], INSIDE, 1);
        let to = SocketAddr::new(HOST.into(), PORT);
        Self {
            stream: turns::open(&client, to, Traffic::Stream),
            turns: turns::open(&client, to, Traffic::Exchange),
            datagrams: turns::datagrams(&client, to),
            client,
            _host: host,
            _containers: containers,
        }
    }

    fn stream(&mut self) -> io::Result<f64> {
        let begin = Instant::now();
        turns::send(&mut self.stream, STREAMED)?;
        Ok(STREAMED as f64 * 8.0 / 1e9 / begin.elapsed().as_secs_f64())
    }

    fn connect(&mut self) -> io::Result<f64> {
        self.client.run(|| {
            // Entering the namespace is no part of it.
            let begin = Instant::now();
            for _ in 0..CONNECTIONS {
                let mut stream = TcpStream::connect((HOST, PORT))?;
                stream.write_all(&[Traffic::Once.byte()])?;
                // The answer, and the end: the server closes first, and the client's port is free again.
                stream.read_exact(&mut [0])?;
                assert_eq!(stream.read(&mut [0])?, 0);
            }
            Ok(f64::from(CONNECTIONS) / 1e3 / begin.elapsed().as_secs_f64())
        })
    }

    fn datagrams(&mut self) -> io::Result<f64> {
        let begin = Instant::now();
        for _ in 0..EXCHANGES {
            self.datagrams.send(&[1])?;
            self.datagrams.recv(&mut [0])?;
        }
        Ok(f64::from(EXCHANGES) / 1e3 / begin.elapsed().as_secs_f64())
    }
}

/// A host on a wire with its client. br_netfilter is off, as on a host where nobody loaded it.
fn wired(name: &str) -> (Netns, Netns) {
    let (client, host) = (Netns::host("client"), Netns::host(name));
    lab::veth(
        client.end("eth0", &["192.0.2.2/24"]),
        host.end("eth0", &["192.0.2.1/24"]),
    );
    host.filter_bridged(false);
    (client, host)
}

fn by_hand() -> Path {
    let (client, host) = wired("by hand");
    let container = Netns::host("container");
    host.add_bridge("br0");
    host.add_address("br0", "172.16.0.1/20");
    lab::veth(
        container.end("eth0", &["172.16.0.2/20"]),
        host.end("port0", &[]),
    );
    host.set_master("port0", "br0");
    container.add_route("default", "172.16.0.1");
    host.forwarding();
    let rules = format!(
        "add table ip hand; \
         add chain ip hand pre {{ type nat hook prerouting priority dstnat; }}; \
         add rule ip hand pre ip daddr {HOST} tcp dport {PORT} dnat to 172.16.0.2:{INSIDE}; \
         add rule ip hand pre ip daddr {HOST} udp dport {PORT} dnat to 172.16.0.2:{INSIDE}"
    );
    let done = host.command("nft", &[rules]).status().expect("nft runs");
    assert!(done.success(), "nft: {done}");
    Path::new(client, Made::Hand(host), vec![container])
}

/// A host whose netd has published the asked ports, and others until there are this many.
fn by_netd(name: &str, ports: u16) -> Path {
    let (client, host) = wired(name);
    host.forwarding();
    let host = Host::on(host);
    host.ok(&["network", "create", "web"]);
    let container = Netns::host("container");
    let [tcp, udp] = ["tcp", "udp"].map(|proto| format!("{PORT}:{INSIDE}/{proto}"));
    host.attach(
        &container,
        &["--network=web", "--publish", &tcp, "--publish", &udp],
    );
    let mut containers = vec![container];
    let others = (20_000..20_000 + ports - 2).step_by(EACH.into());
    for (number, first) in others.enumerate() {
        let last = (first + EACH).min(20_000 + ports - 2) - 1;
        let range = format!("{first}-{last}:{first}-{last}");
        let other = Netns::host(&format!("other{number}"));
        host.attach(&other, &["--network=web", "--publish", &range]);
        containers.push(other);
    }
    Path::new(client, Made::Netd(Box::new(host)), containers)
}

/// Ports of one container of those that nobody asks.
const EACH: u16 = 2_000;
