//! Restarts under load: while traffic flows through published ports, between containers and outwards, the daemon is
//! stopped and killed and started again, and the traffic notices nothing. Only DNS pauses while no daemon runs, for less
//! than the second after which a resolver asks again.
//!
//! `NETD_RESTARTS=50` stops and kills it 50 times each; the default is 5.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::print_stdout,
    reason = "test code: a panic is how a test fails, and its figures belong on the terminal"
)]

use std::net::{IpAddr, SocketAddr};
use std::process::ExitCode;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use netd_tests::host::{Host, PROGRAMS, assert_same};
use netd_tests::lab::{self, Netns};
use netd_tests::load::{
    ByteServer, DatagramServer, Figures, Load, NO_ANSWER, connects, datagrams, queries, stream,
};

fn main() -> ExitCode {
    lab::dispatch(PROGRAMS);
    lab::enter();
    lab::main(vec![lab::test("restarts_under_load", restarts_under_load)])
}

/// Ports of the servers: in the container, on the outside host, and as the host publishes them.
const LINES: u16 = 80;
const BYTES: u16 = 81;
const PUBLISHED_LINES: u16 = 8080;
const PUBLISHED_BYTES: u16 = 8081;
/// Between two restarts this many connections and answers come through.
const BETWEEN: u64 = 500;
/// A flow that waits so much longer than without restarts has stalled.
const STALLED: Duration = Duration::from_secs(2);

/// A resolver asks again after a second, so a restart has to be quicker.
const QUICK: Duration = Duration::from_millis(900);

/// The kernel has one lock for the links of all namespaces, and a process that waits for it cannot even be killed. On a
/// machine that is busy with other namespaces it is held for seconds. While the restarts go on, somebody else lists links
/// of a namespace of its own all the time: only if that ever took so long too, lost queries are not the daemon's fault.
const HELD_UP: Duration = Duration::from_millis(300);

/// A dual-stack network with a server behind published ports and a client; a host outside.
struct Stage {
    host: Host,
    server: Netns,
    client: Netns,
    outside: Netns,
    ips: [IpAddr; 2],
}

impl Stage {
    fn set() -> Self {
        let (netns, outside) = (Netns::host("h1"), Netns::host("outside"));
        lab::veth(
            netns.end("up0", &["192.0.2.1/24", "2001:db8::1/64"]),
            outside.end("eth0", &["192.0.2.2/24", "2001:db8::2/64"]),
        );
        let host = Host::on(netns);
        host.ok(&["network", "create", "web", "--ipv6"]);
        let (server, client) = (Netns::new("server"), Netns::new("client"));
        let publish = format!("{PUBLISHED_BYTES}:{BYTES}");
        let made = host.attach(
            &server,
            &[
                "--network=web,alias=db",
                &format!("--publish={PUBLISHED_LINES}:{LINES}"),
                &format!("--publish={publish}"),
                &format!("--publish={publish}/udp"),
            ],
        );
        host.attach(&client, &["--network=web"]);
        let ips = ["ipv4", "ipv6"].map(|key| {
            let ip = made["endpoints"][0][key].as_str().unwrap();
            ip.split('/').next().unwrap().parse().unwrap()
        });
        Self {
            host,
            server,
            client,
            outside,
            ips,
        }
    }

    /// Through published ports, between containers, and outwards through masquerade, each in both families.
    fn streams(&self) -> Vec<Load> {
        let [host4, out4, host6, out6] =
            ["192.0.2.1", "192.0.2.2", "2001:db8::1", "2001:db8::2"].map(|ip| ip.parse().unwrap());
        let [ip4, ip6] = self.ips;
        let flows: [(&Netns, &str, IpAddr, u16); 7] = [
            (&self.outside, "published, IPv4", host4, PUBLISHED_BYTES),
            (
                &self.outside,
                "published, IPv4, 2nd",
                host4,
                PUBLISHED_BYTES,
            ),
            (&self.outside, "published, IPv6", host6, PUBLISHED_BYTES),
            (&self.client, "between containers, IPv4", ip4, BYTES),
            (&self.client, "between containers, IPv6", ip6, BYTES),
            (&self.client, "outwards, IPv4", out4, BYTES),
            (&self.client, "outwards, IPv6", out6, BYTES),
        ];
        let known = flows
            .into_iter()
            .filter(|flow| flow.2.is_ipv4() || lab::has_ipv6());
        known
            .map(|(from, name, ip, port)| stream(from, name, SocketAddr::new(ip, port)))
            .collect()
    }
}

