//! One test for each rule of the table at `answer`.

use hickory_proto::op::{Message, MessageType, OpCode, Query, ResponseCode};
use hickory_proto::rr::{DNSClass, Name, RData, RecordType};
use netd_dns::{NetworkSpec, Outcome, Transport, Zone, answer};

use crate::support::{
    INTERNAL, WEB, addresses, ask, asker, ip, outcome, question, with_edns, zone,
};

fn code(asker: &str, message: &Message) -> ResponseCode {
    ask(&zone(), asker, message).metadata.response_code
}

fn lookup(asker: &str, name: &str) -> Outcome {
    let query = question(name, RecordType::A).to_vec().unwrap();
    outcome(&zone(), asker, &query)
}

#[test]
fn short_messages_and_replies_are_dropped() {
    let query = question("web", RecordType::A).to_vec().unwrap();
    for length in 0..12 {
        assert_eq!(outcome(&zone(), WEB, &query[..length]), Outcome::Drop);
    }
    let mut reply = query.clone();
    reply[2] |= 0x80;
    assert_eq!(outcome(&zone(), WEB, &reply), Outcome::Drop);
    // A broken reply too: answering it could start a loop.
    assert_eq!(outcome(&zone(), WEB, &reply[..14]), Outcome::Drop);
}

#[test]
fn other_opcodes_are_not_implemented() {
    for opcode in [
        OpCode::Notify,
        OpCode::Update,
        OpCode::Status,
        OpCode::Unknown(9),
    ] {
        let mut message = question("web", RecordType::SOA);
        message.metadata.op_code = opcode;
        let reply = ask(&zone(), WEB, &message);
        assert_eq!(reply.metadata.response_code, ResponseCode::NotImp);
        assert_eq!(reply.metadata.op_code, opcode);
        assert_eq!(reply.queries, message.queries);
    }
}

#[test]
fn exactly_one_question() {
    let mut none = question("web", RecordType::A);
    none.queries.clear();
    assert_eq!(code(WEB, &none), ResponseCode::FormErr);
    let mut two = question("web", RecordType::A);
    two.add_query(Query::query(Name::from_ascii("db").unwrap(), RecordType::A));
    assert_eq!(code(WEB, &two), ResponseCode::FormErr);
}

#[test]
fn a_header_that_claims_records_is_a_format_error() {
    let mut bytes = question("web", RecordType::A).to_vec().unwrap();
    bytes[7] = 3;
    let Outcome::Reply(reply) = outcome(&zone(), WEB, &bytes) else {
        panic!("no reply");
    };
    let reply = Message::from_vec(&reply).unwrap();
    assert_eq!(reply.metadata.response_code, ResponseCode::FormErr);
}

#[test]
fn other_classes_are_refused() {
    for class in [DNSClass::CH, DNSClass::HS, DNSClass::ANY, DNSClass::NONE] {
        let mut message = question("version.bind", RecordType::TXT);
        message.queries[0].set_query_class(class);
        let reply = ask(&zone(), WEB, &message);
        assert_eq!(reply.metadata.response_code, ResponseCode::Refused);
        assert_eq!(reply.queries, message.queries);
    }
}

#[test]
fn unknown_askers_are_refused() {
    let message = question("web", RecordType::A);
    assert_eq!(code("nobody", &message), ResponseCode::Refused);
    assert_eq!(
        code("nobody", &question("example.com", RecordType::A)),
        ResponseCode::Refused
    );
}

#[test]
fn newer_edns_is_a_bad_version() {
    let mut message = with_edns(question("web", RecordType::A), 1232);
    message.edns.as_mut().unwrap().set_version(1);
    let reply = ask(&zone(), WEB, &message);
    // 16 is BADSIG where there is a signature; hickory-proto always reads it so.
    assert_eq!(
        u16::from(reply.metadata.response_code),
        u16::from(ResponseCode::BADVERS)
    );
    assert_eq!(reply.edns.unwrap().version(), 0);
    assert!(reply.answers.is_empty());
}

#[test]
fn two_opt_records_are_a_format_error() {
    let mut bytes = with_edns(question("web", RecordType::A), 1232)
        .to_vec()
        .unwrap();
    let opt = bytes[bytes.len() - 11..].to_vec();
    bytes.extend(opt);
    bytes[11] = 2;
    let Outcome::Reply(reply) = outcome(&zone(), WEB, &bytes) else {
        panic!("no reply");
    };
    assert_eq!(reply[3] & 0x0f, 1);
}

