//! Owns the choice among upstreams: order, time, what counts as an answer, which ones are down.
//!
//! IO, by way of `exchange`. Never parses what upstreams say beyond the response code and the TC bit, so
//! unknown types, the DO bit and signatures pass. Keeps nothing running between queries: whether an
//! upstream is worth another try is worked out when the next query comes.

use std::collections::HashMap;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use arc_swap::ArcSwap;
use tokio::time::{Instant, timeout_at};

use crate::answer::Transport;
use crate::resolv::EMBEDDED;
use crate::wire::{self, EDE_NETWORK_ERROR, EDE_NO_REACHABLE_AUTHORITY};
use crate::{exchange, raw};

/// How long the forwarder waits for what.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Timing {
    /// For one reply from one upstream.
    pub attempt: Duration,
    /// For all of one query. Below the two seconds in which the client must hear from us.
    pub budget: Duration,
    /// How long an upstream that did not answer is asked only after the others.
    pub avoid: Duration,
}

impl Default for Timing {
    fn default() -> Self {
        Self {
            attempt: Duration::from_millis(700),
            budget: Duration::from_millis(1800),
            avoid: Duration::from_secs(10),
        }
    }
}

/// Asks upstreams on behalf of containers, from the namespace of the daemon.
#[derive(Debug)]
pub struct Forwarder {
    /// The host's upstreams, for containers that have none of their own. Another task swaps them when
    /// the host's configuration changes.
    host: Arc<ArcSwap<Vec<SocketAddr>>>,
    timing: Timing,
    /// Upstreams that did not answer, and when that was seen last. Never locked across an await.
    silent: Mutex<HashMap<SocketAddr, Instant>>,
}

/// What became of one question to one upstream.
enum Attempt {
    /// A reply that goes to the client as it is.
    Final(Vec<u8>),
    /// SERVFAIL: another upstream may do better; if none does, this one says why.
    Failed(Vec<u8>),
    /// REFUSED: another upstream may be for us.
    Refused,
    /// Nothing came in time.
    Silent,
    /// The network said that nothing will come.
    Unreachable,
}

/// What the upstreams asked so far have come to, none of them having answered.
#[derive(Default)]
struct Failure {
    servfail: Option<Vec<u8>>,
    refused: bool,
    silent: bool,
    unreachable: bool,
}

impl Forwarder {
    /// A forwarder with the default [`Timing`].
    pub fn new(host: Arc<ArcSwap<Vec<SocketAddr>>>) -> Self {
        Self::with_timing(host, Timing::default())
    }

    /// A forwarder that waits as long as `timing` says.
    pub fn with_timing(host: Arc<ArcSwap<Vec<SocketAddr>>>, timing: Timing) -> Self {
        Self {
            host,
            timing,
            silent: Mutex::default(),
        }
    }

    /// Asks `upstreams` (`None`: the host's) and gives what goes to the client, in the client's own id
    /// and spelling: an upstream's reply, or SERVFAIL with an extended error (RFC 8914) after at most
    /// [`Timing::budget`].
    ///
    /// `query` is a well-formed query, as the pure `answer` passes it on; for anything else the result
    /// is a SERVFAIL, or empty where there is nobody to reply to.
    pub async fn forward(
        &self,
        query: &[u8],
        transport: Transport,
        upstreams: Option<&[SocketAddr]>,
    ) -> Vec<u8> {
        let order = match upstreams {
            Some(upstreams) => self.order(upstreams),
            None => self.order(&self.host.load()),
        };
        if raw::question_end(query).is_none() {
            return wire::servfail(query, None);
        }
        match self.ask_all(query, transport, order).await {
            Ok(reply) => raw::restore(query, reply, transport),
            Err(failure) => failure.reply(query, transport),
        }
    }

