//! A store that fails, or dies with its daemon, at the n-th step: see [`Faults`].

use std::io;
use std::path::Path;
use std::sync::Arc;

use netd_model::record::{Container, Network};
use netd_model::{ContainerId, NetworkId};

use super::error::{Place, StateError};
use super::{HostState, Loaded, Store};
use crate::kernel::faulty::{Domain, Faults};

/// Wraps a store.
#[derive(Debug)]
pub struct FaultyStore {
    inner: Arc<dyn Store>,
    faults: Arc<Faults>,
}

impl FaultyStore {
    /// A store whose steps count and fail as `faults` says.
    pub fn new(inner: Arc<dyn Store>, faults: Arc<Faults>) -> Self {
        Self { inner, faults }
    }

    fn step<T>(
        &self,
        what: &str,
        run: impl FnOnce(&dyn Store) -> Result<T, StateError>,
    ) -> Result<T, StateError> {
        let refuse = |error: io::Error| {
            StateError::unavailable(Place::Run, "written", Path::new("memory"), error)
        };
        self.faults
            .step(Domain::Store, &what, || run(&*self.inner), refuse)
    }
}

impl Store for FaultyStore {
    fn load(&self) -> Result<Loaded, StateError> {
        self.step("load records", |store| store.load())
    }

    fn put_network(&self, network: &Network) -> Result<(), StateError> {
        self.step(&format!("write network {}", network.name), |store| {
            store.put_network(network)
        })
    }

    fn delete_network(&self, id: &NetworkId) -> Result<(), StateError> {
        self.step(&format!("drop network {id}"), |store| {
            store.delete_network(id)
        })
    }

    fn put_ula_seed(&self, seed: [u8; 5]) -> Result<(), StateError> {
        self.step("write seed", |store| store.put_ula_seed(seed))
    }

    fn put_node_id(&self, id: &str) -> Result<(), StateError> {
        self.step("write the node's id", |store| store.put_node_id(id))
    }

    fn put_cluster(&self, keys: &[(String, Option<Vec<u8>>)]) -> Result<(), StateError> {
        self.step("write the view of the cluster", |store| {
            store.put_cluster(keys)
        })
    }

    fn put_container(&self, container: &Container) -> Result<(), StateError> {
        let what = format!("write container {} {:?}", container.name, container.phase);
        self.step(&what, |store| store.put_container(container))
    }

    fn delete_container(&self, id: &ContainerId) -> Result<(), StateError> {
        self.step(&format!("drop container {id}"), |store| {
            store.delete_container(id)
        })
    }

    fn put_host(&self, host: &HostState) -> Result<(), StateError> {
        self.step("write host", |store| store.put_host(host))
    }

    fn clear(&self) -> Result<(), StateError> {
        self.step("clear", |store| store.clear())
    }
}
