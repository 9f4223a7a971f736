//! Records as the API shows them, and as the DNS zone needs them.

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::sync::Arc;

use netd_dns::{Asker, Details, Upstream, Zone, container_names};
use netd_model::NetworkId;
use netd_model::api;
use netd_model::desired;
use netd_model::net::Family;
use netd_model::record::{Container, Endpoint, Network, Reservation, StaticRoute};
use netd_model::skeleton::DNS_ADDRESS;

use crate::reconcile::naming;
use crate::reconcile::world::World;

/// A network without its endpoints.
pub(crate) fn network(record: &Network) -> Arc<api::Network> {
    Arc::new(api::Network {
        id: record.id.to_string(),
        name: record.name.to_string(),
        driver: record.driver.as_str().to_owned(),
        subnets: record
            .subnets
            .iter()
            .map(|s| api::Subnet {
                subnet: s.subnet.to_string(),
                gateway: record.gateway_of(s.subnet.base()),
                ip_range: s.ip_range.map(|range| range.to_string()),
            })
            .collect(),
        internal: record.internal,
        mode: record.mode.as_str().to_owned(),
        mode6: record.mode6.map(|mode| mode.as_str().to_owned()),
        icc: record.policy.icc,
        opts: opts(record),
        mtu: record.mtu,
        ipv6: record.has(Family::V6),
        encrypted: false,
        vni: record.overlay.as_ref().map(|overlay| overlay.vni),
        interface: record.interface.clone(),
        dns: record.dns.clone(),
        dns_options: record.naming.clone(),
        labels: record.labels.clone(),
        routes: record.routes.iter().map(route).collect(),
        access: record.access.clone(),
        reservations: record
            .reservations
            .iter()
            .map(|(name, kept)| (name.to_string(), reservation(kept)))
            .collect(),
        endpoints: Vec::new(),
        drops: None,
    })
}

fn reservation(kept: &Reservation) -> api::Reservation {
    let of_family = |family| {
        let mut ips = kept.ips.iter().filter(|ip| Family::of(**ip) == family);
        ips.next().map(ToString::to_string)
    };
    api::Reservation {
        ip: of_family(Family::V4),
        ip6: of_family(Family::V6),
        mac: kept.mac.map(|mac| mac.to_string()),
    }
}

fn route(route: &StaticRoute) -> api::StaticRoute {
    api::StaticRoute {
        destination: route.destination.to_string(),
        gateway: route.gateway.map(|ip| ip.to_string()),
        metric: (route.metric != 0).then_some(route.metric),
    }
}

/// The names that only one container resolves, with their addresses.
fn extra_hosts(world: &World, record: &Container) -> BTreeMap<String, Vec<IpAddr>> {
    let mut hosts: BTreeMap<String, Vec<IpAddr>> = BTreeMap::new();
    for host in &record.extra_hosts {
        let addresses = hosts.entry(host.name.clone()).or_default();
        match host.address {
            Some(ip) => addresses.push(ip),
            None => addresses.extend(desired::FAMILIES.into_iter().filter_map(|family| {
                let network = |id: &NetworkId| world.network(id);
                Some(desired::gateway_endpoint(record, family, network)?.1)
            })),
        }
    }
    hosts
}

/// A container.
pub(crate) fn container(world: &World, record: &Container) -> Arc<api::Container> {
    Arc::new(api::Container {
        id: record.id.to_string(),
        name: record.name.to_string(),
        hostname: record.hostname.clone(),
        netns: record.netns.clone(),
        endpoints: record
            .endpoints
            .iter()
            .filter_map(|e| endpoint(world, e))
            .collect(),
        ports: record
            .ports
            .iter()
            .map(|port| api::Port {
                proto: port.proto,
                host_ip: port.host_ip,
                host_port: port.host_port,
                container_port: port.container_port,
                access: port.access.clone(),
            })
            .collect(),
        dns: api::Dns {
            nameserver: IpAddr::V4(DNS_ADDRESS),
            search: naming::search(world, record),
            options: vec!["ndots:0".to_owned()],
        },
        extra_hosts: extra_hosts(world, record),
        labels: record.labels.clone(),
        counters: None,
        warnings: Vec::new(),
    })
}

