//! The nftables language that netd needs, as plain data.
//!
//! A [`Ruleset`] is the fixed part of a table: sets, maps, chains and rules. It never changes while netd runs; what
//! varies is an [`Element`] of one of its sets. How both look on the wire is `netd/src/kernel/nft`'s business.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use serde::{Deserialize, Serialize};

use crate::net::{Family, IfName, Mac};
use crate::object::{Ns, Owner};

pub mod digest;
pub mod text;
pub mod wire;

/// Address family of a table.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum TableFamily {
    /// IPv4 and IPv6 (`NFPROTO_INET`).
    Inet,
    /// Frames that pass a bridge (`NFPROTO_BRIDGE`).
    Bridge,
}

impl TableFamily {
    /// The word of `nft`.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Inet => "inet",
            Self::Bridge => "bridge",
        }
    }
}

/// Which table, and in which namespace.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct TableRef {
    /// The namespace that holds it.
    pub ns: Ns,
    /// Its family.
    pub family: TableFamily,
    /// Its name.
    pub name: String,
}

/// The type of one part of a set key or of map data.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Field {
    /// Interface name, 16 bytes, padded with zeros.
    Ifname,
    /// IPv4 address.
    Ip4,
    /// IPv6 address.
    Ip6,
    /// IP protocol number, 1 byte.
    L4Proto,
    /// Port, 2 bytes, network byte order.
    Port,
    /// `NFPROTO_IPV4` or `NFPROTO_IPV6`, 1 byte.
    NfProto,
    /// Ethernet address.
    Mac,
    /// Type of an Ethernet frame, 2 bytes, network byte order.
    EtherType,
    /// Operation of an ARP packet, 2 bytes, network byte order (RFC 826).
    ArpOp,
    /// Type of an ICMPv6 message, 1 byte (RFC 4443).
    Icmp6Type,
    /// VXLAN network identifier, 3 bytes, network byte order (RFC 7348).
    Vni,
}

impl Field {
    /// How many bytes a value of this type takes; more than one value are padded to multiples of 4 ([`wire`]).
    pub const fn size(self) -> usize {
        match self {
            // IFNAMSIZ (linux/if.h).
            Self::Ifname | Self::Ip6 => 16,
            // ETH_ALEN (linux/if_ether.h).
            Self::Mac => 6,
            Self::Ip4 => 4,
            Self::Vni => 3,
            Self::Port | Self::EtherType | Self::ArpOp => 2,
            Self::L4Proto | Self::NfProto | Self::Icmp6Type => 1,
        }
    }
}

/// One part of a key or of map data.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Datum {
    /// Interface name.
    Ifname(IfName),
    /// IPv4 address.
    Ip4(Ipv4Addr),
    /// IPv6 address.
    Ip6(Ipv6Addr),
    /// IP protocol number.
    L4Proto(u8),
    /// Port.
    Port(u16),
    /// `NFPROTO_*`.
    NfProto(u8),
    /// Ethernet address.
    Mac(Mac),
    /// `ETH_P_*` (linux/if_ether.h).
    EtherType(u16),
    /// 1 is a request, 2 a reply (RFC 826).
    ArpOp(u16),
    /// ICMPv6 message type.
    Icmp6Type(u8),
    /// VXLAN network identifier; the upper 8 bits are zero.
    Vni(u32),
}

impl From<IpAddr> for Datum {
    fn from(ip: IpAddr) -> Self {
        match ip {
            IpAddr::V4(v4) => Self::Ip4(v4),
            IpAddr::V6(v6) => Self::Ip6(v6),
        }
    }
}

impl Datum {
    /// The type of this value.
    pub const fn field(&self) -> Field {
        match self {
            Self::Ifname(_) => Field::Ifname,
            Self::Ip4(_) => Field::Ip4,
            Self::Ip6(_) => Field::Ip6,
            Self::L4Proto(_) => Field::L4Proto,
            Self::Port(_) => Field::Port,
            Self::NfProto(_) => Field::NfProto,
            Self::Mac(_) => Field::Mac,
            Self::EtherType(_) => Field::EtherType,
            Self::ArpOp(_) => Field::ArpOp,
            Self::Icmp6Type(_) => Field::Icmp6Type,
            Self::Vni(_) => Field::Vni,
        }
    }
}

