//! What a host does with the shared store: pure decisions, no IO, no clock of its own.
//!
//! Inputs are what the owner wants, what the store answered, and the time; outputs are what the store shall do and what the
//! owner shall know. The shell ([`super::task`]) carries them between the two; the simulation does so for many hosts at once.
//!
//! - **One list, then a watch from the next revision on.** Whatever ends the watch ends with another list, of which the
//!   differences are taken: what vanished while nobody watched is removed.
//! - **Own records are wanted, not sent.** What the store holds under this host's own keys is compared with what it shall hold,
//!   after each list and each change, so whatever was lost is written again.
//! - **An error is never "nothing there"** (invariant I9). Without a store the last good view stays. A store that turns out to be
//!   emptied, exchanged or restored from an older copy takes nothing away either, until each owner has spoken.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use netd_model::error::{Code, Error, Result};
use netd_model::id::Name;
use netd_model::record::Network;
use netd_model::{NetworkId, Prefix};

use super::claims::Ask;
use super::keys::{Key, META};
use super::mirror::{History, Mirror, News};
use super::records::Node;
use super::store::{
    Event, Events, Known, Lease, Listing, Revision, StoreError, Txn, TxnEnd, Write,
};

/// The life of a lease: how long after its host fell silent it is suspect.
pub const LEASE: Duration = Duration::from_secs(15);
/// Between two signs of life.
const KEEP: Duration = Duration::from_secs(5);
/// The shortest and the longest pause before the store is tried again.
const RETRY: (Duration, Duration) = (Duration::from_millis(250), Duration::from_secs(15));
/// Between two lists while all is well: what a watch may have lost.
const RELIST: Duration = Duration::from_mins(5);
/// After a store was emptied or restored: a host whose sign of life is still there then has listed that store and written
/// what it has. The lease of one that has not is over.
const SPOKEN: Duration = Duration::from_secs(2 * LEASE.as_secs());
/// How often a claim or a network is tried against others who want the same.
const TRIES: u32 = 16;

mod publish;
mod removal;
mod returns;
mod safeguards;
mod wishes;

pub use safeguards::Safeguards;

/// Names a request of the owner.
pub type Token = u64;

/// What the core is told.
#[derive(Debug)]
pub enum Input {
    /// It is time; also what everything begins with.
    Tick,
    /// The owner wants something.
    Ask(Token, Wish),
    /// The owner wants this of its own keys: a value, or that there is none.
    Own(Vec<(Key, Option<Vec<u8>>)>),
    /// The owner does not use these addresses any more, which it has claimed: they are given back when the store can be
    /// reached.
    Release(NetworkId, Prefix),
    /// Who this host is, and where.
    Self_(Node),
    /// The answer to a list.
    Listed(std::result::Result<Listing, StoreError>),
    /// A watch was opened, or not.
    Watching(std::result::Result<(), StoreError>),
    /// What a watch told.
    Watched(std::result::Result<Events, StoreError>),
    /// The answer to a transaction.
    Ended(u64, std::result::Result<TxnEnd, StoreError>),
    /// The answer to a request for a lease.
    Granted(std::result::Result<Lease, StoreError>),
    /// The answer to a sign of life.
    Kept(std::result::Result<(), StoreError>),
}

/// What an owner can want beyond its own records.
#[derive(Clone, Debug, PartialEq)]
pub enum Wish {
    /// Addresses of a network.
    Claim(Ask),
    /// A network of this record.
    CreateNetwork(Box<Network>),
    /// That a network is gone.
    RemoveNetwork(NetworkId),
    /// That a host's records are gone.
    RemoveNode(Name),
}

