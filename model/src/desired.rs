//! From intent to objects: what the kernel has to hold for the host, for a network, for a container.

use std::collections::BTreeSet;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use crate::api::HostChange;
use crate::id::NetworkId;
use crate::net::{Family, IfName, Mac, Prefix, Proto};
use crate::nft::{Datum, Element, ElementData, ElementKey, TableRef, Verdict};
use crate::object::{
    Address, BridgePort, HostPort, Link, LinkKind, Ns, Object, Owner, Route, Sysctl, family_key,
};
use crate::observed::{HostFacts, Observed};
use crate::record::{Container, Endpoint, Network, Port};
use crate::skeleton::{
    self, BRIDGES, DIRECT, FORWARDING, FROM, GUARD, LO, MASQ, OWN, PUB, PUBANY, SAME, TO,
};

/// Both families, in the order of everything that is printed.
pub const FAMILIES: [Family; 2] = [Family::V4, Family::V6];

/// The host's share: the ruleset, and the settings that netd had to change.
///
/// In a family in which netd itself switched forwarding on, packets between two interfaces that are not ours stay
/// dropped, so the host does not become a router by accident.
pub fn host(changes: &[HostChange]) -> Vec<Object> {
    let mut objects = vec![Object::Ruleset(skeleton::host())];
    for change in changes {
        objects.push(Object::Sysctl(Sysctl {
            ns: Ns::Host,
            path: change.sysctl.clone(),
            value: change.now.clone(),
            ifname: None,
            owner: Owner::Host,
        }));
        let switched = |family: &Family| forwarding_path(*family) == change.sysctl;
        objects.extend(FAMILIES.into_iter().find(switched).map(forwarding_guard));
    }
    objects
}

/// Says that netd switched forwarding on in a family.
fn forwarding_guard(family: Family) -> Object {
    let key = vec![Datum::NfProto(family.nfproto())];
    element(FORWARDING, None, key, ElementData::None, &Owner::Host)
}

/// Changes of the host that are on no record, but were made by netd as the kernel shows: the run-dir with the record was
/// wiped. `known` are those on record.
pub fn forgotten_changes(known: &[HostChange], observed: &Observed) -> Vec<HostChange> {
    let is_forgotten = |family: &Family| {
        let guard = forwarding_guard(*family);
        let seen = observed.objects.get(&guard.key());
        seen == Some(&guard)
            && known
                .iter()
                .all(|change| change.sysctl != forwarding_path(*family))
    };
    let forgotten = FAMILIES.into_iter().filter(is_forgotten);
    forgotten.map(forwarding_change).collect()
}

/// What switches forwarding on.
pub fn forwarding_change(family: Family) -> HostChange {
    HostChange {
        sysctl: forwarding_path(family).to_owned(),
        was: "0".to_owned(),
        now: "1".to_owned(),
    }
}

/// The setting that makes the host forward packets of a family.
pub const fn forwarding_path(family: Family) -> &'static str {
    match family {
        Family::V4 => "net/ipv4/ip_forward",
        Family::V6 => "net/ipv6/conf/all/forwarding",
    }
}

/// The settings of the host that have to change before it forwards these families. A host that forwards already needs
/// none.
pub fn host_changes(facts: &HostFacts, needed: &BTreeSet<Family>) -> Vec<HostChange> {
    let mut changes = Vec::new();
    if needed.contains(&Family::V4) && !facts.forwarding4 {
        changes.push(forwarding_change(Family::V4));
    }
    if needed.contains(&Family::V6) && facts.ipv6 && !facts.forwarding6 {
        // A forwarding host refuses router advertisements at 1 and takes them at 2: without this it would lose the
        // default route it learnt from them.
        changes.extend(facts.accept_ra.iter().map(|name| HostChange {
            sysctl: format!("net/ipv6/conf/{name}/accept_ra"),
            was: "1".to_owned(),
            now: "2".to_owned(),
        }));
        changes.push(forwarding_change(Family::V6));
    }
    changes
}

