//! The sockets of one namespace, and what is known of its links.

use std::collections::{HashMap, VecDeque};
use std::io;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use netd_model::{IfName, Ns, Owner};
use netlink_sys::protocols::NETLINK_ROUTE;
use nix::errno::Errno;

use super::closer::Closer;
use super::link::{self, LinkView};
use super::netlink::{Netlink, Refusal};
use crate::kernel::nft::NftSocket;
use crate::kernel::{KernelError, KernelErrorKind};

/// Port numbers of netd's nftables sockets: notices of what they did are not of interest.
#[derive(Debug, Default)]
pub(super) struct OwnSockets(Mutex<Ports>);

#[derive(Debug, Default)]
struct Ports {
    /// In each namespace the first socket of a process has the same number: how many there are.
    open: HashMap<u32, usize>,
    /// The last that were closed: notices of what they did may still come.
    closed: VecDeque<u32>,
}

/// Sockets closed while one notice waits to be read.
const REMEMBERED: usize = 256;

impl OwnSockets {
    fn lock(&self) -> MutexGuard<'_, Ports> {
        // Nothing panics while it is held; if something did, the lists would still be whole.
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Whether a request of this number came from a socket of netd's.
    pub(super) fn holds(&self, port: u32) -> bool {
        let ports = self.lock();
        ports.open.contains_key(&port) || ports.closed.contains(&port)
    }

    fn opened(&self, port: u32) {
        *self.lock().open.entry(port).or_default() += 1;
    }

    fn closed(&self, port: u32) {
        let mut ports = self.lock();
        let left = ports.open.get(&port).map_or(0, |count| count - 1);
        if left > 0 {
            ports.open.insert(port, left);
            return;
        }
        ports.open.remove(&port);
        ports.closed.push_back(port);
        if ports.closed.len() > REMEMBERED {
            ports.closed.pop_front();
        }
    }
}

impl Drop for Space {
    fn drop(&mut self) {
        if let (Some(own), Some(nft)) = (&self.own, &self.nft) {
            own.closed(nft.port());
        }
        if let (Some(closer), Some(nft)) = (&self.closer, self.nft.take()) {
            closer.close(nft);
        }
    }
}

/// Sockets that work in one namespace, wherever the thread is when they are used.
#[derive(Debug)]
pub(super) struct Space {
    pub(super) ns: Ns,
    pub(super) route: Netlink,
    nft: Option<NftSocket>,
    /// Where the numbers of netd's own sockets are noted.
    own: Option<Arc<OwnSockets>>,
    closer: Option<Closer>,
    /// Indexes of netd's links. Kept for one list of operations: somebody else may replace a link later.
    indexes: HashMap<IfName, u32>,
}

impl Space {
    /// Opens the route socket in the thread's current namespace, which has to be `ns`.
    pub(super) fn open(ns: Ns) -> io::Result<Self> {
        let route = Netlink::open(NETLINK_ROUTE)?;
        Ok(Self {
            ns,
            route,
            nft: None,
            own: None,
            closer: None,
            indexes: HashMap::new(),
        })
    }

    /// Its nftables socket will be known as netd's own, and closed by a thread that may wait.
    pub(super) fn known_to(mut self, own: &Arc<OwnSockets>, closer: &Closer) -> Self {
        self.own = Some(Arc::clone(own));
        self.closer = Some(closer.clone());
        self
    }

    /// The nftables socket; opened in the thread's current namespace, which has to be that of this space.
    pub(super) fn nft(&mut self) -> Result<&mut NftSocket, KernelError> {
        match &mut self.nft {
            Some(nft) => Ok(nft),
            empty => {
                let nft = NftSocket::open()?;
                if let Some(own) = &self.own {
                    own.opened(nft.port());
                }
                Ok(empty.insert(nft))
            }
        }
    }

    /// Forgets what was learnt of links.
    pub(super) fn forget(&mut self) {
        self.indexes.clear();
    }

    /// Reads a link; none if there is no link of this name.
    pub(super) fn link(&mut self, name: &IfName) -> Result<Option<LinkView>, Refusal> {
        match self.route.call(&link::by_name(name)) {
            Ok(body) => LinkView::read(&body)
                .map(Some)
                .ok_or_else(|| Refusal::from(Errno::EPROTO)),
            Err(refusal) if refusal.errno() == Errno::ENODEV => Ok(None),
            Err(refusal) => Err(refusal),
        }
    }

    /// The index of a link of netd.
    pub(super) fn index(&mut self, name: &IfName) -> Result<u32, Refusal> {
        if let Some(index) = self.indexes.get(name) {
            return Ok(*index);
        }
        match self.link(name)? {
            None => Err(missing(name)),
            Some(view) if view.owner.is_none() => Err(foreign(name)),
            Some(view) => {
                self.indexes.insert(name.clone(), view.index);
                Ok(view.index)
            }
        }
    }

    /// Notes a link that was just made.
    pub(super) fn learn(&mut self, name: &IfName, view: &LinkView) {
        self.indexes.insert(name.clone(), view.index);
    }

    /// Names of netd's links by index, with their owners.
    pub(super) fn ours(links: &[LinkView]) -> HashMap<u32, (IfName, Owner)> {
        let ours = links.iter().filter_map(|view| {
            Some((
                view.index,
                (IfName::parse(&view.name).ok()?, view.owner.clone()?),
            ))
        });
        ours.collect()
    }
}

fn missing(name: &IfName) -> Refusal {
    Refusal::from(Errno::ENODEV)
        .of_kind(KernelErrorKind::NoSuchDevice)
        .because(format!("there is no interface {name}"))
}

fn foreign(name: &IfName) -> Refusal {
    Refusal::from(Errno::ENODEV)
        .of_kind(KernelErrorKind::NoSuchDevice)
        .because(format!(
            "interface {name} carries no mark of netd and is left alone"
        ))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_socket_is_known_while_it_is_open_and_for_a_while_after() {
        let own = OwnSockets::default();
        own.opened(7);
        own.opened(7);
        for port in 0..2 * u32::try_from(REMEMBERED).unwrap() {
            own.opened(1000 + port);
            own.closed(1000 + port);
            assert!(own.holds(1000 + port));
        }
        assert!(!own.holds(1000), "forgotten at last");
        own.closed(7);
        assert!(own.holds(7), "its twin is open");
        own.closed(7);
        assert!(own.holds(7) && own.lock().open.is_empty());
    }
}
