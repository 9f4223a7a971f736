//! Names inside containers, as 127.0.0.11 answers them.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    reason = "test code: a panic is how a test fails"
)]

use std::net::{IpAddr, SocketAddr, UdpSocket};
use std::process::ExitCode;

use netd_tests::host::{Host, PROGRAMS};
use netd_tests::lab::hickory_proto::op::{Message, Query, ResponseCode};
use netd_tests::lab::hickory_proto::rr::{Name, RData, RecordType};
use netd_tests::lab::{self, Netns, PATIENCE, Reply, Transport};
use serde_json::Value;

#[path = "names/forwarding.rs"]
mod forwarding;
#[path = "names/upstream.rs"]
mod upstream;
#[path = "names/ways.rs"]
mod ways;

use upstream::Upstream;

fn main() -> ExitCode {
    lab::dispatch(PROGRAMS);
    lab::enter();
    lab::main(vec![
        lab::test("every_name_of_a_container", every_name_of_a_container),
        lab::test("known_names_of_other_types", known_names_of_other_types),
        lab::test("only_the_askers_networks", only_the_askers_networks),
        lab::test("names_come_and_go", names_come_and_go),
        lab::test("one_name_for_two", one_name_for_two),
        lab::test(
            "questions_for_the_world",
            forwarding::questions_for_the_world,
        ),
        lab::test("own_resolvers", forwarding::own_resolvers),
        lab::test("changed_resolvers", forwarding::changed_resolvers),
        lab::test("failover", forwarding::failover),
        lab::test("nobody_answers", forwarding::nobody_answers),
        lab::test(
            "internal_is_not_forwarded",
            forwarding::internal_is_not_forwarded,
        ),
        lab::test("from_inside_a_container", ways::from_inside_a_container),
        lab::test("over_tls", ways::over_tls),
        lab::test("query_log", ways::query_log),
        lab::test("port_53_stays_free", port_53_stays_free),
        lab::test("no_conntrack_entries", no_conntrack_entries),
        lab::test("resolv_conf", resolv_conf),
        lab::test("ten_thousand_pairs_at_once", ten_thousand_pairs_at_once),
    ])
}

const BOTH: [Transport; 2] = [Transport::Udp, Transport::Tcp];
const NOTHING: [IpAddr; 0] = [];

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

/// The addresses that a container gets for a name.
#[track_caller]
fn ips(container: &Netns, name: &str) -> Vec<IpAddr> {
    ask(container, name, RecordType::A, Transport::Udp).ips()
}

/// The address of the n-th endpoint of a container, by key.
fn ip(container: &Value, endpoint: usize, key: &str) -> IpAddr {
    let text = container["endpoints"][endpoint][key].as_str().unwrap();
    text.split('/').next().unwrap().parse().unwrap()
}

fn every_name_of_a_container() {
    let host = Host::start("h1");
    host.ok(&["network", "create", "web", "--ipv6"]);
    let (a, b) = (Netns::new("a"), Netns::new("b"));
    assert!(
        !a.link("lo").unwrap().up,
        "netd sets lo up, nobody did before"
    );
    let made = host.attach(
        &a,
        &["--network", "web,alias=db,alias=db.old", "--hostname=Box"],
    );
    host.attach(&b, &["--network", "web"]);
    assert!(a.link("lo").unwrap().up && b.link("lo").unwrap().up);
    let short = &made["id"].as_str().unwrap()[..12];
    let (v4, v6) = (ip(&made, 0, "ipv4"), ip(&made, 0, "ipv6"));
    let names = ["a", "db", "db.old", "box", short];
    for name in names
        .iter()
        .flat_map(|name| [(*name).to_owned(), format!("{name}.web")])
        .flat_map(|name| [name.to_uppercase(), name])
    {
        for (transport, asker) in BOTH
            .into_iter()
            .flat_map(|transport| [(transport, &a), (transport, &b)])
        {
            for (kind, ip) in [(RecordType::A, v4), (RecordType::AAAA, v6)] {
                let reply = ask(asker, &name, kind, transport);
                let got = (reply.rcode, reply.ips());
                assert_eq!(
                    got,
                    (ResponseCode::NoError, vec![ip]),
                    "{name} {kind} {transport:?}"
                );
                assert!(reply.answers[0].ttl <= 5, "{reply:?}");
            }
        }
    }
    host.done();
}

