//! What is known of the daemon, and for how long it was so.
//!
//! A fact that nobody was changing while a request was under way has one value for that request, and the answer has to
//! fit. A fact that somebody was changing may have been either, and so may the answer.

use std::collections::BTreeMap;

use super::Place;

/// Something that is so or is not.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(super) enum Key {
    /// The network exists.
    Network(usize),
    /// The container is on the network.
    Member(Place, usize),
    /// The container has the host port.
    Port(Place, usize),
    /// No daemon may be there to answer.
    Down,
    /// The kernel was tampered with, and not everything is repaired for certain.
    Tampered,
    /// The daemon may have repairs to make or removals to finish.
    Unsettled,
}

/// What a fact was while a request was under way.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Was {
    No,
    /// It changed meanwhile, or is not known.
    Maybe,
    Yes,
}

impl Was {
    pub(super) fn of(value: bool) -> Self {
        if value { Self::Yes } else { Self::No }
    }

    pub(super) fn not(self) -> Self {
        match self {
            Self::No => Self::Yes,
            Self::Maybe => Self::Maybe,
            Self::Yes => Self::No,
        }
    }

    /// At least one of them.
    pub(super) fn any(all: impl IntoIterator<Item = Self>) -> Self {
        all.into_iter().fold(Self::No, |a, b| match (a, b) {
            (Self::Yes, _) | (_, Self::Yes) => Self::Yes,
            (Self::No, Self::No) => Self::No,
            _ => Self::Maybe,
        })
    }
}

#[derive(Debug, Clone, Copy, Default)]
struct Fact {
    /// Not known: none.
    value: Option<bool>,
    changers: usize,
    /// Goes up whenever somebody begins or ends to change it.
    stamp: u64,
}

/// All facts. One that nobody ever set is not so.
#[derive(Debug, Default)]
pub(super) struct Facts(BTreeMap<Key, Fact>);

/// A request under way: what it may depend on, as it was at the beginning, and what it may change.
#[derive(Debug)]
pub(super) struct Watch {
    seen: BTreeMap<Key, (Was, u64)>,
    changes: Vec<Key>,
}

impl Facts {
    fn fact(&mut self, key: Key) -> &mut Fact {
        self.0.entry(key).or_insert_with(|| Fact {
            value: Some(false),
            ..Fact::default()
        })
    }

    /// A request begins that depends on these facts and changes those.
    pub(super) fn begin(
        &mut self,
        reads: impl IntoIterator<Item = Key>,
        changes: Vec<Key>,
    ) -> Watch {
        let mut keys: Vec<Key> = reads.into_iter().chain(changes.iter().copied()).collect();
        keys.sort();
        keys.dedup();
        let mut seen = BTreeMap::new();
        for key in keys {
            let changed = changes.contains(&key);
            let fact = self.fact(key);
            let was = match fact.value {
                Some(value) if fact.changers == 0 => Was::of(value),
                _ => Was::Maybe,
            };
            fact.changers += usize::from(changed);
            fact.stamp += u64::from(changed);
            seen.insert(key, (was, fact.stamp));
        }
        Watch { seen, changes }
    }

    /// What a fact was from the beginning of the request until now, but for the request's own change.
    pub(super) fn was(&mut self, watch: &Watch, key: Key) -> Was {
        let stamp = self.fact(key).stamp;
        match watch.seen.get(&key) {
            Some((was, then)) if *then == stamp => *was,
            _ => Was::Maybe,
        }
    }

    /// The request has ended, and this is what it changed; what others changed meanwhile is not known any more.
    pub(super) fn end(&mut self, watch: &Watch, value: impl Fn(Key, Was) -> Was) {
        for key in &watch.changes {
            let was = self.was(watch, *key);
            let alone = watch.seen.get(key).map(|(_, stamp)| *stamp);
            let fact = self.fact(*key);
            fact.value = match value(*key, was) {
                Was::Yes if alone == Some(fact.stamp) => Some(true),
                Was::No if alone == Some(fact.stamp) => Some(false),
                _ => None,
            };
            fact.changers -= 1;
            fact.stamp += 1;
        }
    }

    /// A look that nobody disturbed told a fact that was not known.
    pub(super) fn learn(&mut self, watch: &Watch, key: Key, value: bool) {
        let fact = self.fact(key);
        let calm = fact.changers == 0
            && watch
                .seen
                .get(&key)
                .is_some_and(|seen| seen.1 == fact.stamp);
        if calm && fact.value.is_none() {
            fact.value = Some(value);
        }
    }

    /// Nothing is under way, and this is so.
    pub(super) fn set(&mut self, key: Key, value: bool) {
        let fact = self.fact(key);
        fact.value = Some(value);
        fact.stamp += 1;
    }

    /// What is known while nothing is under way.
    pub(super) fn known(&mut self, key: Key) -> Option<bool> {
        self.fact(key).value
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_fact_that_others_change_meanwhile_may_be_either() {
        let mut facts = Facts::default();
        let key = Key::Network(1);
        let reader = facts.begin([key], Vec::new());
        assert_eq!(facts.was(&reader, key), Was::No);
        let creator = facts.begin([], vec![key]);
        assert_eq!(facts.was(&creator, key), Was::No, "but for its own change");
        assert_eq!(facts.was(&reader, key), Was::Maybe);
        facts.end(&creator, |_, _| Was::Yes);
        assert_eq!(facts.was(&reader, key), Was::Maybe);
        let late = facts.begin([key], Vec::new());
        assert_eq!(facts.was(&late, key), Was::Yes);
    }

    #[test]
    fn two_that_change_a_fact_at_once_leave_it_unknown() {
        let mut facts = Facts::default();
        let key = Key::Network(1);
        let creator = facts.begin([], vec![key]);
        let remover = facts.begin([], vec![key]);
        facts.end(&creator, |_, _| Was::Yes);
        facts.end(&remover, |_, _| Was::No);
        let look = facts.begin([key], Vec::new());
        assert_eq!(facts.was(&look, key), Was::Maybe);
        facts.learn(&look, key, true);
        assert_eq!(facts.known(key), Some(true));
    }
}
