//! The stores as the owner sees them, and what is said when they fail.

use std::fs;

use netd_model::Error;
use netd_model::api::HostChange;
use netd_model::error::Code;

use super::testing::{Scratch, container, network};
use super::*;

fn host() -> HostState {
    let change = HostChange {
        sysctl: "net/ipv4/ip_forward".to_owned(),
        was: "0".to_owned(),
        now: "1".to_owned(),
    };
    HostState {
        changes: vec![change],
        ..HostState::default()
    }
}

fn disk(scratch: &Scratch) -> Disk {
    Disk::open(&scratch.join("state"), &scratch.join("run")).unwrap()
}

/// The same for every store: what is put is loaded.
fn keeps_records(store: &dyn Store) {
    assert_eq!(store.load().unwrap(), Loaded::default());
    store.put_network(&network(2)).unwrap();
    store.put_network(&network(1)).unwrap();
    store.put_network(&network(3)).unwrap();
    store.delete_network(&network(3).id).unwrap();
    store.put_container(&container("b")).unwrap();
    store.put_container(&container("a")).unwrap();
    store.put_container(&container("c")).unwrap();
    store.delete_container(&container("c").id).unwrap();
    store.put_host(&host()).unwrap();
    store.put_ula_seed([0, 0x1f, 2, 3, 0xff]).unwrap();
}

fn kept() -> Loaded {
    Loaded {
        networks: vec![network(1), network(2)],
        containers: vec![container("a"), container("b")],
        host: host(),
        node_id: None,
        cluster: Vec::new(),
        ula_seed: Some([0, 0x1f, 2, 3, 0xff]),
        problems: Vec::new(),
    }
}

#[test]
fn the_disk_keeps_records() {
    let scratch = Scratch::new();
    keeps_records(&disk(&scratch));
    let store = disk(&scratch);
    assert_eq!(store.load().unwrap(), kept());
    store.clear().unwrap();
    let nothing = Loaded {
        networks: Vec::new(),
        containers: Vec::new(),
        ..kept()
    };
    assert_eq!(store.load().unwrap(), nothing);
}

#[test]
fn memory_keeps_records() {
    let store = Memory::new();
    keeps_records(&store);
    assert_eq!(store.load().unwrap(), kept());
    assert_eq!(store.writes(), 10);
    store.clear().unwrap();
    let nothing = Loaded {
        networks: Vec::new(),
        containers: Vec::new(),
        ..kept()
    };
    assert_eq!(store.load().unwrap(), nothing);
}

#[test]
fn memory_fails_at_the_nth_write_and_changes_nothing() {
    let store = Memory::new();
    store.fail_at(2);
    store.put_network(&network(1)).unwrap();
    let error = store.put_network(&network(2)).unwrap_err();
    assert_eq!(error.code(), Code::StoreUnavailable);
    assert_eq!(store.load().unwrap().networks, [network(1)]);
    store.put_network(&network(2)).unwrap();
    assert_eq!(store.load().unwrap().networks.len(), 2);
}

#[test]
fn problems_of_both_directories_are_reported_together() {
    let scratch = Scratch::new();
    let store = disk(&scratch);
    store
        .durable()
        .put_meta(Meta::UlaSeed, "+123456789")
        .unwrap();
    fs::write(scratch.join("run/containers/c1.json"), "{").unwrap();
    let loaded = store.load().unwrap();
    assert_eq!(loaded.ula_seed, None);
    let objects: Vec<_> = loaded
        .problems
        .iter()
        .map(|problem| problem.object.as_str())
        .collect();
    assert_eq!(objects, ["IPv6 prefix of this node", "container c1"]);
    assert!(
        loaded
            .problems
            .iter()
            .all(|problem| !problem.to_string().contains('\n'))
    );
}

#[test]
fn one_daemon_per_run_dir() {
    let scratch = Scratch::new();
    let dir = scratch.join("run");
    let first = RunLock::acquire(&dir).unwrap();
    let error = Error::from(RunLock::acquire(&dir).unwrap_err());
    assert_eq!(error.code, Code::StoreUnavailable);
    assert_eq!(
        error.message,
        format!(
            "{} is in use by another netd (pid {}): stop that one first, or use another --run-dir",
            dir.join("netd.lock").display(),
            std::process::id()
        )
    );
    assert_eq!(
        error.details["path"],
        dir.join("netd.lock").display().to_string()
    );
    drop(first);
    RunLock::acquire(&dir).unwrap();
}

#[test]
fn a_lock_left_by_a_dead_daemon_is_free() {
    let scratch = Scratch::new();
    fs::write(scratch.join("netd.lock"), "4194304000\nand more").unwrap();
    let _lock = RunLock::acquire(scratch.path()).unwrap();
    let text = fs::read_to_string(scratch.join("netd.lock")).unwrap();
    assert_eq!(text, format!("{}\n", std::process::id()));
}

#[test]
fn a_lock_that_cannot_be_made_is_named_with_the_remedy() {
    let scratch = Scratch::new();
    fs::write(scratch.join("file"), "").unwrap();
    let error = RunLock::acquire(&scratch.join("file")).unwrap_err();
    assert_eq!(error.code(), Code::StoreUnavailable);
    assert!(
        error.to_string().ends_with("use another --run-dir"),
        "{error}"
    );
}

#[test]
fn the_boot_has_an_id() {
    let id = boot_id().unwrap();
    assert_eq!(id.len(), 36, "{id}");
    assert_eq!(id, boot_id().unwrap());
}
