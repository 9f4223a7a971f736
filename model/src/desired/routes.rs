//! The routes of a container.

use std::collections::BTreeSet;
use std::net::IpAddr;

use super::is_address_only;
use crate::id::NetworkId;
use crate::net::{Family, Prefix};
use crate::object::{Ns, Object, Owner, Route};
use crate::record::{Container, Endpoint, Network, StaticRoute};

/// Metric of the routes that wait behind another to the same destination: above the kernel's default of both families
/// (0 and 1024).
const BEHIND: u32 = 2000;

/// The routes of a container: those to the other subnets of its networks, a default route by each network that leads out,
/// in the order of [`gateway_endpoints`], and the routes of its networks. Of several to one destination the first is
/// used, and the next when its interface is gone.
pub(super) fn routes<'a>(
    container: &Container,
    family: Family,
    network: impl Fn(&NetworkId) -> Option<&'a Network>,
) -> Vec<Object> {
    let gateways = gateway_endpoints(container, family, &network);
    let defaults = gateways.into_iter().map(|(endpoint, gateway)| {
        let route = StaticRoute {
            destination: Prefix::default_route(family),
            gateway: Some(gateway),
            metric: 0,
        };
        (endpoint, route)
    });
    let statics = container.endpoints.iter().flat_map(|endpoint| {
        let network = network(&endpoint.network).filter(|_| endpoint.ip(family).is_some());
        let routes = network.into_iter().flat_map(|network| &network.routes);
        let of_family = routes.filter(|route| route.destination.family() == family);
        of_family.map(move |route| (endpoint, route.clone()))
    });
    let within = container.endpoints.iter().flat_map(|endpoint| {
        let network = network(&endpoint.network);
        let own = network.and_then(|network| Some(own_routes(network, endpoint.ip(family)?)));
        let routes = own.into_iter().flatten();
        routes.map(move |route| (endpoint, route))
    });
    let mut taken = BTreeSet::new();
    let mut objects = Vec::new();
    for (endpoint, route) in within.chain(defaults).chain(statics) {
        let metrics = std::iter::once(route.metric).chain(BEHIND..);
        let mut free = metrics.filter(|metric| taken.insert((route.destination, *metric)));
        objects.push(Object::Route(Route {
            ns: Ns::Container(container.id.clone()),
            dst: route.destination,
            via: route.gateway,
            dev: endpoint.ifname.clone(),
            local: false,
            metric: free.next().unwrap_or(route.metric),
            src: None,
            owner: Owner::Endpoint(container.id.clone(), endpoint.network.clone()),
        }));
    }
    objects
}

/// The routes to what of a network the container's own address does not lead to. Its other subnets are on the same link;
/// with `l3` nobody but the gateway is on the link, and all subnets lie behind it.
fn own_routes(network: &Network, own: IpAddr) -> Vec<StaticRoute> {
    let route = |destination, gateway| StaticRoute {
        destination,
        gateway,
        metric: 0,
    };
    let subnets = network.subnets_of(Family::of(own)).map(|s| s.subnet);
    if !network.policy.l3 {
        let others = subnets.filter(|subnet| !subnet.contains(own));
        return others.map(|subnet| route(subnet, None)).collect();
    }
    let Some(gateway) = network.gateway_of(own) else {
        return Vec::new();
    };
    let on_link = Prefix::holding(gateway, Family::of(own).bits());
    let behind = subnets.map(|subnet| route(subnet, Some(gateway)));
    [route(on_link, None)].into_iter().chain(behind).collect()
}

/// The endpoints that lead out in a family, each with the gateway there: by priority, then in the order of attachment.
pub fn gateway_endpoints<'c, 'a>(
    container: &'c Container,
    family: Family,
    network: impl Fn(&NetworkId) -> Option<&'a Network>,
) -> Vec<(&'c Endpoint, IpAddr)> {
    let leads_out = |endpoint: &'c Endpoint| {
        let network = network(&endpoint.network).filter(|network| network.is_open(family))?;
        let own = endpoint.ip(family).filter(|_| !is_address_only(endpoint))?;
        Some((endpoint, network.gateway_of(own)?))
    };
    let mut found: Vec<_> = container.endpoints.iter().filter_map(leads_out).collect();
    found.sort_by_key(|(endpoint, _)| std::cmp::Reverse(endpoint.gw_priority));
    found
}

/// The endpoint that a family's default route and published ports use, and the gateway there.
pub fn gateway_endpoint<'c, 'a>(
    container: &'c Container,
    family: Family,
    network: impl Fn(&NetworkId) -> Option<&'a Network>,
) -> Option<(&'c Endpoint, IpAddr)> {
    gateway_endpoints(container, family, network)
        .into_iter()
        .next()
}