/// Where a packet goes next.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Verdict {
    /// Accept in this base chain.
    Accept,
    /// Drop.
    Drop,
    /// Back to the calling chain.
    Return,
    /// Continue in a chain, without coming back.
    Goto(String),
    /// Continue in a chain and come back.
    Jump(String),
}

/// What a set maps its keys to.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum SetKind {
    /// Nothing: membership only.
    Set,
    /// Values of these types.
    Map(Vec<Field>),
    /// A verdict.
    VerdictMap,
}

/// A named set or map of a ruleset.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct SetSpec {
    /// Its name.
    pub name: String,
    /// The parts of its key.
    pub key: Vec<Field>,
    /// What it maps to.
    pub kind: SetKind,
    /// Whether an element may span from a first to a last key.
    pub interval: bool,
    /// Whether its elements count the packets that look them up. Not compared: a count is no part of an element.
    #[serde(default)]
    pub counter: bool,
    /// How often each of its elements is found, where that is limited: beyond it the element is as good as not there. Not
    /// compared, like a counter.
    #[serde(default)]
    pub limit: Option<Rate>,
    /// How many elements it takes at most, where that is said: the kernel then makes a table of that size at once and finds
    /// them faster. Not compared: a set keeps the size that it was made with.
    #[serde(default)]
    pub size: Option<u32>,
}

/// Packets in a second, and how many more at once.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct Rate {
    /// Packets in a second.
    pub second: u64,
    /// Beyond that at once.
    pub burst: u32,
}

/// What an element maps its key to.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum ElementData {
    /// Nothing.
    None,
    /// Values, one for each field of the map.
    Values(Vec<Datum>),
    /// A verdict.
    Verdict(Verdict),
}

/// The identity of an element.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct ElementKey {
    /// The table.
    pub table: TableRef,
    /// The set or map in it.
    pub set: String,
    /// The key, or the first key of an interval.
    pub first: Vec<Datum>,
    /// The last key of an interval, inclusive; equal to `first` in sets without intervals.
    pub last: Vec<Datum>,
}

/// An element of a set or map: everything variable that netd writes into nftables.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct Element {
    /// Which element.
    pub key: ElementKey,
    /// What it maps to.
    pub data: ElementData,
    /// What it serves; written into its userdata.
    pub owner: Owner,
}

/// What a packet is matched by, or a key is built from.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Expr {
    /// Name of the input interface.
    Iifname,
    /// Name of the output interface.
    Oifname,
    /// `NFPROTO_*` of the packet.
    NfProto,
    /// Transport protocol.
    L4Proto,
    /// Source address; only in a rule that matched the family.
    Saddr(Family),
    /// Destination address; only in a rule that matched the family.
    Daddr(Family),
    /// Source port; only in a rule that matched the protocol.
    Sport,
    /// Destination port; only in a rule that matched the protocol, or where a map limits it.
    Dport,
    /// Type of the Ethernet frame as it is on the wire: that of a tagged frame is that of the tag. Bridge tables only, as
    /// all below.
    EtherType,
    /// Source address of the Ethernet frame.
    EtherSaddr,
    /// Operation of an ARP packet.
    ArpOp,
    /// Ethernet address of the sender inside an ARP packet.
    ArpSha,
    /// IPv4 address of the sender inside an ARP packet.
    ArpSpa,
    /// Type of an ICMPv6 message; only in a rule that matched the protocol.
    Icmp6Type,
    /// Network identifier of a VXLAN packet, behind its UDP header; only in a rule that matched the protocol.
    Vni,
    /// Target address of a neighbour solicitation or advertisement (RFC 4861); only in a rule that matched the type.
    NdTarget,
}

impl Expr {
    /// The type of what it yields.
    pub const fn field(self) -> Field {
        match self {
            Self::Iifname | Self::Oifname => Field::Ifname,
            Self::NfProto => Field::NfProto,
            Self::L4Proto => Field::L4Proto,
            Self::Saddr(Family::V4) | Self::Daddr(Family::V4) | Self::ArpSpa => Field::Ip4,
            Self::Saddr(Family::V6) | Self::Daddr(Family::V6) | Self::NdTarget => Field::Ip6,
            Self::Sport | Self::Dport => Field::Port,
            Self::EtherType => Field::EtherType,
            Self::EtherSaddr | Self::ArpSha => Field::Mac,
            Self::ArpOp => Field::ArpOp,
            Self::Icmp6Type => Field::Icmp6Type,
            Self::Vni => Field::Vni,
        }
    }
}

