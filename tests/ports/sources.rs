//! From where flows may be opened to a container: the lists of a network and of a port, and the administrator's own rules.

use std::time::Duration;

use netd_tests::host::Host;
use netd_tests::lab::{self, Netns, PATIENCE, Proto};

use super::{assert_answered, assert_refused, attach, world};

/// The neighbour has several addresses to ask from.
fn many_sources(outside: &Netns) {
    for address in ["192.0.2.10/24", "192.0.2.11/24", "198.51.100.1/32"] {
        outside.add_address("eth0", address);
    }
    if lab::has_ipv6() {
        outside.add_address("eth0", "2001:db8::10/64");
    }
}

/// Whether each of these sources gets an answer, by TCP and UDP.
#[track_caller]
fn assert_sources(outside: &Netns, to: &str, sources: &[(&str, bool)]) {
    for (source, admitted) in sources {
        if source.contains(':') && !lab::has_ipv6() {
            continue;
        }
        let from: std::net::IpAddr = source.parse().unwrap();
        let to = if from.is_ipv6() {
            to.replace("192.0.2.1", "[2001:db8::1]")
        } else {
            to.to_owned()
        };
        for proto in [Proto::Tcp, Proto::Udp] {
            let wait = if *admitted {
                PATIENCE
            } else {
                Duration::from_millis(400)
            };
            let answer = outside.probe_from(proto, (from, 0), to.as_str(), wait);
            assert_eq!(
                answer.reached(),
                *admitted,
                "{proto:?} {source} -> {to}: {answer:?}"
            );
        }
    }
}

/// Who may open flows to a network is judged by the source, over restarts, for all its ports and both families.
pub(super) fn sources_of_a_network() {
    let (mut host, outside) = world();
    many_sources(&outside);
    host.netns.add_route("198.51.100.1/32", "192.0.2.9");
    let (c, neighbour) = (Netns::new("c"), Netns::new("neighbour"));
    let _servers = [Proto::Tcp, Proto::Udp].map(|proto| c.serve(proto, "c", 80));
    attach(&host, &c, &["8080:80", "8080:80/udp"]);
    host.ok(&["network", "create", "n2"]);
    host.attach(&neighbour, &["--network=n2"]);
    let everybody = [
        "192.0.2.9",
        "192.0.2.10",
        "198.51.100.1",
        "2001:db8::9",
        "2001:db8::10",
    ];
    let all = everybody.map(|source| (source, true));
    assert_sources(&outside, "192.0.2.1:8080", &all);

    host.ok(&[
        "network",
        "set",
        "n1",
        "--block-from=192.0.2.10",
        "--block-from=2001:db8::10",
    ]);
    let blocked = everybody.map(|source| (source, !source.ends_with("10")));
    assert_sources(&outside, "192.0.2.1:8080", &blocked);
    host.assert_healthy();

    let shown = host.ok(&["network", "set", "n1", "--allow-from=192.0.2.0/24"]);
    assert_eq!(shown["allow_from"][0], "192.0.2.0/24");
    assert_eq!(shown["block_from"][0], "192.0.2.10/32");
    let allowed = everybody.map(|source| (source, source == "192.0.2.9"));
    assert_sources(&outside, "192.0.2.1:8080", &allowed);
    // Another network's containers are outside too; the host itself, and what leaves the network, are not judged.
    assert!(
        !neighbour
            .tcp_probe("192.0.2.1:8080", Duration::from_millis(400))
            .reached()
    );
    assert_answered(&host.netns, Proto::Tcp, "192.0.2.1:8080", "c");
    let _server = outside.tcp_server("outside", 7000);
    assert_answered(&c, Proto::Tcp, "192.0.2.9:7000", "outside");
    host.kill_daemon();
    assert_sources(&outside, "192.0.2.1:8080", &allowed);
    host.start_daemon();
    host.assert_healthy();
    assert_sources(&outside, "192.0.2.1:8080", &allowed);

    let before = host.state();
    let plan = host.ok(&["network", "set", "n1", "--allow-from=none", "--dry-run"]);
    assert!(!plan["ops"].as_array().unwrap().is_empty());
    assert_eq!(host.state(), before);
    assert_eq!(
        host.refused(&["network", "set", "n1", "--allow-from=x"]),
        "invalid_source"
    );
    host.ok(&[
        "network",
        "set",
        "n1",
        "--allow-from=none",
        "--block-from=none",
    ]);
    assert_sources(&outside, "192.0.2.1:8080", &all);
    host.done();
}

