//! Owns the questions that go upstream: what is known of them already, who waits for the same answer, and what the client
//! gets in the end.
//!
//! IO, by way of `exchange`. Never parses what upstreams say beyond the response code, the TC bit and, for the cache, the
//! places of TTLs, so unknown types, the DO bit and signatures pass. The choice among upstreams is `health`'s.

use std::collections::HashMap;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use arc_swap::ArcSwap;
use tokio::sync::{mpsc, watch};
use tokio::time::{Instant, sleep_until, timeout_at};

use crate::answer::Transport;
use crate::cache::{Cache, Hit, Key};
use crate::exchange;
use crate::health::Health;
use crate::raw;
use crate::reach::{Inside, Reach};
use crate::reply::{ExtendedError, ede, servfail};
use crate::request::Request;
use crate::resolv::Upstream;
use crate::tls::Tls;
use crate::zone::Asker;

/// Upstreams in the order in which they are to be asked.
pub type Upstreams = Arc<Vec<Upstream>>;

/// How long the forwarder waits for what.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Timing {
    /// For one reply from one upstream.
    pub attempt: Duration,
    /// Until the next upstream is asked beside one that has not answered yet.
    pub hedge: Duration,
    /// For all of one query. Below the two seconds in which the client must hear from us.
    pub budget: Duration,
    /// How long an upstream that did not answer is asked only after the others; then it is asked beside them, and stands in
    /// its place again once it answers. Nobody waits for that.
    pub avoid: Duration,
    /// How long a client waits for the upstreams where a stale answer is there (RFC 8767 section 5).
    pub stale: Duration,
}

impl Default for Timing {
    fn default() -> Self {
        Self {
            attempt: Duration::from_millis(700),
            hedge: Duration::from_millis(300),
            budget: Duration::from_millis(1800),
            avoid: Duration::from_secs(10),
            stale: Duration::from_millis(900),
        }
    }
}

/// Bytes that the cache takes at most, unless it is said otherwise.
pub const CACHE_BYTES: usize = 8 << 20;

/// Where an answer that is not from the zone came from.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Source {
    /// This upstream, just now.
    Upstream(Upstream),
    /// The cache; asked an upstream so long ago.
    Cache(Duration),
    /// The cache, although the TTL is over, since no upstream answered.
    Stale(Duration),
    /// Nobody: why.
    Nobody(&'static str),
}

/// Asks upstreams on behalf of containers, from the namespace of the daemon or theirs. Cloning shares.
#[derive(Clone, Debug)]
pub struct Forwarder(Arc<Inner>);

#[derive(Debug)]
struct Inner {
    /// The host's upstreams, for containers that have none of their own. Another task swaps them when
    /// the host's configuration changes.
    host: Arc<ArcSwap<Vec<Upstream>>>,
    timing: Timing,
    tls: Tls,
    reach: Reach,
    /// When the cache's clock began.
    start: Instant,
    health: Health,
    /// Never locked across an await, as the next.
    cache: Mutex<Cache>,
    /// Questions that are with upstreams. Their tasks end by themselves, so a question that comes back to us (a loop
    /// among name servers) waits here for its own end instead of going round once more.
    asked: Mutex<HashMap<Key, watch::Receiver<Option<Fetched>>>>,
}

/// What the upstreams said to one question.
#[derive(Clone, Debug)]
enum Fetched {
    /// This one, these bytes: NOERROR, NXDOMAIN and the like.
    Reply(Upstream, Arc<[u8]>),
    /// None gave an answer.
    Failure(Failure),
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
#[derive(Clone, Debug, Default)]
#[expect(clippy::struct_excessive_bools, reason = "each was seen or not")]
struct Failure {
    servfail: Option<Arc<[u8]>>,
    refused: bool,
    silent: bool,
    unreachable: bool,
    nobody: bool,
}

/// A query that nothing here answers at once.
#[derive(Debug)]
pub struct Ask {
    upstreams: Upstreams,
    key: Option<Key>,
    /// What the client gets if the upstreams fail.
    stale: Option<(Vec<u8>, Duration)>,
}

/// What is to be done with a query for upstreams.
#[derive(Debug)]
pub enum Begun {
    /// The reply is here.
    Reply(Vec<u8>, Source),
    /// It is to be waited for: [`Forwarder::finish`].
    Ask(Ask),
}

impl Forwarder {
    /// A forwarder with the default [`Timing`] and a cache of this many bytes.
    pub fn new(host: Arc<ArcSwap<Vec<Upstream>>>, cache_bytes: usize, tls: Tls) -> Self {
        Self::with(host, Timing::default(), cache_bytes, tls)
    }

