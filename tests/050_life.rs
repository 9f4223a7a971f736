//! The daemon's life and death: killed, stopped, started again, beside damaged records and changed kernels. Running
//! containers notice none of it.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    reason = "test code: a panic is how a test fails"
)]

use std::net::IpAddr;
use std::path::PathBuf;
use std::process::ExitCode;

use netd_tests::host::{Host, PROGRAMS, assert_same, lasting};
use netd_tests::lab::hickory_proto::rr::RecordType;
use netd_tests::lab::{self, Netns, PATIENCE, Proto, Transport, wait_for};
use serde_json::Value;

#[path = "life/drift.rs"]
mod drift;
#[path = "life/firewalls.rs"]
mod firewalls;
#[path = "life/records.rs"]
mod records;

fn main() -> ExitCode {
    lab::dispatch(PROGRAMS);
    lab::enter();
    lab::main(vec![
        lab::test("killed_and_started_again", || restarted(Host::kill_daemon)),
        lab::test("stopped_and_started_again", || {
            restarted(Host::stop_daemon);
        }),
        lab::test("killed_with_requests_under_way", killed_with_requests),
        lab::test("a_vanished_process", a_vanished_process),
        lab::test("a_vanished_file", a_vanished_file),
        lab::test("vanished_while_the_daemon_was_dead", vanished_meanwhile),
        lab::test("a_reboot", records::a_reboot),
        lab::test("a_wiped_run_dir", records::a_wiped_run_dir),
        lab::test(
            "an_orphan_keeps_its_address",
            records::an_orphan_keeps_its_address,
        ),
        lab::test("records_of_the_future", records::of_the_future),
        lab::test("a_damaged_record", records::damaged),
        lab::test("two_daemons", records::two_daemons),
        lab::test("purge", purge),
        lab::test("purge_without_a_daemon", purge_without_a_daemon),
        lab::test("forwarding_is_given_back", forwarding_is_given_back),
        lab::test("changes_by_others", drift::changes_by_others),
        lab::test("beside_firewalld", firewalls::firewalld),
        lab::test("what_is_not_ours_stays", drift::what_is_not_ours_stays),
    ])
}

/// A network with a server behind a published port, and a client.
struct Stage {
    host: Host,
    server: Netns,
    client: Netns,
    ip: IpAddr,
    outside: Netns,
}

const PORT: u16 = 8080;

impl Stage {
    fn set() -> Self {
        let (netns, outside) = (Netns::host("h1"), Netns::host("outside"));
        lab::veth(
            netns.end("up0", &["192.0.2.1/24"]),
            outside.end("eth0", &["192.0.2.2/24"]),
        );
        let host = Host::on(netns);
        host.ok(&["network", "create", "web", "--ipv6"]);
        let (server, client) = (Netns::new("server"), Netns::new("client"));
        let publish = format!("{PORT}:80");
        let made = host.attach(
            &server,
            &[
                "--network=web,alias=db",
                "--publish",
                &publish,
                "--publish",
                &format!("{publish}/udp"),
            ],
        );
        host.attach(&client, &["--network=web"]);
        let ip = made["endpoints"][0]["ipv4"].as_str().unwrap();
        let ip = ip.split('/').next().unwrap().parse().unwrap();
        Self {
            host,
            server,
            client,
            ip,
            outside,
        }
    }

    /// Published ports and the network itself work, whether or not a daemon runs.
    #[track_caller]
    fn assert_traffic(&self) {
        for proto in [Proto::Tcp, Proto::Udp] {
            let _server = self.server.serve(proto, "server", 80);
            for (from, to) in [
                (&self.outside, (IpAddr::from([192, 0, 2, 1]), PORT)),
                (&self.host.netns, (IpAddr::from([127, 0, 0, 1]), PORT)),
                (&self.client, (self.ip, 80)),
            ] {
                let outcome = from.probe(proto, to, PATIENCE);
                let what = format!("{proto:?} from {} to {to:?}: {outcome:?}", from.name());
                assert_eq!(outcome.name(), Some("server"), "{what}");
            }
        }
    }

