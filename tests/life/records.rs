//! Records: from before a reboot, wiped, from the future, damaged, in use.

use std::fs;

use netd_tests::host::{Host, assert_same};
use netd_tests::lab::{Netns, PATIENCE, Proto, wait_for};
use serde_json::Value;

use super::{Stage, record_files};

/// A new kernel with the old state-dir: networks come back as they were, containers do not.
pub(super) fn a_reboot() {
    let mut host = Host::start("h1");
    host.ok(&["network", "create", "web", "--ipv6", "--label=a=b"]);
    let network = |host: &Host| {
        let mut network = host.ok(&["network", "inspect", "web"]);
        network["endpoints"] = Value::Null;
        network
    };
    let before = network(&host);
    let a = Netns::new("a");
    host.attach(&a, &["--network=web"]);
    host.stop_daemon();
    drop(a);
    let mut booted = Host::prepare(Netns::host("h1 booted"));
    copy(&host.dir().join("state"), &booted.dir().join("state"));
    booted.start_daemon();
    assert_eq!(booted.ok(&["ps"]), Value::Array(Vec::new()));
    assert_eq!(network(&booted), before);
    booted.assert_healthy();
    let a = Netns::new("a");
    let made = booted.attach(&a, &["--network=web"]);
    assert_eq!(made["endpoints"].as_array().map(Vec::len), Some(1));
    booted.done();
}

fn copy(from: &std::path::Path, to: &std::path::Path) {
    fs::create_dir_all(to).unwrap();
    for entry in fs::read_dir(from).unwrap() {
        let path = entry.unwrap().path();
        if path.is_file() {
            fs::copy(&path, to.join(path.file_name().unwrap())).unwrap();
        }
    }
}

/// Running containers lose nothing; what they had is named, and purge removes it.
pub(super) fn a_wiped_run_dir() {
    let mut stage = Stage::set();
    let before = stage.host.rules();
    stage.host.kill_daemon();
    fs::remove_dir_all(stage.host.dir().join("run")).unwrap();
    stage.host.start_daemon();
    stage.assert_traffic();
    // Also what netd changed on the host, which was on record there only.
    assert_same("the start", &before, &stage.host.rules());
    let status = stage.host.ok(&["status"]);
    assert!(status.to_string().contains("netctl purge"), "{status}");
    let plan = stage.host.ok(&["plan"]);
    assert_eq!(plan["ops"], Value::Array(Vec::new()), "nothing is touched");
    assert!(!plan["orphans"].as_array().unwrap().is_empty(), "{plan}");
    stage.host.ok(&["purge", "--force"]);
    assert_eq!(stage.host.new_links(), Vec::new());
    assert_eq!(stage.host.rules(), Vec::<String>::new());
    assert!(stage.server.link("eth0").is_none());
}

/// A container that is on no record keeps its addresses and ports, and gets them again when it is attached again.
pub(super) fn an_orphan_keeps_its_address() {
    let mut host = Host::start("h1");
    host.ok(&[
        "network",
        "create",
        "small",
        "--subnet=10.9.0.0/29",
        "--ipv6",
    ]);
    let containers = ["a", "b", "c", "d", "e", "f"].map(Netns::new);
    let [a, others @ ..] = &containers;
    let made = host.attach(a, &["--network=small", "--publish=8080:80"]);
    let id = made["id"].as_str().unwrap();
    let address = |made: &Value| made["endpoints"][0]["ipv4"].as_str().unwrap().to_owned();
    host.kill_daemon();
    fs::remove_dir_all(host.dir().join("run")).unwrap();
    host.start_daemon();
    let ip = address(&made);
    let asked = format!("--network=small,ip={}", ip.split('/').next().unwrap());
    let refused = |netns: &Netns, options: &[&str]| {
        let path = netns.path().to_string_lossy().into_owned();
        let words = ["attach", &path, "--name", netns.name()];
        host.refused(&[&words[..], options].concat())
    };
    assert_eq!(refused(&others[0], &[&asked]), "address_in_use");
    let published = ["--network=small", "--publish=8080:81"];
    assert_eq!(refused(&others[0], &published), "port_in_use");
    assert_eq!(host.refused(&["network", "rm", "small"]), "network_in_use");
    for other in &others[..4] {
        let new = host.attach(other, &["--network=small"]);
        assert_ne!(address(&new), address(&made), "{new}");
        assert_ne!(new["endpoints"][0]["ipv6"], made["endpoints"][0]["ipv6"]);
    }
    assert_eq!(refused(&others[4], &["--network=small"]), "pool_exhausted");
    // What was told to others stays true when the container comes again.
    let again = host.attach(
        a,
        &[
            "--network=small",
            "--publish=8080:80",
            &format!("--id={id}"),
        ],
    );
    assert_eq!(again["endpoints"], made["endpoints"]);
    host.assert_healthy();
    let server = a.tcp_server("a", 80);
    let outcome = host.netns.probe(Proto::Tcp, ("127.0.0.1", 8080), PATIENCE);
    assert_eq!(outcome.name(), Some("a"));
    drop(server);
    // One that ends while nobody knows it frees what it had, with the next audit.
    host.kill_daemon();
    fs::remove_dir_all(host.dir().join("run")).unwrap();
    drop(containers);
    wait_for("the links to go", PATIENCE, || host.new_links().len() == 1);
    host.start_daemon();
    host.assert_healthy();
    host.done();
}

