//! Overlay networks through failures: the store goes away, loses members or is emptied, daemons restart, hosts crash, move and
//! are removed. Traffic that has no part in it loses nothing.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::print_stderr,
    reason = "test code: a panic is how a test fails"
)]

use std::net::SocketAddr;
use std::time::Duration;

use netd_tests::cluster::{Cluster, addresses};
use netd_tests::etcd::Member;
use netd_tests::host::{Host, PROGRAMS};
use netd_tests::lab::{self, Netns, PATIENCE, Proto};
use netd_tests::overlay::{self, Guest, Stream, until_store_is};

/// How long the store is away. `NETD_OUTAGE_SECONDS=600` for the long form.
fn outage() -> Duration {
    let asked = std::env::var("NETD_OUTAGE_SECONDS").ok();
    Duration::from_secs(asked.and_then(|text| text.parse().ok()).unwrap_or(30))
}

fn main() -> std::process::ExitCode {
    lab::dispatch(PROGRAMS);
    lab::enter();
    lab::main(vec![
        lab::test("an_outage_loses_no_packet", an_outage_loses_no_packet),
        lab::test(
            "daemons_restart_under_traffic",
            daemons_restart_under_traffic,
        ),
        lab::test("the_store_loses_its_leader", the_store_loses_its_leader),
        lab::test("the_leader_hands_over", the_leader_hands_over),
        lab::test(
            "an_emptied_store_is_filled_again",
            an_emptied_store_is_filled_again,
        ),
        lab::test(
            "hosts_crash_return_and_are_removed",
            hosts_crash_return_and_are_removed,
        ),
        lab::test("a_removed_host_returns", a_removed_host_returns),
        lab::test("a_host_moves", a_host_moves),
        lab::test("a_partition_heals", a_partition_heals),
        lab::test(
            "certificates_are_checked_both_ways",
            certificates_are_checked_both_ways,
        ),
        lab::test(
            "bad_records_disable_themselves",
            bad_records_disable_themselves,
        ),
    ])
}

fn an_outage_loses_no_packet() {
    let mut cluster = Cluster::start(&["h1", "h2"], 1);
    cluster.network("web", &[]);
    let stream = Stream::start(&cluster, "web");
    cluster.store[0].kill();
    until_store_is(&cluster.hosts[0], "unavailable");
    let before = lab::cpu_time(cluster.hosts[0].pid());
    // Containers start and end meanwhile, names stay, and what cannot be says so.
    let mut started = Vec::new();
    let end = std::time::Instant::now() + outage();
    for n in 0..20 {
        let netns = Netns::new(&format!("x{n}"));
        cluster.hosts[0].attach(&netns, &["--network", "web"]);
        started.push(netns);
    }
    for n in 0..10 {
        cluster.hosts[0].ok(&["detach", &format!("x{n}")]);
    }
    let refused = cluster.hosts[0].refused(&["network", "create", "later", "--driver", "overlay"]);
    assert_eq!(refused, "store_unavailable");
    let quiet = lab::cpu_time(cluster.hosts[0].pid());
    let quiet_since = std::time::Instant::now();
    while std::time::Instant::now() < end {
        stream.go_on();
    }
    let used = lab::cpu_time(cluster.hosts[0].pid()).saturating_sub(quiet);
    let share = used.as_secs_f64() / quiet_since.elapsed().as_secs_f64();
    eprintln!(
        "a daemon without its store takes {:.2} % of a core",
        share * 100.0
    );
    assert!(share < 0.02, "{share}");
    assert!(quiet >= before);
    // More than a block: it ends with words, not with somebody else's addresses.
    let mut codes = Vec::new();
    for n in 20..80 {
        let netns = Netns::new(&format!("x{n}"));
        let path = netns.path().to_string_lossy().into_owned();
        let output =
            cluster.hosts[0].netctl(&["attach", &path, "--name", netns.name(), "--network", "web"]);
        if output.code != 0 {
            codes.push(output.error_code());
            break;
        }
        started.push(netns);
    }
    assert_eq!(codes, ["pool_exhausted_offline"]);
    cluster.store[0].start();
    until_store_is(&cluster.hosts[0], "connected");
    until_store_is(&cluster.hosts[1], "connected");
    // What happened meanwhile is known elsewhere now.
    let at = cluster.hosts[0].ok(&["inspect", "x15"]);
    let server = started[15].udp_server("x15", 80);
    let to = SocketAddr::new(addresses(&at)[0], 80);
    assert_eq!(stream.b.probe(Proto::Udp, to, PATIENCE).name(), Some("x15"));
    drop(server);
    stream.go_on();
    stream.end();
    cluster.hosts[1].assert_healthy();
}

