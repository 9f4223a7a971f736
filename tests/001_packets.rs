//! The laboratory's packets judged by themselves: an outcome must mean what its name says.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    reason = "test code: a panic is how a test fails"
)]

use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::process::ExitCode;
use std::time::Duration;

use netd_tests::lab::hickory_proto::op::{Message, ResponseCode};
use netd_tests::lab::hickory_proto::rr::{RData, Record, RecordType, rdata::A};
use netd_tests::lab::{self, Netns, Outcome, PATIENCE, Proto, Transport, frame};

/// How long to listen to silence: too short can only hide a leak, never fail a good run.
const SILENCE: Duration = Duration::from_millis(600);
const BOTH: [Proto; 2] = [Proto::Tcp, Proto::Udp];

fn main() -> ExitCode {
    lab::dispatch(&[]);
    lab::enter();
    lab::main(vec![
        lab::test("through_a_router", through_a_router),
        lab::test("answers_come_from_the_asked_address", asked_address),
        lab::test("one_ethernet_for_three", one_ethernet_for_three),
        lab::test("refused", refused),
        lab::test("silence", silence),
        lab::test("no_route", no_route),
        lab::test("closed_without_an_answer", closed),
        lab::test("a_connection_that_stays", a_connection_that_stays),
        lab::test("a_stopped_server_is_gone", a_stopped_server_is_gone),
        lab::test("chosen_source", chosen_source),
        lab::test("ping", ping),
        lab::test("arp_is_seen", arp_is_seen),
        lab::test("neighbour_advertisement_is_seen", advertisement_is_seen),
        lab::test("a_forged_datagram_arrives", a_forged_datagram_arrives),
        lab::test("dns_udp_and_tcp", dns_udp_and_tcp),
    ])
}

/// Whether this kernel has the family of the target.
fn known(target: &str) -> bool {
    lab::has_ipv6() || !target.contains("::")
}

fn mac(netns: &Netns, link: &str) -> frame::Mac {
    netns.link(link).unwrap().mac.try_into().unwrap()
}

fn through_a_router() {
    let (client, router, server) = lab::routed();
    for proto in BOTH {
        let _far = server.serve(proto, "far", 8080);
        let _near = router.serve(proto, "near", 8080);
        for (to, name, from) in [
            ("10.0.2.2:8080", "far", "10.0.1.2"),
            ("[fd00:2::2]:8080", "far", "fd00:1::2"),
            ("10.0.2.1:8080", "near", "10.0.1.2"),
            ("[fd00:1::1]:8080", "near", "fd00:1::2"),
        ]
        .into_iter()
        .filter(|case| known(case.0))
        {
            let outcome = client.probe(proto, to, PATIENCE);
            let Outcome::Reached {
                name: answered,
                seen_source,
            } = outcome
            else {
                panic!("{proto:?} {to}: {outcome:?}")
            };
            assert_eq!(
                (answered.as_str(), seen_source.ip().to_string().as_str()),
                (name, from)
            );
        }
    }
}

/// The reply of a host with two addresses must not come from the wrong one.
fn asked_address() {
    let (a, b) = lab::pair();
    b.add_address("eth0", "10.0.0.99/24");
    let _server = b.udp_server("b", 53);
    assert!(a.udp_probe("10.0.0.99:53", PATIENCE).reached());
    if lab::has_ipv6() {
        b.add_address("eth0", "fd00::99/64");
        assert!(a.udp_probe("[fd00::99]:53", PATIENCE).reached());
    }
}

fn one_ethernet_for_three() {
    let hosts = ["h1", "h2", "h3"].map(Netns::host);
    let addresses = ["10.0.0.1/24", "10.0.0.2/24", "10.0.0.3/24"];
    let ends: Vec<_> = hosts
        .iter()
        .zip(addresses.chunks(1))
        .map(|(h, a)| h.end("eth0", a))
        .collect();
    let switch = lab::lan(&ends);
    assert_eq!(
        switch
            .links()
            .iter()
            .filter(|link| link.master.is_some())
            .count(),
        3
    );
    let _servers = hosts
        .each_ref()
        .map(|host| host.tcp_server(host.name(), 80));
    for from in &hosts {
        for (to, name) in [
            ("10.0.0.1:80", "h1"),
            ("10.0.0.2:80", "h2"),
            ("10.0.0.3:80", "h3"),
        ] {
            assert_eq!(from.tcp_probe(to, PATIENCE).name(), Some(name));
        }
    }
}

