//! The store seam: what netd needs of a shared store, in etcd's terms. Two forms: [`super::etcd`] and, for tests and the
//! simulation, [`super::memory`].
//!
//! Revisions are etcd's: every change of the store has the next number, a watch tells all changes from a number on, and
//! history before the compacted number is gone.

use std::fmt;

use futures_util::future::BoxFuture;
use tokio::sync::mpsc;

/// A revision of the store.
pub type Revision = i64;

/// A key with its value.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct KeyValue {
    /// The key, without the cluster's prefix.
    pub key: String,
    /// Its value.
    pub value: Vec<u8>,
    /// When it was written last.
    pub revision: Revision,
}

/// A write that was seen in the store. A store whose history has it not is not the one that was known: it was restored from an
/// older copy, even if its revision is as high again.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Known {
    /// The key, without the cluster's prefix.
    pub key: String,
    /// When it was written.
    pub revision: Revision,
}

/// All keys of the cluster at one revision.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Listing {
    /// The revision of the store.
    pub revision: Revision,
    /// The keys.
    pub kvs: Vec<KeyValue>,
    /// Whether the history has the write that was asked for; none, if nobody asked or the history does not reach back that far.
    pub knows: Option<bool>,
}

impl Listing {
    /// Whether the list itself says that a write was made, or never was; none: only the history can tell.
    pub fn knows(&self, known: &Known) -> Option<bool> {
        let held = self.kvs.iter().find(|kv| kv.key == known.key);
        match held {
            Some(kv) if kv.revision == known.revision => Some(true),
            _ if self.revision < known.revision => Some(false),
            _ => None,
        }
    }
}

/// A condition of a transaction.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Compare {
    /// The key is not there.
    Absent(String),
    /// The key was written at this revision last.
    At(String, Revision),
    /// No key that begins with this was written after a revision. (What was removed since does not count.)
    NoneAfter(String, Revision),
}

/// A change of a transaction.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Write {
    /// Writes a key.
    Put {
        /// The key.
        key: String,
        /// Its value.
        value: Vec<u8>,
        /// With what it goes; none: it stays until it is removed.
        lease: Option<Lease>,
    },
    /// Removes a key; one that is not there is fine.
    Delete(String),
}

impl Write {
    /// A key that stays.
    pub fn put(key: impl Into<String>, value: impl Into<Vec<u8>>) -> Self {
        Self::Put {
            key: key.into(),
            value: value.into(),
            lease: None,
        }
    }

    /// The key it is about.
    pub fn key(&self) -> &str {
        match self {
            Self::Put { key, .. } | Self::Delete(key) => key,
        }
    }
}

/// All conditions hold, then all changes are made; else none is.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Txn {
    /// The conditions.
    pub when: Vec<Compare>,
    /// The changes. etcd takes at most 128 in its default configuration, and no key twice.
    pub then: Vec<Write>,
}

/// Most changes in one transaction.
pub const TXN_WRITES: usize = 100;

/// How a transaction ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct TxnEnd {
    /// Whether the conditions held.
    pub done: bool,
    /// The revision of the store after it.
    pub revision: Revision,
}

/// The number of a lease.
pub type Lease = i64;

/// One change, as a watch tells it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Event {
    /// Written.
    Put(KeyValue),
    /// Removed, or gone with its lease.
    Delete {
        /// The key.
        key: String,
        /// At this revision.
        revision: Revision,
    },
}

/// Changes that came together, in order.
pub type Events = Vec<Event>;

/// Why the store did not do what was asked.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum StoreError {
    /// It does not answer, or has no leader. What was asked may be done all the same.
    Unavailable(String),
    /// The history that a watch asks for is gone.
    Compacted,
    /// The lease has run out.
    LeaseGone,
    /// It refuses: certificate, password or permission. Trying again changes nothing until somebody does.
    Refused(String),
}

impl fmt::Display for StoreError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Unavailable(why) | Self::Refused(why) => f.write_str(why),
            Self::Compacted => f.write_str("the history from there on was compacted"),
            Self::LeaseGone => f.write_str("the lease has run out"),
        }
    }
}
impl std::error::Error for StoreError {}

/// What a call answers.
pub type Answer<T> = BoxFuture<'static, Result<T, StoreError>>;

/// A shared store. Every call ends within a few seconds, answered or not.
pub trait Store: fmt::Debug + Send + Sync {
    /// All keys of the cluster, and whether it has a write that was seen before. Leaves a connection that does not work any
    /// more behind.
    fn list(&self, known: Option<Known>) -> Answer<Listing>;

    /// A transaction.
    fn txn(&self, txn: Txn) -> Answer<TxnEnd>;

    /// All changes from a revision on, until the receiver is dropped or the store sends an error, which is the last.
    fn watch(&self, from: Revision) -> Answer<mpsc::Receiver<Result<Events, StoreError>>>;

    /// A lease of this many seconds.
    fn grant(&self, seconds: u32) -> Answer<Lease>;

    /// Keeps a lease for another time.
    fn keep_alive(&self, lease: Lease) -> Answer<()>;

    /// The address of this host that the store is reached from, as far as it is known.
    fn local_address(&self) -> Option<std::net::IpAddr> {
        None
    }
}
