//! What was counted: packets and bytes of published ports and endpoints.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;

use serde::{Deserialize, Serialize};

use crate::api;
use crate::net::{IfName, Prefix, Proto};
use crate::skeleton::Reason;

/// Packets and their bytes, with IP headers.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Count {
    /// Packets.
    pub packets: u64,
    /// Bytes.
    pub bytes: u64,
}

impl std::ops::Add for Count {
    type Output = Self;
    fn add(self, other: Self) -> Self {
        Self {
            packets: self.packets.saturating_add(other.packets),
            bytes: self.bytes.saturating_add(other.bytes),
        }
    }
}

/// One thing counted both ways, as the container sees it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Both {
    /// What came to the container.
    pub received: Count,
    /// What it sent.
    pub sent: Count,
}

/// What the host's end of an endpoint counted, as the container sees it. Bytes are those of frames.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct LinkCount {
    /// Both directions.
    #[serde(flatten)]
    pub both: Both,
    /// Packets that were dropped on their way to the container.
    pub dropped: u64,
}

/// Packets that netd's rules dropped, by reason.
pub type Drops = BTreeMap<Reason, u64>;

/// What netd's rules dropped, as one look found it.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Dropped {
    /// On the whole host.
    pub host: Drops,
    /// By the bridge of the network that the packets were from or for.
    pub bridges: BTreeMap<IfName, Drops>,
    /// For containers' own addresses, from outside of their networks: by the first address of the subnet.
    pub subnets: BTreeMap<IpAddr, u64>,
}

impl Dropped {
    /// What was dropped at one network, by the reasons that are counted there.
    pub fn at(&self, network: &api::Network) -> Drops {
        let mut drops = self.bridges.get(&network.interface).cloned();
        let prefixes = network.subnets.iter().filter_map(|s| s.subnet.parse().ok());
        let direct = prefixes.filter_map(|prefix: Prefix| self.subnets.get(&prefix.base()));
        if let Some(packets) = direct.copied().reduce(u64::saturating_add) {
            let drops = drops.get_or_insert_default();
            drops.insert(Reason::Direct, packets);
        }
        drops.unwrap_or_default()
    }
}

/// Everything that one look found.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Counters {
    /// By the container's address, protocol number and port.
    pub ports: BTreeMap<(IpAddr, u8, u16), Both>,
    /// By the host's end.
    pub links: BTreeMap<IfName, LinkCount>,
}

impl Counters {
    /// What belongs to one container: all host ports that lead to one container port are counted as one, over all
    /// addresses that the container has or had since the port was published.
    pub fn of(&self, container: &api::Container) -> api::ContainerCounters {
        let addresses: BTreeSet<IpAddr> = container
            .endpoints
            .iter()
            .flat_map(|endpoint| [&endpoint.ipv4, &endpoint.ipv6])
            .filter_map(|text| text.as_ref()?.split('/').next()?.parse().ok())
            .collect();
        let published: BTreeSet<(Proto, u16)> = container
            .ports
            .iter()
            .map(|port| (port.proto, port.container_port))
            .collect();
        let port = |(proto, container_port): (Proto, u16)| {
            let counted = addresses
                .iter()
                .filter_map(|ip| self.ports.get(&(*ip, proto.number(), container_port)));
            let both = counted.fold(Both::default(), |sum, one| Both {
                received: sum.received + one.received,
                sent: sum.sent + one.sent,
            });
            api::PortCounters {
                proto,
                container_port,
                both,
            }
        };
        let endpoint = |endpoint: &api::Endpoint| {
            Some(api::EndpointCounters {
                network: endpoint.network.clone(),
                ifname: endpoint.ifname.clone(),
                count: *self.links.get(&endpoint.host_ifname)?,
            })
        };
        api::ContainerCounters {
            ports: published.into_iter().map(port).collect(),
            endpoints: container.endpoints.iter().filter_map(endpoint).collect(),
        }
    }
}