    /// A forwarder without a cache that waits as long as `timing` says.
    pub fn with_timing(host: Arc<ArcSwap<Vec<Upstream>>>, timing: Timing) -> Self {
        Self::with(host, timing, 0, Tls::default())
    }

    /// A forwarder with all of its settings.
    pub fn with(
        host: Arc<ArcSwap<Vec<Upstream>>>,
        timing: Timing,
        cache_bytes: usize,
        tls: Tls,
    ) -> Self {
        Self(Arc::new(Inner {
            host,
            timing,
            tls,
            reach: Reach::default(),
            start: Instant::now(),
            health: Health::new(timing.avoid),
            cache: Mutex::new(Cache::new(cache_bytes)),
            asked: Mutex::default(),
        }))
    }

    /// Answers kept in the cache, and about how many bytes they take.
    pub fn cache_size(&self) -> (usize, usize) {
        self.0.cache().size()
    }

    /// Forgets all answers.
    pub fn flush(&self) {
        self.0.cache().clear();
    }

    /// Upstreams that did not answer last time.
    pub fn silent(&self) -> Vec<Upstream> {
        self.0.health.silent()
    }

    /// Lets queries leave from inside containers: those whose upstreams say so ([`Upstream::from`]).
    pub fn set_inside(&self, inside: Arc<dyn Inside>) {
        self.0.reach.set_inside(inside);
    }

    /// The upstreams of an asker.
    fn upstreams(&self, asker: Option<&Asker>) -> Upstreams {
        let own = asker.map(|asker| &asker.upstreams);
        if let Some(own) = own.filter(|own| !own.is_empty()) {
            return Arc::clone(own);
        }
        let host = self.0.host.load_full();
        match asker.and_then(|asker| asker.inside.as_ref()) {
            None => host,
            Some(id) => Arc::new(host.iter().map(|u| u.clone().inside(id)).collect()),
        }
    }

    /// Looks into the cache. Does not wait; call it on a tokio runtime, since a popular answer that is about to expire is
    /// fetched anew in the background.
    pub fn begin(&self, query: &[u8], transport: Transport, asker: Option<&Asker>) -> Begun {
        let mut ask = Ask {
            upstreams: self.upstreams(asker),
            key: None,
            stale: None,
        };
        let Some((request, _)) = Request::read(query) else {
            return Begun::Ask(ask);
        };
        let mut cache = self.0.cache();
        if !cache.is_on() {
            return Begun::Ask(ask);
        }
        ask.key = Key::of(&request, &ask.upstreams);
        let Some(key) = &ask.key else {
            return Begun::Ask(ask);
        };
        let hit = cache.get(key, &request, self.0.now());
        drop(cache);
        match hit {
            Hit::Fresh { reply, age, fetch } => {
                if fetch {
                    drop(self.0.fetch(key, query, &ask.upstreams));
                }
                Begun::Reply(raw::fit(&request, reply, transport), Source::Cache(age))
            }
            Hit::Stale {
                reply,
                age,
                at_once: true,
            } => Begun::Reply(raw::fit(&request, reply, transport), Source::Stale(age)),
            Hit::Stale { reply, age, .. } => {
                ask.stale = Some((raw::fit(&request, reply, transport), age));
                Begun::Ask(ask)
            }
            Hit::Failed => {
                let why = (
                    ede::NO_REACHABLE_AUTHORITY,
                    "no upstream answered a moment ago",
                );
                Begun::Reply(servfail(query, Some(why)), Source::Nobody(why.1))
            }
            Hit::Unknown => Begun::Ask(ask),
        }
    }

