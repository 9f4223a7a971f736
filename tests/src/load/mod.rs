//! Loads: traffic that runs beside a test and counts what it loses.
//!
//! Each load is a thread in a namespace of the laboratory that works until it is told to end. It stops for nothing: what
//! fails is counted and told at the end, with the first failure's words.

mod connects;
mod datagrams;
mod queries;
mod server;
mod streams;

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use crate::lab::{Netns, PATIENCE, wait_for};

pub use connects::connects;
pub use datagrams::datagrams;
pub use queries::{NO_ANSWER, queries};
pub use server::{ByteServer, DatagramServer};
pub use streams::stream;

/// The pace of loads that do one thing each millisecond.
const BEAT: Duration = Duration::from_millis(1);

/// What a load counted.
#[derive(Debug, Default, Clone)]
pub struct Figures {
    /// Rounds, connections, queries or datagrams that went well, retried ones included.
    pub done: u64,
    /// Bytes sent and seen again.
    pub bytes: u64,
    /// Those that needed a second attempt.
    pub retried: u64,
    /// Those that got no answer.
    pub lost: u64,
    /// The first failure.
    pub failure: Option<String>,
}

impl Figures {
    fn lose(&mut self, why: impl std::fmt::Display) {
        self.lost += 1;
        self.failure.get_or_insert_with(|| why.to_string());
    }
}

/// What a running load shows.
#[derive(Debug, Default)]
struct Meter {
    end: AtomicBool,
    done: AtomicU64,
    worst: AtomicU64,
    waiting: AtomicU64,
}

impl Meter {
    fn goes_on(&self) -> bool {
        !self.end.load(Ordering::Relaxed)
    }

    /// One more went well, after this time.
    fn tick(&self, took: Duration) {
        let micros = u64::try_from(took.as_micros()).unwrap_or(u64::MAX);
        self.worst.fetch_max(micros, Ordering::Relaxed);
        self.done.fetch_add(1, Ordering::Relaxed);
    }
}

/// A load under way.
#[derive(Debug)]
pub struct Load {
    name: String,
    meter: Arc<Meter>,
    thread: JoinHandle<Figures>,
}

impl Load {
    fn start(
        netns: &Netns,
        name: &str,
        work: impl FnOnce(&Meter) -> Figures + Send + 'static,
    ) -> Self {
        let meter = Arc::new(Meter::default());
        let shared = Arc::clone(&meter);
        Self {
            name: name.to_owned(),
            thread: netns.spawn(move || work(&shared)),
            meter,
        }
    }

    /// Its name.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// The longest time for one of them since the last call.
    pub fn take_worst(&self) -> Duration {
        Duration::from_micros(self.meter.worst.swap(0, Ordering::Relaxed))
    }

    /// Waits until each of these loads did `count` more. One that has ended by itself is not waited for: its figures say
    /// why.
    pub fn go_on<'a>(loads: impl Iterator<Item = &'a Self>, count: u64) {
        let done = |load: &Self| load.meter.done.load(Ordering::Relaxed);
        let goals: Vec<_> = loads.map(|load| (load, done(load) + count)).collect();
        for (load, goal) in goals {
            wait_for(&format!("{} to go on", load.name), PATIENCE, || {
                done(load) >= goal || load.thread.is_finished()
            });
        }
    }

    /// Waits until nothing of it waits for an answer: what was asked while nobody listened has been repeated by then.
    pub fn settle(&self) {
        wait_for(&format!("{} to settle", self.name), PATIENCE, || {
            self.meter.waiting.load(Ordering::Relaxed) == 0 || self.thread.is_finished()
        });
    }

    /// Ends it.
    pub fn end(self) -> Figures {
        self.meter.end.store(true, Ordering::Relaxed);
        let figures = self.thread.join();
        figures.unwrap_or_else(|panic| std::panic::resume_unwind(panic))
    }
}

/// One beat after another; a load that is late does not run after the beats it missed.
#[derive(Debug)]
struct Beats(Instant);

impl Beats {
    fn new() -> Self {
        Self(Instant::now())
    }

    fn wait(&mut self) {
        let (next, now) = (self.0 + BEAT, Instant::now());
        self.0 = next.max(now);
        std::thread::sleep(next.saturating_duration_since(now));
    }
}