    /// Asks one after the other, and again those that stay silent, until one answers or the time is up.
    async fn ask_all(
        &self,
        query: &[u8],
        transport: Transport,
        mut upstreams: Vec<SocketAddr>,
    ) -> Result<Vec<u8>, Failure> {
        let end = Instant::now() + self.timing.budget;
        let mut failure = Failure::default();
        while !upstreams.is_empty() && !failure.heard() {
            let mut again = Vec::new();
            for upstream in upstreams {
                match self.ask(upstream, query, transport, end).await {
                    Attempt::Final(reply) => return Ok(reply),
                    Attempt::Failed(reply) => failure.servfail = Some(reply),
                    Attempt::Refused => failure.refused = true,
                    Attempt::Silent => {
                        failure.silent = true;
                        again.push(upstream);
                    }
                    Attempt::Unreachable => failure.unreachable = true,
                }
                if Instant::now() >= end {
                    return Err(failure);
                }
            }
            upstreams = again;
        }
        Err(failure)
    }

    /// Asks one upstream: over UDP, and over TCP if the reply was cut and the client can take all of it.
    async fn ask(
        &self,
        upstream: SocketAddr,
        query: &[u8],
        transport: Transport,
        end: Instant,
    ) -> Attempt {
        let mut limit = self.limit(end);
        let mut result = timeout_at(limit, exchange::udp(upstream, query)).await;
        if let Ok(Ok(reply)) = &result
            && transport == Transport::Tcp
            && raw::is_truncated(reply)
        {
            limit = self.limit(end);
            result = timeout_at(limit, exchange::tcp(upstream, query)).await;
        }
        let attempt = match result {
            Err(_) => Attempt::Silent,
            Ok(Err(error)) => {
                tracing::debug!(%upstream, %error, "upstream unreachable");
                Attempt::Unreachable
            }
            Ok(Ok(reply)) => match raw::rcode(&reply) {
                raw::SERVFAIL => Attempt::Failed(reply),
                raw::REFUSED => Attempt::Refused,
                _ => Attempt::Final(reply),
            },
        };
        // Silence is held against an upstream only if the budget left it its whole time.
        if limit < end || !matches!(attempt, Attempt::Silent) {
            self.note(upstream, &attempt);
        }
        attempt
    }

    fn limit(&self, end: Instant) -> Instant {
        end.min(Instant::now() + self.timing.attempt)
    }

    /// The upstreams as they are to be asked: those that answered last time first, in the order given,
    /// then the silent ones, the one that has been avoided longest first. Never ourselves.
    fn order(&self, upstreams: &[SocketAddr]) -> Vec<SocketAddr> {
        let others = upstreams
            .iter()
            .filter(|u| u.ip().to_canonical() != EMBEDDED);
        let mut order: Vec<SocketAddr> = others.copied().collect();
        let silent = self.silent();
        if !silent.is_empty() {
            let now = Instant::now();
            let avoided = |since: &&Instant| now.duration_since(**since) < self.timing.avoid;
            // `None` sorts before every instant, and the sort keeps the order of equals.
            order.sort_by_key(|upstream| silent.get(upstream).filter(avoided).copied());
        }
        order
    }

    fn note(&self, upstream: SocketAddr, attempt: &Attempt) {
        let mut silent = self.silent();
        if matches!(attempt, Attempt::Silent | Attempt::Unreachable) {
            let now = Instant::now();
            // Whatever is no longer avoided need not be remembered: the map stays as small as the outage.
            silent.retain(|_, since| now.duration_since(*since) < self.timing.avoid);
            silent.insert(upstream, now);
        } else if !silent.is_empty() {
            silent.remove(&upstream);
        }
    }

    fn silent(&self) -> MutexGuard<'_, HashMap<SocketAddr, Instant>> {
        // It only guides the order: half a change does no harm.
        self.silent.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Failure {
    /// Whether an upstream spoke, if only to fail: asking the silent ones again is then not worth the wait.
    fn heard(&self) -> bool {
        self.servfail.is_some() || self.refused
    }

    /// An upstream's own SERVFAIL, since it may say why (a bogus signature, say), else ours.
    fn reply(self, query: &[u8], transport: Transport) -> Vec<u8> {
        if let Some(reply) = self.servfail {
            return raw::restore(query, reply, transport);
        }
        wire::servfail(query, Some(self.extended_error()))
    }

    fn extended_error(&self) -> u16 {
        if self.unreachable && !self.refused && !self.silent {
            EDE_NETWORK_ERROR
        } else {
            EDE_NO_REACHABLE_AUTHORITY
        }
    }
}
