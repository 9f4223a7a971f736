//! What the CNI plugin asks of the daemon: bodies and answers of `POST /v1/cni/…`, and what netd keeps of it.
//!
//! An attachment is known by the pair (container id, interface name), never by a pod's name (CNI spec 1.1.0). All
//! attachments of one container id are endpoints of one container of netd.

mod pieces;

use std::collections::BTreeMap;
use std::net::IpAddr;

use serde::{Deserialize, Serialize};

use crate::api;
use crate::error::{Code, Error, Result};
use crate::id::{ContainerId, Name, digest, shorten};
use crate::net::{Family, IfName, Mac, Prefix};
use crate::record::Unknown;
use crate::request::{Attach, is_dns_name};

pub use pieces::pieces;

/// What makes one attachment: container id and interface name.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Attachment {
    /// `CNI_CONTAINERID`.
    pub container: String,
    /// `CNI_IFNAME`.
    pub ifname: String,
}

impl Attachment {
    /// Name of the file in the spool that says this attachment is to be removed.
    pub fn spool_name(&self) -> String {
        format!("{}.json", digest(&[&self.container, &self.ifname], 32))
    }
}

/// The label of networks that were made by a CNI configuration: when the configuration says something else and no
/// container is left on one, it is made anew.
pub const MADE_BY: (&str, &str) = ("netd.made-by", "cni");

/// Directory of the spool below the run-dir, beside the socket: DELs that came while no daemon answered.
pub const SPOOL: &str = "cni-spool";

/// Body of `POST /v1/cni/add`.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Add {
    /// `CNI_CONTAINERID`.
    pub container: String,
    /// `CNI_IFNAME`.
    pub ifname: String,
    /// `CNI_NETNS`.
    pub netns: String,
    /// The `name` of the CNI network: GC removes what belongs to it.
    pub cni_network: String,
    /// The network of netd to join.
    pub network: String,
    /// How to make it, if there is none yet.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub define: Option<api::NetworkCreate>,
    /// The pod, where the runtime tells it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub pod: Option<Pod>,
    /// Requested addresses, at most one per family.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub ips: Vec<IpAddr>,
    /// Requested Ethernet address.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub mac: Option<String>,
    /// Published ports, `[HOSTIP:]HOSTPORT:PORT[/PROTO]`.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub publish: Vec<String>,
    /// Resolvers to forward to.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub dns: Vec<String>,
    /// Further names.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub aliases: Vec<String>,
    /// Labels.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub labels: BTreeMap<String, String>,
    /// Further routes.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub routes: Vec<StaticRoute>,
    /// Limits of the rate.
    #[serde(default, skip_serializing_if = "Bandwidth::is_unset")]
    pub bandwidth: Bandwidth,
    /// Only an address is asked for (`ipam.type: netd`): netd makes no interface.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub address_only: bool,
}

/// A pod of Kubernetes.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Pod {
    /// `K8S_POD_NAMESPACE`.
    pub namespace: String,
    /// `K8S_POD_NAME`.
    pub name: String,
}

/// A route of a container beside its default route.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct StaticRoute {
    /// Destination.
    pub dst: Prefix,
    /// Next hop; the network's gateway if none.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub via: Option<IpAddr>,
}

/// Limits of an endpoint's rate, seen from the container; 0 is no limit. Rates in bit/s, bursts in bits (the units of
/// the CNI capability `bandwidth`).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Bandwidth {
    /// What the container may receive.
    pub ingress_rate: u64,
    /// How much of it at once.
    pub ingress_burst: u64,
    /// What it may send.
    pub egress_rate: u64,
    /// How much of it at once.
    pub egress_burst: u64,
}

impl Bandwidth {
    /// Whether nothing is limited.
    pub const fn is_none(&self) -> bool {
        self.ingress_rate == 0 && self.egress_rate == 0
    }

    /// Whether nothing is said.
    pub fn is_unset(&self) -> bool {
        *self == Self::default()
    }

    /// A rate and its burst come together, and the burst fits the 32 bits of bytes that the kernel has for it.
    pub fn check(&self) -> Result<()> {
        let sides = [
            ("ingress", self.ingress_rate, self.ingress_burst),
            ("egress", self.egress_rate, self.egress_burst),
        ];
        for (side, rate, burst) in sides {
            let wrong = if (rate == 0) != (burst == 0) {
                "a rate and its burst go together"
            } else if rate != 0 && rate < 8 {
                "a rate is at least 8 bit/s"
            } else if burst != 0 && burst < 8 {
                "a burst is at least 8 bits"
            } else if burst / 8 >= u64::from(u32::MAX) {
                "a burst is less than 4 GiB"
            } else {
                continue;
            };
            let text = format!("bandwidth {side}Rate {rate}, {side}Burst {burst}: {wrong}");
            return Err(Error::new(Code::InvalidBandwidth, text));
        }
        Ok(())
    }
}

