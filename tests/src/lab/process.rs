//! Programs under test.
//!
//! Owns started processes: what they print goes to files and into the message of a failed test,
//! and no process outlives its value or the test binary, not even when that is killed.

use std::fmt::Write;
use std::fs::File;
use std::io;
use std::os::unix::process::ExitStatusExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::OnceLock;
use std::sync::mpsc::{Sender, channel};
use std::time::Duration;

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

use super::{enter, harness, sys, wait};

/// A started program. Dropping it kills it and keeps its output for the report of the test.
#[derive(Debug)]
pub struct Process {
    label: String,
    child: Child,
    output: PathBuf,
}

impl Process {
    /// Starts `command` with no input and its output in files.
    pub fn start(label: &str, mut command: Command) -> Self {
        let output = enter::scratch("process");
        command.stdin(Stdio::null());
        command.stdout(File::create(output.join("stdout")).unwrap());
        command.stderr(File::create(output.join("stderr")).unwrap());
        sys::die_with_starter(&mut command);
        let child = spawn_on_lasting_thread(command)
            .unwrap_or_else(|error| panic!("{label} does not start: {error}"));
        Self {
            label: label.to_owned(),
            child,
            output,
        }
    }

    /// Its process id.
    pub fn pid(&self) -> u32 {
        self.child.id()
    }

    /// What it has written to its standard output so far.
    pub fn stdout(&self) -> String {
        read(&self.output.join("stdout"))
    }

    /// What it has written to its standard error so far.
    pub fn stderr(&self) -> String {
        read(&self.output.join("stderr"))
    }

    /// Sends a signal; nothing happens when it has ended.
    pub fn signal(&mut self, signal: Signal) {
        if self.try_wait().is_none() {
            let pid = i32::try_from(self.pid()).expect("a pid fits");
            kill(Pid::from_raw(pid), signal).expect("signalling a child");
        }
    }

    /// Its exit status once it has ended.
    pub fn try_wait(&mut self) -> Option<ExitStatus> {
        self.child.try_wait().expect("waiting for a child")
    }

    /// Waits for its end; panics when it still runs after `deadline`.
    pub fn wait(&mut self, deadline: Duration) -> ExitStatus {
        let what = format!("the end of {} (pid {})", self.label, self.pid());
        wait::poll_until(&what, deadline, || self.try_wait())
    }

    /// Asks it to end (SIGTERM), waits, and returns its exit status.
    pub fn stop(&mut self) -> ExitStatus {
        self.signal(Signal::SIGTERM);
        self.wait(wait::PATIENCE)
    }

    /// Ends it at once (SIGKILL) and waits until it is gone.
    pub fn kill(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }

    fn report(&self, status: Option<ExitStatus>) -> String {
        let end = match status {
            None => "still running at the end".to_owned(),
            Some(status) => match status.signal() {
                Some(signal) => format!("ended by signal {signal}"),
                None => format!("ended with {}", status.code().unwrap_or_default()),
            },
        };
        let mut text = format!("--- {} (pid {}, {end})\n", self.label, self.pid());
        for (name, content) in [("stdout", self.stdout()), ("stderr", self.stderr())] {
            if !content.is_empty() {
                let _ = writeln!(text, "{name}:\n{}", tail(&content));
            }
        }
        text
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        let status = self.child.try_wait().ok().flatten();
        self.kill();
        harness::keep_for_report(&self.report(status));
    }
}

fn read(path: &Path) -> String {
    let bytes = std::fs::read(path).unwrap_or_default();
    String::from_utf8_lossy(&bytes).into_owned()
}

/// The end of a long output: that is where the reason stands.
fn tail(text: &str) -> String {
    const LINES: usize = 200;
    let lines: Vec<_> = text.lines().collect();
    let skipped = lines.len().saturating_sub(LINES);
    let note = if skipped == 0 {
        String::new()
    } else {
        format!("({skipped} lines before)\n")
    };
    note + &lines[skipped..].join("\n")
}

/// The kernel kills a child when the *thread* that forked it ends, so every child is forked by
/// one thread that lives as long as the test binary.
fn spawn_on_lasting_thread(command: Command) -> io::Result<Child> {
    type Job = (Command, Sender<io::Result<Child>>);
    static STARTER: OnceLock<Sender<Job>> = OnceLock::new();
    let starter = STARTER.get_or_init(|| {
        let (jobs, todo) = channel::<Job>();
        std::thread::spawn(move || {
            for (mut command, answer) in todo {
                let _ = answer.send(command.spawn());
            }
        });
        jobs
    });
    let (answer, started) = channel();
    starter
        .send((command, answer))
        .expect("the starting thread lives");
    started.recv().expect("the starting thread answers")
}

/// CPU of all threads of a process, from the scheduler's own accounting.
pub fn cpu_time(pid: u32) -> Duration {
    let tasks = std::fs::read_dir(format!("/proc/{pid}/task")).expect("the process runs");
    let nanos = tasks.flatten().filter_map(|task| {
        let text = std::fs::read_to_string(task.path().join("schedstat")).ok()?;
        text.split_whitespace().next()?.parse::<u64>().ok()
    });
    Duration::from_nanos(nanos.sum())
}
