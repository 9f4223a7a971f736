//! Invariant I1, held by reading the sources: the pure crates stay pure, and only `netd/src/kernel/` touches the kernel.

#![allow(clippy::unwrap_used, reason = "a panic is how a test fails")]

use std::path::{Path, PathBuf};

/// Dependencies that do IO, or bring a runtime.
const IO_CRATES: [&str; 12] = [
    "tokio",
    "axum",
    "hyper",
    "rtnetlink",
    "netlink-",
    "nix",
    "rustix",
    "socket2",
    "redb",
    "etcd-client",
    "netd-dns",
    "getrandom",
];

/// What pure code does not say.
const IO_WORDS: [&str; 13] = [
    "std::fs",
    "std::process",
    "std::thread",
    "std::os",
    "std::env",
    "UdpSocket",
    "TcpStream",
    "TcpListener",
    "UnixStream",
    "tokio::",
    "Instant::now",
    "SystemTime",
    "async fn",
];

/// What only the kernel seam says.
const KERNEL_WORDS: [&str; 7] = [
    "netlink_sys",
    "netlink_packet",
    "netlink_bindings",
    "rtnetlink",
    "setns",
    "/proc/sys/net",
    "AF_NETLINK",
];

/// The clock that an administrator, NTP or a resumed machine sets.
const WALL_CLOCK: [&str; 6] = [
    "SystemTime",
    "CLOCK_REALTIME",
    "UNIX_EPOCH",
    "chrono::",
    "time::OffsetDateTime",
    "gettimeofday",
];

fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR"))
        .parent()
        .unwrap()
        .to_owned()
}

fn sources(dir: &Path) -> Vec<(PathBuf, String)> {
    let mut found = Vec::new();
    for entry in std::fs::read_dir(dir).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() {
            found.extend(sources(&path));
        } else if path.extension().is_some_and(|extension| extension == "rs") {
            found.push((path.clone(), std::fs::read_to_string(&path).unwrap()));
        }
    }
    found
}

/// Lines of code that say one of the words; comments may.
fn offences(files: &[(PathBuf, String)], words: &[&str]) -> Vec<String> {
    let mut found = Vec::new();
    for (path, text) in files {
        // Tests of a pure module may do what it may not.
        let code = text.split("#[cfg(test)]").next().unwrap_or_default();
        for (number, line) in code.lines().enumerate() {
            let line = line.split("//").next().unwrap_or_default();
            if let Some(word) = words.iter().find(|word| line.contains(**word)) {
                found.push(format!("{}:{}: {word}", path.display(), number + 1));
            }
        }
    }
    found
}

fn dependencies(name: &str) -> Vec<String> {
    let manifest = std::fs::read_to_string(root().join(name).join("Cargo.toml")).unwrap();
    let section = manifest.split("\n[dependencies]").nth(1).unwrap();
    let section = section.split("\n[").next().unwrap();
    section
        .lines()
        .filter_map(|line| line.split(['.', ' ', '=']).next())
        .map(str::to_owned)
        .collect()
}

#[test]
fn pure_crates_depend_on_nothing_that_does_io() {
    for name in ["model", "ipam"] {
        let bad: Vec<String> = dependencies(name)
            .into_iter()
            .filter(|dependency| IO_CRATES.iter().any(|io| dependency.starts_with(io)))
            .collect();
        assert!(bad.is_empty(), "{name} depends on {bad:?}");
    }
}

#[test]
fn pure_sources_do_no_io() {
    let mut files = sources(&root().join("model/src"));
    files.extend(sources(&root().join("ipam/src")));
    // The sockets of the DNS crate.
    let io_part = ["server", "forward", "exchange", "health", "reach", "tls"];
    let is_io = |path: &Path| {
        let inside = path
            .strip_prefix(root().join("dns/src"))
            .unwrap()
            .to_string_lossy()
            .into_owned();
        io_part.iter().any(|part| inside.starts_with(part))
    };
    files.extend(
        sources(&root().join("dns/src"))
            .into_iter()
            .filter(|(path, _)| !is_io(path)),
    );
    assert!(files.len() > 20, "the sources were not found");
    let found: Vec<String> = offences(&files, &IO_WORDS);
    assert!(found.is_empty(), "{found:#?}");
}

#[test]
fn only_the_kernel_seam_touches_the_kernel() {
    let kernel = root().join("netd/src/kernel");
    let files: Vec<_> = sources(&root().join("netd/src"))
        .into_iter()
        .filter(|(path, _)| !path.starts_with(&kernel))
        .collect();
    assert!(files.len() > 10, "the sources were not found");
    let found = offences(&files, &KERNEL_WORDS);
    assert!(found.is_empty(), "{found:#?}");
}

/// The clock on the wall jumps: quarantines, timeouts and audits go by `Instant`, which does not. The files that may say
/// its name compare the times of files, or write times beside events and look them up; none reckons with them.
#[test]
fn the_wall_clock_is_not_used() {
    let mut files = Vec::new();
    for name in ["model/src", "ipam/src", "dns/src", "netd/src"] {
        files.extend(sources(&root().join(name)));
    }
    let listed = [
        "names/resolvers.rs",
        "reconcile/journal.rs",
        "api/events.rs",
    ];
    let listed = listed.map(|name| root().join("netd/src").join(name));
    let (allowed, others): (Vec<_>, Vec<_>) = files
        .into_iter()
        .partition(|(path, _)| listed.contains(path));
    let found = offences(&others, &WALL_CLOCK);
    assert!(found.is_empty(), "{found:#?}");
    let reckons = offences(&allowed, &["SystemTime::now", "UNIX_EPOCH", "elapsed()"]);
    assert!(reckons.is_empty(), "{reckons:#?}");
}

#[test]
fn the_search_finds_what_it_looks_for() {
    let file = |text: &str| vec![(PathBuf::from("x.rs"), text.to_owned())];
    assert_eq!(
        offences(&file("use std::fs;\n// std::fs\n"), &IO_WORDS).len(),
        1
    );
    assert_eq!(
        offences(&file("#[cfg(test)]\nuse std::fs;"), &IO_WORDS).len(),
        0
    );
    assert!(dependencies("netd").iter().any(|name| name == "tokio"));
}
