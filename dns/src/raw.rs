//! Owns the fields of a forwarded message that are read or written in place, so that whatever else it
//! holds (unknown types, options, signatures) goes through untouched.
//!
//! Pure. Never takes a message apart: that is `wire`.

use hickory_proto::op::ResponseCode;

use crate::answer::Transport;
use crate::reply::Reply;
use crate::request::Request;

/// Length of the header that every message starts with (RFC 1035 section 4.1.1).
pub(crate) const HEADER: usize = 12;
/// The response codes that make the forwarder try the next upstream (RFC 1035 section 4.1.1).
pub(crate) const SERVFAIL: u8 = 2;
pub(crate) const REFUSED: u8 = 5;
/// There is no such name, or nothing below it.
pub(crate) const NXDOMAIN: u8 = 3;

/// Record types with a meaning of their own for a forwarder.
pub(crate) const SOA: u16 = 6;
pub(crate) const OPT: u16 = 41;

/// Makes an upstream's reply the client's: its id, its spelling of the name, and not more bytes than it takes.
pub(crate) fn restore(request: &Request<'_>, reply: &[u8], transport: Transport) -> Vec<u8> {
    let mut reply = reply.to_vec();
    // The questions are equal but for case, so they end at the same place.
    let end = request.question.map_or(HEADER, |question| question.end);
    if reply.len() >= end {
        reply[..2].copy_from_slice(&request.bytes[..2]);
        reply[HEADER..end].copy_from_slice(&request.bytes[HEADER..end]);
    }
    fit(request, reply, transport)
}

/// The reply, or if the client does not take as many bytes the header, question and OPT with TC set, so that it comes
/// back over TCP.
pub(crate) fn fit(request: &Request<'_>, reply: Vec<u8>, transport: Transport) -> Vec<u8> {
    if transport == Transport::Udp && reply.len() > usize::from(request.offered()) {
        return truncated(request, &reply);
    }
    reply
}

fn truncated(request: &Request<'_>, reply: &[u8]) -> Vec<u8> {
    let mut out = Vec::new();
    Reply::new(request, Transport::Udp, &mut out)
        .cut(ResponseCode::from(0, rcode(reply)), reply[2] & 0x04 != 0);
    out
}

/// Where a record of a message stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct RecordAt {
    /// 0 answers, 1 authority, 2 additional.
    pub(crate) section: usize,
    pub(crate) kind: u16,
    /// Where its owner begins.
    pub(crate) start: usize,
    pub(crate) ttl_at: usize,
    /// Behind its data.
    pub(crate) end: usize,
}

/// All records behind the one question, or `None` if the message is not whole, or there is something behind them.
pub(crate) fn records(message: &[u8]) -> Option<Vec<RecordAt>> {
    let mut at = question_end(message)?;
    let number = |at: usize| {
        Some(u16::from_be_bytes(
            message.get(at..at + 2)?.try_into().ok()?,
        ))
    };
    let mut records = Vec::new();
    for (section, place) in [6, 8, 10].into_iter().enumerate() {
        for _ in 0..number(place)? {
            let start = at;
            let fields = name_end(message, at)?;
            let end = fields + 10 + usize::from(number(fields + 8)?);
            records.push(RecordAt {
                section,
                kind: number(fields)?,
                start,
                ttl_at: fields + 4,
                end,
            });
            at = end;
        }
    }
    (at == message.len()).then_some(records)
}

/// Where the name that begins at `at` ends, compressed or not.
fn name_end(message: &[u8], mut at: usize) -> Option<usize> {
    loop {
        match *message.get(at)? {
            0 => return Some(at + 1),
            length @ 1..=63 => at += 1 + usize::from(length),
            // A pointer into the header would change its meaning with the id.
            high @ 0xc0.. => {
                let target = usize::from(u16::from_be_bytes([high & 0x3f, *message.get(at + 1)?]));
                return (target >= HEADER).then_some(at + 2);
            }
            _ => return None,
        }
    }
}

/// The low four bits of the response code. `message` has a header.
pub(crate) fn rcode(message: &[u8]) -> u8 {
    message[3] & 0x0f
}

/// Whether the TC bit is set. `message` has a header.
pub(crate) fn is_truncated(message: &[u8]) -> bool {
    message[2] & 0x02 != 0
}

/// Whether `reply` is a reply to exactly `query`: the reply bit, the id, the opcode and the question,
/// where ASCII case does not count (RFC 5452 section 9.1). Everything else is ignored by a resolver.
pub(crate) fn is_reply_to(query: &[u8], reply: &[u8]) -> bool {
    let Some(end) = question_end(query) else {
        return false;
    };
    let name_end = end - 4;
    reply.len() >= end
        && reply[..2] == query[..2]
        && reply[2] & 0x80 != 0
        && reply[2] & 0x78 == query[2] & 0x78
        && reply[4..6] == [0, 1]
        // Label lengths are below `A`, so folding cannot make two different ones equal.
        && reply[HEADER..name_end].eq_ignore_ascii_case(&query[HEADER..name_end])
        && reply[name_end..end] == query[name_end..end]
}

/// Where the first question ends, or `None` if there is none, or its name is compressed (nothing comes
/// before it that it could point to), too long or cut off.
pub(crate) fn question_end(message: &[u8]) -> Option<usize> {
    if message.get(4..6)? == [0, 0] {
        return None;
    }
    let mut at = HEADER;
    loop {
        match *message.get(at)? {
            0 => break,
            length @ 1..=63 => at += 1 + usize::from(length),
            _ => return None,
        }
    }
    let end = at + 1 + 4;
    // RFC 1035 section 2.3.4: 255 octets on the wire.
    (at + 1 - HEADER <= 255 && end <= message.len()).then_some(end)
}
