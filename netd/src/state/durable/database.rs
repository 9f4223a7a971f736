//! The file of the database: made, verified, opened, and its errors explained.

use std::fs::{self, OpenOptions};
use std::io;
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::Path;

use redb::backends::{FileBackend, InMemoryBackend};
use redb::{
    Builder, Database, ReadableDatabase as _, ReadableTable as _, StorageBackend, TableError,
};

use super::{META, NETWORKS};
use crate::state::envelope::{self, Fault, KNOWN, Version};
use crate::state::error::{Place, StateError};
use crate::state::files;

/// The version of the whole store, in [`META`].
const FORMAT: &str = "format";
/// Some hundred networks; redb would take up to 1 GiB.
const CACHE: usize = 1 << 20;

/// Keys and values of a table.
pub(super) type Values = Vec<(String, Vec<u8>)>;

fn builder() -> Builder {
    let mut builder = Database::builder();
    builder
        .set_cache_size(CACHE)
        .set_check_integrity_on_open(true);
    builder
}

pub(super) fn open_file(path: &Path) -> Result<Database, redb::DatabaseError> {
    builder().open(path)
}

/// Opens what a backend holds; the caller knows that it is not empty, or wants a new one.
pub(super) fn open_backend(backend: impl StorageBackend) -> Result<Database, redb::DatabaseError> {
    builder().create_with_backend(backend)
}

/// Makes an empty database that appears under its name when it is complete.
pub(super) fn create(dir: &Path, path: &Path) -> Result<(), StateError> {
    let unmade = |error| StateError::unavailable(Place::State, "made", path, error);
    let fresh = path.with_extension("redb.new");
    files::remove(&fresh).map_err(unmade)?;
    let file = OpenOptions::new()
        .read(true)
        .write(true)
        .create_new(true)
        .mode(0o600)
        .open(&fresh);
    let backend =
        FileBackend::new(file.map_err(unmade)?).map_err(|error| explain(path, "made", error))?;
    fill(backend).map_err(|error| explain(path, "made", error))?;
    fs::rename(&fresh, path)
        .and_then(|()| files::sync_dir(dir))
        .map_err(unmade)
}

fn fill(backend: FileBackend) -> Result<(), redb::Error> {
    let database = open_backend(backend)?;
    let mut transaction = database.begin_write()?;
    transaction.set_two_phase_commit(true);
    transaction.open_table(NETWORKS)?;
    let format = format!(r#"{{"major":{},"minor":{}}}"#, KNOWN.major, KNOWN.minor);
    transaction
        .open_table(META)?
        .insert(FORMAT, format.as_str())?;
    transaction.commit()?;
    database.close()?;
    Ok(())
}

/// Opens a copy in memory: whatever is wrong with the file, not a byte of it changes.
pub(super) fn verify(path: &Path) -> Result<(), StateError> {
    let damaged = |why: String| StateError::Damaged {
        path: path.to_owned(),
        why,
    };
    let bytes = fs::read(path)
        .map_err(|error| StateError::unavailable(Place::State, "read", path, error))?;
    if bytes.is_empty() {
        return Err(damaged("it is empty".to_owned()));
    }
    let (version, values) = contents(&bytes).map_err(|error| damaged(error.to_string()))?;
    match version.check() {
        Ok(()) => {}
        Err(Fault::TooNew(found)) => return Err(too_new(path, found)),
        Err(Fault::Damaged(why) | Fault::Newer(why)) => return Err(damaged(why)),
    }
    match values
        .iter()
        .find_map(|(_, value)| envelope::newer_major(value))
    {
        Some(found) => Err(too_new(path, found)),
        None => Ok(()),
    }
}

fn contents(bytes: &[u8]) -> Result<(Version, Values), redb::Error> {
    let copy = InMemoryBackend::new();
    copy.set_len(bytes.len() as u64)?;
    copy.write(0, bytes)?;
    let database = open_backend(copy)?;
    Ok((format(&database)?, networks(&database)?))
}

fn format(database: &Database) -> Result<Version, redb::Error> {
    let missing =
        || redb::Error::Corrupted("it has no version, so netd did not make it".to_owned());
    let meta = match database.begin_read()?.open_table(META) {
        Err(TableError::TableDoesNotExist(_)) => return Err(missing()),
        meta => meta?,
    };
    let text = meta.get(FORMAT)?.ok_or_else(missing)?.value().to_owned();
    serde_json::from_str(&text)
        .map_err(|error| redb::Error::Corrupted(format!("its version is no JSON: {error}")))
}

/// The records of all networks, as they are.
pub(super) fn networks(database: &Database) -> Result<Values, redb::Error> {
    let table = database.begin_read()?.open_table(NETWORKS)?;
    let mut values = Vec::new();
    for entry in table.iter()? {
        let (key, value) = entry?;
        values.push((key.value().to_owned(), value.value().to_vec()));
    }
    Ok(values)
}

pub(super) fn too_new(path: &Path, found: Version) -> StateError {
    StateError::TooNew {
        place: Place::State,
        path: path.to_owned(),
        found,
        known: KNOWN,
    }
}

pub(super) fn explain(
    path: &Path,
    done: &'static str,
    error: impl Into<redb::Error>,
) -> StateError {
    let unavailable = |error| StateError::unavailable(Place::State, done, path, error);
    match error.into() {
        redb::Error::DatabaseAlreadyOpen | redb::Error::LockProtocolMismatch => {
            StateError::Locked {
                place: Place::State,
                path: path.to_owned(),
                pid: None,
            }
        }
        redb::Error::Io(error) => unavailable(error),
        error @ (redb::Error::PreviousIo | redb::Error::DatabaseClosed) => {
            unavailable(io::Error::other(error))
        }
        error => StateError::Damaged {
            path: path.to_owned(),
            why: error.to_string(),
        },
    }
}
