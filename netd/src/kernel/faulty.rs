//! A kernel that fails, or dies with its daemon, at the n-th step.
//!
//! [`Faults`] counts every contact that a daemon has with the world: kernel operations here, reads and writes of records
//! in [`crate::state::FaultyStore`]. At the step that was chosen it lets one fail, or all from there on, or the daemon
//! die: from then on nothing of that daemon reaches kernel or store any more.

use std::collections::BTreeMap;
use std::fmt;
use std::io;
use std::net::IpAddr;
use std::path::Path;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use netd_model::object::Sysctl;
use netd_model::observed::{HostFacts, Observed};
use netd_model::{ContainerId, Object, Op};
use nix::errno::Errno;

use super::{ApplyError, Executor, Kernel, KernelError, Noticed, Sandbox, SandboxError};

/// What happens at the chosen step.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fault {
    /// It fails with this error.
    Once(Errno),
    /// It and all later ones of its kind fail with this error, until [`Faults::lift`].
    From(Errno),
    /// The daemon dies before it.
    DieBefore,
    /// It is done, and the daemon dies before it hears of it.
    DieAfter,
}

/// Whom a step concerns.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Domain {
    /// An operation of the kernel, or a look at it.
    Kernel,
    /// A record.
    Store,
}

/// A contact with the world.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Step {
    /// Whom it concerns.
    pub domain: Domain,
    /// What was asked for.
    pub what: String,
}

/// The steps of one daemon, and what goes wrong. Shared by its kernel and its store.
#[derive(Debug, Default)]
pub struct Faults {
    state: Mutex<State>,
}

#[derive(Debug, Default)]
struct State {
    steps: Vec<Step>,
    armed: Option<(usize, Fault)>,
    /// What fails from now on.
    broken: Option<(Domain, Errno)>,
    dead: bool,
}

enum Verdict {
    Pass,
    Refuse(Errno),
    PassAndDie,
}

impl State {
    fn judge(&mut self, domain: Domain, what: String) -> Verdict {
        if self.dead {
            return Verdict::Refuse(Errno::EOWNERDEAD);
        }
        let at = self.steps.len();
        self.steps.push(Step { domain, what });
        match self.armed.filter(|(chosen, _)| *chosen == at) {
            Some((_, Fault::Once(errno))) => return Verdict::Refuse(errno),
            Some((_, Fault::From(errno))) => self.broken = Some((domain, errno)),
            Some((_, Fault::DieBefore)) => {
                self.dead = true;
                return Verdict::Refuse(Errno::EOWNERDEAD);
            }
            Some((_, Fault::DieAfter)) => return Verdict::PassAndDie,
            None => {}
        }
        match self.broken.filter(|(broken, _)| *broken == domain) {
            Some((_, errno)) => Verdict::Refuse(errno),
            None => Verdict::Pass,
        }
    }
}

impl Faults {
    fn state(&self) -> MutexGuard<'_, State> {
        // A test that panicked with the lock held has failed already.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Counts from 0 again and lets the step of this number go wrong.
    pub fn arm(&self, at: usize, fault: Fault) {
        let mut state = self.state();
        state.steps.clear();
        state.armed = Some((at, fault));
    }

    /// Counts from 0 again; nothing goes wrong.
    pub fn count(&self) {
        let mut state = self.state();
        state.steps.clear();
        state.armed = None;
    }

    /// From now on nothing fails any more. The dead stay dead.
    pub fn lift(&self) {
        let mut state = self.state();
        state.armed = None;
        state.broken = None;
    }

    /// What fails again and again fails no more; a fault that is still to come comes.
    pub fn end_of_lasting(&self) {
        self.state().broken = None;
    }

    /// The steps since the count began.
    pub fn steps(&self) -> Vec<Step> {
        self.state().steps.clone()
    }

    /// Ends the daemon here.
    pub fn kill(&self) {
        self.state().dead = true;
    }

    /// Whether the daemon has died.
    pub fn is_dead(&self) -> bool {
        self.state().dead
    }

    /// One step: nothing else of this daemon happens meanwhile, so that what comes after a death is really nothing.
    pub fn step<T, E>(
        &self,
        domain: Domain,
        what: &dyn fmt::Display,
        run: impl FnOnce() -> Result<T, E>,
        refuse: impl FnOnce(io::Error) -> E,
    ) -> Result<T, E> {
        let mut state = self.state();
        match state.judge(domain, what.to_string()) {
            Verdict::Pass => run(),
            Verdict::Refuse(errno) => Err(refuse(errno.into())),
            Verdict::PassAndDie => {
                let _ = run();
                state.dead = true;
                Err(refuse(Errno::EOWNERDEAD.into()))
            }
        }
    }

    /// Something that cannot fail and is no step; the dead do not do it.
    pub fn alive<T>(&self, run: impl FnOnce() -> T) -> Option<T> {
        let state = self.state();
        (!state.dead).then(run)
    }
}

/// Wraps a kernel; all executors count together.
#[derive(Debug)]
pub struct FaultyKernel {
    inner: Arc<dyn Kernel>,
    faults: Arc<Faults>,
}

