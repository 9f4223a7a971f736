//! Addresses of this host's containers that another host has claimed since this one was removed from the cluster: they are that
//! one's (invariant I6). The container's endpoint stays on record, and nothing of it is in the kernel, in the zone or in the store,
//! until it is attached anew or this host has the addresses again.

use std::borrow::Cow;
use std::collections::BTreeSet;

use netd_model::id::{ContainerId, Name, NetworkId};
use netd_model::net::Mac;
use netd_model::record::{Container, Endpoint};

use super::super::World;
use crate::cluster::mirror::News;

impl World {
    /// Who has the address of an endpoint now, if that is not this host.
    pub(in crate::reconcile) fn lost_to(&self, endpoint: &Endpoint) -> Option<&Name> {
        let shared = self.shared.as_ref()?;
        let network = self.network(&endpoint.network)?;
        network.overlay.as_ref()?;
        let mut ips = endpoint.ips.iter();
        ips.find_map(|ip| shared.holder(network, *ip))
    }

    /// A container without the endpoints that it must not use.
    pub(in crate::reconcile) fn usable<'a>(&self, container: &'a Container) -> Cow<'a, Container> {
        let is_lost = |endpoint: &Endpoint| self.lost_to(endpoint).is_some();
        if !container.endpoints.iter().any(is_lost) {
            return Cow::Borrowed(container);
        }
        let mut container = container.clone();
        container.endpoints.retain(|endpoint| !is_lost(endpoint));
        Cow::Owned(container)
    }

    /// Whether an Ethernet address is only that of endpoints of this host that must not be used.
    pub(super) fn is_lost_mac(&self, network: &NetworkId, mac: Mac) -> bool {
        let endpoints = self.containers().flat_map(|container| &container.endpoints);
        let mut bearers = endpoints
            .filter(|endpoint| endpoint.network == *network && endpoint.mac == mac)
            .peekable();
        bearers.peek().is_some() && bearers.all(|endpoint| self.lost_to(endpoint).is_some())
    }

    /// Whether containers are on a network on which this host has lost its own address.
    pub(crate) fn lacks_router(&self, id: &NetworkId) -> bool {
        let network = self
            .network(id)
            .filter(|_| self.members(id).next().is_some());
        network.is_some_and(|network| {
            let mut families = network.subnets.iter().map(|s| s.subnet.family());
            network.overlay.is_some() && families.any(|family| !self.has_router(id, family))
        })
    }

    /// The networks that a container is cut off from.
    pub(crate) fn cut_off(&self, id: &ContainerId) -> BTreeSet<NetworkId> {
        let endpoints = self.container(id).into_iter().flat_map(|c| &c.endpoints);
        let lost = endpoints.filter(|endpoint| self.lost_to(endpoint).is_some());
        lost.map(|endpoint| endpoint.network.clone()).collect()
    }

    /// Containers with addresses that claims are about.
    pub(crate) fn containers_within(&self, news: &[News]) -> BTreeSet<ContainerId> {
        let claims: Vec<_> = news
            .iter()
            .filter_map(|news| match news {
                News::Claim(net, prefix, _) => Some((net, prefix)),
                _ => None,
            })
            .collect();
        if claims.is_empty() {
            return BTreeSet::new();
        }
        let is_within = |endpoint: &Endpoint| {
            claims.iter().any(|(net, prefix)| {
                endpoint.network == **net && endpoint.ips.iter().any(|ip| prefix.contains(*ip))
            })
        };
        let within = self
            .containers()
            .filter(|container| container.endpoints.iter().any(is_within));
        within.map(|container| container.id.clone()).collect()
    }

    /// Containers that are cut off from a network, each with the remedy.
    pub(super) fn lost_warnings(&self) -> Vec<String> {
        let mut warnings = Vec::new();
        for container in self.containers() {
            for endpoint in &container.endpoints {
                let (Some(host), Some(network)) =
                    (self.lost_to(endpoint), self.network(&endpoint.network))
                else {
                    continue;
                };
                let ips: Vec<String> = endpoint.ips.iter().map(ToString::to_string).collect();
                warnings.push(format!(
                    "container {} is cut off from network {}: its address {} went to host {host} when this host was removed \
                     from the cluster; detach the container and attach it again",
                    container.name,
                    network.name,
                    ips.join(", ")
                ));
            }
        }
        warnings
    }
}

#[cfg(test)]
mod tests;
