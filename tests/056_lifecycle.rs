//! What the service manager sees: readiness, reloads, signs of life, the socket it passes, the end. And what a machine
//! that was started anew finds.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    reason = "test code: a panic is how a test fails"
)]

use std::fs;
use std::io::{Read as _, Write as _};
use std::os::fd::OwnedFd;
use std::os::unix::net::{UnixDatagram, UnixListener, UnixStream};
use std::os::unix::process::CommandExt as _;
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::time::{Duration, Instant};

use netd_tests::host::{Answer, Host, PROGRAMS, assert_same};
use netd_tests::lab::{self, Netns, PATIENCE, Proto, Signal, wait_for};
use serde_json::Value;

fn main() -> ExitCode {
    lab::dispatch(&[PROGRAMS[0], PROGRAMS[1], ("__activate", activate)]);
    lab::enter();
    lab::main(vec![
        lab::test("requests_under_way_are_answered", requests_are_drained),
        lab::test("the_end_waits_for_nobody_long", the_end_is_bounded),
        lab::test("the_service_manager_is_told", the_service_manager_is_told),
        lab::test("a_reload_takes_what_can_change", a_reload),
        lab::test("a_broken_configuration", a_broken_configuration),
        lab::test("a_passed_socket", a_passed_socket),
        lab::test("a_passed_descriptor_of_the_wrong_kind", a_wrong_descriptor),
        lab::test("a_run_dir_of_an_earlier_boot", an_earlier_boot),
    ])
}

fn requests_are_drained() {
    const CLIENTS: usize = 24;
    let mut host = Host::start("h1");
    host.ok(&["network", "create", "web"]);
    let containers: Vec<Netns> = (0..CLIENTS).map(|n| Netns::new(&format!("c{n}"))).collect();
    let pid = nix::unistd::Pid::from_raw(i32::try_from(host.pid()).unwrap());
    let answers: Vec<Result<Answer, String>> = std::thread::scope(|scope| {
        let clients: Vec<_> = containers
            .iter()
            .map(|container| {
                let body = format!(
                    r#"{{"netns":"{}","name":"{}","networks":[{{"network":"web"}}]}}"#,
                    container.path().display(),
                    container.name()
                );
                let host = &host;
                scope.spawn(move || host.try_api("POST", "/v1/containers", &body))
            })
            .collect();
        wait_for("the first link", PATIENCE, || {
            containers
                .iter()
                .any(|container| container.link("eth0").is_some())
        });
        nix::sys::signal::kill(pid, Signal::SIGTERM).unwrap();
        clients
            .into_iter()
            .map(|client| client.join().unwrap())
            .collect()
    });
    assert!(host.daemon_ended().success());
    assert!(
        UnixStream::connect(host.socket()).is_err(),
        "nobody listens"
    );
    let attached = |container: &Netns| container.link("eth0").is_some();
    for (container, answer) in containers.iter().zip(&answers) {
        // Told "attached", told "not ready", or not heard at all: the data path stays as it was told.
        let told = answer.as_ref().ok().map(|answer| answer.status);
        assert!(matches!(told, None | Some(201 | 503)), "{answer:?}");
        assert_eq!(
            told == Some(201),
            attached(container),
            "{}: {answer:?}",
            container.name()
        );
    }
    let count = answers
        .iter()
        .flatten()
        .filter(|answer| answer.status == 201)
        .count();
    assert!(count > 0, "{answers:?}");
    host.start_daemon();
    host.assert_healthy();
    assert_eq!(host.ok(&["ps"]).as_array().unwrap().len(), count);
    host.done();
}

fn the_end_is_bounded() {
    let mut host = Host::start("h1");
    let a = Netns::new("a");
    host.attach(&a, &["--publish=8080:80"]);
    let _server = a.tcp_server("a", 80);
    let before = host.state();
    let _silent = UnixStream::connect(host.socket()).unwrap();
    let mut half = UnixStream::connect(host.socket()).unwrap();
    half.write_all(b"POST /v1/networks HTTP/1.1\r\nhost: n\r\ncontent-length: 9\r\n\r\n{")
        .unwrap();
    // The daemon has read it when it answers what came later.
    assert_eq!(host.api("GET", "/healthz", "").status, 200);
    let begin = Instant::now();
    host.signal_daemon(Signal::SIGINT);
    assert!(host.daemon_ended().success());
    assert!(
        begin.elapsed() < Duration::from_secs(9),
        "{:?}",
        begin.elapsed()
    );
    let mut rest = Vec::new();
    let _ = half.read_to_end(&mut rest);
    let outcome = host.netns.probe(Proto::Tcp, ("127.0.0.1", 8080), PATIENCE);
    assert_eq!(outcome.name(), Some("a"), "{outcome:?}");
    host.start_daemon();
    assert_same("the end", &before, &host.state());
    host.done();
}

