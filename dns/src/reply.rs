//! Owns the writing of replies: header, question as it came, records, our OPT.
//!
//! Pure. Written here rather than by the encoder of hickory-proto: that one gives up compression after 120
//! names, fills up to the size limit without leaving room for the OPT, and allocates for each record; the tests hold
//! every reply against it. Every record of an answer belongs to the name of the question, so a pointer to that is all the
//! compression there is.

use std::net::IpAddr;

use hickory_proto::op::ResponseCode;

use crate::answer::Transport;
use crate::raw::{self, HEADER};
use crate::request::{OPT, Request, UDP_EDNS};

const TYPE_A: u16 = 1;
const TYPE_SOA: u16 = 6;
const TYPE_AAAA: u16 = 28;
const CLASS_IN: [u8; 2] = [0, 1];
/// A pointer to the name of the question (RFC 1035 section 4.1.4).
const OWNER: [u8; 2] = [0xc0, 12];

/// Extended errors (RFC 8914 section 4).
pub(crate) mod ede {
    /// The answer is older than its TTL.
    pub(crate) const STALE_ANSWER: u16 = 3;
    /// Not allowed by the operator.
    pub(crate) const BLOCKED: u16 = 15;
    /// The denial is older than its TTL.
    pub(crate) const STALE_NXDOMAIN: u16 = 19;
    /// No upstream could be reached, or all of them refused.
    pub(crate) const NO_REACHABLE_AUTHORITY: u16 = 22;
    /// The network reported an error on the way to the upstreams.
    pub(crate) const NETWORK_ERROR: u16 = 23;
    /// None of the others.
    pub(crate) const OTHER: u16 = 0;
}

/// The EDNS option that carries an extended error (RFC 8914 section 2).
const OPTION_EDE: u16 = 15;