/// What the record of an endpoint keeps of the attachment that made it.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct CniEndpoint {
    /// The `name` of the CNI network.
    pub network: String,
    /// Limits of the rate.
    #[serde(default, skip_serializing_if = "Bandwidth::is_unset")]
    pub bandwidth: Bandwidth,
    /// Further routes.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub routes: Vec<StaticRoute>,
    /// netd keeps the address, and another plugin made the interface.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub address_only: bool,
    /// What a newer version wrote.
    #[serde(flatten)]
    pub unknown: Unknown,
}

/// An attachment that may be carried out.
#[derive(Clone, Debug, PartialEq)]
pub struct AddRequest {
    /// As the first attachment of its container.
    pub attach: Attach,
    /// The interface.
    pub ifname: IfName,
}

impl TryFrom<Add> for AddRequest {
    type Error = Error;

    fn try_from(raw: Add) -> Result<Self> {
        raw.bandwidth.check()?;
        let id = ContainerId::parse(&raw.container)?;
        let ifname = IfName::parse(&raw.ifname)?;
        Name::parse(&raw.cni_network)?;
        let (name, hostname) = names(raw.pod.as_ref(), &id)?;
        let mut join = api::Join {
            network: raw.network,
            mac: raw.mac,
            ifname: Some(raw.ifname),
            aliases: raw.aliases,
            ..api::Join::default()
        };
        for ip in raw.ips {
            let place = match Family::of(ip) {
                Family::V4 => &mut join.ip,
                Family::V6 => &mut join.ip6,
            };
            if let Some(other) = place.replace(ip.to_string()) {
                return Err(Error::new(
                    Code::InvalidIp,
                    format!("an attachment takes one address per family: {ip} comes after {other}"),
                ));
            }
        }
        let mut attach = Attach::try_from(api::ContainerAttach {
            netns: raw.netns,
            name,
            id: Some(raw.container),
            hostname: Some(hostname),
            networks: vec![join],
            publish: raw.publish,
            dns: raw.dns,
            labels: raw.labels,
            create_only: true,
            ..api::ContainerAttach::default()
        })?;
        for join in &mut attach.networks {
            join.cni = Some(CniEndpoint {
                network: raw.cni_network.clone(),
                bandwidth: raw.bandwidth,
                routes: raw.routes.clone(),
                address_only: raw.address_only,
                unknown: Unknown::new(),
            });
        }
        Ok(Self { attach, ifname })
    }
}

/// A pod is `POD.NAMESPACE`, and nothing shorter: the same pod name may be used in two namespaces. Without a pod, a
/// container goes by its id.
fn names(pod: Option<&Pod>, id: &ContainerId) -> Result<(String, String)> {
    let Some(pod) = pod else {
        let short = id.short();
        let hostname = if is_dns_name(short) {
            short
        } else {
            "container"
        };
        return Ok((id.to_string(), hostname.to_owned()));
    };
    let name = format!("{}.{}", pod.name, pod.namespace);
    if !is_dns_name(&name) || pod.namespace.contains('.') {
        return Err(Error::new(
            Code::InvalidName,
            format!("pod {:?} is not POD.NAMESPACE", shorten(&name)),
        ));
    }
    // The name of a pod may be longer than that of a container: such a container goes by its id.
    let known = Name::parse(&name).map_or_else(|_| id.to_string(), |name| name.to_string());
    Ok((known, name))
}

/// Answer of `POST /v1/cni/add` and, without `warnings`, of `check`.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Added {
    /// The bridge; none where netd keeps only the address.
    pub bridge: Option<Interface>,
    /// The host's end of the pair.
    pub host: Option<Interface>,
    /// The container's end.
    pub container: Interface,
    /// Its addresses, those of IPv4 first.
    pub ips: Vec<Address>,
    /// Its routes.
    pub routes: Vec<StaticRoute>,
    /// Its name server.
    pub nameserver: IpAddr,
    /// What the host does that hinders this container, each with its remedy.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub warnings: Vec<String>,
}

/// An interface of an attachment.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Interface {
    /// Its name.
    pub name: IfName,
    /// Its Ethernet address.
    pub mac: Mac,
    /// Its MTU.
    pub mtu: u32,
}

