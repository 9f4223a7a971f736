//! What is known of the cluster: its hosts, their stations, who has claimed what.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;
use std::time::Duration;

use netd_model::id::{Name, NetworkId};
use netd_model::net::{Family, Prefix};
use netd_model::overlay;
use netd_model::probe::Paths;
use netd_model::record::Network;

use super::StationKey;
use super::known::Stations;
use crate::cluster::core::Link;
use crate::cluster::mirror::News;
use crate::cluster::records::{Claim, Node, Station};

/// A host of the cluster.
#[derive(Clone, Debug, Default)]
pub(crate) struct Host {
    pub(crate) record: Option<Node>,
    pub(crate) alive: bool,
    /// Since when it gives no sign of life, neither in the store nor by probes.
    pub(super) silent: Option<Duration>,
    /// For how long, when that was looked at last.
    pub(super) silent_for: Option<Duration>,
}

/// Another host that has claimed addresses.
#[derive(Debug)]
pub(in crate::reconcile::world) struct Holder {
    pub(super) host: Name,
    /// Whether its own address on the network is among them: it takes part, or will before it says so.
    pub(super) router: bool,
}

/// What is known of the cluster.
#[derive(Debug)]
pub(crate) struct Shared {
    /// This host.
    pub(crate) name: Name,
    pub(crate) node: Node,
    pub(crate) link: Link,
    pub(crate) hosts: BTreeMap<Name, Host>,
    pub(super) stations: Stations,
    /// Stations that are not believed, with the reason, as they were looked at last.
    pub(super) disbelieved: BTreeMap<StationKey, String>,
    /// What this host has claimed.
    pub(super) claims: BTreeMap<(NetworkId, Prefix), Claim>,
    /// What others have claimed.
    pub(super) holders: BTreeMap<(NetworkId, Prefix), Holder>,
    /// The host to which the smallest packets go, and how large they may be.
    pub(super) narrowest: Option<(Name, u32)>,
    /// What probes show, by host and network.
    pub(super) paths: BTreeMap<(Name, NetworkId), Paths>,
    /// Claims of which no address is in use, and since when.
    pub(super) idle: BTreeMap<(NetworkId, Prefix), Duration>,
    /// Networks that the store does not have any more, but this host's containers are on.
    pub(crate) removed: BTreeSet<NetworkId>,
    /// Networks and stations that cannot be as their records say, with the reason.
    pub(crate) conflicts: BTreeMap<String, String>,
}

impl Shared {
    pub(crate) fn new(name: Name, node: Node) -> Self {
        Self {
            name,
            node,
            link: Link::Starting,
            hosts: BTreeMap::new(),
            stations: Stations::default(),
            disbelieved: BTreeMap::new(),
            claims: BTreeMap::new(),
            holders: BTreeMap::new(),
            idle: BTreeMap::new(),
            narrowest: None,
            paths: BTreeMap::new(),
            removed: BTreeSet::new(),
            conflicts: BTreeMap::new(),
        }
    }

    /// The address of a host.
    pub(super) fn address(&self, name: &Name) -> Option<IpAddr> {
        Some(self.hosts.get(name)?.record.as_ref()?.address)
    }

