//! The real store: the database and the run directory.

use std::path::Path;

use netd_model::id::hex;
use netd_model::record::{Container, Network};
use netd_model::{ContainerId, NetworkId};

use super::error::{Place, Problem, StateError};
use super::{Durable, HostState, Loaded, Meta, Store, Volatile};

const BOOT_ID: &str = "/proc/sys/kernel/random/boot_id";

/// The id that the kernel drew when it booted. The only file under `/proc` that is read here.
pub fn boot_id() -> Result<String, StateError> {
    std::fs::read_to_string(BOOT_ID)
        .map(|text| text.trim().to_owned())
        .map_err(|error| StateError::unavailable(Place::Run, "read", Path::new(BOOT_ID), error))
}

/// Records on disk. Calls block: for executor threads only.
#[derive(Debug)]
pub struct Disk {
    durable: Durable,
    volatile: Volatile,
}

impl Disk {
    /// Opens both directories. The caller holds the [`RunLock`](super::RunLock) of the run directory.
    pub fn open(state_dir: &Path, run_dir: &Path) -> Result<Self, StateError> {
        let durable = Durable::open(state_dir)?;
        let volatile = Volatile::open(run_dir, &boot_id()?)?;
        Ok(Self { durable, volatile })
    }

    /// The part that survives a reboot.
    pub fn durable(&self) -> &Durable {
        &self.durable
    }

    fn ula_seed(&self, problems: &mut Vec<Problem>) -> Result<Option<[u8; 5]>, StateError> {
        let Some(text) = self.durable.meta(Meta::UlaSeed)? else {
            return Ok(None);
        };
        let seed = parse_seed(&text);
        if seed.is_none() {
            problems.push(Problem {
                object: "IPv6 prefix of this node".to_owned(),
                why: format!(
                    "its record in {} is not ten hex digits",
                    self.durable.path().display()
                ),
                remedy: "nothing to do: networks keep their subnets, new ones get another prefix"
                    .to_owned(),
            });
        }
        Ok(seed)
    }
}

impl Store for Disk {
    fn load(&self) -> Result<Loaded, StateError> {
        let mut networks = self.durable.networks()?;
        let ula_seed = self.ula_seed(&mut networks.problems)?;
        let (containers, host) = self.volatile.load()?;
        let mut problems = networks.problems;
        problems.extend(containers.problems);
        Ok(Loaded {
            networks: networks.records,
            containers: containers.records,
            host,
            ula_seed,
            node_id: self.durable.meta(Meta::NodeId)?,
            cluster: self.durable.cluster()?,
            problems,
        })
    }

    fn put_network(&self, network: &Network) -> Result<(), StateError> {
        self.durable.put_network(network)
    }

    fn delete_network(&self, id: &NetworkId) -> Result<(), StateError> {
        self.durable.delete_network(id)
    }

    fn put_ula_seed(&self, seed: [u8; 5]) -> Result<(), StateError> {
        self.durable.put_meta(Meta::UlaSeed, &hex(&seed))
    }

    fn put_node_id(&self, id: &str) -> Result<(), StateError> {
        self.durable.put_meta(Meta::NodeId, id)
    }

    fn put_cluster(&self, keys: &[(String, Option<Vec<u8>>)]) -> Result<(), StateError> {
        self.durable.put_cluster(keys)
    }

    fn put_container(&self, container: &Container) -> Result<(), StateError> {
        self.volatile.put_container(container)
    }

    fn delete_container(&self, id: &ContainerId) -> Result<(), StateError> {
        self.volatile.delete_container(id)
    }

    fn put_host(&self, host: &HostState) -> Result<(), StateError> {
        self.volatile.put_host(host)
    }

    fn clear(&self) -> Result<(), StateError> {
        self.volatile.clear()?;
        self.durable.clear()
    }
}

fn parse_seed(text: &str) -> Option<[u8; 5]> {
    if text.len() != 10 || !text.bytes().all(|b| b.is_ascii_hexdigit()) {
        return None;
    }
    let bits = u64::from_str_radix(text, 16).ok()?;
    let [_, _, _, seed @ ..] = bits.to_be_bytes();
    Some(seed)
}
