//! Owns one container's sockets: reads its queries, sends the replies, and ends with none of them open.
//!
//! Never blocks one query on another's upstream: forwarding happens in tasks of its own. While nothing
//! comes in it holds no buffer and no timer.

use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use tokio::net::{TcpListener, TcpStream, UdpSocket};
use tokio::sync::Notify;
use tokio::task::JoinSet;

use super::{Counters, connection};
use crate::answer::{Outcome, Transport, answer};
use crate::forward::Forwarder;
use crate::zone::ZoneHandle;
use crate::{raw, wire};

/// Connections of one container at the same time. More wait in the listener's backlog.
pub(super) const MAX_CONNECTIONS: usize = 64;
/// Queries of one container that are with upstreams at the same time. More get SERVFAIL at once.
const MAX_FORWARDS: usize = 256;
/// Longest query taken. Real ones have a few hundred bytes, even padded; the rest of a longer datagram
/// is cut off, and a connection that announces a longer message is closed.
pub(super) const MAX_QUERY: usize = 4096;
/// Datagrams taken before the connections and the stop signal get their turn.
const BATCH: usize = 32;
/// Pause after a socket error, which would otherwise repeat at once (no descriptors, no memory).
const PAUSE: Duration = Duration::from_millis(100);

/// Who asks, and what it takes to answer. Shared by the tasks of one container.
#[derive(Debug)]
pub(super) struct Listener {
    pub(super) asker: Arc<str>,
    pub(super) zone: ZoneHandle,
    pub(super) forwarder: Arc<Forwarder>,
    pub(super) counters: Arc<Counters>,
    /// Queries that are with upstreams.
    pub(super) forwards: Arc<AtomicUsize>,
}

/// What to do with a message that came in.
pub(super) enum Step {
    Reply(Vec<u8>),
    Forward(Forward),
    Nothing,
}

/// A query that may go upstream. Holds one of the container's places until it is dropped.
pub(super) struct Forward {
    upstreams: Option<Vec<SocketAddr>>,
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
    pub(super) fn step(&self, query: &[u8], transport: Transport) -> Step {
        let count = Counters::add(&self.counters.queries);
        // Only its lowest bits matter: it picks the first of a few addresses.
        let rotation = usize::try_from(count).unwrap_or_default();
        let zone = self.zone.read();
        match answer(query, transport, &self.asker, &zone, rotation) {
            Outcome::Drop => Step::Nothing,
            Outcome::Reply(reply) => {
                Counters::add(&self.counters.local);
                Step::Reply(self.counted(reply))
            }
            Outcome::Forward => {
                let Some(place) = Place::take(&self.forwards) else {
                    return Step::Reply(self.counted(wire::servfail(query, None)));
                };
                Counters::add(&self.counters.forwarded);
                let own = zone.asker(&self.asker).map(|asker| &asker.upstreams);
                Step::Forward(Forward {
                    upstreams: own.filter(|own| !own.is_empty()).cloned(),
                    _place: place,
                })
            }
        }
    }

    /// The reply of the upstreams to `query`.
    pub(super) async fn forward(
        &self,
        query: &[u8],
        transport: Transport,
        forward: Forward,
    ) -> Vec<u8> {
        let upstreams = forward.upstreams.as_deref();
        let reply = self.forwarder.forward(query, transport, upstreams);
        self.counted(reply.await)
    }

    fn counted(&self, reply: Vec<u8>) -> Vec<u8> {
        if reply.len() >= raw::HEADER && raw::rcode(&reply) == raw::SERVFAIL {
            Counters::add(&self.counters.servfail);
        }
        reply
    }
}

/// The two sockets of a container.
#[derive(Debug)]
pub(super) struct Sockets {
    udp: Arc<UdpSocket>,
    tcp: TcpListener,
}

impl Sockets {
    /// Hands std sockets to the runtime, which must be the current one.
    pub(super) fn new(udp: std::net::UdpSocket, tcp: std::net::TcpListener) -> io::Result<Self> {
        udp.set_nonblocking(true)?;
        tcp.set_nonblocking(true)?;
        Ok(Self {
            udp: Arc::new(UdpSocket::from_std(udp)?),
            tcp: TcpListener::from_std(tcp)?,
        })
    }
}

/// Answers until `stop`; when it returns, no socket of the container is open.
pub(super) async fn run(listener: Arc<Listener>, sockets: Sockets, stop: &Notify) {
    let Sockets { udp, tcp } = sockets;
    let mut forwards = JoinSet::new();
    let mut connections = JoinSet::new();
    loop {
        let result = tokio::select! {
            () = stop.notified() => break,
            ready = udp.readable() => {
                ready.and_then(|()| drain(&listener, &udp, &mut forwards))
            }
            accepted = tcp.accept(), if connections.len() < MAX_CONNECTIONS => {
                accepted.map(|(stream, _)| accept(&listener, stream, &mut connections))
            }
            Some(_) = forwards.join_next(), if !forwards.is_empty() => Ok(()),
            Some(_) = connections.join_next(), if !connections.is_empty() => Ok(()),
        };
        if let Err(error) = result {
            tracing::warn!(asker = %listener.asker, %error, "DNS socket failed");
            tokio::select! {
                () = stop.notified() => break,
                () = tokio::time::sleep(PAUSE) => {}
            }
        }
    }
    // Both wait until the tasks are gone: each of them may hold a socket of the container.
    forwards.shutdown().await;
    connections.shutdown().await;
}

fn accept(listener: &Arc<Listener>, stream: TcpStream, connections: &mut JoinSet<()>) {
    connections.spawn(connection::run(Arc::clone(listener), stream));
}

/// Takes the datagrams that are there, up to [`BATCH`].
fn drain(
    listener: &Arc<Listener>,
    udp: &Arc<UdpSocket>,
    forwards: &mut JoinSet<()>,
) -> io::Result<()> {
    // On the stack of this call only: an idle container holds no buffer.
    let mut buffer = [0; MAX_QUERY];
    for _ in 0..BATCH {
        match udp.try_recv_from(&mut buffer) {
            Ok((length, client)) => datagram(listener, udp, &buffer[..length], client, forwards),
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => break,
            Err(error) => return Err(error),
        }
    }
    Ok(())
}

fn datagram(
    listener: &Arc<Listener>,
    udp: &Arc<UdpSocket>,
    query: &[u8],
    client: SocketAddr,
    forwards: &mut JoinSet<()>,
) {
    match listener.step(query, Transport::Udp) {
        Step::Nothing => {}
        // Not waited for: over loopback a datagram is delivered or dropped at once, and a client whose
        // reply is lost asks again.
        Step::Reply(reply) => drop(udp.try_send_to(&reply, client)),
        Step::Forward(forward) => {
            let (listener, udp, query) = (Arc::clone(listener), Arc::clone(udp), query.to_vec());
            forwards.spawn(async move {
                let reply = listener.forward(&query, Transport::Udp, forward).await;
                drop(udp.try_send_to(&reply, client));
            });
        }
    }
}
