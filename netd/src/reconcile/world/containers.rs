//! Containers: what an attach reserves and a detach gives back.

use std::net::IpAddr;
use std::time::Duration;

use netd_model::desired::{self, FAMILIES};
use netd_model::error::{Code, Error, Result};
use netd_model::id::shorten;
use netd_model::net::{IfName, Mac, Prefix, Proto};
use netd_model::record::{Container, Driver, Endpoint, Network, Phase};
use netd_model::request::{Attach, Join, Publish};
use netd_model::{ContainerId, NetworkId};

use super::pools::ipam_error;
use super::{BRIDGE_PORTS_MAX, GiveBack, Net, Orphans, World, find};

impl World {
    pub(crate) fn containers(&self) -> impl Iterator<Item = &Container> {
        self.containers.values()
    }

    pub(crate) fn container(&self, id: &ContainerId) -> Option<&Container> {
        self.containers.get(id)
    }

    /// The container with this id, name, or unique prefix of an id.
    pub(crate) fn find_container(&self, reference: &str) -> Result<ContainerId> {
        if let Some((id, _)) = self.containers.get_key_value(reference) {
            return Ok(id.clone());
        }
        if let Some(id) = self.container_names.get(reference) {
            return Ok(id.clone());
        }
        find(
            reference,
            &self.containers,
            "container",
            Code::ContainerNotFound,
            "netctl ps",
        )
    }

    /// Reserves everything an attach needs; on an error nothing is reserved. `avoid` are host ports that another program
    /// turned out to hold: netd does not choose them.
    pub(crate) fn reserve(
        &mut self,
        attach: Attach,
        id: ContainerId,
        identity: (u64, u64),
        now: Duration,
        avoid: &[(Proto, u16)],
    ) -> Result<&Container> {
        self.check_free(&attach, &id, identity)?;
        let avoid = [avoid, &self.orphan_ports(&id)].concat();
        let ports = self.ports.choose(&attach.publish, &avoid, &self.facts)?;
        let mut container = Container {
            name: attach.name.clone(),
            hostname: attach.hostname.clone(),
            netns: attach.netns.clone(),
            netns_identity: identity,
            endpoints: Vec::new(),
            ports,
            dns: attach.dns.clone(),
            extra_hosts: attach.extra_hosts.clone(),
            labels: attach.labels.clone(),
            phase: Phase::Attaching,
            unknown: serde_json::Map::new(),
            id,
            request: attach,
        };
        let joins = container.request.networks.clone();
        for join in joins {
            match self.join(&container, &join, now) {
                Ok(endpoint) => container.endpoints.push(endpoint),
                Err(error) => {
                    self.give_back(&container, GiveBack::Unused);
                    return Err(error);
                }
            }
        }
        let ports = self.check_publish(&container);
        if let Err(error) = ports.and_then(|()| self.check_orphan_ports(&container)) {
            self.give_back(&container, GiveBack::Unused);
            return Err(error);
        }
        Ok(self.insert(container))
    }

    fn check_free(&self, attach: &Attach, id: &ContainerId, identity: (u64, u64)) -> Result<()> {
        if let Some(other) = self.container_names.get(&attach.name) {
            return Err(Error::new(
                Code::ContainerExists,
                format!(
                    "container {} exists with id {}: choose another name, or detach it first",
                    attach.name,
                    other.short()
                ),
            ));
        }
        if self.containers.contains_key(id) {
            return Err(Error::new(
                Code::ContainerExists,
                format!("container {} exists: detach it first", shorten(id)),
            ));
        }
        if let Some(other) = self
            .sandboxes
            .get(&identity)
            .and_then(|other| self.containers.get(other))
        {
            return Err(Error::new(
                Code::NetnsInUse,
                format!(
                    "network namespace {} belongs to container {}: one namespace is one container; use `connect` to add networks",
                    attach.netns, other.name
                ),
            ));
        }
        for port in attach.publish.iter().filter_map(Publish::exact) {
            if let Some((other, held)) = self.ports.holder(&port) {
                let name = self
                    .containers
                    .get(other)
                    .map_or_else(|| other.short(), |c| c.name.as_str());
                return Err(Error::new(
                    Code::PortInUse,
                    format!("host port {port} is published by container {name} as {held}: choose another host port"),
                )
                .with("container", name));
            }
        }
        Ok(())
    }

