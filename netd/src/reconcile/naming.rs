//! Records as the DNS zone needs them, beside names and addresses: what is said of networks, and what containers offer.

use std::collections::BTreeMap;
use std::net::IpAddr;

use netd_dns::{Details, HOST_NAME, Hosts, NamedPort, NetworkSpec};
use netd_model::desired::FAMILIES;
use netd_model::record::{Container, Network};

use crate::reconcile::world::World;

/// How the names of a network are answered.
pub(crate) fn of_network(network: &Network) -> NetworkSpec {
    NetworkSpec {
        name: network.name.to_string(),
        search: network.naming.search.clone(),
        ttl: network.naming.ttl,
        local_first: network.naming.local_first,
        prefixes: network.subnets.iter().map(|s| s.subnet).collect(),
        gateways: gateways(network).collect(),
    }
}

/// The search domains of a container: those of its networks, each once.
pub(crate) fn search(world: &World, record: &Container) -> Vec<String> {
    let networks = record
        .endpoints
        .iter()
        .filter_map(|e| world.network(&e.network));
    let mut search: Vec<String> = Vec::new();
    for domain in networks.flat_map(|network| &network.naming.search) {
        if !search.contains(domain) {
            search.push(domain.clone());
        }
    }
    search
}

/// Begin of the labels that give a port a name, as in `netd.port.http=8080/tcp`.
const PORT_LABEL: &str = "netd.port.";

/// What SRV and TXT tell of a container: its labels, its published ports by number, and those with a name by label. A label
/// that names no port is a label and nothing more.
pub(crate) fn details(record: &Container) -> Details {
    let named = record.labels.iter().filter_map(|(key, value)| {
        let name = key.strip_prefix(PORT_LABEL)?;
        let (port, proto) = value.split_once('/').unwrap_or((value, "tcp"));
        Some(NamedPort {
            name: name.into(),
            proto: ["tcp", "udp", "sctp"]
                .into_iter()
                .find(|known| *known == proto)?,
            port: port.parse().ok()?,
        })
    });
    let published = record.ports.iter().map(|port| NamedPort {
        name: port.container_port.to_string().into(),
        proto: port.proto.as_str(),
        port: port.container_port,
    });
    Details {
        texts: record
            .labels
            .iter()
            .map(|(key, value)| format!("{key}={value}"))
            .collect(),
        ports: published.chain(named).collect(),
    }
}

/// The names that only this container knows: its extra hosts, and the host by the gateways of its networks.
pub(crate) fn hosts(
    world: &World,
    record: &Container,
    extra: BTreeMap<String, Vec<IpAddr>>,
) -> Hosts {
    let mut hosts = Hosts::default();
    for (name, addresses) in extra {
        hosts.add(&name, addresses);
    }
    let networks = record
        .endpoints
        .iter()
        .filter_map(|e| world.network(&e.network));
    hosts.add(HOST_NAME, networks.flat_map(gateways));
    hosts
}

/// The host's addresses on a network; an isolated one has none.
fn gateways(network: &Network) -> impl Iterator<Item = IpAddr> {
    FAMILIES
        .into_iter()
        .flat_map(|family| network.gateways(family))
}
