//! Who may open flows into a network, and to a container's port. Judged for the first packet of a flow only, and only
//! where there is a list.

use super::drops::{Reason, because};
use super::{Rules, chain, of_family, outside, within};
use crate::net::Family;
use crate::nft::{Chain, CtState, Expr, Field, SetSpec, Stmt, Verdict};

/// Set of the bridges of networks that have a list: `bridge`.
pub const LIMITED: &str = "limited";
/// Set of the bridges of networks that only those on a list may enter: `bridge`.
pub const CLOSED: &str = "closed";
/// Intervals: who may enter a closed network, `bridge . source`.
pub const ALLOWED: &str = "allowed";
/// Intervals: who may not enter a network, `bridge . source`.
pub const BLOCKED: &str = "blocked";
/// Set of containers of which a port has a list: `container address`.
pub const PORT_LIMITED: &str = "port_limited";
/// Set of ports that only those on a list may use: `container address . protocol . container port`.
pub const PORT_CLOSED: &str = "port_closed";
/// Intervals: who may use a closed port, `container address . protocol . container port . source`.
pub const PORT_ALLOWED: &str = "port_allowed";
/// Intervals: who may not use a port, with the same keys.
pub const PORT_BLOCKED: &str = "port_blocked";

const NETWORK: &str = "admit_network";
const PORT: &str = "admit_port";
const FAMILIES: [Family; 2] = [Family::V4, Family::V6];

/// The sets of both families.
pub(super) fn sets() -> Vec<SetSpec> {
    let mut sets = vec![
        super::set(LIMITED, &[Field::Ifname]),
        super::set(CLOSED, &[Field::Ifname]),
    ];
    for family in FAMILIES {
        let ip = match family {
            Family::V4 => Field::Ip4,
            Family::V6 => Field::Ip6,
        };
        let each = |stem, key: &[Field]| super::set(&of_family(stem, family), key);
        let intervals = |stem, key: &[Field]| SetSpec {
            interval: true,
            ..each(stem, key)
        };
        let port = [ip, Field::L4Proto, Field::Port];
        let from = [ip, Field::L4Proto, Field::Port, ip];
        sets.extend([
            intervals(ALLOWED, &[Field::Ifname, ip]),
            intervals(BLOCKED, &[Field::Ifname, ip]),
            each(PORT_LIMITED, &[ip]),
            each(PORT_CLOSED, &port),
            intervals(PORT_ALLOWED, &from),
            intervals(PORT_BLOCKED, &from),
        ]);
    }
    sets
}

/// The chains that [`rules`] jump to.
pub(super) fn chains() -> Vec<Chain> {
    let mut network: Rules = Vec::new();
    let mut port: Rules = Vec::new();
    for family in FAMILIES {
        let name = |stem| of_family(stem, family);
        let from = [Expr::Oifname, Expr::Saddr(family)];
        network.push(vec![
            within(&from, &name(BLOCKED)),
            because(Reason::Blocked),
        ]);
        network.push(vec![
            within(&[Expr::Oifname], CLOSED),
            outside(&from, &name(ALLOWED)),
            because(Reason::Blocked),
        ]);
        let to = [Expr::Daddr(family), Expr::L4Proto, Expr::Dport];
        let from = [to[0], to[1], to[2], Expr::Saddr(family)];
        port.push(vec![
            within(&from, &name(PORT_BLOCKED)),
            because(Reason::Blocked),
        ]);
        port.push(vec![
            within(&to, &name(PORT_CLOSED)),
            outside(&from, &name(PORT_ALLOWED)),
            because(Reason::Blocked),
        ]);
    }
    vec![
        chain(NETWORK, None, Some(network)),
        chain(PORT, None, Some(port)),
    ]
}

/// Rules of the forward chain, behind those that accept what stays in one network.
pub(super) fn rules() -> Rules {
    let judge = |key: Expr, set: &str, chain: &str| {
        vec![
            Stmt::CtState(CtState::New),
            within(&[key], set),
            Stmt::Verdict(Verdict::Jump(chain.to_owned())),
        ]
    };
    let of_port = |family| {
        let set = of_family(PORT_LIMITED, family);
        judge(Expr::Daddr(family), &set, PORT)
    };
    vec![
        judge(Expr::Oifname, LIMITED, NETWORK),
        of_port(Family::V4),
        of_port(Family::V6),
    ]
}
