//! What the kernel holds of ours, and the facts about the host that planning needs.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;

use serde::{Deserialize, Serialize};

use crate::id::ContainerId;
use crate::net::{Family, IfName, Prefix};
use crate::object::{Key, Ns, Object};

/// Everything of ours that one observation found. An observation that could not be finished is an error, never a
/// smaller `Observed`: something missing here is something the kernel does not hold.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Observed {
    /// The objects by identity.
    pub objects: BTreeMap<Key, Object>,
    /// Containers whose namespace could not be looked into, because it is gone: nothing is known of what is inside.
    pub unseen: BTreeSet<ContainerId>,
}

impl Observed {
    /// Puts an object in.
    pub fn insert(&mut self, object: Object) {
        self.objects.insert(object.key(), object);
    }

    /// Forgets the insides of all containers but these, so that nothing is concluded about them. `wanted` tells which
    /// containers there are beyond those observed.
    pub fn hide_all_but(&mut self, wanted: &[Object], containers: &BTreeSet<ContainerId>) {
        let hidden = |object: &Object| match object.ns() {
            Ns::Container(id) if !containers.contains(&id) => Some(id),
            _ => None,
        };
        self.unseen
            .extend(self.objects.values().chain(wanted).filter_map(hidden));
        self.objects.retain(|_, object| hidden(object).is_none());
    }
}

/// A route of the host.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Way {
    /// Where it leads.
    pub to: Prefix,
    /// By which interface.
    pub dev: IfName,
    /// Its metric.
    pub metric: u32,
}

/// Facts about the host, read at start and at each audit.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[expect(clippy::struct_excessive_bools, reason = "each is a fact of its own")]
pub struct HostFacts {
    /// Whether the host can do IPv6 at all (`ipv6.disable=1` makes it false).
    pub ipv6: bool,
    /// The families of which bridged frames pass the IP hooks (`bridge-nf-call-iptables`, `-ip6tables`).
    pub bridge_netfilter: BTreeSet<Family>,
    /// Whether nftables has tables for bridges (`CONFIG_NF_TABLES_BRIDGE`).
    pub bridge_tables: bool,
    /// Destinations of all routes that are not ours, gateway routes too.
    pub routes: Vec<Prefix>,
    /// The resolvers of the host.
    pub resolvers: Vec<IpAddr>,
    /// Addresses of the host, less those of netd's bridges and of `lo`.
    pub addresses: Vec<IpAddr>,
    /// Routes that are not ours, with what a trace needs of them.
    pub ways: Vec<Way>,
    /// Names of the host's interfaces.
    pub links: Vec<IfName>,
    /// `net.ipv4.conf.all.rp_filter` is 1 (strict).
    pub strict_rp_filter: bool,
    /// The host's own addresses, each with the MTU of its interface.
    #[serde(default)]
    pub mtus: BTreeMap<IpAddr, u32>,
    /// MTU of the interface that holds the default route of the lowest metric.
    pub uplink_mtu: Option<u32>,
    /// `net.ipv4.ip_forward` is 1.
    pub forwarding4: bool,
    /// `net.ipv6.conf.all.forwarding` is 1.
    pub forwarding6: bool,
    /// Interfaces that accept router advertisements only while they do not forward (`accept_ra` is 1).
    pub accept_ra: Vec<IfName>,
    /// Foreign base chains in the forward hook whose policy is drop, as `family table chain`.
    pub forward_drop: Vec<String>,
    /// First and last port that the kernel gives to programs which ask for none (`ip_local_port_range`): where netd
    /// chooses host ports. None if the kernel does not tell.
    #[serde(default)]
    pub local_ports: Option<(u16, u16)>,
    /// Ports that nobody shall be given unasked (`ip_local_reserved_ports`), as first and last.
    #[serde(default)]
    pub reserved_ports: Vec<(u16, u16)>,
    /// Whether programs of this host can have SCTP sockets: only then a port has to be held against them.
    #[serde(default)]
    pub sctp: bool,
}
