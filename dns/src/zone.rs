//! Owns what containers may resolve: names per network, and what each asker sees.
//!
//! Pure: no socket, no clock, no file. Never decides how an answer looks on the wire (`answer`) and
//! never asks anybody upstream (`forward`).
//!
//! One [`Zone`] is changed in place by one writer, the owner of the daemon's state, and read by every
//! listener through [`ZoneHandle`]. A change costs the names of the container it is about, never the
//! size of the zone, so nothing is copied however many containers there are.

use std::collections::HashMap;
use std::net::{IpAddr, SocketAddr};
use std::sync::{Arc, PoisonError, RwLock, RwLockReadGuard};

use crate::name;

/// TTL of local names in seconds: short, because addresses move with containers.
pub const DEFAULT_TTL: u32 = 5;

/// Digits of a container id that are a name of the container.
pub const SHORT_ID: usize = 12;

/// What one container may ask: the socket a query came in on tells the container.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Asker {
    /// Ids of the networks it is on, in lookup order.
    pub networks: Vec<Arc<str>>,
    /// Whether unknown names go upstream: false for a container that is only on internal networks.
    pub forward: bool,
    /// Its own upstreams (its `--dns`, else its network's). Empty means the host's.
    pub upstreams: Vec<SocketAddr>,
}

/// One address of a name, and the container that holds it there.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
struct Holding {
    address: IpAddr,
    holder: Arc<str>,
}

/// The names of one network.
#[derive(Debug, Default)]
struct Network {
    /// Lower case; `None` until [`Zone::set_network`] told it.
    name: Option<Box<str>>,
    /// Name to its holdings, sorted and without duplicates; never an empty list.
    entries: HashMap<Arc<str>, Vec<Holding>>,
    /// Holder to its names, so that removing a container costs only its own names.
    holders: HashMap<Arc<str>, Vec<Arc<str>>>,
}

/// All names and askers of one host.
#[derive(Debug)]
pub struct Zone {
    ttl: u32,
    networks: HashMap<Arc<str>, Network>,
    askers: HashMap<Arc<str>, Asker>,
}

impl Default for Zone {
    fn default() -> Self {
        Self {
            ttl: DEFAULT_TTL,
            networks: HashMap::new(),
            askers: HashMap::new(),
        }
    }
}

impl Zone {
    /// TTL of every local answer, in seconds.
    pub fn ttl(&self) -> u32 {
        self.ttl
    }

    /// Sets the TTL of every local answer, in seconds.
    pub fn set_ttl(&mut self, seconds: u32) {
        self.ttl = seconds;
    }

    /// Adds or replaces a container that asks.
    pub fn set_asker(&mut self, id: &str, asker: Asker) {
        self.askers.insert(id.into(), asker);
    }

    /// Forgets a container that asks; from then on it is refused. Its names stay until they are removed.
    pub fn remove_asker(&mut self, id: &str) {
        self.askers.remove(id);
    }

    /// The container with this id, if it may ask.
    pub fn asker(&self, id: &str) -> Option<&Asker> {
        self.askers.get(id)
    }

    /// Adds a network or renames it. Its names are kept.
    pub fn set_network(&mut self, id: &str, network_name: &str) {
        let network = self.networks.entry(id.into()).or_default();
        network.name = name::normalize(network_name);
    }

    /// Forgets a network with all its names.
    pub fn remove_network(&mut self, id: &str) {
        self.networks.remove(id);
    }

    /// Lets `holder` answer to `names` on `network` with `addresses`, besides what it holds already.
    ///
    /// The forms with `.NETWORKNAME` appended follow from these and are not to be given. A name that no
    /// query can ask for (empty, or longer than the wire allows) is left out. A network that is not
    /// known yet is added without a name, so the order of the calls does not matter.
    pub fn add_names<N: AsRef<str>>(
        &mut self,
        network: &str,
        names: impl IntoIterator<Item = N>,
        addresses: &[IpAddr],
        holder: &str,
    ) {
        if addresses.is_empty() {
            return;
        }
        let network = self.networks.entry(network.into()).or_default();
        let holder: Arc<str> = holder.into();
        for key in names
            .into_iter()
            .filter_map(|n| name::normalize(n.as_ref()))
        {
            network.add(Arc::from(key), addresses, &holder);
        }
    }

