//! Raw requests become validated requests, here and nowhere else.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use serde::{Deserialize, Serialize};

use crate::access::{Access, sources};
use crate::api;
use crate::cni::CniEndpoint;
use crate::error::{Code, Error, Result};
use crate::id::{ContainerId, Name, shorten};
use crate::naming::Naming;
use crate::net::{Family, IfName, Mac, Prefix, Proto};
use crate::options::{self, Options};
use crate::record::{Driver, ExtraHost, Mode, PREDEFINED, Policy, Port, StaticRoute};

pub use crate::publish::{Publish, parse_publish};

mod declared;
mod details;
mod subnets;

pub use declared::{Declared, Reserve, difference, reservation};
pub(crate) use details::IFNAME;
pub use details::check_gateways;
pub use subnets::{SUBNETS_MAX, SubnetSpec};

/// Most ports one container may publish: each is a bound socket of the daemon.
pub const PORTS_MAX: usize = 4096;
/// Most networks in one attach.
pub const NETWORKS_MAX: usize = 64;
/// Smallest MTU: IPv4 requires 68 bytes of every link (RFC 791).
pub const MTU_MIN: u32 = 68;
/// Smallest MTU of a network with IPv6 (RFC 8200).
pub const MTU_MIN_V6: u32 = 1280;
/// Largest MTU a veth or bridge takes.
pub const MTU_MAX: u32 = 65_535;

/// A network that may be created.
#[derive(Clone, Debug, PartialEq)]
pub struct CreateNetwork {
    /// Its name.
    pub name: Name,
    /// What it is made of.
    pub driver: Driver,
    /// The subnets asked for; a family without one gets an automatic subnet.
    pub subnets: Vec<SubnetSpec>,
    /// Its families; never empty.
    pub families: Vec<Family>,
    /// Whether it is cut off.
    pub internal: bool,
    /// Its MTU, if not that of the uplink.
    pub mtu: Option<u32>,
    /// Its resolvers.
    pub dns: Vec<IpAddr>,
    /// Labels.
    pub labels: BTreeMap<String, String>,
    /// What makes it an overlay, if it is one.
    pub overlay: Option<OverlaySpec>,
    /// Name of the bridge device (`--opt bridge=NAME`).
    pub bridge: Option<IfName>,
    /// How its names are answered (`--opt dns_...`).
    pub naming: Naming,
    /// How it is reached, over IPv4 and over IPv6.
    pub modes: [Mode; 2],
    /// Who may talk to whom.
    pub policy: Policy,
    /// Routes that its containers get. Whether a gateway is on the network is seen when its subnets are known.
    pub routes: Vec<StaticRoute>,
    /// From where flows may be opened to its containers.
    pub access: Access,
}

/// An overlay asked for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct OverlaySpec {
    /// Its network identifier, if a certain one (`--opt vni=N`).
    pub vni: Option<u32>,
    /// The UDP port of its packets (`--opt port=N`).
    pub port: u16,
    /// Whether they bear a UDP checksum (`--opt udpcsum=on|off`).
    pub udpcsum: bool,
}

/// An attach that may be carried out. Kept in the container's record for comparison.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Attach {
    /// The id, if the caller chose one.
    pub id: Option<ContainerId>,
    /// The container's name.
    pub name: Name,
    /// What it calls itself.
    pub hostname: String,
    /// Path of its network namespace.
    pub netns: String,
    /// The networks to join, in order; never empty.
    pub networks: Vec<Join>,
    /// The ports to publish.
    pub publish: Vec<Publish>,
    /// Its own resolvers.
    pub dns: Vec<IpAddr>,
    /// Names that only it resolves.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub extra_hosts: Vec<ExtraHost>,
    /// Labels.
    pub labels: BTreeMap<String, String>,
}