fn daemons_restart_under_traffic() {
    let mut cluster = Cluster::start(&["h1", "h2", "h3"], 1);
    cluster.network("web", &[]);
    let stream = Stream::start(&cluster, "web");
    for n in [0, 1] {
        cluster.hosts[n].kill_daemon();
        stream.go_on();
        cluster.hosts[n].start_daemon();
        stream.go_on();
    }
    // Without the store too: what containers stand on is on disk.
    cluster.store[0].kill();
    cluster.hosts[1].kill_daemon();
    cluster.hosts[1].start_daemon();
    assert_eq!(cluster.hosts[1].plan(), Vec::<String>::new());
    stream.go_on();
    cluster.store[0].start();
    until_store_is(&cluster.hosts[1], "connected");
    until_store_is(&cluster.hosts[2], "connected");
    // Others come and go.
    for n in 0..100 {
        let netns = Netns::new(&format!("y{n}"));
        cluster.hosts[2].attach(&netns, &["--network", "web"]);
        cluster.hosts[2].ok(&["detach", netns.name()]);
    }
    stream.go_on();
    stream.end();
    for host in &cluster.hosts {
        host.assert_healthy();
    }
}

fn the_store_loses_its_leader() {
    let mut cluster = Cluster::start(&["h1", "h2"], 3);
    cluster.network("web", &[]);
    let stream = Stream::start(&cluster, "web");
    for n in 0..3 {
        cluster.store[n].kill();
        let netns = Netns::new(&format!("z{n}"));
        // A member is gone, perhaps the leader, perhaps the one that a host talks to.
        let attached = cluster.hosts[0].attach(&netns, &["--network", "web"]);
        let server = netns.udp_server(netns.name(), 80);
        let to = SocketAddr::new(addresses(&attached)[0], 80);
        assert_eq!(
            stream.b.probe(Proto::Udp, to, PATIENCE).name(),
            Some(netns.name())
        );
        drop(server);
        for host in &cluster.hosts {
            until_store_is(host, "connected");
        }
        cluster.store[n].start();
        stream.go_on();
    }
    stream.end();
}

/// An orderly change of leader, as before a member's maintenance: to each member once, and a container comes each time.
fn the_leader_hands_over() {
    let cluster = Cluster::start(&["h1", "h2"], 3);
    cluster.network("web", &[]);
    let stream = Stream::start(&cluster, "web");
    let ids: Vec<String> = cluster.store.iter().map(Member::id).collect();
    for n in 0..3 {
        let leader = cluster.store[0].leader();
        let from = ids.iter().position(|id| *id == leader).unwrap();
        let to = (from + 1) % ids.len();
        cluster.store[from].hand_over_to(&ids[to]);
        let netns = Netns::new(&format!("z{n}"));
        let attached = cluster.hosts[n % 2].attach(&netns, &["--network", "web"]);
        let _server = netns.udp_server(netns.name(), 80);
        let at = SocketAddr::new(addresses(&attached)[0], 80);
        let asks = [&stream.b, &stream.a][n % 2];
        assert_eq!(
            asks.probe(Proto::Udp, at, PATIENCE).name(),
            Some(netns.name())
        );
        for member in &cluster.store {
            lab::wait_for("all know the new leader", PATIENCE, || {
                member.leader() == ids[to]
            });
        }
        stream.go_on();
    }
    for host in &cluster.hosts {
        until_store_is(host, "connected");
        host.assert_healthy();
    }
    stream.end();
}

