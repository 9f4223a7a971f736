//! The program netctl. Everything is in `netd::cli`.

use std::process::ExitCode;

use netd_model::api::Purged;
use netd_model::error::{Code, Error, Result};

fn main() -> ExitCode {
    netd::cli::main(std::env::args_os(), offline_purge)
}

// OWNER: replace by `netd::purge::offline`.
fn offline_purge(_force: bool) -> Result<Purged> {
    Err(Error::new(
        Code::NotReady,
        "purge needs a running daemon in this build: start netd",
    ))
}
