//! The plan: from what the kernel holds to what it shall hold, as an ordered list of operations.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;

use crate::desired::{self, published_udp};
use crate::id::ContainerId;
use crate::net::{Family, Mac};
use crate::nft::TableFamily;
use crate::object::{Key, Link, LinkKind, Ns, Object, Owner};
use crate::observed::Observed;
use crate::op::Op;

/// What has to be done, and what was found that serves nobody.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Plan {
    /// The operations, in order.
    pub ops: Vec<Op>,
    /// Objects that carry our mark but whose owner is not on record: reported, never removed unasked (invariant I7).
    pub orphans: Vec<Object>,
}

/// Compares desired and observed objects.
///
/// `known` says whether an owner is on record. Objects inside namespaces that could not be looked into are left alone.
pub fn diff(desired: &[Object], observed: &Observed, known: impl Fn(&Owner) -> bool) -> Plan {
    let wanted: BTreeMap<Key, &Object> = desired
        .iter()
        .map(|object| (object.key(), object))
        .collect();
    let mut plan = Plan::default();
    let mut removed = Vec::new();
    for (key, object) in &observed.objects {
        // A setting and `lo` carry no mark: they are ours only while they are wanted, and never removed.
        let unmarked = matches!(object, Object::Sysctl(_) | Object::Loopback(_));
        if unmarked || wanted.contains_key(key) || is_unseen(observed, object) {
            continue;
        }
        if known(object.owner()) {
            removed.push(object);
        } else {
            plan.orphans.push(object.clone());
        }
    }
    let pairs = pairs(&wanted, observed);
    let mut removals: Vec<&Object> = pairs.iter().filter_map(|pair| pair.broken).collect();
    removals.extend(removed);
    removals.extend(replaced(&wanted, observed));
    let gone = gone_links(&removals, observed);
    let mut changes = additions(&wanted, observed, &gone, &pairs);
    let mut ops = ordered_removals(removals, &gone);
    ops.append(&mut changes);
    plan.ops = with_flow_resets(ops, desired);
    plan
}

fn is_unseen(observed: &Observed, object: &Object) -> bool {
    matches!(object.ns(), Ns::Container(id) if observed.unseen.contains(&id))
}

/// A wanted veth pair that is not whole.
struct Pair<'a> {
    host: &'a Link,
    container: &'a Link,
    /// The end that is there and has to go first.
    broken: Option<&'a Object>,
}

/// One request makes both ends of a pair, so a pair with one end missing is replaced.
fn pairs<'a>(wanted: &BTreeMap<Key, &'a Object>, observed: &'a Observed) -> Vec<Pair<'a>> {
    let mut ends: BTreeMap<&Owner, (Option<&Link>, Option<&Link>)> = BTreeMap::new();
    for object in wanted.values() {
        if let Object::Link(link) = object
            && link.kind == LinkKind::Veth
            && !link
                .owner
                .container()
                .is_some_and(|id| observed.unseen.contains(id))
        {
            let entry = ends.entry(&link.owner).or_default();
            match link.ns {
                Ns::Host => entry.0 = Some(link),
                Ns::Container(_) => entry.1 = Some(link),
            }
        }
    }
    ends.into_values()
        .filter_map(|(host, container)| {
            let (host, container) = (host?, container?);
            let find = |link: &Link| {
                observed.objects.get(&Key::Link {
                    ns: link.ns.clone(),
                    name: link.name.clone(),
                })
            };
            match (find(host), find(container)) {
                (Some(_), Some(_)) => None,
                (have_host, have_container) => Some(Pair {
                    host,
                    container,
                    broken: have_host.or(have_container),
                }),
            }
        })
        .collect()
}

/// Tunnels that lead elsewhere than wanted: the kernel changes neither number nor port of one.
fn replaced<'a>(
    wanted: &'a BTreeMap<Key, &Object>,
    observed: &'a Observed,
) -> impl Iterator<Item = &'a Object> {
    wanted.iter().filter_map(|(key, object)| {
        let held = observed.objects.get(key)?;
        match (object, held) {
            (Object::Link(want), Object::Link(have)) if want.tunnel != have.tunnel => Some(held),
            _ => None,
        }
    })
}

