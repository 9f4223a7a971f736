//! What the DNS costs: netd through 127.0.0.11 beside dnsmasq, unbound and a bare UDP echo on the same runtime, which is the
//! floor. Same names, same client, same namespace, turn by turn.
//!
//! `cargo bench -p netd-tests --bench dns`; `NETD_BENCH_CONTAINERS=100` for fewer than 1,000 containers. Peers that are not
//! installed are named. The machine's own network is not touched.

#![allow(
    clippy::expect_used,
    clippy::cast_possible_truncation,
    clippy::cast_precision_loss,
    clippy::cast_sign_loss,
    clippy::print_stdout,
    reason = "a benchmark prints its figures, and ends where something fails"
)]

use std::fmt::Write as _;
use std::net::{SocketAddr, UdpSocket};
use std::path::Path;
use std::process::Command;
use std::time::{Duration, Instant};

use netd_tests::host::{Host, PROGRAMS};
use netd_tests::lab::hickory_proto::op::{Message, Query};
use netd_tests::lab::hickory_proto::rr::{Name, RecordType};
use netd_tests::lab::{self, Netns, PATIENCE};

/// Names that are asked for, in turn.
const NAMES: usize = 100;
/// Queries under way in the runs for throughput.
const WINDOW: usize = 64;
/// How long each run takes.
const RUN: Duration = Duration::from_secs(3);
/// Queries per second of the runs for latency.
const RATE: u32 = 10_000;

fn main() {
    let programs: Vec<(&str, lab::Program)> = PROGRAMS
        .iter()
        .copied()
        .chain([("__echo", echo as lab::Program)])
        .collect();
    lab::dispatch(&programs);
    lab::enter();
    let many =
        std::env::var("NETD_BENCH_CONTAINERS").map_or(1000, |n| n.parse().expect("a number"));
    let netns = Netns::host("dns");
    // Takes questions and never answers.
    let dead = netns.run(|| UdpSocket::bind("127.0.0.2:53").expect("the host's loopback is up"));
    let host = Host::with_resolvers(netns, "nameserver 127.0.0.2\n");
    host.ok(&["network", "create", "web"]);
    let names: Vec<String> = (0..NAMES).map(|n| format!("n{n}")).collect();
    let aliases: String = names
        .iter()
        .fold("web".to_owned(), |all, name| all + ",alias=" + name);
    let shop = Netns::new("shop");
    host.attach(&shop, &["--network", &aliases]);
    let queries: Vec<Vec<u8>> = names
        .iter()
        .map(|name| question(&format!("{name}.web")))
        .collect();

    println!(
        "{:<26} {:>9} {:>9} {:>7} {:>8} {:>8} {:>8}",
        "", "queries/s", "us CPU/q", "lost", "p50 us", "p99 us", "RSS kB"
    );
    let echo = Process::start(&shop, &mut shop.self_command("__echo", &["127.0.0.1:5300"]));
    let floor = measure(
        &shop,
        "bare UDP echo",
        ([127, 0, 0, 1], 5300).into(),
        echo.0.id(),
        &queries,
    );
    drop(echo);
    let ours = measure(&shop, "netd, 1 container", server(), host.pid(), &queries);
    peers(&shop, &names, &queries);
    let mut existing = Vec::new();
    for number in 1..many {
        let netns = Netns::new(&format!("c{number}"));
        host.attach(&netns, &["--network", "web"]);
        existing.push(netns);
    }
    let crowded = measure(
        &shop,
        &format!("netd, {many} containers"),
        server(),
        host.pid(),
        &queries,
    );
    let asking = shop.spawn(|| ask_the_dead(Instant::now() + RUN * 2));
    let label = "netd, upstreams dead";
    let outage = measure(&shop, label, server(), host.pid(), &queries);
    asking.join().expect("the asker ends");
    drop(dead);
    println!(
        "\nCPU per query, netd / echo: {:.2} (aim: at most 1.3)",
        ours.cpu / floor.cpu
    );
    println!(
        "CPU per query, {many} containers / 1: {:.2} (aim: 1)",
        crowded.cpu / ours.cpu
    );
    println!(
        "p99 at {RATE}/s: {:.0} us (aim: under 100), echo {:.0} us",
        ours.p99, floor.p99
    );
    println!(
        "p99 at {RATE}/s with all upstreams dead: {:.0} us",
        outage.p99
    );
}

