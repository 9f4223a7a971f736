//! What is left in the kernel of containers that are on no record: their run-dir was wiped, or their record is damaged.
//!
//! They run on (invariant I7), so what they use is nobody else's: addresses, MACs, host ports, the bridge they are on. It
//! is free again when the kernel shows it no more, or when a container of the same id is attached again. When its links
//! are gone it has ended, and an audit removes the rest.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;
use std::time::Duration;

use netd_model::desired;
use netd_model::diff::diff;
use netd_model::error::{Code, Error, Result};
use netd_model::net::{Family, Mac, Prefix, Proto};
use netd_model::observed::Observed;
use netd_model::record::{Container, Port};
use netd_model::{ContainerId, NetworkId, Ns, Object, Op, Owner};

use super::World;

/// The orphans that the last look found.
#[derive(Debug, Default)]
pub(super) struct Orphans {
    objects: BTreeMap<ContainerId, Vec<Object>>,
    /// Addresses that are taken in the pools for them.
    held: BTreeMap<(NetworkId, IpAddr), ContainerId>,
    /// Subnets of bridges whose network is on no record.
    pub(super) subnets: Vec<Prefix>,
}

impl Orphans {
    /// The containers with an interface on a network.
    pub(super) fn on<'a>(
        &'a self,
        network: &'a NetworkId,
    ) -> impl Iterator<Item = &'a ContainerId> {
        let is_there = move |object: &Object| match object {
            Object::Link(link) => {
                matches!(&link.owner, Owner::Endpoint(_, net) if net == network)
            }
            _ => false,
        };
        let found = self
            .objects
            .iter()
            .filter(move |(_, objects)| objects.iter().any(is_there));
        found.map(|(id, _)| id)
    }

    /// Whether an address stays taken although a container gives it back.
    pub(super) fn holds(&self, network: &NetworkId, ip: IpAddr) -> bool {
        self.held.contains_key(&(network.clone(), ip))
    }

    /// The address that an orphan of this id has: the container gets it again.
    pub(super) fn address_of(
        &self,
        id: &ContainerId,
        network: &NetworkId,
        family: Family,
    ) -> Option<IpAddr> {
        let mut held = self.held.iter();
        let (key, _) = held.find(|((net, ip), holder)| {
            net == network && Family::of(*ip) == family && *holder == id
        })?;
        Some(key.1)
    }

    /// The other container that has this address.
    pub(super) fn holder(
        &self,
        network: &NetworkId,
        ip: IpAddr,
        id: &ContainerId,
    ) -> Option<&ContainerId> {
        let holder = self.held.get(&(network.clone(), ip));
        holder.filter(|holder| *holder != id)
    }

    /// Whether another container than this one has the MAC on a network.
    pub(super) fn has_mac(&self, network: &NetworkId, mac: Mac, id: &ContainerId) -> bool {
        let others = self.objects.iter().filter(|(other, _)| *other != id);
        others.flat_map(|(_, objects)| objects).any(|object| {
            matches!(object, Object::Link(link) if link.ns != Ns::Host && link.mac == mac
                && matches!(&link.owner, Owner::Endpoint(_, net) if net == network))
        })
    }
}

impl World {
    /// Takes over what a look found of containers on no record. Objects whose owner is not `stable` were being changed
    /// meanwhile; what could not be looked into is as it was.
    pub(crate) fn set_orphans(
        &mut self,
        observed: &Observed,
        stable: impl Fn(&Owner) -> bool,
        now: Duration,
    ) {
        let mut objects: BTreeMap<ContainerId, Vec<Object>> = BTreeMap::new();
        let unmarked = |object: &Object| matches!(object, Object::Sysctl(_) | Object::Loopback(_));
        let old = std::mem::take(&mut self.orphans.objects);
        let unseen = old.into_values().flatten().filter(
            |object| matches!(object.ns(), Ns::Container(id) if observed.unseen.contains(&id)),
        );
        for object in observed.objects.values().cloned().chain(unseen) {
            let id = object.owner().container().cloned();
            if let Some(id) = id.filter(|id| !self.containers.contains_key(id))
                && stable(object.owner())
                && !unmarked(&object)
            {
                objects.entry(id).or_default().push(object);
            }
        }
        self.orphans.objects = objects;
        self.set_orphan_subnets(observed);
        self.hold_addresses(now);
    }

    /// Takes over which bridges of netd's are of no network on record.
    pub(crate) fn set_orphan_subnets(&mut self, observed: &Observed) {
        self.orphans.subnets = observed
            .objects
            .values()
            .filter_map(|object| match object {
                Object::Address(address) if !self.knows(&address.owner) => {
                    matches!(address.owner, Owner::Network(_))
                        .then(|| Prefix::holding(address.ip, address.prefix_len))
                }
                _ => None,
            })
            .collect();
    }

