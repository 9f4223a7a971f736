//! Owns what upstreams said, for as long as it may be said again: one cache for all containers of the host.
//!
//! Pure: the clock is an argument, a time since whenever. Never asks anybody, and keeps no query waiting: what is known of
//! a question is a [`Hit`] or nothing.
//!
//! Replies are kept as bytes, without their OPT (it belongs to one hop, RFC 6891 section 6.1.1), together with the places
//! of their TTLs. What is no longer used makes room first: an entry that was asked for since it was last looked at is
//! passed over once.

use std::collections::{HashMap, VecDeque};
use std::sync::Arc;
use std::time::Duration;

use crate::raw::{self, HEADER};
use crate::reply::{ede, opt};
use crate::request::Request;
use crate::resolv::Upstream;

/// Longest time that an answer is believed, and a denial (RFC 2308 section 5), in seconds.
const MAX_TTL: u32 = 86_400;
const MAX_NEGATIVE_TTL: u32 = 3600;
/// How long past its TTL an answer is kept for the case that no upstream answers (RFC 8767 section 5: one to three days).
const STALE: Duration = Duration::from_secs(86_400);
/// TTL of such an answer, in seconds (RFC 8767 section 4).
const STALE_TTL: u32 = 30;
/// After a failure nobody is asked for this long while a stale answer is there (RFC 8767 section 5).
const RECHECK: Duration = Duration::from_secs(30);
/// The same where none is (RFC 9520 section 3.2: at least a second).
const FAILED: Duration = Duration::from_secs(1);
/// Hits that make an answer popular, so that it is fetched anew in its last tenth.
const POPULAR: u32 = 3;
/// What an entry takes besides its bytes, about.
const OVERHEAD: usize = 200;

/// Which question was put to whom.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(crate) struct Key {
    upstreams: Arc<Vec<Upstream>>,
    /// Name in lower case, type and class as on the wire, then the flags that change the answer: RD, AD, CD, whether
    /// there is EDNS, DO.
    question: Box<[u8]>,
}

impl Key {
    /// The key of a query, or `None` if its answer is nobody else's: EDNS options speak to the upstream alone.
    pub(crate) fn of(request: &Request<'_>, upstreams: &Arc<Vec<Upstream>>) -> Option<Self> {
        let question = request.question?;
        if request.edns.is_some_and(|edns| edns.has_options) {
            return None;
        }
        let bytes = request.bytes;
        // Transfers (RFC 5936) and ANY are not looked up but streamed or refused.
        if matches!(question.kind, 251..=255) || bytes[6..10] != [0; 4] {
            return None;
        }
        let mut key = Vec::with_capacity(question.end - HEADER + 1);
        key.extend_from_slice(&bytes[HEADER..question.end]);
        let name_end = key.len() - 4;
        key[..name_end].make_ascii_lowercase();
        let edns = match request.edns {
            None => 0,
            Some(edns) if edns.dnssec_ok => 0xc0,
            Some(_) => 0x40,
        };
        key.push(bytes[2] & 0x01 | bytes[3] & 0x30 | edns);
        Some(Self {
            upstreams: Arc::clone(upstreams),
            question: key.into(),
        })
    }
}

#[derive(Debug)]
struct Entry {
    /// Without OPT.
    message: Box<[u8]>,
    /// Places of the TTLs in it.
    ttls: Box<[u16]>,
    stored: Duration,
    /// In seconds, of the whole.
    ttl: u32,
    hits: u32,
    /// Asked for since the eviction looked at it last.
    used: bool,
    /// Somebody fetches it anew already, or tried and failed: not before this time again.
    ask_again: Duration,
}

/// What is known of a question.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Hit {
    /// The reply. If `fetch`, it is popular and about to expire: fetch it anew beside.
    Fresh {
        reply: Vec<u8>,
        age: Duration,
        fetch: bool,
    },
    /// A reply past its TTL, for the case that the upstreams fail. If `at_once`, they just did.
    Stale {
        reply: Vec<u8>,
        age: Duration,
        at_once: bool,
    },
    /// The upstreams just failed, and there is nothing.
    Failed,
    /// Nothing.
    Unknown,
}

