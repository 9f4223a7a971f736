//! Owns what containers may resolve: names per network, and what each asker sees.
//!
//! Pure: no socket, no clock, no file. Never decides how an answer looks on the wire (`answer`) and
//! never asks anybody upstream (`forward`).
//!
//! One [`Zone`] is changed in place by one writer, the owner of the daemon's state, and read by every
//! listener through [`ZoneHandle`]. A change costs the names of the container it is about, never the
//! size of the zone, so nothing is copied however many containers there are.

use std::collections::HashMap;
use std::net::IpAddr;
use std::sync::{Arc, PoisonError, RwLock, RwLockReadGuard};

use netd_model::Prefix;

use crate::name;
use crate::resolv::Upstream;
use crate::stats::Counters;

mod view;

pub use view::View;
pub(crate) use view::{Found, Reverse};

/// TTL of local names in seconds: short, because addresses move with containers.
pub const DEFAULT_TTL: u32 = 5;

/// Digits of a container id that are a name of the container.
pub const SHORT_ID: usize = 12;

/// The host as its containers know it: the gateway addresses of their networks.
pub const HOST_NAME: &str = "host.netd.internal";

/// What one container may ask: the socket a query came in on tells the container.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Asker {
    /// Ids of the networks it is on, in lookup order.
    pub networks: Vec<Arc<str>>,
    /// Whether unknown names go upstream: false for a container that is only on internal networks.
    pub forward: bool,
    /// Its own upstreams (its `--dns`, else its network's). Empty means the host's.
    pub upstreams: Arc<Vec<Upstream>>,
    /// Its id, if the host's resolvers too are asked from its namespace. Its own ones say so themselves.
    pub inside: Option<Arc<str>>,
    /// Names that only it knows. They go before all others.
    pub hosts: Hosts,
}

/// Names that one container alone knows, such as [`HOST_NAME`] and extra hosts.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Hosts(Vec<(Box<str>, Vec<Holding>)>);

impl Hosts {
    /// Adds one. A name that is there already gets these addresses too; one that no query can ask for is left out.
    pub fn add(&mut self, name: &str, addresses: impl IntoIterator<Item = IpAddr>) {
        let Some(key) = name::normalize(name) else {
            return;
        };
        let place = self.0.iter().position(|(known, _)| *known == key);
        let place = place.unwrap_or_else(|| {
            self.0.push((key, Vec::new()));
            self.0.len() - 1
        });
        for address in addresses {
            let holding = Holding {
                address,
                holder: Arc::from(""),
                elsewhere: false,
            };
            insert(&mut self.0[place].1, holding);
        }
    }

    fn get(&self, key: &str) -> Option<&[Holding]> {
        let (_, holdings) = self.0.iter().find(|(name, _)| **name == *key)?;
        Some(holdings)
    }
}

/// A port that a container offers under a name: an SRV record (RFC 2782).
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct NamedPort {
    /// Without the underscore, in any case: `http`, or the port's number.
    pub name: Box<str>,
    /// Without the underscore, lower case: `tcp`, `udp` or `sctp`.
    pub proto: &'static str,
    /// The port inside the container.
    pub port: u16,
}

/// What is known of a container besides its addresses.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Details {
    /// Its TXT records, one for each text.
    pub texts: Vec<String>,
    /// Its SRV records.
    pub ports: Vec<NamedPort>,
}

/// What is known of a network besides its names.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct NetworkSpec {
    /// Its name: every name on it is also a name with this behind it.
    pub name: String,
    /// Search domains: as the name, but never the end of a name in a PTR.
    pub search: Vec<String>,
    /// TTL of its names in seconds, if not that of the zone.
    pub ttl: Option<u32>,
    /// Whether addresses on this host stand before those of other hosts in an answer.
    pub local_first: bool,
    /// Its prefixes: their reverse names are answered here and nowhere else.
    pub prefixes: Vec<Prefix>,
    /// The host's addresses on it; in reverse they are [`HOST_NAME`].
    pub gateways: Vec<IpAddr>,
}

impl From<&str> for NetworkSpec {
    fn from(name: &str) -> Self {
        Self {
            name: name.to_owned(),
            ..Self::default()
        }
    }
}

