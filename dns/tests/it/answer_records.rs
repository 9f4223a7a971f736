//! Records other than addresses: SRV, TXT, PTR, ANY; names that are the asker's own; the order among networks.

use hickory_proto::op::{Message, ResponseCode};
use hickory_proto::rr::{RData, RecordType};
use netd_dns::{Details, NamedPort, NetworkSpec, Outcome, Transport, Zone, answer};
use netd_model::Prefix;

use crate::support::{
    INTERNAL, WEB, addresses, ask, asker, ip, outcome, question, with_edns, zone,
};

fn prefix(text: &str) -> Prefix {
    text.parse().unwrap()
}

/// The zone of the other tests, with prefixes, gateways, labels and ports. A third network, `far`, is nobody's who asks.
fn rich() -> Zone {
    let mut zone = zone();
    zone.set_network(
        "n1",
        NetworkSpec {
            name: "Front".into(),
            search: vec!["corp.example".into()],
            ttl: Some(7),
            local_first: false,
            prefixes: vec![prefix("10.0.1.0/24"), prefix("fd00::/64")],
            gateways: vec![ip("10.0.1.254"), ip("fd00::fe")],
        },
    );
    zone.set_network(
        "n2",
        NetworkSpec {
            name: "back".into(),
            prefixes: vec![prefix("10.0.2.0/23")],
            ..NetworkSpec::default()
        },
    );
    zone.set_network(
        "n3",
        NetworkSpec {
            name: "far".into(),
            prefixes: vec![prefix("10.0.9.0/24")],
            ..NetworkSpec::default()
        },
    );
    zone.add_names("n3", ["hidden"], &[ip("10.0.9.9")], "hidden");
    let port = |name: &str, proto, port| NamedPort {
        name: name.into(),
        proto,
        port,
    };
    zone.set_details(
        WEB,
        Details {
            texts: vec!["tier=front".into(), format!("long={}", "x".repeat(300))],
            ports: vec![
                port("http", "tcp", 80),
                port("8080", "tcp", 80),
                port("dns", "udp", 53),
            ],
        },
    );
    for (holder, number) in [("api-1", 81), ("api-2", 82)] {
        zone.add_names(
            "n1",
            [holder],
            &[ip(&format!("10.0.1.{}", number - 79))],
            holder,
        );
        let details = Details {
            texts: Vec::new(),
            ports: vec![port("http", "tcp", number)],
        };
        zone.set_details(holder, details);
    }
    zone
}

fn code(asker: &str, name: &str, kind: RecordType) -> ResponseCode {
    ask(&rich(), asker, &question(name, kind))
        .metadata
        .response_code
}

fn texts(message: &Message) -> Vec<String> {
    message
        .answers
        .iter()
        .map(|record| record.data.to_string())
        .collect()
}

#[test]
fn srv_gives_ports_with_the_addresses_of_their_targets() {
    for name in [
        "_http._tcp.web",
        "_HTTP._tcp.WEB.front",
        "_80._tcp.www.corp.example",
        "_8080._tcp.web",
    ] {
        let reply = ask(&rich(), WEB, &question(name, RecordType::SRV));
        let [record] = &reply.answers[..] else {
            panic!("{name}: {reply:?}");
        };
        let RData::SRV(srv) = &record.data else {
            panic!("{record:?}");
        };
        assert_eq!((srv.priority, srv.weight, srv.port), (0, 1, 80), "{name}");
        assert_eq!(srv.target.to_ascii(), "web.front.");
        assert_eq!(record.ttl, 7);
        let more: Vec<String> = reply
            .additionals
            .iter()
            .map(|r| format!("{} {}", r.name, r.data))
            .collect();
        assert_eq!(more, ["web.front. 10.0.1.1", "web.front. fd00::1"]);
        assert!(reply.metadata.authoritative);
    }
}

