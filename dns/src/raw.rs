//! Owns the fields of a forwarded message that are read or written in place, so that whatever else it
//! holds (unknown types, options, signatures) goes through untouched.
//!
//! Pure. Never takes a message apart: that is `wire`.

use hickory_proto::op::ResponseCode;

use crate::answer::Transport;
use crate::wire::{Reply, Request, UDP_PLAIN};

/// Length of the header that every message starts with (RFC 1035 section 4.1.1).
pub(crate) const HEADER: usize = 12;
/// The response codes that make the forwarder try the next upstream (RFC 1035 section 4.1.1).
pub(crate) const SERVFAIL: u8 = 2;
pub(crate) const REFUSED: u8 = 5;

/// Makes an upstream's reply the client's: its id, its spelling of the name, and not more bytes than
/// it takes (over that the header, question and OPT with TC set, so the client comes back over TCP).
pub(crate) fn restore(query: &[u8], mut reply: Vec<u8>, transport: Transport) -> Vec<u8> {
    if transport == Transport::Udp
        && reply.len() > usize::from(UDP_PLAIN)
        && let Some((request, _)) = Request::read(query)
        && reply.len() > usize::from(request.offered())
    {
        return truncated(&request, &reply);
    }
    // The questions are equal but for case, so they end at the same place.
    let end = question_end(query).unwrap_or(HEADER);
    if reply.len() >= end && query.len() >= end {
        reply[..2].copy_from_slice(&query[..2]);
        reply[HEADER..end].copy_from_slice(&query[HEADER..end]);
    }
    reply
}

fn truncated(request: &Request, reply: &[u8]) -> Vec<u8> {
    let reply = Reply {
        truncated: true,
        authoritative: reply[2] & 0x04 != 0,
        ..Reply::from(ResponseCode::from(0, rcode(reply)))
    };
    reply.encode(request)
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
/// before it that it could point to) or cut off.
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
    (end <= message.len()).then_some(end)
}