/// One address of a name, and the container that holds it there.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Holding {
    pub(crate) address: IpAddr,
    pub(crate) holder: Arc<str>,
    /// Whether that container is on another host.
    pub(crate) elsewhere: bool,
}

/// The names of one network.
#[derive(Debug, Default)]
pub(crate) struct Network {
    /// Lower case; `None` until [`Zone::set_network`] told it.
    name: Option<Box<str>>,
    search: Vec<Box<str>>,
    ttl: Option<u32>,
    local_first: bool,
    prefixes: Vec<Prefix>,
    gateways: Vec<IpAddr>,
    /// Name to its holdings, sorted and without duplicates; never an empty list.
    entries: HashMap<Arc<str>, Vec<Holding>>,
    /// Holder to its names (the first is the one it goes by), so that removing a container costs only its own names.
    holders: HashMap<Arc<str>, Vec<Arc<str>>>,
    /// Address to its holders.
    reverse: HashMap<IpAddr, Vec<Arc<str>>>,
    counters: Arc<Counters>,
}

/// All names and askers of one host.
#[derive(Debug)]
pub struct Zone {
    ttl: u32,
    networks: HashMap<Arc<str>, Network>,
    askers: HashMap<Arc<str>, Asker>,
    details: HashMap<Arc<str>, Details>,
}

impl Default for Zone {
    fn default() -> Self {
        Self {
            ttl: DEFAULT_TTL,
            networks: HashMap::new(),
            askers: HashMap::new(),
            details: HashMap::new(),
        }
    }
}

impl Zone {
    /// TTL of local answers in seconds, where the network has none of its own.
    pub fn ttl(&self) -> u32 {
        self.ttl
    }

    /// Sets the TTL of local answers, in seconds.
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

    /// What the container with this id sees, if it may ask.
    pub fn view(&self, asker: &str) -> Option<View<'_>> {
        self.askers.get(asker).map(|asker| View::new(self, asker))
    }

    /// The container that holds this address on the network and may ask.
    pub fn asker_at(&self, network: &str, address: IpAddr) -> Option<&Arc<str>> {
        let holders = self.networks.get(network)?.reverse.get(&address)?;
        holders.iter().find(|&id| self.askers.contains_key(id))
    }

    /// Says what is known of a container besides its addresses; nothing, once it is gone.
    pub fn set_details(&mut self, holder: &str, details: Details) {
        if details == Details::default() {
            self.details.remove(holder);
        } else {
            self.details.insert(holder.into(), details);
        }
    }

    /// Adds a network or changes what is known of it. Its names are kept.
    pub fn set_network(&mut self, id: &str, spec: impl Into<NetworkSpec>) {
        let spec = spec.into();
        let network = self.networks.entry(id.into()).or_default();
        network.name = name::normalize(&spec.name);
        network.search = spec
            .search
            .iter()
            .filter_map(|s| name::normalize(s))
            .collect();
        network.ttl = spec.ttl;
        network.local_first = spec.local_first;
        network.prefixes = spec.prefixes;
        network.gateways = spec.gateways;
    }

    /// Forgets a network with all its names.
    pub fn remove_network(&mut self, id: &str) {
        self.networks.remove(id);
    }

    /// The names of all networks that have one, with the counters of the queries asked on them.
    pub fn counters(&self) -> Vec<(String, Arc<Counters>)> {
        let networks = self.networks.values();
        let named =
            networks.filter_map(|n| Some((n.name.as_deref()?.to_owned(), Arc::clone(&n.counters))));
        named.collect()
    }

    /// Where the name is known, whoever may see it: the network, the address, the holder.
    pub fn holders(&self, name: &str) -> Vec<(String, IpAddr, Arc<str>)> {
        let Some(key) = name::normalize(name) else {
            return Vec::new();
        };
        let mut list = Vec::new();
        for network in self.networks.values() {
            let named = network.name.as_deref().unwrap_or_default();
            let host = key
                .rmatch_indices('.')
                .find_map(|(dot, _)| network.is_suffix(&key[dot + 1..]).then_some(&key[..dot]));
            let found = network
                .entries
                .get(&*key)
                .or_else(|| network.entries.get(host?));
            let held = found.into_iter().flatten();
            list.extend(
                held.map(|held| (named.to_owned(), held.address, Arc::clone(&held.holder))),
            );
        }
        list.sort();
        list
    }

    /// Lets `holder` answer to `names` on `network` with `addresses`, besides what it holds already. The first name is
    /// the one it goes by: PTR and SRV records say it.
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
        self.add(network, names, addresses, holder, false);
    }

    /// As [`Zone::add_names`], for a container of another host.
    pub fn add_names_elsewhere<N: AsRef<str>>(
        &mut self,
        network: &str,
        names: impl IntoIterator<Item = N>,
        addresses: &[IpAddr],
        holder: &str,
    ) {
        self.add(network, names, addresses, holder, true);
    }

    fn add<N: AsRef<str>>(
        &mut self,
        network: &str,
        names: impl IntoIterator<Item = N>,
        addresses: &[IpAddr],
        holder: &str,
        elsewhere: bool,
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
            let holdings = addresses.iter().map(|&address| Holding {
                address,
                holder: Arc::clone(&holder),
                elsewhere,
            });
            network.add(&Arc::from(key), holdings);
        }
    }

    /// Takes back all names of `holder` on `network`.
    pub fn remove_names(&mut self, network: &str, holder: &str) {
        if let Some(network) = self.networks.get_mut(network) {
            network.remove(holder);
        }
    }

    /// The addresses of the name `key` (lower case, no trailing dot) as `asker` sees it, ascending and
    /// each once; `None` if it knows no such name. See [`View`] for the order of lookup.
    pub fn lookup(&self, asker: &Asker, key: &str) -> Option<Vec<IpAddr>> {
        let found = View::new(self, asker).find(key)?;
        // An RRset must not hold the same record twice (RFC 2181 section 5); the list is sorted by address.
        let mut list: Vec<IpAddr> = found.holdings.iter().map(|held| held.address).collect();
        list.dedup();
        Some(list)
    }
}

