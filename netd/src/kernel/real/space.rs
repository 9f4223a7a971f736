//! The sockets of one namespace, and what is known of its links.

use std::collections::{HashMap, VecDeque};
use std::io;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use netd_model::{IfName, Ns, Owner};
use netlink_sys::protocols::NETLINK_ROUTE;
use nix::errno::Errno;

use super::link::{self, LinkView};
use super::netlink::{Netlink, Refusal};
use crate::kernel::nft::NftSocket;
use crate::kernel::{KernelError, KernelErrorKind};

/// Port numbers of netd's nftables sockets: notices of what they did are not of interest.
///
/// Those of closed sockets are kept for a while, for their notices may still come.
#[derive(Debug, Default)]
pub(super) struct OwnSockets(Mutex<VecDeque<u32>>);

/// Far more than are open at a time; mostly it is one number, that of the process.
const REMEMBERED: usize = 512;

impl OwnSockets {
    /// The numbers.
    pub(super) fn ports(&self) -> MutexGuard<'_, VecDeque<u32>> {
        // Nothing panics while it is held; if something did, the list would still be whole.
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn add(&self, port: u32) {
        let mut ports = self.ports();
        if !ports.contains(&port) {
            ports.push_back(port);
        }
        if ports.len() > REMEMBERED {
            ports.pop_front();
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
            indexes: HashMap::new(),
        })
    }

    /// Its nftables socket will be known as netd's own.
    pub(super) fn known_to(self, own: &Arc<OwnSockets>) -> Self {
        Self {
            own: Some(Arc::clone(own)),
            ..self
        }
    }

    /// The nftables socket; opened in the thread's current namespace, which has to be that of this space.
    pub(super) fn nft(&mut self) -> Result<&mut NftSocket, KernelError> {
        match &mut self.nft {
            Some(nft) => Ok(nft),
            empty => {
                let nft = NftSocket::open()?;
                if let Some(own) = &self.own {
                    own.add(nft.port());
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