/// What the core wants.
#[derive(Debug)]
pub enum Output {
    /// List the store, and see whether it has a write that was seen before.
    List(Option<Known>),
    /// Watch it from a revision on, instead of what is watched now.
    Watch(Revision),
    /// A transaction, under a number.
    Txn(u64, Txn),
    /// The same, when these keys of the view are kept for the next start, and not before. If they cannot be kept it has
    /// failed.
    TxnAfter(u64, Vec<(String, Option<Vec<u8>>)>, Txn),
    /// A lease of [`LEASE`].
    Grant,
    /// A sign of life.
    Keep(Lease),
    /// What changed, in order. The owner takes all of it in at once.
    News(Vec<News>),
    /// The answer to a wish.
    Reply(Token, Result<()>),
    /// Keys to keep over a restart: the last good view.
    Save(Vec<(String, Option<Vec<u8>>)>),
    /// Something that an operator should know.
    Alarm(String),
}

/// What the owner shows of the store.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Link {
    /// Not tried yet.
    Starting,
    /// Listed and watched.
    Online,
    /// Not, and why.
    Offline(String),
}

/// Why a transaction was sent.
#[derive(Debug)]
enum Pending {
    /// The cluster's own mark.
    Meta(Vec<Write>),
    /// Own records.
    Own(Vec<Write>),
    /// The sign that all of them are written.
    Alive,
    /// That this host, which was removed, is back.
    Back(Vec<Write>),
    /// A claim that is given back.
    Return(Key, Vec<Write>),
    /// A wish, how often it was tried, and what it writes.
    Wish(Token, Wish, u32, Vec<Write>),
}

#[derive(Debug, PartialEq, Eq)]
enum Phase {
    /// Waiting for the time of the next attempt.
    Waiting,
    /// A list is under way.
    Listing,
    /// A watch is being opened.
    Opening,
    /// Listed and watched.
    Online,
}

/// The cluster logic of one host.
#[derive(Debug)]
pub struct Core {
    node: Node,
    name: Name,
    mirror: Mirror,
    /// What this host wants of its own keys. Those that shall not be there are not here.
    own: BTreeMap<Key, Vec<u8>>,
    phase: Phase,
    /// Whether a list has ended since the start, well or not.
    tried: bool,
    /// Whether the list under way asks for what was seen last.
    asked: bool,
    /// When this host was removed; it has come back since, and is another incarnation.
    removed: Option<Revision>,
    why: String,
    failures: u32,
    next: Duration,
    relist: Duration,
    /// When what alive hosts have not written again is believed gone.
    spoken: Option<Duration>,
    lease: Option<Lease>,
    /// When the lease was granted or kept last, and when the next sign is due.
    kept: Duration,
    asking_lease: bool,
    pending: BTreeMap<u64, Pending>,
    number: u64,
    /// Wishes that came before the first list ended.
    early: Vec<(Token, Wish)>,
    /// Wishes that lost a race and wait for what they lost it to.
    again: Vec<(Token, Wish, u32)>,
    random: u64,
    safeguards: Safeguards,
    out: Vec<Output>,
    alarms: BTreeSet<String>,
}

impl Core {
    /// A host with the view that it had last. `seed` makes pauses differ between hosts.
    pub fn new(name: Name, node: Node, view: Vec<(String, Vec<u8>)>, seed: u64) -> Self {
        let mut mirror = Mirror::restored(view);
        mirror.set_me(name.clone(), node.id.clone());
        Self {
            mirror,
            node,
            name,
            own: BTreeMap::new(),
            phase: Phase::Waiting,
            tried: false,
            asked: false,
            removed: None,
            why: String::new(),
            failures: 0,
            next: Duration::ZERO,
            relist: Duration::ZERO,
            spoken: None,
            lease: None,
            kept: Duration::ZERO,
            asking_lease: false,
            pending: BTreeMap::new(),
            number: 0,
            early: Vec::new(),
            again: Vec::new(),
            random: seed | 1,
            safeguards: Safeguards::default(),
            out: Vec::new(),
            alarms: BTreeSet::new(),
        }
    }