impl FaultyKernel {
    /// A kernel whose steps count and fail as `faults` says.
    pub fn new(inner: Arc<dyn Kernel>, faults: Arc<Faults>) -> Self {
        Self { inner, faults }
    }
}

impl Kernel for FaultyKernel {
    fn executor(&self) -> Result<Box<dyn Executor>, KernelError> {
        let inner = self.inner.executor()?;
        Ok(Box::new(FaultyExecutor {
            inner,
            faults: Arc::clone(&self.faults),
        }))
    }

    fn open_sandbox(&self, path: &Path) -> Result<Sandbox, SandboxError> {
        self.faults.step(
            Domain::Kernel,
            &format_args!("open {}", path.display()),
            || self.inner.open_sandbox(path),
            |source| SandboxError::Open {
                path: path.to_owned(),
                source,
            },
        )
    }

    fn add_sandbox(&self, id: &ContainerId, sandbox: Sandbox) {
        self.faults.alive(|| self.inner.add_sandbox(id, sandbox));
    }

    fn remove_sandbox(&self, id: &ContainerId) {
        self.faults.alive(|| self.inner.remove_sandbox(id));
    }

    fn sandbox_is_there(&self, id: &ContainerId) -> bool {
        self.inner.sandbox_is_there(id)
    }

    fn observe(&self, wanted: &[Object]) -> Result<Observed, KernelError> {
        self.faults.step(
            Domain::Kernel,
            &"observe",
            || self.inner.observe(wanted),
            |error| KernelError::new("observe", error),
        )
    }

    fn settings(&self, wanted: Vec<Sysctl>) -> Vec<Sysctl> {
        self.inner.settings(wanted)
    }

    fn watch(&self, sink: Box<dyn Fn(Noticed) + Send>) -> Result<(), KernelError> {
        self.inner.watch(sink)
    }

    fn path_mtus(&self, to: &[IpAddr]) -> Result<BTreeMap<IpAddr, u32>, KernelError> {
        self.inner.path_mtus(to)
    }

    fn facts(&self) -> Result<HostFacts, KernelError> {
        self.faults.step(
            Domain::Kernel,
            &"read facts",
            || self.inner.facts(),
            |error| KernelError::new("read facts", error),
        )
    }
}

#[derive(Debug)]
struct FaultyExecutor {
    inner: Box<dyn Executor>,
    faults: Arc<Faults>,
}

impl Executor for FaultyExecutor {
    /// One by one, so that each can be the last.
    fn apply(&mut self, ops: &[Op]) -> Result<(), ApplyError> {
        for (done, op) in ops.iter().enumerate() {
            let failed = |error| ApplyError {
                done,
                failed: Some(op.clone()),
                error,
            };
            let one = std::slice::from_ref(op);
            self.faults.step(
                Domain::Kernel,
                op,
                || {
                    self.inner
                        .apply(one)
                        .map_err(|refused| failed(refused.error))
                },
                |error| failed(KernelError::new(op, error)),
            )?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::kernel::fake::FakeKernel;
    use netd_model::Owner;

    fn apply(kernel: &FaultyKernel, operations: usize) -> Result<(), (usize, Option<i32>)> {
        let ops = vec![Op::Add(Object::from(netd_model::skeleton::host())); operations];
        assert_eq!(
            *Object::from(netd_model::skeleton::host()).owner(),
            Owner::Host
        );
        let applied = kernel.executor().unwrap().apply(&ops);
        applied.map_err(|refused| (refused.done, refused.error.errno()))
    }

    #[test]
    fn only_the_chosen_operation_fails_across_executors() {
        let (fake, faults) = (FakeKernel::new(), Arc::new(Faults::default()));
        let kernel = FaultyKernel::new(Arc::new(fake.clone()), Arc::clone(&faults));
        faults.arm(4, Fault::Once(Errno::EIO));
        apply(&kernel, 3).unwrap();
        assert_eq!(apply(&kernel, 3), Err((1, Some(5))));
        assert_eq!((faults.steps().len(), fake.take_applied().len()), (5, 4));
        apply(&kernel, 3).unwrap();
        faults.arm(1, Fault::From(Errno::EIO));
        assert_eq!(apply(&kernel, 3), Err((1, Some(5))));
        assert_eq!(apply(&kernel, 3), Err((0, Some(5))));
        faults.lift();
        apply(&kernel, 3).unwrap();
    }

    #[test]
    fn the_dead_do_nothing() {
        for (fault, done) in [(Fault::DieBefore, 1), (Fault::DieAfter, 2)] {
            let (fake, faults) = (FakeKernel::new(), Arc::new(Faults::default()));
            let kernel = FaultyKernel::new(Arc::new(fake.clone()), Arc::clone(&faults));
            faults.arm(1, fault);
            assert_eq!(apply(&kernel, 3).unwrap_err().0, 1);
            assert!(faults.is_dead());
            assert_eq!(apply(&kernel, 3).unwrap_err().0, 0);
            assert!(kernel.facts().is_err() && kernel.observe(&[]).is_err());
            assert_eq!(fake.take_applied().len(), done);
        }
    }
}
