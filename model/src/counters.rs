//! What was counted: packets and bytes of published ports and endpoints.

use std::collections::BTreeMap;
use std::net::IpAddr;

use serde::{Deserialize, Serialize};

use crate::api;
use crate::desired::{self, FAMILIES, Way};
use crate::id::NetworkId;
use crate::net::{IfName, Proto};
use crate::observed::HostFacts;
use crate::record::{Container, Network};

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

/// What the host's end of an endpoint counted, as the container sees it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct LinkCount {
    /// What came to the container, with Ethernet headers, and what it sent.
    #[serde(flatten)]
    pub both: Both,
    /// Packets that the link dropped on their way to the container.
    pub dropped: u64,
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
    /// What belongs to one container.
    pub fn of<'a>(
        &self,
        container: &Container,
        network: impl Fn(&NetworkId) -> Option<&'a Network>,
        facts: &HostFacts,
    ) -> api::ContainerCounters {
        let mut ports: BTreeMap<(Proto, u16), Both> = BTreeMap::new();
        let mut seen = std::collections::BTreeSet::new();
        for port in &container.ports {
            let sum = ports.entry((port.proto, port.container_port)).or_default();
            for family in FAMILIES {
                let Some(Way::Kernel(ip)) = desired::way(container, port, family, &network, facts)
                else {
                    continue;
                };
                let key = (ip, port.proto.number(), port.container_port);
                if let Some(found) = self.ports.get(&key).filter(|_| seen.insert(key)) {
                    sum.received = sum.received + found.received;
                    sum.sent = sum.sent + found.sent;
                }
            }
        }
        let endpoint = |endpoint: &crate::record::Endpoint| {
            Some(api::EndpointCounters {
                network: network(&endpoint.network)?.name.to_string(),
                ifname: endpoint.ifname.clone(),
                count: *self.links.get(&endpoint.host_ifname)?,
            })
        };
        api::ContainerCounters {
            ports: ports
                .into_iter()
                .map(|((proto, container_port), both)| api::PortCounters {
                    proto,
                    container_port,
                    both,
                })
                .collect(),
            endpoints: container.endpoints.iter().filter_map(endpoint).collect(),
        }
    }
}
