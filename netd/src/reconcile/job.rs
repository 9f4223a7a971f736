//! What the owner gives to the executors, and what comes back. Plain data, and the one function that carries it out.
//!
//! The order of steps is invariant I7: a record is written before the kernel is touched and removed after it is clean.

use std::collections::BTreeSet;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use netd_model::error::{Code, Error};
use netd_model::net::Proto;
use netd_model::observed::{HostFacts, Observed};
use netd_model::record::{Container, Network};
use netd_model::{ContainerId, NetworkId, Object, Op};

use crate::kernel::{ApplyError, Executor, Kernel, KernelError, KernelErrorKind, Sandbox};
use crate::state::{HostState, StateError, Store};

/// Names a job that is under way.
pub(crate) type Token = u64;

/// One change of a record.
#[derive(Clone, Debug)]
pub(crate) enum Write {
    Network(Box<Network>),
    DropNetwork(NetworkId),
    Container(Box<Container>),
    DropContainer(ContainerId),
    /// What the cluster said of a network that containers are about to be on, and what of it is this host's.
    Shared(Vec<(String, Option<Vec<u8>>)>),
    /// What was done to the host. A number orders the writes of jobs that run at the same time.
    Host(u64, HostState),
    /// All networks and containers, damaged ones too: the end of a purge.
    Clear,
}

/// What an executor does in one go.
#[derive(Debug)]
pub(crate) enum Work {
    /// Record, kernel, record; everything taken back when a step fails.
    Make {
        /// A namespace to register first.
        sandbox: Option<(ContainerId, Sandbox)>,
        /// Records written before the kernel is touched.
        before: Vec<Write>,
        /// What is left of an earlier life of the container: removed first, and not put back.
        replaced: Vec<Op>,
        /// What the kernel shall do.
        ops: Vec<Op>,
        /// Records written when it has.
        after: Vec<Write>,
        /// Records written when it has not.
        undo: Vec<Write>,
    },
    /// Record, kernel, record; a step that fails does not stop those after it, but the last records stay.
    Unmake(Unmake),
    /// Read the host's facts.
    Facts,
    /// Read facts and everything that is ours.
    Observe {
        /// The desired objects: where to look for what carries no mark.
        wanted: Vec<Object>,
        /// The containers to look into; none: all.
        only: Option<BTreeSet<ContainerId>>,
    },
    /// Carry out repairs, going on after a failure.
    Repair {
        /// Records written before the kernel is touched.
        before: Vec<Write>,
        /// The repairs.
        ops: Vec<Op>,
    },
}

/// A removal.
#[derive(Debug, Default)]
pub(crate) struct Unmake {
    pub(crate) before: Vec<Write>,
    pub(crate) ops: Vec<Op>,
    pub(crate) after: Vec<Write>,
    /// Namespaces to let go when everything else is done.
    pub(crate) close: Vec<ContainerId>,
}

/// How a job ended.
#[derive(Debug)]
pub(crate) enum Outcome {
    /// All done.
    Done,
    /// Not done. `clean` says whether everything was taken back.
    Failed { error: Error, clean: bool },
    /// Facts were read.
    Facts(Box<HostFacts>),
    /// Everything was read.
    Observed(Box<(HostFacts, Observed)>),
    /// Repairs were tried; these failed.
    Repaired(Vec<(Op, String)>),
}

/// What executors work with.
#[derive(Clone, Debug)]
pub(crate) struct Tools {
    pub(crate) kernel: Arc<dyn Kernel>,
    pub(crate) store: Arc<dyn Store>,
    /// How to wait before an operation is tried again.
    pub(crate) pause: fn(Duration),
    pub(crate) host: Arc<HostRecord>,
}

/// The record of the host, which requests on different subjects write at the same time.
#[derive(Debug, Default)]
pub(crate) struct HostRecord {
    /// The number of the newest one written.
    newest: Mutex<u64>,
    saved: Mutex<Option<HostState>>,
}

impl HostRecord {
    /// What is on record; none if that is not known.
    pub(crate) fn saved(&self) -> Option<HostState> {
        lock(&self.saved).clone()
    }

