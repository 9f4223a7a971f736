//! What stays after nslab has returned: containers that are a process, and servers.
//!
//! Each is this program once more, started under a name of its own. It writes one line when it is ready, and only
//! then does the command that started it return.

use std::io::{BufRead as _, BufReader, Write as _};
use std::net::{Ipv4Addr, Ipv6Addr, TcpListener};
use std::process::Stdio;

use anyhow::{Context as _, Result, bail};
use netd_tests::lab;
use nix::sched::{CloneFlags, unshare};

use crate::netns;

/// The program that keeps a namespace of its own alive.
pub(crate) const HOLD: &str = "__hold";
/// The program that greets whoever connects.
pub(crate) const SERVE: &str = "__serve";

const READY: &str = "ready\n";

/// Starts a process in a namespace of its own and returns its pid.
pub(crate) fn process(name: &str) -> Result<u32> {
    netns::only_on_a_throw_away_host()?;
    let pid = start(HOLD, &[name])?;
    netns::remember(name, pid)?;
    Ok(pid)
}

/// Starts a server in a namespace.
pub(crate) fn server(netns: &str, port: &str) -> Result<()> {
    netns::only_on_a_throw_away_host()?;
    start(SERVE, &[netns, port]).map(drop)
}

/// The program `HOLD`.
pub(crate) fn hold(_args: &[String]) -> i32 {
    ended(hold_for_ever())
}

/// The program `SERVE`, with a namespace and a port.
pub(crate) fn serve(args: &[String]) -> i32 {
    ended(serve_for_ever(args))
}

fn hold_for_ever() -> Result<()> {
    unshare(CloneFlags::CLONE_NEWNET).context("making a network namespace")?;
    ready();
    loop {
        nix::unistd::pause();
    }
}

fn serve_for_ever(args: &[String]) -> Result<()> {
    let [netns, port] = args else {
        bail!("a namespace and a port are needed");
    };
    let port: u16 = port.parse().with_context(|| format!("port {port:?}"))?;
    netns::join(netns)?;
    // The first takes connections of both families; a host without IPv6 has only the second.
    let listener = TcpListener::bind((Ipv6Addr::UNSPECIFIED, port))
        .or_else(|_| TcpListener::bind((Ipv4Addr::UNSPECIFIED, port)))
        .with_context(|| format!("port {port} in {netns}"))?;
    ready();
    for stream in listener.incoming() {
        // A visitor who has left already is no reason to stop.
        let Ok(mut stream) = stream else { continue };
        let Ok(peer) = stream.peer_addr() else {
            continue;
        };
        let _ = writeln!(stream, "{netns} says hello to {}", peer.ip().to_canonical());
    }
    Ok(())
}

fn start(program: &str, args: &[&str]) -> Result<u32> {
    // It inherits no descriptor: whoever reads our output would wait for its end.
    let mut child = lab::self_command(program, args)
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .context("starting another nslab")?;
    let mut line = String::new();
    if let Some(stdout) = child.stdout.take() {
        BufReader::new(stdout).read_line(&mut line)?;
    }
    if line == READY {
        return Ok(child.id());
    }
    let words = child.wait_with_output()?.stderr;
    bail!("{}", String::from_utf8_lossy(&words).trim_end())
}

fn ready() {
    // Nobody to tell means that the starter is gone; the process itself is fine.
    let _ = std::io::stdout().write_all(READY.as_bytes());
    let _ = std::io::stdout().flush();
}

/// The exit code; the words go to the nslab that started us.
fn ended(result: Result<()>) -> i32 {
    match result {
        Ok(()) => 0,
        Err(error) => {
            eprintln!("{error:#}");
            1
        }
    }
}