/// An address of an attachment.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Address {
    /// With the length of its prefix.
    pub address: String,
    /// The network's gateway, if it leads out.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub gateway: Option<IpAddr>,
}

/// Body of `POST /v1/cni/gc`.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Gc {
    /// The `name` of the CNI network.
    pub cni_network: String,
    /// What stays; everything else of that network goes.
    pub valid: Vec<Attachment>,
}

/// Answer of `POST /v1/cni/gc`.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Collected {
    /// What went.
    pub removed: Vec<Attachment>,
    /// What could not go, and why.
    pub errors: Vec<String>,
}

/// Body of `POST /v1/cni/status`.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct StatusOf {
    /// The network of netd that the configuration joins.
    pub network: String,
    /// How to make it, if there is none yet.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub define: Option<api::NetworkCreate>,
}

#[cfg(test)]
mod tests {
    use super::*;

    fn add() -> Add {
        Add {
            container: "a".repeat(64),
            ifname: "eth0".to_owned(),
            netns: "/run/netns/a".to_owned(),
            cni_network: "net".to_owned(),
            network: "web".to_owned(),
            ..Add::default()
        }
    }

    #[test]
    fn a_pod_is_known_by_name_and_namespace_and_everything_else_by_its_id() {
        let request = AddRequest::try_from(add()).unwrap();
        assert_eq!(request.attach.name.as_str(), "a".repeat(64));
        assert_eq!(request.attach.hostname, "a".repeat(12));
        let pod = |namespace: &str, name: &str| Add {
            pod: Some(Pod {
                namespace: namespace.to_owned(),
                name: name.to_owned(),
            }),
            ..add()
        };
        let request = AddRequest::try_from(pod("shop", "web-0")).unwrap();
        assert_eq!(request.attach.name.as_str(), "web-0.shop");
        assert_eq!(request.attach.hostname, "web-0.shop");
        for (namespace, name) in [("a.b", "c"), ("", "c"), ("a", "c d")] {
            let error = AddRequest::try_from(pod(namespace, name)).unwrap_err();
            assert_eq!(error.code, Code::InvalidName, "{namespace} {name}");
        }
        let long = "x".repeat(63) + "." + &"y".repeat(63);
        let request = AddRequest::try_from(pod("shop", &long)).unwrap();
        assert_eq!(request.attach.name.as_str(), "a".repeat(64));
    }

    #[test]
    fn one_address_per_family() {
        let with = |ips: &[&str]| {
            AddRequest::try_from(Add {
                ips: ips.iter().map(|ip| ip.parse().unwrap()).collect(),
                ..add()
            })
        };
        let request = with(&["10.0.0.1", "fd00::1"]).unwrap();
        let join = &request.attach.networks[0];
        assert_eq!(join.ip.unwrap().to_string(), "10.0.0.1");
        assert_eq!(join.ip6.unwrap().to_string(), "fd00::1");
        assert_eq!(
            with(&["10.0.0.1", "10.0.0.2"]).unwrap_err().code,
            Code::InvalidIp
        );
    }

    #[test]
    fn rates_and_bursts_go_together_and_bursts_have_a_limit() {
        let check = |ingress_rate, ingress_burst| {
            Bandwidth {
                ingress_rate,
                ingress_burst,
                ..Bandwidth::default()
            }
            .check()
            .is_ok()
        };
        assert!(check(0, 0) && check(8_000, 8_000));
        assert!(!check(1000, 0) && !check(0, 1000));
        // A burst alone is told, so that it is refused (found by fuzzing).
        let alone = Bandwidth {
            egress_burst: 8,
            ..Bandwidth::default()
        };
        let sent = Add {
            bandwidth: alone,
            ..add()
        };
        let text = serde_json::to_string(&sent).unwrap();
        assert_eq!(serde_json::from_str::<Add>(&text).unwrap(), sent);
        assert!(AddRequest::try_from(sent).is_err());
        // The reference plugin refuses 4 GiB too.
        assert!(!check(1000, 8 * (1 << 32)));
        assert!(check(1000, 8 * ((1 << 32) - 2)));
    }

    #[test]
    fn the_spool_has_one_file_for_an_attachment_whatever_its_names() {
        let of = |container: &str, ifname: &str| {
            Attachment {
                container: container.to_owned(),
                ifname: ifname.to_owned(),
            }
            .spool_name()
        };
        assert_ne!(of("ab", "c"), of("a", "bc"));
        assert!(!of("../../x", "y").contains(".."));
    }
}
