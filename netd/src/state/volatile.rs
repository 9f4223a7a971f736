//! Records that end with a reboot, in the run directory: `containers/ID.json` for each container, and `host.json`.
//!
//! An attach waits for this: a record is written to a temporary name and renamed, without fsync. The id of the boot
//! is in each file, so that a run directory which survived a reboot by mistake is not believed.

use std::collections::BTreeSet;
use std::ffi::OsStr;
use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Mutex, PoisonError};

use netd_model::ContainerId;
use netd_model::record::Container;
use serde::Serialize;
use serde::de::DeserializeOwned;

use super::envelope::{self, Fault, KNOWN, Key};
use super::error::{Place, Problem, StateError};
use super::{HostState, Records, files};

/// Where what was written in an earlier boot goes: kept until the next reboot.
const STALE: &str = "stale";
/// Where damaged files go: kept until somebody removes them.
const DAMAGED: &str = "damaged";

/// The records in the run directory. Calls block: for executor threads only.
#[derive(Debug)]
pub struct Volatile {
    containers: PathBuf,
    host: PathBuf,
    boot_id: String,
    /// Number of the next temporary name: two threads never write to one file.
    next: AtomicU64,
    /// Containers whose record cannot be read, but by a newer netd: it stays in its place.
    unreadable: Mutex<BTreeSet<ContainerId>>,
}

/// What a file turned out to be.
enum Found<T> {
    Good(T),
    /// Of an earlier boot.
    Stale,
    /// Only readable for a newer netd: stays where it is.
    Newer(String),
    Damaged(String),
}

/// The directory of containers, read and not yet changed.
#[derive(Default)]
struct Scan {
    found: Vec<(ContainerId, PathBuf, Found<Container>)>,
    /// Files of which the writing never ended.
    leftovers: Vec<PathBuf>,
    /// What netd never wrote.
    foreign: Vec<PathBuf>,
}

impl Volatile {
    /// The records in a run directory, which is made if it is not there.
    ///
    /// The directory itself is open to others, for the sake of the socket in it; the records are not.
    pub fn open(run_dir: &Path, boot_id: &str) -> Result<Self, StateError> {
        let volatile = Self {
            containers: run_dir.join("containers"),
            host: run_dir.join("host.json"),
            boot_id: boot_id.to_owned(),
            next: AtomicU64::new(0),
            unreadable: Mutex::default(),
        };
        files::make_dir(Place::Run, run_dir, 0o755)?;
        files::make_dir(Place::Run, &volatile.containers, 0o700)?;
        Ok(volatile)
    }

    /// Reads all records, sets aside what is stale or damaged, and deletes what was never written to its end.
    ///
    /// When a newer major version wrote any of it, that is the error, and nothing was changed.
    pub fn load(&self) -> Result<(Records<Container>, HostState), StateError> {
        let scan = self.scan()?;
        let host = self.examine(Key::Host, &self.host)?;
        let mut containers = self.settle(scan)?;
        let host = self.settle_host(host, &mut containers.problems)?;
        Ok((containers, host))
    }

    /// Writes a container.
    pub fn put_container(&self, container: &Container) -> Result<(), StateError> {
        let path = self.path(&container.id);
        self.refuse_unreadable(&container.id, &path)?;
        self.write(Key::Container, &path, container)
    }

    /// Removes a container; one that is not there is fine.
    pub fn delete_container(&self, id: &ContainerId) -> Result<(), StateError> {
        let path = self.path(id);
        self.refuse_unreadable(id, &path)?;
        files::remove(&path).map_err(|error| unavailable("removed", &path, error))
    }

    /// Writes what was done to the host.
    pub fn put_host(&self, host: &HostState) -> Result<(), StateError> {
        self.write(Key::Host, &self.host, host)
    }

    /// Removes all records of containers, and all that was set aside.
    pub fn clear(&self) -> Result<(), StateError> {
        let dir = &self.containers;
        files::remove_dir(dir).map_err(|error| unavailable("removed", dir, error))?;
        self.unreadable().clear();
        files::make_dir(Place::Run, dir, 0o700)
    }

    fn path(&self, id: &ContainerId) -> PathBuf {
        // An id has no slash and starts with a letter or digit, so this is a name in the directory.
        self.containers.join(format!("{id}.json"))
    }

    fn write<T: Serialize>(&self, key: Key, path: &Path, record: &T) -> Result<(), StateError> {
        let number = self.next.fetch_add(1, Ordering::Relaxed);
        envelope::encode_boot(key, &self.boot_id, record)
            .map_err(io::Error::from)
            .and_then(|bytes| {
                files::write(
                    path,
                    &files::temporary(&self.containers, path, number),
                    &bytes,
                )
            })
            .map_err(|error| unavailable("written", path, error))
    }