    fn check_publish(&self, container: &Container) -> Result<()> {
        let network = |id: &NetworkId| self.network(id);
        for port in &container.ports {
            let way = |family| desired::way(container, port, family, network, &self.facts);
            let served = FAMILIES.into_iter().any(|family| way(family).is_some());
            if !served {
                return Err(Error::new(
                    Code::InvalidPublish,
                    format!(
                        "port {port} cannot be published: {} has no address of that family on a network that it can leave (not internal, not isolated)",
                        container.name
                    ),
                ));
            }
        }
        Ok(())
    }

    /// Reserves one endpoint for a container that is not, or not yet with it, in the tables.
    fn join(&mut self, container: &Container, join: &Join, now: Duration) -> Result<Endpoint> {
        let id = self.find_network(&join.network)?;
        if self.going.contains(&id) {
            return Err(Error::new(
                Code::NetworkNotFound,
                format!(
                    "network {} is being removed: choose another, or create it again when it is gone",
                    shorten(&join.network)
                ),
            ));
        }
        let Some(net) = self.networks.get_mut(&id) else {
            return Err(Error::new(
                Code::Internal,
                format!("network {id} vanished during an attach"),
            ));
        };
        check_joinable(net, container, join)?;
        let ifname = free_ifname(container, join)?;
        let orphans = &self.orphans;
        check_orphans(orphans, &net.record, container, join)?;
        check_allowed(&net.record, join)?;
        let join = &net.with_kept(&container.name, join);
        // Attached again, an orphan gets what it had.
        let had = |family| orphans.address_of(&container.id, &id, family);
        let ips = net.addresses(join, &container.name, had, now)?;
        let mac = join
            .mac
            .or_else(|| ips.first().map(|ip| Mac::of_address(*ip)));
        let is_free = |mac: &Mac| {
            let kept = net.mac_kept_for(*mac);
            !net.macs.contains(mac)
                && kept.is_none_or(|name| *name == container.name)
                && !orphans.has_mac(&id, *mac, &container.id)
        };
        let Some(mac) = mac.filter(is_free) else {
            let ips: Vec<IpAddr> = ips
                .into_iter()
                .filter(|ip| !orphans.holds(&id, *ip))
                .collect();
            net.give_back(&ips, GiveBack::Unused);
            let text = mac.map_or_else(String::new, |mac| mac.to_string());
            return Err(Error::new(
                Code::MacInUse,
                format!(
                    "MAC address {text} is in use on network {}: choose another",
                    net.record.name
                ),
            ));
        };
        net.macs.insert(mac);
        net.members.insert(container.id.clone());
        Ok(Endpoint {
            host_ifname: Endpoint::host_ifname(&container.id, &id),
            network: id,
            aliases: join.aliases.clone(),
            cni: join.cni.clone(),
            allow: join.allow.clone(),
            gw_priority: join.gw_priority,
            sysctls: join.sysctls.clone(),
            unknown: serde_json::Map::new(),
            ifname,
            mac,
            ips,
        })
    }

    fn insert(&mut self, container: Container) -> &Container {
        self.container_names
            .insert(container.name.clone(), container.id.clone());
        self.sandboxes
            .insert(container.netns_identity, container.id.clone());
        self.ports.enter(&container.id, &container.ports);
        let id = container.id.clone();
        self.containers.entry(id).insert_entry(container).into_mut()
    }

    /// Takes a container from a record of an earlier daemon. Its addresses are claimed as they are.
    pub(crate) fn adopt(&mut self, container: Container) -> Result<()> {
        for endpoint in &container.endpoints {
            let Some(net) = self.networks.get_mut(&endpoint.network) else {
                return Err(Error::new(
                    Code::StateDamaged,
                    format!(
                        "container {} is on network {}, which is not on record",
                        container.name, endpoint.network
                    ),
                ));
            };
            let free = endpoint
                .ips
                .iter()
                .filter(|ip| net.kept_for(**ip).is_none());
            let free: Vec<_> = free.copied().collect();
            for ip in &free {
                if let Some(pool) = net.pool_of(*ip) {
                    pool.adopt(*ip).map_err(ipam_error)?;
                    // The round goes on behind the highest, for the last one released is not known.
                    if *ip >= pool.cursor() {
                        pool.set_cursor(*ip);
                    }
                }
            }
            net.macs.insert(endpoint.mac);
            net.members.insert(container.id.clone());
        }
        let asked = container.request.publish.iter().zip(&container.ports);
        let chosen = asked.filter(|(asked, _)| asked.choice().is_none());
        // As with addresses: behind the highest.
        let highest = chosen.map(|(_, port)| port.host_port).max();
        self.ports
            .set_last(self.ports.last().max(highest.unwrap_or(0)));
        self.insert(container);
        Ok(())
    }

