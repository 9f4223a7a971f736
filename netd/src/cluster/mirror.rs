//! What a host knows of the store: the keys as they were read last, and which of them the store may have forgotten.
//!
//! Each change of it is told as [`News`], for the owner, and as keys to keep, for the next start.

use std::collections::{BTreeMap, BTreeSet};

use netd_model::id::{ContainerId, Name};
use netd_model::record::Network;
use netd_model::{NetworkId, Prefix};

use super::core::{Link, Safeguards};
use super::keys::Key;
use super::records::{self, Claim, Node, Record, Station};
use super::store::{Event, Events, KeyValue, Known, Lease, Listing, Revision, Write};
pub use history::History;

mod history;
mod questions;
mod removal;

/// Where the revision is kept, beside the keys of the store.
const REVISION: &str = "@revision";
/// Beside it the last write that was seen: its revision and its key.
const LATEST: &str = "@latest";
/// And, if it is so, that not all of what is kept is in the store: because that was reset, or with this value because it is not
/// known whether it was.
const UNSETTLED: &str = "@unsettled";
const DOUBTED: &[u8] = b"doubt";

/// One thing that changed.
#[derive(Clone, Debug, PartialEq)]
pub enum News {
    /// How it stands with the store.
    Link(Link),
    /// A host; none: it was removed.
    Node(Name, Option<Node>),
    /// A host gives signs of life, or does not.
    Alive(Name, bool),
    /// A network; none: it was removed.
    Network(NetworkId, Option<Box<Network>>),
    /// The part of a host in a network.
    Member(Name, NetworkId, Option<Station>),
    /// A container elsewhere.
    Endpoint(Name, NetworkId, ContainerId, Option<Station>),
    /// Who decides on addresses.
    Claim(NetworkId, Prefix, Option<Claim>),
}

/// Keys to keep.
pub type Saved = Vec<(String, Option<Vec<u8>>)>;

#[derive(Clone, Debug)]
struct Entry {
    value: Vec<u8>,
    revision: Revision,
    /// The last good reading.
    record: Option<Record>,
    /// The store does not hold it any more, and that is not believed.
    ghost: bool,
}

/// The keys.
#[derive(Debug, Default)]
pub struct Mirror {
    entries: BTreeMap<Key, Entry>,
    /// The revision of the store that this is the state of.
    pub revision: Revision,
    /// Whether there is something that the store does not hold any more, and that is not believed.
    unsettled: bool,
    /// Whether an earlier life ended in doubt.
    doubted: bool,
    /// The last write that was seen.
    pub latest: Option<Known>,
    /// Which cluster it is.
    pub cluster: Option<String>,
    /// Lists taken.
    pub lists: u64,
    /// Keys whose value is of no use.
    pub faults: BTreeMap<String, String>,
    /// The lease that this host's sign of life is bound to in the store.
    pub alive_lease: Option<Lease>,
    /// Own claims that the store does not hold as such.
    pub lost_claims: BTreeSet<Key>,
    /// Own claims, whatever the store says.
    held: BTreeMap<Key, Vec<u8>>,
    /// Own claims that somebody else wrote over.
    pub contested: BTreeSet<Key>,
    /// Own claims that were freed with this host's removal, and are claimed again.
    reclaims: BTreeSet<Key>,
    /// Claims that others hold since this host's removal. Its disk has to know before it says that it is back.
    given_up: BTreeSet<Key>,
    /// Claims that the store ascribes to this host and that it gives back: it does not hold them any more.
    /// The value: whether that is under way.
    returning: BTreeMap<Key, bool>,
    me: Option<(Name, String)>,
    /// For the simulation: what happens to a host that does not know that it was removed.
    pub ignores_removal: bool,
}