fn refused() {
    let (client, _router, _server) = lab::routed();
    for proto in BOTH {
        for to in ["10.0.2.2:9", "[fd00:2::2]:9"]
            .into_iter()
            .filter(|to| known(to))
        {
            assert_eq!(
                client.probe(proto, to, PATIENCE),
                Outcome::Refused,
                "{proto:?} {to}"
            );
        }
    }
}

/// A router that does not forward drops without a word. (A missing neighbour would be reported.)
fn silence() {
    let (client, router, server) = lab::routed();
    router.set_sysctl("net/ipv4/ip_forward", "0");
    if lab::has_ipv6() {
        router.set_sysctl("net/ipv6/conf/all/forwarding", "0");
    }
    for proto in BOTH {
        let _server = server.serve(proto, "server", 80);
        for to in ["10.0.2.2:80", "[fd00:2::2]:80"]
            .into_iter()
            .filter(|to| known(to))
        {
            let outcome = client.probe(proto, to, SILENCE);
            assert_eq!(outcome, Outcome::Timeout, "{proto:?} {to}");
        }
    }
}

fn no_route() {
    let lonely = Netns::host("lonely");
    for proto in BOTH {
        for to in ["10.0.2.2:80", "[fd00:2::2]:80"]
            .into_iter()
            .filter(|to| known(to))
        {
            assert_eq!(
                lonely.probe(proto, to, SILENCE),
                Outcome::Unreachable,
                "{proto:?} {to}"
            );
        }
    }
}

fn closed() {
    let (a, b) = lab::pair();
    let listener = b
        .run(|| std::net::TcpListener::bind("10.0.0.2:80"))
        .unwrap();
    let closer = std::thread::spawn(move || drop(listener.accept()));
    assert_eq!(a.tcp_probe("10.0.0.2:80", PATIENCE), Outcome::Closed);
    closer.join().unwrap();
}

fn a_connection_that_stays() {
    let (a, b) = lab::pair();
    let server = b.tcp_server("b", 0);
    let to = SocketAddr::from(([10, 0, 0, 2], server.port()));
    let mut conversation = a.tcp_open(to, PATIENCE).unwrap();
    let first = conversation.ask(PATIENCE).unwrap();
    assert_eq!(
        (
            first.name.as_str(),
            first.seen_source.ip().to_string().as_str()
        ),
        ("b", "10.0.0.1")
    );
    assert_eq!(
        conversation.ask(PATIENCE).unwrap(),
        first,
        "one connection, one source"
    );
    drop(server);
    assert!(conversation.ask(PATIENCE).is_err());
}

fn a_stopped_server_is_gone() {
    let (a, b) = lab::pair();
    for proto in BOTH {
        drop(b.serve(proto, "b", 7000));
        assert_eq!(a.probe(proto, "10.0.0.2:7000", PATIENCE), Outcome::Refused);
        let _again = b.serve_on(proto, "again", "10.0.0.2:7000".parse().unwrap());
        assert_eq!(
            a.probe(proto, "10.0.0.2:7000", PATIENCE).name(),
            Some("again")
        );
        if lab::has_ipv6() {
            assert_eq!(a.probe(proto, "[fd00::2]:7000", PATIENCE), Outcome::Refused);
        }
    }
}

fn chosen_source() {
    let (a, b) = lab::pair();
    a.add_address("eth0", "10.0.0.77/24");
    for proto in BOTH {
        let _server = b.serve(proto, "b", 80);
        let outcome = a.probe_from(proto, "10.0.0.77:4242", "10.0.0.2:80", PATIENCE);
        let seen_source = "10.0.0.77:4242".parse().unwrap();
        assert_eq!(
            outcome,
            Outcome::Reached {
                name: "b".to_owned(),
                seen_source
            }
        );
    }
}

fn ping() {
    let (client, _router, server) = lab::routed();
    for to in ["10.0.2.2", "fd00:2::2"].into_iter().filter(|to| known(to)) {
        assert!(client.ping(to.parse().unwrap(), PATIENCE), "ping {to}");
    }
    server.down("eth0");
    assert!(!client.ping("10.0.2.2".parse().unwrap(), SILENCE));
    assert!(!Netns::host("lonely").ping("10.0.2.2".parse().unwrap(), SILENCE));
}