fn an_emptied_store_is_filled_again() {
    let mut cluster = Cluster::start(&["h1", "h2"], 1);
    cluster.network("web", &[]);
    let stream = Stream::start(&cluster, "web");
    cluster.store[0].wipe();
    until_store_is(&cluster.hosts[0], "unavailable");
    cluster.store[0].start();
    until_store_is(&cluster.hosts[0], "connected");
    until_store_is(&cluster.hosts[1], "connected");
    cluster.settle();
    // A daemon that knows nothing learns all of it from the store again.
    let c = Netns::new("c");
    let attached = cluster.hosts[0].attach(&c, &["--network", "web"]);
    let _server = c.udp_server("c", 80);
    let to = SocketAddr::new(addresses(&attached)[0], 80);
    assert_eq!(stream.b.probe(Proto::Udp, to, PATIENCE).name(), Some("c"));
    stream.go_on();
    stream.end();
    assert_eq!(
        cluster.hosts[1].refused(&["network", "rm", "web"]),
        "network_in_use"
    );
    for host in &cluster.hosts {
        host.assert_healthy();
    }
}

fn state(host: &Host, node: &str) -> String {
    let answer = host.api("GET", &format!("/v1/nodes/{node}"), "").body;
    answer["state"].as_str().unwrap_or("none").to_owned()
}

fn hosts_crash_return_and_are_removed() {
    let mut cluster = Cluster::start(&["h1", "h2"], 1);
    cluster.network("web", &[]);
    let (a, b) = (Netns::new("a"), Netns::new("b"));
    cluster.hosts[0].attach(&a, &["--network", "web"]);
    let attached = cluster.hosts[1].attach(&b, &["--network", "web"]);
    let server = b.udp_server("b", 80);
    let to = SocketAddr::new(addresses(&attached)[0], 80);
    assert!(a.probe(Proto::Udp, to, PATIENCE).reached());
    assert_eq!(
        cluster.hosts[0].refused(&["node", "rm", "h2"]),
        "node_in_use"
    );
    // Its daemon is silent: suspect, and its containers are reached all the same.
    cluster.hosts[1].kill_daemon();
    lab::wait_for("h2 is suspect", Duration::from_secs(60), || {
        state(&cluster.hosts[0], "h2") == "suspect"
    });
    assert!(a.probe(Proto::Udp, to, PATIENCE).reached());
    cluster.hosts[1].start_daemon();
    lab::wait_for("h2 is alive", Duration::from_secs(30), || {
        state(&cluster.hosts[0], "h2") == "alive"
    });
    assert!(a.probe(Proto::Udp, to, PATIENCE).reached());
    drop(server);
    cluster.hosts[1].ok(&["detach", "b"]);
    cluster.hosts[1].kill_daemon();
    lab::wait_for("h2 is suspect", Duration::from_secs(60), || {
        state(&cluster.hosts[0], "h2") == "suspect"
    });
    cluster.hosts[0].ok(&["node", "rm", "h2"]);
    lab::wait_for("h2 is gone", PATIENCE, || {
        state(&cluster.hosts[0], "h2") == "none"
    });
    assert_eq!(
        cluster.hosts[0].refused(&["node", "inspect", "h2"]),
        "node_not_found"
    );
    cluster.hosts[0].assert_healthy();
}