    #[track_caller]
    fn assert_names(&self) {
        let server = ([127, 0, 0, 11], 53).into();
        let reply = self
            .client
            .dns_query(server, "db", RecordType::A, Transport::Udp);
        assert_eq!(reply.unwrap().ips(), [self.ip]);
    }

    /// Nobody else gets the published port.
    #[track_caller]
    fn assert_port_is_held(&self) {
        let taken = self
            .host
            .netns
            .run(|| std::net::TcpListener::bind(("0.0.0.0", PORT)).is_err());
        assert!(taken, "the port is not held");
    }
}

/// Everything goes on without a daemon, and the next one changes nothing.
fn restarted(end: fn(&mut Host)) {
    let mut stage = Stage::set();
    let server = stage.server.tcp_server("server", 80);
    let mut flow = stage
        .outside
        .tcp_open(("192.0.2.1", PORT), PATIENCE)
        .unwrap();
    assert_eq!(flow.ask(PATIENCE).unwrap().name, "server");
    let before = stage.host.state();
    for _ in 0..3 {
        let kernel = stage.host.kernel_state();
        end(&mut stage.host);
        assert_same("the end of the daemon", &kernel, &stage.host.kernel_state());
        assert_eq!(flow.ask(PATIENCE).unwrap().name, "server", "daemon dead");
        let mut new = stage
            .outside
            .tcp_open(("192.0.2.1", PORT), PATIENCE)
            .unwrap();
        assert_eq!(new.ask(PATIENCE).unwrap().name, "server", "daemon dead");
        stage.host.start_daemon();
        assert_same("the next daemon", &before, &stage.host.state());
        assert_eq!(flow.ask(PATIENCE).unwrap().name, "server", "the next");
        stage.assert_names();
        stage.assert_port_is_held();
    }
    drop((flow, server));
    stage.assert_traffic();
    stage.host.assert_healthy();
    stage.host.done();
}

/// kill -9 in the middle of attaches and detaches: what a client was told is true, and nothing is left half done.
fn killed_with_requests() {
    const EACH: usize = 12;
    let mut host = Host::start("h1");
    host.ok(&["network", "create", "web", "--ipv6"]);
    let containers: Vec<Netns> = (0..2 * EACH)
        .map(|n| Netns::new(&format!("c{n}")))
        .collect();
    for round in 0..4 {
        let (leaving, coming) = containers.split_at(EACH);
        for container in leaving {
            host.attach(container, &["--network=web"]);
        }
        let answers = std::thread::scope(|scope| {
            let host = &host;
            let status = |method, target: &str, body: &str| {
                let answer = host.try_api(method, target, body);
                answer.ok().map(|answer| answer.status)
            };
            let leaving: Vec<_> = leaving
                .iter()
                .map(|container| {
                    let target = format!("/v1/containers/{}", container.name());
                    scope.spawn(move || status("DELETE", &target, ""))
                })
                .collect();
            let coming: Vec<_> = coming
                .iter()
                .enumerate()
                .map(|(n, container)| {
                    let body = format!(
                        r#"{{"netns":"{}","name":"{}","networks":[{{"network":"web"}}],"publish":["{}:80"]}}"#,
                        container.path().display(),
                        container.name(),
                        9000 + n
                    );
                    scope.spawn(move || status("POST", "/v1/containers", &body))
                })
                .collect();
            // Each round a little later in the work: by links, not by time.
            wait_for("some of the links", PATIENCE, || {
                let there = containers[EACH..].iter();
                there
                    .filter(|container| container.link("eth0").is_some())
                    .count()
                    > 3 * round
            });
            nix::sys::signal::kill(
                nix::unistd::Pid::from_raw(i32::try_from(host.pid()).unwrap()),
                lab::Signal::SIGKILL,
            )
            .unwrap();
            let join = |threads: Vec<std::thread::ScopedJoinHandle<'_, Option<u16>>>| {
                let threads = threads.into_iter();
                threads
                    .map(|thread| thread.join().unwrap())
                    .collect::<Vec<_>>()
            };
            (join(leaving), join(coming))
        });
        host.kill_daemon();
        host.start_daemon();
        host.assert_healthy();
        check_promises(&host, &containers, &answers, EACH);
        for container in host.ok(&["ps"]).as_array().unwrap() {
            host.ok(&["detach", container["name"].as_str().unwrap()]);
        }
        assert_eq!(host.records(), Vec::<String>::new());
    }
    host.done();
}

