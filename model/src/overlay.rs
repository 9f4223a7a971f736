//! Overlay networks: what a host has to hold so that its containers and those of other hosts are on one network.
//!
//! An overlay network is a bridge network with one more port, a VXLAN device. Who is where is told by records, never
//! learnt from frames: a station's host, its port, and the answer to ARP and neighbour discovery are objects like all
//! others.

use std::collections::BTreeSet;
use std::net::IpAddr;
use std::sync::Arc;

use serde::{Deserialize, Serialize};

use crate::desired::{self, dropped};
use crate::net::{Family, IfName, Mac, Prefix};
use crate::nft::{Datum, Element, ElementData, ElementKey, TableRef};
use crate::object::{
    Address, BridgePort, Flood, Link, LinkKind, Neighbour, Ns, Object, Owner, Remote, Route,
    Station, Tunnel,
};
use crate::observed::HostFacts;
use crate::record::{Endpoint, Network};
use crate::skeleton::{
    self, PACED, PACED_PORTS, ROUTERS, Reason, TUNNEL_PEERS, TUNNEL_PORTS, TUNNELS,
};

/// The UDP port of VXLAN (IANA).
pub const PORT: u16 = 4789;
/// Bytes that VXLAN adds to a packet, by the family it travels in: Ethernet, VXLAN, UDP and IP headers.
pub const fn overhead(family: Family) -> u32 {
    match family {
        Family::V4 => 50,
        Family::V6 => 70,
    }
}
/// Network identifiers that netd chooses: the upper half, for others start at the lower end.
pub const VNIS: std::ops::RangeInclusive<u32> = 0x80_0000..=0xff_fffe;

/// What makes a network an overlay.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Overlay {
    /// Its network identifier, 24 bits, unique in the cluster.
    pub vni: u32,
    /// The UDP port of its packets.
    pub port: u16,
    /// Whether they bear a UDP checksum. Without one, nothing outside the inner packet is checked, and hosts take what bears none
    /// over IPv6 too.
    #[serde(default = "yes", skip_serializing_if = "is_yes")]
    pub udpcsum: bool,
    /// What this host is on the network. Never written: each host has its own.
    #[serde(skip)]
    pub router: Option<Place>,
}

const fn yes() -> bool {
    true
}

#[expect(
    clippy::trivially_copy_pass_by_ref,
    reason = "the signature that serde wants"
)]
const fn is_yes(flag: &bool) -> bool {
    *flag
}

/// A station of an overlay network, and where it is: a container, or a host's own end.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct Place {
    /// Its Ethernet address.
    pub mac: Mac,
    /// Its addresses.
    pub ips: Vec<IpAddr>,
    /// The address of its host, where VXLAN packets go to.
    pub host: IpAddr,
}

/// The name of a network's VXLAN device: `ndx-` and the digits of its id.
pub fn device(network: &Network) -> IfName {
    match IfName::parse(&format!("ndx-{}", &network.id[..8])) {
        Ok(name) => name,
        // An id has 32 hex digits.
        Err(error) => unreachable!("{error}"),
    }
}

/// The largest packet on an overlay network over an underlay of this MTU.
pub fn inner_mtu(underlay: u32, host: IpAddr) -> u32 {
    underlay.saturating_sub(overhead(Family::of(host)))
}

/// The part of an overlay network that bridges do not have: its device, this host's own addresses, the guard. Nothing
/// while the host has no part in it.
pub(crate) fn network(network: &Network, facts: &HostFacts, owner: &Owner) -> Vec<Object> {
    let Some((overlay, router)) = parts(network) else {
        return Vec::new();
    };
    let device = device(network);
    let mut objects = vec![
        Object::Link(Link {
            ns: Ns::Host,
            name: device.clone(),
            kind: LinkKind::Vxlan,
            mac: router.mac.host_end(),
            mtu: network.mtu,
            up: true,
            master: Some(network.interface.clone()),
            link_local: false,
            tunable: false,
            tunnel: Some(Tunnel {
                vni: overlay.vni,
                port: overlay.port,
                local: router.host,
                udpcsum: overlay.udpcsum,
            }),
            owner: owner.clone(),
        }),
        Object::BridgePort(BridgePort {
            ifname: device,
            hairpin: false,
            isolated: false,
            learning: false,
            flood: true,
            suppress: true,
            owner: owner.clone(),
        }),
        tunnel_element(overlay, owner),
    ];
    for subnet in &network.subnets {
        let family = subnet.subnet.family();
        let own = router.ips.iter().find(|ip| subnet.subnet.contains(**ip));
        let served = network.has_gateway(family) && (family == Family::V4 || facts.ipv6);
        let Some(own) = own.filter(|_| served) else {
            continue;
        };
        objects.push(Object::Address(Address {
            ns: Ns::Host,
            ifname: network.interface.clone(),
            ip: *own,
            prefix_len: whole(family),
            owner: owner.clone(),
        }));
        // Replies to the gateway's address would end on the container's own host: what a host sends bears its own.
        objects.push(Object::Route(Route {
            ns: Ns::Host,
            dst: subnet.subnet,
            via: None,
            dev: network.interface.clone(),
            local: false,
            metric: 0,
            src: Some(*own),
            owner: owner.clone(),
        }));
    }
    objects
}