/// It was removed for dead and its containers run on. What another host has given out since is that one's, and the rest is as
/// it was.
fn a_removed_host_returns() {
    let mut cluster = Cluster::start(&["h1", "h2"], 1);
    cluster.network("web", &["--subnet", "10.77.0.0/26"]);
    cluster.network("other", &[]);
    let a = Guest::attach(&cluster.hosts[0], "a", &["--network", "web"]);
    let b = Guest::attach(&cluster.hosts[1], "b", &["--network", "web"]);
    let d = Guest::attach(&cluster.hosts[0], "d", &["--network", "other"]);
    let e = Guest::attach(&cluster.hosts[1], "e", &["--network", "other"]);
    let at = |guest: &Guest| SocketAddr::new(guest.ips[0], 80);
    assert!(a.netns.probe(Proto::Tcp, at(&b), PATIENCE).reached());
    cluster.hosts[1].kill_daemon();
    lab::wait_for("h2 is suspect", Duration::from_secs(60), || {
        state(&cluster.hosts[0], "h2") == "suspect"
    });
    cluster.hosts[0].ok(&["node", "rm", "h2"]);
    let words = format!("web,ip={}", b.ips[0]);
    let thief = Guest::attach(&cluster.hosts[0], "thief", &["--network", &words]);
    assert_eq!(thief.ips, b.ips);
    cluster.hosts[1].start_daemon();
    cluster.settle();
    let warnings = |host: &Host| host.api("GET", "/v1/status", "").body["warnings"].to_string();
    lab::wait_for("h2 names what it has lost", PATIENCE, || {
        let text = warnings(&cluster.hosts[1]);
        text.contains("container b is cut off from network web") && text.contains("host h1")
    });
    let removals = || {
        let keys = cluster.store[0].keys();
        keys.into_iter()
            .filter(|(key, ..)| key.contains("/removed/"))
            .count()
    };
    lab::wait_for("nothing is left of the removal", PATIENCE, || {
        removals() == 0
    });
    // The other network is as it was, with the addresses that h2 has claimed again.
    let reached = |from: &Guest, to: &Guest| from.netns.probe(Proto::Tcp, at(to), PATIENCE);
    assert_eq!(reached(&d, &e).name(), Some("e"));
    overlay::resolves(&d.netns, "e", &e.ips);
    // Who asks for the address gets the one that has it, on h2 too; b does not answer.
    let c = Guest::attach(&cluster.hosts[1], "c", &["--network", "web"]);
    assert_ne!(c.ips, b.ips);
    assert_eq!(reached(&c, &thief).name(), Some("thief"));
    assert_eq!(reached(&a, &thief).name(), Some("thief"));
    let unreachable = b
        .netns
        .probe(Proto::Udp, at(&a), Duration::from_millis(500));
    assert!(!unreachable.reached());
    overlay::resolves(&a.netns, "c", &c.ips);
    for host in &cluster.hosts {
        lab::wait_for("nothing differs", PATIENCE, || host.plan().is_empty());
    }
    // As the warning says.
    cluster.hosts[1].ok(&["detach", "b"]);
    let attached = cluster.hosts[1].attach(&b.netns, &["--network", "web"]);
    let to = SocketAddr::new(addresses(&attached)[0], 80);
    assert_ne!(to, at(&thief));
    let again = a.netns.probe(Proto::Tcp, to, PATIENCE);
    assert_eq!(again.name(), Some("b"));
    lab::wait_for("no warning is left", PATIENCE, || {
        warnings(&cluster.hosts[1]) == "[]"
    });
    for host in &cluster.hosts {
        host.assert_healthy();
    }
}

/// A host gets another address; its peers follow without a restart.
fn a_host_moves() {
    let mut cluster = Cluster::start(&["h1", "h2"], 1);
    cluster.network("web", &[]);
    let (a, b) = (Netns::new("a"), Netns::new("b"));
    cluster.hosts[0].attach(&a, &["--network", "web"]);
    let attached = cluster.hosts[1].attach(&b, &["--network", "web"]);
    let _server = b.udp_server("b", 80);
    let to = SocketAddr::new(addresses(&attached)[0], 80);
    assert!(a.probe(Proto::Udp, to, PATIENCE).reached());
    cluster.hosts[1].netns.add_address("eth0", "192.0.2.77/24");
    cluster.hosts[1].stop_daemon();
    cluster.hosts[1].add_args(&["--advertise=192.0.2.77"]);
    cluster.hosts[1].start_daemon();
    lab::wait_for("h1 sees the new address", PATIENCE, || {
        let answer = cluster.hosts[0].api("GET", "/v1/nodes/h2", "").body;
        answer["address"] == "192.0.2.77"
    });
    for host in &cluster.hosts {
        lab::wait_for("the way is the new one", PATIENCE, || {
            host.plan().is_empty()
        });
    }
    assert!(a.probe(Proto::Udp, to, PATIENCE).reached());
}