/// One network to join.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Join {
    /// Name, id or unique prefix of an id.
    pub network: String,
    /// Requested IPv4 address.
    pub ip: Option<Ipv4Addr>,
    /// Requested IPv6 address.
    pub ip6: Option<Ipv6Addr>,
    /// Requested MAC.
    pub mac: Option<Mac>,
    /// Requested interface name.
    pub ifname: Option<IfName>,
    /// Further names.
    pub aliases: Vec<String>,
    /// What a CNI attachment has beyond that.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub cni: Option<CniEndpoint>,
    /// Further addresses it may send from.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub allow: Vec<Prefix>,
    /// Its rank for the default route.
    #[serde(default, skip_serializing_if = "crate::record::is_zero")]
    pub gw_priority: i32,
    /// Settings of the interface, see [`crate::record::Endpoint`].
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub sysctls: BTreeMap<String, String>,
}

impl TryFrom<api::NetworkCreate> for CreateNetwork {
    type Error = Error;

    fn try_from(raw: api::NetworkCreate) -> Result<Self> {
        let name = Name::parse(&raw.name)?;
        let driver = driver(&raw)?;
        refuse_meaning(&raw.name)?;
        supported(&raw, driver)?;
        let subnets = subnets::subnets(&raw, driver)?;
        let families = subnets::families(&raw, &subnets)?;
        let ipv6 = families.contains(&Family::V6);
        let options = Options::parse(&raw.opts)?;
        let overlay = options.overlay(driver)?;
        let mode = raw.mode.as_deref().map_or(Ok(Mode::Nat), options::mode)?;
        let modes = options.modes.map(|of_family| of_family.unwrap_or(mode));
        check_l3(&options.policy, modes)?;
        Ok(Self {
            mtu: raw.mtu.map(|mtu| check_mtu(mtu, ipv6)).transpose()?,
            dns: addresses(&raw.dns)?,
            labels: check_labels(raw.labels)?,
            naming: Naming::from_options(&raw.opts)?,
            bridge: options.bridge,
            overlay,
            modes,
            policy: Policy {
                icc: raw.icc.unwrap_or(true),
                ..options.policy
            },
            routes: details::routes(&raw.routes)?,
            access: Access {
                allow_from: sources(&raw.allow_from)?,
                block_from: sources(&raw.block_from)?,
            },
            internal: raw.internal,
            name,
            driver,
            subnets,
            families,
        })
    }
}

/// What goes by the host needs an address of the host.
fn check_l3(policy: &Policy, modes: [Mode; 2]) -> Result<()> {
    if policy.l3 && modes.contains(&Mode::Isolated) {
        let text = "option l3: the host is not on an isolated network: use mode nat or routed, or internal";
        return Err(Error::new(Code::InvalidOpt, text));
    }
    Ok(())
}

/// The names that mean something to users of Docker and Podman, and no network of netd's.
pub fn meaning(name: &str) -> Option<Error> {
    let text = match name {
        "host" => {
            "network host is predefined: it is the host's own network namespace, where netd attaches nothing; start the \
             container in that namespace and leave the attach out"
        }
        "none" => {
            "network none is predefined: it is a namespace with nothing but lo; leave the attach out, or use --internal \
             for a network that leads nowhere"
        }
        _ => return None,
    };
    Some(Error::new(Code::NetworkPredefined, text))
}

fn refuse_meaning(name: &str) -> Result<()> {
    meaning(name).map_or(Ok(()), Err)
}

fn driver(raw: &api::NetworkCreate) -> Result<Driver> {
    match raw.driver.as_deref() {
        None | Some("bridge") => Ok(Driver::Bridge),
        Some("ipam") => Ok(Driver::Ipam),
        Some("overlay") => Ok(Driver::Overlay),
        Some(other) => Err(Error::new(
            Code::InvalidDriver,
            format!(
                "driver {:?} is not available in this version: use bridge or overlay",
                shorten(other)
            ),
        )),
    }
}

fn supported(raw: &api::NetworkCreate, driver: Driver) -> Result<()> {
    if raw.encrypted && driver == Driver::Overlay {
        return Err(Error::new(
            Code::InvalidEncrypted,
            "encrypted overlay networks are not available in this version: leave it out, and keep the hosts' network apart",
        ));
    }
    if raw.encrypted {
        return Err(Error::new(
            Code::InvalidEncrypted,
            "a bridge network stays on this host: it has nothing to encrypt",
        ));
    }
    Ok(())
}

