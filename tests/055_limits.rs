//! What netd does when something runs out: space, descriptors, patience, ports. It says so and what helps, loses nothing,
//! answers `status` throughout, and works again when the cause is gone.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    reason = "test code: a panic is how a test fails"
)]

use std::fs;
use std::io::Write as _;
use std::net::TcpListener;
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use netd_tests::host::{Host, PROGRAMS, assert_same};
use netd_tests::lab::{self, Netns, PATIENCE, Proto, wait_for};
use nix::mount::{MsFlags, mount, umount};
use nix::sys::resource::{Resource, setrlimit};
use serde_json::Value;

#[path = "limits/clients.rs"]
mod clients;

fn main() -> ExitCode {
    lab::dispatch(&[PROGRAMS[0], PROGRAMS[1], ("__few", few)]);
    lab::enter();
    lab::main(vec![
        lab::test("a_full_state_dir", a_full_state_dir),
        lab::test("a_full_run_dir", a_full_run_dir),
        lab::test("a_state_dir_that_cannot_be_written", a_read_only_state_dir),
        lab::test("a_run_dir_that_cannot_be_written", a_read_only_run_dir),
        lab::test("few_descriptors", few_descriptors),
        lab::test("fewer_descriptors_than_before", fewer_descriptors),
        lab::test("a_port_taken_while_the_daemon_was_dead", a_taken_port),
        lab::test("five_thousand_requests", clients::five_thousand_requests),
        lab::test("silent_clients_make_room", clients::silent_clients),
        lab::test("clients_that_never_finish", clients::unfinished_requests),
        lab::test("a_body_that_is_too_big", clients::a_body_that_is_too_big),
    ])
}

/// The daemon with as many descriptors as the first argument says.
fn few(args: &[String]) -> i32 {
    let files = args[0].parse().unwrap();
    setrlimit(Resource::RLIMIT_NOFILE, files, files).unwrap();
    (PROGRAMS[0].1)(&args[1..])
}

/// A file system of a few bytes over a directory of the daemon's.
struct Small {
    path: PathBuf,
}

impl Small {
    fn mount(host: &Host, name: &str, size: &str) -> Self {
        let path = host.dir().join(name);
        fs::create_dir_all(&path).unwrap();
        let options = format!("size={size},mode=755");
        mount(
            Some("tmpfs"),
            &path,
            Some("tmpfs"),
            MsFlags::empty(),
            Some(&*options),
        )
        .unwrap();
        Self { path }
    }

    fn fill(&self) {
        let mut file = fs::File::create(self.path.join("filler")).unwrap();
        // Whole pages first, then whatever still fits.
        for size in [4096, 1] {
            while file.write_all(&vec![0; size]).is_ok() {}
        }
    }

    fn empty(&self) {
        fs::remove_file(self.path.join("filler")).unwrap();
    }

    fn remount(&self, flags: MsFlags) {
        mount(
            None::<&str>,
            &self.path,
            None::<&str>,
            MsFlags::MS_REMOUNT | flags,
            None::<&str>,
        )
        .unwrap();
    }
}

impl Drop for Small {
    fn drop(&mut self) {
        // The daemon of a failed test still works on it; the lab's namespace ends with it mounted then.
        let _ = umount(&self.path);
    }
}

/// Runs netctl, which has to fail with this code and name the remedy.
#[track_caller]
fn assert_refused(host: &Host, args: &[&str], code: &str, remedy: &str) {
    let output = host.netctl(args);
    assert_eq!(output.error_code(), code, "{output:?}");
    assert!(
        output.stderr.contains(remedy),
        "no {remedy:?} in {output:?}"
    );
    assert_eq!(host.netctl(&["status"]).code, 0, "status answers");
}

fn names(list: &Value) -> Vec<String> {
    let names = list.as_array().unwrap().iter();
    names
        .map(|item| item["name"].as_str().unwrap().to_owned())
        .collect()
}

#[track_caller]
fn assert_reaches(from: &Netns, to: (&str, u16), name: &str) {
    let outcome = from.probe(Proto::Tcp, to, PATIENCE);
    assert_eq!(outcome.name(), Some(name), "{outcome:?}");
}