/// One statement of a rule, in the order of evaluation.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Stmt {
    /// `left == right` or, inverted, `left != right`.
    Match {
        /// What is compared.
        left: Expr,
        /// With what.
        right: Datum,
        /// Whether the rule goes on when they differ.
        invert: bool,
    },
    /// The address is inside a prefix: `ip daddr 127.0.0.0/8`.
    InPrefix {
        /// An address.
        left: Expr,
        /// The prefix.
        prefix: crate::net::Prefix,
    },
    /// The key is, or inverted is not, in a set.
    Lookup {
        /// The parts of the key.
        key: Vec<Expr>,
        /// The set.
        set: String,
        /// Whether the rule goes on when it is not in.
        invert: bool,
    },
    /// Continue by a verdict map; without an element the next rule runs.
    VerdictMap {
        /// The parts of the key.
        key: Vec<Expr>,
        /// The map.
        map: String,
    },
    /// Rewrite the destination to the `address . port` found in a map; without an element the next rule runs.
    DnatMap {
        /// The family of the packet and of the address in the map.
        family: Family,
        /// The parts of the key.
        key: Vec<Expr>,
        /// The map.
        map: String,
    },
    /// `ct state` has one of these bits (`NF_CT_STATE_*`).
    CtState(CtState),
    /// `ct status dnat`.
    CtStatusDnat,
    /// `ct status snat`.
    CtStatusSnat,
    /// `ct direction original`.
    CtOriginal,
    /// For several stations: the Ethernet address that a frame goes to is that of a group, or of all. Bridge tables only.
    ToGroup,
    /// `ct direction reply`.
    CtReply,
    /// `fib daddr type local`.
    FibDaddrLocal,
    /// Source NAT to the address of the output interface.
    Masquerade,
    /// Source NAT to the address found in a map; without an element the next rule runs.
    SnatMap {
        /// The family of the packet and of the address in the map.
        family: Family,
        /// The parts of the key.
        key: Vec<Expr>,
        /// The map.
        map: String,
    },
    /// No connection tracking for this packet.
    Notrack,
    /// Rewrite the source port, checksum included.
    SetSport(u16),
    /// Rewrite the destination port, checksum included.
    SetDport(u16),
    /// Go on elsewhere.
    Verdict(Verdict),
}

/// Connection states that a rule may ask for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum CtState {
    /// `invalid`.
    Invalid,
    /// `established,related`.
    EstablishedRelated,
    /// `untracked`: connection tracking was told to leave it alone.
    Untracked,
    /// `new`.
    New,
}

/// Where a base chain is hooked in.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct Hook {
    /// filter or nat.
    pub kind: ChainKind,
    /// The hook.
    pub point: HookPoint,
    /// The priority.
    pub priority: i32,
}

/// Type of a base chain.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum ChainKind {
    /// `type filter`.
    Filter,
    /// `type nat`: sees the first packet of a flow only.
    Nat,
}

/// `NF_INET_*` hooks.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum HookPoint {
    /// Before routing.
    Prerouting,
    /// To this host.
    Input,
    /// Through this host.
    Forward,
    /// From this host.
    Output,
    /// After routing.
    Postrouting,
}

/// A chain with its rules.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct Chain {
    /// Its name.
    pub name: String,
    /// Where it is hooked in; none for a chain that is only jumped to. The policy is always accept.
    pub hook: Option<Hook>,
    /// Its rules; `None` for a chain whose rules belong to the administrator: netd makes it and never looks inside.
    pub rules: Option<Vec<Vec<Stmt>>>,
}

/// The fixed part of a table.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct Ruleset {
    /// Which table.
    pub table: TableRef,
    /// Its sets and maps.
    pub sets: Vec<SetSpec>,
    /// Its chains; a chain comes before those that jump to it.
    pub chains: Vec<Chain>,
    /// What it serves; written into the table's userdata.
    pub owner: Owner,
}

impl Ruleset {
    /// The set or map of this name.
    pub fn set(&self, name: &str) -> Option<&SetSpec> {
        self.sets.iter().find(|set| set.name == name)
    }

    /// A ruleset of the same identity and owner that holds nothing: what an observer returns for a table of ours
    /// whose contents are not what this version wants.
    #[must_use]
    pub fn emptied(&self) -> Self {
        Self {
            table: self.table.clone(),
            sets: Vec::new(),
            chains: Vec::new(),
            owner: self.owner.clone(),
        }
    }
}
