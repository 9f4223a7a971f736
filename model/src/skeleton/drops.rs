//! Dropped packets by reason.
//!
//! Each reason has a chain that counts and drops, which rules lead to where they would drop: a packet that passes costs
//! nothing for it. It counts by the one element that its set has for each family, and elements outlive repairs.

use serde::{Deserialize, Serialize};

use super::{DROP, Rules, chain};
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
    /// Those of the bridges' table.
    pub const BRIDGE: [Self; 4] = [Self::Spoofed, Self::Discovery, Self::Protocol, Self::Flood];

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
        let mut all = Self::HOST.into_iter().chain(Self::BRIDGE);
        all.find(|reason| reason.set() == name)
    }
}

/// Whether a chain of this name does nothing but drop.
pub fn is_drop(chain: &str) -> bool {
    let mut all = Reason::HOST.into_iter().chain(Reason::BRIDGE);
    all.any(|reason| reason.chain() == chain)
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
    let set = |reason: &Reason| SetSpec {
        // As a set, keys this short would be kept as bits, which count nothing (nft_set_bitmap).
        kind: SetKind::VerdictMap,
        counter: true,
        ..super::set(&reason.set(), &[Field::NfProto])
    };
    reasons.iter().map(set).collect()
}

/// The chains of a table.
pub(super) fn chains(reasons: &[Reason]) -> Vec<Chain> {
    let drop = |reason: &Reason| {
        let counted = Stmt::VerdictMap {
            key: vec![Expr::NfProto],
            map: reason.set(),
        };
        // It drops without its element too.
        let rules: Rules = vec![vec![counted], vec![DROP]];
        chain(&reason.chain(), None, Some(rules))
    };
    reasons.iter().map(drop).collect()
}
