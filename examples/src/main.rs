//! nslab: a throw-away host and the small tools that the examples need beside netd.
//!
//! It stands in for ip, dig and curl, so that an example needs nothing but a shell and cargo. The namespaces and
//! wires are those of the end-to-end tests (`netd_tests::lab`).
#![allow(
    clippy::print_stdout,
    clippy::print_stderr,
    reason = "a program for the terminal"
)]

use std::process::ExitCode;

use anyhow::{Context as _, Result};
use netd_tests::lab;

mod background;
mod host;
mod netns;
mod talk;

const USAGE: &str = "\
nslab host [--timeout SECONDS] -- COMMAND...
    Make a throw-away host, run COMMAND on it, remove everything. The host is a network namespace
    with an empty /run of its own. Its link `uplink` (192.0.2.1, 2001:db8::1) leads to a second
    machine called `outside` (192.0.2.2, 2001:db8::2). Works for root, and for others where user
    namespaces are allowed.

On such a host:
nslab netns NAME               Make a network namespace, bound to the file /run/netns/NAME
nslab process NAME             Start a process in a network namespace of its own; print its pid
nslab serve NETNS PORT         Start a TCP server that greets whoever connects
nslab get NETNS HOST:PORT      Connect from NETNS and print what the server says
nslab lookup NETNS NAME        Ask the name server at 127.0.0.11 in NETNS for NAME
nslab links NETNS              List the network links of NETNS
    NETNS is `host`, `outside`, a NAME from above, or pid:N.
";

fn main() -> ExitCode {
    lab::dispatch(&[
        (host::RUN, host::unblock_and_run),
        (background::HOLD, background::hold),
        (background::SERVE, background::serve),
    ]);
    let args: Vec<String> = std::env::args().skip(1).collect();
    let words: Vec<&str> = args.iter().map(String::as_str).collect();
    run(&words).unwrap_or_else(|error| {
        eprintln!("nslab: {error:#}");
        ExitCode::FAILURE
    })
}

fn run(words: &[&str]) -> Result<ExitCode> {
    match *words {
        ["host", "--", program, ref args @ ..] => return host::run(None, program, args),
        ["host", "--timeout", seconds, "--", program, ref args @ ..] => {
            let seconds = seconds
                .parse()
                .with_context(|| format!("--timeout {seconds:?}"))?;
            return host::run(Some(seconds), program, args);
        }
        ["netns", name] => netns::make(name)?,
        ["process", name] => println!("{}", background::process(name)?),
        ["serve", netns, port] => background::server(netns, port)?,
        ["get", netns, target] => print!("{}", talk::get(netns, target)?),
        ["lookup", netns, name] => print!("{}", talk::lookup(netns, name)?),
        ["links", netns] => print!("{}", netns::links(netns)?),
        ["--help" | "-h" | "help"] => print!("{USAGE}"),
        _ => {
            eprint!("{USAGE}");
            return Ok(ExitCode::from(2));
        }
    }
    Ok(ExitCode::SUCCESS)
}