/// A host that is cut off from store and peers goes on by itself, and is known again when it is back.
fn a_partition_heals() {
    let cluster = Cluster::start(&["h1", "h2"], 1);
    cluster.network("web", &[]);
    let (a, b, c) = (Netns::new("a"), Netns::new("b"), Netns::new("c"));
    cluster.hosts[0].attach(&a, &["--network", "web"]);
    cluster.hosts[1].attach(&b, &["--network", "web"]);
    cluster.switch.down("port1");
    until_store_is(&cluster.hosts[1], "unavailable");
    let attached = cluster.hosts[1].attach(&c, &["--network", "web"]);
    let _server = c.udp_server("c", 80);
    let to = SocketAddr::new(addresses(&attached)[0], 80);
    assert!(b.probe(Proto::Udp, to, PATIENCE).reached());
    cluster.switch.up("port1");
    until_store_is(&cluster.hosts[1], "connected");
    cluster.settle();
    assert_eq!(a.probe(Proto::Udp, to, PATIENCE).name(), Some("c"));
    for host in &cluster.hosts {
        host.assert_healthy();
    }
}

fn certificates_are_checked_both_ways() {
    let mut cluster = Cluster::prepare(&["h1", "h2", "h3", "h4"], 1);
    let dir = lab::scratch("certificates");
    let make = |name: &str, of: &str| {
        let made = rcgen::generate_simple_self_signed([of.to_owned()]).unwrap();
        let (certificate, key) = (
            dir.join(format!("{name}.pem")),
            dir.join(format!("{name}.key")),
        );
        std::fs::write(&certificate, made.cert.pem()).unwrap();
        std::fs::write(&key, made.signing_key.serialize_pem()).unwrap();
        (certificate, key)
    };
    let (server, server_key) = make("server", "192.0.2.100");
    let (client, client_key) = make("client", "netd");
    let (other, _) = make("other", "192.0.2.100");
    cluster.store[0].kill();
    cluster.store[0].tls = Some([server.clone(), server_key, client.clone()]);
    cluster.store[0].start();
    let flag = |name: &str, path: &std::path::Path| format!("--etcd-{name}={}", path.display());
    let own = [flag("cert", &client), flag("key", &client_key)];
    let with = |host: &mut Host, words: &[String]| {
        let words: Vec<&str> = words.iter().map(String::as_str).collect();
        host.add_args(&words);
        host.start_daemon();
    };
    let [good, stranger, nameless, plain] = &mut cluster.hosts[..] else {
        unreachable!()
    };
    with(good, &[&[flag("ca", &server)], &own[..]].concat());
    until_store_is(good, "connected");
    with(stranger, &[&[flag("ca", &other)], &own[..]].concat());
    with(nameless, &[flag("ca", &server)]);
    with(plain, &[]);
    for (host, remedy) in [
        (stranger, "etcd-ca"),
        (nameless, "etcd-cert"),
        (plain, "etcd-ca"),
    ] {
        let says = || host.api("GET", "/v1/status", "").body["store"].to_string();
        until_store_is(host, "unavailable");
        assert!(says().contains(remedy), "{}: {}", host.netns.name(), says());
    }
}

fn bad_records_disable_themselves() {
    let mut cluster = Cluster::start(&["h1", "h2"], 1);
    cluster.network("web", &[]);
    let stream = Stream::start(&cluster, "web");
    let put = |key: &str, value: &str| cluster.store[0].put(key, value.as_bytes());
    let net = cluster.hosts[0].ok(&["network", "inspect", "web"])["id"]
        .as_str()
        .unwrap()
        .to_owned();
    let future = r#"{"version":{"major":9,"minor":0}}"#;
    put("nodes/evil", "no json");
    put("nodes/h9", future);
    put(&format!("networks/{net}"), future);
    put(
        &format!("endpoints/h9/{net}/c1"),
        r#"{"version":{"major":1,"minor":0},"mac":"01:00:00:00:00:00","ips":[]}"#,
    );
    put("something/else", "x");
    lab::wait_for("h1 names the bad records", PATIENCE, || {
        let warnings = cluster.hosts[0].api("GET", "/v1/status", "").body["warnings"].to_string();
        [
            "nodes/evil",
            "nodes/h9",
            &format!("networks/{net}"),
            "endpoints/h9",
        ]
        .iter()
        .all(|key| warnings.contains(key))
    });
    stream.go_on();
    let c = Netns::new("c");
    cluster.hosts[1].attach(&c, &["--network", "web"]);
    cluster.hosts[0].kill_daemon();
    cluster.hosts[0].start_daemon();
    cluster.hosts[0].assert_healthy();
    stream.go_on();
    stream.end();
}
