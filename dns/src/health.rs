//! Owns which upstreams did not answer lately, and so the order in which they are asked.
//!
//! Keeps nothing running: whether an upstream is worth another try is worked out when the next query comes.

use std::collections::HashMap;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tokio::time::Instant;

use crate::resolv::{EMBEDDED, Upstream};

/// What is known of upstreams that did not answer.
#[derive(Debug)]
pub(crate) struct Health {
    avoid: Duration,
    /// When it was asked last. Never locked across an await.
    silent: Mutex<HashMap<Upstream, Instant>>,
}

/// Upstreams that are remembered at most; they come from configuration, so there are few.
const MAX: usize = 1000;

impl Health {
    pub(crate) fn new(avoid: Duration) -> Self {
        Self {
            avoid,
            silent: Mutex::default(),
        }
    }

    /// The upstreams as they are to be asked: those that answered last time first, in the order given, then the silent
    /// ones, the one that was asked longest ago first. Never ourselves.
    ///
    /// The second list is of those silent ones that are due for a try: they are asked beside the first, and nobody waits
    /// for them. While all are silent there is none, since they are asked anyway.
    pub(crate) fn order(&self, upstreams: &[Upstream]) -> (Vec<Upstream>, Vec<Upstream>) {
        let others = upstreams
            .iter()
            .filter(|u| u.address.ip().to_canonical() != EMBEDDED);
        let mut order: Vec<Upstream> = others.cloned().collect();
        let mut silent = self.lock();
        if silent.is_empty() {
            return (order, Vec::new());
        }
        let mut due = Vec::new();
        if order.iter().any(|upstream| !silent.contains_key(upstream)) {
            let now = Instant::now();
            for upstream in &order {
                if let Some(asked) = silent.get_mut(upstream)
                    && now.duration_since(*asked) >= self.avoid
                {
                    *asked = now;
                    due.push(upstream.clone());
                }
            }
            order.retain(|upstream| !due.contains(upstream));
        }
        // `None` sorts before every instant, and the sort keeps the order of equals.
        order.sort_by_key(|upstream| silent.get(upstream).copied());
        (order, due)
    }

    /// It did not answer.
    pub(crate) fn is_silent(&self, upstream: &Upstream) {
        let mut silent = self.lock();
        if silent.len() >= MAX {
            silent.clear();
        }
        silent.insert(upstream.clone(), Instant::now());
    }

    /// It answered.
    pub(crate) fn is_heard(&self, upstream: &Upstream) {
        let mut silent = self.lock();
        if !silent.is_empty() {
            silent.remove(upstream);
        }
    }

    /// All that did not answer last time, in order.
    pub(crate) fn silent(&self) -> Vec<Upstream> {
        let mut list: Vec<Upstream> = self.lock().keys().cloned().collect();
        list.sort();
        list
    }

    fn lock(&self) -> MutexGuard<'_, HashMap<Upstream, Instant>> {
        // It only guides the order: half a change does no harm.
        self.silent.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
