//! Facts about the host.

use std::collections::{BTreeMap, BTreeSet, HashSet};
use std::fs;
use std::net::{IpAddr, UdpSocket};
use std::path::Path;

use netd_model::net::Family;
use netd_model::observed::{HostFacts, Way};
use netd_model::{IfName, Prefix};

use super::inet::{self, BY_KERNEL, LOCAL, MAIN, PROTOCOL, RouteView, UNICAST};
use super::link::{self, LinkView};
use super::netlink::Refusal;
use super::ops::{has_ipv6, read_sysctl};
use super::space::Space;
use crate::kernel::KernelError;

/// RTN_BROADCAST, RTN_ANYCAST and RTN_MULTICAST: with RTN_LOCAL what the kernel adds for its own addresses.
const OWN_KINDS: [u8; 4] = [LOCAL, 3, 4, 5];

/// Reads the facts. The calling thread is in the host's namespace.
pub(super) fn read(space: &mut Space, resolv_conf: &Path) -> Result<HostFacts, KernelError> {
    let links = space
        .route
        .dump(&link::all(), LinkView::read)
        .map_err(|r| r.on("list links"))?;
    let routes = routes(space).map_err(|refusal| refusal.on("list routes"))?;
    let ours: HashSet<u32> = links
        .iter()
        .filter(|view| view.owner.is_some())
        .map(|view| view.index)
        .collect();
    let foreign: Vec<RouteView> = routes
        .into_iter()
        .filter(|route| !is_ours(route, &ours))
        .collect();
    let forward_drop = space.nft()?.forward_drop()?;
    let bridge_tables = space.nft()?.has_bridge_tables()?;
    let settings = |refusal: Refusal| refusal.on("read kernel settings");
    Ok(HostFacts {
        ipv6: ipv6_works().map_err(settings)?,
        bridge_netfilter: bridge_netfilter().map_err(settings)?,
        routes: foreign
            .iter()
            .filter(|route| takes_addresses(route))
            .map(|route| route.dst)
            .collect(),
        resolvers: resolvers(&read_resolv_conf(resolv_conf)),
        addresses: addresses(&foreign, &links),
        ways: foreign
            .iter()
            .filter_map(|route| way(route, &links))
            .collect(),
        links: links
            .iter()
            .filter_map(|view| IfName::parse(&view.name).ok())
            .collect(),
        strict_rp_filter: is_on("net/ipv4/conf/all/rp_filter").map_err(settings)?,
        mtus: mtus(&foreign, &links),
        uplink_mtu: uplink(&foreign)
            .and_then(|index| links.iter().find(|view| view.index == index))
            .map(|view| view.mtu),
        forwarding4: is_on("net/ipv4/ip_forward").map_err(settings)?,
        forwarding6: is_on("net/ipv6/conf/all/forwarding").map_err(settings)?,
        accept_ra: accept_ra(&links).map_err(settings)?,
        forward_drop,
        bridge_tables,
        local_ports: read_sysctl("net/ipv4/ip_local_port_range")
            .map_err(settings)?
            .and_then(|text| port_range(&text)),
        reserved_ports: read_sysctl("net/ipv4/ip_local_reserved_ports")
            .map_err(settings)?
            .map(|text| text.split(',').filter_map(port_range).collect())
            .unwrap_or_default(),
        sctp: has_sctp(),
    })
}

/// The host's own addresses, as its table of local routes has them; not those of `lo`.
fn addresses(routes: &[RouteView], links: &[LinkView]) -> Vec<IpAddr> {
    let lo = links
        .iter()
        .find(|view| view.name == "lo")
        .map(|lo| lo.index);
    let is_single = |route: &&RouteView| {
        let dst = route.dst;
        let whole = if dst.base().is_ipv4() { 32 } else { 128 };
        route.kind == LOCAL && dst.len() == whole && (route.oif != lo || !dst.base().is_loopback())
    };
    routes
        .iter()
        .filter(is_single)
        .map(|route| route.dst.base())
        .collect()
}

