//! What nobody may send this host, judged before any address is translated.

use super::drops::{Reason, because};
use super::{
    ACCEPT, BRIDGES, CONNTRACK, DIRECT, DSTNAT, FAMILIES, GUARD, PEERS, Rules, chain, filter,
    loopback, of_family, outside, within,
};
use crate::net::{Family, IfName};
use crate::nft::{Chain, Datum, Expr, HookPoint, Stmt, Verdict};

/// Behind connection tracking, before translation: addresses are those of the wire, and flows are known.
const PRIORITY: i32 = i32::midpoint(CONNTRACK, DSTNAT);

/// The chain, and the one that it leads to.
pub(super) fn chains() -> Vec<Chain> {
    vec![
        chain("guarded", None, Some(guarded())),
        chain(
            "guard",
            filter(HookPoint::Prerouting, PRIORITY),
            Some(guard()),
        ),
    ]
}

fn guard() -> Rules {
    let from_loopback = || Stmt::InPrefix {
        left: Expr::Saddr(Family::V4),
        prefix: loopback(),
    };
    let mut rules = vec![
        // A neighbour on the wire would otherwise reach a port published on 127.0.0.1: prerouting rewrites the
        // address before the kernel's own check for martians.
        vec![
            Stmt::InPrefix {
                left: Expr::Daddr(Family::V4),
                prefix: loopback(),
            },
            Stmt::Match {
                left: Expr::Iifname,
                right: Datum::Ifname(IfName::lo()),
                invert: true,
            },
            because(Reason::Loopback),
        ],
        // Our bridges have route_localnet, which switches that check off.
        vec![
            from_loopback(),
            within(&[Expr::Iifname], BRIDGES),
            because(Reason::Loopback),
        ],
        // To a published port, without a lookup: on the wire such a packet is for the address that it is published on, as
        // the first of its flow was. Not what is sent back, which may be for a container.
        vec![Stmt::CtStatusDnat, Stmt::CtOriginal, ACCEPT],
    ];
    for family in FAMILIES {
        // Invariant I5: a container's own address is reached from its own network only, and from its cluster.
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
