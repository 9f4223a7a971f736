//! Owns the shape of messages: reading a request and building a reply (RFC 1035 section 4, EDNS of
//! RFC 6891).
//!
//! Pure: bytes in, bytes out. Never decides what the answer is.

use std::net::IpAddr;

use hickory_proto::op::{
    Edns, Header, Message, MessageType, Metadata, OpCode, Query, ResponseCode,
};
use hickory_proto::rr::rdata::opt::EdnsOption;
use hickory_proto::rr::{DNSClass, Record, RecordType};
use hickory_proto::serialize::binary::{BinDecodable, BinDecoder, DecodeError};

use crate::answer::Transport;
use crate::raw::{self, HEADER};

/// Length of an OPT record without options: root, type, class, TTL, length.
const OPT: usize = 11;
/// Largest answer over UDP to a client that offers no size (RFC 1035 section 4.2.1).
pub(crate) const UDP_PLAIN: u16 = 512;
/// Largest answer of our own over UDP: passes any link without fragments (DNS flag day 2020).
const UDP_EDNS: u16 = 1232;

/// RFC 8914 section 4.23: no upstream could be reached, or all of them refused.
pub(crate) const EDE_NO_REACHABLE_AUTHORITY: u16 = 22;
/// RFC 8914 section 4.24: the network reported an error on the way to the upstreams.
pub(crate) const EDE_NETWORK_ERROR: u16 = 23;
/// The EDNS option that carries an extended error (RFC 8914 section 2).
const OPTION_EDE: u16 = 15;

/// What of a request its reply depends on.
#[derive(Debug)]
pub(crate) struct Request {
    pub(crate) metadata: Metadata,
    /// The one question, where there is exactly one and it can be read.
    pub(crate) question: Option<Query>,
    /// Where the question ends in the request, and so in its replies.
    question_end: usize,
    pub(crate) edns: Option<Edns>,
}

impl Request {
    /// Reads a request as far as it goes, and says what is wrong with its form (`NoError`: nothing).
    ///
    /// `None` when there is nobody to answer: shorter than a header, or itself a reply. The reply bit
    /// is looked at before anything else, so not even a broken reply is replied to.
    pub(crate) fn read(bytes: &[u8]) -> Option<(Self, ResponseCode)> {
        let mut decoder = BinDecoder::new(bytes);
        let Header { metadata, counts } = Header::read(&mut decoder).ok()?;
        if metadata.message_type == MessageType::Response {
            return None;
        }
        let mut request = Self {
            metadata,
            question: None,
            question_end: HEADER,
            edns: None,
        };
        if let Some(end) = raw::question_end(bytes).filter(|_| counts.queries == 1) {
            request.question = Query::read(&mut decoder).ok();
            request.question_end = end;
        }
        if metadata.op_code != OpCode::Query {
            return Some((request, ResponseCode::NotImp));
        }
        if request.question.is_none() {
            return Some((request, ResponseCode::FormErr));
        }
        let records = [counts.answers, counts.authorities, counts.additionals];
        let verdict = match read_edns(&mut decoder, records) {
            Err(_) => ResponseCode::FormErr,
            Ok(edns) => {
                let unknown = edns.as_ref().is_some_and(|edns| edns.version() > 0);
                request.edns = edns;
                if unknown {
                    ResponseCode::BADVERS
                } else {
                    ResponseCode::NoError
                }
            }
        };
        Some((request, verdict))
    }

    /// How many bytes of answers of our own a reply has room for.
    pub(crate) fn room(&self, transport: Transport) -> usize {
        let limit = match transport {
            Transport::Tcp => u16::MAX,
            Transport::Udp => self.offered().min(UDP_EDNS),
        };
        let opt = if self.edns.is_some() { OPT } else { 0 };
        // A question is at most 255 + 4 bytes, so this stays well above zero.
        usize::from(limit) - self.question_end - opt
    }

    /// The size the client takes over UDP: its own word, but at least 512 (RFC 6891 section 6.2.3).
    pub(crate) fn offered(&self) -> u16 {
        let offered = self.edns.as_ref().map_or(UDP_PLAIN, Edns::max_payload);
        offered.max(UDP_PLAIN)
    }
}

/// Walks over the records after the question for the sake of the OPT among them.
fn read_edns(
    decoder: &mut BinDecoder<'_>,
    [answers, authorities, additionals]: [u16; 3],
) -> Result<Option<Edns>, DecodeError> {
    let mut read =
        |count, last| Message::read_records(decoder, usize::from(count), last, OpCode::Query);
    read(answers, false)?;
    read(authorities, false)?;
    let (_, edns, _) = read(additionals, true)?;
    Ok(edns)
}

/// Address records for the name of the question, as bytes.
///
/// Written here rather than by the encoder of hickory-proto: that one gives up compression after 120
/// names, and fills up to the size limit without leaving room for the OPT.
#[derive(Debug, Default)]
pub(crate) struct Answers {
    count: u16,
    bytes: Vec<u8>,
}

