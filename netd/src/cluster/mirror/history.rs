//! Whether a store that was left and found again is the one that was left: nothing that it does not hold any more is believed to be
//! gone before that is certain.
//!
//! The revision tells of an older one, until others have written as much. The history tells then, until it is compacted. What is
//! left are the keys themselves: revisions of a key only grow, claims keep their keys as long as their network is there, and a
//! network is not removed while a host takes part in it.

use std::collections::{BTreeMap, BTreeSet};

use super::super::core::Safeguards;
use super::super::keys::Key;
use super::super::store::{KeyValue, Listing};
use super::Mirror;

/// What a list shows of the store.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum History {
    /// It is what is known, and what came since.
    Same,
    /// It cannot be told.
    Unknown,
    /// It was emptied, exchanged or restored.
    Another,
}

impl Mirror {
    /// `asked`: whether the history was asked for what was seen last. `own`: what this host wants to be there.
    pub(super) fn judge(
        &mut self,
        listing: &Listing,
        is_other: bool,
        asked: bool,
        own: &BTreeMap<Key, Vec<u8>>,
        safeguards: Safeguards,
    ) -> History {
        if self.cluster.is_none() {
            return History::Same;
        }
        // One that ended before all owners had spoken knows no better at its next start.
        let first = self.lists == 0;
        let is_older = listing.revision < self.revision || listing.knows == Some(false);
        let is_unsettled = first && self.unsettled;
        let contradicts = safeguards.compare_keys && self.is_contradicted(listing, own);
        if is_other || is_older || is_unsettled || contradicts {
            History::Another
        } else if (asked && listing.knows.is_none()) || (first && self.doubted) {
            History::Unknown
        } else {
            History::Same
        }
    }

    /// Whether something is not there, or as it was earlier, that only another history explains.
    fn is_contradicted(&self, listing: &Listing, own: &BTreeMap<Key, Vec<u8>>) -> bool {
        let listed: BTreeSet<&str> = listing.kvs.iter().map(|kv| kv.key.as_str()).collect();
        // What this host wrote while the list was on its way is not in it.
        let is_newer = |revision| revision > listing.revision;
        let falls_back = |kv: &KeyValue| {
            let held = Key::parse(&kv.key).and_then(|key| self.entries.get(&key));
            held.is_some_and(|held| kv.revision < held.revision && !is_newer(held.revision))
        };
        let has_network = |net| listed.contains(Key::Network(net).text().as_str());
        let is_missing = |(key, entry): (&Key, &super::Entry)| {
            if entry.ghost || is_newer(entry.revision) {
                return false;
            }
            match key {
                Key::Claim(net, _) => {
                    !listed.contains(key.text().as_str()) && has_network(net.clone())
                }
                Key::Member(_, net) => own.contains_key(key) && !has_network(net.clone()),
                _ => false,
            }
        };
        listing.kvs.iter().any(falls_back) || self.entries.iter().any(is_missing)
    }
}
