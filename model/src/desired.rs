//! From intent to objects: what the kernel has to hold for the host, for a network, for a container.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;
use std::sync::{Arc, LazyLock};

use crate::api::HostChange;
use crate::attachment::{self, is_address_only};
use crate::id::NetworkId;
use crate::net::{Family, IfName, Mac};
use crate::nft::{Datum, Element, ElementData, ElementKey, Ruleset, TableRef, Verdict};
use crate::object::{Address, BridgePort, Link, LinkKind, Ns, Object, Owner, Sysctl};
use crate::observed::{HostFacts, Observed};
use crate::overlay;
use crate::record::{Container, Driver, Endpoint, Mode, Network, Port};
use crate::request::IFNAME;
use crate::skeleton::{
    self, ALLOW, APART, ARP, BRIDGES, FORWARDING, ITSELF, OPEN, PORT_MACS, PORTS, Reason, SAME,
    SOURCE, TRUSTED,
};

mod ports;
mod routes;
mod subnets;

pub use ports::{Way, published, published_to, published_udp, way};
use ports::{counters, network_access, port_access, publish};
use routes::routes;
pub use routes::{gateway_endpoint, gateway_endpoints};

/// Both families, in the order of everything that is printed.
pub const FAMILIES: [Family; 2] = [Family::V4, Family::V6];

/// The host's ruleset: made once, since it never changes while netd runs and is wanted with each request.
pub static HOST: LazyLock<Arc<Ruleset>> = LazyLock::new(|| Arc::new(skeleton::host()));
/// The ruleset of its bridges, likewise.
pub static BRIDGE: LazyLock<Arc<Ruleset>> = LazyLock::new(|| Arc::new(skeleton::bridge()));
/// The ruleset of tunnels, likewise.
pub static TUNNELS: LazyLock<Arc<Ruleset>> = LazyLock::new(|| Arc::new(skeleton::tunnels()));

/// The host's share: the ruleset, and the settings that netd had to change.
///
/// In a family in which netd itself switched forwarding on, packets between two interfaces that are not ours stay
/// dropped, so the host does not become a router by accident. `bridge_tables` says whether the kernel has such.
pub fn host(changes: &[HostChange], bridge_tables: bool) -> Vec<Object> {
    let mut objects = vec![Object::Ruleset(Arc::clone(&HOST))];
    objects.extend(dropped(&skeleton::host_table(), &Reason::HOST));
    if bridge_tables {
        objects.push(Object::Ruleset(Arc::clone(&BRIDGE)));
        objects.extend(dropped(&skeleton::bridge_table(), &Reason::BRIDGE));
    }
    for change in changes {
        objects.push(Object::Sysctl(host_setting(change)));
        let switched = |family: &Family| forwarding_path(*family) == change.sysctl;
        objects.extend(FAMILIES.into_iter().find(switched).map(forwarding_guard));
    }
    objects
}

/// A setting that netd had to change.
pub fn host_setting(change: &HostChange) -> Sysctl {
    Sysctl {
        ns: Ns::Host,
        path: change.sysctl.clone(),
        value: change.now.clone(),
        ifname: None,
        owner: Owner::Host,
    }
}

/// The elements that count what a table drops.
pub(crate) fn dropped(table: &TableRef, reasons: &[Reason]) -> Vec<Object> {
    let element = |reason: Reason, family: Datum| {
        Object::Element(Element {
            key: ElementKey {
                table: table.clone(),
                set: reason.set(),
                first: vec![family.clone()],
                last: vec![family],
            },
            data: ElementData::Verdict(Verdict::Drop),
            owner: Owner::Host,
        })
    };
    let of = |reason: &Reason| {
        let reason = *reason;
        skeleton::drop_keys(reason)
            .into_iter()
            .map(move |family| element(reason, family))
    };
    reasons.iter().flat_map(of).collect()
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

/// The families a network needs forwarding for: none if nothing leaves it.
pub fn forwarding_needed(network: &Network) -> impl Iterator<Item = Family> + '_ {
    FAMILIES
        .into_iter()
        .filter(|family| network.is_open(*family) && network.driver != Driver::Ipam)
}

