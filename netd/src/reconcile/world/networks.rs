//! Networks: their subnets, their names, when they may go.

use ipnetwork::IpNetwork;
use netd_ipam::{AutoRange, Pool};
use netd_model::error::{Code, Error, Result};
use netd_model::net::{Family, Prefix};
use netd_model::record::{Driver, Network, PREDEFINED, Phase, Subnet};
use netd_model::request::{CreateNetwork, check_gateways, meaning};
use netd_model::{ContainerId, NetworkId};
use std::collections::BTreeSet;

use super::pools::{Net, ipam_error};
use super::{World, find};

impl World {
    pub(crate) fn networks(&self) -> impl Iterator<Item = &Network> {
        self.networks.values().map(|net| &net.record)
    }

    pub(crate) fn network(&self, id: &NetworkId) -> Option<&Network> {
        self.networks.get(id).map(|net| &net.record)
    }

    pub(crate) fn members(&self, id: &NetworkId) -> impl Iterator<Item = &ContainerId> {
        self.networks
            .get(id)
            .into_iter()
            .flat_map(|net| &net.members)
    }

    /// The network with this id, name, or unique prefix of an id.
    pub(crate) fn find_network(&self, reference: &str) -> Result<NetworkId> {
        if let Some((id, _)) = self.networks.get_key_value(reference) {
            return Ok(id.clone());
        }
        if let Some(id) = self.network_names.get(reference) {
            return Ok(id.clone());
        }
        if let Some(error) = meaning(reference) {
            return Err(error);
        }
        find(
            reference,
            &self.networks,
            "network",
            Code::NetworkNotFound,
            "netctl network ls",
        )
    }

    /// The record of a network to be created: its subnets chosen, everything checked. Changes nothing.
    pub(crate) fn plan_network(
        &self,
        request: &CreateNetwork,
        id: NetworkId,
        random: u32,
    ) -> Result<Network> {
        if self.network_names.contains_key(&request.name) {
            return Err(Error::new(
                Code::NetworkExists,
                format!(
                    "network {} exists: choose another name, or remove it first",
                    request.name
                ),
            ));
        }
        let interface = request
            .bridge
            .clone()
            .unwrap_or_else(|| Network::default_interface(&id));
        if let Some(other) = self.networks().find(|other| other.interface == interface) {
            return Err(Error::new(
                Code::IfnameInUse,
                format!(
                    "bridge {interface} belongs to network {}: choose another name",
                    other.name
                ),
            ));
        }
        let overlay = self.plan_overlay(request, random)?;
        let subnets = self.subnets(request)?;
        let prefixes: Vec<Prefix> = subnets.iter().map(|s| s.subnet).collect();
        check_gateways(&request.routes, &prefixes)?;
        Ok(Network {
            subnets,
            routes: request.routes.clone(),
            access: request.access.clone(),
            reservations: std::collections::BTreeMap::new(),
            name: request.name.clone(),
            driver: request.driver,
            internal: request.internal,
            mode: request.modes[0],
            mode6: Some(request.modes[1]).filter(|mode6| *mode6 != request.modes[0]),
            policy: request.policy.clone(),
            mtu: match &overlay {
                Some((_, mtu)) => *mtu,
                None => request.mtu.or(self.facts.uplink_mtu).unwrap_or(1500),
            },
            overlay: overlay.map(|(overlay, _)| overlay),
            dns: request.dns.clone(),
            naming: request.naming.clone(),
            labels: request.labels.clone(),
            unknown: serde_json::Map::new(),
            interface,
            id,
        })
    }

    fn subnets(&self, request: &CreateNetwork) -> Result<Vec<Subnet>> {
        if request.families.contains(&Family::V6) && !self.facts.ipv6 {
            return Err(Error::new(
                Code::InvalidIpv6,
                format!(
                    "network {}: IPv6 is switched off on this host: boot without ipv6.disable=1, or leave it out",
                    request.name
                ),
            ));
        }
        let mut subnets = Vec::new();
        for family in request.families.iter().copied() {
            let specs = request.subnets.iter();
            let mut specs = specs
                .filter(|spec| spec.subnet.family() == family)
                .peekable();
            if specs.peek().is_none() {
                subnets.push(self.automatic_subnet(family)?);
            }
            for spec in specs {
                self.check_overlap(request, spec.subnet)?;
                subnets.push(spec.with_gateway());
            }
        }
        Ok(subnets)
    }

    /// An automatic subnet avoids every network, every route of the host and its resolvers; one that was asked for
    /// may cover a route (a VPN's default route in two halves does that), but no other network.
    fn check_overlap(&self, request: &CreateNetwork, subnet: Prefix) -> Result<()> {
        let other = self.networks().find_map(|other| {
            other
                .subnets
                .iter()
                .find(|s| s.subnet.overlaps(subnet))
                .map(|s| (other, s.subnet))
        });
        if let Some(theirs) = self.orphans.subnets.iter().find(|s| s.overlaps(subnet)) {
            return Err(Error::new(
                Code::SubnetInUse,
                format!(
                    "subnet {subnet} overlaps {theirs} of a bridge of netd's that is on no record: choose another, or \
                     remove what is left with `netctl purge`"
                ),
            ));
        }
        if let Some((other, theirs)) = other {
            return Err(Error::new(
                Code::SubnetInUse,
                format!(
                    "subnet {subnet} overlaps {theirs} of network {}: choose another",
                    other.name
                ),
            ));
        }
        if request.driver == Driver::Ipam {
            // Its addresses do live somewhere else, such as in the host's own LAN.
            return Ok(());
        }
        // A connected route of the same or a smaller prefix means the addresses live somewhere else.
        if let Some(route) = self
            .facts
            .routes
            .iter()
            .find(|route| subnet.covers(**route))
        {
            return Err(Error::new(
                Code::SubnetInUse,
                format!("subnet {subnet} overlaps the host's route to {route}: choose another"),
            ));
        }
        Ok(())
    }