/// An extended error with its text.
pub(crate) type ExtendedError = (u16, &'static str);

/// A reply in the making. Id, opcode, RD, CD and the question come from the request.
#[derive(Debug)]
pub(crate) struct Reply<'a, 'b> {
    request: &'a Request<'a>,
    out: &'b mut Vec<u8>,
    /// Bytes that records may fill; the rest is the OPT's.
    room: usize,
    counts: [u16; 3],
    truncated: bool,
}

impl<'a, 'b> Reply<'a, 'b> {
    /// Begins a reply in `out`, which is emptied.
    pub(crate) fn new(
        request: &'a Request<'a>,
        transport: Transport,
        out: &'b mut Vec<u8>,
    ) -> Self {
        let end = request.question.map_or(HEADER, |question| question.end);
        out.clear();
        out.extend(&request.bytes[..end]);
        let opt = if request.edns.is_some() { OPT } else { 0 };
        Self {
            // A question is at most 255 + 4 bytes, so it has room always.
            room: request.limit(transport) - opt,
            request,
            out,
            counts: [0; 3],
            truncated: false,
        }
    }

    /// Adds an answer. Once one does not fit, it and all others are left out and the reply is marked truncated.
    pub(crate) fn answer(&mut self, kind: u16, ttl: u32, data: &[u8]) {
        if !self.truncated {
            self.truncated = !self.record(0, &OWNER, kind, ttl, data);
        }
    }

    /// Adds an address as an answer.
    pub(crate) fn address(&mut self, ttl: u32, address: IpAddr) {
        match address {
            IpAddr::V4(ip) => self.answer(TYPE_A, ttl, &ip.octets()),
            IpAddr::V6(ip) => self.answer(TYPE_AAAA, ttl, &ip.octets()),
        }
    }

    /// Adds the address of another name, uncompressed; without a word if it does not fit (RFC 2181 section 9).
    pub(crate) fn additional(&mut self, owner: &[u8], ttl: u32, address: IpAddr) {
        if self.truncated {
            return;
        }
        match address {
            IpAddr::V4(ip) => self.record(2, owner, TYPE_A, ttl, &ip.octets()),
            IpAddr::V6(ip) => self.record(2, owner, TYPE_AAAA, ttl, &ip.octets()),
        };
    }

    /// Adds the SOA of local names, which says how long to believe that there is nothing (RFC 2308 section 5). They have
    /// no zone of their own, since a single label may be one of them, so the owner is the root: the only name above all
    /// of them. Refresh and the like serve nobody.
    pub(crate) fn soa(&mut self, ttl: u32) {
        // Owner (the root), type, class, TTL and length come before the data.
        let server = self.out.len() + 11;
        let Ok(pointer) = u16::try_from(0xc000 | server) else {
            return;
        };
        let mut data = b"\x04netd\0\x0ahostmaster".to_vec();
        data.extend(pointer.to_be_bytes());
        data.extend(1_u32.to_be_bytes());
        for _ in 0..4 {
            data.extend(ttl.to_be_bytes());
        }
        self.record(1, &[0], TYPE_SOA, ttl, &data);
    }

    fn record(&mut self, section: usize, owner: &[u8], kind: u16, ttl: u32, data: &[u8]) -> bool {
        let Ok(length) = u16::try_from(data.len()) else {
            return false;
        };
        if self.out.len() + owner.len() + 10 + data.len() > self.room {
            return false;
        }
        self.out.extend_from_slice(owner);
        self.out.extend_from_slice(&kind.to_be_bytes());
        self.out.extend_from_slice(&CLASS_IN);
        self.out.extend_from_slice(&ttl.to_be_bytes());
        self.out.extend_from_slice(&length.to_be_bytes());
        self.out.extend_from_slice(data);
        self.counts[section] += 1;
        true
    }

    /// A reply whose answers come from here.
    pub(crate) fn authoritative(self, code: ResponseCode) {
        self.finish(code, true, None);
    }

    /// A reply without records, and why.
    pub(crate) fn failed(self, code: ResponseCode, why: Option<ExtendedError>) {
        self.finish(code, false, why);
    }

    /// The header and question of an upstream's reply that is too long for the client.
    pub(crate) fn cut(mut self, code: ResponseCode, authoritative: bool) {
        self.truncated = true;
        self.finish(code, authoritative, None);
    }

    fn finish(mut self, code: ResponseCode, authoritative: bool, why: Option<ExtendedError>) {
        let code = u16::from(code);
        if let Some(edns) = self.request.edns {
            opt(self.out, code, edns.dnssec_ok, why);
            self.counts[2] += 1;
        }
        let query = self.request.bytes;
        let flag = |set: bool, bit: u8| if set { bit } else { 0 };
        // QR, AA, TC; opcode and RD as they came.
        self.out[2] =
            0x80 | query[2] & 0x79 | flag(authoritative, 0x04) | flag(self.truncated, 0x02);
        // RA; CD as it came (RFC 4035 section 3.2.2).
        self.out[3] = 0x80 | query[3] & 0x10 | code.to_be_bytes()[1] & 0x0f;
        self.out[5] = u8::from(self.request.question.is_some());
        self.out[4] = 0;
        for (place, count) in [6, 8, 10].into_iter().zip(self.counts) {
            self.out[place..place + 2].copy_from_slice(&count.to_be_bytes());
        }
    }
}

/// Our OPT: version 0, our size, the upper bits of the code, and the DO bit as it came (RFC 3225 section 3).
pub(crate) fn opt(record: &mut Vec<u8>, code: u16, dnssec_ok: bool, why: Option<ExtendedError>) {
    let flags = if dnssec_ok { 0x80 } else { 0 };
    let [upper, _] = (code << 4).to_be_bytes();
    record.extend([0, 0, 41]);
    record.extend(UDP_EDNS.to_be_bytes());
    record.extend([upper, 0, flags, 0]);
    let Some((info, text)) = why else {
        record.extend([0, 0]);
        return;
    };
    // The texts are ours and short.
    let length = u16::try_from(2 + text.len()).unwrap_or(2);
    record.extend((length + 4).to_be_bytes());
    record.extend(OPTION_EDE.to_be_bytes());
    record.extend(length.to_be_bytes());
    record.extend(info.to_be_bytes());
    record.extend(text.as_bytes());
}

/// SERVFAIL to a query, with the extended error if the query had EDNS. Empty if nobody is to be
/// answered (see [`Request::read`]).
pub(crate) fn servfail(query: &[u8], why: Option<ExtendedError>) -> Vec<u8> {
    let mut out = Vec::new();
    if let Some((request, _)) = Request::read(query) {
        Reply::new(&request, Transport::Udp, &mut out).failed(ResponseCode::ServFail, why);
    }
    debug_assert!(out.is_empty() || raw::rcode(&out) == raw::SERVFAIL);
    out
}
