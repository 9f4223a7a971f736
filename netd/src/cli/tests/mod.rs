//! netctl from its arguments to its streams and exit code.

mod arguments;
mod commands;
mod failures;
mod pages;
mod resolv_conf;

use std::ffi::OsString;
use std::path::Path;

use netd_model::api::Purged;
use netd_model::error::{Code, Error, Result};

use super::Exit;

/// What a run left behind.
#[derive(Debug, PartialEq)]
struct Outcome {
    exit: Exit,
    out: String,
    err: String,
}

fn no_purge(_: &super::args::PurgeOptions) -> Result<Purged> {
    Err(Error::new(
        Code::Internal,
        "there is nothing to purge in this test",
    ))
}

/// Runs netctl against a socket.
fn netctl(socket: &Path, args: &[&str]) -> Outcome {
    let words = [
        "netctl".into(),
        "--socket".into(),
        socket.as_os_str().to_owned(),
    ];
    let words = words.into_iter().chain(args.iter().map(OsString::from));
    let (mut out, mut err) = (Vec::new(), Vec::new());
    let exit = super::run(words, &mut out, &mut err, no_purge);
    Outcome {
        exit,
        out: String::from_utf8(out).unwrap(),
        err: String::from_utf8(err).unwrap(),
    }
}

/// The same with words separated by spaces.
fn say(socket: &Path, line: &str) -> Outcome {
    netctl(socket, &line.split_whitespace().collect::<Vec<_>>())
}

#[test]
fn the_definitions_of_the_command_line_agree_with_each_other() {
    super::command().debug_assert();
    // Subcommands are checked when they are used: one help of each uses them all.
    for line in ["purge", "network create", "attach", "connect", "status"] {
        let outcome = say(Path::new("/nowhere"), &format!("{line} --help"));
        assert_eq!(outcome.exit, Exit::Done, "{line}: {}", outcome.err);
    }
}

#[test]
fn the_documented_codes_are_those_of_the_source() {
    let documented = include_str!("../../../../docs/errors.md");
    let (_, documented) = documented.split_once("## Codes of netctl").unwrap();
    let rows: Vec<&str> = documented
        .lines()
        .filter(|line| line.starts_with("| `"))
        .collect();
    let expected: Vec<String> = super::CODES
        .iter()
        .map(|(code, meaning)| format!("| `{code}` | {meaning} |"))
        .collect();
    assert_eq!(
        rows,
        expected,
        "docs/errors.md should have these rows:\n{}",
        expected.join("\n")
    );
}