    pub(crate) fn set_phase(&mut self, id: &ContainerId, phase: Phase) {
        if let Some(container) = self.containers.get_mut(id) {
            container.phase = phase;
        }
    }

    /// Takes a container out and gives its addresses back.
    pub(crate) fn remove_container(
        &mut self,
        id: &ContainerId,
        how: GiveBack,
    ) -> Option<Container> {
        let container = self.containers.remove(id)?;
        self.container_names.remove(&container.name);
        self.sandboxes.remove(&container.netns_identity);
        self.ports.leave(id, &container.ports);
        self.give_back(&container, how);
        Some(container)
    }

    fn give_back(&mut self, container: &Container, how: GiveBack) {
        for endpoint in &container.endpoints {
            self.give_back_endpoint(&container.id, endpoint, how);
        }
    }

    fn give_back_endpoint(&mut self, id: &ContainerId, endpoint: &Endpoint, how: GiveBack) {
        if let Some(net) = self.networks.get_mut(&endpoint.network) {
            // What the kernel still shows of an earlier life of the container stays taken.
            let ips = endpoint.ips.iter().copied();
            let ips: Vec<IpAddr> = ips
                .filter(|ip| !self.orphans.holds(&endpoint.network, *ip))
                .collect();
            net.give_back(&ips, how);
            net.macs.remove(&endpoint.mac);
            net.members.remove(id);
        }
    }

    /// Adds one endpoint to a container and returns its new record.
    pub(crate) fn connect(
        &mut self,
        id: &ContainerId,
        join: &Join,
        now: Duration,
    ) -> Result<&Container> {
        let Some(container) = self.containers.get(id).cloned() else {
            return Err(vanished(id));
        };
        let endpoint = self.join(&container, join, now)?;
        let entry = self
            .containers
            .entry(id.clone())
            .and_modify(|container| container.endpoints.push(endpoint));
        match entry {
            std::collections::btree_map::Entry::Occupied(held) => Ok(held.into_mut()),
            std::collections::btree_map::Entry::Vacant(_) => Err(vanished(id)),
        }
    }

    /// Takes one endpoint away and returns the container's new record.
    pub(crate) fn disconnect(
        &mut self,
        id: &ContainerId,
        network: &NetworkId,
        how: GiveBack,
    ) -> Result<&Container> {
        let Some(container) = self.containers.get_mut(id) else {
            return Err(vanished(id));
        };
        let Some(at) = container
            .endpoints
            .iter()
            .position(|e| e.network == *network)
        else {
            let name = self
                .networks
                .get(network)
                .map_or(network.as_str(), |net| net.record.name.as_str());
            return Err(Error::new(
                Code::EndpointNotFound,
                format!("container {} is not on network {name}", container.name),
            ));
        };
        let endpoint = container.endpoints.remove(at);
        self.give_back_endpoint(id, &endpoint, how);
        self.containers.get(id).ok_or_else(|| vanished(id))
    }

    /// Gives an endpoint another Ethernet address and returns the container's new record; none if the address is in use.
    pub(crate) fn change_mac(
        &mut self,
        id: &ContainerId,
        network: &NetworkId,
        mac: Mac,
    ) -> Option<&Container> {
        let net = self.networks.get_mut(network)?;
        let container = self.containers.get_mut(id)?;
        let mut endpoints = container.endpoints.iter_mut();
        let endpoint = endpoints.find(|e| e.network == *network)?;
        if mac == net.record.mac() || !net.macs.insert(mac) {
            return None;
        }
        net.macs.remove(&endpoint.mac);
        endpoint.mac = mac;
        self.containers.get(id)
    }

    /// A container publishes nothing any more.
    pub(crate) fn drop_ports(&mut self, id: &ContainerId) {
        if let Some(container) = self.containers.get_mut(id) {
            let ports = std::mem::take(&mut container.ports);
            self.ports.leave(id, &ports);
        }
    }