    /// The same without some safeguards.
    #[cfg(test)]
    pub(super) fn without(mut self, safeguards: Safeguards) -> Self {
        self.safeguards = safeguards;
        self.mirror.ignores_removal = !safeguards.heed_removal;
        self
    }

    /// The view that was kept, as the owner takes it in before anything else.
    pub fn restored(&self) -> Vec<News> {
        self.mirror.all()
    }

    /// How it stands with the store.
    pub fn link(&self) -> Link {
        match self.phase {
            Phase::Online => Link::Online,
            _ if !self.tried => Link::Starting,
            _ => Link::Offline(self.why.clone()),
        }
    }

    /// Records that are of no use, each with the reason.
    pub fn faults(&self) -> impl Iterator<Item = (&String, &String)> {
        self.mirror.faults.iter()
    }

    /// The revision of the store that is known.
    pub fn revision(&self) -> Revision {
        self.mirror.revision
    }

    /// Records by kind.
    pub fn kinds(&self) -> BTreeMap<&'static str, usize> {
        self.mirror.kinds()
    }

    /// When a [`Input::Tick`] is due at the latest.
    pub fn due(&self) -> Duration {
        match self.phase {
            Phase::Waiting => self.next,
            Phase::Online => {
                let spoken = self.spoken.unwrap_or(Duration::MAX);
                self.relist.min(self.kept + KEEP).min(spoken)
            }
            // The store answers or fails by itself.
            Phase::Listing | Phase::Opening => Duration::MAX,
        }
    }

    /// Takes an input in.
    pub fn step(&mut self, input: Input, now: Duration) -> Vec<Output> {
        match input {
            Input::Tick => {}
            Input::Ask(token, wish) => self.wish(token, wish, 0),
            Input::Own(changes) => {
                for (key, value) in changes {
                    match value {
                        Some(value) => self.own.insert(key, value),
                        None => self.own.remove(&key),
                    };
                }
                self.publish();
            }
            Input::Release(network, prefix) => self.release(&network, prefix),
            Input::Self_(node) => {
                self.node = node;
                self.publish();
            }
            Input::Listed(Ok(listing)) => self.listed(listing, now),
            Input::Watching(Ok(())) => self.online(),
            Input::Watched(Ok(events)) => self.watched(events),
            Input::Ended(number, end) => self.ended(number, end, now),
            Input::Granted(Ok(lease)) => {
                self.asking_lease = false;
                self.lease = Some(lease);
                self.kept = now;
                self.publish();
            }
            Input::Kept(Ok(())) => self.kept = now,
            Input::Kept(Err(StoreError::LeaseGone)) => self.lease = None,
            Input::Watched(Err(StoreError::Compacted))
            | Input::Watching(Err(StoreError::Compacted)) => {
                // Nothing is wrong with the store: only the list has to be taken again.
                self.list();
            }
            Input::Listed(Err(error))
            | Input::Watching(Err(error))
            | Input::Watched(Err(error))
            | Input::Granted(Err(error))
            | Input::Kept(Err(error)) => self.lost(&error, now),
        }
        self.give_back();
        self.tick(now);
        std::mem::take(&mut self.out)
    }

    // ---- the connection -------------------------------------------------------------------------------------------

    fn tick(&mut self, now: Duration) {
        match self.phase {
            Phase::Waiting if now >= self.next => self.list(),
            Phase::Online => {
                if self.spoken.take_if(|at| now >= *at).is_some() {
                    let (news, saved) = self.mirror.lay_alive();
                    self.tell(news, saved);
                }
                if now >= self.relist {
                    self.list();
                } else if let Some(lease) = self.lease.filter(|_| now >= self.kept + KEEP) {
                    // Until its answer the next one counts from here.
                    self.kept = now;
                    self.out.push(Output::Keep(lease));
                } else if self.lease.is_none() && !self.asking_lease {
                    self.asking_lease = true;
                    self.kept = now;
                    self.out.push(Output::Grant);
                }
            }
            _ => {}
        }
    }

    fn list(&mut self) {
        self.phase = Phase::Listing;
        let asks = self.safeguards.ask_history;
        let known = self.mirror.latest.clone().filter(|_| asks);
        self.asked = known.is_some();
        self.out.push(Output::List(known));
    }

    /// The store does not answer as it should: once more, after a while that grows.
    fn lost(&mut self, error: &StoreError, now: Duration) {
        self.asking_lease = false;
        if self.phase == Phase::Waiting {
            return;
        }
        self.phase = Phase::Waiting;
        self.tried = true;
        self.why = error.to_string();
        let pause = if self.safeguards.backoff {
            let factor = 1_u32.checked_shl(self.failures.min(16)).unwrap_or(u32::MAX);
            RETRY.0.saturating_mul(factor).min(RETRY.1)
        } else {
            Duration::from_millis(1)
        };
        self.failures = self.failures.saturating_add(1);
        // Between half of it and one and a half: hosts that lost it together do not come back together.
        let thousandth = u32::try_from(self.draw() % 1000).unwrap_or(0);
        self.next = now + pause / 2 + pause * thousandth / 1000;
        // Whether they were done is seen in the next list.
        for (_, pending) in std::mem::take(&mut self.pending) {
            match pending {
                Pending::Wish(token, wish, ..) => self.reply(token, Err(self.offline(&wish))),
                Pending::Return(key, _) => self.mirror.give_back(&key, false),
                Pending::Meta(_) | Pending::Own(_) | Pending::Alive | Pending::Back(_) => {}
            }
        }
        for (token, wish) in std::mem::take(&mut self.early) {
            self.reply(token, Err(self.offline(&wish)));
        }
        for (token, wish, _) in std::mem::take(&mut self.again) {
            self.reply(token, Err(self.offline(&wish)));
        }
        self.out.push(Output::News(vec![News::Link(self.link())]));
    }

    fn draw(&mut self) -> u64 {
        // xorshift64: enough to spread hosts.
        self.random ^= self.random << 13;
        self.random ^= self.random >> 7;
        self.random ^= self.random << 17;
        self.random
    }

    fn listed(&mut self, listing: Listing, now: Duration) {
        self.tried = true;
        let revision = listing.revision;
        let (asked, safeguards) = (self.asked, self.safeguards);
        let (news, saved, history) = self.mirror.replace(listing, asked, &self.own, safeguards);
        if history != History::Same {
            self.spoken = Some(now + SPOKEN);
        }
        if history == History::Another {
            self.alarm(
                "the store was emptied or restored: hosts write their records again".to_owned(),
            );
        }
        self.tell(news, saved);
        self.relist = now + RELIST;
        self.phase = Phase::Opening;
        self.out.push(Output::Watch(revision + 1));
    }

    fn online(&mut self) {
        if self.phase != Phase::Opening {
            return;
        }
        self.phase = Phase::Online;
        self.failures = 0;
        self.why.clear();
        self.out.push(Output::News(vec![News::Link(Link::Online)]));
        self.publish();
        for (token, wish) in std::mem::take(&mut self.early) {
            self.wish(token, wish, 0);
        }
        self.retry();
    }

    fn watched(&mut self, events: Events) {
        if self.phase != Phase::Online {
            return;
        }
        let own = |event: &Event| {
            let key = match event {
                Event::Put(kv) => &kv.key,
                Event::Delete { key, .. } => key,
            };
            Key::parse(key).is_some_and(|key| key.node() == Some(&self.name)) || key == META
        };
        let is_own = events.iter().any(own);
        let (news, saved) = self.mirror.apply(events);
        self.tell(news, saved);
        if is_own || !self.mirror.lost_claims.is_empty() || self.mirror.removal().is_some() {
            self.publish();
        }
        self.retry();
    }

    fn tell(&mut self, news: Vec<News>, saved: Vec<(String, Option<Vec<u8>>)>) {
        if !news.is_empty() {
            self.out.push(Output::News(news));
        }
        if !saved.is_empty() {
            self.out.push(Output::Save(saved));
        }
        self.see_removal();
        for key in self.mirror.contested.clone() {
            self.alarm(format!(
                "key {} of the shared store was written over by somebody else: this host holds those addresses and goes on \
                 using them; look who writes there",
                key.text()
            ));
        }
    }

    fn alarm(&mut self, text: String) {
        if self.alarms.insert(text.clone()) {
            self.out.push(Output::Alarm(text));
        }
    }

    fn txn(&mut self, txn: Txn, pending: Pending) {
        self.number += 1;
        self.pending.insert(self.number, pending);
        self.out.push(Output::Txn(self.number, txn));
    }

    fn ended(&mut self, number: u64, end: std::result::Result<TxnEnd, StoreError>, now: Duration) {
        // One that was given up: the list has told what became of it.
        let Some(pending) = self.pending.remove(&number) else {
            return;
        };
        let end = match end {
            Ok(end) => end,
            Err(StoreError::LeaseGone) => {
                self.lease = None;
                return self.publish();
            }
            Err(error) => {
                self.pending.insert(number, pending);
                return self.lost(&error, now);
            }
        };
        match pending {
            // Another host may have been first: then a watch tells which cluster it is.
            Pending::Meta(_) if !end.done => {}
            Pending::Meta(writes) => {
                let (news, saved) = self.mirror.wrote(writes, end.revision);
                self.tell(news, saved);
            }
            Pending::Own(writes) if end.done => {
                let (news, saved) = self.mirror.wrote(writes, end.revision);
                self.tell(news, saved);
            }
            Pending::Back(writes) => {
                if end.done {
                    let (news, saved) = self.mirror.wrote(writes, end.revision);
                    self.mirror.is_back();
                    self.tell(news, saved);
                }
                // Else a claim was written of which the watch has yet to tell: it is tried again then.
                return;
            }
            Pending::Own(_) if self.mirror.removal().is_some() => {
                // Somebody was faster to claim what this host had: the list tells what.
                self.list();
            }
            Pending::Own(writes) => {
                // Somebody else holds what this host says is its own.
                for write in &writes {
                    if let Some(key @ Key::Claim(..)) = Key::parse(write.key()) {
                        self.mirror.contested.insert(key);
                    }
                }
                self.list();
            }
            Pending::Return(key, writes) => {
                self.mirror.give_back(&key, false);
                if end.done {
                    let (news, saved) = self.mirror.wrote(writes, end.revision);
                    self.tell(news, saved);
                } else {
                    // It was written since, or could not be kept: the next list shows.
                    self.relist = self.relist.min(now + RETRY.1);
                }
            }
            Pending::Alive => {
                self.mirror.alive_lease = self.lease;
            }
            Pending::Wish(token, wish, tries, writes) => {
                if end.done {
                    let (news, saved) = self.mirror.wrote(writes, end.revision);
                    self.tell(news, saved);
                    if let Wish::RemoveNode(name) = &wish
                        && (self.mirror.of_node(name).next().is_some()
                            || self.mirror.claims_of(name).next().is_some())
                    {
                        return self.wish(token, wish, tries);
                    }
                    self.reply(token, Ok(()));
                } else if tries >= TRIES {
                    let text = "too many hosts want the same at once: try again";
                    self.reply(token, Err(Error::new(Code::Conflict, text)));
                } else {
                    // What was lost to is told by the watch; should it not, by a list.
                    self.again.push((token, wish, tries + 1));
                    self.list();
                }
            }
        }
        self.publish();
    }

    fn retry(&mut self) {
        if self.phase == Phase::Online {
            for (token, wish, tries) in std::mem::take(&mut self.again) {
                self.wish(token, wish, tries);
            }
        }
    }
}
