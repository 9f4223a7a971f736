//! What netd knows: networks, containers, addresses, names, ports. Decides what a request means; touches nothing.
//!
//! Everything here is a plain function of the state and the request, tested without root. A request first reserves
//! what it needs; when the kernel refused, the reservation is taken back.

use std::collections::{BTreeMap, BTreeSet, HashMap, HashSet};
use std::net::IpAddr;
use std::time::Duration;

use ipnetwork::IpNetwork;
use netd_ipam::{AutoRange, Pool};
use netd_model::api::HostChange;
use netd_model::desired::{self, FAMILIES};
use netd_model::error::{Code, Error, Result};
use netd_model::id::{Name, shorten};
use netd_model::net::{Family, IfName, Mac, Prefix, Proto};
use netd_model::observed::HostFacts;
use netd_model::record::{
    Container, Driver, Endpoint, Mode, Network, PREDEFINED, Phase, Port, Subnet,
};
use netd_model::request::{Attach, CreateNetwork, Join};
use netd_model::{ContainerId, NetworkId, Object, Owner};

/// Ports of one bridge: the kernel numbers them with 10 bits and keeps 0 (net/bridge/br_private.h, BR_MAX_PORTS).
pub(crate) const BRIDGE_PORTS_MAX: usize = 1023;

/// A network with its addresses.
#[derive(Debug)]
struct Net {
    record: Network,
    pools: Vec<Pool>,
    members: BTreeSet<ContainerId>,
    macs: HashSet<Mac>,
}

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
    containers: BTreeMap<ContainerId, Container>,
    container_names: HashMap<Name, ContainerId>,
    sandboxes: HashMap<(u64, u64), ContainerId>,
    ports: HashMap<(Proto, u16), Vec<(ContainerId, Port)>>,
}

