//! What happened: the last events, for `GET /v1/events`.
//!
//! Written by the owner, read by the API. It is lost with the daemon; the log has the same lines.

use std::collections::VecDeque;
use std::sync::{Mutex, MutexGuard, PoisonError};

use netd_model::api::Event;
use time::OffsetDateTime;
use time::format_description::well_known::Rfc3339;
use tokio::sync::watch;

use crate::kernel::Process;

/// Events kept.
const KEPT: usize = 1000;

/// The number after which there is none.
pub const CLOSED: u64 = u64::MAX;

/// The last events.
#[derive(Debug)]
pub struct Journal {
    events: Mutex<VecDeque<Event>>,
    /// The number of the last one.
    last: watch::Sender<u64>,
}

/// An event before it has a number and a time.
#[derive(Debug)]
pub(crate) struct Entry {
    pub(crate) kind: &'static str,
    pub(crate) object: String,
    pub(crate) message: String,
    pub(crate) by: Option<Process>,
}

impl Entry {
    pub(crate) fn new(kind: &'static str, object: String, message: String) -> Self {
        Self {
            kind,
            object,
            message,
            by: None,
        }
    }
}

impl Default for Journal {
    fn default() -> Self {
        Self {
            events: Mutex::default(),
            last: watch::Sender::new(0),
        }
    }
}

impl Journal {
    /// Adds an event.
    pub(crate) fn add(&self, entry: Entry) {
        let mut events = self.lock();
        let seq = events.back().map_or(0, |event| event.seq) + 1;
        if events.len() == KEPT {
            events.pop_front();
        }
        // The wall clock is only shown, and asked for with `since`.
        let now = OffsetDateTime::now_utc();
        events.push_back(Event {
            seq,
            time: now.format(&Rfc3339).unwrap_or_default(),
            kind: entry.kind.to_owned(),
            object: entry.object,
            message: entry.message,
            by: entry.by.map(|by| netd_model::api::EventSource {
                pid: by.pid,
                name: by.name,
            }),
        });
        drop(events);
        self.last.send_replace(seq);
    }

    /// The events after a number.
    pub fn after(&self, seq: u64) -> Vec<Event> {
        let events = self.lock();
        events
            .iter()
            .filter(|event| event.seq > seq)
            .cloned()
            .collect()
    }

    /// The number of the last event before a time; 0 if there is none.
    pub fn before(&self, time: OffsetDateTime) -> u64 {
        let events = self.lock();
        let is_before = |event: &&Event| {
            OffsetDateTime::parse(&event.time, &Rfc3339).is_ok_and(|then| then < time)
        };
        events.iter().take_while(is_before).last().map_or_else(
            // What was kept begins later: everything is after it.
            || events.front().map_or(0, |event| event.seq - 1),
            |event| event.seq,
        )
    }

    /// Nothing more will happen: who follows is told.
    pub fn close(&self) {
        self.last.send_replace(CLOSED);
    }

    /// Tells when there are more; [`CLOSED`] that there will be none.
    pub fn follow(&self) -> watch::Receiver<u64> {
        self.last.subscribe()
    }

    fn lock(&self) -> MutexGuard<'_, VecDeque<Event>> {
        // Nothing panics while it is held; if something did, the list would still be whole.
        self.events.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
