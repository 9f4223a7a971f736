use std::fs;
use std::os::unix::fs::PermissionsExt as _;

use netd_model::error::Code;
use serde_json::{Value, json};

use super::*;
use crate::state::testing::{Scratch, container, container_json, files_below};

mod properties;

const BOOT: &str = "5b0ee26e-4b0f-4a6c-9d0a-6a1b5d3c2e10";

fn open(scratch: &Scratch) -> Volatile {
    Volatile::open(scratch.path(), BOOT).unwrap()
}

fn load(scratch: &Scratch) -> Records<Container> {
    open(scratch).load().unwrap().0
}

fn id(text: &str) -> ContainerId {
    ContainerId::parse(text).unwrap()
}

fn path_of(scratch: &Scratch, id: &str) -> PathBuf {
    scratch.path().join("containers").join(format!("{id}.json"))
}

fn envelope(minor: u32, record: &Value) -> Value {
    json!({"version": {"major": 1, "minor": minor}, "boot_id": BOOT, "container": record})
}

/// Writes the file of container `c1` past the store.
fn plant(scratch: &Scratch, content: impl AsRef<[u8]>) {
    fs::write(path_of(scratch, "c1"), content).unwrap();
}

#[test]
fn what_was_put_is_loaded_by_the_next_daemon() {
    let scratch = Scratch::new();
    let first = open(&scratch);
    let host = HostState {
        purged: true,
        ..HostState::default()
    };
    for id in ["b", "a", "c"] {
        first.put_container(&container(id)).unwrap();
    }
    first.put_container(&container("a")).unwrap();
    first.delete_container(&id("c")).unwrap();
    first.delete_container(&id("c")).unwrap();
    first.put_host(&host).unwrap();

    let (loaded, loaded_host) = open(&scratch).load().unwrap();
    assert_eq!(loaded.records, [container("a"), container("b")]);
    assert_eq!(loaded.problems, []);
    assert_eq!(loaded_host, host);
}

#[test]
fn records_are_for_their_owner_only() {
    let scratch = Scratch::new();
    open(&scratch).put_container(&container("c1")).unwrap();
    let mode = |path: &Path| fs::metadata(path).unwrap().permissions().mode() & 0o777;
    assert_eq!(mode(&path_of(&scratch, "c1")), 0o600);
    assert_eq!(mode(&scratch.join("containers")), 0o700);
}

#[test]
fn every_truncated_record_is_kept_and_reported() {
    let scratch = Scratch::new();
    let volatile = open(&scratch);
    volatile.put_container(&container("other")).unwrap();
    volatile.put_container(&container("c1")).unwrap();
    let whole = fs::read(path_of(&scratch, "c1")).unwrap();
    for length in 0..whole.len() {
        plant(&scratch, &whole[..length]);
        let loaded = load(&scratch);
        assert_eq!(loaded.records, [container("other")], "{length}");
        assert_eq!(loaded.problems.len(), 1, "{length}");
        assert_eq!(loaded.problems[0].object, "container c1");
        let kept = scratch.join(&format!("containers/damaged/c1.json.{}", length + 1));
        assert_eq!(fs::read(kept).unwrap(), &whole[..length]);
        assert!(!path_of(&scratch, "c1").exists());
    }
    assert_eq!(
        load(&scratch).problems,
        [],
        "reported once, by the load that set it aside"
    );
}

#[test]
fn a_record_under_the_wrong_name_is_damaged() {
    let scratch = Scratch::new();
    open(&scratch);
    plant(&scratch, envelope(0, &container_json("c2")).to_string());
    let loaded = load(&scratch);
    assert_eq!(loaded.records, []);
    assert!(
        loaded.problems[0]
            .why
            .contains("it is the record of container c2"),
        "{:?}",
        loaded.problems
    );
}

#[test]
fn a_newer_major_version_stops_the_load_and_nothing_is_changed() {
    let scratch = Scratch::new();
    let volatile = open(&scratch);
    volatile.put_container(&container("good")).unwrap();
    fs::write(path_of(&scratch, "bad"), "{").unwrap();
    fs::write(scratch.join("containers/.good.json.7"), "{").unwrap();
    plant(
        &scratch,
        r#"{"version":{"major":2,"minor":3},"all":"else is different"}"#,
    );
    let before = files_below(scratch.path());
    let error = open(&scratch).load().unwrap_err();
    assert_eq!(files_below(scratch.path()), before);
    assert_eq!(
        error.to_string(),
        format!(
            "{} has format 2.3, and this netd knows up to 1.0: start the newer netd again, or use another --run-dir",
            path_of(&scratch, "c1").display()
        )
    );
    assert_eq!(error.code(), Code::StateTooNew);
}