/// The overlay of a network that this host has a part in, and that part.
pub fn parts(network: &Network) -> Option<(&Overlay, &Place)> {
    let overlay = network.overlay.as_ref()?;
    Some((overlay, overlay.router.as_ref()?))
}

/// The length of a prefix that is one address.
pub const fn whole(family: Family) -> u8 {
    match family {
        Family::V4 => 32,
        Family::V6 => 128,
    }
}

fn tunnel_element(overlay: &Overlay, owner: &Owner) -> Object {
    set_element(
        skeleton::tunnel_table(),
        TUNNELS,
        vec![Datum::Vni(overlay.vni)],
        owner,
    )
}

fn set_element(table: TableRef, set: &str, key: Vec<Datum>, owner: &Owner) -> Object {
    Object::Element(Element {
        key: ElementKey {
            table,
            set: set.to_owned(),
            last: key.clone(),
            first: key,
        },
        data: ElementData::None,
        owner: owner.clone(),
    })
}

/// What keeps the tunnels: the UDP ports that packets of overlay networks come in on, and the addresses of the cluster's hosts,
/// from which alone they are taken. Nothing while there is no port.
pub fn tunnels(ports: &BTreeSet<u16>, hosts: &BTreeSet<IpAddr>) -> Vec<Object> {
    if ports.is_empty() {
        return Vec::new();
    }
    let mut objects = vec![Object::Ruleset(Arc::clone(&desired::TUNNELS))];
    objects.extend(dropped(&skeleton::tunnel_table(), &Reason::TUNNEL));
    let element =
        |set: &str, key| set_element(skeleton::tunnel_table(), set, vec![key], &Owner::Host);
    let port = |port: &u16| element(TUNNEL_PORTS, Datum::Port(*port));
    objects.extend(ports.iter().map(port));
    objects.extend(hosts.iter().map(|host| {
        let set = skeleton::of_family(TUNNEL_PEERS, Family::of(*host));
        element(&set, (*host).into())
    }));
    objects
}

/// What a host holds of a station elsewhere.
pub fn remote(network: &Network, place: &Place, facts: &HostFacts) -> Vec<Object> {
    if parts(network).is_none() {
        return Vec::new();
    }
    let owner = Owner::Network(network.id.clone());
    let device = device(network);
    let mut objects = vec![
        Object::Remote(Remote {
            ifname: device.clone(),
            mac: place.mac,
            host: place.host,
            owner: owner.clone(),
        }),
        Object::Station(Station {
            ifname: device,
            mac: place.mac,
            owner: owner.clone(),
        }),
    ];
    let known = place.ips.iter().filter(|ip| ip.is_ipv4() || facts.ipv6);
    objects.extend(known.map(|ip| {
        Object::Neighbour(Neighbour {
            ifname: network.interface.clone(),
            ip: *ip,
            mac: place.mac,
            owner: owner.clone(),
        })
    }));
    objects
}

/// That a host gets what is for all hosts of the network.
pub fn flood(network: &Network, host: IpAddr) -> Option<Object> {
    parts(network)?;
    Some(Object::Flood(Flood {
        ifname: device(network),
        host,
        owner: Owner::Network(network.id.clone()),
    }))
}

/// What a host holds of another host on the network.
pub fn peer(network: &Network, router: &Place, facts: &HostFacts) -> Vec<Object> {
    let mut objects = remote(network, router, facts);
    if !objects.is_empty() {
        objects.extend(flood(network, router.host));
        let known = router.ips.iter().filter(|ip| ip.is_ipv4() || facts.ipv6);
        objects.extend(known.map(|ip| {
            let set = skeleton::of_family(ROUTERS, Family::of(*ip));
            let key = vec![Datum::Ifname(network.interface.clone()), (*ip).into()];
            set_element(
                skeleton::host_table(),
                &set,
                key,
                &Owner::Network(network.id.clone()),
            )
        }));
    }
    objects
}

