//! What each family and each subnet of a network wants.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use super::{FAMILIES, element, interval};
use crate::net::{Family, IfName, Prefix};
use crate::nft::{Datum, ElementData, Verdict};
use crate::object::{Address, Ns, Object, Owner, Route, family_key};
use crate::overlay;
use crate::record::{Mode, Network, Subnet};
use crate::skeleton::{
    self, DIRECT, DIRECT_AT, EGRESS, GUARD, MASQ, NOHOST, OWN, PEERS, Reason, SNAT, TO,
};

/// What a network wants in one family; nothing where it has no subnet.
pub(super) fn family(network: &Network, family: Family, owner: &Owner) -> Vec<Object> {
    if !network.has(family) {
        return Vec::new();
    }
    let subnets = network.subnets_of(family);
    let mut objects: Vec<Object> = subnets
        .flat_map(|held| subnet(network, held, owner))
        .collect();
    objects.extend(verdicts(network, family, owner));
    if network.is_open(family) && family == Family::V6 {
        objects.push(loopback_route(network, owner));
    }
    objects
}

/// What one subnet wants: the host's address in it, and the sets that know its addresses.
fn subnet(network: &Network, held: &Subnet, owner: &Owner) -> Vec<Object> {
    let prefix = held.subnet;
    let family = prefix.family();
    let gateway = network.gateway_of(prefix.base());
    let mut objects = Vec::new();
    if let Some(ip) = gateway {
        objects.push(Object::Address(Address {
            ns: Ns::Host,
            ifname: network.interface.clone(),
            ip,
            // The route of an overlay has a source of its own, which the kernel's would not have.
            prefix_len: match network.overlay {
                Some(_) => overlay::whole(family),
                None => prefix.len(),
            },
            owner: owner.clone(),
        }));
    }
    let within = |set, ifname: &IfName| {
        let end = |ip: IpAddr| vec![Datum::Ifname(ifname.clone()), ip.into()];
        interval(set, family, end(prefix.base()), end(prefix.last()), owner)
    };
    if !network.policy.l3 {
        objects.push(within(OWN, &network.interface));
    }
    if network.mode_of(family) != Mode::Routed || network.internal {
        let trusted = network.policy.trusted.iter();
        let ways = [&network.interface].into_iter().chain(trusted);
        objects.extend(ways.map(|name| within(DIRECT, name)));
        objects.extend(without(prefix, gateway).into_iter().map(|(first, last)| {
            interval(GUARD, family, vec![first.into()], vec![last.into()], owner)
        }));
        let (first, last) = (vec![prefix.base().into()], vec![prefix.last().into()]);
        objects.push(interval(DIRECT_AT, family, first, last, owner));
    }
    if network.is_open(family) {
        let peers = network.policy.non_masquerade.iter();
        for peer in peers.filter(|peer| peer.family() == family) {
            let end = |peer: IpAddr, own: IpAddr| vec![peer.into(), own.into()];
            let first = end(peer.base(), prefix.base());
            let last = end(peer.last(), prefix.last());
            objects.push(interval(PEERS, family, first, last, owner));
        }
    }
    objects
}

/// How packets of a family come into a network and out of it, and under which address they leave.
fn verdicts(network: &Network, family: Family, owner: &Owner) -> Vec<Object> {
    let bridge = &network.interface;
    let mode = network.mode_of(family);
    let mut objects = Vec::new();
    let mut of_family = |set, data| {
        objects.push(element(set, None, family_key(bridge, family), data, owner));
    };
    let goto = |chain: &str| ElementData::Verdict(Verdict::Goto(chain.to_owned()));
    let drop = || goto(&Reason::Internal.chain());
    if network.is_open(family) {
        match mode {
            Mode::Routed => of_family(TO, goto(skeleton::TO_ROUTED)),
            _ => of_family(TO, goto(skeleton::TO_NAT)),
        }
        if mode == Mode::Nat {
            of_family(MASQ, ElementData::None);
        }
    } else {
        of_family(TO, drop());
        of_family(EGRESS, drop());
    }
    // A host without an address there has others, which a container could reach by the bridge's MAC.
    if !network.is_open(family) || !network.policy.host_access {
        of_family(NOHOST, ElementData::None);
    }
    if network.is_open(family) && mode == Mode::Nat {
        let snat = network.policy.snat.iter().copied();
        objects.extend(snat.filter(|ip| Family::of(*ip) == family).map(|ip| {
            let data = ElementData::Values(vec![ip.into()]);
            let key = vec![Datum::Ifname(bridge.clone())];
            element(SNAT, Some(family), key, data, owner)
        }));
    }
    objects
}

/// The elements that count what is dropped at a network, for the reasons that there are on it.
pub(super) fn counted(network: &Network, owner: &Owner) -> Vec<Object> {
    let mut families = FAMILIES.into_iter().filter(|family| network.has(*family));
    let has_open = families.clone().any(|family| network.is_open(family));
    let has_closed = families.any(|family| !network.is_open(family));
    let occurs = |reason: &Reason| match reason {
        Reason::Icc => !network.policy.icc,
        Reason::HostAccess => has_closed || !network.policy.host_access,
        Reason::Internal => has_closed,
        Reason::Unpublished => has_open,
        _ => true,
    };
    let sets = Reason::HOST.into_iter().filter(occurs);
    let bridge = || vec![Datum::Ifname(network.interface.clone())];
    sets.filter_map(Reason::set_at)
        .map(|set| element(&set, None, bridge(), ElementData::None, owner))
        .collect()
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
        src: None,
        owner: owner.clone(),
    })
}

