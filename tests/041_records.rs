//! Records other than addresses, names of the host, options of networks, and how the DNS tells of itself.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    reason = "test code: a panic is how a test fails"
)]

use std::io::{Read as _, Write as _};
use std::net::{IpAddr, SocketAddr, UdpSocket};
use std::os::unix::net::UnixStream;
use std::process::ExitCode;

use netd_tests::host::{Host, PROGRAMS};
use netd_tests::lab::hickory_proto::op::{Message, Query, ResponseCode};
use netd_tests::lab::hickory_proto::rr::{Name, RecordType};
use netd_tests::lab::{self, Netns, PATIENCE, Reply, Transport};
use serde_json::Value;

#[path = "names/upstream.rs"]
mod upstream;

use upstream::{Manner, Upstream};

fn main() -> ExitCode {
    lab::dispatch(PROGRAMS);
    lab::enter();
    lab::main(vec![
        lab::test("records_of_a_container", records_of_a_container),
        lab::test("reverse_names", reverse_names),
        lab::test("options_of_a_network", options_of_a_network),
        lab::test("a_fixed_order_among_networks", a_fixed_order_among_networks),
        lab::test("answers_at_the_gateway", answers_at_the_gateway),
        lab::test("the_cache_is_the_hosts", the_cache_is_the_hosts),
        lab::test("one_of_three_is_dead", one_of_three_is_dead),
        lab::test("explained_and_counted", explained_and_counted),
        lab::test("ten_thousand_pairs", ten_thousand_pairs),
        lab::test(
            "nobody_says_that_nobody_listens",
            nobody_says_that_nobody_listens,
        ),
    ])
}

const BOTH: [Transport; 2] = [Transport::Udp, Transport::Tcp];

fn server() -> SocketAddr {
    ([127, 0, 0, 11], 53).into()
}

#[track_caller]
fn ask(container: &Netns, name: &str, kind: RecordType, transport: Transport) -> Reply {
    let reply = container.dns_query(server(), name, kind, transport);
    reply.unwrap_or_else(|error| {
        panic!(
            "{} asks {name} {kind} by {transport:?}: {error}",
            container.name()
        )
    })
}

/// The data of the answers, as text.
#[track_caller]
fn data(container: &Netns, name: &str, kind: RecordType) -> Vec<String> {
    let [udp, tcp] = BOTH.map(|transport| {
        let reply = ask(container, name, kind, transport);
        reply
            .answers
            .iter()
            .map(|record| record.data.to_string())
            .collect::<Vec<_>>()
    });
    assert_eq!(udp, tcp, "{name} {kind}");
    udp
}

fn ip(container: &Value, endpoint: usize, key: &str) -> IpAddr {
    let text = container["endpoints"][endpoint][key].as_str().unwrap();
    text.split('/').next().unwrap().parse().unwrap()
}

fn records_of_a_container() {
    let netns = Netns::host("h1");
    let upstream = Upstream::start(&netns, "127.0.0.1:53", upstream::address([192, 0, 2, 80]).0);
    let host = Host::with_resolvers(netns, "nameserver 127.0.0.1\n");
    host.ok(&["network", "create", "web", "--subnet", "10.20.0.0/24"]);
    let (a, b) = (Netns::new("a"), Netns::new("b"));
    let labels = [
        "--label",
        "tier=front",
        "--label",
        "netd.port.http=8080/tcp",
        "--publish",
        "8443:443",
    ];
    host.attach(&a, &[&["--network", "web,alias=www"][..], &labels].concat());
    host.attach(&b, &["--network", "web"]);
    assert_eq!(
        data(&b, "www.web", RecordType::TXT),
        ["netd.port.http=8080/tcp", "tier=front"]
    );
    for (name, port) in [
        ("_http._tcp.a", 8080),
        ("_443._tcp.www.web", 443),
        ("_HTTP._TCP.A.WEB", 8080),
    ] {
        assert_eq!(
            data(&b, name, RecordType::SRV),
            [format!("0 1 {port} a.web.")],
            "{name}"
        );
        let reply = ask(&b, name, RecordType::SRV, Transport::Udp);
        assert_eq!(
            reply.message.additionals.len(),
            1,
            "its address comes with it"
        );
    }
    for (name, kind, code) in [
        ("_http._udp.a", RecordType::SRV, ResponseCode::NXDomain),
        ("_http._tcp.a", RecordType::A, ResponseCode::NoError),
        ("a", RecordType::Unknown(65), ResponseCode::NoError),
        (
            "nobody.netd.internal",
            RecordType::A,
            ResponseCode::NXDomain,
        ),
    ] {
        let reply = ask(&b, name, kind, Transport::Udp);
        assert_eq!(
            (reply.rcode, reply.answers.len()),
            (code, 0),
            "{name} {kind}"
        );
        assert_eq!(reply.message.authorities.len(), 1, "an SOA says how long");
        assert!(!upstream.saw(name), "{name} stays here");
    }
    assert_eq!(data(&b, "a", RecordType::ANY).len(), 1, "RFC 8482");
    assert_eq!(data(&b, "host.netd.internal", RecordType::A), ["10.20.0.1"]);
    // It is the host indeed.
    let _server = host.netns.tcp_server("host", 9000);
    assert!(b.tcp_probe("10.20.0.1:9000", PATIENCE).reached());
    host.ok(&["detach", "a"]);
    assert_eq!(
        ask(&b, "_http._tcp.a", RecordType::SRV, Transport::Udp).rcode,
        ResponseCode::NXDomain
    );
    host.done();
}