fn endpoint(world: &World, endpoint: &Endpoint) -> Option<api::Endpoint> {
    let network = world.network(&endpoint.network)?;
    let cidr = |family| {
        let ip = endpoint.ip(family)?;
        let len = network.container_len(ip)?;
        Some(format!("{ip}/{len}"))
    };
    let gateway = |family| {
        let ip = endpoint.ip(family).filter(|_| network.is_open(family))?;
        network.gateway_of(ip)
    };
    Some(api::Endpoint {
        network: network.name.to_string(),
        network_id: network.id.to_string(),
        ifname: endpoint.ifname.clone(),
        host_ifname: endpoint.host_ifname.clone(),
        mac: endpoint.mac,
        ipv4: cidr(Family::V4),
        ipv6: cidr(Family::V6),
        gateway: gateway(Family::V4),
        gateway6: gateway(Family::V6),
        aliases: endpoint.aliases.clone(),
        address_only: endpoint.cni.as_ref().is_some_and(|cni| cni.address_only),
        cni_network: endpoint.cni.as_ref().map(|cni| cni.network.clone()),
        allow: endpoint.allow.iter().map(ToString::to_string).collect(),
        gw_priority: endpoint.gw_priority,
        sysctls: endpoint
            .sysctls
            .iter()
            .map(|(path, value)| (path.replace('/', "."), value.clone()))
            .collect(),
    })
}

/// The driver options of a network that are not at their defaults.
fn opts(record: &Network) -> BTreeMap<String, String> {
    let mut opts = record.policy.opts();
    if record
        .overlay
        .as_ref()
        .is_some_and(|overlay| !overlay.udpcsum)
    {
        opts.insert("udpcsum".to_owned(), "off".to_owned());
    }
    opts
}

/// Puts a container into the zone, as the record has it now.
pub(crate) fn enter_names(zone: &mut Zone, world: &World, record: &Container) {
    let record = &*world.usable(record);
    for endpoint in &record.endpoints {
        let Some(network) = world.network(&endpoint.network) else {
            continue;
        };
        zone.set_network(&network.id, naming::of_network(network));
        let aliases = endpoint.aliases.iter().map(String::as_str);
        let names = container_names(&record.name, aliases, &record.id, Some(&record.hostname));
        zone.add_names(&network.id, names, &endpoint.ips, &record.id);
    }
    zone.set_details(&record.id, naming::details(record));
    zone.set_asker(&record.id, asker(world, record));
}

/// Takes a container out of the zone.
pub(crate) fn leave_names(zone: &mut Zone, record: &Container) {
    for endpoint in &record.endpoints {
        zone.remove_names(&endpoint.network, &record.id);
    }
    zone.set_details(&record.id, Details::default());
    zone.remove_asker(&record.id);
}

fn asker(world: &World, record: &Container) -> Asker {
    let way_out = desired::FAMILIES
        .into_iter()
        .any(|family| desired::gateway_endpoint(record, family, |id| world.network(id)).is_some());
    let networks = || {
        let endpoints = record.endpoints.iter();
        endpoints.filter_map(|e| world.network(&e.network))
    };
    let inside = networks()
        .any(|network| network.naming.from_container)
        .then(|| Arc::from(record.id.as_str()));
    let upstreams = if record.dns.is_empty() {
        networks()
            .map(|network| &network.dns)
            .find(|dns| !dns.is_empty())
            .cloned()
            .unwrap_or_default()
    } else {
        record.dns.clone()
    };
    let upstreams = upstreams.into_iter().map(|address| Upstream {
        from: inside.clone(),
        ..address.into()
    });
    let upstreams = upstreams.collect();
    Asker {
        hosts: naming::hosts(world, record, extra_hosts(world, record)),
        networks: record
            .endpoints
            .iter()
            .map(|e| Arc::from(e.network.as_str()))
            .collect(),
        forward: way_out,
        upstreams: Arc::new(upstreams),
        inside,
    }
}