fn known_names_of_other_types() {
    let netns = Netns::host("h1");
    let upstream = Upstream::start(&netns, "127.0.0.1:53", upstream::address([192, 0, 2, 80]).0);
    let host = Host::with_resolvers(netns, "nameserver 127.0.0.1\n");
    host.ok(&["network", "create", "web", "--subnet", "10.20.0.0/24"]);
    let a = Netns::new("a");
    host.attach(&a, &["--network", "web,alias=db.example"]);
    let (mx, txt, https) = (
        RecordType::MX,
        RecordType::TXT,
        RecordType::Unknown(65), // HTTPS, by its number.
    );
    // The network has no IPv6, so AAAA is one of the others.
    for kind in [
        RecordType::AAAA,
        mx,
        txt,
        https,
        RecordType::SRV,
        RecordType::NS,
        RecordType::SOA,
        RecordType::CNAME,
        RecordType::PTR,
    ] {
        for name in ["a", "a.web", "db.example"] {
            for transport in BOTH {
                let reply = ask(&a, name, kind, transport);
                let got = (reply.rcode, reply.answers.len());
                assert_eq!(
                    got,
                    (ResponseCode::NoError, 0),
                    "{name} {kind} {transport:?}"
                );
                assert!(
                    !upstream.saw(name),
                    "{name} {kind}: a known name stays here"
                );
            }
        }
    }
    host.done();
}

fn only_the_askers_networks() {
    let netns = Netns::host("h1");
    let upstream = Upstream::start(&netns, "127.0.0.1:53", upstream::address([192, 0, 2, 80]).0);
    let host = Host::with_resolvers(netns, "nameserver 127.0.0.1\n");
    for network in ["front", "back"] {
        host.ok(&["network", "create", network]);
    }
    let [a, b, both] = ["a", "b", "both"].map(Netns::new);
    let on_front = host.attach(&a, &["--network", "front,alias=same"]);
    let on_back = host.attach(&b, &["--network", "back,alias=same"]);
    let on_both = host.attach(&both, &["--network", "back", "--network", "front"]);
    // Each sees its neighbours by the addresses that it reaches.
    for (asker, name, answer) in [
        (&a, "both", ip(&on_both, 1, "ipv4")),
        (&b, "both", ip(&on_both, 0, "ipv4")),
        (&a, "same", ip(&on_front, 0, "ipv4")),
        (&b, "same", ip(&on_back, 0, "ipv4")),
        (&both, "a", ip(&on_front, 0, "ipv4")),
        (&both, "b", ip(&on_back, 0, "ipv4")),
        (&both, "same.front", ip(&on_front, 0, "ipv4")),
        (&both, "same.back", ip(&on_back, 0, "ipv4")),
    ] {
        assert_eq!(ips(asker, name), [answer], "{} asks {name}", asker.name());
    }
    // Of others it knows nothing: a name with a dot may be somebody else's, one without stays here.
    for (asker, name) in [(&a, "b"), (&a, "b.back"), (&b, "a"), (&b, "both.front")] {
        let reply = ask(asker, name, RecordType::A, Transport::Udp);
        let got = (reply.rcode, reply.answers.len());
        assert_eq!(
            got,
            (ResponseCode::NXDomain, 0),
            "{} asks {name}",
            asker.name()
        );
        assert_eq!(upstream.saw(name), name.contains('.'), "{name}");
    }
    host.done();
}

fn names_come_and_go() {
    let host = Host::start("h1");
    for network in ["web", "extra"] {
        host.ok(&["network", "create", network]);
    }
    let (a, b) = (Netns::new("a"), Netns::new("b"));
    host.attach(&a, &["--network", "web"]);
    let made = host.attach(&b, &["--network", "web,alias=db"]);
    assert_eq!(
        ips(&a, "db"),
        [ip(&made, 0, "ipv4")],
        "at once after attach"
    );
    host.ok(&["connect", "extra", "a"]);
    assert_eq!(ips(&a, "late.extra"), NOTHING, "not there yet");
    let connected = host.ok(&["connect", "extra", "b", "--alias", "late"]);
    assert_eq!(ips(&a, "late.extra"), [ip(&connected, 1, "ipv4")]);
    assert_eq!(
        ips(&a, "b.web"),
        [ip(&made, 0, "ipv4")],
        "the other stays as it was"
    );
    host.ok(&["disconnect", "extra", "b"]);
    assert_eq!(ips(&a, "late"), NOTHING, "at once after disconnect");
    assert_eq!(ips(&a, "b"), [ip(&made, 0, "ipv4")]);
    host.ok(&["detach", "b"]);
    for name in ["b", "db", "b.web"] {
        assert_eq!(ips(&a, name), NOTHING, "{name} at once after detach");
    }
    host.done();
}

