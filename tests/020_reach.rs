//! Who reaches whom: the whole table with real packets, in every state the host can be in; and
//! what holds for published ports beside other programs and in time.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    reason = "test code: a panic is how a test fails"
)]

use std::io::{self, ErrorKind};
use std::net::{SocketAddr, UdpSocket};
use std::process::ExitCode;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use netd_tests::host::{Host, PROGRAMS};
use netd_tests::lab::{self, Netns, PATIENCE, Proto};
use netd_tests::reach::{
    Circumstances, Report, World, check, check_forged, check_traces, foreign, serve_everywhere,
    strings,
};
use socket2::{Domain, Socket, Type};

fn main() -> ExitCode {
    lab::dispatch(PROGRAMS);
    lab::enter();
    lab::main(vec![
        lab::test("bridge_nf_off", || plain("bridge_nf_off", false)),
        lab::test("bridge_nf_on", || plain("bridge_nf_on", true)),
        lab::test("forward_drop", || forward_drop("forward_drop", false)),
        lab::test("forward_drop_bridge_nf_on", || {
            forward_drop("forward_drop_bridge_nf_on", true);
        }),
        lab::test("udp_port_changes_hands", udp_port_changes_hands),
        lab::test("port_of_another_program", port_of_another_program),
        lab::test("published_port_is_held", published_port_is_held),
    ])
}

/// Nothing on the host but netd.
fn plain(test: &str, bridge_nf: bool) {
    let now = Circumstances {
        bridge_nf,
        forward_drop: false,
    };
    let world = World::new(now, |_| ());
    let mut report = Report::default();
    check(&world, now, "the table", &mut report);
    check_traces(&world, now, "the table", &mut report);
    check_forged(&world, "the table", &mut report);
    finish(&world.host, test, report);
}

/// Beside another program's chain that drops what is forwarded: netd says what to do about it, and
/// that is enough.
fn forward_drop(test: &str, bridge_nf: bool) {
    let dropping = Circumstances {
        bridge_nf,
        forward_drop: true,
    };
    let world = World::new(dropping, foreign::create);
    let mut report = Report::default();
    for warnings in &world.warnings {
        assert_eq!(about_the_chain(warnings).len(), 1, "{warnings:?}");
    }
    let warnings = warnings(&world.host);
    let warning = about_the_chain(&warnings);
    assert_eq!(warning.len(), 1, "{warnings:?}");
    check(&world, dropping, "before the remedy", &mut report);
    check_traces(&world, dropping, "before the remedy", &mut report);

    foreign::obey(&world.host.netns, warning[0]);
    let open = Circumstances {
        bridge_nf,
        forward_drop: false,
    };
    check(&world, open, "after the remedy", &mut report);
    check_forged(&world, "after the remedy", &mut report);

    foreign::remove(&world.host.netns);
    world.host.assert_healthy();
    let warnings = self::warnings(&world.host);
    assert_eq!(about_the_chain(&warnings), Vec::<&String>::new());
    finish(&world.host, test, report);
}

fn about_the_chain(warnings: &[String]) -> Vec<&String> {
    let named = warnings.iter().filter(|text| text.contains(foreign::NAME));
    named.collect()
}

fn warnings(host: &Host) -> Vec<String> {
    strings(&host.ok(&["status"])["warnings"])
}

fn finish(host: &Host, test: &str, report: Report) {
    report.finish(test);
    host.assert_healthy();
    host.done();
}

/// A host with one network, and one outside.
fn small_world() -> (Host, Netns) {
    let (host, outside) = lab::uplink();
    let host = Host::on(host);
    let mut words = vec!["network", "create", "n1"];
    words.extend(lab::has_ipv6().then_some("--ipv6"));
    host.ok(&words);
    (host, outside)
}

/// Whether this kernel has the family of an address, which is written in brackets if IPv6.
fn is_known(address: &str) -> bool {
    lab::has_ipv6() || !address.contains('[')
}

fn attach_words<'a>(publish: &[&'a str]) -> Vec<&'a str> {
    let publish = publish.iter().filter(|text| is_known(text));
    let words = publish.flat_map(|text| ["--publish", text]);
    ["--network", "n1"].into_iter().chain(words).collect()
}

const HANDED_OVER: [&str; 5] = [
    "9051:80/udp",
    "192.0.2.1:9052:80/udp",
    "[2001:db8::1]:9052:80/udp",
    "127.0.0.1:9053:80/udp",
    "[::1]:9053:80/udp",
];

/// Who keeps sending, and where to.
const SENDERS: [(&str, &str); 13] = [
    ("outside", "192.0.2.1:9051"),
    ("outside", "[2001:db8::1]:9051"),
    ("outside", "192.0.2.1:9052"),
    ("outside", "[2001:db8::1]:9052"),
    ("host", "192.0.2.1:9051"),
    ("host", "[2001:db8::1]:9051"),
    ("host", "127.0.0.1:9051"),
    ("host", "192.0.2.1:9052"),
    ("host", "127.0.0.1:9053"),
    ("neighbour", "192.0.2.1:9051"),
    ("neighbour", "[2001:db8::1]:9051"),
    ("neighbour", "192.0.2.1:9052"),
    ("neighbour", "[2001:db8::1]:9052"),
];