impl Mirror {
    /// What was kept of an earlier life.
    pub fn restored(view: Vec<(String, Vec<u8>)>) -> Self {
        let mut mirror = Self::default();
        for (text, value) in view {
            if text == REVISION {
                let text = String::from_utf8_lossy(&value);
                mirror.revision = text.parse().unwrap_or(0);
            } else if text == UNSETTLED {
                mirror.unsettled = value != DOUBTED;
                mirror.doubted = value == DOUBTED;
            } else if text == LATEST {
                let text = String::from_utf8_lossy(&value);
                mirror.latest = text.split_once(' ').and_then(|(revision, key)| {
                    let revision = revision.parse().ok()?;
                    let key = key.to_owned();
                    Some(Known { key, revision })
                });
            } else if let Some(key) = Key::parse(&text) {
                let record = records::read(&key, &value).ok();
                if let Some(Record::Meta(meta)) = &record {
                    mirror.cluster = Some(meta.id.clone());
                }
                let entry = Entry {
                    value,
                    revision: 0,
                    record,
                    ghost: false,
                };
                mirror.entries.insert(key, entry);
            }
        }
        mirror
    }

    /// Says who this host is: what it holds is told from what others do.
    pub fn set_me(&mut self, name: Name, id: String) {
        let is_mine =
            |entry: &Entry| matches!(&entry.record, Some(Record::Claim(claim)) if claim.id == id);
        let claims = self.entries.iter().filter(|(_, entry)| is_mine(entry));
        self.held = claims
            .map(|(key, entry)| (key.clone(), entry.value.clone()))
            .collect();
        self.me = Some((name, id));
    }

    /// Everything, as news.
    pub fn all(&self) -> Vec<News> {
        let entries = self.entries.iter();
        entries
            .filter_map(|(key, entry)| news(key, entry.record.as_ref()))
            .collect()
    }

    // ---- changes --------------------------------------------------------------------------------------------------

    /// Takes in a list of all keys, and says what it shows of the store.
    pub fn replace(
        &mut self,
        listing: Listing,
        asked: bool,
        own: &BTreeMap<Key, Vec<u8>>,
        safeguards: Safeguards,
    ) -> (Vec<News>, Saved, History) {
        let meta = listing.kvs.iter().find(|kv| kv.key == super::keys::META);
        let id = meta.and_then(|kv| match records::read(&Key::Meta, &kv.value) {
            Ok(Record::Meta(meta)) => Some(meta.id),
            _ => None,
        });
        let is_other = id != self.cluster;
        let history = self.judge(&listing, is_other, asked, own, safeguards);
        let reset = history == History::Another;
        if reset {
            // Revisions of another history say nothing about this one.
            self.latest = None;
            let entries = self.entries.values_mut();
            entries.for_each(|entry| entry.revision = 0);
        }
        let distrust = reset && safeguards.distrust_reset;
        self.lists += 1;
        self.revision = listing.revision;
        if id.is_some() {
            self.cluster = id;
        }
        let mut change = Change::default();
        let in_doubt = history == History::Unknown && safeguards.doubt_gaps;
        if distrust || in_doubt {
            let why = if distrust { &[] } else { DOUBTED };
            self.unsettled = true;
            change.saved.push((UNSETTLED.to_owned(), Some(why.into())));
        }
        let mut seen = BTreeSet::new();
        for kv in listing.kvs {
            if let Some(key) = Key::parse(&kv.key) {
                seen.insert(key.clone());
                self.put(&key, kv, &mut change);
            }
        }
        let gone: Vec<Key> = self
            .entries
            .iter()
            .filter(|(key, entry)| !seen.contains(*key) && !entry.ghost)
            .map(|(key, _)| key.clone())
            .collect();
        for key in gone {
            let doubts = in_doubt && is_station_of(&key, &seen);
            let keeps = (distrust || doubts)
                && !matches!(key, Key::Alive(_) | Key::Meta)
                && !self.is_mine(&key);
            if keeps || (!safeguards.relist && key.node().is_some()) {
                if let Some(entry) = self.entries.get_mut(&key) {
                    entry.ghost = true;
                }
            } else {
                self.remove(&key, &mut change);
            }
        }
        self.alive_lease = self.alive_lease.filter(|_| !reset);
        let (news, saved) = self.told(change);
        (news, saved, history)
    }