/// An alias may be shared; the address of one goes with it, that of the other stays.
fn one_name_for_two() {
    let host = Host::start("h1");
    host.ok(&["network", "create", "web"]);
    let [a, b, asker] = ["a", "b", "asker"].map(Netns::new);
    let first = ip(&host.attach(&a, &["--network", "web,alias=db"]), 0, "ipv4");
    let second = ip(&host.attach(&b, &["--network", "web,alias=db"]), 0, "ipv4");
    host.attach(&asker, &["--network", "web"]);
    let mut both = ips(&asker, "db");
    both.sort();
    assert_eq!(both, [first, second]);
    host.ok(&["detach", "a"]);
    assert_eq!(ips(&asker, "db"), [second]);
    host.done();
}

fn port_53_stays_free() {
    let host = Host::start("h1");
    host.ok(&["network", "create", "web", "--ipv6"]);
    let (a, b) = (Netns::new("a"), Netns::new("b"));
    let made = host.attach(&a, &["--network", "web"]);
    let other = ip(&host.attach(&b, &["--network", "web"]), 0, "ipv4");
    let (manner, own) = upstream::address([203, 0, 113, 53]);
    let (v4, v6) = (ip(&made, 0, "ipv4"), ip(&made, 0, "ipv6"));
    let loopback = IpAddr::from([127, 0, 0, 1]);
    let cases: [(&str, &[(&Netns, IpAddr)]); 4] = [
        ("0.0.0.0:53", &[(&a, loopback), (&a, v4), (&b, v4)]),
        ("[::]:53", &[(&a, loopback), (&b, v4), (&b, v6)]),
        ("127.0.0.1:53", &[(&a, loopback)]),
        ("127.0.0.11:53", &[]),
    ];
    for (bound, askers) in cases {
        let _own_server = Upstream::start(&a, bound, manner);
        for transport in BOTH {
            for (asker, to) in askers {
                let to = SocketAddr::new(*to, 53);
                let reply = asker.dns_query(to, "own.example", RecordType::A, transport);
                let what = format!("{} asks {to} by {transport:?}", asker.name());
                assert_eq!(reply.expect(&what).ips(), [own], "{what}");
            }
            let reply = ask(&a, "b", RecordType::A, transport);
            assert_eq!(
                reply.ips(),
                [other],
                "127.0.0.11 beside {bound} by {transport:?}"
            );
        }
    }
    host.done();
}

/// The tracking has to be at work in there to prove anything: a ruleset with `ct` switches it on.
fn no_conntrack_entries() {
    use netd::kernel::nft::NftSocket;
    use netd_model::{Object, Op, skeleton};
    let host = Host::start("h1");
    let (a, b) = (Netns::new("a"), Netns::new("b"));
    host.attach(&a, &[]);
    host.attach(&b, &[]);
    let entries = || a.run(|| std::fs::read_to_string("/proc/thread-self/net/nf_conntrack"));
    if entries().is_err() {
        lab::skip("this kernel does not list conntrack entries in /proc");
    }
    let tracked = Object::from(skeleton::host());
    let apply = |op: Op| a.run(|| NftSocket::open().unwrap().apply(&[op])).unwrap();
    apply(Op::Add(tracked.clone()));
    let _server = a.tcp_server("a", 8053);
    assert!(a.tcp_probe("127.0.0.1:8053", PATIENCE).reached());
    assert!(entries().unwrap().contains("dport=8053"), "it tracks");
    for transport in BOTH {
        for name in ["b", "www.example"] {
            ask(&a, name, RecordType::A, transport);
        }
    }
    let left = entries().unwrap();
    let ours = left.lines().filter(|line| line.contains("127.0.0.11"));
    assert_eq!(ours.collect::<Vec<_>>(), [""; 0]);
    apply(Op::Remove(tracked));
    host.done();
}

