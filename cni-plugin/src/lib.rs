//! netd's CNI plugin (CNI spec 1.1.0): reads one request, asks netd's daemon once, writes one JSON document.
//!
//! A process lives for one verb, so there is no runtime and no state here: everything that lasts is the daemon's. What the
//! plugin does by itself is to read configuration, to run a foreign IPAM plugin, and to write a DEL down where the
//! daemon will find it when it does not answer.
#![forbid(unsafe_code)]

use std::ffi::OsString;
use std::io::{Read as _, Write as _};
use std::process::ExitCode;

use env::Env;
use error::CniError;

mod args;
pub mod config;
mod daemon;
mod delegate;
pub mod env;
pub mod error;
#[allow(clippy::expect_used, reason = "a panic is how a finding is told")]
pub mod fuzzing;
mod install;
mod request;
pub mod result;
mod spool;
mod verbs;

pub use verbs::answer;

/// Most bytes of a configuration: one with a thousand port mappings has a tenth of it.
const STDIN_MAX: u64 = 4 << 20;

/// Runs the plugin: without arguments as a runtime does, with `install` or `uninstall` as an administrator does.
pub fn main(args: impl IntoIterator<Item = OsString>) -> ExitCode {
    let words: Vec<String> = args
        .into_iter()
        .skip(1)
        .map(|word| word.to_string_lossy().into_owned())
        .collect();
    if !words.is_empty() {
        return install::main(&words);
    }
    let env = Env::of_process();
    if env.command.is_none() {
        // Somebody typed the name: say what it is, and where its errors are read (CNI plugins do that).
        say(&format!(
            "netd-cni {}, CNI plugin of netd; protocol versions {}",
            env!("CARGO_PKG_VERSION"),
            result::VERSIONS.join(", ")
        ));
    }
    let mut stdin = Vec::new();
    let read = std::io::stdin()
        .lock()
        .take(STDIN_MAX)
        .read_to_end(&mut stdin);
    let outcome = match read {
        Ok(_) => answer(&env, &stdin),
        Err(error) => Err(CniError::new(
            error::IO,
            format!("standard input cannot be read: {error}"),
        )),
    };
    let (document, code) = match outcome {
        Ok(document) => (document, ExitCode::SUCCESS),
        Err(error) => (Some(error.document(&stdin)), ExitCode::FAILURE),
    };
    match document.map_or(Ok(()), |text| print(&text)) {
        Ok(()) => code,
        Err(error) => {
            say(&format!("netd-cni: the answer cannot be written: {error}"));
            ExitCode::FAILURE
        }
    }
}

/// The one document on standard output.
fn print(text: &str) -> std::io::Result<()> {
    let mut out = std::io::stdout().lock();
    out.write_all(text.as_bytes())?;
    out.write_all(b"\n")?;
    out.flush()
}

/// A line for people, on standard error.
fn say(line: &str) {
    // With standard error closed there is nobody to tell.
    let _ = writeln!(std::io::stderr().lock(), "{line}");
}