    /// What this host has claimed on a network.
    pub(super) fn claims_on<'a>(
        &'a self,
        net: &'a NetworkId,
    ) -> impl Iterator<Item = (Prefix, &'a Claim)> {
        let first = (net.clone(), Prefix::default_route(Family::V4));
        self.claims
            .range(first..)
            .take_while(move |((of, _), _)| of == net)
            .map(|((_, prefix), claim)| (*prefix, claim))
    }

    pub(super) fn stations_of<'a>(
        &'a self,
        net: &'a NetworkId,
    ) -> impl Iterator<Item = (&'a StationKey, &'a Station)> {
        self.stations.on(net)
    }

    pub(super) fn is_silent(&self, name: &Name) -> bool {
        self.hosts.get(name).is_none_or(|host| !host.alive)
    }

    /// The containers of hosts that give no sign of life.
    pub(super) fn stations_of_silent(&self) -> Vec<StationKey> {
        let keys = self.stations.all().map(|(key, _)| key);
        keys.filter(|(_, node, id)| id.is_some() && self.is_silent(node))
            .cloned()
            .collect()
    }

    /// Those of them on the same network with the same name.
    pub(super) fn silent_namesakes(&self, key: &StationKey) -> Vec<StationKey> {
        let station = self.stations.get(key);
        let Some(name) = station.and_then(|station| station.name.as_ref()) else {
            return Vec::new();
        };
        if self.hosts.values().all(|host| host.alive) {
            return Vec::new();
        }
        let namesakes = self.stations.named(&key.0, name);
        namesakes
            .filter(|(_, node, _)| self.is_silent(node))
            .cloned()
            .collect()
    }

    /// The stations that a change is about.
    pub(super) fn keys_of(&self, news: &News) -> Vec<StationKey> {
        match news {
            News::Member(node, net, station) => {
                self.with_namesakes((net.clone(), node.clone(), None), station.as_ref())
            }
            News::Endpoint(node, net, id, station) => {
                let key = (net.clone(), node.clone(), Some(id.clone()));
                self.with_namesakes(key, station.as_ref())
            }
            // Its address may be another.
            News::Node(node, _) => {
                let all = self.stations.all().map(|(key, _)| key);
                let claims = self.holders.iter();
                let claims = claims.filter(|(_, holder)| holder.router && holder.host == *node);
                let parts = claims.map(|((net, _), _)| (net.clone(), node.clone(), None));
                let stations = all.filter(|(_, of, _)| of == node).cloned();
                stations.chain(parts).collect()
            }
            // Whose they are may be another.
            News::Claim(net, prefix, claim) => {
                let had = self.holders.get(&(net.clone(), *prefix));
                let has = claim.as_ref().and_then(|claim| claim.node.as_ref());
                let hosts = had.map(|had| &had.host).into_iter().chain(has);
                let parts = hosts.map(|host| (net.clone(), host.clone(), None));
                let stations = self.stations.within(net, *prefix).cloned();
                let stations = stations.flat_map(|key| self.with_namesakes(key, None));
                stations.chain(parts).collect()
            }
            _ => Vec::new(),
        }
    }

    /// A station that changes, and those that have, or say that they have, the Ethernet address that it had or gets.
    fn with_namesakes(&self, key: StationKey, station: Option<&Station>) -> Vec<StationKey> {
        let had = self.stations.get(&key).map(|had| had.mac);
        let macs: BTreeSet<_> = had.into_iter().chain(station.map(|s| s.mac)).collect();
        let others = macs
            .into_iter()
            .flat_map(|mac| self.stations.with_mac(&key.0, mac))
            .filter(|other| **other != key)
            .cloned();
        let mut keys: Vec<StationKey> = others.collect();
        keys.push(key);
        keys
    }

    /// Hosts that have claimed an address of their own on a network: what is for all hosts there is sent to them before
    /// they say that they take part, which is after their first container can be spoken to.
    pub(super) fn announced(&self, net: &NetworkId) -> BTreeSet<StationKey> {
        let first = (net.clone(), Prefix::default_route(Family::V4));
        let on = self.holders.range(first..);
        on.take_while(|((of, _), _)| of == net)
            .filter(|(_, holder)| holder.router)
            .map(|(_, holder)| (net.clone(), holder.host.clone(), None))
            .collect()
    }

    /// Another host than this one's that has claimed an address: alone, or with its block.
    pub(super) fn holder(&self, network: &Network, ip: IpAddr) -> Option<&Name> {
        let subnet = network.subnet_of(ip)?.subnet;
        let lens = [overlay::block_len(subnet), overlay::whole(subnet.family())];
        let mut claims = lens
            .map(|len| (network.id.clone(), Prefix::holding(ip, len)))
            .into_iter();
        claims.find_map(|claim| Some(&self.holders.get(&claim)?.host))
    }
}

impl Holder {
    pub(super) fn of(claim: Claim) -> Option<Self> {
        Some(Self {
            host: claim.node?,
            router: claim.router,
        })
    }
}
