//! A kernel that fails, or takes the process with it, at the n-th operation.

use std::io;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use netd_model::observed::{HostFacts, Observed};
use netd_model::{ContainerId, Object, Op};

use super::{ApplyError, Executor, Kernel, KernelError, Noticed, Sandbox, SandboxError};

/// What happens instead of the operation.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fault {
    /// It fails with this error number.
    Errno(i32),
    /// The thread panics.
    Panic,
    /// The process ends as if killed: nothing is cleaned up.
    Abort,
}

#[derive(Debug)]
struct Counter {
    /// Operations begun so far, by all executors.
    begun: AtomicUsize,
    /// The operation, counted from 0, that does not happen.
    at: usize,
    fault: Fault,
}

/// Wraps a kernel; all executors count together.
#[derive(Debug)]
pub struct FaultyKernel {
    inner: Arc<dyn Kernel>,
    counter: Arc<Counter>,
}

impl FaultyKernel {
    /// A kernel whose operation number `at`, counted from 0, does not happen; all others do.
    pub fn new(inner: Arc<dyn Kernel>, at: usize, fault: Fault) -> Self {
        let counter = Counter {
            begun: AtomicUsize::new(0),
            at,
            fault,
        };
        Self {
            inner,
            counter: Arc::new(counter),
        }
    }

    /// A kernel that only counts.
    pub fn counting(inner: Arc<dyn Kernel>) -> Self {
        Self::new(inner, usize::MAX, Fault::Panic)
    }

    /// How many operations were asked for so far.
    pub fn operations(&self) -> usize {
        self.counter.begun.load(Ordering::SeqCst)
    }
}

impl Kernel for FaultyKernel {
    fn executor(&self) -> Result<Box<dyn Executor>, KernelError> {
        let inner = self.inner.executor()?;
        Ok(Box::new(FaultyExecutor {
            inner,
            counter: Arc::clone(&self.counter),
        }))
    }

    fn open_sandbox(&self, path: &Path) -> Result<Sandbox, SandboxError> {
        self.inner.open_sandbox(path)
    }

    fn add_sandbox(&self, id: &ContainerId, sandbox: Sandbox) {
        self.inner.add_sandbox(id, sandbox);
    }

    fn remove_sandbox(&self, id: &ContainerId) {
        self.inner.remove_sandbox(id);
    }

    fn sandbox_is_there(&self, id: &ContainerId) -> bool {
        self.inner.sandbox_is_there(id)
    }

    fn observe(&self, wanted: &[Object]) -> Result<Observed, KernelError> {
        self.inner.observe(wanted)
    }

    fn watch(&self, sink: Box<dyn Fn(Noticed) + Send>) -> Result<(), KernelError> {
        self.inner.watch(sink)
    }

    fn facts(&self) -> Result<HostFacts, KernelError> {
        self.inner.facts()
    }
}

#[derive(Debug)]
struct FaultyExecutor {
    inner: Box<dyn Executor>,
    counter: Arc<Counter>,
}

impl Executor for FaultyExecutor {
    fn apply(&mut self, ops: &[Op]) -> Result<(), ApplyError> {
        let first = self.counter.begun.fetch_add(ops.len(), Ordering::SeqCst);
        let hit = self
            .counter
            .at
            .checked_sub(first)
            .and_then(|before| Some((before, ops.get(before)?)));
        let Some((before, op)) = hit else {
            return self.inner.apply(ops);
        };
        self.inner.apply(&ops[..before])?;
        let errno = match self.counter.fault {
            Fault::Errno(errno) => errno,
            Fault::Panic => panic!("injected fault at {op}"),
            Fault::Abort => std::process::abort(),
        };
        let error = KernelError::new(op, io::Error::from_raw_os_error(errno));
        Err(ApplyError {
            done: before,
            failed: Some(op.clone()),
            error,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use netd_model::Owner;

    /// Counts the operations it is given.
    #[derive(Debug, Default)]
    struct Counting(Arc<AtomicUsize>);

    impl Kernel for Counting {
        fn executor(&self) -> Result<Box<dyn Executor>, KernelError> {
            Ok(Box::new(Self(Arc::clone(&self.0))))
        }
        fn open_sandbox(&self, path: &Path) -> Result<Sandbox, SandboxError> {
            Ok(Sandbox {
                path: path.to_owned(),
                fd: None,
                identity: (0, 0),
            })
        }
        fn add_sandbox(&self, _: &ContainerId, _: Sandbox) {}
        fn remove_sandbox(&self, _: &ContainerId) {}
        fn sandbox_is_there(&self, _: &ContainerId) -> bool {
            true
        }
        fn observe(&self, _: &[Object]) -> Result<Observed, KernelError> {
            Ok(Observed::default())
        }
        fn facts(&self) -> Result<HostFacts, KernelError> {
            Ok(HostFacts::default())
        }
    }

    impl Executor for Counting {
        fn apply(&mut self, ops: &[Op]) -> Result<(), ApplyError> {
            self.0.fetch_add(ops.len(), Ordering::SeqCst);
            Ok(())
        }
    }

    #[test]
    fn only_the_chosen_operation_fails_across_executors() {
        let done = Arc::new(AtomicUsize::new(0));
        let kernel = FaultyKernel::new(Arc::new(Counting(Arc::clone(&done))), 4, Fault::Errno(5));
        let ops = vec![Op::Add(Object::Loopback(Owner::Host)); 3];
        kernel.executor().unwrap().apply(&ops).unwrap();
        let error = kernel.executor().unwrap().apply(&ops).unwrap_err();
        assert_eq!((error.done, error.error.errno()), (1, Some(5)));
        assert_eq!((kernel.operations(), done.load(Ordering::SeqCst)), (6, 4));
        kernel.executor().unwrap().apply(&ops).unwrap();
        assert_eq!(done.load(Ordering::SeqCst), 7);
    }
}
