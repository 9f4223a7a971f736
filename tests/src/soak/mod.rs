//! A soak: many clients at once do at random what clients do, the daemon crashes and is tampered with, and a model says of
//! every answer whether it may be.
//!
//! `script` makes the operations, from the seed alone; `facts` holds what is known of the daemon and for how long;
//! `client` and `looks` carry operations out and judge each answer; `faults` crashes and tampers; `quiet` compares everything
//! between two rounds, when nothing is under way. How the threads interleave is the kernel's choice: the same seed gives
//! the same operations, not the same order.

mod client;
mod expect;
mod facts;
mod faults;
mod looks;
mod quiet;
mod script;

use std::collections::BTreeSet;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Mutex, PoisonError};

use crate::host::{Answer, Host, request};
use crate::lab::{Netns, PATIENCE, wait_for};

use facts::{Facts, Key};

/// Threads that send requests.
pub const CLIENTS: usize = 6;
/// Containers of each; nobody else touches them, so their client knows their state.
pub const SLOTS: usize = 3;
/// Networks that all share. The first is the predefined one.
pub const NETWORKS: usize = 5;
/// Host ports that all share.
pub const PORTS: usize = 6;

/// How often what happened.
pub type Counts = std::collections::BTreeMap<String, usize>;

/// What a run came to.
#[derive(Debug)]
pub struct Summary {
    /// The seed.
    pub seed: u64,
    /// Rounds.
    pub rounds: u64,
    /// Requests that were judged.
    pub operations: usize,
    /// Answers by what they came to.
    pub answers: Counts,
    /// Faults by their kind.
    pub faults: Counts,
    /// What must not have been.
    pub violations: Vec<String>,
}

/// The place of a container.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(crate) struct Place {
    client: usize,
    slot: usize,
}

impl Place {
    fn all() -> impl Iterator<Item = Self> {
        (0..CLIENTS).flat_map(|client| (0..SLOTS).map(move |slot| Self { client, slot }))
    }

    fn name(self) -> String {
        format!("c{}-{}", self.client, self.slot)
    }

    /// Some containers have an id of the client's choice, so that a request can be repeated.
    fn id(self) -> Option<String> {
        let id = format!("{:064x}", 0xabc_0000 + self.client * 16 + self.slot);
        self.slot.is_multiple_of(2).then_some(id)
    }
}

fn network_name(network: usize) -> String {
    if network == 0 {
        "bridge".to_owned()
    } else {
        format!("n{network}")
    }
}

fn host_port(port: usize) -> u16 {
    9000 + u16::try_from(port).expect("few ports")
}

/// What a container is like when it is attached.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct Shape {
    networks: BTreeSet<usize>,
    ports: BTreeSet<usize>,
}

/// What a client knows of a container of its own.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum State {
    Absent,
    /// With the shape it was attached with.
    Attached {
        now: Shape,
        asked: Shape,
    },
    /// Its namespace has vanished or its removal failed: it goes, sooner or later.
    Leaving,
}

/// A container and its namespace.
#[derive(Debug)]
pub(crate) struct Slot {
    place: Place,
    netns: Netns,
    state: State,
}

/// What all threads share.
#[derive(Debug)]
pub(crate) struct Shared {
    socket: std::path::PathBuf,
    facts: Mutex<Facts>,
    operations: AtomicUsize,
    answers: Mutex<Counts>,
    faults: Mutex<Counts>,
    violations: Mutex<Vec<String>>,
}

impl Shared {
    fn facts<T>(&self, work: impl FnOnce(&mut Facts) -> T) -> T {
        work(&mut self.facts.lock().unwrap_or_else(PoisonError::into_inner))
    }

    fn count(counts: &Mutex<Counts>, what: &str) {
        let mut counts = counts.lock().unwrap_or_else(PoisonError::into_inner);
        *counts.entry(what.to_owned()).or_default() += 1;
    }

    fn violation(&self, what: String) {
        eprintln!("VIOLATION {what}");
        let mut all = self
            .violations
            .lock()
            .unwrap_or_else(PoisonError::into_inner);
        all.push(what);
    }

    fn request(&self, method: &str, target: &str, body: &str) -> Result<Answer, String> {
        request(&self.socket, method, target, body)
    }

    /// The next daemon has looked at everything.
    fn wait_ready(&self) {
        wait_for("the daemon to be ready", PATIENCE, || {
            let answer = self.request("GET", "/readyz", "");
            answer.is_ok_and(|answer| answer.status == 200)
        });
    }
}

/// Runs rounds as long as their number lets it go on and nothing was wrong, then takes everything apart and looks for what is left.
pub fn run(seed: u64, goes_on: impl Fn(u64) -> bool) -> Summary {
    let mut host = Host::start("soak");
    let shared = Shared {
        socket: host.socket(),
        facts: Mutex::default(),
        operations: AtomicUsize::new(0),
        answers: Mutex::default(),
        faults: Mutex::default(),
        violations: Mutex::default(),
    };
    shared.facts(|facts| facts.set(Key::Network(0), true));
    let mut slots: Vec<Vec<Slot>> = (0..CLIENTS).map(client::slots).collect();
    let mut rounds = 0;
    while rounds == 0 || goes_on(rounds) {
        round(&shared, &mut host, &mut slots, (seed, rounds));
        rounds += 1;

        quiet::check(&shared, &host, &mut slots, (seed, rounds));
        let violations = shared
            .violations
            .lock()
            .unwrap_or_else(PoisonError::into_inner);
        if !violations.is_empty() {
            break;
        }
    }
    let violations = std::mem::take(
        &mut *shared
            .violations
            .lock()
            .unwrap_or_else(PoisonError::into_inner),
    );
    if violations.is_empty() {
        drop(slots);
        quiet::end(&shared, &host);
    } else {
        eprintln!("{}", host.log());
    }
    Summary {
        seed,
        rounds,
        operations: shared.operations.load(Ordering::Relaxed),
        answers: shared.answers.into_inner().unwrap_or_default(),
        faults: shared.faults.into_inner().unwrap_or_default(),
        violations,
    }
}

/// All clients work through their scripts, and the faults come in between.
fn round(shared: &Shared, host: &mut Host, slots: &mut [Vec<Slot>], (seed, round): (u64, u64)) {
    let begin = shared.operations.load(Ordering::Relaxed);
    std::thread::scope(|scope| {
        for (client, slots) in slots.iter_mut().enumerate() {
            let script = script::of_client(seed, round, client);
            scope.spawn(move || {
                for step in script {
                    client::perform(shared, slots, &step);
                    shared.operations.fetch_add(1, Ordering::Relaxed);
                }
            });
        }
        for (after, fault) in script::faults(seed, round) {
            wait_for("the clients to go on", PATIENCE * 2, || {
                shared.operations.load(Ordering::Relaxed) >= begin + after
            });
            faults::inject(shared, host, fault);
        }
    });
}
