//! What netd knows: networks, containers, addresses, names, ports. Decides what a request means; touches nothing.
//!
//! Everything here is a plain function of the state and the request, tested without root. A request first reserves
//! what it needs; when the kernel refused, the reservation is taken back.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::net::IpAddr;
use std::time::Duration;

use ipnetwork::IpNetwork;
use netd_model::api::HostChange;
use netd_model::desired::{self};
use netd_model::error::{Code, Error, Result};
use netd_model::id::{Name, shorten};
use netd_model::net::{Family, Proto};
use netd_model::object::Sysctl;
use netd_model::observed::{HostFacts, Observed};
use netd_model::record::{Container, Network, Phase};
use netd_model::{ContainerId, Key, NetworkId, Ns, Object, Owner};

mod containers;
mod networks;
mod orphans;
pub(crate) mod overlay;
mod pools;
mod ports;
mod reservations;

use orphans::Orphans;
use pools::Net;
use ports::HostPorts;

/// Ports of one bridge: the kernel numbers them with 10 bits and keeps 0 (net/bridge/br_private.h, BR_MAX_PORTS).
pub(crate) const BRIDGE_PORTS_MAX: usize = 1023;

/// All state, owned by one task.
#[derive(Debug)]
pub(crate) struct World {
    pub(crate) facts: HostFacts,
    pub(crate) host_changes: Vec<HostChange>,
    /// Everything was purged: nothing is wanted from the kernel until the next create or attach.
    pub(crate) purged: bool,
    ula: IpNetwork,
    networks: BTreeMap<NetworkId, Net>,
    network_names: HashMap<Name, NetworkId>,
    going: BTreeSet<NetworkId>,
    containers: BTreeMap<ContainerId, Container>,
    container_names: HashMap<Name, ContainerId>,
    sandboxes: HashMap<(u64, u64), ContainerId>,
    ports: HostPorts,
    orphans: Orphans,
    /// The cluster, if this host is in one.
    pub(crate) shared: Option<overlay::Shared>,
}

/// How an address is given back.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum GiveBack {
    /// It was never on the wire.
    Unused,
    /// It was: neighbours may still know its MAC, so it rests first. The time is that since the daemon's start.
    Used(Duration),
}

/// Where the round of each pool, and that of the host ports, stands.
#[derive(Debug)]
pub(crate) struct Rounds(Vec<(NetworkId, Vec<IpAddr>)>, u16);

/// What the host's share of the desired objects follows from: a few bytes for thousands of objects.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct HostShare {
    purged: bool,
    changes: Vec<HostChange>,
    bridge_tables: bool,
    peers: Vec<Object>,
}

impl HostShare {
    pub(crate) fn objects(&self) -> Vec<Object> {
        if self.purged {
            return Vec::new();
        }
        let mut objects = desired::host(&self.changes, self.bridge_tables);
        objects.extend(self.peers.iter().cloned());
        objects
    }
}

/// The host's share of the objects as the kernel holds it.
#[derive(Debug, Default)]
pub(crate) struct HostHeld {
    objects: Vec<Object>,
    /// What they follow from, if that is known.
    of: Option<HostShare>,
}

impl HostHeld {
    pub(crate) fn objects(&self) -> &[Object] {
        &self.objects
    }

    /// Whether this share is held.
    pub(crate) fn is(&self, share: &HostShare) -> bool {
        self.of.as_ref() == Some(share)
    }

    /// This share is held.
    pub(crate) fn set(&mut self, share: HostShare) {
        if !self.is(&share) {
            self.objects = share.objects();
            self.of = Some(share);
        }
    }

    /// Objects of an earlier share are held.
    pub(crate) fn set_objects(&mut self, objects: Vec<Object>) {
        *self = Self { objects, of: None };
    }
}

impl World {
    pub(crate) fn new(facts: HostFacts, ula_seed: [u8; 5]) -> Self {
        Self {
            facts,
            host_changes: Vec::new(),
            purged: false,
            ula: netd_ipam::ula_prefix(ula_seed),
            networks: BTreeMap::new(),
            network_names: HashMap::new(),
            going: BTreeSet::new(),
            containers: BTreeMap::new(),
            container_names: HashMap::new(),
            sandboxes: HashMap::new(),
            ports: HostPorts::default(),
            orphans: Orphans::default(),
            shared: None,
        }
    }

    /// The settings of the host that have to change for the networks there are, beyond those changed already.
    pub(crate) fn missing_host_changes(&self) -> Vec<HostChange> {
        let needed: BTreeSet<Family> = self
            .networks
            .iter()
            .filter(|(id, _)| self.is_present(id))
            .flat_map(|(_, net)| desired::forwarding_needed(&net.record))
            .collect();
        desired::host_changes(&self.facts, &needed)
            .into_iter()
            .filter(|change| {
                self.host_changes
                    .iter()
                    .all(|done| done.sysctl != change.sysctl)
            })
            .collect()
    }

    /// Forgets changes of interfaces that are gone, and their settings with them, as a look at the host shows. One that
    /// comes back is changed anew.
    pub(crate) fn forget_gone_changes(&mut self, observed: &Observed) {
        let is_of_host = |path: &str| {
            let mut paths = desired::FAMILIES.into_iter().map(desired::forwarding_path);
            paths.any(|forwarding| forwarding == path)
        };
        let is_there = |path: &str| {
            let (ns, path) = (Ns::Host, path.to_owned());
            observed.objects.contains_key(&Key::Sysctl { ns, path })
        };
        self.host_changes
            .retain(|change| is_of_host(&change.sysctl) || is_there(&change.sysctl));
    }

