//! What is made of shared networks: a new one's record, what this host tells others, what readers and the DNS are told.

use std::collections::BTreeSet;
use std::net::IpAddr;

use netd_model::api;
use netd_model::error::{Code, Error, Result};
use netd_model::id::{ContainerId, Name, NetworkId};
use netd_model::net::Family;
use netd_model::overlay::{self, Overlay};
use netd_model::record::{Network, Phase, Unknown};
use netd_model::request::CreateNetwork;

use super::super::World;
use super::{Host, StationKey};
use crate::cluster::core::Link;
use crate::cluster::keys::Key;
use crate::cluster::records::{self, Station};

impl World {
    /// What makes a new network an overlay, and its MTU.
    pub(in crate::reconcile::world) fn plan_overlay(
        &self,
        request: &CreateNetwork,
        random: u32,
    ) -> Result<Option<(Overlay, u32)>> {
        let Some(spec) = &request.overlay else {
            return Ok(None);
        };
        let Some(shared) = &self.shared else {
            return Err(Error::new(
                Code::InvalidDriver,
                format!(
                    "network {}: an overlay needs a store that hosts share: start netd with --store etcd://HOST:PORT",
                    request.name
                ),
            ));
        };
        let short = request
            .subnets
            .iter()
            .find(|spec| spec.subnet.len() > overlay::longest_subnet(spec.subnet.family()));
        if let Some(spec) = short {
            return Err(Error::new(
                Code::InvalidSubnet,
                format!(
                    "subnet {} is too small for blocks of several hosts: use a /{} or larger",
                    spec.subnet,
                    overlay::longest_subnet(spec.subnet.family())
                ),
            ));
        }
        if let Some(range) = request.subnets.iter().find_map(|spec| spec.ip_range) {
            return Err(Error::new(
                Code::InvalidIpRange,
                format!(
                    "ip-range {range}: an overlay network is cut into blocks, and takes no range"
                ),
            ));
        }
        if request.bridge.is_some() {
            return Err(Error::new(
                Code::InvalidOpt,
                "option bridge: the bridge of an overlay network has the same name on all hosts, derived from its id",
            ));
        }
        let has_other_sums = |net: &&Network| {
            let other = net.overlay.as_ref();
            other.is_some_and(|other| other.port == spec.port && other.udpcsum != spec.udpcsum)
        };
        let other = self.overlays().find(has_other_sums);
        if let Some(other) = other.filter(|_| shared.node.address.is_ipv6()) {
            let (is, has) = if spec.udpcsum {
                ("on", "off")
            } else {
                ("off", "on")
            };
            return Err(Error::new(
                Code::InvalidOpt,
                format!(
                    "option udpcsum={is}: network {} has the same UDP port and udpcsum={has}, and over IPv6 the kernel takes only \
                     one of them on a port: choose another with --opt port=N",
                    other.name
                ),
            ));
        }
        let used: BTreeSet<u32> = self
            .overlays()
            .filter_map(|net| Some(net.overlay.as_ref()?.vni))
            .collect();
        let size = overlay::VNIS.end() - overlay::VNIS.start();
        let chosen = || {
            (0..=size)
                .map(|n| overlay::VNIS.start() + (random.wrapping_add(n)) % size)
                .find(|vni| !used.contains(vni))
        };
        let vni = match spec.vni {
            Some(vni) if used.contains(&vni) => {
                return Err(Error::new(
                    Code::Conflict,
                    format!("network identifier {vni} is that of another network: choose another"),
                ));
            }
            Some(vni) => vni,
            None => chosen().unwrap_or(*overlay::VNIS.start()),
        };
        // What fits through the narrowest host fits through all.
        let hosts = shared
            .hosts
            .values()
            .filter_map(|host| host.record.as_ref());
        let all = hosts
            .chain([&shared.node])
            .filter(|node| !node.address.is_unspecified());
        let least = all
            .map(|node| overlay::inner_mtu(node.mtu, node.address))
            .min();
        let mtu = request.mtu.or(least).unwrap_or(1450);
        let overlay = Overlay {
            vni,
            port: spec.port,
            udpcsum: spec.udpcsum,
            router: None,
        };
        Ok(Some((overlay, mtu)))
    }

