//! The JSON of the API, as in contract.md: requests refuse unknown fields (invariant I8), answers may gain some.

use std::collections::BTreeMap;
use std::net::IpAddr;

use serde::{Deserialize, Serialize};

use crate::access::Access;
use crate::counters::{Both, Drops, LinkCount};
use crate::error::Error;
use crate::naming::Naming;
use crate::net::{IfName, Mac, Proto};
use crate::op::Op;

/// Body of `POST /v1/networks`. Each gateway and ip-range belongs to the subnet that holds it.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct NetworkCreate {
    /// Its name.
    pub name: String,
    /// `bridge`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub driver: Option<String>,
    /// Prefixes, those of one family in the order in which they are used up; a family without one gets an automatic subnet.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub subnets: Vec<String>,
    /// Where automatic addresses come from.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub ip_ranges: Vec<String>,
    /// The host's own addresses; the first of a subnet by default.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub gateways: Vec<String>,
    /// Give it IPv6 too.
    #[serde(default)]
    pub ipv6: bool,
    /// Give it IPv4; true by default.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub ipv4: Option<bool>,
    /// Cut it off.
    #[serde(default)]
    pub internal: bool,
    /// `nat`, `routed` or `isolated`; the options `mode4` and `mode6` set one family.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub mode: Option<String>,
    /// Whether its containers reach each other.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub icc: Option<bool>,
    /// Largest packet in bytes.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub mtu: Option<u32>,
    /// Encrypt it between hosts.
    #[serde(default)]
    pub encrypted: bool,
    /// Resolvers for its containers.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub dns: Vec<String>,
    /// Labels.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub labels: BTreeMap<String, String>,
    /// Driver options: see [`crate::options`].
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub opts: BTreeMap<String, String>,
    /// Routes that its containers get.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub routes: Vec<StaticRoute>,
    /// Prefixes and addresses from where alone flows may be opened to its containers.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub allow_from: Vec<String>,
    /// From where they may not.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub block_from: Vec<String>,
}

/// Body of `PATCH /v1/networks/{n}`: what is absent stays as it is.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct NetworkChange {
    /// From where alone flows may be opened to its containers; empty for everywhere.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub allow_from: Option<Vec<String>>,
    /// From where they may not.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub block_from: Option<Vec<String>>,
}

/// A route that every container of a network gets.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct StaticRoute {
    /// The prefix it leads to.
    pub destination: String,
    /// An address in a subnet of the network; without one the destination is on the link.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub gateway: Option<String>,
    /// Its metric; the kernel's default without one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub metric: Option<u32>,
}

/// Body of `POST /v1/containers`.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ContainerAttach {
    /// A path, a name under /run/netns, or `pid:N`.
    pub netns: String,
    /// Its name, unique on the host.
    pub name: String,
    /// Its id; netd makes one if there is none.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub id: Option<String>,
    /// What it calls itself; its name by default.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub hostname: Option<String>,
    /// The networks to join; `bridge` by default.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub networks: Vec<Join>,
    /// `[HOSTIP:][HOSTPORT[-END]:]PORT[-END][/tcp|udp|sctp]`; without a host port netd chooses one.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub publish: Vec<String>,
    /// Its own resolvers.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub dns: Vec<String>,
    /// Names that only this container resolves: `NAME:IP` or `NAME:host-gateway`.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub extra_hosts: Vec<String>,
    /// Labels.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub labels: BTreeMap<String, String>,
    /// Refuse when the id exists, even with the same request (CNI).
    #[serde(default)]
    pub create_only: bool,
}

