//! The objects netd wants from the kernel: plain keyed values.

use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;

use serde::{Deserialize, Serialize};

mod key;
mod owner;
mod station;

pub use key::Key;
pub use owner::{Ns, Owner, container_ns};
pub use station::{Flood, Neighbour, Remote, Station};

use crate::access::Access;
use crate::attachment::{Redirect, Shaper};
use crate::net::{Family, IfName, Mac, Prefix, Proto};
use crate::nft::{Element, Ruleset};

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
    /// The fixed part of an nftables table. Shared: it is large, and the same for all who want or hold it.
    Ruleset(Arc<Ruleset>),
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

impl From<Ruleset> for Object {
    fn from(ruleset: Ruleset) -> Self {
        Self::Ruleset(Arc::new(ruleset))
    }
}

impl Object {
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

/// The set key `interface . family` of verdict maps.
pub fn family_key(ifname: &IfName, family: Family) -> Vec<crate::nft::Datum> {
    vec![
        crate::nft::Datum::Ifname(ifname.clone()),
        crate::nft::Datum::NfProto(family.nfproto()),
    ]
}
