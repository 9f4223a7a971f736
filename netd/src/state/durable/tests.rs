use std::os::unix::fs::PermissionsExt as _;

use netd_model::error::Code;
use proptest::prelude::*;
use redb::backends::FileBackend;
use serde_json::{Value, json};

use super::database::open_backend;
use super::*;
use crate::state::testing::{Scratch, add_fields, network, network_id, network_json, new_fields};

mod damage;
mod failing;

fn open(scratch: &Scratch) -> Durable {
    Durable::open(scratch.path()).unwrap()
}

fn file(scratch: &Scratch) -> PathBuf {
    scratch.join("netd.redb")
}

fn id(n: u8) -> NetworkId {
    NetworkId::parse(&network_id(n)).unwrap()
}

/// Writes a value past the store.
fn plant(scratch: &Scratch, key: &str, value: &[u8]) {
    let database = open_file(&file(scratch)).unwrap();
    let transaction = database.begin_write().unwrap();
    transaction
        .open_table(NETWORKS)
        .unwrap()
        .insert(key, value)
        .unwrap();
    transaction.commit().unwrap();
}

/// Reads a value past the store.
fn raw(scratch: &Scratch, key: &str) -> Vec<u8> {
    let values = database::networks(&open_file(&file(scratch)).unwrap()).unwrap();
    values
        .into_iter()
        .find(|(other, _)| other == key)
        .unwrap()
        .1
}

fn record(minor: u32, network: &Value) -> Value {
    let mut record = network.clone();
    record["version"] = json!({"major": 1, "minor": minor});
    record
}

/// A database with three networks, closed as usual.
fn filled() -> Scratch {
    let scratch = Scratch::new();
    let durable = open(&scratch);
    (1..=3).for_each(|n| durable.put_network(&network(n)).unwrap());
    scratch
}

#[test]
fn what_was_put_is_loaded_by_the_next_daemon() {
    let scratch = Scratch::new();
    let first = open(&scratch);
    for n in [3, 1, 2, 1] {
        first.put_network(&network(n)).unwrap();
    }
    first.delete_network(&id(3)).unwrap();
    first.delete_network(&id(3)).unwrap();
    first.put_meta(Meta::UlaSeed, "0123456789").unwrap();
    drop(first);
    let second = open(&scratch);
    assert_eq!(second.networks().unwrap().records, [network(1), network(2)]);
    assert_eq!(second.networks().unwrap().problems, []);
    assert_eq!(
        second.meta(Meta::UlaSeed).unwrap().as_deref(),
        Some("0123456789")
    );
    assert_eq!(second.meta(Meta::NodeId).unwrap(), None);
    second.clear().unwrap();
    assert_eq!(second.networks().unwrap(), Records::default());
    assert!(second.meta(Meta::UlaSeed).unwrap().is_some());
}

#[test]
fn records_are_for_their_owner_only() {
    let scratch = Scratch::new();
    let dir = scratch.join("new");
    Durable::open(&dir).unwrap();
    let mode = |path: &Path| fs::metadata(path).unwrap().permissions().mode() & 0o777;
    assert_eq!(mode(&dir), 0o700);
    assert_eq!(mode(&dir.join("netd.redb")), 0o600);
}

#[test]
fn a_second_daemon_is_told_who_is_the_first() {
    let scratch = Scratch::new();
    let first = open(&scratch);
    let error = Durable::open(scratch.path()).unwrap_err();
    assert_eq!(error.code(), Code::StoreUnavailable);
    let text = error.to_string();
    assert!(
        text.contains(&format!(
            "in use by another netd (pid {})",
            std::process::id()
        )),
        "{text}"
    );
    assert!(text.ends_with("use another --state-dir"), "{text}");
    drop(first);
    open(&scratch);
}

#[test]
fn a_database_that_another_program_has_open_is_locked() {
    let scratch = filled();
    let other = open_file(&file(&scratch)).unwrap();
    assert!(matches!(
        Durable::open(scratch.path()),
        Err(StateError::Locked { pid: None, .. })
    ));
    drop(other);
    open(&scratch);
}

