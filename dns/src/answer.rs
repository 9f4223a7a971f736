//! Owns the decision what a query is answered with, from the zone alone.
//!
//! Pure: bytes in, bytes out; the caller brings the zone and the rotation. Never asks an upstream: it
//! only says that one is to be asked.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::sync::Arc;

use hickory_proto::op::ResponseCode;

use crate::name::{self, Key};
use crate::reply::{Reply, ede};
use crate::request::Request;
use crate::zone::{Found, Holding, Reverse, View, Zone};

mod service;

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

/// What is to be done with a query whose reply, if there is one, stands in the caller's buffer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Verdict {
    /// Send the buffer.
    Reply,
    /// Ask an upstream and send what it says.
    Forward,
    /// Send nothing.
    Drop,
}

/// TTL of the HINFO that answers ANY, in seconds (RFC 8482 section 4.2: it should be long).
const ANY_TTL: u32 = 3600;
/// Its data: CPU "RFC8482", no OS.
const ANY_DATA: &[u8] = b"\x07RFC8482\0";

/// Record types (RFC 1035 section 3.2.2, 3.2.3; RFC 3596; RFC 2782).
pub(crate) mod kind {
    pub(crate) const A: u16 = 1;
    pub(crate) const PTR: u16 = 12;
    pub(crate) const HINFO: u16 = 13;
    pub(crate) const TXT: u16 = 16;
    pub(crate) const AAAA: u16 = 28;
    pub(crate) const SRV: u16 = 33;
    pub(crate) const ANY: u16 = 255;
}

const CLASS_IN: u16 = 1;

/// The zone in which netd keeps names of its own; nothing in it is ever asked outside.
const OWN_ZONE: &str = "netd.internal";

/// Answers one message of the container `asker`; see [`answer_into`].
pub fn answer(
    query: &[u8],
    transport: Transport,
    asker: &str,
    zone: &Zone,
    rotation: usize,
) -> Outcome {
    let mut reply = Vec::new();
    match answer_into(
        query,
        transport,
        zone.view(asker).as_ref(),
        rotation,
        &mut reply,
    ) {
        Verdict::Reply => Outcome::Reply(reply),
        Verdict::Forward => Outcome::Forward,
        Verdict::Drop => Outcome::Drop,
    }
}

/// Answers one message of a container that sees `view` (`None`: an unknown one), into `reply`.
///
/// `rotation` is any number that changes from query to query: it picks the record that comes first.
///
/// | message | outcome |
/// |---|---|
/// | shorter than a header, or a reply | `Drop` |
/// | opcode other than QUERY | NOTIMP |
/// | not one question, or not readable | FORMERR |
/// | EDNS version above 0 | BADVERS |
/// | asker unknown, or class other than IN | REFUSED |
/// | A, AAAA, TXT of a known name; SRV of a known port; PTR of an address that is held | the records, authoritative |
/// | ANY of a name that exists | HINFO (RFC 8482) |
/// | anything else of a name that exists | no data (RFC 2308), never forwarded |
/// | an unknown name of one label, of netd.internal, or of an address in a prefix of ours | NXDOMAIN, never forwarded |
/// | else | `Forward`, or SERVFAIL if the asker may not |
pub fn answer_into(
    query: &[u8],
    transport: Transport,
    view: Option<&View<'_>>,
    rotation: usize,
    reply: &mut Vec<u8>,
) -> Verdict {
    let Some((request, verdict)) = Request::read(query) else {
        return Verdict::Drop;
    };
    let reply = Reply::new(&request, transport, reply);
    let (Some(question), ResponseCode::NoError) = (request.question, verdict) else {
        reply.failed(verdict, None);
        return Verdict::Reply;
    };
    let (Some(view), CLASS_IN) = (view, question.class) else {
        reply.failed(ResponseCode::Refused, None);
        return Verdict::Reply;
    };
    let known = match request.key() {
        Some(key) => resolve(&key, view),
        // It has a label that no text can hold, and so is not ours; a single label is nobody's.
        None if request.labels() == 1 => Known::Nothing,
        None => Known::Foreign,
    };
    match known {
        Known::Foreign if view.asker.forward => return Verdict::Forward,
        Known::Foreign => {
            let why = (ede::BLOCKED, "this container is on internal networks only");
            reply.failed(ResponseCode::ServFail, Some(why));
        }
        Known::Nothing => negative(reply, ResponseCode::NXDomain, view.ttl()),
        known => records(reply, question.kind, &known, view, rotation),
    }
    Verdict::Reply
}

/// What the zone knows about a name.
#[derive(Debug)]
pub(crate) enum Known<'a> {
    /// A container, or several of one name.
    Host(Found<'a>),
    /// The loopback name.
    Localhost,
    /// A port of what answers to a name: the targets of its SRV records.
    Service(Vec<service::Target>, u32),
    /// An address: the names of who has it, and their TTL.
    Reverse(Vec<String>, u32),
    /// It exists, and has no records: there are names below it.
    Empty,
    /// It could only exist here, and does not.
    Nothing,
    /// It is somebody else's.
    Foreign,
}