/// The MTU of the interface of each of the host's own addresses.
fn mtus(routes: &[RouteView], links: &[LinkView]) -> BTreeMap<IpAddr, u32> {
    let of_link = |route: &RouteView| {
        let index = route.oif.filter(|_| route.kind == LOCAL)?;
        let view = links.iter().find(|view| view.index == index)?;
        Some((route.dst.base(), view.mtu))
    };
    routes.iter().filter_map(of_link).collect()
}

/// The largest packets by the routes to these addresses: what the route says, by configuration or by what was learnt of the
/// path, else what its interface takes.
pub(super) fn path_mtus(
    space: &mut Space,
    to: &[IpAddr],
) -> Result<BTreeMap<IpAddr, u32>, KernelError> {
    let links = space
        .route
        .dump(&link::all(), LinkView::read)
        .map_err(|r| r.on("list links"))?;
    let requests: Vec<_> = to.iter().map(|ip| inet::route_to(*ip)).collect();
    let answers = space
        .route
        .batch(&requests)
        .map_err(|r| r.on("look for routes"))?;
    let mtu = |body: &[u8]| {
        let route = RouteView::read(body)?;
        let link = links.iter().find(|view| Some(view.index) == route.oif)?;
        Some(inet::route_mtu(body).unwrap_or(link.mtu).min(link.mtu))
    };
    let found = to.iter().zip(answers);
    Ok(found
        .filter_map(|(ip, answer)| Some((*ip, mtu(&answer.ok()?)?)))
        .collect())
}

/// A route to others.
fn way(route: &RouteView, links: &[LinkView]) -> Option<Way> {
    let index = route
        .oif
        .filter(|_| route.kind == UNICAST && route.table == MAIN)?;
    let dev = links.iter().find(|view| view.index == index)?;
    Some(Way {
        to: route.dst,
        dev: IfName::parse(&dev.name).ok()?,
        metric: route.metric,
    })
    .filter(|way| !every_link_has(way.to))
}

fn is_on(path: &str) -> Result<bool, Refusal> {
    Ok(read_sysctl(path)?.as_deref() == Some("1"))
}

/// `ipv6.disable=1` takes the protocol away; `conf/default/disable_ipv6` only refuses addresses on new links.
fn ipv6_works() -> Result<bool, Refusal> {
    let socket = UdpSocket::bind("[::]:0").is_ok();
    Ok(has_ipv6() && socket && !is_on("net/ipv6/conf/default/disable_ipv6")?)
}

fn bridge_netfilter() -> Result<BTreeSet<Family>, Refusal> {
    let mut families = BTreeSet::new();
    for (family, path) in [
        (Family::V4, "net/bridge/bridge-nf-call-iptables"),
        (Family::V6, "net/bridge/bridge-nf-call-ip6tables"),
    ] {
        if is_on(path)? {
            families.insert(family);
        }
    }
    Ok(families)
}

/// Two ports, or one twice: `32768 60999`, `8080-8090`, `8080`.
fn port_range(text: &str) -> Option<(u16, u16)> {
    let mut ports = text
        .split(|c: char| c == '-' || c.is_whitespace())
        .filter(|word| !word.is_empty());
    let first = ports.next()?.parse().ok()?;
    let last = ports.next().map_or(Some(first), |word| word.parse().ok())?;
    (first <= last).then_some((first, last))
}

/// Whether the kernel has loaded SCTP. Asking for a socket would load it, on a host that may well not want it.
fn has_sctp() -> bool {
    let protocols = fs::read_to_string("/proc/net/protocols").unwrap_or_default();
    let mut names = protocols
        .lines()
        .filter_map(|line| line.split_whitespace().next());
    names.any(|name| name == "SCTP")
}

