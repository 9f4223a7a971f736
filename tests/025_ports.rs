//! Published ports: chosen by netd, of a range, of one address, of SCTP; what the answer says holds for packets, and over
//! a restart. Who reaches them from where is `020_reach`.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    reason = "test code: a panic is how a test fails"
)]

use std::process::ExitCode;
use std::time::Duration;

use netd_tests::host::{Host, PROGRAMS};
use netd_tests::lab::{self, Netns, PATIENCE, Proto};
use serde_json::Value;

#[path = "ports/sctp.rs"]
mod sctp;
#[path = "ports/sources.rs"]
mod sources;

fn main() -> ExitCode {
    lab::dispatch(PROGRAMS);
    lab::enter();
    lab::main(vec![
        lab::test("netd_chooses", netd_chooses),
        lab::test("first_free_of_a_range", first_free_of_a_range),
        lab::test("ranges_and_addresses", ranges_and_addresses),
        lab::test("sctp", sctp::sctp),
        lab::test("counters", counters),
        lab::test("sources_of_a_network", sources::sources_of_a_network),
        lab::test("sources_of_a_port", sources::sources_of_a_port),
        lab::test(
            "rules_of_the_administrator",
            sources::rules_of_the_administrator,
        ),
        lab::test(
            "ipv6_port_of_an_ipv4_container",
            ipv6_port_of_an_ipv4_container,
        ),
        lab::test(
            "ipv6_loopback_with_br_netfilter",
            ipv6_loopback_with_br_netfilter,
        ),
    ])
}

/// A host with two addresses on a wire to a neighbour. Its kernel gives 40000 to 40009 to programs, but 40001 and 40002.
fn world() -> (Host, Netns) {
    let (host, outside) = (Netns::host("host"), Netns::host("outside"));
    lab::wire(
        &host,
        "wan",
        &["192.0.2.1/24", "192.0.2.2/24", "2001:db8::1/64"],
        &outside,
        &["192.0.2.9/24", "2001:db8::9/64"],
    );
    host.set_sysctl("net/ipv4/ip_local_reserved_ports", "40001-40002");
    host.set_sysctl("net/ipv4/ip_local_port_range", "40000 40009");
    let host = Host::on(host);
    let mut words = vec!["network", "create", "n1"];
    words.extend(lab::has_ipv6().then_some("--ipv6"));
    host.ok(&words);
    (host, outside)
}

fn attach(host: &Host, container: &Netns, publish: &[&str]) -> Value {
    let words = publish.iter().flat_map(|text| ["--publish", text]);
    let words: Vec<&str> = ["--network", "n1"].into_iter().chain(words).collect();
    host.attach(container, &words)
}

fn ports(container: &Value) -> Vec<u64> {
    let ports = container["ports"].as_array().expect("a list of ports");
    ports
        .iter()
        .map(|p| p["host_port"].as_u64().unwrap())
        .collect()
}

#[track_caller]
fn assert_answered(from: &Netns, proto: Proto, to: &str, by: &str) {
    let answer = from.probe(proto, to, PATIENCE);
    assert_eq!(
        answer.name(),
        Some(by),
        "{} -> {to}: {answer:?}",
        from.name()
    );
}

#[track_caller]
fn assert_refused(from: &Netns, to: &str) {
    let answer = from.tcp_probe(to, Duration::from_secs(1));
    assert!(!answer.reached(), "{} -> {to}: {answer:?}", from.name());
}