/// How an address is given back.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum GiveBack {
    /// It was never on the wire.
    Unused,
    /// It was: neighbours may still know its MAC, so it rests first. The time is that since the daemon's start.
    Used(Duration),
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
            containers: BTreeMap::new(),
            container_names: HashMap::new(),
            sandboxes: HashMap::new(),
            ports: HashMap::new(),
        }
    }

    // ---- networks -------------------------------------------------------------------------------------------------

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
        find(
            reference,
            &self.networks,
            "network",
            Code::NetworkNotFound,
            "netctl network ls",
        )
    }

    /// The record of a network to be created: its subnets chosen, everything checked. Changes nothing.
    pub(crate) fn plan_network(&self, request: &CreateNetwork, id: NetworkId) -> Result<Network> {
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
        Ok(Network {
            subnets: self.subnets(request)?,
            name: request.name.clone(),
            driver: Driver::Bridge,
            internal: request.internal,
            mode: Mode::Nat,
            mtu: request.mtu.or(self.facts.uplink_mtu).unwrap_or(1500),
            dns: request.dns.clone(),
            labels: request.labels.clone(),
            unknown: serde_json::Map::new(),
            interface,
            id,
        })
    }

    fn subnets(&self, request: &CreateNetwork) -> Result<Vec<Subnet>> {
        if request.ipv6 && !self.facts.ipv6 {
            return Err(Error::new(
                Code::InvalidIpv6,
                format!(
                    "network {}: IPv6 is switched off on this host: boot without ipv6.disable=1, or leave it out",
                    request.name
                ),
            ));
        }
        let mut subnets = Vec::new();
        for family in FAMILIES
            .into_iter()
            .filter(|family| *family == Family::V4 || request.ipv6)
        {
            match request
                .subnets
                .iter()
                .find(|spec| spec.subnet.family() == family)
            {
                Some(spec) => {
                    self.check_overlap(spec.subnet)?;
                    subnets.push(spec.with_gateway());
                }
                None => subnets.push(self.automatic_subnet(family)?),
            }
        }
        Ok(subnets)
    }

    /// An automatic subnet avoids every network, every route of the host and its resolvers; one that was asked for
    /// may cover a route (a VPN's default route in two halves does that), but no other network.
    fn check_overlap(&self, subnet: Prefix) -> Result<()> {
        let other = self.networks().find_map(|other| {
            other
                .subnets
                .iter()
                .find(|s| s.subnet.overlaps(subnet))
                .map(|s| (other, s.subnet))
        });
        if let Some((other, theirs)) = other {
            return Err(Error::new(
                Code::SubnetInUse,
                format!(
                    "subnet {subnet} overlaps {theirs} of network {}: choose another",
                    other.name
                ),
            ));
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
        let pools = record
            .subnets
            .iter()
            .map(|s| {
                Pool::new(
                    s.subnet.network(),
                    s.ip_range.map(Prefix::network),
                    Some(s.gateway),
                    &[],
                )
                .map_err(ipam_error)
            })
            .collect::<Result<Vec<_>>>()?;
        self.network_names
            .insert(record.name.clone(), record.id.clone());
        let macs = record
            .subnets
            .first()
            .map(|s| Mac::of_address(s.gateway))
            .into_iter()
            .collect();
        self.networks.insert(
            record.id.clone(),
            Net {
                record,
                pools,
                members: BTreeSet::new(),
                macs,
            },
        );
        Ok(())
    }

    pub(crate) fn remove_network(&mut self, id: &NetworkId) -> Option<Network> {
        let net = self.networks.remove(id)?;
        self.network_names.remove(&net.record.name);
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

    /// Whether a network's objects are in the kernel: the predefined network's come with its first container and leave
    /// with its last, so that a host on which nothing is attached holds nothing.
    pub(crate) fn is_present(&self, id: &NetworkId) -> bool {
        let stays = |id: &ContainerId| {
            self.containers
                .get(id)
                .is_none_or(|c| c.phase != Phase::Detaching)
        };
        self.networks
            .get(id)
            .is_some_and(|net| !net.record.is_predefined() || net.members.iter().any(stays))
    }

    // ---- containers -----------------------------------------------------------------------------------------------

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

    /// Reserves everything an attach needs; on an error nothing is reserved.
    pub(crate) fn reserve(
        &mut self,
        attach: Attach,
        id: ContainerId,
        identity: (u64, u64),
        now: Duration,
    ) -> Result<&Container> {
        self.check_free(&attach, &id, identity)?;
        let mut container = Container {
            name: attach.name.clone(),
            hostname: attach.hostname.clone(),
            netns: attach.netns.clone(),
            netns_identity: identity,
            endpoints: Vec::new(),
            ports: attach.publish.clone(),
            dns: attach.dns.clone(),
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
        if let Err(error) = self.check_publish(&container) {
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
        for port in &attach.publish {
            let holders = self
                .ports
                .get(&(port.proto, port.host_port))
                .into_iter()
                .flatten();
            if let Some((other, held)) = holders.into_iter().find(|(_, held)| held.conflicts(port))
            {
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
            let served = FAMILIES.into_iter().any(|family| {
                desired::port_serves(port, family)
                    && desired::gateway_endpoint(container, family, network).is_some()
            });
            if !served {
                return Err(Error::new(
                    Code::InvalidPublish,
                    format!(
                        "port {port} cannot be published: {} has no address of that family on a network that is not internal",
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
        let Some(net) = self.networks.get_mut(&id) else {
            return Err(Error::new(
                Code::Internal,
                format!("network {id} vanished during an attach"),
            ));
        };
        if container.endpoints.iter().any(|e| e.network == id) {
            return Err(Error::new(
                Code::EndpointExists,
                format!(
                    "container {} is on network {} already",
                    container.name, net.record.name
                ),
            ));
        }
        if net.members.len() >= BRIDGE_PORTS_MAX {
            return Err(Error::new(
                Code::NetworkFull,
                format!(
                    "network {} has {BRIDGE_PORTS_MAX} containers, as many as a bridge takes: use a second network",
                    net.record.name
                ),
            ));
        }
        let ifname = free_ifname(container, join)?;
        let ips = net.addresses(join, now)?;
        let mac = join
            .mac
            .or_else(|| ips.first().map(|ip| Mac::of_address(*ip)));
        let Some(mac) = mac.filter(|mac| !net.macs.contains(mac)) else {
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
        for port in &container.ports {
            let entry = self.ports.entry((port.proto, port.host_port)).or_default();
            entry.push((container.id.clone(), port.clone()));
        }
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
            for ip in &endpoint.ips {
                if let Some(pool) = net.pools.iter_mut().find(|pool| pool.contains(*ip)) {
                    pool.adopt(*ip).map_err(ipam_error)?;
                }
            }
            net.macs.insert(endpoint.mac);
            net.members.insert(container.id.clone());
        }
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
        for port in &container.ports {
            if let Some(list) = self.ports.get_mut(&(port.proto, port.host_port)) {
                list.retain(|(holder, _)| holder != id);
            }
        }
        self.ports.retain(|_, list| !list.is_empty());
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
            net.give_back(&endpoint.ips, how);
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

    /// Whether a container without this endpoint can still publish its ports.
    pub(crate) fn check_disconnect(&self, id: &ContainerId, network: &NetworkId) -> Result<()> {
        let Some(mut container) = self.containers.get(id).cloned() else {
            return Err(vanished(id));
        };
        container.endpoints.retain(|e| e.network != *network);
        self.check_publish(&container)
    }

    // ---- objects --------------------------------------------------------------------------------------------------

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

    /// The host's share of the desired objects.
    pub(crate) fn host_objects(&self) -> Vec<Object> {
        if self.purged {
            Vec::new()
        } else {
            desired::host(&self.host_changes)
        }
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
                objects.extend(desired::network(&net.record, &self.facts));
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

    /// The desired objects of a container, as a record has it.
    pub(crate) fn container_objects(&self, container: &Container) -> Vec<Object> {
        desired::container(container, |id| self.network(id), &self.facts)
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
        self.ports
            .get(&(Proto::Udp, port))
            .into_iter()
            .flatten()
            .filter_map(|(_, port)| {
                port.host_ip
                    .filter(|ip| Family::of(*ip) == family && !ip.is_unspecified())
            })
            .collect()
    }
}

impl Net {
    /// One address for each family of the network: the one asked for, else the next.
    fn addresses(&mut self, join: &Join, now: Duration) -> Result<Vec<IpAddr>> {
        let mut ips: Vec<IpAddr> = Vec::new();
        for family in FAMILIES {
            let asked = match family {
                Family::V4 => join.ip.map(IpAddr::V4),
                Family::V6 => join.ip6.map(IpAddr::V6),
            };
            match self.address(family, asked, now) {
                Ok(ip) => ips.extend(ip),
                Err(error) => {
                    self.give_back(&ips, GiveBack::Unused);
                    return Err(error);
                }
            }
        }
        Ok(ips)
    }

    fn address(
        &mut self,
        family: Family,
        asked: Option<IpAddr>,
        now: Duration,
    ) -> Result<Option<IpAddr>> {
        let pool = self
            .pools
            .iter_mut()
            .find(|pool| Prefix::from(pool.prefix()).family() == family);
        let name = &self.record.name;
        match (pool, asked) {
            (None, None) => Ok(None),
            (None, Some(ip)) => Err(Error::new(
                Code::InvalidIp,
                format!(
                    "address {ip} was asked for, but network {name} has no subnet of its family"
                ),
            )),
            (Some(pool), None) => pool
                .allocate(now)
                .map(Some)
                .map_err(|e| in_network(ipam_error(e), name)),
            (Some(pool), Some(ip)) => pool
                .claim(ip)
                .map(|()| Some(ip))
                .map_err(|e| in_network(ipam_error(e), name)),
        }
    }

    fn give_back(&mut self, ips: &[IpAddr], how: GiveBack) {
        for ip in ips {
            let Some(pool) = self.pools.iter_mut().find(|pool| pool.contains(*ip)) else {
                continue;
            };
            let given = match how {
                GiveBack::Unused => pool.unclaim(*ip),
                GiveBack::Used(now) => pool.release(*ip, now),
            };
            if let Err(error) = given {
                tracing::error!(%ip, network = %self.record.name, %error, "an address was given back twice");
            }
        }
    }
}

fn in_network(error: Error, name: &Name) -> Error {
    Error {
        message: format!("network {name}: {}", error.message),
        ..error
    }
}

fn vanished(id: &ContainerId) -> Error {
    Error::new(
        Code::ContainerNotFound,
        format!("container {} is gone", id.short()),
    )
}

fn ipam_error(error: netd_ipam::Error) -> Error {
    let code = Code::ALL
        .iter()
        .copied()
        .find(|code| code.as_str() == error.code())
        .unwrap_or(Code::Internal);
    Error::new(code, error)
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
