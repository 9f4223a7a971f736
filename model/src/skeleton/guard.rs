//! What nobody may send this host.

use super::drops::{Reason, because};
use super::{
    BRIDGES, DIRECT, FAMILIES, GUARD, PEERS, RETURN, Rules, chain, loopback, of_family, outside,
    within,
};
use crate::net::{Family, IfName};
use crate::nft::{Chain, Datum, Expr, Stmt, Verdict};

const CHAIN: &str = "guard";

/// The chain that [`jump`] leads to, and the one that it leads to.
pub(super) fn chains() -> Vec<Chain> {
    vec![
        chain("guarded", None, Some(guarded())),
        chain(CHAIN, None, Some(guard())),
    ]
}

/// To the guard of containers' own addresses.
///
/// In the hooks that packets pass once it is known whether they are for this host, not in prerouting: there every packet
/// that leaves a container would pay for a hook, to be asked whether it is for one.
pub(super) fn jump() -> Stmt {
    Stmt::Verdict(Verdict::Jump(CHAIN.to_owned()))
}

/// Loopback addresses on the wire, for the nat hook in prerouting: it sees the first packet of a flow, before its address
/// is translated. All others of a flow carry the addresses that its first one had.
pub(super) fn loopbacks() -> Rules {
    let prefix = |left| Stmt::InPrefix {
        left,
        prefix: loopback(),
    };
    vec![
        // A neighbour on the wire would otherwise reach a port published on 127.0.0.1: the address is rewritten before
        // the kernel's own check for martians.
        vec![
            prefix(Expr::Daddr(Family::V4)),
            Stmt::Match {
                left: Expr::Iifname,
                right: Datum::Ifname(IfName::lo()),
                invert: true,
            },
            because(Reason::Loopback),
        ],
        // Our bridges have route_localnet, which switches that check off.
        vec![
            prefix(Expr::Saddr(Family::V4)),
            within(&[Expr::Iifname], BRIDGES),
            because(Reason::Loopback),
        ],
    ]
}

/// Invariant I5: a container's own address is reached from its own network only, and from its cluster.
///
/// Where the address was translated, that on the wire was another: that of the host, which a port is published on or a flow
/// left under.
fn guard() -> Rules {
    // What answers a flow that left under another address was sent to that one. What was asked by a published port does not
    // come by here (see the forward hook). But a container's answer to a published port may be for a container, and
    // whoever forges one has to be kept out.
    let mut rules = vec![vec![Stmt::CtReply, Stmt::CtStatusSnat, RETURN]];
    for family in FAMILIES {
        rules.push(vec![
            within(&[Expr::Daddr(family)], &of_family(GUARD, family)),
            outside(
                &[Expr::Iifname, Expr::Daddr(family)],
                &of_family(DIRECT, family),
            ),
            outside(
                &[Expr::Saddr(family), Expr::Daddr(family)],
                &of_family(PEERS, family),
            ),
            Stmt::Verdict(Verdict::Goto("guarded".to_owned())),
        ]);
    }
    rules
}

/// A packet for a container's own address, by an interface that does not lead there.
fn guarded() -> Rules {
    vec![
        vec![
            within(&[Expr::Iifname], BRIDGES),
            because(Reason::Isolation),
        ],
        vec![because(Reason::Direct)],
    ]
}
