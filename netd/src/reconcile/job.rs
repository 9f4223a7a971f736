//! What the owner gives to the executors, and what comes back. Plain data, and the one function that carries it out.
//!
//! The order of steps is invariant I7: a record is written before the kernel is touched and removed after it is clean.

use netd_model::error::{Code, Error};
use netd_model::observed::{HostFacts, Observed};
use netd_model::record::{Container, Network};
use netd_model::{ContainerId, NetworkId, Object, Op};

use crate::kernel::{ApplyError, Executor, Kernel, KernelError, KernelErrorKind, Sandbox};
use crate::state::{HostState, Store};

/// Names a job that is under way.
pub(crate) type Token = u64;

/// One change of a record.
#[derive(Clone, Debug)]
pub(crate) enum Write {
    Network(Box<Network>),
    DropNetwork(NetworkId),
    Container(Box<Container>),
    DropContainer(ContainerId),
    Host(HostState),
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
    pub(crate) kernel: std::sync::Arc<dyn Kernel>,
    pub(crate) store: std::sync::Arc<dyn Store>,
}

impl Tools {
    /// Writes records in order.
    pub(crate) fn write(&self, writes: &[Write]) -> Result<(), Error> {
        for write in writes {
            match write {
                Write::Network(network) => self.store.put_network(network),
                Write::DropNetwork(id) => self.store.delete_network(id),
                Write::Container(container) => self.store.put_container(container),
                Write::DropContainer(id) => self.store.delete_container(id),
                Write::Host(host) => self.store.put_host(host),
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
                ops,
                after,
                undo,
            } => self.make(executor, sandbox, (&before, &ops, &after, &undo)),
            Work::Unmake(unmake) => {
                let mut failures = Vec::new();
                if let Err(error) = self.write(&unmake.before) {
                    return Outcome::Failed { error, clean: true };
                }
                apply_all(executor, &unmake.ops, &mut failures);
                self.finish(&unmake, failures)
            }
            Work::Facts => match self.kernel.facts() {
                Ok(facts) => Outcome::Facts(Box::new(facts)),
                Err(error) => Outcome::Failed {
                    error: Error::new(Code::KernelFailed, error),
                    clean: true,
                },
            },
            Work::Observe { wanted } => self.observe(&wanted),
            Work::Repair { before, ops } => {
                if let Err(error) = self.write(&before) {
                    return Outcome::Failed { error, clean: true };
                }
                let mut failures = Vec::new();
                apply_all(executor, &ops, &mut failures);
                Outcome::Repaired(failures)
            }
        }
    }

    fn observe(&self, wanted: &[Object]) -> Outcome {
        let seen = self
            .kernel
            .facts()
            .and_then(|facts| Ok((facts, self.kernel.observe(wanted)?)));
        match seen {
            Ok(seen) => Outcome::Observed(Box::new(seen)),
            Err(error) => Outcome::Failed {
                error: Error::new(Code::KernelFailed, error),
                clean: true,
            },
        }
    }

    fn make(
        &self,
        executor: &mut dyn Executor,
        sandbox: Option<(ContainerId, Sandbox)>,
        (before, ops, after, undo): (&[Write], &[Op], &[Write], &[Write]),
    ) -> Outcome {
        let id = sandbox.as_ref().map(|(id, _)| id.clone());
        if let Some((id, sandbox)) = sandbox {
            self.kernel.add_sandbox(&id, sandbox);
        }
        let mut done = 0;
        let written = self.write(before);
        let touched = written.is_ok();
        let result = written
            .and_then(|()| match executor.apply(ops) {
                Ok(()) => {
                    done = ops.len();
                    Ok(())
                }
                Err(failed) => {
                    done = failed.done;
                    Err(kernel_error(&failed))
                }
            })
            .and_then(|()| self.write(after));
        let Err(error) = result else {
            return Outcome::Done;
        };
        // A record that could not be written needs no undoing; on a full disk that would fail as well.
        let clean = self.take_back(executor, &ops[..done.min(ops.len())], undo) || !touched;
        if let Some(id) = id.filter(|_| clean) {
            self.kernel.remove_sandbox(&id);
        }
        Outcome::Failed { error, clean }
    }

    fn take_back(&self, executor: &mut dyn Executor, done: &[Op], undo: &[Write]) -> bool {
        let inverse: Vec<Op> = done.iter().rev().filter_map(Op::inverse).collect();
        let mut failures = Vec::new();
        apply_all(executor, &inverse, &mut failures);
        for (op, why) in &failures {
            tracing::error!(%op, why, "a roll-back failed: the next audit repeats it");
        }
        failures.is_empty() && self.write(undo).is_ok()
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

/// Applies operations, leaving out each that fails.
pub(crate) fn apply_all(executor: &mut dyn Executor, ops: &[Op], failures: &mut Vec<(Op, String)>) {
    let mut rest = ops.to_vec();
    while !rest.is_empty() {
        let Err(failed) = executor.apply(&rest) else {
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
        let gone = failed.error.kind == KernelErrorKind::NoSandbox && matches!(op, Op::Remove(_));
        if !gone {
            failures.push((op, with_remedy(&failed.error)));
        }
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
    let error = Error::new(code, format!("{}; {remedy}", failed.error));
    match failed.error.errno() {
        Some(errno) => error.with("errno", errno),
        None => error,
    }
}