/// Everything that runs while the daemon comes and goes.
struct Loads {
    streams: Vec<Load>,
    connects: Load,
    queries: Load,
    datagrams: Vec<Load>,
}

impl Loads {
    fn start(stage: &Stage) -> Self {
        let to = |port| SocketAddr::from(([192, 0, 2, 1], port));
        let outside = &stage.outside;
        Self {
            streams: stage.streams(),
            connects: connects(outside, "new connections", to(PUBLISHED_LINES), "server"),
            queries: queries(&stage.client, "DNS queries", "db.", stage.ips[0]),
            datagrams: vec![
                datagrams(outside, "UDP, one flow", to(PUBLISHED_BYTES), u64::MAX),
                datagrams(outside, "UDP, flows of 20", to(PUBLISHED_BYTES), 20),
            ],
        }
    }

    fn all(&self) -> impl Iterator<Item = &Load> {
        let others = [&self.connects, &self.queries].into_iter();
        self.streams.iter().chain(others).chain(&self.datagrams)
    }

    /// Waits until each of them went on.
    fn go_on(&self, count: u64) {
        Load::go_on(self.all(), count);
    }

    /// The longest pause of each since the last call.
    fn pauses(&self) -> Vec<Duration> {
        self.all().map(Load::take_worst).collect()
    }
}

fn restarts_under_load() {
    raise_descriptor_limit();
    let each: usize = std::env::var("NETD_RESTARTS").map_or(5, |n| n.parse().expect("a number"));
    let mut stage = Stage::set();
    let servers = (
        ByteServer::start(&stage.server, BYTES),
        ByteServer::start(&stage.outside, BYTES),
        DatagramServer::start(&stage.server, BYTES),
        stage.server.tcp_server("server", LINES),
    );
    let before = stage.host.state();
    let loads = Loads::start(&stage);
    // As many rounds without restarts: what this machine does by itself.
    loads.go_on(1);
    loads.queries.settle();
    loads.pauses();
    loads.go_on(5 * BETWEEN);
    let calm = loads.pauses();
    let mut down = Vec::new();
    let lists = Lists::start();
    for end in [Host::stop_daemon, Host::kill_daemon] {
        for _ in 0..each {
            let begin = Instant::now();
            end(&mut stage.host);
            let ended = begin.elapsed();
            stage.host.start_daemon();
            let all = begin.elapsed();
            if all > QUICK {
                println!(
                    "a slow restart: ended after {ended:?}, ready after {all:?}; a list of links took up to {:?}\n{}",
                    lists.longest(),
                    stage.host.log()
                );
            }
            down.push(all);
            loads.go_on(BETWEEN);
            // A repetition must not meet the next restart: two restarts within a second are not one.
            loads.queries.settle();
        }
    }
    let restarts = loads.pauses();
    let syns = counter(&stage.outside, "TcpExt:", "TCPSynRetrans");
    let again = [&stage.outside, &stage.server, &stage.client]
        .map(|netns| counter(netns, "Tcp:", "RetransSegs"));
    down.sort();
    let (half, longest) = (down[down.len() / 2], down[down.len() - 1]);
    println!(
        "restarts: {each} in order, {each} by kill -9; half of them within {half:?}, all within {longest:?}"
    );
    println!("segments sent again: outside, server, client {again:?}; SYNs sent again {syns}");
    let floor = lists.longest();
    drop(lists);
    println!("somebody else's list of links took up to {floor:?}");
    let held_up = longest >= QUICK && floor >= HELD_UP;
    judge(loads, &calm, &restarts, held_up);
    assert!(half < QUICK || held_up, "restarts are too slow");
    assert_eq!(syns, 0, "the first packets of connections were lost");
    assert_same("all these daemons", &before, &stage.host.state());
    drop(servers);
    stage.host.assert_healthy();
    stage.host.done();
}

