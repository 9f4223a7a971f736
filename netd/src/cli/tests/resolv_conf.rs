//! `attach --resolv-conf`: what is written, where, and what happens when it cannot be.

use std::fs;
use std::os::unix::fs::{PermissionsExt as _, symlink};
use std::path::Path;

use super::{Outcome, say};
use crate::api::tests::daemon::{Daemon, Dir, container};
use crate::cli::{Exit, resolv};

const TEXT: &str = "# made by netd\nnameserver 127.0.0.11\nsearch front.local\noptions ndots:0\n";

fn attach(daemon: &Daemon, file: &Path, more: &str) -> Outcome {
    say(
        daemon.client.socket(),
        &format!(
            "attach web --name web --resolv-conf {} {more}",
            file.display()
        ),
    )
}

fn names(dir: &Dir) -> Vec<String> {
    let mut names: Vec<String> = fs::read_dir(&dir.0)
        .unwrap()
        .map(|entry| entry.unwrap().file_name().into_string().unwrap())
        .collect();
    names.sort();
    names
}

#[test]
fn the_file_holds_the_containers_dns_and_nothing_is_left_beside_it() {
    let (daemon, dir) = (Daemon::start(), Dir::new());
    let file = dir.0.join("resolv.conf");
    assert_eq!(container().dns.resolv_conf(), TEXT);
    for before in [
        None,
        Some(
            "nameserver 192.0.2.1\n# a longer file that has to go away completely, to its last byte\n",
        ),
    ] {
        if let Some(text) = before {
            fs::write(&file, text).unwrap();
            fs::set_permissions(&file, fs::Permissions::from_mode(0o600)).unwrap();
        }
        assert_eq!(attach(&daemon, &file, "").exit, Exit::Done);
        assert_eq!(fs::read_to_string(&file).unwrap(), TEXT);
        assert_eq!(
            fs::metadata(&file).unwrap().permissions().mode() & 0o7777,
            0o644
        );
        assert_eq!(names(&dir), ["resolv.conf"]);
    }
}

#[test]
fn a_dry_run_writes_nothing() {
    let (daemon, dir) = (Daemon::start(), Dir::new());
    assert_eq!(
        attach(&daemon, &dir.0.join("resolv.conf"), "--dry-run").exit,
        Exit::Done
    );
    assert_eq!(names(&dir), [""; 0]);
}

#[test]
fn a_symbolic_link_is_replaced_and_never_followed() {
    let dir = Dir::new();
    let (target, link) = (dir.0.join("target"), dir.0.join("resolv.conf"));
    fs::write(&target, "the host's own").unwrap();
    symlink(&target, &link).unwrap();
    resolv::write(&link, TEXT).unwrap();
    assert_eq!(fs::read_to_string(&target).unwrap(), "the host's own");
    assert_eq!(fs::read_to_string(&link).unwrap(), TEXT);
    assert!(!link.is_symlink());
}

#[test]
fn a_file_that_cannot_be_replaced_is_overwritten_and_a_link_is_not() {
    let dir = Dir::new();
    let file = dir.0.join("resolv.conf");
    fs::write(&file, "x".repeat(1000)).unwrap();
    let inode = |path: &Path| std::os::unix::fs::MetadataExt::ino(&fs::metadata(path).unwrap());
    let before = inode(&file);
    resolv::overwrite(&file, TEXT).unwrap();
    assert_eq!(
        (fs::read_to_string(&file).unwrap().as_str(), inode(&file)),
        (TEXT, before)
    );
    let link = dir.0.join("link");
    symlink(&file, &link).unwrap();
    resolv::overwrite(&link, "evil").unwrap_err();
    resolv::overwrite(&dir.0, "evil").unwrap_err();
    let pipe = dir.0.join("pipe");
    nix::unistd::mkfifo(&pipe, nix::sys::stat::Mode::S_IRWXU).unwrap();
    resolv::overwrite(&pipe, "evil").unwrap_err();
    assert_eq!(fs::read_to_string(&file).unwrap(), TEXT);
}

#[test]
fn what_is_no_file_is_never_replaced() {
    let dir = Dir::new();
    let (pipe, door) = (dir.0.join("pipe"), dir.0.join("stdout"));
    nix::unistd::mkfifo(&pipe, nix::sys::stat::Mode::S_IRWXU).unwrap();
    symlink("/proc/self/fd/1", &door).unwrap();
    for path in [&pipe, &door, &dir.0] {
        let error = resolv::write(path, TEXT).unwrap_err();
        assert_eq!(
            error.to_string(),
            "it is not a regular file",
            "{}",
            path.display()
        );
    }
    assert!(door.is_symlink());
    assert_eq!(names(&dir), ["pipe", "stdout"]);
}

#[test]
fn without_the_file_the_container_stays_attached_and_the_message_says_so() {
    let (daemon, dir) = (Daemon::start(), Dir::new());
    let missing = dir.0.join("no").join("resolv.conf");
    let directory = dir.0.join("dir");
    fs::create_dir(&directory).unwrap();
    for file in [missing, directory] {
        let outcome = attach(&daemon, &file, "");
        assert_eq!((outcome.exit, outcome.out.as_str()), (Exit::Failed, ""));
        let begin = format!(
            "netctl: container web is attached, but {} was not written: ",
            file.display()
        );
        assert!(outcome.err.starts_with(&begin), "{}", outcome.err);
        assert!(
            outcome.err.ends_with("[resolv_conf_failed]\n"),
            "{}",
            outcome.err
        );
        let requests = daemon.asked();
        assert!(
            requests.len() == 1 && requests[0].starts_with("Attach"),
            "{requests:?}"
        );
    }
    assert_eq!(names(&dir), ["dir"]);
}
