//! Owns the counters: what queries came to, and how long upstreams took.
//!
//! Relaxed throughout: they are only ever shown.

use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::time::Duration;

use crate::raw;

/// The response codes that are counted apart, by their number; the last place is for all others.
pub const CODES: [&str; 7] = [
    "NOERROR", "FORMERR", "SERVFAIL", "NXDOMAIN", "NOTIMP", "REFUSED", "other",
];

/// Upper ends of the latency buckets, in milliseconds. What took longer has a place behind the last.
pub const LATENCY_MS: [u64; 8] = [1, 3, 10, 30, 100, 300, 1000, 2000];

/// What a few queries came to; added up before it is shared.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Stats {
    /// Messages that came in, whatever they were.
    pub queries: u64,
    /// Answered from the zone, refusals and the like included.
    pub local: u64,
    /// Answered from the cache, stale ones included.
    pub cached: u64,
    /// Of these, with what is older than its TTL, since no upstream answered.
    pub stale: u64,
    /// Sent on to upstreams.
    pub forwarded: u64,
    /// Replies by code, in the order of [`CODES`].
    pub codes: [u64; CODES.len()],
}

impl Stats {
    /// Replies with SERVFAIL, ours and those of upstreams.
    pub fn servfail(&self) -> u64 {
        self.codes[usize::from(raw::SERVFAIL)]
    }

    pub(crate) fn reply(&mut self, reply: &[u8]) {
        if reply.len() >= raw::HEADER {
            let code = usize::from(raw::rcode(reply));
            self.codes[code.min(CODES.len() - 1)] += 1;
        }
    }
}

/// The same, shared, and the latency of upstreams.
#[derive(Debug, Default)]
pub struct Counters {
    queries: AtomicU64,
    local: AtomicU64,
    cached: AtomicU64,
    stale: AtomicU64,
    forwarded: AtomicU64,
    codes: [AtomicU64; CODES.len()],
    latency: [AtomicU64; LATENCY_MS.len() + 1],
    latency_us: AtomicU64,
}

impl Counters {
    pub(crate) fn add(&self, stats: &Stats) {
        let fields = [
            (&self.queries, stats.queries),
            (&self.local, stats.local),
            (&self.cached, stats.cached),
            (&self.stale, stats.stale),
            (&self.forwarded, stats.forwarded),
        ];
        for (counter, more) in fields.into_iter().chain(self.codes.iter().zip(stats.codes)) {
            if more > 0 {
                counter.fetch_add(more, Relaxed);
            }
        }
    }

    pub(crate) fn took(&self, time: Duration) {
        let ms = u64::try_from(time.as_millis()).unwrap_or(u64::MAX);
        let place = LATENCY_MS.partition_point(|&end| end < ms);
        self.latency[place].fetch_add(1, Relaxed);
        let us = u64::try_from(time.as_micros()).unwrap_or(u64::MAX);
        self.latency_us.fetch_add(us, Relaxed);
    }

    pub(crate) fn queries(&self) -> u64 {
        self.queries.load(Relaxed)
    }

    /// The counts as they are now.
    pub fn stats(&self) -> Stats {
        let get = |counter: &AtomicU64| counter.load(Relaxed);
        Stats {
            queries: get(&self.queries),
            local: get(&self.local),
            cached: get(&self.cached),
            stale: get(&self.stale),
            forwarded: get(&self.forwarded),
            codes: std::array::from_fn(|code| get(&self.codes[code])),
        }
    }

    /// How many forwarded queries took at most each of [`LATENCY_MS`], how many there were, and the time of all of them.
    pub fn latency(&self) -> ([u64; LATENCY_MS.len()], u64, Duration) {
        let mut sum = 0;
        let up_to = std::array::from_fn(|place| {
            sum += self.latency[place].load(Relaxed);
            sum
        });
        let all = sum + self.latency[LATENCY_MS.len()].load(Relaxed);
        (
            up_to,
            all,
            Duration::from_micros(self.latency_us.load(Relaxed)),
        )
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_added_is_shown() {
        let counters = Counters::default();
        let mut stats = Stats {
            queries: 3,
            local: 1,
            ..Stats::default()
        };
        let mut reply = [0; raw::HEADER];
        reply[3] = raw::SERVFAIL;
        stats.reply(&reply);
        reply[3] = 9;
        stats.reply(&reply);
        stats.reply(b"short");
        counters.add(&stats);
        counters.add(&stats);
        let shown = counters.stats();
        assert_eq!((shown.queries, shown.local, shown.servfail()), (6, 2, 2));
        assert_eq!(shown.codes, [0, 0, 2, 0, 0, 0, 2]);
    }

    #[test]
    fn latencies_add_up() {
        let counters = Counters::default();
        for ms in [0, 1, 2, 2000, 2001, 60_000] {
            counters.took(Duration::from_millis(ms));
        }
        let (up_to, all, sum) = counters.latency();
        assert_eq!(up_to, [2, 3, 3, 3, 3, 3, 3, 4]);
        assert_eq!((all, sum), (6, Duration::from_millis(64_004)));
    }
}
