//! Any bytes as a query: the first byte chooses who asks and how, the rest is the message.
#![no_main]

use std::sync::LazyLock;

use hickory_proto::op::{Message, MessageType, OpCode, ResponseCode};
use libfuzzer_sys::fuzz_target;
use netd_dns::{Asker, Details, NamedPort, NetworkSpec, Outcome, Transport, Zone, answer};

static ZONE: LazyLock<Zone> = LazyLock::new(zone);

fuzz_target!(|data: &[u8]| {
    let Some((&choice, query)) = data.split_first() else {
        return;
    };
    let transport = if choice & 1 == 0 { Transport::Udp } else { Transport::Tcp };
    let asker = ["web", "inner", "nobody", "web"][usize::from(choice >> 1 & 3)];
    match answer(query, transport, asker, &ZONE, usize::from(choice >> 3)) {
        Outcome::Drop => assert!(query.len() < 12 || query[2] & 0x80 != 0, "a query was dropped"),
        Outcome::Forward => assert!(asker == "web" && query[2] & 0xf8 == 0),
        Outcome::Reply(reply) => check(query, &reply, transport, asker),
    }
});

/// What holds for every reply.
fn check(query: &[u8], reply: &[u8], transport: Transport, asker: &str) {
    assert_eq!(reply[..2], query[..2], "the id");
    assert!(transport == Transport::Tcp || reply.len() <= 1232);
    let parsed = Message::from_vec(reply).expect("hickory-proto reads every reply");
    assert_eq!(parsed.metadata.message_type, MessageType::Response);
    assert!(parsed.metadata.recursion_available);
    assert!(asker != "nobody" || parsed.answers.is_empty());
    // Written by hickory-proto it is the same message.
    let again = Message::from_vec(&parsed.to_vec().expect("it can be written")).expect("and read");
    assert_eq!(again, parsed);
    // What hickory-proto takes for a query of one question, so do we. (A compressed question nobody sends.)
    let Ok(asked) = Message::from_vec(query) else {
        return;
    };
    if asked.metadata.op_code == OpCode::Query && asked.queries.len() == 1 && !parsed.queries.is_empty() {
        assert_ne!(parsed.metadata.response_code, ResponseCode::FormErr);
        assert!(parsed.queries[0].name().eq_case(asked.queries[0].name()), "0x20");
        assert_eq!(parsed.queries, asked.queries);
        assert_eq!(parsed.edns.is_some(), asked.edns.is_some());
    }
}

fn zone() -> Zone {
    let ip = |text: &str| text.parse().expect("an address");
    let mut zone = Zone::default();
    let front = NetworkSpec {
        name: "front".into(),
        search: vec!["corp.example".into()],
        ttl: None,
        local_first: true,
        prefixes: vec!["10.0.1.0/24".parse().expect("a prefix"), "fd00::/64".parse().expect("a prefix")],
        gateways: vec![ip("10.0.1.254")],
    };
    zone.set_network("n1", front);
    zone.set_network("n2", "back");
    zone.add_names("n1", ["web", "www"], &[ip("10.0.1.1"), ip("fd00::1")], "web");
    zone.add_names("n2", ["db", "odd.name"], &[ip("10.0.2.2")], "db");
    let many: Vec<_> = (0..200).map(|last| ip(&format!("10.0.1.{last}"))).collect();
    zone.add_names_elsewhere("n1", ["m"], &many[..100], "h2/m");
    zone.add_names("n1", ["m"], &many[50..], "m");
    let ports = vec![NamedPort {
        name: "http".into(),
        proto: "tcp",
        port: 80,
    }];
    let texts = vec!["tier=front".into(), "x".repeat(700)];
    zone.set_details("web", Details { texts, ports });
    for (id, networks, forward) in [("web", &["n1", "n2"][..], true), ("inner", &["n2"], false)] {
        let mut asker = Asker {
            networks: networks.iter().map(|&id| id.into()).collect(),
            forward,
            ..Asker::default()
        };
        asker.hosts.add("host.netd.internal", [ip("10.0.1.254")]);
        zone.set_asker(id, asker);
    }
    zone
}