/// The other end of `NOTIFY_SOCKET`.
struct Manager {
    socket: UnixDatagram,
    path: PathBuf,
}

impl Manager {
    fn listen() -> Self {
        let path = lab::scratch("manager").join("notify");
        let socket = UnixDatagram::bind(&path).unwrap();
        socket.set_read_timeout(Some(PATIENCE)).unwrap();
        Self { socket, path }
    }

    fn next(&self) -> String {
        let mut buffer = [0; 4096];
        let length = self
            .socket
            .recv(&mut buffer)
            .expect("a message of the daemon");
        String::from_utf8(buffer[..length].to_vec()).unwrap()
    }

    /// The next message that has a line beginning like this; those before it are signs of life.
    fn wait_for(&self, begin: &str) -> String {
        loop {
            let message = self.next();
            if message.lines().any(|line| line.starts_with(begin)) {
                return message;
            }
            let alive = |line: &str| line == "WATCHDOG=1" || line.starts_with("STATUS=");
            assert!(message.lines().all(alive), "{message:?} before {begin}");
        }
    }
}

fn the_service_manager_is_told() {
    let mut host = Host::prepare(Netns::host("h1"));
    host.set_resolvers("");
    let manager = Manager::listen();
    let mut command = host.daemon_command("__netd", &[]);
    command
        .env("NOTIFY_SOCKET", &manager.path)
        .env("WATCHDOG_USEC", "400000");
    host.launch(command);
    let ready = manager.next();
    assert_eq!(ready, "READY=1\nSTATUS=1 networks, 0 containers");
    // Signs of life, at half of the time: a good many, and never late.
    for _ in 0..10 {
        let begin = Instant::now();
        manager.wait_for("WATCHDOG=1");
        assert!(
            begin.elapsed() < Duration::from_secs(5),
            "{:?}",
            begin.elapsed()
        );
    }
    let a = Netns::new("a");
    host.attach(&a, &[]);
    manager.wait_for("STATUS=1 networks, 1 containers");
    let microseconds = |message: &str| {
        let line = message
            .lines()
            .find_map(|line| line.strip_prefix("MONOTONIC_USEC="));
        line.unwrap_or_default().parse::<u64>().expect("a time")
    };
    let mut last = 0;
    for _ in 0..3 {
        host.signal_daemon(Signal::SIGHUP);
        let reloading = manager.wait_for("RELOADING=1");
        assert!(microseconds(&reloading) > last, "{reloading}");
        last = microseconds(&reloading);
        manager.wait_for("READY=1");
    }
    // A daemon that does not run gives no sign.
    host.signal_daemon(Signal::SIGSTOP);
    manager.socket.set_nonblocking(true).unwrap();
    while manager.socket.recv(&mut [0; 4096]).is_ok() {}
    std::thread::sleep(Duration::from_millis(800));
    assert!(manager.socket.recv(&mut [0; 4096]).is_err());
    manager.socket.set_nonblocking(false).unwrap();
    host.signal_daemon(Signal::SIGCONT);
    manager.wait_for("WATCHDOG=1");
    host.signal_daemon(Signal::SIGTERM);
    manager.wait_for("STOPPING=1");
    assert!(host.daemon_ended().success());
    host.start_daemon();
    host.done();
}

/// A daemon that takes its settings from a file.
struct Configured {
    host: Host,
    file: PathBuf,
}

impl Configured {
    fn start(more: &str) -> Self {
        let mut host = Host::prepare(Netns::host("h1"));
        let file = host.dir().join("netd.toml");
        let mut configured = {
            let command = |host: &Host| {
                let file = file.to_string_lossy().into_owned();
                host.netns.self_command("__netd", &["--config", &file])
            };
            Self::write(&host, &file, more);
            let command = command(&host);
            host.launch(command);
            Self { host, file }
        };
        configured.host.assert_healthy();
        configured.set(more);
        configured
    }

    fn write(host: &Host, file: &Path, more: &str) {
        let dir = host.dir().display();
        let text = format!("run-dir = '{dir}/run'\nstate-dir = '{dir}/state'\n{more}\n");
        fs::write(file, text).unwrap();
    }

    fn set(&mut self, more: &str) {
        Self::write(&self.host, &self.file, more);
    }