/// The families a network needs forwarding for: none if it is internal.
pub fn forwarding_needed(network: &Network) -> impl Iterator<Item = Family> + '_ {
    FAMILIES
        .into_iter()
        .filter(|family| !network.internal && network.subnet(*family).is_some())
}

/// Everything of a network that does not depend on its containers.
pub fn network(network: &Network, facts: &HostFacts) -> Vec<Object> {
    let owner = Owner::Network(network.id.clone());
    let bridge = &network.interface;
    let mac = network.subnets.first().map_or_else(
        || Mac::of_address(Ipv4Addr::LOCALHOST.into()),
        |s| Mac::of_address(s.gateway),
    );
    let has6 = network.subnet(Family::V6).is_some() && facts.ipv6;
    let mut objects = vec![Object::Link(Link {
        ns: Ns::Host,
        name: bridge.clone(),
        kind: LinkKind::Bridge,
        mac,
        mtu: network.mtu,
        up: true,
        master: None,
        link_local: has6,
        owner: owner.clone(),
    })];
    objects.extend(bridge_sysctls(network, facts, &owner));
    let name = || Datum::Ifname(bridge.clone());
    objects.push(element(
        BRIDGES,
        None,
        vec![name()],
        ElementData::None,
        &owner,
    ));
    objects.push(element(
        SAME,
        None,
        vec![name(), name()],
        ElementData::None,
        &owner,
    ));
    if network.internal {
        objects.push(element(
            FROM,
            None,
            vec![name()],
            ElementData::Verdict(Verdict::Drop),
            &owner,
        ));
    }
    for family in FAMILIES
        .into_iter()
        .filter(|family| *family == Family::V4 || facts.ipv6)
    {
        objects.extend(network_family(network, family, &owner));
    }
    objects
}

/// The settings of a network's bridge. A container may send redirects and router advertisements to it: the host listens
/// to neither.
pub fn bridge_sysctls(network: &Network, facts: &HostFacts, owner: &Owner) -> Vec<Object> {
    let bridge = &network.interface;
    let sysctl = |path: String, value: &str| {
        Object::Sysctl(Sysctl {
            ns: Ns::Host,
            path,
            value: value.to_owned(),
            ifname: Some(bridge.clone()),
            owner: owner.clone(),
        })
    };
    let mut objects = vec![sysctl(
        format!("net/ipv4/conf/{bridge}/send_redirects"),
        "0",
    )];
    if network.subnet(Family::V4).is_some() && !network.internal {
        // Ports published on 127.0.0.1: the packet leaves by the bridge with a loopback address until it is masqueraded.
        objects.push(sysctl(
            format!("net/ipv4/conf/{bridge}/route_localnet"),
            "1",
        ));
    }
    if facts.ipv6 {
        objects.push(if network.subnet(Family::V6).is_some() {
            sysctl(format!("net/ipv6/conf/{bridge}/accept_ra"), "0")
        } else {
            sysctl(format!("net/ipv6/conf/{bridge}/disable_ipv6"), "1")
        });
    }
    objects
}

fn network_family(network: &Network, family: Family, owner: &Owner) -> Vec<Object> {
    let Some(subnet) = network.subnet(family) else {
        return Vec::new();
    };
    let bridge = &network.interface;
    let name = || Datum::Ifname(bridge.clone());
    let prefix = subnet.subnet;
    let mut objects = vec![Object::Address(Address {
        ns: Ns::Host,
        ifname: bridge.clone(),
        ip: subnet.gateway,
        prefix_len: prefix.len(),
        owner: owner.clone(),
    })];
    for set in [OWN, DIRECT] {
        objects.push(interval(
            set,
            family,
            vec![name(), prefix.base().into()],
            vec![name(), prefix.last().into()],
            owner,
        ));
    }
    for (first, last) in without(prefix, subnet.gateway) {
        objects.push(interval(
            GUARD,
            family,
            vec![first.into()],
            vec![last.into()],
            owner,
        ));
    }
    let to = if network.internal {
        Verdict::Drop
    } else {
        Verdict::Goto(skeleton::TO_NAT.to_owned())
    };
    objects.push(element(
        TO,
        None,
        family_key(bridge, family),
        ElementData::Verdict(to),
        owner,
    ));
    if !network.internal {
        objects.push(element(
            MASQ,
            None,
            family_key(bridge, family),
            ElementData::None,
            owner,
        ));
        if family == Family::V6 {
            objects.push(loopback_route(network, owner));
        }
    }
    objects
}