/// Everything of a network that does not depend on its containers.
pub fn network(network: &Network, facts: &HostFacts) -> Vec<Object> {
    if network.driver == Driver::Ipam {
        return Vec::new();
    }
    let owner = Owner::Network(network.id.clone());
    let bridge = &network.interface;
    let has6 = network.has_gateway(Family::V6) && facts.ipv6;
    let mut objects = vec![Object::Link(Link {
        ns: Ns::Host,
        name: bridge.clone(),
        kind: LinkKind::Bridge,
        mac: network.mac(),
        mtu: network.mtu,
        up: true,
        master: None,
        link_local: has6,
        tunable: false,
        tunnel: None,
        owner: owner.clone(),
    })];
    objects.extend(overlay::network(network, facts, &owner));
    objects.extend(bridge_sysctls(network, facts, &owner));
    objects.extend(network_access(network, &owner));
    let name = || Datum::Ifname(bridge.clone());
    objects.push(element(
        BRIDGES,
        None,
        vec![name()],
        ElementData::None,
        &owner,
    ));
    let together = if network.policy.icc { SAME } else { APART };
    let mut pair = |set, from: &IfName, to: &IfName| {
        let key = vec![Datum::Ifname(from.clone()), Datum::Ifname(to.clone())];
        objects.push(element(set, None, key, ElementData::None, &owner));
    };
    pair(together, bridge, bridge);
    for trusted in &network.policy.trusted {
        pair(TRUSTED, trusted, bridge);
        pair(TRUSTED, bridge, trusted);
    }
    for family in FAMILIES
        .into_iter()
        .filter(|family| *family == Family::V4 || facts.ipv6)
    {
        objects.extend(subnets::family(network, family, &owner));
    }
    objects.extend(subnets::counted(network, &owner));
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
    if network.is_open(Family::V4) {
        // Ports published on 127.0.0.1: the packet leaves by the bridge with a loopback address until it is masqueraded.
        objects.push(sysctl(
            format!("net/ipv4/conf/{bridge}/route_localnet"),
            "1",
        ));
    }
    if facts.ipv6 {
        objects.push(if network.has_gateway(Family::V6) {
            sysctl(format!("net/ipv6/conf/{bridge}/accept_ra"), "0")
        } else {
            sysctl(format!("net/ipv6/conf/{bridge}/disable_ipv6"), "1")
        });
    }
    objects
}

/// Everything of a container. `network` finds a network by its id.
pub fn container<'a>(
    container: &Container,
    network: impl Fn(&NetworkId) -> Option<&'a Network>,
    facts: &HostFacts,
) -> Vec<Object> {
    let owner = Owner::Container(container.id.clone());
    if container.endpoints.iter().all(is_address_only) {
        // Another plugin makes the interfaces, and netd keeps the addresses.
        return Vec::new();
    }
    let mut objects = vec![
        Object::Loopback(owner.clone()),
        Object::from(skeleton::dns(&container.id)),
        Object::DnsSocket(owner.clone()),
    ];
    for endpoint in container.endpoints.iter().filter(|e| !is_address_only(e)) {
        if let Some(network) = network(&endpoint.network) {
            objects.extend(endpoint_objects(container, endpoint, network, facts));
            objects.extend(attachment::objects(container, endpoint, network, facts));
        }
    }
    for family in FAMILIES
        .into_iter()
        .filter(|family| *family == Family::V4 || facts.ipv6)
    {
        objects.extend(routes(container, family, &network));
        objects.extend(counters(container, family, &network, facts));
        objects.extend(port_access(container, family, &network, facts));
        let ports = container.ports.iter();
        for port in ports.filter(|port| port_serves(port, family)) {
            objects.extend(publish(container, port, family, &network, facts));
        }
    }
    objects
}

/// Whether a published port answers in this family.
pub fn port_serves(port: &Port, family: Family) -> bool {
    port.host_ip.is_none_or(|ip| Family::of(ip) == family)
}