#[test]
fn srv_of_a_shared_name_gives_each_holder_and_rotates() {
    let query = question("_http._tcp.api", RecordType::SRV)
        .to_vec()
        .unwrap();
    let ports = |rotation| match answer(&query, Transport::Udp, WEB, &rich(), rotation) {
        Outcome::Reply(reply) => {
            let reply = Message::from_vec(&reply).unwrap();
            let ports = reply.answers.iter().map(|record| match &record.data {
                RData::SRV(srv) => srv.port,
                other => panic!("{other:?}"),
            });
            ports.collect::<Vec<_>>()
        }
        other => panic!("{other:?}"),
    };
    assert_eq!(ports(0), [81, 82]);
    assert_eq!(ports(1), [82, 81]);
}

#[test]
fn names_with_underscores_stay_here_where_the_rest_is_ours() {
    use RecordType::{A, SRV, TXT};
    for (name, kind, expected) in [
        ("_http._tcp.web", A, ResponseCode::NoError),
        ("_tcp.web", SRV, ResponseCode::NoError),
        ("_https._tcp.web", SRV, ResponseCode::NXDomain),
        ("_http._udp.web", SRV, ResponseCode::NXDomain),
        ("_a._http._tcp.web", SRV, ResponseCode::NXDomain),
        ("_http._tcp.nope", SRV, ResponseCode::NXDomain),
        ("_dmarc.web", TXT, ResponseCode::NXDomain),
        ("_http", SRV, ResponseCode::NXDomain),
    ] {
        assert_eq!(code(WEB, name, kind), expected, "{name}");
        assert!(ask(&rich(), WEB, &question(name, kind)).answers.is_empty());
    }
    let foreign = question("_http._tcp.example.com", SRV).to_vec().unwrap();
    assert_eq!(outcome(&rich(), WEB, &foreign), Outcome::Forward);
}

#[test]
fn srv_without_room_leaves_out_the_additionals_first() {
    let mut zone = rich();
    let many: Vec<_> = (0..40).map(|last| ip(&format!("fd00::1:{last}"))).collect();
    zone.add_names("n1", ["web"], &many, WEB);
    let reply = ask(&zone, WEB, &question("_http._tcp.web", RecordType::SRV));
    assert_eq!(reply.answers.len(), 1);
    assert!(!reply.metadata.truncation && reply.additionals.len() > 5);
}

#[test]
fn txt_gives_the_labels() {
    let query = with_edns(question("web.front", RecordType::TXT), 1232);
    let reply = ask(&rich(), WEB, &query);
    let all: Vec<Vec<usize>> = reply
        .answers
        .iter()
        .map(|record| match &record.data {
            RData::TXT(text) => text.txt_data.iter().map(|piece| piece.len()).collect(),
            other => panic!("{other:?}"),
        })
        .collect();
    assert_eq!(all, [vec![10], vec![255, 50]]);
    assert_eq!(texts(&reply)[0], "tier=front");
    // Nobody sees the labels of whom it does not see.
    assert_eq!(
        code(INTERNAL, "web.front", RecordType::TXT),
        ResponseCode::ServFail
    );
}

#[test]
fn ptr_gives_the_name_a_container_goes_by() {
    for (name, expected) in [
        ("1.1.0.10.in-addr.arpa", "web.front."),
        ("1.1.0.10.IN-ADDR.arpa", "web.front."),
        ("2.2.0.10.in-addr.arpa", "db.back."),
        ("254.1.0.10.in-addr.arpa", "host.netd.internal."),
        ("1.0.0.127.in-addr.arpa", "localhost."),
        (
            "1.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.d.f.ip6.arpa",
            "web.front.",
        ),
        (
            "1.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.ip6.arpa",
            "localhost.",
        ),
    ] {
        let reply = ask(&rich(), WEB, &question(name, RecordType::PTR));
        assert_eq!(texts(&reply), [expected], "{name}");
        assert!(reply.metadata.authoritative);
    }
}

