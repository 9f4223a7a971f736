//! The form of a record on disk: JSON with a version.
//!
//! A newer minor version only adds fields to records, never to what is around them; a record keeps those it does not
//! know. A newer major version is not touched.

use std::fmt;

use serde::de::DeserializeOwned;
use serde::ser::SerializeMap as _;
use serde::{Deserialize, Serialize, Serializer};
use serde_json::{Map, Value};

/// Version of the form of records.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Version {
    /// Changed when an older netd must not touch the record.
    pub major: u32,
    /// Changed when fields are added.
    pub minor: u32,
}

impl fmt::Display for Version {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}.{}", self.major, self.minor)
    }
}

/// The version this netd writes.
pub(super) const KNOWN: Version = Version { major: 1, minor: 0 };

/// Why a record is not readable.
#[derive(Debug, PartialEq)]
pub(crate) enum Fault {
    /// A newer major version wrote it.
    TooNew(Version),
    /// A newer minor version wrote it, and not only added fields.
    Newer(String),
    /// It is no record, or a damaged one.
    Damaged(String),
}

impl Version {
    /// Whether what has this version may be read.
    pub(super) fn check(self) -> Result<(), Fault> {
        match self.major {
            major if major > KNOWN.major => Err(Fault::TooNew(self)),
            0 => Err(Fault::Damaged(
                "it has version 0, which never was".to_owned(),
            )),
            _ => Ok(()),
        }
    }
}

/// A record in a file of the run directory: a reboot ends its truth.
struct Beside<'a, T> {
    key: Key,
    boot_id: &'a str,
    record: &'a T,
}

impl<T: Serialize> Serialize for Beside<'_, T> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let mut map = serializer.serialize_map(Some(3))?;
        map.serialize_entry("version", &KNOWN)?;
        map.serialize_entry("boot_id", self.boot_id)?;
        map.serialize_entry(self.key.as_str(), self.record)?;
        map.end()
    }
}

/// A record in the database.
#[derive(Serialize)]
struct Within<'a, T> {
    version: Version,
    #[serde(flatten)]
    record: &'a T,
}

/// The key of a record within a file of the run directory.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Key {
    Container,
    Host,
}

impl Key {
    const fn as_str(self) -> &'static str {
        match self {
            Self::Container => "container",
            Self::Host => "host",
        }
    }
}

/// `{"version", ...record}`.
pub(crate) fn encode<T: Serialize>(record: &T) -> serde_json::Result<Vec<u8>> {
    serde_json::to_vec(&Within {
        version: KNOWN,
        record,
    })
}

/// `{"version", "boot_id", KEY: {...record}}`.
pub(super) fn encode_boot<T: Serialize>(
    key: Key,
    boot_id: &str,
    record: &T,
) -> serde_json::Result<Vec<u8>> {
    serde_json::to_vec(&Beside {
        key,
        boot_id,
        record,
    })
}

/// Reads what [`encode`] wrote.
pub(crate) fn decode<T: DeserializeOwned>(bytes: &[u8]) -> Result<T, Fault> {
    let (version, fields) = open(bytes)?;
    record(version, Value::Object(fields))
}

/// Reads what [`encode_boot`] wrote; nothing if that was in another boot.
pub(super) fn decode_boot<T: DeserializeOwned>(
    key: Key,
    boot_id: &str,
    bytes: &[u8],
) -> Result<Option<T>, Fault> {
    let (version, mut fields) = open(bytes)?;
    match fields.get("boot_id") {
        Some(Value::String(id)) if id == boot_id => {}
        Some(Value::String(_)) => return Ok(None),
        _ => return Err(damaged(version, "it has no boot_id")),
    }
    match fields.remove(key.as_str()) {
        Some(value) => record(version, value).map(Some),
        None => Err(damaged(version, &format!("it has no {}", key.as_str()))),
    }
}

/// The version of a record that a newer major version wrote.
pub(super) fn newer_major(bytes: &[u8]) -> Option<Version> {
    match open(bytes) {
        Err(Fault::TooNew(found)) => Some(found),
        _ => None,
    }
}

fn open(bytes: &[u8]) -> Result<(Version, Map<String, Value>), Fault> {
    let no_json =
        |error: serde_json::Error| Fault::Damaged(format!("it is no JSON of a record: {error}"));
    let mut fields: Map<String, Value> = serde_json::from_slice(bytes).map_err(no_json)?;
    let version = fields
        .remove("version")
        .ok_or_else(|| Fault::Damaged("it has no version".to_owned()))?;
    let version: Version = serde_json::from_value(version).map_err(no_json)?;
    version.check()?;
    Ok((version, fields))
}

fn record<T: DeserializeOwned>(version: Version, value: Value) -> Result<T, Fault> {
    serde_json::from_value(value).map_err(|error| damaged(version, &error.to_string()))
}

fn damaged(version: Version, why: &str) -> Fault {
    if version.minor > KNOWN.minor {
        Fault::Newer(format!(
            "it has format {version}, and this netd knows {KNOWN}: {why}"
        ))
    } else {
        Fault::Damaged(why.to_owned())
    }
}