/// A network to join; body of `POST /v1/containers/{c}/endpoints`.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Join {
    /// Name, id or unique prefix of an id.
    pub network: String,
    /// IPv4 address.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub ip: Option<String>,
    /// IPv6 address.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub ip6: Option<String>,
    /// MAC.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub mac: Option<String>,
    /// Name of the interface in the container.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub ifname: Option<String>,
    /// Further names on this network.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub aliases: Vec<String>,
    /// Prefixes or addresses that the container may send from beside its own.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub allow: Vec<String>,
    /// The network with the highest has the default route and the published ports; 0 by default.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub gw_priority: Option<i32>,
    /// Settings of the interface, such as `net.ipv4.conf.IFNAME.rp_filter`; `IFNAME` stands for its name.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub sysctls: BTreeMap<String, String>,
}

/// A network.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[expect(missing_docs, reason = "the keys are those of contract.md")]
#[expect(clippy::struct_excessive_bools, reason = "each is a key of its own")]
pub struct Network {
    pub id: String,
    pub name: String,
    pub driver: String,
    pub subnets: Vec<Subnet>,
    pub internal: bool,
    pub mode: String,
    /// The mode over IPv6, where it differs.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub mode6: Option<String>,
    /// Whether its containers reach each other.
    #[serde(default = "yes")]
    pub icc: bool,
    /// Driver options that are not at their defaults.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub opts: BTreeMap<String, String>,
    pub mtu: u32,
    pub ipv6: bool,
    pub encrypted: bool,
    pub vni: Option<u32>,
    pub interface: IfName,
    pub dns: Vec<IpAddr>,
    #[serde(default, skip_serializing_if = "Naming::is_default")]
    pub dns_options: Naming,
    pub labels: BTreeMap<String, String>,
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub routes: Vec<StaticRoute>,
    /// From where flows may be opened to its containers.
    #[serde(flatten)]
    pub access: Access,
    /// What is kept for containers, by their names.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub reservations: BTreeMap<String, Reservation>,
    pub endpoints: Vec<NetworkEndpoint>,
    /// Packets that were dropped at it, by reason; only where one network is asked for.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub drops: Option<Drops>,
}

const fn yes() -> bool {
    true
}

/// Body of `PUT /v1/networks/{n}/reservations/{name}`: what a container of that name gets on that network. An empty one
/// keeps what the container has now.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Reservation {
    /// IPv4 address.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub ip: Option<String>,
    /// IPv6 address.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub ip6: Option<String>,
    /// MAC.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub mac: Option<String>,
}

/// A host of the cluster.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[expect(missing_docs, reason = "the keys are those of contract.md")]
pub struct Node {
    pub id: String,
    pub name: String,
    pub address: IpAddr,
    /// `alive`, `suspect` (it gives no sign of life) or `dead`.
    pub state: String,
    /// The networks that it has containers on.
    pub networks: Vec<String>,
    /// Whether it is the one that answers.
    #[serde(default)]
    pub own: bool,
    /// The largest packet that fits through from it to all others.
    pub mtu: u32,
    pub version: String,
    /// Seconds since its last sign of life; none while it gives them. It counts from this daemon's start at the latest, and
    /// not while the store is away.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub last_seen: Option<u64>,
    /// How it stands with it on each network that this host shares with it.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub paths: Vec<Path>,
}

/// How it stands between this host and another on a network, by probes over the network itself.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Path {
    /// The network's name.
    pub network: String,
    /// From the other host to this one.
    pub from: crate::probe::Way,
    /// From this host to the other.
    pub to: crate::probe::Way,
}

/// Answer of `GET /v1/doctor`.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Findings {
    /// What hinders; none on a healthy host.
    pub findings: Vec<crate::doctor::Finding>,
}

/// Body of `POST /v1/apply`, and the content of a file of networks (TOML, there in the singular).
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Apply {
    /// Networks that shall be there.
    #[serde(default, alias = "network", skip_serializing_if = "Vec::is_empty")]
    pub networks: Vec<NetworkCreate>,
    /// Addresses that shall be kept.
    #[serde(default, alias = "reservation", skip_serializing_if = "Vec::is_empty")]
    pub reservations: Vec<Reserve>,
}