#[test]
fn reverse_names_of_our_prefixes_never_leave() {
    use ResponseCode::{NXDomain, NoError};
    for (name, kind, expected) in [
        // Nobody has it; somebody has it on a network that the asker is not on.
        ("77.1.0.10.in-addr.arpa", RecordType::PTR, NXDomain),
        ("9.9.0.10.in-addr.arpa", RecordType::PTR, NXDomain),
        ("77.3.0.10.in-addr.arpa", RecordType::PTR, NXDomain),
        (
            "2.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.d.f.ip6.arpa",
            RecordType::PTR,
            NXDomain,
        ),
        ("2.0.0.127.in-addr.arpa", RecordType::PTR, NXDomain),
        // Names above that are parts of a prefix, and other types.
        ("1.0.10.in-addr.arpa", RecordType::SOA, NoError),
        (
            "0.0.0.0.0.0.0.0.0.0.0.0.0.0.d.f.ip6.arpa",
            RecordType::NS,
            NoError,
        ),
        ("1.1.0.10.in-addr.arpa", RecordType::A, NoError),
    ] {
        for asker in [WEB, INTERNAL] {
            if asker == INTERNAL && name.starts_with("1.1.") {
                continue;
            }
            let reply = ask(&rich(), asker, &question(name, kind));
            assert_eq!(reply.metadata.response_code, expected, "{asker} {name}");
            assert!(reply.answers.is_empty() && reply.authorities.len() == 1);
        }
    }
    for name in [
        "0.10.in-addr.arpa",
        "1.4.0.10.in-addr.arpa",
        "d.f.ip6.arpa",
        "8.8.8.8.in-addr.arpa",
    ] {
        let query = question(name, RecordType::PTR).to_vec().unwrap();
        assert_eq!(outcome(&rich(), WEB, &query), Outcome::Forward, "{name}");
    }
}

#[test]
fn any_is_answered_as_rfc_8482_says() {
    for name in [
        "web",
        "api.front",
        "_http._tcp.web",
        "1.1.0.10.in-addr.arpa",
        "localhost",
    ] {
        let reply = ask(&rich(), WEB, &question(name, RecordType::ANY));
        let [record] = &reply.answers[..] else {
            panic!("{name}: {reply:?}");
        };
        let RData::HINFO(info) = &record.data else {
            panic!("{record:?}");
        };
        assert_eq!((&*info.cpu, &*info.os), (&b"RFC8482"[..], &b""[..]));
    }
    assert_eq!(code(WEB, "nope", RecordType::ANY), ResponseCode::NXDomain);
}

#[test]
fn extra_hosts_are_the_askers_own() {
    let mut zone = rich();
    let mut own = asker(&["n1"], true);
    own.hosts
        .add("host.netd.internal", [ip("10.0.1.254"), ip("fd00::fe")]);
    own.hosts.add("Registry.example.", [ip("192.0.2.7")]);
    own.hosts
        .add("registry.example", [ip("192.0.2.8"), ip("192.0.2.7")]);
    own.hosts.add("web", [ip("192.0.2.9")]);
    own.hosts.add("not..a.name", [ip("192.0.2.9")]);
    zone.set_asker("own", own);
    let get = |name: &str, kind| addresses(&ask(&zone, "own", &question(name, kind)));
    assert_eq!(get("host.netd.internal", RecordType::A), [ip("10.0.1.254")]);
    assert_eq!(
        get("HOST.netd.internal", RecordType::AAAA),
        [ip("fd00::fe")]
    );
    assert_eq!(
        get("registry.example", RecordType::A),
        [ip("192.0.2.7"), ip("192.0.2.8")]
    );
    // As with /etc/hosts, they go before the names of containers.
    assert_eq!(get("web", RecordType::A), [ip("192.0.2.9")]);
    assert_eq!(get("web.front", RecordType::A), [ip("10.0.1.1")]);
    let none = ask(
        &zone,
        "own",
        &question("registry.example", RecordType::AAAA),
    );
    assert_eq!(
        (none.metadata.response_code, none.answers.len()),
        (ResponseCode::NoError, 0)
    );
    // Others know nothing of it; what is ours is never asked outside.
    for name in ["host.netd.internal", "x.netd.internal"] {
        assert_eq!(
            code(WEB, name, RecordType::A),
            ResponseCode::NXDomain,
            "{name}"
        );
    }
    assert_eq!(
        code(WEB, "netd.internal", RecordType::A),
        ResponseCode::NoError
    );
    let other = question("registry.example", RecordType::A)
        .to_vec()
        .unwrap();
    assert_eq!(outcome(&zone, WEB, &other), Outcome::Forward);
}