    fn hang_up(&mut self) {
        self.host.signal_daemon(Signal::SIGHUP);
    }

    fn warnings(&self) -> String {
        self.host.ok(&["status"])["warnings"].to_string()
    }
}

fn a_reload() {
    let scratch = lab::scratch("resolvers");
    let (one, two) = (scratch.join("one"), scratch.join("two"));
    fs::write(&one, "nameserver 198.51.100.1\n").unwrap();
    fs::write(&two, "nameserver 172.16.16.9\n").unwrap();
    let setting = |path: &Path| format!("resolv-conf = '{}'", path.display());
    let mut netd = Configured::start(&setting(&one));
    let a = Netns::new("a");
    netd.host.attach(&a, &["--publish=8080:80"]);
    let before = netd.host.state();
    assert!(!netd.host.log().contains("172.16.16.9"));
    netd.set(&format!("{}\nlog-level = 'debug'", setting(&two)));
    netd.hang_up();
    wait_for("the new resolvers", PATIENCE, || {
        netd.host.log().contains("172.16.16.9")
    });
    // The kernel seam reads the new file too: an automatic subnet avoids that resolver.
    let made = netd.host.ok(&["network", "create", "web"]);
    let subnet = made["subnets"][0]["subnet"].as_str().unwrap();
    assert!(!subnet.starts_with("172.16.16."), "{subnet}");
    netd.host.ok(&["network", "rm", "web"]);
    wait_for("a refusal in the log, at level debug", PATIENCE, || {
        netd.host.refused(&["network", "rm", "nope"]);
        netd.host.log().contains("DEBUG")
    });
    assert_eq!(netd.warnings(), "[]");
    assert_same("a reload", &before, &netd.host.state());
    // What cannot change is named, in the log and in status, and is as it was.
    netd.set(&format!(
        "{}\nlog-format = 'json'\nsocket = '/run/elsewhere.sock'",
        setting(&two)
    ));
    netd.hang_up();
    wait_for("the warnings", PATIENCE, || {
        netd.warnings().contains("restart")
    });
    let warnings = netd.warnings();
    assert!(
        warnings.contains("socket ") && warnings.contains("log-format "),
        "{warnings}"
    );
    assert!(
        netd.host.log().contains("needs_restart"),
        "{}",
        netd.host.log()
    );
    netd.set(&setting(&two));
    netd.hang_up();
    wait_for("no warning", PATIENCE, || netd.warnings() == "[]");
    netd.host.done();
}

fn a_broken_configuration() {
    let mut netd = Configured::start("");
    for (broken, named) in [
        ("run-dir = 1", "netd.toml"),
        ("nonsense = 'x'", "nonsense"),
        ("log-level = 'loud'", "loud"),
    ] {
        netd.set(broken);
        netd.hang_up();
        wait_for("the warning", PATIENCE, || netd.warnings().contains(named));
        let warnings = netd.warnings();
        assert!(
            warnings.contains("the old one is in use") && warnings.contains("reload"),
            "{warnings}"
        );
        assert!(netd.host.log().contains(named), "{}", netd.host.log());
    }
    let a = Netns::new("a");
    netd.host.attach(&a, &[]);
    netd.set("");
    netd.hang_up();
    wait_for("no warning", PATIENCE, || netd.warnings() == "[]");
    netd.host.done();
}

/// Becomes the daemon with a descriptor passed to it, as systemd does: `KIND PATH ARGS...`.
fn activate(args: &[String]) -> i32 {
    let path = &args[1];
    let _ = fs::remove_file(path);
    let passed: Option<OwnedFd> = match &*args[0] {
        "unix" | "two" => Some(UnixListener::bind(path).unwrap().into()),
        "tcp" => Some(std::net::TcpListener::bind("127.0.0.1:0").unwrap().into()),
        "datagram" => Some(UnixDatagram::bind(path).unwrap().into()),
        "connected" => Some(UnixStream::pair().unwrap().0.into()),
        "file" => Some(fs::File::open("/dev/null").unwrap().into()),
        _ => None,
    };
    let mut command = lab::self_command("__netd", &args[2..]);
    command
        .env("LISTEN_PID", std::process::id().to_string())
        .env("LISTEN_FDS", if args[0] == "two" { "2" } else { "1" });
    lab::pass(&mut command, passed);
    panic!("{}", command.exec());
}

