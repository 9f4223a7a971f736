//! Records: what netd keeps about networks and containers, in memory and on disk.
//!
//! A record keeps the fields it does not know (invariant I8): a newer daemon of the same major version may have
//! written them, and an older one must not lose them. What a minor version adds is therefore a key of a network, a
//! container or an endpoint; the smaller parts (a subnet, a port, a request) change with a major version only.

use std::collections::BTreeMap;
use std::net::IpAddr;

use serde::{Deserialize, Serialize};

use crate::access::Access;
use crate::cni::CniEndpoint;
use crate::id::{ContainerId, Name, NetworkId, digest};
use crate::naming::Naming;
use crate::net::{Family, IfName, Mac, Prefix, Proto};
use crate::overlay::Overlay;
use crate::request::Attach;

/// Fields written by a newer version.
pub type Unknown = serde_json::Map<String, serde_json::Value>;

/// Name of the network that always exists.
pub const PREDEFINED: &str = "bridge";

/// A network.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Network {
    /// Its id.
    pub id: NetworkId,
    /// Its name, unique on the host.
    pub name: Name,
    /// What it is made of.
    pub driver: Driver,
    /// Its subnets, at least one for each of its families, none overlapping another; those of a family in the order in
    /// which they are used up.
    pub subnets: Vec<Subnet>,
    /// Whether it has no way out and no way in.
    pub internal: bool,
    /// How it is reached from outside.
    pub mode: Mode,
    /// How it is reached over IPv6, where that differs.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub mode6: Option<Mode>,
    /// Who may talk to whom in it.
    #[serde(flatten)]
    pub policy: Policy,
    /// Largest packet in bytes.
    pub mtu: u32,
    /// Its bridge.
    pub interface: IfName,
    /// Resolvers to forward to, instead of the host's.
    #[serde(default)]
    pub dns: Vec<IpAddr>,
    /// How its names are answered.
    #[serde(default, skip_serializing_if = "Naming::is_default")]
    pub naming: Naming,
    /// Labels of the user.
    #[serde(default)]
    pub labels: BTreeMap<String, String>,
    /// Routes that its containers get.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub routes: Vec<StaticRoute>,
    /// From where flows may be opened to its containers.
    #[serde(default, skip_serializing_if = "Access::is_open")]
    pub access: Access,
    /// What is kept for containers, by their names, whether they exist or not.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub reservations: BTreeMap<Name, Reservation>,
    /// What makes it an overlay, if it is one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub overlay: Option<Overlay>,
    /// What a newer version wrote.
    #[serde(flatten)]
    pub unknown: Unknown,
}

#[expect(clippy::trivially_copy_pass_by_ref, reason = "what serde asks for")]
pub(crate) const fn is_zero(number: &i32) -> bool {
    *number == 0
}

/// What is kept for one container on one network.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Reservation {
    /// At most one address of each family.
    pub ips: Vec<IpAddr>,
    /// Its Ethernet address.
    pub mac: Option<Mac>,
}

/// A route that every container of a network gets.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct StaticRoute {
    /// Where it leads.
    pub destination: Prefix,
    /// The neighbour that knows the way; none for what is on the link.
    pub gateway: Option<IpAddr>,
    /// Its metric; 0 is the kernel's default.
    pub metric: u32,
}

/// A name that one container resolves beside those of its networks.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ExtraHost {
    /// The name.
    pub name: String,
    /// Its address; none for the gateways of the container, where the host answers.
    pub address: Option<IpAddr>,
}

/// What a network is made of.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Driver {
    /// A bridge on this host.
    Bridge,
    /// Addresses only: another program makes the interfaces (CNI plugins with `ipam.type: netd`).
    Ipam,
    /// A bridge on each host that has containers on it, joined by VXLAN.
    Overlay,
}

impl Driver {
    /// Its name.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Bridge => "bridge",
            Self::Ipam => "ipam",
            Self::Overlay => "overlay",
        }
    }
}

/// How a network is reached from outside.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Mode {
    /// Nobody outside reaches a container's own address; published ports answer on the host's addresses.
    Nat,
    /// Containers keep their addresses towards outside, and answer there on published ports.
    Routed,
    /// The host has no address on the network: nothing leaves it, nothing enters it.
    Isolated,
}

impl Mode {
    /// The mode as it is typed.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Nat => "nat",
            Self::Routed => "routed",
            Self::Isolated => "isolated",
        }
    }
}

/// Who may talk to whom on a network. Its fields are keys of the network's record.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[expect(
    clippy::struct_excessive_bools,
    reason = "switches that an administrator sets one by one"
)]
pub struct Policy {
    /// Whether its containers reach each other.
    #[serde(default = "yes", skip_serializing_if = "is_yes")]
    pub icc: bool,
    /// Whether its containers may open flows to the host's own sockets. Never on an internal network.
    #[serde(default = "yes", skip_serializing_if = "is_yes")]
    pub host_access: bool,
    /// Whether a container sends from its own addresses only.
    #[serde(default = "yes", skip_serializing_if = "is_yes")]
    pub antispoof: bool,
    /// The addresses that its containers leave under, at most one of a family, instead of the uplink's.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub snat: Vec<IpAddr>,
    /// Interfaces of the host from which its containers are reached directly.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub trusted: Vec<IfName>,
    /// The prefixes of the cluster: what is in one reaches its containers directly, and no address is translated between.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub non_masquerade: Vec<Prefix>,
    /// Whether its containers reach each other by the host's IP layer only, as behind an ipvlan in mode l3: rules of the
    /// host see both directions.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub l3: bool,
}

