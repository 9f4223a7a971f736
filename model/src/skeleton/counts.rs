//! What passes each published port is counted by its set elements, in both directions.
//!
//! Forwarded packets only: those of the host's own programs to its own published ports pass no forward hook.

use super::{Rules, chain, of_family, within};
use crate::net::Family;
use crate::nft::{Chain, Expr, Field, SetSpec, Stmt, Verdict};

/// Counting set: `container address . protocol . container port`, what goes to it.
pub const COUNT_IN: &str = "count_in";
/// Counting set with the same keys: what comes from it.
pub const COUNT_OUT: &str = "count_out";

const CHAIN: &str = "count";
const REPLIES: &str = "count_replies";

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

/// The chain that [`rule`] jumps to.
pub(super) fn chains() -> Vec<Chain> {
    let count = |family, address: fn(Family) -> Expr, port, stem| {
        let key = [address(family), Expr::L4Proto, port];
        vec![within(&key, &of_family(stem, family))]
    };
    let families = [Family::V4, Family::V6];
    let replies: Rules = families
        .map(|family| count(family, Expr::Saddr, Expr::Sport, COUNT_OUT))
        .into();
    let mut rules: Rules = vec![vec![
        Stmt::CtReply,
        Stmt::Verdict(Verdict::Goto(REPLIES.to_owned())),
    ]];
    rules.extend(families.map(|family| count(family, Expr::Daddr, Expr::Dport, COUNT_IN)));
    vec![
        chain(REPLIES, None, Some(replies)),
        chain(CHAIN, None, Some(rules)),
    ]
}

/// Only what came by a published port is looked up.
pub(super) fn rule() -> Vec<Stmt> {
    vec![
        Stmt::CtStatusDnat,
        Stmt::Verdict(Verdict::Jump(CHAIN.to_owned())),
    ]
}
