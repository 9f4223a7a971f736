//! What an overlay costs: packets between two hosts beside the same path made by hand (vxlan, bridge, static entries) and
//! beside the bare underlay, turn by turn; then how soon other hosts reach a new container, what an attach costs etcd and the
//! other hosts, and how long a host takes to hold 10,000 containers of others.
//!
//!     cargo bench -p netd-tests --bench overlay
//!
//! Each path is between two hosts on a switch of its own. Client and server share one processor, so what is carried says what
//! the packets cost (`netd_tests::turns`). `NETD_ROUNDS` changes how many rounds there are; `-- packets` or `-- cluster`
//! leaves the other half out. It needs `ip` and `bridge` for the path by hand, and etcd. The machine's network is not touched.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::cast_precision_loss,
    clippy::print_stdout,
    reason = "a benchmark prints its figures, and ends where something fails"
)]

use std::io;
use std::net::{IpAddr, SocketAddr, TcpStream, UdpSocket};
use std::time::{Duration, Instant};

use netd_tests::cluster::{Cluster, addresses};
use netd_tests::host::{Host, PROGRAMS};
use netd_tests::lab::{self, Netns, PATIENCE};
use netd_tests::overlay::Guest;
use netd_tests::turns::{self, Traffic, Turn, pin, quantile, ratio};
use serde_json::json;

/// Rounds of one turn for each path and kind of traffic.
const ROUNDS: usize = 300;
/// One turn: some 4 ms on one processor.
const STREAMED: usize = 6 << 20;
const EXCHANGES: u32 = 200;
const DATAGRAMS: usize = 640;
/// Datagrams under way: fewer than any buffer on the way takes, so that none is lost.
const WINDOW: usize = 32;
/// The largest that fits.
const DATAGRAM: usize = 1422;
const STREAMS: usize = 8;
const PORT: u16 = 8000;

fn main() {
    lab::dispatch(PROGRAMS);
    lab::enter();
    let only = |word: &str| std::env::args().any(|arg| arg == word);
    if !only("packets") {
        cluster();
    }
    if !only("cluster") {
        packets();
    }
}

// ---- packets --------------------------------------------------------------------------------------------------------

/// Kinds of traffic with their units. A turn says how many of them passed a second.
const KINDS: [(&str, Turn<Path>); 4] = [
    ("TCP, 1 stream, Gbit/s", |path| path.stream(1)),
    ("TCP, 8 streams, Gbit/s", |path| path.stream(STREAMS)),
    ("TCP request/response, k/s", |path| {
        turns::exchange(&mut path.turns, EXCHANGES)
    }),
    ("UDP of 1,422 bytes, none lost, k/s", Path::datagrams),
];

/// One way from a client to a server, with connections that stay open.
struct Path {
    streams: Vec<TcpStream>,
    turns: TcpStream,
    datagrams: UdpSocket,
}

fn packets() {
    pin();
    let rounds = turns::rounds(ROUNDS);
    let mut cluster = Cluster::prepare(&["h1", "h2"], 1);
    cluster
        .hosts
        .iter()
        .for_each(|host| host.netns.filter_bridged(false));
    cluster.start_daemons();
    cluster.network("web", &[]);
    let a = Guest::attach(&cluster.hosts[0], "a", &["--network", "web"]);
    let b = Guest::attach(&cluster.hosts[1], "b", &["--network", "web"]);
    let hand = Hand::new();
    let mut paths = [
        Path::new(&a.netns, &b.netns, b.ips[0]),
        Path::new(&hand.containers[0], &hand.containers[1], ip("10.9.0.2")),
        Path::new(&hand.hosts[0], &hand.hosts[1], ip("192.0.2.2")),
    ];
    let rates = turns::compare(&mut paths, &KINDS, rounds);
    println!(
        "\n{rounds} rounds; median [quartiles] of the ratios (aim: netd / by hand at least 0.97)"
    );
    for (kind, (name, _)) in KINDS.iter().enumerate() {
        let [netd, hand, bare] = [0, 1, 2].map(|path| &rates[path][kind]);
        println!(
            "  {name:<36} by hand {:>8.1}   netd / by hand {}   netd / underlay {}",
            quantile(hand, 0.5),
            ratio(netd, hand),
            ratio(netd, bare),
        );
    }
    for host in &cluster.hosts {
        host.assert_healthy();
    }
}