/// `::1` published: the reply's address is looked up on the bridge, so the bridge needs a local route to it, each
/// bridge with a metric of its own (kernel-bridge.md section 2: one metric twice is EEXIST).
fn loopback_route(network: &Network, owner: &Owner) -> Object {
    let low = u32::from_str_radix(&network.id[..6], 16).unwrap_or(0);
    Object::Route(Route {
        ns: Ns::Host,
        dst: Prefix::holding(Ipv6Addr::LOCALHOST.into(), 128),
        via: None,
        dev: network.interface.clone(),
        local: true,
        metric: 0x6e00_0000 | low,
        owner: owner.clone(),
    })
}

/// The ranges of a prefix without one address of it.
fn without(prefix: Prefix, hole: IpAddr) -> Vec<(IpAddr, IpAddr)> {
    let step = |ip: IpAddr, up: bool| match ip {
        IpAddr::V4(v4) => {
            let bits = if up {
                v4.to_bits().checked_add(1)
            } else {
                v4.to_bits().checked_sub(1)
            };
            bits.map(|bits| IpAddr::V4(Ipv4Addr::from_bits(bits)))
        }
        IpAddr::V6(v6) => {
            let bits = if up {
                v6.to_bits().checked_add(1)
            } else {
                v6.to_bits().checked_sub(1)
            };
            bits.map(|bits| IpAddr::V6(Ipv6Addr::from_bits(bits)))
        }
    };
    let below = step(hole, false).map(|last| (prefix.base(), last));
    let above = step(hole, true).map(|first| (first, prefix.last()));
    [below, above]
        .into_iter()
        .flatten()
        .filter(|(first, last)| first <= last)
        .collect()
}

/// Everything of a container. `network` finds a network by its id.
pub fn container<'a>(
    container: &Container,
    network: impl Fn(&NetworkId) -> Option<&'a Network>,
    facts: &HostFacts,
) -> Vec<Object> {
    let owner = Owner::Container(container.id.clone());
    let mut objects = vec![
        Object::Loopback(owner.clone()),
        Object::Ruleset(skeleton::dns(&container.id)),
        Object::DnsSocket(owner.clone()),
    ];
    for endpoint in &container.endpoints {
        if let Some(network) = network(&endpoint.network) {
            objects.extend(endpoint_objects(container, endpoint, network, facts));
        }
    }
    for family in FAMILIES
        .into_iter()
        .filter(|family| *family == Family::V4 || facts.ipv6)
    {
        let Some((endpoint, gateway)) = gateway_endpoint(container, family, &network) else {
            continue;
        };
        objects.push(Object::Route(Route {
            ns: Ns::Container(container.id.clone()),
            dst: Prefix::default_route(family),
            via: Some(gateway),
            dev: endpoint.ifname.clone(),
            local: false,
            metric: 0,
            owner: Owner::Endpoint(container.id.clone(), endpoint.network.clone()),
        }));
        let Some(ip) = endpoint.ip(family) else {
            continue;
        };
        for port in container
            .ports
            .iter()
            .filter(|port| port_serves(port, family))
        {
            objects.extend(publish(port, family, ip, &owner));
        }
    }
    objects
}

/// The endpoint that a family's default route and published ports use, and the gateway there: the first, in the order
/// of attachment, on a network that is not internal.
pub fn gateway_endpoint<'c, 'a>(
    container: &'c Container,
    family: Family,
    network: impl Fn(&NetworkId) -> Option<&'a Network>,
) -> Option<(&'c Endpoint, IpAddr)> {
    container.endpoints.iter().find_map(|endpoint| {
        let network = network(&endpoint.network).filter(|network| !network.internal)?;
        endpoint.ip(family)?;
        Some((endpoint, network.subnet(family)?.gateway))
    })
}