/// The ranges of a prefix without one address of it.
fn without(prefix: Prefix, hole: Option<IpAddr>) -> Vec<(IpAddr, IpAddr)> {
    let Some(hole) = hole else {
        return vec![(prefix.base(), prefix.last())];
    };
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

#[cfg(test)]
mod tests {
    use crate::desired;
    use crate::fake::tests::{container, network};
    use crate::object::{Key, Ns, Object};
    use crate::observed::HostFacts;
    use crate::record::{Mode, Network, Policy};

    fn texts(objects: &[Object]) -> Vec<String> {
        objects.iter().map(ToString::to_string).collect()
    }

    /// What a network and a container of it want, with an odd number in its second subnets, with an even one in its first.
    fn wanted(network: &Network, number: u8) -> Vec<Object> {
        let facts = HostFacts {
            ipv6: true,
            bridge_tables: true,
            ..HostFacts::default()
        };
        let made = container(number, &[network], Vec::new());
        let mut objects = desired::network(network, &facts);
        objects.extend(desired::container(&made, |_| Some(network), &facts));
        objects
    }

    /// The routes of the container, as `destination via gateway`.
    fn routes(objects: &[Object]) -> Vec<String> {
        let inside = objects.iter().filter_map(|object| match object {
            Object::Route(route) if route.ns != Ns::Host => Some(route),
            _ => None,
        });
        let text =
            |via: Option<std::net::IpAddr>| via.map_or_else(String::new, |ip| ip.to_string());
        let mut all: Vec<String> = inside
            .filter(|route| !route.dst.to_string().starts_with("192.168."))
            .map(|route| format!("{} via {}", route.dst, text(route.via)))
            .collect();
        all.sort();
        all
    }

    #[test]
    fn the_host_is_in_every_subnet_and_guards_each() {
        let objects = wanted(&network(3, true, false), 2);
        let addresses: Vec<String> = objects
            .iter()
            .filter_map(|object| match object {
                Object::Address(a) if a.ns == Ns::Host => {
                    Some(format!("{}/{}", a.ip, a.prefix_len))
                }
                _ => None,
            })
            .collect();
        assert_eq!(
            addresses,
            [
                "10.3.0.1/16",
                "10.103.0.1/24",
                "fd00:3::1/64",
                "fd00:103::1/64"
            ]
        );
        let count = |set: &str| {
            let elements = objects.iter().filter(|object| match object {
                Object::Element(element) => element.key.set == set,
                _ => false,
            });
            elements.count()
        };
        // A subnet without its gateway is two ranges.
        for (set, elements) in [
            ("own4", 2),
            ("direct6", 2),
            ("guard4", 4),
            ("guard6", 4),
            ("masq", 2),
            ("to", 2),
        ] {
            assert_eq!(count(set), elements, "{set}: {:#?}", texts(&objects));
        }
        let keys: std::collections::BTreeSet<Key> = objects.iter().map(Object::key).collect();
        assert_eq!(keys.len(), objects.len(), "each object once");
    }

    #[test]
    fn the_other_subnets_are_on_the_link_and_the_own_gateway_leads_out() {
        let first = routes(&wanted(&network(3, true, false), 2));
        assert_eq!(
            first,
            [
                "0.0.0.0/0 via 10.3.0.1",
                "10.103.0.0/24 via ",
                "::/0 via fd00:3::1",
                "fd00:103::/64 via "
            ]
        );
        let second = routes(&wanted(&network(3, true, false), 1));
        assert_eq!(
            second,
            [
                "0.0.0.0/0 via 10.103.0.1",
                "10.3.0.0/16 via ",
                "::/0 via fd00:103::1",
                "fd00:3::/64 via "
            ]
        );
        let inside = ["10.3.0.0/16 via ", "fd00:3::/64 via "];
        assert_eq!(routes(&wanted(&network(3, true, true), 1)), inside);
        let isolated = Network {
            mode: Mode::Isolated,
            ..network(3, true, false)
        };
        assert_eq!(routes(&wanted(&isolated, 1)), inside);
        let alone = routes(&wanted(&network(1, true, false), 1));
        assert_eq!(alone, ["0.0.0.0/0 via 10.1.0.1", "::/0 via fd00:1::1"]);
    }

    #[test]
    fn with_l3_every_subnet_lies_behind_the_own_gateway() {
        let policy = Policy {
            l3: true,
            ..Policy::default()
        };
        let net = Network {
            policy,
            ..network(3, false, false)
        };
        assert_eq!(
            routes(&wanted(&net, 1)),
            [
                "0.0.0.0/0 via 10.103.0.1",
                "10.103.0.0/24 via 10.103.0.1",
                "10.103.0.1/32 via ",
                "10.3.0.0/16 via 10.103.0.1",
            ]
        );
    }
}
