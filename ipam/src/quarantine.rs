//! Addresses that were released and should rest before somebody else gets them, oldest first.
//!
//! Neighbour caches, resolvers and open connections of peers outlive a container; an address that
//! is reused at once receives traffic meant for its former holder. Owns the order in which
//! released addresses come back; never decides when that order matters (see [`crate::Pool`]).

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

/// When an address has rested, and its place among those that end at the same moment.
type Rank = (Duration, u64);

/// Every operation is O(log of the addresses held).
#[derive(Clone, Debug, Default)]
pub(crate) struct Quarantine {
    order: BTreeSet<(Rank, u128)>,
    ranks: BTreeMap<u128, Rank>,
    pushed: u64,
}

impl Quarantine {
    /// Adds `value`, which is not in here yet, until the moment `until`.
    pub(crate) fn push(&mut self, value: u128, until: Duration) {
        let rank = (until, self.pushed);
        self.pushed += 1;
        self.order.insert((rank, value));
        let former = self.ranks.insert(value, rank);
        debug_assert!(former.is_none(), "{value} quarantined twice");
    }

    pub(crate) fn contains(&self, value: u128) -> bool {
        self.ranks.contains_key(&value)
    }

    pub(crate) fn len(&self) -> usize {
        self.ranks.len()
    }

    /// Takes `value` out; false when it was not in here.
    pub(crate) fn remove(&mut self, value: u128) -> bool {
        match self.ranks.remove(&value) {
            Some(rank) => self.order.remove(&(rank, value)),
            None => false,
        }
    }

    /// When the last of them may be handed out again.
    pub(crate) fn latest(&self) -> Option<Duration> {
        let ((until, _), _) = self.order.last()?;
        Some(*until)
    }

    /// Takes out the address whose quarantine ends first, ended or not.
    pub(crate) fn pop_oldest(&mut self) -> Option<u128> {
        let (_, value) = self.order.pop_first()?;
        self.ranks.remove(&value);
        Some(value)
    }

    /// Takes out the address whose quarantine ended first, if one has by `now`.
    pub(crate) fn pop_expired(&mut self, now: Duration) -> Option<u128> {
        self.has_expired(now).then(|| self.pop_oldest()).flatten()
    }

    /// Whether the quarantine of an address has ended by `now`.
    pub(crate) fn has_expired(&self, now: Duration) -> bool {
        let first = self.order.first();
        first.is_some_and(|((until, _), _)| *until <= now)
    }
}