    fn automatic_subnet(&self, family: Family) -> Result<Subnet> {
        let mut avoid: Vec<IpNetwork> = self
            .facts
            .routes
            .iter()
            .map(|route| route.network())
            .collect();
        avoid.extend(self.facts.resolvers.iter().map(|ip| IpNetwork::from(*ip)));
        avoid.extend(
            self.networks()
                .flat_map(|net| net.subnets.iter().map(|s| s.subnet.network())),
        );
        avoid.extend(self.orphans.subnets.iter().map(|subnet| subnet.network()));
        let picked = match family {
            Family::V4 => netd_ipam::pick(&AutoRange::default_v4(), &avoid),
            Family::V6 => {
                AutoRange::default_v6(self.ula).and_then(|range| netd_ipam::pick(&[range], &avoid))
            }
        };
        let subnet = Prefix::from(picked.map_err(ipam_error)?);
        Ok(netd_model::request::SubnetSpec {
            subnet,
            gateway: None,
            ip_range: None,
        }
        .with_gateway())
    }

    pub(crate) fn insert_network(&mut self, record: Network) -> Result<()> {
        // The addresses of an overlay are those that this host claims.
        let whole = record.subnets.iter().filter(|_| record.overlay.is_none());
        let pools = whole
            .map(|s| {
                Pool::new(
                    s.subnet.network(),
                    s.ip_range.map(Prefix::network),
                    record.gateway_of(s.subnet.base()),
                    &[],
                )
                .map_err(ipam_error)
            })
            .collect::<Result<Vec<_>>>()?;
        self.network_names
            .insert(record.name.clone(), record.id.clone());
        let macs = [record.mac()].into();
        let mut net = Net {
            record,
            pools,
            members: BTreeSet::new(),
            macs,
            lost: BTreeSet::new(),
        };
        net.keep_all()?;
        self.networks.insert(net.record.id.clone(), net);
        Ok(())
    }

    pub(crate) fn remove_network(&mut self, id: &NetworkId) -> Option<Network> {
        let net = self.networks.remove(id)?;
        self.network_names.remove(&net.record.name);
        self.going.remove(id);
        self.forget_claims(id);
        Some(net.record)
    }

    /// Whether a network may be removed.
    pub(crate) fn check_removal(&self, id: &NetworkId) -> Result<()> {
        let Some(net) = self.networks.get(id) else {
            return Ok(());
        };
        if net.record.is_predefined() {
            return Err(Error::new(
                Code::NetworkPredefined,
                format!(
                    "network {PREDEFINED} is predefined and always exists: it cannot be removed"
                ),
            ));
        }
        let orphans: Vec<&str> = self.orphans.on(id).map(ContainerId::short).collect();
        if net.members.is_empty() && !orphans.is_empty() {
            return Err(Error::new(
                Code::NetworkInUse,
                format!(
                    "network {} has containers on no record ({}): end them first, attach them again with their ids, or \
                     remove everything with `netctl purge`",
                    net.record.name,
                    orphans.join(", ")
                ),
            ));
        }
        if net.members.is_empty() {
            return Ok(());
        }
        let names: Vec<&str> = net
            .members
            .iter()
            .filter_map(|id| self.containers.get(id))
            .map(|c| c.name.as_str())
            .take(5)
            .collect();
        let more = net.members.len().saturating_sub(names.len());
        let rest = if more > 0 {
            format!(" and {more} more")
        } else {
            String::new()
        };
        Err(Error::new(
            Code::NetworkInUse,
            format!(
                "network {} has containers ({}{rest}): detach them first",
                net.record.name,
                names.join(", ")
            ),
        ))
    }

    /// Whether one more container finds a port of the bridge and an address.
    pub(crate) fn check_room(&self, id: &NetworkId) -> Result<()> {
        let Some(net) = self.networks.get(id) else {
            return Ok(());
        };
        let name = &net.record.name;
        if net.members.len() >= super::BRIDGE_PORTS_MAX && net.record.driver != Driver::Ipam {
            return Err(Error::new(
                Code::NetworkFull,
                format!("network {name} has as many containers as a bridge takes"),
            ));
        }
        // An overlay's are those that are claimed when they are needed.
        match net.record.overlay {
            Some(_) => Ok(()),
            None => net.check_room(),
        }
    }

    /// Whether a network's objects are in the kernel: the predefined network's come with its first container and leave
    /// with its last, so that a host on which nothing is attached holds nothing.
    pub(crate) fn is_present(&self, id: &NetworkId) -> bool {
        let stays = |id: &ContainerId| {
            self.containers
                .get(id)
                .is_none_or(|c| c.phase != Phase::Detaching)
        };
        self.networks.get(id).is_some_and(|net| {
            let stands =
                net.record.overlay.is_none() || netd_model::overlay::parts(&net.record).is_some();
            let used = net.members.iter().any(stays) || self.has_orphans(id);
            stands && (!net.record.comes_and_goes() || used)
        }) && !self.going.contains(id)
    }

    /// Whether containers on no record are on it: they run on, so it stays.
    pub(crate) fn has_orphans(&self, id: &NetworkId) -> bool {
        self.orphans.on(id).next().is_some()
    }

    /// Nothing of this network is wanted any more: it goes as soon as that can be done.
    pub(crate) fn set_going(&mut self, id: &NetworkId) {
        self.going.insert(id.clone());
    }

    /// The networks that could not be removed, or not be made, completely.
    pub(crate) fn going(&self) -> impl Iterator<Item = &Network> {
        self.going.iter().filter_map(|id| self.network(id))
    }
}