/// A reservation in a file.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Reserve {
    /// The network.
    pub network: String,
    /// The container's name.
    pub container: String,
    /// IPv4 address.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub ip: Option<String>,
    /// IPv6 address.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub ip6: Option<String>,
    /// MAC.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub mac: Option<String>,
}

/// Answer of `POST /v1/apply`: networks by name, reservations as `NETWORK/CONTAINER`.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Applied {
    /// What was made.
    pub created: Vec<String>,
    /// What was there already.
    pub unchanged: Vec<String>,
}

/// A subnet of a network.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[expect(missing_docs, reason = "the keys are those of contract.md")]
pub struct Subnet {
    pub subnet: String,
    /// None on an isolated network.
    pub gateway: Option<IpAddr>,
    pub ip_range: Option<String>,
}

/// An endpoint as its network shows it.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[expect(missing_docs, reason = "the keys are those of contract.md")]
pub struct NetworkEndpoint {
    pub container_id: String,
    pub container_name: String,
    pub ipv4: Option<String>,
    pub ipv6: Option<String>,
    pub mac: Mac,
}

/// A container.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[expect(missing_docs, reason = "the keys are those of contract.md")]
pub struct Container {
    pub id: String,
    pub name: String,
    pub hostname: String,
    pub netns: String,
    pub endpoints: Vec<Endpoint>,
    pub ports: Vec<Port>,
    pub dns: Dns,
    /// Names that only this container resolves, with their addresses.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub extra_hosts: BTreeMap<String, Vec<IpAddr>>,
    pub labels: BTreeMap<String, String>,
    /// What was counted; only where one container is asked for.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub counters: Option<ContainerCounters>,
    /// What the host does that hinders this container, each with its remedy.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub warnings: Vec<String>,
}

/// An endpoint as its container shows it.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[expect(missing_docs, reason = "the keys are those of contract.md")]
pub struct Endpoint {
    pub network: String,
    pub network_id: String,
    pub ifname: IfName,
    pub host_ifname: IfName,
    pub mac: Mac,
    pub ipv4: Option<String>,
    pub ipv6: Option<String>,
    pub gateway: Option<IpAddr>,
    pub gateway6: Option<IpAddr>,
    pub aliases: Vec<String>,
    /// The CNI network that the endpoint was made for.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub cni_network: Option<String>,
    /// netd keeps the address, and another plugin made the interface.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub address_only: bool,
    /// What it may send from beside its own addresses.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub allow: Vec<String>,
    #[serde(default)]
    pub gw_priority: i32,
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub sysctls: BTreeMap<String, String>,
}

/// A published port.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[expect(missing_docs, reason = "the keys are those of contract.md")]
pub struct Port {
    pub proto: Proto,
    pub host_ip: Option<IpAddr>,
    pub host_port: u16,
    pub container_port: u16,
    #[serde(flatten)]
    pub access: Access,
}

/// What a container's ports and interfaces have counted, in `GET /v1/containers/{c}`.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct ContainerCounters {
    /// By container port: what was forwarded by all host ports that lead there.
    pub ports: Vec<PortCounters>,
    /// By interface.
    pub endpoints: Vec<EndpointCounters>,
}

/// What passed a published port since it was published.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[expect(missing_docs, reason = "the names say it")]
pub struct PortCounters {
    pub proto: Proto,
    pub container_port: u16,
    #[serde(flatten)]
    pub both: Both,
}

/// What passed an interface of a container since it was made.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[expect(missing_docs, reason = "the names say it")]
pub struct EndpointCounters {
    pub network: String,
    pub ifname: IfName,
    #[serde(flatten)]
    pub count: LinkCount,
}

/// What belongs into the container's resolv.conf.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[expect(missing_docs, reason = "the keys are those of contract.md")]
pub struct Dns {
    pub nameserver: IpAddr,
    pub search: Vec<String>,
    pub options: Vec<String>,
}

