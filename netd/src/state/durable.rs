//! Records that survive a reboot: the database `netd.redb` in the state directory.
//!
//! How redb is used, and why (tried on 1,800 damaged files for each way):
//! - every page is verified when the file is opened: without that, damage shows as a panic or as a lost record;
//! - commits have two phases: with one, a damaged page lets redb go back to the commit before, without a word;
//! - the file is verified in memory first, because redb writes to a file that it then cannot open, and to one of a
//!   newer format;
//! - a new database gets its name when it is complete, so an empty file is a damaged one;
//! - after an error of the disk redb refuses all further work, so the database is opened again.

use std::fmt;
use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::{Mutex, PoisonError};

use netd_model::NetworkId;
use netd_model::record::Network;
use redb::{
    Database, ReadableDatabase as _, ReadableTable as _, Table, TableDefinition, WriteTransaction,
};

use self::database::{create, explain, open_file, too_new, verify};
use super::envelope::{self, Fault};
use super::error::{Place, Problem, StateError};
use super::lock::Lock;
use super::{Records, files};

mod database;

/// By network id; the values are versioned JSON.
const NETWORKS: TableDefinition<'_, &str, &[u8]> = TableDefinition::new("networks");
/// Small facts.
const META: TableDefinition<'_, &str, &str> = TableDefinition::new("meta");
/// The last good view of the cluster: keys and values of the shared store. Made with the first of them.
const CLUSTER: TableDefinition<'_, &str, &[u8]> = TableDefinition::new("cluster");
/// A small fact about this node.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Meta {
    /// The random bits of its IPv6 prefix, ten hex digits.
    UlaSeed,
    /// Its id.
    NodeId,
}

impl Meta {
    const fn key(self) -> &'static str {
        match self {
            Self::UlaSeed => "ula_seed",
            Self::NodeId => "node_id",
        }
    }
}

type Open = Box<dyn Fn(&Path) -> Result<Database, redb::Error> + Send + Sync>;

/// The database in the state directory. Calls block, a write for two fsyncs: for executor threads only.
pub struct Durable {
    path: PathBuf,
    /// Nothing after an error of the disk, until the next use.
    database: Mutex<Option<Database>>,
    open: Open,
    /// Released last, when the database is closed.
    _lock: Lock,
}

impl fmt::Debug for Durable {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Durable")
            .field("path", &self.path)
            .finish_non_exhaustive()
    }
}

impl Durable {
    /// Opens the database in a state directory; both are made if they are not there.
    pub fn open(state_dir: &Path) -> Result<Self, StateError> {
        Self::open_with(
            state_dir,
            Box::new(|path| open_file(path).map_err(redb::Error::from)),
        )
    }

    pub(super) fn open_with(state_dir: &Path, open: Open) -> Result<Self, StateError> {
        files::make_dir(Place::State, state_dir, 0o700)?;
        let lock = Lock::acquire(Place::State, &state_dir.join("netd.redb.lock"))?;
        let path = state_dir.join("netd.redb");
        if fs::symlink_metadata(&path).is_err_and(|error| error.kind() == io::ErrorKind::NotFound) {
            create(state_dir, &path)?;
        }
        verify(&path)?;
        let database = open(&path).map_err(|error| explain(&path, "opened", error))?;
        Ok(Self {
            path,
            database: Mutex::new(Some(database)),
            open,
            _lock: lock,
        })
    }

    /// The file.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// All networks, by id.
    pub fn networks(&self) -> Result<Records<Network>, StateError> {
        let values = self.with("read", database::networks)?;
        let mut loaded = Records::default();
        for (key, value) in values {
            match decode(&key, &value) {
                Ok(network) => loaded.records.push(network),
                Err(Fault::TooNew(found)) => return Err(too_new(&self.path, found)),
                Err(fault) => loaded.problems.push(self.problem(&key, fault)),
            }
        }
        Ok(loaded)
    }

    /// Writes a network. One that could not be read is not overwritten.
    pub fn put_network(&self, network: &Network) -> Result<(), StateError> {
        let bytes = envelope::encode(network).map_err(|error| {
            StateError::unavailable(Place::State, "written", &self.path, error.into())
        })?;
        self.change(&network.id, |table| {
            table
                .insert(network.id.as_str(), bytes.as_slice())
                .map(drop)
        })
    }

    /// Removes a network; one that is not there is fine. One that could not be read stays.
    pub fn delete_network(&self, id: &NetworkId) -> Result<(), StateError> {
        self.change(id, |table| table.remove(id.as_str()).map(drop))
    }

