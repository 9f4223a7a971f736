//! What is known of the stations of all hosts, found by network, by name and by addresses without a look at all of them.

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
}

#[derive(Debug, Default)]
struct OnNetwork {
    all: BTreeMap<StationKey, Station>,
    /// Containers by the name they go by.
    named: Index<Name>,
    at: Index<IpAddr>,
    with: Index<Mac>,
}

type Index<K> = BTreeMap<K, BTreeSet<StationKey>>;

impl Stations {
    /// What a station is from now on; none if it is gone.
    pub(super) fn put(&mut self, key: &StationKey, station: Option<Station>) {
        let on = self.on.entry(key.0.clone()).or_default();
        if let Some(had) = on.all.remove(key) {
            had.name
                .iter()
                .for_each(|name| leave(&mut on.named, name, key));
            had.ips.iter().for_each(|ip| leave(&mut on.at, ip, key));
            leave(&mut on.with, &had.mac, key);
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
            on.with.entry(station.mac).or_default().insert(key.clone());
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

    /// Those on a network with this Ethernet address.
    pub(super) fn with(&self, net: &NetworkId, mac: Mac) -> impl Iterator<Item = &StationKey> {
        let keys = self.on.get(net).and_then(|on| on.with.get(&mac));
        keys.into_iter().flatten()
    }

    /// Those on a network with this address.
    pub(super) fn at(&self, net: &NetworkId, ip: IpAddr) -> impl Iterator<Item = &StationKey> {
        let keys = self.on.get(net).and_then(|on| on.at.get(&ip));
        keys.into_iter().flatten()
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