    pub(crate) fn set_saved(&self, state: Option<HostState>) {
        *lock(&self.saved) = state;
    }

    fn write(&self, number: u64, state: &HostState, store: &dyn Store) -> Result<(), StateError> {
        let mut newest = lock(&self.newest);
        if number < *newest {
            // A later one, which knows of this one's changes, was faster.
            return Ok(());
        }
        let written = store.put_host(state);
        self.set_saved(written.is_ok().then(|| state.clone()));
        if written.is_ok() {
            *newest = number;
        }
        written
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    // Each change is one assignment: a panic elsewhere leaves it whole.
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// How long to wait before each further attempt of a list: a kernel short of memory or busy for a moment is no reason to
/// fail a request, one that stays so is.
const WAITS: [Duration; 3] = [
    Duration::from_millis(5),
    Duration::from_millis(25),
    Duration::from_millis(125),
];

/// Whether waiting can help.
fn may_pass(error: &KernelError) -> bool {
    let passing = [
        nix::libc::EBUSY,
        nix::libc::ENOBUFS,
        nix::libc::ENOMEM,
        nix::libc::EINTR,
    ];
    error.kind == KernelErrorKind::Other && error.errno().is_some_and(|no| passing.contains(&no))
}

impl Tools {
    #[expect(
        clippy::result_large_err,
        reason = "a failed list names its operation; that is rare"
    )]
    /// Applies a list, with another attempt where waiting can help. `waits` is what is left of [`WAITS`].
    fn apply(
        &self,
        executor: &mut dyn Executor,
        ops: &[Op],
        waits: &mut impl Iterator<Item = Duration>,
    ) -> Result<(), ApplyError> {
        let mut done = 0;
        loop {
            let Err(failed) = executor.apply(&ops[done..]) else {
                return Ok(());
            };
            done = ops.len().min(done + failed.done);
            if !self.wait(&failed.error, waits) {
                return Err(ApplyError { done, ..failed });
            }
        }
    }

    /// Waits, if that can help and was not tried often enough.
    fn wait(&self, error: &KernelError, waits: &mut impl Iterator<Item = Duration>) -> bool {
        let wait = may_pass(error).then(|| waits.next()).flatten();
        if let Some(wait) = wait {
            tracing::warn!(%error, "trying again in {wait:?}");
            (self.pause)(wait);
        }
        wait.is_some()
    }

    /// A look at the kernel, with another where waiting can help.
    pub(crate) fn look<T>(&self, look: impl Fn() -> Result<T, KernelError>) -> Result<T, Error> {
        let mut waits = WAITS.into_iter();
        loop {
            match look() {
                Err(error) if self.wait(&error, &mut waits) => {}
                seen => return seen.map_err(|error| Error::new(Code::KernelFailed, error)),
            }
        }
    }

    /// Writes records in order.
    pub(crate) fn write(&self, writes: &[Write]) -> Result<(), Error> {
        for write in writes {
            match write {
                Write::Network(network) => self.store.put_network(network),
                Write::DropNetwork(id) => self.store.delete_network(id),
                Write::Container(container) => self.store.put_container(container),
                Write::DropContainer(id) => self.store.delete_container(id),
                Write::Host(number, host) => self.host.write(*number, host, &*self.store),
                Write::Shared(keys) => self.store.put_cluster(keys),
                Write::Clear => self.store.clear(),
            }?;
        }
        Ok(())
    }

