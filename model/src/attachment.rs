//! What a CNI attachment wants from the kernel beyond an endpoint: further routes, and limits of its rate.
//!
//! What a container receives is shaped where it leaves the host, on the host's end of the pair. What it sends comes in
//! there, and a queue has to be left by something: it is led through an `ifb` device of its own, which is shaped. Both
//! are outside of the container's reach.

use serde::{Deserialize, Serialize};

use crate::cni::{CniEndpoint, StaticRoute};
use crate::net::{Family, IfName};
use crate::object::{Link, LinkKind, Ns, Object, Owner, Route};
use crate::observed::HostFacts;
use crate::record::{Container, Endpoint, Network};

/// How long a packet may wait for its turn, in fractions of a second: 25 ms, as in the reference plugin.
const LATENCY: u64 = 40;

/// A token bucket (tc-tbf(8)) on one of our links.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct Shaper {
    /// The link, always in the host's namespace.
    pub ifname: IfName,
    /// Bytes per second.
    pub rate: u64,
    /// Bytes at once.
    pub burst: u32,
    /// What it serves.
    pub owner: Owner,
}

impl Shaper {
    /// Bytes that may wait: what goes within the latency, and a burst.
    pub fn limit(&self) -> u32 {
        u32::try_from(self.rate / LATENCY + u64::from(self.burst)).unwrap_or(u32::MAX)
    }

    /// The burst of a bucket that is read back: the kernel tells rate and limit, and the burst only in its own ticks.
    pub fn burst_of(rate: u64, limit: u32) -> u32 {
        u32::try_from(u64::from(limit).saturating_sub(rate / LATENCY)).unwrap_or(u32::MAX)
    }

    /// A bucket for a rate in bit/s and a burst in bits. It takes the largest packet at least: else nothing would pass.
    fn new(ifname: IfName, bits: (u64, u64), mtu: u32, owner: &Owner) -> Self {
        let (rate, burst) = (bits.0 / 8, bits.1 / 8);
        let most = u64::from(u32::MAX).saturating_sub(rate / LATENCY).max(1);
        // A frame has 18 bytes beside the packet (Ethernet header and VLAN tag).
        let burst = burst.max(u64::from(mtu) + 18).min(most);
        Self {
            ifname,
            rate,
            burst: u32::try_from(burst).unwrap_or(u32::MAX),
            owner: owner.clone(),
        }
    }
}

/// Everything that comes in on one of our links is led to another.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct Redirect {
    /// The link it comes in on, always in the host's namespace.
    pub ifname: IfName,
    /// The link it leaves by.
    pub to: IfName,
    /// What it serves.
    pub owner: Owner,
}

/// Whether netd keeps nothing but the address of an endpoint.
pub fn is_address_only(endpoint: &Endpoint) -> bool {
    endpoint.cni.as_ref().is_some_and(|cni| cni.address_only)
}

/// Everything of an attachment beyond its endpoint.
pub fn objects(
    container: &Container,
    endpoint: &Endpoint,
    network: &Network,
    facts: &HostFacts,
) -> Vec<Object> {
    let Some(cni) = &endpoint.cni else {
        return Vec::new();
    };
    let owner = Owner::Endpoint(container.id.clone(), endpoint.network.clone());
    let mut objects = routes(container, endpoint, network, facts, cni);
    objects.extend(limits(endpoint, network, cni, &owner));
    objects
}

/// The routes that came with an attachment, as far as the endpoint has an address of their family.
fn routes(
    container: &Container,
    endpoint: &Endpoint,
    network: &Network,
    facts: &HostFacts,
    cni: &CniEndpoint,
) -> Vec<Object> {
    let is_served = |route: &&StaticRoute| {
        let family = route.dst.family();
        endpoint.ip(family).is_some() && (family == Family::V4 || facts.ipv6)
    };
    let route = |route: &StaticRoute| {
        let gateway = || {
            let own = endpoint.ip(route.dst.family())?;
            network.subnet_of(own).map(|s| s.gateway)
        };
        Object::Route(Route {
            ns: Ns::Container(container.id.clone()),
            dst: route.dst,
            via: route.via.or_else(gateway),
            dev: endpoint.ifname.clone(),
            local: false,
            metric: 0,
            src: None,
            owner: Owner::Endpoint(container.id.clone(), endpoint.network.clone()),
        })
    };
    cni.routes.iter().filter(is_served).map(route).collect()
}

fn limits(endpoint: &Endpoint, network: &Network, cni: &CniEndpoint, owner: &Owner) -> Vec<Object> {
    let (host, mtu) = (&endpoint.host_ifname, network.mtu);
    let bandwidth = cni.bandwidth;
    let mut objects = Vec::new();
    if bandwidth.ingress_rate > 0 {
        let bits = (bandwidth.ingress_rate, bandwidth.ingress_burst);
        objects.push(Object::Shaper(Shaper::new(host.clone(), bits, mtu, owner)));
    }
    if bandwidth.egress_rate > 0 {
        let bits = (bandwidth.egress_rate, bandwidth.egress_burst);
        let ifb = endpoint.ifb();
        objects.push(Object::Link(Link {
            ns: Ns::Host,
            name: ifb.clone(),
            kind: LinkKind::Ifb,
            mac: endpoint.mac.host_end(),
            mtu,
            up: true,
            master: None,
            link_local: false,
            tunable: false,
            tunnel: None,
            owner: owner.clone(),
        }));
        objects.push(Object::Redirect(Redirect {
            ifname: host.clone(),
            to: ifb.clone(),
            owner: owner.clone(),
        }));
        objects.push(Object::Shaper(Shaper::new(ifb, bits, mtu, owner)));
    }
    objects
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::id::NetworkId;

    #[test]
    fn a_bucket_is_known_by_its_rate_and_limit() {
        let owner = Owner::Network(NetworkId::from_bytes([1; 16]));
        let name = IfName::parse("ndv-1").unwrap();
        for (rate, burst) in [
            (8_000_000, 800_000),
            (8, 8),
            (1 << 40, 8 * (1 << 31)),
            (8 << 30, 8),
        ] {
            let shaper = Shaper::new(name.clone(), (rate, burst), 1500, &owner);
            assert!(shaper.burst >= 1518, "{shaper:?}");
            assert_eq!(
                Shaper::burst_of(shaper.rate, shaper.limit()),
                shaper.burst,
                "{shaper:?}"
            );
        }
    }
}
