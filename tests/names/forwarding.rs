//! What 127.0.0.11 does not know itself: forwarded to the host's resolvers, or not.

use std::net::IpAddr;
use std::time::{Duration, Instant};

use netd_tests::host::Host;
use netd_tests::lab::hickory_proto::op::ResponseCode;
use netd_tests::lab::hickory_proto::rr::{RData, RecordType};
use netd_tests::lab::{self, Netns, PATIENCE, Transport};

use super::upstream::{self, LONG, Manner, Upstream};
use super::{BOTH, NOTHING, ask, ips};

pub(super) fn questions_for_the_world() {
    let netns = Netns::host("h1");
    let (manner, answer) = upstream::address([192, 0, 2, 80]);
    let _upstream = Upstream::start(&netns, "127.0.0.1:53", manner);
    let host = Host::with_resolvers(netns, "nameserver 127.0.0.1\n");
    let a = Netns::new("a");
    host.attach(&a, &[]);
    for transport in BOTH {
        let reply = ask(&a, "www.example", RecordType::A, transport);
        assert_eq!((reply.rcode, reply.ra), (ResponseCode::NoError, true));
        assert_eq!(reply.ips(), [answer]);
        let nothing = ask(&a, "www.example", RecordType::MX, transport);
        assert_eq!(
            (nothing.rcode, nothing.answers.len()),
            (ResponseCode::NoError, 0)
        );
        let unknown = ask(&a, "www.invalid", RecordType::A, transport);
        assert_eq!(unknown.rcode, ResponseCode::NXDomain);
    }
    // A long answer is cut over UDP and whole over TCP.
    let cut = ask(&a, "long.example", RecordType::TXT, Transport::Udp);
    assert!(cut.tc, "{cut:?}");
    let whole = ask(&a, "long.example", RecordType::TXT, Transport::Tcp);
    assert!(!whole.tc);
    let RData::TXT(text) = &whole.answers[0].data else {
        panic!("{whole:?}");
    };
    let length: usize = text.txt_data.iter().map(|piece| piece.len()).sum();
    assert_eq!(length, LONG);
    host.done();
}

/// `--dns` of a container goes before that of its network, and this before the host's.
pub(super) fn own_resolvers() {
    let netns = Netns::host("h1");
    let servers = [
        ("127.0.0.1:53", 1),
        ("127.0.0.2:53", 2),
        ("127.0.0.3:53", 3),
    ];
    let _servers = servers.map(|(address, last)| {
        Upstream::start(&netns, address, upstream::address([192, 0, 2, last]).0)
    });
    let host = Host::with_resolvers(netns, "nameserver 127.0.0.1\n");
    host.ok(&["network", "create", "plain"]);
    host.ok(&["network", "create", "web", "--dns", "127.0.0.2"]);
    let [plain, networks, own] = ["plain", "networks", "own"].map(Netns::new);
    host.attach(&plain, &["--network", "plain"]);
    host.attach(&networks, &["--network", "web"]);
    host.attach(&own, &["--network", "web", "--dns", "127.0.0.3"]);
    for (container, last) in [(&plain, 1), (&networks, 2), (&own, 3)] {
        let answer = IpAddr::from([192, 0, 2, last]);
        assert_eq!(
            ips(container, "www.example"),
            [answer],
            "{}",
            container.name()
        );
    }
    host.done();
}

/// The host may get other resolvers at any time, as with DHCP.
pub(super) fn changed_resolvers() {
    let netns = Netns::host("h1");
    let (manner, answer) = upstream::address([192, 0, 2, 80]);
    let _upstream = Upstream::start(&netns, "127.0.0.1:53", manner);
    let host = Host::with_resolvers(netns, "");
    let a = Netns::new("a");
    host.attach(&a, &[]);
    let before = ask(&a, "www.example", RecordType::A, Transport::Udp);
    assert_eq!(before.rcode, ResponseCode::ServFail, "there is no resolver");
    host.set_resolvers("search example\nnameserver 127.0.0.1\n");
    lab::wait_for("the new resolver", PATIENCE, || {
        ips(&a, "www.example") == [answer]
    });
    host.done();
}