fn check_mtu(mtu: u32, ipv6: bool) -> Result<u32> {
    let min = if ipv6 { MTU_MIN_V6 } else { MTU_MIN };
    if (min..=MTU_MAX).contains(&mtu) {
        return Ok(mtu);
    }
    Err(Error::new(
        Code::InvalidMtu,
        format!("mtu {mtu} is out of range: use {min} to {MTU_MAX}"),
    ))
}

fn addresses(texts: &[String]) -> Result<Vec<IpAddr>> {
    texts
        .iter()
        .map(|text| {
            text.parse::<IpAddr>()
                .ok()
                .filter(|ip| !ip.is_unspecified() && !ip.is_multicast())
                .ok_or_else(|| {
                    Error::new(
                        Code::InvalidDns,
                        format!("dns server {:?} is no usable IP address", shorten(text)),
                    )
                })
        })
        .collect()
}

fn check_labels(labels: BTreeMap<String, String>) -> Result<BTreeMap<String, String>> {
    for (key, value) in &labels {
        let printable =
            !key.is_empty() && key.chars().chain(value.chars()).all(|c| !c.is_control());
        if !printable || key.len() > 256 || value.len() > 4096 || key.contains('=') {
            return Err(Error::new(
                Code::InvalidLabel,
                format!(
                    "label {:?} is not valid: use KEY=VALUE, a key of 1 to 256 bytes without =, a value of at most 4096, \
                     no control characters",
                    shorten(key)
                ),
            ));
        }
    }
    Ok(labels)
}

/// Whether a text is a host name: labels of 1 to 63 letters, digits, `-` and `_`, in all at most 253 (RFC 1123; `_`
/// because container names have it).
pub fn is_dns_name(text: &str) -> bool {
    let label = |label: &str| {
        (1..=63).contains(&label.len())
            && !label.starts_with('-')
            && !label.ends_with('-')
            && label
                .bytes()
                .all(|b| b.is_ascii_alphanumeric() || matches!(b, b'-' | b'_'))
    };
    text.len() <= 253 && text.split('.').all(label)
}

impl TryFrom<api::ContainerAttach> for Attach {
    type Error = Error;

    fn try_from(raw: api::ContainerAttach) -> Result<Self> {
        let name = Name::parse(&raw.name)?;
        let id = raw.id.as_deref().map(ContainerId::parse).transpose()?;
        let hostname = raw.hostname.unwrap_or_else(|| raw.name.clone());
        if !is_dns_name(&hostname) {
            return Err(Error::new(
                Code::InvalidHostname,
                format!(
                    "hostname {:?} is not a DNS name: give another with --hostname",
                    shorten(&hostname)
                ),
            ));
        }
        let mut networks: Vec<Join> = raw
            .networks
            .into_iter()
            .map(Join::try_from)
            .collect::<Result<_>>()?;
        if networks.is_empty() {
            networks.push(Join::default_network());
        }
        check_joins(&networks)?;
        Ok(Self {
            netns: check_netns(&raw.netns)?,
            publish: check_publish(&raw.publish)?,
            dns: addresses(&raw.dns)?,
            extra_hosts: details::extra_hosts(&raw.extra_hosts)?,
            labels: check_labels(raw.labels)?,
            id,
            name,
            hostname,
            networks,
        })
    }
}

impl Join {
    fn default_network() -> Self {
        Self::any(PREDEFINED)
    }

    /// A network, with everything left to netd.
    pub fn any(network: &str) -> Self {
        Self {
            network: network.to_owned(),
            ip: None,
            ip6: None,
            mac: None,
            ifname: None,
            aliases: Vec::new(),
            cni: None,
            allow: Vec::new(),
            gw_priority: 0,
            sysctls: BTreeMap::new(),
        }
    }
}

impl TryFrom<api::Join> for Join {
    type Error = Error;