/// A file by a newer major version stops the start, and not a byte is changed.
pub(super) fn of_the_future() {
    let mut stage = Stage::set();
    stage.host.stop_daemon();
    let file = record_files(&stage.host).remove(0);
    let text = fs::read_to_string(&file).unwrap();
    let mut record: Value = serde_json::from_str(&text).unwrap();
    record["version"]["major"] = 2.into();
    let newer = serde_json::to_string(&record).unwrap();
    fs::write(&file, &newer).unwrap();
    let kernel = stage.host.kernel_state();
    let refused = stage.host.start_refused();
    assert_ne!(refused.code, 0);
    let file_name = file.file_name().unwrap().to_string_lossy();
    for part in ["newer netd", &*file_name] {
        assert!(refused.stderr.contains(part), "no {part:?} in {refused:?}");
    }
    assert_same("the refused start", &kernel, &stage.host.kernel_state());
    stage.assert_traffic();
    fs::write(&file, text).unwrap();
    stage.host.start_daemon();
    stage.host.assert_healthy();
    stage.host.done();
}

/// A record that cannot be read loses nobody's traffic, is kept, and is named.
pub(super) fn damaged() {
    let mut stage = Stage::set();
    stage.host.kill_daemon();
    let damaged = record_files(&stage.host).into_iter();
    let damaged = damaged
        .filter(|path| fs::read_to_string(path).unwrap().contains("\"server\""))
        .collect::<Vec<_>>();
    let [file] = &damaged[..] else {
        panic!("{damaged:?}")
    };
    let text = fs::read_to_string(file).unwrap();
    let half = &text[..text.len() / 2];
    fs::write(file, half).unwrap();
    stage.host.start_daemon();
    stage.assert_traffic();
    let status = stage.host.ok(&["status"]).to_string();
    assert!(
        status.contains("damaged") || status.contains("cannot be read"),
        "{status}"
    );
    assert_eq!(
        stage
            .host
            .plan()
            .iter()
            .filter(|line| line.starts_with("remove"))
            .count(),
        0
    );
    let kept = find(&stage.host.dir().join("run"), half);
    assert!(kept, "what is damaged is kept");
    // The other container works on, and the client too.
    assert_eq!(stage.host.ok(&["ps"]).as_array().map(Vec::len), Some(1));
    stage.host.ok(&["purge", "--force"]);
    assert_eq!(stage.host.new_links(), Vec::new());
}

fn find(dir: &std::path::Path, text: &str) -> bool {
    fs::read_dir(dir).unwrap().any(|entry| {
        let path = entry.unwrap().path();
        if path.is_dir() {
            find(&path, text)
        } else {
            fs::read_to_string(&path).is_ok_and(|content| content == text)
        }
    })
}

/// The second names the first and harms nothing.
pub(super) fn two_daemons() {
    let stage = Stage::set();
    let before = stage.host.state();
    let refused = stage.host.start_refused();
    assert_ne!(refused.code, 0);
    assert!(
        refused.stderr.contains(&stage.host.pid().to_string()),
        "{refused:?}"
    );
    assert_same("the second daemon", &before, &stage.host.state());
    let dir = |name: &str| stage.host.dir().join(name).to_string_lossy().into_owned();
    let (run, state) = (dir("run"), dir("state"));
    // Nor does a purge without a daemon go past one that runs.
    let output = stage.host.netctl(&[
        "--socket=/run/nobody.sock",
        "purge",
        "--force",
        "--run-dir",
        &run,
        "--state-dir",
        &state,
    ]);
    assert_ne!(output.code, 0, "{output:?}");
    assert_same("a purge past it", &before, &stage.host.state());
    stage.host.done();
}