/// The links that vanish with a list of removals: a veth takes its peer along.
fn gone_links(removals: &[&Object], observed: &Observed) -> BTreeSet<Key> {
    let mut gone = BTreeSet::new();
    let mut owners = BTreeSet::new();
    for object in removals {
        if let Object::Link(link) = object {
            gone.insert(object.key());
            if link.kind == LinkKind::Veth {
                owners.insert(&link.owner);
            }
        }
    }
    for (key, object) in &observed.objects {
        if let Object::Link(link) = object
            && link.kind == LinkKind::Veth
            && owners.contains(&link.owner)
        {
            gone.insert(key.clone());
        }
    }
    gone
}

/// Removals, without what goes by itself: the links of containers first, then all else in reverse order of dependence.
///
/// While the kernel frees what a batch of nftables removed, it makes a link's removal wait, so nothing comes before the
/// links (ARCHITECTURE.md, "Links go first"). What leads to a container without a link leads nowhere.
fn ordered_removals(removals: Vec<&Object>, gone: &BTreeSet<Key>) -> Vec<Op> {
    let hosts: BTreeSet<&Owner> = removals
        .iter()
        .filter_map(|object| match object {
            Object::Link(link) if link.kind == LinkKind::Veth && link.ns == Ns::Host => {
                Some(&link.owner)
            }
            _ => None,
        })
        .collect();
    let by_itself = |object: &Object| match object {
        // The peer goes with the host's end.
        Object::Link(link) => link.ns != Ns::Host && hosts.contains(&link.owner),
        other => other.link().is_some_and(|link| gone.contains(&link)),
    };
    let mut list: Vec<&Object> = removals
        .into_iter()
        .filter(|object| !by_itself(object))
        .collect();
    list.sort_by_key(|object| std::cmp::Reverse(removal_rank(object)));
    list.into_iter()
        .map(|object| Op::Remove(object.clone()))
        .collect()
}