    /// Everything but [`Work::Unmake`], which the pool splits between two threads.
    pub(crate) fn run(&self, executor: &mut dyn Executor, work: Work) -> Outcome {
        match work {
            Work::Make {
                sandbox,
                before,
                replaced,
                ops,
                after,
                undo,
            } => {
                let records = (&before[..], &after[..], &undo[..]);
                self.make(executor, sandbox, &replaced, &ops, records)
            }
            Work::Unmake(unmake) => {
                let mut failures = Vec::new();
                if let Err(error) = self.write(&unmake.before) {
                    return Outcome::Failed { error, clean: true };
                }
                self.apply_all(executor, &unmake.ops, &mut failures);
                self.finish(&unmake, failures)
            }
            Work::Facts => match self.look(|| self.kernel.facts()) {
                Ok(facts) => Outcome::Facts(Box::new(facts)),
                Err(error) => Outcome::Failed { error, clean: true },
            },
            Work::Observe { wanted, only } => self.observe(&wanted, only.as_ref()),
            Work::Repair { before, ops } => {
                if let Err(error) = self.write(&before) {
                    return Outcome::Failed { error, clean: true };
                }
                let mut failures = Vec::new();
                self.apply_all(executor, &ops, &mut failures);
                Outcome::Repaired(failures)
            }
        }
    }

    fn observe(&self, wanted: &[Object], only: Option<&BTreeSet<ContainerId>>) -> Outcome {
        let observe = || match only {
            Some(only) => self.kernel.observe_some(wanted, only),
            None => self.kernel.observe(wanted),
        };
        let seen = self
            .look(|| self.kernel.facts())
            .and_then(|facts| Ok((facts, self.look(observe)?)));
        match seen {
            Ok(seen) => Outcome::Observed(Box::new(seen)),
            Err(error) => Outcome::Failed { error, clean: true },
        }
    }

    fn make(
        &self,
        executor: &mut dyn Executor,
        sandbox: Option<(ContainerId, Sandbox)>,
        replaced: &[Op],
        ops: &[Op],
        (before, after, undo): (&[Write], &[Write], &[Write]),
    ) -> Outcome {
        let id = sandbox.as_ref().map(|(id, _)| id.clone());
        if let Some((id, sandbox)) = sandbox {
            self.kernel.add_sandbox(&id, sandbox);
        }
        let mut done = 0;
        let mut writes = 0;
        let written = before.iter().try_for_each(|write| {
            self.write(std::slice::from_ref(write))?;
            writes += 1;
            Ok(())
        });
        let untouched = written.is_err() && writes == 0;
        let result = written
            .and_then(|()| {
                let removed = self.apply(executor, replaced, &mut WAITS.into_iter());
                removed.map_err(|failed| kernel_error(&failed))
            })
            .and_then(
                |()| match self.apply(executor, ops, &mut WAITS.into_iter()) {
                    Ok(()) => {
                        done = ops.len();
                        Ok(())
                    }
                    Err(failed) => {
                        done = failed.done;
                        Err(kernel_error(&failed))
                    }
                },
            )
            .and_then(|()| self.write(after));
        let Err(error) = result else {
            return Outcome::Done;
        };
        // When not even the first record could be written there is nothing to undo; on a full disk that would fail too.
        let clean = untouched || self.take_back(executor, &ops[..done.min(ops.len())], undo);
        if let Some(id) = id.filter(|_| clean) {
            self.kernel.remove_sandbox(&id);
        }
        Outcome::Failed { error, clean }
    }

    fn take_back(&self, executor: &mut dyn Executor, done: &[Op], undo: &[Write]) -> bool {
        let inverse: Vec<Op> = done.iter().rev().filter_map(Op::inverse).collect();
        let mut failures = Vec::new();
        self.apply_all(executor, &inverse, &mut failures);
        for (op, why) in &failures {
            tracing::error!(%op, why, "a roll-back failed: the next audit repeats it");
        }
        let clean = failures.is_empty();
        // What could not be taken back keeps its owner on record; a record that only shrinks does that anyway.
        let (drops, shrinks): (Vec<Write>, Vec<Write>) = undo
            .iter()
            .cloned()
            .partition(|write| matches!(write, Write::DropContainer(_) | Write::DropNetwork(_)));
        let written = self.write(&shrinks).is_ok();
        clean && written && self.write(&drops).is_ok()
    }