/// Without a host port: from the kernel's range, never a reserved one, never another program's, one behind the other,
/// in the answer, and the same after a restart.
fn netd_chooses() {
    let (mut host, outside) = world();
    let _program = host.netns.serve(Proto::Tcp, "program", 40_003);
    let [a, b] = ["a", "b"].map(Netns::new);
    let _servers = [a.tcp_server("a", 80), b.tcp_server("b", 80)];

    assert_eq!(ports(&attach(&host, &a, &["80"])), [40_000]);
    // 40001 and 40002 are reserved, 40003 is the program's, which only the kernel knows.
    assert_eq!(ports(&attach(&host, &b, &["0:80"])), [40_004]);
    assert_answered(&outside, Proto::Tcp, "192.0.2.1:40000", "a");
    assert_answered(&outside, Proto::Tcp, "192.0.2.2:40004", "b");
    assert_answered(&outside, Proto::Tcp, "192.0.2.1:40003", "program");
    if lab::has_ipv6() {
        assert_answered(&outside, Proto::Tcp, "[2001:db8::1]:40000", "a");
    }
    host.assert_healthy();

    host.kill_daemon();
    assert_answered(&outside, Proto::Tcp, "192.0.2.1:40004", "b");
    host.start_daemon();
    assert_eq!(ports(&host.ok(&["inspect", "b"])), [40_004]);
    assert_answered(&outside, Proto::Tcp, "192.0.2.1:40004", "b");
    let taken = host.refuses_attach(&outside, &["--publish=40004:80"]);
    assert_eq!(taken, "port_in_use");

    // A port that was given back rests; a dry run chooses none.
    host.ok(&["detach", "b"]);
    let plan = host.attach(&b, &["--network=n1", "--publish=80", "--dry-run"]);
    assert!(plan["ops"].is_array(), "{plan}");
    assert_refused(&outside, "192.0.2.1:40004");
    let chosen = ports(&attach(&host, &b, &["127.0.0.1::80", "192.0.2.2::80"]));
    assert_eq!(chosen, [40_000 + 5; 2]);
    assert_answered(&outside, Proto::Tcp, "192.0.2.2:40005", "b");
    assert_refused(&outside, "192.0.2.1:40005");
    assert_answered(&host.netns, Proto::Tcp, "127.0.0.1:40005", "b");
    host.done();
}

/// One container port and a range of host ports: the first that nobody has, netd's containers and other programs alike.
fn first_free_of_a_range() {
    let (host, outside) = world();
    let _program = host.netns.serve(Proto::Tcp, "program", 8001);
    let names = ["a", "b", "c", "d"];
    let containers = names.map(Netns::new);
    let _servers = containers.each_ref().map(|c| c.tcp_server(c.name(), 80));
    let [a, b, c, d] = &containers;
    assert_eq!(ports(&attach(&host, a, &["8000-8003:80"])), [8000]);
    assert_eq!(ports(&attach(&host, b, &["8000-8003:80"])), [8002]);
    assert_eq!(ports(&attach(&host, c, &["8000-8003:80"])), [8003]);
    for (to, name) in [
        ("192.0.2.1:8000", "a"),
        ("192.0.2.1:8002", "b"),
        ("192.0.2.1:8003", "c"),
    ] {
        assert_answered(&outside, Proto::Tcp, to, name);
    }
    let full = Host::attach_words(d, &["--network=n1", "--publish=8000-8003:80"]);
    let refused = host.netctl(&full);
    assert_eq!(refused.error_code(), "port_in_use", "{refused:?}");
    assert!(refused.stderr.contains("8000-8003"), "{refused:?}");
    host.ok(&["detach", "b"]);
    assert_eq!(ports(&host.ok(&full)), [8002]);
    host.done();
}

/// Ranges port by port, and one port on several addresses led to several containers, beside what is on all of them.
fn ranges_and_addresses() {
    let (host, outside) = world();
    let [a, b] = ["a", "b"].map(Netns::new);
    let mut servers = Vec::new();
    for port in [80, 81, 82] {
        servers.extend([Proto::Tcp, Proto::Udp].map(|p| a.serve(p, &format!("a{port}"), port)));
    }
    servers.push(b.tcp_server("b", 80));
    attach(
        &host,
        &a,
        &[
            "8000-8002:80-82",
            "8000-8002:80-82/udp",
            "192.0.2.1:9000:80",
        ],
    );
    attach(&host, &b, &["192.0.2.2:9000:80", "127.0.0.1:9000:80"]);
    for n in 0..3 {
        for proto in [Proto::Tcp, Proto::Udp] {
            let to = format!("192.0.2.1:{}", 8000 + n);
            assert_answered(&outside, proto, &to, &format!("a{}", 80 + n));
        }
    }
    assert_answered(&outside, Proto::Tcp, "192.0.2.1:9000", "a80");
    assert_answered(&outside, Proto::Tcp, "192.0.2.2:9000", "b");
    assert_answered(&host.netns, Proto::Tcp, "127.0.0.1:9000", "b");
    let third = Netns::new("third");
    for publish in ["9000:80", "0.0.0.0:9000:80", "192.0.2.2:9000:80"] {
        let refused = host.refuses_attach(&third, &["--network=n1", "--publish", publish]);
        assert_eq!(refused, "port_in_use", "{publish}");
    }
    host.done();
}