fn reverse_names() {
    let netns = Netns::host("h1");
    let upstream = Upstream::start(&netns, "127.0.0.1:53", upstream::address([192, 0, 2, 80]).0);
    let host = Host::with_resolvers(netns, "nameserver 127.0.0.1\n");
    host.ok(&[
        "network",
        "create",
        "web",
        "--subnet",
        "10.20.0.0/24",
        "--subnet",
        "fd00:20::/64",
        "--ipv6",
    ]);
    host.ok(&["network", "create", "far", "--subnet", "10.30.0.0/24"]);
    let [a, b] = ["a", "b"].map(Netns::new);
    let made = host.attach(&a, &["--network", "web,alias=www"]);
    host.attach(&b, &["--network", "far"]);
    let reverse = |ip: IpAddr| Name::from(ip).to_ascii();
    for key in ["ipv4", "ipv6"] {
        assert_eq!(
            data(&a, &reverse(ip(&made, 0, key)), RecordType::PTR),
            ["a.web."]
        );
        let elsewhere = ask(
            &b,
            &reverse(ip(&made, 0, key)),
            RecordType::PTR,
            Transport::Udp,
        );
        assert_eq!(
            elsewhere.rcode,
            ResponseCode::NXDomain,
            "not on the asker's networks"
        );
    }
    assert_eq!(
        data(&a, "1.0.20.10.in-addr.arpa", RecordType::PTR),
        ["host.netd.internal."]
    );
    for unknown in ["10.20.0.99", "fd00:20::99", "10.30.0.99", "127.0.0.99"] {
        let name = reverse(unknown.parse().unwrap());
        let reply = ask(&a, &name, RecordType::PTR, Transport::Udp);
        assert_eq!(reply.rcode, ResponseCode::NXDomain, "{unknown}");
        assert!(
            !upstream.saw(name.trim_end_matches('.')),
            "{unknown} is never asked outside"
        );
    }
    let foreign = reverse("192.0.2.80".parse().unwrap());
    ask(&a, &foreign, RecordType::PTR, Transport::Udp);
    assert!(upstream.saw(foreign.trim_end_matches('.')), "others are");
    host.done();
}

fn options_of_a_network() {
    let host = Host::start("h1");
    host.ok(&[
        "network",
        "create",
        "web",
        "--opt",
        "dns_ttl=60",
        "--opt",
        "dns_search=corp.example,lan",
    ]);
    let (a, b) = (Netns::new("a"), Netns::new("b"));
    let made = host.attach(&a, &["--network", "web"]);
    host.attach(&b, &["--network", "web"]);
    for name in ["a", "a.web", "a.corp.example", "A.LAN"] {
        let reply = ask(&b, name, RecordType::A, Transport::Udp);
        assert_eq!(reply.ips(), [ip(&made, 0, "ipv4")], "{name}");
        assert_eq!(reply.answers[0].ttl, 60);
    }
    assert_eq!(
        made["dns"]["search"],
        serde_json::json!(["corp.example", "lan"])
    );
    assert_eq!(
        host.ok(&["network", "inspect", "web"])["dns_options"]["ttl"],
        60
    );
    for wrong in [
        "dns_ttl=never",
        "dns_search=a..b",
        "dns_gateway=perhaps",
        "dns=1",
    ] {
        assert_eq!(
            host.refused(&["network", "create", "x", "--opt", wrong]),
            "invalid_opt",
            "{wrong}"
        );
    }
    host.done();
}