impl Network {
    fn add(&mut self, key: &Arc<str>, added: impl Iterator<Item = Holding>) {
        let holdings = self.entries.entry(Arc::clone(key)).or_default();
        for holding in added {
            let there = self.reverse.entry(holding.address).or_default();
            if !there.contains(&holding.holder) {
                there.push(Arc::clone(&holding.holder));
            }
            let names = self.holders.entry(Arc::clone(&holding.holder)).or_default();
            if !names.contains(key) {
                names.push(Arc::clone(key));
            }
            insert(holdings, holding);
        }
    }

    fn remove(&mut self, holder: &str) {
        for key in self.holders.remove(holder).unwrap_or_default() {
            let Some(holdings) = self.entries.get_mut(&key) else {
                continue;
            };
            for held in holdings.iter().filter(|held| &*held.holder == holder) {
                if let Some(there) = self.reverse.get_mut(&held.address) {
                    there.retain(|other| &**other != holder);
                    if there.is_empty() {
                        self.reverse.remove(&held.address);
                    }
                }
            }
            holdings.retain(|holding| &*holding.holder != holder);
            if holdings.is_empty() {
                self.entries.remove(&key);
            }
        }
    }

    fn is_suffix(&self, suffix: &str) -> bool {
        self.name.as_deref() == Some(suffix) || self.search.iter().any(|s| **s == *suffix)
    }

    /// The name that a container goes by here, with the network's behind it.
    fn full_name(&self, holder: &str) -> Option<String> {
        let first = self.holders.get(holder)?.first()?;
        Some(match &self.name {
            Some(network) => format!("{first}.{network}"),
            None => first.to_string(),
        })
    }
}

fn insert(holdings: &mut Vec<Holding>, holding: Holding) {
    if let Err(place) = holdings.binary_search(&holding) {
        holdings.insert(place, holding);
    }
}

/// The names a container answers to on a network, each once: its name, the aliases it has there, its
/// short id and its hostname. The first one is what a reverse lookup gives.
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
/// (it is not `Send`), and the readers here hold it only while they answer the datagrams that are there.
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
