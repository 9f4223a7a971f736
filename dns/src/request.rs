//! Owns the reading of requests (RFC 1035 section 4, EDNS of RFC 6891).
//!
//! Pure. Never decides what the answer is. The common forms (one question, then nothing or one OPT without options) are
//! read here; whatever else stands behind the question is walked over by hickory-proto.

use hickory_proto::op::{Edns, Header, Message, OpCode, ResponseCode};
use hickory_proto::serialize::binary::{BinDecodable, BinDecoder, DecodeError};

use crate::answer::Transport;
use crate::name::Key;
use crate::raw::{self, HEADER};

/// Length of an OPT record without options: root, type, class, TTL, length.
pub(crate) const OPT: usize = 11;
/// Largest answer over UDP to a client that offers no size (RFC 1035 section 4.2.1).
pub(crate) const UDP_PLAIN: u16 = 512;
/// Largest answer of our own over UDP: passes any link without fragments (DNS flag day 2020).
pub(crate) const UDP_EDNS: u16 = 1232;

const TYPE_OPT: u16 = 41;

/// What of a request its reply depends on.
#[derive(Debug)]
pub(crate) struct Request<'a> {
    /// The whole message, at least a header long.
    pub(crate) bytes: &'a [u8],
    /// The one question, where there is exactly one and it can be read.
    pub(crate) question: Option<Question>,
    pub(crate) edns: Option<Offer>,
}

/// The question of a request.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Question {
    /// Where it ends in the request, and so in its replies.
    pub(crate) end: usize,
    pub(crate) kind: u16,
    pub(crate) class: u16,
}

/// What a client says of itself by EDNS.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Offer {
    /// Bytes that it takes over UDP.
    size: u16,
    pub(crate) dnssec_ok: bool,
    version: u8,
    /// Whether there are options, which only an upstream understands.
    pub(crate) has_options: bool,
}

impl<'a> Request<'a> {
    /// Reads a request as far as it goes, and says what is wrong with its form (`NoError`: nothing).
    ///
    /// `None` when there is nobody to answer: shorter than a header, or itself a reply. The reply bit
    /// is looked at before anything else, so not even a broken reply is replied to.
    pub(crate) fn read(bytes: &'a [u8]) -> Option<(Self, ResponseCode)> {
        if bytes.len() < HEADER || bytes[2] & 0x80 != 0 {
            return None;
        }
        let mut request = Self {
            bytes,
            question: None,
            edns: None,
        };
        if bytes[4..6] == [0, 1] {
            request.question = question(bytes);
        }
        if bytes[2] & 0x78 != 0 {
            return Some((request, ResponseCode::NotImp));
        }
        let Some(question) = request.question else {
            return Some((request, ResponseCode::FormErr));
        };
        let Ok(edns) = edns(bytes, question.end) else {
            return Some((request, ResponseCode::FormErr));
        };
        request.edns = edns;
        let verdict = if edns.is_some_and(|edns| edns.version > 0) {
            ResponseCode::BADVERS
        } else {
            ResponseCode::NoError
        };
        Some((request, verdict))
    }

    /// The name asked for, as it is looked up.
    pub(crate) fn key(&self) -> Option<Key> {
        let question = self.question?;
        Key::of(&self.bytes[HEADER..question.end - 4])
    }

    /// How many labels the name asked for has; the root has none.
    pub(crate) fn labels(&self) -> usize {
        let mut rest = self
            .question
            .map_or(&[][..], |question| &self.bytes[HEADER..question.end - 4]);
        let mut labels = 0;
        while let [length @ 1..=63, tail @ ..] = rest {
            labels += 1;
            rest = tail.get(usize::from(*length)..).unwrap_or_default();
        }
        labels
    }

    /// How many bytes a reply of our own may have.
    pub(crate) fn limit(&self, transport: Transport) -> usize {
        usize::from(match transport {
            Transport::Tcp => u16::MAX,
            Transport::Udp => self.offered().min(UDP_EDNS),
        })
    }

    /// The size the client takes over UDP: its own word, but at least 512 (RFC 6891 section 6.2.3).
    pub(crate) fn offered(&self) -> u16 {
        let offered = self.edns.map_or(UDP_PLAIN, |edns| edns.size);
        offered.max(UDP_PLAIN)
    }
}

fn question(bytes: &[u8]) -> Option<Question> {
    let end = raw::question_end(bytes)?;
    let number = |at: usize| u16::from_be_bytes([bytes[at], bytes[at + 1]]);
    Some(Question {
        end,
        kind: number(end - 4),
        class: number(end - 2),
    })
}

/// The OPT among the records behind the question.
fn edns(bytes: &[u8], end: usize) -> Result<Option<Offer>, DecodeError> {
    match bytes[6..HEADER] {
        [0, 0, 0, 0, 0, 0] => return Ok(None),
        [0, 0, 0, 0, 0, 1] => {
            if let Some(offer) = plain_opt(&bytes[end..]) {
                return Ok(Some(offer));
            }
        }
        _ => {}
    }
    walk(bytes, end)
}

/// An OPT without options as the last thing of a message.
fn plain_opt(record: &[u8]) -> Option<Offer> {
    let [0, t1, t2, s1, s2, 0, version, flags, _, 0, 0] = *record else {
        return None;
    };
    (u16::from_be_bytes([t1, t2]) == TYPE_OPT).then_some(Offer {
        size: u16::from_be_bytes([s1, s2]),
        dnssec_ok: flags & 0x80 != 0,
        version,
        has_options: false,
    })
}

/// Reads all records behind the question for the sake of the OPT among them.
fn walk(bytes: &[u8], end: usize) -> Result<Option<Offer>, DecodeError> {
    let mut decoder = BinDecoder::new(bytes);
    let Header { counts, .. } = Header::read(&mut decoder)?;
    decoder.read_slice(end - HEADER)?;
    let mut read =
        |count, last| Message::read_records(&mut decoder, usize::from(count), last, OpCode::Query);
    read(counts.answers, false)?;
    read(counts.authorities, false)?;
    let (_, edns, _) = read(counts.additionals, true)?;
    Ok(edns.map(|edns: Edns| Offer {
        size: edns.max_payload(),
        dnssec_ok: edns.flags().dnssec_ok,
        version: edns.version(),
        has_options: !edns.options().as_ref().is_empty(),
    }))
}
