//! Exit codes, and an error in every form.

use std::io::{self, Read as _, Write};
use std::os::unix::net::UnixListener;
use std::path::{Path, PathBuf};

use netd_model::api::Purged;
use serde_json::{Value, json};

use super::{no_purge, say};
use crate::api::tests::daemon::{Daemon, Dir};
use crate::cli::client::CallError;
use crate::cli::failure::Failure;
use crate::cli::{Exit, run};

/// A server that gives one answer to each of some connections, whatever is asked.
fn answering(dir: &Dir, answer: &'static str) -> PathBuf {
    let socket = dir.0.join("fake.sock");
    let listener = UnixListener::bind(&socket).unwrap();
    std::thread::spawn(move || {
        for stream in listener.incoming().take(3) {
            let mut stream = stream.unwrap();
            let mut request = [0; 4096];
            let _ = stream.read(&mut request);
            let _ = stream.write_all(answer.as_bytes());
        }
    });
    socket
}

#[test]
fn no_daemon_is_exit_code_3_with_the_socket_and_the_remedy() {
    let dir = Dir::new();
    let missing = dir.0.join("missing.sock");
    let refusing = dir.0.join("refusing.sock");
    drop(UnixListener::bind(&refusing).unwrap());
    let file = dir.0.join("file");
    std::fs::write(&file, "").unwrap();
    for socket in [&missing, &refusing, &file] {
        for line in [
            "ps",
            "status",
            "detach web",
            "network rm a b",
            "purge --dry-run",
        ] {
            let outcome = say(socket, line);
            assert_eq!(
                (outcome.exit, outcome.out.as_str()),
                (Exit::NoDaemon, ""),
                "{line}"
            );
            assert_eq!(outcome.err.lines().count(), 1);
            for part in [
                socket.to_str().unwrap(),
                "systemctl start netd",
                "NETD_SOCKET",
                "[no_daemon]",
            ] {
                assert!(outcome.err.contains(part), "{} has no {part}", outcome.err);
            }
        }
    }
    let outcome = say(&missing, "ps -o json");
    let document: Value = serde_json::from_str(&outcome.out).unwrap();
    assert_eq!(document["error"]["code"], "no_daemon");
    assert_eq!(
        document["error"]["details"]["socket"],
        missing.to_str().unwrap()
    );
}

#[test]
fn a_path_too_long_for_a_socket_is_a_bad_value() {
    let outcome = say(Path::new(&format!("/{}", "x".repeat(200))), "ps");
    assert_eq!(outcome.exit, Exit::Failed);
    assert!(
        outcome.err.ends_with("[invalid_socket]\n"),
        "{}",
        outcome.err
    );
}

#[test]
fn a_socket_of_others_names_the_group() {
    let socket = PathBuf::from("/run/netd/netd.sock");
    let failure = Failure::from(CallError::Denied { socket });
    assert_eq!(
        (failure.exit(), failure.code.as_str()),
        (Exit::Failed, "socket_denied")
    );
    assert!(
        failure.message.contains("/run/netd/netd.sock"),
        "{}",
        failure.message
    );
    assert!(
        failure.message.contains("group netd"),
        "{}",
        failure.message
    );
}

#[test]
fn an_error_of_the_daemon_is_one_line_and_one_document() {
    let daemon = Daemon::start();
    let outcome = say(daemon.client.socket(), "network create taken");
    assert_eq!((outcome.exit, outcome.out.as_str()), (Exit::Failed, ""));
    assert_eq!(
        outcome.err,
        "netctl: network taken exists: choose another name [network_exists]\n"
    );
    let expected = json!({"error": {"code": "network_exists", "message": "network taken exists: choose another name"}});
    let outcome = say(daemon.client.socket(), "network create taken -o json");
    assert_eq!(outcome.exit, Exit::Failed);
    assert_eq!(
        serde_json::from_str::<Value>(&outcome.out).unwrap(),
        expected
    );
    assert_eq!(outcome.err.lines().count(), 1);
    let outcome = say(daemon.client.socket(), "network create taken -o yaml");
    assert_eq!(
        serde_norway::from_str::<Value>(&outcome.out).unwrap(),
        expected
    );
    let outcome = say(daemon.client.socket(), "purge");
    assert!(
        outcome.err.ends_with("[containers_attached]\n"),
        "{}",
        outcome.err
    );
}

#[test]
fn a_newer_daemons_codes_keys_and_operations_are_shown_as_they_are() {
    let dir = Dir::new();
    let answer = "HTTP/1.1 418 T\r\nconnection: close\r\n\r\n\
                  {\"error\":{\"code\":\"brand_new\",\"message\":\"what\",\"hint\":true}}";
    let socket = answering(&dir, answer);
    let outcome = say(&socket, "ps");
    assert_eq!(
        (outcome.exit, outcome.err.as_str()),
        (Exit::Failed, "netctl: what [brand_new]\n")
    );
    let dir = Dir::new();
    let answer = "HTTP/1.1 200 OK\r\nconnection: close\r\n\r\n\
                  {\"ops\":[{\"op\":\"teleport\",\"b\":1,\"a\":2}],\"text\":[\"teleport x\"],\"orphans\":[],\"new\":0}";
    let socket = answering(&dir, answer);
    assert_eq!(say(&socket, "plan").out, "teleport x\n");
    let document = say(&socket, "plan -o json").out;
    assert!(
        document.contains("\"op\": \"teleport\",\n      \"b\": 1,\n      \"a\": 2"),
        "{document}"
    );
    assert!(document.contains("\"new\": 0"), "{document}");
}