    fn try_from(raw: api::Join) -> Result<Self> {
        let bad_ip = |text: &str, version: u8| {
            Error::new(
                Code::InvalidIp,
                format!("{:?} is no IPv{version} address", shorten(text)),
            )
        };
        if let Some(alias) = raw.aliases.iter().find(|alias| !is_dns_name(alias)) {
            return Err(Error::new(
                Code::InvalidAlias,
                format!("alias {:?} is not a DNS name", shorten(alias)),
            ));
        }
        if raw.network.is_empty() {
            return Err(Error::new(
                Code::InvalidNetwork,
                "the network of an attachment has no name",
            ));
        }
        let ifname = raw.ifname.as_deref();
        let ifname = ifname.map(|name| options::device(name, "an interface"));
        let ifname = ifname.transpose()?;
        Ok(Self {
            ip: raw
                .ip
                .map(|text| text.parse().map_err(|_| bad_ip(&text, 4)))
                .transpose()?,
            ip6: raw
                .ip6
                .map(|text| text.parse().map_err(|_| bad_ip(&text, 6)))
                .transpose()?,
            mac: raw.mac.map(|text| text.parse()).transpose()?,
            allow: details::allowed(&raw.allow)?,
            network: raw.network,
            aliases: raw.aliases,
            gw_priority: raw.gw_priority.unwrap_or(0),
            sysctls: details::sysctls(raw.sysctls)?,
            ifname,
            cni: None,
        })
    }
}

fn check_joins(joins: &[Join]) -> Result<()> {
    if joins.len() > NETWORKS_MAX {
        return Err(Error::new(
            Code::InvalidNetwork,
            format!("a container joins at most {NETWORKS_MAX} networks"),
        ));
    }
    let mut ifnames = BTreeSet::new();
    match joins
        .iter()
        .filter_map(|join| join.ifname.as_ref())
        .find(|name| !ifnames.insert(*name))
    {
        Some(name) => Err(Error::new(
            Code::InvalidIfname,
            format!("interface name {name} is used twice"),
        )),
        None => Ok(()),
    }
}

/// `pid:N`, a name under /run/netns, or an absolute path; the answer is an absolute path.
fn check_netns(text: &str) -> Result<String> {
    let invalid = |why: &str| {
        Error::new(
            Code::InvalidNetns,
            format!("network namespace {:?}: {why}", shorten(text)),
        )
    };
    if text.contains('\0') || text.len() > 4096 {
        return Err(invalid("a path has no zero bytes and at most 4096"));
    }
    if let Some(pid) = text.strip_prefix("pid:") {
        let pid: u32 = pid
            .parse()
            .map_err(|_| invalid("after pid: comes a process number"))?;
        return Ok(format!("/proc/{pid}/ns/net"));
    }
    if text.starts_with('/') {
        return Ok(text.to_owned());
    }
    if text.is_empty() || text.contains('/') || matches!(text, "." | "..") {
        return Err(invalid(
            "give an absolute path, a name under /run/netns, or pid:N",
        ));
    }
    Ok(format!("/run/netns/{text}"))
}

fn check_publish(texts: &[String]) -> Result<Vec<Publish>> {
    let mut asked: Vec<Publish> = Vec::new();
    for text in texts {
        asked.extend(parse_publish(text)?);
        if asked.len() > PORTS_MAX {
            return Err(Error::new(
                Code::InvalidPublish,
                format!("a container publishes at most {PORTS_MAX} ports"),
            ));
        }
    }
    let mut taken: HashMap<(Proto, u16), Vec<Port>> = HashMap::new();
    let mut lists: HashMap<(Proto, u16), &Publish> = HashMap::new();
    for port in &asked {
        let first = *lists
            .entry((port.proto, port.container_port))
            .or_insert(port);
        if first.access != port.access {
            return Err(Error::new(
                Code::InvalidPublish,
                format!(
                    "{port} and {first} lead to one container port: give them the same lists of sources"
                ),
            ));
        }
    }
    for port in asked.iter().filter_map(Publish::exact) {
        let others = taken.entry((port.proto, port.host_port)).or_default();
        if let Some(other) = others.iter().find(|other| other.conflicts(&port)) {
            return Err(Error::new(
                Code::InvalidPublish,
                format!("{port} and {other} take the same host port"),
            ));
        }
        others.push(port);
    }
    Ok(asked)
}
