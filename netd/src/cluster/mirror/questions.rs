//! What the mirror is asked.

use std::collections::BTreeMap;

use netd_model::id::Name;
use netd_model::record::Network;
use netd_model::{NetworkId, Prefix};

use super::super::keys::Key;
use super::super::records::{Claim, Meta, Record, Station};
use super::super::store::Revision;
use super::{Entry, Mirror, is_free, zero_container, zero_network};

impl Mirror {
    /// Which cluster the store says it is.
    pub fn meta(&self) -> Option<&Meta> {
        match self.record(&Key::Meta) {
            Some(Record::Meta(meta)) if self.raw(&Key::Meta).is_some() => Some(meta),
            _ => None,
        }
    }

    /// The last good reading of a key.
    pub fn record(&self, key: &Key) -> Option<&Record> {
        self.entries.get(key)?.record.as_ref()
    }

    /// What the store holds.
    pub fn raw(&self, key: &Key) -> Option<&Vec<u8>> {
        let entry = self.entries.get(key).filter(|entry| !entry.ghost)?;
        Some(&entry.value)
    }

    /// When the store was told it.
    pub fn revision_of(&self, key: &Key) -> Option<Revision> {
        let entry = self.entries.get(key).filter(|entry| !entry.ghost)?;
        Some(entry.revision)
    }

    /// Keys of one host that the store holds.
    pub fn of_node<'a>(&'a self, node: &'a Name) -> impl Iterator<Item = &'a Key> {
        let (net, id) = (zero_network(), zero_container());
        let ends = [Key::Node(node.clone()), Key::Alive(node.clone())];
        let single = ends
            .into_iter()
            .filter_map(|key| self.entries.get_key_value(&key));
        let members = self.entries.range(Key::Member(node.clone(), net.clone())..);
        let endpoints = self.entries.range(Key::Endpoint(node.clone(), net, id)..);
        let is_of = move |(key, _): &(&Key, &Entry)| key.node() == Some(node);
        single
            .chain(members.take_while(is_of))
            .chain(endpoints.take_while(is_of))
            .filter(|(_, entry)| !entry.ghost)
            .map(|(key, _)| key)
    }

    /// The networks.
    pub fn networks(&self) -> impl Iterator<Item = &Network> {
        let range = self.entries.range(Key::Network(zero_network())..);
        range
            .map_while(|(key, entry)| match (key, &entry.record) {
                (Key::Network(_), Some(Record::Network(network))) => Some(Some(&**network)),
                (Key::Network(_), _) => Some(None),
                _ => None,
            })
            .flatten()
    }

    /// The hosts that take part in a network.
    pub fn members<'a>(
        &'a self,
        net: &'a NetworkId,
    ) -> impl Iterator<Item = (&'a Name, &'a Station)> {
        let entries = self.entries.iter();
        entries.filter_map(move |(key, entry)| match (key, &entry.record) {
            (Key::Member(node, of), Some(Record::Station(station)))
                if of == net && !entry.ghost =>
            {
                Some((node, station))
            }
            _ => None,
        })
    }

    /// The claims on a network, those that were given back too.
    pub fn claims<'a>(
        &'a self,
        net: &'a NetworkId,
    ) -> impl Iterator<Item = (Prefix, Option<&'a Claim>)> {
        let first = Prefix::default_route(netd_model::net::Family::V4);
        let range = self.entries.range(Key::Claim(net.clone(), first)..);
        range.map_while(move |(key, entry)| match key {
            Key::Claim(of, prefix) if of == net => {
                let claim = match &entry.record {
                    Some(Record::Claim(claim)) => Some(claim),
                    _ => None,
                };
                Some((*prefix, claim))
            }
            _ => None,
        })
    }

    /// What a host has claimed.
    pub fn claims_of<'a>(&'a self, node: &'a Name) -> impl Iterator<Item = &'a Key> {
        let entries = self.entries.iter();
        entries.filter_map(move |(key, entry)| match &entry.record {
            Some(Record::Claim(claim)) if claim.node.as_ref() == Some(node) => Some(key),
            _ => None,
        })
    }

    /// Whether nobody holds these addresses, as far as is known. Those that this host has yet to give back are among them.
    pub fn is_free(&self, net: &NetworkId, prefix: Prefix) -> bool {
        let key = Key::Claim(net.clone(), prefix);
        match self.entries.get(&key) {
            None => !self.held.contains_key(&key),
            Some(entry) => {
                let is_mine = self.held.contains_key(&key);
                let is_free = is_free(entry) && !is_mine;
                !entry.ghost && (is_free || self.returning.get(&key) == Some(&false))
            }
        }
    }

    /// Whether this host decides on these addresses.
    pub fn holds(&self, net: &NetworkId, prefix: Prefix) -> bool {
        self.held.contains_key(&Key::Claim(net.clone(), prefix))
    }

    /// Claims to be given back, as they were written last. Not those with an address that the store still says is in use
    /// here: who claims them next must not find it told twice.
    pub fn returning(&self) -> Vec<(Key, Revision)> {
        let told = |prefix: Prefix| {
            let me = self.me.iter().flat_map(|(name, _)| self.of_node(name));
            let mut ips = me.filter_map(|key| match self.record(key) {
                Some(Record::Station(station)) => Some(&station.ips),
                _ => None,
            });
            ips.any(|ips| ips.iter().any(|ip| prefix.contains(*ip)))
        };
        let keys = self
            .returning
            .iter()
            .filter_map(|(key, under_way)| match key {
                Key::Claim(_, prefix) if !under_way && !told(*prefix) => Some(key),
                _ => None,
            });
        keys.filter_map(|key| Some((key.clone(), self.revision_of(key)?)))
            .collect()
    }

    /// Who holds these addresses; one that cannot be read is somebody.
    pub fn holder(&self, net: &NetworkId, prefix: Prefix) -> Option<&Claim> {
        match self.record(&Key::Claim(net.clone(), prefix))? {
            Record::Claim(claim) if claim.node.is_some() => Some(claim),
            _ => None,
        }
    }

    /// Records by kind.
    pub fn kinds(&self) -> BTreeMap<&'static str, usize> {
        let mut kinds = BTreeMap::new();
        for (key, _) in self.entries.iter().filter(|(_, e)| e.record.is_some()) {
            let kind = match key {
                Key::Meta => continue,
                Key::Node(_) => "node",
                Key::Alive(_) => "alive",
                Key::Removed(..) => "removed",
                Key::Network(_) => "network",
                Key::Member(..) => "member",
                Key::Endpoint(..) => "endpoint",
                Key::Claim(..) => "claim",
            };
            *kinds.entry(kind).or_default() += 1;
        }
        kinds
    }

    /// Networks and own claims that the store forgot.
    pub fn lost(&self) -> Vec<(Key, Vec<u8>)> {
        let ghosts = self
            .entries
            .iter()
            .filter(|(key, entry)| entry.ghost && matches!(key, Key::Network(_)));
        let networks = ghosts.map(|(key, entry)| (key.clone(), entry.value.clone()));
        let claims = self
            .lost_claims
            .iter()
            .filter(|key| !self.contested.contains(*key));
        let claims = claims.filter_map(|key| Some((key.clone(), self.held.get(key)?.clone())));
        networks.chain(claims).collect()
    }
}