#[test]
fn an_answer_of_something_else_is_said_to_be_one() {
    for (answer, code) in [
        (
            "HTTP/1.1 200 OK\r\nconnection: close\r\n\r\n<html>",
            "bad_answer",
        ),
        (
            "HTTP/1.1 502 Bad\r\nconnection: close\r\n\r\n",
            "bad_answer",
        ),
        ("SSH-2.0-OpenSSH\r\n", "no_answer"),
        ("", "no_answer"),
        (
            "HTTP/1.1 200 OK\r\ncontent-length: 100\r\n\r\n[",
            "no_answer",
        ),
    ] {
        let dir = Dir::new();
        let outcome = say(&answering(&dir, answer), "ps");
        assert_eq!(outcome.exit, Exit::Failed, "{answer:?}");
        assert_eq!(outcome.err.lines().count(), 1);
        assert!(
            outcome.err.ends_with(&format!("[{code}]\n")),
            "{answer:?}: {}",
            outcome.err
        );
    }
}

#[test]
fn a_message_never_steers_the_terminal() {
    let dir = Dir::new();
    let answer = "HTTP/1.1 400 B\r\nconnection: close\r\n\r\n\
                  {\"error\":{\"code\":\"x\",\"message\":\"a\\nb\\u001b[31m\"}}";
    let outcome = say(&answering(&dir, answer), "ps");
    assert_eq!(outcome.err, "netctl: a\u{fffd}b\u{fffd}[31m [x]\n");
}

#[test]
fn purge_works_without_a_daemon() {
    #[expect(
        clippy::unnecessary_wraps,
        reason = "the signature is that of the purge"
    )]
    fn offline(purge: &crate::cli::args::PurgeOptions) -> netd_model::error::Result<Purged> {
        Ok(Purged {
            containers: usize::from(purge.force),
            networks: 2,
            orphans: 0,
        })
    }
    let words = |line: &str| {
        format!("netctl --socket /nowhere {line}")
            .split(' ')
            .map(Into::into)
            .collect::<Vec<_>>()
    };
    for (line, expected) in [("purge --force", 1), ("purge", 0)] {
        let (mut out, mut err) = (Vec::new(), Vec::new());
        let exit = run(
            words(&format!("{line} -o json")),
            &mut out,
            &mut err,
            offline,
        );
        assert_eq!((exit, err.as_slice()), (Exit::Done, &b""[..]));
        let document: Value = serde_json::from_slice(&out).unwrap();
        assert_eq!(
            document,
            json!({"containers": expected, "networks": 2, "orphans": 0})
        );
    }
    let outcome = say(Path::new("/nowhere"), "purge");
    assert_eq!(outcome.exit, Exit::Failed);
    assert!(
        outcome.err.contains("nothing to purge in this test"),
        "{}",
        outcome.err
    );
}

/// A stream that fails.
struct Broken(io::ErrorKind);

impl Write for Broken {
    fn write(&mut self, _: &[u8]) -> io::Result<usize> {
        Err(self.0.into())
    }

    fn flush(&mut self) -> io::Result<()> {
        Err(self.0.into())
    }
}

#[test]
fn a_reader_that_left_is_no_failure_and_a_full_disk_is() {
    let daemon = Daemon::start();
    let socket = daemon.client.socket().to_str().unwrap();
    for command in [
        "ps",
        "ps -o json",
        "--help",
        "completion bash",
        "network inspect nope -o json",
    ] {
        let failing = command.contains("nope");
        let words = || {
            format!("netctl --socket {socket} {command}")
                .split(' ')
                .map(Into::into)
                .collect::<Vec<_>>()
        };
        let mut err = Vec::new();
        let exit = run(
            words(),
            &mut Broken(io::ErrorKind::BrokenPipe),
            &mut err,
            no_purge,
        );
        assert_eq!(
            exit,
            if failing { Exit::Failed } else { Exit::Done },
            "{command}"
        );
        let exit = run(
            words(),
            &mut Broken(io::ErrorKind::StorageFull),
            &mut err,
            no_purge,
        );
        assert_eq!(exit, Exit::Failed, "{command}");
        let exit = run(
            words(),
            &mut Vec::new(),
            &mut Broken(io::ErrorKind::BrokenPipe),
            no_purge,
        );
        assert_eq!(
            exit,
            if failing { Exit::Failed } else { Exit::Done },
            "{command}"
        );
    }
}
