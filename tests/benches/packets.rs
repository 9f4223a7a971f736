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
use std::net::{TcpListener, TcpStream, UdpSocket};
use std::time::Instant;

use netd_tests::host::{Host, PROGRAMS};
use netd_tests::lab::{self, Netns};
use netd_tests::turns::{pin, quantile, ratio};

/// Rounds of one turn for each path and kind of traffic.
const ROUNDS: usize = 1000;
/// One turn: some 4 ms on one processor.
const STREAMED: usize = 6 << 20;
const EXCHANGES: usize = 200;
const CONNECTIONS: usize = 40;

/// Where the host answers, for the client.
const HOST: &str = "192.0.2.1";
const PORT: u16 = 8000;
/// Where the container listens.
const INSIDE: u16 = 80;

/// What a client says first on a connection.
const STREAM: u8 = b's';
const TURNS: u8 = b't';
const ONCE: u8 = b'o';

fn main() {
    lab::dispatch(PROGRAMS);
    lab::enter();
    pin();
    let rounds = std::env::var("NETD_ROUNDS").map_or(ROUNDS, |text| {
        text.parse().expect("NETD_ROUNDS is a number")
    });
    let mut paths = [
        by_hand(),
        by_netd("10 ports", 10),
        by_netd("10,000 ports", 10_000),
    ];
    let mut rates: [[Vec<f64>; KINDS.len()]; 3] = Default::default();
    for round in 0..rounds + WARM_UP {
        for (kind, (_, turn)) in KINDS.iter().enumerate() {
            for step in 0..paths.len() {
                let which = (round + step) % paths.len();
                let rate = turn(&mut paths[which]).expect("traffic passes");
                if round >= WARM_UP {
                    rates[which][kind].push(rate);
                }
            }
        }
    }
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

/// Rounds that are not counted.
const WARM_UP: usize = 5;

type Turn = fn(&mut Path) -> io::Result<f64>;

/// Kinds of traffic with their units. A turn says how many of them passed a second.
const KINDS: [(&str, Turn); 4] = [
    ("TCP stream, Gbit/s", Path::stream),
    ("TCP request/response, k/s", Path::exchange),
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
        serve(&containers[0]);
        let open = |first: u8| {
            let mut stream = client.run(|| TcpStream::connect((HOST, PORT)))?;
            stream.set_nodelay(true)?;
            stream.write_all(&[first])?;
            Ok::<_, io::Error>(stream)
        };
        let datagrams = client.run(|| {
            let socket = UdpSocket::bind("0.0.0.0:0")?;
            socket.connect((HOST, PORT)).map(|()| socket)
        });
        Self {
            stream: open(STREAM).expect("the published port answers"),
            turns: open(TURNS).expect("the published port answers"),
            datagrams: datagrams.expect("a socket"),
            client,
            _host: host,
            _containers: containers,
        }
    }

    fn stream(&mut self) -> io::Result<f64> {
        let buffer = vec![0; 64 << 10];
        let begin = Instant::now();
        for _ in 0..STREAMED / buffer.len() {
            self.stream.write_all(&buffer)?;
        }
        // The server says when it has all of it.
        self.stream.read_exact(&mut [0])?;
        Ok(STREAMED as f64 * 8.0 / 1e9 / begin.elapsed().as_secs_f64())
    }

    fn exchange(&mut self) -> io::Result<f64> {
        let begin = Instant::now();
        for _ in 0..EXCHANGES {
            self.turns.write_all(&[TURNS])?;
            self.turns.read_exact(&mut [0])?;
        }
        Ok(EXCHANGES as f64 / 1e3 / begin.elapsed().as_secs_f64())
    }

    fn connect(&mut self) -> io::Result<f64> {
        self.client.run(|| {
            // Entering the namespace is no part of it.
            let begin = Instant::now();
            for _ in 0..CONNECTIONS {
                let mut stream = TcpStream::connect((HOST, PORT))?;
                stream.write_all(&[ONCE])?;
                // The answer, and the end: the server closes first, and the client's port is free again.
                stream.read_exact(&mut [0])?;
                assert_eq!(stream.read(&mut [0])?, 0);
            }
            Ok(CONNECTIONS as f64 / 1e3 / begin.elapsed().as_secs_f64())
        })
    }

    fn datagrams(&mut self) -> io::Result<f64> {
        let begin = Instant::now();
        for _ in 0..EXCHANGES {
            self.datagrams.send(&[TURNS])?;
            self.datagrams.recv(&mut [0])?;
        }
        Ok(EXCHANGES as f64 / 1e3 / begin.elapsed().as_secs_f64())
    }
}

/// The servers in a container. They end with the process.
fn serve(container: &Netns) {
    let listener = container.run(|| TcpListener::bind(("0.0.0.0", INSIDE)));
    let listener = listener.expect("a free port");
    container.spawn(move || {
        for stream in listener.incoming() {
            let mut stream = stream.expect("a connection");
            let mut first = [0];
            stream.read_exact(&mut first).expect("the kind of traffic");
            match first[0] {
                ONCE => stream.write_all(&first).expect("the client listens"),
                STREAM => drop(std::thread::spawn(|| take(stream))),
                _ => drop(std::thread::spawn(|| echo(stream))),
            }
        }
    });
    let socket = container.run(|| UdpSocket::bind(("0.0.0.0", INSIDE)));
    let socket = socket.expect("a free port");
    container.spawn(move || {
        let mut byte = [0];
        while let Ok((_, from)) = socket.recv_from(&mut byte) {
            socket.send_to(&byte, from).expect("the client is there");
        }
    });
}

/// Takes turns of a stream and confirms each.
fn take(mut stream: TcpStream) -> io::Result<()> {
    let mut buffer = vec![0; 64 << 10];
    let mut left = STREAMED;
    loop {
        let got = stream.read(&mut buffer)?;
        if got == 0 {
            return Ok(());
        }
        left -= got;
        if left == 0 {
            stream.write_all(&[STREAM])?;
            left = STREAMED;
        }
    }
}

fn echo(mut stream: TcpStream) -> io::Result<()> {
    stream.set_nodelay(true)?;
    let mut byte = [0];
    loop {
        stream.read_exact(&mut byte)?;
        stream.write_all(&byte)?;
    }
}

/// A host on a wire with its client. br_netfilter is off, as on a host where nobody loaded it.
fn wired(name: &str) -> (Netns, Netns) {
    let (client, host) = (Netns::host("client"), Netns::host(name));
    lab::veth(
        client.end("eth0", &["192.0.2.2/24"]),
        host.end("eth0", &["192.0.2.1/24"]),
    );
    for program in ["iptables", "ip6tables", "arptables"] {
        let setting = format!("net/bridge/bridge-nf-call-{program}");
        if host.sysctl(&setting).is_some() {
            host.set_sysctl(&setting, "0");
        }
    }
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
