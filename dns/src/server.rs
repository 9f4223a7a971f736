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

mod batch;
mod connection;
mod explain;
pub mod frames;
mod listener;
mod log;

use std::collections::HashMap;
use std::io;
use std::net::{TcpListener, UdpSocket};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use tokio::sync::{Notify, watch};

use crate::forward::Forwarder;
use crate::stats::{Counters, Stats};
use crate::zone::ZoneHandle;
use listener::{Listener, Who};

pub use explain::Explanation;

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
    forwarder: Forwarder,
    log: Arc<AtomicBool>,
    /// Never locked across an await.
    running: Mutex<HashMap<Who, Vec<Running>>>,
}

impl Server {
    /// A server of `zone` that sends what it does not know to `forwarder`. Listens to nobody yet.
    pub fn new(zone: ZoneHandle, forwarder: Forwarder) -> Self {
        Self {
            zone,
            forwarder,
            log: Arc::default(),
            running: Mutex::default(),
        }
    }

    /// Switches the query log on or off: a line at level info for each query, target `netd::query`.
    pub fn set_log(&self, on: bool) {
        self.log.store(on, Ordering::Relaxed);
    }

    /// Whom it asks what it does not know.
    pub fn forwarder(&self) -> &Forwarder {
        &self.forwarder
    }

    /// The names it knows.
    pub fn zone(&self) -> &ZoneHandle {
        &self.zone
    }

    /// Starts answering the container `asker` on its sockets, which are made non-blocking. Call it on a
    /// tokio runtime; it does not block. On an error the sockets are closed.
    pub fn listen(&self, asker: &str, udp: UdpSocket, tcp: TcpListener) -> Result<(), ListenError> {
        self.serve(Who::Container(asker.into()), asker, vec![(udp, tcp)])
    }

    /// Starts answering the containers of a network on sockets at its gateway addresses, a pair for each. Everybody else
    /// is refused.
    pub fn listen_at_gateway(
        &self,
        network: &str,
        sockets: Vec<(UdpSocket, TcpListener)>,
    ) -> Result<(), ListenError> {
        self.serve(Who::Network(network.into()), network, sockets)
    }

    fn serve(
        &self,
        who: Who,
        asker: &str,
        sockets: Vec<(UdpSocket, TcpListener)>,
    ) -> Result<(), ListenError> {
        let runtime =
            tokio::runtime::Handle::try_current().map_err(|_| ListenError::NoRuntime {
                asker: asker.into(),
            })?;
        let mut running = self.running();
        if running.get(&who).is_some_and(|tasks| !all_closed(tasks)) {
            return Err(ListenError::AlreadyListening {
                asker: asker.into(),
            });
        }
        let pairs: io::Result<Vec<_>> = sockets
            .into_iter()
            .map(|(udp, tcp)| listener::Sockets::new(udp, tcp))
            .collect();
        let pairs = pairs.map_err(|source| ListenError::Socket {
            asker: asker.into(),
            source,
        })?;
        let counters = Arc::new(Counters::default());
        let tasks = pairs.into_iter().map(|sockets| {
            let listener = Listener {
                who: who.clone(),
                zone: self.zone.clone(),
                forwarder: self.forwarder.clone(),
                counters: Arc::clone(&counters),
                forwards: Mutex::default(),
                log: Arc::clone(&self.log),
            };
            let stop = Arc::new(Notify::new());
            let (open, closed) = watch::channel(());
            let stopped = Arc::clone(&stop);
            runtime.spawn(async move {
                listener::run(Arc::new(listener), sockets, &stopped).await;
                drop(open);
            });
            Running {
                counters: Arc::clone(&counters),
                stop,
                closed,
            }
        });
        let tasks = tasks.collect();
        running.insert(who, tasks);
        Ok(())
    }

    /// Stops answering the container and returns when its sockets are closed: the listening ones, its
    /// connections and those that wait to send an upstream's reply. From then on nothing of this crate
    /// keeps its namespace alive. `false` if it was not listened to.
    pub async fn close(&self, asker: &str) -> bool {
        self.end(&Who::Container(asker.into())).await
    }

    /// The same for the sockets at a network's gateway addresses.
    pub async fn close_gateway(&self, network: &str) -> bool {
        self.end(&Who::Network(network.into())).await
    }

    async fn end(&self, who: &Who) -> bool {
        let Some(tasks) = self.running().get(who).cloned() else {
            return false;
        };
        for task in &tasks {
            task.stop.notify_one();
        }
        for mut task in tasks {
            // Nothing is ever sent: this waits for the sender to be dropped, also for a second caller.
            while task.closed.changed().await.is_ok() {}
        }
        let mut running = self.running();
        if running.get(who).is_some_and(|tasks| all_closed(tasks)) {
            running.remove(who);
        }
        true
    }

    /// Stops answering everybody and returns when all sockets are closed.
    pub async fn close_all(&self) {
        let everybody: Vec<Who> = self.running().keys().cloned().collect();
        for task in self.running().values().flatten() {
            task.stop.notify_one();
        }
        for who in everybody {
            self.end(&who).await;
        }
    }

    /// The containers that are answered, in no order.
    pub fn listening(&self) -> Vec<Arc<str>> {
        let running = self.running();
        let open = running.iter().filter(|(_, tasks)| !all_closed(tasks));
        let containers = open.filter_map(|(who, _)| match who {
            Who::Container(id) => Some(Arc::clone(id)),
            Who::Network(_) => None,
        });
        containers.collect()
    }

    /// Whether the gateway addresses of a network are listened to.
    pub fn is_at_gateway(&self, network: &str) -> bool {
        let running = self.running();
        let tasks = running.get(&Who::Network(network.into()));
        tasks.is_some_and(|tasks| !all_closed(tasks))
    }

    /// What the queries of the container came to, or `None` if it is not listened to.
    pub fn stats(&self, asker: &str) -> Option<Stats> {
        let running = self.running();
        let task = running.get(&Who::Container(asker.into()))?.first()?;
        Some(task.counters.stats())
    }

    fn running(&self) -> MutexGuard<'_, HashMap<Who, Vec<Running>>> {
        // Every change is one insert or remove: a panic elsewhere leaves nothing half done.
        self.running.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn all_closed(tasks: &[Running]) -> bool {
    tasks.iter().all(Running::is_closed)
}

impl Drop for Server {
    fn drop(&mut self) {
        for task in self.running().values().flatten() {
            task.stop.notify_one();
        }
    }
}
