//! What the DNS counts, for `/metrics`.

use netd_dns::stats::{CODES, LATENCY_MS};

use super::Names;
use crate::api::metrics::{Collect, Page};

impl Collect for Names {
    fn collect(&self, page: &mut Page) {
        let mut networks = self.server.zone().read().counters();
        networks.sort_by(|one, other| one.0.cmp(&other.0));
        let stats: Vec<_> = networks
            .iter()
            .map(|(name, counters)| (name, counters.stats()))
            .collect();

        let mut metric = page.metric(
            "netd_dns_queries_total",
            "counter",
            "Queries of the containers whose first network this is.",
        );
        for (network, stats) in &stats {
            metric.sample(&[("network", network)], stats.queries);
        }
        let mut metric = page.metric(
            "netd_dns_replies_total",
            "counter",
            "Replies to them, by response code.",
        );
        for (network, stats) in &stats {
            for (code, count) in CODES.iter().zip(stats.codes) {
                metric.sample(&[("network", network), ("code", code)], count);
            }
        }
        let mut metric = page.metric(
            "netd_dns_answered_total",
            "counter",
            "Queries by where the answer came from.",
        );
        for (network, stats) in &stats {
            for (source, count) in [
                ("zone", stats.local),
                ("cache", stats.cached),
                ("upstream", stats.forwarded),
            ] {
                metric.sample(&[("network", network), ("source", source)], count);
            }
        }
        let mut metric = page.metric(
            "netd_dns_stale_total",
            "counter",
            "Answers past their TTL, since no upstream answered.",
        );
        for (network, stats) in &stats {
            metric.sample(&[("network", network)], stats.stale);
        }
        let mut metric = page.metric(
            "netd_dns_upstream_seconds",
            "histogram",
            "How long forwarded queries took.",
        );
        for (network, counters) in &networks {
            let (up_to, all, time) = counters.latency();
            for (end, count) in LATENCY_MS.iter().zip(up_to) {
                // Thousandths, written without going through a binary fraction.
                let end = format!("{}.{:03}", end / 1000, end % 1000);
                metric.part("_bucket", &[("network", network), ("le", &end)], count);
            }
            metric.part("_bucket", &[("network", network), ("le", "+Inf")], all);
            metric.part("_sum", &[("network", network)], time.as_secs_f64());
            metric.part("_count", &[("network", network)], all);
        }
        let (entries, bytes) = self.server.forwarder().cache_size();
        let mut metric = page.metric(
            "netd_dns_cache_entries",
            "gauge",
            "Answers of upstreams that are kept.",
        );
        metric.sample(&[], entries);
        let mut metric = page.metric(
            "netd_dns_cache_bytes",
            "gauge",
            "Memory that they take, about.",
        );
        metric.sample(&[], bytes);
        let mut metric = page.metric(
            "netd_dns_upstream_silent",
            "gauge",
            "Upstreams that did not answer last time.",
        );
        for upstream in self.server.forwarder().silent() {
            metric.sample(&[("upstream", &upstream.to_string())], 1);
        }
    }
}