fn a_fixed_order_among_networks() {
    let host = Host::start("h1");
    for network in ["front", "back"] {
        host.ok(&["network", "create", network]);
    }
    let [a, b, both] = ["a", "b", "both"].map(Netns::new);
    let on_front = ip(
        &host.attach(&a, &["--network", "front,alias=same"]),
        0,
        "ipv4",
    );
    let on_back = ip(
        &host.attach(&b, &["--network", "back,alias=same"]),
        0,
        "ipv4",
    );
    for (first, second, expected) in [("front", "back", on_front), ("back", "front", on_back)] {
        host.attach(&both, &["--network", first, "--network", second]);
        for _ in 0..5 {
            assert_eq!(
                ask(&both, "same", RecordType::A, Transport::Udp).ips(),
                [expected],
                "{first} first"
            );
        }
        host.ok(&["detach", "both"]);
    }
    host.done();
}

/// `--opt dns_gateway=true`: the network's containers are answered there, by what they are; others are refused.
fn answers_at_the_gateway() {
    let host = Host::start("h1");
    let create = [
        "network",
        "create",
        "web",
        "--ipv6",
        "--subnet",
        "10.20.0.0/24",
        "--subnet",
        "fd00:20::/64",
    ];
    host.ok(&[&create[..], &["--opt", "dns_gateway=true"]].concat());
    host.ok(&["network", "create", "other", "--subnet", "10.30.0.0/24"]);
    let [a, b, other] = ["a", "b", "other"].map(Netns::new);
    let made = host.attach(&a, &["--network", "web"]);
    host.attach(&b, &["--network", "web"]);
    host.attach(&other, &["--network", "other"]);
    let gateways: [SocketAddr; 2] =
        ["10.20.0.1:53", "[fd00:20::1]:53"].map(|text| text.parse().unwrap());
    for gateway in gateways {
        for transport in BOTH {
            let answer = || b.dns_query(gateway, "a", RecordType::A, transport);
            lab::wait_for("the gateway answers", PATIENCE, || answer().is_ok());
            assert_eq!(
                answer().unwrap().ips(),
                [ip(&made, 0, "ipv4")],
                "{gateway} {transport:?}"
            );
        }
    }
    // Of another network, and the host itself, nobody gets an answer with names in it.
    for stranger in [&other, &host.netns] {
        stranger.run(|| {
            let socket = UdpSocket::bind("0.0.0.0:0").unwrap();
            socket
                .set_read_timeout(Some(std::time::Duration::from_millis(300)))
                .unwrap();
            socket
                .send_to(&question(7, "a", RecordType::A), gateways[0])
                .unwrap();
            let mut buffer = [0; 512];
            if let Ok(length) = socket.recv(&mut buffer) {
                let reply = Message::from_vec(&buffer[..length]).unwrap();
                assert_eq!(reply.metadata.response_code, ResponseCode::Refused);
            }
        });
    }
    // The network that did not ask for it has no listener.
    let nobody: SocketAddr = "10.30.0.1:53".parse().unwrap();
    assert!(
        other
            .dns_query(nobody, "other", RecordType::A, Transport::Tcp)
            .is_err()
    );
    for container in ["a", "b", "other"] {
        host.ok(&["detach", container]);
    }
    host.ok(&["network", "rm", "web"]);
    host.done();
}

fn the_cache_is_the_hosts() {
    let netns = Netns::host("h1");
    let (manner, answer) = upstream::address([192, 0, 2, 80]);
    let upstream = Upstream::start(&netns, "127.0.0.1:53", manner);
    let host = Host::with_resolvers(netns, "nameserver 127.0.0.1\n");
    for network in ["one", "two"] {
        host.ok(&["network", "create", network]);
    }
    let [a, b] = ["a", "b"].map(Netns::new);
    host.attach(&a, &["--network", "one"]);
    host.attach(&b, &["--network", "two"]);
    for container in [&a, &b, &a, &b] {
        for transport in BOTH {
            assert_eq!(
                ask(container, "www.example", RecordType::A, transport).ips(),
                [answer]
            );
        }
    }
    assert_eq!(upstream.count("www.example"), 1, "asked once for all");
    // What comes to be here is not hidden by what was there.
    host.ok(&["connect", "one", "b", "--alias", "www.example"]);
    assert_ne!(
        ask(&a, "www.example", RecordType::A, Transport::Udp).ips(),
        [answer]
    );
    host.done();
}