    /// Takes in what a watch told.
    pub fn apply(&mut self, events: Events) -> (Vec<News>, Saved) {
        let mut change = Change::default();
        for event in events {
            match event {
                Event::Put(kv) => {
                    self.revision = self.revision.max(kv.revision);
                    if let Some(key) = Key::parse(&kv.key) {
                        self.put(&key, kv, &mut change);
                        if let Key::Alive(node) = &key {
                            self.lay(node, &mut change);
                        }
                    }
                }
                Event::Delete { key, revision } => {
                    self.revision = self.revision.max(revision);
                    let Some(key) = Key::parse(&key) else {
                        continue;
                    };
                    // Told late: it was written again since.
                    let is_old = self.revision_of(&key).is_some_and(|held| held > revision);
                    if !is_old {
                        self.remove(&key, &mut change);
                    }
                }
            }
        }
        self.told(change)
    }

    /// Takes in what a transaction of this host wrote, before a watch tells it. Claims in it are this host's from now on:
    /// what only a list ascribes to it may be older than what it gave back.
    pub fn wrote(&mut self, writes: Vec<Write>, revision: Revision) -> (Vec<News>, Saved) {
        let mut change = Change::default();
        for write in writes {
            let Some(key) = Key::parse(write.key()) else {
                continue;
            };
            match write {
                Write::Put {
                    key: text, value, ..
                } => {
                    let kv = KeyValue {
                        key: text,
                        value,
                        revision,
                    };
                    if is_claim_of(&key, &kv.value, self.me.as_ref()) {
                        self.adopt(&key, &kv.value, &mut change);
                    }
                    self.put(&key, kv, &mut change);
                }
                Write::Delete(_) => self.remove(&key, &mut change),
            }
        }
        self.told(change)
    }

    /// A claim is not this host's any more: it is given back as soon as the store takes it.
    pub fn let_go(&mut self, net: &NetworkId, prefix: Prefix) {
        let key = Key::Claim(net.clone(), prefix);
        if self.held.remove(&key).is_none() {
            return;
        }
        let lost = self.lost_claims.remove(&key)
            | self.contested.remove(&key)
            | self.reclaims.remove(&key);
        if lost {
            // The store does not have it as this host's: what it has is not this host's to change.
            self.entries.retain(|of, entry| *of != key || !entry.ghost);
        } else {
            self.returning.insert(key, false);
        }
    }

    /// Giving a claim back is under way, or that has ended, well or not.
    pub fn give_back(&mut self, key: &Key, under_way: bool) {
        if let Some(returning) = self.returning.get_mut(key) {
            *returning = under_way;
        }
    }

    /// A claim that this host has just made.
    fn adopt(&mut self, key: &Key, value: &[u8], change: &mut Change) {
        self.returning.remove(key);
        if self.held.insert(key.clone(), value.to_vec()).is_none()
            && let Some(entry) = self.entries.get(key).filter(|entry| entry.value == value)
        {
            // Told by the watch, or by a list, before the transaction's own answer.
            change.news.extend(news(key, entry.record.as_ref()));
            change.saved.push((key.text(), Some(value.to_vec())));
        }
    }

    fn is_mine(&self, key: &Key) -> bool {
        let name = self.me.as_ref().map(|(name, _)| name);
        (key.node().is_some() && key.node() == name) || self.held.contains_key(key)
    }

    fn told(&self, mut change: Change) -> (Vec<News>, Saved) {
        if !change.saved.is_empty() {
            let revision = self.revision.to_string().into_bytes();
            change.saved.push((REVISION.to_owned(), Some(revision)));
            let latest = self.latest.as_ref();
            let latest = latest.map(|known| format!("{} {}", known.revision, known.key).into());
            change.saved.push((LATEST.to_owned(), latest));
        }
        (change.news, change.saved)
    }