/// The same for one published port; the others of the container are open.
pub(super) fn sources_of_a_port() {
    let (host, outside) = world();
    many_sources(&outside);
    let c = Netns::new("c");
    let mut servers = Vec::new();
    for port in [80, 81] {
        servers.extend([Proto::Tcp, Proto::Udp].map(|proto| c.serve(proto, "c", port)));
    }
    let lists = ",allow-from=192.0.2.0/24,allow-from=2001:db8::9,block-from=192.0.2.10";
    let shown = attach(
        &host,
        &c,
        &[
            &format!("8080:80/tcp{lists}"),
            &format!("8080:80/udp{lists}"),
            "8081:81",
            "8081:81/udp",
        ],
    );
    assert_eq!(shown["ports"][0]["block_from"][0], "192.0.2.10/32");
    let judged = [
        ("192.0.2.9", true),
        ("192.0.2.10", false),
        ("192.0.2.11", true),
        ("2001:db8::9", true),
        ("2001:db8::10", false),
    ];
    assert_sources(&outside, "192.0.2.1:8080", &judged);
    assert_sources(
        &outside,
        "192.0.2.1:8081",
        &judged.map(|(source, _)| (source, true)),
    );
    host.assert_healthy();
    host.ok(&["detach", "c"]);

    // What the daemon relays it judges itself.
    if lab::has_ipv6() {
        host.netns
            .set_sysctl("net/ipv4/ip_local_port_range", "32768 60999");
        host.ok(&["network", "create", "four"]);
        let publish = [
            "[::]:8080:80/tcp,block-from=2001:db8::10",
            "[::]:8080:80/udp,block-from=2001:db8::10",
        ];
        let words = publish.iter().flat_map(|text| ["--publish", text]);
        let words: Vec<&str> = ["--network", "four"].into_iter().chain(words).collect();
        host.attach(&c, &words);
        let sources = [("2001:db8::9", true), ("2001:db8::10", false)];
        assert_sources(&outside, "192.0.2.1:8080", &sources);
        host.ok(&["network", "set", "four", "--block-from=2001:db8::9"]);
        assert_sources(&outside, "192.0.2.1:8080", &[("2001:db8::9", false)]);
        host.assert_healthy();
        host.ok(&["detach", "c"]);
    }
    let path = c.path().to_string_lossy().into_owned();
    for publish in [
        &["--publish=80:80,allow-from=x"][..],
        &["--publish=80:80,from=10.0.0.0/8"],
        &["--publish=80:80,allow-from=10.0.0.0/8", "--publish=81:80"],
    ] {
        let words = [&["attach", &path, "--name=c", "--network=n1"], publish].concat();
        assert_eq!(host.refused(&words), "invalid_publish", "{publish:?}");
    }
    host.done();
}

/// What an administrator puts into `user-forward` comes first and stays: over a kill, a repair and an audit.
pub(super) fn rules_of_the_administrator() {
    let (mut host, outside) = world();
    let c = Netns::new("c");
    let _server = c.tcp_server("c", 80);
    attach(&host, &c, &["8080:80"]);
    let rules = |host: &Host| -> String {
        let words = ["-a", "list", "chain", "inet", "netd", "user-forward"];
        let output = host.netns.command("nft", &words).output();
        let output = output
            .unwrap_or_else(|error| lab::skip(&format!("no nft to put a rule in with: {error}")));
        String::from_utf8_lossy(&output.stdout).into_owned()
    };
    rules(&host);
    let words = [
        "add",
        "rule",
        "inet",
        "netd",
        "user-forward",
        "ip",
        "saddr",
        "192.0.2.9",
        "drop",
    ];
    assert!(
        host.netns
            .command("nft", &words)
            .status()
            .unwrap()
            .success()
    );
    assert_refused(&outside, "192.0.2.1:8080");
    let held = rules(&host);
    assert!(held.contains("192.0.2.9 drop"), "{held}");
    host.assert_healthy();
    host.kill_daemon();
    // Somebody takes the rest of the table's rules away.
    let flush = ["flush", "chain", "inet", "netd", "forward"];
    assert!(
        host.netns
            .command("nft", &flush)
            .status()
            .unwrap()
            .success()
    );
    host.start_daemon();
    host.assert_healthy();
    assert_eq!(rules(&host), held);
    assert_refused(&outside, "192.0.2.1:8080");
    host.done();
}