/// What the zone knows about a name.
pub(crate) fn resolve<'a>(key: &Key, view: &View<'a>) -> Known<'a> {
    let text = key.as_str();
    if name::is_localhost(text) {
        return Known::Localhost;
    }
    if let Some(found) = view.find(text) {
        return Known::Host(found);
    }
    if text.starts_with('_') {
        return service::resolve(text, view);
    }
    if text.rsplit('.').next() == Some("arpa") {
        match view.reverse(text) {
            Reverse::Names(names, ttl) => return Known::Reverse(names, ttl),
            Reverse::Part => return Known::Empty,
            Reverse::Nobody => return Known::Nothing,
            Reverse::Foreign => {}
        }
    }
    if text == OWN_ZONE || key.labels == 1 && view.is_suffix(text) {
        Known::Empty
    } else if is_below(text, OWN_ZONE) || key.labels == 1 {
        Known::Nothing
    } else {
        Known::Foreign
    }
}

fn is_below(key: &str, zone: &str) -> bool {
    key.strip_suffix(zone)
        .is_some_and(|rest| rest.ends_with('.'))
}

/// The records of a name that exists here, or no data.
fn records(
    mut reply: Reply<'_, '_>,
    asked: u16,
    known: &Known<'_>,
    view: &View<'_>,
    rotation: usize,
) {
    let mut any = false;
    match (known, asked) {
        (_, kind::ANY) => {
            reply.answer(kind::HINFO, ANY_TTL, ANY_DATA);
            any = true;
        }
        (Known::Host(found), kind::A | kind::AAAA) => {
            let holdings = family(found.holdings, asked);
            for address in rotated(holdings, found.local_first, rotation) {
                reply.address(found.ttl, address);
                any = true;
            }
        }
        (Known::Localhost, kind::A) => {
            reply.address(view.ttl(), Ipv4Addr::LOCALHOST.into());
            any = true;
        }
        (Known::Localhost, kind::AAAA) => {
            reply.address(view.ttl(), Ipv6Addr::LOCALHOST.into());
            any = true;
        }
        (Known::Host(found), kind::TXT) => {
            for (_, details) in view.details(found) {
                for text in &details.texts {
                    reply.answer(kind::TXT, found.ttl, &text_data(text));
                    any = true;
                }
            }
        }
        (Known::Reverse(names, ttl), kind::PTR) => {
            for name in names {
                reply.answer(kind::PTR, *ttl, &name::to_wire(name));
                any = true;
            }
        }
        (Known::Service(targets, ttl), kind::SRV) => {
            service::write(&mut reply, targets, *ttl, rotation);
            any = true;
        }
        _ => {}
    }
    if any {
        reply.authoritative(ResponseCode::NoError);
    } else {
        let ttl = match known {
            Known::Host(found) => found.ttl,
            Known::Service(_, ttl) | Known::Reverse(_, ttl) => *ttl,
            _ => view.ttl(),
        };
        negative(reply, ResponseCode::NoError, ttl);
    }
}

/// The holdings of the family asked for: the list is sorted, so they stand together.
pub(crate) fn family(holdings: &[Holding], asked: u16) -> &[Holding] {
    let v4 = holdings.partition_point(|held| held.address.is_ipv4());
    if asked == kind::A {
        &holdings[..v4]
    } else {
        &holdings[v4..]
    }
}

/// The addresses, each once (RFC 2181 section 5), beginning at the one that `rotation` says, so that clients that take
/// the first one spread out. With `local_first` those of this host stand before the others, and each part is rotated.
fn rotated(
    holdings: &[Holding],
    local_first: bool,
    rotation: usize,
) -> impl Iterator<Item = IpAddr> {
    let is_near = move |same: &[Holding]| !local_first || same.iter().any(|held| !held.elsewhere);
    let part = move |near: bool| {
        let distinct = move || {
            holdings
                .chunk_by(|one, other| one.address == other.address)
                .filter(move |same| is_near(same) == near)
                .map(|same| same[0].address)
        };
        let first = rotation.checked_rem(distinct().count()).unwrap_or(0);
        distinct().skip(first).chain(distinct().take(first))
    };
    part(true).chain(local_first.then(|| part(false)).into_iter().flatten())
}

/// The data of a TXT record: strings of at most 255 bytes (RFC 1035 section 3.3.14), at least one.
fn text_data(text: &str) -> Vec<u8> {
    let mut data = Vec::with_capacity(text.len() + 1 + text.len() / 255);
    let mut pieces = text.as_bytes().chunks(255);
    let mut push = |piece: &[u8]| {
        data.push(u8::try_from(piece.len()).unwrap_or(u8::MAX));
        data.extend(piece);
    };
    push(pieces.next().unwrap_or_default());
    pieces.for_each(push);
    data
}

/// No such name, or no such data: with the SOA that says how long to believe it.
fn negative(mut reply: Reply<'_, '_>, code: ResponseCode, ttl: u32) {
    reply.soa(ttl);
    reply.authoritative(code);
}

/// Where local answers come from, for people: the network, and the containers that hold the name.
pub(crate) fn holders<'a>(found: &Found<'a>) -> Vec<&'a Arc<str>> {
    let mut list: Vec<&Arc<str>> = found.holdings.iter().map(|held| &held.holder).collect();
    list.dedup();
    list
}
