//! What published ports want: how each reaches its container, who may use it, and what counts it.

use std::collections::BTreeSet;
use std::net::{IpAddr, Ipv6Addr, SocketAddr};

use super::{FAMILIES, element, gateway_endpoint, interval, port_serves, set_name};
use crate::access::Access;
use crate::id::NetworkId;
use crate::net::{Family, Proto};
use crate::nft::{Datum, Element, ElementData};
use crate::object::{HostPort, Object, Owner, Relay};
use crate::observed::HostFacts;
use crate::record::{Container, Network, Port};
use crate::skeleton::{
    ALLOWED, BLOCKED, CLOSED, COUNT_IN, COUNT_OUT, LIMITED, LO, PORT_ALLOWED, PORT_BLOCKED,
    PORT_CLOSED, PORT_LIMITED, PUB, PUBANY,
};

/// Where a published port leads in one family: into which family's address of the container, and whether by the daemon.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Way {
    /// The kernel translates the address.
    Kernel(IpAddr),
    /// The daemon passes it on, and the container sees the host as the client.
    Relay(IpAddr),
}

/// How a published port reaches a container in a family; none if it does not.
///
/// Two cases are beyond the kernel: it does not translate IPv6 to IPv4, and with br_netfilter a reply to `::1` has no
/// route. For these alone, and only where the IPv6 address was asked for by name, the daemon stands in between.
pub fn way<'a>(
    container: &Container,
    port: &Port,
    family: Family,
    network: impl Fn(&NetworkId) -> Option<&'a Network>,
    facts: &HostFacts,
) -> Option<Way> {
    if !port_serves(port, family) || (family == Family::V6 && !facts.ipv6) {
        return None;
    }
    let address = |family| gateway_endpoint(container, family, &network)?.0.ip(family);
    let can_relay = port.proto != Proto::Sctp && port.host_ip.is_some();
    match (address(family), family) {
        (Some(ip), _) => {
            let beyond = family == Family::V6 && facts.bridge_netfilter.contains(&family);
            let is_one = port.host_ip == Some(Ipv6Addr::LOCALHOST.into());
            Some(if beyond && is_one && can_relay {
                Way::Relay(ip)
            } else {
                Way::Kernel(ip)
            })
        }
        (None, Family::V6) if can_relay => address(Family::V4).map(Way::Relay),
        (None, _) => None,
    }
}

/// The lists of who may use a container's ports.
pub(super) fn port_access<'a>(
    container: &Container,
    family: Family,
    network: impl Fn(&NetworkId) -> Option<&'a Network>,
    facts: &HostFacts,
) -> Vec<Object> {
    let owner = &Owner::Container(container.id.clone());
    let mut objects = Vec::new();
    for port in container.ports.iter().filter(|port| !port.access.is_open()) {
        let Some(Way::Kernel(ip)) = way(container, port, family, &network, facts) else {
            continue;
        };
        let proto = Datum::L4Proto(port.proto.number());
        let key = vec![ip.into(), proto, Datum::Port(port.container_port)];
        let mut one = |set, key| {
            objects.push(element(set, Some(family), key, ElementData::None, owner));
        };
        one(PORT_LIMITED, vec![ip.into()]);
        if !port.access.allow_from.is_empty() {
            one(PORT_CLOSED, key.clone());
        }
        objects.extend(listed(
            &port.access,
            [PORT_ALLOWED, PORT_BLOCKED],
            family,
            &key,
            owner,
        ));
    }
    objects
}

/// The lists of who may enter a network.
pub(super) fn network_access(network: &Network, owner: &Owner) -> Vec<Object> {
    let access = &network.access;
    let key = [Datum::Ifname(network.interface.clone())];
    let mut objects = Vec::new();
    let mut one = |set| {
        objects.push(element(set, None, key.to_vec(), ElementData::None, owner));
    };
    if !access.is_open() {
        one(LIMITED);
    }
    if !access.allow_from.is_empty() {
        one(CLOSED);
    }
    for family in FAMILIES {
        objects.extend(listed(access, [ALLOWED, BLOCKED], family, &key, owner));
    }
    objects
}

/// The intervals of both lists, behind the same first parts of a key.
fn listed(
    access: &Access,
    [allowed, blocked]: [&str; 2],
    family: Family,
    key: &[Datum],
    owner: &Owner,
) -> Vec<Object> {
    let lists = [(allowed, &access.allow_from), (blocked, &access.block_from)];
    let mut objects = Vec::new();
    for (set, list) in lists {
        let of_family = list.iter().filter(|prefix| prefix.family() == family);
        objects.extend(of_family.map(|prefix| {
            let end = |ip: IpAddr| [key, &[ip.into()]].concat();
            interval(set, family, end(prefix.base()), end(prefix.last()), owner)
        }));
    }
    objects
}