    fn put(&mut self, key: &Key, kv: KeyValue, change: &mut Change) {
        let latest = self.latest.as_ref();
        if latest.is_none_or(|latest| latest.revision <= kv.revision) {
            self.latest = Some(Known {
                key: kv.key.clone(),
                revision: kv.revision,
            });
        }
        if let Some(held) = self.entries.get_mut(key) {
            if held.revision > kv.revision && !held.ghost {
                return;
            }
            if held.value == kv.value {
                held.revision = kv.revision;
                held.ghost = false;
                self.lost_claims.remove(key);
                self.contested.remove(key);
                return;
            }
        }
        let record = match records::read(key, &kv.value) {
            Ok(record) => {
                self.faults.remove(&kv.key);
                Some(record)
            }
            Err(why) => {
                self.faults.insert(kv.key.clone(), why);
                // The last good one stays.
                None
            }
        };
        if let Some(Record::Meta(meta)) = &record {
            self.cluster = Some(meta.id.clone());
        }
        let good = record.is_some();
        let known = self.entries.get(key).map(is_free);
        let record = record.or_else(|| self.entries.remove(key).and_then(|old| old.record));
        let silent = good && self.claimed(key, record.as_ref(), known);
        if good && !silent {
            change.news.extend(news(key, record.as_ref()));
        }
        // What this host holds, or does not, whatever the store says, its disk keeps as it knew it.
        if good && !silent {
            // What is kept for the next start is the last good one too.
            change.saved.push((kv.key, Some(kv.value.clone())));
        }
        let entry = Entry {
            value: kv.value,
            revision: kv.revision,
            record,
            ghost: false,
        };
        self.entries.insert(key.clone(), entry);
        if self.is_own_removal(key) {
            self.see_removal(change);
        }
    }

    /// Notes what a claim means for this host, and whether nobody is to be told of it: of one that somebody else wrote over
    /// a claim of this host, for then nothing changes here; and of one that the store ascribes to this host, which does not
    /// hold it. That one is given back, if it was nobody's as far as this host knew (`known`: none, it knew nothing): a claim
    /// whose answer was lost, or one that was being given back. If it was somebody else's, the store is older than that.
    fn claimed(&mut self, key: &Key, record: Option<&Record>, known: Option<bool>) -> bool {
        let Some(Record::Claim(claim)) = record else {
            return false;
        };
        let mine = self
            .me
            .as_ref()
            .is_some_and(|(_, id)| claim.node.is_some() && *id == claim.id);
        let held = self.held.contains_key(key);
        match (mine, held) {
            (true, true) => {
                self.lost_claims.remove(key);
                self.contested.remove(key);
                self.reclaims.remove(key);
                false
            }
            (true, false) => {
                if known.unwrap_or(true) {
                    self.returning.entry(key.clone()).or_insert(false);
                }
                true
            }
            (false, true) if self.removal().is_some() => self.is_kept(key, claim.node.is_none()),
            (false, true) => {
                self.contested.insert(key.clone());
                true
            }
            (false, false) => {
                self.returning.remove(key);
                false
            }
        }
    }

    /// The hosts that are alive have written again what they have: what the store forgot of them is gone.
    pub fn lay_alive(&mut self) -> (Vec<News>, Saved) {
        let alive = |(key, _): (&Key, &Entry)| match key {
            Key::Alive(node) => Some(node.clone()),
            _ => None,
        };
        let nodes: Vec<Name> = self.entries.iter().filter_map(alive).collect();
        let mut change = Change::default();
        for node in nodes {
            self.lay(&node, &mut change);
        }
        self.unsettled = self.entries.values().any(|entry| entry.ghost);
        if !self.unsettled {
            change.saved.push((UNSETTLED.to_owned(), None));
        }
        self.told(change)
    }

