//! The objects netd wants from the kernel: plain keyed values.

use std::fmt;
use std::net::{IpAddr, SocketAddr};

use serde::{Deserialize, Serialize};

use crate::access::Access;
use crate::attachment::{Redirect, Shaper};
use crate::id::{ContainerId, NetworkId};
use crate::net::{Family, IfName, Mac, Prefix, Proto};
use crate::nft::{Element, ElementKey, Ruleset, TableRef};

/// The network namespace an object lives in.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Ns {
    /// The namespace the daemon was started in.
    Host,
    /// The sandbox of a container.
    Container(ContainerId),
}

impl fmt::Debug for Ns {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}
impl fmt::Display for Ns {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Host => f.write_str("host"),
            Self::Container(id) => f.write_str(id.short()),
        }
    }
}

/// What an object serves. Its text form is written on the object in the kernel (invariant I3).
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(into = "String", try_from = "String")]
pub enum Owner {
    /// The host's share: the ruleset, forwarding.
    Host,
    /// A network.
    Network(NetworkId),
    /// A container as a whole.
    Container(ContainerId),
    /// One attachment of a container to a network.
    Endpoint(ContainerId, NetworkId),
}

impl Owner {
    /// The container it serves, if any.
    pub fn container(&self) -> Option<&ContainerId> {
        match self {
            Self::Container(id) | Self::Endpoint(id, _) => Some(id),
            Self::Host | Self::Network(_) => None,
        }
    }

    /// The mark written on the object, at most 170 bytes: `netd:` and the ids.
    pub fn mark(&self) -> String {
        match self {
            Self::Host => "netd:host".to_owned(),
            Self::Network(net) => format!("netd:net:{net}"),
            Self::Container(id) => format!("netd:ctr:{id}"),
            Self::Endpoint(id, net) => format!("netd:ep:{net}:{id}"),
        }
    }

    /// Reads a mark back; `None` for anything that netd did not write.
    pub fn from_mark(mark: &str) -> Option<Self> {
        let rest = mark.strip_prefix("netd:")?;
        if rest == "host" {
            return Some(Self::Host);
        }
        let (kind, id) = rest.split_once(':')?;
        match kind {
            "net" => NetworkId::parse(id).ok().map(Self::Network),
            "ctr" => ContainerId::parse(id).ok().map(Self::Container),
            "ep" => {
                let (net, id) = id.split_once(':')?;
                Some(Self::Endpoint(
                    ContainerId::parse(id).ok()?,
                    NetworkId::parse(net).ok()?,
                ))
            }
            _ => None,
        }
    }
}
impl fmt::Display for Owner {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.mark())
    }
}
impl From<Owner> for String {
    fn from(owner: Owner) -> String {
        owner.mark()
    }
}
impl TryFrom<String> for Owner {
    type Error = String;
    fn try_from(text: String) -> Result<Self, String> {
        Self::from_mark(&text).ok_or_else(|| format!("{text:?} is no owner mark"))
    }
}

/// The kind of a link.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum LinkKind {
    /// A bridge.
    Bridge,
    /// An intermediate functional block: packets that come in elsewhere are led through it, to be queued.
    Ifb,
    /// One end of a veth pair. The two ends are two objects with the same owner; one request makes both.
    Veth,
    /// The way of an overlay network to other hosts ([`Link::tunnel`]), always a port of its bridge.
    Vxlan,
}

/// A network interface.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct Link {
    /// Where it is.
    pub ns: Ns,
    /// Its name.
    pub name: IfName,
    /// What it is.
    pub kind: LinkKind,
    /// Its Ethernet address.
    pub mac: Mac,
    /// Largest packet in bytes, without the Ethernet header.
    pub mtu: u32,
    /// Administratively up.
    pub up: bool,
    /// The bridge it is a port of.
    pub master: Option<IfName>,
    /// Whether the kernel makes an IPv6 link-local address on it (EUI-64), or none. Set at creation only: it is
    /// not compared, since reading it back tells nothing on a link that is down.
    pub link_local: bool,
    /// Whether others may change its MTU: plugins after netd's in a CNI chain do. Then it is not compared.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub tunable: bool,
    /// What a VXLAN device carries, and between which addresses. Given at creation only: one that differs is replaced.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub tunnel: Option<Tunnel>,
    /// What it serves; written into its alias.
    pub owner: Owner,
}

/// The fixed part of a VXLAN device (RFC 7348).
#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct Tunnel {
    /// Its network identifier, 24 bits.
    pub vni: u32,
    /// The UDP port it sends to and listens on.
    pub port: u16,
    /// The address of this host that it sends from.
    pub local: IpAddr,
    /// Whether what it sends bears a UDP checksum; what bears none is taken over IPv6 only if not.
    pub udpcsum: bool,
}

