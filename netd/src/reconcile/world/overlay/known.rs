//! What is known of the stations of all hosts, found by network, by name and by address without a look at all of them.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;

use netd_model::id::{Name, NetworkId};
use netd_model::net::{Mac, Prefix};

use super::StationKey;
use crate::cluster::records::Station;

/// The stations of all hosts, this one's among them.
#[derive(Debug, Default)]
pub(in crate::reconcile::world) struct Stations {
    on: BTreeMap<NetworkId, OnNetwork>,
    /// Counts those that came.
    came: u64,
}

#[derive(Debug, Default)]
struct OnNetwork {
    all: BTreeMap<StationKey, Station>,
    /// Containers by the name they go by.
    named: Index<Name>,
    at: Index<IpAddr>,
    /// By Ethernet address, each with its rank: the address is that of the least.
    with: BTreeMap<Mac, BTreeMap<StationKey, Rank>>,
}

/// Whose an Ethernet address is: first that of the station with the address that it is made from, then of who came first.
type Rank = (bool, u64);

type Index<K> = BTreeMap<K, BTreeSet<StationKey>>;

impl Stations {
    /// What a station is from now on; none if it is gone.
    pub(super) fn put(&mut self, key: &StationKey, station: Option<Station>) {
        self.came += 1;
        let mut came = self.came;
        let on = self.on.entry(key.0.clone()).or_default();
        if let Some(had) = on.all.remove(key) {
            if let Some(bearers) = on.with.get_mut(&had.mac) {
                let rank = bearers.remove(key);
                if bearers.is_empty() {
                    on.with.remove(&had.mac);
                }
                let stays = station
                    .as_ref()
                    .is_some_and(|station| station.mac == had.mac);
                came = rank.filter(|_| stays).map_or(came, |(_, came)| came);
            }
            had.name
                .iter()
                .for_each(|name| leave(&mut on.named, name, key));
            had.ips.iter().for_each(|ip| leave(&mut on.at, ip, key));
        }
        if let Some(station) = station {
            if let Some(name) = &station.name {
                on.named
                    .entry(name.clone())
                    .or_default()
                    .insert(key.clone());
            }
            for ip in &station.ips {
                on.at.entry(*ip).or_default().insert(key.clone());
            }
            let is_made = station
                .ips
                .iter()
                .any(|ip| Mac::of_address(*ip) == station.mac);
            let bearers = on.with.entry(station.mac).or_default();
            bearers.insert(key.clone(), (!is_made, came));
            on.all.insert(key.clone(), station);
        }
        if on.all.is_empty() {
            self.on.remove(&key.0);
        }
    }

    pub(super) fn get(&self, key: &StationKey) -> Option<&Station> {
        self.on.get(&key.0)?.all.get(key)
    }

    pub(super) fn all(&self) -> impl Iterator<Item = (&StationKey, &Station)> {
        self.on.values().flat_map(|on| &on.all)
    }

    /// Those on a network.
    pub(super) fn on(&self, net: &NetworkId) -> impl Iterator<Item = (&StationKey, &Station)> {
        self.on.get(net).into_iter().flat_map(|on| &on.all)
    }

    /// Those on a network with this name.
    pub(super) fn named(&self, net: &NetworkId, name: &Name) -> impl Iterator<Item = &StationKey> {
        let keys = self.on.get(net).and_then(|on| on.named.get(name));
        keys.into_iter().flatten()
    }

    /// Those on a network that say that they have an Ethernet address; the one that it is of first.
    pub(super) fn with_mac(&self, net: &NetworkId, mac: Mac) -> Vec<&StationKey> {
        let bearers = self.on.get(net).and_then(|on| on.with.get(&mac));
        let mut bearers: Vec<_> = bearers.into_iter().flatten().collect();
        bearers.sort_by_key(|(_, rank)| **rank);
        bearers.into_iter().map(|(key, _)| key).collect()
    }

    /// Those on a network with an address of these.
    pub(super) fn within(
        &self,
        net: &NetworkId,
        prefix: Prefix,
    ) -> impl Iterator<Item = &StationKey> {
        let on = self.on.get(net).into_iter();
        on.flat_map(move |on| on.at.range(prefix.base()..=prefix.last()))
            .flat_map(|(_, keys)| keys)
    }
}

fn leave<K: Ord>(index: &mut Index<K>, at: &K, key: &StationKey) {
    if let Some(keys) = index.get_mut(at) {
        keys.remove(key);
        if keys.is_empty() {
            index.remove(at);
        }
    }
}