    fn unreadable(&self) -> std::sync::MutexGuard<'_, BTreeSet<ContainerId>> {
        // The set is whole after any panic: each change is one call.
        self.unreadable
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
    }

    fn refuse_unreadable(&self, id: &ContainerId, path: &Path) -> Result<(), StateError> {
        if self.unreadable().contains(id) {
            return Err(StateError::Unreadable {
                object: format!("container {id}"),
                path: path.to_owned(),
            });
        }
        Ok(())
    }

    /// Looks at everything and changes nothing.
    fn scan(&self) -> Result<Scan, StateError> {
        let mut scan = Scan::default();
        let unlisted = |error| unavailable("listed", &self.containers, error);
        for entry in fs::read_dir(&self.containers).map_err(unlisted)? {
            let path = entry.map_err(unlisted)?.path();
            match path.file_name().and_then(OsStr::to_str) {
                Some(STALE | DAMAGED) => {}
                Some(name) if files::is_temporary(name) => scan.leftovers.push(path),
                Some(name) => match name.strip_suffix(".json").map(ContainerId::parse) {
                    Some(Ok(id)) => {
                        let found = self.examine_container(&id, &path)?;
                        scan.found.push((id, path, found));
                    }
                    _ => scan.foreign.push(path),
                },
                None => scan.foreign.push(path),
            }
        }
        scan.found.sort_by(|(a, ..), (b, ..)| a.cmp(b));
        Ok(scan)
    }

    fn examine_container(
        &self,
        id: &ContainerId,
        path: &Path,
    ) -> Result<Found<Container>, StateError> {
        Ok(match self.examine::<Container>(Key::Container, path)? {
            Some(Found::Good(container)) if container.id != *id => {
                Found::Damaged(format!("it is the record of container {}", container.id))
            }
            Some(found) => found,
            None => Found::Damaged("it went away while it was read".to_owned()),
        })
    }

    fn examine<T: DeserializeOwned>(
        &self,
        key: Key,
        path: &Path,
    ) -> Result<Option<Found<T>>, StateError> {
        let read = files::read(path).map_err(|error| unavailable("read", path, error))?;
        let bytes = match read {
            None => return Ok(None),
            Some(Err(why)) => return Ok(Some(Found::Damaged(why.to_owned()))),
            Some(Ok(bytes)) => bytes,
        };
        Ok(Some(
            match envelope::decode_boot(key, &self.boot_id, &bytes) {
                Ok(Some(record)) => Found::Good(record),
                Ok(None) => Found::Stale,
                Err(Fault::Newer(why)) => Found::Newer(why),
                Err(Fault::Damaged(why)) => Found::Damaged(why),
                Err(Fault::TooNew(found)) => {
                    return Err(StateError::TooNew {
                        place: Place::Run,
                        path: path.to_owned(),
                        found,
                        known: KNOWN,
                    });
                }
            },
        ))
    }

    fn settle(&self, scan: Scan) -> Result<Records<Container>, StateError> {
        let mut loaded = Records::default();
        let mut stale = Vec::new();
        self.unreadable().clear();
        for (id, path, found) in scan.found {
            match found {
                Found::Good(container) => loaded.records.push(container),
                Found::Stale => stale.push(path),
                Found::Damaged(why) => {
                    loaded.problems.push(self.set_damaged_aside(
                        format!("container {id}"),
                        &why,
                        &path,
                        "restart the container",
                    )?);
                }
                Found::Newer(why) => {
                    loaded.problems.push(Problem {
                        object: format!("container {id}"),
                        why: format!("its record {} cannot be read: {why}", path.display()),
                        remedy: "start the newer netd again".to_owned(),
                    });
                    self.unreadable().insert(id);
                }
            }
        }
        loaded.problems.extend(self.set_stale_aside(&stale)?);
        loaded
            .problems
            .extend(scan.foreign.iter().map(|path| foreign(path)));
        for path in &scan.leftovers {
            files::remove(path).map_err(|error| unavailable("removed", path, error))?;
        }
        Ok(loaded)
    }

    /// A damaged one is set aside; a stale one is of no use and is overwritten some day.
    fn settle_host(
        &self,
        found: Option<Found<HostState>>,
        problems: &mut Vec<Problem>,
    ) -> Result<HostState, StateError> {
        match found {
            Some(Found::Good(host)) => return Ok(host),
            Some(Found::Damaged(why) | Found::Newer(why)) => {
                problems.push(self.set_damaged_aside(
                    "settings of the host".to_owned(),
                    &why,
                    &self.host,
                    "a purge gives back the settings in there no more",
                )?);
            }
            Some(Found::Stale) | None => {}
        }
        Ok(HostState::default())
    }

    fn set_damaged_aside(
        &self,
        object: String,
        why: &str,
        path: &Path,
        remedy: &str,
    ) -> Result<Problem, StateError> {
        let kept = files::set_aside(path, &self.containers.join(DAMAGED))
            .map_err(|error| unavailable("set aside", path, error))?;
        Ok(Problem {
            why: format!("its record {} is damaged: {why}", path.display()),
            remedy: format!("it was kept as {}; {remedy}", kept.display()),
            object,
        })
    }

    fn set_stale_aside(&self, paths: &[PathBuf]) -> Result<Option<Problem>, StateError> {
        if paths.is_empty() {
            return Ok(None);
        }
        let dir = self.containers.join(STALE);
        // What an even earlier boot left is worth nothing, and would pile up.
        files::remove_dir(&dir).map_err(|error| unavailable("removed", &dir, error))?;
        for path in paths {
            files::set_aside(path, &dir).map_err(|error| unavailable("set aside", path, error))?;
        }
        Ok(Some(Problem {
            object: self.containers.display().to_string(),
            why: format!(
                "{} records are of an earlier boot and were moved to {}",
                paths.len(),
                dir.display()
            ),
            remedy: "put --run-dir on a tmpfs, which a reboot empties".to_owned(),
        }))
    }
}

fn foreign(path: &Path) -> Problem {
    Problem {
        object: path.display().to_string(),
        why: "netd did not make it".to_owned(),
        remedy: "move it away".to_owned(),
    }
}

fn unavailable(done: &'static str, path: &Path, error: io::Error) -> StateError {
    StateError::unavailable(Place::Run, done, path, error)
}

#[cfg(test)]
mod tests;