/// An address on one of our links. It carries our protocol number (`IFA_PROTO`), and never runs duplicate detection.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct Address {
    /// Where.
    pub ns: Ns,
    /// The interface.
    pub ifname: IfName,
    /// The address.
    pub ip: IpAddr,
    /// Length of its prefix.
    pub prefix_len: u8,
    /// What it serves: the owner of its link.
    pub owner: Owner,
}

/// A route with our protocol number.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct Route {
    /// Where.
    pub ns: Ns,
    /// Destination.
    pub dst: Prefix,
    /// Next hop.
    pub via: Option<IpAddr>,
    /// Output interface.
    pub dev: IfName,
    /// `local` routes live in table local and deliver to the host itself.
    pub local: bool,
    /// Metric; 0 is the kernel's default.
    pub metric: u32,
    /// The source of what the host itself sends by it, if not the kernel's choice.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub src: Option<IpAddr>,
    /// What it serves: the owner of its link.
    pub owner: Owner,
}

/// Flags of a bridge port.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[expect(
    clippy::struct_excessive_bools,
    reason = "each is a flag of the kernel's"
)]
pub struct BridgePort {
    /// The port, always in the host's namespace.
    pub ifname: IfName,
    /// Whether a frame may leave by the port it came in on.
    pub hairpin: bool,
    /// Whether frames from this port never leave by another isolated one.
    pub isolated: bool,
    /// Whether the bridge learns from it who is behind it. On an overlay network netd says who is where.
    #[serde(default = "yes", skip_serializing_if = "is_yes")]
    pub learning: bool,
    /// Whether it gets frames to stations that the bridge does not know.
    #[serde(default = "yes", skip_serializing_if = "is_yes")]
    pub flood: bool,
    /// Whether the bridge answers ARP and neighbour solicitations itself instead of sending them there.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub suppress: bool,
    /// What it serves.
    pub owner: Owner,
}

const fn yes() -> bool {
    true
}

#[expect(clippy::trivially_copy_pass_by_ref, reason = "as serde calls it")]
const fn is_yes(flag: &bool) -> bool {
    *flag
}

/// Which host a station of an overlay network is on: an entry of the VXLAN device's own table.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct Remote {
    /// The VXLAN device.
    pub ifname: IfName,
    /// The station.
    pub mac: Mac,
    /// The host's address.
    pub host: IpAddr,
    /// What it serves: the owner of its link.
    pub owner: Owner,
}

/// A host that gets what is sent to everybody, and to stations nobody knows: head-end replication.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct Flood {
    /// The VXLAN device.
    pub ifname: IfName,
    /// The host's address.
    pub host: IpAddr,
    /// What it serves: the owner of its link.
    pub owner: Owner,
}

/// Which port of its bridge a station is behind. Sticky: no frame moves it.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct Station {
    /// The port.
    pub ifname: IfName,
    /// The station.
    pub mac: Mac,
    /// What it serves: the owner of its link.
    pub owner: Owner,
}

/// A permanent neighbour of a bridge, with our protocol number: the source of the answers that the bridge gives itself.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct Neighbour {
    /// The bridge.
    pub ifname: IfName,
    /// The address.
    pub ip: IpAddr,
    /// Who has it.
    pub mac: Mac,
    /// What it serves: the owner of its link.
    pub owner: Owner,
}

/// A kernel setting under `/proc/sys`. Never removed: one on a link goes with it, the host's are given back by `purge`.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct Sysctl {
    /// Where.
    pub ns: Ns,
    /// Path below `/proc/sys`, such as `net/ipv4/ip_forward`.
    pub path: String,
    /// Its value, without the newline.
    pub value: String,
    /// The link it belongs to, if any: the setting goes with it.
    pub ifname: Option<IfName>,
    /// What it serves.
    pub owner: Owner,
}

/// A host port held by a bound socket, so that no other program takes it.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct HostPort {
    /// The address; unspecified for all of its family.
    pub ip: IpAddr,
    /// The transport.
    pub proto: Proto,
    /// The port.
    pub port: u16,
    /// Where the daemon itself passes on what comes in, for the two cases that the kernel cannot translate
    /// ([`crate::desired`], `relayed`); none where an nftables element leads it away.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub relay: Option<Relay>,
    /// What it serves.
    pub owner: Owner,
}

/// What a relay does with what comes in.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct Relay {
    /// The container's address and port.
    pub to: SocketAddr,
    /// Who may open flows: all of these have to agree.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub admit: Vec<Access>,
}