/// The elements that count what passes the published ports.
pub(super) fn counters<'a>(
    container: &Container,
    family: Family,
    network: impl Fn(&NetworkId) -> Option<&'a Network>,
    facts: &HostFacts,
) -> Vec<Object> {
    let owner = &Owner::Container(container.id.clone());
    let mut keys = BTreeSet::new();
    for port in &container.ports {
        if let Some(Way::Kernel(ip)) = way(container, port, family, &network, facts) {
            let proto = Datum::L4Proto(port.proto.number());
            keys.insert(vec![ip.into(), proto, Datum::Port(port.container_port)]);
        }
    }
    let count = |key: Vec<Datum>| {
        let element = |set| element(set, Some(family), key.clone(), ElementData::None, owner);
        [COUNT_IN, COUNT_OUT].map(element)
    };
    keys.into_iter().flat_map(count).collect()
}

/// A published port in one family: the socket that holds it, and the map element that leads to the container.
pub(super) fn publish<'a>(
    container: &Container,
    port: &Port,
    family: Family,
    network: impl Fn(&NetworkId) -> Option<&'a Network>,
    facts: &HostFacts,
) -> Vec<Object> {
    let owner = &Owner::Container(container.id.clone());
    let (to, relay) = match way(container, port, family, &network, facts) {
        None => return Vec::new(),
        Some(Way::Kernel(ip)) => (ip, None),
        Some(Way::Relay(ip)) => {
            let networks = container.endpoints.iter().filter(|e| e.ips.contains(&ip));
            let networks = networks
                .filter_map(|e| network(&e.network))
                .map(|net| &net.access);
            let lists = networks
                .chain([&port.access])
                .filter(|access| !access.is_open());
            let relay = Relay {
                to: SocketAddr::new(ip, port.container_port),
                admit: lists.cloned().collect(),
            };
            (ip, Some(relay))
        }
    };
    let proto = Datum::L4Proto(port.proto.number());
    let number = Datum::Port(port.host_port);
    let ip = port.host_ip.unwrap_or_else(|| family.unspecified());
    let (set, key) = if ip.is_unspecified() {
        (PUBANY, vec![proto, number])
    } else if ip.is_loopback() {
        (LO, vec![ip.into(), proto, number])
    } else {
        (PUB, vec![ip.into(), proto, number])
    };
    let data = ElementData::Values(vec![to.into(), Datum::Port(port.container_port)]);
    let is_relayed = relay.is_some();
    let held = Object::HostPort(HostPort {
        ip,
        proto: port.proto,
        port: port.host_port,
        relay,
        owner: owner.clone(),
    });
    if is_relayed {
        return vec![held];
    }
    // Where no program can have an SCTP socket there is nobody to hold the port against, and nothing to hold it with.
    let is_held = port.proto != Proto::Sctp || facts.sctp;
    let mut objects = vec![element(set, Some(family), key, data, owner)];
    objects.extend(is_held.then_some(held));
    objects
}

/// The port that an element publishes; its address is unspecified for all of a family.
pub fn published(element: &Element) -> Option<Port> {
    let (ip, proto, host_port) = match element.key.first.as_slice() {
        [Datum::L4Proto(proto), Datum::Port(port)] => {
            let set = |family: &Family| element.key.set == set_name(PUBANY, Some(*family));
            (FAMILIES.into_iter().find(set)?.unspecified(), proto, port)
        }
        [Datum::Ip4(ip), Datum::L4Proto(proto), Datum::Port(port)] => {
            (IpAddr::V4(*ip), proto, port)
        }
        [Datum::Ip6(ip), Datum::L4Proto(proto), Datum::Port(port)] => {
            (IpAddr::V6(*ip), proto, port)
        }
        _ => return None,
    };
    let ElementData::Values(to) = &element.data else {
        return None;
    };
    let [_, Datum::Port(container_port)] = to.as_slice() else {
        return None;
    };
    let mut protos = [Proto::Tcp, Proto::Udp, Proto::Sctp].into_iter();
    Some(Port {
        proto: protos.find(|known| known.number() == *proto)?,
        host_ip: Some(ip),
        host_port: *host_port,
        container_port: *container_port,
        // Who may open flows to it stands in other elements.
        access: Access::default(),
    })
}

/// The container's address that an element leads a published port to.
pub fn published_to(element: &Element) -> Option<IpAddr> {
    published(element)?;
    match &element.data {
        ElementData::Values(to) => match to.first()? {
            Datum::Ip4(ip) => Some(IpAddr::V4(*ip)),
            Datum::Ip6(ip) => Some(IpAddr::V6(*ip)),
            _ => None,
        },
        _ => None,
    }
}

/// The published UDP port that an element serves: its address (unspecified for all) and port.
pub fn published_udp(element: &Element) -> Option<(IpAddr, u16)> {
    let port = published(element).filter(|port| port.proto == Proto::Udp)?;
    Some((port.host_ip?, port.host_port))
}