    /// A host that writes its sign of life has written everything else before: what the store forgot of it is gone.
    fn lay(&mut self, node: &Name, change: &mut Change) {
        let of_node = |key: &Key, entry: &Entry| {
            let claims = matches!(&entry.record, Some(Record::Claim(claim)) if claim.node.as_ref() == Some(node));
            entry.ghost && (key.node() == Some(node) || claims)
        };
        let ghosts: Vec<Key> = self
            .entries
            .iter()
            .filter(|(key, entry)| of_node(key, entry))
            .map(|(key, _)| key.clone())
            .collect();
        for key in ghosts {
            self.remove(&key, change);
        }
    }

    fn remove(&mut self, key: &Key, change: &mut Change) {
        self.returning.remove(key);
        if let Key::Network(id) = key {
            // With it all that was claimed on it.
            let on = |key: &Key| matches!(key, Key::Claim(of, _) if of == id);
            let lost = std::mem::take(&mut self.lost_claims);
            let (gone, lost) = lost.into_iter().partition(on);
            self.lost_claims = lost;
            let gone: BTreeSet<Key> = gone;
            self.held.retain(|key, _| !on(key));
            self.reclaims.retain(|key| !on(key));
            gone.iter().for_each(|key| self.remove(key, change));
        }
        if self.held.contains_key(key) {
            // Only this host gives it back.
            self.lost_claims.insert(key.clone());
            if let Some(entry) = self.entries.get_mut(key) {
                entry.ghost = true;
            }
            return;
        }
        if self.entries.remove(key).is_none() {
            return;
        }
        let text = key.text();
        self.faults.remove(&text);
        change.news.extend(news(key, None));
        change.saved.push((text, None));
        if let Key::Node(node) = key {
            // Nobody else says any more what the store forgot of it.
            self.lay(node, change);
        }
    }
}

/// Whether it is of a host that the store has not removed.
fn is_station_of(key: &Key, listed: &BTreeSet<Key>) -> bool {
    let (Key::Member(node, _) | Key::Endpoint(node, ..)) = key else {
        return false;
    };
    listed.contains(&Key::Node(node.clone()))
}

/// Whether it is a claim that was given back.
fn is_free(entry: &Entry) -> bool {
    matches!(&entry.record, Some(Record::Claim(claim)) if claim.node.is_none())
}

/// Whether a value is a claim of a host of this name and id.
fn is_claim_of(key: &Key, value: &[u8], me: Option<&(Name, String)>) -> bool {
    let Key::Claim(..) = key else {
        return false;
    };
    let Ok(Record::Claim(claim)) = records::read(key, value) else {
        return false;
    };
    me.is_some_and(|(name, id)| claim.node.as_ref() == Some(name) && claim.id == *id)
}

#[derive(Debug, Default)]
struct Change {
    news: Vec<News>,
    saved: Saved,
}

fn news(key: &Key, record: Option<&Record>) -> Option<News> {
    let station = || match record {
        Some(Record::Station(station)) => Some(station.clone()),
        _ => None,
    };
    Some(match key {
        Key::Meta | Key::Removed(..) => return None,
        Key::Node(node) => News::Node(
            node.clone(),
            match record {
                Some(Record::Node(node)) => Some(node.clone()),
                _ => None,
            },
        ),
        Key::Alive(node) => News::Alive(node.clone(), record.is_some()),
        Key::Network(id) => News::Network(
            id.clone(),
            match record {
                Some(Record::Network(network)) => Some(network.clone()),
                _ => None,
            },
        ),
        Key::Member(node, net) => News::Member(node.clone(), net.clone(), station()),
        Key::Endpoint(node, net, id) => {
            News::Endpoint(node.clone(), net.clone(), id.clone(), station())
        }
        Key::Claim(net, prefix) => News::Claim(
            net.clone(),
            *prefix,
            match record {
                Some(Record::Claim(claim)) => Some(claim.clone()),
                _ => None,
            },
        ),
    })
}

/// The least of all ids.
fn zero_network() -> NetworkId {
    NetworkId::from_bytes([0; 16])
}

fn zero_container() -> ContainerId {
    match ContainerId::parse("0") {
        Ok(id) => id,
        Err(error) => unreachable!("{error}"),
    }
}
