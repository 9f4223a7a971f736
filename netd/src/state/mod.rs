//! Records on disk: what netd must know again after it was stopped, killed or updated (invariant I7).
//!
//! [`Durable`] survives a reboot: networks, and facts about this node. [`Volatile`] does not, and need not:
//! containers, whose namespaces a reboot ends as well. [`Disk`] is both behind the trait [`Store`]; [`Memory`] is the
//! same trait without a disk, [`FaultyStore`] wraps one and fails or dies, for tests.
//!
//! **Everything here blocks.** It is called from executor threads, never from the async runtime and never by the
//! owner task (invariant I2).
//!
//! What is on disk is handled with distrust and with care:
//! - a record keeps the fields it does not know, if a newer minor version wrote it (invariant I8);
//! - what a newer major version wrote stops the start with [`StateError::TooNew`], and not a byte is changed;
//! - what is damaged is kept: set aside or left in its place, never overwritten and never taken for "nothing there".

use std::fmt;

use netd_model::api::HostChange;
use netd_model::record::{Container, Network, Unknown};
use netd_model::{ContainerId, NetworkId};
use serde::{Deserialize, Serialize};

mod disk;
mod durable;
mod envelope;
mod error;
mod faulty;
mod files;
mod lock;
mod memory;
mod volatile;

#[cfg(test)]
mod testing;
#[cfg(test)]
mod tests;

pub use disk::{Disk, boot_id};
pub use durable::{Durable, Meta};
pub use envelope::Version;
pub(crate) use envelope::{Fault, decode, encode};
pub use error::{Place, Problem, StateError};
pub use faulty::FaultyStore;
pub use lock::RunLock;
pub use memory::Memory;
pub use volatile::Volatile;

/// Where records are kept.
///
/// Calls block. Those on one container or network come one after the other, as their requests do; all others may come
/// from several threads at once. A write that failed is to be taken as not done, but the record may be there after
/// all when the daemon starts again, as with any disk that fails between two writes.
pub trait Store: fmt::Debug + Send + Sync {
    /// All that is on record.
    fn load(&self) -> Result<Loaded, StateError>;

    /// Writes a network, on disk when this returns.
    fn put_network(&self, network: &Network) -> Result<(), StateError>;

    /// Removes a network; one that is not there is fine.
    fn delete_network(&self, id: &NetworkId) -> Result<(), StateError>;

    /// Writes the random bits of the node's IPv6 prefix.
    fn put_ula_seed(&self, seed: [u8; 5]) -> Result<(), StateError>;

    /// Writes this node's id.
    fn put_node_id(&self, id: &str) -> Result<(), StateError>;

    /// Writes, and without a value removes, keys of the last good view of the cluster.
    fn put_cluster(&self, keys: &[(String, Option<Vec<u8>>)]) -> Result<(), StateError>;

    /// Writes a container.
    fn put_container(&self, container: &Container) -> Result<(), StateError>;

    /// Removes a container; one that is not there is fine.
    fn delete_container(&self, id: &ContainerId) -> Result<(), StateError>;

    /// Writes what was done to the host.
    fn put_host(&self, host: &HostState) -> Result<(), StateError>;

    /// Removes all networks and containers, also those that could not be read and those set aside: the end of a
    /// `purge`, which was asked for. What is known of the host and the node stays.
    fn clear(&self) -> Result<(), StateError>;
}

/// All that is on record.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Loaded {
    /// The networks, by id.
    pub networks: Vec<Network>,
    /// The containers, by id.
    pub containers: Vec<Container>,
    /// What was done to the host since it booted.
    pub host: HostState,
    /// The random bits of the node's IPv6 prefix, if some were drawn.
    pub ula_seed: Option<[u8; 5]>,
    /// This node's id, if one was drawn.
    pub node_id: Option<String>,
    /// The last good view of the cluster, by key.
    pub cluster: Vec<(String, Vec<u8>)>,
    /// What could not be read.
    pub problems: Vec<Problem>,
}

/// Records of one kind, and what could not be read of them.
#[derive(Clone, Debug, PartialEq)]
pub struct Records<T> {
    /// The good ones.
    pub records: Vec<T>,
    /// The others.
    pub problems: Vec<Problem>,
}

impl<T> Default for Records<T> {
    fn default() -> Self {
        Self {
            records: Vec::new(),
            problems: Vec::new(),
        }
    }
}

/// What netd did to the host outside its own objects. A reboot undoes it, and so it is kept beside the containers.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct HostState {
    /// The settings that were changed, for `purge` to give back.
    #[serde(default)]
    pub changes: Vec<HostChange>,
    /// Whether everything was purged, so that nothing is made again unasked.
    #[serde(default)]
    pub purged: bool,
    /// What a newer version wrote.
    #[serde(flatten)]
    pub unknown: Unknown,
}