/// What the kernel cannot translate the daemon passes on: from IPv6, where it was asked for, to a container without.
fn ipv6_port_of_an_ipv4_container() {
    if !lab::has_ipv6() {
        lab::skip("no IPv6 in this kernel");
    }
    let (mut host, outside) = world();
    // The daemon's own connections to the container take ports too.
    host.netns
        .set_sysctl("net/ipv4/ip_local_port_range", "32768 60999");
    host.ok(&["network", "create", "four"]);
    let c = Netns::new("c");
    let _servers = [Proto::Tcp, Proto::Udp].map(|proto| c.serve(proto, "c", 80));
    let publish = [
        "[::]:8080:80",
        "[::]:8080:80/udp",
        "[2001:db8::1]:8081:80",
        "[2001:db8::1]:8081:80/udp",
        "[::1]:8082:80",
        "8083:80",
    ];
    let words = publish.iter().flat_map(|text| ["--publish", text]);
    let words: Vec<&str> = ["--network", "four"].into_iter().chain(words).collect();
    host.attach(&c, &words);
    for proto in [Proto::Tcp, Proto::Udp] {
        for to in ["[2001:db8::1]:8080", "[2001:db8::1]:8081"] {
            assert_answered(&outside, proto, to, "c");
            assert_answered(&host.netns, proto, to, "c");
        }
        assert_answered(&host.netns, proto, "[::1]:8080", "c");
    }
    assert_answered(&host.netns, Proto::Tcp, "[::1]:8082", "c");
    assert_answered(&outside, Proto::Tcp, "192.0.2.1:8083", "c");
    // Only where IPv6 was named: the others answer in the container's families, and ::1 on this host alone.
    for to in [
        "192.0.2.1:8080",
        "192.0.2.1:8081",
        "[2001:db8::1]:8082",
        "[2001:db8::1]:8083",
    ] {
        assert_refused(&outside, to);
    }
    // A connection that stays, a large answer, and a client that asks for nothing.
    let mut kept = outside.tcp_open("[2001:db8::1]:8080", PATIENCE).unwrap();
    for _ in 0..3 {
        kept.ask(PATIENCE).unwrap();
    }
    host.assert_healthy();
    host.kill_daemon();
    assert_refused(&outside, "[2001:db8::1]:8080");
    host.start_daemon();
    assert_answered(&outside, Proto::Tcp, "[2001:db8::1]:8080", "c");
    host.assert_healthy();
    // IPv6 comes with another network: from then on the kernel does it, and the client's address is seen.
    host.ok(&["connect", "n1", "c"]);
    let answer = outside.tcp_probe("[2001:db8::1]:8080", PATIENCE);
    let lab::Outcome::Reached { seen_source, .. } = answer else {
        panic!("{answer:?}");
    };
    assert_eq!(seen_source.ip().to_string(), "2001:db8::9");
    host.assert_healthy();
    host.ok(&["disconnect", "n1", "c"]);
    assert_answered(&outside, Proto::Tcp, "[2001:db8::1]:8080", "c");
    let other = Netns::new("other");
    let refused = host.refuses_attach(&other, &["--network=four", "--publish=[::]:9000:80/sctp"]);
    assert_eq!(refused, "invalid_publish");
    host.ok(&["detach", "c"]);
    assert_refused(&outside, "[2001:db8::1]:8080");
    host.done();
}