/// The first of three resolvers is silent: no name is lost, and only the first question waits for it.
fn one_of_three_is_dead() {
    let netns = Netns::host("h1");
    let (manner, answer) = upstream::address([192, 0, 2, 80]);
    let silent = Upstream::start(&netns, "127.0.0.2:53", Manner::Silent);
    let _good =
        ["127.0.0.1:53", "127.0.0.3:53"].map(|address| Upstream::start(&netns, address, manner));
    let host = Host::with_resolvers(
        netns,
        "nameserver 127.0.0.2\nnameserver 127.0.0.1\nnameserver 127.0.0.3\n",
    );
    let a = Netns::new("a");
    host.attach(&a, &[]);
    for number in 0..200 {
        let name = format!("n{number}.example");
        assert_eq!(
            ask(&a, &name, RecordType::A, Transport::Udp).ips(),
            [answer],
            "{name}"
        );
    }
    let asked = (0..200)
        .filter(|number| silent.saw(&format!("n{number}.example")))
        .count();
    assert!(asked < 20, "the silent one was asked {asked} times");
    host.done();
}

fn explained_and_counted() {
    let netns = Netns::host("h1");
    let (manner, _) = upstream::address([192, 0, 2, 80]);
    let _upstream = Upstream::start(&netns, "127.0.0.1:53", manner);
    let host = Host::with_resolvers(netns, "nameserver 127.0.0.1\n");
    host.ok(&["network", "create", "web"]);
    let [a, b] = ["a", "b"].map(Netns::new);
    let made = host.attach(&a, &["--network", "web,alias=db"]);
    host.attach(&b, &["--network", "web"]);
    let query = |args: &[&str]| host.ok(&[&["dns", "query"], args].concat());
    let known = query(&["db", "--as", "b"]);
    assert_eq!(
        (known["code"].as_str(), known["source"].as_str()),
        (Some("NOERROR"), Some("zone"))
    );
    let answer = known["answers"][0].as_str().unwrap();
    assert!(
        answer.ends_with(&ip(&made, 0, "ipv4").to_string()),
        "{answer}"
    );
    let why = known["steps"].to_string();
    assert!(
        why.contains("web") && why.contains(&made["id"].as_str().unwrap()[..12]),
        "{why}"
    );
    let foreign = query(&["www.example", "--as", "b"]);
    assert_eq!(foreign["source"], "upstream 127.0.0.1:53");
    let again = query(&["www.example", "--as", "b"]);
    assert!(
        again["source"].as_str().unwrap().starts_with("cache"),
        "{again}"
    );
    let gone = query(&["nope", "--as", "b"]);
    assert_eq!(
        (gone["code"].as_str(), gone["source"].as_str()),
        (Some("NXDOMAIN"), Some("zone"))
    );
    let reverse = query(&[
        &ip(&made, 0, "ipv4").to_string(),
        "--type",
        "PTR",
        "--as",
        "b",
    ]);
    assert!(
        reverse["answers"][0].as_str().unwrap().ends_with("a.web."),
        "{reverse}"
    );
    assert_eq!(
        query(&["db"])["answers"].as_array().unwrap().len(),
        1,
        "without an asker"
    );
    assert_eq!(
        host.refused(&["dns", "query", "db", "--as", "nobody"]),
        "container_not_found"
    );
    assert_eq!(
        host.refused(&["dns", "query", "db", "--as", "b", "--type", "X"]),
        "invalid_dns_query"
    );

    for (name, kind) in [
        ("db", RecordType::A),
        ("nope", RecordType::A),
        ("www.example", RecordType::A),
        ("new.example", RecordType::A),
    ] {
        ask(&b, name, kind, Transport::Udp);
    }
    let mut stream = UnixStream::connect(host.socket()).unwrap();
    stream
        .write_all(b"GET /metrics HTTP/1.1\r\nhost: netd\r\nconnection: close\r\n\r\n")
        .unwrap();
    let mut page = String::new();
    stream.read_to_string(&mut page).unwrap();
    for line in [
        "netd_dns_queries_total{network=\"web\"} 4",
        "netd_dns_replies_total{network=\"web\",code=\"NXDOMAIN\"} 1",
        "netd_dns_replies_total{network=\"web\",code=\"NOERROR\"} 3",
        "netd_dns_answered_total{network=\"web\",source=\"zone\"} 2",
        "netd_dns_answered_total{network=\"web\",source=\"cache\"} 1",
        "netd_dns_answered_total{network=\"web\",source=\"upstream\"} 1",
        "netd_dns_upstream_seconds_count{network=\"web\"} 1",
        "netd_dns_cache_entries 2",
    ] {
        assert!(
            page.lines().any(|found| found == line),
            "{line} is not in\n{page}"
        );
    }
    host.done();
}