fn server() -> SocketAddr {
    ([127, 0, 0, 11], 53).into()
}

/// The floor: one task that sends back what it gets, on a runtime like the daemon's.
fn echo(args: &[String]) -> i32 {
    let address: SocketAddr = args[0].parse().expect("an address");
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(2)
        .enable_all()
        .build();
    runtime.expect("a runtime").block_on(async {
        let serve = tokio::spawn(async move {
            let socket = tokio::net::UdpSocket::bind(address)
                .await
                .expect("it can be bound");
            let mut buffer = [0; 4096];
            loop {
                let (length, client) = socket.recv_from(&mut buffer).await.expect("a datagram");
                let _ = socket.send_to(&buffer[..length], client).await;
            }
        });
        drop(serve.await);
    });
    0
}

/// Servers of others with the same names, where they are installed.
fn peers(shop: &Netns, names: &[String], queries: &[Vec<u8>]) {
    let dir = lab::scratch("peers");
    let records = |line: &dyn Fn(usize, &String) -> String| -> String {
        names
            .iter()
            .enumerate()
            .map(|(n, name)| line(n, name))
            .collect()
    };
    let hosts = dir.join("hosts");
    std::fs::write(
        &hosts,
        records(&|n, name| format!("10.89.0.{} {name}.web\n", n + 1)),
    )
    .expect("a file");
    let dnsmasq = [
        "-k",
        "--no-resolv",
        "--no-hosts",
        "--listen-address=127.0.0.1",
        "--bind-interfaces",
        "--port=5301",
        "--cache-size=1000",
        "--conf-file=/dev/null",
        "--user=root",
        "--pid-file=",
    ];
    let more = format!("--addn-hosts={}", hosts.display());
    peer(
        shop,
        "dnsmasq",
        "/usr/sbin/dnsmasq",
        &[&dnsmasq[..], &[&more]].concat(),
        5301,
        queries,
    );
    let conf = dir.join("unbound.conf");
    let mut text = format!(
        "server:\n interface: 127.0.0.1@5302\n num-threads: 2\n so-reuseport: yes\n do-daemonize: no\n username: \"\"\n \
         chroot: \"\"\n pidfile: \"\"\n use-syslog: no\n directory: \"{}\"\n access-control: 127.0.0.0/8 allow\n \
         local-zone: \"web.\" static\n",
        dir.display()
    );
    let _ = write!(
        text,
        "{}",
        records(&|n, name| format!(" local-data: \"{name}.web. 5 IN A 10.89.0.{}\"\n", n + 1))
    );
    text.push_str("remote-control:\n control-enable: no\n");
    std::fs::write(&conf, text).expect("a file");
    peer(
        shop,
        "unbound",
        "/usr/sbin/unbound",
        &["-c", &conf.to_string_lossy()],
        5302,
        queries,
    );
}

fn peer(shop: &Netns, name: &str, program: &str, args: &[&str], port: u16, queries: &[Vec<u8>]) {
    if !Path::new(program).exists() {
        println!("{name:<26} NOT INSTALLED: apt-get install {name}");
        return;
    }
    let process = Process::start(shop, &mut shop.command(program, args));
    measure(
        shop,
        name,
        ([127, 0, 0, 1], port).into(),
        process.0.id(),
        queries,
    );
}

/// A server that ends with the value.
struct Process(std::process::Child);