/// The settings of an endpoint's interface.
fn settings(
    ns: &Ns,
    endpoint: &Endpoint,
    network: &Network,
    has6: bool,
    owner: &Owner,
) -> Vec<Object> {
    let mut settings = BTreeMap::new();
    if network.policy.l3 && has6 {
        // The host sends back into the bridge what it got from there, and tells of it (ICMPv6 redirects, which no setting of the
        // host stops). A container that believed it would look for its neighbour on the link, where it is not found, and wait
        // half a minute until TCP asks for another way.
        settings.insert(format!("net/ipv6/conf/{IFNAME}/accept_redirects"), "0");
    }
    let asked = endpoint.sysctls.iter();
    settings.extend(asked.map(|(path, value)| (path.clone(), value.as_str())));
    let setting = |(path, value): (String, &str)| {
        Object::Sysctl(Sysctl {
            ns: ns.clone(),
            path: path.replace(&format!("/{IFNAME}/"), &format!("/{}/", endpoint.ifname)),
            value: value.to_owned(),
            ifname: Some(endpoint.ifname.clone()),
            owner: owner.clone(),
        })
    };
    settings.into_iter().map(setting).collect()
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
            tunable: endpoint.cni.is_some() && name == &endpoint.ifname,
            tunnel: None,
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
    ];
    let port = BridgePort {
        ifname: endpoint.host_ifname.clone(),
        // With br_netfilter the DNAT of a container to its own published port happens on the bridge: the frame
        // has to leave by the port it came in on.
        hairpin: !facts.bridge_netfilter.is_empty(),
        isolated: is_isolated(network, facts),
        learning: true,
        flood: true,
        suppress: false,
        owner: owner.clone(),
    };
    let (port, station) = overlay::local_port(port, network, endpoint);
    objects.push(Object::BridgePort(port));
    objects.extend(station);
    if network.policy.antispoof && facts.bridge_tables {
        objects.extend(own_addresses(endpoint, has6, &owner));
    }
    if facts.bridge_tables {
        objects.extend(overlay::pace(network, endpoint, &owner));
    }
    objects.extend(settings(&inside, endpoint, network, has6, &owner));
    for family in FAMILIES
        .into_iter()
        .filter(|family| *family == Family::V4 || facts.ipv6)
    {
        let own = endpoint.ip(family);
        if let Some((ip, prefix_len)) = own.and_then(|ip| Some((ip, network.container_len(ip)?))) {
            objects.push(Object::Address(Address {
                ns: inside.clone(),
                ifname: endpoint.ifname.clone(),
                ip,
                prefix_len,
                owner: owner.clone(),
            }));
            if network.policy.l3 && !container.ports.is_empty() {
                let key = vec![ip.into(), ip.into()];
                objects.push(element(
                    ITSELF,
                    Some(family),
                    key,
                    ElementData::None,
                    &owner,
                ));
            }
            if network.is_open(family) && network.mode_of(family) == Mode::Routed {
                objects.extend(open_ports(container, ip, &owner));
            }
        }
    }
    objects
}

/// Whether the bridge keeps the ports of a network apart.
fn is_isolated(network: &Network, facts: &HostFacts) -> bool {
    // With br_netfilter for both families the forward chain judges bridged frames too, and the flag would stop what it
    // lets pass: a port published inside the network.
    let apart = !network.policy.icc && facts.bridge_netfilter.len() < FAMILIES.len();
    // With l3 it is only that broadcasts need not be copied to every port.
    apart || (network.policy.l3 && facts.bridge_netfilter.is_empty())
}

/// The ports on which a container answers at its own address.
fn open_ports<'a>(
    container: &'a Container,
    ip: IpAddr,
    owner: &'a Owner,
) -> impl Iterator<Item = Object> + 'a {
    let family = Family::of(ip);
    let ports = container.ports.iter();
    let opened = ports.filter(move |port| {
        port_serves(port, family) && port.host_ip.is_none_or(|ip| !ip.is_loopback())
    });
    opened.map(move |port| {
        let proto = Datum::L4Proto(port.proto.number());
        let key = vec![ip.into(), proto, Datum::Port(port.container_port)];
        element(OPEN, Some(family), key, ElementData::None, owner)
    })
}

/// What the port of an endpoint may send from: its own Ethernet address, and with that its own addresses.
fn own_addresses(endpoint: &Endpoint, has6: bool, owner: &Owner) -> Vec<Object> {
    let port = || Datum::Ifname(endpoint.host_ifname.clone());
    let mac = || Datum::Mac(endpoint.mac);
    let table = skeleton::bridge_table;
    let mut objects = Vec::new();
    let mut add = |set: &str, first: Vec<Datum>, last: Vec<Datum>| {
        let set = set.to_owned();
        let table = table();
        objects.push(Object::Element(Element {
            key: ElementKey {
                table,
                set,
                first,
                last,
            },
            data: ElementData::None,
            owner: owner.clone(),
        }));
    };
    let mut one = |set: &str, key: Vec<Datum>| add(set, key.clone(), key);
    one(PORTS, vec![port()]);
    one(PORT_MACS, vec![port(), mac()]);
    let link_local = has6.then(|| IpAddr::V6(endpoint.mac.link_local()));
    for ip in endpoint.ips.iter().copied().chain(link_local) {
        let family = Family::of(ip);
        one(
            &skeleton::of_family(SOURCE, family),
            vec![port(), mac(), ip.into()],
        );
        if family == Family::V4 {
            one(ARP, vec![port(), mac(), mac(), ip.into()]);
        }
    }
    for prefix in &endpoint.allow {
        let set = skeleton::of_family(ALLOW, prefix.family());
        let end = |ip: IpAddr| vec![port(), ip.into()];
        add(&set, end(prefix.base()), end(prefix.last()));
    }
    objects
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
