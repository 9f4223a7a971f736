//! Owns one pair of listening sockets: reads queries, sends the replies, and ends with none of them open.
//!
//! Never blocks one query on another's upstream: forwarding happens in tasks of its own. While nothing
//! comes in it holds no buffer and no timer.

use std::collections::HashMap;
use std::io;
use std::net::IpAddr;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use tokio::net::{TcpListener, TcpStream, UdpSocket};
use tokio::sync::Notify;
use tokio::task::JoinSet;
use tokio::time::Instant;

use super::batch::{BATCH, Batch};
use super::{connection, log};
use crate::answer::{Transport, Verdict, answer_into};
use crate::forward::{Ask, Begun, Forwarder, Source};
use crate::reply::{ede, servfail};
use crate::stats::{Counters, Stats};
use crate::zone::{View, Zone, ZoneHandle};

/// Connections of one client at the same time. Of a container's own sockets more wait in the backlog; the gateway's are
/// everybody's, so there they are closed.
pub(super) const MAX_CONNECTIONS: usize = 64;
/// Connections of all clients of one pair of sockets.
const MAX_ALL_CONNECTIONS: usize = 512;
/// Queries of one container that are with upstreams at the same time. More get SERVFAIL at once.
const MAX_FORWARDS: usize = 256;
/// Longest query taken. Real ones have a few hundred bytes, even padded; the rest of a longer datagram
/// is cut off, and a connection that announces a longer message is closed.
pub(super) const MAX_QUERY: usize = 4096;
/// Pause after a socket error, which would otherwise repeat at once (no descriptors, no memory).
const PAUSE: Duration = Duration::from_millis(100);

/// Whose queries come in on a pair of sockets.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(super) enum Who {
    /// Those of one container: the sockets are inside of it.
    Container(Arc<str>),
    /// Those of the containers of one network, by their addresses: the sockets are on its gateway address.
    Network(Arc<str>),
}

impl Who {
    fn asker<'a>(&'a self, zone: &'a Zone, client: IpAddr) -> Option<&'a Arc<str>> {
        match self {
            Self::Container(id) => Some(id),
            Self::Network(id) => zone.asker_at(id, client.to_canonical()),
        }
    }
}

/// What it takes to answer. Shared by the tasks of one pair of sockets.
#[derive(Debug)]
pub(super) struct Listener {
    pub(super) who: Who,
    pub(super) zone: ZoneHandle,
    pub(super) forwarder: Forwarder,
    pub(super) counters: Arc<Counters>,
    /// Queries that are with upstreams, by container.
    pub(super) forwards: Mutex<HashMap<Arc<str>, Arc<AtomicUsize>>>,
    pub(super) log: Arc<AtomicBool>,
}

/// What to do with a message that came in.
pub(super) enum Step {
    Reply(Vec<u8>),
    Forward(Forward),
    Nothing,
}

/// A query that may go upstream. Holds one of the container's places until it is dropped.
pub(super) struct Forward {
    ask: Ask,
    asker: Arc<str>,
    network: Option<Arc<Counters>>,
    _place: Place,
}

/// One of [`MAX_FORWARDS`].
struct Place(Arc<AtomicUsize>);

impl Place {
    fn take(taken: &Arc<AtomicUsize>) -> Option<Self> {
        let place = Self(Arc::clone(taken));
        // Counted before it is compared: the drop of a refused place takes the count back.
        (taken.fetch_add(1, Ordering::Relaxed) < MAX_FORWARDS).then_some(place)
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::Relaxed);
    }
}

impl Listener {
    /// Answers a message, or says that it goes upstream. Does not wait for anything.
    pub(super) fn step(&self, query: &[u8], transport: Transport, client: IpAddr) -> Step {
        let mut reply = Vec::new();
        let mut stats = Stats::default();
        let zone = self.zone.read();
        let asker = self.who.asker(&zone, client);
        let view = asker.and_then(|id| zone.view(id));
        let rotation = usize::try_from(self.counters.queries()).unwrap_or_default();
        let step = self.decide(
            query,
            transport,
            asker,
            view.as_ref(),
            rotation,
            &mut reply,
            &mut stats,
        );
        self.count(view.as_ref(), &stats);
        match step {
            None => Step::Nothing,
            Some(None) => Step::Reply(reply),
            Some(Some(forward)) => Step::Forward(forward),
        }
    }

