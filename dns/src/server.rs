//! Owns which containers are answered: one task with one UDP socket and one TCP listener for each.
//!
//! IO. The sockets are made elsewhere, inside the container's namespace, and handed over; the socket a
//! query comes in on tells who asks. Never decides an answer (`answer`) or an upstream (`forward`).
//!
//! # Why not the message loop of hickory-server
//!
//! It was read and measured (0.26.3), and does not meet what is required here:
//! - a handler can only send a `MessageResponse` built from records, so an upstream's reply could not go
//!   through as bytes: what hickory-proto does not understand would be lost or change;
//! - it answers a broken *reply* with FORMERR, since it looks at the QR bit after parsing: two such
//!   servers can keep a loop going;
//! - its shutdown aborts the connections it accepted without waiting for them, so their sockets outlive
//!   it and keep a dead container's namespace alive;
//! - neither connections nor queries under way are limited, and a header that claims 65,535 questions
//!   makes it allocate for all of them;
//! - it logs two lines per query at level info;
//! - 100 idle containers take it 630 KiB and 1,200 once each was asked; this loop takes 380 and 390.
//!
//! So the loop is ours, over the same wire types (hickory-proto); hickory-server is the independent peer
//! in the tests.

mod connection;
mod listener;

use std::collections::HashMap;
use std::io;
use std::net::{TcpListener, UdpSocket};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use tokio::sync::{Notify, watch};

use crate::forward::Forwarder;
use crate::zone::ZoneHandle;
use listener::Listener;

/// Why a container is not answered.
#[derive(Debug, thiserror::Error)]
pub enum ListenError {
    /// There are sockets for it already. Close them first.
    #[error("DNS for container {asker} is already listening; close it first")]
    AlreadyListening {
        /// The container.
        asker: String,
    },
    /// `listen` was not called on a tokio runtime.
    #[error("DNS for container {asker} needs a running tokio runtime")]
    NoRuntime {
        /// The container.
        asker: String,
    },
    /// The sockets cannot be used.
    #[error("cannot use the DNS sockets of container {asker}: {source}")]
    Socket {
        /// The container.
        asker: String,
        /// What the kernel said.
        source: io::Error,
    },
}

/// What the queries of one container came to. Counted since it was listened to.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Stats {
    /// Messages that came in, whatever they were.
    pub queries: u64,
    /// Answered from the zone, refusals and the like included.
    pub local: u64,
    /// Sent on to upstreams.
    pub forwarded: u64,
    /// Replies with SERVFAIL, ours and those of upstreams.
    pub servfail: u64,
}

/// The counters behind [`Stats`]. Relaxed: they are only ever shown.
#[derive(Debug, Default)]
struct Counters {
    queries: AtomicU64,
    local: AtomicU64,
    forwarded: AtomicU64,
    servfail: AtomicU64,
}

impl Counters {
    fn add(counter: &AtomicU64) -> u64 {
        counter.fetch_add(1, Ordering::Relaxed)
    }

    fn stats(&self) -> Stats {
        let get = |counter: &AtomicU64| counter.load(Ordering::Relaxed);
        Stats {
            queries: get(&self.queries),
            local: get(&self.local),
            forwarded: get(&self.forwarded),
            servfail: get(&self.servfail),
        }
    }
}

/// One container's task, as the server keeps hold of it.
#[derive(Clone, Debug)]
struct Running {
    counters: Arc<Counters>,
    stop: Arc<Notify>,
    /// Its sender is dropped as the last thing of the task, when no socket is left.
    closed: watch::Receiver<()>,
}

impl Running {
    fn is_closed(&self) -> bool {
        self.closed.has_changed().is_err()
    }
}

/// Answers the containers whose sockets it was given. Dropping it stops all of them, without waiting.
#[derive(Debug)]
pub struct Server {
    zone: ZoneHandle,
    forwarder: Arc<Forwarder>,
    /// Never locked across an await.
    running: Mutex<HashMap<Arc<str>, Running>>,
}

impl Server {
    /// A server of `zone` that sends what it does not know to `forwarder`. Listens to nobody yet.
    pub fn new(zone: ZoneHandle, forwarder: Arc<Forwarder>) -> Self {
        Self {
            zone,
            forwarder,
            running: Mutex::default(),
        }
    }

    /// Starts answering the container `asker` on its sockets, which are made non-blocking. Call it on a
    /// tokio runtime; it does not block. On an error the sockets are closed.
    pub fn listen(&self, asker: &str, udp: UdpSocket, tcp: TcpListener) -> Result<(), ListenError> {
        let runtime =
            tokio::runtime::Handle::try_current().map_err(|_| ListenError::NoRuntime {
                asker: asker.into(),
            })?;
        let mut running = self.running();
        if running.get(asker).is_some_and(|task| !task.is_closed()) {
            return Err(ListenError::AlreadyListening {
                asker: asker.into(),
            });
        }
        let id: Arc<str> = asker.into();
        let counters = Arc::new(Counters::default());
        let listener = Listener {
            asker: Arc::clone(&id),
            zone: self.zone.clone(),
            forwarder: Arc::clone(&self.forwarder),
            counters: Arc::clone(&counters),
            forwards: Arc::default(),
        };
        let sockets = listener::Sockets::new(udp, tcp).map_err(|source| ListenError::Socket {
            asker: asker.into(),
            source,
        })?;
        let stop = Arc::new(Notify::new());
        let (open, closed) = watch::channel(());
        let stopped = Arc::clone(&stop);
        runtime.spawn(async move {
            listener::run(Arc::new(listener), sockets, &stopped).await;
            drop(open);
        });
        running.insert(
            id,
            Running {
                counters,
                stop,
                closed,
            },
        );
        Ok(())
    }

    /// Stops answering the container and returns when its sockets are closed: the listening ones, its
    /// connections and those that wait to send an upstream's reply. From then on nothing of this crate
    /// keeps its namespace alive. `false` if it was not listened to.
    pub async fn close(&self, asker: &str) -> bool {
        let Some(mut task) = self.running().get(asker).cloned() else {
            return false;
        };
        task.stop.notify_one();
        // Nothing is ever sent: this waits for the sender to be dropped, also for a second caller.
        while task.closed.changed().await.is_ok() {}
        let mut running = self.running();
        if running.get(asker).is_some_and(Running::is_closed) {
            running.remove(asker);
        }
        true
    }

    /// Stops answering everybody and returns when all sockets are closed.
    pub async fn close_all(&self) {
        let askers = self.listening();
        for task in self.running().values() {
            task.stop.notify_one();
        }
        for asker in askers {
            self.close(&asker).await;
        }
    }

    /// The containers that are answered, in no order.
    pub fn listening(&self) -> Vec<Arc<str>> {
        let running = self.running();
        let open = running.iter().filter(|(_, task)| !task.is_closed());
        open.map(|(asker, _)| Arc::clone(asker)).collect()
    }

    /// What the queries of the container came to, or `None` if it is not listened to.
    pub fn stats(&self, asker: &str) -> Option<Stats> {
        self.running().get(asker).map(|task| task.counters.stats())
    }

    fn running(&self) -> MutexGuard<'_, HashMap<Arc<str>, Running>> {
        // Every change is one insert or remove: a panic elsewhere leaves nothing half done.
        self.running.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        for task in self.running().values() {
            task.stop.notify_one();
        }
    }
}
