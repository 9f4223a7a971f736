//! The built program as a process: one JSON document on standard output, logs on standard error, exit codes; no daemon.

#![allow(clippy::unwrap_used, reason = "a panic is how a test fails")]

use std::io::Write as _;
use std::path::PathBuf;
use std::process::{Command, Output, Stdio};

use serde_json::{Value, json};

fn run(variables: &[(&str, &str)], stdin: &str) -> Output {
    let mut command = Command::new(env!("CARGO_BIN_EXE_netd-cni"));
    command.env_clear().envs(variables.iter().copied());
    command
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped());
    let mut child = command.spawn().unwrap();
    let _ = child.stdin.take().unwrap().write_all(stdin.as_bytes());
    child.wait_with_output().unwrap()
}

/// The only document on standard output.
fn document(output: &Output) -> Value {
    serde_json::from_slice(&output.stdout).unwrap_or_else(|error| panic!("{error}: {output:?}"))
}

fn scratch(name: &str) -> PathBuf {
    let dir = std::env::temp_dir().join(format!("netd-cni-{name}-{}", std::process::id()));
    let _ = std::fs::remove_dir_all(&dir);
    std::fs::create_dir_all(&dir).unwrap();
    dir
}

fn config(dir: &std::path::Path) -> String {
    json!({"cniVersion": "1.1.0", "name": "pods", "type": "netd-cni", "socket": dir.join("netd.sock")}).to_string()
}

const ATTACHMENT: [(&str, &str); 2] = [("CNI_CONTAINERID", "c1"), ("CNI_IFNAME", "eth0")];

fn variables<'a>(verb: &'a str, more: &[(&'a str, &'a str)]) -> Vec<(&'a str, &'a str)> {
    [&[("CNI_COMMAND", verb)], &ATTACHMENT[..], more].concat()
}

#[test]
fn version_needs_nothing_but_the_verb() {
    for stdin in ["", r#"{"cniVersion":"0.3.1"}"#] {
        let output = run(&[("CNI_COMMAND", "VERSION")], stdin);
        assert!(output.status.success());
        let said = document(&output);
        let all = json!([
            "0.1.0", "0.2.0", "0.3.0", "0.3.1", "0.4.0", "1.0.0", "1.1.0"
        ]);
        assert_eq!(said["supportedVersions"], all);
        assert_eq!(
            said["cniVersion"],
            if stdin.is_empty() { "1.1.0" } else { "0.3.1" }
        );
    }
}

#[test]
fn errors_are_documents_with_the_version_that_was_asked_for() {
    let output = run(&[], "{}");
    assert_eq!(document(&output)["code"], 4);
    assert!(
        !output.stderr.is_empty(),
        "somebody may have typed the name"
    );
    let output = run(
        &[("CNI_COMMAND", "ADD")],
        r#"{"cniVersion":"0.4.0","name":"a"}"#,
    );
    let error = document(&output);
    assert_eq!(
        (error["code"].as_u64(), error["cniVersion"].as_str()),
        (Some(4), Some("0.4.0"))
    );
    for name in ["CNI_CONTAINERID", "CNI_NETNS", "CNI_IFNAME"] {
        assert!(error["msg"].as_str().unwrap().contains(name), "{error}");
    }
    let output = run(&variables("DEL", &[]), "no json");
    assert_eq!(
        (output.status.code(), document(&output)["code"].as_u64()),
        (Some(1), Some(6))
    );
    let output = run(
        &variables("DEL", &[]),
        r#"{"cniVersion":"9.0.0","name":"a"}"#,
    );
    let error = document(&output);
    assert_eq!(
        (error["code"].as_u64(), error["cniVersion"].as_str()),
        (Some(1), Some("1.1.0"))
    );
}

#[test]
fn without_a_daemon_every_verb_says_what_it_has_to() {
    let dir = scratch("verbs");
    let config = config(&dir);
    let socket = dir.join("netd.sock").display().to_string();
    let own = std::process::id().to_string();
    let netns = format!("/proc/{own}/ns/net");
    // The test runs in the namespace that it names.
    let add = variables("ADD", &[("CNI_NETNS", &netns), ("CNI_NETNS_OVERRIDE", "1")]);
    let error = document(&run(&add, &config));
    assert_eq!(error["code"], 11);
    assert!(error["msg"].as_str().unwrap().contains(&socket), "{error}");
    let error = document(&run(&[("CNI_COMMAND", "STATUS")], &config));
    assert_eq!(error["code"], 50);
    assert!(error["msg"].as_str().unwrap().contains(&socket), "{error}");
    let refused = document(&run(&variables("ADD", &[("CNI_NETNS", &netns)]), &config));
    assert_eq!(refused["code"], 4, "its own namespace");
    let output = run(&variables("DEL", &[]), &config);
    assert!(
        output.status.success() && output.stdout.is_empty(),
        "{output:?}"
    );
    assert!(!output.stderr.is_empty());
    let files: Vec<_> = std::fs::read_dir(dir.join("cni-spool"))
        .unwrap()
        .flatten()
        .collect();
    assert_eq!(files.len(), 1);
    let kept: Value = serde_json::from_slice(&std::fs::read(files[0].path()).unwrap()).unwrap();
    assert_eq!(kept, json!({"container": "c1", "ifname": "eth0"}));
    // A host on which netd never ran since it started has nothing to remove.
    std::fs::remove_dir_all(&dir).unwrap();
    assert!(run(&variables("DEL", &[]), &config).status.success());
    assert!(!dir.exists());
}

#[test]
fn a_removal_that_cannot_be_kept_is_an_error() {
    let dir = scratch("spool");
    std::fs::write(dir.join("cni-spool"), "a file is in the way").unwrap();
    let output = run(&variables("DEL", &[]), &config(&dir));
    assert_eq!(document(&output)["code"], 5);
    std::fs::remove_dir_all(&dir).unwrap();
}