    /// Removes all networks, also those that could not be read.
    pub fn clear(&self) -> Result<(), StateError> {
        self.write(|transaction| {
            transaction
                .open_table(NETWORKS)?
                .retain(|_, _| false)
                .map_err(redb::Error::from)
        })
    }

    /// Reads a fact.
    pub fn meta(&self, key: Meta) -> Result<Option<String>, StateError> {
        self.with("read", |database| {
            let table = database.begin_read()?.open_table(META)?;
            Ok(table.get(key.key())?.map(|value| value.value().to_owned()))
        })
    }

    /// Writes a fact.
    pub fn put_meta(&self, key: Meta, value: &str) -> Result<(), StateError> {
        self.write(|transaction| {
            Ok(transaction
                .open_table(META)?
                .insert(key.key(), value)
                .map(drop)?)
        })
    }

    /// The last good view of the cluster.
    pub fn cluster(&self) -> Result<Vec<(String, Vec<u8>)>, StateError> {
        self.with("read", |database| {
            let table = match database.begin_read()?.open_table(CLUSTER) {
                Err(redb::TableError::TableDoesNotExist(_)) => return Ok(Vec::new()),
                table => table?,
            };
            let mut values = Vec::new();
            for entry in table.iter()? {
                let (key, value) = entry?;
                values.push((key.value().to_owned(), value.value().to_vec()));
            }
            Ok(values)
        })
    }

    /// Writes, and without a value removes, keys of that view.
    pub fn put_cluster(&self, keys: &[(String, Option<Vec<u8>>)]) -> Result<(), StateError> {
        self.write(|transaction| {
            let mut table = transaction.open_table(CLUSTER)?;
            for (key, value) in keys {
                match value {
                    Some(value) => table.insert(key.as_str(), value.as_slice())?,
                    None => table.remove(key.as_str())?,
                };
            }
            Ok(())
        })
    }

    /// Changes the record of a network, unless what is there cannot be read.
    fn change(
        &self,
        id: &NetworkId,
        change: impl FnOnce(&mut Table<'_, &str, &[u8]>) -> Result<(), redb::StorageError>,
    ) -> Result<(), StateError> {
        let readable = self.write(|transaction| {
            let mut table = transaction.open_table(NETWORKS)?;
            let readable = table
                .get(id.as_str())?
                .is_none_or(|value| decode(id, value.value()).is_ok());
            if readable {
                change(&mut table)?;
            }
            Ok(readable)
        })?;
        if readable {
            return Ok(());
        }
        Err(StateError::Unreadable {
            object: format!("network {id}"),
            path: self.path.clone(),
        })
    }

    /// One transaction, on disk when this returns.
    fn write<T>(
        &self,
        work: impl FnOnce(&WriteTransaction) -> Result<T, redb::Error>,
    ) -> Result<T, StateError> {
        self.with("written", |database| {
            let mut transaction = database.begin_write()?;
            transaction.set_two_phase_commit(true);
            let result = work(&transaction)?;
            transaction.commit()?;
            Ok(result)
        })
    }

    fn with<T>(
        &self,
        done: &'static str,
        work: impl FnOnce(&Database) -> Result<T, redb::Error>,
    ) -> Result<T, StateError> {
        // Whoever panicked took the database out: there is none, or a whole one.
        let mut slot = self.database.lock().unwrap_or_else(PoisonError::into_inner);
        let database = match slot.take() {
            Some(database) => database,
            None => {
                (self.open)(&self.path).map_err(|error| explain(&self.path, "opened", error))?
            }
        };
        let result = work(&database).map_err(|error| explain(&self.path, done, error));
        if result.is_ok() {
            *slot = Some(database);
        }
        result
    }

    fn problem(&self, key: &str, fault: Fault) -> Problem {
        let (why, remedy) = match fault {
            Fault::Newer(why) => (why, "start the newer netd again"),
            Fault::Damaged(why) => (
                why,
                "stop netd and restore the file from a backup, or create the network anew",
            ),
            Fault::TooNew(found) => (
                format!("it has format {found}"),
                "start the newer netd again",
            ),
        };
        Problem {
            object: format!("network {}", netd_model::id::shorten(key)),
            why: format!(
                "its record in {} cannot be read: {why}",
                self.path.display()
            ),
            remedy: format!("{remedy}; the record was left as it is"),
        }
    }
}

fn decode(key: &str, value: &[u8]) -> Result<Network, Fault> {
    let network: Network = envelope::decode(value)?;
    if network.id.as_str() != key {
        return Err(Fault::Damaged(format!(
            "it is the record of network {}",
            network.id
        )));
    }
    Ok(network)
}

#[cfg(test)]
mod tests;
