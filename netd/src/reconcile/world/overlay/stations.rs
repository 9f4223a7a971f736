//! The stations elsewhere on shared networks, as objects of this host.

use std::collections::BTreeSet;
use std::net::IpAddr;

use netd_model::id::NetworkId;
use netd_model::overlay;
use netd_model::record::Network;
use netd_model::{Key, Object};

use super::super::World;
use super::{StationKey, holds};
use crate::cluster::mirror::News;
use crate::cluster::records::Station;

impl World {
    /// What is on the other hosts of a network, as objects.
    pub(crate) fn station_objects(&self, key: &StationKey) -> Vec<Object> {
        let (net, node, container) = key;
        let Some(shared) = &self.shared else {
            return Vec::new();
        };
        if *node == shared.name || !self.is_present(net) {
            return Vec::new();
        }
        let address = shared.address(node);
        let elsewhere = address.filter(|host| *host != shared.node.address);
        let (Some(network), Some(host)) = (self.network(net), elsewhere) else {
            return Vec::new();
        };
        let Some(station) = shared.stations.get(key) else {
            let comes = shared.announced(net).contains(key);
            return if comes {
                overlay::flood(network, host)
            } else {
                None
            }
            .into_iter()
            .collect();
        };
        if self.clash(network, key, station).is_some() {
            return Vec::new();
        }
        let place = station.at(host);
        match container {
            Some(_) => overlay::remote(network, &place, &self.facts),
            None => overlay::peer(network, &place, &self.facts),
        }
    }

    /// Why a station of a host cannot be believed, if it cannot: what this host itself has, nobody else has; what another has
    /// claimed is that one's; and an Ethernet address is one station's.
    pub(super) fn clash(
        &self,
        network: &Network,
        key: &StationKey,
        station: &Station,
    ) -> Option<String> {
        let of_ips = self.clash_of_ips(network, key, station);
        of_ips.or_else(|| self.clash_of_mac(network, key, station))
    }

    fn clash_of_ips(
        &self,
        network: &Network,
        key: &StationKey,
        station: &Station,
    ) -> Option<String> {
        let node = &key.1;
        let net = self.networks.get(&network.id)?;
        let claimed = station.ips.iter().find_map(|ip| {
            let holder = self.shared.as_ref()?.holder(network, *ip)?;
            (holder != node).then_some((ip, holder))
        });
        if let Some((ip, holder)) = claimed {
            return Some(format!("its address {ip} belongs to host {holder}"));
        }
        let outside = station.ips.iter().find(|ip| {
            let subnet = network.subnet_of(**ip);
            subnet.is_none_or(|s| s.gateway == **ip)
        });
        if let Some(ip) = outside {
            return Some(format!(
                "its address {ip} is none of network {}",
                network.name
            ));
        }
        let shared = self.shared.as_ref()?;
        let own = |ip: &IpAddr| {
            // What another host has claimed since this one was removed is not in use here.
            shared.holder(network, *ip).is_none()
                && net
                    .pools
                    .iter()
                    .any(|pool| holds(pool, *ip) && pool.is_used(*ip))
        };
        if let Some(ip) = station.ips.iter().find(|ip| own(ip)) {
            return Some(format!(
                "its address {ip} is that of a container of this host"
            ));
        }
        None
    }

    /// The same of its Ethernet address.
    fn clash_of_mac(
        &self,
        network: &Network,
        key: &StationKey,
        station: &Station,
    ) -> Option<String> {
        let net = self.networks.get(&network.id)?;
        let mac = station.mac;
        if net.macs.contains(&mac) && !self.is_lost_mac(&network.id, mac) {
            return Some(format!(
                "its Ethernet address {mac} is that of a container of this host"
            ));
        }
        let stations = &self.shared.as_ref()?.stations;
        // Who is not believed anyway takes it from nobody.
        let mut bearers = stations.with_mac(&network.id, mac).into_iter();
        let first = bearers.find(|of| {
            let station = stations.get(of);
            station.is_some_and(|station| self.clash_of_ips(network, of, station).is_none())
        })?;
        (first != key).then(|| {
            let host = &first.1;
            format!("its Ethernet address {mac} is that of a station of host {host}")
        })
    }

    /// Notes which of these stations are not believed.
    pub(super) fn judge(&mut self, keys: &BTreeSet<StationKey>) {
        let Some(shared) = &self.shared else {
            return;
        };
        let others = keys.iter().filter(|(_, node, _)| *node != shared.name);
        let judged: Vec<_> = others
            .map(|key| {
                let station = shared.stations.get(key);
                let network = self.network(&key.0);
                let why = network.and_then(|net| self.clash(net, key, station?));
                (key.clone(), why)
            })
            .collect();
        if let Some(shared) = &mut self.shared {
            for (key, why) in judged {
                match why {
                    Some(why) => shared.disbelieved.insert(key, why),
                    None => shared.disbelieved.remove(&key),
                };
            }
        }
    }

    /// The same of all stations: what this host's containers have since got or lost makes a difference too.
    pub(crate) fn judge_all(&mut self) {
        let all = self.shared.iter().flat_map(|shared| shared.stations.all());
        let keys = all.map(|(key, _)| key.clone()).collect();
        self.judge(&keys);
    }

    /// Whether an entry of a station elsewhere shall be there.
    pub(crate) fn is_station_wanted(&self, net: &NetworkId, key: &Key) -> bool {
        let Some(shared) = &self.shared else {
            return false;
        };
        let is_about = |(_, node, _): &StationKey, station: &Station| match key {
            Key::Remote { mac, .. } | Key::Station { mac, .. } => station.mac == *mac,
            Key::Neighbour { ip, .. } => station.ips.contains(ip),
            Key::Flood { host, .. } => shared.address(node) == Some(*host),
            _ => false,
        };
        let announced = shared.announced(net);
        let parts = announced
            .iter()
            .filter(|(_, node, _)| matches!(key, Key::Flood { host, .. } if shared.address(node) == Some(*host)));
        let stations = shared.stations_of(net);
        stations
            .filter(|(of, station)| is_about(of, station))
            .map(|(of, _)| of)
            .chain(parts)
            .flat_map(|of| self.station_objects(of))
            .any(|object| object.key() == *key)
    }

    /// All that is elsewhere on a network, as objects.
    pub(in crate::reconcile::world) fn remote_objects(&self, net: &NetworkId) -> Vec<Object> {
        let Some(shared) = &self.shared else {
            return Vec::new();
        };
        let mut keys = shared.announced(net);
        keys.extend(shared.stations_of(net).map(|(key, _)| key.clone()));
        keys.iter()
            .flat_map(|key| self.station_objects(key))
            .collect()
    }

    /// What keeps the tunnels of overlay networks.
    pub(in crate::reconcile::world) fn peer_objects(&self) -> Vec<Object> {
        let Some(shared) = &self.shared else {
            return Vec::new();
        };
        let own = shared.node.address;
        let addresses = shared
            .hosts
            .values()
            .filter_map(|host| Some(host.record.as_ref()?.address));
        let others: BTreeSet<IpAddr> = addresses.filter(|ip| *ip != own).collect();
        let ports = self
            .overlays()
            .filter_map(|net| Some(net.overlay.as_ref()?.port));
        let ports: BTreeSet<u16> = ports.collect();
        overlay::tunnels(&ports, &others)
    }

    /// The stations that changes are about, before they are taken in.
    pub(crate) fn affected(&self, news: &[News]) -> BTreeSet<StationKey> {
        let shared = self.shared.iter();
        shared
            .flat_map(|shared| news.iter().flat_map(|news| shared.keys_of(news)))
            .collect()
    }
}