    /// What has to be on disk before a container is on these networks: without it a daemon that starts while the store is away
    /// would not know what its containers are on.
    pub(crate) fn shared_records(
        &self,
        networks: &[NetworkId],
    ) -> Option<Vec<(String, Option<Vec<u8>>)>> {
        let shared = self.shared.as_ref()?;
        let records = networks.iter().filter_map(|id| self.network(id));
        let overlays: Vec<&Network> = records.filter(|net| net.overlay.is_some()).collect();
        if overlays.is_empty() {
            return None;
        }
        let node = (Key::Node(shared.name.clone()), records::write(&shared.node));
        let mut keys = vec![node];
        for network in overlays {
            keys.push((Key::Network(network.id.clone()), records::write(network)));
            let claims = shared.claims_on(&network.id);
            keys.extend(claims.map(|(prefix, claim)| {
                let key = Key::Claim(network.id.clone(), prefix);
                (key, records::write(claim))
            }));
        }
        let keys = keys.into_iter();
        Some(keys.map(|(key, value)| (key.text(), Some(value))).collect())
    }

    /// What this host tells others of a container.
    pub(crate) fn own_stations(&self, id: &ContainerId) -> Vec<(Key, Vec<u8>)> {
        let (Some(shared), Some(container)) = (&self.shared, self.container(id)) else {
            return Vec::new();
        };
        let mut own = Vec::new();
        for endpoint in &self.usable(container).endpoints {
            let network = self
                .network(&endpoint.network)
                .filter(|net| net.overlay.is_some());
            let Some(network) = network else {
                continue;
            };
            let station = Station {
                mac: endpoint.mac,
                ips: endpoint.ips.clone(),
                name: Some(container.name.clone()),
                hostname: Some(container.hostname.clone()),
                aliases: endpoint.aliases.clone(),
                unknown: Unknown::new(),
            };
            let key = Key::Endpoint(shared.name.clone(), network.id.clone(), id.clone());
            own.push((key, records::write(&station)));
        }
        own
    }

    /// What this host tells others of its part in a network; nothing while it has none.
    pub(crate) fn own_part(
        &self,
        id: &NetworkId,
        leaving: Option<&ContainerId>,
    ) -> Option<(Key, Option<Vec<u8>>)> {
        let (shared, network) = (self.shared.as_ref()?, self.network(id)?);
        network.overlay.as_ref()?;
        let key = Key::Member(shared.name.clone(), id.clone());
        let is_attached = |id: &ContainerId| {
            let record = self.container(id).filter(|_| leaving != Some(id));
            record.is_some_and(|c| c.phase == Phase::Attached)
        };
        let place = overlay::parts(network).filter(|_| self.members(id).any(is_attached));
        let station = place.map(|(_, place)| Station {
            mac: place.mac,
            ips: place.ips.clone(),
            name: None,
            hostname: None,
            aliases: Vec::new(),
            unknown: Unknown::new(),
        });
        Some((key, station.map(|station| records::write(&station))))
    }

    /// The containers of other hosts on a network, with their names and addresses. Those of hosts that are silent are left
    /// out while somebody alive answers to the same name.
    pub(crate) fn names_elsewhere(&self, key: &StationKey) -> Option<(Vec<String>, Vec<IpAddr>)> {
        let (net, node, id) = key;
        let (shared, id) = (self.shared.as_ref()?, id.as_ref()?);
        let station = shared.stations.get(key).filter(|_| *node != shared.name)?;
        self.clash(self.network(net)?, key, station)
            .is_none()
            .then_some(())?;
        let is_alive = |node: &Name| shared.hosts.get(node).is_some_and(|host| host.alive);
        if !is_alive(node) {
            let names = station.name.iter();
            let mut namesakes = names.flat_map(|name| shared.stations.named(net, name));
            if namesakes.any(|(_, of, _)| of != node && is_alive(of)) {
                return None;
            }
        }
        Some((records::names(station, id), station.ips.clone()))
    }