const fn yes() -> bool {
    true
}

#[expect(clippy::trivially_copy_pass_by_ref, reason = "as serde calls it")]
const fn is_yes(flag: &bool) -> bool {
    *flag
}

impl Policy {
    /// What differs from the default, as driver options; `icc` has a flag of its own.
    pub fn opts(&self) -> BTreeMap<String, String> {
        fn join<T: ToString>(items: &[T]) -> Option<String> {
            let texts: Vec<String> = items.iter().map(ToString::to_string).collect();
            (!texts.is_empty()).then(|| texts.join(","))
        }
        let off = |on: bool| (!on).then(|| "off".to_owned());
        [
            ("host_access", off(self.host_access)),
            ("antispoof", off(self.antispoof)),
            ("snat", join(&self.snat)),
            ("trusted", join(&self.trusted)),
            ("non_masquerade", join(&self.non_masquerade)),
            ("l3", self.l3.then(|| "on".to_owned())),
        ]
        .into_iter()
        .filter_map(|(key, value)| Some((key.to_owned(), value?)))
        .collect()
    }
}

impl Default for Policy {
    fn default() -> Self {
        Self {
            icc: true,
            host_access: true,
            antispoof: true,
            snat: Vec::new(),
            trusted: Vec::new(),
            non_masquerade: Vec::new(),
            l3: false,
        }
    }
}

/// One subnet of a network.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Subnet {
    /// The prefix.
    pub subnet: Prefix,
    /// The host's own address in it.
    pub gateway: IpAddr,
    /// Where automatic addresses come from, if not from all of the subnet.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub ip_range: Option<Prefix>,
}

impl Network {
    /// The subnets of a family, in the order in which they are used up.
    pub fn subnets_of(&self, family: Family) -> impl Iterator<Item = &Subnet> {
        let subnets = self.subnets.iter();
        subnets.filter(move |s| s.subnet.family() == family)
    }

    /// The subnet that an address is in.
    pub fn subnet_of(&self, ip: IpAddr) -> Option<&Subnet> {
        self.subnets.iter().find(|s| s.subnet.contains(ip))
    }

    /// Whether its containers have addresses of a family.
    pub fn has(&self, family: Family) -> bool {
        self.subnets_of(family).next().is_some()
    }

    /// How long a container's own address says that the prefix on its link is.
    pub fn container_len(&self, ip: IpAddr) -> Option<u8> {
        let subnet = self.subnet_of(ip)?.subnet;
        Some(if self.policy.l3 {
            subnet.family().bits()
        } else {
            subnet.len()
        })
    }

    /// How it is reached in a family.
    pub fn mode_of(&self, family: Family) -> Mode {
        match family {
            Family::V4 => self.mode,
            Family::V6 => self.mode6.unwrap_or(self.mode),
        }
    }

    /// The host's own addresses in a family, one in each subnet; none where the network is isolated.
    pub fn gateways(&self, family: Family) -> impl Iterator<Item = IpAddr> + '_ {
        let stands = self.mode_of(family) != Mode::Isolated;
        let subnets = self.subnets_of(family).filter(move |_| stands);
        subnets.map(|subnet| subnet.gateway)
    }

    /// The host's own address in the subnet that an address is in; none where the network is isolated.
    pub fn gateway_of(&self, ip: IpAddr) -> Option<IpAddr> {
        let subnet = self.subnet_of(ip)?;
        (self.mode_of(Family::of(ip)) != Mode::Isolated).then_some(subnet.gateway)
    }

    /// Whether the host has an address on it in a family.
    pub fn has_gateway(&self, family: Family) -> bool {
        self.gateways(family).next().is_some()
    }

    /// The Ethernet address of its bridge: that of its first gateway, on an overlay that of the host. No container has it.
    pub fn mac(&self) -> Mac {
        if let Some((_, router)) = crate::overlay::parts(self) {
            return router.mac;
        }
        let mut gateways = [Family::V4, Family::V6].into_iter();
        match gateways.find_map(|family| self.gateways(family).next()) {
            Some(ip) => Mac::of_address(ip),
            None => Mac::of_digits(&self.id),
        }
    }

    /// Whether containers leave the network in a family, and are reached from outside.
    pub fn is_open(&self, family: Family) -> bool {
        !self.internal && self.has_gateway(family)
    }

    /// Whether its objects come with its first container and leave with its last.
    pub fn comes_and_goes(&self) -> bool {
        self.is_predefined() || self.overlay.is_some()
    }

    /// Whether it is the network that always exists.
    pub fn is_predefined(&self) -> bool {
        self.name.as_str() == PREDEFINED
    }

    /// The name of the bridge of a network id: `nd-` and 8 hex digits.
    pub fn default_interface(id: &NetworkId) -> IfName {
        derived_ifname("nd-", &id[..8])
    }
}