#[test]
fn known_names_give_addresses_of_the_family() {
    let reply = ask(&zone(), WEB, &question("web", RecordType::A));
    assert_eq!(addresses(&reply), [ip("10.0.1.1")]);
    assert!(reply.metadata.authoritative);
    assert!(reply.metadata.recursion_available);
    assert!(reply.metadata.recursion_desired);
    assert_eq!(reply.answers[0].ttl, 5);
    let reply = ask(&zone(), WEB, &question("web", RecordType::AAAA));
    assert_eq!(addresses(&reply), [ip("fd00::1")]);
}

#[test]
fn recursion_desired_and_checking_disabled_are_copied() {
    for (rd, cd) in [(false, false), (true, false), (false, true), (true, true)] {
        let mut message = question("web", RecordType::A);
        message.metadata.recursion_desired = rd;
        message.metadata.checking_disabled = cd;
        message.metadata.authentic_data = true;
        let reply = ask(&zone(), WEB, &message);
        assert_eq!(reply.metadata.recursion_desired, rd);
        assert_eq!(reply.metadata.checking_disabled, cd);
        assert!(!reply.metadata.authentic_data);
    }
}

#[test]
fn the_ttl_is_the_zones() {
    let mut zone = zone();
    zone.set_ttl(60);
    assert_eq!(
        ask(&zone, WEB, &question("web", RecordType::A)).answers[0].ttl,
        60
    );
    let none = ask(&zone, WEB, &question("nope", RecordType::A));
    assert_eq!(none.authorities[0].ttl, 60);
}

#[test]
fn case_is_kept_in_the_question_and_ignored_in_the_lookup() {
    let message = question("wEb.FroNT", RecordType::A);
    let reply = ask(&zone(), WEB, &message);
    assert!(reply.queries[0].name().eq_case(message.queries[0].name()));
    assert!(reply.answers[0].name.eq_case(message.queries[0].name()));
    assert_eq!(addresses(&reply), [ip("10.0.1.1")]);
    assert_eq!(
        addresses(&ask(&zone(), WEB, &question("www", RecordType::A))),
        [ip("10.0.1.1")]
    );
}

#[test]
fn several_holders_rotate() {
    let query = question("api", RecordType::A).to_vec().unwrap();
    let first = |rotation| match answer(&query, Transport::Udp, WEB, &zone(), rotation) {
        Outcome::Reply(reply) => addresses(&Message::from_vec(&reply).unwrap()),
        other => panic!("{other:?}"),
    };
    assert_eq!(first(0), [ip("10.0.1.2"), ip("10.0.1.3")]);
    assert_eq!(first(1), [ip("10.0.1.3"), ip("10.0.1.2")]);
    assert_eq!(first(usize::MAX), [ip("10.0.1.3"), ip("10.0.1.2")]);
}

#[test]
fn holders_on_this_host_first_when_asked_for() {
    let mut zone = zone();
    zone.add_names_elsewhere("n1", ["api"], &[ip("10.0.1.1")], "h2/x");
    zone.add_names_elsewhere("n1", ["api"], &[ip("10.0.1.9"), ip("fd00::9")], "h2/y");
    let query = |kind| question("api", kind).to_vec().unwrap();
    let reply = |zone: &Zone, kind, rotation| match answer(
        &query(kind),
        Transport::Udp,
        WEB,
        zone,
        rotation,
    ) {
        Outcome::Reply(reply) => addresses(&Message::from_vec(&reply).unwrap()),
        other => panic!("{other:?}"),
    };
    let last = |zone: &Zone, rotation| {
        let addresses = reply(zone, RecordType::A, rotation).into_iter();
        addresses
            .map(|address| address.to_string().rsplit('.').next().unwrap().to_owned())
            .collect::<Vec<_>>()
            .join(" ")
    };
    assert_eq!(last(&zone, 0), "1 2 3 9");
    zone.set_network(
        "n1",
        NetworkSpec {
            local_first: true,
            ..NetworkSpec::from("front")
        },
    );
    assert_eq!(last(&zone, 0), "2 3 1 9");
    assert_eq!(last(&zone, 1), "3 2 9 1");
    // Where no holder is near, the others are the answer.
    assert_eq!(reply(&zone, RecordType::AAAA, 3), [ip("fd00::9")]);
    zone.remove_names("n1", "h2/y");
    assert_eq!(last(&zone, 0), "2 3 1");
}

fn assert_soa(reply: &Message) {
    let [soa] = &reply.authorities[..] else {
        panic!("{reply:?}");
    };
    let RData::SOA(data) = &soa.data else {
        panic!("{soa:?}");
    };
    assert_eq!((soa.ttl, data.minimum), (5, 5));
    assert!(soa.name.zone_of(reply.queries[0].name()));
}

