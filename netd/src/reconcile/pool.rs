//! The threads that touch the kernel and the disk (invariant I2): the owner never does.
//!
//! A few executors take jobs from one queue. Links are removed by a thread of their own: the kernel lets a removal wait
//! for an RCU grace period, about 20 ms, and everything removed by one request shares that wait. While one request
//! waits, others queue up and go together in the next, and no attach ever stands behind them. What containers have in
//! nftables goes with their links, all of it by one batch, and so do the flows that are forgotten then, by one walk through
//! the kernel's connection table. The executors do the rest while the next links wait.

use std::sync::mpsc::{Receiver, Sender, channel};
use std::sync::{Arc, Mutex, Weak};

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
    jobs: Arc<Sender<Job>>,
}

/// What executors take from their queue.
enum Job {
    New(Token, Work),
    /// A removal whose links are gone.
    Unlinked(Removal),
}

/// A removal that is under way.
struct Removal {
    token: Token,
    unmake: Unmake,
    /// The operations that are left.
    rest: Vec<Op>,
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
        // Weak: the executors end with the pool, and the remover with them.
        let jobs = Arc::new(jobs);
        let back = Arc::downgrade(&jobs);
        spawn("remover", move || remover.remove(&removal_queue, &back))?;
        Ok(Self { jobs })
    }

    /// Queues a job.
    pub(crate) fn submit(&self, token: Token, work: Work) {
        if self.jobs.send(Job::New(token, work)).is_err() {
            // The threads end only with this sender.
            tracing::error!(token, "the executors are gone");
        }
    }
}

fn is_link(op: &Op) -> bool {
    matches!(op, Op::Remove(Object::Link(_)))
}

fn is_element(op: &Op) -> bool {
    matches!(op, Op::Remove(Object::Element(_)))
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
    fn execute(mut self, queue: &Mutex<Receiver<Job>>, removals: &Sender<Removal>) {
        loop {
            let job = match queue.lock() {
                Ok(queue) => queue.recv(),
                Err(_) => return,
            };
            match job {
                Err(_) => return,
                Ok(Job::New(token, Work::Unmake(unmake))) => self.unmake(token, unmake, removals),
                Ok(Job::New(token, work)) => {
                    let outcome = self.tools.run(&mut *self.executor, work);
                    self.report(token, outcome);
                }
                Ok(Job::Unlinked(removal)) => self.proceed(removal, removals),
            }
        }
    }

    fn report(&self, token: Token, outcome: Outcome) {
        // A closed channel means that the daemon is stopping: what is recorded is finished by the next one.
        let _ = self.outcomes.send((token, outcome));
    }

    fn unmake(&mut self, token: Token, unmake: Unmake, removals: &Sender<Removal>) {
        if let Err(error) = self.tools.write(&unmake.before) {
            return self.report(token, Outcome::Failed { error, clean: true });
        }
        let removal = Removal {
            token,
            rest: unmake.ops.clone(),
            unmake,
            failures: Vec::new(),
        };
        self.proceed(removal, removals);
    }

    /// A removal up to its next links; without links, to its end. A second link, such as the bridge of the last container,
    /// is one wait more.
    fn proceed(&mut self, mut removal: Removal, removals: &Sender<Removal>) {
        let links = removal.rest.iter().position(is_link);
        let before: Vec<Op> = removal
            .rest
            .drain(..links.unwrap_or(removal.rest.len()))
            .collect();
        self.tools
            .apply_all(&mut *self.executor, &before, &mut removal.failures);
        if removal.rest.is_empty() {
            let outcome = self.tools.finish(&removal.unmake, removal.failures);
            return self.report(removal.token, outcome);
        }
        let token = removal.token;
        if removals.send(removal).is_err() {
            tracing::error!(token, "the remover is gone");
        }
    }

    fn remove(mut self, queue: &Receiver<Removal>, back: &Weak<Sender<Job>>) {
        while let Ok(first) = queue.recv() {
            let mut batch = vec![first];
            batch.extend(queue.try_iter().take(BATCH - 1));
            let (mut links, mut elements, mut flows) = (Vec::new(), Vec::new(), Vec::new());
            for removal in &mut batch {
                take_shared(&mut removal.rest, &mut links, &mut elements, &mut flows);
            }
            let shared = [links, elements, flows].concat();
            let mut failures = Vec::new();
            self.tools
                .apply_all(&mut *self.executor, &shared, &mut failures);
            for mut removal in batch {
                let ops = &removal.unmake.ops;
                let own = failures.iter().filter(|(op, _)| ops.contains(op));
                removal.failures.extend(own.cloned());
                // Without executors the daemon is stopping: the removal is on record, and finished by the next one.
                if let Some(jobs) = back.upgrade() {
                    let _ = jobs.send(Job::Unlinked(removal));
                }
            }
        }
    }
}

/// Takes from a removal what all removals of a batch have done together: the links that come next, the elements behind
/// them, and the flows that are forgotten when those are gone.
fn take_shared(
    rest: &mut Vec<Op>,
    links: &mut Vec<Op>,
    elements: &mut Vec<Op>,
    flows: &mut Vec<Op>,
) {
    let count = rest.iter().take_while(|op| is_link(op)).count();
    links.extend(rest.drain(..count));
    let count = rest.iter().take_while(|op| is_element(op)).count();
    elements.extend(rest.drain(..count));
    let (forgotten, left) = rest.drain(..).partition(is_flows);
    flows.extend::<Vec<Op>>(forgotten);
    *rest = left;
}
