//! A store in memory with etcd's semantics of revisions, compaction and leases: what the simulation runs on. Pure; its clock
//! is an argument.

use std::collections::BTreeMap;
use std::time::Duration;

use super::store::{
    Compare, Event, Events, KeyValue, Known, Lease, Listing, Revision, StoreError, Txn, TxnEnd,
    Write,
};

#[derive(Clone, Debug)]
struct Held {
    value: Vec<u8>,
    revision: Revision,
    lease: Option<Lease>,
}

/// The store. A clone is a copy of it, as a snapshot of etcd is.
#[derive(Clone, Debug)]
pub(super) struct Memory {
    keys: BTreeMap<String, Held>,
    revision: Revision,
    /// All changes since the compacted revision.
    history: Vec<(Revision, Event)>,
    compacted: Revision,
    leases: BTreeMap<Lease, (Duration, Duration)>,
    next_lease: Lease,
}

impl Default for Memory {
    fn default() -> Self {
        Self {
            keys: BTreeMap::new(),
            // An empty etcd is at revision 1.
            revision: 1,
            history: Vec::new(),
            compacted: 0,
            leases: BTreeMap::new(),
            next_lease: 1,
        }
    }
}

impl Memory {
    /// All keys, and whether a write was made.
    pub(super) fn list(&self, known: Option<&Known>) -> Listing {
        let kv = |(key, held): (&String, &Held)| KeyValue {
            key: key.clone(),
            value: held.value.clone(),
            revision: held.revision,
        };
        let mut listing = Listing {
            revision: self.revision,
            kvs: self.keys.iter().map(kv).collect(),
            knows: None,
        };
        listing.knows =
            known.and_then(|known| listing.knows(known).or_else(|| self.has_written(known)));
        listing
    }

    fn has_written(&self, known: &Known) -> Option<bool> {
        if known.revision <= self.compacted {
            return None;
        }
        let is_it = |(revision, event): &(Revision, Event)| {
            *revision == known.revision && matches!(event, Event::Put(kv) if kv.key == known.key)
        };
        Some(self.history.iter().any(is_it))
    }

    /// The value of a key.
    pub(super) fn get(&self, key: &str) -> Option<&[u8]> {
        self.keys.get(key).map(|held| held.value.as_slice())
    }

    /// All changes from a revision on.
    pub(super) fn since(&self, from: Revision) -> Result<Events, StoreError> {
        if from <= self.compacted {
            return Err(StoreError::Compacted);
        }
        let first = self
            .history
            .partition_point(|(revision, _)| *revision < from);
        let events = self.history[first..].iter();
        Ok(events.map(|(_, event)| event.clone()).collect())
    }

    /// The revision of the last change.
    pub(super) fn revision(&self) -> Revision {
        self.revision
    }

    /// Forgets the history up to now.
    pub(super) fn compact(&mut self) {
        self.compacted = self.revision;
        self.history.clear();
    }

    /// A transaction. Conditions that do not hold change nothing, not even the revision.
    pub(super) fn txn(&mut self, txn: &Txn) -> Result<TxnEnd, StoreError> {
        let lease_gone = |write: &Write| matches!(write, Write::Put { lease: Some(lease), .. } if !self.leases.contains_key(lease));
        if txn.then.iter().any(lease_gone) {
            return Err(StoreError::LeaseGone);
        }
        let done = txn.when.iter().all(|compare| self.holds(compare));
        if done && !txn.then.is_empty() {
            let revision = self.revision + 1;
            let mut changed = false;
            for write in &txn.then {
                changed |= self.write(write, revision);
            }
            if changed {
                self.revision = revision;
            }
        }
        Ok(TxnEnd {
            done,
            revision: self.revision,
        })
    }

    fn holds(&self, compare: &Compare) -> bool {
        match compare {
            Compare::Absent(key) => !self.keys.contains_key(key),
            Compare::At(key, revision) => self
                .keys
                .get(key)
                .is_some_and(|held| held.revision == *revision),
            Compare::NoneAfter(prefix, revision) => self
                .keys
                .range(prefix.clone()..)
                .take_while(|(key, _)| key.starts_with(prefix))
                .all(|(_, held)| held.revision <= *revision),
        }
    }

    fn write(&mut self, write: &Write, revision: Revision) -> bool {
        match write {
            Write::Put { key, value, lease } => {
                let held = Held {
                    value: value.clone(),
                    revision,
                    lease: *lease,
                };
                self.keys.insert(key.clone(), held);
                let event = Event::Put(KeyValue {
                    key: key.clone(),
                    value: value.clone(),
                    revision,
                });
                self.history.push((revision, event));
                true
            }
            Write::Delete(key) => {
                let there = self.keys.remove(key).is_some();
                if there {
                    let key = key.clone();
                    self.history
                        .push((revision, Event::Delete { key, revision }));
                }
                there
            }
        }
    }