#[test]
fn a_newer_host_file_stops_the_load_before_anything_is_moved() {
    let scratch = Scratch::new();
    open(&scratch);
    plant(&scratch, "{");
    fs::write(
        scratch.join("host.json"),
        r#"{"version":{"major":2,"minor":0}}"#,
    )
    .unwrap();
    let before = files_below(scratch.path());
    assert_eq!(open(&scratch).load().unwrap_err().code(), Code::StateTooNew);
    assert_eq!(files_below(scratch.path()), before);
}

#[test]
fn a_record_only_a_newer_minor_version_can_read_stays_and_is_not_overwritten() {
    let scratch = Scratch::new();
    let mut record = container_json("c1");
    record["phase"] = json!("migrating");
    let content = envelope(4, &record).to_string();
    let volatile = open(&scratch);
    plant(&scratch, &content);
    let (loaded, _) = volatile.load().unwrap();
    assert_eq!(loaded.records, []);
    assert!(
        loaded.problems[0]
            .to_string()
            .ends_with("start the newer netd again")
    );
    let refused = volatile.put_container(&container("c1")).unwrap_err();
    assert_eq!(refused.code(), Code::StateDamaged);
    assert_eq!(
        volatile.delete_container(&id("c1")).unwrap_err().code(),
        Code::StateDamaged
    );
    assert_eq!(
        fs::read_to_string(path_of(&scratch, "c1")).unwrap(),
        content
    );
}

#[test]
fn records_of_an_earlier_boot_are_not_believed() {
    let scratch = Scratch::new();
    let earlier = Volatile::open(scratch.path(), "an earlier boot").unwrap();
    earlier.put_container(&container("c1")).unwrap();
    earlier.put_container(&container("c2")).unwrap();
    let host = HostState {
        purged: true,
        ..HostState::default()
    };
    earlier.put_host(&host).unwrap();

    let (loaded, host) = open(&scratch).load().unwrap();
    assert_eq!(loaded.records, []);
    assert_eq!(host, HostState::default());
    assert_eq!(loaded.problems.len(), 1);
    assert!(
        loaded.problems[0]
            .why
            .starts_with("2 records are of an earlier boot")
    );
    assert!(scratch.join("containers/stale/c1.json.1").exists());

    earlier.put_container(&container("c3")).unwrap();
    assert_eq!(load(&scratch).problems.len(), 1);
    let stale = files_below(&scratch.join("containers/stale"));
    assert_eq!(
        stale.len(),
        1,
        "only those of the last boot are kept: {stale:?}"
    );
}

#[test]
fn a_crash_between_writing_and_renaming_leaves_the_old_record() {
    let scratch = Scratch::new();
    let volatile = open(&scratch);
    volatile.put_container(&container("c1")).unwrap();
    for (name, content) in [
        (".c1.json.0", "{\"version\":"),
        (".c2.json.1", ""),
        (".host.json.2", "{}"),
    ] {
        fs::write(scratch.join("containers").join(name), content).unwrap();
    }
    let loaded = load(&scratch);
    assert_eq!(loaded.records, [container("c1")]);
    assert_eq!(loaded.problems, []);
    assert_eq!(
        files_below(scratch.path()).len(),
        1,
        "what was half written is deleted"
    );
}

#[test]
fn a_leftover_does_not_stop_the_next_write() {
    let scratch = Scratch::new();
    let volatile = open(&scratch);
    fs::write(
        scratch.join("containers/.c1.json.0"),
        "much longer than a record is".repeat(100),
    )
    .unwrap();
    volatile.put_container(&container("c1")).unwrap();
    assert_eq!(load(&scratch).records, [container("c1")]);
}

