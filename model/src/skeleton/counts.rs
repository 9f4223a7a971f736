//! What passes each published port is counted by its set elements, in both directions.
//!
//! Forwarded packets only: those of the host's own programs to its own published ports pass no forward hook.

use super::{ACCEPT, DECIDE, FAMILIES, Rules, chain, of_family, to_user, within};
use crate::net::Family;
use crate::nft::{Chain, CtState, Expr, Field, SetSpec, Stmt, Verdict};

/// Counting set: `container address . protocol . container port`, what goes to it.
pub const COUNT_IN: &str = "count_in";
/// Counting set with the same keys: what comes from it.
pub const COUNT_OUT: &str = "count_out";

/// The chain for what is sent to published ports.
pub(super) const ASKED: &str = "asked";
/// The chain for what published ports send.
pub(super) const ANSWERED: &str = "answered";

/// Container ports of one family that can be counted. The kernel makes a table of that size at once, half a megabyte: with
/// a table that grows each packet would pay more.
const SIZE: u32 = 49_152;

/// The sets of a family.
pub(super) fn sets(family: Family) -> Vec<SetSpec> {
    let ip = match family {
        Family::V4 => Field::Ip4,
        Family::V6 => Field::Ip6,
    };
    let set = |stem| SetSpec {
        counter: true,
        size: Some(SIZE),
        ..super::set(&of_family(stem, family), &[ip, Field::L4Proto, Field::Port])
    };
    vec![set(COUNT_IN), set(COUNT_OUT)]
}

/// The two chains. Nearly all packets are of known flows, and pass where they are counted.
pub(super) fn chains() -> Vec<Chain> {
    let count = |family, address: fn(Family) -> Expr, port, stem| {
        let key = [address(family), Expr::L4Proto, port];
        within(&key, &of_family(stem, family))
    };
    let mut asked = vec![to_user()];
    let mut answered = Rules::new();
    for family in FAMILIES {
        asked.push(vec![
            count(family, Expr::Daddr, Expr::Dport, COUNT_IN),
            Stmt::CtState(CtState::EstablishedRelated),
            ACCEPT,
        ]);
        let sent = count(family, Expr::Saddr, Expr::Sport, COUNT_OUT);
        answered.push(vec![sent, ACCEPT]);
    }
    asked.push(vec![Stmt::Verdict(Verdict::Goto(DECIDE.to_owned()))]);
    // Who answers is part of a known flow.
    answered.push(vec![ACCEPT]);
    vec![
        chain(ASKED, None, Some(asked)),
        chain(ANSWERED, None, Some(answered)),
    ]
}