impl Process {
    fn start(_: &Netns, command: &mut Command) -> Self {
        let null = std::process::Stdio::null;
        Self(
            command
                .stdout(null())
                .stderr(null())
                .spawn()
                .expect("it starts"),
        )
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

struct Figures {
    cpu: f64,
    p99: f64,
}

/// Throughput, CPU per query, then latency at a fixed rate; prints a line.
fn measure(
    shop: &Netns,
    label: &str,
    server: SocketAddr,
    pid: u32,
    queries: &[Vec<u8>],
) -> Figures {
    shop.run(|| {
        let socket = UdpSocket::bind("127.0.0.1:0").expect("a socket");
        socket.connect(server).expect("a route");
        lab::wait_for("the server answers", PATIENCE, || {
            socket
                .set_read_timeout(Some(Duration::from_millis(100)))
                .expect("a time");
            socket.send(&queries[0]).is_ok() && socket.recv(&mut [0; 512]).is_ok()
        });
        // What came twice while it started.
        socket.set_nonblocking(true).expect("it can");
        while socket.recv(&mut [0; 512]).is_ok() {}
        socket.set_nonblocking(false).expect("it can");
        throughput(&socket, queries, Duration::from_millis(300));
        let (begin, before) = (Instant::now(), lab::cpu_time(pid));
        let (answered, lost) = throughput(&socket, queries, RUN);
        let cpu = lab::cpu_time(pid).saturating_sub(before).as_secs_f64() * 1e6 / answered as f64;
        let rate = answered as f64 / begin.elapsed().as_secs_f64();
        let mut times = latency(&socket, queries);
        times.sort_unstable();
        let at =
            |share: f64| times[((times.len() - 1) as f64 * share) as usize].as_secs_f64() * 1e6;
        let (median, p99) = (at(0.5), at(0.99));
        println!(
            "{label:<26} {rate:>9.0} {cpu:>9.2} {lost:>7} {median:>8.0} {p99:>8.0} {:>8}",
            resident(pid)
        );
        Figures { cpu, p99 }
    })
}

/// Keeps [`WINDOW`] queries under way. How many were answered, and how many not.
fn throughput(socket: &UdpSocket, queries: &[Vec<u8>], time: Duration) -> (u64, u64) {
    socket
        .set_read_timeout(Some(Duration::from_millis(200)))
        .expect("a time");
    let end = Instant::now() + time;
    let (mut answered, mut lost, mut under_way) = (0, 0, 0);
    let mut turn = queries.iter().cycle();
    let mut buffer = [0; 512];
    while Instant::now() < end {
        while under_way < WINDOW {
            socket
                .send(turn.next().expect("there are queries"))
                .expect("it can be sent");
            under_way += 1;
        }
        if socket.recv(&mut buffer).is_ok() {
            answered += 1;
            under_way -= 1;
        } else {
            lost += under_way as u64;
            under_way = 0;
        }
    }
    while under_way > 0 && socket.recv(&mut buffer).is_ok() {
        under_way -= 1;
    }
    (answered, lost)
}

/// A query each 1/[`RATE`] s, whether or not the last was answered; how long each took. The id tells which it was.
fn latency(socket: &UdpSocket, queries: &[Vec<u8>]) -> Vec<Duration> {
    socket.set_nonblocking(true).expect("it can");
    let begin = Instant::now();
    let total = RATE * u32::try_from(RUN.as_secs()).expect("a few");
    let mut sent_at = vec![begin; usize::from(u16::MAX) + 1];
    let mut times = Vec::new();
    let mut sent = 0_u32;
    let mut buffer = [0; 512];
    let mut query = Vec::new();
    while sent < total || begin.elapsed() < RUN + Duration::from_millis(200) {
        let due = Duration::from_secs(1) / RATE * sent;
        if sent < total && begin.elapsed() >= due {
            let id = (sent % u32::from(u16::MAX)) as u16;
            query.clone_from(&queries[sent as usize % queries.len()]);
            query[..2].copy_from_slice(&id.to_be_bytes());
            // From when it was due: a late sender is no quicker server.
            sent_at[usize::from(id)] = begin + due;
            drop(socket.send(&query));
            sent += 1;
        }
        if let Ok(2..) = socket.recv(&mut buffer) {
            let id = u16::from_be_bytes([buffer[0], buffer[1]]);
            times.push(sent_at[usize::from(id)].elapsed());
        }
    }
    socket.set_nonblocking(false).expect("it can");
    times
}

/// Questions for the world whose answers never come, a hundred a second.
fn ask_the_dead(end: Instant) {
    let socket = UdpSocket::bind("127.0.0.1:0").expect("a socket");
    socket.connect(server()).expect("a route");
    let mut number = 0;
    while Instant::now() < end {
        drop(socket.send(&question(&format!("x{number}.example"))));
        number += 1;
        std::thread::sleep(Duration::from_millis(10));
    }
}

fn question(name: &str) -> Vec<u8> {
    let mut message = Message::query();
    message.metadata.recursion_desired = true;
    message.add_query(Query::query(
        Name::from_ascii(name).expect("a name"),
        RecordType::A,
    ));
    message.to_vec().expect("a message")
}

fn resident(pid: u32) -> String {
    let status = std::fs::read_to_string(format!("/proc/{pid}/status")).unwrap_or_default();
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:"));
    line.unwrap_or("?")
        .trim()
        .trim_end_matches("kB")
        .trim()
        .to_owned()
}