    /// Nothing, a reply in `reply`, or a forward.
    #[expect(
        clippy::too_many_arguments,
        reason = "the state of one batch, borrowed in parts"
    )]
    #[expect(clippy::option_option, reason = "named at the only two callers")]
    fn decide(
        &self,
        query: &[u8],
        transport: Transport,
        asker: Option<&Arc<str>>,
        view: Option<&View<'_>>,
        rotation: usize,
        reply: &mut Vec<u8>,
        stats: &mut Stats,
    ) -> Option<Option<Forward>> {
        stats.queries += 1;
        let verdict = answer_into(query, transport, view, rotation, reply);
        let source = match (verdict, asker, view) {
            (Verdict::Drop, ..) => return None,
            (Verdict::Forward, Some(asker), Some(view)) => {
                match self.forwarder.begin(query, transport, Some(view.asker)) {
                    Begun::Reply(cached, source) => {
                        *reply = cached;
                        stats.cached += 1;
                        stats.stale += u64::from(matches!(source, Source::Stale(_)));
                        Some(source)
                    }
                    Begun::Ask(ask) => {
                        stats.forwarded += 1;
                        if let Some(place) = self.place(asker) {
                            return Some(Some(Forward {
                                ask,
                                asker: Arc::clone(asker),
                                network: view.counters().cloned(),
                                _place: place,
                            }));
                        }
                        let why = (ede::OTHER, "this container has too many queries under way");
                        *reply = servfail(query, Some(why));
                        Some(Source::Nobody(why.1))
                    }
                }
            }
            _ => {
                stats.local += 1;
                None
            }
        };
        stats.reply(reply);
        if self.log.load(Ordering::Relaxed) {
            log::query(asker, query, reply, source.as_ref());
        }
        Some(None)
    }

    fn place(&self, asker: &Arc<str>) -> Option<Place> {
        let mut forwards = self.forwards.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(taken) = forwards.get(asker) {
            return Place::take(taken);
        }
        // Only a network's sockets serve several: forget those that have none under way.
        forwards.retain(|_, taken| taken.load(Ordering::Relaxed) > 0);
        Place::take(forwards.entry(Arc::clone(asker)).or_default())
    }

    fn count(&self, view: Option<&View<'_>>, stats: &Stats) {
        self.counters.add(stats);
        if let Some(network) = view.and_then(View::counters) {
            network.add(stats);
        }
    }

    /// The reply of the upstreams to `query`.
    pub(super) async fn forward(
        &self,
        query: &[u8],
        transport: Transport,
        forward: Forward,
    ) -> Vec<u8> {
        let begin = Instant::now();
        let Forward {
            ask,
            asker,
            network,
            _place: place,
        } = forward;
        let (reply, source) = self.forwarder.finish(query, transport, ask).await;
        drop(place);
        let mut stats = Stats::default();
        stats.stale += u64::from(matches!(source, Source::Stale(_)));
        stats.reply(&reply);
        self.counters.add(&stats);
        if let Some(network) = network {
            network.add(&stats);
            network.took(begin.elapsed());
        }
        if self.log.load(Ordering::Relaxed) {
            log::query(Some(&asker), query, &reply, Some(&source));
        }
        reply
    }
}

/// The two sockets of a container.
#[derive(Debug)]
pub(super) struct Sockets {
    udp: Arc<UdpSocket>,
    tcp: TcpListener,
    v4: bool,
}

impl Sockets {
    /// Hands std sockets to the runtime, which must be the current one.
    pub(super) fn new(udp: std::net::UdpSocket, tcp: std::net::TcpListener) -> io::Result<Self> {
        udp.set_nonblocking(true)?;
        tcp.set_nonblocking(true)?;
        let v4 = udp.local_addr()?.is_ipv4();
        Ok(Self {
            udp: Arc::new(UdpSocket::from_std(udp)?),
            tcp: TcpListener::from_std(tcp)?,
            v4,
        })
    }
}

