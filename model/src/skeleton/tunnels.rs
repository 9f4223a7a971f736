//! Packets of overlay networks outside of their tunnels: from whom they are taken, and that they are not tracked.
//!
//! A table of its own, there as long as the host has a part in an overlay network: its hooks cost every packet of the host.

use super::drops::{self, Reason, because};
use super::{
    FAMILIES, RAW, Rules, TUNNEL_PEERS, TUNNEL_PORTS, TUNNELS, chain, filter, host_table, is,
    of_family, outside, set, within,
};
use crate::net::{Family, Proto};
use crate::nft::{Datum, Expr, Field, HookPoint, Ruleset, SetSpec, Stmt, TableRef, Verdict};
use crate::object::Owner;

/// The table in the host's namespace.
pub const TUNNEL_TABLE: &str = "netd-tunnels";

/// The table of tunnels, in the host's namespace.
pub fn tunnel_table() -> TableRef {
    TableRef {
        name: TUNNEL_TABLE.to_owned(),
        ..host_table()
    }
}

/// The ruleset of tunnels.
pub fn tunnels() -> Ruleset {
    let from_peers = Stmt::Verdict(Verdict::Jump("from_peers".to_owned()));
    Ruleset {
        table: tunnel_table(),
        sets: [sets(), drops::sets(&Reason::TUNNEL)].concat(),
        chains: [
            drops::chains(&Reason::TUNNEL),
            vec![
                chain(
                    "prerouting",
                    filter(HookPoint::Prerouting, RAW),
                    Some(vec![untracked()]),
                ),
                chain(
                    "output",
                    filter(HookPoint::Output, RAW),
                    Some(vec![untracked()]),
                ),
                chain("from_peers", None, Some(strangers())),
                // In input, where fragments are whole again: a first one too short to tell its network would slip by.
                chain(
                    "input",
                    filter(HookPoint::Input, RAW),
                    Some(vec![tunnelled(from_peers)]),
                ),
            ],
        ]
        .concat(),
        owner: Owner::Host,
    }
}

fn sets() -> Vec<SetSpec> {
    let peers = |(family, ip)| set(&of_family(TUNNEL_PEERS, family), &[ip]);
    let peers = [(Family::V4, Field::Ip4), (Family::V6, Field::Ip6)].map(peers);
    let mut sets = vec![
        set(TUNNELS, &[Field::Vni]),
        set(TUNNEL_PORTS, &[Field::Port]),
    ];
    sets.extend(peers);
    sets
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
