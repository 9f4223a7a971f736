//! Sizes: what is cut over UDP, what is whole over TCP, and when there is an OPT.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use hickory_proto::op::Message;
use hickory_proto::rr::RecordType;
use netd_dns::{Outcome, Transport, Zone, answer};

use crate::support::{addresses, asker, question, with_edns};

/// `many` has `count` addresses of each family.
fn zone(count: u32) -> Zone {
    let mut zone = Zone::default();
    zone.set_network("n", "net");
    zone.set_asker("a", asker(&["n"], true));
    let v4 = (0..count).map(|i| IpAddr::V4(Ipv4Addr::from_bits(0x0a00_0000 + i)));
    let v6 = (0..count).map(|i| IpAddr::V6(Ipv6Addr::from_bits((0xfd << 120) + u128::from(i))));
    let all: Vec<IpAddr> = v4.chain(v6).collect();
    zone.add_names("n", ["many"], &all, "m");
    zone
}

fn ask(count: u32, message: &Message, transport: Transport) -> (usize, Message) {
    match answer(&message.to_vec().unwrap(), transport, "a", &zone(count), 0) {
        Outcome::Reply(reply) => (reply.len(), Message::from_vec(&reply).unwrap()),
        other => panic!("{other:?}"),
    }
}

#[test]
fn without_edns_udp_ends_at_512() {
    // 12 + 10 bytes of header and question, 16 each.
    let query = question("many", RecordType::A);
    let (length, reply) = ask(30, &query, Transport::Udp);
    assert_eq!((length, reply.answers.len()), (12 + 10 + 30 * 16, 30));
    assert!(!reply.metadata.truncation && reply.edns.is_none());
    let (length, reply) = ask(31, &query, Transport::Udp);
    assert_eq!((length, reply.answers.len()), (12 + 10 + 30 * 16, 30));
    assert!(reply.metadata.truncation);
    assert!(reply.authorities.is_empty());
}

#[test]
fn the_offer_is_kept_between_512_and_1232() {
    for (offer, limit) in [
        (0, 512),
        (100, 512),
        (512, 512),
        (800, 800),
        (1232, 1232),
        (65_535, 1232),
    ] {
        // `set_max_payload` raises small sizes itself, so the bytes are written by hand.
        let mut bytes = with_edns(question("many", RecordType::A), 4096)
            .to_vec()
            .unwrap();
        let place = bytes.len() - 8;
        bytes[place..place + 2].copy_from_slice(&u16::to_be_bytes(offer));
        let Outcome::Reply(reply) = answer(&bytes, Transport::Udp, "a", &zone(500), 0) else {
            panic!("no reply");
        };
        let room = limit - (12 + 10 + 11);
        assert_eq!(reply.len(), limit - room % 16, "{offer}");
        let reply = Message::from_vec(&reply).unwrap();
        assert!(reply.metadata.truncation);
        assert_eq!(reply.edns.unwrap().max_payload(), 1232);
    }
}

#[test]
fn tcp_is_whole() {
    for (kind, count) in [(RecordType::A, 4000), (RecordType::AAAA, 2000)] {
        let (_, reply) = ask(
            count,
            &with_edns(question("many", kind), 512),
            Transport::Tcp,
        );
        assert!(!reply.metadata.truncation);
        assert!(reply.edns.is_some());
        let mut got = addresses(&reply);
        got.dedup();
        assert_eq!(got.len(), usize::try_from(count).unwrap());
    }
}

#[test]
fn more_than_a_message_can_hold_is_cut_even_over_tcp() {
    let (length, reply) = ask(5000, &question("many", RecordType::A), Transport::Tcp);
    assert!(length <= 65_535 && reply.metadata.truncation);
    assert_eq!(reply.answers.len(), (65_535 - 22) / 16);
}

#[test]
fn an_opt_exactly_if_the_query_had_one() {
    for name in ["many", "nope"] {
        let plain = question(name, RecordType::A);
        assert!(ask(1, &plain, Transport::Udp).1.edns.is_none());
        let mut edns = with_edns(plain, 1232);
        assert!(
            !ask(1, &edns, Transport::Udp)
                .1
                .edns
                .unwrap()
                .flags()
                .dnssec_ok
        );
        edns.edns.as_mut().unwrap().set_dnssec_ok(true);
        assert!(
            ask(1, &edns, Transport::Udp)
                .1
                .edns
                .unwrap()
                .flags()
                .dnssec_ok
        );
    }
}