/// A container: one network namespace and its attachments.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Container {
    /// Its id.
    pub id: ContainerId,
    /// Its name, unique on the host.
    pub name: Name,
    /// What it calls itself.
    pub hostname: String,
    /// Path of its network namespace.
    pub netns: String,
    /// Device and inode of that namespace: what the path led to.
    pub netns_identity: (u64, u64),
    /// Its attachments, in the order they were asked for.
    pub endpoints: Vec<Endpoint>,
    /// Its published ports.
    pub ports: Vec<Port>,
    /// Resolvers to forward to, instead of the network's and the host's.
    pub dns: Vec<IpAddr>,
    /// Names that only this container resolves.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub extra_hosts: Vec<ExtraHost>,
    /// Labels of the user.
    pub labels: BTreeMap<String, String>,
    /// How far it is.
    pub phase: Phase,
    /// The request that made it: the same request again gets the same answer.
    pub request: Attach,
    /// What a newer version wrote.
    #[serde(flatten)]
    pub unknown: Unknown,
}

/// How far a container is. A daemon that starts finishes removals, and takes back attaches that nobody was told of.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Phase {
    /// Being made; the caller has no answer yet.
    Attaching,
    /// There.
    Attached,
    /// Being removed.
    Detaching,
}

/// One attachment of a container to a network.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Endpoint {
    /// The network.
    pub network: NetworkId,
    /// The interface in the container.
    pub ifname: IfName,
    /// The host's end of the veth pair.
    pub host_ifname: IfName,
    /// Ethernet address in the container.
    pub mac: Mac,
    /// One address for each family of the network.
    pub ips: Vec<IpAddr>,
    /// Further names on this network.
    pub aliases: Vec<String>,
    /// What a CNI attachment has beyond that.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub cni: Option<CniEndpoint>,
    /// Further addresses that it may send from.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub allow: Vec<Prefix>,
    /// The endpoint with the highest has the default route; of equal ones the first.
    #[serde(default, skip_serializing_if = "is_zero")]
    pub gw_priority: i32,
    /// Settings of the interface, as `net/ipv4/conf/IFNAME/rp_filter` with that placeholder.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub sysctls: BTreeMap<String, String>,
    /// What a newer version wrote.
    #[serde(flatten)]
    pub unknown: Unknown,
}

impl Endpoint {
    /// Its address of a family.
    pub fn ip(&self, family: Family) -> Option<IpAddr> {
        self.ips
            .iter()
            .copied()
            .find(|ip| Family::of(*ip) == family)
    }

    /// The name of the device that what the container sends is led through, where that is limited: `ndi-` and the digits
    /// of the host's end.
    pub fn ifb(&self) -> IfName {
        let digits = self.host_ifname.as_str().trim_start_matches("ndv-");
        derived_ifname("ndi-", digits)
    }

    /// The name of the host's end of a pair: `ndv-` and 10 hex digits.
    pub fn host_ifname(container: &ContainerId, network: &NetworkId) -> IfName {
        derived_ifname("ndv-", &digest(&[container, network], 10))
    }
}

/// A published port: one host port to one container port.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct Port {
    /// The transport.
    pub proto: Proto,
    /// The host's address; none for every address of the families the container has.
    pub host_ip: Option<IpAddr>,
    /// The host's port.
    pub host_port: u16,
    /// The container's port.
    pub container_port: u16,
    /// From where flows may be opened to the container's port.
    #[serde(default, skip_serializing_if = "Access::is_open")]
    pub access: Access,
}

impl Port {
    /// Whether both cannot be published on one host.
    pub fn conflicts(&self, other: &Self) -> bool {
        let same_address = match (self.host_ip, other.host_ip) {
            (Some(a), Some(b)) => {
                a == b
                    || (Family::of(a) == Family::of(b)
                        && (a.is_unspecified() || b.is_unspecified()))
            }
            _ => true,
        };
        self.proto == other.proto && self.host_port == other.host_port && same_address
    }
}

impl std::fmt::Display for Port {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self.host_ip {
            Some(IpAddr::V6(ip)) => write!(f, "[{ip}]:")?,
            Some(IpAddr::V4(ip)) => write!(f, "{ip}:")?,
            None => {}
        }
        write!(
            f,
            "{}:{}/{}",
            self.host_port, self.container_port, self.proto
        )
    }
}

fn derived_ifname(prefix: &str, hex: &str) -> IfName {
    match IfName::parse(&format!("{prefix}{hex}")) {
        Ok(name) => name,
        // A short prefix and at most 11 hex digits always make a valid name.
        Err(error) => unreachable!("{error}"),
    }
}