#[test]
fn search_domains_are_names_of_the_network() {
    for name in ["web.corp.example", "WWW.Corp.Example", "web.front"] {
        let reply = ask(&rich(), WEB, &question(name, RecordType::A));
        assert_eq!(addresses(&reply), [ip("10.0.1.1")], "{name}");
        assert_eq!(reply.answers[0].ttl, 7, "that of the network");
    }
    // Who else may be there, only the real servers of the domain know.
    let other = question("intranet.corp.example", RecordType::A)
        .to_vec()
        .unwrap();
    assert_eq!(outcome(&rich(), WEB, &other), Outcome::Forward);
    assert_eq!(
        code(WEB, "front", RecordType::A),
        ResponseCode::NoError,
        "there are names below it"
    );
}

#[test]
fn the_first_network_that_knows_a_name_answers() {
    let mut zone = rich();
    zone.add_names("n2", ["api"], &[ip("10.0.2.9")], "api-3");
    for (networks, first) in [(["n1", "n2"], "10.0.1.2"), (["n2", "n1"], "10.0.2.9")] {
        zone.set_asker("both", asker(&networks, true));
        let reply = ask(&zone, "both", &question("api", RecordType::A));
        assert_eq!(addresses(&reply)[0], ip(first), "{networks:?}");
        for (name, expected) in [("api.back", "10.0.2.9"), ("api.front", "10.0.1.2")] {
            let reply = ask(&zone, "both", &question(name, RecordType::A));
            assert_eq!(addresses(&reply)[0], ip(expected), "{name}");
        }
    }
}

#[test]
fn what_is_gone_is_gone_in_reverse_too() {
    let mut zone = rich();
    zone.remove_names("n1", WEB);
    zone.set_details(WEB, Details::default());
    let reply = ask(
        &zone,
        WEB,
        &question("1.1.0.10.in-addr.arpa", RecordType::PTR),
    );
    assert_eq!(reply.metadata.response_code, ResponseCode::NXDomain);
    let reply = ask(&zone, WEB, &question("_http._tcp.web", RecordType::SRV));
    assert_eq!(reply.metadata.response_code, ResponseCode::NXDomain);
}

#[test]
fn an_address_tells_who_asks_at_the_gateway() {
    let zone = rich();
    assert_eq!(
        zone.asker_at("n1", ip("10.0.1.1")).map(|id| &**id),
        Some(WEB)
    );
    // Of another network; of a container that may not ask; of nobody.
    for (network, address) in [
        ("n2", "10.0.1.1"),
        ("n1", "10.0.1.2"),
        ("n1", "10.0.1.77"),
        ("nope", "10.0.1.1"),
    ] {
        assert_eq!(
            zone.asker_at(network, ip(address)),
            None,
            "{network} {address}"
        );
    }
}

#[test]
fn why_nobody_is_asked_is_said() {
    let query = with_edns(question("example.com", RecordType::A), 1232);
    let Outcome::Reply(reply) = outcome(&rich(), INTERNAL, &query.to_vec().unwrap()) else {
        panic!("forwarded");
    };
    let text = b"this container is on internal networks only";
    assert!(reply.windows(text.len()).any(|bytes| bytes == text));
    Message::from_vec(&reply).unwrap();
}