#[test]
fn other_types_of_a_known_name_have_no_data() {
    use RecordType::{CNAME, HTTPS, MX, NS, SRV, SVCB, TXT, Unknown};
    for kind in [CNAME, HTTPS, MX, NS, SRV, SVCB, TXT, Unknown(65_399)] {
        for name in ["web", "web.front", "odd.name"] {
            let reply = ask(&zone(), WEB, &question(name, kind));
            assert_eq!(
                reply.metadata.response_code,
                ResponseCode::NoError,
                "{name} {kind}"
            );
            assert!(reply.metadata.authoritative && reply.answers.is_empty());
            assert_soa(&reply);
        }
    }
}

#[test]
fn a_missing_family_has_no_data() {
    let reply = ask(&zone(), WEB, &question("db", RecordType::AAAA));
    assert_eq!(reply.metadata.response_code, ResponseCode::NoError);
    assert!(reply.answers.is_empty());
    assert_soa(&reply);
}

#[test]
fn single_labels_never_leave_the_host() {
    for kind in [RecordType::A, RecordType::AAAA, RecordType::TXT] {
        for asker in [WEB, INTERNAL] {
            let reply = ask(&zone(), asker, &question("nope", kind));
            assert_eq!(reply.metadata.response_code, ResponseCode::NXDomain);
            assert!(reply.metadata.authoritative);
            assert_soa(&reply);
        }
    }
    // A wildcard label is a label.
    assert_eq!(
        code(WEB, &question("*", RecordType::A)),
        ResponseCode::NXDomain
    );
}

#[test]
fn a_label_with_a_dot_is_not_two_labels() {
    let mut message = question("x", RecordType::A);
    message.queries[0].set_name(Name::from_labels([&b"odd.name"[..]]).unwrap());
    assert_eq!(code(WEB, &message), ResponseCode::NXDomain);
}

#[test]
fn foreign_names_go_upstream_if_the_asker_may() {
    for name in ["example.com", "nope.front", "a.b.c.d", "*.com", "."] {
        assert_eq!(lookup(WEB, name), Outcome::Forward, "{name}");
        assert_eq!(
            code(INTERNAL, &question(name, RecordType::A)),
            ResponseCode::ServFail,
            "{name}"
        );
    }
}

#[test]
fn reverse_names_go_upstream() {
    for name in ["1.1.0.10.in-addr.arpa", "1.0.0.0.ip6.arpa"] {
        let query = question(name, RecordType::PTR).to_vec().unwrap();
        assert_eq!(outcome(&zone(), WEB, &query), Outcome::Forward);
    }
}

#[test]
fn only_the_askers_networks_are_seen() {
    let only_back = question("api.front", RecordType::A);
    assert_eq!(code(INTERNAL, &only_back), ResponseCode::ServFail);
    assert_eq!(
        code(INTERNAL, &question("api", RecordType::A)),
        ResponseCode::NXDomain
    );
    assert_eq!(
        addresses(&ask(&zone(), INTERNAL, &question("web", RecordType::A))),
        [ip("10.0.2.1")]
    );
}

#[test]
fn localhost_is_answered_here() {
    for name in ["localhost", "LocalHost", "a.b.localhost"] {
        for asker in [WEB, INTERNAL] {
            let reply = ask(&zone(), asker, &question(name, RecordType::A));
            assert_eq!(addresses(&reply), [ip("127.0.0.1")]);
            let reply = ask(&zone(), asker, &question(name, RecordType::AAAA));
            assert_eq!(addresses(&reply), [ip("::1")]);
            let reply = ask(&zone(), asker, &question(name, RecordType::MX));
            assert_eq!(reply.metadata.response_code, ResponseCode::NoError);
            assert_soa(&reply);
        }
    }
}

#[test]
fn a_container_cannot_take_localhost() {
    let mut zone = zone();
    zone.add_names("n1", ["localhost"], &[ip("10.6.6.6")], "bad");
    let reply = ask(&zone, WEB, &question("localhost", RecordType::A));
    assert_eq!(addresses(&reply), [ip("127.0.0.1")]);
}

#[test]
fn a_removed_asker_is_refused() {
    let mut zone = zone();
    zone.set_asker("late", asker(&["n1"], true));
    let message = question("web", RecordType::A);
    assert_eq!(
        ask(&zone, "late", &message).metadata.response_code,
        ResponseCode::NoError
    );
    zone.remove_asker("late");
    assert_eq!(
        ask(&zone, "late", &message).metadata.response_code,
        ResponseCode::Refused
    );
}

#[test]
fn replies_are_replies() {
    let reply = ask(&zone(), WEB, &question("web", RecordType::A));
    assert_eq!(reply.metadata.message_type, MessageType::Response);
    assert_eq!(reply.metadata.id, 0x1234);
}