#[test]
fn a_newer_major_version_of_the_store_is_not_touched() {
    for (format, found) in [
        (r#"{"major":2,"minor":1,"x":0}"#, "2.1"),
        (r#"{"major":9,"minor":0}"#, "9.0"),
    ] {
        let scratch = filled();
        let database = open_file(&file(&scratch)).unwrap();
        let transaction = database.begin_write().unwrap();
        transaction
            .open_table(META)
            .unwrap()
            .insert("format", format)
            .unwrap();
        transaction.commit().unwrap();
        drop(database);
        let before = fs::read(file(&scratch)).unwrap();
        let error = Durable::open(scratch.path()).unwrap_err();
        assert_eq!(error.code(), Code::StateTooNew);
        assert_eq!(
            error.to_string(),
            format!(
                "{} has format {found}, and this netd knows up to 1.0: start the newer netd again, or use another --state-dir",
                file(&scratch).display()
            )
        );
        assert!(fs::read(file(&scratch)).unwrap() == before);
    }
}

#[test]
fn a_newer_minor_version_of_the_store_is_accepted() {
    let scratch = filled();
    let durable = open(&scratch);
    let newer = r#"{"major":1,"minor":7}"#;
    durable
        .write(|transaction| {
            Ok(transaction
                .open_table(META)?
                .insert("format", newer)
                .map(drop)?)
        })
        .unwrap();
    drop(durable);
    assert_eq!(open(&scratch).networks().unwrap().records.len(), 3);
}

#[test]
fn a_newer_major_version_of_a_record_is_not_touched() {
    let scratch = filled();
    plant(
        &scratch,
        &network_id(9),
        br#"{"version":{"major":2,"minor":0},"uuid":"other"}"#,
    );
    let before = fs::read(file(&scratch)).unwrap();
    assert_eq!(
        Durable::open(scratch.path()).unwrap_err().code(),
        Code::StateTooNew
    );
    assert!(fs::read(file(&scratch)).unwrap() == before);
}

#[test]
fn one_damaged_record_does_not_hide_the_others_and_stays() {
    let mut newer = record(5, &network_json(9));
    newer["driver"] = json!("macvlan");
    let newer = newer.to_string();
    for (value, why) in [
        ("{", "no JSON"),
        ("[]", "no JSON"),
        (r#"{"version":{"major":1,"minor":0}}"#, "missing field"),
        (r#"{"version":{"major":0,"minor":9}}"#, "version 0"),
        (
            &record(0, &network_json(8)).to_string(),
            "it is the record of network",
        ),
        (&newer, "format 1.5"),
    ] {
        let scratch = filled();
        plant(&scratch, &network_id(9), value.as_bytes());
        let durable = open(&scratch);
        let loaded = durable.networks().unwrap();
        assert_eq!(loaded.records, [network(1), network(2), network(3)]);
        assert_eq!(loaded.problems.len(), 1);
        assert!(
            loaded.problems[0].why.contains(why),
            "{}",
            loaded.problems[0]
        );
        assert_eq!(
            durable.put_network(&network(9)).unwrap_err().code(),
            Code::StateDamaged
        );
        assert_eq!(
            durable.delete_network(&id(9)).unwrap_err().code(),
            Code::StateDamaged
        );
        durable.put_network(&network(4)).unwrap();
        drop(durable);
        assert_eq!(raw(&scratch, &network_id(9)), value.as_bytes());
        let durable = open(&scratch);
        durable.clear().unwrap();
        durable.put_network(&network(9)).unwrap();
    }
}

#[test]
fn a_crash_while_the_database_is_made_leaves_nothing_that_hinders() {
    let scratch = Scratch::new();
    fs::write(scratch.join("netd.redb.new"), "half").unwrap();
    open(&scratch);
    assert!(!scratch.join("netd.redb.new").exists());
}

#[test]
fn a_state_dir_that_cannot_be_made_is_named_with_the_remedy() {
    let scratch = Scratch::new();
    fs::write(scratch.join("file"), "").unwrap();
    let error = Durable::open(&scratch.join("file/state")).unwrap_err();
    assert_eq!(error.code(), Code::StoreUnavailable);
    let text = error.to_string();
    assert!(text.contains("file/state cannot be made: "), "{text}");
    assert!(text.ends_with("use another --state-dir"), "{text}");
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(32))]

    #[test]
    fn fields_of_a_newer_minor_version_survive(minor in 0u32..9, fields in new_fields()) {
        let scratch = Scratch::new();
        open(&scratch);
        let mut json = network_json(1);
        add_fields(&mut json, &fields);
        plant(&scratch, &network_id(1), record(minor, &json).to_string().as_bytes());
        let durable = open(&scratch);
        let loaded = durable.networks().unwrap();
        prop_assert_eq!(&loaded.problems, &[]);
        durable.put_network(&loaded.records[0]).unwrap();
        drop(durable);
        let written: Value = serde_json::from_slice(&raw(&scratch, &network_id(1))).unwrap();
        prop_assert_eq!(written, record(0, &json));
    }

    #[test]
    fn no_value_makes_a_load_panic_or_is_lost(value in prop::collection::vec(any::<u8>(), 0..64)) {
        let scratch = filled();
        plant(&scratch, &network_id(9), &value);
        let durable = open(&scratch);
        let loaded = durable.networks().unwrap();
        prop_assert_eq!(loaded.records.len(), 3);
        prop_assert_eq!(loaded.problems.len(), 1);
        prop_assert!(durable.put_network(&network(9)).is_err());
        drop(durable);
        prop_assert_eq!(raw(&scratch, &network_id(9)), value);
    }
}
