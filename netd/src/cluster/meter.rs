//! What the cluster's task counts, for `/metrics`.

use std::collections::BTreeMap;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use super::core::{Core, Link};
use super::store::{Revision, Txn, Write};
use crate::api::metrics::{Collect, Page};

/// Records are counted at most this often: there may be a hundred thousand.
const COUNT: Duration = Duration::from_secs(5);

/// The figures as they were last.
#[derive(Debug, Default)]
pub struct Meter(Mutex<Figures>);

#[derive(Debug, Default)]
struct Figures {
    online: bool,
    revision: Revision,
    /// The last time that the store answered as it should.
    answered: Option<Instant>,
    counted: Option<Instant>,
    records: BTreeMap<&'static str, usize>,
    refused: usize,
    lists: u64,
    failures: u64,
    transactions: u64,
    keys: u64,
    bytes: u64,
}

impl Meter {
    fn figures(&self) -> MutexGuard<'_, Figures> {
        // Each change is an assignment: a panic elsewhere leaves it whole.
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The store answered, or failed.
    pub(super) fn answered(&self, well: bool) {
        let mut figures = self.figures();
        if well {
            figures.answered = Some(Instant::now());
        } else {
            figures.failures += 1;
        }
    }

    /// A transaction is sent.
    pub(super) fn sends(&self, txn: &Txn) {
        let mut figures = self.figures();
        figures.transactions += 1;
        figures.keys += txn.then.len() as u64;
        let size = |write: &Write| match write {
            Write::Put { key, value, .. } => key.len() + value.len(),
            Write::Delete(key) => key.len(),
        };
        figures.bytes += txn.then.iter().map(size).sum::<usize>() as u64;
    }

    /// A list is taken.
    pub(super) fn lists(&self) {
        self.figures().lists += 1;
    }

    /// How it stands after a step.
    pub(super) fn stands(&self, core: &Core) {
        let mut figures = self.figures();
        figures.online = core.link() == Link::Online;
        figures.revision = core.revision();
        figures.refused = core.faults().count();
        if figures.counted.is_none_or(|at| at.elapsed() >= COUNT) {
            figures.counted = Some(Instant::now());
            figures.records = core.kinds();
        }
    }
}

impl Collect for Meter {
    fn collect(&self, page: &mut Page) {
        let figures = self.figures();
        page.metric(
            "netd_store_up",
            "gauge",
            "Whether the shared store is listed and watched.",
        )
        .sample(&[], u8::from(figures.online));
        page.metric(
            "netd_store_revision",
            "gauge",
            "The revision of the store that this host knows.",
        )
        .sample(&[], figures.revision);
        if let Some(answered) = figures.answered {
            page.metric(
                "netd_store_answer_age_seconds",
                "gauge",
                "Seconds since the store answered as it should, or its watch told something.",
            )
            .sample(&[], answered.elapsed().as_secs());
        }
        let help = "Records of the store that are in use, by kind.";
        let mut metric = page.metric("netd_store_records", "gauge", help);
        for (kind, count) in &figures.records {
            metric.sample(&[("kind", kind)], count);
        }
        page.metric(
            "netd_store_records_refused",
            "gauge",
            "Records that are not used: `netctl status` names each and why.",
        )
        .sample(&[], figures.refused);
        let counters = [
            (
                "netd_store_lists_total",
                "Lists of all records.",
                figures.lists,
            ),
            (
                "netd_store_failures_total",
                "Calls of the store that failed.",
                figures.failures,
            ),
            (
                "netd_store_transactions_total",
                "Transactions sent.",
                figures.transactions,
            ),
            (
                "netd_store_written_keys_total",
                "Keys in them that are written or removed.",
                figures.keys,
            ),
            (
                "netd_store_written_bytes_total",
                "Bytes of these keys and their values.",
                figures.bytes,
            ),
        ];
        for (name, help, value) in counters {
            page.metric(name, "counter", help).sample(&[], value);
        }
    }
}