fn additions(
    wanted: &BTreeMap<Key, &Object>,
    observed: &Observed,
    gone: &BTreeSet<Key>,
    pairs: &[Pair<'_>],
) -> Vec<Op> {
    let new_ends: BTreeSet<Key> = pairs
        .iter()
        .flat_map(|pair| [pair.host, pair.container])
        .map(|link| Key::Link {
            ns: link.ns.clone(),
            name: link.name.clone(),
        })
        .collect();
    let mut list: Vec<(u8, Op)> = pairs
        .iter()
        .map(|pair| {
            (
                PAIR,
                Op::AddPair {
                    host: pair.host.clone(),
                    container: pair.container.clone(),
                },
            )
        })
        .collect();
    for (key, object) in wanted {
        if is_unseen(observed, object) || new_ends.contains(key) {
            continue;
        }
        // What stands on a link that goes, goes with it, even if its successor stands on another.
        let is_lost = |object: &Object| {
            object
                .link()
                .is_some_and(|link| gone.contains(&link) || new_ends.contains(&link))
        };
        let held = observed.objects.get(key);
        let held = held.filter(|have| !is_lost(have) && !gone.contains(key));
        match held {
            None => list.push((rank(object), Op::Add((*object).clone()))),
            Some(have) if object.is_held_as(have) => {}
            Some(have) => list.push((
                rank(object),
                Op::Change {
                    from: have.clone(),
                    to: (*object).clone(),
                },
            )),
        }
    }
    list.extend(announcements(&list, wanted));
    list.sort_by_key(|(rank, _)| *rank);
    list.into_iter().map(|(_, op)| op).collect()
}

const PAIR: u8 = 8;
const ANNOUNCE: u8 = 14;
const ELEMENTS: u8 = 17;
/// Beyond all ranks.
const LINKS_GO: u8 = 18;

/// The order of dependence; the published elements come last, when everything behind them works.
fn rank(object: &Object) -> u8 {
    match object {
        Object::HostPort(_) => 0,
        Object::Ruleset(ruleset) if ruleset.table.ns == Ns::Host => 1,
        // When forwarding is switched on the kernel forgets the default routes it learnt on interfaces whose accept_ra is
        // not 2 (net/ipv6/addrconf.c, addrconf_fixup_forwarding): the interfaces come first.
        Object::Sysctl(sysctl) if sysctl.ifname.is_none() => {
            1 + u8::from(
                desired::FAMILIES
                    .map(desired::forwarding_path)
                    .contains(&&*sysctl.path),
            )
        }
        Object::Link(link) if link.kind == LinkKind::Bridge => 3,
        // Those of a container's interface: when it is there, and before its addresses are.
        Object::Sysctl(sysctl) if sysctl.ns != Ns::Host => 10,
        Object::Sysctl(_) => 4,
        Object::Address(address) if address.ns == Ns::Host => 5,
        Object::Route(route) if route.ns == Ns::Host => 6,
        // A network's guards stand before its first container does, and a port's before it can send.
        Object::Element(element)
            if matches!(element.owner, Owner::Network(_) | Owner::Host)
                || element.key.table.family == TableFamily::Bridge =>
        {
            7
        }
        Object::Link(_) => PAIR,
        Object::BridgePort(_) | Object::Shaper(_) | Object::Redirect(_) => 9,
        // When the way to a station is there its host is asked for nothing any more.
        Object::Loopback(_) | Object::Flood(_) | Object::Remote(_) | Object::Station(_) => 10,
        Object::Address(_) | Object::Neighbour(_) => 11,
        // A next hop has to be on the link before anything leads to it.
        Object::Route(route) => 12 + u8::from(route.via.is_some()),
        Object::Ruleset(_) => 15,
        Object::DnsSocket(_) => 16,
        Object::Element(_) => ELEMENTS,
    }
}

/// The same for removals, the last first.
fn removal_rank(object: &Object) -> u8 {
    match object {
        Object::Link(link) if matches!(link.kind, LinkKind::Veth | LinkKind::Ifb) => LINKS_GO,
        // All of a container's by one batch: with the link, its guards have nothing to guard.
        Object::Element(element) if element.owner.container().is_some() => ELEMENTS,
        other => rank(other),
    }
}

/// One announcement for each interface of a container that gets addresses.
fn announcements(list: &[(u8, Op)], wanted: &BTreeMap<Key, &Object>) -> Vec<(u8, Op)> {
    let mut found: BTreeMap<(ContainerId, Key), (Mac, Vec<IpAddr>)> = BTreeMap::new();
    for (_, op) in list {
        let Op::Add(Object::Address(address)) = op else {
            continue;
        };
        let Ns::Container(id) = &address.ns else {
            continue;
        };
        let link = Key::Link {
            ns: address.ns.clone(),
            name: address.ifname.clone(),
        };
        if let Some(Object::Link(found_link)) = wanted.get(&link).copied() {
            found
                .entry((id.clone(), link))
                .or_insert_with(|| (found_link.mac, Vec::new()))
                .1
                .push(address.ip);
        }
    }
    found
        .into_iter()
        .filter_map(|((container, key), (mac, ips))| match key {
            Key::Link { name, .. } => Some((
                ANNOUNCE,
                Op::Announce {
                    container,
                    ifname: name,
                    mac,
                    ips,
                },
            )),
            _ => None,
        })
        .collect()
}

/// A UDP flow sticks to the backend it was first translated to, so it is forgotten whenever a published port comes,
/// goes or changes hands.
fn with_flow_resets(ops: Vec<Op>, desired: &[Object]) -> Vec<Op> {
    let mut resets: BTreeSet<(IpAddr, u16)> = BTreeSet::new();
    for op in &ops {
        if let Op::Add(Object::Element(element))
        | Op::Remove(Object::Element(element))
        | Op::Change {
            to: Object::Element(element),
            ..
        } = op
        {
            resets.extend(published_udp(element));
        }
    }
    let mut ops = ops;
    ops.extend(resets.into_iter().map(|(ip, port)| Op::ForgetUdpFlows {
        except: exact(desired, ip, port),
        ip,
        port,
    }));
    ops
}

/// The addresses on which a wildcard port belongs to a publish of its own.
fn exact(desired: &[Object], ip: IpAddr, port: u16) -> Vec<IpAddr> {
    if !ip.is_unspecified() {
        return Vec::new();
    }
    desired
        .iter()
        .filter_map(|object| match object {
            Object::Element(element) => published_udp(element),
            _ => None,
        })
        .filter(|(other, number)| {
            *number == port && !other.is_unspecified() && Family::of(*other) == Family::of(ip)
        })
        .map(|(other, _)| other)
        .collect()
}