/// Whether a published port answers in this family.
pub fn port_serves(port: &Port, family: Family) -> bool {
    port.host_ip.is_none_or(|ip| Family::of(ip) == family)
}

fn endpoint_objects(
    container: &Container,
    endpoint: &Endpoint,
    network: &Network,
    facts: &HostFacts,
) -> Vec<Object> {
    let owner = Owner::Endpoint(container.id.clone(), endpoint.network.clone());
    let inside = Ns::Container(container.id.clone());
    let end = |ns: Ns, name: &IfName, mac: Mac, master: Option<IfName>, link_local: bool| {
        Object::Link(Link {
            ns,
            name: name.clone(),
            kind: LinkKind::Veth,
            mac,
            mtu: network.mtu,
            up: true,
            master,
            link_local,
            owner: owner.clone(),
        })
    };
    let has6 = facts.ipv6 && endpoint.ip(Family::V6).is_some();
    let mut objects = vec![
        end(
            Ns::Host,
            &endpoint.host_ifname,
            endpoint.mac.host_end(),
            Some(network.interface.clone()),
            false,
        ),
        end(inside.clone(), &endpoint.ifname, endpoint.mac, None, has6),
        Object::BridgePort(BridgePort {
            ifname: endpoint.host_ifname.clone(),
            // With br_netfilter the DNAT of a container to its own published port happens on the bridge: the frame
            // has to leave by the port it came in on.
            hairpin: facts.bridge_netfilter,
            owner: owner.clone(),
        }),
    ];
    for family in FAMILIES
        .into_iter()
        .filter(|family| *family == Family::V4 || facts.ipv6)
    {
        if let (Some(ip), Some(subnet)) = (endpoint.ip(family), network.subnet(family)) {
            objects.push(Object::Address(Address {
                ns: inside.clone(),
                ifname: endpoint.ifname.clone(),
                ip,
                prefix_len: subnet.subnet.len(),
                owner: owner.clone(),
            }));
        }
    }
    objects
}

/// A published port in one family: the socket that holds it, and the map element that leads to the container.
fn publish(port: &Port, family: Family, to: IpAddr, owner: &Owner) -> [Object; 2] {
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
    [
        Object::HostPort(HostPort {
            ip,
            proto: port.proto,
            port: port.host_port,
            owner: owner.clone(),
        }),
        element(set, Some(family), key, data, owner),
    ]
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
    let mut protos = [Proto::Tcp, Proto::Udp].into_iter();
    Some(Port {
        proto: protos.find(|known| known.number() == *proto)?,
        host_ip: Some(ip),
        host_port: *host_port,
        container_port: *container_port,
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

/// The host's table.
pub fn host_table() -> TableRef {
    skeleton::host().table
}

fn set_name(base: &str, family: Option<Family>) -> String {
    family.map_or_else(
        || base.to_owned(),
        |family| format!("{base}{}", family.digit()),
    )
}

fn element(
    set: &str,
    family: Option<Family>,
    key: Vec<Datum>,
    data: ElementData,
    owner: &Owner,
) -> Object {
    let key = ElementKey {
        table: skeleton::host_table(),
        set: set_name(set, family),
        last: key.clone(),
        first: key,
    };
    Object::Element(Element {
        key,
        data,
        owner: owner.clone(),
    })
}

fn interval(
    set: &str,
    family: Family,
    first: Vec<Datum>,
    last: Vec<Datum>,
    owner: &Owner,
) -> Object {
    let key = ElementKey {
        table: skeleton::host_table(),
        set: set_name(set, Some(family)),
        first,
        last,
    };
    Object::Element(Element {
        key,
        data: ElementData::None,
        owner: owner.clone(),
    })
}
