//! The matrix: every kind of request, and at each of its steps a crash or a failure.
//!
//! A step is one operation of the kernel, one look at it, or one read or write of a record. `docs/reliability.md` says
//! what is tried and what has to hold; `cargo test -p netd --lib crashes -- --nocapture` prints the figures.

use nix::errno::Errno;

use super::*;
use crate::kernel::faulty::{Domain, Step};

mod check;
mod kinds;
mod machine;

use check::{Right, seen};
use kinds::Kind;
use machine::{Daemon, Machine, Told};

/// The errors that operations of the kernel are given.
const ERRORS: [Errno; 6] = [
    Errno::ENOMEM,
    Errno::EBUSY,
    Errno::EEXIST,
    Errno::ENODEV,
    Errno::EPERM,
    Errno::ENOBUFS,
];

/// Pairs of crashes tried with each kind of request; `NETD_CRASH_PAIRS=all` tries all of them, which takes longer
/// than half an hour.
const SAMPLE: usize = 25;
const SEED: u64 = 1;

/// A crash before and after each step.
fn pairs(steps: std::ops::Range<usize>) -> Vec<(usize, Fault)> {
    let both = |at| [(at, Fault::DieBefore), (at, Fault::DieAfter)];
    steps.flat_map(both).collect()
}

/// Numbers that are the same in each run (Knuth's constants, the upper half).
struct Random(u64);

impl Random {
    fn below(&mut self, limit: usize) -> usize {
        self.0 = self
            .0
            .wrapping_mul(6_364_136_223_846_793_005)
            .wrapping_add(1_442_695_040_888_963_407);
        usize::try_from(self.0 >> 33).unwrap() % limit
    }
}

/// What was tried with one kind of request, and what came of it.
struct Figures {
    right: Right,
    steps: Vec<Domain>,
    crashes: usize,
    twice: usize,
    failures: usize,
    violations: Vec<String>,
}

/// The request, with a fault at one step; afterwards the daemon stands still.
async fn perform(kind: Kind, at: usize, fault: Fault) -> (Machine, Option<Daemon>, Told) {
    let (machine, daemon) = Machine::before(kind).await;
    let Some(daemon) = daemon else {
        let faults = Arc::new(Faults::default());
        faults.arm(at, fault);
        if kind == Kind::PurgeOffline {
            let told = machine.purge(&faults);
            return (machine, None, told);
        }
        let booted = machine.boot(&faults).await;
        if booted.is_err() {
            machine.fake.process_ended();
        }
        return (machine, booted.ok(), Told::Nothing);
    };
    daemon.faults.arm(at, fault);
    let told = daemon.ask(kind.request(&daemon.lab)).await;
    daemon.settle().await;
    (machine, Some(daemon), told)
}

impl Figures {
    /// A first run, in which nothing goes wrong.
    async fn new(kind: Kind) -> Self {
        let (machine, daemon) = Machine::before(kind).await;
        let before = daemon.as_ref().map(|daemon| seen(&daemon.lab));
        let daemon = match daemon {
            Some(daemon) => {
                daemon.faults.count();
                let told = daemon.ask(kind.request(&daemon.lab)).await;
                assert!(matches!(told, Told::Done), "{}: {told:?}", kind.name());
                // Before the settling, which looks at the kernel.
                daemon
            }
            None => machine.boot_well().await,
        };
        let steps = daemon.faults.steps();
        daemon.settle().await;
        let after = seen(&daemon.lab);
        daemon.end().await;
        let right = Right {
            kind,
            before: before.unwrap_or_else(|| after.clone()),
            after,
        };
        Self::of(right, steps)
    }

    /// What is right after a purge by a daemon is right after one without.
    async fn of_purge_offline() -> Self {
        let Right { before, after, .. } = Self::new(Kind::Purge).await.right;
        let (machine, _) = Machine::before(Kind::PurgeOffline).await;
        let faults = Arc::new(Faults::default());
        let told = machine.purge(&faults);
        assert!(matches!(told, Told::Done), "{told:?}");
        let kind = Kind::PurgeOffline;
        Self::of(
            Right {
                kind,
                before,
                after,
            },
            faults.steps(),
        )
    }

    fn of(right: Right, steps: Vec<Step>) -> Self {
        Self {
            right,
            steps: steps.into_iter().map(|step| step.domain).collect(),
            crashes: 0,
            twice: 0,
            failures: 0,
            violations: Vec::new(),
        }
    }

    fn enter(&mut self, what: &str, result: Result<(), String>) {
        if let Err(why) = result {
            let kind = self.right.kind.name();
            self.violations.push(format!("{kind}, {what}: {why}"));
        }
    }

    /// A crash before and after each step.
    async fn crash(&mut self) {
        for (at, fault) in pairs(0..self.steps.len()) {
            let (machine, daemon, told) = perform(self.right.kind, at, fault).await;
            if let Some(daemon) = daemon {
                daemon.end().await;
            }
            let next = machine.boot_well().await;
            let result = self.right.check(&machine, &next, &told).await;
            self.enter(&format!("{fault:?} step {at}"), result);
            self.crashes += 1;
        }
    }

