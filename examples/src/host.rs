//! The throw-away host.
//!
//! Owns its making and its end: whatever becomes of the command, no process, namespace or mount of the host stays.

use std::os::unix::process::CommandExt as _;
use std::path::Path;
use std::process::{Command, ExitCode};
use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use netd_tests::lab::{self, Netns, Signal};
use nix::sys::signal::{SigSet, kill};
use nix::sys::wait::{WaitPidFlag, WaitStatus, waitpid};
use nix::unistd::{Pid, alarm};

use crate::netns;

/// The program that becomes the command.
pub(crate) const RUN: &str = "__run";

/// Exit code of a command that does not exist, as a shell has it.
const NOT_RUN: i32 = 127;
/// Exit code after `--timeout`, as timeout(1) has it.
const TIMED_OUT: u8 = 124;

/// Makes the host, runs a command on it with the terminal of the caller, and removes everything.
pub(crate) fn run(timeout: Option<u32>, program: &str, args: &[&str]) -> Result<ExitCode> {
    // Blocked before the first thread starts, so that they come to `wait` and nowhere else.
    let signals: SigSet = [
        Signal::SIGCHLD,
        Signal::SIGINT,
        Signal::SIGTERM,
        Signal::SIGHUP,
        Signal::SIGALRM,
    ]
    .into_iter()
    .collect();
    signals.thread_block().context("blocking signals")?;
    lab::enter();
    ensure!(
        lab::scratch("host").starts_with("/run"),
        "no tmpfs can be mounted over /run: a throw-away host needs a /run of its own"
    );
    std::fs::create_dir(netns::MARK).context("marking the host as ours")?;

    let (host, outside) = (Netns::new("host"), Netns::new("outside"));
    wire(&host, &outside);
    let _bound = [&host, &outside].map(|netns| netns.bind(netns::file(netns.name())));

    let mut command = host.self_command(RUN, &[&[program], args].concat());
    command
        .env("PATH", search_path()?)
        .env_remove("NETD_SOCKET");
    let child = command.spawn().context("starting another nslab")?;
    let child = Pid::from_raw(i32::try_from(child.id())?);
    if let Some(seconds) = timeout {
        alarm::set(seconds);
    }
    let code = wait(&signals, child);
    end_everything()?;
    code.map(ExitCode::from)
}

/// The program `RUN`, with a command: a process inherits which signals are blocked, and for the command none may be.
pub(crate) fn unblock_and_run(args: &[String]) -> i32 {
    let failure = match (SigSet::all().thread_unblock(), args.split_first()) {
        (Ok(()), Some((program, args))) => {
            let error = Command::new(program).args(args).exec();
            format!("{program} cannot be run: {error}")
        }
        (unblocked, _) => format!("unblocking signals: {unblocked:?}"),
    };
    eprintln!("nslab: {failure}");
    NOT_RUN
}

fn wire(host: &Netns, outside: &Netns) {
    // A kernel with ipv6.disable=1 has no such file.
    let ipv6 = Path::new("/proc/self/net/if_inet6").exists();
    let addresses = if ipv6 { 2 } else { 1 };
    host.up("lo");
    outside.up("lo");
    lab::veth(
        host.end("uplink", &["192.0.2.1/24", "2001:db8::1/64"][..addresses]),
        outside.end("eth0", &["192.0.2.2/24", "2001:db8::2/64"][..addresses]),
    );
    for gateway in &["192.0.2.2", "2001:db8::2"][..addresses] {
        host.add_route("default", gateway);
    }
}

/// netd, netctl and nslab itself lie beside each other.
fn search_path() -> Result<std::ffi::OsString> {
    let own = std::env::current_exe().context("where nslab lies")?;
    let old = std::env::var_os("PATH").unwrap_or_default();
    let own = own.parent().map(Path::to_owned);
    Ok(std::env::join_paths(
        own.into_iter().chain(std::env::split_paths(&old)),
    )?)
}

/// The exit code of the command, or of what ended it.
fn wait(signals: &SigSet, child: Pid) -> Result<u8> {
    loop {
        match signals.wait().context("waiting for the command")? {
            Signal::SIGCHLD => {
                if let Some(code) = reap(child) {
                    return Ok(code);
                }
            }
            Signal::SIGALRM => {
                eprintln!("nslab: the command still ran when its time was over, and was killed");
                return Ok(TIMED_OUT);
            }
            signal => return Ok(of_signal(signal)),
        }
    }
}

/// Takes all children that have ended (orphans of the command come to us); the code of `child` if it is among them.
fn reap(child: Pid) -> Option<u8> {
    let mut code = None;
    while let Ok(status) = waitpid(None, Some(WaitPidFlag::WNOHANG)) {
        match status {
            WaitStatus::StillAlive => break,
            WaitStatus::Exited(pid, exit) if pid == child => code = u8::try_from(exit).ok(),
            WaitStatus::Signaled(pid, signal, _) if pid == child => code = Some(of_signal(signal)),
            _ => {}
        }
    }
    code
}

/// As a shell reports a signal.
fn of_signal(signal: Signal) -> u8 {
    u8::try_from(128 + signal as i32).unwrap_or(u8::MAX)
}

/// Kills every process of this host: those that live in our mount namespace, which nobody else has.
fn end_everything() -> Result<()> {
    let own = std::fs::read_link("/proc/self/ns/mnt").context("our own mount namespace")?;
    loop {
        let mut left = 0;
        for entry in std::fs::read_dir("/proc").context("the list of processes")? {
            let Ok(entry) = entry else { continue };
            let Ok(pid) = entry
                .file_name()
                .to_string_lossy()
                .parse()
                .map(Pid::from_raw)
            else {
                continue;
            };
            let theirs = std::fs::read_link(entry.path().join("ns/mnt"));
            if pid != Pid::this() && theirs.is_ok_and(|theirs| theirs == own) {
                let _ = kill(pid, Signal::SIGKILL);
                left += 1;
            }
        }
        while waitpid(None, Some(WaitPidFlag::WNOHANG)).is_ok_and(|s| s != WaitStatus::StillAlive) {
        }
        if left == 0 {
            return Ok(());
        }
        std::thread::sleep(Duration::from_millis(5));
    }
}