    /// Takes the orphans' addresses out of the pools, and gives those back that are no orphan's any more.
    fn hold_addresses(&mut self, now: Duration) {
        let mut used = BTreeMap::new();
        for (id, objects) in &self.orphans.objects {
            for object in objects {
                used.extend(self.address(object).map(|key| (key, id.clone())));
            }
        }
        let old = std::mem::take(&mut self.orphans.held);
        let mut held = BTreeMap::new();
        for (key, id) in used {
            let pools = self.networks.get_mut(&key.0).map(|net| &mut net.pools);
            let pool = pools.and_then(|pools| pools.iter_mut().find(|p| p.contains(key.1)));
            // One that a container on record has stays that container's.
            if old.contains_key(&key) || pool.is_some_and(|pool| pool.claim(key.1).is_ok()) {
                held.insert(key, id);
            }
        }
        for key in old.into_keys().filter(|key| !held.contains_key(key)) {
            self.rest(&key, now);
        }
        self.orphans.held = held;
    }

    /// The address that an object of a container shows to be in use, and where: its own, or the target of a published
    /// port, which would lead to whoever has it next.
    fn address(&self, object: &Object) -> Option<(NetworkId, IpAddr)> {
        match object {
            Object::Address(address) => match &address.owner {
                Owner::Endpoint(_, net) => Some((net.clone(), address.ip)),
                _ => None,
            },
            Object::Element(element) => {
                let ip = desired::published_to(element)?;
                let holds = |net: &&super::Net| net.pools.iter().any(|pool| pool.contains(ip));
                let net = self.networks.values().find(holds)?;
                Some((net.record.id.clone(), ip))
            }
            _ => None,
        }
    }

    fn rest(&mut self, (network, ip): &(NetworkId, IpAddr), now: Duration) {
        let pools = self.networks.get_mut(network).map(|net| &mut net.pools);
        let pool = pools.and_then(|pools| pools.iter_mut().find(|pool| pool.contains(*ip)));
        if let Some(Err(error)) = pool.map(|pool| pool.release(*ip, now)) {
            tracing::error!(%ip, %error, "an orphan's address was given back twice");
        }
    }

    /// Whether an owner is a container on no record that has ended: its links are gone, and what else is left of it leads
    /// nowhere.
    pub(crate) fn has_ended(&self, owner: &Owner) -> bool {
        let is_link = |object: &Object| matches!(object, Object::Link(_));
        let objects = owner
            .container()
            .and_then(|id| self.orphans.objects.get(id));
        objects.is_some_and(|objects| !objects.iter().any(is_link))
    }

    /// What an attach of this id removes first.
    pub(crate) fn orphan_removal(&self, id: &ContainerId) -> Vec<Op> {
        let mut held = Observed::default();
        let objects = self.orphans.objects.get(id).into_iter().flatten();
        objects.cloned().for_each(|object| held.insert(object));
        diff(&[], &held, |_| true).ops
    }

    /// The container is attached again: it has its addresses by itself now.
    pub(crate) fn forget_orphan(&mut self, id: &ContainerId, now: Duration) {
        self.orphans.objects.remove(id);
        let endpoints = self.containers.get(id).map(|c| c.endpoints.as_slice());
        let has = |(net, ip): &(NetworkId, IpAddr)| {
            let mut endpoints = endpoints.into_iter().flatten();
            endpoints.any(|e| e.network == *net && e.ips.contains(ip))
        };
        let (mut kept, mut over) = (BTreeMap::new(), BTreeSet::new());
        for (key, holder) in std::mem::take(&mut self.orphans.held) {
            if holder != *id {
                kept.insert(key, holder);
            } else if !has(&key) {
                over.insert(key);
            }
        }
        self.orphans.held = kept;
        over.iter().for_each(|key| self.rest(key, now));
    }

    /// Everything was purged.
    pub(crate) fn forget_orphans(&mut self, now: Duration) {
        self.orphans.objects.clear();
        self.orphans.subnets.clear();
        self.hold_addresses(now);
    }

    /// The ports that lead to other containers on no record than this one.
    fn published_by_others(&self, id: &ContainerId) -> impl Iterator<Item = (&ContainerId, Port)> {
        let others = self.orphans.objects.iter();
        others
            .filter(move |(other, _)| *other != id)
            .flat_map(|(id, objects)| {
                objects.iter().filter_map(move |object| match object {
                    Object::Element(element) => Some((id, desired::published(element)?)),
                    _ => None,
                })
            })
    }

    /// Host ports that netd does not choose by itself: they lead to orphans.
    pub(super) fn orphan_ports(&self, id: &ContainerId) -> Vec<(Proto, u16)> {
        let ports = self.published_by_others(id);
        ports
            .map(|(_, port)| (port.proto, port.host_port))
            .collect()
    }

    /// A host port that still leads to an orphan is not free.
    pub(super) fn check_orphan_ports(&self, container: &Container) -> Result<()> {
        for (id, held) in self.published_by_others(&container.id) {
            if let Some(port) = container.ports.iter().find(|port| port.conflicts(&held)) {
                return Err(Error::new(
                    Code::PortInUse,
                    format!(
                        "host port {port} leads to container {}, which is on no record: choose another host port, or \
                         attach that container again with its id",
                        id.short()
                    ),
                )
                .with("container", id.to_string()));
            }
        }
        Ok(())
    }
}
