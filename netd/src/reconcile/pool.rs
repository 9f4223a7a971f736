//! The threads that touch the kernel and the disk (invariant I2): the owner never does.
//!
//! A few executors take jobs from one queue. Links are removed by a thread of their own: the kernel lets a removal wait
//! for an RCU grace period, about 20 ms, and everything removed by one request shares that wait; so do the flows that
//! are forgotten afterwards, by a walk through the kernel's whole connection table. While one request
//! waits, others queue up and go together in the next, and no attach ever stands behind them.

use std::sync::mpsc::{Receiver, Sender, channel};
use std::sync::{Arc, Mutex};

use netd_model::{Object, Op};
use tokio::sync::mpsc::UnboundedSender;

use crate::kernel::{Executor, KernelError};
use crate::reconcile::job::{Outcome, Token, Tools, Unmake, Work};

/// Threads that carry jobs out. They mostly wait for the kernel, so a few more than cores do no harm.
const EXECUTORS: usize = 3;
/// Most removals of links in one request: other requests to the kernel wait for it.
const BATCH: usize = 64;

/// The way to the executors.
#[derive(Debug)]
pub(crate) struct Pool {
    jobs: Sender<(Token, Work)>,
}

/// A removal that has reached its links.
struct Removal {
    token: Token,
    unmake: Unmake,
    /// Where in its operations the links end.
    rest: usize,
    failures: Vec<(Op, String)>,
}

struct Worker {
    tools: Tools,
    executor: Box<dyn Executor>,
    outcomes: UnboundedSender<(Token, Outcome)>,
}

impl Pool {
    /// Starts the threads; they end when the pool is dropped.
    pub(crate) fn start(
        tools: &Tools,
        outcomes: &UnboundedSender<(Token, Outcome)>,
    ) -> Result<Self, KernelError> {
        let (jobs, queue) = channel();
        let queue = Arc::new(Mutex::new(queue));
        let (removals, removal_queue) = channel();
        let worker = || -> Result<Worker, KernelError> {
            Ok(Worker {
                tools: tools.clone(),
                executor: tools.kernel.executor()?,
                outcomes: outcomes.clone(),
            })
        };
        for n in 0..EXECUTORS {
            let (worker, queue, removals) = (worker()?, Arc::clone(&queue), removals.clone());
            spawn(&format!("executor-{n}"), move || {
                worker.execute(&queue, &removals);
            })?;
        }
        let remover = worker()?;
        spawn("remover", move || remover.remove(&removal_queue))?;
        Ok(Self { jobs })
    }

    /// Queues a job.
    pub(crate) fn submit(&self, token: Token, work: Work) {
        if self.jobs.send((token, work)).is_err() {
            // The threads end only with this sender.
            tracing::error!(token, "the executors are gone");
        }
    }
}

fn is_flows(op: &Op) -> bool {
    matches!(op, Op::ForgetUdpFlows { .. })
}

fn spawn(name: &str, body: impl FnOnce() + Send + 'static) -> Result<(), KernelError> {
    // The default of 2 MiB is address space only, but 512 KiB is plenty and keeps limits on it harmless.
    let started = std::thread::Builder::new()
        .name(name.to_owned())
        .stack_size(512 * 1024)
        .spawn(body);
    started
        .map(|_| ())
        .map_err(|error| KernelError::new(format!("start thread {name}"), error))
}

impl Worker {
    fn execute(mut self, queue: &Mutex<Receiver<(Token, Work)>>, removals: &Sender<Removal>) {
        loop {
            let job = match queue.lock() {
                Ok(queue) => queue.recv(),
                Err(_) => return,
            };
            let Ok((token, work)) = job else { return };
            let outcome = match work {
                Work::Unmake(unmake) => match self.unmake(token, unmake, removals) {
                    Some(outcome) => outcome,
                    None => continue,
                },
                work => self.tools.run(&mut *self.executor, work),
            };
            self.report(token, outcome);
        }
    }

    fn report(&self, token: Token, outcome: Outcome) {
        // A closed channel means that the daemon is stopping: what is recorded is finished by the next one.
        let _ = self.outcomes.send((token, outcome));
    }

    /// A removal up to its links; without links, to its end.
    fn unmake(
        &mut self,
        token: Token,
        unmake: Unmake,
        removals: &Sender<Removal>,
    ) -> Option<Outcome> {
        let is_link = |op: &Op| matches!(op, Op::Remove(Object::Link(_)));
        let Some(first) = unmake.ops.iter().position(is_link) else {
            return Some(self.tools.run(&mut *self.executor, Work::Unmake(unmake)));
        };
        let links = unmake.ops[first..]
            .iter()
            .take_while(|op| is_link(op))
            .count();
        if let Err(error) = self.tools.write(&unmake.before) {
            return Some(Outcome::Failed { error, clean: true });
        }
        let mut failures = Vec::new();
        self.tools
            .apply_all(&mut *self.executor, &unmake.ops[..first], &mut failures);
        let removal = Removal {
            token,
            unmake,
            rest: first + links,
            failures,
        };
        if removals.send(removal).is_err() {
            tracing::error!(token, "the remover is gone");
        }
        None
    }

    fn remove(mut self, queue: &Receiver<Removal>) {
        while let Ok(first) = queue.recv() {
            let mut batch = vec![first];
            batch.extend(queue.try_iter().take(BATCH - 1));
            let before = |removal: &Removal| removal.unmake.ops[..removal.rest].to_vec();
            let behind = |removal: &Removal| removal.unmake.ops[removal.rest..].to_vec();
            let links = batch.iter().flat_map(before);
            let links = links.filter(|op| matches!(op, Op::Remove(Object::Link(_))));
            // One walk through the connection table for all of them.
            let flows = batch.iter().flat_map(behind).filter(is_flows);
            let shared: Vec<Op> = links.chain(flows).collect();
            let mut failures = Vec::new();
            self.tools
                .apply_all(&mut *self.executor, &shared, &mut failures);
            for removal in batch {
                self.after_shared(removal, &failures);
            }
        }
    }

    fn after_shared(&mut self, removal: Removal, shared_failures: &[(Op, String)]) {
        let Removal {
            token,
            unmake,
            rest,
            mut failures,
        } = removal;
        failures.extend(
            shared_failures
                .iter()
                .filter(|(op, _)| unmake.ops.contains(op))
                .cloned(),
        );
        // A second link, such as the bridge of the last container, is removed here, one wait more.
        let rest = unmake.ops[rest..].iter();
        let rest: Vec<Op> = rest.filter(|op| !is_flows(op)).cloned().collect();
        self.tools
            .apply_all(&mut *self.executor, &rest, &mut failures);
        let outcome = self.tools.finish(&unmake, failures);
        self.report(token, outcome);
    }
}