    /// Waits for the upstreams and gives what goes to the client, in the client's own id and spelling: an upstream's reply,
    /// a stale answer, or SERVFAIL with an extended error (RFC 8914) after at most [`Timing::budget`].
    ///
    /// `query` is a well-formed query, as the pure `answer` passes it on; for anything else the result
    /// is a SERVFAIL, or empty where there is nobody to reply to.
    pub async fn finish(&self, query: &[u8], transport: Transport, ask: Ask) -> (Vec<u8>, Source) {
        let Some((request, _)) = Request::read(query) else {
            return (Vec::new(), Source::Nobody("no query"));
        };
        if request.question.is_none() {
            return (servfail(query, None), Source::Nobody("no question"));
        }
        let fetched = match &ask.key {
            None => Some(self.0.ask_all(query, &ask.upstreams).await),
            Some(key) => {
                let wait = if ask.stale.is_some() {
                    self.0.timing.stale
                } else {
                    self.0.timing.budget * 2
                };
                let fetched = self.0.fetch(key, query, &ask.upstreams);
                timeout_at(Instant::now() + wait, received(fetched))
                    .await
                    .ok()
                    .flatten()
            }
        };
        match (fetched, ask.stale) {
            (Some(Fetched::Reply(from, reply)), _) => (
                raw::restore(&request, &reply, transport),
                Source::Upstream(from),
            ),
            (_, Some((reply, age))) => {
                // The others need not wait as long for the same.
                if let Some(key) = &ask.key {
                    self.0.cache().fail(key, self.0.now());
                }
                (reply, Source::Stale(age))
            }
            (Some(Fetched::Failure(failure)), None) => failure.reply(&request, query, transport),
            (None, None) => {
                let failure = Failure {
                    silent: true,
                    ..Failure::default()
                };
                failure.reply(&request, query, transport)
            }
        }
    }

    /// [`begin`](Self::begin) and [`finish`](Self::finish) in one. `upstreams` is `None` for the host's.
    pub async fn forward(
        &self,
        query: &[u8],
        transport: Transport,
        upstreams: Option<&[SocketAddr]>,
    ) -> Vec<u8> {
        let asker = upstreams.map(|list| Asker {
            upstreams: Arc::new(list.iter().copied().map(Upstream::from).collect()),
            ..Asker::default()
        });
        match self.begin(query, transport, asker.as_ref()) {
            Begun::Reply(reply, _) => reply,
            Begun::Ask(ask) => self.finish(query, transport, ask).await.0,
        }
    }
}

async fn received(mut fetched: watch::Receiver<Option<Fetched>>) -> Option<Fetched> {
    // An error means that the task died: then nothing was fetched.
    let there = fetched.wait_for(Option::is_some).await.ok()?;
    there.clone()
}

impl Inner {
    fn now(&self) -> Duration {
        self.start.elapsed()
    }

    fn cache(&self) -> MutexGuard<'_, Cache> {
        // Plain maps: after a panic they serve on, and an odd count is the worst that is in them.
        self.cache.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn asked(&self) -> MutexGuard<'_, HashMap<Key, watch::Receiver<Option<Fetched>>>> {
        self.asked.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Asks the upstreams in a task of its own, or joins those who wait for the same answer.
    fn fetch(
        self: &Arc<Self>,
        key: &Key,
        query: &[u8],
        upstreams: &Upstreams,
    ) -> watch::Receiver<Option<Fetched>> {
        let mut asked = self.asked();
        if let Some(waiting) = asked.get(key) {
            return waiting.clone();
        }
        let (told, waiting) = watch::channel(None);
        asked.insert(key.clone(), waiting.clone());
        drop(asked);
        let (inner, key, query, upstreams) = (
            Arc::clone(self),
            key.clone(),
            query.to_vec(),
            Arc::clone(upstreams),
        );
        tokio::spawn(async move {
            let fetched = inner.ask_all(&query, &upstreams).await;
            let now = inner.now();
            match &fetched {
                Fetched::Reply(_, reply) => inner.cache().insert(key.clone(), reply, now),
                Fetched::Failure(_) => inner.cache().fail(&key, now),
            }
            inner.asked().remove(&key);
            let _ = told.send(Some(fetched));
        });
        waiting
    }