impl Dns {
    /// The file's text (resolv.conf(5)).
    pub fn resolv_conf(&self) -> String {
        let mut text = format!("# made by netd\nnameserver {}\n", self.nameserver);
        for (keyword, words) in [("search", &self.search), ("options", &self.options)] {
            if !words.is_empty() {
                text.push_str(keyword);
                words.iter().for_each(|word| {
                    text.push(' ');
                    text.push_str(word);
                });
                text.push('\n');
            }
        }
        text
    }
}

/// What a change with `?dry_run=true` would do.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct DryRun {
    /// The operations, in order.
    pub ops: Vec<Op>,
    /// The same for people, a line each.
    pub text: Vec<String>,
}

impl DryRun {
    /// Both forms of a list of operations.
    pub fn new(ops: Vec<Op>) -> Self {
        Self {
            text: ops.iter().map(ToString::to_string).collect(),
            ops,
        }
    }
}

/// Answer of `POST /v1/networks/prune`.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Removed {
    /// Names of what was removed.
    pub removed: Vec<String>,
}

/// Answer of `GET /v1/dns/query`: what a container gets for a name, and why.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct DnsAnswer {
    /// The response code, as `NOERROR` or `NXDOMAIN`.
    pub code: String,
    /// The records, as in a zone file.
    pub answers: Vec<String>,
    /// Where they come from: the zone, the cache, an upstream, nobody.
    pub source: String,
    /// Why, a sentence each.
    pub steps: Vec<String>,
}

/// Answer of `GET /v1/plan`: what the next audit would repair. Both lists empty: healthy.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Plan {
    /// The repairs, in order.
    pub ops: Vec<Op>,
    /// The same for people, and the orphans: a line each.
    pub text: Vec<String>,
    /// Objects that carry our mark but serve nothing on record. Never removed unasked: `purge` takes them.
    pub orphans: Vec<String>,
}

/// A line of `GET /v1/events`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Event {
    /// Counts from 1 since the daemon's start.
    pub seq: u64,
    /// When, as RFC 3339 has it, in UTC.
    pub time: String,
    /// `attached`, `detached`, `connected`, `disconnected`, `network_created`, `network_removed`, `vanished`, `repaired`.
    pub kind: String,
    /// What it is about.
    pub object: String,
    /// What happened, for people.
    pub message: String,
    /// Who caused it, where the kernel tells that.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub by: Option<EventSource>,
}

/// The process behind an event.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct EventSource {
    /// Its number in the first PID namespace.
    pub pid: u32,
    /// Its name.
    pub name: String,
}

/// Answer of `GET /v1/status`.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[expect(missing_docs, reason = "the names say it")]
pub struct Status {
    pub ready: bool,
    pub version: String,
    pub networks: usize,
    pub containers: usize,
    /// Published ports.
    pub ports: usize,
    /// Kernel features probed: name and whether it is there.
    pub features: BTreeMap<String, bool>,
    /// How it stands with the shared store: `embedded`, `connecting`, `connected`, or `unavailable` and why.
    #[serde(default)]
    pub store: String,
    /// Hosts of the cluster, this one too.
    #[serde(default)]
    pub nodes: usize,
    /// What is wrong, each with its remedy.
    pub warnings: Vec<String>,
    /// What netd changed on the host outside its own objects.
    pub host_changes: Vec<HostChange>,
    /// Objects with our mark that serve nothing on record.
    pub orphans: Vec<String>,
    /// Packets that netd's rules dropped since the host started, by reason.
    #[serde(default)]
    pub drops: Drops,
}

/// A setting of the host that netd changed.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct HostChange {
    /// Path below `/proc/sys`.
    pub sysctl: String,
    /// Its value before.
    pub was: String,
    /// Its value now.
    pub now: String,
}

/// Answer of `POST /v1/purge`.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Purged {
    /// Containers that were detached.
    pub containers: usize,
    /// Networks that were removed.
    pub networks: usize,
    /// Objects with our mark and no record that were removed.
    pub orphans: usize,
}

/// The body of every error.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct ErrorBody {
    /// The error.
    pub error: Error,
}