fn attach_args(container: &Netns, rest: &[&str]) -> Vec<String> {
    let words = Host::attach_words(container, rest);
    words.into_iter().map(str::to_owned).collect()
}

fn a_full_state_dir() {
    let mut host = Host::prepare(Netns::host("h1"));
    let disk = Small::mount(&host, "state", "4m");
    host.set_resolvers("");
    host.start_daemon();
    host.ok(&["network", "create", "web"]);
    let a = Netns::new("a");
    host.attach(&a, &["--network=web", "--publish=8080:80"]);
    disk.fill();
    let before = host.state();
    // The database has some room of its own: until that is used up, networks can be made.
    let mut made = Vec::new();
    let refused = loop {
        let name = format!("n{}", made.len());
        let label = format!("--label=a={}", "x".repeat(3000));
        let output = host.netctl(&["network", "create", &name, &label]);
        if output.code != 0 {
            break output;
        }
        assert!(made.len() < 2000, "the disk is never full");
        made.push(name);
    };
    assert_eq!(refused.error_code(), "store_unavailable", "{refused:?}");
    assert!(refused.stderr.contains("free some space"), "{refused:?}");
    assert_eq!(host.netctl(&["status"]).code, 0, "status answers");
    // What was refused is not there, and what was acknowledged is.
    let mut expected = [vec!["bridge".to_owned(), "web".to_owned()], made.clone()].concat();
    expected.sort();
    assert_eq!(names(&host.ok(&["network", "ls"])), expected);
    host.assert_healthy();
    // A removal may need space too: then it is refused, and what it had taken down already is made again.
    let removed = host.netctl(&["network", "rm", "web"]);
    assert_eq!(removed.error_code(), "network_in_use");
    for name in made.clone() {
        let output = host.netctl(&["network", "rm", &name]);
        if output.code == 0 {
            made.retain(|other| *other != name);
            expected.retain(|other| *other != name);
        } else {
            assert_eq!(output.error_code(), "store_unavailable", "{output:?}");
        }
        wait_for("an empty plan", PATIENCE, || host.plan().is_empty());
        assert_eq!(names(&host.ok(&["network", "ls"])), expected);
    }
    // Containers need the other directory.
    let b = Netns::new("b");
    host.attach(&b, &["--network=web"]);
    host.ok(&["detach", "b"]);
    for end in [Host::stop_daemon, Host::kill_daemon] {
        end(&mut host);
        host.start_daemon();
        assert_eq!(names(&host.ok(&["network", "ls"])), expected);
        host.assert_healthy();
    }
    disk.empty();
    host.ok(&["network", "create", "late"]);
    for name in made.iter().chain([&"late".to_owned()]) {
        host.ok(&["network", "rm", name]);
    }
    assert_same("a full disk", &before, &host.state());
    host.done();
    host.stop_daemon();
}

fn a_full_run_dir() {
    let mut host = Host::prepare(Netns::host("h1"));
    let disk = Small::mount(&host, "run", "256k");
    host.set_resolvers("");
    host.start_daemon();
    host.ok(&["network", "create", "web"]);
    let (a, b) = (Netns::new("a"), Netns::new("b"));
    host.attach(&a, &["--network=web", "--publish=8080:80"]);
    let _server = a.tcp_server("a", 80);
    disk.fill();
    let before = host.state();
    let full = ("store_unavailable", "free some space");
    let attach = attach_args(&b, &["--network=web", "--publish=9090:80"]);
    let attach: Vec<&str> = attach.iter().map(String::as_str).collect();
    assert_refused(&host, &attach, full.0, full.1);
    assert_refused(&host, &["connect", "bridge", "a"], full.0, full.1);
    assert_refused(&host, &["detach", "a"], full.0, full.1);
    assert_same("what was refused", &before, &host.state());
    assert_reaches(&host.netns, ("127.0.0.1", 8080), "a");
    let query = |host: &Host| {
        let answer = a.dns_query(
            ([127, 0, 0, 11], 53).into(),
            "a",
            lab::hickory_proto::rr::RecordType::A,
            lab::Transport::Udp,
        );
        let answer = answer.unwrap_or_else(|error| panic!("{error}: {}", host.log()));
        assert_eq!(answer.ips().len(), 1, "{answer:?}");
    };
    query(&host);
    for end in [Host::stop_daemon, Host::kill_daemon] {
        end(&mut host);
        host.start_daemon();
        assert_same("a start on a full disk", &before, &host.state());
        query(&host);
    }
    disk.empty();
    host.ok(&attach);
    host.assert_healthy();
    host.ok(&["detach", "a"]);
    host.done();
    host.stop_daemon();
}