/// Prints what the loads counted, and panics when any lost something.
fn judge(loads: Loads, calm: &[Duration], restarts: &[Duration], held_up: bool) {
    let streams = loads.streams.len();
    let Loads {
        connects,
        queries,
        datagrams,
        ..
    } = loads;
    let all: Vec<Load> = loads
        .streams
        .into_iter()
        .chain([connects, queries])
        .chain(datagrams)
        .collect();
    let mut wrong = Vec::new();
    for (n, load) in all.into_iter().enumerate() {
        let name = load.name().to_owned();
        let Figures {
            done,
            bytes,
            retried,
            lost,
            failure,
        } = load.end();
        println!(
            "{name}: {done} done, {bytes} bytes, {retried} retried, {lost} lost; longest pause {:?}, without restarts {:?}",
            restarts[n], calm[n]
        );
        let excused = held_up && failure.as_deref() == Some(NO_ANSWER);
        if excused {
            println!("{name}: not judged, the kernel held up others too");
        } else if lost > 0 || failure.is_some() {
            wrong.push(format!("{name}: {lost} lost: {failure:?}"));
        }
        if n < streams && restarts[n] > calm[n] + STALLED {
            wrong.push(format!("{name} stalled for {:?}", restarts[n]));
        }
    }
    assert_eq!(wrong, Vec::<String>::new());
}

/// Lists the links of a namespace of its own again and again, and keeps the longest time that one list took.
struct Lists {
    longest: Arc<AtomicU64>,
    over: Arc<AtomicBool>,
    thread: Option<JoinHandle<()>>,
}

impl Lists {
    fn start() -> Self {
        let netns = Netns::new("somebody");
        let (longest, over) = (
            Arc::new(AtomicU64::new(0)),
            Arc::new(AtomicBool::new(false)),
        );
        let (of_thread, until) = (Arc::clone(&longest), Arc::clone(&over));
        let thread = std::thread::spawn(move || {
            while !until.load(Ordering::Relaxed) {
                let begin = Instant::now();
                netns.links();
                let took = u64::try_from(begin.elapsed().as_micros()).unwrap();
                of_thread.fetch_max(took, Ordering::Relaxed);
                std::thread::sleep(Duration::from_millis(20));
            }
        });
        Self {
            longest,
            over,
            thread: Some(thread),
        }
    }

    fn longest(&self) -> Duration {
        Duration::from_micros(self.longest.load(Ordering::Relaxed))
    }
}

impl Drop for Lists {
    fn drop(&mut self) {
        self.over.store(true, Ordering::Relaxed);
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}

/// A counter of the kernel's TCP: `/proc/net/snmp` and `/proc/net/netstat` have a line of names above a line of values.
fn counter(netns: &Netns, table: &str, name: &str) -> u64 {
    let text = netns.run(|| {
        let files = ["snmp", "netstat"].map(|file| format!("/proc/thread-self/net/{file}"));
        files
            .map(|file| std::fs::read_to_string(file).unwrap())
            .concat()
    });
    let mut lines = text.lines().filter(|line| line.starts_with(table));
    let (names, values) = (lines.next().unwrap(), lines.next().unwrap());
    let mut pairs = names.split(' ').zip(values.split(' '));
    let found = pairs.find(|(other, _)| *other == name);
    found.unwrap().1.parse().unwrap()
}

/// Queries that wait for the next daemon have a socket each.
fn raise_descriptor_limit() {
    use nix::sys::resource::{Resource, getrlimit, setrlimit};
    let (_, hard) = getrlimit(Resource::RLIMIT_NOFILE).unwrap();
    setrlimit(Resource::RLIMIT_NOFILE, hard.min(65_536), hard).unwrap();
}