    /// Whether a container without this endpoint can still publish its ports.
    pub(crate) fn check_disconnect(&self, id: &ContainerId, network: &NetworkId) -> Result<()> {
        let Some(mut container) = self.containers.get(id).cloned() else {
            return Err(vanished(id));
        };
        container.endpoints.retain(|e| e.network != *network);
        self.check_publish(&container)
    }
}

fn vanished(id: &ContainerId) -> Error {
    Error::new(
        Code::ContainerNotFound,
        format!("container {} is gone", id.short()),
    )
}

/// Whether a network takes a container as it wants to join.
fn check_joinable(net: &Net, container: &Container, join: &Join) -> Result<()> {
    let address_only = join.cni.as_ref().is_some_and(|cni| cni.address_only);
    if (net.record.driver == Driver::Ipam) != address_only {
        let (what, remedy) = if address_only {
            (
                "has interfaces of its own",
                "attach the container to it by netd-cni",
            )
        } else {
            ("keeps addresses only", "choose one of driver bridge")
        };
        return Err(Error::new(
            Code::InvalidNetwork,
            format!("network {} {what}: {remedy}", net.record.name),
        ));
    }
    if container
        .endpoints
        .iter()
        .any(|e| e.network == net.record.id)
    {
        return Err(Error::new(
            Code::EndpointExists,
            format!(
                "container {} is on network {} already",
                container.name, net.record.name
            ),
        ));
    }
    if net.members.len() >= BRIDGE_PORTS_MAX && !address_only {
        return Err(Error::new(
            Code::NetworkFull,
            format!(
                "network {} has {BRIDGE_PORTS_MAX} containers, as many as a bridge takes: use a second network",
                net.record.name
            ),
        ));
    }
    Ok(())
}

/// Whether an address that is asked for is free of containers without a record.
fn check_orphans(
    orphans: &Orphans,
    network: &Network,
    container: &Container,
    join: &Join,
) -> Result<()> {
    for ip in [join.ip.map(IpAddr::V4), join.ip6.map(IpAddr::V6)] {
        let holder = ip.and_then(|ip| Some((ip, orphans.holder(&network.id, ip, &container.id)?)));
        if let Some((ip, holder)) = holder {
            return Err(Error::new(
                Code::AddressInUse,
                format!(
                    "network {}: address {ip} is in use by container {}, which is on no record: choose another, or \
                     attach that container again with its id",
                    network.name,
                    holder.short()
                ),
            ));
        }
    }
    Ok(())
}

/// Nobody may speak for the gateway.
fn check_allowed(network: &Network, join: &Join) -> Result<()> {
    let held = |prefix: &Prefix| {
        let gateway = |ip: &IpAddr| prefix.contains(*ip);
        FAMILIES
            .into_iter()
            .flat_map(|family| network.gateways(family))
            .find(gateway)
    };
    match join
        .allow
        .iter()
        .find_map(|prefix| Some((prefix, held(prefix)?)))
    {
        Some((prefix, gateway)) => Err(Error::new(
            Code::InvalidAllow,
            format!(
                "{prefix} holds {gateway}, the gateway of network {}: allow prefixes without it",
                network.name
            ),
        )),
        None => Ok(()),
    }
}

/// The interface name asked for, or the first free `ethN`.
fn free_ifname(container: &Container, join: &Join) -> Result<IfName> {
    let taken = |name: &str| {
        container
            .endpoints
            .iter()
            .any(|e| e.ifname.as_str() == name)
    };
    if let Some(name) = &join.ifname {
        if taken(name.as_str()) {
            return Err(Error::new(
                Code::IfnameInUse,
                format!(
                    "container {} has an interface {name} already: choose another",
                    container.name
                ),
            ));
        }
        return Ok(name.clone());
    }
    // A later network of the same request may ask for a name by itself.
    let asked = |name: &str| {
        container
            .request
            .networks
            .iter()
            .any(|join| join.ifname.as_ref().is_some_and(|n| n.as_str() == name))
    };
    let limit = container.endpoints.len() + container.request.networks.len();
    let name = (0..=limit)
        .map(|n| format!("eth{n}"))
        .find(|name| !taken(name) && !asked(name));
    IfName::parse(&name.unwrap_or_default())
}