/// The cache.
#[derive(Debug)]
pub(crate) struct Cache {
    entries: HashMap<Key, Entry>,
    /// The keys of all entries, each once; the next to look at for eviction is in front.
    order: VecDeque<Key>,
    /// Questions without an entry that failed, and until when that holds.
    failed: HashMap<Key, Duration>,
    bytes: usize,
    limit: usize,
}

impl Cache {
    /// An empty cache that takes about `limit` bytes. With 0 it keeps nothing.
    pub(crate) fn new(limit: usize) -> Self {
        Self {
            entries: HashMap::new(),
            order: VecDeque::new(),
            failed: HashMap::new(),
            bytes: 0,
            limit,
        }
    }

    /// Whether it keeps anything at all.
    pub(crate) fn is_on(&self) -> bool {
        self.limit > 0
    }

    /// Answers kept, and about how many bytes they take.
    pub(crate) fn size(&self) -> (usize, usize) {
        (self.entries.len(), self.bytes)
    }

    /// Forgets everything.
    pub(crate) fn clear(&mut self) {
        *self = Self::new(self.limit);
    }

    /// What is known, as a reply to `request` whose key this is.
    pub(crate) fn get(&mut self, key: &Key, request: &Request<'_>, now: Duration) -> Hit {
        let Some(entry) = self.entries.get_mut(key) else {
            return match self.failed.get(key) {
                Some(until) if now < *until => Hit::Failed,
                _ => Hit::Unknown,
            };
        };
        entry.used = true;
        entry.hits = entry.hits.saturating_add(1);
        let age = now.saturating_sub(entry.stored);
        let ttl = Duration::from_secs(entry.ttl.into());
        if age < ttl {
            let late = age >= ttl.saturating_sub(ttl / 10);
            let fetch = late && entry.hits > POPULAR && now >= entry.ask_again;
            if fetch {
                entry.ask_again = entry.stored + ttl;
            }
            let reply = entry.reply(request, seconds(age), None);
            return Hit::Fresh { reply, age, fetch };
        }
        if age >= ttl + STALE {
            self.remove(key);
            return Hit::Unknown;
        }
        let why = if raw::rcode(&entry.message) == raw::NXDOMAIN {
            (
                ede::STALE_NXDOMAIN,
                "no upstream answers: this is an older denial",
            )
        } else {
            (
                ede::STALE_ANSWER,
                "no upstream answers: this is an older answer",
            )
        };
        Hit::Stale {
            reply: entry.reply(request, u32::MAX, Some(why)),
            age,
            at_once: now < entry.ask_again,
        }
    }

    /// Keeps an upstream's reply, if it may be kept: NOERROR and NXDOMAIN, whole, with a TTL.
    pub(crate) fn insert(&mut self, key: Key, reply: &[u8], now: Duration) {
        self.failed.remove(&key);
        let Some(mut entry) = Entry::of(reply, now) else {
            return;
        };
        let cost = entry.message.len() + key.question.len() + OVERHEAD;
        if cost > self.limit / 4 {
            return;
        }
        if let Some(old) = self.entries.get(&key) {
            // Popular names stay popular, as long as they are asked for at all.
            entry.hits = old.hits / 2;
            self.bytes -= old.message.len() + key.question.len() + OVERHEAD;
        } else {
            self.order.push_back(key.clone());
        }
        self.bytes += cost;
        self.entries.insert(key, entry);
        self.evict();
    }

    /// Notes that no upstream answered: for a while nobody need be asked again.
    pub(crate) fn fail(&mut self, key: &Key, now: Duration) {
        if let Some(entry) = self.entries.get_mut(key) {
            entry.ask_again = now + RECHECK;
        } else if self.is_on() {
            self.failed.retain(|_, until| now < *until);
            self.failed.insert(key.clone(), now + FAILED);
        }
    }