impl Answers {
    /// As many of `addresses` (all of the family that the question asks for) as `room` bytes take, and
    /// whether some were left out.
    pub(crate) fn of(
        addresses: impl IntoIterator<Item = IpAddr>,
        ttl: u32,
        room: usize,
    ) -> (Self, bool) {
        let mut answers = Self::default();
        for address in addresses {
            let before = answers.bytes.len();
            answers.push(address, ttl);
            if answers.bytes.len() > room {
                answers.bytes.truncate(before);
                return (answers, true);
            }
            answers.count += 1;
        }
        (answers, false)
    }

    fn push(&mut self, address: IpAddr, ttl: u32) {
        /// A pointer to the name of the question (RFC 1035 section 4.1.4).
        const OWNER: [u8; 2] = [0xc0, 12];
        let (kind, length, data) = match address {
            IpAddr::V4(ip) => (RecordType::A, 4, &ip.octets()[..]),
            IpAddr::V6(ip) => (RecordType::AAAA, 16, &ip.octets()[..]),
        };
        self.bytes.extend(OWNER);
        self.bytes.extend(u16::from(kind).to_be_bytes());
        self.bytes.extend(u16::from(DNSClass::IN).to_be_bytes());
        self.bytes.extend(ttl.to_be_bytes());
        self.bytes.extend([0, length]);
        self.bytes.extend(data);
    }

    /// Puts the records behind the question of `message`, which ends at `place`. With addresses
    /// nothing follows it but an OPT, which no compressed name points into or out of.
    fn insert(self, message: &mut Vec<u8>, place: usize) {
        if self.count > 0 {
            message[6..8].copy_from_slice(&self.count.to_be_bytes());
            message.splice(place..place, self.bytes);
        }
    }
}

/// A reply before it is bytes. Id, opcode, RD, CD and the question come from the request.
#[derive(Debug, Default)]
pub(crate) struct Reply {
    pub(crate) code: ResponseCode,
    pub(crate) authoritative: bool,
    pub(crate) truncated: bool,
    pub(crate) answers: Answers,
    pub(crate) authority: Option<Record>,
    /// An RFC 8914 code; left out if the request had no EDNS.
    pub(crate) extended_error: Option<u16>,
}

impl From<ResponseCode> for Reply {
    fn from(code: ResponseCode) -> Self {
        Self {
            code,
            ..Self::default()
        }
    }
}

impl Reply {
    /// The bytes of this reply. It has an OPT exactly if the request had one (RFC 6891 section 7).
    pub(crate) fn encode(self, request: &Request) -> Vec<u8> {
        let query = &request.metadata;
        let mut message = Message::response(query.id, query.op_code);
        message.metadata.response_code = self.code;
        message.metadata.authoritative = self.authoritative;
        message.metadata.truncation = self.truncated;
        message.metadata.recursion_desired = query.recursion_desired;
        message.metadata.recursion_available = true;
        // RFC 4035 section 3.2.2.
        message.metadata.checking_disabled = query.checking_disabled;
        message.queries.extend(request.question.clone());
        message.authorities.extend(self.authority);
        message.edns = request
            .edns
            .as_ref()
            .map(|edns| opt(edns, self.extended_error));
        // Encoding fails only past 64 KiB, which nothing here comes near; then a header alone remains.
        let Ok(mut bytes) = message.to_vec() else {
            return bare_servfail(query.id);
        };
        self.answers.insert(&mut bytes, request.question_end);
        bytes
    }
}

/// Our OPT for a reply: version 0, our size, and the DO bit as it came (RFC 3225 section 3).
fn opt(asked: &Edns, extended_error: Option<u16>) -> Edns {
    let mut edns = Edns::new();
    edns.set_max_payload(UDP_EDNS);
    edns.set_dnssec_ok(asked.flags().dnssec_ok);
    if let Some(code) = extended_error {
        let option = EdnsOption::Unknown(OPTION_EDE, code.to_be_bytes().to_vec());
        edns.options_mut().insert(option);
    }
    edns
}

/// A header and nothing else: QR, RA, SERVFAIL.
fn bare_servfail(id: u16) -> Vec<u8> {
    let mut bytes = vec![0; HEADER];
    bytes[..2].copy_from_slice(&id.to_be_bytes());
    bytes[2] = 0x80;
    bytes[3] = 0x80 | raw::SERVFAIL;
    bytes
}

/// SERVFAIL to a query, with the extended error if the query had EDNS. Empty if nobody is to be
/// answered (see [`Request::read`]).
pub(crate) fn servfail(query: &[u8], extended_error: Option<u16>) -> Vec<u8> {
    let Some((request, _)) = Request::read(query) else {
        return Vec::new();
    };
    let reply = Reply {
        extended_error,
        ..Reply::from(ResponseCode::ServFail)
    };
    reply.encode(&request)
}