    /// Asks one upstream after the other, each a little later than the one before, and again those that stay silent,
    /// until one answers or the time is up.
    async fn ask_all(self: &Arc<Self>, query: &[u8], upstreams: &[Upstream]) -> Fetched {
        let end = Instant::now() + self.timing.budget;
        let (mut order, due) = self.health.order(upstreams);
        let query: Arc<[u8]> = query.into();
        let (told, mut results) = mpsc::unbounded_channel();
        for upstream in due {
            // Nobody waits for this one, but if it answers first, so much the better.
            self.ask(upstream, &query, end, &told);
        }
        let mut failure = Failure {
            nobody: order.is_empty(),
            ..Failure::default()
        };
        let mut again = Vec::new();
        let mut running: Vec<Upstream> = Vec::new();
        order.reverse();
        loop {
            if running.is_empty() && order.is_empty() {
                if failure.heard() || again.is_empty() {
                    return Fetched::Failure(failure);
                }
                order.append(&mut again);
                order.reverse();
            }
            if let Some(upstream) = order.pop() {
                running.push(upstream.clone());
                self.ask(upstream, &query, end, &told);
            }
            let hedge = end.min(Instant::now() + self.timing.hedge);
            let result = tokio::select! {
                result = results.recv() => result,
                () = sleep_until(hedge), if !order.is_empty() => {
                    // It may answer yet; until it does, others go first.
                    running.iter().for_each(|upstream| self.health.is_silent(upstream));
                    None
                }
                () = sleep_until(end) => {
                    failure.silent = true;
                    return Fetched::Failure(failure);
                }
            };
            let Some((upstream, attempt)) = result else {
                continue;
            };
            running.retain(|other| *other != upstream);
            match attempt {
                Attempt::Final(reply) => return Fetched::Reply(upstream, reply.into()),
                Attempt::Failed(reply) => failure.servfail = Some(reply.into()),
                Attempt::Refused => failure.refused = true,
                Attempt::Silent => {
                    failure.silent = true;
                    again.push(upstream);
                }
                Attempt::Unreachable => failure.unreachable = true,
            }
            if Instant::now() >= end {
                return Fetched::Failure(failure);
            }
        }
    }

    /// Asks one upstream in a task of its own, which ends by itself and notes what it learnt, whether or not anybody still
    /// waits for the answer.
    fn ask(
        self: &Arc<Self>,
        upstream: Upstream,
        query: &Arc<[u8]>,
        end: Instant,
        told: &mpsc::UnboundedSender<(Upstream, Attempt)>,
    ) {
        let (inner, query, told) = (Arc::clone(self), Arc::clone(query), told.clone());
        tokio::spawn(async move {
            let limit = end.min(Instant::now() + inner.timing.attempt);
            let attempt = inner.attempt(&upstream, &query, limit).await;
            match attempt {
                // Silence is held against an upstream only if the budget left it its whole time.
                Attempt::Silent if limit == end => {}
                Attempt::Silent | Attempt::Unreachable => inner.health.is_silent(&upstream),
                _ => inner.health.is_heard(&upstream),
            }
            let _ = told.send((upstream, attempt));
        });
    }

    /// Asks one upstream: over UDP, and over TCP if the reply was cut; or over TLS.
    async fn attempt(&self, upstream: &Upstream, query: &[u8], limit: Instant) -> Attempt {
        let result = match &upstream.tls {
            Some(name) => timeout_at(limit, self.tls.ask(&self.reach, upstream, name, query)).await,
            None => timeout_at(limit, exchange::udp(&self.reach, upstream, query)).await,
        };
        let reply = match result {
            Err(_) => return Attempt::Silent,
            Ok(Err(error)) => {
                tracing::debug!(%upstream, %error, "upstream unreachable");
                return Attempt::Unreachable;
            }
            Ok(Ok(reply)) => reply,
        };
        let reply = if raw::is_truncated(&reply) && upstream.tls.is_none() {
            // A cut reply is better than none.
            match timeout_at(limit, exchange::tcp(&self.reach, upstream, query)).await {
                Ok(Ok(whole)) => whole,
                _ => reply,
            }
        } else {
            reply
        };
        match raw::rcode(&reply) {
            raw::SERVFAIL => Attempt::Failed(reply),
            raw::REFUSED => Attempt::Refused,
            _ => Attempt::Final(reply),
        }
    }
}

impl Failure {
    /// Whether an upstream spoke, if only to fail: asking the silent ones again is then not worth the wait.
    fn heard(&self) -> bool {
        self.servfail.is_some() || self.refused
    }

    /// An upstream's own SERVFAIL, since it may say why (a bogus signature, say), else ours.
    fn reply(self, request: &Request<'_>, query: &[u8], transport: Transport) -> (Vec<u8>, Source) {
        let (code, text) = self.extended_error();
        if let Some(reply) = self.servfail {
            return (
                raw::restore(request, &reply, transport),
                Source::Nobody("an upstream failed"),
            );
        }
        (servfail(query, Some((code, text))), Source::Nobody(text))
    }

    fn extended_error(&self) -> ExtendedError {
        if self.nobody {
            (ede::NO_REACHABLE_AUTHORITY, "there is no upstream to ask")
        } else if self.unreachable && !self.refused && !self.silent {
            (ede::NETWORK_ERROR, "no upstream can be reached")
        } else if self.refused && !self.silent {
            (ede::NO_REACHABLE_AUTHORITY, "all upstreams refused")
        } else {
            (ede::NO_REACHABLE_AUTHORITY, "no upstream answered in time")
        }
    }
}
