//! Owns the decision what a query is answered with, from the zone alone.
//!
//! Pure: bytes in, bytes out; the caller brings the zone and the rotation. Never asks an upstream: it
//! only says that one is to be asked.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use hickory_proto::op::{Query, ResponseCode};
use hickory_proto::rr::rdata::SOA;
use hickory_proto::rr::{DNSClass, Name, RData, Record, RecordType};

use crate::name;
use crate::wire::{Answers, Reply, Request};
use crate::zone::{Asker, Zone};

/// How a query came, which limits the size of its answer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Transport {
    /// One datagram: at most 512 bytes, or what the client offers by EDNS.
    Udp,
    /// A length-prefixed stream: up to 64 KiB.
    Tcp,
}

/// What is to be done with a query.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Outcome {
    /// Send these bytes.
    Reply(Vec<u8>),
    /// Ask an upstream and send what it says.
    Forward,
    /// Send nothing: the message is a reply itself, or too short to have a sender's id.
    Drop,
}

/// Answers one message of the container `asker`.
///
/// `rotation` is any number that changes from query to query: it picks the address that comes first.
///
/// | message | outcome |
/// |---|---|
/// | shorter than a header, or a reply | `Drop` |
/// | opcode other than QUERY | NOTIMP |
/// | not one question, or not readable | FORMERR |
/// | EDNS version above 0 | BADVERS |
/// | asker unknown, or class other than IN | REFUSED |
/// | A or AAAA of a known name | its addresses, authoritative |
/// | anything else of a known name | no data (RFC 2308), never forwarded |
/// | an unknown name of one label | NXDOMAIN, never forwarded |
/// | else, and so all reverse names | `Forward`, or SERVFAIL if the asker may not |
pub fn answer(
    query: &[u8],
    transport: Transport,
    asker: &str,
    zone: &Zone,
    rotation: usize,
) -> Outcome {
    let Some((request, verdict)) = Request::read(query) else {
        return Outcome::Drop;
    };
    let (Some(question), ResponseCode::NoError) = (&request.question, verdict) else {
        return reply(&request, verdict.into());
    };
    let Some(asker) = zone.asker(asker) else {
        return reply(&request, ResponseCode::Refused.into());
    };
    if question.query_class() != DNSClass::IN {
        return reply(&request, ResponseCode::Refused.into());
    }
    match resolve(question, asker, zone) {
        Known::Addresses(all) => known(&request, question, all, transport, zone.ttl(), rotation),
        Known::Nothing => negative(&request, ResponseCode::NXDomain, zone.ttl()),
        Known::Foreign if asker.forward => Outcome::Forward,
        Known::Foreign => reply(&request, ResponseCode::ServFail.into()),
    }
}

/// What the zone knows about a name.
enum Known {
    /// It exists here, with these addresses of both families.
    Addresses(Vec<IpAddr>),
    /// It could only exist here, and does not.
    Nothing,
    /// It is somebody else's.
    Foreign,
}

fn resolve(question: &Query, asker: &Asker, zone: &Zone) -> Known {
    if let Some(key) = name::key(question.name()) {
        if name::is_localhost(&key) {
            let loopback = [Ipv4Addr::LOCALHOST.into(), Ipv6Addr::LOCALHOST.into()];
            return Known::Addresses(loopback.into());
        }
        if let Some(addresses) = zone.lookup(asker, &key) {
            return Known::Addresses(addresses);
        }
    }
    // Counted by hand: `num_labels` leaves out a leading `*`.
    if question.name().iter().count() == 1 {
        Known::Nothing
    } else {
        Known::Foreign
    }
}

/// The answer for a name that exists here: its addresses of the family asked for, as far as they fit,
/// or no data. Rotated, so that clients that take the first one spread out.
fn known(
    request: &Request,
    question: &Query,
    mut addresses: Vec<IpAddr>,
    transport: Transport,
    ttl: u32,
    rotation: usize,
) -> Outcome {
    match question.query_type() {
        RecordType::A => addresses.retain(IpAddr::is_ipv4),
        RecordType::AAAA => addresses.retain(IpAddr::is_ipv6),
        _ => addresses.clear(),
    }
    if addresses.is_empty() {
        return negative(request, ResponseCode::NoError, ttl);
    }
    let first = rotation % addresses.len();
    addresses.rotate_left(first);
    let (answers, truncated) = Answers::of(addresses, ttl, request.room(transport));
    let answer = Reply {
        authoritative: true,
        truncated,
        answers,
        ..Reply::default()
    };
    reply(request, answer)
}

/// No such name, or no such data: with the SOA that says how long to believe it (RFC 2308 section 5).
fn negative(request: &Request, code: ResponseCode, ttl: u32) -> Outcome {
    let answer = Reply {
        code,
        authoritative: true,
        authority: Some(soa(ttl)),
        ..Reply::default()
    };
    reply(request, answer)
}

/// The SOA of local names. They have no zone of their own, since a single label may be one of them, so
/// the owner is the root: the only name above all of them. Refresh and the like serve nobody.
fn soa(ttl: u32) -> Record {
    let label = |name: &str| Name::from_ascii(name).unwrap_or_default();
    let timer = i32::try_from(ttl).unwrap_or(i32::MAX);
    let (server, mailbox) = (label("netd."), label("hostmaster.netd."));
    let data = SOA::new(server, mailbox, 1, timer, timer, timer, ttl);
    Record::from_rdata(Name::root(), ttl, RData::SOA(data))
}

fn reply(request: &Request, reply: Reply) -> Outcome {
    Outcome::Reply(reply.encode(request))
}