    /// Where the round of each pool stands.
    pub(crate) fn rounds(&self) -> Rounds {
        let pools = |net: &Net| net.pools.iter().map(netd_ipam::Pool::cursor).collect();
        let rounds = self.networks.iter();
        let pools = rounds.map(|(id, net)| (id.clone(), pools(net))).collect();
        Rounds(pools, self.ports.last())
    }

    /// Goes on where the rounds stood: a dry run leaves no trace.
    pub(crate) fn set_rounds(&mut self, Rounds(rounds, port): Rounds) {
        self.ports.set_last(port);
        for (id, cursors) in rounds {
            let pools = self.networks.get_mut(&id).map(|net| net.pools.iter_mut());
            let pools = pools.into_iter().flatten();
            pools
                .zip(cursors)
                .for_each(|(pool, ip)| pool.set_cursor(ip));
        }
    }

    /// The host's share of the desired objects.
    pub(crate) fn host_objects(&self) -> Vec<Object> {
        self.host_share().objects()
    }

    /// What the host's share of the desired objects follows from.
    pub(crate) fn host_share(&self) -> HostShare {
        HostShare {
            purged: self.purged,
            changes: self.host_changes.clone(),
            bridge_tables: self.facts.bridge_tables,
            peers: self.peer_objects(),
        }
    }

    /// The desired settings of the host and of the networks' bridges.
    pub(crate) fn settings(&self) -> Vec<Sysctl> {
        let changes = self.host_changes.iter().filter(|_| !self.purged);
        let mut settings: Vec<Sysctl> = changes.map(desired::host_setting).collect();
        let mut objects = Vec::new();
        for (id, net) in self.networks.iter().filter(|(id, _)| self.is_present(id)) {
            let owner = Owner::Network(id.clone());
            objects.extend(desired::bridge_sysctls(&net.record, &self.facts, &owner));
        }
        settings.extend(objects.into_iter().filter_map(|object| match object {
            Object::Sysctl(sysctl) => Some(sysctl),
            _ => None,
        }));
        settings
    }

    /// The desired objects of some networks and containers: what a request on them may change.
    pub(crate) fn objects<'a>(
        &self,
        networks: impl IntoIterator<Item = &'a NetworkId>,
        containers: impl IntoIterator<Item = &'a ContainerId>,
    ) -> Vec<Object> {
        let mut objects = Vec::new();
        for id in networks {
            if let Some(net) = self.networks.get(id).filter(|_| self.is_present(id)) {
                objects.extend(self.network_objects(&net.record));
            }
        }
        for id in containers {
            if let Some(container) = self
                .containers
                .get(id)
                .filter(|c| c.phase != Phase::Detaching)
            {
                objects.extend(self.container_objects(container));
            }
        }
        objects
    }

    /// The desired objects of a network, as a record has it.
    pub(crate) fn network_objects(&self, network: &Network) -> Vec<Object> {
        let mut objects = desired::network(network, &self.facts);
        objects.extend(self.remote_objects(&network.id));
        objects
    }

    /// The desired objects of a container, as a record has it.
    pub(crate) fn container_objects(&self, container: &Container) -> Vec<Object> {
        let container = self.usable(container);
        desired::container(&container, |id| self.network(id), &self.facts)
    }

    /// Every desired object.
    pub(crate) fn all_objects(&self) -> Vec<Object> {
        let mut objects = self.host_objects();
        objects.extend(self.objects(self.networks.keys(), self.containers.keys()));
        objects
    }

    /// Whether an owner is on record.
    pub(crate) fn knows(&self, owner: &Owner) -> bool {
        match owner {
            Owner::Host => true,
            Owner::Network(id) => self.networks.contains_key(id),
            Owner::Container(id) | Owner::Endpoint(id, _) => self.containers.contains_key(id),
        }
    }

    /// Local addresses on which a wildcard UDP port belongs to a publish of its own.
    pub(crate) fn exact_publishes(&self, family: Family, port: u16) -> Vec<IpAddr> {
        self.ports.exact(Proto::Udp, family, port)
    }
}

/// Looks a reference up as an id or a unique prefix of one.
fn find<K, V>(
    reference: &str,
    table: &BTreeMap<K, V>,
    what: &str,
    missing: Code,
    command: &str,
) -> Result<K>
where
    K: Ord + Clone + std::borrow::Borrow<str>,
{
    let not_found = || {
        Err(Error::new(
            missing,
            format!(
                "no {what} has the name or id {:?}: `{command}` lists them",
                shorten(reference)
            ),
        ))
    };
    if reference.is_empty() {
        return not_found();
    }
    let range = (
        std::ops::Bound::Included(reference),
        std::ops::Bound::Unbounded,
    );
    let mut hits = table
        .range::<str, _>(range)
        .map(|(key, _)| key)
        .take_while(|key| {
            let text: &str = (*key).borrow();
            text.starts_with(reference)
        });
    match (hits.next(), hits.next()) {
        (None, _) => not_found(),
        (Some(one), None) => Ok(one.clone()),
        (Some(one), Some(_)) if std::borrow::Borrow::<str>::borrow(one) == reference => {
            Ok(one.clone())
        }
        (Some(_), Some(_)) => Err(Error::new(
            Code::InvalidReference,
            format!(
                "{what} id {:?} fits more than one: give more digits",
                shorten(reference)
            ),
        )),
    }
}