/// Who was told "attached" is there, who was told "detached" is not; who was told nothing is either whole or gone.
fn check_promises(
    host: &Host,
    containers: &[Netns],
    (left, came): &(Vec<Option<u16>>, Vec<Option<u16>>),
    each: usize,
) {
    let listed = host.ok(&["ps"]);
    let is_listed = |container: &Netns| {
        let mut all = listed.as_array().unwrap().iter();
        all.any(|other| other["name"] == container.name())
    };
    for (container, status) in containers.iter().zip(left.iter().chain(came)) {
        let name = container.name();
        assert_eq!(
            container.link("eth0").is_some(),
            is_listed(container),
            "{name}"
        );
        assert!(
            status.is_none_or(|status| status < 300),
            "{name}: {status:?}"
        );
    }
    for (container, status) in containers[..each].iter().zip(left) {
        assert!(
            status.is_none() || !is_listed(container),
            "{}",
            container.name()
        );
    }
    for (container, status) in containers[each..].iter().zip(came) {
        assert!(
            status.is_none() || is_listed(container),
            "{}",
            container.name()
        );
    }
}

/// Waits until the daemon has noticed by itself that a container is gone, and checks that all of it went.
fn assert_forgotten(host: &Host, name: &str) {
    wait_for("the container to be forgotten", PATIENCE, || {
        let listed = host.ok(&["ps"]);
        !listed.as_array().unwrap().iter().any(|c| c["name"] == name)
    });
    host.assert_healthy();
    assert_eq!(
        host.records().iter().filter(|r| r.contains(name)).count(),
        0
    );
}

fn a_vanished_process() {
    let stage = Stage::set();
    let gone = Netns::process("gone");
    let words = format!("pid:{}", gone.pid());
    let attach = [
        "attach",
        &words,
        "--name=gone",
        "--network=web",
        "--publish=9090:80",
    ];
    stage.host.ok(&attach);
    let with = stage.host.new_links().len();
    drop(gone);
    assert_forgotten(&stage.host, "gone");
    assert_eq!(stage.host.new_links().len(), with - 1);
    // Its name and its port are free again.
    let next = Netns::new("gone");
    stage
        .host
        .attach(&next, &["--network=web", "--publish=9090:80"]);
    stage.assert_traffic();
    stage.host.done();
}

fn a_vanished_file() {
    let stage = Stage::set();
    let netns = Netns::new("gone");
    let file = netns.bind(stage.host.dir().join("netns/gone"));
    let path = file.path().to_string_lossy().into_owned();
    stage
        .host
        .ok(&["attach", &path, "--name=gone", "--network=web"]);
    // The path leads to another namespace now: the old one counts as gone, although this test still holds it.
    drop(file);
    let other = Netns::new("other");
    let _file = other.bind(&path);
    assert_forgotten(&stage.host, "gone");
    assert!(netns.link("eth0").is_none(), "its link went too");
    assert!(other.link("eth0").is_none(), "the other is not touched");
    stage.host.done();
}

fn vanished_meanwhile() {
    let mut stage = Stage::set();
    let gone = Netns::process("gone");
    let words = format!("pid:{}", gone.pid());
    stage
        .host
        .ok(&["attach", &words, "--name=gone", "--network=web"]);
    stage.host.kill_daemon();
    drop(gone);
    stage.host.start_daemon();
    assert_forgotten(&stage.host, "gone");
    stage.assert_traffic();
    stage.host.done();
}

/// Everything that outlives the daemon, on the host and in these containers.
fn everything(host: &Host, containers: &[&Netns]) -> Vec<String> {
    let mut lines = [lasting(&host.netns), host.rules(), host.records()].concat();
    for container in containers {
        lines.extend(lasting(container));
    }
    lines
}