fn a_read_only_state_dir() {
    let mut host = Host::prepare(Netns::host("h1"));
    let disk = Small::mount(&host, "state", "8m");
    host.set_resolvers("");
    host.start_daemon();
    host.ok(&["network", "create", "web"]);
    let a = Netns::new("a");
    host.attach(&a, &["--network=web", "--publish=8080:80"]);
    let _server = a.tcp_server("a", 80);
    let before = host.state();
    host.stop_daemon();
    let kernel = host.kernel_state();
    disk.remount(MsFlags::MS_RDONLY);
    let refused = host.start_refused();
    assert_ne!(refused.code, 0);
    assert!(
        refused.stderr.contains("make it writable") && refused.stderr.contains("--state-dir"),
        "{refused:?}"
    );
    assert_same("a refused start", &kernel, &host.kernel_state());
    assert_reaches(&host.netns, ("127.0.0.1", 8080), "a");
    disk.remount(MsFlags::empty());
    host.start_daemon();
    assert_same("a writable directory again", &before, &host.state());
    host.done();
    host.stop_daemon();
}

/// Makes what lies at a path unwritable while the daemon works on it, as a disk does that the kernel gave up on.
fn read_only(path: &Path) {
    let none = None::<&str>;
    mount(Some(path), path, none, MsFlags::MS_BIND, none).unwrap();
    let flags = MsFlags::MS_REMOUNT | MsFlags::MS_BIND | MsFlags::MS_RDONLY;
    mount(none, path, none, flags, none).unwrap();
}

fn a_read_only_run_dir() {
    let host = Host::start("h1");
    host.ok(&["network", "create", "web"]);
    host.ok(&["network", "create", "more"]);
    let (a, b) = (Netns::new("a"), Netns::new("b"));
    host.attach(
        &a,
        &["--network=web", "--network=bridge", "--publish=8080:80"],
    );
    let _server = a.tcp_server("a", 80);
    let before = host.state();
    let containers = host.dir().join("run/containers");
    read_only(&containers);
    let refusal = ("store_unavailable", "make it writable");
    let attach = attach_args(&b, &["--network=web", "--publish=9090:80"]);
    let attach: Vec<&str> = attach.iter().map(String::as_str).collect();
    for words in [
        &attach[..],
        &["detach", "a"],
        &["connect", "more", "a"],
        &["disconnect", "bridge", "a"],
    ] {
        assert_refused(&host, words, refusal.0, refusal.1);
    }
    assert_same("what was refused", &before, &host.state());
    assert_reaches(&host.netns, ("127.0.0.1", 8080), "a");
    umount(&containers).unwrap();
    host.ok(&attach);
    host.ok(&["detach", "a"]);
    host.done();
}

const FILES: u64 = 256;