/// Resolvers that are silent, fail or do not listen stand before the one that works.
pub(super) fn failover() {
    let netns = Netns::host("h1");
    let (manner, answer) = upstream::address([192, 0, 2, 80]);
    let _good = Upstream::start(&netns, "127.0.0.1:53", manner);
    let _silent = Upstream::start(&netns, "127.0.0.2:53", Manner::Silent);
    let _failing = Upstream::start(&netns, "127.0.0.3:53", Manner::Fails);
    let all = ["127.0.0.2", "127.0.0.3", "127.0.0.4", "127.0.0.1"];
    let text = all.map(|ip| format!("nameserver {ip}\n")).concat();
    let host = Host::with_resolvers(netns, &text);
    let hosts = Netns::new("hosts");
    host.attach(&hosts, &[]);
    assert_eq!(ips(&hosts, "www.example"), [answer], "the last of four");
    for first in &all[..3] {
        let container = Netns::new("c");
        host.attach(&container, &["--dns", first, "--dns", "127.0.0.1"]);
        for transport in BOTH {
            let reply = ask(&container, "www.example", RecordType::A, transport);
            assert_eq!(reply.ips(), [answer], "after {first} by {transport:?}");
        }
        host.ok(&["detach", "c"]);
    }
    host.done();
}

/// An answer that says so comes before a client gives up.
pub(super) fn nobody_answers() {
    const CLIENT: Duration = Duration::from_secs(5);
    let netns = Netns::host("h1");
    let _silent = Upstream::start(&netns, "127.0.0.2:53", Manner::Silent);
    let _failing = Upstream::start(&netns, "127.0.0.3:53", Manner::Fails);
    let host = Host::with_resolvers(netns, "");
    for servers in [
        &[][..],
        &["127.0.0.2"],
        &["127.0.0.3"],
        &["127.0.0.4"],
        &["127.0.0.4", "127.0.0.2", "127.0.0.3"],
    ] {
        let container = Netns::new("c");
        let flags: Vec<&str> = servers.iter().flat_map(|ip| ["--dns", ip]).collect();
        host.attach(&container, &flags);
        for transport in BOTH {
            let begin = Instant::now();
            let reply = ask(&container, "www.example", RecordType::A, transport);
            assert_eq!(
                reply.rcode,
                ResponseCode::ServFail,
                "{servers:?} {transport:?}"
            );
            assert!(begin.elapsed() < CLIENT, "{servers:?} {transport:?}");
            let known = ask(&container, "c", RecordType::A, transport);
            assert_eq!(known.ips().len(), 1, "known names need no resolver");
        }
        host.ok(&["detach", "c"]);
    }
    host.done();
}

pub(super) fn internal_is_not_forwarded() {
    let netns = Netns::host("h1");
    let (manner, answer) = upstream::address([192, 0, 2, 80]);
    let upstream = Upstream::start(&netns, "127.0.0.1:53", manner);
    let host = Host::with_resolvers(netns, "nameserver 127.0.0.1\n");
    host.ok(&["network", "create", "inner", "--internal"]);
    host.ok(&["network", "create", "web"]);
    let (inner, own) = (Netns::new("inner"), Netns::new("own"));
    host.attach(&inner, &["--network", "inner"]);
    // Not by a resolver of its own either.
    host.attach(&own, &["--network", "inner", "--dns", "127.0.0.1"]);
    for container in [&inner, &own] {
        for transport in BOTH {
            let reply = ask(container, "secret.example", RecordType::A, transport);
            let got = (reply.rcode, reply.answers.len());
            assert_eq!(got, (ResponseCode::ServFail, 0), "{transport:?}");
        }
    }
    assert!(!upstream.saw("secret.example"));
    assert_eq!(ips(&inner, "own").len(), 1);
    // With a way out it is forwarded, and no longer without.
    host.ok(&["connect", "web", "inner"]);
    assert_eq!(ips(&inner, "open.example"), [answer]);
    host.ok(&["disconnect", "web", "inner"]);
    assert_eq!(ips(&inner, "secret.example"), NOTHING);
    assert!(!upstream.saw("secret.example"));
    host.done();
}