fn purge() {
    let mut host = Host::prepare(Netns::host("h1"));
    let (a, b) = (Netns::new("a"), Netns::new("b"));
    let untouched = everything(&host, &[&a, &b]);
    host.set_resolvers("");
    host.start_daemon();
    host.ok(&["network", "create", "web", "--ipv6"]);
    host.attach(&a, &["--network=web", "--publish=8080:80"]);
    host.attach(&b, &["--network=web", "--network=bridge"]);
    let before = host.state();
    assert_eq!(host.refused(&["purge"]), "containers_attached");
    let dry = host.ok(&["purge", "--force", "--dry-run"]);
    assert!(dry["ops"].as_array().is_some_and(|ops| !ops.is_empty()));
    assert_same("a dry run", &before, &host.state());
    let purged = host.ok(&["purge", "--force"]);
    assert_eq!(
        (&purged["containers"], &purged["networks"]),
        (&2.into(), &2.into())
    );
    // `lo` in the containers stays up: who else uses it by now is not known.
    let lasting = |lines: Vec<String>| -> Vec<String> {
        let lines = lines.into_iter();
        lines
            .filter(|line| {
                !line.contains("\"lo\"") && !line.contains("127.0.0.") && !line.contains("::1")
            })
            .collect()
    };
    assert_same(
        "purge",
        &lasting(untouched.clone()),
        &lasting(everything(&host, &[&a, &b])),
    );
    host.stop_daemon();
    host.start_daemon();
    assert_same(
        "a start after it",
        &lasting(untouched),
        &lasting(everything(&host, &[&a, &b])),
    );
    // Until the next request.
    host.attach(&a, &["--publish=8080:80"]);
    host.assert_healthy();
    host.done();
}

fn purge_without_a_daemon() {
    let mut stage = Stage::set();
    let dir = |name: &str| stage.host.dir().join(name).to_string_lossy().into_owned();
    let (run, state) = (dir("run"), dir("state"));
    let words = ["purge", "--force", "--run-dir", &run, "--state-dir", &state];
    stage.host.kill_daemon();
    assert_eq!(
        stage.host.refused(&[&words[..1], &words[2..]].concat()),
        "containers_attached"
    );
    stage.assert_traffic();
    stage.host.ok(&words);
    assert_eq!(stage.host.new_links(), Vec::new());
    assert_eq!(stage.host.rules(), Vec::<String>::new());
    assert_eq!(stage.host.records(), Vec::<String>::new());
    assert!(stage.server.link("eth0").is_none());
    stage.host.start_daemon();
    assert_eq!(stage.host.ok(&["ps"]), Value::Array(Vec::new()));
    assert_eq!(stage.host.rules(), Vec::<String>::new());
    stage.host.ok(&["network", "create", "web"]);
    stage.host.attach(&stage.server, &["--network=web"]);
    stage.host.done();
}

fn forwarding_is_given_back() {
    let forwards = |host: &Host| {
        ["net/ipv4/ip_forward", "net/ipv6/conf/all/forwarding"].map(|key| host.netns.sysctl(key))
    };
    let host = Host::start("h1");
    let before = forwards(&host);
    assert_eq!(
        before[0].as_deref(),
        Some("0"),
        "as the kernel makes a namespace"
    );
    host.ok(&["network", "create", "web", "--ipv6"]);
    let on = forwards(&host);
    assert!(on.iter().flatten().all(|value| value == "1"), "{on:?}");
    let status = host.ok(&["status"]).to_string();
    assert!(status.contains("ip_forward"), "{status}");
    host.ok(&["purge", "--force"]);
    assert_eq!(forwards(&host), before);
}

/// The files of the records of containers.
fn record_files(host: &Host) -> Vec<PathBuf> {
    let dir = std::fs::read_dir(host.dir().join("run/containers")).unwrap();
    let files = dir.map(|entry| entry.unwrap().path());
    files.filter(|path| path.is_file()).collect()
}
