//! Dropped packets by reason.
//!
//! Each reason has a chain that counts and drops, which rules lead to where they would drop: a packet that passes costs
//! nothing for it. It counts by the one element that its set has for each family, and elements outlive repairs. Before
//! that it counts by the element of the network that the packet belongs to, where one side of it tells the network.

use serde::{Deserialize, Serialize};

use super::{DROP, Rules, chain, of_family, within};
use crate::net::Family;
use crate::nft::{Chain, Datum, Expr, Field, SetKind, SetSpec, Stmt, Verdict};

/// Why a packet was dropped.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Reason {
    /// For a container's own address, from outside its network.
    Direct,
    /// From a network to another.
    Isolation,
    /// To a port of a routed or nat network that is not published.
    Unpublished,
    /// Within a network with `icc=false`.
    Icc,
    /// Out of or into a network that nothing leaves or enters.
    Internal,
    /// From a container to the host's own sockets.
    HostAccess,
    /// From a source that a list keeps out.
    Blocked,
    /// To or from a loopback address, on the wire.
    Loopback,
    /// No part of a flow that connection tracking knows.
    Invalid,
    /// Between two interfaces that are not netd's, where netd switched forwarding on.
    Forwarding,
    /// Of an overlay network's tunnel, from an address that is no host's of the cluster.
    Tunnel,
    /// From an address that is not the container's.
    Spoofed,
    /// Router advertisements, redirects and advertisements for others.
    Discovery,
    /// VLAN tags and protocols that containers do not speak.
    Protocol,
    /// More frames to several stations than a port of an overlay network may send.
    Flood,
}

impl Reason {
    /// Those of the host's table.
    pub const HOST: [Self; 10] = [
        Self::Direct,
        Self::Isolation,
        Self::Unpublished,
        Self::Icc,
        Self::Internal,
        Self::HostAccess,
        Self::Blocked,
        Self::Loopback,
        Self::Invalid,
        Self::Forwarding,
    ];
    /// Those of the table of tunnels.
    pub const TUNNEL: [Self; 1] = [Self::Tunnel];
    /// Those of the bridges' table.
    pub const BRIDGE: [Self; 4] = [Self::Spoofed, Self::Discovery, Self::Protocol, Self::Flood];

    /// All of them.
    fn all() -> impl Iterator<Item = Self> {
        let tables = [&Self::HOST[..], &Self::TUNNEL, &Self::BRIDGE];
        tables.into_iter().flatten().copied()
    }

    /// The word for it in `status` and metrics.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Direct => "direct",
            Self::Isolation => "isolation",
            Self::Unpublished => "unpublished",
            Self::Icc => "icc",
            Self::Internal => "internal",
            Self::HostAccess => "host_access",
            Self::Blocked => "blocked",
            Self::Loopback => "loopback",
            Self::Invalid => "invalid",
            Self::Forwarding => "forwarding",
            Self::Tunnel => "tunnel",
            Self::Spoofed => "spoofed",
            Self::Discovery => "discovery",
            Self::Protocol => "protocol",
            Self::Flood => "flood",
        }
    }

    /// The chain that drops for this reason.
    pub fn chain(self) -> String {
        format!("drop_{}", self.as_str())
    }

    /// Its counting verdict map: `family`.
    pub fn set(self) -> String {
        format!("dropped_{}", self.as_str())
    }

    /// The reason of which this is the set.
    pub fn of_set(name: &str) -> Option<Self> {
        Self::all().find(|reason| reason.set() == name)
    }

    /// Its counting set of the networks that it is counted for: `bridge`. None where no interface tells the network.
    pub fn set_at(self) -> Option<String> {
        (!self.sides().is_empty()).then(|| format!("{}_at", self.set()))
    }

    /// The reason of which this is the set of networks.
    pub fn of_set_at(name: &str) -> Option<Self> {
        Self::all().find(|reason| reason.set_at().as_deref() == Some(name))
    }

    /// The interface that tells the network. With two the first that is of a network which counts this.
    const fn sides(self) -> &'static [Expr] {
        match self {
            Self::Isolation | Self::Icc | Self::HostAccess | Self::Loopback => &[Expr::Iifname],
            Self::Unpublished | Self::Blocked => &[Expr::Oifname],
            Self::Internal | Self::Invalid => &[Expr::Iifname, Expr::Oifname],
            // On its way in, a packet for a container is known by its address only. Of a frame on a bridge the port is known.
            Self::Direct
            | Self::Forwarding
            | Self::Tunnel
            | Self::Spoofed
            | Self::Discovery
            | Self::Protocol
            | Self::Flood => &[],
        }
    }
}

/// Counting sets of [`Reason::Direct`], one for each family: intervals, the subnets of containers.
pub const DIRECT_AT: &str = "dropped_direct_at";

/// Whether a chain of this name does nothing but drop.
pub fn is_drop(chain: &str) -> bool {
    Reason::all().any(|reason| reason.chain() == chain)
}

/// The keys of the elements of a reason's set.
pub fn families(reason: Reason) -> Vec<Datum> {
    if Reason::BRIDGE.contains(&reason) {
        // A bridge's packets are all of NFPROTO_BRIDGE (linux/netfilter.h).
        return vec![Datum::NfProto(7)];
    }
    let families = [Family::V4, Family::V6].into_iter();
    families.map(|f| Datum::NfProto(f.nfproto())).collect()
}

/// Ends a rule: drops for a reason.
pub(super) fn because(reason: Reason) -> Stmt {
    Stmt::Verdict(Verdict::Goto(reason.chain()))
}

/// The sets of a table.
pub(super) fn sets(reasons: &[Reason]) -> Vec<SetSpec> {
    let counting = |name: &str, key: &[Field]| SetSpec {
        counter: true,
        ..super::set(name, key)
    };
    let mut sets = Vec::new();
    for reason in reasons {
        sets.push(SetSpec {
            // As a set, keys this short would be kept as bits, which count nothing (nft_set_bitmap).
            kind: SetKind::VerdictMap,
            ..counting(&reason.set(), &[Field::NfProto])
        });
        sets.extend(
            reason
                .set_at()
                .map(|name| counting(&name, &[Field::Ifname])),
        );
        if *reason == Reason::Direct {
            let of_family = |(family, ip)| SetSpec {
                interval: true,
                ..counting(&of_family(DIRECT_AT, family), &[ip])
            };
            sets.extend([(Family::V4, Field::Ip4), (Family::V6, Field::Ip6)].map(of_family));
        }
    }
    sets
}

/// The chains of a table.
pub(super) fn chains(reasons: &[Reason]) -> Vec<Chain> {
    let drop = |reason: &Reason| {
        let counted = || Stmt::VerdictMap {
            key: vec![Expr::NfProto],
            map: reason.set(),
        };
        let mut rules: Rules = Vec::new();
        if let Some(set) = reason.set_at() {
            let at = |side: &Expr| vec![within(&[*side], &set), counted()];
            rules.extend(reason.sides().iter().map(at));
        }
        if *reason == Reason::Direct {
            rules.extend([Family::V4, Family::V6].map(|family| {
                let key = [Expr::Daddr(family)];
                vec![within(&key, &of_family(DIRECT_AT, family))]
            }));
        }
        // It drops without its element too.
        rules.extend([vec![counted()], vec![DROP]]);
        chain(&reason.chain(), None, Some(rules))
    };
    reasons.iter().map(drop).collect()
}