/// A client that never pauses, on one socket, so that its flow never ends by itself.
struct Sender {
    what: String,
    sent: Arc<AtomicUsize>,
    last: Arc<Mutex<String>>,
    stop: Arc<AtomicBool>,
    thread: Option<JoinHandle<()>>,
}

impl Sender {
    fn start(netns: &Netns, to: &str) -> Self {
        let target: SocketAddr = to.parse().unwrap();
        let mut sender = Self {
            what: format!("{} -> {to}", netns.name()),
            sent: Arc::default(),
            last: Arc::default(),
            stop: Arc::default(),
            thread: None,
        };
        let (sent, last) = (sender.sent.clone(), sender.last.clone());
        let stop = sender.stop.clone();
        sender.thread = Some(netns.spawn(move || {
            let any = if target.is_ipv4() {
                "0.0.0.0:0"
            } else {
                "[::]:0"
            };
            let socket = UdpSocket::bind(any).unwrap();
            socket.connect(target).unwrap();
            socket
                .set_read_timeout(Some(Duration::from_millis(20)))
                .unwrap();
            while !stop.load(Ordering::Relaxed) {
                // Refused while nobody has the port.
                let _ = socket.send(b"?\n");
                sent.fetch_add(1, Ordering::Relaxed);
                let mut buffer = [0; 128];
                if let Ok(length) = socket.recv(&mut buffer) {
                    let text = String::from_utf8_lossy(&buffer[..length]);
                    let name = text.split('|').next().unwrap_or_default();
                    name.clone_into(&mut last.lock().unwrap());
                }
            }
        }));
        sender
    }

    fn answered_by(&self) -> String {
        self.last.lock().unwrap().clone()
    }
}

impl Drop for Sender {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
        let _ = self.thread.take().map(JoinHandle::join);
    }
}

/// Containers take turns in publishing the same UDP ports while clients keep sending.
fn udp_port_changes_hands() {
    const TURNS: [&str; 4] = ["first", "second", "first", "second"];
    let (host, outside) = small_world();
    let neighbour = Netns::new("neighbour");
    host.attach(&neighbour, &attach_words(&[]));
    let owners = ["first", "second"].map(Netns::new);
    let _servers = owners
        .each_ref()
        .map(|owner| serve_everywhere(owner, Proto::Udp, owner.name(), 80));
    let clients = [&outside, &host.netns, &neighbour];
    let mut senders = Vec::new();
    for (from, to) in SENDERS.iter().filter(|(_, to)| is_known(to)) {
        let client = clients.iter().find(|client| client.name() == *from);
        senders.push(Sender::start(client.expect("a client"), to));
    }
    let mut report = Report::default();
    for (turn, name) in TURNS.iter().enumerate() {
        let owner = owners.iter().find(|owner| owner.name() == *name).unwrap();
        host.attach(owner, &attach_words(&HANDED_OVER));
        let failures = not_answered_by(name, &senders);
        report.add(&format!("turn {turn}"), "", senders.len(), failures);
        host.ok(&["detach", name]);
        // Flows to a port that nobody has begin, and are in the way of the next owner.
        all_send_again(&senders);
    }
    drop(senders);
    finish(&host, "udp_port_changes_hands", report);
}

/// Waits until all senders hear this server; those that do not.
fn not_answered_by(name: &str, senders: &[Sender]) -> Vec<String> {
    let end = Instant::now() + PATIENCE;
    let is_late = |sender: &&Sender| sender.answered_by() != name;
    while senders.iter().any(|sender| is_late(&sender)) && Instant::now() < end {
        std::thread::sleep(Duration::from_millis(10));
    }
    let late = senders.iter().filter(is_late);
    late.map(|s| format!("{}: expected {name}, got {:?}", s.what, s.answered_by()))
        .collect()
}

fn all_send_again(senders: &[Sender]) {
    let before: Vec<_> = senders
        .iter()
        .map(|s| s.sent.load(Ordering::Relaxed))
        .collect();
    lab::wait_for("the clients send", PATIENCE, || {
        let mut pairs = senders.iter().zip(&before);
        pairs.all(|(sender, before)| sender.sent.load(Ordering::Relaxed) > before + 2)
    });
}

/// What another program has bound, what is to be published then, and whether that is possible.
const TAKEN: [(Proto, &str, &str, bool); 14] = [
    (Proto::Tcp, "0.0.0.0:8080", "8080:80", false),
    (Proto::Tcp, "127.0.0.1:8080", "8080:80", false),
    (Proto::Tcp, "192.0.2.1:8080", "8080:80", false),
    (Proto::Tcp, "[::]:8080", "8080:80", false),
    (Proto::Tcp, "[::1]:8080", "8080:80", false),
    (Proto::Tcp, "0.0.0.0:8080", "192.0.2.1:8080:80", false),
    (Proto::Tcp, "192.0.2.1:8080", "192.0.2.1:8080:80", false),
    (Proto::Udp, "0.0.0.0:8080", "8080:80/udp", false),
    (Proto::Udp, "127.0.0.1:8080", "127.0.0.1:8080:80/udp", false),
    (Proto::Udp, "[2001:db8::1]:8080", "8080:80/udp", false),
    (Proto::Tcp, "127.0.0.1:8080", "192.0.2.1:8080:80", true),
    (Proto::Tcp, "[::]:8080", "192.0.2.1:8080:80", true),
    (Proto::Udp, "0.0.0.0:8080", "8080:80", true),
    (Proto::Tcp, "0.0.0.0:8080", "8080:80/udp", true),
];