/// Answers until `stop`; when it returns, none of the sockets is open.
pub(super) async fn run(listener: Arc<Listener>, sockets: Sockets, stop: &Notify) {
    let Sockets { udp, tcp, v4 } = sockets;
    let mut forwards = JoinSet::new();
    let mut connections = Connections::default();
    let most = match listener.who {
        Who::Container(_) => MAX_CONNECTIONS,
        Who::Network(_) => MAX_ALL_CONNECTIONS,
    };
    loop {
        let result = tokio::select! {
            () = stop.notified() => break,
            ready = udp.readable() => {
                ready.and_then(|()| drain(&listener, &udp, v4, &mut forwards))
            }
            accepted = tcp.accept(), if connections.tasks.len() < most => {
                accepted.map(|(stream, client)| connections.accept(&listener, stream, client.ip()))
            }
            Some(_) = forwards.join_next(), if !forwards.is_empty() => Ok(()),
            Some(ended) = connections.tasks.join_next(), if !connections.tasks.is_empty() => {
                connections.ended(ended.ok());
                Ok(())
            }
        };
        if let Err(error) = result {
            tracing::warn!(who = ?listener.who, %error, "DNS socket failed");
            tokio::select! {
                () = stop.notified() => break,
                () = tokio::time::sleep(PAUSE) => {}
            }
        }
    }
    // Both wait until the tasks are gone: each of them may hold a socket of the container.
    forwards.shutdown().await;
    connections.tasks.shutdown().await;
}

/// The open connections, and how many each client has.
#[derive(Default)]
struct Connections {
    tasks: JoinSet<IpAddr>,
    by_client: HashMap<IpAddr, usize>,
}

impl Connections {
    /// Serves a connection, or drops it if the client has its share.
    fn accept(&mut self, listener: &Arc<Listener>, stream: TcpStream, client: IpAddr) {
        let open = self.by_client.entry(client).or_default();
        if *open >= MAX_CONNECTIONS {
            return;
        }
        *open += 1;
        let listener = Arc::clone(listener);
        self.tasks.spawn(async move {
            connection::run(listener, stream, client).await;
            client
        });
    }

    fn ended(&mut self, client: Option<IpAddr>) {
        // A task that panicked does not say whose it was: then all counts are given up rather than one kept for good.
        let Some(client) = client else {
            return self.by_client.clear();
        };
        if let Some(open) = self.by_client.get_mut(&client) {
            *open -= 1;
            if *open == 0 {
                self.by_client.remove(&client);
            }
        }
    }
}

/// Takes the datagrams that are there, up to [`BATCH`], and answers all that can be answered at once.
fn drain(
    listener: &Arc<Listener>,
    udp: &Arc<UdpSocket>,
    v4: bool,
    forwards: &mut JoinSet<()>,
) -> io::Result<()> {
    let mut batch = Batch::take();
    let received = batch.receive(udp, v4);
    if !batch.queries.is_empty() {
        answer_all(listener, udp, &mut batch, forwards);
        batch.send(udp);
    }
    batch.give_back();
    received
}

fn answer_all(
    listener: &Arc<Listener>,
    udp: &Arc<UdpSocket>,
    batch: &mut Batch,
    forwards: &mut JoinSet<()>,
) {
    let rotation = usize::try_from(listener.counters.queries()).unwrap_or_default();
    let zone = listener.zone.read();
    // A container's view is looked up once, a network's for each of its clients.
    let own = match &listener.who {
        Who::Container(id) => zone.view(id),
        Who::Network(_) => None,
    };
    let mut stats = Stats::default();
    for number in 0..batch.queries.len().min(BATCH) {
        let client = batch.queries[number].1;
        let asker = listener.who.asker(&zone, client.ip());
        let its = if own.is_none() {
            asker.and_then(|id| zone.view(id))
        } else {
            None
        };
        let view = own.as_ref().or(its.as_ref());
        let (query, reply) = batch.pair(number);
        let rotation = rotation.wrapping_add(number);
        let decided = listener.decide(
            query,
            Transport::Udp,
            asker,
            view,
            rotation,
            reply,
            &mut stats,
        );
        match decided {
            None => {}
            Some(None) => batch.reply_to(client),
            Some(Some(forward)) => {
                let (listener, udp, query) =
                    (Arc::clone(listener), Arc::clone(udp), query.to_vec());
                forwards.spawn(async move {
                    let reply = listener.forward(&query, Transport::Udp, forward).await;
                    drop(udp.try_send_to(&reply, client));
                });
            }
        }
        if own.is_none() {
            listener.count(view, &std::mem::take(&mut stats));
        }
    }
    listener.count(own.as_ref(), &stats);
}