fn ip(text: &str) -> IpAddr {
    text.parse().expect("an address")
}

/// The same path by hand.
struct Hand {
    hosts: [Netns; 2],
    containers: [Netns; 2],
    _switch: Netns,
}

impl Hand {
    fn new() -> Self {
        let hosts = ["hand1", "hand2"].map(Netns::host);
        hosts.iter().for_each(|host| host.filter_bridged(false));
        let ends = [
            hosts[0].end("eth0", &["192.0.2.1/24"]),
            hosts[1].end("eth0", &["192.0.2.2/24"]),
        ];
        let switch = lab::lan(&ends);
        let containers = ["left", "right"].map(Netns::host);
        let macs = ["02:00:00:00:00:01", "02:00:00:00:00:02"];
        for (n, host) in hosts.iter().enumerate() {
            let own = &containers[n];
            host.add_bridge("br0");
            lab::veth(own.end("eth0", &[]), host.end("port0", &[]));
            for (netns, words) in [
                (own, format!("link set eth0 address {} mtu 1450", macs[n])),
                (own, format!("address add 10.9.0.{}/24 dev eth0", n + 1)),
                (host, "link set port0 mtu 1450 master br0".to_owned()),
                (
                    host,
                    format!(
                        "link add vx0 type vxlan id 7 local 192.0.2.{} dstport 4789 nolearning",
                        n + 1
                    ),
                ),
                (host, "link set vx0 mtu 1450 master br0 up".to_owned()),
            ] {
                run(netns, "ip", &words);
            }
        }
        for (n, host) in hosts.iter().enumerate() {
            let (mac, other) = (macs[1 - n], 2 - n);
            for destination in [mac, "00:00:00:00:00:00"] {
                let words =
                    format!("fdb append {destination} dev vx0 dst 192.0.2.{other} permanent");
                run(host, "bridge", &words);
            }
        }
        Self {
            hosts,
            containers,
            _switch: switch,
        }
    }
}

fn run(netns: &Netns, program: &str, words: &str) {
    let words: Vec<&str> = words.split(' ').collect();
    let done = netns.command(program, &words).output().expect("ip runs");
    assert!(done.status.success(), "{program} {words:?}: {done:?}");
}

impl Path {
    fn new(client: &Netns, server: &Netns, to: IpAddr) -> Self {
        turns::serve(server, PORT, WINDOW);
        let to = SocketAddr::new(to, PORT);
        let stream = || turns::open(client, to, Traffic::Stream);
        Self {
            streams: (0..STREAMS).map(|_| stream()).collect(),
            turns: turns::open(client, to, Traffic::Exchange),
            datagrams: turns::datagrams(client, to),
        }
    }

    /// Several at once share what is sent; each is confirmed.
    fn stream(&mut self, count: usize) -> io::Result<f64> {
        let each = STREAMED / count;
        let begin = Instant::now();
        let ends: Vec<io::Result<()>> = std::thread::scope(|scope| {
            let streams = self.streams.iter_mut().take(count);
            let threads: Vec<_> = streams
                .map(|stream| scope.spawn(move || turns::send(stream, each)))
                .collect();
            threads
                .into_iter()
                .map(|thread| thread.join().expect("it sends"))
                .collect()
        });
        ends.into_iter().collect::<io::Result<()>>()?;
        Ok(STREAMED as f64 * 8.0 / 1e9 / begin.elapsed().as_secs_f64())
    }

    /// One answer for each window: all of it has arrived.
    fn datagrams(&mut self) -> io::Result<f64> {
        let bytes = [0; DATAGRAM];
        let begin = Instant::now();
        for _ in 0..DATAGRAMS / WINDOW {
            for _ in 0..WINDOW {
                self.datagrams.send(&bytes)?;
            }
            self.datagrams.recv(&mut [0])?;
        }
        Ok(DATAGRAMS as f64 / 1e3 / begin.elapsed().as_secs_f64())
    }
}