/// 10,000 pairs of A and AAAA questions from one socket, as resolver libraries send them. None is lost, and none waits for
/// another: with connection tracking on the way pairs race, and the loser is dropped.
fn ten_thousand_pairs() {
    const PAIRS: usize = 10_000;
    /// As many as the client's own buffer surely holds.
    const UNDER_WAY: usize = 75;
    let host = Host::start("h1");
    host.ok(&["network", "create", "web", "--ipv6"]);
    let (a, b) = (Netns::new("a"), Netns::new("b"));
    let made = host.attach(&a, &["--network", "web"]);
    host.attach(&b, &["--network", "web"]);
    let expected = [ip(&made, 0, "ipv4"), ip(&made, 0, "ipv6")];
    b.run(|| {
        let socket = UdpSocket::bind("0.0.0.0:0").unwrap();
        socket.connect(server()).unwrap();
        socket.set_read_timeout(Some(PATIENCE)).unwrap();
        let mut answered = vec![0_u8; 2 * PAIRS];
        let mut buffer = [0; 512];
        let mut receive = |answered: &mut Vec<u8>| {
            let length = socket.recv(&mut buffer).unwrap_or_else(|error| {
                panic!(
                    "{error}: {} have no answer",
                    answered.iter().filter(|n| **n == 0).count()
                )
            });
            let reply = Message::from_vec(&buffer[..length]).unwrap();
            let id = usize::from(reply.metadata.id);
            assert!(
                reply.answers[0].data.to_string() == expected[id % 2].to_string(),
                "{reply:?}"
            );
            answered[id] += 1;
        };
        for pair in 0..PAIRS + UNDER_WAY {
            if pair < PAIRS {
                for (number, kind) in [(2 * pair, RecordType::A), (2 * pair + 1, RecordType::AAAA)]
                {
                    socket
                        .send(&question(u16::try_from(number).unwrap(), "a", kind))
                        .unwrap();
                }
            }
            if pair >= UNDER_WAY {
                receive(&mut answered);
                receive(&mut answered);
            }
        }
        assert!(answered.iter().all(|times| *times == 1));
    });
    host.done();
}

/// While no daemon runs a question is not refused: the client waits and asks again.
fn nobody_says_that_nobody_listens() {
    let mut host = Host::start("h1");
    host.ok(&["network", "create", "web"]);
    let (a, b) = (Netns::new("a"), Netns::new("b"));
    let made = host.attach(&a, &["--network", "web"]);
    host.attach(&b, &["--network", "web"]);
    host.kill_daemon();
    b.run(|| {
        let socket = UdpSocket::bind("0.0.0.0:0").unwrap();
        socket.connect(server()).unwrap();
        socket
            .set_read_timeout(Some(std::time::Duration::from_millis(300)))
            .unwrap();
        socket.send(&question(1, "a", RecordType::A)).unwrap();
        let error = socket.recv(&mut [0; 512]).unwrap_err();
        assert_eq!(error.kind(), std::io::ErrorKind::WouldBlock, "{error}");
    });
    host.start_daemon();
    assert_eq!(
        ask(&b, "a", RecordType::A, Transport::Udp).ips(),
        [ip(&made, 0, "ipv4")]
    );
    host.done();
}

fn question(id: u16, name: &str, kind: RecordType) -> Vec<u8> {
    let mut message = Message::query();
    message.metadata.id = id;
    message.metadata.recursion_desired = true;
    message.add_query(Query::query(Name::from_ascii(name).unwrap(), kind));
    message.to_vec().unwrap()
}