fn few_descriptors() {
    let mut host = Host::prepare(Netns::host("h1"));
    host.set_resolvers("");
    host.start_daemon_as("__few", &[&FILES.to_string()]);
    assert!(host.log().contains("LimitNOFILE"), "{}", host.log());
    host.ok(&["network", "create", "web"]);
    let containers: Vec<Netns> = (0..80).map(|n| Netns::new(&format!("c{n}"))).collect();
    let attach = |container: &Netns| {
        let args = attach_args(container, &["--network=web"]);
        host.netctl(&args.iter().map(String::as_str).collect::<Vec<_>>())
    };
    let fit = containers
        .iter()
        .position(|container| {
            let output = attach(container);
            if output.code == 0 {
                return false;
            }
            assert_eq!(output.error_code(), "too_many_files", "{output:?}");
            assert!(output.stderr.contains("LimitNOFILE"), "{output:?}");
            true
        })
        .expect("the descriptors do not end");
    assert!(fit > 10, "only {fit} fit");
    // Many ports at once are refused whole.
    let args = attach_args(
        &containers[fit],
        &["--network=web", "--publish=20000-20999:20000-20999"],
    );
    let ports = host.netctl(&args.iter().map(String::as_str).collect::<Vec<_>>());
    assert_eq!(ports.error_code(), "too_many_files", "{ports:?}");
    for _ in 0..20 {
        assert_eq!(host.netctl(&["status"]).code, 0, "{}", host.log());
    }
    assert_eq!(names(&host.ok(&["ps"])).len(), fit);
    host.assert_healthy();
    // Some go, one comes.
    host.ok(&["detach", containers[0].name()]);
    host.ok(&["detach", containers[1].name()]);
    let next = attach(&containers[fit]);
    assert_eq!(next.code, 0, "{next:?}");
    host.done();
}

fn fewer_descriptors() {
    let mut host = Host::start("h1");
    host.ok(&["network", "create", "web"]);
    let containers: Vec<Netns> = (0..70).map(|n| Netns::new(&format!("c{n}"))).collect();
    for container in &containers {
        host.attach(container, &["--network=web"]);
    }
    host.ok(&["connect", "bridge", "c0"]);
    let before = host.state();
    host.stop_daemon();
    let kernel = host.kernel_state();
    let refused = host.start_refused_as("__few", &["128"]);
    assert_ne!(refused.code, 0);
    assert!(refused.stderr.contains("LimitNOFILE"), "{refused:?}");
    assert_same("a refused start", &kernel, &host.kernel_state());
    // Enough for the namespaces, not for the sockets: what lacks is named, and nothing is detached.
    host.start_daemon_as("__few", &[&FILES.to_string()]);
    let status = host.ok(&["status"]);
    assert!(
        status["warnings"].to_string().contains("LimitNOFILE"),
        "{status}"
    );
    assert_eq!(names(&host.ok(&["ps"])).len(), containers.len());
    host.stop_daemon();
    host.start_daemon();
    assert_same("enough descriptors again", &before, &host.state());
    host.done();
}

fn a_taken_port() {
    let mut host = Host::start("h1");
    host.ok(&["network", "create", "web"]);
    let (a, client) = (Netns::new("a"), Netns::new("client"));
    host.attach(&a, &["--network=web", "--publish=8080:80"]);
    host.attach(&client, &["--network=web"]);
    let _server = a.tcp_server("a", 80);
    let rules = host.rules();
    host.kill_daemon();
    let taken = host
        .netns
        .run(|| TcpListener::bind(("0.0.0.0", 8080)))
        .unwrap();
    host.start_daemon();
    assert_same("the start", &rules, &host.rules());
    let warnings = |host: &Host| host.ok(&["status"])["warnings"].to_string();
    let text = warnings(&host);
    for part in ["8080", "another program", "ss -lntup"] {
        assert!(text.contains(part), "no {part:?} in {text}");
    }
    // The element leads there still, from everywhere.
    assert_reaches(&host.netns, ("127.0.0.1", 8080), "a");
    assert_eq!(host.plan().len(), 1, "{:?}", host.plan());
    // It stands in nobody's way.
    let b = Netns::new("b");
    host.attach(&b, &["--network=web", "--publish=9090:80"]);
    host.ok(&["detach", "b"]);
    drop(taken);
    assert_eq!(host.api("POST", "/v1/audit", "").status, 200);
    host.assert_healthy();
    let text = warnings(&host);
    assert!(!text.contains("8080"), "{text}");
    let again = host.netns.run(|| TcpListener::bind(("0.0.0.0", 8080)));
    assert!(again.is_err(), "the port is held again");
    host.done();
}