    /// A lease.
    pub(super) fn grant(&mut self, life: Duration, now: Duration) -> Lease {
        let lease = self.next_lease;
        self.next_lease += 1;
        self.leases.insert(lease, (life, now + life));
        lease
    }

    /// Keeps a lease.
    pub(super) fn keep_alive(&mut self, lease: Lease, now: Duration) -> Result<(), StoreError> {
        let (life, end) = self.leases.get_mut(&lease).ok_or(StoreError::LeaseGone)?;
        *end = now + *life;
        Ok(())
    }

    /// A start of the store: all leases run from here on, as they do under a new leader.
    pub(super) fn started(mut self, now: Duration) -> Self {
        for (life, end) in self.leases.values_mut() {
            *end = now + *life;
        }
        self
    }

    /// Ends the leases whose time is over, and the keys bound to them.
    pub(super) fn expire(&mut self, now: Duration) {
        let over: Vec<Lease> = self
            .leases
            .iter()
            .filter(|(_, (_, end))| *end <= now)
            .map(|(lease, _)| *lease)
            .collect();
        for lease in over {
            self.leases.remove(&lease);
            let bound = self
                .keys
                .iter()
                .filter(|(_, held)| held.lease == Some(lease));
            let keys: Vec<String> = bound.map(|(key, _)| key.clone()).collect();
            let then = keys.into_iter().map(Write::Delete).collect();
            let txn = Txn {
                when: Vec::new(),
                then,
            };
            // Without leases in it nothing can be refused.
            let _ = self.txn(&txn);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn put(key: &str, value: &str) -> Write {
        Write::put(key, value)
    }

    fn txn(when: Vec<Compare>, then: Vec<Write>) -> Txn {
        Txn { when, then }
    }

    #[test]
    fn conditions_are_those_of_etcd() {
        let mut store = Memory::default();
        let absent = || Compare::Absent("a".to_owned());
        assert!(
            store
                .txn(&txn(vec![absent()], vec![put("a", "1")]))
                .unwrap()
                .done
        );
        assert!(
            !store
                .txn(&txn(vec![absent()], vec![put("a", "2")]))
                .unwrap()
                .done
        );
        let revision = store.revision();
        let at = |revision| Compare::At("a".to_owned(), revision);
        assert!(
            !store
                .txn(&txn(vec![at(revision - 1)], vec![]))
                .unwrap()
                .done
        );
        assert!(
            store
                .txn(&txn(vec![at(revision)], vec![put("a", "3")]))
                .unwrap()
                .done
        );
        let none = |revision| Compare::NoneAfter("a".to_owned(), revision);
        assert!(!store.txn(&txn(vec![none(revision)], vec![])).unwrap().done);
        assert!(
            store
                .txn(&txn(vec![none(revision + 1)], vec![]))
                .unwrap()
                .done
        );
        assert_eq!(store.get("a"), Some(&b"3"[..]));
    }

    #[test]
    fn a_watch_tells_all_since_a_revision_or_that_it_is_compacted() {
        let mut store = Memory::default();
        for n in 0..3 {
            store
                .txn(&txn(vec![], vec![put(&n.to_string(), "x")]))
                .unwrap();
        }
        let revision = store.revision();
        assert_eq!(store.since(revision).unwrap().len(), 1);
        assert_eq!(store.since(revision - 1).unwrap().len(), 2);
        store.compact();
        assert_eq!(store.since(revision), Err(StoreError::Compacted));
        assert_eq!(store.since(revision + 1), Ok(Vec::new()));
    }

    #[test]
    fn keys_go_with_their_lease() {
        let mut store = Memory::default();
        let second = Duration::from_secs(1);
        let lease = store.grant(second * 10, second);
        let bound = Write::Put {
            key: "a".to_owned(),
            value: Vec::new(),
            lease: Some(lease),
        };
        store.txn(&txn(vec![], vec![bound.clone()])).unwrap();
        store.keep_alive(lease, second * 5).unwrap();
        store.expire(second * 14);
        assert!(store.get("a").is_some());
        store.expire(second * 15);
        assert!(store.get("a").is_none());
        assert_eq!(
            store.keep_alive(lease, second * 15),
            Err(StoreError::LeaseGone)
        );
        assert_eq!(
            store.txn(&txn(vec![], vec![bound])),
            Err(StoreError::LeaseGone)
        );
    }
}