/// Everything netd can want from the kernel.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(tag = "object", rename_all = "snake_case")]
pub enum Object {
    /// A host port held by a socket.
    HostPort(HostPort),
    /// The fixed part of an nftables table.
    Ruleset(Ruleset),
    /// A network interface.
    Link(Link),
    /// `lo` is up in a container: without it 127.0.0.11 is unreachable. Never removed.
    Loopback(#[serde(with = "owner_only")] Owner),
    /// Flags of a bridge port.
    BridgePort(BridgePort),
    /// Which host a station is on.
    Remote(Remote),
    /// A host that gets what is sent to everybody.
    Flood(Flood),
    /// Which port a station is behind.
    Station(Station),
    /// A neighbour of a bridge.
    Neighbour(Neighbour),
    /// An address.
    Address(Address),
    /// A route.
    Route(Route),
    /// A limit of a link's rate.
    Shaper(Shaper),
    /// Packets that come in on a link are led to another.
    Redirect(Redirect),
    /// A kernel setting.
    Sysctl(Sysctl),
    /// An nftables element.
    Element(Element),
    /// The listening DNS sockets of a container, inside its namespace.
    DnsSocket(#[serde(with = "owner_only")] Owner),
}

/// An object that is nothing but its owner, as `{"owner": ...}`: a tagged enum needs a map.
mod owner_only {
    use serde::{Deserialize, Deserializer, Serialize, Serializer};

    use super::Owner;

    #[derive(Serialize, Deserialize)]
    struct Wrapped {
        owner: Owner,
    }

    pub(super) fn serialize<S: Serializer>(owner: &Owner, to: S) -> Result<S::Ok, S::Error> {
        Wrapped {
            owner: owner.clone(),
        }
        .serialize(to)
    }

    pub(super) fn deserialize<'de, D: Deserializer<'de>>(from: D) -> Result<Owner, D::Error> {
        Wrapped::deserialize(from).map(|wrapped| wrapped.owner)
    }
}

/// The identity of an object: two objects with one key are versions of the same thing.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
#[expect(
    missing_docs,
    reason = "each field is the one of the same name in the object"
)]
pub enum Key {
    HostPort {
        ip: IpAddr,
        proto: Proto,
        port: u16,
    },
    Ruleset(TableRef),
    Link {
        ns: Ns,
        name: IfName,
    },
    Loopback(Ns),
    BridgePort(IfName),
    Remote {
        ifname: IfName,
        mac: Mac,
    },
    Flood {
        ifname: IfName,
        host: IpAddr,
    },
    Station {
        ifname: IfName,
        mac: Mac,
    },
    Neighbour {
        ifname: IfName,
        ip: IpAddr,
    },
    Address {
        ns: Ns,
        ifname: IfName,
        ip: IpAddr,
    },
    Route {
        ns: Ns,
        dst: Prefix,
        local: bool,
        metric: u32,
    },
    Shaper(IfName),
    Redirect(IfName),
    Sysctl {
        ns: Ns,
        path: String,
    },
    Element(ElementKey),
    DnsSocket(Ns),
}

impl Object {
    /// Its identity.
    pub fn key(&self) -> Key {
        match self {
            Self::HostPort(p) => Key::HostPort {
                ip: p.ip,
                proto: p.proto,
                port: p.port,
            },
            Self::Ruleset(r) => Key::Ruleset(r.table.clone()),
            Self::Link(l) => Key::Link {
                ns: l.ns.clone(),
                name: l.name.clone(),
            },
            Self::Loopback(owner) => Key::Loopback(container_ns(owner)),
            Self::BridgePort(p) => Key::BridgePort(p.ifname.clone()),
            Self::Remote(r) => Key::Remote {
                ifname: r.ifname.clone(),
                mac: r.mac,
            },
            Self::Flood(f) => Key::Flood {
                ifname: f.ifname.clone(),
                host: f.host,
            },
            Self::Station(s) => Key::Station {
                ifname: s.ifname.clone(),
                mac: s.mac,
            },
            Self::Neighbour(n) => Key::Neighbour {
                ifname: n.ifname.clone(),
                ip: n.ip,
            },
            Self::Address(a) => Key::Address {
                ns: a.ns.clone(),
                ifname: a.ifname.clone(),
                ip: a.ip,
            },
            Self::Route(r) => Key::Route {
                ns: r.ns.clone(),
                dst: r.dst,
                local: r.local,
                metric: r.metric,
            },
            Self::Shaper(s) => Key::Shaper(s.ifname.clone()),
            Self::Redirect(r) => Key::Redirect(r.ifname.clone()),
            Self::Sysctl(s) => Key::Sysctl {
                ns: s.ns.clone(),
                path: s.path.clone(),
            },
            Self::Element(e) => Key::Element(e.key.clone()),
            Self::DnsSocket(owner) => Key::DnsSocket(container_ns(owner)),
        }
    }

