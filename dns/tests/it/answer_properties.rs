//! What holds for every message, however it came to be.

use hickory_proto::op::{Message, MessageType, OpCode};
use hickory_proto::rr::RecordType;
use netd_dns::{Outcome, Transport, answer};
use proptest::prelude::*;

use crate::support::{INTERNAL, WEB, question, with_edns, zone};

fn transports() -> impl Strategy<Value = Transport> {
    prop_oneof![Just(Transport::Udp), Just(Transport::Tcp)]
}

fn names() -> impl Strategy<Value = String> {
    prop_oneof![
        prop::sample::select(vec![
            "web",
            "WEB.front",
            "db",
            "api.front",
            "localhost",
            "nope"
        ])
        .prop_map(str::to_owned),
        "(\\*\\.)?[a-zA-Z0-9_]{1,20}(\\.[a-zA-Z0-9]{1,20}){0,4}",
    ]
}

/// Any well-formed query.
fn queries() -> impl Strategy<Value = Message> {
    (
        names(),
        any::<u16>(),
        any::<u16>(),
        any::<u16>(),
        any::<bool>(),
        0_u16..5000,
    )
        .prop_map(|(name, kind, id, flags, edns, size)| {
            let mut message = question(&name, RecordType::from(kind));
            message.metadata.id = id;
            message.metadata.recursion_desired = flags & 0b1 != 0;
            message.metadata.checking_disabled = flags & 0b10 != 0;
            // Mostly addresses, since they take the longest way.
            if flags & 0b1100 != 0 {
                let kinds = [RecordType::A, RecordType::AAAA];
                message.queries[0].set_query_type(kinds[usize::from(flags & 0b1_0000 != 0)]);
            }
            if edns {
                with_edns(message, size)
            } else {
                message
            }
        })
}

/// What must hold for any reply to any bytes.
fn check_reply(query: &[u8], reply: &[u8], transport: Transport) -> Result<(), TestCaseError> {
    prop_assert_eq!(query[2] & 0x80, 0, "a reply was replied to");
    prop_assert_eq!(&reply[..2], &query[..2]);
    let parsed = Message::from_vec(reply).unwrap();
    prop_assert_eq!(parsed.metadata.message_type, MessageType::Response);
    prop_assert_eq!(
        parsed.metadata.op_code,
        OpCode::from_u8(query[2] >> 3 & 0x0f)
    );
    prop_assert!(parsed.metadata.recursion_available);
    if transport == Transport::Udp {
        prop_assert!(reply.len() <= 1232);
    }
    Ok(())
}

proptest! {
    #[test]
    fn any_bytes(bytes in prop::collection::vec(any::<u8>(), 0..600), transport in transports()) {
        match answer(&bytes, transport, WEB, &zone(), 0) {
            Outcome::Reply(reply) => check_reply(&bytes, &reply, transport)?,
            Outcome::Forward => prop_assert_eq!(bytes[2] & 0xf8, 0),
            Outcome::Drop => prop_assert!(bytes.len() < 12 || bytes[2] & 0x80 != 0),
        }
    }

    #[test]
    fn any_change_to_a_query(
        message in queries(),
        changes in prop::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 0..4),
        cut in any::<prop::sample::Index>(),
        whole in any::<bool>(),
        transport in transports(),
    ) {
        let mut bytes = message.to_vec().unwrap();
        for (place, value) in changes {
            let place = place.index(bytes.len());
            bytes[place] = value;
        }
        if !whole {
            bytes.truncate(cut.index(bytes.len()));
        }
        match answer(&bytes, transport, WEB, &zone(), 7) {
            Outcome::Reply(reply) => check_reply(&bytes, &reply, transport)?,
            Outcome::Forward => prop_assert_eq!(bytes[2] & 0xf8, 0),
            Outcome::Drop => prop_assert!(bytes.len() < 12 || bytes[2] & 0x80 != 0),
        }
    }

    #[test]
    fn every_query_gets_its_question_back(
        message in queries(),
        rotation in any::<usize>(),
        transport in transports(),
        asker in prop::sample::select(vec![WEB, INTERNAL, "nobody"]),
    ) {
        let bytes = message.to_vec().unwrap();
        match answer(&bytes, transport, asker, &zone(), rotation) {
            Outcome::Reply(reply) => {
                check_reply(&bytes, &reply, transport)?;
                let parsed = Message::from_vec(&reply).unwrap();
                prop_assert!(parsed.queries[0].name().eq_case(message.queries[0].name()));
                prop_assert_eq!(&parsed.queries, &message.queries);
                prop_assert_eq!(parsed.edns.is_some(), message.edns.is_some());
                // What hickory-proto would have written itself is the same message.
                let again = Message::from_vec(&parsed.to_vec().unwrap()).unwrap();
                prop_assert_eq!(again, parsed);
            }
            Outcome::Forward => prop_assert_eq!(asker, WEB),
            Outcome::Drop => prop_assert!(false, "dropped"),
        }
    }
}