fn a_passed_socket() {
    let mut host = Host::prepare(Netns::host("h1"));
    host.set_resolvers("");
    fs::create_dir_all(host.dir().join("run")).unwrap();
    let socket = host.socket().to_string_lossy().into_owned();
    host.start_daemon_as("__activate", &["unix", &socket]);
    let a = Netns::new("a");
    host.attach(&a, &[]);
    host.assert_healthy();
    // It is the manager's: the daemon leaves it where it is.
    let before = fs::metadata(host.socket()).unwrap();
    host.stop_daemon();
    let after = fs::metadata(host.socket()).unwrap();
    let inode = |meta: &fs::Metadata| std::os::unix::fs::MetadataExt::ino(meta);
    assert_eq!(inode(&before), inode(&after));
    host.start_daemon();
    host.done();
}

fn a_wrong_descriptor() {
    let host = Host::prepare(Netns::host("h1"));
    host.set_resolvers("");
    let path = host.dir().join("passed").to_string_lossy().into_owned();
    for (kind, said) in [
        ("tcp", "not a unix socket"),
        ("datagram", "not a stream socket"),
        ("connected", "not a socket that listens"),
        ("file", "no socket"),
        ("nothing", "is not open"),
        ("two", "LISTEN_FDS=2"),
    ] {
        let refused = host.start_refused_as("__activate", &[kind, &path]);
        assert_eq!(refused.code, 1, "{kind}: {refused:?}");
        for part in [said, "socket"] {
            assert!(
                refused.stderr.contains(part),
                "{kind}: no {part:?} in {refused:?}"
            );
        }
        assert!(
            !host.dir().join("run").exists(),
            "{kind}: nothing was begun"
        );
    }
}

/// A run-dir that a reboot should have emptied: containers that are gone with the old kernel are not believed in.
fn an_earlier_boot() {
    let mut host = Host::start("h1");
    host.ok(&["network", "create", "web"]);
    let a = Netns::new("a");
    host.attach(&a, &["--network=web", "--publish=8080:80"]);
    host.stop_daemon();
    // The same path leads to a namespace again, of somebody else: a new kernel counts from the beginning.
    let mut booted = Host::prepare(Netns::host("h1 booted"));
    copy(&host.dir().join("state"), &booted.dir().join("state"));
    copy(&host.dir().join("run"), &booted.dir().join("run"));
    copy(
        &host.dir().join("run/containers"),
        &booted.dir().join("run/containers"),
    );
    let boot_id = fs::read_to_string("/proc/sys/kernel/random/boot_id").unwrap();
    let mut rewritten = 0;
    for file in
        files(&booted.dir().join("run/containers")).chain([booted.dir().join("run/host.json")])
    {
        let text = fs::read_to_string(&file).unwrap();
        let mut record: Value = serde_json::from_str(&text).unwrap();
        assert_eq!(record["boot_id"], boot_id.trim(), "{}", file.display());
        record["boot_id"] = "5b0ee26e-4b0f-4a6c-9d0a-6a1b5d3c2e10".into();
        fs::write(&file, record.to_string()).unwrap();
        rewritten += 1;
    }
    assert_eq!(rewritten, 2);
    booted.set_resolvers("");
    booted.start_daemon();
    assert_eq!(booted.ok(&["ps"]), Value::Array(Vec::new()));
    let names: Vec<Value> = booted
        .ok(&["network", "ls"])
        .as_array()
        .unwrap()
        .iter()
        .map(|n| n["name"].clone())
        .collect();
    assert_eq!(names, ["bridge", "web"]);
    let warnings = booted.ok(&["status"])["warnings"].to_string();
    assert!(
        warnings.contains("earlier boot") && warnings.contains("tmpfs"),
        "{warnings}"
    );
    booted.assert_healthy();
    let port = booted
        .netns
        .run(|| std::net::TcpListener::bind(("0.0.0.0", 8080)));
    assert!(port.is_ok(), "a port of a container that is gone is free");
    drop(port);
    // Nothing of the container that another kernel knew was touched.
    assert!(a.link("eth0").is_some());
    booted.ok(&["network", "rm", "web"]);
    booted.done();
    host.start_daemon();
    host.assert_healthy();
    host.done();
}

fn files(dir: &Path) -> impl Iterator<Item = PathBuf> {
    let entries = fs::read_dir(dir)
        .unwrap()
        .map(|entry| entry.unwrap().path());
    entries.filter(|path| path.is_file())
}

fn copy(from: &Path, to: &Path) {
    fs::create_dir_all(to).unwrap();
    for path in files(from) {
        fs::copy(&path, to.join(path.file_name().unwrap())).unwrap();
    }
}