    /// What it serves.
    pub fn owner(&self) -> &Owner {
        match self {
            Self::Ruleset(r) => &r.owner,
            Self::HostPort(p) => &p.owner,
            Self::Link(l) => &l.owner,
            Self::BridgePort(p) => &p.owner,
            Self::Remote(r) => &r.owner,
            Self::Flood(f) => &f.owner,
            Self::Station(s) => &s.owner,
            Self::Neighbour(n) => &n.owner,
            Self::Address(a) => &a.owner,
            Self::Route(r) => &r.owner,
            Self::Shaper(s) => &s.owner,
            Self::Redirect(r) => &r.owner,
            Self::Sysctl(s) => &s.owner,
            Self::Element(e) => &e.owner,
            Self::Loopback(owner) | Self::DnsSocket(owner) => owner,
        }
    }

    /// The namespace it lives in.
    pub fn ns(&self) -> Ns {
        match self {
            Self::HostPort(_)
            | Self::BridgePort(_)
            | Self::Remote(_)
            | Self::Flood(_)
            | Self::Station(_)
            | Self::Neighbour(_)
            | Self::Shaper(_)
            | Self::Redirect(_) => Ns::Host,
            Self::Ruleset(r) => r.table.ns.clone(),
            Self::Link(l) => l.ns.clone(),
            Self::Address(a) => a.ns.clone(),
            Self::Route(r) => r.ns.clone(),
            Self::Sysctl(s) => s.ns.clone(),
            Self::Element(e) => e.key.table.ns.clone(),
            Self::Loopback(owner) | Self::DnsSocket(owner) => container_ns(owner),
        }
    }

    /// The link that it cannot outlive, if any.
    pub fn link(&self) -> Option<Key> {
        let (ns, name) = match self {
            Self::Address(a) => (a.ns.clone(), a.ifname.clone()),
            Self::Route(r) => (r.ns.clone(), r.dev.clone()),
            Self::BridgePort(p) => (Ns::Host, p.ifname.clone()),
            Self::Remote(r) => (Ns::Host, r.ifname.clone()),
            Self::Flood(f) => (Ns::Host, f.ifname.clone()),
            Self::Station(s) => (Ns::Host, s.ifname.clone()),
            Self::Neighbour(n) => (Ns::Host, n.ifname.clone()),
            Self::Shaper(s) => (Ns::Host, s.ifname.clone()),
            Self::Redirect(r) => (Ns::Host, r.ifname.clone()),
            Self::Sysctl(s) => (s.ns.clone(), s.ifname.clone()?),
            _ => return None,
        };
        Some(Key::Link { ns, name })
    }

    /// Whether the kernel holds what is wanted: equality, less what cannot be read back.
    pub fn is_held_as(&self, observed: &Self) -> bool {
        match (self, observed) {
            (Self::Link(want), Self::Link(have)) => {
                let tuned = if want.tunable { want } else { have };
                Link {
                    link_local: want.link_local,
                    tunable: want.tunable,
                    mtu: tuned.mtu,
                    ..have.clone()
                } == *want
            }
            (want, have) => want == have,
        }
    }
}

/// The namespace of the container that an owner names; the host's for all others.
pub fn container_ns(owner: &Owner) -> Ns {
    owner
        .container()
        .map_or(Ns::Host, |id| Ns::Container(id.clone()))
}

/// The set key `interface . family` of verdict maps.
pub fn family_key(ifname: &IfName, family: Family) -> Vec<crate::nft::Datum> {
    vec![
        crate::nft::Datum::Ifname(ifname.clone()),
        crate::nft::Datum::NfProto(family.nfproto()),
    ]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn marks_read_back_and_foreign_texts_do_not() {
        let net = NetworkId::from_bytes([7; 16]);
        let id = ContainerId::parse(&"x".repeat(128)).unwrap();
        for owner in [
            Owner::Host,
            Owner::Network(net.clone()),
            Owner::Container(id.clone()),
            Owner::Endpoint(id, net),
        ] {
            // IFALIASZ is 256, an nftables userdata at most 256 bytes.
            assert!(owner.mark().len() <= 200);
            assert_eq!(Owner::from_mark(&owner.mark()), Some(owner));
        }
        for foreign in [
            "",
            "netd",
            "netd:",
            "netd:x:y",
            "netd:ep:zz",
            "docker0",
            "netd:net:A",
        ] {
            assert_eq!(Owner::from_mark(foreign), None, "{foreign}");
        }
    }
}