/// A container's port is told who is behind it; without anti-spoofing it may have others behind it too, which the bridge
/// has to learn.
pub(crate) fn local_port(
    port: BridgePort,
    network: &Network,
    endpoint: &Endpoint,
) -> (BridgePort, Option<Object>) {
    if network.overlay.is_none() || !network.policy.antispoof {
        return (port, None);
    }
    let station = Station {
        ifname: port.ifname.clone(),
        mac: endpoint.mac,
        owner: port.owner.clone(),
    };
    let port = BridgePort {
        learning: false,
        flood: false,
        ..port
    };
    (port, Some(Object::Station(station)))
}

/// Frames to several stations are copied to every host: a container's port is limited in them.
pub(crate) fn pace(network: &Network, endpoint: &Endpoint, owner: &Owner) -> Vec<Object> {
    if network.overlay.is_none() {
        return Vec::new();
    }
    let element = |set: &str| {
        let key = vec![Datum::Ifname(endpoint.host_ifname.clone())];
        Object::Element(Element {
            key: ElementKey {
                table: skeleton::bridge_table(),
                set: set.to_owned(),
                last: key.clone(),
                first: key,
            },
            data: ElementData::None,
            owner: owner.clone(),
        })
    };
    [PACED_PORTS, PACED].map(element).into()
}

/// How long the blocks are that the subnet of an overlay is cut into: half of the bits that are left, at least four blocks of
/// four addresses.
pub fn block_len(subnet: Prefix) -> u8 {
    let all = whole(subnet.family());
    u8::midpoint(subnet.len(), all).clamp(subnet.len(), all.saturating_sub(2))
}

/// The longest subnet that can be cut into blocks for several hosts.
pub const fn longest_subnet(family: Family) -> u8 {
    whole(family) - 4
}

/// The shared block of a subnet, where addresses are claimed one by one: the first, which has the gateway.
pub fn shared_block(subnet: Prefix) -> Prefix {
    Prefix::holding(subnet.base(), block_len(subnet))
}

/// The n-th block of a subnet; none behind the last.
pub fn block(subnet: Prefix, n: u64) -> Option<Prefix> {
    let len = block_len(subnet);
    let count_bits = len - subnet.len();
    if count_bits < 64 && n >> count_bits != 0 {
        return None;
    }
    let shift = u32::from(whole(subnet.family()) - len);
    let base = match subnet.base() {
        IpAddr::V4(base) => {
            let offset = u32::try_from(n).ok()?.checked_shl(shift)?;
            IpAddr::V4((base.to_bits() | offset).into())
        }
        IpAddr::V6(base) => {
            let offset = u128::from(n).checked_shl(shift)?;
            IpAddr::V6((base.to_bits() | offset).into())
        }
    };
    Some(Prefix::holding(base, len))
}

