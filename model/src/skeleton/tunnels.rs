//! Packets of overlay networks outside of their tunnels: from whom they are taken, and that they are not tracked.

use super::drops::{Reason, because};
use super::{
    FAMILIES, RAW, Rules, TUNNEL_PEERS, TUNNEL_PORTS, TUNNELS, chain, filter, is, of_family,
    outside, within,
};
use crate::net::Proto;
use crate::nft::{Chain, Datum, Expr, HookPoint, Stmt, Verdict};

/// The chains, each behind the one it leads to.
pub(super) fn chains() -> Vec<Chain> {
    let from_peers = Stmt::Verdict(Verdict::Jump("from_peers".to_owned()));
    vec![
        chain(
            "raw",
            filter(HookPoint::Prerouting, RAW),
            Some(vec![untracked()]),
        ),
        chain(
            "raw_out",
            filter(HookPoint::Output, RAW),
            Some(vec![untracked()]),
        ),
        chain("from_peers", None, Some(strangers())),
        // In input, where fragments are whole again: a first one too short to tell its network would slip by.
        chain(
            "tunnel",
            filter(HookPoint::Input, RAW),
            Some(vec![tunnelled(from_peers)]),
        ),
    ]
}

/// What to do with packets of this host's overlay networks.
fn tunnelled(stmt: Stmt) -> Vec<Stmt> {
    vec![
        is(Expr::L4Proto, Datum::L4Proto(Proto::Udp.number())),
        within(&[Expr::Dport], TUNNEL_PORTS),
        within(&[Expr::Vni], TUNNELS),
        stmt,
    ]
}

/// Each flow inside has an outer source port of its own: tracked, they would fill the connection table.
fn untracked() -> Vec<Stmt> {
    tunnelled(Stmt::Notrack)
}

fn strangers() -> Rules {
    let stranger = |family| {
        let key = [Expr::Saddr(family)];
        vec![
            outside(&key, &of_family(TUNNEL_PEERS, family)),
            because(Reason::Tunnel),
        ]
    };
    FAMILIES.into_iter().map(stranger).collect()
}