/// With br_netfilter the kernel has no route for a reply to ::1.
fn ipv6_loopback_with_br_netfilter() {
    if !lab::has_ipv6() {
        lab::skip("no IPv6 in this kernel");
    }
    for on in [false, true] {
        let (host, outside) = (Netns::host("host"), Netns::host("outside"));
        lab::wire(
            &host,
            "wan",
            &["2001:db8::1/64"],
            &outside,
            &["2001:db8::9/64"],
        );
        host.filter_bridged(on);
        let host = Host::on(host);
        host.ok(&["network", "create", "n1", "--ipv6"]);
        let c = Netns::new("c");
        let _servers = [Proto::Tcp, Proto::Udp].map(|proto| c.serve(proto, "c", 80));
        attach(&host, &c, &["[::1]:8080:80", "[::1]:8080:80/udp"]);
        for proto in [Proto::Tcp, Proto::Udp] {
            assert_answered(&host.netns, proto, "[::1]:8080", "c");
        }
        assert_refused(&outside, "[2001:db8::1]:8080");
        host.assert_healthy();
        host.done();
    }
}

/// What passes a port and an interface is counted, in inspect and in the metrics, and survives a restart and a repair.
fn counters() {
    let (mut host, outside) = world();
    let c = Netns::new("c");
    let _servers = [Proto::Tcp, Proto::Udp].map(|proto| c.serve(proto, "c", 80));
    attach(&host, &c, &["8080:80", "8081:80", "8080:80/udp"]);
    let port = |host: &Host, at: usize| host.ok(&["inspect", "c"])["counters"]["ports"][at].clone();
    assert_eq!(port(&host, 0)["received"]["packets"], 0);
    let mut sent = 0;
    for to in ["192.0.2.1:8080", "192.0.2.2:8081", "[2001:db8::1]:8080"] {
        if lab::has_ipv6() || !to.contains('[') {
            assert_answered(&outside, Proto::Tcp, to, "c");
            sent += 1;
        }
    }
    // SYN, ACK, the question and the end of it, each way: at least four packets of 40 bytes and more.
    let tcp = port(&host, 0);
    for way in ["received", "sent"] {
        let (packets, bytes) = (&tcp[way]["packets"], &tcp[way]["bytes"]);
        let (packets, bytes) = (packets.as_u64().unwrap(), bytes.as_u64().unwrap());
        assert!(packets >= sent * 3 && packets < sent * 12, "{tcp}");
        assert!(bytes >= packets * 40 && bytes < packets * 120, "{tcp}");
    }
    // One datagram of two bytes: 30 with its headers; what others do is not counted here.
    assert_eq!(port(&host, 1)["proto"], "udp");
    assert_answered(&outside, Proto::Udp, "192.0.2.1:8080", "c");
    let udp = port(&host, 1);
    let received = udp["received"]["packets"].as_u64().unwrap();
    assert_eq!(
        udp["received"]["bytes"].as_u64().unwrap(),
        received * 30,
        "{udp}"
    );
    let egress = outside.udp_server("outside", 53);
    assert!(c.udp_probe("192.0.2.9:53", PATIENCE).reached());
    drop(egress);
    assert_eq!(port(&host, 1), udp);

    let interface = host.ok(&["inspect", "c"])["counters"]["endpoints"][0].clone();
    assert_eq!(interface["ifname"], "eth0");
    let seen = interface["received"]["packets"].as_u64().unwrap();
    assert!(
        seen > tcp["received"]["packets"].as_u64().unwrap(),
        "{interface}"
    );

    host.kill_daemon();
    host.start_daemon();
    assert_eq!(port(&host, 1), udp);
    let page = host.metrics();
    let line = format!(
        "netd_port_receive_packets_total{{container=\"c\",proto=\"udp\",port=\"80\"}} {received}"
    );
    assert!(page.lines().any(|found| found == line), "{line}\n{page}");
    assert!(page.contains("netd_published_ports 3\n"), "{page}");
    assert!(
        page.contains(
            "netd_endpoint_receive_bytes_total{container=\"c\",network=\"n1\",ifname=\"eth0\"}"
        ),
        "{page}"
    );
    host.ok(&["detach", "c"]);
    assert!(!host.metrics().contains("container="));
    host.done();
}
