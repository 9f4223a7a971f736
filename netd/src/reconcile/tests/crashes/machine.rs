//! A machine whose daemons can be killed at any step, and what a client of theirs was told.

use super::super::*;
use super::kinds::Kind;
use crate::reconcile::job::Tools;
use crate::reconcile::purge_with;
use crate::state::FaultyStore;

/// What outlives a daemon.
#[derive(Debug)]
pub(super) struct Machine {
    pub(super) fake: FakeKernel,
    pub(super) memory: Arc<Memory>,
}

/// A daemon, and its faults.
pub(super) struct Daemon {
    pub(super) lab: Lab,
    pub(super) faults: Arc<Faults>,
}

/// What the client knows when all is over.
#[derive(Debug)]
pub(super) enum Told {
    Done,
    Refused(Error),
    /// The daemon died first.
    Nothing,
}

impl Machine {
    /// With an interface that learns its default route, so that IPv6 changes a setting of the host beside forwarding.
    pub(super) fn new() -> Self {
        let fake = FakeKernel::new();
        let uplink = netd_model::net::IfName::parse("eth0").unwrap();
        fake.set_facts(|facts| facts.accept_ra = vec![uplink]);
        Self {
            fake,
            memory: Arc::new(Memory::default()),
        }
    }

    /// Starts a daemon and waits until it is ready, or dead. None if it gave up by itself.
    pub(super) async fn boot(&self, faults: &Arc<Faults>) -> Result<Daemon, Error> {
        let kernel = FaultyKernel::new(Arc::new(self.fake.clone()), Arc::clone(faults));
        let inner = Arc::clone(&self.memory) as Arc<dyn Store>;
        let store = FaultyStore::new(inner, Arc::clone(faults));
        let memory = Arc::clone(&self.memory);
        let lab = Lab::through(self.fake.clone(), memory, Arc::new(kernel), Arc::new(store))?;
        let handle = lab.handle.clone();
        let ready = handle.ready();
        tokio::pin!(ready);
        let mut looks = 0;
        while tokio::time::timeout(Duration::from_millis(2), &mut ready)
            .await
            .is_err()
            && !faults.is_dead()
        {
            looks += 1;
            // What fails for ever would keep it from ever being ready.
            if looks == 10 {
                faults.end_of_lasting();
            }
        }
        let daemon = Daemon {
            lab,
            faults: Arc::clone(faults),
        };
        daemon.settle().await;
        Ok(daemon)
    }

    /// Purges without a daemon.
    pub(super) fn purge(&self, faults: &Arc<Faults>) -> Told {
        let store = Arc::clone(&self.memory) as Arc<dyn Store>;
        let tools = Tools {
            kernel: Arc::new(FaultyKernel::new(
                Arc::new(self.fake.clone()),
                Arc::clone(faults),
            )),
            store: Arc::new(FaultyStore::new(store, Arc::clone(faults))),
            pause: |_| {},
            host: Arc::default(),
        };
        let purged = purge_with(&tools, true);
        self.fake.process_ended();
        match purged {
            _ if faults.is_dead() => Told::Nothing,
            Ok(_) => Told::Done,
            Err(error) => Told::Refused(error),
        }
    }

    /// The next daemon, with nothing going wrong.
    pub(super) async fn boot_well(&self) -> Daemon {
        let faults = Arc::new(Faults::default());
        self.boot(&faults).await.expect("nothing hinders it")
    }

    /// A machine before the request; a daemon runs, unless the request is its start.
    pub(super) async fn before(kind: Kind) -> (Self, Option<Daemon>) {
        let machine = Self::new();
        if kind == Kind::FirstStart {
            return (machine, None);
        }
        let daemon = machine.boot_well().await;
        kind.prepare(&daemon.lab).await;
        daemon.settle().await;
        if kind.is_without_daemon() {
            daemon.end().await;
            return (machine, None);
        }
        (machine, Some(daemon))
    }
}

impl Daemon {
    /// Waits until no job is under way: a purge waits for all others, and a dry run changes nothing.
    pub(super) async fn settle(&self) {
        if self.faults.is_dead() {
            return;
        }
        // The answer does not matter: the dead give none.
        let purge = Request::Purge { force: true };
        let ask = self.lab.handle.ask(purge, true);
        tokio::pin!(ask);
        while tokio::time::timeout(Duration::from_millis(2), &mut ask)
            .await
            .is_err()
            && !self.faults.is_dead()
        {}
    }

    /// Asks, and says what the client was told.
    pub(super) async fn ask(&self, request: Request) -> Told {
        let answer = self.lab.handle.ask(request, false).await;
        if self.faults.is_dead() {
            return Told::Nothing;
        }
        match answer {
            Ok(_) => Told::Done,
            Err(error) => Told::Refused(error),
        }
    }

    /// kill -9.
    pub(super) async fn end(self) {
        self.faults.kill();
        self.lab.owner.abort();
        let _ = self.lab.owner.await;
        self.lab.kernel.process_ended();
    }
}