// ---- the cluster ----------------------------------------------------------------------------------------------------

/// Attaches that are measured.
const ATTACHES: usize = 100;
/// Containers of others that a host learns of at once.
const RESYNC: usize = 10_000;

fn cluster() {
    let mut cluster = Cluster::start(&["h1", "h2", "h3"], 1);
    let network = cluster.network("web", &["--subnet", "10.64.0.0/16"]);
    let net = network["id"].as_str().expect("an id").to_owned();
    // A host that is only in the store: its blocks, so that nobody else claims them.
    cluster.store[0].put_all(&records_of_host(&net));
    let places = cluster.hosts.iter().zip(["a", "b", "c"]);
    let guests: Vec<Guest> = places
        .map(|(host, name)| Guest::attach(host, name, &["--network", "web"]))
        .collect();
    for from in &guests {
        for to in &guests {
            netd_tests::overlay::resolves(&from.netns, to.netns.name(), &to.ips);
        }
    }
    convergence(&cluster, &guests);
    for others in [10, 1_000] {
        cluster.store[0].put_all(&records_of_containers(&net, others));
        settled(&cluster.hosts[1], &net, others);
        cost(&cluster, others);
    }
    resync(&mut cluster, &net);
}

/// How long until the kernel holds all of many containers elsewhere: on a host that is told of them as they are written, and on
/// one that finds them at its start.
fn resync(cluster: &mut Cluster, net: &str) {
    cluster.hosts[2].stop_daemon();
    let begin = Instant::now();
    cluster.store[0].put_all(&records_of_containers(net, RESYNC));
    let written = begin.elapsed();
    settled(&cluster.hosts[1], net, RESYNC);
    let told = begin.elapsed().saturating_sub(written);
    let host = &mut cluster.hosts[2];
    let begin = Instant::now();
    host.start_daemon();
    settled(host, net, RESYNC);
    println!(
        "{RESYNC} containers elsewhere: a daemon that starts holds them in the kernel after {:.2} s, one that was told of them as \
         they were written (in {:.2} s) {:.2} s later (aim: under 1 s)",
        begin.elapsed().as_secs_f64(),
        written.as_secs_f64(),
        told.as_secs_f64(),
    );
    host.assert_healthy();
}

/// From the attach on one host to the first reply on another.
fn convergence(cluster: &Cluster, guests: &[Guest]) {
    let (mut asked, mut answered) = (Vec::new(), Vec::new());
    for n in 0..ATTACHES {
        let name = format!("n{n}");
        let netns = Netns::new(&name);
        let _server = netns.udp_server(&name, 80);
        let from = &guests[1 + n % 2].netns;
        let socket = from.run(|| UdpSocket::bind("0.0.0.0:0")).expect("a socket");
        socket.set_nonblocking(true).expect("a socket");
        let body = json!({"netns": netns.path(), "name": name, "networks": [{"network": "web"}]});
        let begin = Instant::now();
        let made = cluster.hosts[0].api("POST", "/v1/containers", &body.to_string());
        let made_at = begin.elapsed();
        let to = SocketAddr::new(addresses(&made.body)[0], 80);
        let mut sent = Instant::now();
        socket.send_to(b"?", to).expect("a route");
        while socket.recv(&mut [0; 100]).is_err() {
            if sent.elapsed() > Duration::from_millis(2) {
                // What is under way is not lost by that: each is answered.
                let _ = socket.send_to(b"?", to);
                sent = Instant::now();
            }
            std::thread::sleep(Duration::from_micros(100));
            assert!(begin.elapsed() < PATIENCE, "{name} is not reached");
        }
        let replied = begin.elapsed();
        asked.push(replied.as_secs_f64() * 1e3);
        answered.push(replied.saturating_sub(made_at).as_secs_f64() * 1e3);
        cluster.hosts[0].ok(&["detach", &name]);
    }
    for (what, times) in [("asked for", &asked), ("answered", &answered)] {
        println!(
            "first reply on another host after an attach was {what}: p50 {:.1} ms, p99 {:.1} ms (aim: p99 under 50 ms)",
            quantile(times, 0.5),
            quantile(times, 0.99)
        );
    }
}