fn routes(space: &mut Space) -> Result<Vec<RouteView>, Refusal> {
    let mut routes = space
        .route
        .dump(&inet::routes(Family::V4, 0), RouteView::read)?;
    if has_ipv6() {
        routes.extend(
            space
                .route
                .dump(&inet::routes(Family::V6, 0), RouteView::read)?,
        );
    }
    Ok(routes)
}

/// Routes of netd, and those that the kernel made for netd's addresses.
fn is_ours(route: &RouteView, links: &HashSet<u32>) -> bool {
    let on_ours = route.oif.is_some_and(|index| links.contains(&index));
    route.protocol == PROTOCOL || (on_ours && route.protocol == BY_KERNEL)
}

/// Whether a network on the same addresses would take traffic away from this route.
fn takes_addresses(route: &RouteView) -> bool {
    !OWN_KINDS.contains(&route.kind) && !route.dst.is_empty() && !every_link_has(route.dst)
}

/// `ff00::/8` and `fe80::/10` are on every link.
fn every_link_has(dst: Prefix) -> bool {
    match dst.base() {
        IpAddr::V6(v6) => v6.is_multicast() || v6.is_unicast_link_local(),
        IpAddr::V4(_) => false,
    }
}

/// The interface of the default route with the lowest metric: IPv4's if there is one.
fn uplink(routes: &[RouteView]) -> Option<u32> {
    let best = |family: Family| {
        let routes = routes.iter().filter(|route| {
            route.dst == Prefix::default_route(family)
                && route.kind == UNICAST
                && route.table == MAIN
        });
        routes.min_by_key(|route| route.metric)?.oif
    };
    best(Family::V4).or_else(|| best(Family::V6))
}

fn read_resolv_conf(path: &Path) -> String {
    fs::read_to_string(path).unwrap_or_else(|error| {
        tracing::warn!(path = %path.display(), %error, "the host's resolvers are unknown");
        String::new()
    })
}

/// The `nameserver` lines (resolv.conf(5)); a scope behind `%` is left off.
fn resolvers(text: &str) -> Vec<IpAddr> {
    let lines = text.lines().filter_map(|line| {
        let mut words = line.split_whitespace();
        (words.next()? == "nameserver").then(|| words.next())?
    });
    lines
        .filter_map(|word| word.split('%').next()?.parse().ok())
        .collect()
}

/// Interfaces that may learn a route from an advertisement: not `lo`, not netd's, not ports of a bridge.
fn accept_ra(links: &[LinkView]) -> Result<Vec<IfName>, Refusal> {
    let mut found = Vec::new();
    // One of netd's that is just being made has no owner yet, but the group of such links.
    let is_foreign = |view: &&LinkView| {
        view.owner.is_none() && view.group != link::GROUPS && view.master.is_none()
    };
    for view in links.iter().filter(is_foreign) {
        let Ok(name) = IfName::parse(&view.name) else {
            continue;
        };
        if name != IfName::lo() && is_on(&format!("net/ipv6/conf/{name}/accept_ra"))? {
            found.push(name);
        }
    }
    Ok(found)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn port_ranges_are_read_in_each_form() {
        assert_eq!(port_range("32768\t60999"), Some((32768, 60999)));
        assert_eq!(port_range("8080-8090"), Some((8080, 8090)));
        assert_eq!(port_range("9000"), Some((9000, 9000)));
        for text in ["", "x", "9-8", "1 x"] {
            assert_eq!(port_range(text), None, "{text:?}");
        }
    }

    #[test]
    fn resolvers_are_the_nameserver_lines() {
        let text = "# nameserver 9.9.9.9\nsearch a\nnameserver 192.0.2.1 # x\n nameserver\tfe80::1%eth0\nnameserver\nnameserver x\n";
        let want: [IpAddr; 2] = ["192.0.2.1".parse().unwrap(), "fe80::1".parse().unwrap()];
        assert_eq!(resolvers(text), want);
    }
}