    /// One of these crashes, and another in the recovery from it: all pairs, or a sample.
    async fn crash_twice(&mut self, sample: Option<usize>) {
        let firsts = pairs(0..self.steps.len());
        let Some(sample) = sample else {
            for first in firsts {
                let mut second = 0;
                while self.crash_pair(first, (second, Fault::DieBefore)).await {
                    self.crash_pair(first, (second, Fault::DieAfter)).await;
                    second += 1;
                }
            }
            return;
        };
        let mut random = Random(SEED);
        while self.twice < sample {
            let first = firsts[random.below(firsts.len())];
            // Few recoveries are longer; where one is shorter, nothing was tried.
            let second = pairs(0..30)[random.below(60)];
            self.crash_pair(first, second).await;
        }
    }

    /// False when the recovery has no step of this number.
    async fn crash_pair(&mut self, first: (usize, Fault), second: (usize, Fault)) -> bool {
        let (machine, daemon, told) = perform(self.right.kind, first.0, first.1).await;
        if let Some(daemon) = daemon {
            daemon.end().await;
        }
        let faults = Arc::new(Faults::default());
        faults.arm(second.0, second.1);
        let recovering = machine.boot(&faults).await;
        let died = faults.is_dead();
        if let Ok(daemon) = recovering {
            daemon.end().await;
        }
        machine.fake.process_ended();
        if died {
            let next = machine.boot_well().await;
            let result = self.right.check(&machine, &next, &told).await;
            self.enter(&format!("{first:?}, in the recovery {second:?}"), result);
            self.twice += 1;
        }
        died
    }

    /// Each step fails, once and for good.
    async fn fail(&mut self) {
        for at in 0..self.steps.len() {
            let errors = match self.steps[at] {
                Domain::Kernel => &ERRORS[..],
                Domain::Store => &[Errno::ENOSPC],
            };
            for fault in errors
                .iter()
                .flat_map(|errno| [Fault::Once(*errno), Fault::From(*errno)])
            {
                let result = self.fail_at(at, fault).await;
                self.enter(&format!("{fault:?} step {at}"), result);
                self.failures += 1;
            }
        }
    }

    async fn fail_at(&self, at: usize, fault: Fault) -> Result<(), String> {
        let (machine, daemon, told) = perform(self.right.kind, at, fault).await;
        let Some(daemon) = daemon else {
            // It refused to start, and is started again.
            let next = machine.boot_well().await;
            return self.right.check(&machine, &next, &told).await;
        };
        let step = daemon.faults.steps().get(at).cloned();
        daemon.faults.lift();
        if let (Told::Refused(error), Some(step)) = (&told, &step) {
            is_clear(error, step)?;
            let passes = [Errno::ENOMEM, Errno::EBUSY, Errno::ENOBUFS];
            if matches!(fault, Fault::Once(errno) if passes.contains(&errno)) {
                return Err(format!("not tried again: {step:?}"));
            }
        }
        // What could not be taken back or removed is repaired by the next audit.
        let audited = daemon.lab.handle.ask(Request::Audit, false).await;
        audited.map_err(|error| format!("the audit fails: {error}"))?;
        daemon.settle().await;
        self.right.check(&machine, &daemon, &told).await
    }

    fn report(self) {
        println!(
            "{}: {} steps, {} crashes, {} pairs of crashes, {} failures, {} violations",
            self.right.kind.name(),
            self.steps.len(),
            self.crashes,
            self.twice,
            self.failures,
            self.violations.len()
        );
        let first: Vec<_> = self.violations.iter().take(5).collect();
        for violation in &first {
            println!("{violation}");
        }
        assert!(first.is_empty(), "{} violations", self.violations.len());
    }
}

/// The code says what failed, the message names what it was about.
fn is_clear(error: &Error, step: &Step) -> Result<(), String> {
    let named = error.message.contains(&step.what);
    let fits = match step.domain {
        Domain::Kernel => {
            error.code != Code::StoreUnavailable && error.code != Code::Internal && named
        }
        Domain::Store => error.code == Code::StoreUnavailable,
    };
    if fits {
        Ok(())
    } else {
        Err(format!("an unclear error at {step:?}: {error:?}"))
    }
}

async fn matrix(kind: Kind) {
    let mut figures = match kind {
        Kind::PurgeOffline => Figures::of_purge_offline().await,
        kind => Figures::new(kind).await,
    };
    figures.crash().await;
    figures.fail().await;
    let all = std::env::var("NETD_CRASH_PAIRS").is_ok_and(|value| value == "all");
    figures.crash_twice((!all).then_some(SAMPLE)).await;
    figures.report();
}

macro_rules! matrix {
    ($($name:ident = $kind:ident;)*) => {
        $(#[tokio::test]
        async fn $name() {
            matrix(Kind::$kind).await;
        })*

        #[test]
        fn every_kind_is_tried() {
            assert_eq!(Kind::ALL, [$(Kind::$kind),*]);
        }
    };
}

matrix! {
    create_v4 = CreateV4;
    create_dual = CreateDual;
    create_internal = CreateInternal;
    remove = Remove;
    prune = Prune;
    attach = Attach;
    attach_two = AttachTwo;
    attach_predefined = AttachPredefined;
    detach = Detach;
    detach_last = DetachLast;
    connect = Connect;
    connect_predefined = ConnectPredefined;
    disconnect = Disconnect;
    disconnect_predefined = DisconnectPredefined;
    set_access = SetAccess;
    reserve = Reserve;
    unreserve = Unreserve;
    cni_add = CniAdd;
    cni_add_second = CniAddSecond;
    cni_del = CniDel;
    purge = Purge;
    purge_offline = PurgeOffline;
    attach_after_purge = AttachAfterPurge;
    audit = Audit;
    first_start = FirstStart;
    adoption = Adoption;
}