fn arp_is_seen() {
    let (a, b) = lab::pair();
    let ip = Ipv4Addr::new(10, 0, 0, 55);
    let own = mac(&a, "eth0");
    let sniffer = b.sniff("eth0");
    let arp = frame::Arp {
        from: own,
        to: frame::BROADCAST,
        is_request: true,
        sender: (own, ip),
        target: ([0; 6], ip),
    };
    a.send_frame("eth0", &arp.to_frame());
    let seen = sniffer.wait_for(PATIENCE, |frame| frame::announces_v4(frame, ip));
    assert_eq!(
        frame::Arp::parse(&seen.expect("the announcement")),
        Some(arp)
    );
    assert_eq!(
        sniffer.wait_for(SILENCE, |frame| frame::announces_v4(frame, ip)),
        None
    );
}

/// The kernel itself announces an address when `ndisc_notify` is on and the link comes up.
fn advertisement_is_seen() {
    if !lab::has_ipv6() {
        lab::skip("this kernel has no IPv6");
    }
    let (a, b) = lab::pair();
    a.set_sysctl("net/ipv6/conf/eth0/ndisc_notify", "1");
    a.set_sysctl("net/ipv6/conf/eth0/keep_addr_on_down", "1");
    let sniffer = b.sniff("eth0");
    a.set_link("eth0", |link| link.down().address(vec![2, 0, 0, 0, 0, 9]));
    a.up("eth0");
    let ip = "fd00::1".parse().unwrap();
    assert!(
        sniffer
            .wait_for(PATIENCE, |frame| frame::announces_v6(frame, ip))
            .is_some()
    );
}

fn a_forged_datagram_arrives() {
    let (a, b) = lab::pair();
    let sniffer = b.sniff("eth0");
    let macs = (mac(&a, "eth0"), mac(&b, "eth0"));
    for (from, to) in [
        ("10.0.0.200:1", "10.0.0.2:9999"),
        ("[fd00::200]:1", "[fd00::2]:9999"),
    ] {
        if !known(to) {
            continue;
        }
        let (from, to): (SocketAddr, SocketAddr) = (from.parse().unwrap(), to.parse().unwrap());
        a.send_frame("eth0", &frame::udp(macs, from, to, b"forged"));
        let wanted = (from, to, &b"forged"[..]);
        let seen = sniffer.wait_for(PATIENCE, |frame| frame::parse_udp(frame) == Some(wanted));
        assert!(seen.is_some(), "{from} -> {to}");
    }
}

/// Answers every question with 10.1.2.3, over UDP and TCP, once each.
fn dns_udp_and_tcp() {
    let (a, b) = lab::pair();
    let server: SocketAddr = "10.0.0.2:53".parse().unwrap();
    let udp = b.run(|| std::net::UdpSocket::bind(server)).unwrap();
    let tcp = b.run(|| std::net::TcpListener::bind(server)).unwrap();
    let answering = std::thread::spawn(move || {
        let mut buffer = [0; 512];
        let (length, peer) = udp.recv_from(&mut buffer).unwrap();
        udp.send_to(&answer(&buffer[..length]), peer).unwrap();
        answer_stream(&tcp);
    });
    for transport in [Transport::Udp, Transport::Tcp] {
        let reply = a
            .dns_query(server, "web.netd", RecordType::A, transport)
            .unwrap();
        assert_eq!(
            (reply.rcode, reply.aa, reply.tc),
            (ResponseCode::NoError, true, false)
        );
        assert_eq!(reply.ips(), [IpAddr::from([10, 1, 2, 3])]);
    }
    answering.join().unwrap();
}

fn answer_stream(tcp: &std::net::TcpListener) {
    use std::io::{Read, Write};
    let (mut stream, _) = tcp.accept().unwrap();
    let mut length = [0; 2];
    stream.read_exact(&mut length).unwrap();
    let mut question = vec![0; usize::from(u16::from_be_bytes(length))];
    stream.read_exact(&mut question).unwrap();
    let answer = answer(&question);
    let length = u16::try_from(answer.len()).unwrap().to_be_bytes();
    stream
        .write_all(&[&length[..], &answer[..]].concat())
        .unwrap();
}

fn answer(question: &[u8]) -> Vec<u8> {
    let mut message = Message::from_vec(question).unwrap().into_response();
    message.metadata.authoritative = true;
    let name = message.queries[0].name().clone();
    message.add_answer(Record::from_rdata(name, 5, RData::A(A::new(10, 1, 2, 3))));
    message.to_vec().unwrap()
}