    /// Applies operations, leaving out each that fails.
    pub(crate) fn apply_all(
        &self,
        executor: &mut dyn Executor,
        ops: &[Op],
        failures: &mut Vec<(Op, String)>,
    ) {
        let mut waits = WAITS.into_iter();
        let mut rest = ops.to_vec();
        while !rest.is_empty() {
            let Err(failed) = self.apply(executor, &rest, &mut waits) else {
                return;
            };
            rest.drain(..failed.done.min(rest.len()));
            // An atomic batch names the culprit; without a name it is the first that is left.
            let culprit = failed
                .failed
                .as_ref()
                .and_then(|op| rest.iter().position(|other| other == op))
                .unwrap_or(0);
            if culprit >= rest.len() {
                return;
            }
            let op = rest.remove(culprit);
            // Without a sandbox the namespace is gone, and with it what was inside.
            let gone =
                failed.error.kind == KernelErrorKind::NoSandbox && matches!(op, Op::Remove(_));
            if !gone {
                failures.push((op, with_remedy(&failed.error)));
            }
        }
    }

    /// The last part of a removal: records and namespaces go only when the kernel is clean.
    pub(crate) fn finish(&self, unmake: &Unmake, failures: Vec<(Op, String)>) -> Outcome {
        if let Some((op, why)) = failures.into_iter().next() {
            let message =
                format!("{op}: {why}; what could not be removed is tried again by the next audit");
            return Outcome::Failed {
                error: Error::new(Code::KernelFailed, message),
                clean: false,
            };
        }
        if let Err(error) = self.write(&unmake.after) {
            return Outcome::Failed {
                error,
                clean: false,
            };
        }
        unmake
            .close
            .iter()
            .for_each(|id| self.kernel.remove_sandbox(id));
        Outcome::Done
    }
}

/// What to do about a lack of descriptors.
const MORE_FILES: &str = "raise netd's limit of open files (LimitNOFILE)";

fn out_of_files(error: &KernelError) -> bool {
    use nix::errno::Errno;
    let errno = error.errno().map(Errno::from_raw);
    matches!(errno, Some(Errno::EMFILE | Errno::ENFILE))
}

/// A failed repair or removal, with what a person can do so that the next audit succeeds.
fn with_remedy(error: &KernelError) -> String {
    if error.kind == KernelErrorKind::PortInUse {
        return format!(
            "{error}; what comes from outside still reaches the container: stop the program, which `ss -lntup` \
             names, and the next audit takes the port"
        );
    }
    if out_of_files(error) {
        return format!("{error}; {MORE_FILES}");
    }
    error.to_string()
}

/// The kernel's refusal as users see it.
pub(crate) fn kernel_error(failed: &ApplyError) -> Error {
    let (code, remedy) = match failed.error.kind {
        KernelErrorKind::PortInUse => (
            Code::PortInUse,
            "another program holds it: stop that, or choose another host port",
        ),
        KernelErrorKind::AddressNotHere => (
            Code::InvalidPublish,
            "publish on an address of this host, or on all of them",
        ),
        KernelErrorKind::IfnameInUse | KernelErrorKind::HostIfnameInUse => (
            Code::IfnameInUse,
            "an interface of that name is there already: choose another",
        ),
        KernelErrorKind::BridgeFull => (
            Code::NetworkFull,
            "the bridge takes no more ports: use a second network",
        ),
        _ => (Code::KernelFailed, "everything was taken back"),
    };
    let (code, remedy) = if out_of_files(&failed.error) {
        (Code::TooManyFiles, MORE_FILES)
    } else {
        (code, remedy)
    };
    let mut error = Error::new(code, format!("{}; {remedy}", failed.error));
    if let Some(Op::Add(Object::HostPort(port))) = &failed.failed {
        error = error
            .with("proto", port.proto.as_str())
            .with("host_port", port.port);
    }
    match failed.error.errno() {
        Some(errno) => error.with("errno", errno),
        None => error,
    }
}

/// The host port that an error of [`kernel_error`] is about.
pub(crate) fn held_port(error: &Error) -> Option<(Proto, u16)> {
    let proto = error.details.get("proto")?.clone();
    let port = error.details.get("host_port")?.as_u64()?;
    Some((
        serde_json::from_value(proto).ok()?,
        u16::try_from(port).ok()?,
    ))
}
