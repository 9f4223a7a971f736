//! A store without a disk, for tests: its content outlives the daemon under test, and its writes fail when told to.

use std::collections::BTreeMap;
use std::io;
use std::path::Path;
use std::sync::{Mutex, MutexGuard, PoisonError};

use netd_model::record::{Container, Network};
use netd_model::{ContainerId, NetworkId};
use nix::errno::Errno;

use super::error::{Place, Problem, StateError};
use super::{HostState, Loaded, Store};

/// Records in memory.
#[derive(Debug, Default)]
pub struct Memory {
    inner: Mutex<Inner>,
}

#[derive(Debug, Default)]
struct Inner {
    networks: BTreeMap<NetworkId, Network>,
    containers: BTreeMap<ContainerId, Container>,
    host: HostState,
    ula_seed: Option<[u8; 5]>,
    node_id: Option<String>,
    cluster: BTreeMap<String, Vec<u8>>,
    problems: Vec<Problem>,
    writes: u64,
    fail_at: Option<u64>,
}

impl Memory {
    /// An empty store.
    pub fn new() -> Self {
        Self::default()
    }

    /// Lets the n-th write from now fail with ENOSPC, and change nothing; 1 is the next. Those after it succeed.
    pub fn fail_at(&self, n: u64) {
        let mut inner = self.lock();
        inner.fail_at = Some(inner.writes.saturating_add(n));
    }

    /// How many writes there were, with those that failed.
    pub fn writes(&self) -> u64 {
        self.lock().writes
    }

    /// What a load reports as unreadable.
    pub fn set_problems(&self, problems: Vec<Problem>) {
        self.lock().problems = problems;
    }

    fn lock(&self) -> MutexGuard<'_, Inner> {
        // A test that panicked elsewhere leaves it whole: each change is one call.
        self.inner.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn write(&self, place: Place, change: impl FnOnce(&mut Inner)) -> Result<(), StateError> {
        let mut inner = self.lock();
        inner.writes += 1;
        if inner.fail_at == Some(inner.writes) {
            let error = io::Error::from(Errno::ENOSPC);
            return Err(StateError::unavailable(
                place,
                "written",
                Path::new("memory"),
                error,
            ));
        }
        change(&mut inner);
        Ok(())
    }
}

impl Store for Memory {
    fn load(&self) -> Result<Loaded, StateError> {
        let inner = self.lock();
        Ok(Loaded {
            networks: inner.networks.values().cloned().collect(),
            containers: inner.containers.values().cloned().collect(),
            host: inner.host.clone(),
            ula_seed: inner.ula_seed,
            node_id: inner.node_id.clone(),
            cluster: inner.cluster.clone().into_iter().collect(),
            problems: inner.problems.clone(),
        })
    }

    fn put_network(&self, network: &Network) -> Result<(), StateError> {
        let record = network.clone();
        self.write(Place::State, |inner| {
            inner.networks.insert(record.id.clone(), record);
        })
    }

    fn delete_network(&self, id: &NetworkId) -> Result<(), StateError> {
        self.write(Place::State, |inner| {
            inner.networks.remove(id);
        })
    }

    fn put_ula_seed(&self, seed: [u8; 5]) -> Result<(), StateError> {
        self.write(Place::State, |inner| inner.ula_seed = Some(seed))
    }

    fn put_node_id(&self, id: &str) -> Result<(), StateError> {
        self.write(Place::State, |inner| inner.node_id = Some(id.to_owned()))
    }

    fn put_cluster(&self, keys: &[(String, Option<Vec<u8>>)]) -> Result<(), StateError> {
        self.write(Place::State, |inner| {
            for (key, value) in keys {
                match value {
                    Some(value) => inner.cluster.insert(key.clone(), value.clone()),
                    None => inner.cluster.remove(key),
                };
            }
        })
    }

    fn put_container(&self, container: &Container) -> Result<(), StateError> {
        let record = container.clone();
        self.write(Place::Run, |inner| {
            inner.containers.insert(record.id.clone(), record);
        })
    }

    fn delete_container(&self, id: &ContainerId) -> Result<(), StateError> {
        self.write(Place::Run, |inner| {
            inner.containers.remove(id);
        })
    }

    fn put_host(&self, host: &HostState) -> Result<(), StateError> {
        let record = host.clone();
        self.write(Place::Run, |inner| inner.host = record)
    }

    fn clear(&self) -> Result<(), StateError> {
        self.write(Place::State, |inner| {
            inner.networks.clear();
            inner.containers.clear();
            inner.problems.clear();
        })
    }
}
