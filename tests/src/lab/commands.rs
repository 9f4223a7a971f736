//! One file, many programs.
//!
//! Owns the rule that `TEST-BINARY __NAME ARGS...` runs the program NAME instead of the tests, so
//! that one file is all a virtual machine needs: the daemon and its command line can be entries
//! of a test binary.

use std::ffi::OsStr;
use std::os::unix::process::CommandExt;
use std::process::Command;

/// The main function of a program: takes the arguments after the name, gives the exit code.
pub type Program = fn(&[String]) -> i32;

/// Program of the laboratory's own: holds a namespace until it is killed.
pub(super) const PAUSE: &str = "__pause";

/// Runs the program that `argv[1]` names, if it names one, and exits with its code. Returns when
/// the process was started to run tests. Call it first in `main`.
pub fn dispatch(commands: &[(&str, Program)]) {
    let mut args = std::env::args_os().skip(1);
    let Some(name) = args
        .next()
        .filter(|name| name.as_encoded_bytes().starts_with(b"__"))
    else {
        return;
    };
    let own: (&str, Program) = (PAUSE, pause);
    let Some((_, program)) = commands
        .iter()
        .chain([&own])
        .find(|(known, _)| name == *known)
    else {
        eprintln!("no program {} in this test binary", name.display());
        std::process::exit(2);
    };
    let args: Vec<String> = args
        .map(|arg| arg.into_string().expect("arguments are UTF-8"))
        .collect();
    std::process::exit(program(&args));
}

/// This very binary as another program: `self_command("__netd", &["--config", "x"])`.
pub fn self_command<S: AsRef<OsStr>>(name: &str, args: &[S]) -> Command {
    // The link in /proc leads to the running file even when its path is hidden or was replaced.
    let mut command = Command::new("/proc/self/exe");
    command
        .arg0(name.trim_start_matches('_'))
        .arg(name)
        .args(args);
    command
}

fn pause(_args: &[String]) -> i32 {
    loop {
        nix::unistd::pause();
    }
}