    /// All stations on a network.
    pub(crate) fn stations_on(&self, net: &NetworkId) -> Vec<StationKey> {
        let shared = self.shared.iter();
        let stations = shared.flat_map(|shared| shared.stations_of(net));
        stations.map(|(key, _)| key.clone()).collect()
    }

    /// The hosts of the cluster, as readers see them.
    pub(crate) fn node_views(&self) -> Vec<api::Node> {
        let Some(shared) = &self.shared else {
            return Vec::new();
        };
        let view = |(name, host): (&Name, &Host)| {
            let record = host.record.as_ref()?;
            let networks = self.overlays().filter(|net| {
                let key = (net.id.clone(), name.clone(), None);
                shared.stations.get(&key).is_some()
            });
            Some(api::Node {
                id: record.id.clone(),
                name: name.to_string(),
                address: record.address,
                state: shared.state(name, host).to_owned(),
                last_seen: host.last_seen(),
                paths: self.path_views(shared, name),
                networks: networks.map(|net| net.name.to_string()).collect(),
                own: *name == shared.name,
                mtu: record.mtu,
                version: record.software.clone(),
            })
        };
        shared.hosts.iter().filter_map(view).collect()
    }

    /// What is wrong with the cluster, each with its remedy.
    pub(crate) fn cluster_warnings(&self) -> Vec<String> {
        let Some(shared) = &self.shared else {
            return Vec::new();
        };
        let mut warnings = Vec::new();
        if let Link::Offline(why) = &shared.link {
            warnings.push(format!(
                "the shared store is not available: {why}; networks and names stay as they were last, and containers start \
                 as long as this host has addresses"
            ));
        }
        for (what, why) in &shared.conflicts {
            warnings.push(format!("{what} of the cluster is not used here: {why}"));
        }
        for net in self.overlays() {
            if shared.removed.contains(&net.id) {
                warnings.push(format!(
                    "network {} was removed from the cluster while containers of this host are on it: detach them",
                    net.name
                ));
            }
            let narrow = overlay::inner_mtu(shared.node.mtu, shared.node.address);
            if !shared.node.address.is_unspecified() && narrow < net.mtu {
                let on_the_way = shared
                    .narrowest
                    .as_ref()
                    .filter(|(_, mtu)| *mtu == shared.node.mtu);
                let interface = self.facts.mtus.get(&shared.node.address);
                let place = match on_the_way {
                    Some((host, mtu)) if interface != Some(mtu) => {
                        format!("on the route to host {host}")
                    }
                    _ => "through this host's interface".to_owned(),
                };
                warnings.push(format!(
                    "network {} has MTU {}, but only {narrow} fit {place}: packets are fragmented; \
                     raise its MTU to {}, or create the network anew",
                    net.name,
                    net.mtu,
                    net.mtu + overlay::overhead(Family::of(shared.node.address))
                ));
            }
        }
        warnings.extend(self.lost_warnings());
        for ((_, node, _), why) in &shared.disbelieved {
            warnings.push(format!("a record of host {node} is not used: {why}"));
        }
        for (name, host) in &shared.hosts {
            if host.alive || host.record.is_none() || *name == shared.name {
                continue;
            }
            let heard = host.last_seen().is_none();
            let what = match shared.state(name, host) {
                "dead" => {
                    "is dead: nothing is heard of it, neither in the store nor over the networks"
                }
                _ if heard => {
                    "is heard over the networks, but not in the store: see whether it reaches that"
                }
                _ => "gives no sign of life",
            };
            warnings.push(format!(
                "host {name} {what}: see to it, or remove it with `netctl node rm {name}` if it is gone"
            ));
        }
        warnings.extend(self.path_warnings(shared));
        warnings
    }
}
