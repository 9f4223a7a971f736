//! Running tests.
//!
//! Owns the frame around libtest-mimic: who we are at the start, what was skipped and what was
//! left behind at the end, and the output of a failed test's processes beside its message.

use std::any::Any;
use std::cell::RefCell;
use std::panic::{AssertUnwindSafe, catch_unwind, resume_unwind};
use std::process::ExitCode;
use std::sync::{Mutex, PoisonError};

use libtest_mimic::{Arguments, Completion, Failed, Trial};
use nix::sys::signal::{Signal, kill};
use nix::sys::wait::waitpid;
use nix::unistd::Pid;

use super::enter::{self, Privileges};

/// What a test body may return: nothing, or a result.
pub trait TestResult {
    /// The message of a failure.
    fn failure(self) -> Option<String>;
}

impl TestResult for () {
    fn failure(self) -> Option<String> {
        None
    }
}

impl TestResult for anyhow::Result<()> {
    fn failure(self) -> Option<String> {
        self.err().map(|error| format!("{error:?}"))
    }
}

struct Skip(String);

static SKIPPED: Mutex<Vec<String>> = Mutex::new(Vec::new());

thread_local! {
    static REPORT: RefCell<String> = const { RefCell::new(String::new()) };
}

/// A test. A panic or an error fails it; `skip` ends it as skipped.
pub fn test<R: TestResult>(name: &str, body: impl FnOnce() -> R + Send + 'static) -> Trial {
    let own_name = name.to_owned();
    Trial::ignorable_test(name, move || {
        REPORT.take();
        let failure = match catch_unwind(AssertUnwindSafe(body)) {
            Ok(result) => result.failure(),
            Err(panic) => match panic.downcast::<Skip>() {
                Ok(skip) => return Ok(note_skip(&own_name, skip.0)),
                Err(panic) => Some(panic_message(panic.as_ref())),
            },
        };
        let report = REPORT.take();
        failure.map_or(Ok(Completion::Completed), |message| {
            Err(Failed::from(format!("{message}\n{report}")))
        })
    })
}

/// Ends the running test: it cannot run here, and this is why. It is named and counted at the
/// end of the run. Works from inside `Netns::run` too.
pub fn skip(why: &str) -> ! {
    // Unlike panic!, this prints no message of a failure.
    resume_unwind(Box::new(Skip(why.to_owned())))
}

/// Runs the tests with the arguments of the command line: names, filters, `--list` and so on.
pub fn main(tests: Vec<Trial>) -> ExitCode {
    let args = Arguments::from_args();
    let list_only = args.list;
    if !list_only {
        eprintln!("lab: {}", describe(enter::privileges()));
    }
    let conclusion = libtest_mimic::run(&args, tests);
    end_left_overs();
    enter::clean_up();
    if !list_only {
        let skipped = SKIPPED.lock().unwrap_or_else(PoisonError::into_inner);
        eprintln!("SKIPPED {}: {}", skipped.len(), skipped.join("; "));
    }
    conclusion.exit_code()
}

/// Adds text that is shown when the test of this thread fails.
pub(super) fn keep_for_report(text: &str) {
    // A process may be dropped while its thread's storage is already gone: nobody reads it then.
    let _ = REPORT.try_with(|report| report.borrow_mut().push_str(text));
}

fn note_skip(name: &str, why: String) -> Completion {
    let mut skipped = SKIPPED.lock().unwrap_or_else(PoisonError::into_inner);
    skipped.push(format!("{name}: {why}"));
    Completion::ignored_with(why)
}

fn panic_message(panic: &(dyn Any + Send)) -> String {
    let text = panic.downcast_ref::<String>().map(String::as_str);
    let text = text.or_else(|| panic.downcast_ref::<&str>().copied());
    format!("panicked: {}", text.unwrap_or("(no message)"))
}

fn describe(privileges: Privileges) -> String {
    match privileges {
        Privileges::Root => "root, in a network and mount namespace of its own".to_owned(),
        Privileges::UserNamespace { uid } => {
            format!("uid {uid}, as root of a user namespace of its own")
        }
    }
}

/// Names and kills the processes that tests left behind; as subreaper we are their parent.
fn end_left_overs() {
    let own = std::process::id().to_string();
    for process in std::fs::read_dir("/proc").into_iter().flatten().flatten() {
        let stat = std::fs::read_to_string(process.path().join("stat")).unwrap_or_default();
        // "pid (name) state ppid": the name may hold spaces and brackets, but nothing after it.
        let mut fields = stat.rsplit(") ").next().unwrap_or_default().split(' ');
        let (state, parent) = (fields.next(), fields.next());
        let Ok(pid) = process.file_name().to_string_lossy().parse() else {
            continue;
        };
        if parent == Some(own.as_str()) && state != Some("Z") {
            let line = std::fs::read_to_string(process.path().join("cmdline")).unwrap_or_default();
            eprintln!(
                "LEFT BEHIND by a test, killed: {pid} {}",
                line.replace('\0', " ")
            );
            let _ = kill(Pid::from_raw(pid), Signal::SIGKILL);
            let _ = waitpid(Pid::from_raw(pid), None);
        }
    }
}