/// What attaches cost etcd and another host, where there are so many containers elsewhere.
fn cost(cluster: &Cluster, others: usize) {
    let (etcd, other) = (&cluster.store[0], &cluster.hosts[1]);
    let before = (etcd.revision(), lab::cpu_time(other.pid()));
    let sandboxes: Vec<Netns> = (0..ATTACHES)
        .map(|n| Netns::new(&format!("m{n}")))
        .collect();
    for sandbox in &sandboxes {
        cluster.hosts[0].attach(sandbox, &["--network", "web"]);
    }
    let keys = etcd.keys();
    let of_attach = keys
        .iter()
        .filter(|(key, ..)| key.starts_with("endpoints/h1/"));
    let bytes: Vec<f64> = of_attach
        .map(|(key, _, value)| (key.len() + value) as f64)
        .collect();
    let writes = etcd.revision() - before.0;
    for sandbox in &sandboxes {
        cluster.hosts[0].ok(&["detach", sandbox.name()]);
    }
    lab::wait_for("the other host has followed", PATIENCE, || {
        other.plan().is_empty()
    });
    let used = lab::cpu_time(other.pid()).saturating_sub(before.1);
    println!(
        "{others} containers elsewhere: an attach wrote etcd {:.2} times, a key and value of {:.0} bytes; an attach with its detach took another \
         host {:.2} ms of a processor",
        writes as f64 / ATTACHES as f64,
        quantile(&bytes, 0.5),
        used.as_secs_f64() * 1e3 / ATTACHES as f64,
    );
}

/// Waits until the kernel holds so many containers of the host that is only in the store.
fn settled(host: &Host, net: &str, count: usize) {
    let device = format!("ndx-{}", &net[..8]);
    let what = format!("{count} entries on {}", host.netns.name());
    lab::wait_for(&what, PATIENCE, || {
        let words = ["fdb", "show", "dev", &device];
        let output = host
            .netns
            .command("bridge", &words)
            .output()
            .expect("bridge runs");
        let text = String::from_utf8_lossy(&output.stdout).into_owned();
        text.matches(" dst 192.0.2.200").count() >= count
    });
}

const VERSION: &str = r#""version":{"major":1,"minor":0}"#;

fn records_of_host(net: &str) -> Vec<(String, String)> {
    let node = format!(
        r#"{{{VERSION},"id":"f","incarnation":"f","address":"192.0.2.200","mtu":1500,"software":"x"}}"#
    );
    let alive = format!(r#"{{{VERSION},"incarnation":"f"}}"#);
    let mut records = vec![
        ("nodes/f".to_owned(), node),
        ("nodes/f/alive".to_owned(), alive),
    ];
    for block in 0..=RESYNC / 250 {
        let key = format!("blocks/{net}/10.64.{}.0-24", 100 + block);
        let claim = format!(
            r#"{{{VERSION},"node":"f","id":"f","router":{}}}"#,
            block == 0
        );
        records.push((key, claim));
    }
    let member = format!(r#"{{{VERSION},"mac":"02:ff:00:00:00:00","ips":["10.64.100.254"]}}"#);
    records.push((format!("endpoints/f/{net}"), member));
    records
}

fn records_of_containers(net: &str, count: usize) -> Vec<(String, String)> {
    let record = |n: usize| {
        let ip = format!("10.64.{}.{}", 100 + n / 250, 1 + n % 250);
        let (high, low) = (n >> 8, n & 255);
        let value = format!(
            r#"{{{VERSION},"mac":"02:ff:01:00:{high:02x}:{low:02x}","ips":["{ip}"],"name":"f{n}","hostname":"f{n}"}}"#
        );
        (format!("endpoints/f/{net}/f{n:05}"), value)
    };
    (0..count).map(record).collect()
}