fn resolv_conf() {
    use std::os::unix::fs::PermissionsExt;
    let host = Host::start("h1");
    let file = host.dir().join("container.conf");
    let path = file.to_string_lossy();
    for before in [None, Some("nameserver 192.0.2.1\n".repeat(100))] {
        if let Some(text) = before {
            std::fs::write(&file, text).unwrap();
        }
        let a = Netns::new("a");
        let made = host.attach(&a, &["--resolv-conf", &path]);
        assert_eq!(made["dns"]["nameserver"], "127.0.0.11");
        let text = std::fs::read_to_string(&file).unwrap();
        let servers = text.lines().filter(|line| line.starts_with("nameserver"));
        assert_eq!(servers.collect::<Vec<_>>(), ["nameserver 127.0.0.11"]);
        let mode = std::fs::metadata(&file).unwrap().permissions().mode();
        assert_eq!(mode & 0o777, 0o644);
        assert_eq!(ips(&a, "a").len(), 1, "what stands there answers");
        host.ok(&["detach", "a"]);
    }
    // A file that cannot be written is said, and the container is attached all the same.
    let a = Netns::new("a");
    let words = ["attach", &a.path().to_string_lossy(), "--name=a"].map(str::to_owned);
    let words: Vec<&str> = words.iter().map(String::as_str).collect();
    let nowhere = [&words[..], &["--resolv-conf=/nowhere/resolv.conf"]].concat();
    assert_eq!(host.refused(&nowhere), "resolv_conf_failed");
    assert_eq!(ips(&a, "a").len(), 1);
    host.done();
}

/// Pairs of questions from one socket, as every resolver library asks them: with connection tracking on the way some get
/// lost. As many are under way as the client's buffer surely holds: 768 bytes each, three quarters of rmem_default.
fn ten_thousand_pairs_at_once() {
    const UNDER_WAY: usize = 150;
    let netns = Netns::host("h1");
    let _upstream = Upstream::start(&netns, "127.0.0.1:53", upstream::address([192, 0, 2, 80]).0);
    let host = Host::with_resolvers(netns, "nameserver 127.0.0.1\n");
    host.ok(&["network", "create", "web", "--ipv6"]);
    let (a, b) = (Netns::new("a"), Netns::new("b"));
    let made = host.attach(&a, &["--network", "web"]);
    host.attach(&b, &["--network", "web"]);
    let expected = [ip(&made, 0, "ipv4"), ip(&made, 0, "ipv6")];
    b.run(|| {
        let socket = UdpSocket::bind("0.0.0.0:0").unwrap();
        socket.connect(server()).unwrap();
        socket.set_read_timeout(Some(PATIENCE)).unwrap();
        let mut answered = vec![false; 20_000];
        for id in 0..answered.len() + UNDER_WAY {
            if let Some(question) = pair_question(id, answered.len()) {
                socket.send(&question).unwrap();
            }
            if id >= UNDER_WAY {
                let id = receive(&socket, &answered, expected);
                assert!(!std::mem::replace(&mut answered[id], true), "twice: {id}");
            }
        }
        assert!(answered.iter().all(|answered| *answered));
    });
    host.done();
}

/// Even numbers ask for A, odd ones for AAAA.
fn pair_question(id: usize, count: usize) -> Option<Vec<u8>> {
    let kind = [RecordType::A, RecordType::AAAA][id % 2];
    let mut message = Message::query();
    message.metadata.id = u16::try_from(id).ok().filter(|_| id < count)?;
    message.metadata.recursion_desired = true;
    message.add_query(Query::query(Name::from_ascii("a").unwrap(), kind));
    message.to_vec().ok()
}

fn receive(socket: &UdpSocket, answered: &[bool], expected: [IpAddr; 2]) -> usize {
    let mut buffer = [0; 512];
    let length = socket.recv(&mut buffer).unwrap_or_else(|error| {
        let missing = answered.iter().filter(|answered| !**answered).count();
        panic!("{error}: {missing} questions have no answer yet")
    });
    let message = Message::from_vec(&buffer[..length]).unwrap();
    let id = usize::from(message.metadata.id);
    let ip = match &message.answers[0].data {
        RData::A(a) => IpAddr::V4(a.0),
        RData::AAAA(aaaa) => IpAddr::V6(aaaa.0),
        other => panic!("{other:?}"),
    };
    assert_eq!(ip, expected[id % 2], "question {id}");
    id
}