    fn evict(&mut self) {
        while self.bytes > self.limit {
            let Some(key) = self.order.pop_front() else {
                return;
            };
            match self.entries.get_mut(&key) {
                Some(entry) if entry.used => {
                    entry.used = false;
                    self.order.push_back(key);
                }
                Some(entry) => {
                    self.bytes -= entry.message.len() + key.question.len() + OVERHEAD;
                    self.entries.remove(&key);
                }
                None => {}
            }
        }
    }

    fn remove(&mut self, key: &Key) {
        if let Some(entry) = self.entries.remove(key) {
            self.bytes -= entry.message.len() + key.question.len() + OVERHEAD;
            self.order.retain(|other| other != key);
        }
    }
}

impl Entry {
    fn of(reply: &[u8], now: Duration) -> Option<Self> {
        if !matches!(raw::rcode(reply), 0 | raw::NXDOMAIN) || raw::is_truncated(reply) {
            return None;
        }
        let mut message = reply.to_vec();
        let records = raw::records(&message)?;
        let negative =
            raw::rcode(reply) == raw::NXDOMAIN || !records.iter().any(|r| r.section == 0);
        let mut limit = if negative {
            let soa = records
                .iter()
                .find(|r| r.section == 1 && r.kind == raw::SOA)?;
            // The minimum is the last of its fields (RFC 1035 section 3.3.13).
            let minimum = message.get(soa.end.checked_sub(4)?..soa.end)?;
            u32::from_be_bytes(minimum.try_into().ok()?).min(MAX_NEGATIVE_TTL)
        } else {
            MAX_TTL
        };
        let mut ttls = Vec::with_capacity(records.len());
        for (number, record) in records.iter().enumerate() {
            if record.kind == raw::OPT {
                // Anything behind it (a signature of the message, say) would be for one hop too.
                if number + 1 != records.len() || record.section != 2 {
                    return None;
                }
                message.truncate(record.start);
                let count = u16::from_be_bytes([message[10], message[11]]) - 1;
                message[10..12].copy_from_slice(&count.to_be_bytes());
                break;
            }
            let place = record.ttl_at;
            let ttl = u32::from_be_bytes(message.get(place..place + 4)?.try_into().ok()?);
            // RFC 2181 section 8: the highest bit makes it zero.
            limit = limit.min(if ttl > i32::MAX.cast_unsigned() {
                0
            } else {
                ttl
            });
            ttls.push(u16::try_from(place).ok()?);
        }
        // From here it is no longer authoritative, but recursion it had.
        message[2] &= !0x04;
        message[3] |= 0x80;
        (limit > 0).then(|| Self {
            message: message.into(),
            ttls: ttls.into(),
            stored: now,
            ttl: limit,
            hits: 0,
            used: false,
            ask_again: Duration::ZERO,
        })
    }

    /// The reply to `request`: its id, its spelling, TTLs less the age, an OPT if it had one.
    fn reply(&self, request: &Request<'_>, age: u32, why: Option<(u16, &'static str)>) -> Vec<u8> {
        let mut reply = Vec::with_capacity(self.message.len() + 64);
        reply.extend_from_slice(&self.message);
        let end = request.question.map_or(HEADER, |question| question.end);
        reply[..2].copy_from_slice(&request.bytes[..2]);
        reply[HEADER..end].copy_from_slice(&request.bytes[HEADER..end]);
        for &place in &self.ttls {
            let place = usize::from(place);
            let bytes = &mut reply[place..place + 4];
            let ttl = u32::from_be_bytes([bytes[0], bytes[1], bytes[2], bytes[3]]).min(MAX_TTL);
            let left = if why.is_some() {
                STALE_TTL
            } else {
                ttl.saturating_sub(age)
            };
            bytes.copy_from_slice(&left.to_be_bytes());
        }
        if let Some(edns) = request.edns {
            opt(&mut reply, 0, edns.dnssec_ok, why);
            let count = u16::from_be_bytes([reply[10], reply[11]]).saturating_add(1);
            reply[10..12].copy_from_slice(&count.to_be_bytes());
        }
        reply
    }
}

fn seconds(time: Duration) -> u32 {
    u32::try_from(time.as_secs()).unwrap_or(u32::MAX)
}

#[cfg(test)]
#[path = "cache/tests.rs"]
mod tests;