/// The payload of a UDP datagram that fills a packet of this size, in bytes.
pub const fn payload(mtu: u32, family: Family) -> usize {
    let headers = match family {
        Family::V4 => 20 + 8,
        Family::V6 => 40 + 8,
    };
    mtu.saturating_sub(headers) as usize
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::desired;
    use crate::diff::diff;
    use crate::fake::tests::{overlaid, place};
    use crate::observed::Observed;
    use crate::op::Op;

    fn facts() -> HostFacts {
        HostFacts {
            ipv6: true,
            bridge_tables: true,
            ..HostFacts::default()
        }
    }

    fn objects(network: &Network, places: &[Place]) -> Vec<Object> {
        let mut objects = desired::host(&[], facts().bridge_tables);
        objects.extend(tunnels(&[PORT].into(), &BTreeSet::new()));
        objects.extend(desired::network(network, &facts()));
        objects.extend(
            places
                .iter()
                .flat_map(|place| peer(network, place, &facts())),
        );
        objects
    }

    fn plan(held: &mut Observed, wanted: &[Object]) -> Vec<Op> {
        let ops = diff(wanted, held, |_| true).ops;
        for op in &ops {
            held.apply(op)
                .unwrap_or_else(|error| panic!("{op}: {error}"));
        }
        assert_eq!(diff(wanted, held, |_| true).ops, Vec::new());
        ops
    }

    #[test]
    fn stations_come_move_and_go_with_one_operation_each() {
        let net = overlaid(7);
        let mut held = Observed::default();
        let (one, two) = (place(3, "192.0.2.2"), place(4, "192.0.2.3"));
        plan(&mut held, &objects(&net, std::slice::from_ref(&one)));
        let texts = |ops: Vec<Op>| ops.iter().map(ToString::to_string).collect::<Vec<_>>();
        let came = texts(plan(&mut held, &objects(&net, &[one.clone(), two.clone()])));
        assert_eq!(came.len(), 7, "{came:#?}");
        let moved = Place {
            host: "192.0.2.9".parse().unwrap(),
            ..two
        };
        // Its host in the table, and the replication to the new host instead of the old one.
        let ops = texts(plan(&mut held, &objects(&net, &[one.clone(), moved])));
        assert_eq!(ops.len(), 3, "{ops:#?}");
        let gone = texts(plan(&mut held, &objects(&net, &[one])));
        assert_eq!(gone.len(), 7, "{gone:#?}");
    }

    #[test]
    fn a_tunnel_from_another_address_is_made_anew_with_all_that_stands_on_it() {
        let net = overlaid(7);
        let places = [place(3, "192.0.2.2"), place(4, "192.0.2.3")];
        let mut held = Observed::default();
        plan(&mut held, &objects(&net, &places));
        let mut moved = net.clone();
        if let Some(router) = moved.overlay.as_mut().and_then(|o| o.router.as_mut()) {
            router.host = "192.0.2.77".parse().unwrap();
        }
        let ops = plan(&mut held, &objects(&moved, &places));
        let is_made_anew = |ops: &[Op]| {
            matches!(&ops[0], Op::Remove(Object::Link(link)) if link.kind == LinkKind::Vxlan)
                && matches!(&ops[1], Op::Add(Object::Link(link)) if link.kind == LinkKind::Vxlan)
        };
        assert!(is_made_anew(&ops), "{ops:#?}");
        // So is one whose packets bear another kind of checksum.
        if let Some(overlay) = &mut moved.overlay {
            overlay.udpcsum = false;
        }
        let of_checksum = plan(&mut held, &objects(&moved, &places));
        assert!(is_made_anew(&of_checksum), "{of_checksum:#?}");
        // The bridge, and what containers stand on, stays.
        let bridge =
            |op: &Op| matches!(op, Op::Add(Object::Link(link)) if link.kind == LinkKind::Bridge);
        assert!(!ops.iter().any(bridge));
        // What stands on a link goes with it; elements of sets stand on none.
        let mut left = desired::host(&[], facts().bridge_tables);
        left.extend(tunnels(&[PORT].into(), &BTreeSet::new()));
        let ops = plan(&mut held, &left);
        let is_element = |op: &&Op| matches!(op, Op::Remove(Object::Element(_)));
        let others: Vec<String> = ops
            .iter()
            .filter(|op| !is_element(op))
            .map(ToString::to_string)
            .collect();
        assert!(others.len() <= 2, "{others:#?}");
    }

    #[test]
    fn subnets_are_cut_into_blocks_that_cover_them() {
        for (subnet, len, count) in [
            ("10.0.0.0/20", 26, 64),
            ("10.0.0.0/24", 28, 16),
            ("10.0.0.0/28", 30, 4),
            ("10.0.0.0/8", 20, 4096),
        ] {
            let subnet: Prefix = subnet.parse().unwrap();
            assert_eq!(block_len(subnet), len, "{subnet}");
            let blocks: Vec<Prefix> = (0..).map_while(|n| block(subnet, n)).collect();
            assert_eq!(blocks.len(), count, "{subnet}");
            assert_eq!(blocks.first(), Some(&shared_block(subnet)));
            assert_eq!(blocks.last().map(|last| last.last()), Some(subnet.last()));
            assert!(blocks.windows(2).all(|pair| !pair[0].overlaps(pair[1])));
        }
        let subnet: Prefix = "fd00::/64".parse().unwrap();
        assert_eq!(
            block(subnet, 1).map(|b| b.to_string()).as_deref(),
            Some("fd00::1:0:0/96")
        );
        assert!(block(subnet, u64::from(u32::MAX)).is_some());
        assert!(block(subnet, 1 << 32).is_none());
    }

    #[test]
    fn a_packet_of_the_inner_mtu_fits_the_underlay() {
        assert_eq!(inner_mtu(1500, [192, 0, 2, 1].into()), 1450);
        assert_eq!(inner_mtu(1500, "fd02::1".parse().unwrap()), 1430);
        assert_eq!(inner_mtu(9000, [192, 0, 2, 1].into()), 8950);
    }
}