    /// Takes back all names of `holder` on `network`.
    pub fn remove_names(&mut self, network: &str, holder: &str) {
        if let Some(network) = self.networks.get_mut(network) {
            network.remove(holder);
        }
    }

    /// The addresses of the name `key` (lower case, no trailing dot) as `asker` sees it, ascending and
    /// each once; `None` if it knows no such name.
    ///
    /// Order: the whole name on each of its networks, the first that knows it wins; then the name split
    /// from the right, `a.b.c` as `a.b` in the network `c`, then as `a` in the network `b.c`.
    pub fn lookup(&self, asker: &Asker, key: &str) -> Option<Vec<IpAddr>> {
        let networks = || asker.networks.iter().filter_map(|id| self.networks.get(id));
        if let Some(found) = networks().find_map(|network| network.entries.get(key)) {
            return Some(addresses(found));
        }
        key.rmatch_indices('.').find_map(|(dot, _)| {
            let (host, suffix) = (&key[..dot], &key[dot + 1..]);
            networks()
                .filter(|network| network.name.as_deref() == Some(suffix))
                .find_map(|network| network.entries.get(host))
                .map(|found| addresses(found))
        })
    }
}

impl Network {
    fn add(&mut self, key: Arc<str>, addresses: &[IpAddr], holder: &Arc<str>) {
        let holdings = self.entries.entry(Arc::clone(&key)).or_default();
        for &address in addresses {
            let holding = Holding {
                address,
                holder: Arc::clone(holder),
            };
            if let Err(place) = holdings.binary_search(&holding) {
                holdings.insert(place, holding);
            }
        }
        let names = self.holders.entry(Arc::clone(holder)).or_default();
        if !names.contains(&key) {
            names.push(key);
        }
    }

    fn remove(&mut self, holder: &str) {
        for key in self.holders.remove(holder).unwrap_or_default() {
            let Some(holdings) = self.entries.get_mut(&key) else {
                continue;
            };
            holdings.retain(|holding| &*holding.holder != holder);
            if holdings.is_empty() {
                self.entries.remove(&key);
            }
        }
    }
}

/// An RRset must not hold the same record twice (RFC 2181 section 5); the list is sorted by address.
fn addresses(holdings: &[Holding]) -> Vec<IpAddr> {
    let mut list: Vec<IpAddr> = holdings.iter().map(|holding| holding.address).collect();
    list.dedup();
    list
}

/// The names a container answers to on a network, each once: its name, the aliases it has there, its
/// short id and its hostname. The first one is what a reverse lookup shall give.
pub fn container_names<'a>(
    container_name: &'a str,
    aliases: impl IntoIterator<Item = &'a str>,
    id: &'a str,
    hostname: Option<&'a str>,
) -> Vec<&'a str> {
    let mut names: Vec<&str> = Vec::new();
    let short = id.get(..SHORT_ID).unwrap_or(id);
    let all = [container_name].into_iter().chain(aliases);
    for candidate in all.chain([short]).chain(hostname) {
        if !candidate.is_empty() && !names.iter().any(|n| n.eq_ignore_ascii_case(candidate)) {
            names.push(candidate);
        }
    }
    names
}

/// The zone as its writer and its readers share it. Cloning shares.
///
/// A lock rather than snapshots: a snapshot would be copied for each attach, while this write takes
/// microseconds. The guard of [`ZoneHandle::read`] cannot be held across an await of a spawned task
/// (it is not `Send`), and the readers here hold it only while they build one answer.
#[derive(Clone, Debug, Default)]
pub struct ZoneHandle(Arc<RwLock<Zone>>);

impl ZoneHandle {
    /// Shares `zone`.
    pub fn new(zone: Zone) -> Self {
        Self(Arc::new(RwLock::new(zone)))
    }

    /// Changes the zone. Readers see all of `change` or nothing of it, so an attach makes one call.
    pub fn update<R>(&self, change: impl FnOnce(&mut Zone) -> R) -> R {
        // A change that panicked left plain maps behind, each of them whole: better than no names at all.
        change(&mut self.0.write().unwrap_or_else(PoisonError::into_inner))
    }

    /// The zone as it is now. Hold it shortly: the writer waits.
    pub fn read(&self) -> RwLockReadGuard<'_, Zone> {
        self.0.read().unwrap_or_else(PoisonError::into_inner)
    }
}