/// A port that another program has is refused, and the program goes on serving.
fn port_of_another_program() {
    let (host, _outside) = small_world();
    let container = Netns::new("c");
    let rows: Vec<_> = TAKEN.iter().filter(|row| is_known(row.1)).collect();
    let mut failures = Vec::new();
    for (proto, bound, publish, is_free) in rows.iter().copied() {
        let row = format!("{proto:?} {bound}, publish {publish}");
        let mut check = |what: &str, is_right: bool| {
            if !is_right {
                failures.push(format!("{row}: {what}"));
            }
        };
        let address: SocketAddr = bound.parse().unwrap();
        let program = host.netns.serve_on(*proto, "program", address);
        let words = Host::attach_words(&container, &["--network", "n1", "--publish", publish]);
        let outcome = host.netctl(&words);
        let is_attached = outcome.code == 0;
        check(&format!("{outcome:?}"), is_attached == *is_free);
        if !is_attached {
            check(
                &format!("{outcome:?}"),
                outcome.error_code() == "port_in_use",
            );
            check("something is left", host.plan().is_empty());
            let asked = if address.ip().is_unspecified() {
                SocketAddr::new(host_address(address), address.port())
            } else {
                address
            };
            let answer = host.netns.probe(*proto, asked, PATIENCE);
            check("the program is cut off", answer.name() == Some("program"));
            drop(program);
            host.ok(&words);
        }
        host.ok(&["detach", "c"]);
    }
    let mut report = Report::default();
    report.add("taken ports", "", rows.len(), failures);
    finish(&host, "port_of_another_program", report);
}

/// An address of the host in the family of another.
fn host_address(like: SocketAddr) -> std::net::IpAddr {
    let ip = if like.is_ipv4() {
        "192.0.2.1"
    } else {
        "2001:db8::1"
    };
    ip.parse().unwrap()
}

const HELD: [&str; 6] = [
    "8080:80",
    "8080:80/udp",
    "192.0.2.1:8081:80",
    "192.0.2.1:8081:80/udp",
    "127.0.0.1:8082:80",
    "127.0.0.1:8082:80/udp",
];

/// What another program tries to bind meanwhile, and whether it gets it.
const TRIED: [(&str, bool); 11] = [
    ("0.0.0.0:8080", false),
    ("127.0.0.1:8080", false),
    ("192.0.2.1:8080", false),
    ("[::]:8080", false),
    ("[::1]:8080", false),
    ("0.0.0.0:8081", false),
    ("192.0.2.1:8081", false),
    ("127.0.0.1:8081", true),
    ("0.0.0.0:8082", false),
    ("127.0.0.1:8082", false),
    ("192.0.2.1:8082", true),
];

/// No other program gets a port as long as it is published, however it asks; then it does.
fn published_port_is_held() {
    let (host, _outside) = small_world();
    let container = Netns::new("c");
    let mut report = Report::default();
    host.attach(&container, &attach_words(&HELD));
    for (title, is_published) in [("published", true), ("given back", false)] {
        let mut failures = Vec::new();
        let mut checks = 0;
        for (address, is_free) in TRIED.iter().filter(|(address, _)| is_known(address)) {
            for kind in [Type::STREAM, Type::DGRAM] {
                for reuse in [false, true] {
                    checks += 1;
                    let bound = host.netns.run(|| bind(address, kind, reuse));
                    let expected = *is_free || !is_published;
                    let refused = |error: &io::Error| error.kind() == ErrorKind::AddrInUse;
                    if bound.is_ok() != expected || bound.as_ref().is_err_and(|e| !refused(e)) {
                        failures.push(format!("{kind:?} {address}, reuse {reuse}: {bound:?}"));
                    }
                }
            }
        }
        report.add(title, "", checks, failures);
        if is_published {
            host.ok(&["detach", "c"]);
        }
    }
    finish(&host, "published_port_is_held", report);
}

/// Binds and, for TCP, listens, as a server does.
fn bind(address: &str, kind: Type, reuse: bool) -> io::Result<()> {
    let address: SocketAddr = address.parse().unwrap();
    let socket = Socket::new(Domain::for_address(address), kind, None)?;
    if address.is_ipv6() {
        socket.set_only_v6(true)?;
    }
    socket.set_reuse_address(reuse)?;
    socket.bind(&address.into())?;
    if kind == Type::STREAM {
        socket.listen(1)?;
    }
    Ok(())
}