#[test]
fn links_pipes_and_directories_are_not_followed() {
    let scratch = Scratch::new();
    let volatile = open(&scratch);
    let target = scratch.join("target");
    fs::write(&target, envelope(0, &container_json("c1")).to_string()).unwrap();
    std::os::unix::fs::symlink(&target, path_of(&scratch, "c1")).unwrap();
    fs::create_dir(path_of(&scratch, "c2")).unwrap();
    nix::unistd::mkfifo(&path_of(&scratch, "c3"), nix::sys::stat::Mode::S_IRWXU).unwrap();
    let (loaded, _) = volatile.load().unwrap();
    assert_eq!(loaded.records, []);
    assert_eq!(loaded.problems.len(), 3);
    assert!(
        loaded
            .problems
            .iter()
            .all(|problem| problem.why.ends_with("it is no plain file"))
    );
    assert!(target.exists());

    std::os::unix::fs::symlink(&target, path_of(&scratch, "c1")).unwrap();
    volatile.put_container(&container("c1")).unwrap();
    assert!(
        fs::symlink_metadata(path_of(&scratch, "c1"))
            .unwrap()
            .is_file(),
        "replaced, not followed"
    );
}

#[test]
fn what_netd_did_not_make_is_left_alone() {
    let scratch = Scratch::new();
    let volatile = open(&scratch);
    for name in ["README", "c1.json.bak", "-x.json"] {
        fs::write(scratch.join("containers").join(name), "text").unwrap();
    }
    let (loaded, _) = volatile.load().unwrap();
    assert_eq!(loaded.problems.len(), 3);
    assert_eq!(files_below(scratch.path()).len(), 3);
}

#[test]
fn a_damaged_host_file_is_set_aside() {
    let scratch = Scratch::new();
    let volatile = open(&scratch);
    fs::write(scratch.join("host.json"), "{").unwrap();
    let (loaded, host) = volatile.load().unwrap();
    assert_eq!(host, HostState::default());
    assert_eq!(loaded.problems[0].object, "settings of the host");
    assert_eq!(
        fs::read(scratch.join("containers/damaged/host.json.1")).unwrap(),
        b"{"
    );
}

#[test]
fn a_write_that_fails_names_the_file_and_the_remedy() {
    let scratch = Scratch::new();
    let volatile = open(&scratch);
    // Root writes to read-only directories, but nobody writes into a file as if it were a directory.
    fs::remove_dir(scratch.join("containers")).unwrap();
    fs::write(scratch.join("containers"), "in the way").unwrap();
    let error = volatile.put_container(&container("c1")).unwrap_err();
    assert_eq!(error.code(), Code::StoreUnavailable);
    let text = error.to_string();
    assert!(
        text.starts_with(&path_of(&scratch, "c1").display().to_string()),
        "{text}"
    );
    assert!(
        text.ends_with("move away what is in its place, or use another --run-dir"),
        "{text}"
    );
    assert_eq!(
        Volatile::open(scratch.path(), BOOT).unwrap_err().code(),
        Code::StoreUnavailable
    );
}

#[test]
fn a_full_disk_is_told_with_its_remedy() {
    let full = fs::OpenOptions::new()
        .write(true)
        .open("/dev/full")
        .unwrap();
    let error = std::io::Write::write_all(&mut &full, b"x").unwrap_err();
    let error = unavailable("written", Path::new("/run/netd/host.json"), error);
    assert_eq!(error.code(), Code::StoreUnavailable);
    let text = error.to_string();
    assert!(
        text.starts_with("/run/netd/host.json cannot be written: "),
        "{text}"
    );
    assert!(text.ends_with("free some space there"), "{text}");
}

#[test]
fn a_write_that_fails_leaves_no_rubbish() {
    let scratch = Scratch::new();
    let volatile = open(&scratch);
    fs::create_dir(path_of(&scratch, "c1")).unwrap();
    let error = volatile.put_container(&container("c1")).unwrap_err();
    assert_eq!(error.code(), Code::StoreUnavailable);
    assert_eq!(files_below(scratch.path()), []);
}

#[test]
fn clear_removes_also_what_was_set_aside() {
    let scratch = Scratch::new();
    let volatile = open(&scratch);
    volatile.put_container(&container("c2")).unwrap();
    plant(&scratch, "{");
    volatile.load().unwrap();
    volatile.clear().unwrap();
    assert_eq!(files_below(scratch.path()), []);
    volatile.put_container(&container("c1")).unwrap();
    assert_eq!(load(&scratch).records, [container("c1")]);
}
